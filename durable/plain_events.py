"""Makers of the events of which each step makes one (see `made_plainly`)."""

from __future__ import annotations

from durable.events import ActivityCompleted, ActivityScheduled
from durable.value_objects import made_plainly

activity_scheduled = made_plainly(ActivityScheduled)
activity_completed = made_plainly(ActivityCompleted)
