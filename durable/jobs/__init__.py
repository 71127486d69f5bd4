"""Job trees: chains of work with conditions, retries and children that are added on the way, durable at every step.

model       what users write and see: Job, JobNode, RunCondition, Priority, JobStatus
context     what a job sees while it runs: JobContext
handle      a tree from outside: JobHandle
rules       the rules of a tree, as tables; pure, and the same for all that follow
standing    what commands and outcomes mean by the rules
running     the orchestrator behind every tree
reading     a tree as its history tells of it; `nodes` shows it
packing, wire, traces, scheduling, events    jobs as bytes; what is left for those below; starting; what histories gain
"""

from durable.features import register_feature
from durable.jobs import scheduling
from durable.jobs.context import JobContext
from durable.jobs.events import JobFailed
from durable.jobs.handle import JobHandle, SyncJobHandle
from durable.jobs.model import Job, JobNode, JobStatus, Priority, RunCondition
from durable.jobs.running import run_job_tree
from durable.jobs.traces import ParentJob
from durable.jobs.wire import TREE
from durable.model import OverlapPolicy
from durable.orchestrations import register_built_in

__all__ = [
    "Job",
    "JobContext",
    "JobFailed",
    "JobHandle",
    "JobNode",
    "JobStatus",
    "OverlapPolicy",
    "ParentJob",
    "Priority",
    "RunCondition",
    "SyncJobHandle",
    "register",
]

VERSION = "1"
"""Of the orchestrator behind every tree. A change that old histories do not replay under becomes a second one beside it."""


def register() -> None:
    """Put the feature in its places; `durable/__init__` calls it."""
    register_feature("jobs", scheduling)
    register_built_in(run_job_tree, TREE, VERSION)
