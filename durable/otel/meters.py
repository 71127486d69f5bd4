"""The metrics: what is counted and measured, under which names, in which units."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from durable import events as ev
from durable.failures import decode_details
from durable.middleware import ActivityCall
from durable.provider import Status
from durable.worker.health import WorkerHealth
from durable.worker.watching import Commit, Written

logger = logging.getLogger("durable.worker")

FAST_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Bounds for what takes fractions of a millisecond on a quiet machine: turns and commits."""

SLOW_S: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
"""Bounds for what may take long: functions, waiting, lateness."""

SIZES: Final = (256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216)

GAUGES: Final[Sequence[tuple[str, str, str, Callable[[WorkerHealth], float]]]] = (
    (
        "durable.worker.ready",
        "{worker}",
        "1 where the worker serves and holds its lease, else 0",
        lambda h: int(h.is_ready),
    ),
    ("durable.lease.remaining", "s", "for how long the lease still holds unless it is renewed", lambda h: h.lease_s),
    ("durable.lease.partitions", "{partition}", "partitions that the worker owns", lambda h: h.partitions),
    ("durable.turn.queue.depth", "{instance}", "instances whose turn is to be run or written", lambda h: h.turns),
    ("durable.activity.active", "{activity}", "activities that run", lambda h: h.activities),
    ("durable.activity.queue.depth", "{activity}", "activities that wait for a slot", lambda h: h.activities_waiting),
    ("durable.activity.queue.age", "s", "how long the one has waited that waits longest", lambda h: h.waiting_s),
    ("durable.orchestration.stalled", "{instance}", "instances of the worker that are stalled", lambda h: h.stalled),
)
"""Name, unit, what it is, and where `worker.health()` has it."""

ENDS: Final = {
    Status.COMPLETED: "completed",
    Status.FAILED: "failed",
    Status.CANCELLED: "cancelled",
    Status.TERMINATED: "terminated",
}


class Meters:
    """The instruments of one meter. `workers`: what the gauges tell of, by the workers' names."""

    def __init__(self, meter: Meter) -> None:
        self.workers: dict[str, Callable[[], WorkerHealth]] = {}
        self._started = meter.create_counter("durable.orchestration.started", "{run}", "runs that have begun")
        self._ended = meter.create_counter("durable.orchestration.ended", "{run}", "runs that have ended, by outcome")
        self._stalls = meter.create_counter("durable.orchestration.stalls", "{stall}", "instances that became stalled")
        self._attempts = meter.create_counter(
            "durable.activity.attempts", "{attempt}", "attempts of activities with an outcome on record"
        )
        self._replays = meter.create_counter(
            "durable.cache.lookups", "{turn}", "turns of begun instances, by whether the engine was still in memory"
        )
        self._refused = meter.create_counter("durable.commit.refused", "{step}", "steps of commits that were not taken")
        self._lost = meter.create_counter("durable.lease.lost", "{lease}", "leases that were lost")

        def seconds(name: str, what: str, bounds: Sequence[float]) -> Any:
            return meter.create_histogram(name, "s", what, explicit_bucket_boundaries_advisory=bounds)

        self._turns = seconds("durable.turn.duration", "what turns take, replays aside", FAST_S)
        self._commits = seconds("durable.commit.duration", "what commits take until the store has answered", FAST_S)
        self._runs = seconds("durable.activity.duration", "what calls of activities take", SLOW_S)
        self._waits = seconds("durable.activity.wait", "from the request of an attempt to its start", SLOW_S)
        self._lateness = seconds(
            "durable.timer.lateness", "from when a timer was due until its firing is durable", SLOW_S
        )
        self._sizes = meter.create_histogram(
            "durable.commit.size", "By", "records and messages of a commit", explicit_bucket_boundaries_advisory=SIZES
        )
        self._steps = meter.create_histogram(
            "durable.commit.steps",
            "{step}",
            "steps of a commit",
            explicit_bucket_boundaries_advisory=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000),
        )
        for name, unit, what, read in GAUGES:
            meter.create_observable_gauge(name, [self._observed(read)], unit, what)

    def _observed(self, read: Callable[[WorkerHealth], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            found = [(name, health()) for name, health in list(self.workers.items())]
            return [Observation(read(health), {"durable.worker.name": name}) for name, health in found]

        return observe

    # ---- what is durable

    def committed(self, commit: Commit, notes: Sequence[Any]) -> None:
        """Count what a commit holds; `notes`: those of `Spans.turned`."""
        self._commits.record(commit.seconds)
        self._sizes.record(commit.size_bytes)
        self._steps.record(len(commit.steps))
        for step, note in zip(commit.steps, notes, strict=True):
            self._count(step)
            if note is None:
                continue
            self._turns.record(note.seconds, _of(step))
            if note.is_replay is not None:
                self._replays.add(1, {"durable.cache.hit": not note.is_replay})
            for due_us in note.due_us:
                self._lateness.record(max(commit.now_us - due_us, 0) / 1e6)

    def _count(self, step: Written) -> None:
        before, after = step.before, step.after
        status = before.status if before is not None else Status.PENDING
        if after.status is Status.STALLED and status is not Status.STALLED:
            self._stalls.add(1, _of(step) | {"error.type": (after.stall_reason or "").partition(":")[0]})
        if after.status.is_finished and not status.is_finished:
            about = _of(step) | {"durable.outcome": ENDS[after.status]}
            details = decode_details(after.failure) if after.status is Status.FAILED and after.failure else None
            self._ended.add(1, about if details is None else about | {"error.type": details.error_type})
        for event in step.turn.record.events if step.turn is not None else ():
            if isinstance(event, ev.OrchestrationStarted):
                self._started.add(1, _of(step))
            elif isinstance(event, ev.ActivityCompleted | ev.ActivityFailed):
                outcome = "completed" if isinstance(event, ev.ActivityCompleted) else "failed"
                self._attempts.add(1, {"durable.outcome": outcome})

    def refused(self, steps: int) -> None:
        """Count steps that were not taken."""
        self._refused.add(steps)

    def lease_lost(self) -> None:
        """Count a lost lease."""
        self._lost.add(1)

    # ---- activities

    def activity_begins(self, call: ActivityCall) -> None:
        """Measure how long an attempt has waited."""
        self._waits.record(max(call.started_us - call.requested_us, 0) / 1e6, {"durable.activity.name": call.name})

    def activity_ends(self, call: ActivityCall, seconds: float) -> None:
        """Measure how long its function took, whatever becomes of its outcome."""
        outcome = "completed" if call.error is None else "failed"
        self._runs.record(seconds, {"durable.activity.name": call.name, "durable.outcome": outcome})


def _of(step: Written) -> dict[str, Any]:
    row = step.after
    found = {"durable.orchestration.name": row.name}
    return found if row.key.kind == ev.ORCHESTRATION else found | {"durable.kind": row.key.kind}
