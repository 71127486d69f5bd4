"""Makers of the events of which each step makes one, and each start (see `made_plainly`)."""

from __future__ import annotations

from durable.events import ActivityCompleted, ActivityScheduled, OrchestrationStarted
from durable.value_objects import made_plainly

activity_scheduled = made_plainly(ActivityScheduled)
activity_completed = made_plainly(ActivityCompleted)
orchestration_started = made_plainly(OrchestrationStarted)


def completed_start(
    start: OrchestrationStarted, version: str | None, python: str, code_digest: bytes | None
) -> OrchestrationStarted:
    """Return a start with what its owner knows. `dataclasses.replace` takes six times as long."""
    return orchestration_started(
        start.name,
        version,
        start.input,
        start.seed,
        python,
        start.parent,
        start.tags,
        start.scheduled_for,
        start.end_event,
        start.depth,
        start.writer,
        code_digest,
        start.trace,
    )
