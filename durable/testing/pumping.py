"""Between a test's own event loop and the simulated one: a pump that runs the latter a little at a time, and faces.

Theory of operation. What a test awaits is a future of the test's loop; behind it a task of the simulated loop does the
work. While any such call is open, the pump, a callback of the test's loop, runs the simulated loop in short bursts. After an
answer the test's code comes first: simulated time stands still for some rounds of the test's loop, so that it can react
before anything else happens.

Invariant: nothing of the simulated system runs, and no simulated time passes, while the test awaits nothing of it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, ClassVar, NamedTuple, TypeVar

from durable.client import Client, Handle
from durable.client.faces import END, Face, face_of, next_of
from durable.errors import DurableError
from durable.testing.simulation.loop import NothingLeftToDoError, Process
from durable.testing.simulation.world import World, is_users_code

T = TypeVar("T")

BURST_STEPS = 50
"""Steps of the simulated loop between two looks at the test's: well under a millisecond."""

PATIENCE_ROUNDS = 20
"""Rounds of the test's loop after an answer: as many wake-ups in a row its code may need to come to its next call."""

GRACE_S = 1.0
"""So long, in real time, what can only come from other tasks of the test's loop is waited for. Enough for a call over a
local socket; a test that waits for nothing at all need not wait longer to be told."""

CALL_STEPS_MAX = 20_000_000
"""Steps of one call, more than a minute of work: what takes longer goes round in circles."""


class _Call(NamedTuple):
    """A call that the test awaits: where it awaits it, who does so, and until which step it may take."""

    waiter: asyncio.Future[None]
    caller: asyncio.Task[Any] | None
    steps_max: int


