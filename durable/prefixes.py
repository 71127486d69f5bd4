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
    ended right then; or if it is the failure that the orchestration ended with. So is a cancellation that ended it. And so
    is one at which only something else began (the next of a bounded number), if it had not led to that failure.
 3. With an arrival goes what was asked for because of it, and the answers to that; all other answers stay.
 4. The code is the judge (`Rewinding.reconsider`): where it rests though more was asked for, it had dealt with the failures
    before that place, so that they stay; where it asks for something else, it does anew what it does from there on.
 5. What is not taken over, and had succeeded, is kept beside (`Rewinding.answers`) for when the code asks for it again, if it
    is unmistakable: the only call of that name with that input.

Invariant: what lies before the first event that is taken back stays as it is. If today's code asks for something else there,
that is a divergence like any other.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from durable import events as ev
from durable.errors import FailureDetails
from durable.events import HistoryEvent, TaskRef
from durable.records import Record
from durable.seeds import Seeds

TIMEOUTS = ("event timeout", "total timeout")
"""Purposes of timers that let what they limit fail: they are taken back with that, and begin anew."""

_GIVE_UPS = (ev.ActivityCancelled, ev.TimerCancelled, ev.SubOrchestrationCancelled)
_FAILURES = (ev.ActivityFailed, ev.SubOrchestrationFailed)
_CHILD_ENDS = (ev.SubOrchestrationCompleted, ev.SubOrchestrationFailed, ev.SubOrchestrationCancelled)


@dataclasses.dataclass(frozen=True, slots=True)
class Prefix:
    """Records that are taken over, and the arrivals that the first turn applies behind them."""

    records: tuple[Record, ...]
    arrivals: tuple[HistoryEvent, ...] = ()

    @property
    def events(self) -> list[HistoryEvent]:
        """The events of the records."""
        return [event for record in self.records for event in record.events]


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


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """How the code of an orchestration had dealt with failed tasks when it ended.

    `roots`: with their failures it ended; `unseen`: nobody was ever told of theirs; `left`: theirs left a coroutine that was
    told of it, for whoever waits for that.
    """

    roots: frozenset[int] = frozenset()
    unseen: frozenset[int] = frozenset()
    left: frozenset[int] = frozenset()


