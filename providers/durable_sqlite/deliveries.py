"""Messages: whether what they expect of their target holds, and where they then lie.

`inbox` holds what is eligible at once, in the order of its sequences; `inbox_later` what is delayed or waits for a
parked instance, so that neither a million delayed starts nor the events of a stalled instance are in the way of reading.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Sequence
from typing import Any

from durable.listeners import Changes
from durable.provider import (
    Delivery,
    Expects,
    InstanceKey,
    InstanceRow,
    Memo,
    Message,
    Priority,
    Status,
    StoredMessage,
    Verdict,
)
from durable_sqlite import refusal
from durable_sqlite.rows import CURRENT, SELECTED, WAITING, blob, drop_tags, insert_run, row_of

_FINISHED = int(Status.COMPLETED)
_NORMAL = int(Priority.NORMAL)

_READ_SEQUENCE = "SELECT sequence FROM hubs WHERE hub = ?"
_WRITE_SEQUENCE = "UPDATE hubs SET sequence = ? WHERE hub = ?"
_FIND_TARGET = (
    "SELECT number, run_id, status, parked_until, parent_run_id, parent_task, generation FROM runs"
    " WHERE hub = ? AND kind = ? AND id = ? AND place = 0"
)
_READ_CURRENT = f"SELECT {SELECTED} FROM runs WHERE hub = ? AND kind = ? AND id = ? AND place = 0"
# Where two indexes begin alike SQLite guesses which is the shorter; it is told.
_WAITING = "runs INDEXED BY runs_waiting WHERE hub = ? AND place = 2"
_FIND_WAITING = f"SELECT number FROM {_WAITING} AND kind = ? AND id = ? AND run_id = ?"
_END_RUN = "UPDATE runs SET place = 1 WHERE number = ?"
_COLUMNS = "hub, sequence, partition, priority, visible_at, kind, id, run_id, start_run_id, data"
_ADD = f"INSERT INTO inbox ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ADD_LATER = f"INSERT INTO inbox_later ({_COLUMNS}, parked) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_WRITE_MEMO = "INSERT OR REPLACE INTO memos (hub, key, data, expires_at) VALUES (?, ?, ?, ?)"

_CONSUME = "DELETE FROM inbox WHERE hub = ? AND sequence = ?"
_CONSUME_LATER = "DELETE FROM inbox_later WHERE hub = ? AND sequence = ?"
_IS_ANY_WAITING = f"SELECT 1 FROM {_WAITING} LIMIT 1"
_STARTED = "SELECT hub, kind, id, start_run_id FROM {table} WHERE hub = ? AND sequence = ? AND start_run_id IS NOT NULL"
_STARTED_RUN = f"{_STARTED.format(table='inbox')} UNION ALL {_STARTED.format(table='inbox_later')}"

_PARKED = "inbox_later INDEXED BY inbox_parked"
_OF_TARGET = "hub = ? AND kind = ? AND id = ?"
_IS_ANY_PARKED = f"SELECT 1 FROM {_PARKED} WHERE hub = ? AND parked = 1 LIMIT 1"
_IS_PARKED = f"SELECT 1 FROM {_PARKED} WHERE {_OF_TARGET} AND parked = 1 LIMIT 1"
_UNPARK = (
    f"INSERT INTO inbox ({_COLUMNS}) SELECT {_COLUMNS} FROM {_PARKED}"
    f" WHERE {_OF_TARGET} AND parked = 1 AND visible_at <= ?"
)
_UNPARKED = f"DELETE FROM {_PARKED} WHERE {_OF_TARGET} AND parked = 1 AND visible_at <= ?"
_UNPARK_DELAYED = f"UPDATE {_PARKED} SET parked = 0 WHERE {_OF_TARGET} AND parked = 1"
_NORMAL_TARGETS = "SELECT sequence, kind, id FROM inbox WHERE hub = ? AND priority = 1"
_PARK = f"INSERT INTO inbox_later ({_COLUMNS}, parked) SELECT {_COLUMNS}, 1 FROM inbox WHERE hub = ? AND sequence = ?"
_PARK_DELAYED = (
    f"UPDATE inbox_later INDEXED BY inbox_delayed_of SET parked = 1 WHERE {_OF_TARGET} AND parked = 0 AND priority = 1"
)


class Deliveries:
    """Stores the messages of one transaction. `finish` must be called after the last one."""

    def __init__(self, database: sqlite3.Connection, hub: int, now: int, changes: Changes, *, is_careful: bool) -> None:
        self._database = database
        self._hub = hub
        self._now = now
        self._changes = changes
        self._is_careful = is_careful
        self._first_sequence = self._sequence = int(database.execute(_READ_SEQUENCE, (hub,)).fetchone()[0])

    def finish(self) -> None:
        """Note which sequences were given out."""
        if self._sequence != self._first_sequence:
            self._database.execute(_WRITE_SEQUENCE, (self._sequence, self._hub))

    def deliver(self, message: Message) -> Delivery:
        """Store a message, or what is to be stored in its place."""
        verdict = self._refusal(message)
        target = None
        if verdict is None:
            key = message.target
            target = self._database.execute(_FIND_TARGET, (self._hub, key.kind, key.id)).fetchone()
            verdict = self._judge(message, target)
        if verdict is Verdict.STORED:
            return Delivery(verdict, self._store(message, target))
        if verdict is not Verdict.ADOPTED and message.otherwise is not None:
            verdict = self._deliver_instead(message.otherwise) or verdict
        is_in_the_way = target is not None and verdict not in refusal.REFUSALS
        return Delivery(verdict, row=self.read_current(message.target) if is_in_the_way else None)

    def _deliver_instead(self, item: Message | Memo) -> Verdict | None:
        """Store what stands in for a message; return the verdict on it if this store refuses that too."""
        if isinstance(item, Message):
            verdict = self.deliver(dataclasses.replace(item, otherwise=None)).verdict
            return verdict if verdict in refusal.REFUSALS else None
        if self.write_memo(item) is None:
            return None
        return Verdict.TOO_LARGE if refusal.is_memo_too_large(item) else Verdict.REFUSED

    def write_memo(self, memo: Memo) -> str | None:
        """Store a memo in place of an earlier one with its key; return why it is refused, or None."""
        reason = refusal.refusal_of_memo(memo, is_careful=self._is_careful)
        if reason is None:
            self._database.execute(_WRITE_MEMO, (self._hub, memo.key, memo.data, memo.expires_at))
        return reason

    def read_current(self, key: InstanceKey) -> InstanceRow | None:
        """Return the current row of an instance."""
        values = self._database.execute(_READ_CURRENT, (self._hub, key.kind, key.id)).fetchone()
        return None if values is None else row_of(values)

    def _refusal(self, message: Message) -> Verdict | None:
        if self._is_careful:
            return refusal.refusal_of_message(message)
        return Verdict.TOO_LARGE if refusal.is_message_too_large(message) else None

    def _judge(self, message: Message, target: tuple[Any, ...] | None) -> Verdict:
        """Tell whether what the message expects of its target holds."""
        expects = message.expects
        if target is None:
            return Verdict.ABSENT if expects in (Expects.UNFINISHED, Expects.ENDED) else Verdict.STORED
        _, run_id, status, _, parent_run_id, parent_task, generation = target
        is_finished = status >= _FINISHED
        if expects is Expects.UNFINISHED:
            if message.run_id is not None and message.run_id != run_id:
                return Verdict.STORED if self._is_waiting(message.target, message.run_id) else Verdict.FINISHED
            return Verdict.FINISHED if is_finished else Verdict.STORED
        if expects is Expects.ABSENT:
            is_same = _is_of_request(message.start, parent_run_id, parent_task)
            return Verdict.ADOPTED if is_same else Verdict.EXISTS
        if expects is Expects.ABSENT_OR_FINISHED and not is_finished:
            return Verdict.EXISTS
        start = message.start
        if expects is Expects.ENDED and start is not None:
            has_ended = is_finished and run_id == start.run_id and generation < start.generation
            return Verdict.STORED if has_ended else Verdict.EXISTS
        return Verdict.STORED

    def _is_waiting(self, key: InstanceKey, run_id: str) -> bool:
        parameters = (self._hub, key.kind, key.id, run_id)
        return self._database.execute(_FIND_WAITING, parameters).fetchone() is not None

    def _store(self, message: Message, target: tuple[Any, ...] | None) -> int:
        start = message.start
        is_replacing_live = start is not None and target is not None and target[2] < _FINISHED
        priority = Priority.CONTROL if is_replacing_live else message.priority
        sequence = message.in_place_of
        if sequence is None:
            sequence = self._sequence = self._sequence + 1
        stored = StoredMessage(
            sequence,
            message.target,
            message.partition,
            message.data,
            priority,
            message.visible_at,
            message.run_id,
            start,
        )
        if start is None:
            parked_until = target[3] if target is not None else 0
        elif is_replacing_live:
            insert_run(self._database, self._hub, WAITING, start)
            parked_until = 0
        else:
            self._begin_run(start, target)
            parked_until = start.parked_until
        self._add(stored, is_parked=parked_until > 0 and priority is Priority.NORMAL)
        self._changes.messages.append(stored)
        return sequence

    def _begin_run(self, start: InstanceRow, target: tuple[Any, ...] | None) -> None:
        if target is not None and target[1] == start.run_id:  # it goes on: its row is written anew
            drop_run(self._database, self._hub, target[0])
        elif target is not None:
            end_run(self._database, self._hub, target[0])
        insert_run(self._database, self._hub, CURRENT, start)
        if target is not None:  # what was sent to the run before and not consumed waits as this one does
            if start.parked_until > 0:
                park(self._database, self._hub, {start.key})
            else:
                unpark(self._database, self._hub, [start.key], self._now)
        self._changes.rows.append(start)

    def _add(self, message: StoredMessage, *, is_parked: bool) -> None:
        values = (
            self._hub,
            message.sequence,
            message.partition,
            int(message.priority),
            message.visible_at,
            message.target.kind,
            message.target.id,
            message.run_id,
            None if message.start is None else message.start.run_id,
            blob(message.data),
        )
        if is_parked or message.visible_at > self._now:
            self._database.execute(_ADD_LATER, (*values, is_parked))
        else:
            self._database.execute(_ADD, values)


def _is_of_request(start: InstanceRow | None, parent_run_id: str | None, parent_task: str | None) -> bool:
    """Tell whether a row with this parent run and task was started by the very request that wants to start it."""
    if start is None or start.parent_run_id is None or start.parent_task is None:
        return False
    return (start.parent_run_id, start.parent_task) == (parent_run_id, parent_task)


def end_run(database: sqlite3.Connection, hub: int, number: int) -> None:
    """Make a current run an ended one, in whose place another comes."""
    drop_tags(database, hub, number)
    database.execute(_END_RUN, (number,))


def drop_run(database: sqlite3.Connection, hub: int, number: int) -> None:
    """Remove a run's row with what lies beside it; not its history."""
    drop_tags(database, hub, number)
    database.execute("DELETE FROM large_values WHERE number = ?", (number,))
    database.execute("DELETE FROM runs WHERE number = ?", (number,))


