"""Ways to break the promises about several at once: looking first, and acting later on what was seen.

The memory provider does each call in one go; these let others in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from unittest import mock

from tests.providers.broken.variants import HUB, PROVIDER, Catalogue, Change, swap

CATALOGUE = Catalogue("concurrency")


def looks_first(name: str, method: str, *seen: str) -> None:
    """Add a variant of a provider's method that works with these parts of the hub as they were some time ago."""
    act = getattr(PROVIDER, method)

    async def late(self: Any, *arguments: Any, **options: Any) -> Any:
        hub = self._hub
        before = {part: copy.copy(getattr(hub, part)) for part in seen}
        await asyncio.sleep(0)
        with _seeing(hub, before):
            return await act(self, *arguments, **options)

    CATALOGUE.add(name, swap(PROVIDER, method, late))


@contextlib.contextmanager
def _seeing(hub: Any, before: dict[str, Any]) -> Iterator[None]:
    """Let a hub be as it was before, and add what is now written to what it has become."""
    now = {part: getattr(hub, part) for part in before}
    for part, seen in before.items():
        setattr(hub, part, dict(seen))
    try:
        yield
    finally:
        for part, current in now.items():
            written, seen = getattr(hub, part), before[part]
            for key in seen.keys() - written.keys():
                current.pop(key, None)
            current.update({key: value for key, value in written.items() if seen.get(key) is not value})
            setattr(hub, part, current)


def _judged_early(method: str) -> Change:
    """What messages expect is looked at, and some time later they are stored."""
    act = getattr(PROVIDER, method)

    async def late(self: Any, lease: Any, *arguments: Any) -> Any:
        hub, judge = self._hub, HUB._judge
        messages = arguments[-1] if method == "submit" else arguments[0].messages
        early = {id(message): judge(hub, message, hub._instances.get(message.target)) for message in messages}
        await asyncio.sleep(0)
        with mock.patch.object(
            hub, "_judge", lambda message, row: early[id(message)] if id(message) in early else judge(hub, message, row)
        ):
            return await act(self, lease, *arguments)

    return swap(PROVIDER, method, late)


CATALOGUE.add("what a message expects is looked at some time before", _judged_early("submit"))
looks_first("who is there is looked at some time before a submit", "submit", "_instances")
looks_first("owners are looked at some time before a take", "take", "_owners")
looks_first("the queue is looked at some time before a report", "report", "_queue")
looks_first("instances are looked at some time before a commit", "commit", "_instances", "_records")
looks_first("instances are looked at some time before a purge", "purge", "_instances", "_ended")


def _remembered_late(method: str, attribute: str) -> Change:
    """Another call under the same number, while the first is on its way, finds no number yet."""
    act: Callable[..., Awaitable[Any]] = getattr(PROVIDER, method)

    async def late(self: Any, lease: Any, *arguments: Any) -> Any:
        row = self._hub._leases[lease.lease_id]
        number = getattr(row, attribute)
        answer = await act(self, lease, *arguments)
        reached = getattr(row, attribute)
        setattr(row, attribute, number)
        await asyncio.sleep(0)
        setattr(row, attribute, max(reached, getattr(row, attribute)))
        return answer

    return swap(PROVIDER, method, late)


CATALOGUE.add("a submit is remembered some time after it was stored", _remembered_late("submit", "submit_number"))
CATALOGUE.add("a commit is remembered some time after it was written", _remembered_late("commit", "commit_number"))


async def _commit_in_parts(self: Any, lease: Any, batch: Any) -> Any:
    """Rows first, and what they mean some time later."""
    hub = self._hub
    before = {step.key: hub._instances.get(step.key) for step in batch.steps}
    answer = await _COMMIT(self, lease, batch)
    after = {key: hub._instances.get(key) for key in before}
    for key, row in after.items():
        if row is not None and row.run_id == getattr(before[key], "run_id", None):
            hub._instances[key] = _half(before[key], row)
    await asyncio.sleep(0)
    for key, row in after.items():
        if row is not None:
            hub._instances[key] = row
    return answer


def _half(before: Any, after: Any) -> Any:
    """The row with its status and its count of records, and all else as before."""
    return dataclasses.replace(before, status=after.status, records=after.records)


_COMMIT = PROVIDER.commit
CATALOGUE.add("a row is seen while half of it is written", swap(PROVIDER, "commit", _commit_in_parts))


async def _epoch_late(self: Any, lease: Any, partitions: Any, *, from_live: bool = False) -> Any:
    """The owner is changed at once, and the epoch of the one before is raised some time later, or never."""
    hub = self._hub
    epochs = {lease_id: row.epoch for lease_id, row in hub._leases.items()}
    taken = await _TAKE(self, lease, partitions, from_live=from_live)
    for lease_id, epoch in epochs.items():
        hub._leases[lease_id].epoch = epoch
    return taken


_TAKE = PROVIDER.take
CATALOGUE.add(
    "who was fenced is not told", swap(PROVIDER, "take", _epoch_late), swap(HUB, "_check_step", lambda *given: None)
)


def _mark_slowly(self: Any, lease: Any, key: Any, run_id: str) -> None:
    """Each looks, and all write what they have seen."""
    hub = self._hub
    with hub.visit():
        row = hub._instances[key]
        hub.__dict__.setdefault("seen", row)
        hub._instances[key] = hub.seen
        HUB.mark_slow_turn(hub, lease, key, run_id)


CATALOGUE.add("marks of several threads are one", swap(PROVIDER, "mark_slow_turn", _mark_slowly))


async def _claim_late(self: Any, *arguments: Any, **options: Any) -> Any:
    """What was free some time ago is claimed, whoever has claimed it meanwhile."""
    hub = self._hub
    free = [entry for entry in hub._queue.values() if not hub._is_live(entry.claimer)]
    await asyncio.sleep(0)
    for entry in free:
        entry.claimer = None
    return await _CLAIM(self, *arguments, **options)


_CLAIM = PROVIDER.claim
CATALOGUE.add("the queue is looked at some time before a claim", swap(PROVIDER, "claim", _claim_late))
