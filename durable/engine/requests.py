"""The requests of an execution that wait for an answer, and the calls that get it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from durable import events as ev
from durable.engine.calls import Call
from durable.events import HistoryEvent
from durable.prefixes import mark_of

_OF_ATTEMPTS = (ev.ActivityCompleted, ev.ActivityFailed)
_OF_CHILDREN = (ev.SubOrchestrationCompleted, ev.SubOrchestrationFailed)

NONE_RECALLED: deque[ev.Answer] = deque(maxlen=0)  # shared: one of its own would take 600 bytes of each execution


class Requests:
    """Open requests by task id: attempts of activities, children, and those of features."""

    __slots__ = ("_calls", "_kept", "activities", "children", "latest", "others", "recalled")

    def __init__(self) -> None:
        self.activities: dict[int, ev.ActivityScheduled] = {}
        self.children: dict[int, ev.SubOrchestrationScheduled] = {}
        self.others: dict[int, HistoryEvent] = {}
        self.recalled: deque[ev.Answer] = NONE_RECALLED  # kept answers that were asked for just now
        self.latest: Call | None = None  # the one that was taken last
        self._calls: dict[int, Call] = {}
        self._kept: dict[bytes | None, ev.AnswerKept] = {}

    def open(self, request: Any, call: Call) -> None:
        """Note a request as open."""
        found: dict[int, Any] = self.others
        if isinstance(request, ev.ActivityScheduled):
            found = self.activities
        elif isinstance(request, ev.SubOrchestrationScheduled):
            found = self.children
        found[request.task_id] = request
        self._calls[request.task_id] = call

    def close(self, answer: ev.Answer) -> bool:
        """Note that a request has its answer, which may be delivered later. False for what answers nothing open."""
        of_children = self.children if isinstance(answer, _OF_CHILDREN) else self.others
        found: dict[int, Any] = self.activities if isinstance(answer, _OF_ATTEMPTS) else of_children
        if found.pop(answer.task_id, None) is None:
            return False
        if self._kept and isinstance(answer, ev.ActivityFailed | ev.SubOrchestrationFailed):
            self._keep_not_after(answer.task_id)
        return True

    def _keep_not_after(self, failed: int) -> None:
        self._kept = {mark: kept for mark, kept in self._kept.items() if kept.unless != failed}

    def keep(self, answer: ev.AnswerKept) -> None:
        """Keep what a call has returned in an older generation, for when it is asked for again."""
        self._kept[answer.request] = answer

    def recall(self, request: Any, digest: Callable[[bytes], bytes], *, is_replaying: bool) -> None:
        """Let a request have the answer that is kept for it, if there is one; in a replay it comes by itself."""
        if not self._kept or not isinstance(request, (ev.ActivityScheduled, ev.SubOrchestrationScheduled)):
            return
        kept = self._kept.pop(mark_of(request, digest), None)
        if kept is not None and not is_replaying:
            is_activity = isinstance(request, ev.ActivityScheduled)
            answer = ev.ActivityCompleted if is_activity else ev.SubOrchestrationCompleted
            self.recalled = self.recalled or deque()
            self.recalled.append(answer(request.task_id, kept.result))

    def take_call(self, task_id: int) -> Call | None:
        """Return the call behind a request, for its answer or because it is given up; None if it was taken before."""
        self.latest = self._calls.pop(task_id, None)
        return self.latest

    def forget(self) -> None:
        """Forget the calls: their execution is closed, to which each of them refers."""
        for call in self._calls.values():
            call.task.when_cancelled(None)
        self._calls.clear()
        self.latest = None
