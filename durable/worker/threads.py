"""Threads for sync activities: daemons, because nobody can stop a thread and a process must be able to end."""

from __future__ import annotations

import asyncio
import collections
import itertools
import threading
from collections.abc import Callable
from typing import Protocol

IDLE_S = 10.0
"""How long a thread waits for another task before it ends: a storm leaves nothing behind."""


class Threads(Protocol):
    """Where sync activities run."""

    def submit(self, task: Callable[[], None]) -> None:
        """Run `task`, soon. It must not raise."""
        ...

    def close(self) -> None:
        """Let go of what is idle."""
        ...


class NoThreads:
    """Runs each task in the event loop, which does nothing else meanwhile: for simulations, where one thread is all."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def submit(self, task: Callable[[], None]) -> None:
        """Run `task` as the next callback but those that are ready."""
        self._loop.call_soon(self._run, task)

    def _run(self, task: Callable[[], None]) -> None:
        """Run it as in a thread: no event loop is running there, so that it may run one of its own."""
        asyncio._set_running_loop(None)
        try:
            task()
        finally:
            asyncio._set_running_loop(self._loop)

    def close(self) -> None:
        """Nothing is ever idle."""


class DaemonThreads:
    """A pool that grows on demand up to `limit`, and shrinks when idle; a task beyond the limit waits its turn."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()  # guards what follows
        self._tasks: collections.deque[Callable[[], None]] = collections.deque()
        self._threads = 0
        self._waiting = 0  # threads without a task, also those that are just being started
        self._is_closed = False

    def submit(self, task: Callable[[], None]) -> None:
        """Run `task` in a thread. It must not raise."""
        with self._changed:
            self._tasks.append(task)
            is_short = len(self._tasks) > self._waiting and self._threads < self._limit
            self._threads += is_short
            self._waiting += is_short
            self._changed.notify()
        if is_short:
            threading.Thread(target=self._run, name=f"{self._name}-{next(self._numbers)}", daemon=True).start()

    def close(self) -> None:
        """Let idle threads end; a busy one ends after its task."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while (task := self._next()) is not None:
            task()
            del task
            with self._changed:
                self._waiting += 1

    def _next(self) -> Callable[[], None] | None:
        """Wait for a task; None if the thread is to end."""
        with self._changed:
            while not self._tasks:
                is_told = not self._is_closed and self._changed.wait(IDLE_S)
                if not is_told and not self._tasks:
                    self._threads -= 1
                    self._waiting -= 1
                    return None
            self._waiting -= 1
            return self._tasks.popleft()
