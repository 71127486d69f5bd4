"""What a record sends: the messages that its requests call for, by the record and its sender alone.

So whoever finds a record in the store knows what was to be sent for it, in which order, without running any code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from durable import events as ev
from durable.events import HistoryEvent, InstanceKey, TaskRef
from durable.records import Record
from durable.value_objects import value_object


class Beginning(NamedTuple):
    """A run that begins with a message to an instance that is not there: the name of what runs, and its first event."""

    name: str
    event: HistoryEvent


@value_object
class Outgoing:
    """A message that a turn sends. With `start` it begins another orchestration; else `event` is delivered.

    `run_id` and `generation` limit it to that run and generation; `sender` is the request that it carries out. `begins`: what
    begins where the target is not there, or has ended. `visible_at`: the time at which `event` is delivered, if not at once.
    """

    target: InstanceKey
    event: HistoryEvent | None = None
    run_id: str | None = None
    generation: int | None = None
    start: ev.SubOrchestrationScheduled | None = None
    is_control: bool = False
    sender: TaskRef | None = None
    begins: Beginning | None = None
    visible_at: int = 0


@value_object
class Sender:
    """Who a record's messages come from: enough to build them again from the record alone."""

    key: InstanceKey
    run_id: str
    generation: int
    parent: TaskRef | None
    end_event: str | None
    attachment: bytes | None = None


MessagesOf: TypeAlias = Callable[[Any, Sender], Iterator[Outgoing]]

_messages_of: dict[type[HistoryEvent], MessagesOf] = {}


def register_messages(cls: type[HistoryEvent], messages_of: MessagesOf) -> None:
    """Say what a request of a feature's own sends, by the request and its sender alone. Features call it for theirs."""
    _messages_of[cls] = messages_of


_SENDING = (ev.SubOrchestrationScheduled, ev.EventSent, ev.SubOrchestrationCancelled, *ev.OUTCOMES)


def sends_something(event: HistoryEvent) -> bool:
    """Tell whether something may leave the instance with this event."""
    return isinstance(event, _SENDING) or type(event) in _messages_of


def outgoing_messages(record: Record, sender: Sender) -> Iterator[Outgoing]:
    """Give the messages that a record calls for, in order. The record is the outbox: this is all there is to send."""
    me = (*sender.key, sender.run_id, sender.generation)
    # A child that is answered where it is asked for was kept of an older generation: it is not started again.
    answered = {event.task_id for event in record.events if isinstance(event, ev.SubOrchestrationCompleted)}
    for event in record.events:
        if isinstance(event, ev.SubOrchestrationScheduled):
            if event.task_id in answered:
                continue
            target = InstanceKey(event.instance_id, event.kind)
            yield Outgoing(target, start=event, sender=TaskRef(*me, event.task_id))
        elif isinstance(event, ev.EventSent):
            target = InstanceKey(event.instance_id, event.kind)
            yield Outgoing(target, ev.EventRaised(event.name, event.data), sender=TaskRef(*me, event.task_id))
        elif isinstance(event, ev.SubOrchestrationCancelled):
            target = InstanceKey(event.instance_id, event.kind)
            reason = f"cancelled by its parent '{sender.key.id}'"
            yield Outgoing(target, ev.OrchestrationCancelRequested(reason), run_id=event.run_id, is_control=True)
        elif isinstance(event, ev.OUTCOMES):
            yield from outcome_messages(event, sender)
        elif type(event) in _messages_of:
            yield from _messages_of[type(event)](event, sender)


def outcome_messages(outcome: HistoryEvent, sender: Sender) -> Iterator[Outgoing]:
    """Give the message that tells the parent of a run's end, if there is a parent to tell and it is the end."""
    parent = sender.parent
    if parent is None or isinstance(outcome, ev.OrchestrationContinuedAsNew):
        return
    details = ev.outcome_details(outcome)
    event: HistoryEvent
    if sender.end_event is not None:
        data = outcome.result if isinstance(outcome, ev.OrchestrationCompleted) else None
        event = ev.EventRaised(sender.end_event, data, details, sender.attachment)
        yield Outgoing(parent.key, event, run_id=parent.run_id)
        return
    if isinstance(outcome, ev.OrchestrationCompleted):
        event = ev.SubOrchestrationCompleted(parent.task_id, outcome.result, sender.attachment)
    else:
        assert details is not None
        event = ev.SubOrchestrationFailed(parent.task_id, details, sender.attachment)
    yield Outgoing(parent.key, event, run_id=parent.run_id, generation=parent.generation)
