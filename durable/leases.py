"""Leases as the storage contract speaks of them; a part of `durable.provider`, which gives them on."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from durable.hub_clock import HubClock

LEASE_US = 10_000_000
"""How long a lease lasts without being renewed."""

LEASE_AHEAD_US = 2 * LEASE_US
"""A lease that expires later than this from now was written by a clock that ran ahead; its holder, if alive, renews it soon."""


@dataclasses.dataclass(frozen=True, slots=True)
class Lease:
    """The right of one live worker to write. For a client it only numbers its batches."""

    lease_id: str
    epoch: int
    expires_at: int
    now: int
    clock_number: int = 0  # of the hub's clock when it began


@dataclasses.dataclass(frozen=True, slots=True)
class OtherLease:
    """Another worker of the hub, as `renew` shows it. `expires_at`: when its lease ends by itself, 0 if unknown."""

    lease_id: str
    name: str
    announcement: bytes
    partitions: Collection[int]
    is_live: bool
    expires_at: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class LeaseView:
    """What a worker learns when it renews: the hub's time, its own partitions, those without owner, the others."""

    now: int
    expires_at: int
    partitions: Collection[int]
    unowned: Collection[int]  # without an owner, or with a dead one (expired, or its OS lock is free)
    others: Sequence[OtherLease]
    clock: HubClock
