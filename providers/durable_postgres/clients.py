"""What clients write: messages, and the removal of what has ended."""

from __future__ import annotations

from collections.abc import Sequence

from durable.errors import StoreError
from durable.provider import LEASE_US, Delivery, InstanceKey, Lease, Message
from durable_postgres.failures import UNSTORABLE
from durable_postgres.hub import OpenHub
from durable_postgres.sending import Outgoing, outcome_of


async def submit(hub: OpenHub, lease: Lease, number: int, messages: Sequence[Message]) -> list[Delivery]:
    """See `durable.provider.Clients.submit`."""
    try:
        return await _submit(hub, lease, number, messages, is_careful=False)
    except UNSTORABLE:
        pass
    try:
        return await _submit(hub, lease, number, messages, is_careful=True)
    except UNSTORABLE as error:
        raise StoreError(f"PostgreSQL at {hub.server.address.name} cannot take these messages: {error}") from error


async def _submit(
    hub: OpenHub, lease: Lease, number: int, messages: Sequence[Message], *, is_careful: bool
) -> list[Delivery]:
    outgoing = Outgoing(messages, is_careful=is_careful)
    doubts = hub.doubts()
    found = await hub.write(
        "submit_v1",
        lease.lease_id,
        lease.epoch,
        number,
        outgoing.messages,
        outgoing.others or None,
        outgoing.memos or None,
        LEASE_US,
        hub.at(),
    )
    outcome = outcome_of(messages, found)
    hub.tell_outcome(outcome, is_doubtful=found["is_repeated"] or doubts != hub.doubts())
    return outcome.deliveries


async def purge(hub: OpenHub, targets: Sequence[tuple[InstanceKey, str]]) -> int:
    """See `durable.provider.Clients.purge`."""
    removed = 0
    for start in range(0, len(targets), PURGED_AT_ONCE_MAX):
        some = targets[start : start + PURGED_AT_ONCE_MAX]
        kinds, ids = [key.kind for key, _ in some], [key.id for key, _ in some]
        ((count,),) = await hub.call("purge_v1", kinds, ids, [run_id for _, run_id in some])
        removed += count
    return removed


PURGED_AT_ONCE_MAX = 100
"""So many runs, with whatever histories they have, are removed in one transaction."""
