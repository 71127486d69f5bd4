"""The processes of a simulated system, with what belongs to each from outside."""

from __future__ import annotations

import asyncio
import dataclasses

from durable.provider import Lease, Provider
from durable.testing.simulation.loop import Process
from durable.worker import Worker

AGAIN_S = 1.0
"""How soon a worker that could not start is started again."""


@dataclasses.dataclass(frozen=True, slots=True)
class Role:
    """What a worker is for, in the words of `Worker`."""

    queues: tuple[str, ...] = ("default",)
    orchestrations: bool = True
    activities: bool = True
    max_activities: int = 100


@dataclasses.dataclass(eq=False)
class Machine:
    """A process with what belongs to it from outside: its provider, its lease, and how it is asked to stop."""

    process: Process
    name: str
    inner: Provider
    release: int  # which of the apps it runs
    role: Role
    lease: Lease | None = None
    again_s: float = AGAIN_S  # how soon it is started again after it has ended by itself
    went_on_at: float = -1.0  # when it was let go on after it was stopped
    stop: asyncio.Event | None = None
    worker: Worker | None = None
    is_worker: bool = True