def consume(database: sqlite3.Connection, hub: int, sequences: Sequence[int]) -> None:
    """Delete messages, and the rows of runs that waited in them."""
    if not sequences:
        return
    places = [(hub, sequence) for sequence in sequences]
    if database.execute(_IS_ANY_WAITING, (hub,)).fetchone() is not None:
        for place in places:
            for started in database.execute(_STARTED_RUN, (*place, *place)).fetchall():
                for (number,) in database.execute(_FIND_WAITING, started).fetchall():
                    drop_run(database, hub, number)
    if database.executemany(_CONSUME, places).rowcount < len(places):
        database.executemany(_CONSUME_LATER, places)


def unpark(database: sqlite3.Connection, hub: int, keys: Sequence[InstanceKey], now: int) -> None:
    """Make the messages of instances that are no longer parked eligible at once."""
    if not keys or database.execute(_IS_ANY_PARKED, (hub,)).fetchone() is None:
        return
    for key in keys:
        place = (hub, key.kind, key.id)
        if database.execute(_IS_PARKED, place).fetchone() is not None:
            database.execute(_UNPARK, (*place, now))
            database.execute(_UNPARKED, (*place, now))
            database.execute(_UNPARK_DELAYED, place)


def park(database: sqlite3.Connection, hub: int, keys: set[InstanceKey]) -> None:
    """Take the messages of instances that are now parked out of the way. One look at the whole inbox: for rare events."""
    found = database.execute(_NORMAL_TARGETS, (hub,)).fetchall()
    places = [(hub, sequence) for sequence, kind, key_id in found if InstanceKey(key_id, kind) in keys]
    database.executemany(_PARK, places)
    database.executemany(_CONSUME, places)
    database.executemany(_PARK_DELAYED, [(hub, key.kind, key.id) for key in keys])
