"""What this store refuses, item by item: values over its limit, and text that no other store could hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from durable.provider import Message, Step, Verdict


def refusal_of_message(message: Message, bytes_max: int | None) -> Verdict | None:
    """Return the verdict on a message that cannot be stored, or None."""
    leaves = [*_leaves((message.target, message.run_id, message.data, message.start))]
    if any(_is_too_large(leaf, bytes_max) for leaf in leaves):
        return Verdict.TOO_LARGE
    return Verdict.REFUSED if any(_is_bad_text(leaf) for leaf in leaves) else None


def refusal_of_step(step: Step, bytes_max: int | None) -> str | None:
    """Return why a step cannot be stored, or None. Records have no limit: they may be cut into parts."""
    for leaf in _leaves((step.progress, step.changes, step.queue_adds, step.replaced_by)):
        if _is_too_large(leaf, bytes_max):
            return f"a value of {len(leaf)} bytes is over the store's limit of {bytes_max}"
        if _is_bad_text(leaf):
            return f"text that is not valid Unicode: {leaf[:60]!a}"
    return None


def _is_too_large(leaf: Any, bytes_max: int | None) -> bool:
    return bytes_max is not None and isinstance(leaf, str | bytes) and len(leaf) > bytes_max


def _is_bad_text(leaf: Any) -> bool:
    return isinstance(leaf, str) and not leaf.isascii() and any("\ud800" <= letter <= "\udfff" for letter in leaf)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the plain values inside rows, mappings and sequences."""
    if value is None or isinstance(value, str | bytes | int):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield name
            yield from _leaves(inner)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _leaves(getattr(value, field.name))
    else:
        for inner in value:
            yield from _leaves(inner)
