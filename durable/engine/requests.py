"""The requests of an execution that wait for an answer, and the calls that get it."""

from __future__ import annotations

from typing import Any

from durable import events as ev
from durable.engine.calls import Call
from durable.events import HistoryEvent


class Requests:
    """Open requests by task id: attempts of activities, children, and those of features."""

    def __init__(self) -> None:
        self.activities: dict[int, ev.ActivityScheduled] = {}
        self.children: dict[int, ev.SubOrchestrationScheduled] = {}
        self.others: dict[int, HistoryEvent] = {}
        self._calls: dict[int, Call] = {}

    def open(self, request: Any, call: Call) -> None:
        """Note a request as open."""
        found: dict[int, Any] = self.others
        if isinstance(request, ev.ActivityScheduled):
            found = self.activities
        elif isinstance(request, ev.SubOrchestrationScheduled):
            found = self.children
        found[request.task_id] = request
        self._calls[request.task_id] = call

    def is_open(self, answer: ev.Answer) -> bool:
        """Tell whether the request that is answered waits for that."""
        return answer.task_id in self._like(answer)

    def close(self, answer: ev.Answer) -> None:
        """Note that a request has its answer, which may be delivered later: another one is refused."""
        self._like(answer).pop(answer.task_id, None)

    def take_call(self, task_id: int) -> Call | None:
        """Return the call behind a request, for its answer or because it is given up; None if it was taken before."""
        return self._calls.pop(task_id, None)

    def _like(self, answer: ev.Answer) -> dict[int, Any]:
        if isinstance(answer, ev.ActivityCompleted | ev.ActivityFailed):
            return self.activities
        is_of_child = isinstance(answer, ev.SubOrchestrationCompleted | ev.SubOrchestrationFailed)
        return self.children if is_of_child else self.others
