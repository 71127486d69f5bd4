"""The activity queue: attempts that any worker may claim, and what becomes of them."""

from __future__ import annotations

import dataclasses
import logging
import sqlite3
from collections.abc import Collection, Sequence
from typing import Any

from durable.provider import (
    LEASE_AHEAD_US,
    LEASE_US,
    ActivityRow,
    Beat,
    Held,
    InstanceKey,
    Lease,
    Report,
    Served,
    TaskAddress,
)
from durable_sqlite import refusal
from durable_sqlite.deliveries import Deliveries
from durable_sqlite.ownership import Ownership, lease_lost
from durable_sqlite.writer import Transaction

logger = logging.getLogger("durable.sqlite")

_READ_LEASE = "SELECT epoch, expires_at FROM leases WHERE hub = ? AND lease_id = ?"
_FIND_CLAIMERS = "SELECT DISTINCT claimer FROM queue WHERE hub = ? AND claimer IS NOT NULL"
_SET_FREE = "UPDATE queue SET claimer = NULL WHERE hub = ? AND claimer = ? AND claimer IS NOT NULL"
_READ_CLAIMED = (
    "SELECT number, kind, id, run_id, generation, task_id FROM queue"
    " WHERE hub = ? AND claimer = ? AND claimer IS NOT NULL"
)
_SET_FREE_ONE = "UPDATE queue SET claimer = NULL WHERE number = ?"
_COLUMNS = (
    "number, kind, id, run_id, generation, task_id, partition, queue, name, version, data, priority, visible_at,"
    " start_by, deliveries, first_claimed_at, heartbeat"
)
_FREE = "hub = ? AND queue = ? AND claimer IS NULL AND visible_at <= ?"
_FIND_FREE = f"SELECT {_COLUMNS} FROM queue WHERE {_FREE} ORDER BY priority, number"
_IS_ANY_FREE = f"SELECT 1 FROM queue WHERE {_FREE} LIMIT 1"
_EXPIRED = "hub = ? AND start_by IS NOT NULL AND first_claimed_at = 0 AND start_by <= ?"
_FIND_EXPIRED = f"SELECT {_COLUMNS} FROM queue WHERE {_EXPIRED} AND claimer IS NULL ORDER BY start_by LIMIT ?"
_IS_ANY_EXPIRED = f"SELECT 1 FROM queue WHERE {_EXPIRED} AND claimer IS NULL LIMIT 1"
_CLAIM = (
    "UPDATE queue SET claimer = ?, deliveries = deliveries + 1,"
    " first_claimed_at = CASE first_claimed_at WHEN 0 THEN ? ELSE first_claimed_at END WHERE number = ?"
)
_UNCLAIMED_OF = (
    f"SELECT {_COLUMNS} FROM queue WHERE hub = ? AND claimer IS NULL AND partition IN (SELECT partition FROM partitions"
    " JOIN leases USING (hub, lease_id) WHERE hub = ? AND lease_id = ? AND epoch = ?)"
)
_THE_TASK = "hub = ? AND kind = ? AND id = ? AND run_id = ? AND generation = ? AND task_id = ?"
_FIND = f"SELECT 1 FROM queue WHERE {_THE_TASK}"
_DELETE = f"DELETE FROM queue WHERE {_THE_TASK}"
_PUT_OFF = f"UPDATE queue SET claimer = NULL, visible_at = ? WHERE {_THE_TASK}"
_BEAT = f"UPDATE queue SET heartbeat = ifnull(?, heartbeat) WHERE {_THE_TASK} AND claimer = ?"

SERVED_MAX = 15_000
"""More pairs of queue and name than this are not left out: a statement takes 32,766 values."""


