"""The event loop on which async orchestrators run: a ready queue and durable timers, and nothing else.

Theory of operation. For the length of a turn this loop is set as the running loop of the thread, inside the worker's own
loop. Everything that asyncio builds from callbacks and timers (`gather`, `TaskGroup`, `timeout`, `Lock`, `Queue`, …) works
on it, and every wake-up has one order: that of the ready queue. Whatever would reach outside (threads, sockets, signals,
subprocesses) raises `NonDurableAwaitError` where it is called.

Invariant: nothing runs between two calls of `run_until_idle`. No callback is added from another thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine
from types import FrameType
from typing import Any, NoReturn, Protocol

from durable import places
from durable.errors import TurnBudgetExceededError
from durable.places import FOREIGN, OF_ANOTHER, UNKNOWN, folder_and_file, own_files
from durable.timers import whole_us

STEPS_MAX = 1_000_000
"""Callbacks that one turn may run: an endless `while True: await asyncio.sleep(0)` ends here."""

CLOSES_MAX = 100
"""Waits in the `finally` blocks of one coroutine that are still gone through when it is closed."""


class GenerationEnded(BaseException):
    """Raised through user code when nothing that it does counts any more."""


class TimerHost(Protocol):
    """Who makes the loop's timers durable: the execution."""

    def create_loop_timer(self, due: int, fire: Callable[[], None]) -> int:
        """Ask for a timer due at `due` microseconds UTC; return its task id. `fire` is called when it has fired."""
        ...

    def drop_timer(self, task_id: int) -> None:
        """Give the timer up."""
        ...

    @property
    def time_us(self) -> int:
        """The time of the turn."""
        ...


class DurableHandle(asyncio.Handle):
    """A callback in the ready queue. Lighter than asyncio's: no source traceback, no repr of its own."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._callback: Any = callback
        self._args: Any = args
        self._context: Any = context
        self._cancelled = False
        self._loop = loop
        self._source_traceback = None
        self._repr = None


class DurableTimerHandle(asyncio.TimerHandle):
    """A durable timer behind `loop.call_at`; cancelling it is recorded."""

    __slots__ = ("task_id",)

    def cancel(self) -> None:
        """Give the timer up, unless it has fired."""
        if not self._cancelled:
            loop = self._loop  # type: ignore[attr-defined]
            super().cancel()
            if self.task_id is not None and isinstance(loop, DurableLoop):  # type: ignore[attr-defined]
                loop.host.drop_timer(self.task_id)  # type: ignore[attr-defined]


class LoopTask(asyncio.Task[Any]):
    """An asyncio task whose hash, and so its place in a set, is the same on every replay.

    The base of the hash differs between instances: asyncio keeps all tasks of the process in one set.
    """

    def __init__(self, coro: Coroutine[Any, Any, Any], *, loop: DurableLoop, name: object, **options: Any) -> None:
        self._ordinal = loop.next_ordinal()
        self.code, code = coro, getattr(coro, "cr_code", None)
        # A library's coroutine has no line of the orchestrator's: that counts where it was made a task.
        self.asked_at = asking_place(2) if code is not None and own_files[code.co_filename] else UNKNOWN
        name = self._ordinal if name is None else name  # one of asyncio's own would differ on a replay
        super().__init__(GuardedCoroutine(coro, loop), loop=loop, name=str(name), **options)

    def __hash__(self) -> int:
        return self._ordinal


class GuardedCoroutine(Coroutine[Any, Any, Any]):
    """A coroutine that may await only what this loop can replay; anything else raises in it, where it awaits."""

    __slots__ = ("_inner", "_loop", "_send")

    def __init__(self, inner: Coroutine[Any, Any, Any], loop: DurableLoop) -> None:
        self._inner = inner
        self._loop = loop
        self._send = inner.send

    def send(self, value: Any) -> Any:
        """Run to the next await."""
        try:
            awaited = self._send(value)
        except (RuntimeError, ValueError) as error:
            self._explain(error)
            raise
        return awaited if awaited is None or getattr(awaited, "_loop", None) is self._loop else self._refuse(awaited)

    def throw(self, *args: Any) -> Any:
        """Raise inside the coroutine and run to the next await."""
        try:
            awaited = self._inner.throw(*args)
        except (RuntimeError, ValueError) as error:
            self._explain(error)
            raise
        finally:
            args = ()  # an error, whose stack holds this frame
        return awaited if awaited is None or getattr(awaited, "_loop", None) is self._loop else self._refuse(awaited)

    def close(self) -> None:
        """Close the coroutine."""
        self._inner.close()

    def __await__(self) -> Any:
        return self._inner.__await__()

    def _refuse(self, awaited: object) -> Any:
        what = f"{awaited!r:.200}"
        if asyncio.isfuture(awaited):
            what = OF_ANOTHER if isinstance(awaited.get_loop(), DurableLoop) else FOREIGN
            awaited._asyncio_future_blocking = False  # whoever may await it shall find it as it was
        place = places.awaiting_location(self._inner)
        return self.throw(self._loop.refusal(what, _place_of_task() if place is UNKNOWN else place))

    def _explain(self, error: Exception) -> None:
        """Raise in place of what asyncio itself says of something of another event loop."""
        if (place := places.place_of_foreign(error)) is not None:
            raise self._loop.refusal(FOREIGN, place) from error


def user_frame(depth: int = 1) -> FrameType | None:
    """Return the innermost frame on the stack that is the orchestrator's; None if the loop itself is acting."""
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None and own_files[frame.f_code.co_filename]:
        # Below a turn lies the worker, and below that the program that runs it: not who asked.
        frame = None if frame.f_code is _ENTERS or frame.f_code is _RUNS_CALLBACKS else frame.f_back
    return frame


