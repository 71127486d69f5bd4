"""Value objects that cost little to make.

A frozen dataclass is made by one call of `object.__setattr__` for each field, which is three quarters of what making it takes.
Where some dozen of them are made for each turn, nobody but a type checker holds them to be frozen: it does, everywhere in
this package, and the fields of such an object are plain slots.
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def value_object(cls: type[T]) -> type[T]:
    """Make a class a dataclass with slots, compared and hashed by its fields. Nobody assigns to these: mypy sees to it."""
    return dataclasses.dataclass(slots=True, unsafe_hash=True)(cls)
