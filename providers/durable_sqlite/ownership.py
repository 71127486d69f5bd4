"""Leases and partitions: who may write, who is dead, and who takes over.

A worker's lease is alive while it has not expired and its process holds the lock on a file named after it, in a folder
beside the database. The kernel frees that lock with the process, so that a killed worker is known to be dead at once.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection

from durable.errors import LeaseLostError, StoreError
from durable.provider import LEASE_AHEAD_US, LEASE_US, Belief, HubClock, Lease, LeaseView, OtherLease
from durable_sqlite.filelock import FileLock, is_held, mode_beside
from durable_sqlite.hub_time import HubTime
from durable_sqlite.writer import Transaction

FORGOTTEN_AFTER_US = 3600 * 1_000_000
"""A lease that owns nothing is removed this long after it expired; nobody repeats a batch so late."""

SWEPT_AT_ONCE = 100
"""How many expired rows one renewal removes at most."""

_READ_LEASE = "SELECT epoch, is_worker, expires_at FROM leases WHERE hub = ? AND lease_id = ?"
_ADD_LEASE = "INSERT INTO leases (hub, lease_id, epoch, is_worker, expires_at) VALUES (?, ?, 1, ?, ?)"
_ADD_WORKER = "INSERT INTO workers (hub, lease_id, name, announcement) VALUES (?, ?, ?, ?)"
_ANNOUNCE = "UPDATE workers SET announcement = ? WHERE hub = ? AND lease_id = ?"
_PROLONG = "UPDATE leases SET expires_at = ? WHERE hub = ? AND lease_id = ? AND epoch = ?"
_RAISE_EPOCH = "UPDATE leases SET epoch = epoch + 1, ownership = ownership + 1 WHERE hub = ? AND lease_id = ?"
_COUNT_CHANGE = "UPDATE leases SET ownership = ownership + 1 WHERE hub = ? AND lease_id = ?"
_READ_OWNERS = "SELECT partition, lease_id FROM partitions WHERE hub = ?"
_READ_OWNED = "SELECT partition FROM partitions WHERE hub = ? AND lease_id = ?"
_OWN = "UPDATE partitions SET lease_id = ? WHERE hub = ? AND partition = ?"
_DISOWN = "UPDATE partitions SET lease_id = NULL WHERE hub = ? AND lease_id = ?"
_DISOWN_ONE = "UPDATE partitions SET lease_id = NULL WHERE hub = ? AND lease_id = ? AND partition = ?"
_READ_WORKERS = (
    "SELECT leases.lease_id, name, announcement, expires_at FROM leases JOIN workers USING (hub, lease_id)"
    " WHERE hub = ?"
)
_DROP_LEASE = "DELETE FROM leases WHERE hub = ? AND lease_id = ?"
_DROP_WORKER = "DELETE FROM workers WHERE hub = ? AND lease_id = ?"
_FIND_FORGOTTEN = (
    "SELECT lease_id FROM leases WHERE hub = ? AND expires_at <= ? AND NOT EXISTS"
    " (SELECT 1 FROM partitions WHERE partitions.hub = leases.hub AND partitions.lease_id = leases.lease_id) LIMIT ?"
)
_FIND_EXPIRED_MEMOS = (
    "SELECT hub, key FROM memos INDEXED BY memos_expiring WHERE hub = ? AND expires_at <= ? ORDER BY expires_at LIMIT ?"
)
_DROP_MEMO = "DELETE FROM memos WHERE hub = ? AND key = ?"


def lease_lost(lease: Lease) -> LeaseLostError:
    """Return the error for a lease whose epoch was raised, or that is gone."""
    return LeaseLostError(f"lease {lease.lease_id} was taken over or given up; nothing was written")


class Owned:
    """What a lease owns, read again only after it has changed: each change is counted in the lease's row."""

    def __init__(self, hub: int) -> None:
        self._hub = hub
        self._known: dict[str, tuple[int, frozenset[int]]] = {}

    def partitions(self, database: sqlite3.Connection, lease: Lease, ownership: int) -> frozenset[int]:
        """Return the lease's partitions at this count of changes."""
        known = self._known.get(lease.lease_id)
        if known is None or known[0] != ownership:
            rows = database.execute(_READ_OWNED, (self._hub, lease.lease_id)).fetchall()
            known = (ownership, frozenset(partition for (partition,) in rows))
            self._known = {lease.lease_id: known}  # a provider serves one worker; more would only be slower
        return known[1]

    def forget(self) -> None:
        """A change was undone: its count will be that of another one."""
        self._known = {}


