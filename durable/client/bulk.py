"""The same thing for many instances: those that match a filter now, each by a message of its own to its present run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from durable.client.connection import Connection
from durable.client.filters import Selection
from durable.client.purging import PAGE_ROWS, rows_of
from durable.errors import InstanceFinishedError, InstanceNotFoundError, InstanceRunningError
from durable.events import HistoryEvent
from durable.provider import InstanceRow, Priority, Status

UNFINISHED: Final = tuple(status for status in Status if not status.is_finished)
FINISHED: Final = tuple(status for status in Status if status.is_finished)
NOT_SUSPENDED: Final = tuple(status for status in UNFINISHED if status is not Status.SUSPENDED)
SUSPENDED: Final = (Status.SUSPENDED,)
FAILED: Final = (Status.FAILED,)
REWINDABLE: Final = (Status.FAILED, Status.CANCELLED, Status.TERMINATED)


def limited(selected: Selection, call: str, statuses: Sequence[Status]) -> Selection:
    """Return a selection without those that a call can do nothing with. Raises ValueError for one that means everything."""
    if selected.is_empty:
        raise ValueError(f"{call} needs a filter: to mean every instance, say so by their statuses")
    return selected.only(statuses)


async def for_each(
    connection: Connection, selected: Selection, *, dry_run: bool, act: Callable[[InstanceRow], Awaitable[None]]
) -> int:
    """Do something with each instance; return with how many it was done, in a dry run with how many it would be.

    One that has ended, gone or begun again in the meantime does not count.
    """
    if selected.is_void:
        return 0
    if dry_run:
        return await connection.provider.count(selected.wanted)
    count = 0
    waiting: list[InstanceRow] = []
    async with contextlib.aclosing(rows_of(connection.provider, selected.wanted, newest_first=False)) as rows:
        async for row in rows:
            waiting.append(row)
            if len(waiting) == PAGE_ROWS:
                count += await _done_with(waiting, act)
                waiting.clear()
    return count + await _done_with(waiting, act)


async def _done_with(rows: Sequence[InstanceRow], act: Callable[[InstanceRow], Awaitable[None]]) -> int:
    answers = await asyncio.gather(*map(act, rows), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, _TOO_LATE):
            raise answer
    return sum(answer is None for answer in answers)


_TOO_LATE = (InstanceFinishedError, InstanceNotFoundError, InstanceRunningError)


def steering(connection: Connection, event: HistoryEvent) -> Callable[[InstanceRow], Awaitable[None]]:
    """Return what sends a steering message to the run of a row."""

    async def send(row: InstanceRow) -> None:
        await connection.send(row.key, [event], run_id=row.run_id, priority=Priority.CONTROL)

    return send
