"""From what a reader knows of a tree to what people see: `JobNode`s."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime

from durable.errors import FailureDetails
from durable.history import plain_value, utc_datetime
from durable.jobs.model import JobNode, JobStatus
from durable.jobs.reading import TreeReader
from durable.jobs.rules import SHOWN_AS, JobState, Stage
from durable.jobs.wire import NO_PARENT
from durable.payloads import Sealer
from durable.worker.queued import QueuedAttempts


@dataclasses.dataclass(frozen=True, slots=True)
class Moment:
    """What the store says beside the history.

    `queued`: tasks that wait in the activity queue, or were claimed from it; `in_line`: those that wait at their owner, or did.
    `started`: when those of both that still ran a moment later began, by task.
    `end`: why an instance that has ended did so before every job had settled.
    """

    queued: QueuedAttempts
    in_line: QueuedAttempts
    started: Mapping[int, int]
    end: FailureDetails | None = None
    is_over: bool = False


def node_of(reader: TreeReader, moment: Moment, sealer: Sealer, instance_id: str) -> JobNode:
    """Return the root of a tree."""
    jobs = reader.standing.tree.jobs
    nodes: dict[int, JobNode] = {}
    for job in reversed(jobs):  # children come after their parents
        children = tuple(nodes.pop(child) for child in job.children)
        nodes[job.number] = _node(job, reader, moment, sealer, instance_id, children)
    return nodes[0]


def _node(
    job: JobState, reader: TreeReader, moment: Moment, sealer: Sealer, instance_id: str, children: tuple[JobNode, ...]
) -> JobNode:
    spec, attempts = job.spec, reader.attempts.get(job.number)
    status = SHOWN_AS[job.stage]
    started_us = job.started_at
    if job.stage is Stage.ASKED and attempts is not None and attempts.task_id is not None:
        has_waited = attempts.task_id in moment.queued or attempts.task_id in moment.in_line
        is_waiting = has_waited and attempts.task_id not in moment.started
        status = JobStatus.QUEUED if is_waiting else JobStatus.IN_PROGRESS
        if started_us is None and not is_waiting:
            started_us = moment.started.get(attempts.task_id, attempts.asked_at)
    error = job.error
    if moment.is_over and not status.is_settled:
        status, error = JobStatus.CANCELLED, moment.end
    return JobNode(
        id=str(job.number),
        parent_id=None if job.parent == NO_PARENT else str(job.parent),
        function=spec.name,
        description=spec.description,
        status=status,
        run_condition=spec.condition,
        priority=spec.priority,
        attempts=0 if attempts is None else attempts.count,
        scheduled_for=_time(job.due_at if job.due_at is not None else spec.at_us),
        started_at=_time(started_us),
        finished_at=_time(job.finished_at),
        request=plain_value(spec.request, sealer, f"request of job {job.number}", instance_id),
        result=None
        if attempts is None
        else plain_value(attempts.result, sealer, f"result of job {job.number}", instance_id),
        error=error,
        skip_reason=job.reason if job.stage is Stage.SKIPPED else None,
        children=children,
    )


def _time(us: int | None) -> datetime | None:
    return None if us is None else utc_datetime(us)
