"""OpenTelemetry for workers and clients; needs the extra `otel`: pip install 'durable-orchestration[otel]'.

    Worker(app, url, middleware=[Telemetry()])
    Client(url, app, middleware=[Telemetry()])

Spans and metrics go to the providers that the program has set, or to those that are handed in. What they are called, and how
Prometheus gets the metrics, is in docs/observability.md. Nothing that users hand in or that their code says leaves with them:
no input, result, message or stack, only names, ids, types of errors, counts and times.

Invariant: what is told of as done is durable.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from opentelemetry import metrics, trace

from durable.engine.execution import Execution
from durable.events import OrchestrationStarted, TaskRef
from durable.middleware import ActivityCall, ClientCall, Middleware
from durable.otel.meters import Meters
from durable.otel.spans import Spans
from durable.provider import InstanceRow, TaskAddress
from durable.records import Record
from durable.worker.health import WorkerHealth
from durable.worker.watching import Commit, Taken, Watcher

__all__ = ["Telemetry"]

SCOPE = "durable"


class Telemetry(Middleware, Watcher):
    """Spans and metrics of the workers and clients that it is a middleware of; one may serve several of them."""

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        """Take where spans and metrics go; None: the provider that the program has set for all, by the first use."""
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider
        self._made: tuple[Spans, Meters] | None = None

    @property
    def _spans(self) -> Spans:
        return self._parts()[0]

    @property
    def _meters(self) -> Meters:
        return self._parts()[1]

    def _parts(self) -> tuple[Spans, Meters]:
        if self._made is None:
            tracers = self._tracer_provider or trace.get_tracer_provider()
            meters = self._meter_provider or metrics.get_meter_provider()
            self._made = Spans(tracers.get_tracer(SCOPE)), Meters(meters.get_meter(SCOPE))
        return self._made

    # ---- around what clients send, and around activities

    @contextlib.contextmanager
    def client(self, call: ClientCall) -> Iterator[None]:
        """A span around each start. It ends as an error where nothing was begun."""
        if call.operation != "start":
            yield
            return
        with self._spans.start(call):
            yield

    @contextlib.contextmanager
    def activity(self, call: ActivityCall) -> Iterator[None]:
        """A span around the function, current in it, which is told of when its outcome is durable."""
        began = time.perf_counter()
        self._meters.activity_begins(call)
        try:
            with self._spans.run(call):
                yield
        finally:
            self._meters.activity_ends(call, time.perf_counter() - began)

    # ---- what a worker tells

    def serving(self, name: str, health: Callable[[], WorkerHealth]) -> None:
        """Let the gauges tell of this worker."""
        self._meters.workers[name] = health

    def stopped(self, name: str) -> None:
        """Let them tell of it no more."""
        self._meters.workers.pop(name, None)

    def begin_trace(self, row: InstanceRow, started: OrchestrationStarted) -> str | None:
        """Begin the trace of a run that nobody has begun one for."""
        return self._spans.begin_trace(row, started)

    def replayed(self, execution: Execution, record: Record) -> None:
        """Take in what is open after a record of the past."""
        self._spans.replayed(execution, record)

    def turned(self, taken: Taken) -> Any:
        """Make the spans of a turn, to be told of when it is durable."""
        return self._spans.turned(taken)

    def committed(self, commit: Commit, notes: Sequence[Any]) -> None:
        """Tell of what is durable."""
        self._meters.committed(commit, notes)
        for step, note in zip(commit.steps, notes, strict=True):
            if note is not None:
                self._spans.tell(note)
            elif step.after.status.is_finished:
                self._spans.tell_end(step)

    def refused(self, steps: int) -> None:
        """Count what is taken again."""
        self._meters.refused(steps)

    def lease_lost(self) -> None:
        """Count it."""
        self._meters.lease_lost()

    def settled(self, task: TaskAddress) -> None:
        """Tell of the run of a claimed attempt: its outcome is in the store."""
        self._spans.settle(TaskRef(*task.key, task.run_id, task.generation, task.task_id))
