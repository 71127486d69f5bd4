"""The watch over turns: a thread, because the loop cannot watch what blocks it.

A turn over SLOW_S is marked in the instance's row, so that one that kills its worker is recognised by the next one. A turn
over BUDGET_S is interrupted: an exception is raised in the thread that runs it, again and again, for code may catch it.

What counts is the time that the thread has computed, where the platform tells (Linux does, macOS does not): a turn is not
to blame for activities that hold the interpreter, nor for a machine that was busy or asleep. A turn that computes nothing
but waits (`time.sleep`, a socket) is caught by the wall's time, of which it gets more.
"""

from __future__ import annotations

import ctypes
import dataclasses
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Protocol, TypeAlias

from durable.engine.driver import TurnInterrupted
from durable.engine.execution import Execution

SLOW_S = 1.0
BUDGET_S = 5.0
WALL_FACTOR = 1.6
"""So many seconds of the wall's time stand for one of computing: with the budget of 5 s a turn that only waits is stopped
after 8 s, which leaves it two of the ten within which an endless turn must have stalled."""

REQUEST_S = 100e-6
"""What each request of the turn adds to its budget: a turn that asks for 100,000 activities is long, not endless."""

BUDGET_LONGEST_S = 30.0
CHECK_S = 0.1
GAP_S = 0.5
"""A longer gap between two looks counts as this much: the watch did not run either, so the whole process was held up."""

AGAIN_S = 0.001
"""Code that catches everything is hit again and again, until it is hit where it does not."""

MarkSlow: TypeAlias = Callable[[Execution], None]


class TurnWatch(Protocol):
    """What watches the turns of one worker. A simulation, which has one thread, is given one that does nothing."""

    def start(self) -> None:
        """Begin to watch; turns are expected in the calling thread."""
        ...

    def stop(self) -> None:
        """Watch no longer; nothing stays behind."""
        ...

    def begin(self, execution: Execution) -> None:
        """A turn (or the replay of one record) begins."""
        ...

    def end(self) -> None:
        """It is over."""
        ...


@dataclasses.dataclass(slots=True)
class Spent:
    """What a turn has used up, in seconds: `computed` by its thread, and `passed` on the wall, as far as anything ran."""

    wall: float  # the two clocks at the last look
    computing: float | None
    computed: float = 0.0
    passed: float = 0.0

    def look(self, wall: float, computing: float | None) -> None:
        """Count what was used since the last look; `computing` None: the platform cannot tell, the wall's time counts."""
        passed = min(wall - self.wall, GAP_S)
        self.passed += passed
        self.computed += passed if computing is None or self.computing is None else computing - self.computing
        self.wall, self.computing = wall, computing

    @property
    def counted(self) -> float:
        """What counts against the budget."""
        return max(self.computed, self.passed / WALL_FACTOR)


def computing_clock(thread_id: int) -> Callable[[], float | None]:
    """Return a clock of the time that a thread has computed, in seconds; it gives None where there is no such clock."""
    find = getattr(time, "pthread_getcpuclockid", None)
    if find is None:
        return lambda: None
    clock: int = find(thread_id)
    return lambda: time.clock_gettime(clock)


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

    def __init__(self, mark_slow: MarkSlow) -> None:
        self.budget_s = BUDGET_S
        self._mark_slow = mark_slow
        self._lock = threading.Lock()
        self._watched: tuple[Execution, int] | None = None  # what runs, with how long a history it began
        self._marked: Execution | None = None
        self._thread_id = 0
        self._computing: Callable[[], float | None] = lambda: None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start the thread; turns are expected in the calling one."""
        self._thread_id = threading.get_ident()
        self._computing = computing_clock(self._thread_id)
        self._thread = threading.Thread(target=self._watch, name="durable-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def begin(self, execution: Execution) -> None:
        """A turn (or the replay of one record) begins."""
        self._watched = (execution, execution.history_length)

    def end(self) -> None:
        """It is over; an exception that was raised too late is taken back."""
        watched, self._watched = self._watched, None
        if watched is not None and watched[0].interruption is not None:
            with self._lock:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread_id), None)

    def _watch(self) -> None:
        watched: tuple[Execution, int] | None = None
        spent = Spent(0.0, None)
        while not self._stopping.wait(CHECK_S):
            if self._watched is not watched:
                watched = self._watched
                spent = Spent(time.monotonic(), self._computing())  # `begin` asks no clock: that would cost each turn
                continue
            if watched is None:
                continue
            spent.look(time.monotonic(), self._computing())
            if spent.counted > SLOW_S and self._marked is not watched[0]:
                self._marked = watched[0]
                self._mark_slow(watched[0])
            while self._watched is watched and spent.counted > self._budget_of(watched):
                self._interrupt(watched)
                self._stopping.wait(AGAIN_S)

    def _interrupt(self, watched: tuple[Execution, int]) -> None:
        execution = watched[0]
        stack = "" if execution.interruption is not None else self._stack()
        with self._lock:
            # First said, then looked: a turn that is over before the look finds it said, and waits here to take it back.
            before = execution.interruption
            execution.interruption = before or (
                f"the turn was stopped, over its budget of {self._budget_of(watched):.1f} s: an orchestrator must only "
                f"decide and wait; loops and long computations belong in an activity. It was at:\n{stack}"
            )
            if self._watched is not watched:
                execution.interruption = before
                return
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread_id), ctypes.py_object(TurnInterrupted)
            )

    def _stack(self) -> str:
        """Return the last calls of the watched thread."""
        frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001 (documented, and the only way)
        return "".join(traceback.format_stack(frame)[-12:]) if frame is not None else ""

    def _budget_of(self, watched: tuple[Execution, int]) -> float:
        """Return the budget of a turn, in seconds, by what it has asked for so far."""
        execution, events_before = watched
        asked = max(execution.history_length - events_before, 0)
        return min(self.budget_s + REQUEST_S * asked, BUDGET_LONGEST_S)
