"""Turning what a turn sends into messages of the storage contract."""

from __future__ import annotations

from typing import NamedTuple

from durable import events as ev
from durable.errors import FailureDetails, InstanceAlreadyExistsError, qualified_name
from durable.events import InstanceKey, TaskRef
from durable.messages import beginning_message, begun_run_id, dropped_memo, encode_arrivals, new_row
from durable.outgoing import Outgoing, Sender
from durable.permits import PermitGranted
from durable.provider import Expects, InstanceRow, Memo, Message, Priority, StoredMessage, partition_of
from durable.traces import started_by


class Origin(NamedTuple):
    """What a run's start says that the starts which it asks for follow from: its depth among children, its trace."""

    depth: int = 0
    trace: str | None = None

    @classmethod
    def of(cls, started: ev.OrchestrationStarted | None) -> Origin:
        """Return what a start says; before it there is nothing to say."""
        return NOWHERE if started is None else cls(started.depth, started.trace)


NOWHERE = Origin()


def to_message(outgoing: Outgoing, row: InstanceRow, origin: Origin, partitions: int, now: int) -> Message:
    """Return the storage message for something that the run of `row` sends; `origin` is the run's own."""
    if outgoing.start is not None:
        return _start_message(outgoing.start, outgoing.sender, row, origin, partitions, now)
    assert outgoing.event is not None, "a message carries an event or a start"
    otherwise: Message | Memo | None = _undelivered(outgoing, outgoing.event, row, now)
    if outgoing.begins is not None:
        assert outgoing.sender is not None, "the id of a run that begins so follows from the request behind it"
        name, event = outgoing.begins
        run_id = begun_run_id(outgoing.sender, now)
        otherwise = beginning_message(outgoing.target, partitions, run_id, name, event, now=now)
    return Message(
        target=outgoing.target,
        partition=partition_of(outgoing.target, partitions),
        data=encode_arrivals([outgoing.event], outgoing.generation),
        priority=Priority.CONTROL if outgoing.is_control else Priority.NORMAL,
        visible_at=outgoing.visible_at,
        run_id=outgoing.run_id,
        otherwise=otherwise,
    )


def _undelivered(outgoing: Outgoing, event: ev.HistoryEvent, row: InstanceRow, now: int) -> Memo | None:
    """Return what is noted if the target is not there: an event with its sender, an outcome with the parent's run."""
    if isinstance(event, ev.EventRaised) and outgoing.sender is not None:
        reason = f"instance '{outgoing.target.id}' is not there, or has ended"
        # A microsecond apart, in their order: the same note about the same moment would be one.
        return dropped_memo(row.run_id, "event sent", event.name, reason, now + outgoing.sender.task_id)
    if outgoing.run_id is None or outgoing.is_control or isinstance(event, PermitGranted):
        return None  # a cancel for a child that has ended, a permit for who wants none any more: no loss
    is_of_child = isinstance(event, ev.EventRaised | ev.SubOrchestrationCompleted | ev.SubOrchestrationFailed)
    reason = f"the answer of '{row.key.id}' came after the end of the run that had asked for it"
    if is_of_child:
        reason = f"the end of '{row.key.id}' came after that of its parent"
    name = str(getattr(event, "name", None) or getattr(event, "task_id", ""))
    return dropped_memo(outgoing.run_id, type(event).__name__, name, reason, now)


def _start_message(
    start: ev.SubOrchestrationScheduled,
    sender: TaskRef | None,
    row: InstanceRow,
    origin: Origin,
    partitions: int,
    now: int,
) -> Message:
    assert sender is not None, "a start names the request behind it"
    key = InstanceKey(start.instance_id, start.kind)
    is_awaited = not start.is_detached
    parent = sender if is_awaited or start.end_event is not None else None
    scheduled_at = start.start_at or now
    started = ev.OrchestrationStarted(
        start.name,
        start.version,
        start.input,
        start.run_id,
        "",
        parent,
        start.tags,
        scheduled_at,
        start.end_event,
        origin.depth + 1,
        trace=None if origin.trace is None else started_by(origin.trace, sender, is_detached=start.is_detached),
    )
    child = new_row(
        key,
        partitions,
        start.run_id,
        start.name,
        start.version,
        now=now,
        scheduled_at=scheduled_at,
        payload=start.input,
        tags=start.tags,
        parent=parent,
        end_event=start.end_event,
    )
    text = f"the id '{start.instance_id}' of a child of '{row.key.id}' is in use by another instance"
    otherwise: Message | Memo
    if is_awaited:
        details = FailureDetails(qualified_name(InstanceAlreadyExistsError), text)
        refused = ev.SubOrchestrationFailed(sender.task_id, details, is_refused=True)
        otherwise = Message(
            target=row.key,
            partition=row.partition,
            data=encode_arrivals([refused], sender.generation),
            run_id=row.run_id,
        )
    elif start.end_event is not None:
        # Its end is waited for, and will not come: that it never began is told by the same event.
        ended = ev.EventRaised(start.end_event, None, FailureDetails(qualified_name(InstanceAlreadyExistsError), text))
        otherwise = Message(row.key, row.partition, encode_arrivals([ended]), run_id=row.run_id)
    else:
        otherwise = dropped_memo(row.run_id, "start", start.name, text, now + sender.task_id)
    return Message(
        target=key,
        partition=child.partition,
        data=encode_arrivals([started]),
        start=child,
        # A further attempt of a child with a given id takes the place of the failed one, which was this run's own.
        expects=Expects.ABSENT if start.attempt == 1 else Expects.ABSENT_OR_FINISHED,
        otherwise=otherwise,
    )


def begin_again(message: StoredMessage, row: InstanceRow) -> Message:
    """Return the start that a message brings once more: the run that it was to replace has ended by itself meanwhile.

    It stays where it is in the order, so that what came after it does so again.
    """
    return Message(
        message.target,
        message.partition,
        message.data,
        start=row,
        expects=Expects.ANY,
        in_place_of=message.sequence,
    )


def sender_of(row: InstanceRow) -> Sender:
    """Tell who a run's last messages come from, by its row alone: a termination needs no readable history."""
    parent: TaskRef | None = None
    end_event: str | None = None
    if row.parent is not None and row.parent_run_id is not None and row.parent_task is not None:
        generation, task_id, *rest = row.parent_task.split("/", 2)
        parent = TaskRef(*row.parent, row.parent_run_id, int(generation), int(task_id))
        end_event = rest[0] if rest else None
    return Sender(row.key, row.run_id, row.generation, parent, end_event)
