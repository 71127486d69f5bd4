"""`commit`: one transaction for everything that a worker has ready."""

from __future__ import annotations

import dataclasses
import itertools
import json
import operator
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from durable.errors import LeaseLostError, StoreError
from durable.provider import (
    LEASE_US,
    RECORD_PART_BYTES_MAX,
    Batch,
    Committed,
    Delivery,
    HubClock,
    InstanceKey,
    InstanceRow,
    Lease,
    RecordRow,
    Status,
    Step,
    Verdict,
    partition_of,
)
from durable_sqlite import refusal
from durable_sqlite.deliveries import Deliveries, consume, end_run, park, unpark
from durable_sqlite.ownership import Owned, lease_lost
from durable_sqlite.removal import remove_idle
from durable_sqlite.rows import (
    CURRENT,
    INLINE_BYTES_MAX,
    LARGE_COLUMNS,
    add_tags,
    blob,
    drop_tags,
    encode_tags,
    inline,
    insert_run,
    write_large,
)
from durable_sqlite.writer import NeedsCare, Transaction

HINTS_MAX = 100_000

NO_STATE = bytearray()  # see `blob`

_FIXED_COLUMNS = frozenset({"key", "partition", "run_id"})
_CHANGEABLE_COLUMNS = frozenset(field.name for field in dataclasses.fields(InstanceRow)) - _FIXED_COLUMNS
_FINISHED = int(Status.COMPLETED)

