"""What may be an instance id, the name of an event, and a tag: checked in one place, by contexts and clients alike.

Ids are byte-exact and distinct on every store, so that whatever some store could not keep apart or keep at all is refused:
nothing, blank text, a NUL, half of a surrogate pair.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from durable.errors import InvalidInputError

ID_BYTES_MAX: Final = 512
"""PostgreSQL indexes up to 2,700 bytes in one key, NATS takes subjects of 4 KiB: an id is only a part of either."""

SCHEDULE_TAG: Final = "durable.schedule"
"""The tag of what a schedule has started: the schedule's id."""

_SHOWN_CHARACTERS_MAX: Final = 60


def check_instance_id(instance_id: object) -> str:
    """Return an instance id. Raises InvalidInputError, a ValueError, for what cannot be one."""
    return _check_key(instance_id, "instance id")


def check_event_name(name: object) -> str:
    """Return the name of an external event. Raises InvalidInputError, a ValueError, for what cannot be one."""
    return _check_key(name, "event name")


def check_entity_key(key: object) -> str:
    """Return an entity's key. Raises InvalidInputError, a ValueError, for what cannot be one."""
    return _check_key(key, "entity key")


def check_limit_key(key: object) -> str:
    """Return the key of a limit, which may be empty. Raises InvalidInputError, a ValueError, for what cannot be one."""
    text = _check_text(key, "the key of a limit")
    if len(text.encode()) <= ID_BYTES_MAX:
        return text
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()  # any text tells apart, also a long one


def check_tags(tags: object) -> dict[str, str]:
    """Return tags as a dict of their own. Raises InvalidInputError for anything but a mapping of text to text."""
    if not isinstance(tags, Mapping):
        raise InvalidInputError(f"tags must be a dict[str, str], not {tags!r:.200}")
    return {_check_key(key, "tag name"): _check_text(value, f"tag {key!r:.60}") for key, value in tags.items()}


def _check_key(key: object, what: str) -> str:
    text = _check_text(key, what)
    if not text.strip():
        raise InvalidInputError(f"{what} must not be empty or blank: {text[:_SHOWN_CHARACTERS_MAX]!r}")
    size = len(text.encode())
    if size > ID_BYTES_MAX:
        shown = text[:_SHOWN_CHARACTERS_MAX]
        raise InvalidInputError(f"{what} of {size} bytes is over the limit of {ID_BYTES_MAX}: {shown!r}…")
    return text


def _check_text(text: object, what: str) -> str:
    if not isinstance(text, str):
        raise InvalidInputError(f"{what} must be a string, not {text!r:.200}")
    if "\0" in text:
        raise InvalidInputError(f"{what} must not contain a NUL: {text[:_SHOWN_CHARACTERS_MAX]!r}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = text[:_SHOWN_CHARACTERS_MAX]
        raise InvalidInputError(f"{what} must be valid Unicode, without half surrogate pairs: {shown!r}") from error
    return text
