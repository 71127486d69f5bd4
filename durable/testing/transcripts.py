"""Histories as text: one line for each event, of what the code and the world have said and nothing else.

Two runs that do the same give the same text: no times of day, ids made by the framework, checksums or source lines. So a test
can compare it with a file, and a reviewer can read what has changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import Any

from durable import events as ev
from durable.errors import FailureDetails
from durable.events import HistoryEvent
from durable.history import History, utc_datetime
from durable.prefixes import default_children
from durable.versions import UNVERSIONED

VALUE_CHARACTERS_MAX = 500
"""Characters of one value that are shown; the rest is counted."""


def transcript(history: History) -> str:
    """Return a history as text, a line for each event."""
    return "".join(f"{line}\n" for line in _lines(history))


def _lines(history: History) -> Iterator[str]:
    unnamed = default_children(history, history.generation)
    for event in history:
        yield " ".join([type(event).__name__, *_words(event, unnamed)])


def _words(event: HistoryEvent, unnamed: Collection[int]) -> Iterator[str]:
    """Yield the words of a line. `unnamed`: the children whose ids are those that they get if nobody chooses any."""
    task_id = getattr(event, "task_id", None)
    if task_id is not None:
        yield f"#{task_id}"
    for field in ("name", "key", "operation", "instance_id"):
        value = getattr(event, field, None)
        if value and not (field == "instance_id" and task_id in unnamed):
            yield value if field in ("name", "operation") else repr(value)
    version, attempt = getattr(event, "version", None), getattr(event, "attempt", 1)
    if version not in (None, UNVERSIONED):
        yield f"version {version}"
    if attempt > 1:
        yield f"attempt {attempt}"
    if isinstance(event, ev.TimerCreated):
        yield _span(event)
    if event.payload_field is not None:
        value = getattr(event, event.payload_field)
        if value is not None:
            yield _shown(value)
    details = getattr(event, "details", None)
    if isinstance(details, FailureDetails):
        yield f"{details.error_type}: {details.message}".replace("\n", "\\n")
    reason = getattr(event, "reason", "")
    if reason:
        yield repr(reason)


def _span(event: ev.TimerCreated) -> str:
    begun = event.timestamp
    span = timedelta(0) if begun is None else max(utc_datetime(event.due) - begun, timedelta(0))
    return f"of {span} ({event.purpose})" if event.purpose else f"of {span}"


def _shown(value: Any) -> str:
    text = repr(value)
    if len(text) <= VALUE_CHARACTERS_MAX:
        return text
    return f"{text[:VALUE_CHARACTERS_MAX]}… ({len(text)} characters)"
