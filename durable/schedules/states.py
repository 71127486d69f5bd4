"""From rows to what users see of a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from durable.client.states import failure_of
from durable.history import plain_value, utc_datetime
from durable.payloads import Sealer
from durable.provider import InstanceRow
from durable.schedules.model import ScheduleStart, ScheduleState
from durable.schedules.running import NEXT_SHOWN, occurrence_id
from durable.schedules.targets import input_of
from durable.schedules.wire import Standing


def state_of(row: InstanceRow, standing: Standing, sealer: Sealer) -> ScheduleState:
    """Return the state of a schedule, given what its generation began with. Raises PayloadError for what cannot be read."""
    spec, schedule_id = standing.spec, row.key.id
    status = plain_value(row.custom_status, sealer, "status", schedule_id)
    shown = status if isinstance(status, dict) else _before_the_first_turn(standing)
    starts = [
        ScheduleStart(utc_datetime(time), utc_datetime(started), occurrence_id(schedule_id, time))
        for time, started in shown["recent"]
    ]
    return ScheduleState(
        id=schedule_id,
        target=spec.target.name,
        input=input_of(spec.target, sealer, schedule_id),
        cron=spec.cron,
        interval=_span(spec.interval_us),
        at=_time(spec.at_us),
        timezone=spec.timezone,
        overlap=spec.overlap,
        catch_up=timedelta(microseconds=spec.catch_up_us),
        jitter=_span(spec.jitter_us or None),
        start=_time(spec.start_us),
        end=_time(spec.end_us),
        is_paused=shown["is_paused"],
        note=shown["note"],
        created_at=utc_datetime(standing.created_us),
        next_times=[] if row.status.is_finished else list(map(utc_datetime, shown["next"])),
        recent=starts,
        running=shown["running"],
        running_count=shown["running_count"],
        buffered=shown["buffered"],
        started=shown["started"],
        skipped=shown["skipped"],
        missed=shown["missed"],
        is_declared=standing.declared is not None,
        is_finished=row.status.is_finished,
        stall_reason=row.stall_reason,
        error=failure_of(row),
    )


def _before_the_first_turn(standing: Standing) -> Mapping[str, Any]:
    times: list[int] = []
    time = standing.spec.following(standing.last_us, standing.created_us)
    while time is not None and len(times) < NEXT_SHOWN:
        times.append(time)
        time = standing.spec.following(time, standing.created_us)
    nothing = dict.fromkeys(("running_count", "buffered", "started", "skipped", "missed"), 0)
    return {"is_paused": False, "note": "", "next": times, "running": [], "recent": [], **nothing}


def _time(us: int | None) -> datetime | None:
    return None if us is None else utc_datetime(us)


def _span(us: int | None) -> timedelta | None:
    return None if us is None else timedelta(microseconds=us)
