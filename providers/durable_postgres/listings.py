"""Statements for listing and counting instances by any combination of filters.

A listing walks the current runs in order of creation, status by status or along a name, and stops at the end of the page.
Where a filter singles out few rows (children of a parent, a rare prefix, tag or name), it begins with those instead.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from durable.errors import StoreError
from durable.provider import InstanceFilter, Memo, Page, Status
from durable_postgres.hub import OpenHub
from durable_postgres.rows import SELECTED, row_of, tag_hash

FEW = 1000
"""So many rows are sorted faster than the whole listing is walked."""

MANY = 50_000
"""So many entries of a tag are joined and sorted faster than the listing is walked to where they begin: in some 0.1 s."""

KEYS, LISTINGS = 'COLLATE "C"', 'COLLATE "POSIX"'
"""The order of bytes by two names: that of the primary key and of all columns, and that of the indexes for listings."""

# From one kind to the next along the index, whatever the number of instances.
_KINDS = (
    "WITH RECURSIVE kinds (kind) AS (SELECT min(kind) FROM {schema}.runs UNION ALL"
    " SELECT (SELECT min(r.kind) FROM {schema}.runs r WHERE r.kind > kinds.kind) FROM kinds"
    " WHERE kinds.kind IS NOT NULL) SELECT kind FROM kinds WHERE kind IS NOT NULL"
)


class Query:
    """A statement in the making, with its values."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self.values: list[Any] = []
        self.terms: list[str] = []

    def value(self, value: Any, type_name: str) -> str:
        """Return what stands for a value in the statement."""
        self.values.append(value)
        return f"${len(self.values)}::{type_name}"

    def text(self, value: str, collation: str = KEYS) -> str:
        """Return what stands for a text that is compared as bytes."""
        return f"({self.value(value, 'text')} {collation})"

    def number(self, value: int) -> str:
        """Return what stands for a number."""
        return self.value(value, "bigint")

    @property
    def where(self) -> str:
        """All terms."""
        return " AND ".join(self.terms) or "true"


def after_prefix(prefix: str) -> str | None:
    """Return the first text that is after all those with this prefix, in the order of their bytes; None: there is none."""
    for end in range(len(prefix), 0, -1):
        last = ord(prefix[end - 1])
        if last < 0x10FFFF:
            following = 0xE000 if last == 0xD7FF else last + 1  # surrogates are no letters
            return prefix[: end - 1] + chr(following)
    return None


def _limit(query: Query, wanted: InstanceFilter, joined: int | None = None) -> None:
    """Let everything hold that a filter asks of a row, but for its statuses. `joined`: the tag whose entries are joined."""
    if wanted.kind is not None:
        query.terms.append(f"runs.kind = {query.text(wanted.kind, KEYS if wanted.prefix else LISTINGS)}")
    if wanted.name is not None:
        query.terms.append(f"runs.name = {query.text(wanted.name)}")
    _limit_prefix(query, wanted.prefix or "")
    for name, value in wanted.tags.items():
        tag = tag_hash(name, value)
        if tag != joined:
            # No EXISTS: the planner would hash all entries of the tag, rather than walk to the end of the page.
            query.terms.append(
                f"(SELECT true FROM {query.schema}.tags t WHERE t.tag = {query.number(tag)}"
                " AND t.kind = runs.kind AND t.id = runs.id) IS NOT NULL"
            )
        query.terms.append(f"runs.tags ->> {query.value(name, 'text')} = {query.value(value, 'text')}")
    if wanted.created_after is not None:
        query.terms.append(f"runs.created_at >= {query.number(wanted.created_after)}")
    if wanted.created_before is not None:
        query.terms.append(f"runs.created_at < {query.number(wanted.created_before)}")
    if wanted.parent is not None:
        query.terms.append(f"runs.parent_kind = {query.text(wanted.parent.kind)}")
        query.terms.append(f"runs.parent_id = {query.text(wanted.parent.id)}")


def _limit_prefix(query: Query, prefix: str) -> None:
    if prefix:
        query.terms.append(f"runs.id >= {query.text(prefix)}")
        end = after_prefix(prefix)
        if end is not None:
            query.terms.append(f"runs.id < {query.text(end)}")


def _limit_statuses(query: Query, wanted: InstanceFilter) -> None:
    if wanted.status:
        query.terms.append(f"runs.status = ANY ({query.value(_statuses(wanted), 'smallint[]')})")


def _statuses(wanted: InstanceFilter) -> list[int]:
    return sorted({int(status) for status in (wanted.status or Status)})


async def list_rows(
    hub: OpenHub, wanted: InstanceFilter, limit: int, page: bytes | None, *, newest_first: bool
) -> Page:
    """See `durable.provider.Clients.list_instances`."""
    few = await _few(hub, wanted)
    tag = await _tag_to_join(hub, wanted) if few is None else None
    query = Query(hub.schema)
    _limit(query, wanted, tag)
    if page is not None:
        _begin_after(query, page, wanted, "<" if newest_first else ">")
    direction = "DESC" if newest_first else "ASC"
    order = f"runs.created_at {direction}, runs.id {LISTINGS} {direction}"
    if few is not None:
        _limit_statuses(query, wanted)
        kinds, ids = query.value([kind for kind, _ in few], "text[]"), query.value([key for _, key in few], "text[]")
        statement = (
            f"SELECT {SELECTED} FROM unnest({kinds}, {ids}) AS few (kind, id) JOIN {hub.schema}.runs"
            f" ON runs.kind = few.kind AND runs.id = few.id WHERE {query.where}"
        )
    elif tag is not None:
        _limit_statuses(query, wanted)
        statement = (
            f"SELECT {SELECTED} FROM {hub.schema}.tags JOIN {hub.schema}.runs ON runs.kind = tags.kind AND runs.id = tags.id"
            f" WHERE tags.tag = {query.number(tag)} AND {query.where}"
        )
    elif wanted.name is not None and wanted.kind is not None and not wanted.status:
        query.terms.append(
            f"runs.kind = {query.text(wanted.kind, LISTINGS)}"
        )  # a prefix alone would not walk the index
        statement = f"SELECT {SELECTED} FROM {hub.schema}.runs WHERE {query.where}"
    else:
        all_kinds = [wanted.kind] if wanted.kind is not None else await _kinds(hub)
        statement = _walk(query, all_kinds, wanted, f"{order} LIMIT {limit + 1}")
    found = await hub.read(f"{statement} ORDER BY {order}, runs.kind {direction} LIMIT {limit + 1}", query.values)
    rows = [row_of(values) for values in found[:limit]]
    if len(found) <= limit:
        return Page(rows, None)
    last = rows[-1]
    return Page(rows, json.dumps([last.created_at, last.key.id, last.key.kind]).encode())


