"""Removing runs, and what belongs to them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Final

from durable.errors import InstanceRunningError
from durable.events import InstanceKey
from durable.provider import InstanceFilter, InstanceRow, Provider

PAGE_ROWS: Final = 200
"""Rows read at a time; each may carry megabytes of payload."""

PURGED_AT_ONCE: Final = 200
"""Runs removed in one transaction: their histories may be long, and others want to write."""


async def rows_of(
    provider: Provider, wanted: InstanceFilter, *, limit: int | None = None, newest_first: bool = True
) -> AsyncGenerator[InstanceRow, None]:
    """Yield the current rows that a filter means, page by page."""
    page: bytes | None = None
    left = limit
    while left is None or left > 0:
        size = PAGE_ROWS if left is None else min(left, PAGE_ROWS)
        rows, page = await provider.list_instances(wanted, limit=size, page=page, newest_first=newest_first)
        for row in rows:
            yield row
        if page is None:
            return
        left = None if left is None else left - len(rows)


async def purge_targets(provider: Provider, row: InstanceRow, *, recursive: bool) -> list[tuple[InstanceKey, str]]:
    """Return the runs to remove, children before their parents, so that what is left after a crash is found again.

    Raises InstanceRunningError if one of them is unfinished.
    """
    _check_finished(row, row)
    targets = {row.run_id: row.key}
    if recursive:
        (current,) = await provider.load([(row.key, None)])
        # With the current run all earlier ones go, so that it is the children of any; else those of this run only.
        only_run = row.run_id if current is None or current.run_id != row.run_id else None
        parents = [(row.key, only_run)]
        while parents:
            key, run_id = parents.pop()
            async for child in rows_of(provider, InstanceFilter(kind=None, parent=key)):
                if run_id in (None, child.parent_run_id) and child.run_id not in targets:
                    _check_finished(child, row)
                    targets[child.run_id] = child.key
                    parents.append((child.key, None))
    return [(key, run_id) for run_id, key in reversed(targets.items())]


def _check_finished(row: InstanceRow, root: InstanceRow) -> None:
    if row.status.is_finished:
        return
    who = f"'{row.key.id}'" if row is root else f"'{row.key.id}', which belongs to '{root.key.id}',"
    remedy = "" if row is root else ", or purge with recursive=False"
    raise InstanceRunningError(f"{who} is {row.status.name}: only what has ended is purged; terminate it first{remedy}")


async def purge_all(provider: Provider, wanted: InstanceFilter) -> int:
    """Remove all finished runs that a filter means, page by page; return how many."""
    count = 0
    page: bytes | None = None
    while True:
        rows, page = await provider.list_instances(wanted, limit=PAGE_ROWS, page=page, newest_first=False)
        count += await purged(provider, [(row.key, row.run_id) for row in rows])
        if page is None:
            return count


async def purged(provider: Provider, targets: Sequence[tuple[InstanceKey, str]]) -> int:
    """Remove runs, a part at a time; return how many were removed."""
    count = 0
    for start in range(0, len(targets), PURGED_AT_ONCE):
        count += await provider.purge(targets[start : start + PURGED_AT_ONCE])
    return count
