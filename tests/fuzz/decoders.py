"""Every decoder of the package, with right inputs to begin from: see `running.Decoder`.

Seeds of events are made from the classes themselves, so that a new event is fuzzed as soon as it is registered.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import urllib.parse
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any
from unittest import mock

import durable_memory
import durable_sqlite
import msgpack
from durable_memory.listings import _last_place
from durable_sqlite.listings import _last_place_of

from durable import events as ev
from durable import stores
from durable.errors import DurableError, FailureDetails, HistoryDamagedError, InvalidInputError, StoreError
from durable.exchanges import Answer, AnswerKind, decode_answer, encode_answer
from durable.failures import decode_details, encode_details
from durable.history import EXPORT_FORMAT, EXPORT_MARK, Generation, History, _digest
from durable.ids import check_event_name, check_instance_id, check_tags
from durable.messages import (
    decode_activity,
    decode_arrivals,
    dropped_memos,
    encode_activity,
    encode_arrivals,
    read_dropped,
)
from durable.offloading.references import MAGIC, Reference, enveloped, owner_of
from durable.outgoing import Outgoing
from durable.payloads import OUTSIDE_MARK, Compression, PayloadError, Sealer, decode, encode
from durable.payloads.sealing import EXPANDED_BYTES_MAX
from durable.ports import system_ports
from durable.provider import Memo
from durable.records import _LAYOUTS, Record, decode_record, encode_record, first_checksum, next_checksum
from durable.versions import canonical_version
from durable.worker.announcement import Announcement, Offer
from durable.worker.live import OwnerState
from durable.worker.queued import QueuedAttempts
from tests.fuzz.job_decoders import JOB_DECODERS
from tests.fuzz.mutation import Mutator, bytes_changed, data_mutator, packed, text_mutator, text_of, value_changed
from tests.fuzz.running import Decoder
from tests.fuzz.schedule_decoders import SCHEDULE_DECODERS
from tests.payloads.shop import Line, Order, Parcel, Priority
from tests.payloads.test_values_arrive import ORDER, PARCEL

# ---- right inputs

DETAILS = FailureDetails(
    "shop.Declined", "no money", "  File …\n", FailureDetails("ValueError", "x"), True, ("ValueError", "Exception")
)
ANSWERS = [
    encode_answer(Answer(AnswerKind.RESULT, encode({"total": 5}))),
    encode_answer(Answer(AnswerKind.FAILURE, details=DETAILS)),
    encode_answer(Answer(AnswerKind.REFUSED, text="é: too much")),
]

SAMPLES: dict[str, Any] = {
    "int": 7,
    "int | None": 1_700_000_000_000_000,
    "str": "name",
    "str | None": "1.2",
    "bool": True,
    "bytes | None": b"digest--",
    "Payload": encode({"a": [1, "two"]}),
    "FailureDetails": DETAILS,
    "FailureDetails | None": DETAILS,
    "ActivityOptions": ev.ActivityOptions("slow", 5_000_000, 1, None, 2, b"jticket"),
    "Mapping[str, str] | None": {"team": "red"},
    "TaskRef": ev.TaskRef("holder", "o", "run", 1, 2),
    "TaskRef | None": ev.TaskRef("parent", "o", "run", 3, 9),
}


def samples_of(cls: type[ev.HistoryEvent]) -> list[ev.HistoryEvent]:
    """Return an event with all its fields set, and one with those that must be."""
    fields = [field for field in dataclasses.fields(cls) if not field.kw_only]
    full = {field.name: SAMPLES[str(field.type).removeprefix("ev.")] for field in fields}
    needed = {field.name: full[field.name] for field in fields if field.default is dataclasses.MISSING}
    return [cls(**full), cls(**needed)]


EVENTS = [event for layout in _LAYOUTS.values() for event in samples_of(layout.cls)]
ARRIVALS = [event for event in EVENTS if not event.is_request]
RECORDS = [encode_record(Record(1_700_000_000_000_000, [event])) for event in EVENTS]
RECORDS += [encode_record(Record(0, EVENTS, is_opening=True)), encode_record(Record(5, []))]
PAYLOADS = [
    encode(value)
    for value in (
        ORDER,
        PARCEL,
        {"a": [1, 2, {"b": {1, 2, frozenset({3})}}], (1, 2): 2**70},
        [None, True, 1.5, "text", b"bytes", PARCEL.sent, ORDER.due, ORDER.key, {"k" * 40: list(range(60))}],
    )
]
ANNOTATIONS: Sequence[Any] = (int, str, list[int], dict[str, Any], Order, Parcel, list[Line], set[int], Priority | None)
VALUES_BY_ANNOTATION = (
    5,
    "text",
    [1, 2**70],
    {"a": [1, {"b": None}]},
    ORDER,
    PARCEL,
    [Line(sku="a"), Line(sku="b")],
    {1, 2},
    Priority.HIGH,
)

# ---- histories: the records are changed below their checksums, or the export below its own

WHOSE = Generation(ev.InstanceKey("instance"), "run", 0, "orchestrator")


def exported(records: Sequence[bytes], whose: Generation = WHOSE) -> bytes:
    """Return the export of a history of these records, with checksums that fit."""
    rows, chain = [], first_checksum(whose.key, whose.run_id, whose.generation)
    for record in records:
        chain = next_checksum(chain, record)
        rows.append([record, chain])
    return sealed_export([whose.key.id, whose.key.kind, whose.run_id, whose.generation, whose.name, rows])


def sealed_export(body: Any) -> bytes:
    """Return an export with this body, and a digest that fits."""
    content = packed(body)
    return packed([EXPORT_MARK, EXPORT_FORMAT, content, _digest(content)])


EMPTY_EXPORT = History(WHOSE, []).export()


def history_mutator() -> Mutator:
    """Return a maker of exports: with damaged records, with a damaged body, damaged altogether."""
    change_record, whole = data_mutator(RECORDS), exported(RECORDS[:6])
    body = msgpack.unpackb(msgpack.unpackb(whole)[2])
    change_whole = data_mutator([whole, EMPTY_EXPORT])

    def make(chance: random.Random) -> bytes:
        kind = chance.random()
        if kind < 0.5:
            return exported([chance.choice(RECORDS), change_record(chance), chance.choice(RECORDS)])
        if kind < 0.75:
            return sealed_export(value_changed(body, chance))
        return change_whole(chance)

    return make


def looked_at(history: History) -> History:
    """Look at a history in every way in which a user may."""
    assert len(list(history)) == len(history)
    assert isinstance(repr(history), str)
    assert isinstance(hash(history), int)
    assert history[: len(history)] == tuple(history)
    return history


# ---- the parts of an instance's row, of a queue, of a lease


def owner_states() -> list[bytes]:
    """Return states of an owner, as rows hold them."""
    farewell = Outgoing(ev.InstanceKey("other"), ev.EventRaised("n", b"\x01"), "run", 2)
    states = [
        OwnerState(
            {4: [2, 1_700_000_000_000_000], 9: [3, 5]},
            QueuedAttempts([[1, 4], [7, 7]]),
            (0, 12, 500),
            3,
            {"lock": farewell},
        ),
        OwnerState(stalls=1),
        OwnerState(cursor=(1, 2, 3)),
        OwnerState(former=(17, "run")),
    ]
    return [state.encode() for state in states]


class UnreadableError(Exception):
    """The owner's state says itself that it could not be read."""


