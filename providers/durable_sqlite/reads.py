"""What a partition's owner reads: short reads on a read-only connection, in the event loop's own thread.

A read of a few rows takes less time than the hop to a thread and back.
"""

from __future__ import annotations

import contextlib
import heapq
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from durable.provider import InstanceKey, InstanceRow, Lease, Priority, Received, RecordRow, StoredMessage
from durable_sqlite.commits import join_parts
from durable_sqlite.rows import SELECTED, row_of

INLINE_BYTES_MAX = 256 * 1024
"""How much of a history one read returns: what is still read well within a millisecond or two."""

_FIND_CURRENT = f"SELECT {SELECTED} FROM runs WHERE hub = ? AND kind = ? AND id = ? AND place = 0"
_OF_RUN = "WHERE hub = ? AND kind = ? AND id = ? AND run_id = ?"
_FIND_ENDED = f"SELECT {SELECTED} FROM runs INDEXED BY runs_ended {_OF_RUN} AND place = 1"
_FIND_WAITING = f"SELECT {SELECTED} FROM runs INDEXED BY runs_waiting {_OF_RUN} AND place = 2"

_IS_OWN = "partition IN (SELECT partition FROM partitions JOIN leases USING (hub, lease_id)" + (
    " WHERE hub = ? AND lease_id = ? AND epoch = ?)"
)
# As one text, because thousands of them may be held, and a row each is what takes the time.
_SEQUENCES = (
    "SELECT group_concat(sequence) FROM"
    f" (SELECT sequence FROM inbox WHERE hub = ? AND priority = 1 AND {_IS_OWN} ORDER BY sequence LIMIT ?)"
)
_CONTROL = (
    "SELECT priority, sequence FROM inbox INDEXED BY inbox_control"
    f" WHERE hub = ? AND priority = 0 AND {_IS_OWN} ORDER BY sequence LIMIT ?"
)
_DELAYED = (
    "SELECT priority, sequence FROM inbox_later INDEXED BY inbox_delayed"
    " WHERE hub = ? AND parked = 0 AND visible_at <= ?"
    f" AND {_IS_OWN} ORDER BY visible_at LIMIT ?"
)
_DELAYED_OF = (
    "SELECT priority, sequence FROM inbox_later INDEXED BY inbox_delayed_of"
    " WHERE hub = ? AND kind = ? AND id = ? AND parked = 0 AND visible_at <= ?"
)
# Driven by the instances whose time has come, not by the messages that wait for others.
_UNPARKED = (
    "SELECT priority, sequence FROM runs INDEXED BY runs_parked"
    " CROSS JOIN inbox_later INDEXED BY inbox_parked USING (hub, kind, id)"
    " WHERE runs.hub = ? AND place = 0 AND parked_until > 0 AND parked_until <= ? AND parked = 1 AND visible_at <= ?"
    f" AND inbox_later.{_IS_OWN} ORDER BY parked_until LIMIT ?"
)
_MESSAGE = (
    "SELECT sequence, partition, priority, visible_at, kind, id, run_id, start_run_id, data FROM {table}"
    " WHERE hub = ? AND sequence = ?"
)
_IN_INBOX = _MESSAGE.format(table="inbox")
_IN_LATER = _MESSAGE.format(table="inbox_later")
_DUE = (
    "SELECT kind, id, due_at FROM runs INDEXED BY runs_due WHERE hub = ? AND place = 0 AND status < 4"
    f" AND due_at IS NOT NULL AND due_at > ? AND due_at <= ? AND {_IS_OWN} ORDER BY due_at"
)
_TO_RECOVER = (
    "SELECT kind, id FROM runs INDEXED BY runs_to_recover WHERE hub = ? AND partition = ? AND place = 0 AND status < 4"
    " AND (open_work > 0 OR status = 3 OR slow_turns > 0)"
)
_OWNED = (
    "SELECT partition FROM partitions JOIN leases USING (hub, lease_id) WHERE hub = ? AND lease_id = ? AND epoch = ?"
)
_HISTORY = (
    "SELECT record, part, data, checksum FROM history"
    " WHERE hub = ? AND run_id = ? AND generation = ? AND record >= ? ORDER BY record, part"
)


@contextlib.contextmanager
def snapshot(database: sqlite3.Connection) -> Iterator[None]:
    """Let all statements inside see one state of the store."""
    database.execute("BEGIN")
    try:
        yield
    finally:
        database.execute("COMMIT")


