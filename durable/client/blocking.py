"""The blocking face of asynchronous objects, for scripts and WSGI code: one portal, and faces that forward through it.

A portal is a thread with an event loop of its own. A face (see `durable.client.faces`) hands each coroutine to the portal
and waits for the answer. For type checkers the faces are written out in `sync_types.pyi`, which `_generate_sync.py` makes
from the same classes.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, ClassVar, NamedTuple, TypeVar

from durable.client.faces import END, Face, next_of
from durable.errors import DurableError

T = TypeVar("T")


class Portal:
    """A thread with an event loop. Starts with the first call, from any thread; belongs to the process that started it."""

    def __init__(
        self,
        name: str,
        *,
        begin: Callable[[], Coroutine[Any, Any, Any]],
        finish: Callable[[], Coroutine[Any, Any, Any]],
    ) -> None:
        """`begin` and `finish` are awaited in the loop, before anything else and after everything."""
        self._name = name
        self._begin = begin
        self._finish = finish
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._served: concurrent.futures.Future[_Served] = concurrent.futures.Future()
        self._failure: Exception | None = None
        self._process = 0
        self._is_closed = False

    def start(self) -> None:
        """Start, unless it has started. Raises what `begin` raises; a later call tries again."""
        self._serving()

    def call(self, function: Callable[..., Coroutine[Any, Any, T]], /, *arguments: Any, **options: Any) -> T:
        """Run a coroutine function in the portal's loop; return what it returns, raise what it raises.

        An interrupt of the waiting thread (KeyboardInterrupt) cancels it and does not wait for it.
        """
        served = self._serving()
        if threading.current_thread() is self._thread:
            raise DurableError("a blocking client was used in its own event loop: use the asynchronous Client there")
        return served.calls.wait_for(function(*arguments, **options))

    def close(self) -> None:
        """End the loop and wait for its thread. Safe to call twice, and when nothing was ever started.

        Raises, once, what `finish` raised.
        """
        if self._process not in (0, os.getpid()):
            return  # the thread lives in the process that started it
        if self._thread is threading.current_thread():
            raise DurableError("a blocking client cannot be closed in its own event loop")
        with self._lock:
            self._is_closed = True
            thread, served = self._thread, self._served
        if thread is None:
            return
        if served.exception() is None:
            try:
                served.result().loop.call_soon_threadsafe(served.result().stop.set)
            except RuntimeError:
                pass  # the loop has ended already
        thread.join()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _serving(self) -> _Served:
        if self._process not in (0, os.getpid()):  # before the lock: another thread may have held it during the fork
            raise DurableError(
                f"this blocking client was started in process {self._process}, and this is its fork {os.getpid()}: "
                "threads and connections do not survive a fork; make a client in each process, after the fork"
            )
        with self._lock:
            if self._is_closed:
                raise DurableError("this blocking client is closed")
            if self._thread is None:
                self._process = os.getpid()
                self._served = concurrent.futures.Future()
                # A daemon, so that a script which forgets to close ends all the same.
                self._thread = threading.Thread(target=self._run, args=(self._served,), name=self._name, daemon=True)
                self._thread.start()
            thread, served = self._thread, self._served
        try:
            return served.result()
        except BaseException:
            if served.done():  # it could not begin; else it is this thread that was interrupted
                thread.join()
                with self._lock:
                    if self._thread is thread:
                        self._thread = None
            raise

    def _run(self, served: concurrent.futures.Future[_Served]) -> None:
        try:
            asyncio.run(self._serve(served))
        except Exception as error:  # noqa: BLE001 (for whoever closes the portal)
            self._failure = error
        if served.exception() is None:
            served.result().calls.end()

    async def _serve(self, served: concurrent.futures.Future[_Served]) -> None:
        try:
            await self._begin()
        except BaseException as error:  # noqa: BLE001 (for whoever wants to use the portal)
            served.set_exception(error)
            return
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        served.set_result(_Served(loop, stop, Calls(loop)))
        await stop.wait()
        await self._finish()


class _Served(NamedTuple):
    """The loop of a portal that has begun, what ends it, and what waits for it."""

    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event
    calls: Calls


class Calls:
    """Coroutines in one event loop that other threads wait for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._waiting: set[concurrent.futures.Future[Any]] = set()
        self._is_over = False

    def wait_for(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for it. Whatever ends the waiting cancels it."""
        try:
            waiting = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise DurableError("this blocking client was closed a moment ago") from None
        with self._lock:
            if self._is_over:
                waiting.cancel()  # the loop may never come to it
            self._waiting.add(waiting)
        try:
            return waiting.result()
        except concurrent.futures.CancelledError:
            raise DurableError("the blocking client was closed while it was waiting") from None
        finally:
            waiting.cancel()  # of no effect on one that is done
            with self._lock:
                self._waiting.discard(waiting)

    def end(self) -> None:
        """Let go of whoever waits, now and from now on."""
        with self._lock:
            self._is_over = True
            for waiting in self._waiting:
                waiting.cancel()


class GuestPortal:
    """A portal into a loop that somebody else runs, such as a worker's: what `Portal` does, without a thread of its own."""

    def __init__(self, *, is_threaded: bool = True) -> None:
        """Called in the loop. Not `is_threaded`: there is only the loop's own thread, and so a call runs the loop itself."""
        self._loop = asyncio.get_running_loop()
        self._is_threaded = is_threaded
        self._calls = Calls(self._loop)

    def start(self) -> None:
        """It has started."""

    def call(self, function: Callable[..., Coroutine[Any, Any, T]], /, *arguments: Any, **options: Any) -> T:
        """Run a coroutine function in the loop; return what it returns, raise what it raises."""
        if asyncio._get_running_loop() is self._loop:
            raise DurableError(
                "the client of a sync activity was used in the event loop: it blocks; use it in the activity"
            )
        if not self._is_threaded:
            return self._loop.run_until_complete(function(*arguments, **options))
        return self._calls.wait_for(function(*arguments, **options))

    def close(self) -> None:
        """Nothing: whoever runs the loop ends it."""

    def end(self) -> None:
        """Let go of whoever waits; for whoever runs the loop."""
        self._calls.end()


class BlockingFace(Face):
    """The face for code without an event loop: each call waits in the thread that makes it."""

    __slots__ = ()

    faces: ClassVar[dict[type, type[Face]]] = {}

    def __init__(self, portal: Portal | GuestPortal, behind: Any) -> None:
        """For faces only: show `behind`."""
        super().__init__(portal, behind)

    @staticmethod
    def waiting(method: Callable[..., Any]) -> Callable[..., Any]:
        """Forward a coroutine function as a plain one."""

        @functools.wraps(method)
        def call(self: Any, /, *arguments: Any, **options: Any) -> Any:
            return self._shown(self._portal.call(method, self._behind, *arguments, **options))

        return call

    @staticmethod
    def iterating(method: Callable[..., Any]) -> Callable[..., Any]:
        """Forward an asynchronous generator as a plain one."""

        @functools.wraps(method)
        def call(self: Any, /, *arguments: Any, **options: Any) -> Iterator[Any]:
            behind = method(self._behind, *arguments, **options)
            try:
                while (item := self._portal.call(next_of, behind)) is not END:
                    yield self._shown(item)
            finally:
                with contextlib.suppress(DurableError):  # it may be closed by now, and all that this began with it
                    self._portal.call(behind.aclose)

        return call
