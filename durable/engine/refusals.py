"""Which arrivals are refused: those that answer nothing open. They are not recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from durable import events as ev
from durable.events import HistoryEvent

if TYPE_CHECKING:
    from durable.engine.execution import Execution

EVENTS_BUFFERED_MAX = 100_000
"""Events that wait unconsumed in one instance; a further one is refused and listed as dropped."""


def refusal(execution: Execution, event: HistoryEvent) -> str | None:
    """Say why an arrival is refused; None if it answers something open, of which that is noted."""
    if isinstance(event, ev.Answer):
        return None if execution.requests.close(event) else event.late
    check = CHECKS.get(type(event))
    return None if check is None else check(execution, event)


def _of_timer(execution: Execution, event: ev.TimerFired) -> str | None:
    return None if execution.timers.is_waiting(event.task_id) else "the timer was cancelled or has fired"


def _of_start(execution: Execution, event: ev.OrchestrationStarted) -> str | None:
    return None if execution.started is None else "the orchestration has started already"


def _of_cancel(execution: Execution, event: ev.OrchestrationCancelRequested) -> str | None:
    is_first = execution.cancel_reason is None and not any(isinstance(held, type(event)) for held in execution.held)
    return None if is_first else "the orchestration was asked to cancel already"


def _of_suspension(execution: Execution, event: ev.OrchestrationSuspended) -> str | None:
    return "the orchestration is suspended already" if execution.is_suspended else None


def _of_resumption(execution: Execution, event: ev.OrchestrationResumed) -> str | None:
    return None if execution.is_suspended or execution.held else "the orchestration is not suspended"


def _of_event(execution: Execution, event: ev.EventRaised) -> str | None:
    if execution.mailbox.count + len(execution.held) < EVENTS_BUFFERED_MAX:
        return None
    is_awaited = not execution.is_suspended and execution.mailbox.is_awaited(event.name)
    return None if is_awaited else f"{EVENTS_BUFFERED_MAX:,} events wait already"


CHECKS: Final[dict[type[HistoryEvent], Callable[[Execution, Any], str | None]]] = {  # what stands above adds its own
    ev.TimerFired: _of_timer,
    ev.OrchestrationStarted: _of_start,
    ev.OrchestrationCancelRequested: _of_cancel,
    ev.OrchestrationSuspended: _of_suspension,
    ev.OrchestrationResumed: _of_resumption,
    ev.EventRaised: _of_event,
}
