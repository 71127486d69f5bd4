"""What this store refuses, item by item: values over its limit, and text that no other store could hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from durable.provider import Memo, Message, Step, Verdict

REFUSALS = (Verdict.TOO_LARGE, Verdict.REFUSED)


class Refusal(NamedTuple):
    """Why an item cannot be stored."""

    verdict: Verdict
    reason: str


def refusal_of_message(message: Message, bytes_max: int | None) -> Refusal | None:
    """Return why a message cannot be stored, or None."""
    return _refusal_of((message.target, message.run_id, message.data, message.start), bytes_max)


def refusal_of_all(message: Message, bytes_max: int | None) -> Refusal | None:
    """Return why neither a message nor what stands in for it can be stored, or None."""
    refusal, otherwise = refusal_of_message(message, bytes_max), message.otherwise
    if refusal is None or otherwise is None:
        return refusal
    check = refusal_of_message if isinstance(otherwise, Message) else refusal_of_memo
    return check(otherwise, bytes_max)  # type: ignore[arg-type]


def refusal_of_memo(memo: Memo, bytes_max: int | None) -> Refusal | None:
    """Return why a memo cannot be stored, or None."""
    return _refusal_of((memo.key, memo.data), bytes_max)


def refusal_of_step(step: Step, memos: Sequence[Memo], bytes_max: int | None) -> str | None:
    """Return why a step with these memos cannot be stored, or None. Records have no limit: they may be cut into parts."""
    written = (step.progress, step.changes, step.queue_adds, step.replaced_by, step.begins, memos)
    refusal = _refusal_of(written, bytes_max)
    return None if refusal is None else refusal.reason


def _refusal_of(values: Any, bytes_max: int | None) -> Refusal | None:
    leaves = [*_leaves(values)]
    for leaf in leaves:
        if _is_too_large(leaf, bytes_max):
            reason = f"a value of {len(leaf)} bytes is over the store's limit of {bytes_max}"
            return Refusal(Verdict.TOO_LARGE, reason)
    for leaf in leaves:
        if _is_bad_text(leaf):
            return Refusal(Verdict.REFUSED, f"text that is not valid Unicode: {leaf[:60]!a}")
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
