"""One run: its checksums, the order of its events, and what its row says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from durable import events as ev
from durable.events import HistoryEvent
from durable.exchanges import UpdateCompleted, UpdateFailed, UpdateReceived
from durable.invariants.runs import StoredRun, decoded, named
from durable.provider import InstanceRow, RecordRow, Status
from durable.records import Record, first_checksum, next_checksum
from durable.worker.live import OwnerState

ENDS: Final[Mapping[type[HistoryEvent], Status]] = {
    ev.OrchestrationCompleted: Status.COMPLETED,
    ev.OrchestrationFailed: Status.FAILED,
    ev.OrchestrationCancelled: Status.CANCELLED,
    ev.OrchestrationTerminated: Status.TERMINATED,
}
"""The status that each end of a run leaves in its row."""


def violations_in(run: StoredRun, *, attempts_max: Mapping[str, int] | None = None) -> list[str]:
    """Return what is wrong with one run: its checksums, the order of its events, and what its row says of them."""
    row = run.row
    found: list[str] = []
    last = _Story(row, row.generation, attempts_max or {})
    for generation, rows in sorted({row.generation: (), **run.generations}.items()):
        damage = _broken_chain(row, generation, rows)
        if damage:  # what a damaged history tells would only be noise
            return [*found, *damage, *_impossible_row(row)]
        story = _Story(row, generation, attempts_max or {})
        for record_row in rows:
            record = decoded(record_row)
            assert record is not None, "it was read above"
            story.tell(record_row.index, record)
        is_last = generation == row.generation
        story.close(is_last=is_last, goes_on=not is_last and _is_rewound(run, generation + 1))
        found += story.found
        last = story
    found += _impossible_row(row)
    found += _row_against(row, last)
    return found


def _is_rewound(run: StoredRun, generation: int) -> bool:
    """Tell whether a generation goes on after the end of the one before, or is about to."""
    if run.row.generation == generation and not run.row.records:
        return True
    events = run.events_of(generation) if generation in run.generations else []
    return any(isinstance(event, ev.OrchestrationRewound | ev.OrchestrationTerminated) for event in events)


def _broken_chain(row: InstanceRow, generation: int, rows: Sequence[RecordRow]) -> list[str]:
    where = named(row, generation)
    chain = first_checksum(row.key, row.run_id, generation)
    for expected, record in enumerate(rows):
        if record.index != expected:
            return [f"I2: {where}: record {expected} is missing, {record.index} comes in its place"]
        chain = next_checksum(chain, record.data)
        if record.checksum != chain:
            return [f"I13: {where}: record {expected} does not match its checksum"]
        if decoded(record) is None:
            return [f"I13: {where}: record {expected} cannot be read"]
    if generation != row.generation:
        return []
    if len(rows) != row.records:
        return [f"I6: {where}: the row counts {row.records} records, the history has {len(rows)}"]
    if rows and chain != row.chain:
        return [f"I13: {where}: the history does not end with the checksum in the row"]
    return []


def _impossible_row(row: InstanceRow) -> list[str]:
    """Return what no row may say, whatever its history."""
    is_finished = row.status.is_finished
    wrong = {
        "is finished without a time of its end": is_finished and row.completed_at is None,
        "has a time of its end and is unfinished": not is_finished and row.completed_at is not None,
        "has an output and did not complete": row.output is not None and row.status is not Status.COMPLETED,
        "failed without a failure": row.status is Status.FAILED and row.failure is None,
        "has a failure and is unfinished": not is_finished and row.failure is not None,
        "is stalled without a reason": row.status is Status.STALLED and not row.stall_reason,
        "is finished and still has a reason to stall": is_finished and row.stall_reason is not None,
        "is finished and still waits for a time": is_finished and row.due_at is not None,
        "is finished and still has open work": is_finished and row.open_work != 0,
    }
    return [f"I10: {named(row)}: {row.status.name}, but {what}" for what, is_so in wrong.items() if is_so]


def _row_against(row: InstanceRow, story: _Story) -> list[str]:
    """Return where the row and the history of its generation tell different stories."""
    where = named(row, row.generation)
    found: list[str] = []
    end = ENDS.get(type(story.outcome)) if story.outcome is not None else None
    if row.status.is_finished and end is not row.status:
        what = type(story.outcome).__name__ if story.outcome is not None else "no end"
        found.append(f"I6: {where}: the row says {row.status.name}, the history has {what}")
    is_sending = OwnerState.decode(row.state).cursor is not None  # it is final once all is sent
    if not row.status.is_finished and story.outcome is not None and not is_sending:
        found.append(
            f"I6: {where}: the row says {row.status.name}, the history ends with {type(story.outcome).__name__}"
        )
    is_told = row.status.is_finished or not is_sending
    if isinstance(story.outcome, ev.OrchestrationCompleted) and is_told and story.outcome.result != row.output:
        found.append(f"I6: {where}: the row's output is not the recorded result")
    if story.started is not None and story.started.input != row.input:
        found.append(f"I6: {where}: the row's input is not the recorded one")
    if story.started is not None and story.started.name != row.name:
        found.append(f"I6: {where}: the row is of '{row.name}', the history of '{story.started.name}'")
    if not row.status.is_finished and row.status is not Status.STALLED:
        found += _wrong_status(row, story, where)
    if not row.status.is_finished:
        found += _forgotten_work(row, story, where)
    return found


def _wrong_status(row: InstanceRow, story: _Story, where: str) -> list[str]:
    expected = Status.PENDING if story.started is None else Status.RUNNING
    if story.is_suspended:
        expected = Status.SUSPENDED
    if row.status is expected:
        return []
    return [f"I10: {where}: the row says {row.status.name}, its history makes it {expected.name}"]


def _forgotten_work(row: InstanceRow, story: _Story, where: str) -> list[str]:
    """Return what a new owner of an unfinished instance would not find again."""
    found: list[str] = []
    dues = [request.due for request in story.open.values() if isinstance(request, ev.TimerCreated)]
    if dues and (row.due_at is None or row.due_at > min(dues)):
        found.append(f"I3: {where}: a timer is due at {min(dues)}, the row says {row.due_at}")
    state = OwnerState.decode(row.state)
    held = [
        task_id
        for task_id, request in story.open.items()
        if isinstance(request, ev.ActivityScheduled) and task_id not in state.queued
    ]
    if held and not row.open_work:
        found.append(f"I3: {where}: activity {held[0]} is held by the owner, the row has no open work")
    if state.cursor is not None and not row.open_work:
        found.append(f"I3: {where}: messages are still to be sent, the row has no open work")
    return found


class _Story:
    """Takes in the events of one generation, in order, and notes what cannot have happened."""

    def __init__(self, row: InstanceRow, generation: int, attempts_max: Mapping[str, int]) -> None:
        self.found: list[str] = []
        self.started: ev.OrchestrationStarted | None = None
        self.outcome: HistoryEvent | None = None
        self.is_suspended = False
        self.open: dict[int, HistoryEvent] = {}
        self._where = named(row, generation)
        self._record = 0
        self._time = 0
        self._attempts_max = attempts_max
        self._generation = generation
        self._cancels = False
        self._last_task_id = -1
        self._closed: dict[int, HistoryEvent] = {}
        self._updates: dict[str, bool] = {}  # those that were accepted: whether they are answered
        self._calls: dict[int, tuple[int, int]] = {}  # by call: the latest attempt, and its task id
        self._former: dict[int, int] = {}  # by call: attempts that count no more, since the run went on after its end

    def _wrong(self, promise: str, text: str) -> None:
        self.found.append(f"{promise}: {self._where}, record {self._record}: {text}")

    def tell(self, index: int, record: Record) -> None:
        """Take in a record."""
        self._record = index
        if record.time < self._time:
            self._wrong("I10", f"its time {record.time} is before that of an earlier record, {self._time}")
        self._time = max(self._time, record.time)
        for event in record.events:
            self._tell(event)

    def _tell(self, event: HistoryEvent) -> None:
        name = type(event).__name__
        if self.outcome is not None:
            self._wrong("I8", f"{name} comes after the end ({type(self.outcome).__name__})")
        if event.is_request:
            is_cancelled_early = isinstance(event, ev.OrchestrationCancelled) and self._cancels
            if self.started is None and not is_cancelled_early:
                self._wrong("I2", f"{name} is asked for before the start")
            if self.is_suspended:
                self._wrong("I10", f"{name} is asked for while suspended")
        take = self._TAKERS.get(type(event))
        if take is not None:
            take(self, event)
        elif isinstance(event, ev.Answer):  # of a feature
            self._take_answer(event)
        elif event.is_request and hasattr(event, "task_id"):
            self._take_request(event)
        if isinstance(event, ev.OUTCOMES):
            self.outcome = event

    def _take_start(self, event: ev.OrchestrationStarted) -> None:
        if self.started is not None:
            self._wrong("I2", "it starts twice")
        self.started = event

    def _take_renewal(self, event: HistoryEvent) -> None:
        self._former = {call_id: attempt - 1 for call_id, (attempt, _) in self._calls.items()}

    def _take_steering(self, event: HistoryEvent) -> None:
        if isinstance(event, ev.OrchestrationCancelRequested):
            self._cancels = True
        else:
            self.is_suspended = isinstance(event, ev.OrchestrationSuspended)

    def _take_request(self, event: Any) -> None:
        if event.task_id <= self._last_task_id:
            self._wrong("I2", f"request {event.task_id} comes after request {self._last_task_id}")
        self._last_task_id = max(self._last_task_id, event.task_id)
        if isinstance(event, ev.EventSent) or (isinstance(event, ev.SubOrchestrationScheduled) and event.is_detached):
            return
        self.open[event.task_id] = event
        if isinstance(event, ev.ActivityScheduled):
            self._take_attempt(event)

    def _take_attempt(self, event: ev.ActivityScheduled) -> None:
        attempt, task_id = self._calls.get(event.call_id, (0, event.call_id))
        limit = self._attempts_max.get(event.name)
        if event.attempt != attempt + 1:
            self._wrong("I9", f"attempt {event.attempt} of activity '{event.name}' follows attempt {attempt}")
        elif attempt and not isinstance(self._closed.get(task_id), ev.ActivityFailed):
            self._wrong("I9", f"attempt {event.attempt} of activity '{event.name}' follows one that did not fail")
        if limit is not None and event.attempt - self._former.get(event.call_id, 0) > limit:
            self._wrong("I9", f"attempt {event.attempt} of activity '{event.name}' is over its limit of {limit}")
        self._calls[event.call_id] = (event.attempt, event.task_id)

    def _take_answer(self, event: Any) -> None:
        name = type(event).__name__
        promise = "I9" if isinstance(event, ev.ActivityCompleted | ev.ActivityFailed) else "I2"
        request = self.open.pop(event.task_id, None)
        if request is None:
            former = self._closed.get(event.task_id)
            how = f"was answered by {type(former).__name__} before" if former is not None else "was never asked for"
            self._wrong(promise, f"{name} answers request {event.task_id}, which {how}")
            return
        if not isinstance(request, self._ANSWERS.get(type(event), HistoryEvent)):
            self._wrong("I2", f"{name} answers request {event.task_id}, which is {type(request).__name__}")
        if isinstance(event, ev.TimerFired) and isinstance(request, ev.TimerCreated) and self._time < request.due:
            self._wrong("I2", f"timer {event.task_id} fired at {self._time}, before it was due ({request.due})")
        self._closed[event.task_id] = event

    def _take_update(self, event: UpdateReceived) -> None:
        if event.update_id in self._updates:
            self._wrong("I2", f"update '{event.name}' ({event.update_id}) was taken twice")
        self._updates[event.update_id] = False

    def _take_answer_to_update(self, event: UpdateCompleted | UpdateFailed) -> None:
        if self._updates.get(event.update_id) is not False:
            how = "twice" if event.update_id in self._updates else "and never taken"
            self._wrong("I2", f"update '{event.name}' ({event.update_id}) was answered {how}")
        self._updates[event.update_id] = True

    def close(self, *, is_last: bool, goes_on: bool = False) -> None:
        """Say what is missing at the end of the generation. `goes_on`: the run was rewound to before that end."""
        if goes_on and self.outcome is None:
            self._wrong("I8", "a later generation goes on after its end, and it has none")
        if not is_last and not goes_on and not isinstance(self.outcome, ev.OrchestrationContinuedAsNew):
            self._wrong("I6", "a later generation exists, but this one did not continue as new")
        if is_last and isinstance(self.outcome, ev.OrchestrationContinuedAsNew):
            self._wrong("I6", "it continued as new, but there is no later generation")
        if self.outcome is None or isinstance(self.outcome, ev.OrchestrationTerminated):
            return
        for task_id, request in self.open.items():
            is_ours = type(request) in self._TAKERS  # what a feature's request becomes is the feature's
            if is_ours and not isinstance(request, ev.SubOrchestrationScheduled):  # children run on
                promise = "I9" if isinstance(request, ev.ActivityScheduled) else "I2"
                self._wrong(promise, f"{type(request).__name__} {task_id} has no outcome at the end")
        for update_id, is_answered in self._updates.items():
            if not is_answered:
                self._wrong("I2", f"update {update_id} has no answer at the end")

    _ANSWERS: Final[Mapping[type[HistoryEvent], type[HistoryEvent]]] = {
        ev.ActivityCompleted: ev.ActivityScheduled,
        ev.ActivityFailed: ev.ActivityScheduled,
        ev.ActivityCancelled: ev.ActivityScheduled,
        ev.TimerFired: ev.TimerCreated,
        ev.TimerCancelled: ev.TimerCreated,
        ev.SubOrchestrationCompleted: ev.SubOrchestrationScheduled,
        ev.SubOrchestrationFailed: ev.SubOrchestrationScheduled,
        ev.SubOrchestrationCancelled: ev.SubOrchestrationScheduled,
    }

    _TAKERS: Final[Mapping[type[HistoryEvent], Any]] = {
        ev.OrchestrationStarted: _take_start,
        ev.OrchestrationRewound: _take_renewal,
        ev.OrchestrationForked: _take_renewal,
        ev.OrchestrationSuspended: _take_steering,
        ev.OrchestrationResumed: _take_steering,
        ev.OrchestrationCancelRequested: _take_steering,
        ev.ActivityScheduled: _take_request,
        ev.TimerCreated: _take_request,
        ev.SubOrchestrationScheduled: _take_request,
        ev.EventSent: _take_request,
        UpdateReceived: _take_update,
        UpdateCompleted: _take_answer_to_update,
        UpdateFailed: _take_answer_to_update,
        **dict.fromkeys(_ANSWERS, _take_answer),
    }
