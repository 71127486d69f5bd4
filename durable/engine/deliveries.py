"""How arrivals reach the code: what each kind of them does to an execution. The loop runs afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from durable import events as ev
from durable.engine.calls import TimerPurpose
from durable.engine.driver import run_program
from durable.events import HistoryEvent
from durable.seeds import Seeds

if TYPE_CHECKING:
    from durable.engine.execution import Execution


def deliver(execution: Execution, event: HistoryEvent) -> None:
    """Hand an arrival to the code. What is not listed here is a feature's: an answer, or something that is waited for."""
    of_feature = _answer if isinstance(event, ev.Answer) else _event
    DELIVERIES.get(type(event), of_feature)(execution, event)


def _started(execution: Execution, event: ev.OrchestrationStarted) -> None:
    execution.started = event
    execution.writer = event.writer or execution.writer
    execution.seeds = Seeds(event.seed, execution.writer.generation)
    execution.loop.number_from(int.from_bytes(execution.seeds.derive("hash")[:6], "big") << 12)
    if execution.cancel_reason is None:
        execution.main = execution.loop.create_task(_run(execution), name=event.name, context=execution.loop.context)


async def _run(execution: Execution) -> Any:
    try:
        return await run_program(execution.program(execution))
    finally:
        execution.loop.stop()


def _goes_on(execution: Execution, event: ev.OrchestrationRewound | ev.OrchestrationForked) -> None:
    """Go on after what was taken over: with ids of one's own, and with attempts and timeouts that begin anew."""
    execution.writer = event.writer or execution.writer
    started = execution.started
    if started is None:  # nothing was taken over
        return
    if isinstance(event, ev.OrchestrationForked):
        started = dataclasses.replace(started, parent=None, end_event=None)
    execution.started = dataclasses.replace(started, seed=event.seed)
    execution.seeds.renew(event.seed, execution.next_task_id)
    execution.renewals += 1
    execution.renewed_us = execution.time_us
    for task_id, timer in execution.timers.timeouts():
        execution.emit(ev.TimerCancelled(task_id))
        execution.timers.remove(task_id)
        due = execution.time_us + (timer.span or 0)
        execution.timers.renew(task_id, execution.set_timer(due, TimerPurpose(timer.purpose), timer.fire))


def _answer(execution: Execution, event: Any) -> None:
    call = execution.requests.take_call(event.task_id)
    if call is not None:
        call.settle(event)


def _timer(execution: Execution, event: ev.TimerFired) -> None:
    fire = execution.timers.remove(event.task_id)
    if fire is not None:
        fire()


def _cancel(execution: Execution, event: ev.OrchestrationCancelRequested) -> None:
    execution.cancel_reason = event.reason
    if execution.main is None:
        execution.end(ev.OrchestrationCancelled(event.reason))
    else:
        execution.main.cancel(event.reason or None)


def _event(execution: Execution, event: Any) -> None:
    execution.mailbox.deliver(event, execution.loop.next_ordinal())


DELIVERIES: Final[dict[type[HistoryEvent], Callable[[Execution, Any], None]]] = {  # what stands above adds its own
    ev.OrchestrationStarted: _started,
    ev.OrchestrationRewound: _goes_on,
    ev.OrchestrationForked: _goes_on,
    ev.TimerFired: _timer,
    ev.OrchestrationCancelRequested: _cancel,
}