class Rewinding:
    """A history that is being taken back: what goes, and what of it stays after the code was asked."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._past = _Past(records)
        self._roots = self._past.roots()
        self._certain: set[int] = set()
        self._failures = self._past.idle_failures() | self._roots
        self._cut: int | None = None
        self._decide()

    @property
    def is_doubtful(self) -> bool:
        """Whether only the code can tell which failure the orchestration ended with, or whether it had dealt with others."""
        finals = self._past.final_failures()
        return bool(self._roots & finals) and (len(self._roots) > 1 or bool(finals - self._failures))

    def learn(self, seen: Seen) -> None:
        """Learn from the code how it had dealt with the failures.

        One that has led to what the orchestration ended with was dealt with in the end.
        """
        finals = {getattr(self._past.events[at], "task_id", -1): at for at in self._past.final_failures()}
        self._roots = {finals[task_id] for task_id in seen.roots if task_id in finals} or self._roots
        led_to_it = set().union(*(self._past.ancestors(root) for root in self._roots))
        self._certain = {finals[task_id] for task_id in seen.unseen if task_id in finals} - led_to_it
        doubtful = {finals[task_id] for task_id in seen.left if task_id in finals} - led_to_it
        self._failures = self._past.idle_failures() | self._roots | self._certain | doubtful
        self._decide()

    def _decide(self) -> None:
        past = self._past
        self._gone = past.with_consequences(self._failures)  # each with what it is a consequence of
        last = past.last_cause()
        # Rule 1: the last arrival is applied again, unless it is taken back itself.
        is_again = past.ended_by_itself and last is not None and last not in self._gone
        self._end = last if is_again and last is not None else past.end
        self._kept = [index for index in range(past.end) if index not in self._gone]

    @property
    def prefix(self) -> Prefix:
        """What the rewound generation begins with, as far as is known by now."""
        return self._past.prefix(self._kept, self._end if self._cut is None else self._cut)

    def answers(self, digest: Callable[[bytes], bytes]) -> list[ev.AnswerKept]:
        """Return what is kept beside the prefix; `digest` is that of an input's plain form."""
        end = self._end if self._cut is None else self._cut
        taken_over = {index for index in self._kept if index < end}
        found = []
        for at, mark, result in self._past.unmistakable(digest):
            cause = self._gone.get(at)
            is_of_cancel = cause is not None and not isinstance(self._past.events[cause], _FAILURES)
            if at not in taken_over and not is_of_cancel:
                unless = -1 if cause is None else getattr(self._past.events[cause], "task_id", -1)
                found.append(ev.AnswerKept(mark, result, unless))
        return found

    def reconsider(self, position: int, *, is_at_rest: bool) -> bool:
        """Learn that the code does not ask for what the prefix holds at `position`, counted in events; give another one.

        `is_at_rest`: it asks for nothing there, and waits for what was taken back. False if the difference lies before
        everything that was.
        """
        recorded = [index for index in self._kept if index < (self._end if self._cut is None else self._cut)]
        causes = [index for index in recorded[:position] if self._past.is_cause(index)]
        if not causes or not self._gone or causes[-1] < min(self._gone):
            return False
        dealt_with = {index for index in self._failures - self._roots - self._certain if index < causes[-1]}
        if is_at_rest and dealt_with:
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

    def roots(self) -> set[int]:
        """Return the failed answers, or the cancellation, that the orchestration ended with, as far as its outcome tells."""
        outcome = self.events[-1] if self.events else None
        if isinstance(outcome, ev.OrchestrationCancelled):
            return {at for at, event in enumerate(self.events) if isinstance(event, ev.OrchestrationCancelRequested)}
        if not isinstance(outcome, ev.OrchestrationFailed):
            return set()
        levels: list[FailureDetails] = []
        details: FailureDetails | None = outcome.details
        while details is not None:
            levels.append(details)
            details = details.inner
        return {at for at in self.final_failures() if self.events[at].details in levels}  # type: ignore[attr-defined]

    def final_failures(self) -> set[int]:
        """Return the failed answers that no retry followed."""
        return {
            at
            for at, event in enumerate(self.events[: self.end])
            if isinstance(event, _FAILURES) and not any(map(_is_retry, self._reaction(at)))
        }

    def idle_failures(self) -> set[int]:
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

    def ancestors(self, at: int) -> set[int]:
        """Return the arrivals without which an answer had never been asked for."""
        requests = {
            event.task_id: index
            for index, event in enumerate(self.events)
            if isinstance(event, ev.ActivityScheduled | ev.SubOrchestrationScheduled | ev.TimerCreated)
        }
        found: set[int] = set()
        while (request := requests.get(getattr(self.events[at], "task_id", -1))) is not None:
            at = self.cause_of(request)
            found.add(at)
        return found

    def with_consequences(self, taken_back: Collection[int]) -> dict[int, int]:
        """Return these arrivals, what was asked for because of them, the answers to that, and so on (rule 3).

        By their indexes; with each that of the arrival that it goes with.
        """
        gone: dict[int, int] = {}
        tasks: dict[int | None, int] = {}
        cause: int | None = None
        for at, event in enumerate(self.events[: self.end]):
            task_id = getattr(event, "task_id", None)
            if self.is_cause(at):
                cause = at if at in taken_back else tasks.get(task_id)
            if cause is not None:
                gone[at] = cause
                if event.is_request and task_id is not None and not isinstance(event, _GIVE_UPS):
                    tasks[task_id] = cause
        return gone

    def unmistakable(self, digest: Callable[[bytes], bytes]) -> list[tuple[int, bytes, bytes | None]]:
        """Return (index of the answer, mark, result) of calls that have returned and of which there was one only (rule 5)."""
        calls: Counter[bytes] = Counter()
        marks: dict[int, bytes] = {}
        found = []
        for at, event in enumerate(self.events):
            if isinstance(event, ev.ActivityScheduled | ev.SubOrchestrationScheduled):
                mark = marks[event.task_id] = mark_of(event, digest)
                calls[mark] += event.attempt == 1
            elif isinstance(event, ev.ActivityCompleted | ev.SubOrchestrationCompleted):
                found.append((at, marks[event.task_id], event.result))
        return [item for item in found if calls[item[1]] == 1]

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
                    is_raised = isinstance(event, ev.EventRaised)
                    arrivals.append(dataclasses.replace(event, is_carried=True) if is_raised else event)  # type: ignore[call-arg]
        records = [dataclasses.replace(self._records[place], events=events) for place, events in by_record.items()]
        if records and records[-1].is_opening:  # no turn has applied it: the first one will
            arrivals = [*records.pop().events, *arrivals]
        return Prefix(tuple(records), tuple(arrivals))


