"""Leases and partitions."""

from __future__ import annotations

from collections.abc import Callable, Collection

from durable.listeners import Changes
from durable.provider import (
    CLOCK_JUMP_US,
    LEASE_AHEAD_US,
    LEASE_US,
    UNBROKEN_US,
    Belief,
    HubClock,
    Lease,
    LeaseView,
    OtherLease,
)
from durable_postgres.hub import OpenHub

FORGOTTEN_AFTER_US = 3600 * 1_000_000
"""A lease that owns nothing is removed this long after it expired; nobody repeats a batch so late."""

_PARTITION, _CLOCK = 0, 2


async def begin(hub: OpenHub, lease_id: str, name: str, announcement: bytes, *, worker: bool) -> Lease:
    """See `durable.provider.Ownership.lease`."""
    (found,) = await hub.call("lease_v1", lease_id, name, announcement, worker, LEASE_US, CLOCK_JUMP_US, hub.at())
    if worker:
        hub.tell(Changes(anything=True, leases=True))
    return Lease(lease_id, 1, found["expires_at"], found["now"], found["clock_number"])


async def renew(
    hub: OpenHub,
    lease: Lease,
    announcement: bytes | None,
    belief: Callable[[], Belief] | None,
    *,
    confirms_clock: bool,
) -> LeaseView:
    """See `durable.provider.Ownership.renew`."""

    def believed() -> tuple[int | None, int | None, int | None]:
        # As late as can be, and anew for each try: the server compares it with its clock when it gets it.
        return (None, None, None) if belief is None else belief()

    spans = (LEASE_US, LEASE_AHEAD_US, CLOCK_JUMP_US, FORGOTTEN_AFTER_US, UNBROKEN_US)
    found = await hub.call(
        "renew_v1", lease.lease_id, lease.epoch, announcement, confirms_clock, *spans, hub.at(), late=(believed, 3)
    )
    if announcement is not None:
        hub.tell(Changes(anything=True, leases=True))
    owned: dict[str | None, set[int]] = {}
    unowned: set[int] = set()
    others: list[OtherLease] = []
    clock = HubClock()
    for _, what, partition, owner, is_live, name, other_announcement, numbers in found:
        if what == _PARTITION:
            owned.setdefault(owner, set()).add(partition)
            if owner is None or not is_live:
                unowned.add(partition)
        elif what == _CLOCK:
            clock = HubClock(*numbers)
        elif owner != lease.lease_id and (is_live or owner in owned):
            theirs = frozenset(owned.get(owner, ()))
            others.append(OtherLease(owner, name, other_announcement, theirs, is_live, numbers[0] or 0))
    now = found[0]["now"]
    mine = hub.owned[lease.lease_id] = frozenset(owned.get(lease.lease_id, ()))
    return LeaseView(now, now + LEASE_US, mine, frozenset(unowned), others, clock)


async def take(hub: OpenHub, lease: Lease, partitions: Collection[int], *, from_live: bool) -> frozenset[int]:
    """See `durable.provider.Ownership.take`."""
    hub.takes += 1
    spans = (LEASE_US, LEASE_AHEAD_US)
    ((taken,),) = await hub.call(
        "take_v1", lease.lease_id, lease.epoch, sorted(partitions), from_live, *spans, hub.at()
    )
    hub.takes += 1
    hub.owned[lease.lease_id] = hub.owned.get(lease.lease_id, frozenset()) | frozenset(taken)
    return frozenset(taken)


async def release(hub: OpenHub, lease: Lease, partitions: Collection[int] | None) -> None:
    """See `durable.provider.Ownership.release`."""
    given = None if partitions is None else sorted(partitions)
    before = hub.owned.pop(lease.lease_id, frozenset())
    if partitions is not None:
        hub.owned[lease.lease_id] = before.difference(partitions)
    ((is_held,),) = await hub.call("release_v1", lease.lease_id, lease.epoch, given)
    if is_held:
        hub.tell(Changes(anything=True, leases=True))