_READ_LEASE = "SELECT epoch, ownership, commit_number FROM leases WHERE hub = ? AND lease_id = ?"
_READ_ANSWER = "SELECT commit_answer FROM leases WHERE hub = ? AND lease_id = ?"
# Also what a commit takes for granted is looked at here: the batches before, what the lease owns, and the hub's clock.
_FENCE = (
    "UPDATE leases SET expires_at = ?, commit_number = ?, commit_answer = ?"
    " WHERE hub = ? AND lease_id = ? AND epoch = ? AND commit_number < ? AND ownership = ?"
    " AND (SELECT clock_correction FROM hubs WHERE hubs.hub = leases.hub) = ?"
)
_THE_RUN = "hub = ? AND kind = ? AND id = ? AND place = 0 AND run_id = ? AND generation = ? AND records = ?"
# A turn that changes none of the indexed columns. What it takes for granted of the others is checked in passing.
_UPDATE_NARROW = (
    "UPDATE runs SET generation = ?, records = ?, chain = ?, updated_at = ?, state = ?"
    f" WHERE {_THE_RUN} AND status = ? AND due_at IS nullif(?, -1) AND open_work = ? AND parked_until = ?"
    " AND slow_turns = 0"
)
_ADD_RECORD = "INSERT INTO history (hub, run_id, generation, record, part, data, checksum) VALUES (?, ?, ?, ?, ?, ?, ?)"
_DROP_HISTORY = "DELETE FROM history WHERE hub = ? AND run_id = ? AND generation < ?"
_DROP_GENERATION = "DELETE FROM history WHERE hub = ? AND run_id = ? AND generation = ?"
_FIND_NUMBER = "SELECT number, parked_until FROM runs WHERE hub = ? AND kind = ? AND id = ? AND place = 0"
_DROP_ACTIVITY = (
    "DELETE FROM queue WHERE hub = ? AND kind = ? AND id = ? AND run_id = ? AND generation = ? AND task_id = ?"
)
_DROP_ACTIVITIES = "DELETE FROM queue WHERE hub = ? AND kind = ? AND id = ? AND run_id = ?"
_ADD_ACTIVITY = (
    "INSERT OR REPLACE INTO queue (hub, kind, id, run_id, generation, task_id, partition, queue, name, version, data,"
    " priority, visible_at, start_by, deliveries, first_claimed_at, heartbeat)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_IS_IN_USE = "SELECT 1 FROM runs WHERE hub = ? AND kind = ? AND id = ? AND place = 0"
_READ_OWNER = "SELECT lease_id FROM partitions WHERE hub = ? AND partition = ?"
_MARK_SLOW = (
    "UPDATE runs SET slow_turns = slow_turns + 1,"
    " slow_since = CASE slow_since WHEN 0 THEN ? ELSE slow_since END"
    " WHERE hub = ? AND kind = ? AND id = ? AND place = 0 AND run_id = ? AND status < 4"
)


def _update_wide(columns: Sequence[str]) -> str:
    """The statement for a turn that changes indexed columns, and these further ones."""
    changes = "".join(f", {name} = ?" for name in columns)
    return (
        "UPDATE runs SET generation = ?, records = ?, chain = ?, updated_at = ?, state = ?, status = ?,"
        f" due_at = nullif(?, -1), open_work = ?, parked_until = ?, slow_turns = 0, slow_since = 0{changes}"
        f" WHERE {_THE_RUN} AND status < 4"
    )


_DATA_OF = operator.itemgetter(5)

Hint = tuple[int, int, int, int]
"""Status, due time (-1: none), open work and parking of an unfinished instance, as this process wrote them last."""


class _View(NamedTuple):
    """What a commit goes by: the lease's last batch, its count of changes of what it owns, what that is, the hub's clock."""

    lease_id: str
    number: int
    ownership: int
    partitions: frozenset[int]
    clock: HubClock


class Commits:
    """The commits of one provider, with what it remembers from the last ones to make the next ones cheap."""

    def __init__(self, hub: int, partitions: int, owned: Owned, is_heard: Callable[[], bool]) -> None:
        self._hub = hub
        self._partitions = partitions
        self._owned = owned
        self._is_heard = is_heard
        self._hints: dict[InstanceKey, Hint] = {}
        self._view: _View | None = None  # how the last commit has left it

    def commit(self, transaction: Transaction, lease: Lease, batch: Batch) -> Committed:
        """See `durable.provider.Turns.commit`.

        Nothing is read first if the batch follows the last one: the lease is as it was left then, and so is the hub's clock.
        If not, the update at the end finds that, or one before it, and all is done again from what is read.
        """
        believed = None if transaction.is_careful else self._believe(lease, batch.number)
        if believed is not None:
            try:
                return self._commit(transaction, lease, batch, believed)
            except LeaseLostError:
                raise NeedsCare from None
        seen = self._look(transaction, lease, batch.number)
        return seen if isinstance(seen, Committed) else self._commit(transaction, lease, batch, seen)

    def forget(self) -> None:
        """Something was undone: what is remembered may be of a state that never was."""
        self._view = None
        self._owned.forget()

    def _believe(self, lease: Lease, number: int) -> _View | None:
        """Return what a commit can go by unread, if it is the next one of the lease whose commit was the last."""
        view, self._view = self._view, None
        if view is None or number != view.number + 1 or view.lease_id != lease.lease_id:
            return None
        return view

    def _look(self, transaction: Transaction, lease: Lease, number: int) -> _View | Committed:
        """Read what a commit goes by; or return the answer to a batch that was committed before."""
        database, place = transaction.database, (self._hub, lease.lease_id)
        row = database.execute(_READ_LEASE, place).fetchone()
        if row is None or row[0] != lease.epoch:
            raise lease_lost(lease)
        _, ownership, last = row
        if number < last:
            raise StoreError(f"batch {number} is older than {last}, the last one: its answer is gone")
        if number == last:
            return _decode_answer(database.execute(_READ_ANSWER, place).fetchone()[0])
        partitions = self._owned.partitions(database, lease, ownership)
        return _View(lease.lease_id, last, ownership, partitions, transaction.read_clock())

    def _commit(self, transaction: Transaction, lease: Lease, batch: Batch, view: _View) -> Committed:
        database, number = transaction.database, batch.number
        transaction.go_by(view.clock)
        self._check_partitions(batch.steps, view.partitions)
        refused = self._refused(database, batch, is_careful=transaction.is_careful)
        steps = [step for index, step in enumerate(batch.steps) if index not in refused] if refused else batch.steps
        told = self._write_steps(transaction, steps)
        consume(database, self._hub, batch.consumed)
        unsent = [batch.steps[index] for index in refused]
        deliveries, refused_memos = self._send(transaction, batch, unsent, told)
        now = transaction.now
        committed = Committed(deliveries, now, refused, refused_memos)
        answer = (now + LEASE_US, number, _encode_answer(committed))
        place = (self._hub, lease.lease_id, lease.epoch, number, view.ownership, view.clock.correction)
        if database.execute(_FENCE, (*answer, *place)).rowcount != 1:
            raise lease_lost(lease)
        self._view = _View(lease.lease_id, number, view.ownership, view.partitions, view.clock)
        return committed

    def _check_partitions(self, steps: Sequence[Step], owned: frozenset[int]) -> None:
        if len(owned) == self._partitions:
            return
        for step in steps:
            if partition_of(step.key, self._partitions) not in owned:
                raise LeaseLostError(f"the partition of instance '{step.key.id}' is not this lease's")

    def _refused(self, database: sqlite3.Connection, batch: Batch, *, is_careful: bool) -> dict[int, str]:
        refused: dict[int, str] = {}
        for index, step in enumerate(batch.steps):
            if step.changes and step.changes.keys() - _CHANGEABLE_COLUMNS:
                unknown = sorted(step.changes.keys() - _CHANGEABLE_COLUMNS)
                raise StoreError(f"no such columns, or fixed ones: {unknown}")
            reason = refusal.refusal_of_step(step) if is_careful else refusal.why_too_large(step)
            for memo in step.memos:
                reason = reason or refusal.refusal_of_memo(batch.memos[memo], is_careful=is_careful)
            if step.begins is not None and is_careful and not reason:
                place = (self._hub, step.key.kind, step.key.id)
                if database.execute(_IS_IN_USE, place).fetchone() is not None:
                    reason = f"the id '{step.key.id}' is in use"
            if reason:
                refused[index] = reason
        return refused

    def _send(
        self, transaction: Transaction, batch: Batch, unsent: Sequence[Step], told: Sequence[InstanceKey]
    ) -> tuple[list[Delivery], dict[int, str]]:
        """Store the messages and memos, but not those of steps that were left out; add the rows that are to be told.

        Return the deliveries, and which memos were refused and why.
        """
        if not batch.messages and not batch.memos and not told:
            return [], {}
        deliveries = Deliveries(
            transaction.database,
            self._hub,
            transaction.now,
            transaction.changes,
            is_careful=transaction.is_careful,
        )
        steps = zip(
            batch.steps, batch.rows, strict=False
        )  # of an idle instance only the store knows whether it is still there
        known = {step.key: row for step, row in steps if not step.removes_if_idle} if told else {}
        for key in told:
            row = known.get(key) or deliveries.read_current(key)
            if row is not None:
                transaction.changes.rows.append(row)
        unsent_messages = {index for step in unsent for index in step.messages}
        answers = [
            Delivery(Verdict.REFUSED) if index in unsent_messages else deliveries.deliver(message)
            for index, message in enumerate(batch.messages)
        ]
        unsent_memos = {index for step in unsent for index in step.memos}
        refused_memos: dict[int, str] = {}
        for index, memo in enumerate(batch.memos):
            if index in unsent_memos:
                continue
            reason = deliveries.write_memo(memo)
            if reason is None:
                transaction.changes.memos.append(memo)
            else:
                refused_memos[index] = reason
        deliveries.finish()
        return answers, refused_memos

    def mark_slow_turn(self, transaction: Transaction, lease: Lease, key: InstanceKey, run_id: str) -> None:
        """See `durable.provider.Turns.mark_slow_turn`."""
        database = transaction.database
        row = database.execute(_READ_LEASE, (self._hub, lease.lease_id)).fetchone()
        if row is None or row[0] != lease.epoch:
            raise lease_lost(lease)
        owned = database.execute(_READ_OWNER, (self._hub, partition_of(key, self._partitions))).fetchone()
        values = (transaction.now, self._hub, key.kind, key.id, run_id)
        if owned != (lease.lease_id,) or database.execute(_MARK_SLOW, values).rowcount != 1:
            raise LeaseLostError(f"instance '{key.id}', run {run_id}, is not this lease's to write")

    # ---- steps

    def _write_steps(self, transaction: Transaction, steps: Sequence[Step]) -> list[InstanceKey]:
        """Write the steps, and return the instances whose listeners should see their new row."""
        database, hub = transaction.database, self._hub
        newly_parked = self._newly_parked(database, steps)
        for step in steps:
            if "tags" in step.changes and step.begins is None:  # while the row still has those that are entered
                drop_tags(database, hub, self._number_of(database, step.key))
        told, changed = self._update_rows(database, steps, is_careful=transaction.is_careful)
        records: list[tuple[Any, ...]] = []
        consumed: list[int] = []
        for step in steps:
            run_id = step.run_id
            for generation, record in step.appends:
                checksum = bytearray(record.checksum)  # as in `blob`
                records.append((hub, run_id, generation, record.index, 0, blob(record.data), checksum))
            consumed += step.consumed
        if max(map(len, map(_DATA_OF, records)), default=0) > RECORD_PART_BYTES_MAX:
            records = [part for record in records for part in _parts(record)]
        database.executemany(_ADD_RECORD, records)
        consume(database, hub, consumed)
        self._write_beside(transaction, steps)
        if newly_parked:
            park(database, hub, newly_parked)
        if changed:
            free = [step.key for step in changed if (step.replaced_by or step.progress).parked_until == 0]
            unpark(database, hub, free, transaction.now)
        dispensable = [step.key for step in steps if step.removes_if_idle]
        for key in remove_idle(database, hub, dispensable) if dispensable else ():
            self._hints.pop(key, None)
        return told

    def _write_beside(self, transaction: Transaction, steps: Sequence[Step]) -> None:
        """Write what most steps do not have: older generations, queue rows, large payloads, tags, another run."""
        database, hub = transaction.database, self._hub
        ended: list[tuple[Any, ...]] = []
        for step in steps:
            if step.drop_generations_below is not None:
                database.execute(_DROP_HISTORY, (hub, step.run_id, step.drop_generations_below))
            for generation in step.drop_generations:
                database.execute(_DROP_GENERATION, (hub, step.run_id, generation))
            if step.progress.status >= _FINISHED:
                if step.begins is not None:
                    continue
                ended.append((hub, step.key.kind, step.key.id, step.run_id))  # nothing is left to run
            elif step.queue_drops or step.queue_adds:
                self._write_queue(transaction, step)
            if step.changes and step.begins is None:
                self._write_changes_elsewhere(database, step)
            if step.replaced_by is not None:
                self._replace(transaction, step, step.replaced_by)
        if ended:
            database.executemany(_DROP_ACTIVITIES, ended)

    def _update_rows(
        self, database: sqlite3.Connection, steps: Sequence[Step], *, is_careful: bool
    ) -> tuple[list[InstanceKey], list[Step]]:
        """Write the rows; return the instances whose listeners should see it, and the steps that may end a parking."""
        hub, hints, is_heard = self._hub, self._hints, self._is_heard()
        told: list[InstanceKey] = []
        changed: list[Step] = []
        narrow: list[tuple[Any, ...]] = []
        wide: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
        if len(hints) > HINTS_MAX:
            hints.clear()
        for step in steps:
            key, progress = step.key, step.progress
            status = int(progress.status)
            due_at = -1 if progress.due_at is None else progress.due_at
            hint = (status, due_at, progress.open_work, progress.parked_until)
            known = hints.get(key)
            if step.begins is not None:
                self._begin(database, step.begins, is_careful=is_careful)
                if is_heard:
                    told.append(key)
                if status < _FINISHED:
                    hints[key] = hint
                continue
            state = blob(progress.state) if progress.state else NO_STATE
            values = (progress.generation, progress.records, bytearray(progress.chain), progress.updated_at, state)
            where = (hub, key.kind, key.id, step.run_id, *step.before)
            if known == hint and not step.changes and not is_careful:
                narrow.append(values + where + hint)
                continue
            changed.append(step)
            if is_heard and step.replaced_by is None and (step.changes or known is None or known[0] != status):
                told.append(key)
            columns, changes = _changed_columns(step.changes) if step.changes else ((), ())
            wide.setdefault(columns, []).append(values + hint + changes + where)
            if status < _FINISHED and step.replaced_by is None:
                hints[key] = hint
            else:
                hints.pop(key, None)
        if narrow and database.executemany(_UPDATE_NARROW, narrow).rowcount != len(narrow):
            raise NeedsCare
        for columns, rows in wide.items():
            if database.executemany(_update_wide(columns), rows).rowcount != len(rows):
                self._hints.clear()
                raise LeaseLostError(
                    f"one of {len(rows)} instances was written by somebody else, or has ended; nothing was written"
                )
        return told, changed

    def _begin(self, database: sqlite3.Connection, row: InstanceRow, *, is_careful: bool) -> None:
        """Create a run. That an id is in use shows here; which one it is, when all is done again."""
        try:
            insert_run(database, self._hub, CURRENT, row)
        except sqlite3.IntegrityError:
            if is_careful:
                raise
            raise NeedsCare from None

    def _newly_parked(self, database: sqlite3.Connection, steps: Sequence[Step]) -> set[InstanceKey]:
        found = set()
        for step in steps:
            if step.progress.parked_until > 0:
                row = database.execute(_FIND_NUMBER, (self._hub, step.key.kind, step.key.id)).fetchone()
                if row is not None and row[1] == 0:
                    found.add(step.key)
        return found

    def _number_of(self, database: sqlite3.Connection, key: InstanceKey) -> int:
        row = database.execute(_FIND_NUMBER, (self._hub, key.kind, key.id)).fetchone()
        if row is None:
            raise LeaseLostError(f"instance '{key.id}' is gone; nothing was written")
        return int(row[0])

    def _write_queue(self, transaction: Transaction, step: Step) -> None:
        database, hub = transaction.database, self._hub
        drops = [(hub, t.key.kind, t.key.id, t.run_id, t.generation, t.task_id) for t in step.queue_drops]
        database.executemany(_DROP_ACTIVITY, drops)
        for row in step.queue_adds:
            task = row.task
            values = (hub, task.key.kind, task.key.id, task.run_id, task.generation, task.task_id, row.partition)
            times = (row.priority, row.visible_at, row.start_by)
            counted = (row.deliveries, row.first_claimed_at, row.heartbeat)
            database.execute(_ADD_ACTIVITY, (*values, row.queue, row.name, row.version, row.data, *times, *counted))
            transaction.changes.activities = True

    def _write_changes_elsewhere(self, database: sqlite3.Connection, step: Step) -> None:
        """Write what does not lie in the row itself: large payloads, and the entries by which tags are found."""
        large = [name for name in LARGE_COLUMNS if len(step.changes.get(name) or b"") > INLINE_BYTES_MAX]
        if not large and "tags" not in step.changes:
            return
        number = self._number_of(database, step.key)
        for name in large:
            write_large(database, number, name, step.changes[name])
        if "tags" in step.changes:
            add_tags(database, self._hub, number, step.changes["tags"])

    def _replace(self, transaction: Transaction, step: Step, row: InstanceRow) -> None:
        database, key = transaction.database, step.key
        number = self._number_of(database, key)
        if self._is_heard():
            ended = Deliveries(
                database, self._hub, transaction.now, transaction.changes, is_careful=False
            ).read_current(key)
            if ended is not None:
                transaction.changes.rows.append(ended)
            transaction.changes.rows.append(row)
        end_run(database, self._hub, number)
        insert_run(database, self._hub, CURRENT, row)
        if row.parked_until > 0:
            park(database, self._hub, {key})


def _changed_columns(changes: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Return the names and values of changed columns, as the table has them."""
    columns: dict[str, Any] = {}
    for name in sorted(changes):
        value = changes[name]
        if name == "parent":
            columns["parent_kind"], columns["parent_id"] = (value.kind, value.id) if value else (None, None)
        elif name == "tags":
            columns[name] = encode_tags(value)
        elif name in LARGE_COLUMNS:
            columns[name] = inline(value)
        else:
            columns[name] = int(value) if isinstance(value, int) else value
    return tuple(columns), tuple(columns.values())


def _parts(record: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Cut a record's row into rows of bounded length."""
    *place, _, data, checksum = record
    starts = range(0, max(1, len(data)), RECORD_PART_BYTES_MAX)
    return [
        (*place, part, data[start : start + RECORD_PART_BYTES_MAX], b"" if part else checksum)
        for part, start in enumerate(starts)
    ]


def encode_deliveries(deliveries: Sequence[Delivery]) -> list[list[int]]:
    """Return deliveries as they are kept for a repeated call, without their rows."""
    return [[delivery.verdict, delivery.sequence] for delivery in deliveries]


def decode_deliveries(stored: Sequence[Sequence[int]]) -> list[Delivery]:
    """Return them again."""
    return [Delivery(Verdict(verdict), sequence) for verdict, sequence in stored]


def _encode_answer(committed: Committed) -> str:
    if not (committed.deliveries or committed.refused or committed.refused_memos):
        return f"[{committed.now}, [], [], []]"  # as below, and much sooner
    refused = [list(committed.refused.items()), list(committed.refused_memos.items())]
    return json.dumps([committed.now, encode_deliveries(committed.deliveries), *refused])


def _decode_answer(text: str) -> Committed:
    now, deliveries, refused, refused_memos = json.loads(text)
    return Committed(decode_deliveries(deliveries), now, dict(refused), dict(refused_memos))


def join_parts(rows: Iterable[tuple[int, int, bytes, bytes]]) -> list[RecordRow]:
    """Return whole records from their rows (record, part, data, checksum), which are in order."""
    records = []
    for index, group in itertools.groupby(rows, key=operator.itemgetter(0)):
        parts = list(group)
        data = parts[0][2] if len(parts) == 1 else b"".join(part[2] for part in parts)
        records.append(RecordRow(index, data, parts[0][3]))
    return records