def user_place() -> str:
    """Return `folder/file.py:line` of the user's code that is asking."""
    frame = user_frame(3)
    if frame is None:
        return ""
    return f"{folder_and_file(frame.f_code.co_filename)}:{frame.f_lineno}"


class DurableLoop(asyncio.AbstractEventLoop):
    """The loop of one execution."""

    def __init__(self, host: TimerHost, instance_id: str) -> None:
        self._instance_id = instance_id
        self.host: TimerHost = weakref.proxy(host)  # it holds this loop: a circle would wait for the garbage collector
        self.context = contextvars.Context()
        self.refusal = places.non_durable  # of (what, place): the error for what cannot be awaited here
        self._tasks: list[LoopTask] = []
        self.is_closing = False
        self.is_stopped = False
        self.steps = 0
        self._ordinal = 0
        self._ready: list[asyncio.Handle] = []
        self._generators: list[AsyncGenerator[Any, Any]] = []

    def check_access(self) -> None:
        """Raise DurableError unless the caller is the code of this execution, in its turn."""
        if asyncio._get_running_loop() is not self:
            raise places.out_of_turn(self._instance_id)

    def number_from(self, base: int) -> None:
        """Begin the numbers, and so the hashes, of tasks at `base`: other instances have other ones."""
        self._ordinal = base

    def next_ordinal(self) -> int:
        """Return the next number that identifies a task of this execution on every replay."""
        self._ordinal += 1
        return self._ordinal

    @property
    def mark(self) -> tuple[int, int]:
        """What differs afterwards if anything was begun or woken here."""
        return self._ordinal, len(self._ready)

    # ---- running

    def enter(self, deliver: Callable[[Any, Any], None], execution: object, event: object) -> None:
        """Deliver an arrival: what is asked for in there is the engine's wish, not that of any line of the code."""
        deliver(execution, event)

    def run_until_idle(self) -> None:
        """Run callbacks until none is ready, or until one of them called `stop`."""
        try:
            while self._ready:
                ready, self._ready = self._ready, []
                for handle in ready:
                    if handle._cancelled:
                        continue
                    self.steps += 1
                    if self.steps > STEPS_MAX:
                        raise TurnBudgetExceededError(f"the turn ran {STEPS_MAX:,} loop steps without coming to rest")
                    handle._context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]
                    if self.is_stopped:
                        return
        finally:
            self._ready.clear()
            ready, handle = [], None  # type: ignore[assignment]  # they lead to an error, whose stack holds this frame

    def stop(self) -> None:
        """Run nothing after the present callback."""
        self.is_stopped = True

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Add a callback to the ready queue."""
        self.check_access()
        handle = DurableHandle(callback, args, self, context if context is not None else contextvars.copy_context())
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Set a durable timer, `delay` seconds from the time of the turn."""
        return self._set_timer(self.host.time_us + whole_us(delay), callback, args, context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Set a durable timer for `when`, in seconds since 1970 UTC."""
        return self._set_timer(whole_us(when), callback, args, context)

    def _set_timer(
        self, due: int, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context | None
    ) -> asyncio.TimerHandle:
        handle = DurableTimerHandle(
            due / 1e6, callback, args, self, context if context is not None else contextvars.copy_context()
        )
        handle.task_id = None  # type: ignore[attr-defined]

        def fire() -> None:
            handle.task_id = None  # type: ignore[attr-defined]
            if not handle._cancelled:
                self._ready.append(handle)

        handle.task_id = self.host.create_loop_timer(due, fire)  # type: ignore[attr-defined]
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Called by TimerHandle.cancel; the durable side is DurableTimerHandle's."""

    def time(self) -> float:
        """Return the time of the turn, in seconds since 1970 UTC."""
        return self.host.time_us / 1e6

    # ---- making futures and tasks

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of this loop."""
        caller = sys._getframe(1)
        if caller.f_code is _WRAPS_FUTURE:  # it would be settled from another thread
            self.call_soon_threadsafe(self.stop)
        if caller.f_code is _WAIT or caller.f_code is _WAIT_FOR:
            awaited = caller.f_locals.get("fs") or [caller.f_locals.get("fut")]
            if any(asyncio.isfuture(future) and future.get_loop() is not self for future in awaited):
                raise self.refusal(FOREIGN, asking_place(2))
        return LoopFuture(loop=self)

    def create_task(self, coro: Any, *, name: object = None, context: Any = None, **options: Any) -> LoopTask:
        """Run a coroutine as a task of this loop; what is awaited already, such as an activity, is waited for."""
        awaited = coro if asyncio.isfuture(coro) and coro.get_loop() is self else None
        if awaited is None and not asyncio.iscoroutine(coro):
            raise TypeError(f"a coroutine was expected, got {coro!r:.200}")
        context = context if context is not None else contextvars.copy_context()
        task = LoopTask(coro if awaited is None else _outcome(awaited), loop=self, name=name, context=context)
        if awaited is not None:  # also when the task is cancelled before its first step
            task.add_done_callback(lambda ended: ended.cancelled() and awaited.cancel())
        self._tasks.append(task)
        if len(self._tasks) % 1024 == 0:  # forget finished ones now and then, so that memory follows what is alive
            self._tasks = [known for known in self._tasks if not known.done()]
        return task

    def has_left(self, error: BaseException | None) -> bool:
        """Tell whether an exception has left a coroutine that was run as a task."""
        ended = (task for task in self._tasks if task.done() and not task.cancelled())
        return any(task._exception is error for task in ended)

    def get_debug(self) -> bool:
        """Debug mode of asyncio is never on here."""
        return False

    def is_running(self) -> bool:
        """True while the execution lives."""
        return not self.is_closing

    def is_closed(self) -> bool:
        """False: futures may still be made while the execution is being closed."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Ignore asyncio's remarks on tasks that nobody awaited: they come from the garbage collector, at any time."""

    default_exception_handler = call_exception_handler

    # ---- asynchronous generators

    def adopt_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Keep a started generator until the end: collecting it early would run its `finally` at a random time."""
        if len(self._generators) % 256 == 255:
            self._generators = [known for known in self._generators if getattr(known, "ag_frame", None) is not None]
        self._generators.append(generator)

    def close_everything(self) -> None:
        """Close suspended tasks and generators, newest first. Their `finally` blocks run; nothing comes of it."""
        self.is_closing = True
        self._ready.clear()
        for _ in range(CLOSES_MAX):  # a `finally` block may make new ones
            tasks, generators = self._tasks[::-1], self._generators[::-1]
            if not tasks and not generators:
                break
            self._tasks.clear()
            self._generators.clear()
            for task in tasks:
                asyncio.tasks._enter_task(self, task)  # asyncio's own context managers ask which task they are in
                close_thoroughly(task.code.throw)
                asyncio.tasks._leave_task(self, task)
            for generator in generators:  # what no task was in the middle of
                _close_generator(generator)
            self._ready.clear()


async def _outcome(awaited: asyncio.Future[Any]) -> Any:
    return await awaited


class LoopFuture(asyncio.Future[Any]):
    """A plain future whose hash is the same on every replay."""

    def __init__(self, *, loop: DurableLoop) -> None:
        self._ordinal = loop.next_ordinal()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._ordinal


def _gathering_hash(future: Any) -> int:
    """Number what `asyncio.gather` returns on a durable loop; asyncio makes it itself, and it would hash by its address."""
    if not isinstance(future.get_loop(), DurableLoop):
        return object.__hash__(future)
    if not hasattr(future, "_ordinal"):
        future._ordinal = future.get_loop().next_ordinal()
    return int(future._ordinal)


asyncio.tasks._GatheringFuture.__hash__ = _gathering_hash  # type: ignore[attr-defined]


def close_thoroughly(throw: Callable[[BaseException], Any]) -> None:
    """Raise in suspended code, wherever it waits, until it has ended: nobody is left to hear what its `finally` blocks say.

    `coroutine.close()` will not do: where a block waits, it leaves the rest to whenever the garbage collector comes by.
    """
    for _ in range(CLOSES_MAX):
        try:
            awaited = throw(GenerationEnded())
        except BaseException:  # noqa: BLE001 (it has ended, by whatever its code raised)
            return
        if asyncio.isfuture(awaited):
            awaited._asyncio_future_blocking = False  # it may be awaited again, as if nothing had been


def _close_generator(generator: AsyncGenerator[Any, Any]) -> None:
    closing = generator.aclose()
    try:
        closing.send(None)
    except BaseException:  # noqa: BLE001 (as above)
        return
    close_thoroughly(closing.throw)


def asking_place(depth: int) -> str:
    """Return `file:line` of the orchestrator's code that is asking, that many calls above."""
    frame = user_frame(depth + 1)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else _place_of_task()


def _place_of_task() -> str:
    task = None if asyncio._get_running_loop() is None else asyncio.current_task()
    return task.asked_at if isinstance(task, LoopTask) else UNKNOWN


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refused(self: DurableLoop, *args: Any, **options: Any) -> NoReturn:
        raise self.refusal(f"what needs `loop.{name}`", asking_place(2))

    return refused


_REFUSED = [
    name
    for name in dir(asyncio.AbstractEventLoop)
    if not name.startswith("_") and name not in vars(DurableLoop) and callable(getattr(asyncio.AbstractEventLoop, name))
]
for _name in _REFUSED:
    setattr(DurableLoop, _name, _refuse(_name))
_WRAPS_FUTURE = asyncio.wrap_future.__code__
_WAIT = asyncio.tasks._wait.__code__  # type: ignore[attr-defined]
_WAIT_FOR = asyncio.wait_for.__code__
_ENTERS = DurableLoop.enter.__code__
_RUNS_CALLBACKS = DurableLoop.run_until_idle.__code__
# What is abstract in the base class is now defined, one way or the other.
DurableLoop.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


def run_inside(loop: DurableLoop, function: Callable[..., None], *args: Any) -> None:
    """Call a function with `loop` as the running loop of this thread, inside whatever loop runs it."""
    outer = asyncio._get_running_loop()
    hooks = sys.get_asyncgen_hooks()
    asyncio._set_running_loop(loop)
    sys.set_asyncgen_hooks(loop.adopt_generator, _leave_alone)
    try:
        function(*args)
    finally:
        sys.set_asyncgen_hooks(*hooks)
        asyncio._set_running_loop(outer)


def _leave_alone(generator: AsyncGenerator[Any, Any]) -> None:
    """Adopted generators live until the execution is closed: nothing is left to finalise."""
