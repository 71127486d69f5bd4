"""Statements for listing and counting instances by any combination of filters.

A listing walks the current runs in order of creation and stops at the end of the page: along those of each status, or of a
name, or of a tag. Where a filter singles out few rows (children of a parent, a rare prefix, tag or name), it begins with those
instead.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from durable.errors import StoreError
from durable.provider import InstanceFilter, Page, Status
from durable_sqlite.rows import COLUMNS, SELECTED, row_of

FEW = 10_000
"""So many rows are read and sorted faster than a listing of a million is walked: in some 20 ms."""

MANY = 100_000
"""No further is it counted how many rows a filter has, to walk where there are fewest: that takes some 5 ms."""

ORDINARY = "o"

# From one kind to the next along the index, whatever the number of instances.
_KINDS = (
    "WITH RECURSIVE kinds (kind) AS (SELECT min(kind) FROM runs WHERE hub = ? AND place = 0 UNION ALL"
    " SELECT (SELECT min(runs.kind) FROM runs WHERE hub = ? AND place = 0 AND runs.kind > kinds.kind) FROM kinds"
    " WHERE kinds.kind IS NOT NULL) SELECT kind FROM kinds WHERE kind IS NOT NULL"
)
_NAMED = "SELECT number FROM runs INDEXED BY runs_named WHERE hub = ? AND place = 0 AND kind = ? AND name = ?"
_ORDER = ("created_at", "id", "kind")

Fetch = Callable[[str, Sequence[Any]], Awaitable[list[tuple[Any, ...]]]]


class Condition:
    """A part of a WHERE clause, with its values."""

    def __init__(self) -> None:
        self.terms: list[str] = []
        self.values: list[Any] = []

    def add(self, term: str, *values: Any) -> None:
        """Let `term` hold as well."""
        self.terms.append(term)
        self.values.extend(values)

    def __str__(self) -> str:
        return " AND ".join(self.terms)


def after_prefix(prefix: str) -> str | None:
    """Return the first text that is after all those with this prefix, in the order of their bytes; None: there is none."""
    for end in range(len(prefix), 0, -1):
        last = ord(prefix[end - 1])
        if last < 0x10FFFF:
            following = 0xE000 if last == 0xD7FF else last + 1  # surrogates are no letters
            return prefix[: end - 1] + chr(following)
    return None


def _condition_of(hub: int, wanted: InstanceFilter) -> Condition:
    """Return what a filter asks of a row of `runs`; without its statuses, which choose the place to look at."""
    condition = Condition()
    condition.add("runs.hub = ? AND runs.place = 0", hub)
    if wanted.kind is not None:
        condition.add("runs.kind = ?", wanted.kind)
    if wanted.name is not None:
        condition.add("runs.name = ?", wanted.name)
    if wanted.prefix:
        condition.add("runs.id >= ?", wanted.prefix)
        end = after_prefix(wanted.prefix)
        if end is not None:
            condition.add("runs.id < ?", end)
    for name, value in wanted.tags.items():
        condition.add(
            "EXISTS (SELECT 1 FROM tags WHERE hub = ? AND name = ? AND value = ? AND created_at = runs.created_at"
            " AND number = runs.number)",
            hub,
            name,
            value,
        )
    if wanted.created_after is not None:
        condition.add("runs.created_at >= ?", wanted.created_after)
    if wanted.created_before is not None:
        condition.add("runs.created_at < ?", wanted.created_before)
    if wanted.parent is not None:
        condition.add("runs.parent_kind = ? AND runs.parent_id = ?", wanted.parent.kind, wanted.parent.id)
    return condition


async def list_rows(
    fetch: Fetch, hub: int, wanted: InstanceFilter, limit: int, page: bytes | None, *, newest_first: bool
) -> Page:
    """See `durable.provider.Clients.list_instances`."""
    condition = _condition_of(hub, wanted)
    if page is not None:
        _begin_after(condition, page, wanted, "<" if newest_first else ">")
    few = await _few(fetch, hub, wanted)
    tag = await _tag_to_walk(fetch, hub, wanted) if few is None else None
    created_at = str(COLUMNS.index("created_at") + 1)
    if few is not None:
        statement, values = _driven(few, wanted, condition)
    elif tag is not None:
        created_at = "tags.created_at"
        statement, values = _along_tag(hub, tag, wanted, condition, page, newest_first=newest_first)
    elif wanted.name is not None and wanted.kind is not None and not wanted.status:
        statement, values = f"SELECT {SELECTED} FROM runs INDEXED BY runs_named WHERE {condition}", condition.values
    else:
        kinds = [wanted.kind] if wanted.kind is not None else [row[0] for row in await fetch(_KINDS, [hub, hub])]
        statement, values = _walk(kinds or [ORDINARY], wanted, condition)
    direction = "DESC" if newest_first else "ASC"
    columns = [created_at, *(str(COLUMNS.index(name) + 1) for name in _ORDER[1 : 3 if wanted.kind is None else 2])]
    order = ", ".join(f"{column} {direction}" for column in columns)
    found = await fetch(f"{statement} ORDER BY {order} LIMIT ?", [*values, limit + 1])
    rows = [row_of(row) for row in found[:limit]]
    if len(found) <= limit:
        return Page(rows, None)
    last = rows[-1]
    return Page(rows, json.dumps([last.created_at, last.key.id, last.key.kind]).encode())


async def count_rows(fetch: Fetch, hub: int, wanted: InstanceFilter) -> int:
    """See `durable.provider.Clients.count`."""
    condition = _condition_of(hub, wanted)
    _limit_statuses(condition, wanted)
    few = await _few(fetch, hub, wanted)
    if few is None and (tag := await _tag_to_walk(fetch, hub, wanted)) is not None:
        few = _tagged(hub, tag)
    if few is None:
        found = await fetch(f"SELECT count(*) FROM runs WHERE {condition}", condition.values)
    else:
        statement, values = few
        source = f"({statement}) AS found CROSS JOIN runs ON runs.number = found.number"
        found = await fetch(f"SELECT count(*) FROM {source} WHERE {condition}", [*values, *condition.values])
    return int(found[0][0])


def _begin_after(condition: Condition, page: bytes, wanted: InstanceFilter, comparison: str) -> None:
    created_at, key_id, kind = _last_place_of(page)
    if wanted.kind is None:
        condition.add(f"(runs.created_at, runs.id, runs.kind) {comparison} (?, ?, ?)", created_at, key_id, kind)
    else:
        condition.add(f"(runs.created_at, runs.id) {comparison} (?, ?)", created_at, key_id)


def _last_place_of(page: bytes) -> tuple[int, str, str]:
    try:
        created_at, key_id, kind = json.loads(page)
        if type(created_at) is int and -(2**63) <= created_at < 2**63:
            key_id.encode()
            kind.encode()
            return created_at, key_id, kind
    except (ValueError, TypeError, AttributeError, RecursionError):  # no JSON, not three of them, no text, a bomb
        pass
    raise StoreError(f"{page[:40]!r} is not the end of a page of this store")


def _limit_statuses(condition: Condition, wanted: InstanceFilter) -> None:
    if wanted.status:
        statuses = sorted({int(status) for status in wanted.status})
        condition.add(f"runs.status IN ({', '.join('?' for _ in statuses)})", *statuses)


def _walk(kinds: Sequence[str], wanted: InstanceFilter, condition: Condition) -> tuple[str, list[Any]]:
    """All kinds and statuses at once, each in the order of its index; SQLite merges them and stops where the page ends."""
    places = [(kind, int(status)) for kind in kinds for status in sorted(set(wanted.status or Status))]
    one = f"SELECT {SELECTED} FROM runs INDEXED BY runs_listed WHERE {condition} AND runs.kind = ? AND runs.status = ?"
    values = [value for place in places for value in (*condition.values, *place)]
    return " UNION ALL ".join([one] * len(places)), values


def _driven(few: tuple[str, list[Any]], wanted: InstanceFilter, condition: Condition) -> tuple[str, list[Any]]:
    """First the few, then what else is asked of them."""
    statement, values = few
    _limit_statuses(condition, wanted)
    source = f"({statement}) AS found CROSS JOIN runs ON runs.number = found.number"
    return f"SELECT {SELECTED} FROM {source} WHERE {condition}", [*values, *condition.values]


async def _tag_to_walk(fetch: Fetch, hub: int, wanted: InstanceFilter) -> tuple[str, str] | None:
    """Return the tag that fewest have, unless fewer have the wanted statuses or the name."""
    if not wanted.tags:
        return None
    rivals: list[tuple[str, list[Any]]] = []
    if wanted.kind is not None and wanted.status:
        statuses = sorted({int(status) for status in wanted.status})
        rivals.append(
            (
                "SELECT 1 FROM runs INDEXED BY runs_listed WHERE hub = ? AND place = 0 AND kind = ?"
                f" AND status IN ({', '.join('?' for _ in statuses)})",
                [hub, wanted.kind, *statuses],
            )
        )
    elif wanted.kind is not None and wanted.name is not None:
        rivals.append((_NAMED, [hub, wanted.kind, wanted.name]))
    counted = {tag: await _count_up_to(fetch, MANY, _tagged(hub, tag)) for tag in wanted.tags.items()}
    fewest = min(counted, key=counted.__getitem__)
    for rival in rivals:
        if await _count_up_to(fetch, MANY, rival) < counted[fewest]:
            return None
    return fewest


def _along_tag(
    hub: int,
    tag: tuple[str, str],
    wanted: InstanceFilter,
    condition: Condition,
    page: bytes | None,
    *,
    newest_first: bool,
) -> tuple[str, list[Any]]:
    """Those that have a tag, in the order of their creation, beginning where the page and the wanted times do."""
    walk = Condition()
    walk.add("tags.hub = ? AND tags.name = ? AND tags.value = ?", hub, *tag)
    if wanted.created_after is not None:
        walk.add("tags.created_at >= ?", wanted.created_after)
    if wanted.created_before is not None:
        walk.add("tags.created_at < ?", wanted.created_before)
    if page is not None:
        walk.add(f"tags.created_at {'<=' if newest_first else '>='} ?", _last_place_of(page)[0])
    _limit_statuses(condition, wanted)
    source = "tags CROSS JOIN runs ON runs.number = tags.number"
    return f"SELECT {SELECTED} FROM {source} WHERE {walk} AND {condition}", [*walk.values, *condition.values]


def _tagged(hub: int, tag: tuple[str, str]) -> tuple[str, list[Any]]:
    return "SELECT number FROM tags WHERE hub = ? AND name = ? AND value = ?", [hub, *tag]


async def _count_up_to(fetch: Fetch, limit: int, counted: tuple[str, list[Any]]) -> int:
    statement, values = counted
    found = await fetch(f"SELECT count(*) FROM ({statement} LIMIT ?)", [*values, limit + 1])
    return int(found[0][0])


async def _few(fetch: Fetch, hub: int, wanted: InstanceFilter) -> tuple[str, list[Any]] | None:
    """Return a statement for the numbers of few runs among which all wanted ones are, or None."""
    for source in _singling_out(hub, wanted):
        if await _count_up_to(fetch, FEW, source) <= FEW:
            return source
    return None


def _singling_out(hub: int, wanted: InstanceFilter) -> list[tuple[str, list[Any]]]:
    found: list[tuple[str, list[Any]]] = []
    if wanted.parent is not None:
        statement = (
            "SELECT number FROM runs INDEXED BY runs_of_parent WHERE hub = ? AND place = 0 AND parent_id IS NOT NULL"
            " AND parent_kind = ? AND parent_id = ?"
        )
        found.append((statement, [hub, wanted.parent.kind, wanted.parent.id]))
    if wanted.prefix and wanted.kind is not None:
        statement = (
            "SELECT number FROM runs INDEXED BY runs_by_key WHERE hub = ? AND place = 0 AND kind = ? AND id >= ?"
        )
        values = [hub, wanted.kind, wanted.prefix]
        end = after_prefix(wanted.prefix)
        if end is not None:
            statement += " AND id < ?"
            values.append(end)
        found.append((statement, values))
    if wanted.name is not None and wanted.kind is not None:
        found.append((_NAMED, [hub, wanted.kind, wanted.name]))
    found += [_tagged(hub, tag) for tag in wanted.tags.items()]
    return found


def memos(hub: int, prefix: str, after: str, limit: int) -> tuple[str, list[Any]]:
    """Return the statement that reads memos by prefix from after a key on, and its values."""
    statement = "SELECT key, data, expires_at FROM memos WHERE hub = ? AND key >= ? AND key > ?"
    values: list[Any] = [hub, prefix, after]
    end = after_prefix(prefix)
    if end is not None:
        statement += " AND key < ?"
        values.append(end)
    return f"{statement} ORDER BY key LIMIT ?", [*values, limit]
