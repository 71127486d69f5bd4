"""History records as bytes: one record per turn, with a checksum chained from (instance, run, generation).

A record is msgpack of [format, time, is_opening, events]; an event is [code, field, …] in the order of its class, trailing
defaults left out. Fields may be added at the end of a class, with a default; a code is never used again. Codes from
INFORMATIONAL_CODE on may be skipped by a reader that does not know them; any other unknown code is damage.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import operator
from collections.abc import Callable, Sequence
from types import NoneType
from typing import Any, Final, NamedTuple

import msgpack

from durable import events as _events
from durable.errors import FailureDetails, HistoryDamagedError
from durable.events import ActivityOptions, HistoryEvent, InstanceKey, Limit, TaskRef
from durable.value_objects import made_plainly, value_object

FORMAT = 1
"""Version of the layout above; a reader refuses a newer one."""

INFORMATIONAL_CODE = 128
"""Events with this code or a higher one carry nothing that a replay needs."""

CHECKSUM_BYTES = 16

WALKED_FROM_BYTES = 1024
"""Shorter data cannot ask for more than 3 MB: an array takes three bytes to declare, and 8 of memory for each place in it."""

DETAILS_LEVELS_MAX = 64
"""Failures inside one another; four times what `failures.describe` makes."""

REASON_CHARACTERS_MAX = 300


@value_object
class Record:
    """The events of one turn, arrivals and requests interleaved as they happened; `time` in microseconds UTC.

    An opening record holds arrivals that a generation begins with and that no turn has applied yet: the next turn does.
    """

    time: int
    events: Sequence[HistoryEvent]
    is_opening: bool = False


def unpack(data: bytes) -> Any:
    """Return what msgpack of the package's own carries. Raises whatever msgpack raises for garbage.

    Takes memory in proportion to the data: msgpack makes room for an array as soon as that is declared, so that a few
    bytes could ask for gigabytes. So longer data is first walked over, which builds nothing.
    """
    if len(data) > WALKED_FROM_BYTES:
        walker = msgpack.Unpacker(max_buffer_size=0)
        walker.feed(data)
        walker.skip()
    return msgpack.unpackb(data, strict_map_key=False)


def reason_of(error: Exception) -> str:
    """Say in a line what was wrong with some bytes; an error of a decoder may hold them all."""
    return f"{type(error).__name__}: {error}"[:REASON_CHARACTERS_MAX]


def require(kind: type | tuple[type, ...], *values: Any) -> None:
    """Raise TypeError unless each value is of just this type, or one of these: True is no int here."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    for value in values:
        if type(value) not in kinds:
            raise TypeError(f"{' or '.join(kind.__name__ for kind in kinds)} expected, not {type(value).__name__}")


def details_to_plain(details: FailureDetails | None) -> list[Any] | None:
    """Turn details into what msgpack carries."""
    if details is None:
        return None
    inner = details_to_plain(details.inner)
    bases = list(details.error_bases)
    return [details.error_type, details.message, details.stack_trace, inner, details.non_retryable, bases]


def details_from_plain(plain: Any) -> FailureDetails | None:
    """Turn what `details_to_plain` gave into details again; further fields are ignored."""
    levels: list[list[Any]] = []
    while plain is not None:
        require(list, plain)
        levels.append(plain)
        if len(levels) > DETAILS_LEVELS_MAX:
            raise ValueError(f"details of a failure inside one another, more than {DETAILS_LEVELS_MAX} of them")
        plain = plain[3]
    details: FailureDetails | None = None
    for error_type, message, stack_trace, _, non_retryable, bases in (level[:6] for level in reversed(levels)):
        require(bool, non_retryable)
        require(list, bases)
        require(str, error_type, message, stack_trace, *bases)
        details = FailureDetails(error_type, message, stack_trace, details, non_retryable, tuple(bases))
    return details


