"""A worker played by hand: it owns all partitions and writes what a test tells it to, turn by turn."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

from durable import events as ev
from durable.errors import FailureDetails
from durable.events import HistoryEvent, InstanceKey
from durable.failures import encode_details
from durable.messages import decode_arrivals
from durable.payloads import encode
from durable.ports import system_ports
from durable.provider import (
    Batch,
    InstanceRow,
    Lease,
    Memo,
    Priority,
    Progress,
    Provider,
    RecordRow,
    Status,
    Step,
    StoredMessage,
)
from durable.records import Record, encode_record, first_checksum, next_checksum
from durable.stores import connect

END = {
    ev.OrchestrationCompleted: Status.COMPLETED,
    ev.OrchestrationFailed: Status.FAILED,
    ev.OrchestrationCancelled: Status.CANCELLED,
    ev.OrchestrationTerminated: Status.TERMINATED,
}


class Owner:
    """Owns every partition of a hub."""

    def __init__(self, provider: Provider, lease: Lease) -> None:
        self.provider = provider
        self.lease = lease
        self.number = 0

    async def now(self) -> int:
        return (await self.provider.renew(self.lease)).now

    async def received(self, instance_id: str) -> list[StoredMessage]:
        """The messages that wait for an instance, in the order in which they are received."""
        found = await self.provider.receive(self.lease, (), 10_000)
        return [message for message in found.messages if message.target.id == instance_id]

    async def arrived(self, instance_id: str) -> list[HistoryEvent]:
        """What these messages bring."""
        return [event for message in await self.received(instance_id) for event in decode_arrivals(message.data)[1]]

    async def row(self, instance_id: str) -> InstanceRow:
        (row,) = await self.provider.load([(InstanceKey(instance_id), None)])
        assert row is not None
        return row

    async def turn(self, instance_id: str, *requests: HistoryEvent, **changes: Any) -> InstanceRow:
        """Run a turn: apply what arrived, record these requests, change these columns."""
        row = await self.row(instance_id)
        messages = [m for m in await self.received(instance_id) if m.start is None or m.start.run_id == row.run_id]
        arrivals = [event for message in messages for event in decode_arrivals(message.data)[1]]
        return await self.write(row, [*arrivals, *requests], [message.sequence for message in messages], **changes)

    async def write(
        self, row: InstanceRow, events: list[HistoryEvent], consumed: list[int], **changes: Any
    ) -> InstanceRow:
        now = await self.now()
        data = encode_record(Record(now, events))
        chain = next_checksum(row.chain or first_checksum(row.key, row.run_id, row.generation), data)
        for event in events:
            changes = self._end(event, now) | changes
        progress: dict[str, Any] = {
            "generation": row.generation,
            "records": row.records + 1,
            "chain": chain,
            "status": Status.RUNNING,
            "updated_at": now,
            "due_at": None,
            "open_work": 0,
        }
        columns = {field.name for field in dataclasses.fields(Progress)}
        progress |= {name: changes.pop(name) for name in list(changes) if name in columns}
        step = Step(
            row.key,
            row.run_id,
            (row.generation, row.records),
            Progress(**progress),
            changes=changes,
            appends=[(row.generation, RecordRow(row.records, data, chain))],
            consumed=consumed,
            replaced_by=changes.pop("replaced_by", None),
        )
        after = dataclasses.replace(row, **progress, **changes)
        await self.commit(steps=[step])
        return after

    def _end(self, event: HistoryEvent, now: int) -> dict[str, Any]:
        if type(event) not in END:
            return {}
        found: dict[str, Any] = {"status": END[type(event)], "completed_at": now}
        if isinstance(event, ev.OrchestrationCompleted):
            found["output"] = event.result
        elif isinstance(event, ev.OrchestrationFailed):
            found["failure"] = encode_details(event.details)
        elif event.reason:  # type: ignore[attr-defined]
            found["failure"] = encode_details(FailureDetails(type(event).__name__, event.reason))  # type: ignore[attr-defined]
        return found

    async def commit(self, **batch: Any) -> None:
        self.number += 1
        await self.provider.commit(self.lease, Batch(self.number, **batch))

    async def note(self, key: str, data: bytes) -> None:
        """Write a memo that outlives the test."""
        await self.commit(memos=[Memo(key, data, await self.now() + 3600_000_000)])

    async def complete(self, instance_id: str, result: Any = None) -> InstanceRow:
        return await self.turn(instance_id, ev.OrchestrationCompleted(encode(result)))

    async def fail(self, instance_id: str, message: str = "broken") -> InstanceRow:
        return await self.turn(instance_id, ev.OrchestrationFailed(FailureDetails("ValueError", message)))

    async def replace(self, instance_id: str) -> InstanceRow:
        """Do what a start with TERMINATE_AND_REPLACE asks for."""
        row = await self.row(instance_id)
        (start,) = [m.start for m in await self.received(instance_id) if m.start and m.priority is Priority.CONTROL]
        assert start is not None
        await self.write(row, [ev.OrchestrationTerminated("replaced")], [], replaced_by=start)
        return start


@contextlib.asynccontextmanager
async def owner_of(url: str) -> AsyncIterator[Owner]:
    """Open a store and own all of it."""
    provider = connect(url, system_ports())
    hub = await provider.open()
    try:
        lease = await provider.lease("played by hand", b"", worker=True)
        await provider.take(lease, range(hub.partitions))
        owner = Owner(provider, lease)
        yield owner
        await provider.release(lease)
    finally:
        await provider.close()
