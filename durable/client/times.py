"""Times as users give them: a timeout as seconds or a timedelta, a moment as an aware datetime; and the store's clock."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from durable.errors import StoreUnavailableError
from durable.ports import Ports
from durable.provider import Provider

Timeout: TypeAlias = float | timedelta | None
"""Seconds, or a timedelta; None: without end."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
LATEST_US: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
"""The end of the year 9999: no later time can be shown."""
EARLIEST_US: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND

DISAGREEMENT_SECONDS_MAX: Final = 1.0
"""Wall clock and monotonic clock apart by more: the clock was set. The store is asked again."""

KNOWN_SECONDS_MAX: Final = 60.0
"""So long an answer of the store counts; it is asked again, for the hub's clock may have been set."""


def seconds_of(timeout: Timeout) -> float | None:
    """Return a timeout in seconds, None for none; a negative one is 0. Raises TypeError or ValueError for no timeout."""
    if timeout is None:
        return None
    if isinstance(timeout, timedelta):
        return max(timeout.total_seconds(), 0.0)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be seconds, a timedelta or None, not {timeout!r:.200}")
    if timeout != timeout:  # not a number; `math.isnan` takes no int that is no float
        raise ValueError("timeout must be a number of seconds, not nan")
    try:
        return None if timeout == math.inf else max(float(timeout), 0.0)
    except OverflowError:  # an int that is no float
        return None if timeout > 0 else 0.0


def microseconds_of(when: datetime, what: str) -> int:
    """Return an aware datetime in microseconds since 1970 UTC. Raises TypeError or ValueError, naming `what`."""
    if not isinstance(when, datetime):
        raise TypeError(f"{what} must be a datetime, not {when!r:.200}")
    if when.tzinfo is None or when.utcoffset() is None:
        raise ValueError(f"{what} must be an aware datetime, not {when!r}: write datetime.now(UTC), or give a tzinfo")
    return (when - _EPOCH) // _MICROSECOND


def due_time(at: datetime | timedelta, now: int) -> int:
    """Return when `at` is, in microseconds since 1970 UTC; a timedelta counts from `now`, back to the year 1 at most."""
    if not isinstance(at, timedelta):
        if not isinstance(at, datetime):
            raise TypeError(f"at must be an aware datetime or a timedelta, not {at!r:.200}")
        return microseconds_of(at, "at")
    due = now + at // _MICROSECOND
    if due > LATEST_US:
        raise ValueError(f"at is {at.days} days from now, after the year 9999, beyond which no time can be shown")
    return max(due, EARLIEST_US)


class StoreClock:
    """The store's time as this client knows it: the wall clock, corrected by what the store last said."""

    def __init__(self, ports: Ports, store_now: int) -> None:
        self._ports = ports
        self.agree(store_now)

    def agree(self, store_now: int) -> None:
        """Take the store's time from one of its answers, as just given."""
        self._wall_us = self._ports.now_us()
        self._monotonic = self._ports.monotonic()
        self._offset_us = store_now - self._wall_us

    async def now(self, provider: Provider) -> int:
        """Return the store's time in microseconds; asks the store now and then, or if this machine's clocks disagree."""
        wall_us = self._ports.now_us()
        age = self._ports.monotonic() - self._monotonic
        apart = (wall_us - self._wall_us) / 1e6 - age
        if abs(apart) <= DISAGREEMENT_SECONDS_MAX and age <= KNOWN_SECONDS_MAX:
            return wall_us + self._offset_us
        try:
            self.agree((await provider.open()).now)
        except StoreUnavailableError:
            pass  # whoever asks has more to say to the store, and tries that again; monotonic time will do until then
        return self._wall_us + self._offset_us + round((self._ports.monotonic() - self._monotonic) * 1e6)