def _walk(query: Query, kinds: Sequence[str], wanted: InstanceFilter, order: str) -> str:
    """Every kind and status in the order of its index, each until the page is full."""
    places = f"unnest({query.value(list(kinds), 'text[]')}) AS k (kind)"
    statuses = f"unnest({query.value(_statuses(wanted), 'smallint[]')}) AS s (status)"
    one = (
        f"SELECT {SELECTED} FROM {query.schema}.runs"
        f" WHERE runs.kind = k.kind {LISTINGS} AND runs.status = s.status AND {query.where} ORDER BY {order}"
    )
    return f"SELECT {SELECTED} FROM {places} CROSS JOIN {statuses} CROSS JOIN LATERAL ({one}) AS runs"


async def count_rows(hub: OpenHub, wanted: InstanceFilter) -> int:
    """See `durable.provider.Clients.count`."""
    query = Query(hub.schema)
    _limit(query, wanted)
    _limit_statuses(query, wanted)
    ((count,),) = await hub.read(f"SELECT count(*) FROM {hub.schema}.runs WHERE {query.where}", query.values)
    return int(count)


async def _kinds(hub: OpenHub) -> list[str]:
    return [kind for (kind,) in await hub.read(_KINDS.format(schema=hub.schema), ())]


async def _few(hub: OpenHub, wanted: InstanceFilter) -> list[tuple[str, str]] | None:
    """Return the keys of few instances among which all wanted ones are, or None."""
    for query, source in _singling_out(hub, wanted):
        statement = f"SELECT kind, id FROM {source} WHERE {query.where} LIMIT {FEW + 1}"
        found = await hub.read(statement, query.values)
        if len(found) <= FEW:
            return [(kind, key_id) for kind, key_id in found]
    return None


async def _tag_to_join(hub: OpenHub, wanted: InstanceFilter) -> int | None:
    """Return the hash of the wanted tag that fewest instances have, unless those are more than MANY."""
    counted: dict[int, int] = {}
    for tag in (tag_hash(name, value) for name, value in wanted.tags.items()):
        query = Query(hub.schema)
        entries = f"SELECT 1 FROM {hub.schema}.tags WHERE tag = {query.number(tag)} LIMIT {MANY + 1}"
        ((counted[tag],),) = await hub.read(f"SELECT count(*) FROM ({entries}) AS entries", query.values)
    fewest = min(counted, key=counted.__getitem__, default=None)
    return None if fewest is None or counted[fewest] > MANY else fewest


def _singling_out(hub: OpenHub, wanted: InstanceFilter) -> list[tuple[Query, str]]:
    found: list[tuple[Query, str]] = []
    runs = f"{hub.schema}.runs"
    if wanted.parent is not None:
        query = Query(hub.schema)
        query.terms.append(f"parent_kind = {query.text(wanted.parent.kind)}")
        query.terms.append(f"parent_id = {query.text(wanted.parent.id)}")
        found.append((query, runs))
    if wanted.prefix and wanted.kind is not None:
        query = Query(hub.schema)
        query.terms.append(f"kind = {query.text(wanted.kind)}")
        _limit_prefix(query, wanted.prefix)
        found.append((query, runs))
    if wanted.name is not None and wanted.kind is not None:
        query = Query(hub.schema)
        query.terms.append(f"kind = {query.text(wanted.kind, LISTINGS)} AND name = {query.text(wanted.name)}")
        found.append((query, runs))
    for name, value in wanted.tags.items():
        query = Query(hub.schema)
        query.terms.append(f"tag = {query.number(tag_hash(name, value))}")
        found.append((query, f"{hub.schema}.tags"))
    return found


def _begin_after(query: Query, page: bytes, wanted: InstanceFilter, comparison: str) -> None:
    created_at, key_id, kind = _last_place_of(page)
    places, values = "runs.created_at, runs.id", f"{query.number(created_at)}, {query.text(key_id, LISTINGS)}"
    if wanted.kind is None:
        places, values = f"{places}, runs.kind", f"{values}, {query.text(kind)}"
    query.terms.append(f"({places}) {comparison} ({values})")


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


async def read_memos(hub: OpenHub, prefix: str, limit: int, after: str) -> list[Memo]:
    """See `durable.provider.Clients.read_memos`."""
    query = Query(hub.schema)
    query.terms.append(f"key >= {query.text(prefix)} AND key > {query.text(after)}")
    end = after_prefix(prefix)
    if end is not None:
        query.terms.append(f"key < {query.text(end)}")
    statement = (
        f"SELECT key, data, expires_at FROM {hub.schema}.memos WHERE {query.where} ORDER BY key LIMIT {int(limit)}"
    )
    return [Memo(*values) for values in await hub.read(statement, query.values)]
