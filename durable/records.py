"""History records as bytes: one record per turn, with a checksum chained from (instance, run, generation).

A record is msgpack of [format, time, is_opening, events]; an event is [code, field, …] in the order of its class, trailing
defaults left out. Fields may be added at the end of a class, with a default; a code is never used again. Codes from
INFORMATIONAL_CODE on may be skipped by a reader that does not know them; any other unknown code is damage.
"""

from __future__ import annotations

import dataclasses
import hashlib
import operator
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from durable import events as _events
from durable.errors import FailureDetails, HistoryDamagedError
from durable.events import ActivityOptions, HistoryEvent, InstanceKey, TaskRef

FORMAT = 1
"""Version of the layout above; a reader refuses a newer one."""

INFORMATIONAL_CODE = 128
"""Events with this code or a higher one carry nothing that a replay needs."""

CHECKSUM_BYTES = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """The events of one turn, arrivals and requests interleaved as they happened; `time` in microseconds UTC.

    An opening record holds arrivals that a generation begins with and that no turn has applied yet: the next turn does.
    """

    time: int
    events: Sequence[HistoryEvent]
    is_opening: bool = False


def details_to_plain(details: FailureDetails | None) -> list[Any] | None:
    """Turn details into what msgpack carries."""
    if details is None:
        return None
    inner = details_to_plain(details.inner)
    bases = list(details.error_bases)
    return [details.error_type, details.message, details.stack_trace, inner, details.non_retryable, bases]


def details_from_plain(plain: Any) -> FailureDetails | None:
    """Turn what `details_to_plain` gave into details again; further fields are ignored."""
    if plain is None:
        return None
    error_type, message, stack_trace, inner, non_retryable, bases = plain[:6]
    return FailureDetails(error_type, message, stack_trace, details_from_plain(inner), non_retryable, tuple(bases))


def _options_to_plain(options: ActivityOptions) -> list[Any]:
    return [options.queue, options.timeout, options.heartbeat_timeout, options.queue_timeout, options.priority]


def _options_from_plain(plain: Any) -> ActivityOptions:
    return ActivityOptions(*plain)


def _task_ref_from_plain(plain: Any) -> TaskRef | None:
    return None if plain is None else TaskRef(*plain)


_CONVERTERS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "details": (details_to_plain, details_from_plain),
    "options": (_options_to_plain, _options_from_plain),
    "parent": (lambda ref: ref, _task_ref_from_plain),
}


class _Layout:
    """How one class of events is written: its fields in order, their defaults, and the few that need converting."""

    def __init__(self, cls: type[HistoryEvent]) -> None:
        fields = [field for field in dataclasses.fields(cls) if not field.kw_only]
        self.cls = cls
        names = [field.name for field in fields]
        getter = operator.attrgetter(*names)
        self.get: Callable[[Any], tuple[Any, ...]] = getter if len(names) > 1 else lambda event: (getter(event),)
        self.defaults = tuple(field.default for field in fields)
        self.converters = [(i, *_CONVERTERS[name]) for i, name in enumerate(names) if name in _CONVERTERS]

    def pack(self, event: HistoryEvent) -> list[Any]:
        found = self.get(event)
        defaults = self.defaults
        count = len(found)
        while count and found[count - 1] == defaults[count - 1]:  # not `is`: what was read is equal, not the same
            count -= 1
        packed = [event.code, *found[:count]]
        for index, encode, _ in self.converters:
            if index < count:
                packed[index + 1] = encode(packed[index + 1])
        return packed

    def unpack(self, packed: list[Any]) -> HistoryEvent:
        fields = packed[1 : len(self.defaults) + 1]
        for index, _, decode in self.converters:
            if index < len(fields):
                fields[index] = decode(fields[index])
        return self.cls(*fields)


_LAYOUTS: dict[int, _Layout] = {}


def register_event(cls: type[HistoryEvent]) -> None:
    """Make a class of events known to histories; features call it for their own. Raises ValueError for a code in use."""
    known = _LAYOUTS.get(cls.code)
    if known is not None and known.cls is not cls:
        raise ValueError(f"event code {cls.code} of {cls.__name__} is that of {known.cls.__name__}")
    _LAYOUTS[cls.code] = _Layout(cls)


for _value in list(vars(_events).values()):
    if isinstance(_value, type) and issubclass(_value, HistoryEvent) and _value.code >= 0:
        register_event(_value)

_packer = msgpack.Packer()


def encode_record(record: Record) -> bytes:
    """Return the record's bytes."""
    packed = [_LAYOUTS[event.code].pack(event) for event in record.events]
    data: bytes = _packer.pack([FORMAT, record.time, record.is_opening, packed])
    return data


def decode_record(data: bytes) -> Record:
    """Return the record of these bytes. Raises HistoryDamagedError for whatever is not one."""
    try:
        layout, time, is_opening, packed = msgpack.unpackb(data, strict_map_key=False)[:4]
        if layout > FORMAT:
            raise HistoryDamagedError(f"the record has format {layout}; this version reads up to {FORMAT}")
        return Record(time, [event for item in packed if (event := decode_event(item)) is not None], is_opening)
    except HistoryDamagedError:
        raise
    except Exception as error:  # whatever garbage does to the decoder is one fact: this is not a record
        raise HistoryDamagedError(f"a history record cannot be read: {error!r}") from error


def decode_event(packed: list[Any]) -> HistoryEvent | None:
    """Return the event; None for an informational one of a later version."""
    layout = _LAYOUTS.get(packed[0])
    if layout is not None:
        return layout.unpack(packed)
    if packed[0] >= INFORMATIONAL_CODE:
        return None
    raise HistoryDamagedError(f"a history record holds an event of the unknown kind {packed[0]}")


def encode_event(event: HistoryEvent) -> bytes:
    """Return one event's bytes, as messages carry it."""
    data: bytes = _packer.pack(_LAYOUTS[event.code].pack(event))
    return data


def decode_message_event(data: bytes) -> HistoryEvent:
    """Return the event that a message carries. Raises HistoryDamagedError for whatever is not one."""
    try:
        event = decode_event(msgpack.unpackb(data, strict_map_key=False))
    except HistoryDamagedError:
        raise
    except Exception as error:  # as in decode_record
        raise HistoryDamagedError(f"a message cannot be read: {error!r}") from error
    if event is None:
        raise HistoryDamagedError("a message holds an event of a later version")
    return event


def first_checksum(key: InstanceKey, run_id: str, generation: int) -> bytes:
    """Return the checksum that a generation's chain begins with."""
    root = f"{key.kind}\0{key.id}\0{run_id}\0{generation}"
    return hashlib.blake2b(root.encode(), digest_size=CHECKSUM_BYTES).digest()


def next_checksum(checksum: bytes, data: bytes) -> bytes:
    """Return the checksum of a record, given that of the one before."""
    return hashlib.blake2b(checksum + data, digest_size=CHECKSUM_BYTES).digest()
