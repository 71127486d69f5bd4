"""The spans: one for each start, generation, turn, request and run of an activity, whoever has a hand in it.

What a record tells of becomes spans when the record is durable, in the worker that has written it: so each is made once. What
is open between two turns follows from the history, so a worker that takes over, or replays, knows it too. The span around an
activity's function is begun before it and ended when the store has the outcome. All ids but those of clients' starts follow
from what the spans are of (`durable.traces`).
"""

from __future__ import annotations

import collections
import contextlib
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from opentelemetry import trace
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from durable import events as ev
from durable.engine.execution import Execution
from durable.events import HistoryEvent, OrchestrationStarted, TaskRef
from durable.middleware import ActivityCall, ClientCall
from durable.otel.derived_ids import derive_ids
from durable.provider import InstanceRow
from durable.provider import Status as InstanceStatus
from durable.records import Record
from durable.traces import NO_SPAN, SpanRef, derived_span, derived_trace, read_trace
from durable.worker.watching import Taken, Written

RUNS_KEPT_MAX: Final = 10_000
"""Runs of activities whose outcome is not yet known to be durable. Few are ever forgotten: those that others finished."""

Attributes: TypeAlias = dict[str, str | int | float | bool]

Request: TypeAlias = ev.ActivityScheduled | ev.SubOrchestrationScheduled | ev.TimerCreated

REQUESTS = (ev.ActivityScheduled, ev.SubOrchestrationScheduled, ev.TimerCreated)

ANSWERS: Mapping[type[HistoryEvent], str] = {
    ev.ActivityCompleted: "completed",
    ev.ActivityFailed: "failed",
    ev.ActivityCancelled: "cancelled",
    ev.SubOrchestrationCompleted: "completed",
    ev.SubOrchestrationFailed: "failed",
    ev.SubOrchestrationCancelled: "cancelled",
    ev.TimerFired: "fired",
    ev.TimerCancelled: "cancelled",
}

OUTCOMES: Mapping[type[HistoryEvent], str] = {
    ev.OrchestrationCompleted: "completed",
    ev.OrchestrationFailed: "failed",
    ev.OrchestrationCancelled: "cancelled",
    ev.OrchestrationTerminated: "terminated",
    ev.OrchestrationContinuedAsNew: "continued_as_new",
}


class Made(NamedTuple):
    """A span that is to be told of. Times in microseconds since 1970 UTC."""

    name: str
    kind: SpanKind
    at: SpanRef  # its trace and id
    parent: str  # the id of the span above it, or NO_SPAN
    start_us: int
    end_us: int
    attributes: Attributes
    error: str | None = None
    link: SpanRef | None = None


class Note(NamedTuple):
    """What a turn comes to: its spans, the runs of activities that are settled with it, and for the metrics what is in it."""

    spans: Sequence[Made]
    settled: Sequence[TaskRef]
    due_us: Sequence[int]  # when the timers were due that have fired
    is_replay: bool | None  # whether its history was read back for it; None: there was none
    seconds: float


class _Open:
    """What is open in one generation, as far as its history is known: requests, each with the time it was made."""

    __slots__ = ("began_us", "requests", "was_read")

    def __init__(self) -> None:
        self.began_us: int | None = None
        self.requests: dict[int, tuple[Request, int]] = {}
        self.was_read = False

    def take(self, event: HistoryEvent, at_us: int) -> tuple[Request, int] | None:
        """Take in what happened; return the request that is no longer open with it."""
        if isinstance(event, REQUESTS):
            if not (isinstance(event, ev.SubOrchestrationScheduled) and event.is_detached):
                self.requests[event.task_id] = (event, at_us)
            return None
        if isinstance(event, ev.OrchestrationStarted | ev.OrchestrationRewound | ev.OrchestrationForked):
            self.began_us = at_us
            return None
        return self.requests.pop(event.task_id, None) if type(event) in ANSWERS else None  # type: ignore[attr-defined]


class _Run:
    """An activity's function that is called here: its span, and since when it is over."""

    __slots__ = ("ended_ns", "span")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.ended_ns: int | None = None


