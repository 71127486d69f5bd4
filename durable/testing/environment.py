"""A user's app in memory and in simulated time, for tests: `Environment`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import traceback
from collections.abc import Callable, Coroutine, Iterator
from datetime import datetime, timedelta
from typing import Any, Final, Self, TypeVar, cast

from durable.app import App
from durable.client import Client
from durable.client.times import microseconds_of
from durable.errors import DurableError
from durable.events import InstanceKey
from durable.history import read_history, utc_datetime
from durable.ids import check_instance_id
from durable.injection import Dependencies
from durable.signatures import AnyFunction
from durable.testing.pumping import CALL_STEPS_MAX, ClientFace, Pump, at_rest, going_round, in_users_name
from durable.testing.simulation.faults import Schedule
from durable.testing.simulation.loop import NothingLeftToDoError, Process
from durable.testing.simulation.world import START_US, World
from durable.testing.standing import at_once, standing
from durable.testing.substitutes import Substitutes
from durable.testing.transcripts import transcript

T = TypeVar("T")

CLIENT: Final = "test"

QUIET_S: Final = 6.0
"""Before time leaps: longer than a look around, and than any timer that is not far by the loop's reckoning."""

_numbers = itertools.count(1)


class Environment:
    """An app with a store in memory, one worker and simulated time, for the length of a test.

    `async with Environment(app) as env:` works in a coroutine of any event loop; `Environment(app).run(test)` runs
    `async def test(env)` from plain code, in simulated time altogether (`asyncio.sleep` included). Time begins at `start` (an
    aware datetime; None: 2026-01-01, 00:00 UTC) and passes only while something of the environment is awaited: then it
    leaps to whatever happens next. The same `seed` gives the same ids and the same order of everything.

    Activities run as they are, in the one thread there is, unless they are replaced. `dependencies` are those of the worker,
    values or factories; what is missing there raises when it is used. On leaving, exceptions that nobody
    handled are raised as a DurableError. It is used once.
    """

    def __init__(
        self,
        app: App,
        *,
        start: datetime | None = None,
        seed: int = 0,
        dependencies: Dependencies | None = None,
    ) -> None:
        """Raises TypeError or ValueError for a `start` that is no aware datetime."""
        if not isinstance(app, App):
            raise TypeError(f"an Environment is for an App, not for {app!r:.200}")
        self._app = app
        self._start_us = START_US if start is None else microseconds_of(start, "start")
        self._seed = seed
        self._substitutes = Substitutes(app)
        self._dependencies = dependencies
        self._world: World | None = None
        self._process: Process | None = None
        self._client: Client | None = None
        self._pump: Pump | None = None
        self._leaving = contextlib.ExitStack()

    # ---- life

    async def __aenter__(self) -> Self:
        self._leaving.enter_context(self._begun())
        self._pump = Pump(self._open_world, self._open_process, self._standing)
        self._client = cast("Client", ClientFace(self._pump, self.client))
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        assert self._pump is not None
        self._pump.close()
        self._leaving.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)

    def run(self, function: Callable[[Environment], Coroutine[Any, Any, T]]) -> T:
        """Run `async def function(env)` in simulated time; return what it returns, raise what it raises.

        Raises NothingLeftToDoError, with the line, if it waits for what can never happen.
        """
        if asyncio._get_running_loop() is not None:
            raise DurableError("an event loop is running here: use `async with Environment(app) as env:`")
        with self._begun():
            world = self._open_world
            with world.loop.running():
                task = world.loop.spawn(self._open_process, in_users_name(function, self))
                self._drive(task)
            return task.result()

    def _drive(self, task: asyncio.Task[Any]) -> None:
        """Run the simulated loop until the test's own task is done, or can never be."""
        world = self._open_world
        while not task.done():
            is_round = world.loop.steps >= CALL_STEPS_MAX
            if world.is_at_rest or is_round or not world.loop.step():
                place = "".join(traceback.format_list(traceback.StackSummary.extract(_frames(task))))
                text = (going_round if is_round else at_rest)(self._standing())
                task.cancel()
                world.stir()
                while not task.done() and world.loop.step() and not world.is_at_rest:
                    pass
                raise NothingLeftToDoError(f"{text}\nThe test waits here:\n{place}")

    @contextlib.contextmanager
    def _begun(self) -> Iterator[None]:
        if self._world is not None:
            raise DurableError("an Environment is used once; make a new one")
        world = World(
            Schedule(self._seed, latency_s_max=0.0),
            f"memory://environment-{next(_numbers)}?until=closed",
            [self._app],
            stage=self._substitutes.stage,
            dependencies=self._dependencies,
            start_us=self._start_us,
            quiet_s=QUIET_S,
        )
        self._world = world
        try:
            with world.loop.running():
                _finish(world, world.loop.spawn(world.root, world.begin()))
                self._process, self._client = world.client(CLIENT)
                _finish(world, world.loop.spawn(self._process, self._client.__aenter__()))
            yield
        finally:
            with world.loop.running():
                _finish(world, world.loop.spawn(world.root, world.end()))
                _finish(world, world.loop.spawn(world.root, world.close()))
            world.bury()
            self._client = None
        self._check(world)

    @staticmethod
    def _check(world: World) -> None:
        """Raise what nobody has handled, and what should never be."""
        problems = [*world.loop.errors, *world.monitor.violations]
        if problems:
            cause = world.loop.causes[0] if world.loop.causes else None
            raise DurableError("nobody handled this in the environment: " + "; ".join(problems)) from cause

    # ---- for the test

    @property
    def client(self) -> Client:
        """A client of the environment's store, to be used without entering it. Waiting for a result skips idle time."""
        if self._client is None:
            raise self._not_open()
        return self._client

    @property
    def now(self) -> datetime:
        """The simulated time, aware, in UTC."""
        return utc_datetime(self._start_us if self._world is None else self._world.now_us())

    async def advance(self, span: timedelta) -> None:
        """Let time pass; on return all that was due by then has happened. A span of 0 lets happen what is due now.

        Raises TypeError for no timedelta, ValueError for a negative one.
        """
        if not isinstance(span, timedelta):
            raise TypeError(f"advance takes a timedelta, not {span!r:.200}")
        if span < timedelta(0):
            raise ValueError(f"time cannot go back: {span}")
        if self._client is None:
            raise self._not_open()
        if self._pump is None:
            await self._pass(span)
        else:
            await self._pump.call(self._pass, span)

    async def _pass(self, span: timedelta) -> None:
        loop = self._open_world.loop
        await loop.wait_until(loop.time() + span.total_seconds())

    def replace(self, activity: AnyFunction | str, fake: AnyFunction) -> None:
        """Run `fake` instead of an activity, given by function or name, from its next attempt on.

        A fake is `f()`, `f(input)`, `f(ctx)` or `f(ctx, input)`, sync or async, whatever the activity itself is; what it
        returns must fit the activity's return annotation. Raises UnknownNameError for what is no activity of the app,
        TypeError for what is no fake.
        """
        self._substitutes.replace(activity, fake)

    def fail(self, activity: AnyFunction | str, error: BaseException | type[BaseException], times: int = 1) -> None:
        """Let the next `times` attempts of an activity raise `error` instead of running; after that it runs again.

        Raises UnknownNameError for what is no activity of the app, TypeError for no exception, ValueError for `times` < 1.
        """
        self._substitutes.fail(activity, error, times)

    def history_text(self, instance_id: str) -> str:
        """Return the history of an instance's current generation as text: one line for each event, in their order.

        The same behaviour gives the same text, so that it can be compared with a file. Raises InstanceNotFoundError.
        """
        if self._client is None:
            raise self._not_open()
        key = InstanceKey(check_instance_id(instance_id))
        return transcript(at_once(read_history(self._open_world.provider, key)))

    # ---- inside

    @property
    def _open_world(self) -> World:
        assert self._world is not None
        return self._world

    @property
    def _open_process(self) -> Process:
        assert self._process is not None
        return self._process

    def _standing(self) -> str:
        problems = "".join(f"\n  {problem}" for problem in self._open_world.loop.errors)
        text = f"It is {self.now.isoformat()}. {at_once(standing(self._open_world.provider, self._app))}"
        return f"{text}\nNobody handled:{problems}" if problems else text

    def _not_open(self) -> DurableError:
        how = "use it inside of `async with Environment(app) as env:`, or run a test with `Environment(app).run(test)`"
        return DurableError(f"this environment is {'not open' if self._world is None else 'over'}: {how}")


def _finish(world: World, task: asyncio.Task[Any]) -> None:
    while not task.done() and world.loop.step():
        pass
    task.result()


def _frames(task: asyncio.Task[Any]) -> Iterator[tuple[Any, int]]:
    """Yield where a task stands, outermost first: the user's part of it."""
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None)
        if frame is not None and not str(frame.f_globals.get("__name__", "")).startswith("durable."):
            yield frame, frame.f_lineno
        awaited = getattr(awaited, "cr_await", None)