class Pump:
    """Runs a world while somebody in another loop awaits something of it. Made in that loop.

    `describe`: says where the system stands, for an error.
    """

    def __init__(self, world: World, process: Process, describe: Callable[[], str]) -> None:
        self._world = world
        self._process = process
        self._describe = describe
        self._outer = asyncio.get_running_loop()
        self._calls: dict[asyncio.Task[Any], _Call] = {}
        self._patience = 0
        self._is_closed = False
        self._next: asyncio.Handle | None = None

    async def call(self, function: Callable[..., Coroutine[Any, Any, T]], /, *arguments: Any, **options: Any) -> T:
        """Run a coroutine function in the simulated loop; return what it returns, raise what it raises.

        Raises NothingLeftToDoError if it waits for something that can never happen, DurableError when all is over.
        """
        if asyncio.get_running_loop() is not self._outer:
            raise DurableError("this environment was entered in another event loop, and only there it can be used")
        if self._is_closed:
            raise DurableError("this environment is over: use it inside of its `async with`")
        loop = self._world.loop
        task: asyncio.Task[T] = loop.spawn(self._process, in_users_name(function, *arguments, **options))
        waiter: asyncio.Future[None] = self._outer.create_future()
        self._calls[task] = _Call(waiter, asyncio.current_task(self._outer), loop.steps + CALL_STEPS_MAX)
        task.add_done_callback(self._answer)
        self._world.stir()
        self._schedule()
        try:
            await waiter
        finally:
            self._calls.pop(task, None)
            if not task.done():
                task.add_done_callback(_looked_at)
                task.cancel()
        return task.result()

    def close(self) -> None:
        """Run nothing any more. Whoever still waits is told."""
        self._is_closed = True
        self._cancel()
        self._fail(DurableError("the environment was left while this was awaited"))

    def _answer(self, task: asyncio.Task[Any]) -> None:
        call = self._calls.pop(task, None)
        if call is not None and not call.waiter.done():
            call.waiter.set_result(None)
            self._patience = PATIENCE_ROUNDS

    def _schedule(self) -> None:
        self._cancel()
        self._next = self._outer.call_soon(self._run)

    def _cancel(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _run(self) -> None:
        self._next = None
        if self._patience > 0:
            self._patience -= 1
        elif not self._calls:
            return
        elif not self._burst():
            self._rest()
            return
        self._next = self._outer.call_soon(self._run)

    def _burst(self) -> bool:
        """Run some steps, until somebody gets an answer; return whether there may be more to do."""
        loop = self._world.loop
        with loop.running():
            for _ in range(BURST_STEPS):
                if not loop.step() or self._world.is_at_rest:
                    return False
                if self._patience:
                    break
        for call in list(self._calls.values()):
            if loop.steps > call.steps_max and not call.waiter.done():
                call.waiter.set_exception(NothingLeftToDoError(going_round(self._describe())))
        return True

    def _rest(self) -> None:
        """Only the test can make anything happen now. If it has no task that could, or none does, say so."""
        waiting = {call.caller for call in self._calls.values()}
        if asyncio.all_tasks(self._outer) <= waiting:
            self._give_up()
        else:
            self._next = self._outer.call_later(GRACE_S, self._give_up)

    def _give_up(self) -> None:
        self._next = None
        self._fail(NothingLeftToDoError(at_rest(self._describe())))

    def _fail(self, error: DurableError) -> None:
        for call in self._calls.values():
            if not call.waiter.done():
                call.waiter.set_exception(error)


async def in_users_name(function: Callable[..., Coroutine[Any, Any, T]], /, *arguments: Any, **options: Any) -> T:
    """Call and await a coroutine function as the user's code, so that the times that it waits for count as awaited."""
    is_users_code.set(True)
    return await function(*arguments, **options)


def at_rest(standing: str) -> str:
    """Return the text of an error about something that will never happen."""
    return f"what is awaited can never happen: nothing is left to do. {standing}"


def going_round(standing: str) -> str:
    """Return the text of an error about something that does not happen in a very long time."""
    return f"what is awaited has not happened after {CALL_STEPS_MAX:,} steps of the simulation. {standing}"


def _looked_at(task: asyncio.Task[Any]) -> None:
    """Nobody waits for it any more, so what it raises is no news."""
    if not task.cancelled():
        task.exception()


class PumpedFace(Face):
    """The face of what lives in the simulated loop, for code in another loop: the same, awaited there."""

    __slots__ = ()

    faces: ClassVar[dict[type, type[Face]]] = {}

    @property  # type: ignore[misc]  # nobody sets it
    def __class__(self) -> type:
        """The class that it stands for, so that `isinstance` holds."""
        kind: type = type(self._behind)
        return kind

    @staticmethod
    def waiting(method: Callable[..., Any]) -> Callable[..., Any]:
        """Forward a coroutine function."""

        @functools.wraps(method)
        async def call(self: Any, /, *arguments: Any, **options: Any) -> Any:
            return self._shown(await self._portal.call(method, self._behind, *arguments, **options))

        return call

    @staticmethod
    def iterating(method: Callable[..., Any]) -> Callable[..., Any]:
        """Forward an asynchronous generator."""

        @functools.wraps(method)
        async def call(self: Any, /, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
            behind = method(self._behind, *arguments, **options)
            try:
                while (item := await self._portal.call(next_of, behind)) is not END:
                    yield self._shown(item)
            finally:
                await self._portal.call(behind.aclose)

        return call

    def _shown(self, answer: Any) -> Any:
        """As for every face; what else there is of the package that must be awaited gets a face when it is first seen."""
        kind = type(answer)
        if kind not in self.faces and _is_awaited(kind):
            face_of(kind, kind.__name__, base=PumpedFace)
        return super()._shown(answer)


def _is_awaited(kind: type) -> bool:
    if not kind.__module__.startswith("durable."):
        return False
    members = [member for owner in kind.__mro__ for name, member in vars(owner).items() if not name.startswith("_")]
    return any(inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member) for member in members)


class _EnteredClient(PumpedFace):
    """A client that is open as long as its environment: entering it changes nothing."""

    __slots__ = ()

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass


ClientFace = face_of(
    Client, "Client", base=_EnteredClient, without=frozenset({"close", "connection", "sharing", "sync"})
)
face_of(Handle, "Handle", base=PumpedFace)