class Spans:
    """Makes spans with one tracer."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self._ids = derive_ids(tracer)
        self._open: weakref.WeakKeyDictionary[Execution, _Open] = weakref.WeakKeyDictionary()
        self._runs: collections.OrderedDict[TaskRef, _Run] = collections.OrderedDict()
        self._lock = threading.Lock()  # functions are called in threads

    # ---- starts

    @contextlib.contextmanager
    def start(self, call: ClientCall) -> Iterator[None]:
        """Be around a client's start: its span is that which the run's belongs to."""
        attributes = {"durable.instance.id": call.instance_id, "durable.orchestration.name": call.name or ""}
        with self._tracer.start_as_current_span(
            f"start {call.name}",
            kind=SpanKind.PRODUCER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            context = span.get_span_context()
            if context.is_valid:
                call.trace = str(_ref_of(context))
            try:
                yield
            except BaseException as error:
                _fail(span, _type_of(error))
                raise
            span.set_attribute("durable.start.verdict", (call.verdict or "unknown").lower())
            if call.verdict not in ("STORED", "ADOPTED"):
                _fail(span, (call.verdict or "unknown").lower())

    def begin_trace(self, row: InstanceRow, started: OrchestrationStarted) -> str | None:
        """Begin the trace of a run: whether it is sampled is decided here, for all of it."""
        sampler = getattr(self._tracer, "sampler", None)
        if self._ids is None or sampler is None:
            return None
        link = read_trace(started.trace).link
        trace_id = derived_trace(row.run_id)
        links = () if link is None else (Link(_context_of(link)),)
        asked = sampler.should_sample(
            None, int(trace_id, 16), f"orchestration {row.name}", SpanKind.CONSUMER, {}, links
        )
        root = SpanRef(trace_id, NO_SPAN, int(asked.decision.is_sampled()))
        return str(root) if link is None else f"{root},{link}"

    # ---- what records tell

    def replayed(self, execution: Execution, record: Record) -> None:
        """Take in what a record of the past leaves open."""
        found = self._of(execution)
        found.was_read = found.was_read or not record.is_opening
        for event in record.events:
            found.take(event, record.time)

    def turned(self, taken: Taken) -> Note:
        """Make what a turn will have told of when it is durable."""
        execution, turn, row = taken.execution, taken.turn, taken.row
        found = self._of(execution)
        is_replay, found.was_read = found.was_read if row.records else None, False
        spans: list[Made] = []
        settled: list[TaskRef] = []
        due: list[int] = []
        me = _Generation.of(row, execution)
        for event in turn.record.events:
            closed = found.take(event, turn.record.time)
            if closed is not None:
                request, asked_us = closed
                if me is not None:
                    spans.append(me.request(request, asked_us, event, turn.record.time))
                if isinstance(request, ev.ActivityScheduled):
                    settled.append(_task_of(row, request.task_id))
                elif isinstance(request, ev.TimerCreated) and isinstance(event, ev.TimerFired):
                    due.append(request.due)
            elif isinstance(event, ev.SubOrchestrationScheduled) and event.is_detached and me is not None:
                spans.append(me.detached(event, turn.record.time))
        if me is not None:
            spans.append(me.turn(taken))
        if turn.outcome is not None:
            spans += self._end(me, found, turn.outcome, turn.record.time, settled)
        return Note(spans, settled, due, is_replay, taken.seconds)

    def _end(
        self, me: _Generation | None, found: _Open, outcome: HistoryEvent, at_us: int, settled: list[TaskRef]
    ) -> Iterator[Made]:
        """Close what is open, and the generation."""
        if me is None:
            return
        for request, asked_us in found.requests.values():
            yield me.request(request, asked_us, None, at_us)
            if isinstance(request, ev.ActivityScheduled):
                settled.append(_task_of(me.row, request.task_id))
        found.requests.clear()
        began_us = found.began_us
        if began_us is None or not me.row.generation:  # from when it was to begin, not from when a worker came to it
            began_us = max(me.row.created_at, me.row.scheduled_at)
        details = ev.outcome_details(outcome)
        is_failed = isinstance(outcome, ev.OrchestrationFailed)
        yield me.whole(began_us, at_us, OUTCOMES[type(outcome)], details.error_type if is_failed and details else None)

    def tell(self, note: Note) -> None:
        """Tell of a turn that is durable."""
        for made in note.spans:
            self._tell(made)
        for task in note.settled:
            self.settle(task)

    def tell_end(self, step: Written) -> None:
        """Tell of a run that was ended by force, without a turn; of which nothing is known if its history was not read."""
        row, execution = step.before, step.execution
        if row is None or execution is None or execution.outcome is not None or step.turn is not None:
            return
        me = _Generation.of(row, execution)
        settled: list[TaskRef] = []
        outcome = ev.OrchestrationTerminated()
        if step.after.status is InstanceStatus.TERMINATED:
            spans = list(self._end(me, self._of(execution), outcome, step.after.updated_at, settled))
            self.tell(Note(spans, settled, (), None, 0.0))

    def _of(self, execution: Execution) -> _Open:
        found = self._open.get(execution)
        if found is None:
            found = self._open[execution] = _Open()
        return found

    def _tell(self, made: Made) -> None:
        links = () if made.link is None else (Link(_context_of(made.link)),)
        span = self._begin(made.name, made.kind, made.at, made.parent, made.attributes, links, made.start_us * 1000)
        if made.error is not None:
            _fail(span, made.error)
        span.end(max(made.end_us, made.start_us) * 1000)

    def _begin(
        self,
        name: str,
        kind: SpanKind,
        at: SpanRef,
        parent: str,
        attributes: Attributes,
        links: Sequence[Link] = (),
        start_ns: int | None = None,
    ) -> Span:
        above = trace.set_span_in_context(NonRecordingSpan(_context_of(at.of(parent))), _NOTHING)
        if self._ids is None:
            return self._tracer.start_span(name, above, kind, attributes, links, start_ns)
        with self._ids.given(int(at.trace_id, 16), int(at.span_id, 16)):
            return self._tracer.start_span(name, above, kind, attributes, links, start_ns)

    # ---- runs of activities

    @contextlib.contextmanager
    def run(self, call: ActivityCall) -> Iterator[None]:
        """Be around an activity's function, with its span the current one."""
        above = read_trace(call.trace).parent
        if above is None or call.task is None:
            yield
            return
        asked_for = derived_span(call.task)
        if not above.is_sampled:  # nor is what the function starts
            with trace.use_span(NonRecordingSpan(_context_of(above.of(asked_for)))):
                yield
            return
        attributes = _about(call.task) | {
            "durable.activity.name": call.name,
            "durable.activity.attempt": call.context.attempt,
            "durable.activity.wait": max(call.started_us - call.requested_us, 0) / 1e6,
        }
        span = self._begin(
            f"run {call.name}", SpanKind.CONSUMER, above.of(derived_span(call.task, "run")), asked_for, attributes
        )
        run = _Run(span)
        with self._lock:
            self._runs[call.task] = run
            while len(self._runs) > RUNS_KEPT_MAX:
                self._runs.popitem(last=False)
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield
        except BaseException as error:
            _fail(span, _type_of(error))
            raise
        finally:
            run.ended_ns = time.time_ns()

    def settle(self, task: TaskRef) -> None:
        """End the span of a run: what became of its attempt is durable."""
        with self._lock:
            run = self._runs.pop(task, None)
        if run is not None:
            run.span.end(run.ended_ns)


