"""Turns Python values into what msgpack can carry, each by its own type.

Theory: most values are plain already, and are found to be so by looking at the types of their elements only (one set
operation per container); they are handed on as they are. Everything else is rebuilt: tuples as lists, enums as their
values, dataclasses and models as dicts, and the types that msgpack lacks as extensions. What is in no table is refused
with the path to it.

Where a value must be hashable again when it arrives, as a key or inside a set, a tuple stays a tuple.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Protocol

import msgpack

from durable.payloads.extensions import FROZENSET, SET, TUPLE, WRAPPERS, from_int
from durable.payloads.records import CACHED_CLASSES_MAX, extra_fields, plan_of
from durable.payloads.refusals import brief, quoted, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from durable.payloads.records import RecordPlan

    Route = Callable[["Lowering", Any, int], Any]

SCALARS: frozenset[type] = frozenset({str, int, float, bool, bytes, type(None)})
TEXT: frozenset[type] = frozenset({str})

INT64_MIN, UINT64_MAX = -(2**63), 2**64 - 1  # what msgpack's own integers hold


class RefusalError(Exception):
    """A part of the value cannot be stored. Each level on the way out adds its step to the path."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.steps: list[str] = []

    def within(self, step: str) -> RefusalError:
        """Add the step that leads to the part, seen from the container around it."""
        self.steps.append(step)
        return self

    @property
    def path(self) -> str:
        """The way from the whole value to the part, such as `[3].lines['x']`."""
        return "".join(reversed(self.steps))


class TooDeepError(Exception):
    """The value is nested deeper than the limit, or contains itself."""


class Speller(Protocol):
    """Writes fields that only their annotation can: a path, a URL, a type with its own serializer."""

    def spell(self, record: Any, attribute: str) -> Any:
        """Return the field in a form that can be lowered. Raises anything if there is none."""
        ...

    def arrives(self, record: Any, lowered: Any, attributes: Iterable[str]) -> bool:
        """Tell whether these attributes are equal after the lowered record was read back."""
        ...


class Lowering:
    """One pass over a value. `room` is how many more levels of containers are allowed.

    A `careful` pass looks at every scalar, too: strings that are no valid text, integers beyond 64 bits. It is made only
    after msgpack has refused the value.
    """

    __slots__ = ("careful", "speller")

    def __init__(self, *, careful: bool = False, speller: Speller | None = None) -> None:
        self.careful = careful
        self.speller = speller

    def plain(self, value: Any, room: int) -> Any:
        """Return the form of a value. Raises RefusalError or TooDeepError."""
        kind = type(value)
        if kind in SCALARS:
            return careful_scalar(value) if self.careful else value
        route = _ROUTES.get(kind) or route_of(kind)
        return route(self, value, room)

    def member(self, value: Any, room: int, *, as_key: bool) -> Any:
        """Return the form of a value that must be hashable where it arrives: of a key, or of an element of a set."""
        kind = type(value)
        if kind in SCALARS:
            return careful_scalar(value) if self.careful else value
        if isinstance(value, enum.Enum):
            return self.member(value.value, room, as_key=as_key)
        if isinstance(value, tuple):
            elements = [self.member(element, take_level(room), as_key=as_key) for element in value]
            return msgpack.ExtType(TUPLE, msgpack.packb(elements))
        if isinstance(value, (set, frozenset)):
            return msgpack.ExtType(FROZENSET, _sorted_elements(self, value, take_level(room), as_key=as_key))
        if isinstance(value, (list, dict)) or (as_key and plan_of(kind) is not None):
            raise RefusalError(f"{brief(value)} cannot be stored as a key or inside a set")
        return self.plain(value, room)


def take_level(room: int) -> int:
    """Enter a container. Raises TooDeepError if it is one too many."""
    if room <= 0:
        raise TooDeepError
    return room - 1


def careful_scalar(value: Any) -> Any:
    """Return a scalar in a form that msgpack is sure to take."""
    if type(value) is int and not INT64_MIN <= value <= UINT64_MAX:
        return from_int(value)
    if type(value) is str:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RefusalError(f"a str with the lone surrogate {value[error.start]!r} cannot be stored") from None
    return value


def _lower_list(lowering: Lowering, value: Any, room: int) -> Any:
    room = take_level(room)
    if type(value) is list and not lowering.careful and SCALARS.issuperset(map(type, value)):
        return value
    lowered: list[Any] = []
    try:
        for element in value:
            lowered.append(lowering.plain(element, room))
    except RefusalError as refusal:
        raise refusal.within(f"[{len(lowered)}]") from None
    return lowered


def _lower_dict(lowering: Lowering, value: Any, room: int) -> Any:
    room = take_level(room)
    if (
        type(value) is dict
        and not lowering.careful
        and TEXT.issuperset(map(type, value))
        and SCALARS.issuperset(map(type, value.values()))
    ):
        return value
    lowered: dict[Any, Any] = {}
    key: Any = None
    try:
        for key, element in value.items():
            name = key if type(key) is str and not lowering.careful else lowering.member(key, room, as_key=True)
            lowered[name] = lowering.plain(element, room)
    except RefusalError as refusal:
        raise refusal.within(f"[{quoted(key)}]") from None
    if len(lowered) != len(value):
        raise RefusalError("a dict with two keys that are stored as the same value cannot be stored")
    return lowered


