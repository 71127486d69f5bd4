"""What must become of a tree, said again in the plainest way: no table, no queue, no time; look until nothing changes.

It knows nothing of `durable.jobs` but the names of conditions and statuses.
"""

from __future__ import annotations

import dataclasses
import enum

from durable.jobs import JobNode, JobStatus, RunCondition
from tests.job_trees.plans import FAIL, HANG, OK, Attempt, Case, Plan

Shape = tuple[str, int, tuple["Shape", ...]]
"""A job's status, how many attempts it took, and its children, in no particular order."""

MEETS = {
    JobStatus.DONE: RunCondition.ON_SUCCESS,
    JobStatus.FAILED: RunCondition.ON_FAILURE,
    JobStatus.CANCELLED: RunCondition.ON_CANCELLED,
}


@dataclasses.dataclass(eq=False)
class Expected:
    """A job as it is expected to be. `status` None: not settled. `is_running`: it hangs, until it is cancelled."""

    plan: Plan
    parent: Expected | None = None
    status: JobStatus | None = None
    attempts: int = 0
    is_running: bool = False
    is_held: bool = False
    children: list[Expected] = dataclasses.field(default_factory=list)


class Where(enum.Enum):
    """Where a job stands: nothing above it was skipped, or it is below skipped ones, or below one that ran beside such."""

    USUAL = 0
    SKIPPED = 1
    BESIDE = 2

    def below(self, job: Expected | JobNode) -> Where:
        if self is Where.BESIDE or (self is Where.SKIPPED and job.attempts):
            return Where.BESIDE
        return Where.SKIPPED if job.status is JobStatus.SKIPPED else Where.USUAL


def shape(job: Expected | JobNode, where: Where = Where.USUAL) -> Shape:
    """Return a job and what is below it as something that can be compared.

    Whether something began below a job that ran beside one that skipped itself is a matter of who was quicker.
    """
    if where is Where.BESIDE:
        return "a matter of who was quicker", 0, ()
    return str(job.status), job.attempts, tuple(sorted(shape(child, where.below(job)) for child in job.children))


def outcome(case: Case) -> Shape:
    """Return the tree as it must be in the end."""
    everything: list[Expected] = []
    root = _add(everything, case.root, None)
    while True:
        while any(_advance(everything, job) for job in list(everything)):
            pass
        still_open = [job for job in everything if job.status is None]
        if not still_open:
            return shape(root)
        held = [job for job in still_open if job.is_held]
        for job in still_open:
            if case.cancels and (job.is_running or job.is_held):
                job.status = JobStatus.CANCELLED
            elif job in held and not case.cancels:  # an hour passes
                job.is_held = False
                _run(everything, job)


def _add(everything: list[Expected], plan: Plan, parent: Expected | None) -> Expected:
    job = Expected(plan, parent)
    everything.append(job)
    if parent is not None:
        parent.children.append(job)
    for child in plan.children:
        _add(everything, child, job)
    return job


def _advance(everything: list[Expected], job: Expected) -> bool:
    """Decide what can be decided about a job; tell whether there was something."""
    parent = job.parent
    if job.is_held and parent is not None and parent.status is JobStatus.SKIPPED:
        job.status, job.is_held = JobStatus.SKIPPED, False
        return True
    if job.status is not None or job.is_running or job.is_held:
        return False
    if parent is not None:
        met = MEETS.get(parent.status, RunCondition(0)) if parent.status is not None else RunCondition(0)
        if parent.attempts and parent.status is not JobStatus.SKIPPED:
            met |= RunCondition.IN_PROGRESS
        if not job.plan.condition & met:
            if parent.status is None:
                return False
            job.status = JobStatus.SKIPPED
            return True
    if job.plan.is_held:
        job.is_held = True
    else:
        _run(everything, job)
    return True


def _run(everything: list[Expected], job: Expected) -> None:
    """Let a job's attempts happen. Children beside it see that it was asked for before they see how it ended."""
    plan = job.plan
    for number in range(1, plan.retries + 2):
        attempt = plan.attempt(number)
        job.attempts = number
        if number == 1:
            for child in job.children:
                _advance(everything, child)
        is_last = attempt.end != FAIL or number == plan.retries + 1
        _add_children(everything, job, attempt, is_last=is_last)
        if is_last:
            job.is_running = attempt.end == HANG
            if not job.is_running:
                job.status = {OK: JobStatus.DONE, FAIL: JobStatus.FAILED}.get(attempt.end, JobStatus.SKIPPED)
            return


def _add_children(everything: list[Expected], job: Expected, attempt: Attempt, *, is_last: bool) -> None:
    for plan in attempt.adds:
        is_beside = bool(plan.condition & RunCondition.IN_PROGRESS)
        if is_beside or (is_last and attempt.end != HANG):  # what never ends leaves nothing but what it sent at once
            child = _add(everything, plan, job)
            if is_beside:
                _advance(everything, child)
