"""What travels to an inbox, as bytes: arrivals, and for whom they are meant.

A message's data is msgpack of [generation or None, [event, …]]: the events are applied in this order, by one turn where
they fit. The generation limits it to what that generation asked for. Notes about what was dropped are kept as memos under
the run that they concern.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType
from typing import Any

import msgpack

from durable.errors import HistoryDamagedError
from durable.events import (
    ActivityScheduled,
    HistoryEvent,
    InstanceKey,
    OrchestrationRewound,
    OrchestrationStarted,
    TaskRef,
)
from durable.provider import Expects, InstanceRow, Memo, Message, Status, partition_of
from durable.records import decode_event, decode_events, encode_event, reason_of, require, unpack

DROPPED_KEPT_US = 30 * 24 * 3600 * 1_000_000
"""How long a note about something dropped is kept: long enough for somebody to ask."""

NAMES_IN_NOTE_MAX = 1000
"""Names in one note about things dropped, so that no note is large: half a MiB at most."""

THINGS_IN_NOTE_MAX = 200_000
"""Things that one note can tell of: more than an instance holds events. A damaged one may say any number."""


def encode_arrivals(events: Sequence[HistoryEvent], generation: int | None = None) -> bytes:
    """Return a message's data."""
    packed = b"".join(map(encode_event, events))
    packer = msgpack.Packer()
    head: bytes = packer.pack_array_header(2) + packer.pack(generation) + packer.pack_array_header(len(events))
    return head + packed


def decode_arrivals(data: bytes) -> tuple[int | None, list[HistoryEvent]]:
    """Return (generation or None, events). Raises HistoryDamagedError for whatever is not a message."""
    try:
        generation, packed = unpack(data)[:2]
        require((int, NoneType), generation)
        events = decode_events(packed)
        if any(event.is_request for event in events):
            raise HistoryDamagedError("a message holds what only an instance itself can ask for")
        return generation, events
    except HistoryDamagedError:
        raise
    except Exception as error:  # whatever garbage does to the decoder is one fact: this is not a message
        raise HistoryDamagedError(f"a message cannot be read: {reason_of(error)}") from error


def traced(message: Message, trace: str) -> Message:
    """Return a message whose start, if it brings one, belongs to this trace."""
    generation, events = decode_arrivals(message.data)
    if not any(isinstance(event, OrchestrationStarted) for event in events):
        return message
    events = [dataclasses.replace(e, trace=trace) if isinstance(e, OrchestrationStarted) else e for e in events]
    return dataclasses.replace(message, data=encode_arrivals(events, generation))


def new_row(
    key: InstanceKey,
    partitions: int,
    run_id: str,
    name: str,
    version: str | None,
    *,
    now: int,
    scheduled_at: int,
    payload: bytes | None,
    tags: Mapping[str, str] | None = None,
    parent: TaskRef | None = None,
    end_event: str | None = None,
) -> InstanceRow:
    """Return the row of a run that is about to begin. With `end_event` its end reaches the parent as that event.

    A run for later is parked until it is due: its start, and behind it whatever else comes for it, waits in the store.
    """
    parent_task = None
    if parent is not None:
        parent_task = f"{parent.generation}/{parent.task_id}" + (f"/{end_event}" if end_event is not None else "")
    return InstanceRow(
        key=key,
        partition=partition_of(key, partitions),
        run_id=run_id,
        name=name,
        version=version,
        created_at=now,
        scheduled_at=scheduled_at,
        updated_at=now,
        input=payload,
        tags=dict(tags or {}),
        parent=parent.key if parent else None,
        parent_run_id=parent.run_id if parent else None,
        parent_task=parent_task,
        parked_until=scheduled_at if scheduled_at > now else 0,
    )


def begun_run_id(request: TaskRef, now: int) -> str:
    """Return the id of the run that a request begins: ordered by time, and the same for no other request."""
    mark = hashlib.blake2b("\0".join(map(str, request)).encode(), digest_size=10).hexdigest()
    return f"{now // 1000:012x}{mark}"


def beginning_message(
    key: InstanceKey, partitions: int, run_id: str, name: str, *events: HistoryEvent, now: int
) -> Message:
    """Return the message that begins a run without an input, of what is called `name`, with the events that it is for.

    It stands in for a message to an instance that is not there, or has ended.
    """
    row = new_row(key, partitions, run_id, name, None, now=now, scheduled_at=now, payload=None)
    started = OrchestrationStarted(name, None, None, run_id, "", scheduled_for=now)
    data = encode_arrivals([started, *events])
    return Message(key, row.partition, data, start=row, expects=Expects.ABSENT_OR_FINISHED)


