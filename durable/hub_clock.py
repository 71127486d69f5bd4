"""The hub's time: the store's clock, with what sets a wild jump of it right; a part of `durable.provider`.

Theory of operation. Leases, due times and expiry are judged by the hub's time. It is the store's clock plus a correction,
which is 0 as long as that clock can be believed. Each owner knows by its monotonic clock how much time has passed since the
store last told it the time, and says so when it renews its lease. If the store's clock differs by more than drift and an
ordinary adjustment explain, it has jumped: then the correction takes the jump back, so that everything goes on by monotonic
time, until the store's clock agrees again or an operator confirms it.

A store keeps a `HubClock` per hub as three numbers, and asks it; what its methods return takes its place. Whenever its `number`
changes by that, each worker's lease whose epoch is intact expires LEASE_US from then, by the new time, and so does each
client's: the numbers by which a repeated submit is known outlive a jump.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

CLOCK_JUMP_US = 3600 * 1_000_000
"""A difference that no drift explains, and no adjustment of a clock that was about right."""


UNBROKEN_US = 600 * 1_000_000
"""So long a worker's time must have passed without a leap before what has expired by it is removed for good."""


class Belief(NamedTuple):
    """What a worker takes for the hub's time, in microseconds since 1970 UTC, by its monotonic clock.

    `number` is that of the correction which it goes by: a belief that is older than the last correction says nothing.
    `since`: the hub's time from which on it has passed evenly for this worker. A worker that owned nothing when the clock
    jumped, or began its lease after that, believes the wrong time as firmly as any other; but not for as long.
    """

    number: int
    now: int
    since: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class HubClock:
    """What makes the hub's time of a store's clock, all in microseconds.

    `number` counts the changes of `correction`, which is added to the store's clock. `seen`: the hub's time when an owner
    last renewed its lease, or became one.
    """

    number: int = 0
    correction: int = 0
    seen: int = 0

    def time(self, store: int) -> int:
        """Return the hub's time at this time of the store's clock."""
        return store + self.correction

    def begun(self, store: int) -> HubClock:
        """A worker begins a lease, or renews one and cannot tell: time must not have gone back wildly, unnoticed by owners.

        A correction may be what makes it go back: the clock was set right meanwhile.
        """
        earliest = self.seen - CLOCK_JUMP_US
        if self.time(store) >= earliest:
            return self
        return self._corrected(0 if store >= earliest else self.seen - store)

    def taken(self, store: int) -> HubClock:
        """A worker becomes an owner: what it writes from now on is of this time, though it may not live to renew its lease."""
        is_back = self.time(store) < self.seen - CLOCK_JUMP_US
        return self if is_back else dataclasses.replace(self, seen=self.time(store))

    def renewed(self, store: int, belief: Belief) -> HubClock:
        """An owner renews its lease and says what time it takes it to be."""
        clock = self
        if belief.number == self.number:
            if abs(belief.now - store) <= CLOCK_JUMP_US:
                clock = self._corrected(0)
            elif abs(belief.now - self.time(store)) > CLOCK_JUMP_US:
                clock = self._corrected(belief.now - store)
        return dataclasses.replace(clock, seen=clock.time(store))

    def is_witnessed(self, belief: Belief) -> bool:
        """Tell whether an owner's belief is proof that what has expired by it has done so: nobody needs it any more."""
        return belief.number == self.number and belief.now - belief.since >= UNBROKEN_US

    def confirmed(self, store: int) -> HubClock:
        """An operator says that the store's clock is right."""
        return dataclasses.replace(self._corrected(0), seen=store)

    def _corrected(self, correction: int) -> HubClock:
        if correction == self.correction:
            return self
        return dataclasses.replace(self, number=self.number + 1, correction=correction)
