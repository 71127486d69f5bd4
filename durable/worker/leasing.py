"""Keeping the lease: renewing it, looking around, taking and giving up partitions."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Mapping

from durable.errors import LeaseLostError, StoreError
from durable.orchestrations import served_as
from durable.provider import LEASE_US, InstanceRow, Lease, LeaseView, OtherLease, Provider
from durable.worker.announcement import Announcement, Offer
from durable.worker.clock import StoreClock
from durable.worker.handover import HandOver

logger = logging.getLogger("durable.worker")

LOOK_AROUND_S = 3.0
LOOK_AROUND_LOCKED_S = 0.5
"""How often a worker renews and looks around; more often where a dead worker's partitions can be taken at once."""

LOOK_AFTER_S = 0.1
"""How soon a worker looks whether another one's lease has ended that was about to."""

SAFETY_US = 500_000
"""A lease is taken for lost this much before it runs out."""

UNEVEN_US = 2_000_000
"""By so much more or less time must have passed in the store than here for the store's clock to have been set."""

LEFT_US = 10_000_000
"""How long an instance that was left to another worker waits before this one sees whether that still lives."""

LOOKED_FOR_US = 200_000
"""How long it waits while this worker looks whether there is another: longer than a look around takes."""


class LeaseKeeper:
    """Holds one lease. What it is handed is the owner's.

    `on_taken(partitions)`: look for what is unfinished in them. `on_leaving(partitions)`: let go of them; the answer is which
    of them may go. `on_staying(partitions)`: go on with those that may not. `find_busy()`: partitions with activities that run
    here. `on_lost()`: forget everything.
    """

    def __init__(
        self,
        provider: Provider,
        clock: StoreClock,
        name: str,
        announcement: Announcement,
        partitions: int,
        *,
        on_taken: Callable[[Collection[int]], Awaitable[None]],
        on_leaving: Callable[[Collection[int]], Awaitable[Collection[int]]],
        on_staying: Callable[[Collection[int]], None],
        find_busy: Callable[[], Collection[int]],
        on_lost: Callable[[], Awaitable[None]],
    ) -> None:
        self._provider = provider
        self._clock = clock
        self._name = name
        self._announcement = announcement
        self._partitions = partitions
        self._seen: list[Announcement] = []
        self._unreadable: collections.deque[str] = collections.deque(maxlen=100)  # leases that were warned about
        self._on_taken = on_taken
        self._on_leaving = on_leaving
        self._on_staying = on_staying
        self._find_busy = find_busy
        self._on_lost = on_lost
        self.lease: Lease | None = None
        self.owned: set[int] = set()
        self.leaving: set[int] = set()
        self._unrecovered: set[int] = set()  # owned, but what their former owner left was not yet found
        self.parting: set[int] = set()  # to be given up, as soon as no activity of theirs runs here
        self._hand_over = HandOver(clock.monotonic)
        self.others = 0  # other live workers of the hub that run activities
        self._valid_until = 0.0
        self.trouble: str | None = None  # why the store did not answer the last time
        self.answered_at: float | None = None  # the monotonic time when it was asked for what it answered last
        self._told: tuple[int, float, float] | None = None  # the store's time as last told, when asked, when answered
        self._holds_back_until = (
            0.0  # before, what seems to be a dead worker's may be that of one who has only not renewed
        )
        self._is_lost = False
        self._next_end_s = math.inf  # from the last look on, until the first of the other leases ends
        self._wake = asyncio.Event()

    @property
    def current(self) -> Lease:
        """The lease. Raises LeaseLostError while there is none."""
        if self.lease is None:
            raise LeaseLostError("the worker holds no lease at the moment")
        return self.lease

    @property
    def is_valid(self) -> bool:
        """True while nobody else can have taken the lease's partitions, by this machine's monotonic clock."""
        return self.lease is not None and self._clock.monotonic() < self._valid_until

    @property
    def remaining_s(self) -> float:
        """For how long nobody else can take the lease's partitions, unless it is renewed."""
        return max(self._valid_until - self._clock.monotonic(), 0.0) if self.lease is not None else 0.0

    def served(self) -> set[tuple[str, str]]:
        """Return the queues, each with the activities that a live worker runs in it."""
        return set().union(*(seen.activities for seen in (self._announcement, *self._seen)))

    def leave_us(self, row: InstanceRow) -> int:
        """Take in that this worker's app lacks an instance's orchestrator: a worker that has it is to get the partition.

        Returns how long the instance is left alone for that, in microseconds; 0: there is no such worker.
        """
        is_known = self._hand_over.lacks(row.partition, row.name, row.version, kind=served_as(row.key))
        if is_known is None:
            self._wake.set()
            return LOOKED_FOR_US
        return LEFT_US if is_known else 0

    def wake(self) -> None:
        """Look around now: a worker came or went, or partitions were given up."""
        self._wake.set()

    def renewed(self, asked_at: float) -> None:
        """Note a sign of life that the store has taken; `asked_at` is the monotonic time before the request."""
        self._valid_until = max(self._valid_until, asked_at + (LEASE_US - SAFETY_US) / 1e6)
        self.trouble, self.answered_at = None, max(asked_at, self.answered_at or asked_at)

    def lost(self, lease: Lease) -> None:
        """Note that this lease was lost, unless it is known; the keeper begins a new one."""
        if lease is self.lease:
            self._is_lost = True
            self._wake.set()

    async def begin(self) -> None:
        """Take a lease and the partitions that are free."""
        asked_at = self._clock.monotonic()
        self.lease = await self._provider.lease(self._name, self._announcement.encode(), worker=True)
        self._clock.begin(self.lease, asked_at)
        self.renewed(asked_at)
        await self._look_around()

    async def run(self) -> None:
        """Keep the lease until cancelled."""
        pause = LOOK_AROUND_LOCKED_S if self._provider.is_fenced_by_lock else LOOK_AROUND_S
        while True:
            try:
                async with asyncio.timeout(min(pause, self._next_end_s)):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                if self._is_lost:
                    raise LeaseLostError("a commit was refused")
                await self._look_around()
            except LeaseLostError as error:
                logger.warning("worker '%s' lost its lease (%s); it begins a new one", self._name, error)
                await self._begin_again()
            except StoreError as error:
                logger.warning("worker '%s' cannot renew its lease, it tries again: %s", self._name, error)
                self.trouble = str(error)

    async def _begin_again(self) -> None:
        former, self.lease = self.lease, None
        self.owned.clear()
        self._unrecovered = set()
        self.leaving.clear()
        self.parting.clear()
        self._hand_over.forget_all()
        await self._on_lost()
        self._is_lost = False
        try:
            if former is not None:
                # Only its epoch may be intact: then nobody, not even this worker, could have its partitions for a while.
                await self._provider.release(former)
            await self.begin()
        except StoreError as error:
            logger.warning("worker '%s' has no lease yet: %s", self._name, error)
            self._is_lost, self.trouble = True, str(error)

    async def _look_around(self) -> None:
        lease = self.current
        self._next_end_s = math.inf
        asked_at = self._clock.monotonic()
        view = await self._renew(lease)
        self.renewed(asked_at)
        found = {other.lease_id: self._announced(other) for other in view.others if other.is_live}
        self._seen = list(found.values())
        self.others = sum(bool(seen.queues) for seen in self._seen)
        # A live worker prolongs its lease long before it ends: one that comes near its end is missed.
        ends = [other.expires_at for other in view.others if other.is_live and other.partitions and other.expires_at]
        self._next_end_s = max(min(ends) - view.now, 0) / 1e6 + LOOK_AFTER_S if ends else math.inf
        if self._announcement.orchestrations:
            if self._hand_over.look(found, view):
                await self._announce(lease)
            await self._balance(lease, view, sum(seen.orchestrations for seen in self._seen) + 1)

    async def _renew(self, lease: Lease, announcement: bytes | None = None) -> LeaseView:
        """Renew the lease, tell the hub's clock what time this worker takes it to be, and hear what it is."""
        while True:
            asked_at = self._clock.monotonic()
            belief = self._clock.belief if self._clock.is_sure else None
            view = await self._provider.renew(lease, announcement, belief=belief)
            self._note_passing(view.now, asked_at)
            if self._clock.renewed(view, asked_at):
                return view

    def _note_passing(self, now: int, asked_at: float) -> None:
        """See whether the store's clock was set, if only by minutes: then all leases seem to have run out, until renewed."""
        answered_at = self._clock.monotonic()
        if self._told is not None:
            then, then_asked_at, then_answered_at = self._told
            at_least, at_most = (asked_at - then_answered_at) * 1e6, (answered_at - then_asked_at) * 1e6
            if not at_least - UNEVEN_US <= now - then <= at_most + UNEVEN_US:
                self._holds_back_until = answered_at + LEASE_US / 1e6
        self._told = now, asked_at, answered_at

    def _announced(self, other: OtherLease) -> Announcement:
        """Return what another worker runs; of one whose announcement cannot be read, nothing is known."""
        try:
            return Announcement.decode(other.announcement)
        except StoreError as error:
            if other.lease_id not in self._unreadable:
                self._unreadable.append(other.lease_id)
                logger.warning("worker '%s' takes no account of worker '%s': %s", self._name, other.name, error)
            return Announcement.decode(b"")

    async def _announce(self, lease: Lease) -> None:
        announcement = dataclasses.replace(self._announcement, offers=self._hand_over.offers)
        await self._renew(lease, announcement.encode())

    async def _balance(self, lease: Lease, view: LeaseView, workers: int) -> None:
        """Give up what others are to have, and take what is this worker's to have."""
        if self.owned - set(view.partitions):
            raise LeaseLostError("partitions were given up by a call whose answer was lost")
        # A take whose answer was lost has made this lease the owner all the same.
        self._unrecovered |= set(view.partitions) - self.owned
        self.owned |= self._unrecovered
        share = -(-self._partitions // workers)
        due = self._hand_over.find_due(self.owned)
        surplus = max(len(self.owned) - len(due) - share, 0)
        busy = set(self._find_busy())
        movable = [p for p in self.owned if p not in due and not self._hand_over.is_kept(p)]
        movable.sort(key=lambda partition: (partition in busy, -partition))
        self.parting = {*due, *movable[:surplus]}
        if self.parting - busy:
            await self._give_up(lease, self.parting - busy, due)
        offered = self._hand_over.find_offered(lease.lease_id, view.unowned)
        mine = [partition for partition, offer in offered.items() if offer.lease_id == lease.lease_id]
        free = sorted(set(view.unowned) - self.owned - set(offered))
        wanted = [*mine, *free[: max(share - len(self.owned) - len(mine), 0)]]
        if wanted and self._clock.monotonic() >= self._holds_back_until:
            got = set(await self._provider.take(lease, wanted)) - self.owned
            for partition in got & set(mine):
                self._hand_over.received(partition, offered[partition])
            self._unrecovered |= got
            self.owned |= got
        if self._unrecovered:
            await self._on_taken(self._unrecovered)
            self._unrecovered = set()

    async def _give_up(self, lease: Lease, giving: Collection[int], due: Mapping[int, Offer]) -> None:
        """Give up partitions at rest; `due`: for whom, where it matters.

        Those where activities run wait in `parting` until these have ended: a new owner would have to run them a second time.
        """
        self.leaving |= set(giving)
        left: set[int] = set()
        try:
            left = set(await self._on_leaving(giving))
            if left and self.lease is lease:
                await self._release(lease, left, {partition: due[partition] for partition in left if partition in due})
        except StoreError:
            self._unrecovered |= left  # nothing of theirs is in memory any more
            raise
        finally:
            self.leaving -= set(giving)
            staying = set(giving) & self.owned  # also what could not be released: what came for it meanwhile waits
            if staying:
                self._on_staying(staying)

    async def _release(self, lease: Lease, left: set[int], offers: dict[int, Offer]) -> None:
        if offers:
            self._hand_over.offered(lease.lease_id, offers)
            logger.info("worker '%s' hands over partitions %s", self._name, sorted(offers))
            await self._announce(lease)  # first, so that nobody else takes them
        await self._provider.release(lease, left)
        self.owned -= left
        self.parting -= left
        self._hand_over.forget(left)
