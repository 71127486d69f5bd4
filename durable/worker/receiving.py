"""Reading the inboxes of owned partitions: at once after a wake-up, and at least once per poll bound.

Also which messages are in memory, which were there, and which are left in the store for later.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Callable

from durable.errors import LeaseLostError, StoreError
from durable.payloads import is_sealed
from durable.provider import Priority, Provider, StoredMessage
from durable.worker.backlog import Backlog
from durable.worker.clock import StoreClock
from durable.worker.leasing import LeaseKeeper
from durable.worker.parking import Parking
from durable.worker.timers import HORIZON_US, DueTimes
from durable.worker.unserved import Unserved

logger = logging.getLogger("durable.worker")

POLL_S = 1.0
"""The poll bound: what a lost wake-up costs at most."""

RECEIVE_MAX = 1000
HELD_MAX = 20_000
"""Messages in memory at which the worker stops receiving until it has worked some off."""

SETTLED_KEPT = 65_536
"""Sequences of consumed messages that are remembered, against a wake-up or a read that is late."""


class Receiver:
    """Receives for one owner. `held` are the sequences of the messages in memory; the owner takes new ones by `accept`,
    with `was_heard=True` those that it has heard of, and that have waited for older ones.

    `on_read()`: something was read, or cannot be, because memory is full.
    """

    def __init__(
        self,
        provider: Provider,
        keeper: LeaseKeeper,
        clock: StoreClock,
        backlog: Backlog,
        due_times: DueTimes,
        *,
        parking: Parking,
        accept: Callable[..., None],
        on_read: Callable[[], None],
        unserved: Unserved,
    ) -> None:
        self.held = parking.held
        self.is_full = False  # too many messages in memory to receive more
        self.is_draining = False
        self._provider = provider
        self._keeper = keeper
        self._clock = clock
        self._backlog = backlog
        self._due_times = due_times
        self._accept = accept
        self._on_read = on_read
        self._parking = parking
        self._unserved = unserved
        self._settled: collections.OrderedDict[int, None] = collections.OrderedDict()
        self._wake = asyncio.Event()
        self._planned: dict[int, asyncio.TimerHandle] = {}  # looks that are to come, by their time

    def wake(self) -> None:
        """Look now."""
        self._wake.set()

    def knows(self, message: StoredMessage) -> bool:
        """Tell whether a message is in memory, or was consumed."""
        return message.sequence in self.held or message.sequence in self._settled

    def is_for_others(self, message: StoredMessage) -> bool:
        """Tell whether a message is sealed: held, it is left in the store for a worker that was given the codecs."""
        if is_sealed(message.data):
            logger.error("a message to '%s' is sealed, and no codecs are given to this worker", message.target.id)
        return is_sealed(message.data)

    def settle(self, sequence: int) -> None:
        """Note that a message was consumed."""
        self.held.discard(sequence)
        self._settled[sequence] = None
        if len(self._settled) > SETTLED_KEPT:
            self._settled.popitem(last=False)

    def leaves_in_store(self, message: StoredMessage) -> bool:
        """Leave a fresh message for later: not due, too many here, or older ones unread, as may be of a parked instance."""
        is_control = message.priority is Priority.CONTROL
        start = None if is_control else message.start
        due = max(message.visible_at, start.parked_until if start is not None else 0)
        ahead = due - self._clock.now()
        if ahead > 0:
            if ahead < HORIZON_US and not self.is_draining:
                self._plan(due, ahead)
            return True
        self.is_full = self.is_full or len(self.held) > HELD_MAX
        if self.is_full and not is_control:
            self._backlog.fall_behind([message.partition])
            return True
        pause_end = 0 if is_control else self._parking.kept_back_until(message.target)
        if pause_end:  # the store may have kept back older ones, also some that nobody here has heard of
            self._backlog.fall_behind([message.target])
            if pause_end <= self._clock.now():
                self.wake()
            return True
        place = self._backlog.place_of(message)
        if place is None or (is_control and place == message.target):
            return False
        self._backlog.keep(message, place)
        self.wake()
        return True

    def worked_off(self) -> None:
        """Messages left memory: go on receiving if it was full."""
        if self.is_full and len(self.held) <= HELD_MAX:
            self.is_full = False
            self.wake()

    def _plan(self, at: int, ahead: int) -> None:
        """Look at that time, which is so many microseconds ahead."""
        if at not in self._planned:
            self._planned[at] = asyncio.get_running_loop().call_later(ahead / 1e6, self._look_as_planned, at)

    def _look_as_planned(self, at: int) -> None:
        del self._planned[at]
        self.wake()

    async def run(self) -> None:
        """Receive until cancelled."""
        try:
            await self._go_on()
        finally:
            for timer in self._planned.values():
                timer.cancel()
            self._planned.clear()

    async def _go_on(self) -> None:
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
        if self.is_full:
            self._on_read()
        if not self._keeper.owned or self.is_draining or self.is_full:
            return False
        self._backlog.begin_read(self._parking.kept_back_until)
        window, served = self._due_times.next_window(), self._unserved.served()
        asked_at = self._clock.monotonic()
        received = await self._provider.receive(
            self._keeper.current, self.held, RECEIVE_MAX, due_after=window[0], due_before=window[1], served=served
        )
        if not self._clock.agree(received.now, asked_at):
            self._keeper.wake()  # what seems to be due by a clock that jumped is not looked at
            return False
        self._due_times.look()
        if served is not None:
            self._unserved.found(received.unserved)
        for message in received.messages:
            if self._backlog.is_outdated(message):
                self.wake()
            elif message.partition in self._keeper.owned:
                self._accept(message)
        is_cut = len(received.messages) == RECEIVE_MAX
        if not is_cut:
            for message in self._backlog.end_read(received.now):
                if message.partition in self._keeper.owned:
                    self._accept(message, was_heard=True)
        self._on_read()
        more_due = len(received.due) >= RECEIVE_MAX
        self._due_times.fill(window, received.due, is_cut=more_due)
        return is_cut or more_due
