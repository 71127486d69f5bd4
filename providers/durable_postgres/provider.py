"""The PostgreSQL provider: the contract's calls, each passed on to where it is made."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any

from durable.errors import StoreError
from durable.ports import Ports
from durable.provider import (
    PARTITIONS,
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
from durable_postgres import activities, clients, listings, ownership, refusal, schema, turns
from durable_postgres.connections import Address, Connection, Server
from durable_postgres.failures import unavailable
from durable_postgres.hub import OpenHub


class PostgresProvider:
    """The storage contract on one hub of a database. Used by one event loop; `mark_slow_turn` alone by any thread."""

    message_bytes_max: int | None = refusal.VALUE_BYTES_MAX
    batch_bytes_max: int | None = refusal.BATCH_BYTES_MAX
    is_fenced_by_lock = False
    is_remote = True

    def __init__(
        self,
        address: Address,
        hub_name: str,
        ports: Ports,
        *,
        may_migrate: bool = True,
        may_listen: bool = True,
        may_notify: bool = True,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._address = address
        self._hub_name = hub_name
        self._ports = ports
        self._may_migrate = may_migrate
        self._may_listen = may_listen
        self._may_notify = may_notify
        self._clock = clock
        self._now: OpenHub | None = None

    @property
    def _hub(self) -> OpenHub:
        hub = self._now
        if hub is None:
            raise StoreError(f"{self._address.name} is not open: call open() first, and nothing after close()")
        if hub.process != os.getpid():
            raise StoreError(
                f"{self._address.name} was opened before this process was forked: open it again in the child"
            )
        return hub

    # ---- ownership

    async def open(self) -> Hub:
        """See `durable.provider.Ownership.open`."""
        if self._now is None:
            server = Server(self._address, self._ports.monotonic)
            try:
                row = await server.use(self._prepare)
            except BaseException:
                await server.close()
                raise
            self._now = OpenHub(
                server, row, self._ports, self._clock, may_listen=self._may_listen, may_notify=self._may_notify
            )
        hub = self._now
        ((now,),) = await hub.call("now_v1", hub.at())
        return Hub(self._hub_name, hub.partitions, now)

    async def _prepare(self, connection: Connection) -> schema.HubRow:
        place = self._address.name
        await schema.check_server(connection, place)
        row = await schema.find_hub(connection, self._hub_name, place)
        if row is not None and row.version == len(schema.MIGRATIONS):
            return row
        if not self._may_migrate:
            what = "is not there" if row is None else f"is of version {row.version}, not {len(schema.MIGRATIONS)}"
            raise StoreError(
                f"the hub '{self._hub_name}' at {place} {what}, and migrate=off asks not to change that: let its owner run "
                "`python -m durable_postgres migrate URL`"
            )
        return await schema.migrate(connection, self._hub_name, place, PARTITIONS, self._ports.new_id())

    async def close(self) -> None:
        """See `durable.provider.Ownership.close`."""
        hub, self._now = self._now, None
        if hub is not None:
            await hub.close()

    async def lease(self, name: str, announcement: bytes, *, worker: bool) -> Lease:
        """See `durable.provider.Ownership.lease`."""
        return await ownership.begin(self._hub, self._ports.new_id(), name, announcement, worker=worker)

    async def renew(
        self,
        lease: Lease,
        announcement: bytes | None = None,
        *,
        belief: Callable[[], Belief] | None = None,
        confirms_clock: bool = False,
    ) -> LeaseView:
        """See `durable.provider.Ownership.renew`."""
        return await ownership.renew(self._hub, lease, announcement, belief, confirms_clock=confirms_clock)

    async def take(self, lease: Lease, partitions: Collection[int], *, from_live: bool = False) -> Collection[int]:
        """See `durable.provider.Ownership.take`."""
        return await ownership.take(self._hub, lease, partitions, from_live=from_live)

    async def release(self, lease: Lease, partitions: Collection[int] | None = None) -> None:
        """See `durable.provider.Ownership.release`."""
        await ownership.release(self._hub, lease, partitions)

    # ---- turns

    async def recover(self, lease: Lease, partitions: Collection[int]) -> Sequence[InstanceKey]:
        """See `durable.provider.Turns.recover`."""
        return await turns.recover(self._hub, lease, partitions)

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
        return await turns.receive(self._hub, lease, held, limit, (due_after, due_before), served)

    async def load(self, targets: Sequence[tuple[InstanceKey, str | None]]) -> Sequence[InstanceRow | None]:
        """See `durable.provider.Turns.load`."""
        return await turns.load(self._hub, targets)

    async def read_history(
        self, run_id: str, generation: int, first: int = 0, bytes_max: int = 4 * 1024 * 1024
    ) -> Sequence[RecordRow]:
        """See `durable.provider.Turns.read_history`."""
        return await turns.read_history(self._hub, run_id, generation, first, bytes_max)

    async def commit(self, lease: Lease, batch: Batch) -> Committed:
        """See `durable.provider.Turns.commit`."""
        return await turns.commit(self._hub, lease, batch)

    def mark_slow_turn(self, lease: Lease, key: InstanceKey, run_id: str) -> None:
        """See `durable.provider.Turns.mark_slow_turn`."""
        _run_aside(turns.mark_slow(self._hub, lease, key, run_id), self._address.name)

    # ---- activities

    async def claim(
        self, lease: Lease, queues: Sequence[str], served: Served, limit: int, *, held: Held = None
    ) -> Sequence[ActivityRow]:
        """See `durable.provider.Activities.claim`."""
        return await activities.claim(self._hub, lease, queues, served, limit, held)

    async def report(self, lease: Lease, reports: Sequence[Report], beats: Sequence[Beat] = ()) -> Sequence[bool]:
        """See `durable.provider.Activities.report`."""
        return await activities.report(self._hub, lease, reports, beats)

    # ---- clients

    async def submit(self, lease: Lease, number: int, messages: Sequence[Message]) -> Sequence[Delivery]:
        """See `durable.provider.Clients.submit`."""
        return await clients.submit(self._hub, lease, number, messages)

    async def list_instances(
        self, wanted: InstanceFilter, *, limit: int, page: bytes | None = None, newest_first: bool = True
    ) -> Page:
        """See `durable.provider.Clients.list_instances`."""
        return await listings.list_rows(self._hub, wanted, limit, page, newest_first=newest_first)

    async def count(self, wanted: InstanceFilter) -> int:
        """See `durable.provider.Clients.count`."""
        return await listings.count_rows(self._hub, wanted)

    async def purge(self, targets: Sequence[tuple[InstanceKey, str]]) -> int:
        """See `durable.provider.Clients.purge`."""
        return await clients.purge(self._hub, targets)

    async def read_memos(self, prefix: str, limit: int = 1000, *, after: str = "") -> Sequence[Memo]:
        """See `durable.provider.Clients.read_memos`."""
        return await listings.read_memos(self._hub, prefix, limit, after)

    # ---- wake-ups

    def listen(self, callback: Callable[[Wakeup], None]) -> Callable[[], None]:
        """See `durable.provider.Provider.listen`."""
        return self._hub.listen(callback)


def _run_aside(work: Coroutine[Any, Any, None], name: str) -> None:
    """Run a coroutine to its end in a loop and a thread of its own: the caller's loop is busy, or is this thread's."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work)
        except BaseException as error:  # noqa: BLE001 (for the caller)
            errors.append(error)

    thread = threading.Thread(target=run, name="durable-postgres")
    thread.start()
    thread.join()
    for error in errors:
        if isinstance(error, StoreError) or not isinstance(error, Exception):
            raise error
        raise unavailable(error, name) from error
