"""The store's time as this worker knows it between two answers of the store."""

from __future__ import annotations

import logging
from collections.abc import Callable

logger = logging.getLogger("durable.worker")

JUMP_US = 3600 * 1_000_000
"""A difference that no drift explains: the store's clock jumped. Timers go on by monotonic time until it agrees again."""


class StoreClock:
    """Store time plus the monotonic time since; never goes back."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic
        self.is_disputed = False
        self._base_us = 0
        self._base_monotonic = monotonic()

    def now(self) -> int:
        """Return the store's time in microseconds since 1970 UTC."""
        # Rounded: cut off, a time that is whole in microseconds comes out one too small, and what is due is not yet due.
        return self._base_us + round((self.monotonic() - self._base_monotonic) * 1e6)

    def agree(self, store_now: int) -> None:
        """Take the store's time from one of its answers."""
        mine = self.now()
        difference = store_now - mine
        if self._base_us and abs(difference) > JUMP_US:
            if not self.is_disputed:
                logger.error(
                    "the store's clock jumped by %.0f s; timers go on by monotonic time until it agrees again",
                    difference / 1e6,
                )
            self.is_disputed = True
            return
        if self.is_disputed:
            logger.warning("the store's clock agrees again")
        self.is_disputed = False
        if difference > 0:
            self._base_us, self._base_monotonic = store_now, self.monotonic()
