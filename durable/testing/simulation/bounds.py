"""I14: when everything has ended, nothing is left of it in memory; and when the processes have ended, nothing of them.

A leak of one object for each activity, message or turn shows in any run that had some. So the baseline is nothing at all, or
what a worker has that does nothing: each of its services is one task.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Iterator

from durable.testing.simulation.loop import Process, SimulatedLoop
from durable.worker import Worker

ATTEMPT = "ActivityRunner._run_async"
"""The task of an attempt."""

OPEN_FILES = "/dev/fd"

TIMERS_MAX = 12
"""A worker at rest has a timer for each of its services, and the client in it a few."""


def kept_in_memory(worker: Worker, process: Process, loop: SimulatedLoop, *, endless: int) -> Iterator[str]:
    """Say what a worker at rest keeps, though all has ended but so many instances that never do (entities, schedules)."""
    tasks = Counter(_name_of(task) for task in process.tasks if not task.done())
    running = tasks.pop(ATTEMPT, 0)  # nobody could tell it that its instance has ended: that is in other hands
    allowed = {"attempts": running, "instances": endless, "engines": endless, "due times": endless}
    for kind, count in worker.footprint.items():
        if count > allowed.get(kind, 0):
            yield f"I14: {process.name} keeps {count} {kind} in memory, though everything has ended"
    for name, count in tasks.items():
        if count > 1:
            yield f"I14: {process.name} has {count} tasks that run {name}, though everything has ended"
    timers = loop.timers_of(process)
    if timers > TIMERS_MAX:
        yield f"I14: {process.name} has {timers} timers, though everything has ended"


def left_of(process: Process, loop: SimulatedLoop) -> Iterator[str]:
    """Say what is left of a process that has stopped in order, if it was not killed meanwhile."""
    if process.is_dead:
        return
    tasks = [_name_of(task) for task in process.tasks if not task.done()]
    if tasks:
        yield f"I14: {process.name} has stopped, and tasks of it go on: {', '.join(sorted(tasks))}"
    timers = loop.timers_of(process)
    if timers:
        yield f"I14: {process.name} has stopped, and {timers} of its timers are set"


def open_handles() -> tuple[int, int]:
    """Count the threads and the open files of this process."""
    return threading.active_count(), len(os.listdir(OPEN_FILES)) if os.path.isdir(OPEN_FILES) else 0


def left_open(before: tuple[int, int]) -> Iterator[str]:
    """Say what was opened since, and not closed."""
    for what, then, now in zip(("threads", "files"), before, open_handles(), strict=True):
        if now > then:
            yield f"I14: {now - then} {what} are left open when all is over"


def _name_of(task: asyncio.Task[object]) -> str:
    return getattr(task.get_coro(), "__qualname__", "a coroutine")
