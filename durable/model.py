"""What clients see of an instance: plain, frozen values."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from durable.errors import FailureDetails


class OrchestrationStatus(enum.StrEnum):
    """Where an instance is in its life.

    PENDING until its first turn is committed. STALLED is for what is not the orchestration's own failure: visible with a
    reason, resumed by itself as soon as it can be.
    """

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    STALLED = "STALLED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TERMINATED = "TERMINATED"

    @property
    def is_finished(self) -> bool:
        """True for COMPLETED, FAILED, CANCELLED and TERMINATED."""
        return self in _FINISHED


_FINISHED = frozenset(
    {
        OrchestrationStatus.COMPLETED,
        OrchestrationStatus.FAILED,
        OrchestrationStatus.CANCELLED,
        OrchestrationStatus.TERMINATED,
    }
)


class ReusePolicy(enum.Enum):
    """What a start does when its instance id is in use; each decided atomically with the start.

    REJECT raises `InstanceAlreadyExistsError`. USE_EXISTING gives a handle to the existing one. USE_RUNNING likewise if it
    is unfinished, and replaces a finished one. REPLACE_FINISHED replaces a finished one and rejects an unfinished one.
    TERMINATE_AND_REPLACE replaces any.
    """

    REJECT = "reject"
    USE_EXISTING = "use existing"
    USE_RUNNING = "use running"
    REPLACE_FINISHED = "replace finished"
    TERMINATE_AND_REPLACE = "terminate and replace"


class OverlapPolicy(enum.Enum):
    """What a schedule does at a time at which what it has started before still runs.

    SKIP leaves the time out. BUFFER_ONE starts it when the former has ended, and leaves out further times until then;
    BUFFER_ALL starts all of them, one after the other. CANCEL_OTHER and TERMINATE_OTHER end the former, and then start.
    ALLOW_ALL starts it beside the former.
    """

    SKIP = "skip"
    BUFFER_ONE = "buffer one"
    BUFFER_ALL = "buffer all"
    CANCEL_OTHER = "cancel other"
    TERMINATE_OTHER = "terminate other"
    ALLOW_ALL = "allow all"


@dataclasses.dataclass(frozen=True, slots=True)
class ActivityState:
    """An activity that an instance has asked for and that has no outcome yet.

    `heartbeat` is the latest of the running attempt, decoded; `note` says what is worth knowing, such as that no worker
    serves it.
    """

    task_id: int
    name: str
    attempt: int
    queue: str = "default"
    scheduled_at: datetime | None = None
    heartbeat: Any = None
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class OrchestrationState:
    """An instance as it was at one moment. Times are aware, in UTC; values are plain data.

    `version` is None for an orchestrator without one, which counts as version 0.

    `activities` are the open ones, oldest first and at most 1,000; only `handle.state()` fills them.
    """

    instance_id: str
    run_id: str
    name: str
    version: str | None
    generation: int
    status: OrchestrationStatus
    input: Any
    output: Any
    custom_status: Any
    failure_details: FailureDetails | None
    stall_reason: str | None
    created_at: datetime
    scheduled_at: datetime
    last_updated_at: datetime
    completed_at: datetime | None
    parent_instance_id: str | None
    tags: Mapping[str, str]
    activities: tuple[ActivityState, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class DroppedItem:
    """Something that was refused, came too late or could not be delivered, and why."""

    timestamp: datetime
    kind: str
    name: str
    reason: str
