"""The SQLite provider: which call goes to the writer, which is read at once, and which is read in a thread."""

from __future__ import annotations

import asyncio
import functools
import os
import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, TypeVar

import aiosqlite

from durable.errors import StoreError
from durable.news import bits
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
from durable_sqlite import activities, failures, listings, schema
from durable_sqlite.activities import Activities
from durable_sqlite.clients import Clients
from durable_sqlite.commits import Commits
from durable_sqlite.connection import ReadConnection, WriteConnection, lock_of, log_version, make_durable
from durable_sqlite.hub_time import HubTime
from durable_sqlite.ownership import Owned, Ownership, lease_lost
from durable_sqlite.reads import Reads
from durable_sqlite.refusal import VALUE_BYTES_MAX
from durable_sqlite.waking import Waking
from durable_sqlite.writer import Transaction, Writer

LOADED_INLINE_MAX = 50
"""So many rows are read in well under a millisecond; more are read in a thread."""

T = TypeVar("T")


class _Found(NamedTuple):
    """A file that was opened, and the hub in it."""

    write: WriteConnection
    read: ReadConnection
    hub: int
    partitions: int


class _Opened:
    """Everything that exists between `open` and `close`."""

    def __init__(self, hub_name: str, ports: Ports, found: _Found) -> None:
        path, hub = found.write.path, found.hub
        self.process = os.getpid()
        self.partitions = found.partitions
        self.write = found.write
        self.read = found.read
        self.time = HubTime(hub, ports.now_us)
        # Where no threads may be, nothing comes from other processes in an order that could be told again.
        self.waking = Waking(found.write, hub, hub_name, has_neighbours=ports.may_start_threads)
        self.writer = Writer(found.write, self.time, self.waking.tell, threaded=ports.may_start_threads)
        self.slow_reads: asyncio.Task[aiosqlite.Connection] | None = None  # its opening
        self.hub = hub
        self.ownership = Ownership(hub, path, self.time)
        self.commits = Commits(hub, found.partitions, Owned(hub), self.waking.is_heard)
        self.writer.on_undone = self.commits.forget
        self.activities = Activities(hub, self.ownership)
        self.clients = Clients(hub)
        self.reads = Reads(hub)

    async def open_slow(self) -> aiosqlite.Connection:
        """Return the connection for reads that may take their time, which has a thread of its own.

        Shielded: whoever reads first may be cancelled meanwhile, and the next one needs the connection all the same.
        """
        opening = self.slow_reads
        if opening is None or (opening.done() and (opening.cancelled() or opening.exception() is not None)):
            self.slow_reads = opening = asyncio.get_running_loop().create_task(_connect_slow(self.write.path))
        return await asyncio.shield(opening)

    async def close_slow(self) -> None:
        """Close that connection, if it was ever asked for."""
        opening = self.slow_reads
        if opening is None:
            return
        await asyncio.wait([opening])
        if not opening.cancelled() and opening.exception() is None:  # of that, whoever wanted to read has been told
            await opening.result().close()


async def _connect_slow(path: str) -> aiosqlite.Connection:
    return await aiosqlite.Connection(functools.partial(ReadConnection.open, path), 64)


