"""Listings: which rows a filter means, and where a page begins and ends."""

from __future__ import annotations

import json
from collections.abc import Iterable

from durable.errors import StoreError
from durable.provider import InstanceFilter, InstanceRow, Page


def is_wanted(row: InstanceRow, wanted: InstanceFilter) -> bool:
    """Tell whether a filter means this row."""
    return (
        (wanted.kind is None or row.key.kind == wanted.kind)
        and (not wanted.status or row.status in wanted.status)
        and (wanted.name is None or row.name == wanted.name)
        and (wanted.prefix is None or row.key.id.startswith(wanted.prefix))
        and all(row.tags.get(name) == value for name, value in wanted.tags.items())
        and (wanted.created_after is None or row.created_at >= wanted.created_after)
        and (wanted.created_before is None or row.created_at < wanted.created_before)
        and (wanted.parent is None or row.parent == wanted.parent)
    )


def page_of(found: Iterable[InstanceRow], limit: int, page: bytes | None, *, newest_first: bool) -> Page:
    """Return one page of these rows, and the place of its last row as the next one's beginning."""
    rows = sorted(found, key=_place, reverse=newest_first)
    if page is not None:
        last = _last_place(page)
        rows = [row for row in rows if (_place(row) < last if newest_first else _place(row) > last)]
    has_more = len(rows) > limit
    return Page(rows[:limit], json.dumps(_place(rows[limit - 1])).encode() if has_more else None)


def _place(row: InstanceRow) -> tuple[int, str, str]:
    return row.created_at, row.key.id, row.key.kind


def _last_place(page: bytes) -> tuple[int, str, str]:
    try:
        created_at, key_id, kind = json.loads(page)
        if type(created_at) is int and -(2**63) <= created_at < 2**63:
            key_id.encode()
            kind.encode()
            return created_at, key_id, kind
    except (ValueError, TypeError, AttributeError, RecursionError):  # no JSON, not three of them, no text, a bomb
        pass
    raise StoreError(f"{page[:40]!r} is not the end of a page of this store")