def rewind_message(
    row: InstanceRow, reason: str, seed: str, now: int, *, otherwise: Message | Memo | None = None
) -> Message:
    """Return the message by which a run that has ended, with this row, goes on in a further generation."""
    later = dataclasses.replace(
        row,
        status=Status.PENDING,
        generation=row.generation + 1,
        records=0,
        chain=b"",
        scheduled_at=min(row.scheduled_at, now),
        updated_at=max(now, row.updated_at),
        output=None,
        failure=None,
        stall_reason=None,
        completed_at=None,
        due_at=None,
        open_work=0,
        parked_until=0,
        state=b"",
        slow_turns=0,
        slow_since=0,
    )
    event = OrchestrationRewound(reason, seed, row.generation)
    data = encode_arrivals([event], later.generation)
    return Message(row.key, row.partition, data, start=later, expects=Expects.ENDED, otherwise=otherwise)


def dropped_memo(run_id: str, what: str, name: str, reason: str, now: int) -> Memo:
    """Return a note that something meant for, or sent by, a run was dropped; the same thing twice is one note."""
    return dropped_memos(run_id, what, [name], reason, now)[0]


def dropped_memos(run_id: str, what: str, names: Iterable[str], reason: str, now: int) -> list[Memo]:
    """Return the notes that things of one kind were dropped, in this order: few, however many things.

    Their keys name `now` and the microseconds after it, one each.
    """
    counted = [(name, sum(1 for _ in same)) for name, same in itertools.groupby(names)]
    found: list[Memo] = []
    for at in range(0, len(counted), NAMES_IN_NOTE_MAX):
        part = counted[at : at + NAMES_IN_NOTE_MAX]
        data: bytes = msgpack.packb([now, what, reason, part], unicode_errors="replace")
        mark = hashlib.blake2b(data, digest_size=8).hexdigest()
        key = dropped_prefix(run_id) + f"{now + len(found):016d}/{mark}"
        found.append(Memo(key, data, now + DROPPED_KEPT_US))
    return found


def dropped_prefix(run_id: str) -> str:
    """Return what the keys of a run's dropped-notes begin with."""
    return f"run/{run_id}/dropped/"


def read_dropped(memo: Memo) -> list[tuple[int, str, str, str]]:
    """Return (time, what, name, reason) of each thing that a note tells of. Raises HistoryDamagedError for anything else."""
    try:
        now, what, reason, counted = unpack(memo.data)[:4]
        names = [name for name, _ in counted]
        counts = [count for _, count in counted]
        require(int, now, *counts)
        require(str, what, reason, *names)
        if sum(counts) > THINGS_IN_NOTE_MAX or min(counts) < 1:
            raise ValueError(f"{sum(counts)} things in one note")
        return [(now, what, name, reason) for name, count in counted for _ in range(count)]
    except Exception as error:  # as in decode_arrivals
        raise HistoryDamagedError(f"a note about something dropped cannot be read: {reason_of(error)}") from error


def heartbeat_key(run_id: str, generation: int, task_id: int) -> str:
    """Return the key of the memo that holds an attempt's latest heartbeat."""
    return f"run/{run_id}/heartbeat/{generation}/{task_id}"


def note_key(run_id: str, generation: int, task_id: int) -> str:
    """Return the key of the memo that says what is worth knowing of a queued attempt."""
    return f"run/{run_id}/note/{generation}/{task_id}"


def encode_past(records: Sequence[bytes]) -> bytes:
    """Return the records of a history as the event that forks it brings them."""
    packed: bytes = msgpack.packb(list(records))
    return packed


def decode_past(data: bytes | None) -> list[bytes]:
    """Return them again. Raises HistoryDamagedError for anything else."""
    try:
        records = unpack(data or b"")
        require(list, records)
        require(bytes, *records)
        return list(records)
    except Exception as error:  # as in decode_arrivals
        raise HistoryDamagedError(f"a forked history cannot be read: {reason_of(error)}") from error


def encode_activity(
    request: ActivityScheduled, idempotency_key: str, scheduled_at: int, trace: str | None = None
) -> bytes:
    """Return the data of a queue row: all that a worker needs to run the attempt. `trace`: that of the run."""
    told = [encode_event(request), idempotency_key, scheduled_at]
    packed: bytes = msgpack.packb(told if trace is None else [*told, trace])
    return packed


def decode_activity(data: bytes) -> tuple[ActivityScheduled, str, int, str | None]:
    """Return (request, idempotency key, time of the request, trace). Raises HistoryDamagedError for anything else."""
    try:
        event, idempotency_key, scheduled_at, *more = unpack(data)
        trace = more[0] if more else None
        request: Any = decode_event(unpack(event))
        require(ActivityScheduled, request)
        require(str, idempotency_key)
        require(int, scheduled_at)
        require((str, NoneType), trace)
        return request, idempotency_key, scheduled_at, trace
    except Exception as error:  # as in decode_arrivals
        raise HistoryDamagedError(f"a queued activity cannot be read: {reason_of(error)}") from error
