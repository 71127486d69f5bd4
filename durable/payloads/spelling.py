"""Writes what only an annotation can: a path, a URL, an IP address, a type that brings its own serializer.

Such a value cannot be stored by its own type. Pydantic can spell it for JSON, and the annotation can make it again. It is
accepted if what comes back is equal: a SecretStr, which is spelled as asterisks, is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack

from durable.payloads.extensions import unpack_plain
from durable.payloads.fitting import shape_of

if TYPE_CHECKING:
    from collections.abc import Iterable


class PydanticSpeller:
    """Spells the fields of dataclasses and models by pydantic's serializer of their class."""

    def spell(self, record: Any, attribute: str) -> Any:
        """Return the field in JSON's terms."""
        return shape_of(type(record)).validation().spell(record, field=attribute)

    def arrives(self, record: Any, lowered: Any, attributes: Iterable[str]) -> bool:
        """Read the record back and compare."""
        arrived = shape_of(type(record)).validate(unpack_plain(msgpack.packb(lowered)), "value")
        return all(same(getattr(record, attribute), getattr(arrived, attribute)) for attribute in attributes)


def spell_whole(value: Any, annotation: Any) -> Any:
    """Return a value in JSON's terms, as its annotation spells it. Raises whatever a serializer raises."""
    return shape_of(annotation).validation().spell(value)


def same(given: Any, arrived: Any) -> bool:
    """Tell whether two values are of one type and equal."""
    return type(given) is type(arrived) and bool(given == arrived)


SPELLER = PydanticSpeller()
