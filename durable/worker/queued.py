"""Which attempts of an instance are in the activity queue: ranges of task ids, followed change by change."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from typing import Final

NONE: Final[list[int]] = []
NONE_OUT: Final[frozenset[int]] = frozenset()
"""Shared by all that have none, as most instances do; never changed."""


class QueuedAttempts:
    """The attempts that went to the queue and have no outcome. All others that are open are held by the owner.

    A range takes in whatever else has a position between two queued attempts (timers, children), but no held attempt: it is
    asked only about attempts. It goes with the last open attempt in it, and keeps those before as they were, so that the
    ranges stay few in whatever order the outcomes come. What is held after all, once it has a permit, is `taken_out`.
    """

    __slots__ = ("_is_broken", "_lasts", "_open", "_out", "count", "firsts")

    def __init__(self, ranges: Iterable[Sequence[int]] = (), taken_out: Iterable[int] = ()) -> None:
        spans = list(ranges)
        self.firsts = [span[0] for span in spans] if spans else NONE
        self._lasts = [span[1] for span in spans] if spans else NONE
        self._open = [0] * len(spans) if spans else NONE
        self._out = frozenset(taken_out) if taken_out else NONE_OUT
        self._is_broken = True  # the next attempt begins a range: something held may lie before it
        self.count = 0

    def __contains__(self, task_id: int) -> bool:
        return task_id not in self._out and self._find(task_id) is not None

    def __bool__(self) -> bool:
        return bool(self.firsts)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """First and last task id of each range."""
        return list(zip(self.firsts, self._lasts, strict=True))

    @property
    def taken_out(self) -> list[int]:
        """The attempts in the ranges that are held, and are not over."""
        return sorted(self._out)

    def take_out(self, task_id: int) -> None:
        """Note that an attempt is held from now on."""
        if task_id in self:
            self._out |= {task_id}
            self.count -= 1

    def add(self, task_id: int) -> None:
        """Note an attempt that goes to the queue."""
        self.count += 1
        if task_id in self._out:
            self._out -= {task_id}
            return
        if self._lasts and task_id > self._lasts[-1] and not self._is_broken:
            self._lasts[-1] = task_id
            self._open[-1] += 1
            return
        if not self.firsts:
            self.firsts, self._lasts, self._open = [], [], []
        index = bisect.bisect(self.firsts, task_id)
        is_last = index == len(self.firsts)
        self.firsts.insert(index, task_id)
        self._lasts.insert(index, task_id)
        self._open.insert(index, 1)
        if is_last:
            self._is_broken = False

    def skip(self) -> None:
        """Note that the next attempt is held: no range goes past it."""
        self._is_broken = True

    def close(self, task_id: int) -> None:
        """Note the outcome of an attempt, or that it was given up; once, and nothing for one that was always held."""
        index = self._find(task_id)
        if index is None:
            return
        if task_id in self._out:
            self._out -= {task_id}
        else:
            self.count -= 1
        self._open[index] -= 1
        if not self._open[index]:
            del self.firsts[index], self._lasts[index], self._open[index]
            self._is_broken = self._is_broken or index == len(self.firsts)

    def recount(self, open_attempts: Iterable[int]) -> None:
        """Count, after ranges were read back, what is still open in them; those that are done with go."""
        self.count = 0
        self._is_broken = True
        if not self.firsts:
            return
        self._open = [0] * len(self.firsts)
        out = set()
        for task_id in open_attempts:
            index = self._find(task_id)
            if index is not None:
                self._open[index] += 1
                if task_id in self._out:
                    out.add(task_id)
                else:
                    self.count += 1
        self._out = frozenset(out) if out else NONE_OUT
        kept = [index for index, count in enumerate(self._open) if count]
        self.firsts = [self.firsts[index] for index in kept]
        self._lasts = [self._lasts[index] for index in kept]
        self._open = [self._open[index] for index in kept]

    def _find(self, task_id: int) -> int | None:
        index = bisect.bisect(self.firsts, task_id) - 1
        return index if index >= 0 and task_id <= self._lasts[index] else None