class Activities:
    """The activity calls of one provider, each inside a transaction."""

    def __init__(self, hub: int, ownership: Ownership) -> None:
        self._hub = hub
        self._ownership = ownership

    def is_any_free(
        self, database: sqlite3.Connection, lease: Lease, queues: Sequence[str], held: Held, now: int
    ) -> bool:
        """Tell whether a claim might find anything. Only reads, so that an idle worker's poll does not write."""
        if held is not None and self._unknown(database, lease, held):
            return True
        if self._dead_claimers(database, now) or database.execute(_IS_ANY_EXPIRED, (self._hub, now)).fetchone():
            return True
        return any(database.execute(_IS_ANY_FREE, (self._hub, queue, now)).fetchone() for queue in queues)

    def _dead_claimers(self, database: sqlite3.Connection, now: int) -> list[str]:
        claimers = database.execute(_FIND_CLAIMERS, (self._hub,)).fetchall()
        return [claimer for (claimer,) in claimers if not self._ownership.is_live(database, claimer, now)]

    def claim(
        self,
        transaction: Transaction,
        lease: Lease,
        queues: Sequence[str],
        served: Served,
        limit: int,
        held: Held,
    ) -> list[ActivityRow]:
        """See `durable.provider.Activities.claim`."""
        database, hub, now = transaction.database, self._hub, transaction.now
        epoch, expires_at = database.execute(_READ_LEASE, (hub, lease.lease_id)).fetchone() or (None, 0)
        if epoch != lease.epoch:
            raise lease_lost(lease)
        if not 0 < expires_at - now <= LEASE_AHEAD_US:
            return []
        database.executemany(_SET_FREE, [(hub, claimer) for claimer in self._dead_claimers(database, now)])
        if held is not None:
            self._set_free_unknown(database, lease, held)
        expired = database.execute(_FIND_EXPIRED, (hub, now, limit)).fetchall()
        found: dict[int, tuple[Any, ...]] = {}
        for queue in set(queues):
            found |= {values[0]: values for values in self._free_in(database, queue, served, limit, now)}
        for values in expired:
            found.pop(values[0], None)
        claimed = [*expired, *sorted(found.values(), key=lambda values: (values[11], values[0]))][:limit]
        database.executemany(_CLAIM, [(lease.lease_id, now, values[0]) for values in claimed])
        return [_row_of(values, now) for values in claimed]

    def _set_free_unknown(self, database: sqlite3.Connection, lease: Lease, held: Collection[TaskAddress]) -> None:
        """Give up what this lease has claimed without having heard of it."""
        database.executemany(_SET_FREE_ONE, [(number,) for number in self._unknown(database, lease, held)])

    def _unknown(self, database: sqlite3.Connection, lease: Lease, held: Collection[TaskAddress]) -> list[int]:
        """Return the rows that this lease has claimed and does not hold."""
        claimed = database.execute(_READ_CLAIMED, (self._hub, lease.lease_id)).fetchall()
        if not claimed:
            return []
        known = {_place(task) for task in held}
        return [number for number, *place in claimed if tuple(place) not in known]

    def _free_in(
        self, database: sqlite3.Connection, queue: str, served: Served, limit: int, now: int
    ) -> list[tuple[Any, ...]]:
        rows = database.execute(_FIND_FREE, (self._hub, queue, now))
        found: list[tuple[Any, ...]] = []
        for values in rows:
            if len(found) == limit:
                break
            if served is None or (values[8], values[9]) in served:
                found.append(values)
        rows.close()
        return found

    def report(
        self, transaction: Transaction, lease: Lease, reports: Sequence[Report], beats: Sequence[Beat]
    ) -> list[bool]:
        """See `durable.provider.Activities.report`."""
        database, hub = transaction.database, self._hub
        deliveries = Deliveries(database, hub, transaction.now, transaction.changes, is_careful=transaction.is_careful)
        answers = []
        for report in reports:
            place = (hub, *_place(report.task))
            is_done = database.execute(_FIND, place).fetchone() is not None
            if is_done:
                verdict = deliveries.deliver(report.message).verdict
                is_done = verdict not in refusal.REFUSALS or not refusal.is_refused_whole(report.message)
                if is_done:
                    database.execute(_DELETE, place)
                else:
                    logger.error("the outcome of %s cannot be stored: %s", report.task, verdict.name)
                    database.execute(_PUT_OFF, (transaction.now + LEASE_US, *place))
            answers.append(is_done)
        for beat in beats:
            values = (beat.details, hub, *_place(beat.task), lease.lease_id)
            answers.append(database.execute(_BEAT, values).rowcount == 1)
        deliveries.finish()
        return answers


def unserved(hub: int, lease: Lease, served: Collection[tuple[str, str]], limit: int) -> tuple[str, tuple[Any, ...]]:
    """Return the statement, and its values, for what waits in the lease's partitions for other queues and names."""
    pairs = sorted(served)[:SERVED_MAX]
    but = f" AND (queue, name) NOT IN (VALUES {', '.join(['(?, ?)'] * len(pairs))})" if pairs else ""
    values = (hub, hub, lease.lease_id, lease.epoch, *(text for pair in pairs for text in pair), limit)
    return f"{_UNCLAIMED_OF}{but} ORDER BY number LIMIT ?", values


def row_of(values: tuple[Any, ...]) -> ActivityRow:
    """Return a row as it is stored."""
    _, kind, key_id, run_id, generation, task_id, *rest = values
    fields: tuple[Any, ...] = (TaskAddress(InstanceKey(key_id, kind), run_id, generation, task_id), *rest)
    return ActivityRow(*fields)


def _place(task: TaskAddress) -> tuple[str, str, str, int, int]:
    return task.key.kind, task.key.id, task.run_id, task.generation, task.task_id


def _row_of(values: tuple[Any, ...], now: int) -> ActivityRow:
    """Return a row as it is once it has been claimed."""
    row = row_of(values)
    return dataclasses.replace(row, deliveries=row.deliveries + 1, first_claimed_at=row.first_claimed_at or now)
