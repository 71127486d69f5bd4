"""The open timers of a generation, and which of them is due first."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import NamedTuple

from durable.events import HistoryEvent, TimerFired

DUE_MAX = 253_402_300_799_999_999
"""The last microsecond of the year 9999, which is the last of every calendar here: no timer is due later."""

SECONDS_MAX = 1e12
"""About 30,000 years: `asyncio.sleep(inf)` waits as long as any timer can."""

NONE_FIRED: set[int] = set()
"""Shared by all who have none; nothing is ever added to it."""


def whole_us(seconds: float) -> int:
    """Return whole microseconds; of an endless or absurd span the longest one."""
    return round(max(-SECONDS_MAX, min(seconds, SECONDS_MAX)) * 1e6)


class Timer(NamedTuple):
    """An open timer. `span`: how long it was set for, of a timeout, which can begin anew; None for any other."""

    due: int
    fire: Callable[[], None]
    purpose: str = ""
    span: int | None = None


class Timers:
    """Open timers by task id, and which of them is due first.

    A timer that fires while the instance is suspended stays open until it is delivered, but is due no more.
    """

    __slots__ = ("_fired", "_heap", "_renewed", "open")

    def __init__(self) -> None:
        self.open: dict[int, Timer] = {}
        self._heap: list[tuple[int, int]] = []
        self._fired = NONE_FIRED
        self._renewed: dict[int, int] = {}  # a timeout that began anew, by the one that it was before

    def __iter__(self) -> Iterator[int]:
        """Yield the timers that have not fired."""
        return (task_id for task_id in self.open if task_id not in self._fired)

    def add(self, task_id: int, timer: Timer) -> None:
        """Open a timer."""
        self.open[task_id] = timer
        heapq.heappush(self._heap, (timer.due, task_id))

    def timeouts(self) -> list[tuple[int, Timer]]:
        """Return the timeouts that are running, each with its span."""
        return [(task_id, self.open[task_id]) for task_id in self if self.open[task_id].span is not None]

    def renew(self, task_id: int, by: int) -> None:
        """Note that one timer stands for another from now on, for whoever gives that one up."""
        self._renewed[task_id] = by

    def latest(self, task_id: int) -> int:
        """Return the timer that stands for this one by now."""
        while task_id in self._renewed:
            task_id = self._renewed[task_id]
        return task_id

    def is_waiting(self, task_id: int) -> bool:
        """Tell whether a timer is open and has not fired."""
        return task_id in self.open and task_id not in self._fired

    def due_of(self, arrival: HistoryEvent) -> int:
        """Return when the open timer that an arrival fires is due; 0 for any other arrival."""
        found = self.open.get(arrival.task_id) if isinstance(arrival, TimerFired) else None
        return found.due if found is not None else 0

    def hold(self, task_id: int) -> None:
        """Note that a timer has fired and will be delivered later."""
        if not self._fired:
            self._fired = set()
        self._fired.add(task_id)

    def remove(self, task_id: int) -> Callable[[], None] | None:
        """Close a timer; return what it was to call."""
        self._fired.discard(task_id)
        found = self.open.pop(task_id, None)
        return found.fire if found is not None else None

    def clear(self) -> None:
        """Close all timers."""
        self.open.clear()
        self._heap.clear()
        self._fired = NONE_FIRED

    @property
    def next_due(self) -> int | None:
        """When the earliest waiting timer is due."""
        while self._heap and not self.is_waiting(self._heap[0][1]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: int, limit: int) -> list[int]:
        """Return the timers that are due, by due time and then position, at most `limit`. They stay due until removed."""
        if not self._heap:
            return []
        found: list[tuple[int, int]] = []
        while len(found) < limit and (earliest := self.next_due) is not None and earliest <= now:
            found.append(heapq.heappop(self._heap))
        for entry in found:
            heapq.heappush(self._heap, entry)
        return [task_id for _, task_id in found]
