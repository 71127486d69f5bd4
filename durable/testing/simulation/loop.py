"""One thread, one order, and a clock that moves only when nothing else can: the loop on which a whole system is simulated.

Theory of operation. Callbacks wait in a queue, timers in a heap. When the queue is empty, time jumps to the earliest timer.
Every callback belongs to a `Process`, which it finds in its context; nothing of a dead process is ever run again (that is
`kill -9`: no `finally`, no `except`), and what a stopped one would have done waits until it goes on (SIGSTOP, SIGCONT).

Invariant: the same callbacks in the same order give the same run. Nothing here looks at a clock, a file or a thread.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import heapq
import itertools
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NoReturn, TypeVar

from durable.engine.loop import close_thoroughly
from durable.errors import DurableError

T = TypeVar("T")

FAR_S = 5.5
"""Workers and clients look around every five seconds at the longest; who waits for longer waits for something."""


DUE_ROUNDS = 3
"""How often what is due may set a timer for the very moment before it counts as a later one."""


class Process:
    """A simulated operating-system process: what can be killed and stopped as a whole."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_dead = False
        self.is_stopped = False
        self.held: list[SimulatedHandle] = []  # what it would have done while it was stopped
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.context = contextvars.copy_context()
        self.context.run(current_process.set, self)

    def kill(self) -> None:
        """End it at once; none of its code runs any more."""
        self.is_dead = True
        self.held.clear()

    def __repr__(self) -> str:
        return f"<Process {self.name}{', dead' if self.is_dead else ', stopped' if self.is_stopped else ''}>"


current_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar(
    "durable_simulated_process", default=None
)


class SimulatedHandle(asyncio.Handle):
    """A callback in the queue, with its process."""

    __slots__ = ("process",)

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: SimulatedLoop,
        context: contextvars.Context | None,
    ) -> None:
        context = context if context is not None else contextvars.copy_context()
        super().__init__(callback, args, loop, context)
        self.process = context.get(current_process)


class SimulatedTimer(asyncio.TimerHandle):
    """A timer, with its process. `is_far`: it was set for a time that no regular look around waits for."""

    __slots__ = ("is_far", "process")

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: SimulatedLoop,
        context: contextvars.Context | None,
    ) -> None:
        context = context if context is not None else contextvars.copy_context()
        super().__init__(when, callback, args, loop, context)
        self.process = context.get(current_process)
        self.is_far = when - loop.time() > FAR_S

    def fits(self, where: Callable[[Callable[..., object], contextvars.Context], bool]) -> bool:
        """Tell whether `where` is true of the callback and its context."""
        return where(self._callback, self._context)  # type: ignore[attr-defined]


class KilledError(BaseException):
    """Raised where a killed process is in the middle of plain code that runs the loop: it cannot just be left there."""


class NothingLeftToDoError(DurableError):
    """Somebody waits, and there is no timer and no callback that could ever wake them."""


