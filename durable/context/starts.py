"""Requests that start another orchestration, whoever asks: an orchestrator, or an operation of an entity."""

from __future__ import annotations

from typing import Any

from durable import events as ev
from durable.context.plans import Plan
from durable.engine.execution import Execution
from durable.engine.loop import user_place


def recorded_version(execution: Execution, plan: Plan, version: str | None) -> str | None:
    """Return the version of a request that names none: while replaying the one that was chosen at the time.

    Without this, deploying a newer version would make every instance diverge that has asked for an older one.
    """
    recorded = execution.recorded_request
    if isinstance(recorded, ev.ActivityScheduled | ev.SubOrchestrationScheduled) and recorded.name == plan.name:
        return recorded.version
    return version


def recorded_child(execution: Execution, task_id: int) -> str | None:
    """Return the id that a child without a chosen one has on record: in what a fork has taken over it is another one."""
    recorded = execution.recorded_request
    is_this = isinstance(recorded, ev.SubOrchestrationScheduled) and recorded.task_id == task_id
    return recorded.instance_id if is_this else None  # type: ignore[union-attr]


def start_request(
    execution: Execution,
    plan: Plan,
    version: str | None,
    instance_id: str,
    plain: bytes | None,
    task_id: int,
    *,
    line: str | None = None,
    **fields: Any,
) -> ev.SubOrchestrationScheduled:
    """Return the request behind a start. `line`: where it was asked for; None: where the code is just now."""
    payload, digest = execution.value(plain)
    milliseconds = execution.time_us // 1000
    return ev.SubOrchestrationScheduled(
        task_id,
        plan.name,
        version,
        instance_id,
        payload,
        digest,
        # Ordered by time, so that rows written together lie together. Recorded: a replay keeps the first one.
        f"{milliseconds:012x}{execution.derived_id('run', task_id)[:20]}",
        line="" if execution.is_replaying else user_place() if line is None else line,
        **fields,
    )
