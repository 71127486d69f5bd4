"""What the edge raises. All are `DurableError`s, so that one `except` holds whatever bytes or values come in."""

from __future__ import annotations

from durable.errors import DurableError, InvalidInputError

# A name or a value is quoted in an error only up to this many characters: an error text is read by people.
QUOTED_CHARACTERS_MAX = 60
REASON_CHARACTERS_MAX = 300


class PayloadError(DurableError, ValueError):
    """Bytes that are not a payload, or a payload and a type that do not go together."""


class UnknownCodecError(PayloadError):
    """Bytes that went through a codec, or were encrypted with a key, that is not configured here: others can read them."""


class EncodingError(PayloadError, TypeError):
    """A value that cannot be stored. The text gives the path to the offending part."""


class MisfitError(PayloadError):
    """A value that is readable but does not fit the annotation. The text gives the path and the reason."""


class UnstorableInputError(InvalidInputError, EncodingError):
    """An input that cannot be stored at all: an invalid input, and a TypeError, as the interface says of both."""


def located(what: str, path: str, reason: str) -> str:
    """Say of which value, where in it, and why: `input of 'pay': lines[1].amount: …`."""
    place = path.removeprefix(".")
    return f"{what}: {place}: {reason}" if place else f"{what}: {reason}"


def brief(value: object) -> str:
    """Name a value for an error text: its type, and itself where that is short. Calls no code of the value's class."""
    kind = type(value)
    if isinstance(value, (str, bytes)) and kind in (str, bytes):
        start = value[:QUOTED_CHARACTERS_MAX]
        return f"{kind.__name__} {start!r}{'…' if len(start) < len(value) else ''}"
    if value is None or kind is bool or kind is float:
        return "None" if value is None else f"{kind.__name__} {value!r}"
    if isinstance(value, int) and kind is int and value.bit_length() <= 64:
        return f"int {value}"  # a large one may be over Python's limit for printing integers
    return kind.__qualname__


def quoted(key: object) -> str:
    """Show the key of a dict in a path."""
    return repr(key) if type(key) is str and len(key) <= QUOTED_CHARACTERS_MAX else brief(key)


def shorten(text: str, characters_max: int) -> str:
    """Cut a text that is meant for people."""
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"


def reason_of(error: Exception) -> str:
    """Say in a line what an error says; its text may be of any size, or not to be had."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # the error may be of a user's own class
        text = ""
    first_line = text.strip().partition("\n")[0]
    return shorten(f"{name}: {first_line}" if first_line else name, REASON_CHARACTERS_MAX)