class SimulatedLoop(asyncio.AbstractEventLoop):
    """An event loop in simulated time. `time()` begins at 0 and counts seconds.

    `before_time_moves(to)`, if set, is asked before the clock moves to the next timer, and returns where it moves instead:
    `to` or later, if everything up to there is known to be idle.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.causes: list[BaseException] = []  # of those errors that were exceptions
        self.steps = 0
        self.before_time_moves: Callable[[float], float] | None = None
        self._now = 0.0
        self._ready: collections.deque[Any] = collections.deque()
        self._timers: list[tuple[float, int, SimulatedTimer]] = []
        self._order = itertools.count()
        self._is_closed = False

    # ---- time and callbacks

    def time(self) -> float:
        """Return the simulated seconds since the loop was made."""
        return self._now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Add a callback to the queue."""
        handle = SimulatedHandle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]  # there is one thread

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Call back after `delay` seconds."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Call back at a time of this loop, which is whole in microseconds: what is due at one time happens at one time."""
        when = round(when, 6)
        timer = SimulatedTimer(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Called by `TimerHandle.cancel`; it is passed over when its time comes."""

    # ---- running

    def step(self) -> bool:
        """Run everything that is ready, else move the clock to the next timer. False if there is none."""
        if not self._ready and not self._move_clock():
            return False
        ready = self._ready
        for _ in range(len(ready)):
            if not ready:
                break  # a callback has run the loop itself, see `run_until_complete`
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle.process
            if process is not None and (process.is_dead or process.is_stopped):
                if process.is_stopped and not process.is_dead:
                    process.held.append(handle)
                continue
            self.steps += 1
            handle._run()
        return True

    def _move_clock(self) -> bool:
        timers = self._timers
        while timers and (timers[0][2]._cancelled or _is_dead(timers[0][2])):
            heapq.heappop(timers)
        if not timers:
            return False
        if timers[0][0] > self._now:
            to = timers[0][0]
            self._now = max(to, self.before_time_moves(to)) if self.before_time_moves else to
        while timers and timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(timers)[2])
        return True

    def timers_of(self, process: Process) -> int:
        """Count the timers that a process has set."""
        return sum(timer.process is process and not timer._cancelled for _, _, timer in self._timers)

    def next_far_timer(self) -> float | None:
        """Return the earliest time for which somebody has set a far timer, None for none."""
        return self._earliest(lambda timer: timer.is_far)

    def next_timer(self, where: Callable[[Callable[..., object], contextvars.Context], bool]) -> float | None:
        """Return the earliest time to come at which a timer is set of whose callback and context `where` is true."""
        return self._earliest(lambda timer: timer.when() > self._now and timer.fits(where))

    def _earliest(self, where: Callable[[SimulatedTimer], bool]) -> float | None:
        times = (at for at, _, timer in self._timers if not timer._cancelled and not _is_dead(timer) and where(timer))
        return min(times, default=None)

    async def wait_until(self, when: float) -> None:
        """Wait until a time of this loop has come, and all that was due by then has been done."""
        for _ in range(DUE_ROUNDS):  # a timer is looked at only when nothing is ready
            future = self.create_future()
            self.call_at(max(when, self._now), future.set_result, None)
            await future

    def go_on(self, process: Process) -> None:
        """Let a stopped process do what it would have done meanwhile, and go on."""
        process.is_stopped = False
        self._ready.extend(process.held)
        process.held.clear()

    def run_until_complete(self, future: Any) -> Any:  # the types of asyncio's own are for its own loop
        """Run until `future` (or a coroutine) is done; return its result or raise its error.

        Also from a callback of this loop that has taken it off (see `NoThreads`): a sync activity that uses its client.
        """
        with self.running():
            future = asyncio.ensure_future(future, loop=self)
            process = current_process.get()
            while not future.done():
                if process is not None and process.is_dead:
                    raise KilledError(f"{process.name} was killed here")
                if not self.step():
                    future.cancel()
                    self.step()
                    raise NothingLeftToDoError("nothing is left to do, and what is awaited has not happened")
            return future.result()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Be the running loop of this thread, inside whatever loop runs it."""
        outer, task = asyncio._get_running_loop(), None
        if outer is self:
            raise DurableError("the simulated loop is running already")
        if outer is not None:
            task = asyncio.current_task(outer)
            if task is not None:
                asyncio.tasks._leave_task(outer, task)
        asyncio._set_running_loop(self)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(None, None)  # the outer loop must not come to own what is iterated here
        try:
            yield
        finally:
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(outer)
            if outer is not None and task is not None:
                asyncio.tasks._enter_task(outer, task)

    def is_running(self) -> bool:
        """True inside of `running`."""
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        """True after `close`."""
        return self._is_closed

    def close(self) -> None:
        """Run nothing any more, and let go of everything that was going to be."""
        self._is_closed = True
        self._ready.clear()
        self._timers.clear()

    # ---- futures and tasks

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: contextvars.Context | None = None,
        **options: Any,
    ) -> asyncio.Task[T]:
        """Run a coroutine as a task; it belongs to the process that is in its context."""
        context = context if context is not None else contextvars.copy_context()
        task = asyncio.Task(coro, loop=self, name=None if name is None else str(name), context=context)
        process = context.get(current_process)
        if process is not None:
            process.tasks[task] = None
            task.add_done_callback(process.tasks.pop)
        return task

    def spawn(self, process: Process, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine in a process."""
        return self.create_task(coroutine, context=process.context.copy())

    def bury(self, process: Process) -> None:
        """Close what a dead process was in the middle of. Its `finally` blocks run now, when nothing comes of it any more."""
        for task in list(process.tasks):
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is pending for ever, and meant to be
            coroutine: Any = task.get_coro()
            close_thoroughly(coroutine.throw)
        process.tasks.clear()

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Call a blocking function here and now: there is no other thread."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except BaseException as error:  # noqa: BLE001 (for whoever awaits it)
            future.set_exception(error)
        return future

    # ---- what asyncio asks of a loop

    def get_debug(self) -> bool:
        """False: asyncio's debug mode costs more than it shows here."""
        return False

    def set_debug(self, enabled: bool) -> None:
        """Ignore it."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Note an error that nobody handled; a run with one has failed."""
        error = context.get("exception")
        if error is not None:
            self.causes.append(error)
        self.errors.append(f"{context.get('message')}: {type(error).__name__ if error else ''} {error or ''}".strip())

    default_exception_handler = call_exception_handler

    async def shutdown_asyncgens(self) -> None:
        """Nothing is kept."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There is none."""


def _no_world(self: SimulatedLoop, *args: Any, **options: Any) -> NoReturn:
    raise DurableError(
        "in simulated time there are no sockets, processes or signals: replace the activity that wants them "
        "(`env.replace(activity, fake)`), or make it a plain function, which runs as it is"
    )


for _name in (
    "add_reader",
    "add_signal_handler",
    "add_writer",
    "connect_read_pipe",
    "connect_write_pipe",
    "create_connection",
    "create_datagram_endpoint",
    "create_server",
    "create_unix_connection",
    "create_unix_server",
    "getaddrinfo",
    "getnameinfo",
    "sendfile",
    "sock_accept",
    "sock_connect",
    "sock_recv",
    "sock_sendall",
    "start_tls",
    "subprocess_exec",
    "subprocess_shell",
):
    setattr(SimulatedLoop, _name, _no_world)


def _is_dead(timer: SimulatedTimer) -> bool:
    return timer.process is not None and timer.process.is_dead
