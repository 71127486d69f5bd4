"""A store behind a codec chain: whatever users' data is in passes it on its way to the store and back.

    store = sealed_store("sqlite:///app.db", codecs=[Compression(), AesGcm({"2026": key})])
    Worker(app, store)

A provider is wrapped by one that speaks the same contract. All that is opaque to a provider goes through the chain:
messages, history records, activities, heartbeats, notes, and in an instance's row its input, output, custom status,
failure, stall reason and what its owner notes. Ids, names, versions, tags, statuses, times and checksums stay readable:
the store orders and filters by them. Nothing above knows of it, so that digests and checksums are those of the plain bytes.

What was stored before the chain stays readable, for it does not bear its mark. What was stored through another chain, or a
key that is not here, is nobody's to decide about: `UnknownCodecError` becomes a StoreError, which a worker meets again and
again without losing anything. What is merely damaged is handed on, and is found to be damaged where it is read.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from durable.errors import StoreError
from durable.payloads import Codec, PayloadError, Sealer, UnknownCodecError
from durable.ports import system_ports
from durable.provider import (
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
    Provider,
    Received,
    RecordRow,
    Report,
    Served,
    Step,
    StoredMessage,
    Wakeup,
)
from durable.stores import connect

COLUMNS: Final = ("input", "output", "custom_status", "failure", "state")
"""The opaque columns of a row; `stall_reason` is a text."""

TEXT_MARK: Final = "sealed:"
"""What a sealed text begins with; the rest is base64."""


def sealed_store(store: str | Provider, *, codecs: Iterable[Codec], readable: Iterable[Codec] = ()) -> Provider:
    """Return a provider whose data goes through `codecs`, in order, for a Worker or a Client; each gets one of its own.

    `readable`: further codecs, for what an earlier chain has stored. Every process of the hub needs the same. Raises
    StoreError as a URL does, ValueError for codecs of one id.
    """
    return SealedProvider(connect(store, system_ports()), Sealer(codecs, readable=readable))


class SealedProvider:
    """See the module. Its methods promise what `durable.provider` says of them."""

    def __init__(self, inner: Provider, sealer: Sealer) -> None:
        self._inner = inner
        self._chain = _Chain(sealer)
        self.message_bytes_max = inner.message_bytes_max
        self.batch_bytes_max = inner.batch_bytes_max
        self.is_fenced_by_lock, self.is_remote = inner.is_fenced_by_lock, inner.is_remote

    # ---- ownership

    async def open(self) -> Hub:
        hub = await self._inner.open()
        self.message_bytes_max, self.batch_bytes_max = self._inner.message_bytes_max, self._inner.batch_bytes_max
        self.is_fenced_by_lock, self.is_remote = self._inner.is_fenced_by_lock, self._inner.is_remote
        return hub

    async def close(self) -> None:
        await self._inner.close()

    async def lease(self, name: str, announcement: bytes, *, worker: bool) -> Lease:
        return await self._inner.lease(name, announcement, worker=worker)

    async def renew(
        self,
        lease: Lease,
        announcement: bytes | None = None,
        *,
        belief: Callable[[], Belief] | None = None,
        confirms_clock: bool = False,
    ) -> LeaseView:
        return await self._inner.renew(lease, announcement, belief=belief, confirms_clock=confirms_clock)

    async def take(self, lease: Lease, partitions: Collection[int], *, from_live: bool = False) -> Collection[int]:
        return await self._inner.take(lease, partitions, from_live=from_live)

    async def release(self, lease: Lease, partitions: Collection[int] | None = None) -> None:
        await self._inner.release(lease, partitions)

    # ---- turns

    async def recover(self, lease: Lease, partitions: Collection[int]) -> Sequence[InstanceKey]:
        return await self._inner.recover(lease, partitions)

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
        found = await self._inner.receive(lease, held, limit, due_after=due_after, due_before=due_before, served=served)
        messages = [self._chain.opened_message(message) for message in found.messages]
        return found._replace(messages=messages, unserved=[self._chain.opened_activity(row) for row in found.unserved])

    async def load(self, targets: Sequence[tuple[InstanceKey, str | None]]) -> Sequence[InstanceRow | None]:
        return [row and self._chain.opened_row(row) for row in await self._inner.load(targets)]

    async def read_history(
        self, run_id: str, generation: int, first: int = 0, bytes_max: int = 4 * 1024 * 1024
    ) -> Sequence[RecordRow]:
        rows = await self._inner.read_history(run_id, generation, first, bytes_max)
        return [row._replace(data=self._chain.opened(row.data)) for row in rows]

    async def commit(self, lease: Lease, batch: Batch) -> Committed:
        sealed = dataclasses.replace(
            batch,
            steps=[self._chain.sealed_step(step) for step in batch.steps],
            messages=[self._chain.sealed_message(message) for message in batch.messages],
            memos=[self._chain.sealed_memo(memo) for memo in batch.memos],
            rows=[self._chain.sealed_row(row) for row in batch.rows],
        )
        committed = await self._inner.commit(lease, sealed)
        return dataclasses.replace(committed, deliveries=self._delivered(committed.deliveries))

    def mark_slow_turn(self, lease: Lease, key: InstanceKey, run_id: str) -> None:
        self._inner.mark_slow_turn(lease, key, run_id)

    # ---- activities

    async def claim(
        self, lease: Lease, queues: Sequence[str], served: Served, limit: int, *, held: Held = None
    ) -> Sequence[ActivityRow]:
        rows = await self._inner.claim(lease, queues, served, limit, held=held)
        return [self._chain.opened_activity(row) for row in rows]

    async def report(self, lease: Lease, reports: Sequence[Report], beats: Sequence[Beat] = ()) -> Sequence[bool]:
        return await self._inner.report(
            lease,
            [report._replace(message=self._chain.sealed_message(report.message)) for report in reports],
            [beat._replace(details=self._chain.sealed_or_none(beat.details)) for beat in beats],
        )

    # ---- clients

    async def submit(self, lease: Lease, number: int, messages: Sequence[Message]) -> Sequence[Delivery]:
        sealed = [self._chain.sealed_message(message) for message in messages]
        return self._delivered(await self._inner.submit(lease, number, sealed))

    async def list_instances(
        self, wanted: InstanceFilter, *, limit: int, page: bytes | None = None, newest_first: bool = True
    ) -> Page:
        found = await self._inner.list_instances(wanted, limit=limit, page=page, newest_first=newest_first)
        return found._replace(rows=[self._chain.opened_row(row) for row in found.rows])

    async def count(self, wanted: InstanceFilter) -> int:
        return await self._inner.count(wanted)

    async def purge(self, targets: Sequence[tuple[InstanceKey, str]]) -> int:
        return await self._inner.purge(targets)

    async def read_memos(self, prefix: str, limit: int = 1000, *, after: str = "") -> Sequence[Memo]:
        memos = await self._inner.read_memos(prefix, limit, after=after)
        return [self._chain.opened_memo(memo) for memo in memos]

    # ---- wake-ups

    def listen(self, callback: Callable[[Wakeup], None]) -> Callable[[], None]:
        def hear(wakeup: Wakeup) -> None:
            if not (wakeup.messages or wakeup.rows or wakeup.memos):
                callback(wakeup)
                return
            try:
                opened = dataclasses.replace(
                    wakeup,
                    messages=[self._chain.opened_message(message) for message in wakeup.messages],
                    rows=[self._chain.opened_row(row) for row in wakeup.rows],
                    memos=[self._chain.opened_memo(memo) for memo in wakeup.memos],
                )
            except StoreError:
                # Whoever looks is told. Without its number it counts as lost: nothing later overtakes what was in it.
                opened = Wakeup(anything=True, activities=wakeup.activities, leases=wakeup.leases)
            callback(opened)

        return self._inner.listen(hear)

    def _delivered(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return [
            delivery if delivery.row is None else delivery._replace(row=self._chain.opened_row(delivery.row))
            for delivery in deliveries
        ]


class _Chain:
    """What of each kind of row goes through the codecs."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._seal = sealer.seal

    # ---- on the way in

    def sealed_or_none(self, data: bytes | None) -> bytes | None:
        return None if data is None else self._seal(data)

    def sealed_row(self, row: InstanceRow) -> InstanceRow:
        columns: Mapping[str, Any] = {name: getattr(row, name) for name in (*COLUMNS, "stall_reason")}
        return dataclasses.replace(row, **self._sealed_columns(columns))

    def sealed_message(self, message: Message) -> Message:
        otherwise = message.otherwise
        if isinstance(otherwise, Message):
            otherwise = self.sealed_message(otherwise)
        elif otherwise is not None:
            otherwise = self.sealed_memo(otherwise)
        start = None if message.start is None else self.sealed_row(message.start)
        data = self._seal(message.data) if message.data else message.data
        return dataclasses.replace(message, data=data, start=start, otherwise=otherwise)

    def sealed_memo(self, memo: Memo) -> Memo:
        return dataclasses.replace(memo, data=self._seal(memo.data))

    def sealed_step(self, step: Step) -> Step:
        progress = step.progress
        if progress.state:
            progress = dataclasses.replace(progress, state=self._seal(progress.state))
        return dataclasses.replace(
            step,
            progress=progress,
            changes=self._sealed_columns(step.changes),
            appends=[(number, record._replace(data=self._seal(record.data))) for number, record in step.appends],
            queue_adds=[self._sealed_activity(row) for row in step.queue_adds],
            replaced_by=None if step.replaced_by is None else self.sealed_row(step.replaced_by),
            begins=None
            if step.begins is None
            else dataclasses.replace(self.sealed_row(step.begins), state=progress.state),
        )

    def _sealed_activity(self, row: ActivityRow) -> ActivityRow:
        return dataclasses.replace(row, data=self._seal(row.data), heartbeat=self.sealed_or_none(row.heartbeat))

    def _sealed_columns(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        sealed = dict(columns)
        for name in COLUMNS:
            if sealed.get(name):
                sealed[name] = self._seal(sealed[name])
        reason = sealed.get("stall_reason")
        if reason:
            sealed["stall_reason"] = self._sealed_text(reason)
        return sealed

    def _sealed_text(self, text: str) -> str:
        try:
            return TEXT_MARK + base64.b64encode(self._seal(text.encode())).decode()
        except UnicodeEncodeError:
            return text  # the store refuses it, as the contract says

    # ---- on the way out

    def opened(self, data: bytes) -> bytes:
        """Return what was sealed; what is damaged, as it is. Raises StoreError for what another chain or key has sealed."""
        try:
            return self._sealer.unseal(data)
        except UnknownCodecError as error:
            raise StoreError(
                f"the store holds what cannot be read here: {error}. Give every process of the hub the codecs and keys of all"
            ) from error
        except PayloadError:
            return data

    def opened_row(self, row: InstanceRow) -> InstanceRow:
        columns = {name: self._opened_column(value) for name in COLUMNS if (value := getattr(row, name))}
        reason = row.stall_reason
        if reason is not None and reason.startswith(TEXT_MARK):
            columns["stall_reason"] = self._opened_text(reason)
        return dataclasses.replace(row, **columns)

    def _opened_column(self, value: bytes) -> Any:
        """Return a value of a row; one that cannot be read is left for whoever looks at it: a listing shows the others."""
        try:
            return self._sealer.unseal(value)
        except PayloadError:
            return value

    def _opened_text(self, text: str) -> Any:
        try:
            return self._sealer.unseal(base64.b64decode(text.removeprefix(TEXT_MARK))).decode()
        except ValueError as error:  # a PayloadError is one too
            return f"unreadable: {error}"

    def opened_message(self, message: StoredMessage) -> StoredMessage:
        start = None if message.start is None else self.opened_row(message.start)
        return dataclasses.replace(message, data=self.opened(message.data), start=start)

    def opened_activity(self, row: ActivityRow) -> ActivityRow:
        heartbeat = None if row.heartbeat is None else self.opened(row.heartbeat)
        return dataclasses.replace(row, data=self.opened(row.data), heartbeat=heartbeat)

    def opened_memo(self, memo: Memo) -> Memo:
        return dataclasses.replace(memo, data=self.opened(memo.data))
