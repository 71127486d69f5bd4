"""Who is next: instances take turns at the slots for attempts, and what is due goes before most of what has come."""

from __future__ import annotations

import collections
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class TakingTurns(Generic[K, T]):
    """A queue of many lines. Of each line in order; from line to line one at a time, a new line at the end."""

    def __init__(self) -> None:
        self._lines: collections.OrderedDict[K, collections.deque[T]] = collections.OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        # Each is copied at one blow, for a probe may look from a thread of its own. (A tuple would not be: making it may call
        # the collector of garbage, which lets other threads run.)
        for line in list(self._lines.values()):
            yield from line.copy()

    def append(self, key: K, item: T) -> None:
        """Add an item to the end of its line."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = collections.deque()
        line.append(item)
        self._count += 1

    def pop(self) -> T:
        """Take the first item of the line whose turn it is."""
        key, line = self._lines.popitem(last=False)
        item = line.popleft()
        if line:
            self._lines[key] = line
        self._count -= 1
        return item

    def clear(self) -> None:
        """Forget all."""
        self._lines.clear()
        self._count = 0


DUE_IN_A_ROW = 10
"""So many turns of what is due pass one turn of what has come: that still gets a tenth of them."""


class ReadyLines(Generic[T]):
    """A queue of two lines, each in order: what is due by the clock, and what something has come for.

    While there are both, ten of what is due go before one of the other: a timer does not wait behind a flood of starts or of
    outcomes, nor an event without end behind more timers than can be served.
    """

    def __init__(self) -> None:
        self._due: collections.deque[T] = collections.deque()
        self._come: collections.deque[T] = collections.deque()
        self._in_a_row = 0  # of what is due
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def append(self, item: T, *, is_due: bool) -> None:
        """Add an item to the end of its line."""
        (self._due if is_due else self._come).append(item)
        self.count += 1

    def pop(self) -> T:
        """Take the first item of the line whose turn it is."""
        self.count -= 1
        if self._due and (self._in_a_row < DUE_IN_A_ROW or not self._come):
            self._in_a_row += 1
            return self._due.popleft()
        self._in_a_row = 0
        return self._come.popleft()

    def clear(self) -> None:
        """Forget all."""
        self._due.clear()
        self._come.clear()
        self.count = 0
