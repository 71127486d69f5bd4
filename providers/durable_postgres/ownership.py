"""Leases and partitions."""

from __future__ import annotations

from collections.abc import Collection

from durable.listeners import Changes
from durable.provider import LEASE_AHEAD_US, LEASE_US, Lease, LeaseView, OtherLease
from durable_postgres.hub import OpenHub

FORGOTTEN_AFTER_US = 3600 * 1_000_000
"""A lease that owns nothing is removed this long after it expired; nobody repeats a batch so late."""

_PARTITION, _WORKER = 0, 1


async def begin(hub: OpenHub, lease_id: str, name: str, announcement: bytes, *, worker: bool) -> Lease:
    """See `durable.provider.Ownership.lease`."""
    (found,) = await hub.call("lease_v1", lease_id, name, announcement, worker, LEASE_US, hub.at())
    if worker:
        hub.tell(Changes(anything=True, leases=True))
    return Lease(lease_id, 1, found["expires_at"], found["now"])


async def renew(hub: OpenHub, lease: Lease, announcement: bytes | None) -> LeaseView:
    """See `durable.provider.Ownership.renew`."""
    spans = (LEASE_US, LEASE_AHEAD_US, FORGOTTEN_AFTER_US)
    found = await hub.call("renew_v1", lease.lease_id, lease.epoch, announcement, *spans, hub.at())
    if announcement is not None:
        hub.tell(Changes(anything=True, leases=True))
    owned: dict[str | None, set[int]] = {}
    unowned: set[int] = set()
    others: list[OtherLease] = []
    for _, what, partition, owner, is_live, name, other_announcement in found:
        if what == _PARTITION:
            owned.setdefault(owner, set()).add(partition)
            if owner is None or not is_live:
                unowned.add(partition)
        elif owner != lease.lease_id and (is_live or owner in owned):
            others.append(OtherLease(owner, name, other_announcement, frozenset(owned.get(owner, ())), is_live))
    now = found[0]["now"]
    return LeaseView(now, now + LEASE_US, frozenset(owned.get(lease.lease_id, ())), frozenset(unowned), others)


async def take(hub: OpenHub, lease: Lease, partitions: Collection[int], *, from_live: bool) -> frozenset[int]:
    """See `durable.provider.Ownership.take`."""
    hub.takes += 1
    spans = (LEASE_US, LEASE_AHEAD_US)
    ((taken,),) = await hub.call(
        "take_v1", lease.lease_id, lease.epoch, sorted(partitions), from_live, *spans, hub.at()
    )
    hub.takes += 1
    return frozenset(taken)


async def release(hub: OpenHub, lease: Lease, partitions: Collection[int] | None) -> None:
    """See `durable.provider.Ownership.release`."""
    given = None if partitions is None else sorted(partitions)
    ((is_held,),) = await hub.call("release_v1", lease.lease_id, lease.epoch, given)
    if is_held:
        hub.tell(Changes(anything=True, leases=True))
