"""From what users write to what travels: functions found, requests checked, a tree made flat and cut into parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from durable.app import ActivityDefinition, App, OrchestratorDefinition, definition_of
from durable.client.times import microseconds_of
from durable.context import Plans
from durable.context.options import limit_us, span_us
from durable.context.plans import Plan
from durable.engine.calls import MICROSECOND
from durable.errors import LimitExceededError, UnknownNameError
from durable.jobs.model import Job
from durable.jobs.wire import NO_PARENT, JobSpec, Kind, TreeInput
from durable.payloads import Sealer
from durable.payloads.limits import PAYLOAD_BYTES_MAX
from durable.signatures import AnyFunction

PART_BYTES_MAX: Final = 1024 * 1024
"""As many jobs go together: half of what a payload may have."""

REQUEST_BYTES_MAX: Final = PAYLOAD_BYTES_MAX - 64 * 1024
"""The rest is for what else a job says: it travels as one value together with its request."""

JOB_BYTES: Final = 64
"""Roughly what a job takes beside its texts and its request."""


class Packer:
    """Packs jobs for one app; without an app, functions are known by what their decorators have noted."""

    def __init__(self, app: App | None) -> None:
        self._app = app
        self._plans = Plans(app or App(), Sealer())  # it encodes; what it makes is sealed as a whole, later

    def flat(self, root: Job, *, at_us: int | None = None) -> list[JobSpec]:
        """Return all jobs of a tree, each before its children; `at_us` stands in for the root's own `at`.

        Raises UnknownNameError for a function that was never registered, InvalidInputError for a request that does not fit,
        TypeError for one that cannot be stored, and LimitExceededError.
        """
        specs: list[JobSpec] = []
        waiting = [(root, NO_PARENT)]
        while waiting:
            job, parent = waiting.pop()
            specs.append(self._spec(job, parent, at_us if parent == NO_PARENT else None))
            place = len(specs) - 1
            waiting.extend((child, place) for child in reversed(job.children))
        return specs

    def _spec(self, job: Job, parent: int, at_us: int | None) -> JobSpec:
        kind, plan = self.plan(job.function)
        if at_us is None and job.at is not None:
            at_us = microseconds_of(job.at, "at")
        return JobSpec(
            parent,
            kind,
            plan.name,
            None if kind is Kind.NAME else plan.version,
            bounded(plan.encode_input(job.request), plan.name),
            job.run_condition,
            at_us,
            0 if job.delay is None else job.delay // MICROSECOND,
            job.retries,
            tuple(span_us("retry_intervals", interval) for interval in job.retry_intervals),
            limit_us("timeout", job.timeout),
            job.priority,
            job.description,
        )

    def plan(self, function: AnyFunction | str) -> tuple[Kind, Plan]:
        """Return what a job's function is, and what is known of it. Raises UnknownNameError."""
        if isinstance(function, str):
            return Kind.NAME, self._plans.activity(function)
        if isinstance(self._found(function), OrchestratorDefinition):
            return Kind.ORCHESTRATOR, self._plans.orchestrator(function, None)
        return Kind.ACTIVITY, self._plans.activity(function)

    def _found(self, function: AnyFunction) -> Any:
        """Return the definition that the app has of a function, or that was noted on it."""
        for find in () if self._app is None else (self._app.activity_of, self._app.orchestrator_of):
            try:
                return find(function)
            except UnknownNameError:
                continue  # it is of the other kind, or said in full below
        return definition_of(function)


def bounded(request: bytes | None, name: str) -> bytes | None:
    """Return an encoded request. Raises LimitExceededError."""
    if request is not None and len(request) > REQUEST_BYTES_MAX:
        raise LimitExceededError(
            f"the request of job '{name}' has {len(request)} bytes, over the limit of {REQUEST_BYTES_MAX}: "
            "keep the data elsewhere, and pass its name"
        )
    return request


def cut(specs: Sequence[JobSpec]) -> tuple[TreeInput, list[list[Any]]]:
    """Return the input of a tree's instance, and the data of the events that bring what is too much for it."""
    first, *others = _parts(specs)
    return TreeInput(first, len(others)), [[spec.to_plain() for spec in part] for part in others]


def _parts(specs: Iterable[JobSpec]) -> list[list[JobSpec]]:
    parts: list[list[JobSpec]] = [[]]
    size = 0
    for spec in specs:
        own = JOB_BYTES + len(spec.name) + len(spec.description.encode()) + len(spec.request or b"")
        if size + own > PART_BYTES_MAX and parts[-1]:
            parts.append([])
            size = 0
        parts[-1].append(spec)
        size += own
    return parts


def definition_for(app: App, spec: JobSpec) -> ActivityDefinition | OrchestratorDefinition | None:
    """Return what a worker's app has for a job; None for what only other workers have.

    A name is that of an orchestrator if the app has one and no activity of that name.
    """
    try:
        if spec.kind is not Kind.ORCHESTRATOR:
            return app.find_activity(spec.name, spec.version)
    except UnknownNameError:
        if spec.kind is Kind.ACTIVITY:
            return None
    try:
        return app.find_orchestrator(spec.name, spec.version)
    except UnknownNameError:
        return None
