"""When instances want a turn by themselves: what is due soon in memory, what is later found in the store in time."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence

from durable.events import InstanceKey
from durable.worker.clock import StoreClock

HORIZON_US = 60_000_000
"""Timers due within it are kept in memory."""


STALE_MAX = 1024
"""So many entries that no longer count are kept, or as many as there are that do."""


class DueTimes:
    """A heap of due times behind one timer of the loop. `on_due(key)` asks an instance for a turn.

    Of an instance counts the due time in its row, which a later one replaces, and beside it whatever else was pushed. Times
    that were replaced or dropped are passed over when their time comes: an ended instance is not read back for them.
    """

    def __init__(
        self, clock: StoreClock, loop: asyncio.AbstractEventLoop, on_due: Callable[[InstanceKey], None]
    ) -> None:
        self._clock = clock
        self._loop = loop
        self._on_due = on_due
        self._heap: list[tuple[int, InstanceKey, bool]] = []  # due, key, whether it is the row's
        self._in_rows: dict[InstanceKey, int] = {}  # of the entries that are the row's: those that count
        self._beside: dict[InstanceKey, set[int]] = {}  # those that are not, each once
        self._stale = 0  # entries that no longer count
        self._timer: asyncio.TimerHandle | None = None
        self._known_until = 0
        self._forgotten = 0  # how often everything was forgotten, and how often it had been when the store was asked
        self._asked_in = 0

    @property
    def size(self) -> int:
        """How many times are kept, also those that no longer count."""
        return len(self._heap)

    @property
    def count(self) -> int:
        """How many of them count."""
        return len(self._in_rows) + sum(map(len, self._beside.values()))

    def push(self, due: int, key: InstanceKey, *, is_stored: bool = True) -> None:
        """Remember when an instance wants a turn, unless the store (`is_stored`: in the row's `due_at`) tells in time."""
        if not is_stored:
            if due not in self._beside.setdefault(key, set()):
                self._beside[key].add(due)
                self._add(due, key, is_stored=False)
        elif self._in_rows.get(key) != due:
            self.drop(key)
            if due <= max(self._known_until, self._clock.now() + HORIZON_US):
                self._in_rows[key] = due
                self._add(due, key, is_stored=True)

    def drop(self, key: InstanceKey) -> None:
        """The row has no due time any more, or none that is soon."""
        if self._in_rows.pop(key, None) is not None:
            self._note_stale(1)

    def drop_all(self, key: InstanceKey) -> None:
        """The instance wants no turn by itself any more: it has ended."""
        self.drop(key)
        self._note_stale(len(self._beside.pop(key, ())))

    def keep(self, is_kept: Callable[[InstanceKey], bool]) -> None:
        """Drop all but those of some instances: the others are in other hands."""
        for key in [key for key in (*self._in_rows, *self._beside) if not is_kept(key)]:
            self.drop_all(key)

    def _note_stale(self, count: int) -> None:
        self._stale += count
        if self._stale > max(STALE_MAX, len(self._heap) // 2):
            self._heap = [entry for entry in self._heap if self._counts(entry)]
            heapq.heapify(self._heap)
            self._stale = 0

    def _add(self, due: int, key: InstanceKey, *, is_stored: bool) -> None:
        heapq.heappush(self._heap, (due, key, is_stored))
        if self._heap[0][0] == due:
            self._set_timer()

    def _counts(self, entry: tuple[int, InstanceKey, bool]) -> bool:
        due, key, is_stored = entry
        return self._in_rows.get(key) == due if is_stored else due in self._beside.get(key, ())

    def next_window(self) -> tuple[int, int]:
        """Return (after, before) of the due times to ask the store for now; (0, 0) for none."""
        now = self._clock.now()
        self._known_until = min(self._known_until, now + HORIZON_US)  # it is later only if the clock was set back
        if self._known_until >= now + HORIZON_US // 2:
            return 0, 0
        self._asked_in = self._forgotten
        return self._known_until, now + HORIZON_US

    def fill(self, window: tuple[int, int], found: Sequence[tuple[InstanceKey, int]], *, is_cut: bool) -> None:
        """Take the store's answer for a window; `is_cut` if there may be more in it."""
        if window == (0, 0):
            return
        for key, due in found:
            is_known = key in self._in_rows
            known = self._in_rows.setdefault(key, due)
            # One that differs may be older than what is known here, or newer (the partition was in other hands): both count.
            if known != due:
                self._beside.setdefault(key, set()).add(due)
            if known != due or not is_known:
                heapq.heappush(self._heap, (due, key, known == due))
        if self._asked_in == self._forgotten:  # else everything is to be asked for again, since the question was put
            self._known_until = found[-1][1] if is_cut else window[1]  # a cut answer holds all with its last due time
        self._set_timer()

    def look(self) -> None:
        """See whether something is due: the loop's timer goes wrong when the clock is set, or the machine has slept."""
        if self._heap and self._heap[0][0] <= self._clock.now():
            self._fire()

    def _forget_beside(self, due: int, key: InstanceKey) -> None:
        self._beside[key].discard(due)
        if not self._beside[key]:
            del self._beside[key]

    def forget(self) -> None:
        """Ask the store for everything again."""
        self._known_until = 0
        self._forgotten += 1

    def clear(self) -> None:
        """Forget all due times."""
        self._heap.clear()
        self._in_rows.clear()
        self._beside.clear()
        self._stale = 0
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
            entry = heapq.heappop(self._heap)
            if self._counts(entry):
                due, key, is_stored = entry
                if is_stored:
                    del self._in_rows[key]
                else:
                    self._forget_beside(due, key)
                self._on_due(key)
            else:
                self._stale = max(
                    self._stale - 1, 0
                )  # of two entries for the same time the second does not count either
        self._set_timer()
