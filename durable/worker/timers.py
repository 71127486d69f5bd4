"""When instances want a turn by themselves: what is due soon in memory, what is later found in the store in time."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence

from durable.events import InstanceKey
from durable.worker.clock import StoreClock

HORIZON_US = 60_000_000
"""Timers due within it are kept in memory."""


class DueTimes:
    """A heap of (due, key) behind one timer of the loop. `on_due(key)` may come for a time that no longer counts."""

    def __init__(
        self, clock: StoreClock, loop: asyncio.AbstractEventLoop, on_due: Callable[[InstanceKey], None]
    ) -> None:
        self._clock = clock
        self._loop = loop
        self._on_due = on_due
        self._heap: list[tuple[int, InstanceKey]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._known_until = 0
        self._forgotten = 0  # how often everything was forgotten, and how often it had been when the store was asked
        self._asked_in = 0

    def push(self, due: int, key: InstanceKey, *, is_stored: bool = True) -> None:
        """Remember when an instance wants a turn, unless the store (`is_stored`: in the row's `due_at`) tells in time."""
        if not is_stored or due <= max(self._known_until, self._clock.now() + HORIZON_US):
            heapq.heappush(self._heap, (due, key))
            if self._heap[0][0] == due:
                self._set_timer()

    def next_window(self) -> tuple[int, int]:
        """Return (after, before) of the due times to ask the store for now; (0, 0) for none."""
        now = self._clock.now()
        if self._known_until >= now + HORIZON_US // 2:
            return 0, 0
        self._asked_in = self._forgotten
        return self._known_until, now + HORIZON_US

    def fill(self, window: tuple[int, int], found: Sequence[tuple[InstanceKey, int]], *, is_cut: bool) -> None:
        """Take the store's answer for a window; `is_cut` if there may be more in it."""
        if window == (0, 0):
            return
        for key, due in found:
            heapq.heappush(self._heap, (due, key))
        if self._asked_in == self._forgotten:  # else everything is to be asked for again, since the question was put
            self._known_until = found[-1][1] if is_cut else window[1]  # a cut answer holds all with its last due time
        self._set_timer()

    def forget(self) -> None:
        """Ask the store for everything again."""
        self._known_until = 0
        self._forgotten += 1

    def clear(self) -> None:
        """Forget all due times."""
        self._heap.clear()
        self.forget()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            delay = (self._heap[0][0] - self._clock.now()) / 1e6
            self._timer = self._loop.call_later(max(delay, 0.0), self._fire)

    def _fire(self) -> None:
        now = self._clock.now()
        while self._heap and self._heap[0][0] <= now:
            self._on_due(heapq.heappop(self._heap)[1])
        self._set_timer()
