"""A simulated run as a story for people: what was sent, written and run, and what went wrong in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from durable import events as ev
from durable.errors import HistoryDamagedError
from durable.provider import Batch, Committed, Message, Step
from durable.records import decode_record

_ENDS = {
    ev.OrchestrationCompleted: "completes",
    ev.OrchestrationFailed: "fails",
    ev.OrchestrationCancelled: "is cancelled",
    ev.OrchestrationTerminated: "is terminated",
    ev.OrchestrationContinuedAsNew: "continues as new",
}


def of_submit(messages: Sequence[Message]) -> Iterator[str]:
    """Yield what messages say that a client has sent."""
    for message in messages:
        yield f"{'starts' if message.start is not None else 'sends a message to'} '{message.target.id}'"


def of_commit(batch: Batch, answer: Committed) -> Iterator[str]:
    """Yield what has become durable, instance by instance."""
    for index, step in enumerate(batch.steps):
        if index in answer.refused:
            yield f"cannot write of '{step.key.id}': the store refuses it"
            continue
        words = list(_of_step(step))
        if words:
            yield f"writes of '{step.key.id}': {', '.join(words)}"


def _of_step(step: Step) -> Iterator[str]:
    for _, record in step.appends:
        try:
            events = decode_record(record.data).events
        except HistoryDamagedError:
            yield "what cannot be read"
            continue
        for event in events:
            yield _of_event(event)


def _of_event(event: ev.HistoryEvent) -> str:
    if isinstance(event, ev.ActivityScheduled):
        again = f" (attempt {event.attempt})" if event.attempt > 1 else ""
        return f"it asks for activity '{event.name}'{again} as task {event.task_id}"
    if isinstance(event, ev.SubOrchestrationScheduled):
        return f"it asks for child '{event.name}' as task {event.task_id}"
    if isinstance(event, ev.ActivityCompleted | ev.SubOrchestrationCompleted):
        return f"task {event.task_id} has its result"
    if isinstance(event, ev.ActivityFailed | ev.SubOrchestrationFailed):
        return f"task {event.task_id} has failed with {event.details.error_type}: {event.details.message:.100}"
    if type(event) is ev.EventRaised:
        return f"event '{event.name}' arrives"
    if type(event) in _ENDS:
        return f"it {_ENDS[type(event)]}"
    task_id, operation = getattr(event, "task_id", None), getattr(event, "operation", None)
    words = [type(event).__name__, "" if operation is None else f" '{operation}'"]
    return "".join([*words, "" if task_id is None else f" of task {task_id}"])
