"""Beginning again, from a client's side: the one message by which a run is started from an earlier one."""

from __future__ import annotations

from datetime import datetime

from durable.client.connection import Connection
from durable.client.starting import Target, make_start
from durable.client.states import state_of
from durable.errors import InstanceAlreadyExistsError, InstanceFinishedError, InstanceRunningError
from durable.events import InstanceKey, OrchestrationForked, OrchestrationStarted, TaskRef
from durable.history import History, utc_datetime
from durable.ids import SCHEDULE_TAG, check_instance_id
from durable.messages import encode_arrivals, encode_past, new_row, rewind_message
from durable.model import ReusePolicy
from durable.provider import Expects, InstanceRow, Message, Status, Verdict
from durable.versions import canonical_version


async def restart(
    connection: Connection, row: InstanceRow, new_id: str | None, version: str | None
) -> tuple[InstanceKey, str]:
    """Start a run with the input and tags of an earlier one; return its key and run id. Raises as `Handle.restart`."""
    key = row.key if new_id is None else InstanceKey(check_instance_id(new_id), row.key.kind)
    exact = None if version is None else canonical_version(version)
    if row.input is not None:
        connection.sealer.unseal(row.input)  # raises for one that is lost: nothing begins with what is none
    return await _started_again(connection, row, key, exact, may_replace=key == row.key)


async def _started_again(
    connection: Connection, row: InstanceRow, key: InstanceKey, version: str | None, *, may_replace: bool
) -> tuple[InstanceKey, str]:
    run_id, now = connection.ports.new_id(), await connection.clock.now(connection.provider)
    start = make_start(
        key,
        connection.partitions,
        run_id,
        Target(row.name, version),
        row.input,
        now=now,
        at=_was_for(row, now),
        tags=row.tags,
        reuse_policy=ReusePolicy.REPLACE_FINISHED if may_replace else ReusePolicy.REJECT,
    )
    await _begin(connection, start.message, run_id, may_replace=may_replace)
    return key, run_id


def _was_for(row: InstanceRow, now: int) -> datetime | None:
    """Return the time that a run was for, where that is not just when it was started: it is that of another run, too."""
    is_for_a_time = row.scheduled_at != row.created_at or SCHEDULE_TAG in row.tags
    return utc_datetime(row.scheduled_at) if is_for_a_time and row.scheduled_at <= now else None


async def fork(
    connection: Connection, history: History, row: InstanceRow, at: int, new_id: str | None
) -> tuple[InstanceKey, str]:
    """Start a run that goes on from a point of another one's history; return its key and run id. Raises as `Handle.fork`."""
    if isinstance(at, bool) or not isinstance(at, int):
        raise TypeError(f"at must be the sequence of an event, not {at!r:.200}")
    if not 0 <= at <= len(history):
        raise ValueError(f"at must be from 0 to {len(history)}, the length of the history, not {at}")
    chosen = connection.ports.new_id() if new_id is None else check_instance_id(new_id)
    past, events, started = [], 0, None
    for record, stored in zip(history.records, history.rows, strict=True):
        past.append(stored.data)
        before = record.events[: max(at - events, 0)]
        started = started or next((event for event in before if isinstance(event, OrchestrationStarted)), None)
        events += len(record.events)
        if events > at:
            break
    key, run_id = InstanceKey(chosen, row.key.kind), connection.ports.new_id()
    if started is None:  # nothing is before that point
        return await _started_again(connection, row, key, row.version, may_replace=False)
    now = await connection.clock.now(connection.provider)
    source = TaskRef(*row.key, history.run_id, history.generation, 0)
    event = OrchestrationForked(at, run_id, source, past=encode_past(past))
    start = new_row(
        key,
        connection.partitions,
        run_id,
        row.name,
        started.version,
        now=now,
        scheduled_at=now,
        payload=started.input,
        tags=row.tags,
    )
    message = Message(key, start.partition, encode_arrivals([event]), start=start, expects=Expects.ABSENT)
    await _begin(connection, message, run_id, may_replace=False)
    return key, run_id


async def rewind(connection: Connection, row: InstanceRow, reason: str) -> None:
    """Let a run that has ended, with this row, go on. Raises as `Handle.rewind`."""
    key = row.key
    if not row.status.is_finished:
        raise InstanceRunningError(f"instance '{key.id}' is {row.status.name}: only what has ended can be rewound")
    if row.status is Status.COMPLETED:
        raise InstanceFinishedError(f"instance '{key.id}' has completed: nothing failed in it; restart begins it again")
    now = await connection.clock.now(connection.provider)
    message = rewind_message(row, reason, connection.ports.new_id(), now)
    delivery = await connection.submit("rewind", message)
    if delivery.verdict is Verdict.STORED:
        return
    if delivery.verdict is not Verdict.EXISTS:
        connection.refuse(delivery, key)
    current = await connection.load(key, None)
    if current.run_id != row.run_id:
        raise InstanceFinishedError(
            f"run {row.run_id} of instance '{key.id}' has ended; run {current.run_id} has taken its place"
        )
    # Else somebody has rewound it a moment before: an earlier try, whose answer was lost, or another client.


async def _begin(connection: Connection, message: Message, run_id: str, *, may_replace: bool) -> None:
    """Submit a start; raise why it was not stored. `may_replace`: a finished run of its own id makes way for it."""
    key = message.target
    delivery = await connection.submit("start", message)
    if delivery.verdict is Verdict.STORED:
        return
    if delivery.verdict not in (Verdict.EXISTS, Verdict.ADOPTED):
        connection.refuse(delivery, key)
    row = delivery.row
    if row is None:  # the answer to a repeated batch may lack it
        (row,) = await connection.provider.load([(key, None)])
    if row is not None and row.run_id == run_id:
        return  # it was stored by an earlier try, whose answer was lost
    status = "" if row is None else f" and is {row.status.name}"
    if may_replace:
        raise InstanceRunningError(
            f"instance '{key.id}' exists{status}: it can begin again once it has ended, or at once under a new id"
        )
    state = None if row is None else state_of(row, connection.sealer)
    raise InstanceAlreadyExistsError(f"instance '{key.id}' exists{status}: choose another id", state)
