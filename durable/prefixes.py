"""What a generation begins with, where that comes from an older one: the one mechanism for beginning again.

    continue-as-new   the start, as an opening record; what was left of events is kept aside (see `durable.carried`)
    restart           nothing but the input
    rewind            the older generation's history without what had failed, and without what was asked for because of it
    fork              the first events of another run's history

A `Prefix` is history: its records are taken over as they are, and today's code must ask for what they hold. Where they end
in the middle of what the code did at some arrival, that arrival and those behind it are not in the records but among
`arrivals`: the first turn applies them, so that the code goes on from there by itself.

Rules of a rewind.
 1. What the code did in the step in which the orchestration ended is taken back.
 2. A failure is taken back if nothing was asked for because of it (it was waited for with others, say); if the orchestration
    ended right then; or if it is the failure that the orchestration ended with. So is a cancellation that ended it.
 3. With an arrival goes what was asked for because of it, and the answers to that; all other answers stay.
 4. The code is the judge: where it does not ask for what is left (`Rewinding.reconsider`), it had dealt with the failures
    before that place, so that they stay; or it is from there on that it does anew what it does.

Invariant: what lies before the first event that is taken back stays as it is. If today's code asks for something else there,
that is a divergence like any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from durable import events as ev
from durable.errors import FailureDetails
from durable.events import HistoryEvent, TaskRef
from durable.records import Record

TIMEOUTS = ("event timeout", "total timeout")
"""Purposes of timers that let what they limit fail: they are taken back with that, and begin anew."""

_GIVE_UPS = (ev.ActivityCancelled, ev.TimerCancelled, ev.SubOrchestrationCancelled)
_FAILURES = (ev.ActivityFailed, ev.SubOrchestrationFailed)


@dataclasses.dataclass(frozen=True, slots=True)
class Prefix:
    """Records that are taken over, and the arrivals that the first turn applies behind them."""

    records: tuple[Record, ...]
    arrivals: tuple[HistoryEvent, ...] = ()


def opening_record(
    outcome: HistoryEvent | None,
    started: ev.OrchestrationStarted | None,
    held: Sequence[HistoryEvent],
    time_us: int,
) -> Record | None:
    """Return what the next generation begins with, if the outcome calls for one: its start, and a cancel that was `held`."""
    if not isinstance(outcome, ev.OrchestrationContinuedAsNew) or started is None:
        return None
    start = dataclasses.replace(started, version=outcome.version, input=outcome.input, writer=None)
    cancels = [event for event in held if isinstance(event, ev.OrchestrationCancelRequested)]
    return Record(time_us, [start, *cancels], is_opening=True)


def fork_prefix(records: Sequence[Record], at: int) -> Prefix:
    """Return the first `at` events of a history as a prefix; of one that has ended, what lies before the end."""
    past = _Past(records)
    at = min(at, past.end)
    if at < len(past.events) and past.events[at].is_request:
        return past.prefix(range(at), past.cause_of(at))
    return past.prefix(range(at), at)


class Rewinding:
    """A history that is being taken back: what goes, and what of it stays after the code was asked."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._past = _Past(records)
        self._root = self._past.root()
        self._failures = self._past.failures() | ({self._root} if self._root is not None else set())
        self._cut: int | None = None
        self._decide()

    def _decide(self) -> None:
        past = self._past
        self._gone = past.with_consequences(self._failures)
        last = past.last_cause()
        # Rule 1: the last arrival is applied again, unless it is taken back itself.
        is_again = past.ended_by_itself and last is not None and last not in self._gone
        self._end = last if is_again and last is not None else past.end
        self._kept = [index for index in range(past.end) if index not in self._gone]

    @property
    def prefix(self) -> Prefix:
        """What the rewound generation begins with, as far as is known by now."""
        return self._past.prefix(self._kept, self._end if self._cut is None else self._cut)

    def reconsider(self, position: int) -> bool:
        """Learn that the code does not ask for what the prefix holds at `position`, counted in events; give another one.

        False if the difference lies before everything that was taken back.
        """
        recorded = [index for index in self._kept if index < (self._end if self._cut is None else self._cut)]
        causes = [index for index in recorded[:position] if self._past.is_cause(index)]
        if not causes or not self._gone or causes[-1] < min(self._gone):
            return False
        dealt_with = {index for index in self._failures if index < causes[-1] and index != self._root}
        if dealt_with:
            self._failures -= dealt_with
            self._decide()
        else:
            self._cut = causes[-1]
        return True