def _options_to_plain(options: ActivityOptions) -> list[Any]:
    plain = [options.queue, options.timeout, options.heartbeat_timeout, options.queue_timeout, options.priority]
    if options.limit is not None:
        return [*plain, options.attachment, options.limit]
    return plain if options.attachment is None else [*plain, options.attachment]


def _options_from_plain(plain: Any) -> ActivityOptions:
    queue, timeout, heartbeat_timeout, queue_timeout, priority = plain[:5]
    attachment = plain[5] if len(plain) > 5 else None
    require(str, queue)
    require((int, NoneType), timeout, heartbeat_timeout, queue_timeout)
    require(int, priority)
    require((bytes, NoneType), attachment)
    limit = _limit_from_plain(plain[6]) if len(plain) > 6 else None
    return ActivityOptions(queue, timeout, heartbeat_timeout, queue_timeout, priority, attachment, limit)


def _limit_from_plain(plain: Any) -> Limit | None:
    if plain is None:
        return None
    max_concurrency, rate, per, key, error = plain[:5]
    require((int, NoneType), max_concurrency, rate, per)
    require((str, NoneType), key, error)
    return Limit(max_concurrency, rate, per, key, error)


def _task_ref_from_plain(plain: Any) -> TaskRef | None:
    if plain is None:
        return None
    instance_id, kind, run_id, generation, task_id = plain[:5]
    require(str, instance_id, kind, run_id)
    require(int, generation, task_id)
    return TaskRef(instance_id, kind, run_id, generation, task_id)


def _tags_from_plain(plain: Any) -> Any:
    if plain is not None:
        require(str, *plain, *plain.values())
    return plain


class _Kind(NamedTuple):
    """What a field of an event is on the wire: these types exactly; and how that is converted, where msgpack does not do it."""

    types: frozenset[type]
    decode: Callable[[Any], Any] | None = None


def _plain(*types: type) -> _Kind:
    return _Kind(frozenset(types))


_KINDS: dict[str, _Kind] = {
    "int": _plain(int),
    "int | None": _plain(int, NoneType),
    "str": _plain(str),
    "str | None": _plain(str, NoneType),
    "bool": _plain(bool),
    "bytes | None": _plain(bytes, NoneType),
    "Payload": _plain(bytes, NoneType),
    "FailureDetails": _Kind(frozenset({list}), details_from_plain),
    "FailureDetails | None": _Kind(frozenset({list, NoneType}), details_from_plain),
    "ActivityOptions": _Kind(frozenset({list}), _options_from_plain),
    "Mapping[str, str] | None": _Kind(frozenset({dict, NoneType}), decode=_tags_from_plain),
    "TaskRef": _Kind(frozenset({list}), decode=_task_ref_from_plain),
    "TaskRef | None": _Kind(frozenset({list, NoneType}), decode=_task_ref_from_plain),
}
"""By the annotation of the field, as it is written; a name of `durable.events` may stand behind its module's."""


def _kind_of(field: dataclasses.Field[Any]) -> _Kind:
    annotation = str(field.type)
    kind = _KINDS.get(annotation.removeprefix("ev.").removeprefix("events."))
    if kind is None:
        raise TypeError(f"field '{field.name}' of an event has the annotation '{annotation}', which no record can hold")
    return kind


REQUIRED: Final = object()
"""Equal to no field: what comes first is always written."""