class Reads:
    """The reading calls of one provider, for one hub."""

    def __init__(self, hub: int) -> None:
        self._hub = hub

    def load(
        self, database: sqlite3.Connection, targets: Sequence[tuple[InstanceKey, str | None]]
    ) -> list[InstanceRow | None]:
        """See `durable.provider.Turns.load`."""
        with snapshot(database):
            return [self._find(database, key, run_id) for key, run_id in targets]

    def _find(self, database: sqlite3.Connection, key: InstanceKey, run_id: str | None) -> InstanceRow | None:
        values = database.execute(_FIND_CURRENT, (self._hub, key.kind, key.id)).fetchone()
        if run_id is not None and (values is None or values[4] != run_id):
            place = (self._hub, key.kind, key.id, run_id)
            values = (
                database.execute(_FIND_ENDED, place).fetchone() or database.execute(_FIND_WAITING, place).fetchone()
            )
        return None if values is None else row_of(values)

    def recover(self, database: sqlite3.Connection, lease: Lease, partitions: Collection[int]) -> list[InstanceKey]:
        """See `durable.provider.Turns.recover`."""
        with snapshot(database):
            rows = database.execute(_OWNED, (self._hub, lease.lease_id, lease.epoch)).fetchall()
            owned = {partition for (partition,) in rows}
            return [
                InstanceKey(key_id, kind)
                for partition in owned.intersection(partitions)
                for kind, key_id in database.execute(_TO_RECOVER, (self._hub, partition)).fetchall()
            ]

    def receive(
        self,
        database: sqlite3.Connection,
        lease: Lease,
        held: Collection[int],
        limit: int,
        due: tuple[int, int],
        now: int,
    ) -> Received:
        """See `durable.provider.Turns.receive`."""
        held = held if isinstance(held, set | frozenset | dict) else frozenset(held)
        with snapshot(database):
            messages = self._messages(database, lease, held, limit, now)
            found = self._due(database, lease, due, limit) if due[1] > due[0] else []
        return Received(messages, found, now)

    def _messages(
        self, database: sqlite3.Connection, lease: Lease, held: Collection[int], limit: int, now: int
    ) -> list[StoredMessage]:
        own = (self._hub, lease.lease_id, lease.epoch)
        enough, is_cut = limit + len(held), False
        (text,) = database.execute(_SEQUENCES, (self._hub, *own, enough)).fetchone()
        normal = [sequence for sequence in map(int, text.split(",")) if sequence not in held] if text else []
        places = {(int(Priority.NORMAL), sequence) for sequence in normal[:limit]}
        for statement, values in (
            (_CONTROL, (self._hub, *own, enough)),
            (_DELAYED, (self._hub, now, *own, enough)),
            (_UNPARKED, (self._hub, now, now, *own, enough)),
        ):
            found = database.execute(statement, values).fetchall()
            is_cut = is_cut or (statement is _DELAYED and len(found) == enough)
            places.update(place for place in found if place[1] not in held)
        messages = [self._message(database, sequence) for _, sequence in heapq.nsmallest(limit, places)]
        if not is_cut:
            return messages
        # What was delayed comes by its time, so that an earlier message of the same instance may still be among the rest.
        for kind, key_id in {(message.target.kind, message.target.id) for message in messages}:
            delayed = database.execute(_DELAYED_OF, (self._hub, kind, key_id, now)).fetchall()
            places.update(place for place in delayed if place[1] not in held)
        return [self._message(database, sequence) for _, sequence in heapq.nsmallest(limit, places)]

    def _message(self, database: sqlite3.Connection, sequence: int) -> StoredMessage:
        place = (self._hub, sequence)
        values = database.execute(_IN_INBOX, place).fetchone() or database.execute(_IN_LATER, place).fetchone()
        _, partition, priority, visible_at, kind, key_id, run_id, start_run_id, data = values
        key = InstanceKey(key_id, kind)
        start = None if start_run_id is None else self._find(database, key, start_run_id)
        return StoredMessage(sequence, key, partition, data, Priority(priority), visible_at, run_id, start)

    def _due(
        self, database: sqlite3.Connection, lease: Lease, due: tuple[int, int], limit: int
    ) -> list[tuple[InstanceKey, int]]:
        values = (self._hub, *due, self._hub, lease.lease_id, lease.epoch)
        rows = database.execute(_DUE, values)
        found: list[tuple[InstanceKey, int]] = []
        for kind, key_id, due_at in rows:
            if len(found) >= limit and due_at != found[-1][1]:
                break
            found.append((InstanceKey(key_id, kind), due_at))
        rows.close()
        return found

    def read_history(
        self, database: sqlite3.Connection, run_id: str, generation: int, first: int, bytes_max: int
    ) -> list[RecordRow]:
        """Return whole records until `bytes_max`, or INLINE_BYTES_MAX, is passed; at least one."""
        rows = database.execute(_HISTORY, (self._hub, run_id, generation, first))
        found: list[Any] = []
        left = min(bytes_max, INLINE_BYTES_MAX)
        for row in rows:
            if left <= 0 and row[1] == 0:
                break
            found.append(row)
            left -= len(row[2])
        rows.close()
        return join_parts(found)
