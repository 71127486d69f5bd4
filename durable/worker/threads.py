"""Threads for sync activities: daemons, because nobody can stop a thread and a process must be able to end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class DaemonThreads:
    """A pool that grows on demand up to `limit`; a task beyond that waits its turn."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0

    def submit(self, task: Callable[[], None]) -> None:
        """Run `task` in a thread. It must not raise."""
        if not self._idle.acquire(blocking=False) and self._count < self._limit:
            self._count += 1
            threading.Thread(target=self._run, name=f"{self._name}-{self._count}", daemon=True).start()
        self._tasks.put(task)

    def close(self) -> None:
        """Let idle threads end; a busy one ends after its task."""
        for _ in range(self._count):
            self._tasks.put(None)
        self._count = 0

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            del task
            self._idle.release()
