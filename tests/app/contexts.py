"""Stand-ins for the contexts of the worker and of a feature: the registry knows an activity context by its marker."""

from __future__ import annotations

from typing import ClassVar


class ActivityContext:
    __durable_activity_context__: ClassVar[bool] = True


class JobContext(ActivityContext):
    pass


class OrchestrationContext:
    pass
