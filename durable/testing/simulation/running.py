"""One scenario under one schedule: run it, let everything heal, and see whether every promise was kept."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from durable.app import App
from durable.client import Client
from durable.injection import Dependencies
from durable.invariants import Moment
from durable.testing.simulation.bounds import left_open, open_handles
from durable.testing.simulation.checking import broken_promises
from durable.testing.simulation.faults import Schedule
from durable.testing.simulation.machines import Role
from durable.testing.simulation.neighbours import Neighbours
from durable.testing.simulation.world import World, is_users_code
from durable.testing.staging import Stage
from durable.testing.standing import standing

T = TypeVar("T")

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
    story: tuple[str, ...] = ()
    changes: int = 0  # of the storage calls, those that may change the store

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
    roles: Sequence[Role] | None = None,
    is_replayed: bool = True,
    stage: Stage | None = None,
    dependencies: Dependencies | None = None,
    is_traced: bool = False,
) -> Outcome:
    """Run a scenario under a schedule, in a fresh store of `engine` ("memory" or "sqlite").

    Several apps are releases of one: a DEPLOY goes from one to the next. `roles`: see World. `stage` runs activities;
    `dependencies`: what each worker brings along. `is_replayed`: each history is
    replayed at the end, with the last release.
    """
    apps = [app] if isinstance(app, App) else list(app)
    handles = open_handles()
    with _fresh_store(engine) as url, _quiet_logs() as alarms:
        world = World(schedule, url, apps, roles=roles, stage=stage, dependencies=dependencies, is_traced=is_traced)
        try:
            violations: list[str] = []
            error = _run(world, scenario, apps[-1] if is_replayed else None, violations)
            violations += [*world.monitor.violations, *world.loop.errors, *alarms]
            if not world.kills:  # whoever is killed in the middle of a write leaves what here nobody closes for it
                violations += left_open(handles)
            return Outcome(
                schedule,
                tuple(violations),
                error,
                tuple(world.struck),
                world.calls,
                world.loop.time(),
                tuple(world.trace or ()),
                tuple(world.story),
                world.changes,
            )
        finally:
            world.bury()


def _run(world: World, scenario: Scenario, replayed_with: App | None, violations: list[str]) -> BaseException | None:
    """Run it to the end, and look at what is left; return what the scenario raised."""
    with world.loop.running():
        _complete(world, world.begin())
        process, client = world.client()
        running = world.loop.spawn(process, _played(client, scenario))
        while not running.done() and not world.is_at_rest and world.loop.steps < STEPS_MAX and world.loop.step():
            pass
        error = _raised(running) if running.done() else AssertionError(_stuck(world))
        until = world.loop.time() + SETTLE_S
        while world.loop.time() < until and not (world.is_at_rest or world.is_settled):
            if world.loop.steps >= STEPS_MAX or not world.loop.step():
                break
        moment = Moment.SETTLED if world.is_settled or world.is_at_rest else Moment.STILL
        if world.is_settled:
            violations += _complete(world, world.stop_all())
        _complete(world, world.end())
        _complete(world, world.outlast_leases())
        reading = broken_promises(
            world.provider,
            world.answers,
            world.accepted,
            world.queues,
            moment=moment,
            replayed_with=replayed_with,
        )
        violations += _complete(world, reading)
        _complete(world, world.close())
        return error


def _raised(task: asyncio.Task[None]) -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()


async def _played(client: Client, scenario: Scenario) -> None:
    async with client:
        if isinstance(client.direct, Neighbours):
            await client.direct.are_ready()
        is_users_code.set(True)
        await scenario(client)


def _complete(world: World, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run something of the world's own to its end."""
    task = world.loop.spawn(world.root, coroutine)
    while not task.done() and world.loop.step():
        pass
    return task.result()


def _stuck(world: World) -> str:
    seconds = world.loop.time()
    text = f"the system has not come to rest after {STEPS_MAX} steps, at {seconds:.1f} s (I3)"
    if world.is_at_rest:
        text = f"the scenario waits at {seconds:.1f} s for something that will never happen: nothing is left to do (I3)"
    return f"{text}. {_complete(world, standing(world.provider, world.app))}"


@contextlib.contextmanager
def _fresh_store(engine: str) -> Iterator[str]:
    if engine == "memory":
        yield f"memory://simulation-{next(_numbers)}?until=closed"
        return
    memory_disk = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory_disk if memory_disk.is_dir() else None, prefix="durable-") as folder:
        yield f"{engine}:///{folder}/store.db"


@contextlib.contextmanager
def _quiet_logs() -> Iterator[list[str]]:
    """Keep the thousands of warnings of a simulated disaster to itself; what is CRITICAL, or our own error, is a violation."""
    alarms: list[str] = []

    class Alarms(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (
                record.levelno >= logging.CRITICAL or record.exc_info
            ):  # an exception that somebody caught and none expected
                alarms.append(
                    f"{record.getMessage()} ({record.exc_info[1]!r})" if record.exc_info else record.getMessage()
                )

    logger = logging.getLogger("durable")
    handler = Alarms(logging.ERROR)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield alarms
    finally:
        logger.propagate = before
        logger.removeHandler(handler)
