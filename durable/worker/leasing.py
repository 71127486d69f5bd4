"""Keeping the lease: renewing it, looking around, taking and giving up partitions."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Collection

import msgpack

from durable.errors import LeaseLostError, StoreError
from durable.provider import LEASE_US, Lease, LeaseView, OtherLease, Provider
from durable.records import reason_of, require, unpack
from durable.worker.clock import StoreClock

logger = logging.getLogger("durable.worker")

LOOK_AROUND_S = 3.0
LOOK_AROUND_LOCKED_S = 0.5
"""How often a worker renews and looks around; more often where a dead worker's partitions can be taken at once."""

SAFETY_US = 500_000
"""A lease is taken for lost this much before it runs out."""


@dataclasses.dataclass(frozen=True, slots=True)
class Announcement:
    """What a worker tells the others: whether it runs orchestrations, which activities it runs in which queues."""

    orchestrations: bool
    queues: tuple[str, ...]
    activities: frozenset[str]

    def encode(self) -> bytes:
        """Return it as the lease row carries it."""
        packed: bytes = msgpack.packb([self.orchestrations, self.queues, sorted(self.activities)])
        return packed

    @classmethod
    def decode(cls, data: bytes) -> Announcement:
        """Read another worker's. Raises StoreError for what is none."""
        if not data:
            return cls(False, (), frozenset())
        try:
            orchestrations, queues, activities = unpack(data)[:3]
            require(bool, orchestrations)
            require(list, queues, activities)
            require(str, *queues, *activities)
            return cls(orchestrations, tuple(queues), frozenset(activities))
        except Exception as error:  # whatever garbage does to the decoder is one fact: this is no announcement
            raise StoreError(f"a worker's announcement cannot be read: {reason_of(error)}") from error


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
        self.others = 0  # other live workers of the hub that run activities
        self._valid_until = 0.0
        self._is_lost = False
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

    def serves(self, activity: str, queue: str) -> bool:
        """Tell whether any live worker runs this activity in this queue."""
        return any(queue in seen.queues and activity in seen.activities for seen in [self._announcement, *self._seen])

    def renewed(self, asked_at: float) -> None:
        """Note a sign of life that the store has taken; `asked_at` is the monotonic time before the request."""
        self._valid_until = max(self._valid_until, asked_at + (LEASE_US - SAFETY_US) / 1e6)

    def lost(self, lease: Lease) -> None:
        """Note that this lease was lost, unless it is known; the keeper begins a new one."""
        if lease is self.lease:
            self._is_lost = True
            self._wake.set()

    async def begin(self) -> None:
        """Take a lease and the partitions that are free."""
        asked_at = self._clock.monotonic()
        self.lease = await self._provider.lease(self._name, self._announcement.encode(), worker=True)
        self._clock.agree(self.lease.now)
        self.renewed(asked_at)
        await self._look_around()

    async def run(self) -> None:
        """Keep the lease until cancelled."""
        pause = LOOK_AROUND_LOCKED_S if self._provider.is_fenced_by_lock else LOOK_AROUND_S
        while True:
            try:
                async with asyncio.timeout(pause):
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

    async def _begin_again(self) -> None:
        former, self.lease = self.lease, None
        self.owned.clear()
        self._unrecovered = set()
        self.leaving.clear()
        self.parting.clear()
        await self._on_lost()
        self._is_lost = False
        try:
            if former is not None:
                # Only its epoch may be intact: then nobody, not even this worker, could have its partitions for a while.
                await self._provider.release(former)
            await self.begin()
        except StoreError as error:
            logger.warning("worker '%s' has no lease yet: %s", self._name, error)
            self._is_lost = True

    async def _look_around(self) -> None:
        lease = self.current
        asked_at = self._clock.monotonic()
        view = await self._provider.renew(lease)
        self._clock.agree(view.now)
        self.renewed(asked_at)
        self._seen = [self._announced(other) for other in view.others if other.is_live]
        self.others = sum(bool(seen.queues) for seen in self._seen)
        if self._announcement.orchestrations:
            await self._balance(lease, view, sum(seen.orchestrations for seen in self._seen) + 1)

    def _announced(self, other: OtherLease) -> Announcement:
        """Return what another worker runs; of one whose announcement cannot be read, nothing is known."""
        try:
            return Announcement.decode(other.announcement)
        except StoreError as error:
            if other.lease_id not in self._unreadable:
                self._unreadable.append(other.lease_id)
                logger.warning("worker '%s' takes no account of worker '%s': %s", self._name, other.name, error)
            return Announcement.decode(b"")

    async def _balance(self, lease: Lease, view: LeaseView, workers: int) -> None:
        share = -(-self._partitions // workers)
        surplus = len(self.owned) - share
        if surplus > 0:
            await self._give_up(lease, surplus)
            return
        self.parting.clear()
        # A take whose answer was lost has made this lease the owner all the same.
        self._unrecovered |= set(view.partitions) - self.owned
        self.owned |= self._unrecovered
        wanted = sorted(set(view.unowned) - self.owned)[: max(share - len(self.owned), 0)]
        if wanted:
            got = set(await self._provider.take(lease, wanted)) - self.owned
            self._unrecovered |= got
            self.owned |= got
        if self._unrecovered:
            await self._on_taken(self._unrecovered)
            self._unrecovered = set()

    async def _give_up(self, lease: Lease, surplus: int) -> None:
        """Give up so many partitions: those at rest now, the others once the activities that run here for them have ended.

        A new owner would have to run those a second time.
        """
        busy = set(self._find_busy())
        self.parting = set(sorted(self.owned, key=lambda partition: (partition in busy, -partition))[:surplus])
        giving = self.parting - busy
        if not giving:
            return
        self.leaving |= giving
        left = set(await self._on_leaving(giving))
        if left and self.lease is lease:
            await self._provider.release(lease, left)
            self.owned -= left
            self.parting -= left
        self.leaving -= giving
        if giving - left:
            self._on_staying(giving - left)
