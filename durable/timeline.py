"""What an instance did and when, as rows with a beginning and an end: made from its history alone, for whoever draws it.

Theory of operation. Each request of a history begins a row, and what answers it ends the row. The attempts of one call are one
row; the timers that serve a call (the wait for its next attempt, its time limit) belong to its row and are none of their
own. What only happened at a moment is a row whose end is its beginning. When the generation is over, what was still open was
given up then, but for children: they run on.

A wait for an external event leaves no record unless it has a time limit: then that timer's row is the wait. So an unfinished
instance without an open row waits for an event whose name only its code knows.

All here is pure and plain; times are aware, in UTC, and are those of the turns: an attempt begins where it was asked for, not
where a worker was free, and ends where its outcome was recorded.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar

from durable import events as ev
from durable.engine.calls import TimerPurpose
from durable.entities import events as entity_events
from durable.errors import FailureDetails
from durable.events import HistoryEvent
from durable.exchanges import UpdateCompleted, UpdateFailed, UpdateReceived
from durable.history import History, utc_datetime
from durable.schedules.events import OccurrenceToldToEnd


class RowKind(enum.StrEnum):
    """What a row is about.

    WAIT: for an external event, with a time limit. DETACHED: an orchestration that was started and not waited for.
    OPERATION and LOCK are of entities. UPDATE: somebody outside changes the orchestration, and is answered. SUSPENSION: until
    the resume. The others are moments: an EVENT that came; something SENT; what was PERFORMED, in the history of an entity;
    and a MARK in the life of the orchestration itself.
    """

    ACTIVITY = "activity"
    CHILD = "child"
    DETACHED = "detached"
    TIMER = "timer"
    WAIT = "wait"
    OPERATION = "operation"
    LOCK = "lock"
    UPDATE = "update"
    SUSPENSION = "suspension"
    EVENT = "event"
    SENT = "sent"
    PERFORMED = "performed"
    MARK = "mark"


class RowStatus(enum.StrEnum):
    """How a row stands. LEFT: not over, but this generation is, and no longer waits for it."""

    OPEN = "open"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LEFT = "left"


@dataclasses.dataclass(slots=True)
class Attempt:
    """One attempt of an activity call or a child; `ended_at` is None while it is open."""

    number: int
    task_id: int
    started_at: datetime
    ended_at: datetime | None = None
    status: RowStatus = RowStatus.OPEN
    error: FailureDetails | None = None


@dataclasses.dataclass(slots=True)
class Row:
    """One thing that an instance did, waited for or met. Plain data: `dataclasses.asdict` gives what JSON needs.

    `sequence`: of the event in the history with which it begins. `task_id`: of the request, -1 where nobody asked.
    `ended_at`: None while it is open. `target`: the id of the child, or of whom something was sent to, or the key of an
    entity. `due_at`: of an open timer or wait, when it ends; of a call between two attempts, when the next one begins.
    `limit_at`: when the total time of the call is over. `line`: where the code asked for it. `error`: the last failure.
    """

    kind: RowKind
    name: str
    sequence: int
    task_id: int
    started_at: datetime
    ended_at: datetime | None = None
    status: RowStatus = RowStatus.OPEN
    target: str = ""
    due_at: datetime | None = None
    limit_at: datetime | None = None
    attempts: list[Attempt] = dataclasses.field(default_factory=list)
    error: FailureDetails | None = None
    line: str = ""


@dataclasses.dataclass(slots=True)
class Timeline:
    """One generation of an instance. `ended_at` and `outcome`, an event's name, are None while it goes on.

    `rows` are in the order of their beginnings.
    """

    instance_id: str
    run_id: str
    generation: int
    name: str
    started_at: datetime | None = None
    ended_at: datetime | None = None
    outcome: str | None = None
    rows: list[Row] = dataclasses.field(default_factory=list)

    @property
    def open_rows(self) -> list[Row]:
        """What is not over: what an unfinished instance waits for now."""
        return [row for row in self.rows if row.status is RowStatus.OPEN]


def timeline(history: History) -> Timeline:
    """Return what a history tells, as rows. Payloads are not looked at."""
    reader = _Reader(Timeline(history.instance_id, history.run_id, history.generation, history.name))
    for record in history.records:
        at = utc_datetime(record.time)
        for event in record.events:
            reader.take(event, at)
    return reader.drawn


class _Reader:
    """Takes the events of a history in their order; `drawn` is what they have told so far."""

    def __init__(self, drawn: Timeline) -> None:
        self.drawn = drawn
        self._sequence = -1
        self._at = utc_datetime(0)
        self._open: dict[int, Row] = {}  # by the task id of the open request
        self._calls: dict[int, Row] = {}  # of activities, by their first attempt
        self._ends: dict[str, Row] = {}  # of detached orchestrations, by the event that tells of their end
        self._updates: dict[str, Row] = {}
        self._limits: dict[int, Row] = {}  # whose total time a timer limits
        self._pauses: dict[int, Row] = {}  # whose next attempt a timer waits for
        self._last: Row | None = None  # of this event, which a timer for a call follows at once
        self._before: Row | None = None  # of the event before this one
        self._resumed: list[Row] = []  # failed while suspended, so that their timers follow the resume
        self._retried: Row | None = None  # the pause is over: a child's next attempt follows
        self._renewed: Row | None = None  # a limit that began anew, since the run went on after its end
        self._suspension: Row | None = None

    def take(self, event: HistoryEvent, at: datetime) -> None:
        self._sequence += 1
        self._at = at
        for of in type(event).__mro__:
            if (take := self._TAKERS.get(of)) is not None:
                self._before, self._last = self._last, None
                take(self, event)
                return
        self._last = None

    # ---- rows

    def _begin(self, kind: RowKind, name: str, event: Any, **fields: Any) -> Row:
        task_id = getattr(event, "task_id", -1)
        line = getattr(event, "line", "")
        row = Row(kind, name, self._sequence, task_id, self._at, line=line, **fields)
        self.drawn.rows.append(row)
        if task_id >= 0:
            self._open[task_id] = row
        return row

    def _note(self, kind: RowKind, name: str, event: Any, **fields: Any) -> Row:
        """Add what is over at once."""
        fields.setdefault("status", RowStatus.COMPLETED)
        row = self._begin(kind, name, event, ended_at=self._at, **fields)
        self._open.pop(row.task_id, None)
        return row

    def _end(self, row: Row, status: RowStatus, error: FailureDetails | None = None) -> None:
        row.status, row.ended_at, row.due_at = status, self._at, None
        if error is not None or status is RowStatus.COMPLETED:
            row.error = error
        if row.attempts and row.attempts[-1].ended_at is None:
            attempt = row.attempts[-1]
            attempt.status, attempt.ended_at, attempt.error = status, self._at, error

    def _attempt(self, row: Row, event: Any) -> None:
        row.status, row.ended_at, row.due_at = RowStatus.OPEN, None, None
        row.attempts.append(Attempt(event.attempt, event.task_id, self._at))
        self._open[event.task_id] = row
        self._last = row

    # ---- calls and their answers

    def _take_activity(self, event: ev.ActivityScheduled) -> None:
        row = self._calls.get(event.call_id)
        if row is None:
            row = self._calls[event.call_id] = self._begin(RowKind.ACTIVITY, event.name, event)
        guessed, self._retried = self._retried, None
        if (
            guessed is not None and guessed is not row and guessed.attempts
        ):  # it was another one that waited to try again
            guessed.status, guessed.ended_at = RowStatus.FAILED, guessed.attempts[-1].ended_at
        self._attempt(row, event)

    def _take_child(self, event: ev.SubOrchestrationScheduled) -> None:
        if event.is_detached:
            row = self._note(RowKind.DETACHED, event.name, event, target=event.instance_id)
            if event.end_event is not None:
                row.status, row.ended_at = RowStatus.OPEN, None
                self._ends[event.end_event] = row
            return
        again, self._retried = self._retried, None
        if again is None or event.attempt == 1:
            again = self._begin(RowKind.CHILD, event.name, event)
        again.target = event.instance_id
        self._attempt(again, event)

    def _take_operation(self, event: entity_events.EntityOperationCalled) -> None:
        self._begin(RowKind.OPERATION, f"{event.name}.{event.operation}", event, target=event.key)

    def _take_lock(self, event: entity_events.EntityLockRequested) -> None:
        self._begin(RowKind.LOCK, event.name, event, target=event.key)

    def _take_answer(self, event: Any) -> None:
        row = self._open.pop(event.task_id, None)
        if row is None:
            return
        details = getattr(event, "details", None)
        self._end(row, RowStatus.COMPLETED if details is None else RowStatus.FAILED, details)
        if details is not None:
            self._last = row
            if self._suspension is not None:
                self._resumed.append(row)

    def _take_given_up(self, event: Any) -> None:
        row = self._open.pop(event.task_id, None)
        if row is not None and row.status is RowStatus.OPEN:
            self._end(row, RowStatus.CANCELLED)

    def _take_lock_released(self, event: entity_events.EntityLockReleased) -> None:
        row = self._open.pop(event.lock, None)
        if row is not None:
            self._end(row, RowStatus.CANCELLED)

    # ---- timers

    def _take_timer(self, event: ev.TimerCreated) -> None:
        due, before = utc_datetime(event.due), self._before
        if event.purpose == TimerPurpose.RETRY.value:
            self._pause(event.task_id, due, before or (self._resumed.pop(0) if self._resumed else None))
        elif self._renewed is not None:
            row, self._renewed = self._renewed, None
            if event.purpose == TimerPurpose.TOTAL.value:
                row.limit_at, self._limits[event.task_id] = due, row
            else:
                row.status, row.ended_at, row.due_at = RowStatus.OPEN, None, due
                self._open[event.task_id] = row
        elif event.purpose == TimerPurpose.TOTAL.value:
            if before is not None:
                before.limit_at, self._limits[event.task_id] = due, before
        elif event.purpose == TimerPurpose.EVENT.value:
            self._begin(RowKind.WAIT, "", event, due_at=due)
        else:
            self._begin(RowKind.TIMER, event.purpose, event, due_at=due)

    def _pause(self, task_id: int, due: datetime, row: Row | None) -> None:
        if row is not None:
            row.status, row.ended_at, row.due_at = RowStatus.OPEN, None, due
            self._pauses[task_id] = row

    def _take_fired(self, event: ev.TimerFired) -> None:
        if (row := self._pauses.pop(event.task_id, None)) is not None:
            self._retried, row.due_at = row, None
        elif (row := self._limits.pop(event.task_id, None)) is not None:
            self._open.pop(row.attempts[-1].task_id if row.attempts else row.task_id, None)
            self._end(row, RowStatus.FAILED, FailureDetails("TimeoutError", "its total time was over"))
        elif (row := self._open.pop(event.task_id, None)) is not None:
            self._end(row, RowStatus.FAILED if row.kind is RowKind.WAIT else RowStatus.COMPLETED)

    def _take_timer_cancelled(self, event: ev.TimerCancelled) -> None:
        row = self._limits.pop(event.task_id, None)
        if row is None and (row := self._open.pop(event.task_id, None)) is not None:
            self._end(row, RowStatus.COMPLETED if row.kind is RowKind.WAIT else RowStatus.CANCELLED)
        if row is not None and self._is_going_on:
            self._renewed = row
        if (paused := self._pauses.pop(event.task_id, None)) is not None:
            self._end(paused, RowStatus.CANCELLED)

    @property
    def _is_going_on(self) -> bool:
        """Whether the run has just gone on after its end, or after what it took over: its time limits begin anew."""
        rows = self.drawn.rows
        return bool(rows) and rows[-1].kind is RowKind.MARK and rows[-1].name in _GOES_ON

    # ---- what comes, and what is sent

    def _take_event(self, event: ev.EventRaised) -> None:
        detached = self._ends.pop(event.name, None)
        if detached is not None:
            self._end(detached, RowStatus.COMPLETED if event.details is None else RowStatus.FAILED, event.details)
        else:
            operation = getattr(event, "operation", "")
            self._note(RowKind.EVENT, operation or event.name, event)

    def _take_sent(self, event: Any) -> None:
        if isinstance(event, ev.EventSent):
            self._note(RowKind.SENT, event.name, event, target=event.instance_id)
        elif isinstance(event, entity_events.EntityOperationSignaled):
            self._note(RowKind.SENT, f"{event.name}.{event.operation}", event, target=event.key)
        elif isinstance(event, OccurrenceToldToEnd):
            self._note(RowKind.SENT, "terminate" if event.is_forced else "cancel", event, target=event.instance_id)

    def _take_performed(self, event: entity_events.EntityOperationPerformed) -> None:
        status = RowStatus.COMPLETED if event.details is None else RowStatus.FAILED
        self._note(RowKind.PERFORMED, event.operation, event, status=status, error=event.details)

    def _take_update(self, event: UpdateReceived) -> None:
        self._updates[event.update_id] = self._begin(RowKind.UPDATE, event.name, event)

    def _take_update_answered(self, event: UpdateCompleted | UpdateFailed) -> None:
        row = self._updates.pop(event.update_id, None)
        if row is not None:
            details = event.details if isinstance(event, UpdateFailed) else None
            self._end(row, RowStatus.COMPLETED if details is None else RowStatus.FAILED, details)

    # ---- the life of the orchestration

    def _take_start(self, event: ev.OrchestrationStarted) -> None:
        self.drawn.name = event.name or self.drawn.name
        if self.drawn.started_at is None:
            self.drawn.started_at = self._at

    def _take_mark(self, event: HistoryEvent) -> None:
        self._note(RowKind.MARK, _MARKS[type(event)], event)

    def _take_suspended(self, event: ev.OrchestrationSuspended) -> None:
        if self._suspension is None:
            self._suspension = self._begin(RowKind.SUSPENSION, event.reason, event)

    def _take_resumed(self, event: ev.OrchestrationResumed) -> None:
        if self._suspension is not None:
            self._end(self._suspension, RowStatus.COMPLETED)
            self._suspension = None

    def _take_outcome(self, event: HistoryEvent) -> None:
        self.drawn.outcome, self.drawn.ended_at = type(event).__name__, self._at
        for row in self.drawn.open_rows:
            if row.kind in (RowKind.CHILD, RowKind.DETACHED):
                row.status = RowStatus.LEFT
            else:
                self._end(row, RowStatus.CANCELLED)

    _TAKERS: ClassVar[Mapping[type[HistoryEvent], Callable[[_Reader, Any], None]]] = {
        ev.OrchestrationStarted: _take_start,
        ev.ActivityScheduled: _take_activity,
        ev.SubOrchestrationScheduled: _take_child,
        entity_events.EntityOperationCalled: _take_operation,
        entity_events.EntityLockRequested: _take_lock,
        entity_events.EntityLockReleased: _take_lock_released,
        entity_events.EntityOperationSignaled: _take_sent,
        entity_events.EntityOperationPerformed: _take_performed,
        OccurrenceToldToEnd: _take_sent,
        ev.Answer: _take_answer,
        ev.ActivityCancelled: _take_given_up,
        ev.SubOrchestrationCancelled: _take_given_up,
        ev.TimerCreated: _take_timer,
        ev.TimerFired: _take_fired,
        ev.TimerCancelled: _take_timer_cancelled,
        UpdateReceived: _take_update,
        UpdateCompleted: _take_update_answered,
        UpdateFailed: _take_update_answered,
        ev.EventRaised: _take_event,
        ev.EventSent: _take_sent,
        ev.OrchestrationCancelRequested: _take_mark,
        ev.OrchestrationRewound: _take_mark,
        ev.OrchestrationForked: _take_mark,
        ev.OrchestrationSuspended: _take_suspended,
        ev.OrchestrationResumed: _take_resumed,
        **dict.fromkeys(ev.OUTCOMES, _take_outcome),
    }


_GOES_ON = ("rewound", "forked")
_MARKS: Mapping[type[HistoryEvent], str] = {
    ev.OrchestrationCancelRequested: "cancel requested",
    ev.OrchestrationRewound: "rewound",
    ev.OrchestrationForked: "forked",
}
