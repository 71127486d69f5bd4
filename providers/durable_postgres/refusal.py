"""What this store refuses, item by item: values over its limit, and text or numbers that PostgreSQL cannot hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from durable.provider import InstanceRow, Memo, Message, Step, Verdict

VALUE_BYTES_MAX = 64 * 1024 * 1024
"""The largest value: a whole turn's worth. PostgreSQL itself would take 1 GiB, for a value and for a whole batch."""

BATCH_BYTES_MAX = 512 * 1024 * 1024
"""What one call may carry: half of what the server takes as one message."""

INDEXED_BYTES_MAX = 2000
"""The longest text that lies in an index: less than a third of a page, with room for the other columns."""

REFUSALS = (Verdict.TOO_LARGE, Verdict.REFUSED)

_INTEGER_MAX = 2**63 - 1


def refusal_of_message(message: Message, *, is_careful: bool) -> Verdict | None:
    """Return the verdict on a message that cannot be stored, or None. `is_careful`: look at every value, not at sizes alone."""
    start = message.start
    payloads = [message.data]
    if start is not None:
        payloads += filter(None, _payloads_of(start))
    if any(len(payload) > VALUE_BYTES_MAX for payload in payloads):
        return Verdict.TOO_LARGE
    if not is_careful:
        return None
    indexed = [message.target.kind, message.target.id, message.run_id or ""]
    if start is not None:
        indexed += [start.run_id, *((start.parent.kind, start.parent.id) if start.parent else ())]
    leaves = _leaves((message.target, message.run_id, message.start, message.visible_at))
    return Verdict.REFUSED if _why_too_long(indexed) or _why_not(leaves) else None


def is_refused_whole(message: Message, *, is_careful: bool) -> bool:
    """Tell whether neither a message nor what stands in for it can be stored."""
    if refusal_of_message(message, is_careful=is_careful) is None:
        return False
    otherwise = message.otherwise
    if isinstance(otherwise, Memo):
        return refusal_of_memo(otherwise, is_careful=is_careful) is not None
    return otherwise is None or refusal_of_message(otherwise, is_careful=is_careful) is not None


def refusal_of_memo(memo: Memo, *, is_careful: bool) -> str | None:
    """Return why a memo cannot be stored, or None."""
    if is_careful:
        return _why_too_long([memo.key]) or _why_not([memo.key, memo.data, memo.expires_at])
    return _too_large(memo.data) if len(memo.data) > VALUE_BYTES_MAX else None


def refusal_of_step(step: Step, *, is_careful: bool) -> str | None:
    """Return why a step cannot be stored, or None. Records have no limit: they are cut into parts."""
    if is_careful:
        indexed = [text for row in step.queue_adds for text in (row.queue, row.name)]
        rows = (step.progress, step.changes, step.queue_adds, step.replaced_by, step.begins)
        return _why_too_long(indexed) or _why_not(_leaves(rows))
    state = step.progress.state
    if len(state) > VALUE_BYTES_MAX:
        return _too_large(state)
    if not (step.changes or step.queue_adds or step.replaced_by is not None or step.begins is not None):
        return None  # nearly every step
    values: list[Any] = [*step.changes.values()] if step.changes else []
    for row in step.queue_adds:
        values += (row.data, row.heartbeat)
    for run in (step.begins, step.replaced_by):
        if run is not None:
            values += _payloads_of(run)
    for value in values:
        if isinstance(value, (str, bytes)) and len(value) > VALUE_BYTES_MAX:
            return _too_large(value)
    return None


def _payloads_of(run: InstanceRow) -> tuple[bytes | None, ...]:
    """Return what of a run may be large."""
    return run.input, run.output, run.custom_status, run.failure, run.state


def _too_large(leaf: str | bytes) -> str:
    return f"a value of {len(leaf)} bytes is over the store's limit of {VALUE_BYTES_MAX}"


def _why_too_long(indexed: Iterable[str]) -> str | None:
    for text in indexed:
        if len(text.encode(errors="replace")) > INDEXED_BYTES_MAX:
            return f"text over the limit of {INDEXED_BYTES_MAX} bytes for what is looked up by: {text[:60]!a}…"
    return None


def _why_not(leaves: Iterable[Any]) -> str | None:
    for leaf in leaves:
        if isinstance(leaf, str):
            if "\0" in leaf:
                return f"text with a NUL: {leaf[:60]!a}"
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
