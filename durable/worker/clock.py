"""The hub's time as this worker knows it between two answers of the store."""

from __future__ import annotations

import logging
from collections.abc import Callable

from durable.provider import CLOCK_JUMP_US, UNBROKEN_US, Belief, Lease, LeaseView

logger = logging.getLogger("durable.worker")


SURE_S = 5.0
"""The time that an answer tells is taken as it is if it came within this. One that took longer may have been on its way
while the process stood still, or the machine slept: when between the two it was told, nobody knows."""


class StoreClock:
    """The hub's time plus the monotonic time since. It goes back only where the hub's clock does.

    A small difference is followed, forward only. A wild one is for the hub's clock to decide, at the next renewal of the
    lease: until then this one goes on by monotonic time. See `durable.hub_clock`. `asked_at`, of whatever answer tells a
    time: the monotonic time before the question.
    """

    def __init__(self, monotonic: Callable[[], float], now: int) -> None:
        self.monotonic = monotonic
        self.is_sure = False  # the time was told in an answer that came soon
        self._number = 0
        self._correction = 0
        self._begin_anew(now)

    def now(self) -> int:
        """Return the hub's time in microseconds since 1970 UTC."""
        # Rounded: cut off, a time that is whole in microseconds comes out one too small, and what is due is not yet due.
        return self._base_us + round((self.monotonic() - self._base_monotonic) * 1e6)

    @property
    def is_unbroken(self) -> bool:
        """Whether the time has passed evenly for long enough that what has expired by it may be removed for good."""
        return self.is_sure and self.now() - self._since >= UNBROKEN_US

    @property
    def even_since(self) -> int | None:
        """The hub's time from which on it has passed evenly for this worker; None while that is not sure."""
        return self._since if self.is_sure else None

    def belief(self) -> Belief:
        """Return what this worker takes for the hub's time."""
        return Belief(self._number, self.now(), self._since)

    def begin(self, lease: Lease, asked_at: float) -> None:
        """Go by the time of a new lease: whoever has lost one may have stood still for longer than it knows."""
        if self.is_sure and not self._is_near(lease.now, asked_at):
            logger.error("the store's clock has moved wildly; timers go by it, for this worker had lost its lease")
        self._number = lease.clock_number
        self._begin_anew(lease.now)
        self.is_sure = self._is_soon(asked_at)

    def agree(self, now: int, asked_at: float) -> bool:
        """Take the hub's time from an answer of the store. False: it cannot be, and the lease is to be renewed."""
        if not self._is_near(now, asked_at):
            return False
        ahead = now - self.now()
        if ahead > 0:
            self._since += ahead  # that much of the time since has not passed
            self._set(now)
        self.is_sure = self.is_sure or self._is_soon(asked_at)
        return True

    def renewed(self, view: LeaseView, asked_at: float) -> bool:
        """Go by what the hub's clock has made of this worker's belief, and of those of others. False: renew again."""
        is_set = view.clock.number != self._number
        if is_set or not self.agree(view.now, asked_at):
            if not self._is_soon(asked_at):
                return False
            self._begin_anew(view.now)
            self.is_sure = True
        self._number = view.clock.number
        if view.clock.correction != self._correction:
            self._correction = view.clock.correction
            _tell(self._correction)
        return True

    def _is_near(self, now: int, asked_at: float) -> bool:
        """Tell whether a time that was told since `asked_at` is what this clock showed, but for drift and adjustments."""
        mine = self.now()
        asked = mine - round((self.monotonic() - asked_at) * 1e6)
        return asked - CLOCK_JUMP_US <= now <= mine + CLOCK_JUMP_US

    def _is_soon(self, asked_at: float) -> bool:
        return self.monotonic() - asked_at <= SURE_S

    def _begin_anew(self, now: int) -> None:
        self._set(now)
        self._since = now

    def _set(self, now: int) -> None:
        self._base_us, self._base_monotonic = now, self.monotonic()


def _tell(correction: int) -> None:
    if correction:
        logger.error(
            "the store's clock has jumped, and differs by %.0f s from the time that has passed: leases and timers go on by "
            "monotonic time until it agrees again. If it is right as it is, run `durable confirm-clock`, or call "
            "`confirm_clock()` of a client",
            -correction / 1e6,
        )
    else:
        logger.warning("the store's clock agrees again, or was confirmed: leases and timers go by it")
