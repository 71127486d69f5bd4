"""What a partition's owner reads and writes."""

from __future__ import annotations

import asyncio
import itertools
import operator
from collections.abc import Collection, Iterable, Sequence

import asyncpg

from durable.errors import LeaseLostError, StoreError
from durable.listeners import Changes
from durable.provider import (
    LEASE_US,
    ActivityRow,
    Batch,
    Committed,
    InstanceKey,
    InstanceRow,
    Lease,
    Memo,
    Priority,
    Received,
    RecordRow,
    StoredMessage,
    partition_of,
)
from durable_postgres.failures import UNSTORABLE, Failure, failure_of
from durable_postgres.hub import OpenHub
from durable_postgres.rows import attempt_of, row_of
from durable_postgres.sending import Writing, outcome_of

LOADED_AT_ONCE_MAX = 100
"""Rows in one answer; each may carry megabytes of payload."""

MARK_S_MAX = 5.0

PARTS_AT_ONCE_MAX = 2000
"""Rows of a history in one answer."""


async def recover(hub: OpenHub, lease: Lease, partitions: Collection[int]) -> list[InstanceKey]:
    """See `durable.provider.Turns.recover`."""
    found = await hub.call("recover_v1", lease.lease_id, lease.epoch, list(partitions))
    return [InstanceKey(key_id, kind) for kind, key_id in found]


async def receive(
    hub: OpenHub,
    lease: Lease,
    held: Collection[int],
    limit: int,
    due: tuple[int, int],
    served: Collection[tuple[str, str]] | None,
) -> Received:
    """See `durable.provider.Turns.receive`."""
    unserved: list[ActivityRow] = []
    if served is not None:
        queues, names = [queue for queue, _ in served], [name for _, name in served]
        found = await hub.call("unserved_v1", lease.lease_id, lease.epoch, queues, names, limit)
        unserved = [attempt_of(values) for values in found]
    facts, *found = await hub.call("receive_v1", lease.lease_id, lease.epoch, list(held), limit, *due, hub.at())
    becoming_due = [
        (InstanceKey(key_id, kind), due_at)
        for kind, key_id, due_at in zip(
            facts["due_kinds"] or (), facts["due_ids"] or (), facts["due_times"] or (), strict=True
        )
    ]
    messages = [
        StoredMessage(
            sequence,
            InstanceKey(key_id, kind),
            partition,
            data,
            Priority(priority),
            visible_at,
            run_id,
            None if start is None else row_of(start),
        )
        for _, _, _, _, sequence, kind, key_id, partition, data, priority, visible_at, run_id, start in found
    ]
    return Received(messages, becoming_due, facts["now"], unserved)


async def load(hub: OpenHub, targets: Sequence[tuple[InstanceKey, str | None]]) -> list[InstanceRow | None]:
    """See `durable.provider.Turns.load`."""
    rows: list[InstanceRow | None] = [None] * len(targets)
    for start in range(0, len(targets), LOADED_AT_ONCE_MAX):
        some = targets[start : start + LOADED_AT_ONCE_MAX]
        kinds, ids = [key.kind for key, _ in some], [key.id for key, _ in some]
        for place, run in await hub.call("load_v1", kinds, ids, [run_id for _, run_id in some]):
            rows[start + place - 1] = row_of(run)
    return rows


async def read_history(hub: OpenHub, run_id: str, generation: int, first: int, bytes_max: int) -> list[RecordRow]:
    """See `durable.provider.Turns.read_history`."""
    limit = PARTS_AT_ONCE_MAX
    found = await hub.read(_HISTORY.format(schema=hub.schema), (run_id, generation, first, bytes_max, limit))
    while len(found) == limit and found[0]["record"] == found[-1]["record"]:  # one record of very many parts
        limit *= 2
        found = await hub.read(_HISTORY.format(schema=hub.schema), (run_id, generation, first, bytes_max, limit))
    records = _joined(tuple(row) for row in found)
    return records[:-1] if len(found) == limit else records  # of the last one there may be more


# A record's parts are read if those before the record do not reach the bound.
_HISTORY = (
    "SELECT record, part, data, checksum FROM ("
    " SELECT *, min(before) OVER (PARTITION BY record) AS before_record FROM ("
    "  SELECT record, part, data, checksum,"
    "   sum(octet_length(data)) OVER (ORDER BY record, part) - octet_length(data) AS before FROM ("
    "    SELECT record, part, data, checksum FROM {schema}.history"
    "    WHERE run_id = $1 AND generation = $2 AND record >= $3 ORDER BY record, part LIMIT $5"
    "   ) AS part"
    " ) AS counted"
    ") AS bounded WHERE before_record < $4 OR record = $3 ORDER BY record, part"
)