def _is_retry(event: HistoryEvent) -> bool:
    """Tell whether a request follows a failed attempt by its policy."""
    if isinstance(event, ev.TimerCreated):
        return event.purpose == "retry"
    return isinstance(event, ev.ActivityScheduled | ev.SubOrchestrationScheduled) and event.attempt > 1


def mark_of(request: ev.ActivityScheduled | ev.SubOrchestrationScheduled, digest: Callable[[bytes], bytes]) -> bytes:
    """Return what is the same of two calls of the same thing with the same input; `digest` is that of its plain form."""
    plain = request.digest or (b"" if request.input is None else digest(request.input))
    head = f"{request.code}\0{request.name}\0{request.version}\0".encode()
    return hashlib.blake2b(head + plain, digest_size=16).digest()


def taken_over(prefix: Prefix, seed: str, writer: TaskRef) -> Prefix:
    """Return a prefix as it stands in the generation that begins with it, whose own ids derive from `seed`.

    `writer`: the generation that it comes from. Where the start itself is still to be applied, everything is new.
    """

    def begun(event: HistoryEvent) -> HistoryEvent:
        is_start = isinstance(event, ev.OrchestrationStarted) and event.writer is None
        return dataclasses.replace(event, writer=writer) if is_start else event  # type: ignore[call-arg]

    arrivals = tuple(
        dataclasses.replace(event, seed=seed, writer=None) if isinstance(event, ev.OrchestrationStarted) else event
        for event in prefix.arrivals
    )
    return Prefix(_with_events(prefix.records, begun), arrivals)


def open_children(prefix: Prefix) -> list[ev.SubOrchestrationScheduled]:
    """Return the children that a prefix has asked for and that neither it nor its arrivals answer."""
    found: dict[int, ev.SubOrchestrationScheduled] = {}
    for event in (*prefix.events, *prefix.arrivals):
        if isinstance(event, ev.SubOrchestrationScheduled) and not event.is_detached:
            found[event.task_id] = event
        elif isinstance(event, _CHILD_ENDS):
            found.pop(event.task_id, None)
    return list(found.values())


def with_children(prefix: Prefix, instead: Mapping[int, ev.SubOrchestrationScheduled]) -> Prefix:
    """Return a prefix in which these requests, by task id, stand in the place of those that it holds."""

    def changed(event: HistoryEvent) -> HistoryEvent:
        return instead.get(event.task_id, event) if isinstance(event, ev.SubOrchestrationScheduled) else event

    return Prefix(_with_events(prefix.records, changed), prefix.arrivals) if instead else prefix


def _with_events(records: Sequence[Record], change: Callable[[HistoryEvent], HistoryEvent]) -> tuple[Record, ...]:
    return tuple(dataclasses.replace(record, events=[change(event) for event in record.events]) for record in records)


def default_children(events: Iterable[HistoryEvent], generation: int) -> set[int]:
    """Return the task ids of the children whose instance ids nobody has chosen. `generation`: that of this history."""
    seeds, position, found = Seeds("", 0), 0, set()
    for event in events:
        if isinstance(event, ev.OrchestrationStarted):
            seeds = Seeds(event.seed, generation if event.writer is None else event.writer.generation)
        elif isinstance(event, ev.OrchestrationRewound | ev.OrchestrationForked):
            seeds.renew(event.seed, position)
        elif event.is_request and not isinstance(event, _GIVE_UPS):
            position = max(position, getattr(event, "task_id", -1) + 1)
        if isinstance(event, ev.SubOrchestrationScheduled):
            derived = seeds.derive("child", event.task_id, position=event.task_id).hex()
            found |= {event.task_id} if event.instance_id == derived else set()
    return found
