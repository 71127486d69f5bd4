"""What becomes of a schedule when its declaration in code has changed, and an operator may have changed it too. Pure."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from durable.schedules.wire import TIMING, ScheduleSpec

_GROUPS: Final = (
    TIMING,
    *((field.name,) for field in dataclasses.fields(ScheduleSpec) if field.name not in TIMING),
)
"""Fields that mean something together only: one kind of times takes the place of another."""


def merged(current: ScheduleSpec, base: ScheduleSpec | None, declared: ScheduleSpec) -> ScheduleSpec:
    """Return the schedule with what the declaration says now, where nobody else has changed it.

    `base`: what the declaration said when the schedule was last brought in step with it; what differs from that by now was
    changed by an operator, and stays. None: a client has created the schedule, and all of it stays.
    """
    if base is None:
        return current
    changes: dict[str, Any] = {}
    for group in _GROUPS:
        if all(getattr(current, name) == getattr(base, name) for name in group):
            changes |= {name: getattr(declared, name) for name in group}
    return dataclasses.replace(current, **changes)