def read_owner_state(data: bytes) -> OwnerState:
    """Decode a state; one that keeps the bytes as they are counts as refused."""
    state = OwnerState.decode(data)
    if state.unreadable:
        assert state.encode() == data
        raise UnreadableError
    assert -1 not in state.queued or state.queued
    return state


def read_reference(data: bytes) -> Reference:
    """Decode what stands in the place of a payload; what is none counts as refused."""
    found = Reference.read(OUTSIDE_MARK + data)
    if found is None:
        raise UnreadableError
    return found


ENVELOPE_START = len(MAGIC) + 4


def read_owner(data: bytes) -> ev.InstanceKey:
    """Decode whose a payload is; what does not say it counts as refused."""
    found = owner_of(MAGIC + len(data).to_bytes(4, "big") + data + b"payload")
    if found is None:
        raise UnreadableError
    return found


def sealed_payloads() -> Mutator:
    """Return a maker of payloads that went through a codec: damaged before it, or after it."""
    sealer, plain = Sealer([Compression(min_bytes=1)]), data_mutator(PAYLOADS)
    sealed = [sealer.seal(payload) for payload in [*PAYLOADS, encode("x" * 100_000)]]

    def make(chance: random.Random) -> bytes:
        if chance.random() < 0.5:
            return sealer.seal(plain(chance))
        return bytes_changed(chance.choice(sealed), chance, sealed)

    return make