class _Past:
    """The events of a generation, by their index in it, and what led to what."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        self._places = [number for number, record in enumerate(records) for _ in record.events]
        self.events = [event for record in records for event in record.events]
        last = self.events[-1] if self.events else None
        self.ended_by_itself = isinstance(last, ev.OUTCOMES) and last.is_request
        self.end = len(self.events) - isinstance(last, ev.OrchestrationTerminated)
        if self.ended_by_itself:
            self.end = (self.last_cause() or 0) + 1

    def is_cause(self, index: int) -> bool:
        """Tell whether code ran at an event: at an arrival, and at none that is only noted."""
        event = self.events[index]
        return not event.is_request and not isinstance(event, ev.Remark)

    def cause_of(self, index: int) -> int:
        """Return the arrival at which the code was when it asked for something."""
        return next((at for at in range(index - 1, -1, -1) if self.is_cause(at)), 0)

    def last_cause(self) -> int | None:
        """Return the last arrival, at which the orchestration ended if it ended by itself."""
        return next((at for at in range(len(self.events) - 1, -1, -1) if self.is_cause(at)), None)

    def _reaction(self, cause: int) -> list[HistoryEvent]:
        """Return what the code asked for at an arrival."""
        found = []
        for event in self.events[cause + 1 :]:
            if not event.is_request:
                break
            found.append(event)
        return found

    def root(self) -> int | None:
        """Return the failed answer, or the cancellation, that the orchestration ended with."""
        outcome = self.events[-1] if self.events else None
        if isinstance(outcome, ev.OrchestrationCancelled):
            cancels = (at for at, event in enumerate(self.events) if isinstance(event, ev.OrchestrationCancelRequested))
            return next(cancels, None)
        if not isinstance(outcome, ev.OrchestrationFailed):
            return None
        levels: list[FailureDetails] = []
        details: FailureDetails | None = outcome.details
        while details is not None:
            levels.append(details)
            details = details.inner
        for at in range(len(self.events) - 1, -1, -1):
            event = self.events[at]
            if isinstance(event, _FAILURES) and event.details in levels:
                return at
        return None

    def failures(self) -> set[int]:
        """Return the failed answers that nothing was asked for because of (rule 2), and one at which it ended."""
        last = self.last_cause()
        timeouts = {
            event.task_id for event in self.events if isinstance(event, ev.TimerCreated) and event.purpose in TIMEOUTS
        }
        found = set()
        for at, event in enumerate(self.events[: self.end]):
            is_failure = isinstance(event, _FAILURES)
            is_timeout = isinstance(event, ev.TimerFired) and event.task_id in timeouts
            is_last = at == last and self.ended_by_itself
            if (is_failure or is_timeout) and (is_last or all(isinstance(e, _GIVE_UPS) for e in self._reaction(at))):
                found.add(at)
        return found

    def with_consequences(self, taken_back: Collection[int]) -> set[int]:
        """Return these arrivals, what was asked for because of them, the answers to that, and so on (rule 3)."""
        gone: set[int] = set()
        tasks: set[int] = set()
        is_gone = False
        for at, event in enumerate(self.events[: self.end]):
            task_id = getattr(event, "task_id", None)
            if self.is_cause(at):
                is_gone = at in taken_back or task_id in tasks
            if is_gone:
                gone.add(at)
                if event.is_request and task_id is not None and not isinstance(event, _GIVE_UPS):
                    tasks.add(task_id)
        return gone

    def prefix(self, kept: Sequence[int], end: int) -> Prefix:
        """Return the kept events before `end` as records, and those from there on that the code may be shown again."""
        by_record: dict[int, list[HistoryEvent]] = {}
        asked = set()
        arrivals: list[HistoryEvent] = []
        for at in kept:
            event = self.events[at]
            if at < end:
                by_record.setdefault(self._places[at], []).append(event)
                if event.is_request:
                    asked.add(getattr(event, "task_id", None))
            elif self.is_cause(at) and not isinstance(event, ev.OrchestrationRewound | ev.OrchestrationForked):
                task_id = getattr(event, "task_id", None)
                if task_id is None or task_id in asked:
                    arrivals.append(event)
        records = [dataclasses.replace(self._records[place], events=events) for place, events in by_record.items()]
        if records and records[-1].is_opening:  # no turn has applied it: the first one will
            arrivals = [*records.pop().events, *arrivals]
        return Prefix(tuple(records), tuple(arrivals))


def taken_over(prefix: Prefix, seed: str, writer: TaskRef) -> Prefix:
    """Return a prefix as it stands in the generation that begins with it, whose own ids derive from `seed`.

    `writer`: the generation that it comes from. Where the start itself is still to be applied, everything is new.
    """
    records = tuple(
        dataclasses.replace(record, events=[_begun(event, writer) for event in record.events])
        for record in prefix.records
    )
    arrivals = tuple(
        dataclasses.replace(event, seed=seed, writer=None) if isinstance(event, ev.OrchestrationStarted) else event
        for event in prefix.arrivals
    )
    return Prefix(records, arrivals)


def _begun(event: HistoryEvent, writer: TaskRef) -> HistoryEvent:
    if isinstance(event, ev.OrchestrationStarted) and event.writer is None:
        return dataclasses.replace(event, writer=writer)
    return event