class SqliteProvider:
    """The storage contract on one SQLite file. Used by one event loop; `mark_slow_turn` alone by any thread."""

    message_bytes_max: int | None = VALUE_BYTES_MAX
    batch_bytes_max: int | None = None
    is_fenced_by_lock = True
    is_remote = False

    def __init__(self, path: str, hub_name: str, ports: Ports, *, may_create: bool) -> None:
        self._path = path
        self._hub_name = hub_name
        self._ports = ports
        self._may_create = may_create
        self._now: _Opened | None = None

    @property
    def _opened(self) -> _Opened:
        opened = self._now
        if opened is None:
            raise StoreError(f"'{self._path}' is not open: call open() first, and nothing after close()")
        if opened.process != os.getpid():
            raise StoreError(f"'{self._path}' was opened before this process was forked: open it again in the child")
        if opened.write.broken is not None:
            raise opened.write.broken
        return opened

    # ---- ownership

    async def open(self) -> Hub:
        """See `durable.provider.Ownership.open`."""
        if self._now is None:
            found = await self._ports.run_blocking(self._connect)
            self._now = _Opened(self._hub_name, self._ports, found)
            log_version(self._path)
        return Hub(self._hub_name, self._now.partitions, self._read(self._now.time.now))

    def _connect(self) -> _Found:
        hubs: list[tuple[int, int]] = []
        path = os.path.realpath(self._path)  # what lies beside it is found by whoever opens it, by whatever name

        def prepare(database: sqlite3.Connection) -> None:
            schema.check_origin(database, path)
            make_durable(database, path)
            schema.migrate(database)
            hubs.append(schema.find_hub(database, self._hub_name, PARTITIONS))

        _prepare_file(path, may_create=self._may_create)
        write = WriteConnection(path)
        write.open(prepare)
        try:
            return _Found(write, ReadConnection.open(path), *hubs[0])
        except BaseException:
            write.close()
            raise

    async def close(self) -> None:
        """See `durable.provider.Ownership.close`."""
        opened, self._now = self._now, None
        if opened is None:
            return
        opened.waking.stop_listening()
        try:
            await opened.writer.close()
        finally:  # interrupted as well: nobody could close it again
            opened.waking.close()
            await opened.close_slow()
            await self._ports.run_blocking(functools.partial(_disconnect, opened))

    async def lease(self, name: str, announcement: bytes, *, worker: bool) -> Lease:
        """See `durable.provider.Ownership.lease`."""
        opened = self._opened
        lease_id = self._ports.new_id()
        return await opened.writer.write(
            lambda transaction: opened.ownership.begin(transaction, lease_id, name, announcement, worker=worker)
        )

    async def renew(
        self,
        lease: Lease,
        announcement: bytes | None = None,
        *,
        belief: Callable[[], Belief] | None = None,
        confirms_clock: bool = False,
    ) -> LeaseView:
        """See `durable.provider.Ownership.renew`."""
        opened = self._opened

        def renew(transaction: Transaction) -> LeaseView:
            return opened.ownership.renew(transaction, lease, announcement, belief, confirms_clock=confirms_clock)

        view = await opened.writer.write(renew)
        here = opened.waking.owned  # who else leases by this object
        theirs = {other.lease_id: bits(other.partitions) for other in view.others if other.lease_id in here}
        opened.waking.owned = {**theirs, lease.lease_id: bits(view.partitions)}
        return view

    async def take(self, lease: Lease, partitions: Collection[int], *, from_live: bool = False) -> Collection[int]:
        """See `durable.provider.Ownership.take`."""
        opened = self._opened
        taken = await opened.writer.write(
            lambda transaction: opened.ownership.take(transaction, lease, partitions, from_live=from_live)
        )
        opened.waking.owned[lease.lease_id] = opened.waking.owned.get(lease.lease_id, 0) | bits(taken)
        return taken

    async def release(self, lease: Lease, partitions: Collection[int] | None = None) -> None:
        """See `durable.provider.Ownership.release`."""
        opened = self._opened
        await opened.writer.write(lambda transaction: opened.ownership.release(transaction, lease, partitions))
        if partitions is None:
            opened.ownership.forget_lock(lease)
            opened.waking.owned.pop(lease.lease_id, None)
        else:
            opened.waking.owned[lease.lease_id] = opened.waking.owned.get(lease.lease_id, 0) & ~bits(partitions)

    # ---- turns

    async def recover(self, lease: Lease, partitions: Collection[int]) -> Sequence[InstanceKey]:
        """See `durable.provider.Turns.recover`."""
        opened = self._opened
        return self._read(lambda database: opened.reads.recover(database, lease, partitions))

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
        opened, due = self._opened, (due_after, due_before)
        unserved: list[ActivityRow] = []
        if served is not None:
            rows = await self._fetch(*activities.unserved(opened.hub, lease, served, limit))
            unserved = [activities.row_of(values) for values in rows]
        received = self._read(
            lambda database: opened.reads.receive(database, lease, held, limit, due, opened.time.now(database))
        )
        return received._replace(unserved=unserved)

    async def load(self, targets: Sequence[tuple[InstanceKey, str | None]]) -> Sequence[InstanceRow | None]:
        """See `durable.provider.Turns.load`."""
        opened = self._opened
        rows: list[InstanceRow | None] = []
        for start in range(0, len(targets), LOADED_INLINE_MAX):
            some = targets[start : start + LOADED_INLINE_MAX]
            if start:
                await asyncio.sleep(0)
            rows += self._read(functools.partial(opened.reads.load, targets=some))
        return rows

    async def read_history(
        self, run_id: str, generation: int, first: int = 0, bytes_max: int = 4 * 1024 * 1024
    ) -> Sequence[RecordRow]:
        """See `durable.provider.Turns.read_history`."""
        opened = self._opened
        return self._read(lambda database: opened.reads.read_history(database, run_id, generation, first, bytes_max))

    async def commit(self, lease: Lease, batch: Batch) -> Committed:
        """See `durable.provider.Turns.commit`."""
        opened = self._opened
        return await opened.writer.write(
            lambda transaction: opened.commits.commit(transaction, lease, batch), alone=batch.alone
        )

    def mark_slow_turn(self, lease: Lease, key: InstanceKey, run_id: str) -> None:
        """See `durable.provider.Turns.mark_slow_turn`."""
        opened = self._opened
        opened.writer.write_blocking(lambda transaction: opened.commits.mark_slow_turn(transaction, lease, key, run_id))

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
        opened = self._opened
        is_lost = self._read(lambda database: opened.ownership.is_lost(database, lease))
        if is_lost:
            raise lease_lost(lease)
        if not self._read(
            lambda database: opened.activities.is_any_free(database, lease, queues, held, opened.time.now(database))
        ):
            return []
        return await opened.writer.write(
            lambda transaction: opened.activities.claim(transaction, lease, queues, served, limit, held)
        )

    async def report(self, lease: Lease, reports: Sequence[Report], beats: Sequence[Beat] = ()) -> Sequence[bool]:
        """See `durable.provider.Activities.report`."""
        opened = self._opened
        return await opened.writer.write(
            lambda transaction: opened.activities.report(transaction, lease, reports, beats)
        )

    # ---- clients

    async def submit(self, lease: Lease, number: int, messages: Sequence[Message]) -> Sequence[Delivery]:
        """See `durable.provider.Clients.submit`."""
        opened = self._opened
        is_alone = len(messages) == 1  # a client puts together what is ready in a round of the loop
        return await opened.writer.write(
            lambda transaction: opened.clients.submit(transaction, lease, number, messages), alone=is_alone
        )

    async def list_instances(
        self, wanted: InstanceFilter, *, limit: int, page: bytes | None = None, newest_first: bool = True
    ) -> Page:
        """See `durable.provider.Clients.list_instances`."""
        hub = self._opened.hub
        return await listings.list_rows(self._fetch, hub, wanted, limit, page, newest_first=newest_first)

    async def count(self, wanted: InstanceFilter) -> int:
        """See `durable.provider.Clients.count`."""
        return await listings.count_rows(self._fetch, self._opened.hub, wanted)

    async def purge(self, targets: Sequence[tuple[InstanceKey, str]]) -> int:
        """See `durable.provider.Clients.purge`."""
        opened = self._opened
        return await opened.writer.write_in_thread(
            lambda transaction: opened.clients.purge(transaction.database, targets)
        )

    async def read_memos(self, prefix: str, limit: int = 1000, *, after: str = "") -> Sequence[Memo]:
        """See `durable.provider.Clients.read_memos`."""
        statement, values = listings.memos(self._opened.hub, prefix, after, limit)
        return [Memo(*row) for row in await self._fetch(statement, values)]

    # ---- reading

    def _read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Read a little, in this thread."""
        try:
            return function(self._opened.read)
        except sqlite3.Error as error:
            raise failures.store_error(error, self._path) from error

    async def _fetch(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Read what may be much, in a thread."""
        if not self._ports.may_start_threads:
            return self._read(lambda database: database.execute(statement, values).fetchall())
        opened = self._opened
        try:
            slow_reads = await opened.open_slow()
            return list(await slow_reads.execute_fetchall(statement, values))  # type: ignore[arg-type]
        except sqlite3.Error as error:
            raise failures.store_error(error, self._path) from error

    # ---- wake-ups

    def listen(self, callback: Callable[[Wakeup], None]) -> Callable[[], None]:
        """See `durable.provider.Provider.listen`."""
        return self._opened.waking.listen(callback)


def _prepare_file(path: str, *, may_create: bool) -> None:
    """Make sure that the file is there, readable by its owner only; it may be empty. Raises StoreError."""
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path):
        raise StoreError(f"'{path}' is a folder: give the path of a file in it")
    if not os.path.isdir(folder):
        raise StoreError(f"the folder of '{path}' does not exist: make it, or give another path")
    if os.path.exists(path):
        return
    if not may_create:
        raise StoreError(f"'{path}' does not exist, and is not to be created (mode=rw): check the path")
    try:
        # Never an open of a file that is there: closing it would take away the locks that SQLite holds in this process.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        pass  # somebody was faster
    except PermissionError as error:
        raise failures.read_only(path, error) from error
    except OSError as error:
        raise StoreError(f"'{path}' cannot be created: {error}") from error


def _disconnect(opened: _Opened) -> None:
    opened.writer.join()
    try:
        with lock_of(opened.write.path):
            opened.ownership.unlock_all()
    except StoreError:
        if os.path.exists(os.path.dirname(opened.write.path)):
            raise
        opened.ownership.unlock_all()  # the folder is gone, and with it all who could be in the way
    finally:
        opened.read.close()
        opened.write.close()
