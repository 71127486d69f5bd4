"""Whose payloads are whose: the names of a hub's payloads, what removes them, and the sweep for those that nobody knows of.

A hub has an id of its own among the payloads, noted in its store, so that several may share a folder and none sweeps what is
another's. The sweep goes through all names in small steps, one beside each renewal of an owner's lease. What its place does not
refer to, and did not when it was looked at an hour before, by this process's own monotonic time, is an orphan: its writer has
crashed between putting it and the commit, or before removing what the commit left behind.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from durable.errors import StoreError
from durable.events import InstanceKey
from durable.offloading.references import (
    HEAD_BYTES_MAX,
    SHARDS,
    Place,
    Reference,
    owner_of,
    run_prefix,
    shard_prefix,
)
from durable.offloading.stores import PayloadStore
from durable.ports import Ports
from durable.provider import Expects, InstanceRow, Memo, Message, Provider, partition_of

logger = logging.getLogger("durable.payloads")

HUB_KEY: Final = "payloads/hub"
NOBODY: Final = InstanceKey("payloads", "-")
"""An instance that never is: what is sent to it leaves its memo, which is how a client writes one."""

NEVER_US: Final = 2**62
"""A time far beyond every clock's."""

SWEPT_MAX: Final = 200
STEP_S_MAX: Final = 0.1
"""A step of the sweep looks at so many names, and takes about so long: a renewal waits for it."""

SUSPECTS_MAX: Final = 10_000
NAMES_READ_MAX: Final = 1000


class Shelf:
    """The payloads of one hub."""

    def __init__(self, inner: Provider, payloads: PayloadStore, ports: Ports) -> None:
        self._inner = inner
        self._payloads = payloads
        self._ports = ports
        self._hub: str | None = None
        self.partitions = 0

    async def hub(self) -> str:
        """Return the id under which this hub's payloads lie, and make one where there is none yet."""
        if self._hub is None:
            self._hub = await self.known_hub()
        if self._hub is None:
            memo = Memo(HUB_KEY, self._ports.new_id().encode(), NEVER_US)
            lease = await self._inner.lease("payloads", b"", worker=False)
            partition = partition_of(NOBODY, self.partitions)
            await self._inner.submit(
                lease, 1, [Message(NOBODY, partition, b"", expects=Expects.UNFINISHED, otherwise=memo)]
            )
            await self._inner.release(lease)
            self._hub = await self.known_hub()
        assert self._hub is not None
        return self._hub

    async def known_hub(self) -> str | None:
        """Return the id under which this hub's payloads lie, if it has one."""
        if self._hub is not None:
            return self._hub
        memos = await self._inner.read_memos(HUB_KEY, 1)
        return memos[0].data.decode() if memos and memos[0].key == HUB_KEY else None

    async def remove(self, names: Iterable[str]) -> None:
        """Remove payloads that nothing refers to any longer. What cannot be removed now is left to the sweep."""
        going = list(names)
        if not going:
            return
        try:
            await self._payloads.remove(going)
        except StoreError as error:
            logger.warning("%d payloads that are not needed are left for later: %s", len(going), error)

    async def names_of(self, run_id: str) -> list[str]:
        """Return the names of all payloads of a run; none where they cannot be listed: the sweep finds them."""
        hub = await self.known_hub()
        found: list[str] = []
        prefix = "" if hub is None else run_prefix(hub, run_id)
        try:
            while prefix:
                names = await self._payloads.names(prefix, found[-1] if found else "", NAMES_READ_MAX)
                found += names
                if len(names) < NAMES_READ_MAX:
                    break
        except StoreError as error:
            logger.warning("the payloads of run %s cannot be listed, they are left for later: %s", run_id, error)
        return found

    async def remove_runs(self, targets: Sequence[tuple[InstanceKey, str]]) -> None:
        """Remove the payloads of those runs that are not in the store (any longer)."""
        rows = await self._inner.load([(key, run_id) for key, run_id in targets])
        for (_, run_id), row in zip(targets, rows, strict=True):
            if row is None:
                await self.remove(await self.names_of(run_id))


class Sweep:
    """Finds and removes orphans, a step at a time."""

    def __init__(
        self, inner: Provider, payloads: PayloadStore, shelf: Shelf, ports: Ports, orphaned_after_s: float
    ) -> None:
        self._inner = inner
        self._payloads = payloads
        self._shelf = shelf
        self._ports = ports
        self._orphaned_after_s = orphaned_after_s
        self._shard = 0
        self._after = ""
        self._next_round_at = 0.0
        # Since when nothing refers to a payload, as far as is known: from the round before, and from this one. What a round
        # does not meet again, another worker has removed.
        self._suspects: dict[str, float] = {}
        self._met: dict[str, float] = {}

    async def step(self) -> None:
        """Look at some more payloads. Raises nothing: what fails is tried again."""
        began = self._ports.monotonic()
        if began < self._next_round_at:
            return
        try:
            hub = await self._shelf.known_hub()
            looked_at = 0
            while hub is not None and looked_at < SWEPT_MAX and self._ports.monotonic() - began < STEP_S_MAX:
                limit = SWEPT_MAX - looked_at
                names = await self._payloads.names(shard_prefix(hub, self._shard), self._after, limit)
                await self._look_at(names)
                looked_at += len(names)
                self._after = names[-1] if len(names) == limit else ""
                if not self._after:
                    self._shard = (self._shard + 1) % SHARDS
                    if self._shard == 0:
                        self._suspects, self._met = self._met, {}
                        self._next_round_at = began + self._orphaned_after_s / 4
                        return
        except StoreError as error:
            logger.warning("the sweep for payloads that nothing refers to goes on later: %s", error)

    async def _look_at(self, names: Sequence[str]) -> None:
        now, orphans = self._ports.monotonic(), []
        for name, is_needed in zip(names, await self._needed(names), strict=True):
            since = self._suspects.pop(name, self._met.pop(name, now))  # a step that failed has met some already
            if is_needed:
                continue
            if now - since >= self._orphaned_after_s:
                orphans.append(name)
            elif len(self._met) < SUSPECTS_MAX:  # else its turn comes when some of the others are gone
                self._met[name] = since
        if orphans:
            logger.info("%d payloads that nothing refers to are removed", len(orphans))
            await self._payloads.remove(orphans)

    async def _needed(self, names: Sequence[str]) -> list[bool]:
        """Tell of each payload whether its place refers to it."""
        places = [Place.of(name) for name in names]
        in_rows = [name for name, place in zip(names, places, strict=True) if place is not None and place.column]
        rows = await self._rows_of(in_rows)
        found = []
        for name, place in zip(names, places, strict=True):
            if place is None:
                data = None
            elif place.column:
                row = rows.get(name)
                data = None if row is None else getattr(row, place.column)
            else:
                records = await self._inner.read_history(place.run_id, place.generation, place.index, 1)
                data = records[0].data if records and records[0].index == place.index else None
            reference = None if data is None else Reference.read(data)
            found.append(reference is not None and reference.name == name)
        return found

    async def _rows_of(self, names: Sequence[str]) -> dict[str, InstanceRow | None]:
        if not names:
            return {}
        heads = await self._payloads.get(names, HEAD_BYTES_MAX)
        targets = {}
        for name, head in zip(names, heads, strict=True):
            key, place = owner_of(head) if head is not None else None, Place.of(name)
            if key is not None and place is not None:
                targets[name] = (key, place.run_id)
        rows = await self._inner.load(list(targets.values())) if targets else []
        return dict(zip(targets, rows, strict=True))