_NOTHING = trace.set_span_in_context(trace.INVALID_SPAN)


class _Generation:
    """Makes the spans of one generation, all below the one of the whole."""

    __slots__ = ("about", "above", "link", "me", "parent", "row")

    def __init__(self, row: InstanceRow, parent: SpanRef, link: SpanRef | None) -> None:
        self.row = row
        self.parent = parent
        self.link = link
        self.me = parent.of(derived_span(_task_of(row, -1), "generation"))
        # An entity, the keeper of a limit: its end, and with it the span of the whole, may never come.
        self.above = self.me.span_id if row.key.kind == ev.ORCHESTRATION else NO_SPAN
        self.about = _about(_task_of(row, -1)) | {"durable.orchestration.name": row.name}

    @classmethod
    def of(cls, row: InstanceRow, execution: Execution) -> _Generation | None:
        """Return that of an execution; None where its run has no trace, or one that is not sampled."""
        started = execution.started
        found = read_trace(started.trace if started is not None else None)
        return cls(row, found.parent, found.link) if found.parent is not None and found.parent.is_sampled else None

    def turn(self, taken: Taken) -> Made:
        """Return the span of a turn."""
        index = self.row.records
        about = self.about | {
            "durable.turn.arrivals": taken.arrivals,
            "durable.turn.events": len(taken.turn.record.events),
        }
        at = self.me.of(derived_span(_task_of(self.row, index), "turn"))
        end_us = taken.began_us + int(taken.seconds * 1e6)
        return Made(f"turn {self.row.name}", SpanKind.INTERNAL, at, self.above, taken.began_us, end_us, about)

    def whole(self, began_us: int, at_us: int, outcome: str, error: str | None) -> Made:
        """Return the span of the generation."""
        about = self.about | {"durable.outcome": outcome}
        name = f"orchestration {self.row.name}"
        return Made(name, SpanKind.CONSUMER, self.me, self.parent.span_id, began_us, at_us, about, error, self.link)

    def request(self, request: Request, asked_us: int, event: HistoryEvent | None, at_us: int) -> Made:
        """Return the span of a request that is answered; without an event it was left open at the end."""
        outcome = "abandoned" if event is None else ANSWERS[type(event)]
        about = self.about | {"durable.task.id": request.task_id, "durable.outcome": outcome}
        kind = SpanKind.CLIENT
        if isinstance(request, ev.ActivityScheduled):
            name = f"activity {request.name}"
            about |= {"durable.activity.name": request.name, "durable.activity.attempt": request.attempt}
        elif isinstance(request, ev.SubOrchestrationScheduled):
            name = f"child {request.name}"
            about |= {"durable.child.instance.id": request.instance_id}
        else:
            name, kind = "timer", SpanKind.INTERNAL
            about |= {"durable.timer.purpose": request.purpose or "user"}
        error = None
        if isinstance(event, ev.ActivityFailed | ev.SubOrchestrationFailed):
            error = event.details.error_type
        at = self.me.of(derived_span(_task_of(self.row, request.task_id)))
        return Made(name, kind, at, self.above, asked_us, at_us, about, error)

    def detached(self, request: ev.SubOrchestrationScheduled, at_us: int) -> Made:
        """Return the span of a start that nobody waits for."""
        about = self.about | {"durable.task.id": request.task_id, "durable.child.instance.id": request.instance_id}
        at = self.me.of(derived_span(_task_of(self.row, request.task_id)))
        return Made(f"start {request.name}", SpanKind.PRODUCER, at, self.above, at_us, at_us, about)


def _task_of(row: InstanceRow, task_id: int) -> TaskRef:
    return TaskRef(*row.key, row.run_id, row.generation, task_id)


def _about(task: TaskRef) -> Attributes:
    found: Attributes = {
        "durable.instance.id": task.instance_id,
        "durable.run.id": task.run_id,
        "durable.generation": task.generation,
    }
    if task.kind != ev.ORCHESTRATION:
        found["durable.kind"] = task.kind
    if task.task_id >= 0:
        found["durable.task.id"] = task.task_id
    return found


def _fail(span: Span, error_type: str) -> None:
    """Mark a span as failed, by the type alone: what an error says may be nobody's business."""
    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR, error_type))


def _type_of(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")


def _context_of(ref: SpanRef) -> SpanContext:
    return SpanContext(int(ref.trace_id, 16), int(ref.span_id, 16), is_remote=True, trace_flags=TraceFlags(ref.flags))


def _ref_of(context: SpanContext) -> SpanRef:
    return SpanRef(f"{context.trace_id:032x}", f"{context.span_id:016x}", int(context.trace_flags))
