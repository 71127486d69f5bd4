"""The memory provider: the contract's calls, each one locked visit to the hub that it shares with others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Sequence

from durable.errors import StoreError
from durable.listeners import Listener
from durable.ports import Ports
from durable.provider import (
    ActivityRow,
    Batch,
    Beat,
    Belief,
    Committed,
    Delivery,
    Held,
    Hub,
    InstanceFilter,
    InstanceKey,
    InstanceRow,
    Lease,
    LeaseView,
    Memo,
    Message,
    Page,
    Received,
    RecordRow,
    Report,
    Served,
    Wakeup,
)
from durable_memory.hub import MemoryHub

_shared: dict[tuple[str, str], MemoryHub] = {}
_registry_lock = threading.Lock()


class MemoryProvider:
    """The storage contract on a hub in this process's memory. Every call is inline; none waits."""

    batch_bytes_max: int | None = None
    is_fenced_by_lock = False
    is_remote = False

    def __init__(
        self, store_name: str, hub_name: str, ports: Ports, *, message_bytes_max: int | None, is_kept: bool = True
    ) -> None:
        self.message_bytes_max = message_bytes_max
        self._name = (store_name, hub_name)
        self._is_kept = is_kept
        self._ports = ports
        self._opened: MemoryHub | None = None
        self._private: MemoryHub | None = None  # `memory://` keeps its contents while the object lives
        self._listeners: list[Listener] = []

    @property
    def _hub(self) -> MemoryHub:
        if self._opened is None:
            raise StoreError("the memory store is not open: call open() first, and nothing after close()")
        return self._opened

    # ---- ownership

    async def open(self) -> Hub:
        """See `durable.provider.Ownership.open`."""
        if self._opened is None:
            self._opened = self._find_hub()
        return self._opened.facts()

    def _find_hub(self) -> MemoryHub:
        store_name, hub_name = self._name
        if not store_name:
            self._private = self._private or MemoryHub(hub_name, self._ports.now_us)
            return self._private
        with _registry_lock:
            hub = _shared.setdefault(self._name, MemoryHub(hub_name, self._ports.now_us))
            hub.users += 1
            return hub

    async def close(self) -> None:
        """See `durable.provider.Ownership.close`."""
        hub, self._opened = self._opened, None
        if hub is None:
            return
        for listener in self._listeners:
            hub.listeners.pop(listener, None)
        self._listeners.clear()
        if self._name[0]:
            with _registry_lock:
                hub.users -= 1
                if hub.users == 0 and not self._is_kept:
                    _shared.pop(self._name, None)

    async def lease(self, name: str, announcement: bytes, *, worker: bool) -> Lease:
        """See `durable.provider.Ownership.lease`."""
        with self._hub.visit() as hub:
            lease = hub.begin_lease(self._ports.new_id(), name, announcement, worker=worker)
            if worker:
                hub.tell(Wakeup(anything=True, leases=True))
            return lease

    async def renew(
        self,
        lease: Lease,
        announcement: bytes | None = None,
        *,
        belief: Callable[[], Belief] | None = None,
        confirms_clock: bool = False,
    ) -> LeaseView:
        """See `durable.provider.Ownership.renew`."""
        with self._hub.visit() as hub:
            view = hub.renew(lease, announcement, belief, confirms_clock=confirms_clock)
            if announcement is not None:
                hub.tell(Wakeup(anything=True, leases=True))
            return view

    async def take(self, lease: Lease, partitions: Collection[int], *, from_live: bool = False) -> Collection[int]:
        """See `durable.provider.Ownership.take`."""
        with self._hub.visit() as hub:
            return hub.take(lease, partitions, from_live=from_live)

    async def release(self, lease: Lease, partitions: Collection[int] | None = None) -> None:
        """See `durable.provider.Ownership.release`."""
        with self._hub.visit() as hub:
            hub.release(lease, partitions)

    # ---- turns

    async def recover(self, lease: Lease, partitions: Collection[int]) -> Sequence[InstanceKey]:
        """See `durable.provider.Turns.recover`."""
        with self._hub.visit() as hub:
            return hub.recover(lease, partitions)

    async def receive(
        self,
        lease: Lease,
        held: Collection[int],
        limit: int,
        *,
        due_after: int = 0,
        due_before: int = 0,
        served: Collection[tuple[str, str]] | None = None,
    ) -> Received:
        """See `durable.provider.Turns.receive`."""
        with self._hub.visit() as hub:
            received = hub.receive(lease, held, limit, due_after, due_before)
            return received if served is None else received._replace(unserved=hub.find_unserved(lease, served, limit))

    async def load(self, targets: Sequence[tuple[InstanceKey, str | None]]) -> Sequence[InstanceRow | None]:
        """See `durable.provider.Turns.load`."""
        with self._hub.visit() as hub:
            return [hub.find_run(key, run_id) for key, run_id in targets]

    async def read_history(
        self, run_id: str, generation: int, first: int = 0, bytes_max: int = 4 * 1024 * 1024
    ) -> Sequence[RecordRow]:
        """See `durable.provider.Turns.read_history`."""
        with self._hub.visit() as hub:
            return hub.read_history(run_id, generation, first, bytes_max)

    async def commit(self, lease: Lease, batch: Batch) -> Committed:
        """See `durable.provider.Turns.commit`."""
        with self._hub.visit() as hub:
            return hub.commit(lease, batch, self.message_bytes_max)

    def mark_slow_turn(self, lease: Lease, key: InstanceKey, run_id: str) -> None:
        """See `durable.provider.Turns.mark_slow_turn`."""
        with self._hub.visit() as hub:
            hub.mark_slow_turn(lease, key, run_id)

    # ---- activities

    async def claim(
        self,
        lease: Lease,
        queues: Sequence[str],
        served: Served,
        limit: int,
        *,
        held: Held = None,
    ) -> Sequence[ActivityRow]:
        """See `durable.provider.Activities.claim`."""
        with self._hub.visit() as hub:
            return hub.claim(lease, queues, served, limit, held)

    async def report(self, lease: Lease, reports: Sequence[Report], beats: Sequence[Beat] = ()) -> Sequence[bool]:
        """See `durable.provider.Activities.report`."""
        with self._hub.visit() as hub:
            return hub.report(lease, reports, beats, self.message_bytes_max)

    # ---- clients

    async def submit(self, lease: Lease, number: int, messages: Sequence[Message]) -> Sequence[Delivery]:
        """See `durable.provider.Clients.submit`."""
        with self._hub.visit() as hub:
            return hub.submit(lease, number, messages, self.message_bytes_max)

    async def list_instances(
        self, wanted: InstanceFilter, *, limit: int, page: bytes | None = None, newest_first: bool = True
    ) -> Page:
        """See `durable.provider.Clients.list_instances`."""
        with self._hub.visit() as hub:
            return hub.list_instances(wanted, limit, page, newest_first=newest_first)

    async def count(self, wanted: InstanceFilter) -> int:
        """See `durable.provider.Clients.count`."""
        with self._hub.visit() as hub:
            return hub.count(wanted)

    async def purge(self, targets: Sequence[tuple[InstanceKey, str]]) -> int:
        """See `durable.provider.Clients.purge`."""
        with self._hub.visit() as hub:
            return sum(hub.purge(key, run_id) for key, run_id in targets)

    async def read_memos(self, prefix: str, limit: int = 1000, *, after: str = "") -> Sequence[Memo]:
        """See `durable.provider.Clients.read_memos`."""
        with self._hub.visit() as hub:
            return hub.read_memos(prefix, limit, after)

    # ---- wake-ups

    def listen(self, callback: Callable[[Wakeup], None]) -> Callable[[], None]:
        """See `durable.provider.Provider.listen`."""
        hub = self._hub
        listener = Listener(asyncio.get_running_loop(), callback)
        hub.listeners[listener] = None
        self._listeners.append(listener)

        def end() -> None:
            listener.end()
            hub.listeners.pop(listener, None)
            if listener in self._listeners:
                self._listeners.remove(listener)

        return end
