"""One scenario under one schedule: run it, let everything heal, and see whether every promise was kept."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from durable.app import App
from durable.client import Client
from durable.testing.simulation.faults import Schedule
from durable.testing.simulation.world import World
from durable.testing.staging import Stage

Scenario = Callable[[Client], Awaitable[Any]]
"""What happens: starts orchestrations, raises events, waits for results, and asserts what must hold."""

STEPS_MAX = 400_000
"""Callbacks of one run: several thousand turns. More is a run that does not come to rest."""

SETTLE_S = 40.0
"""So long the system goes on after the scenario, at most: longer than any fault, a lease, and a look around."""

_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run. `violations`: sentences, none if all is well. `error`: what the scenario itself raised."""

    schedule: Schedule
    violations: tuple[str, ...]
    error: BaseException | None
    struck: tuple[str, ...]
    calls: int
    seconds: float  # of simulated time
    trace: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """True when nothing was violated and the scenario raised nothing."""
        return not self.violations and self.error is None


def run_schedule(
    app: App | Sequence[App],
    scenario: Scenario,
    schedule: Schedule,
    *,
    engine: str = "memory",
    stage: Stage | None = None,
    is_traced: bool = False,
) -> Outcome:
    """Run a scenario under a schedule, in a fresh store of `engine` ("memory" or "sqlite").

    Several apps are releases of one: a DEPLOY goes from one to the next.
    """
    apps = [app] if isinstance(app, App) else list(app)
    with _fresh_store(engine) as url, _quiet_logs() as alarms:
        world = World(schedule, url, apps, stage=stage, is_traced=is_traced)
        try:
            error = _run(world, scenario)
            violations = [*world.monitor.violations, *world.loop.errors, *alarms]
            return Outcome(
                schedule,
                tuple(violations),
                error,
                tuple(world.struck),
                world.calls,
                world.loop.time(),
                tuple(world.trace or ()),
            )
        finally:
            world.bury()


def _run(world: World, scenario: Scenario) -> BaseException | None:
    """Run it to the end; return what the scenario raised."""
    with world.loop.running():
        _finish(world, world.loop.spawn(world.root, world.begin()))
        process, client = world.client()
        running = world.loop.spawn(process, _played(client, scenario))
        _finish(world, running)
        if not running.done():
            running.cancel()
            _finish(world, running)
            return AssertionError(_stuck(world))
        until = world.loop.time() + SETTLE_S
        while world.loop.time() < until and not (world.is_at_rest or world.is_settled):
            if world.loop.steps >= STEPS_MAX or not world.loop.step():
                break
        _finish(world, world.loop.spawn(world.root, world.end()))
        _finish(world, world.loop.spawn(world.root, world.close()))
        return running.exception() if not running.cancelled() else asyncio.CancelledError()


async def _played(client: Client, scenario: Scenario) -> None:
    async with client:
        await scenario(client)


def _finish(world: World, task: asyncio.Task[Any]) -> None:
    """Run until a task is done, the system is at rest for ever, or does not come to rest."""
    while not task.done() and not world.is_at_rest and world.loop.steps < STEPS_MAX:
        if not world.loop.step():
            break


def _stuck(world: World) -> str:
    seconds = world.loop.time()
    if world.is_at_rest:
        return f"the scenario waits at {seconds:.1f} s for something that will never happen: nothing is left to do (I3)"
    return f"the system has not come to rest after {STEPS_MAX} steps, at {seconds:.1f} s (I3)"


@contextlib.contextmanager
def _fresh_store(engine: str) -> Iterator[str]:
    if engine == "memory":
        yield f"memory://simulation-{next(_numbers)}"
        return
    memory_disk = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory_disk if memory_disk.is_dir() else None, prefix="durable-") as folder:
        yield f"{engine}:///{folder}/store.db"


@contextlib.contextmanager
def _quiet_logs() -> Iterator[list[str]]:
    """Keep the thousands of warnings of a simulated disaster to itself; what is CRITICAL is a violation."""
    alarms: list[str] = []

    class Alarms(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            alarms.append(record.getMessage())

    logger = logging.getLogger("durable")
    handler = Alarms(logging.CRITICAL)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield alarms
    finally:
        logger.propagate = before
        logger.removeHandler(handler)
