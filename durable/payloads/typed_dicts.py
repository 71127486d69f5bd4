"""Makes `typing.TypedDict` readable to pydantic on Python 3.11, where it insists on the one of typing_extensions.

Its reason: in 3.11 a TypedDict does not keep the bases it was written with. That concerns generic ones only, and those are
left for pydantic to refuse.
"""

from __future__ import annotations

import functools
import operator
import types
import typing
from typing import Annotated, Any

import typing_extensions


def with_readable_typed_dicts(annotation: Any) -> Any:
    """Return the annotation with each `typing.TypedDict` in it replaced; the annotation itself if there is none."""
    return _replaced(annotation, {})


def _replaced(annotation: Any, made: dict[Any, Any]) -> Any:
    if typing.is_typeddict(annotation):
        return _remade(annotation, made) if type(annotation).__module__ == "typing" else annotation
    origin = typing.get_origin(annotation)
    if origin is None or origin is typing.Literal:
        return annotation
    arguments = typing.get_args(annotation)
    replaced = tuple(_replaced(argument, made) for argument in arguments)
    if all(new is old for new, old in zip(replaced, arguments, strict=True)):
        return annotation
    if origin is Annotated:
        return Annotated[(replaced[0], *annotation.__metadata__)]
    if origin in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, replaced)
    return types.GenericAlias(origin, replaced)


def _remade(kind: Any, made: dict[Any, Any]) -> Any:
    """Copy a TypedDict field by field; one that refers to itself finds the copy in `made`."""
    if kind in made:
        return made[kind]
    make: Any = typing_extensions.TypedDict  # Any, because the type checker knows TypedDict as a keyword only
    copy = make(kind.__name__, {})
    made[kind] = copy
    copy.__module__, copy.__qualname__, copy.__doc__ = kind.__module__, kind.__qualname__, kind.__doc__
    hints = typing.get_type_hints(kind, include_extras=True)
    copy.__annotations__ = {name: _replaced(_bare(hint), made) for name, hint in hints.items()}
    copy.__required_keys__, copy.__optional_keys__ = kind.__required_keys__, kind.__optional_keys__
    if hasattr(kind, "__pydantic_config__"):
        copy.__pydantic_config__ = kind.__pydantic_config__
    return copy


def _bare(hint: Any) -> Any:
    """Take Required and NotRequired off: the class says the same in `__required_keys__`."""
    wrapped = typing.get_origin(hint) in (typing.Required, typing.NotRequired)
    return typing.get_args(hint)[0] if wrapped else hint
