"""What the edge raises. All are `DurableError`s, so that one `except` holds whatever bytes or values come in."""

from __future__ import annotations

from durable.errors import DurableError, InvalidInputError

# A name or a value is quoted in an error only up to this many characters: an error text is read by people.
QUOTED_CHARACTERS_MAX = 60


class PayloadError(DurableError, ValueError):
    """Bytes that are not a payload, or a payload and a type that do not go together."""


class EncodingError(PayloadError, TypeError):
    """A value that cannot be stored. The text gives the path to the offending part."""


class MisfitError(PayloadError):
    """A value that is readable but does not fit the annotation. The text gives the path and the reason."""


class UnstorableInputError(InvalidInputError, EncodingError):
    """An input that cannot be stored at all: an invalid input, and a TypeError, as the interface says of both."""


def brief(value: object) -> str:
    """Name a value for an error text: its type, and itself where that is short. Calls no code of the value's class."""
    kind = type(value)
    if kind is str or kind is bytes:
        start = value[:QUOTED_CHARACTERS_MAX]  # type: ignore[index]  # str or bytes, by the line above
        return f"{kind.__name__} {start!r}{'…' if len(start) < len(value) else ''}"  # type: ignore[arg-type]
    if value is None or kind is bool or kind is float:
        return f"{kind.__name__} {value!r}" if value is not None else "None"
    if kind is int and -(10**QUOTED_CHARACTERS_MAX) < value < 10**QUOTED_CHARACTERS_MAX:  # type: ignore[operator]
        return f"int {value}"  # a larger one could be over Python's limit for printing integers
    return kind.__qualname__


def shorten(text: str, characters_max: int) -> str:
    """Cut a text that is meant for people."""
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"
