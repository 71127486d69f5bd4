"""What the faces show as JSON: states, events, timelines and users' values, by one set of rules.

JSON lacks most kinds of values that a payload may have, so they are written as what reads best: times as ISO 8601 with their
offset, spans as seconds, bytes as base64, numbers that are none ("NaN", "Infinity"), decimals and UUIDs as text, sets as
lists, keys as text. It is for looking: no value is read back from it.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import math
from collections.abc import Callable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from durable.events import HistoryEvent

UNSHOWN_FIELDS: Final = frozenset({"digest", "state_digest", "past"})
"""Of events: what only a replay compares, and records on their way."""


def json_value(value: Any) -> Any:
    """Return plain data, a dataclass or an event as what `json.dumps` takes, `allow_nan=False` included.

    An event is an object with its class name as `type`. What is no plain data is shown by its `str()`.
    """
    if value is None or isinstance(value, bool | int):
        return value
    for kind, convert in _CONVERSIONS:
        if isinstance(value, kind):
            return convert(value)
    return str(value)


def _event(event: HistoryEvent) -> dict[str, Any]:
    first = {"sequence": event.sequence, "timestamp": json_value(event.timestamp), "type": type(event).__name__}
    return first | {name: item for name, item in _fields(event).items() if name not in first}


def _fields(value: Any) -> dict[str, Any]:
    names = (field.name for field in dataclasses.fields(value))
    return {name: json_value(getattr(value, name)) for name in names if name not in UNSHOWN_FIELDS}


def _key(key: Any) -> str:
    shown = json_value(key)
    return shown if isinstance(shown, str) else str(shown)


_INFINITE: Final = {True: "Infinity", False: "-Infinity"}

_CONVERSIONS: Final[tuple[tuple[Any, Callable[[Any], Any]], ...]] = (
    (enum.Enum, lambda value: value.value),
    (str, str),
    (float, lambda value: value if math.isfinite(value) else "NaN" if math.isnan(value) else _INFINITE[value > 0]),
    (HistoryEvent, _event),
    (Mapping, lambda value: {_key(key): json_value(item) for key, item in value.items()}),
    ((list, tuple, set, frozenset), lambda value: [json_value(item) for item in value]),
    ((date, time), lambda value: value.isoformat()),  # a datetime is a date
    (timedelta, lambda value: value.total_seconds()),
    ((bytes, bytearray), lambda value: base64.b64encode(value).decode()),
    ((Decimal, UUID), str),
    (type, lambda value: value.__qualname__),
    (object, lambda value: _fields(value) if dataclasses.is_dataclass(value) else str(value)),
)
