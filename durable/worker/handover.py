"""Partitions with instances that their owner cannot run go to a worker that can.

Theory of operation. Whoever meets an instance whose orchestrator its app lacks notes what its partition lacks. At its next
look around it offers the partition to a live worker that has it: it says so in its announcement and gives the partition up;
the others leave it to the one that is named. Of several it is the one that had the partition longest ago, so that all get
their turn where each of them lacks what another has.

Invariant: a partition is handed over at most once per HAND_OVER_S, but at once to a worker that has just announced itself.
Invariant: a partition does not go back for the sake of equal shares, for as long as the worker that gave it lives.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

from durable.provider import LeaseView
from durable.worker.announcement import ORCHESTRATOR, Announcement, Offer

HAND_OVER_S = 10.0
"""How long a partition stays where it was handed to: what else is in it gets so much time."""

LACKING_S = 900.0
"""How long an orchestrator counts as lacked since an instance of it was last met: a stalled one is tried every five minutes."""

LACKING_MAX = 10_000
"""So many names and versions are noted as lacked; of further ones is only known whether a live worker has them."""

OFFER_S = 10.0
"""How long an offered partition waits for its taker, who looks around every three seconds; then anybody may take it."""


Lack: TypeAlias = tuple[str, str, str | None]
"""The kind, the name and the version of what an instance needs."""


@dataclasses.dataclass(slots=True)
class Lacked:
    """An orchestrator that is lacked: after which look that was noted, and when an instance of it was last met."""

    noted: int
    met_at: float


class HandOver:
    """What one worker knows about it."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._others: dict[str, Announcement] = {}  # live workers that run orchestrations, by lease
        self._joined: set[str] = set()  # those of them that the look before did not see
        self._load: collections.Counter[str] = collections.Counter()  # how many partitions each of them has
        self._lacking: dict[int, dict[Lack, Lacked]] = {}  # by partition
        self._looks = 0
        self._trails: dict[int, tuple[str, ...]] = {}  # of the partitions that were handed to this worker
        self._moved_at: dict[int, float] = {}  # when a partition was last offered by, or handed to, this worker
        self.offers: dict[int, Offer] = {}  # what this worker has given up, and nobody has taken yet

    def look(self, seen: Mapping[str, Announcement], view: LeaseView) -> bool:
        """Take in what live workers announce, by lease; tell whether an offer of this worker is settled or void."""
        before = set(self._others)
        self._others = {lease_id: found for lease_id, found in seen.items() if found.orchestrations}
        self._joined = set(self._others) - before
        self._load = collections.Counter({other.lease_id: len(other.partitions) for other in view.others})
        self._looks += 1
        now = self._monotonic()
        self._forget_unmet(now)
        over = [
            partition
            for partition, offer in self.offers.items()
            if partition not in view.unowned
            or offer.lease_id not in self._others
            or now >= self._moved_at[partition] + OFFER_S
        ]
        for partition in over:
            del self.offers[partition]
        return bool(over)

    def _forget_unmet(self, now: float) -> None:
        for partition, lacking in list(self._lacking.items()):
            for unmet in [what for what, lacked in lacking.items() if now >= lacked.met_at + LACKING_S]:
                del lacking[unmet]
            if not lacking:
                del self._lacking[partition]

    @property
    def lacking(self) -> int:
        """How many names and versions are noted as lacked."""
        return sum(map(len, self._lacking.values()))

    def lacks(self, partition: int, name: str, version: str | None, *, kind: str = ORCHESTRATOR) -> bool | None:
        """Note that an instance of this partition has an orchestrator, or what its kind runs, that this worker's app lacks.

        Tells whether another live worker has it; None before this worker has looked for one.
        """
        is_known = any(other.runs(kind, name, version) for other in self._others.values())
        lacked = self._lacking.get(partition, {}).get((kind, name, version))
        if lacked is None:
            if self.lacking >= LACKING_MAX:
                return is_known
            lacked = Lacked(self._looks, 0.0)
            self._lacking.setdefault(partition, {})[kind, name, version] = lacked
        lacked.met_at = self._monotonic()
        return True if is_known else False if self._looks > lacked.noted else None

    def find_due(self, owned: Collection[int]) -> dict[int, Offer]:
        """Return which of these partitions are to be handed over now, and to whom; `offered` says that they were."""
        due: dict[int, Offer] = {}
        now = self._monotonic()
        load = self._load.copy()
        for partition in sorted(self._lacking.keys() & set(owned)):
            takers = self._takers(partition)
            if now < self._moved_at.get(partition, -HAND_OVER_S) + HAND_OVER_S:
                takers &= self._joined
            if takers:
                trail = self._trails.get(partition, ())
                order = {lease_id: place for place, lease_id in enumerate(trail, 1)}
                taker = min(takers, key=lambda lease_id: (order.get(lease_id, 0), load[lease_id], lease_id))
                load[taker] += 1
                due[partition] = Offer(taker, trail)
        return due

    def _takers(self, partition: int) -> set[str]:
        lacking = self._lacking[partition]
        return {
            lease_id
            for lease_id, other in self._others.items()
            if any(other.runs(kind, name, version) for kind, name, version in lacking)
        }

    def offered(self, lease_id: str, offers: dict[int, Offer]) -> None:
        """Note that this worker, with this lease, hands these partitions over now."""
        alive = {*self._others, lease_id}
        for partition, (taker, trail) in offers.items():
            passed = tuple(other for other in trail if other in alive and other != lease_id)
            self.offers[partition] = Offer(taker, (*passed, lease_id))
            self._moved_at[partition] = self._monotonic()

    def find_offered(self, lease_id: str, unowned: Collection[int]) -> dict[int, Offer]:
        """Return which of these partitions wait for a live worker to take them: this one, with this lease, or another."""
        found = {partition: offer for other in self._others.values() for partition, offer in other.offers.items()}
        alive = {*self._others, lease_id}
        return {
            partition: offer
            for partition, offer in (found | self.offers).items()
            if partition in unowned and offer.lease_id in alive
        }

    def received(self, partition: int, offer: Offer) -> None:
        """Note that this worker has taken a partition that was offered to it."""
        self._trails[partition] = offer.trail
        self._moved_at[partition] = self._monotonic()

    def is_kept(self, partition: int) -> bool:
        """Tell whether a partition stays here, though others have fewer: who gave it could not run what is in it."""
        trail = self._trails.get(partition)
        return trail is not None and trail[-1] in self._others

    def forget(self, partitions: Collection[int]) -> None:
        """These are another worker's now."""
        for partition in partitions:
            self._lacking.pop(partition, None)
            self._trails.pop(partition, None)

    def forget_all(self) -> None:
        """The lease is lost."""
        self._lacking.clear()
        self._trails.clear()
        self.offers.clear()
