"""Schedules: cron expressions, intervals and single times, each an eternal instance of a kind of its own.

    times       when the times are, in every zone; pure
    wire        a schedule as bytes, and where it stands
    running     the orchestrator behind schedules; `events` is what it adds to histories
    merging     a declaration that has changed, and an operator who has changed something too; pure
    client      schedules from outside: `client.schedules`; `targets`, `model` and `states` are parts of it
    declaring   `@app.cron`

`register` puts the feature in its places; `durable/__init__` calls it.
"""

from durable.features import register_feature, register_preparation
from durable.model import OverlapPolicy
from durable.orchestrations import register_built_in
from durable.schedules.client import Schedules, SyncSchedules
from durable.schedules.declaring import bring_in_step, cron
from durable.schedules.events import OccurrenceToldToEnd
from durable.schedules.model import ScheduleStart, ScheduleState
from durable.schedules.running import run_schedule
from durable.schedules.wire import KIND, PROGRAM

__all__ = [
    "OccurrenceToldToEnd",
    "OverlapPolicy",
    "ScheduleStart",
    "ScheduleState",
    "Schedules",
    "SyncSchedules",
    "register",
]

VERSION = "1"
"""Of the orchestrator behind every schedule; see `durable.jobs`."""


class _Methods:
    """What stands behind `@app.cron` and `client.schedules`."""

    cron = staticmethod(cron)
    of = Schedules


def register() -> None:
    """Put the feature in its places; `durable/__init__` calls it."""
    register_feature("schedules", _Methods)
    register_built_in(run_schedule, PROGRAM, VERSION, kind=KIND)
    register_preparation(bring_in_step)
