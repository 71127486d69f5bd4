"""Drives a generated program through the engine as its world says, and holds the histories that come of it."""

from __future__ import annotations

from typing import Any

from durable import FailureDetails, History
from durable import events as ev
from durable.events import HistoryEvent
from durable.history import Generation
from durable.payloads import encode
from durable.provider import RecordRow
from durable.records import first_checksum, next_checksum
from tests.engine.harness import SECOND, Play, snapshot
from tests.generated.interpreters import app_of
from tests.generated.programs import Case

CLOSING_TURNS_MAX = 60
"""Turns in which the world answers everything, when its own moves are used up."""

REFUSAL = FailureDetails("durable.errors.InstanceAlreadyExistsError", "in use", non_retryable=True)


class World:
    """One program in its world. `play` holds the histories when `run` has returned; close it with `close`."""

    def __init__(self, case: Case) -> None:
        app = app_of(case.style, case.generations)
        self.case = case
        self.app = app
        self.play = Play(app.find_orchestrator("main").function, 0, app=app, instance_id="generated", run_id="run")

    def run(self) -> None:
        play = self.play
        play.start()
        for seconds, until_timer, evicts, arrivals in self.case.turns:
            if play.outcome is not None:
                return
            if evicts:
                self._evict()
            play.now += seconds * SECOND
            if until_timer and play.execution.next_due is not None:
                play.now = max(play.now, play.execution.next_due)
            made = [self._arrival(kind, number) for kind, number in arrivals]
            play.turn(*play.execution.due_timers(play.now), *(arrival for arrival in made if arrival is not None))
        self._answer_everything()

    def close(self) -> None:
        self.play.execution.close()

    def _evict(self) -> None:
        play, before = self.play, snapshot(self.play.execution)
        former = play.execution
        former.close()
        play.execution = play.new_execution()
        for record, (_, _, data, _) in zip(play.records, play.history, strict=True):
            play.execution.feed(record, len(data))
        play.execution.mailbox.carry(former.mailbox.carried)
        assert snapshot(play.execution) == before, "an evicted execution comes back as it was"

    def _answer_everything(self) -> None:
        play = self.play
        for _ in range(CLOSING_TURNS_MAX):
            if play.outcome is not None:
                return
            if play.execution.next_due is not None:
                play.now = max(play.now, play.execution.next_due)
            events = [play.event(f"e{number}", number) for number in range(4)]
            open_tasks = [self._completed(request, 1) for request in self._open()]
            due = play.execution.due_timers(play.now)
            play.turn(ev.OrchestrationResumed(), *due, *open_tasks, *events)

    def _open(self) -> list[Any]:
        execution = self.play.execution
        found: list[Any] = [*execution.open_activities.values(), *execution.open_children.values()]
        return sorted(found, key=lambda request: request.task_id)

    def _arrival(self, kind: str, number: int) -> HistoryEvent | None:
        """Return an arrival as of now; None where nothing is open that it could answer."""
        if kind == "event":
            return self.play.event(f"e{number % 4}", "text" if number == 7 else number)
        if kind == "late":
            return ev.ActivityCompleted(number, encode(number))
        if kind == "cancel":
            return ev.OrchestrationCancelRequested("enough" if number % 2 else "")
        if kind == "suspend":
            return ev.OrchestrationSuspended()
        if kind == "resume":
            return ev.OrchestrationResumed()
        found = self._open()
        if kind == "refuse":
            found = [request for request in found if isinstance(request, ev.SubOrchestrationScheduled)]
        if not found:
            return None
        request = found[number % len(found)]
        if kind == "complete":
            return self._completed(request, number)
        if kind == "refuse":
            return ev.SubOrchestrationFailed(request.task_id, REFUSAL, is_refused=True)
        details = FailureDetails("builtins.ValueError", f"no {number}", non_retryable=number == 7)
        if isinstance(request, ev.ActivityScheduled):
            return ev.ActivityFailed(request.task_id, details, is_timeout=number == 5)
        return ev.SubOrchestrationFailed(request.task_id, details)

    def _completed(self, request: Any, number: int) -> HistoryEvent:
        is_activity = isinstance(request, ev.ActivityScheduled)
        return (ev.ActivityCompleted if is_activity else ev.SubOrchestrationCompleted)(request.task_id, encode(number))

    # ---- what must hold

    def check(self) -> int:
        """Raise AssertionError where a promise does not hold. Returns the number of prefixes that were replayed."""
        self._check_conserved()
        self.play.check_replays()
        return sum(len(history) + 1 for _, history in self._generations())

    def _generations(self) -> list[tuple[int, list[Any]]]:
        return [*self.play.ended, (self.play.generation, self.play.history)]

    def _check_conserved(self) -> None:
        """Each request has at most one answer, and no task id is used twice."""
        for _, history in self._generations():
            events = [event for _, _, _, turn in history if turn is not None for event in turn.record.events]
            numbered: list[Any] = [event for event in events if hasattr(event, "task_id")]
            asked = [event.task_id for event in numbered if event.is_request and hasattr(event, "line")]
            answered = [event.task_id for event in numbered if not (event.is_request and hasattr(event, "line"))]
            assert len(asked) == len(set(asked)), "each request has a task id of its own"
            assert len(answered) == len(set(answered)), "each request is answered at most once"
            assert set(answered) <= set(asked), "only what was asked for is answered"

    def histories(self) -> list[History]:
        """Return the history of each generation."""
        return [self._history(generation, history) for generation, history in self._generations()]

    def _history(self, generation: int, history: list[Any]) -> History:
        play, rows = self.play, []
        chain = first_checksum(play.key, play.run_id, generation)
        for index, (_, _, data, _) in enumerate(history):
            chain = next_checksum(chain, data)
            rows.append(RecordRow(index, data, chain))
        return History(Generation(play.key, play.run_id, generation, "main"), rows)
