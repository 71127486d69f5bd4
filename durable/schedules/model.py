"""What users see of a schedule: plain, frozen values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from durable.errors import FailureDetails
from durable.model import OverlapPolicy


@dataclasses.dataclass(frozen=True, slots=True)
class ScheduleStart:
    """That something was started: for which time, when, and as which instance. Times are aware, in UTC."""

    scheduled_for: datetime
    started_at: datetime
    instance_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class ScheduleState:
    """A schedule as it was at one moment. Times are aware, in UTC; values are plain data.

    `target`: the name of the function that it starts, of a job tree that of its root. `next_times`: the next few; none while
    it is paused. `recent`: the latest starts, the latest last. `running`: the ids of instances that it has started and whose
    end it waits for, at most 100 of `running_count`; of ALLOW_ALL it waits for none. `buffered`: times that wait for those to
    end. `skipped`: times that were left out because of what ran; `missed`: those that were past `catch_up` when they could
    have been started. `is_finished`: there are no further times, and nothing runs any more.
    """

    id: str
    target: str
    input: Any
    cron: str | None
    interval: timedelta | None
    at: datetime | None
    timezone: str
    overlap: OverlapPolicy
    catch_up: timedelta
    jitter: timedelta | None
    start: datetime | None
    end: datetime | None
    is_paused: bool
    note: str
    created_at: datetime
    next_times: Sequence[datetime]
    recent: Sequence[ScheduleStart]
    running: Sequence[str]
    running_count: int
    buffered: int
    started: int
    skipped: int
    missed: int
    is_declared: bool
    is_finished: bool
    stall_reason: str | None = None
    error: FailureDetails | None = None
