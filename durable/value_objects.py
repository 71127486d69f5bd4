"""Value objects that cost little to make.

A frozen dataclass is made by one call of `object.__setattr__` for each field, which is three quarters of what making it takes.
Where some dozen of them are made for each turn, nobody but a type checker holds them to be frozen: it does, everywhere in
this package, and the fields of such an object are plain slots.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, dataclass_transform

P = ParamSpec("P")
T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def value_object(cls: type[T]) -> type[T]:
    """Make a class a dataclass with slots, compared and hashed by its fields. Nobody assigns to these: mypy sees to it."""
    return dataclasses.dataclass(slots=True, unsafe_hash=True)(cls)


def made_plainly(cls: Callable[P, T]) -> Callable[P, T]:
    """Return what makes an object of a frozen dataclass with slots as its class does, in a third of the time.

    The fields are assigned to an object of a class that is laid out alike and is not frozen, which then becomes one of `cls`.
    """
    made: Any = cls
    assert not hasattr(made, "__post_init__"), "it would not be called"

    def become(draft: Any) -> None:
        draft.__class__ = made

    fields = [
        (field.name, field.type, dataclasses.field(default=field.default, kw_only=field.kw_only))
        for field in dataclasses.fields(made)
    ]
    assigning: Any = dataclasses.make_dataclass(made.__name__, fields, namespace={"__post_init__": become})
    space = {
        "__slots__": made.__slots__,
        "__init__": assigning.__init__,
        "__post_init__": become,
        "__setattr__": object.__setattr__,
        "__delattr__": object.__delattr__,  # with it assigning is as fast as to any object
    }
    draft: Callable[P, T] = type(made.__name__, made.__bases__, space)
    return draft
