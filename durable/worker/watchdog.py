"""The watch over turns: a thread, because the loop cannot watch what blocks it.

A turn over SLOW_S is marked in the instance's row, so that one that kills its worker is recognised by the next one. A turn
over BUDGET_S is interrupted: an exception is raised in the thread that runs it, again and again, for code may catch it.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Protocol

from durable.engine.driver import TurnInterrupted
from durable.engine.execution import Execution

SLOW_S = 1.0
BUDGET_S = 5.0
REQUEST_S = 100e-6
"""What each request of the turn adds to its budget: a turn that asks for 100,000 activities is long, not endless."""

BUDGET_LONGEST_S = 30.0
CHECK_S = 0.1
AGAIN_S = 0.001
"""Code that catches everything is hit again and again, until it is hit where it does not."""


class TurnWatch(Protocol):
    """Who watches over turns."""

    def start(self) -> None:
        """Turns begin to be run, in the calling thread."""
        ...

    def stop(self) -> None:
        """No more turns."""
        ...

    def begin(self, execution: Execution) -> None:
        """A turn (or the replay of one record) begins."""
        ...

    def end(self) -> None:
        """It is over."""
        ...


class Unwatched:
    """Watches over nothing: where no thread may be started, an endless loop is for a person to interrupt."""

    def start(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""

    def begin(self, execution: Execution) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


class Watchdog:
    """Watches one thread's turns. `begin` and `end` are called around each; they cost well under a microsecond."""

    def __init__(self, mark_slow: Callable[[Execution], None]) -> None:
        self.budget_s = BUDGET_S
        self._mark_slow = mark_slow
        self._lock = threading.Lock()
        self._watched: tuple[Execution, float, int] | None = None  # what runs, since when, with how long a history
        self._marked: Execution | None = None
        self._thread_id = 0
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start the thread; turns are expected in the calling one."""
        self._thread_id = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="durable-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def begin(self, execution: Execution) -> None:
        """A turn (or the replay of one record) begins."""
        self._watched = (execution, time.monotonic(), execution.history_length)

    def end(self) -> None:
        """It is over; an exception that was raised too late is taken back."""
        watched, self._watched = self._watched, None
        if watched is not None and watched[0].interruption is not None:
            with self._lock:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread_id), None)

    def _watch(self) -> None:
        while not self._stopping.wait(CHECK_S):
            watched = self._watched
            if watched is None:
                continue
            execution, began, _ = watched
            took = time.monotonic() - began
            if took > SLOW_S and self._marked is not execution:
                self._marked = execution
                self._mark_slow(execution)
            while self._watched is watched and time.monotonic() - began > self._budget_of(watched):
                self._interrupt(watched)
                self._stopping.wait(AGAIN_S)

    def _interrupt(self, watched: tuple[Execution, float, int]) -> None:
        execution = watched[0]
        stack = "" if execution.interruption is not None else self._stack()
        with self._lock:
            if self._watched is not watched:
                return
            if execution.interruption is None:
                execution.interruption = (
                    f"the turn was stopped, over its budget of {self._budget_of(watched):.1f} s: an orchestrator must only "
                    f"decide and wait; loops and long computations belong in an activity. It was at:\n{stack}"
                )
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread_id), ctypes.py_object(TurnInterrupted)
            )

    def _stack(self) -> str:
        """Return the last calls of the watched thread."""
        frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001 (documented, and the only way)
        return "".join(traceback.format_stack(frame)[-12:]) if frame is not None else ""

    def _budget_of(self, watched: tuple[Execution, float, int]) -> float:
        """Return the budget of a turn, in seconds, by what it has asked for so far."""
        execution, _, events_before = watched
        asked = max(execution.history_length - events_before, 0)
        return min(self.budget_s + REQUEST_S * asked, BUDGET_LONGEST_S)
