"""What this store refuses, item by item: values over its limit, and text or numbers that SQLite cannot hold."""

from __future__ import annotations

import dataclasses
import itertools
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from durable.provider import InstanceRow, Memo, Message, Step, Verdict

VALUE_BYTES_MAX = 64 * 1024 * 1024
"""The largest value: a whole turn's worth (`reliability.md`, decision 10). SQLite itself would take 1,000,000,000 bytes."""

REFUSALS = (Verdict.TOO_LARGE, Verdict.REFUSED)

UNSTORABLE = (UnicodeEncodeError, OverflowError, sqlite3.DataError)
"""What sqlite3 raises for text with lone surrogates, integers of more than 64 bits, and values over its own limit."""

_INTEGER_MAX = 2**63 - 1


def is_message_too_large(message: Message) -> bool:
    """Tell whether a value of a message is over the limit."""
    payloads = () if message.start is None else _payloads_of(message.start)
    return any(payload is not None and len(payload) > VALUE_BYTES_MAX for payload in (message.data, *payloads))


def _payloads_of(row: InstanceRow) -> tuple[bytes | None, ...]:
    return row.input, row.output, row.custom_status, row.failure, row.state


def refusal_of_message(message: Message) -> Verdict | None:
    """Return the verdict on a message that cannot be stored, or None. Looks at every value: not for the usual path."""
    if is_message_too_large(message):
        return Verdict.TOO_LARGE
    leaves = _leaves((message.target, message.run_id, message.data, message.start, message.visible_at))
    return Verdict.REFUSED if _why_not(leaves) else None


def is_refused_whole(message: Message) -> bool:
    """Tell whether neither a message nor what stands in for it can be stored."""
    if refusal_of_message(message) is None:
        return False
    otherwise = message.otherwise
    if isinstance(otherwise, Memo):
        return refusal_of_memo(otherwise, is_careful=True) is not None
    return otherwise is None or refusal_of_message(otherwise) is not None


def is_memo_too_large(memo: Memo) -> bool:
    """Tell whether a memo is over the limit."""
    return len(memo.data) > VALUE_BYTES_MAX


def refusal_of_memo(memo: Memo, *, is_careful: bool) -> str | None:
    """Return why a memo cannot be stored, or None. `is_careful`: look at every value, not at the size alone."""
    if is_careful:
        return _why_not([memo.key, memo.data, memo.expires_at])
    return _too_large(memo.data) if is_memo_too_large(memo) else None


def why_too_large(step: Step) -> str | None:
    """Return why a step is over the limit, or None. Records have none: they are cut into parts."""
    state, begins = step.progress.state, step.begins
    has_more = step.changes or step.queue_adds or begins is not None or step.replaced_by is not None
    if not (state or has_more):  # as of most
        return None
    if step.queue_adds or step.replaced_by is not None:
        leaves = _leaves((state, step.changes, step.queue_adds, step.replaced_by, begins))
    else:
        leaves = itertools.chain((state,), step.changes.values(), _payloads_of(begins) if begins else ())
    for leaf in leaves:
        if isinstance(leaf, (str, bytes)) and len(leaf) > VALUE_BYTES_MAX:
            return _too_large(leaf)
    return None


def refusal_of_step(step: Step) -> str | None:
    """Return why a step cannot be stored, or None. Looks at every value: not for the usual path."""
    return _why_not(_leaves((step.progress, step.changes, step.queue_adds, step.replaced_by, step.begins)))


def _too_large(leaf: str | bytes) -> str:
    return f"a value of {len(leaf)} bytes is over the store's limit of {VALUE_BYTES_MAX}"


def _why_not(leaves: Iterable[Any]) -> str | None:
    for leaf in leaves:
        if isinstance(leaf, str):
            if not leaf.isascii() and any("\ud800" <= letter <= "\udfff" for letter in leaf):
                return f"text that is not valid Unicode: {leaf[:60]!a}"
        elif isinstance(leaf, int):
            if not -_INTEGER_MAX <= leaf <= _INTEGER_MAX:
                return f"the number {leaf} has more than 64 bits"
        elif isinstance(leaf, bytes) and len(leaf) > VALUE_BYTES_MAX:
            return _too_large(leaf)
    return None


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
