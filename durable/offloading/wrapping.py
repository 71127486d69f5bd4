"""A store whose large payloads lie outside of it: in a folder, or whatever `PayloadStore` is given.

    store = offloaded_store("sqlite:///app.db", payloads=FolderPayloads("payloads"))
    Worker(app, store)

A provider is wrapped by one that speaks the same contract. What lasts and is larger than a threshold is put under a name of
its own first; the store gets a reference: the name, the size and a digest. That is each history record, and the input and
the output in an instance's row. What only passes through (messages, the activity queue, heartbeats, notes) and what is
written over in place (custom status, state) stays in the store.

A payload belongs to the one place that names it, and its name says which: the run, and the record's generation and index, or
the column. The commit that makes the reference makes the payload count. One that a commit was refused for, or that a purge or a
later generation leaves behind, is removed at once where this process knows; whatever a crash leaves is found by the sweep.

Invariant: a payload is durable before the commit that refers to it, and no two commits ever share a name.
Invariant: only what no place refers to is removed, and only once that is certain: the commit was refused, the run or the
generation is gone, or nothing has referred to it for longer than any writer waits between the two.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final

from durable.errors import HistoryDamagedError, LeaseLostError
from durable.offloading.references import Place, Reference, enveloped, referring_to
from durable.offloading.shelf import HUB_KEY, Shelf, Sweep
from durable.offloading.stores import Guarded, PayloadStore
from durable.payloads import lies_outside
from durable.ports import Ports, system_ports
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
    Verdict,
    Wakeup,
)
from durable.sealed import SealedProvider
from durable.stores import connect

logger = logging.getLogger("durable.payloads")

THRESHOLD_BYTES: Final = 64 * 1024
"""Smaller values are faster in the store than in a file of their own; Durable Functions draws the line near here as well."""

ORPHANED_AFTER: Final = timedelta(hours=1)
"""What nothing refers to for so long is removed. A writer puts its payloads anew that has been held up for a quarter of it."""

BEARING_MAX: Final = 10_000
"""Runs of which this process remembers that they have payloads, to remove these as soon as they are no longer needed."""

COLUMNS: Final = ("input", "output")
"""What of a row may lie outside: what is written once. Other columns are written over again and again, in place."""

REMEDY: Final = (
    "give this process the payload store that the hub has always had, or bring the file back from a backup: the instance then "
    "goes on by itself. If it is lost for good, terminate the instance"
)


def offloaded_store(
    store: str | Provider,
    *,
    payloads: PayloadStore,
    above: int = THRESHOLD_BYTES,
    orphaned_after: timedelta = ORPHANED_AFTER,
) -> Provider:
    """Return a provider that keeps what is larger than `above` bytes in `payloads`, for a Worker or a Client.

    Each of these gets one of its own; every process of the hub needs the same payloads. To encrypt them as well, seal the
    result: `sealed_store(offloaded_store(…), codecs=…)`. `orphaned_after`: how long a payload that nothing refers to is kept.
    Raises StoreError as a URL does, ValueError for a store that is sealed inside, an `above` below 1, a span of 0 or less.
    """
    inner = connect(store, system_ports())
    if isinstance(inner, SealedProvider):
        raise ValueError(
            "the payloads of a store that is sealed inside would lie outside in the clear: "
            "write sealed_store(offloaded_store(…), codecs=…), so that they are sealed first"
        )
    if above < 1:
        raise ValueError(f"above must be a number of bytes, at least 1, not {above!r}")
    if orphaned_after <= timedelta(0):
        raise ValueError(f"orphaned_after must be more than 0, not {orphaned_after!r}")
    return OffloadedProvider(inner, payloads, system_ports(), above=above, orphaned_after=orphaned_after)


@dataclasses.dataclass(slots=True)
class _Outgoing:
    """What one call writes, ready for the store, with the payloads that go with it.

    `asked` is what the call was given; `steps` and `messages` have the references. `by_step` and `by_message`: names, by the
    index of the step or the message. `since`: no payload of it is older, in seconds of monotonic time. `earlier`: names that
    the same call had before, which the store may refer to. `is_uncertain`: an earlier call with this had no answer, so that its
    payloads may be referred to whatever a later answer says.
    """

    asked: Any
    since: float
    earlier: frozenset[str] = frozenset()
    steps: Sequence[Step] = ()
    messages: Sequence[Message] = ()
    payloads: dict[str, bytes] = dataclasses.field(default_factory=dict)
    by_step: dict[int, list[str]] = dataclasses.field(default_factory=dict)
    by_message: dict[int, list[str]] = dataclasses.field(default_factory=dict)
    is_uncertain: bool = False


class OffloadedProvider:
    """See the module. Its methods promise what `durable.provider` says of them."""

    def __init__(
        self,
        inner: Provider,
        payloads: PayloadStore,
        ports: Ports,
        *,
        above: int = THRESHOLD_BYTES,
        orphaned_after: timedelta = ORPHANED_AFTER,
    ) -> None:
        self._inner = inner
        self._payloads = payloads = Guarded(payloads)
        self._ports = ports
        self._above = above
        self._patience_s = orphaned_after.total_seconds() / 4
        self._shelf = Shelf(inner, payloads, ports)
        self._sweep = Sweep(inner, payloads, self._shelf, ports, orphaned_after.total_seconds())
        self._bearing: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._is_open = False
        self._commit: _Outgoing | None = None  # the last one, until its outcome is known
        self._submit: _Outgoing | None = None
        self.message_bytes_max = inner.message_bytes_max
        self.batch_bytes_max = inner.batch_bytes_max
        self.is_fenced_by_lock, self.is_remote = inner.is_fenced_by_lock, inner.is_remote

    # ---- ownership

    async def open(self) -> Hub:
        if not self._is_open:
            await self._payloads.open()
            self._is_open = True
        hub = await self._inner.open()
        self._shelf.partitions = hub.partitions
        self.message_bytes_max, self.batch_bytes_max = self._inner.message_bytes_max, self._inner.batch_bytes_max
        self.is_fenced_by_lock, self.is_remote = self._inner.is_fenced_by_lock, self._inner.is_remote
        return hub

    async def close(self) -> None:
        await self._inner.close()
        if self._is_open:
            self._is_open = False
            await self._payloads.close()

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
        view = await self._inner.renew(lease, announcement, belief=belief, confirms_clock=confirms_clock)
        if belief is not None:  # an owner: whoever removes what has expired
            await self._sweep.step()
        return view

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
        rows = await self._opened_rows([message.start for message in found.messages])
        return found._replace(messages=[_with_start(m, row) for m, row in zip(found.messages, rows, strict=True)])

    async def load(self, targets: Sequence[tuple[InstanceKey, str | None]]) -> Sequence[InstanceRow | None]:
        return await self._opened_now(await self._inner.load(targets))

    async def read_history(
        self, run_id: str, generation: int, first: int = 0, bytes_max: int = 4 * 1024 * 1024
    ) -> Sequence[RecordRow]:
        rows = await self._inner.read_history(run_id, generation, first, bytes_max)
        while True:
            references = [Reference.read(row.data) for row in rows]
            if not any(references):
                return rows
            size, count = 0, 0
            while count < len(rows) and size <= bytes_max:
                reference = references[count]
                size += len(rows[count].data) if reference is None else reference.size
                count += 1
            self._remember(run_id)
            try:
                return await self._opened_records(rows[:count], references[:count], generation)
            except HistoryDamagedError:
                former, rows = rows, await self._inner.read_history(run_id, generation, first, bytes_max)
                if rows[:count] == former[:count]:  # else the records have gone meanwhile, and their payloads with them
                    raise

    async def commit(self, lease: Lease, batch: Batch) -> Committed:
        out = await self._put_outside(self._commit, batch, batch.steps, batch.messages)
        self._commit = out
        ready = batch if out is None else dataclasses.replace(batch, steps=out.steps, messages=out.messages)
        left = await self._left_by(batch.steps, () if out is None else {*out.payloads, *out.earlier})
        try:
            committed = await self._inner.commit(lease, ready)
        except LeaseLostError:
            self._commit = None
            if out is not None and not out.is_uncertain:
                await self._shelf.remove(out.payloads)
            raise
        except BaseException:
            if out is not None:
                out.is_uncertain = True
            raise
        if out is not None:
            await self._take_back(out, committed.deliveries, committed.refused)
        for index, names in left.items():
            if index not in committed.refused:
                await self._shelf.remove(names)
        for index, step in enumerate(batch.steps):
            if step.removes_if_idle and index not in committed.refused and step.run_id in self._bearing:
                await self._shelf.remove_runs([(step.key, step.run_id)])
        answer = dataclasses.replace(committed, deliveries=await self._delivered(committed.deliveries))
        # Not before: where the answer cannot be read the call is repeated, with the same payloads.
        self._commit = None
        return answer

    def mark_slow_turn(self, lease: Lease, key: InstanceKey, run_id: str) -> None:
        self._inner.mark_slow_turn(lease, key, run_id)

    # ---- activities

    async def claim(
        self, lease: Lease, queues: Sequence[str], served: Served, limit: int, *, held: Held = None
    ) -> Sequence[ActivityRow]:
        return await self._inner.claim(lease, queues, served, limit, held=held)

    async def report(self, lease: Lease, reports: Sequence[Report], beats: Sequence[Beat] = ()) -> Sequence[bool]:
        return await self._inner.report(lease, reports, beats)

    # ---- clients

    async def submit(self, lease: Lease, number: int, messages: Sequence[Message]) -> Sequence[Delivery]:
        out = await self._put_outside(self._submit, (lease.lease_id, number, *messages), (), messages)
        self._submit = out
        try:
            deliveries = await self._inner.submit(lease, number, messages if out is None else out.messages)
        except BaseException:
            if out is not None:
                out.is_uncertain = True
            raise
        self._submit = None
        if out is not None:
            await self._take_back(out, deliveries)
        return await self._delivered(deliveries)

    async def list_instances(
        self, wanted: InstanceFilter, *, limit: int, page: bytes | None = None, newest_first: bool = True
    ) -> Page:
        found = await self._inner.list_instances(wanted, limit=limit, page=page, newest_first=newest_first)
        rows = await self._opened_now(found.rows)
        return found._replace(rows=[row for row in rows if row is not None])

    async def count(self, wanted: InstanceFilter) -> int:
        return await self._inner.count(wanted)

    async def purge(self, targets: Sequence[tuple[InstanceKey, str]]) -> int:
        removed = await self._inner.purge(targets)
        if removed:
            await self._shelf.remove_runs(targets)
        return removed

    async def read_memos(self, prefix: str, limit: int = 1000, *, after: str = "") -> Sequence[Memo]:
        if not HUB_KEY.startswith(prefix):
            return await self._inner.read_memos(prefix, limit, after=after)
        memos = await self._inner.read_memos(prefix, limit + 1, after=after)  # one of them is ours
        return [memo for memo in memos if memo.key != HUB_KEY][:limit]

    # ---- wake-ups

    def listen(self, callback: Callable[[Wakeup], None]) -> Callable[[], None]:
        def hear(wakeup: Wakeup) -> None:
            starts = (message.start for message in wakeup.messages)
            if any(row is not None and _refers(row) for row in (*starts, *wakeup.rows)):
                # There is no time to read here. Without its number it counts as lost: who hears it looks into the store, and
                # nothing that is told later overtakes what was in it.
                wakeup = Wakeup(anything=True, activities=wakeup.activities, leases=wakeup.leases)
            callback(wakeup)

        return self._inner.listen(hear)

    # ---- on the way in

    async def _put_outside(
        self, former: _Outgoing | None, asked: Any, steps: Sequence[Step], messages: Sequence[Message]
    ) -> _Outgoing | None:
        """Return what a call writes, with its payloads durable outside; None where it has none.

        A call that is repeated has the payloads that it had, unless these are so old that the sweep may be about to take them.
        """
        out = former if former is not None and former.asked == asked else None
        if out is None and not self._has_large(steps, messages):
            return None
        hub = await self._shelf.hub()
        while True:
            if out is None or self._ports.monotonic() - out.since > self._patience_s:
                earlier = frozenset() if out is None else out.earlier.union(out.payloads)
                out = _Outgoing(asked, self._ports.monotonic(), earlier)
                placing = _Placing(hub, self._above, self._ports.new_id, out)
                out.steps = [placing.step(step, index) for index, step in enumerate(steps)]
                out.messages = [placing.message(message, index) for index, message in enumerate(messages)]
                for place in placing.places:
                    self._remember(place.run_id)
            await self._payloads.put(out.payloads)
            if self._ports.monotonic() - out.since <= self._patience_s:
                return out

    def _has_large(self, steps: Sequence[Step], messages: Sequence[Message]) -> bool:
        above = self._above
        for step in steps:
            if any(len(record.data) > above for _, record in step.appends):
                return True
            if step.changes and any(len(step.changes.get(column) or b"") > above for column in COLUMNS):
                return True
            if any(row is not None and _size(row) > above for row in (step.replaced_by, step.begins)):
                return True
        return any(_starts_with_more(message, above) for message in messages)

    # ---- after a call

    async def _take_back(
        self, out: _Outgoing, deliveries: Sequence[Delivery], refused: Mapping[int, str] = MappingProxyType({})
    ) -> None:
        """Remove what was put for steps and messages that were not written."""
        if out.is_uncertain:
            return
        names = [name for index in refused for name in out.by_step.get(index, ())]
        for index, own in out.by_message.items():
            if deliveries[index].verdict is not Verdict.STORED:
                names += own
        await self._shelf.remove(names)

    async def _left_by(self, steps: Sequence[Step], own: Collection[str]) -> dict[int, list[str]]:
        """Return the payloads that nothing refers to once a step is written, by its index; only of runs known to have some.

        They are looked up before the commit: whatever somebody puts for such a run afterwards is not among them.
        """
        found: dict[int, list[str]] = {}
        for index, step in enumerate(steps):
            columns = ["input"] if "input" in step.changes else []  # an output is written once, where none was
            below, gone = step.drop_generations_below or 0, step.drop_generations
            if step.run_id not in self._bearing or not (columns or below or gone):
                continue
            for name in await self._shelf.names_of(step.run_id):
                place = Place.of(name)
                if place is None or name in own:
                    continue
                is_gone = not place.column and (place.generation < below or place.generation in gone)
                if is_gone or place.column in columns:
                    found.setdefault(index, []).append(name)
        return found

    def _remember(self, run_id: str) -> None:
        self._bearing[run_id] = None
        self._bearing.move_to_end(run_id)
        if len(self._bearing) > BEARING_MAX:
            self._bearing.popitem(last=False)

    # ---- on the way out

    async def _delivered(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        if not any(delivery.row is not None and _refers(delivery.row) for delivery in deliveries):
            return deliveries
        rows = await self._opened_rows([delivery.row for delivery in deliveries])
        return [delivery._replace(row=row) for delivery, row in zip(deliveries, rows, strict=True)]

    async def _opened_now(self, rows: Sequence[InstanceRow | None]) -> list[InstanceRow | None]:
        """Return rows with their payloads, each as it is now if one of its payloads has gone since it was read."""
        found: list[InstanceRow | None] = []
        opened = await self._opened_rows(rows, is_final=False)
        for row, read in zip(opened, rows, strict=True):
            now = row
            if row is not None and _refers(row):
                [again] = await self._inner.load([(row.key, row.run_id)])
                is_same = read is not None and again is not None and _outside(again) == _outside(read)
                [now] = await (self._opened_rows if is_same else self._opened_now)([again])
            found.append(now)
        return found

    async def _opened_rows(
        self, rows: Sequence[InstanceRow | None], *, is_final: bool = True
    ) -> list[InstanceRow | None]:
        """Return rows with their payloads. One that is lost stays a reference, which nobody takes for a value."""
        wanted = {
            (index, column): reference
            for index, row in enumerate(rows)
            if row is not None
            for column in COLUMNS
            if (reference := Reference.read(getattr(row, column) or b"")) is not None
        }
        found = await self._fetched(list(wanted.values()))
        opened = list(rows)
        for (index, column), data in zip(wanted, found, strict=True):
            row = opened[index]
            if isinstance(data, str):
                if is_final:
                    logger.warning("the %s of run %s: %s", column, row and row.run_id, data)
            elif row is not None:
                self._remember(row.run_id)
                opened[index] = _with_column(row, column, data)
        return opened

    async def _opened_records(
        self, rows: Sequence[RecordRow], references: Sequence[Reference | None], generation: int
    ) -> Sequence[RecordRow]:
        found = iter(await self._fetched([reference for reference in references if reference is not None]))
        opened = []
        for row, reference in zip(rows, references, strict=True):
            data: bytes | str = row.data if reference is None else next(found)
            if isinstance(data, str):
                raise HistoryDamagedError(f"history record {row.index} of generation {generation}: {data}")
            opened.append(row._replace(data=data))
        return opened

    async def _fetched(self, references: Sequence[Reference]) -> Sequence[bytes | str]:
        """Return each payload; in place of one that is lost or damaged, what is to be done about it."""
        if not references:
            return ()
        envelopes = await self._payloads.get([reference.name for reference in references])
        found: list[bytes | str] = []
        for reference, envelope in zip(references, envelopes, strict=True):
            payload = None if envelope is None else reference.payload(envelope)
            what = "missing" if envelope is None else "damaged"
            found.append(payload if payload is not None else f"its payload {reference.name} is {what}; {REMEDY}")
        return found


class _Placing:
    """Puts references in the place of large values, and notes what they stand for."""

    def __init__(self, hub: str, above: int, new_id: Callable[[], str], out: _Outgoing) -> None:
        self._hub = hub
        self._above = above
        self._new_id = new_id
        self._out = out
        self.places: list[Place] = []

    def step(self, step: Step, index: int) -> Step:
        names: list[str] = []
        self._out.by_step[index] = names
        changes = dict(step.changes) if step.begins is None else {}  # else the row has them
        for column in COLUMNS:
            if changes.get(column):
                changes[column] = self._placed(step.key, Place(step.run_id, column=column), changes[column], names)
        appends = [
            (number, record._replace(data=self._placed(step.key, place, record.data, names)))
            for number, record in step.appends
            for place in [Place(step.run_id, number, record.index)]
        ]
        replaced_by = None if step.replaced_by is None else self._row(step.replaced_by, names)
        begins = None if step.begins is None else self._row(step.begins, names)
        return dataclasses.replace(step, changes=changes, appends=appends, replaced_by=replaced_by, begins=begins)

    def message(self, message: Message, index: int) -> Message:
        names: list[str] = []
        self._out.by_message[index] = names
        start = None if message.start is None else self._row(message.start, names)
        otherwise = message.otherwise
        if isinstance(otherwise, Message) and otherwise.start is not None:
            # Which of the two was written nobody says here: what the other one had is left to the sweep.
            otherwise = dataclasses.replace(otherwise, start=self._row(otherwise.start, []))
        return dataclasses.replace(message, start=start, otherwise=otherwise)

    def _row(self, row: InstanceRow, names: list[str]) -> InstanceRow:
        columns: dict[str, Any] = {}
        for column in COLUMNS:
            value = getattr(row, column)
            if value:
                columns[column] = self._placed(row.key, Place(row.run_id, column=column), value, names)
        return dataclasses.replace(row, **columns)

    def _placed(self, key: InstanceKey, place: Place, data: bytes, names: list[str]) -> bytes:
        if len(data) <= self._above:
            return data
        name, envelope = place.name(self._hub, self._new_id()), enveloped(key, data)
        self._out.payloads[name] = envelope
        self.places.append(place)
        names.append(name)
        return referring_to(name, envelope, len(data)).encode()


def _with_start(message: StoredMessage, row: InstanceRow | None) -> StoredMessage:
    return message if row is message.start else dataclasses.replace(message, start=row)


def _refers(row: InstanceRow) -> bool:
    return any(lies_outside(getattr(row, column)) for column in COLUMNS)


def _outside(row: InstanceRow) -> list[bytes | None]:
    return [getattr(row, column) for column in COLUMNS]


def _size(row: InstanceRow) -> int:
    return max(len(getattr(row, column) or b"") for column in COLUMNS)


def _starts_with_more(message: Message, above: int) -> bool:
    if message.start is not None and _size(message.start) > above:
        return True
    return isinstance(message.otherwise, Message) and _starts_with_more(message.otherwise, above)


def _with_column(row: InstanceRow, column: str, data: bytes) -> InstanceRow:
    columns: Mapping[str, Any] = {column: data}
    return dataclasses.replace(row, **columns)
