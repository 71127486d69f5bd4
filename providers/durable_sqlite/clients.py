"""What clients write: messages, and the removal of what has ended."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from durable.errors import StoreError
from durable.provider import LEASE_US, Delivery, InstanceKey, Lease, Message
from durable_sqlite.commits import decode_deliveries, encode_deliveries
from durable_sqlite.deliveries import Deliveries
from durable_sqlite.removal import find_current, find_replaced, remove_run
from durable_sqlite.rows import drop_tags
from durable_sqlite.writer import Transaction

_READ_LEASE = "SELECT submit_number, submit_answer FROM leases WHERE hub = ? AND lease_id = ?"
_ADD_LEASE = "INSERT INTO leases (hub, lease_id, epoch, is_worker, expires_at) VALUES (?, ?, ?, 0, ?)"
_WRITE_ANSWER = (
    "UPDATE leases SET submit_number = ?, submit_answer = ?, expires_at = CASE is_worker WHEN 0 THEN ? ELSE expires_at END"
    " WHERE hub = ? AND lease_id = ?"
)
_IS_AWAITED = "SELECT 1 FROM runs INDEXED BY runs_waiting WHERE hub = ? AND kind = ? AND id = ? AND place = 2 LIMIT 1"
_READ_TARGETS = "SELECT sequence, kind, id FROM {table} WHERE hub = ?"
_DROP_MESSAGE = "DELETE FROM {table} WHERE hub = ? AND sequence = ?"


class Clients:
    """The clients' writing calls of one provider, each inside a transaction."""

    def __init__(self, hub: int) -> None:
        self._hub = hub

    def submit(
        self, transaction: Transaction, lease: Lease, number: int, messages: Sequence[Message]
    ) -> list[Delivery]:
        """See `durable.provider.Clients.submit`."""
        database, place = transaction.database, (self._hub, lease.lease_id)
        expires_at = transaction.now + LEASE_US
        row = database.execute(_READ_LEASE, place).fetchone()
        if row is None:  # it comes back with another epoch: what it could do besides submitting stays lost
            database.execute(_ADD_LEASE, (*place, lease.epoch + 1, expires_at))
        elif number <= row[0]:
            if number < row[0]:
                raise StoreError(f"submit {number} is older than {row[0]}, the last one: its answer is gone")
            return decode_deliveries(json.loads(row[1]))
        deliveries = Deliveries(
            database, self._hub, transaction.now, transaction.changes, is_careful=transaction.is_careful
        )
        answers = [deliveries.deliver(message) for message in messages]
        deliveries.finish()
        database.execute(_WRITE_ANSWER, (number, json.dumps(encode_deliveries(answers)), expires_at, *place))
        return answers

    def purge(self, database: sqlite3.Connection, targets: Sequence[tuple[InstanceKey, str]]) -> int:
        """See `durable.provider.Clients.purge`."""
        removed = 0
        gone: set[InstanceKey] = set()
        for key, run_id in targets:
            place = (self._hub, key.kind, key.id)
            runs = find_replaced(database, self._hub, key)
            current = find_current(database, self._hub, key)
            if current is not None and current[1] == run_id:
                if current[2] < 4 or database.execute(_IS_AWAITED, place).fetchone() is not None:
                    continue
                runs.append(current[:2])
                drop_tags(database, self._hub, current[0])
                gone.add(key)
            names = [name for _, name in runs]
            if run_id not in names:
                continue
            for number, name in runs[: names.index(run_id) + 1]:
                remove_run(database, self._hub, number, name)
            removed += 1
        if gone:
            self._remove_messages(database, gone)
        return removed

    def _remove_messages(self, database: sqlite3.Connection, keys: set[InstanceKey]) -> None:
        """One look at all messages for all instances: an index by target would cost every message its entry."""
        for table in ("inbox", "inbox_later"):
            rows = database.execute(_READ_TARGETS.format(table=table), (self._hub,)).fetchall()
            found = [(self._hub, sequence) for sequence, kind, key_id in rows if InstanceKey(key_id, kind) in keys]
            database.executemany(_DROP_MESSAGE.format(table=table), found)