def _joined(rows: Iterable[tuple[int, int, bytes, bytes]]) -> list[RecordRow]:
    """Return whole records from their parts, which are in order."""
    records = []
    for index, group in itertools.groupby(rows, key=operator.itemgetter(0)):
        parts = list(group)
        data = parts[0][2] if len(parts) == 1 else b"".join(part[2] for part in parts)
        records.append(RecordRow(index, data, parts[0][3]))
    return records


async def commit(hub: OpenHub, lease: Lease, batch: Batch) -> Committed:
    """See `durable.provider.Turns.commit`."""
    async with hub.committing:
        changed = [hub.is_change(step) for step in batch.steps]
        try:
            committed = await _commit(hub, lease, batch, changed, is_careful=False)
        except UNSTORABLE:
            committed = None
        if committed is None:
            try:
                committed = await _commit(hub, lease, batch, changed, is_careful=True)
            except UNSTORABLE as error:
                raise StoreError(f"PostgreSQL at {hub.server.address.name} cannot take this batch: {error}") from error
        assert committed is not None
        return committed


async def _commit(
    hub: OpenHub, lease: Lease, batch: Batch, changed: Sequence[bool], *, is_careful: bool
) -> Committed | None:
    """Write a batch; None where it was written before and something of it was left out then."""
    is_heard = hub.is_heard
    told = changed if is_heard else [False] * len(changed)
    writing = Writing(batch, hub.partitions, told, is_careful=is_careful)
    doubts = hub.doubts()
    in_use: set[int] = set()
    while True:
        found = await _write(hub, lease, writing, [batch.steps[index].run_id for index in sorted(in_use)])
        if not found.get("in_use"):
            break
        in_use.update(writing.begun[place - 1] for place in found["in_use"])
        writing = Writing(batch, hub.partitions, told, in_use, is_careful=is_careful)
        if found["is_repeated"]:
            break
    if len(found["verdicts"] or ()) != len(writing.outgoing.messages):
        return None
    hub.wrote(writing.written)
    outcome = outcome_of(writing.outgoing.sent, found)
    is_doubtful = found["is_repeated"] or doubts != hub.doubts()
    is_lossy = is_doubtful or outcome.has_others
    changes = Changes(anything=is_lossy, activities=writing.has_activities)
    if not is_doubtful:
        changes.messages = outcome.stored
        changes.rows = [*writing.told, *map(row_of, found["told"] or ()), *outcome.begun]
        changes.rows += [step.replaced_by for step in writing.steps if step.replaced_by is not None]
        changes.memos = [Memo(*memo) for memo in writing.memos] if is_heard else []
    # For the start of a run nobody waits elsewhere.
    written = [step for step, is_new in zip(batch.steps, changed, strict=True) if is_new and step.begins is None]
    hub.tell(
        changes,
        ended=[step.run_id for step in written if step.progress.status.is_finished],
        changed=[step.run_id for step in written if not step.progress.status.is_finished],
        is_change=outcome.has_replaced or bool(writing.memos),
        is_lossy=is_lossy,
        stored=outcome.stored,
    )
    deliveries = writing.deliveries(outcome.deliveries)
    return Committed(deliveries, found["now"], writing.refused, writing.refused_memos)


async def _write(hub: OpenHub, lease: Lease, writing: Writing, left_out: list[str]) -> asyncpg.Record:
    """Write what is left of a batch, unless it was written before or an id is in use; `left_out` are runs whose id was."""
    arguments = (lease.lease_id, lease.epoch, writing.batch.number, *writing.arguments(), LEASE_US, hub.at())
    if writing.begun or left_out:
        return await hub.write("begin_and_commit_v1", *writing.begins(), left_out or None, *arguments)
    return await hub.write("commit_v1", *arguments)


async def mark_slow(hub: OpenHub, lease: Lease, key: InstanceKey, run_id: str) -> None:
    """See `durable.provider.Turns.mark_slow_turn`. On a connection of its own: the loop is another one."""
    partition = partition_of(key, hub.partitions)
    connection = await hub.server.address.connect()
    try:
        while True:
            try:
                is_marked = await connection.fetchval(
                    f"SELECT {hub.schema}.mark_slow_v1($1, $2, $3, $4, $5, $6, $7)",
                    *(lease.lease_id, lease.epoch, key.kind, key.id, run_id, partition, hub.at()),
                    timeout=MARK_S_MAX,
                )
                break
            except Exception as error:
                if failure_of(error) is not Failure.ROLLED_BACK:  # a repeated call counts again
                    raise
    finally:
        connection.terminate()
        await asyncio.sleep(0)
    if not is_marked:
        raise LeaseLostError(f"instance '{key.id}', run {run_id}, is not this lease's to write")
