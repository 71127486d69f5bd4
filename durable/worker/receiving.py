"""Reading the inboxes of owned partitions: at once after a wake-up, and at least once per poll bound."""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Callable

from durable.errors import LeaseLostError, StoreError
from durable.events import InstanceKey
from durable.provider import Provider, StoredMessage
from durable.worker.backlog import Backlog
from durable.worker.clock import StoreClock
from durable.worker.leasing import LeaseKeeper
from durable.worker.timers import DueTimes

logger = logging.getLogger("durable.worker")

POLL_S = 1.0
"""The poll bound: what a lost wake-up costs at most."""

RECEIVE_MAX = 1000
HELD_MAX = 20_000
"""Messages in memory at which the worker stops receiving until it has worked some off."""

SETTLED_KEPT = 65_536
"""Sequences of consumed messages that are remembered, against a wake-up or a read that is late."""


class Receiver:
    """Receives for one owner. `held` are the sequences of the messages in memory; the owner takes new ones by `accept`."""

    def __init__(
        self,
        provider: Provider,
        keeper: LeaseKeeper,
        clock: StoreClock,
        backlog: Backlog,
        due_times: DueTimes,
        *,
        accept: Callable[[StoredMessage], None],
        is_parked: Callable[[InstanceKey], bool],
    ) -> None:
        self.held: set[int] = set()
        self.is_full = False  # too many messages in memory to receive more
        self.is_draining = False
        self._settled: collections.OrderedDict[int, None] = collections.OrderedDict()
        self._provider = provider
        self._keeper = keeper
        self._clock = clock
        self._backlog = backlog
        self._due_times = due_times
        self._accept = accept
        self._is_parked = is_parked
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look now."""
        self._wake.set()

    def knows(self, sequence: int) -> bool:
        """Tell whether a message is in memory, or was consumed a short while ago."""
        return sequence in self.held or sequence in self._settled

    def settle(self, sequence: int) -> None:
        """Note that a message was consumed."""
        self.held.discard(sequence)
        self._settled[sequence] = None
        if len(self._settled) > SETTLED_KEPT:
            self._settled.popitem(last=False)

    def has_room(self) -> bool:
        """Tell whether a fresh message may be taken into memory; if not, it is received later."""
        self.is_full = self.is_full or len(self.held) > HELD_MAX
        return not self.is_full

    def worked_off(self) -> None:
        """Messages left memory: go on receiving if it was full."""
        if self.is_full and len(self.held) <= HELD_MAX:
            self.is_full = False
            self.wake()

    async def run(self) -> None:
        """Receive until cancelled."""
        while True:
            try:
                more = await self._receive()
            except (StoreError, LeaseLostError) as error:
                logger.warning("messages could not be received: %s", error)
                more = False
            if more:
                await asyncio.sleep(0)
                continue
            try:
                async with asyncio.timeout(POLL_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def _receive(self) -> bool:
        self.is_full = len(self.held) > HELD_MAX
        if not self._keeper.owned or self.is_draining or self.is_full:
            return False
        self._backlog.begin_read()
        window = self._due_times.next_window()
        received = await self._provider.receive(
            self._keeper.current, self.held, RECEIVE_MAX, due_after=window[0], due_before=window[1]
        )
        self._clock.agree(received.now)
        for message in received.messages:
            if message.partition in self._keeper.owned:
                self._accept(message)
        is_cut = len(received.messages) == RECEIVE_MAX
        if not is_cut:
            for message in self._backlog.end_read(self._is_parked):
                if message.partition in self._keeper.owned:
                    self._accept(message)
        more_due = len(received.due) >= RECEIVE_MAX
        self._due_times.fill(window, received.due, is_cut=more_due)
        return is_cut or more_due
