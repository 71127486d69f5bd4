"""From rows to what users see: plain, frozen states. Nothing that is stored can make a listing fail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgpack

from durable.client.running import RunningActivities
from durable.errors import DurableError, FailureDetails, HistoryDamagedError
from durable.failures import decode_details
from durable.history import plain_value, utc_datetime
from durable.messages import dropped_prefix, heartbeat_key, note_key, read_dropped
from durable.model import ActivityState, DroppedItem, OrchestrationState, OrchestrationStatus
from durable.payloads import Sealer
from durable.provider import InstanceRow, Memo, Provider, Status
from durable.versions import UNVERSIONED

logger = logging.getLogger("durable.client")

MEMOS_READ_MAX: Final = 100_000
"""As many activities can one turn ask for."""

DROPPED_MAX: Final = 10_000

STATUSES: Final = {status: OrchestrationStatus[status.name] for status in Status}


def state_of(
    row: InstanceRow, sealer: Sealer, *, payloads: bool = True, activities: tuple[ActivityState, ...] = ()
) -> OrchestrationState:
    """Return the state that a row shows. Without `payloads` input, output and custom status are left out."""

    def value(payload: bytes | None, field: str) -> Any:
        return plain_value(payload, sealer, field, row.key.id) if payloads else None

    return OrchestrationState(
        instance_id=row.key.id,
        run_id=row.run_id,
        name=row.name,
        version=None if row.version == UNVERSIONED else row.version,
        generation=row.generation,
        status=STATUSES[row.status],
        input=value(row.input, "input"),
        output=value(row.output, "output"),
        custom_status=value(row.custom_status, "custom status"),
        failure_details=failure_of(row),
        stall_reason=row.stall_reason,
        created_at=utc_datetime(row.created_at),
        scheduled_at=utc_datetime(row.scheduled_at),
        last_updated_at=utc_datetime(row.updated_at),
        completed_at=None if row.completed_at is None else utc_datetime(row.completed_at),
        parent_instance_id=row.parent.id if row.parent else None,
        tags=dict(row.tags),
        activities=activities,
    )


def failure_of(row: InstanceRow) -> FailureDetails | None:
    """Return the details of a row's failure; in place of unreadable ones, details that say so."""
    if row.failure is None:
        return None
    try:
        return decode_details(row.failure)
    except DurableError as error:
        _warn(row, f"unreadable failure details: {error}")
        return FailureDetails("durable.errors.HistoryDamagedError", f"unreadable failure details: {error}")


def _warn(row: InstanceRow, text: str) -> None:
    logger.warning("instance '%s': %s", row.key.id, text, extra={"instance_id": row.key.id})


async def open_activities(
    provider: Provider, running: RunningActivities, row: InstanceRow, sealer: Sealer
) -> tuple[ActivityState, ...]:
    """Return the activities of an unfinished run that have no outcome yet, in the order in which they were asked for."""
    # Those that the owner holds count as open work; those in the activity queue are noted in the owner's state, which is
    # empty when there is nothing to note. So the history of an instance that only waits is not read.
    if row.status.is_finished or not (row.open_work or row.state):
        return ()
    try:
        found = await running.of(row)
    except HistoryDamagedError as error:
        _warn(row, f"its activities cannot be listed: {error}")
        return ()
    if not found:
        return ()
    heartbeats = await _memos_by_task(provider, heartbeat_key(row.run_id, row.generation, 0))
    notes = await _memos_by_task(provider, note_key(row.run_id, row.generation, 0))
    now = (await provider.open()).now if notes else 0  # whoever writes them may have gone, and they with it

    def heartbeat(task_id: int, name: str) -> Any:
        memo = heartbeats.get(task_id)
        return None if memo is None else plain_value(memo.data, sealer, f"heartbeat of '{name}'", row.key.id)

    def note(task_id: int) -> str:
        memo = notes.get(task_id)
        return "" if memo is None or memo.expires_at <= now else _text(memo.data)

    return tuple(
        ActivityState(
            task_id=request.task_id,
            name=request.name,
            attempt=request.attempt,
            queue=request.options.queue,
            scheduled_at=utc_datetime(time),
            heartbeat=heartbeat(request.task_id, request.name),
            note=note(request.task_id),
        )
        for request, time in found
    )


async def _memos_by_task(provider: Provider, key: str) -> Mapping[int, Memo]:
    """Return the memos whose keys differ from `key` only in the task id behind the last slash."""
    prefix = key.rpartition("/")[0] + "/"
    memos = await provider.read_memos(prefix, MEMOS_READ_MAX)
    return {int(task): memo for memo in memos if (task := memo.key.removeprefix(prefix)).isdecimal()}


def _text(data: bytes) -> str:
    return str(_readable(lambda: msgpack.unpackb(data), "<unreadable note>"))


async def dropped_of(provider: Provider, run_id: str) -> list[DroppedItem]:
    """Return what is noted about things that were dropped of a run, the oldest first."""
    memos = await provider.read_memos(dropped_prefix(run_id), DROPPED_MAX)
    return [item for memo in memos for item in _dropped_items(memo)]


def _dropped_items(memo: Memo) -> Iterator[DroppedItem]:
    unreadable = [(0, "unknown", memo.key, "the note about it cannot be read")]
    for time, kind, name, reason in _readable(lambda: read_dropped(memo), unreadable):
        yield DroppedItem(utc_datetime(time), kind, name, reason)


def _readable(read: Callable[[], Any], otherwise: Any) -> Any:
    try:
        return read()
    except Exception as error:  # noqa: BLE001 (whatever garbage does to a decoder, a listing goes on)
        logger.warning("unreadable note: %r", error)
        return otherwise