class Ownership:
    """The ownership calls of one provider, each inside a transaction, and the OS locks of its own workers."""

    def __init__(self, hub: int, path: str, time: HubTime) -> None:
        self._hub = hub
        self._time = time
        self._database = path
        self._folder = path + ".live"
        self._locks: dict[str, FileLock] = {}

    # ---- OS locks

    def _path_of(self, lease_id: str) -> str:
        return os.path.join(self._folder, lease_id)

    def _lock(self, lease_id: str) -> None:
        """Show that this process lives. Under the writers' lock, so that nobody sweeps the file before it is held."""
        mode = mode_beside(self._database)
        if not os.path.isdir(self._folder):
            os.mkdir(self._folder)
            os.chmod(self._folder, mode | (mode & 0o444) >> 2)  # who may read it may look into it
        lock = FileLock(self._path_of(lease_id), mode)
        lock.acquire()
        self._locks[lease_id] = lock

    def _unlock(self, lease_id: str) -> None:
        lock = self._locks.pop(lease_id, None)
        if lock is not None:
            _remove(lock.path)
            lock.close()

    def _is_locked(self, lease_id: str) -> bool:
        return lease_id in self._locks or is_held(self._path_of(lease_id))

    def unlock_all(self) -> None:
        """Let everybody know that the workers of this object are gone. The caller holds the writers' lock."""
        for lease_id in list(self._locks):
            self._unlock(lease_id)
        try:
            os.rmdir(self._folder)
        except OSError:  # others live, or it is not there
            pass

    def _sweep_locks(self) -> None:
        """Remove what killed workers left. The caller holds the writers' lock; a living worker holds its own."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return
        for name in names:
            if not self._is_locked(name):
                _remove(self._path_of(name))

    # ---- leases

    def begin(self, transaction: Transaction, lease_id: str, name: str, announcement: bytes, *, worker: bool) -> Lease:
        """See `durable.provider.Ownership.lease`."""
        if worker:
            _, transaction.now = self._time.update(transaction.database, HubClock.begun)
        expires_at = transaction.now + LEASE_US
        transaction.database.execute(_ADD_LEASE, (self._hub, lease_id, int(worker), expires_at))
        if worker:
            transaction.database.execute(_ADD_WORKER, (self._hub, lease_id, name, announcement))
            if lease_id not in self._locks:
                self._lock(lease_id)
            transaction.changes.anything = transaction.changes.leases = True
        return Lease(lease_id, 1, expires_at, transaction.now, self._time.clock(transaction.database).number)

    def prolong(self, transaction: Transaction, lease: Lease) -> int:
        """Make the lease live on; return until when. Raises LeaseLostError."""
        expires_at = transaction.now + LEASE_US
        values = (expires_at, self._hub, lease.lease_id, lease.epoch)
        if transaction.database.execute(_PROLONG, values).rowcount != 1:
            raise lease_lost(lease)
        return expires_at

    def is_lost(self, database: sqlite3.Connection, lease: Lease) -> bool:
        """Tell whether the lease's epoch was raised, or it is gone."""
        row = database.execute(_READ_LEASE, (self._hub, lease.lease_id)).fetchone()
        return row is None or row[0] != lease.epoch

    def is_live(self, database: sqlite3.Connection, lease_id: str, now: int) -> bool:
        """Tell whether a lease may still write: its epoch was not raised, it has not expired, and its process lives."""
        row = database.execute(_READ_LEASE, (self._hub, lease_id)).fetchone()
        if row is None or row[0] != 1 or not 0 < row[2] - now <= LEASE_AHEAD_US:
            return False
        return not row[1] or self._is_locked(lease_id)

    def renew(
        self,
        transaction: Transaction,
        lease: Lease,
        announcement: bytes | None,
        belief: Callable[[], Belief] | None,
        *,
        confirms_clock: bool,
    ) -> LeaseView:
        """See `durable.provider.Ownership.renew`."""
        database = transaction.database
        if self.is_lost(database, lease):
            raise lease_lost(lease)
        is_witness = self._set_clock(transaction, lease, belief)
        if confirms_clock:
            _, transaction.now = self._time.update(database, HubClock.confirmed)
        expires_at, now = self.prolong(transaction, lease), transaction.now
        if announcement is not None:
            database.execute(_ANNOUNCE, (announcement, self._hub, lease.lease_id))
            transaction.changes.anything = transaction.changes.leases = True
        self._sweep_locks()
        if is_witness:
            self._forget(database, now)
        owned: dict[str | None, set[int]] = {}
        for partition, owner in database.execute(_READ_OWNERS, (self._hub,)).fetchall():
            owned.setdefault(owner, set()).add(partition)
        unowned = set(owned.get(None, ()))
        others = []
        for lease_id, name, other_announcement, ends_at in database.execute(_READ_WORKERS, (self._hub,)).fetchall():
            if lease_id == lease.lease_id:
                continue
            is_live = self.is_live(database, lease_id, now)
            partitions = owned.get(lease_id, set())
            if not is_live:
                unowned |= partitions
            if is_live or partitions:
                others.append(OtherLease(lease_id, name, other_announcement, frozenset(partitions), is_live, ends_at))
        mine = frozenset(owned.get(lease.lease_id, ()))
        return LeaseView(now, expires_at, mine, frozenset(unowned), others, self._time.clock(database))

    def _set_clock(self, transaction: Transaction, lease: Lease, belief: Callable[[], Belief] | None) -> bool:
        """Let the hub's clock hear what an owner takes for the time; return whether that proves what has expired."""
        database = transaction.database
        owned = database.execute(_READ_OWNED + " LIMIT 1", (self._hub, lease.lease_id)).fetchone()
        if owned is None or belief is None:
            _, transaction.now = self._time.update(database, HubClock.begun)
            return False
        before, believed = self._time.clock(database), belief()
        _, transaction.now = self._time.update(database, lambda clock, store: clock.renewed(store, believed))
        return before.is_witnessed(believed)

    def _forget(self, database: sqlite3.Connection, now: int) -> None:
        """Remove a few of the leases and memos that nobody needs any more."""
        values = (self._hub, now - FORGOTTEN_AFTER_US, SWEPT_AT_ONCE)
        for (lease_id,) in database.execute(_FIND_FORGOTTEN, values).fetchall():
            self._drop(database, lease_id)
        expired = database.execute(_FIND_EXPIRED_MEMOS, (self._hub, now, SWEPT_AT_ONCE)).fetchall()
        if expired:
            database.executemany(_DROP_MEMO, expired)

    def _drop(self, database: sqlite3.Connection, lease_id: str) -> None:
        database.execute(_DROP_LEASE, (self._hub, lease_id))
        database.execute(_DROP_WORKER, (self._hub, lease_id))

    # ---- partitions

    def take(
        self, transaction: Transaction, lease: Lease, partitions: Collection[int], *, from_live: bool
    ) -> frozenset[int]:
        """See `durable.provider.Ownership.take`."""
        database, hub = transaction.database, self._hub
        self._time.update(database, HubClock.taken)
        self.prolong(transaction, lease)
        owners: dict[int, str | None] = dict(database.execute(_READ_OWNERS, (hub,)).fetchall())
        unknown = set(partitions) - owners.keys()
        if unknown:
            raise StoreError(f"no such partitions: {sorted(unknown)}")
        rivals = {owner for partition in partitions if (owner := owners[partition]) not in (None, lease.lease_id)}
        for rival in rivals:
            assert rival is not None
            if from_live or not self.is_live(database, rival, transaction.now):
                database.execute(_RAISE_EPOCH, (hub, rival))
                database.execute(_DISOWN, (hub, rival))
                owners = {partition: None if owner == rival else owner for partition, owner in owners.items()}
        free = [partition for partition in partitions if owners[partition] is None]
        if free:
            database.executemany(_OWN, [(lease.lease_id, hub, partition) for partition in free])
            database.execute(_COUNT_CHANGE, (hub, lease.lease_id))
        return frozenset(partition for partition in partitions if owners[partition] in (None, lease.lease_id))

    def release(self, transaction: Transaction, lease: Lease, partitions: Collection[int] | None) -> None:
        """See `durable.provider.Ownership.release`."""
        database, hub = transaction.database, self._hub
        row = database.execute(_READ_LEASE, (hub, lease.lease_id)).fetchone()
        if row is None or row[0] != lease.epoch:
            return
        transaction.changes.anything = True
        transaction.changes.leases = bool(row[1])
        if partitions is None:
            database.execute(_DISOWN, (hub, lease.lease_id))
            self._drop(database, lease.lease_id)
        else:
            database.executemany(_DISOWN_ONE, [(hub, lease.lease_id, partition) for partition in partitions])
            database.execute(_COUNT_CHANGE, (hub, lease.lease_id))

    def forget_lock(self, lease: Lease) -> None:
        """Let the OS lock of a released lease go."""
        self._unlock(lease.lease_id)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
