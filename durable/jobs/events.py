"""What a job tree adds to histories."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from durable import events as ev
from durable.records import register_event


@dataclasses.dataclass(frozen=True, slots=True)
class JobFailed(ev.Request):
    """The last attempt of a job has failed: that no other one follows is the decision of a retry policy, which may be code."""

    job: int
    attempt: int

    code: ClassVar[int] = 160

    @property
    def shape(self) -> tuple[Any, ...]:
        """Which job's attempt it was."""
        return ("JobFailed", self.job, self.attempt)


register_event(JobFailed)