def typed_payloads() -> Mutator:
    """Return a maker of payloads behind a byte that chooses the annotation, mostly the one that they were written for."""
    makers = [data_mutator([encode(value)]) for value in VALUES_BY_ANNOTATION]

    def make(chance: random.Random) -> bytes:
        choice = chance.randrange(len(ANNOTATIONS))
        return bytes([choice]) + (makers[choice] if chance.random() < 0.8 else chance.choice(makers))(chance)

    return make


def read_typed(data: bytes) -> tuple[int, Any]:
    """Decode a payload by the annotation that the first byte chooses."""
    choice = data[0] % len(ANNOTATIONS)
    return choice, decode(data[1:], ANNOTATIONS[choice])


def write_note(items: list[tuple[int, str, str, str]]) -> bytes:
    now, what, _, reason = items[0]
    [memo] = dropped_memos("run", what, [name for _, _, name, _ in items], reason, now)
    return memo.data


def read_tags(data: bytes) -> dict[str, str]:
    """Check any value that msgpack can carry as tags; bytes that are none are no subject here."""
    try:
        tags = msgpack.unpackb(data, strict_map_key=False, unicode_errors="surrogatepass")
    except Exception as error:
        raise InvalidInputError("no value") from error
    return check_tags(tags)


SEALER = Sealer([Compression(min_bytes=1)])

# ---- texts

PORTS = system_ports()


def read_sqlite_url(data: bytes) -> tuple[str, str, bool]:
    """Return what a URL says: path, hub, and whether the file may be created. Nothing is opened."""
    provider: Any = durable_sqlite.connect(text_of(data), PORTS)
    path: str = provider._path
    hub: str = provider._hub_name
    assert path, "a file has a name"
    assert "\0" not in path + hub, "no file and no hub has a NUL in its name"
    assert path.encode(), "SQLite takes UTF-8"
    assert hub.encode(), "SQLite takes UTF-8"
    return path, hub, provider._may_create


def write_sqlite_url(value: tuple[str, str, bool]) -> bytes:
    """Return the URL of that."""
    path, hub, may_create = value
    options = urllib.parse.urlencode({"hub": hub, "mode": "rwc" if may_create else "rw"})
    return f"sqlite:///{urllib.parse.quote(path)}?{options}".encode()


def read_memory_url(data: bytes) -> tuple[str, str, int | None]:
    """Return what a URL says: the store's name, the hub, the limit."""
    provider: Any = durable_memory.connect(text_of(data), PORTS)
    name, hub = provider._name
    assert name.encode() is not None
    assert hub.encode()
    return name, hub, provider.message_bytes_max


def write_memory_url(value: tuple[str, str, int | None]) -> bytes:
    """Return the URL of that."""
    name, hub, limit = value
    options = {"hub": hub} | ({} if limit is None else {"message_bytes_max": str(limit)})
    return f"memory://{urllib.parse.quote(name, safe='')}?{urllib.parse.urlencode(options)}".encode()


entry_points_read_once = functools.cache(entry_points)
"""Reading them takes two milliseconds, a thousand times the rest."""


def read_store_url(data: bytes) -> str:
    """Return the kind of store that a URL names."""
    with mock.patch("importlib.metadata.entry_points", entry_points_read_once):
        return type(stores.connect(text_of(data), PORTS)).__name__


SCHEMES = {"SqliteProvider": b"sqlite:///x.db", "MemoryProvider": b"memory://"}
PAGES = [json.dumps([1_700_000_000_000_000, "instance", "o"]), json.dumps([0, "é\U0001f600", ""]), '[-1, "a\'b", "o"]']
URLS = [
    "sqlite:///a.db",
    "sqlite:////tmp/x%20y.db?hub=h&mode=rw",
    "memory://",
    "memory://name?hub=a&message_bytes_max=9",
]


def _decoder(
    name: str,
    make: Mutator,
    read: Callable[[bytes], Any],
    write: Callable[[Any], bytes],
    refusals: type[Exception] | tuple[type[Exception], ...],
    **limits: int,
) -> tuple[str, Decoder]:
    return name, Decoder(name, make, read, write, refusals, **limits)


def _text(
    name: str, seeds: Sequence[str], read: Callable[[str], Any], refusals: type[Exception] | tuple[type[Exception], ...]
) -> tuple[str, Decoder]:
    return _decoder(
        name,
        text_mutator(seeds),
        lambda data: read(text_of(data)),
        lambda text: str(text).encode("utf-8", "surrogatepass"),
        refusals,
    )


