"""The line of attempts that wait for a slot of this worker: by priority, and how long it will take.

Among equals the instances take turns. What has no feature's attachment counts nothing: it waits here however long that takes
(see `OwnerAttempts.placement`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from durable.events import InstanceKey
from durable.worker.fairness import TakingTurns

if TYPE_CHECKING:
    from durable.worker.attempt import Attempt

WEIGHT: Final = 0.1
"""Of the latest attempt in what an activity usually takes."""

OFFER_S: Final = 0.0005
"""What an attempt costs more that another worker has: its row, the claim, the report and the message. One that takes less of
all slots than that gains nothing by it, and is called quick."""


class Line:
    """Attempts that wait for one of so many slots."""

    def __init__(self, slots: int) -> None:
        self._quick_s = OFFER_S * slots
        self._queues: dict[int, TakingTurns[InstanceKey, Attempt]] = {}
        self.count = 0
        self.lasting = 0  # how many of them may take their time
        self._usual_s: dict[str, float] = {}  # by activity
        self.work_s = 0.0  # what those of which it is known will take, all in all
        self.freed_at = -math.inf  # when a slot was last given up, by the loop's clock
        self.freed_each_s = 0.0  # how long that takes on average while all slots are taken

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Attempt]:
        for priority in sorted(self._queues):  # a copy, as in `TakingTurns`
            yield from self._queues.get(priority, ())

    def append(self, attempt: Attempt) -> None:
        """Add an attempt behind those of its priority."""
        request = attempt.request
        if attempt.is_in_line:
            attempt.expected_s = self._usual_s.get(request.name, 0.0)
            self.work_s += attempt.expected_s
        queue = self._queues.get(request.options.priority)
        if queue is None:
            queue = self._queues[request.options.priority] = TakingTurns()
        queue.append(attempt.address.key, attempt)
        self.count += 1
        self.lasting += attempt.is_lasting

    def pop(self) -> Attempt:
        """Take the attempt whose turn it is: of a low number first."""
        priority = min(self._queues)
        queue = self._queues[priority]
        attempt = queue.pop()
        if not queue:
            del self._queues[priority]
        self.count -= 1
        self.lasting -= attempt.is_lasting
        self.work_s = self.work_s - attempt.expected_s if self.count else 0.0
        return attempt

    def clear(self) -> None:
        """Forget all that wait."""
        self._queues.clear()
        self.count = self.lasting = 0
        self.work_s = 0.0

    def usual_s(self, name: str) -> float | None:
        """Return how long an attempt of an activity takes on average, in seconds; None while that is not known."""
        return self._usual_s.get(name)

    def is_quick(self, name: str) -> bool:
        """Tell whether attempts of an activity are known to give their slots up soon."""
        return self._usual_s.get(name, math.inf) <= self._quick_s

    def note_end(self, name: str, took_s: float) -> None:
        """Learn from an attempt of an activity that has ended."""
        usual_s = self._usual_s.get(name, took_s)
        self._usual_s[name] = usual_s + (took_s - usual_s) * WEIGHT

    def note_freed(self, now: float, taken_at: float | None, *, were_taken: bool) -> None:
        """Learn from a slot that is given up. `taken_at`: since when it was in use; `were_taken`: all slots were."""
        if were_taken:
            took_s = now - max(self.freed_at, now if taken_at is None else taken_at)
            self.freed_each_s += (took_s - self.freed_each_s) * WEIGHT
        self.freed_at = now
