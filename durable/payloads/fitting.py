"""What an annotation accepts: the shapes of types, cached.

The common annotations, plain scalars and lists and dicts of them, are compared by type and never touch pydantic. The
others are validated by a schema that `strictness` has rewritten. Pydantic is imported at the first of those: it takes
longer to import than the rest of the package together.
"""

from __future__ import annotations

import datetime
import inspect
import types
import typing
import uuid
from typing import TYPE_CHECKING, Any

from durable.payloads.refusals import MisfitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from durable.payloads.validation import Validation

# An annotation that says nothing: values are taken as they come.
ANY: Any = Any

# Annotations are made once, with the functions that bear them; a program that makes new ones all the time starts the
# cache anew after so many.
CACHED_SHAPES_MAX = 4096

# Types of which msgpack brings the very same, and for which pydantic would change nothing; first those that it has itself.
_CARRIED: frozenset[type] = frozenset({str, int, float, bool, bytes, type(None)})
_EXACT: frozenset[type] = frozenset(
    _CARRIED | {datetime.datetime, datetime.date, datetime.time, datetime.timedelta, uuid.UUID}
)


class Shape:
    """What one annotation accepts.

    `matches(value)` tells cheaply that a value arrives as it is, by its types alone; False says nothing. `scalar`: the one
    type that does, where the annotation is a type that msgpack itself carries; else None.
    """

    __slots__ = ("_validation", "annotation", "matches", "scalar")

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        self.matches = _exact_match(annotation) or _never
        self.scalar: type | None = annotation if isinstance(annotation, type) and annotation in _CARRIED else None
        self._validation: Validation | None = None

    def validate(self, value: Any, what: str) -> Any:
        """Return what the receiver gets for a value that was carried. Raises MisfitError."""
        return value if self.matches(value) else self.validation().validate(value, what)

    def validation(self) -> Validation:
        """Return pydantic's part."""
        if self._validation is None:
            from durable.payloads.validation import Validation  # here and not above: it imports pydantic

            self._validation = Validation(self.annotation)
        return self._validation


_BY_IDENTITY: dict[int, Shape] = {}
_BY_EQUALITY: dict[tuple[Any, str], Shape] = {}


def shape_of(annotation: Any) -> Shape:
    """Return the shape of an annotation, hashable or not."""
    shape = _BY_IDENTITY.get(id(annotation))
    return shape if shape is not None and shape.annotation is annotation else _remember(annotation)


def _remember(annotation: Any) -> Shape:
    """Make a shape, or find the one of an annotation that was written elsewhere in the same words.

    The words count as well as equality: `A | B` equals `B | A`, yet the order can decide.
    """
    try:
        key = (annotation, repr(annotation))
        shape = _BY_EQUALITY.get(key)
        if shape is None:
            if len(_BY_EQUALITY) >= CACHED_SHAPES_MAX:
                _BY_EQUALITY.clear()
            shape = _BY_EQUALITY[key] = Shape(annotation)
    except TypeError:  # not hashable, such as Annotated with a list
        shape = Shape(annotation)
    if shape.annotation is annotation:  # the shape keeps it alive, so that its id is not given to another
        if len(_BY_IDENTITY) >= CACHED_SHAPES_MAX:
            _BY_IDENTITY.clear()
        _BY_IDENTITY[id(annotation)] = shape
    return shape


def prepare(annotation: Any, *, what: str = "value") -> None:
    """Build what decoding will need. Raises TypeError for an annotation that no value can be validated by."""
    shape = shape_of(annotation)
    if shape.matches is _never:
        try:
            shape.validation().build(what)
        except MisfitError as error:
            raise TypeError(str(error)) from error


def _never(_value: Any) -> bool:
    return False


def _always(_value: Any) -> bool:
    return True


def _exact_types(annotation: Any) -> frozenset[type] | None:
    """Return the types of a scalar annotation, or of a union of such; None for any other annotation."""
    if annotation is None:
        return frozenset({type(None)})
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [_exact_types(part) for part in typing.get_args(annotation)]
        return None if None in parts else frozenset().union(*filter(None, parts))
    return frozenset({annotation}) if isinstance(annotation, type) and annotation in _EXACT else None


def _says_nothing(annotation: Any) -> bool:
    return annotation is Any or annotation is object or annotation is inspect.Parameter.empty


def _exact_match(annotation: Any) -> Callable[[Any], bool] | None:
    if _says_nothing(annotation):
        return _always
    if annotation is list or annotation is dict:
        return lambda value: type(value) is annotation
    kinds = _exact_types(annotation)
    if kinds is not None:
        return _match_scalar(kinds)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is list and len(arguments) == 1:
        return _match_list(arguments[0])
    if origin is dict and len(arguments) == 2:
        return _match_dict(*arguments)
    return None


def _match_scalar(kinds: frozenset[type]) -> Callable[[Any], bool]:
    if len(kinds) == 1:
        (only,) = kinds
        return lambda value: type(value) is only
    return lambda value: type(value) in kinds


def _match_list(annotation: Any) -> Callable[[Any], bool] | None:
    if _says_nothing(annotation):
        return lambda value: type(value) is list
    kinds = _exact_types(annotation)
    if kinds is None:
        return None
    return lambda value: type(value) is list and kinds.issuperset(map(type, value))


def _match_dict(key: Any, element: Any) -> Callable[[Any], bool] | None:
    keys = _exact_types(key)
    if keys is None:
        return None
    if _says_nothing(element):
        return lambda value: type(value) is dict and keys.issuperset(map(type, value))
    kinds = _exact_types(element)
    if kinds is None:
        return None
    return lambda value: (
        type(value) is dict and keys.issuperset(map(type, value)) and kinds.issuperset(map(type, value.values()))
    )
