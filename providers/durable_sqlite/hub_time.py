"""The hub's time: the machine's clock, with the correction that stands in the hub's row."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from durable.provider import LEASE_US, HubClock

_READ = "SELECT clock_number, clock_correction, clock_seen FROM hubs WHERE hub = ?"
_SET = "UPDATE hubs SET clock_number = ?, clock_correction = ?, clock_seen = ? WHERE hub = ?"
_BEGIN_LEASES_ANEW = "UPDATE leases SET expires_at = ? WHERE hub = ? AND (epoch = 1 OR is_worker = 0)"


class HubTime:
    """Tells the time of one hub.

    Another process may have set the clock: each transaction asks anew, or looks at its end that what it took for granted holds.
    """

    def __init__(self, hub: int, store_now_us: Callable[[], int]) -> None:
        self._hub = hub
        self._store_now_us = store_now_us

    def clock(self, database: sqlite3.Connection) -> HubClock:
        """Return the hub's clock."""
        return HubClock(*database.execute(_READ, (self._hub,)).fetchone())

    def now(self, database: sqlite3.Connection) -> int:
        """Return the hub's time in microseconds since 1970 UTC."""
        return self.by(self.clock(database))

    def by(self, clock: HubClock) -> int:
        """Return the time by the hub's clock as it once was: who writes by it looks whether its correction is still that."""
        return clock.time(self._store_now_us())

    def update(self, database: sqlite3.Connection, change: Callable[[HubClock, int], HubClock]) -> tuple[HubClock, int]:
        """Let the clock become what `change(clock, store's time)` returns; return that, and the hub's time by it."""
        store = self._store_now_us()
        before = self.clock(database)
        after = change(before, store)
        now = after.time(store)
        if after != before:
            database.execute(_SET, (after.number, after.correction, after.seen, self._hub))
        if after.number != before.number:
            database.execute(_BEGIN_LEASES_ANEW, (now + LEASE_US, self._hub))
        return after, now