def _lower_set(lowering: Lowering, value: Any, room: int) -> Any:
    code = FROZENSET if isinstance(value, frozenset) else SET
    return msgpack.ExtType(code, _sorted_elements(lowering, value, take_level(room), as_key=False))


def _sorted_elements(lowering: Lowering, value: Any, room: int, *, as_key: bool) -> bytes:
    """Pack the elements sorted by their bytes: the order of a set depends on the hash seed of the process."""
    forms = []
    for element in value:
        try:
            forms.append(lowering.member(element, room, as_key=as_key))
        except RefusalError as refusal:
            raise refusal.within(f"{{{brief(element)}}}") from None
    try:
        distinct = len(set(forms))
    except TypeError:  # frozen dataclasses, which are dicts now
        distinct = len(forms)
    if distinct != len(forms):
        raise RefusalError("a set with two elements that are stored as the same value cannot be stored")
    header: bytes = msgpack.Packer().pack_array_header(len(forms))
    return header + b"".join(sorted(map(msgpack.packb, forms)))


def _lower_enum(lowering: Lowering, value: Any, room: int) -> Any:
    return lowering.plain(value.value, room)


def _lower_record(lowering: Lowering, value: Any, room: int) -> Any:
    plan = plan_of(type(value))
    assert plan is not None
    if plan.wrapper:
        return lowering.plain(value.root, room)
    room = take_level(room)
    lowered: dict[str, Any] = {}
    refused: dict[str, RefusalError] = {}
    for attribute, key in plan.keys.items():
        try:
            lowered[key] = lowering.plain(getattr(value, attribute), room)
        except RefusalError as refusal:
            refused[attribute] = refusal.within(f".{attribute}")
    if refused:
        _spell_fields(lowering, value, room, lowered, refused)
    if plan.open:
        extras = _lower_dict(lowering, extra_fields(value), room + 1)
        lowered = {**extras, **lowered}
    return lowered


def _spell_fields(
    lowering: Lowering, record: Any, room: int, lowered: dict[str, Any], refused: dict[str, RefusalError]
) -> None:
    """Add the fields that only their annotation can write. Raises the first refusal if they would not arrive."""
    first = next(iter(refused.values()))
    plan = plan_of(type(record))
    if lowering.speller is None or plan is None:
        raise first
    try:
        for attribute in refused:
            lowered[plan.keys[attribute]] = lowering.plain(lowering.speller.spell(record, attribute), room)
        arrives = lowering.speller.arrives(record, lowered, refused)
    except Exception:  # noqa: BLE001  # whatever a user's serializer raises, the value cannot be stored as it is
        arrives = False
    if not arrives:
        raise first


def _wrapped(wrap: Callable[[Any], msgpack.ExtType]) -> Route:
    """Make a route of an extension type's constructor; a value may bring code of its own, such as a time zone's."""

    def lower(_lowering: Lowering, value: Any, _room: int) -> Any:
        try:
            return wrap(value)
        except Exception as error:  # noqa: BLE001
            raise RefusalError(f"{brief(value)} cannot be stored: {reason_of(error)}") from None

    return lower


def _as_base(base: Callable[[Any], Any]) -> Route:
    """Make a route that reduces an instance of a subclass of a scalar to the scalar."""

    def lower(lowering: Lowering, value: Any, room: int) -> Any:
        return lowering.plain(base(value), room)

    return lower


def _refuse(_lowering: Lowering, value: Any, _room: int) -> Any:
    raise RefusalError(f"object of type {type(value).__qualname__} cannot be stored{_forgotten(value)}")


def _forgotten(value: Any) -> str:
    """Guess what was forgotten, where the type of a value tells."""
    if inspect.isgenerator(value):
        return ": make a list of it, or write `yield from` before it if it is a part of the orchestrator"
    return ": write `await` before it (or `yield`, in a generator)" if isinstance(value, Awaitable) else ""


# The first class that matches counts: an enum may be a str, a dataclass may be a list.
_ROUTES_BY_BASE: tuple[tuple[type, Route], ...] = (
    (list, _lower_list),
    (tuple, _lower_list),
    (dict, _lower_dict),
    (set, _lower_set),
    (frozenset, _lower_set),
    # The methods of the base itself, which a subclass cannot change. numpy.float64 is such a subclass.
    (str, _as_base(str.__str__)),
    (int, _as_base(int.__int__)),
    (float, _as_base(float.__float__)),
    (bytes, _as_base(lambda value: bytes(memoryview(value)))),
    *((base, _wrapped(wrap)) for base, wrap in WRAPPERS.items()),
)

_ROUTES: dict[type, Route] = {}


def route_of(kind: type) -> Route:
    """Find how values of a class are lowered, and remember it."""
    if len(_ROUTES) >= CACHED_CLASSES_MAX:
        _ROUTES.clear()
    _ROUTES[kind] = _find_route(kind)
    return _ROUTES[kind]


def _find_route(kind: type) -> Route:
    if issubclass(kind, enum.Enum):
        return _lower_enum
    plan: RecordPlan | None = plan_of(kind)
    if plan is not None:
        return _lower_record
    return next((route for base, route in _ROUTES_BY_BASE if issubclass(kind, base)), _refuse)