DECODERS: dict[str, Decoder] = dict(
    (
        _decoder("payload", data_mutator(PAYLOADS), decode, encode, PayloadError),
        _decoder(
            "typed-payload",
            typed_payloads(),
            read_typed,
            lambda value: bytes([value[0]]) + encode(value[1], ANNOTATIONS[value[0]]),
            PayloadError,
        ),
        _decoder(
            "sealed-payload",
            sealed_payloads(),
            lambda data: decode(SEALER.unseal(data), strict_size=False),
            lambda value: SEALER.seal(encode(value, max_bytes=EXPANDED_BYTES_MAX)),
            PayloadError,
            limit_bytes=64 * 1024 * 1024,
        ),
        _decoder(
            "payload-reference",
            data_mutator([Reference("hub/00/run/r0.0-a", 70_000, b"d" * 32).encode().removeprefix(OUTSIDE_MARK)]),
            read_reference,
            lambda reference: reference.encode().removeprefix(OUTSIDE_MARK),
            UnreadableError,
        ),
        _decoder(
            "payload-envelope",
            data_mutator([enveloped(ev.InstanceKey("order-7"), b"")[ENVELOPE_START:]]),
            read_owner,
            lambda key: enveloped(key, b"")[ENVELOPE_START:],
            UnreadableError,
        ),
        _decoder(
            "failure-details", data_mutator([encode_details(DETAILS)]), decode_details, encode_details, PayloadError
        ),
        _decoder("record", data_mutator(RECORDS), decode_record, encode_record, HistoryDamagedError),
        _decoder(
            "message",
            data_mutator([encode_arrivals([event], 3) for event in ARRIVALS] + [encode_arrivals(ARRIVALS)]),
            decode_arrivals,
            lambda value: encode_arrivals(value[1], value[0]),
            HistoryDamagedError,
        ),
        _decoder(
            "queued-activity",
            data_mutator(
                [encode_activity(event, "key", 5) for event in EVENTS if isinstance(event, ev.ActivityScheduled)]
            ),
            decode_activity,
            lambda value: encode_activity(*value),
            HistoryDamagedError,
        ),
        _decoder("answer", data_mutator(ANSWERS), decode_answer, encode_answer, HistoryDamagedError),
        _decoder(
            "dropped-note",
            data_mutator([memo.data for memo in dropped_memos("run", "event", "nnm", "too late", 7)]),
            lambda data: read_dropped(Memo("key", data, 0)),
            write_note,
            HistoryDamagedError,
        ),
        _decoder(
            "announcement",
            data_mutator(
                [
                    Announcement(
                        True,
                        ("default", "slow"),
                        {"activity": {"a": frozenset({"0", "1.2"})}, "orchestrator": {"b": frozenset({"0"})}},
                        {3: Offer("lease", ("first", "second"))},
                    ).encode(),
                    Announcement(False, (), {}).encode(),
                ]
            ),
            Announcement.decode,
            lambda value: value.encode(),
            DurableError,
        ),
        _decoder(
            "owner-state", data_mutator(owner_states()), read_owner_state, lambda state: state.encode(), UnreadableError
        ),
        _decoder(
            "history-export",
            history_mutator(),
            lambda data: looked_at(History.load(data)),
            lambda history: history.export(),
            HistoryDamagedError,
        ),
        _decoder("sqlite-url", text_mutator(URLS[:2]), read_sqlite_url, write_sqlite_url, StoreError),
        _decoder("memory-url", text_mutator(URLS[2:]), read_memory_url, write_memory_url, StoreError),
        _decoder("store-url", text_mutator(URLS), read_store_url, SCHEMES.__getitem__, StoreError),
        _decoder(
            "sqlite-page", text_mutator(PAGES), _last_place_of, lambda place: json.dumps(place).encode(), StoreError
        ),
        _decoder("memory-page", text_mutator(PAGES), _last_place, lambda place: json.dumps(place).encode(), StoreError),
        _text("instance-id", ["order-7", "a/b", "é\U0001f600"], check_instance_id, InvalidInputError),
        _text("event-name", ["approved", "a/b"], check_event_name, InvalidInputError),
        _text("version", ["1.10", "0", "1.0.0"], canonical_version, ValueError),
        _decoder(
            "tags",
            data_mutator([msgpack.packb({"team": "red", "é": "", "%": "_"})]),
            read_tags,
            packed,
            InvalidInputError,
        ),
    )
)
DECODERS |= JOB_DECODERS | SCHEDULE_DECODERS
