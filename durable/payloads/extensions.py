"""The msgpack extension types: what plain msgpack lacks, in forms that another language can read.

| code | type | content |
| --- | --- | --- |
| 1 | int beyond 64 bits | two's complement, big endian |
| 2 | datetime | ISO 8601 with its UTC offset if it has one (`@` and microseconds for an odd one), then `~` if `fold` is set |
| 3 | date | ISO 8601 |
| 4 | time | as datetime |
| 5 | timedelta | microseconds, as code 1 |
| 6 | Decimal | its digits as text |
| 7 | UUID | 16 bytes |
| 8, 9 | set, frozenset | a msgpack array, its elements sorted by their encoded bytes |
| 10 | a tuple inside a key or a set, where a list could not stand | a msgpack array |

Invariant: codes are never reused, since histories outlive versions.
"""

from __future__ import annotations

import datetime
import decimal
import functools
import uuid
from typing import TYPE_CHECKING, Any

import msgpack

if TYPE_CHECKING:
    from collections.abc import Callable

BIG_INT, DATETIME, DATE, TIME, TIMEDELTA, DECIMAL, UUID, SET, FROZENSET, TUPLE = range(1, 11)

# Their content is msgpack again, so that depth and lengths inside of it are checked as well.
NESTED = frozenset({SET, FROZENSET, TUPLE})

FOLD_MARK = "~"
OFFSET_MARK = "@"
_MICROSECOND = datetime.timedelta(microseconds=1)


def _big_int_bytes(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 8) // 8, "big", signed=True)


def from_int(value: int) -> msgpack.ExtType:
    """Wrap an int of any size."""
    return msgpack.ExtType(BIG_INT, _big_int_bytes(value))


def from_datetime(value: datetime.datetime) -> msgpack.ExtType:
    """Wrap a datetime. A zone travels as its offset at that moment."""
    offset = value.utcoffset()
    if value.tzinfo is not None and offset is None:
        raise ValueError("its time zone gives no UTC offset")
    bare = datetime.datetime.isoformat(datetime.datetime.replace(value, tzinfo=None)) if _is_odd(offset) else None
    text = bare or datetime.datetime.isoformat(value)
    return msgpack.ExtType(DATETIME, _marked(text, value.fold, offset).encode())


def from_date(value: datetime.date) -> msgpack.ExtType:
    """Wrap a date."""
    return msgpack.ExtType(DATE, datetime.date.isoformat(value).encode())


def from_time(value: datetime.time) -> msgpack.ExtType:
    """Wrap a time of day."""
    offset = value.utcoffset()
    if value.tzinfo is not None and offset is None:
        raise ValueError("its time zone gives no UTC offset without a date; use a fixed offset")
    bare = datetime.time.isoformat(datetime.time.replace(value, tzinfo=None)) if _is_odd(offset) else None
    return msgpack.ExtType(TIME, _marked(bare or datetime.time.isoformat(value), value.fold, offset).encode())


def _is_odd(offset: datetime.timedelta | None) -> bool:
    """Tell whether ISO's form is no use: Python 3.11 reads an offset of less than a second as none at all."""
    return offset is not None and offset.microseconds != 0


def _marked(text: str, fold: int, offset: datetime.timedelta | None) -> str:
    if offset is not None and offset.microseconds:
        text += f"{OFFSET_MARK}{offset // _MICROSECOND}"
    return text + FOLD_MARK if fold else text


def from_timedelta(value: datetime.timedelta) -> msgpack.ExtType:
    """Wrap a span of time."""
    return msgpack.ExtType(TIMEDELTA, _big_int_bytes(value // _MICROSECOND))


def from_decimal(value: decimal.Decimal) -> msgpack.ExtType:
    """Wrap a Decimal with all its digits, also the trailing zeros."""
    return msgpack.ExtType(DECIMAL, decimal.Decimal.__str__(value).encode())


def from_uuid(value: uuid.UUID) -> msgpack.ExtType:
    """Wrap a UUID."""
    return msgpack.ExtType(UUID, value.bytes)


# datetime stands before date, of which it is a subclass: the first match counts.
WRAPPERS: dict[type, Callable[[Any], msgpack.ExtType]] = {
    datetime.datetime: from_datetime,
    datetime.date: from_date,
    datetime.time: from_time,
    datetime.timedelta: from_timedelta,
    decimal.Decimal: from_decimal,
    uuid.UUID: from_uuid,
}


def _to_datetime(data: bytes) -> datetime.datetime:
    text, marks = _without_marks(data)
    value = datetime.datetime.fromisoformat(text)
    return value.replace(**marks) if marks else value


def _to_time(data: bytes) -> datetime.time:
    text, marks = _without_marks(data)
    value = datetime.time.fromisoformat(text)
    return value.replace(**marks) if marks else value


def _without_marks(data: bytes) -> tuple[str, dict[str, Any]]:
    """Return the ISO text, and what the marks behind it say as arguments of `replace`."""
    text = data.decode("ascii")
    marks: dict[str, Any] = {}
    if text.endswith(FOLD_MARK):
        text, marks["fold"] = text[:-1], 1
    if OFFSET_MARK in text:
        text, _, microseconds = text.partition(OFFSET_MARK)
        marks["tzinfo"] = datetime.timezone(datetime.timedelta(microseconds=int(microseconds)))
    return text, marks


def _to_uuid(data: bytes) -> uuid.UUID:
    return uuid.UUID(bytes=data)


def _to_elements(data: bytes) -> list[Any]:
    elements = unpack_plain(data)
    if type(elements) is not list:
        raise ValueError("a set or tuple without an array in it")
    return elements


def _to_set(data: bytes) -> set[Any] | list[Any]:
    elements = _to_elements(data)
    try:
        return set(elements)
    except TypeError:
        return elements  # a set of frozen dataclasses: as dicts they cannot be in a set until an annotation makes them again


def _to_frozenset(data: bytes) -> frozenset[Any] | list[Any]:
    elements = _to_set(data)
    return frozenset(elements) if type(elements) is set else elements  # type: ignore[return-value]  # a list, then


_REVIVERS: dict[int, Callable[[bytes], Any]] = {
    BIG_INT: lambda data: int.from_bytes(data, "big", signed=True),
    DATETIME: _to_datetime,
    DATE: lambda data: datetime.date.fromisoformat(data.decode("ascii")),
    TIME: _to_time,
    TIMEDELTA: lambda data: datetime.timedelta(microseconds=int.from_bytes(data, "big", signed=True)),
    DECIMAL: lambda data: decimal.Decimal(data.decode("ascii")),
    UUID: _to_uuid,
    SET: _to_set,
    FROZENSET: _to_frozenset,
    TUPLE: lambda data: tuple(_to_elements(data)),
}


def revive(code: int, data: bytes) -> Any:
    """Make the value of an extension type again. Raises what its constructor raises."""
    reviver = _REVIVERS.get(code)
    if reviver is None:
        raise ValueError(f"extension type {code} is unknown to this version")
    return reviver(data)


unpack_plain: Callable[[bytes], Any] = functools.partial(
    msgpack.unpackb, strict_map_key=False, ext_hook=revive, timestamp=3
)
"""Unpacks msgpack whose depth and lengths are known to be bounded. Raises anything for garbage.

The standard timestamp (extension -1) is read as an aware datetime: other languages write it.
"""