class _Layout:
    """How one class of events is written: its fields in order, their defaults, and the few that need converting."""

    def __init__(self, cls: type[HistoryEvent]) -> None:
        fields = [field for field in dataclasses.fields(cls) if not field.kw_only]
        self.cls = cls
        self.get: Callable[[Any], tuple[Any, ...]] = operator.attrgetter("code", *(field.name for field in fields))
        self.defaults = (REQUIRED, *(field.default for field in fields))
        self.kinds = [_kind_of(field) for field in fields]
        self.decoders = [(index, kind.decode) for index, kind in enumerate(self.kinds) if kind.decode]
        self.known: set[tuple[type, ...]] = set()  # types of fields that were found right: a few for each class

    @functools.cached_property
    def make(self) -> Callable[..., HistoryEvent]:
        """Make an event of its fields; not got ready for those of which none is ever read."""
        return made_plainly(self.cls)

    def pack(self, event: HistoryEvent) -> tuple[Any, ...]:
        """Return what `_packer` takes."""
        found = self.get(event)
        defaults = self.defaults
        last = len(found) - 1
        while found[last] == defaults[last]:  # not `is`: what was read is equal, not the same
            last -= 1
        return found[: last + 1]

    def unpack(self, packed: list[Any]) -> HistoryEvent:
        fields = packed[1 : len(self.defaults)]
        types = tuple(map(type, fields))
        if types not in self.known:
            for field, kind in zip(fields, self.kinds, strict=False):  # trailing defaults are left out
                require(tuple(kind.types), field)
            self.known.add(types)
        for index, decode in self.decoders:
            if index < len(fields):
                fields[index] = decode(fields[index])
        return self.make(*fields)


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


def _to_plain(value: Any) -> list[Any] | None:
    """Return what msgpack carries of a value in an event that is nothing for itself."""
    if type(value) is ActivityOptions:
        return _options_to_plain(value)
    if type(value) is FailureDetails:
        return details_to_plain(value)
    raise TypeError(f"no record can hold {value!r:.200}")


_packer = msgpack.Packer(default=_to_plain)


def encode_record(record: Record) -> bytes:
    """Return the record's bytes."""
    packed = [_LAYOUTS[event.code].pack(event) for event in record.events]
    data: bytes = _packer.pack([FORMAT, record.time, record.is_opening, packed])
    return data


def decode_record(data: bytes) -> Record:
    """Return the record of these bytes. Raises HistoryDamagedError for whatever is not one."""
    try:
        layout, time, is_opening, packed = unpack(data)[:4]
        require(int, layout, time)
        require(bool, is_opening)
        if not 1 <= layout <= FORMAT:
            raise HistoryDamagedError(f"the record has format {layout}; this version reads up to {FORMAT}")
        return Record(time, decode_events(packed), is_opening)
    except HistoryDamagedError:
        raise
    except Exception as error:  # whatever garbage does to the decoder is one fact: this is not a record
        raise HistoryDamagedError(f"a history record cannot be read: {reason_of(error)}") from error


def decode_events(packed: Any) -> list[HistoryEvent]:
    """Return the events of a list of packed ones, without those that `decode_event` skips. Raises as that does."""
    require(list, packed)
    return [event for item in packed if (event := decode_event(item)) is not None]


def decode_event(packed: Any) -> HistoryEvent | None:
    """Return the event; None for an informational one of a later version. Raises anything for what is none."""
    require(list, packed)
    code = packed[0]
    require(int, code)
    layout = _LAYOUTS.get(code)
    if layout is not None:
        return layout.unpack(packed)
    if code >= INFORMATIONAL_CODE:
        return None
    raise HistoryDamagedError(f"a history record holds an event of the unknown kind {code}")


def encode_event(event: HistoryEvent) -> bytes:
    """Return one event's bytes, as messages carry it."""
    data: bytes = _packer.pack(_LAYOUTS[event.code].pack(event))
    return data


def first_checksum(key: InstanceKey, run_id: str, generation: int) -> bytes:
    """Return the checksum that a generation's chain begins with."""
    root = f"{key.kind}\0{key.id}\0{run_id}\0{generation}"
    return hashlib.blake2b(root.encode(), digest_size=CHECKSUM_BYTES).digest()


def next_checksum(checksum: bytes, data: bytes) -> bytes:
    """Return the checksum of a record, given that of the one before."""
    return hashlib.blake2b(checksum + data, digest_size=CHECKSUM_BYTES).digest()
