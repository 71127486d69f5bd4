"""Which entity is meant: `EntityId`, and the key of the instance that it is."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, ClassVar, Final, Generic, TypeVar, overload

from durable.app import check_name
from durable.entities.definitions import name_of
from durable.events import InstanceKey
from durable.ids import check_entity_key

E_co = TypeVar("E_co", covariant=True)

KIND: Final = "e"
"""The kind of instances that are entities."""

_ESCAPES: Final = (("%", "%25"), ("@", "%40"))
"""A name is written without the mark behind which it stands; a percent sign first, for it begins what stands for others."""


@dataclasses.dataclass(frozen=True, init=False, order=True)
class EntityId(Generic[E_co]):
    """An entity: the name of its class, and its key among those of that name.

    `EntityId(Counter, "cart-7")` or `EntityId("Counter", "cart-7")`: both are the same entity. With the class, operations are
    checked, and its state is an object of the class also where no app is at hand. Plain data: may be an input or a result.
    Ordered by name and then key, which is the order in which locks are taken.
    """

    name: str
    key: str

    _class: ClassVar[type | None] = None  # of an object that was made with it

    @overload
    def __init__(self: EntityId[Any], name: str, key: str) -> None: ...
    @overload
    def __init__(self, name: type[E_co], key: str) -> None: ...
    def __init__(self, name: type[Any] | str, key: str) -> None:
        """Raises UnknownNameError for a class that is no entity, InvalidInputError for a bad key, ValueError for a bad name."""
        if isinstance(name, type):
            object.__setattr__(self, "_class", name)
            name = name_of(name)
        check_name("the name of an entity", name)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "key", check_entity_key(key))

    def __str__(self) -> str:
        return self.instance_key.id

    @property
    def entity_class(self) -> type | None:
        """The class that the id was made with; None for one made with a name."""
        return self._class

    @property
    def instance_key(self) -> InstanceKey:
        """The key of the instance. The entity's key comes first, so that a prefix of it is one of the id as well."""
        name = self.name
        for mark, written in _ESCAPES:
            name = name.replace(mark, written)
        return InstanceKey(f"{self.key}@{name}", KIND)


def entity_id_of(key: InstanceKey) -> EntityId[Any]:
    """Return the entity that an instance is."""
    entity_key, _, name = key.id.rpartition("@")
    for mark, written in reversed(_ESCAPES):
        name = name.replace(written, mark)
    return EntityId(name, entity_key)


def failures_of(key: InstanceKey) -> str:
    """Return the run under which the failed signals of an entity are noted: one without a state leaves no run behind."""
    return hashlib.blake2b(f"{key.kind}\0{key.id}".encode(), digest_size=16).hexdigest()
