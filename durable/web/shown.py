"""Values as JSON, to be looked at: whatever a payload holds becomes plain JSON, bounded, and hidden where it must be.

The rules are those of `durable.json_values`; an integer that a browser would round is written as text. What is too long is
`{"$cut": true, "bytes": …, "text": …}`, and what the caller may not see is `{"$hidden": true}`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from durable.errors import FailureDetails
from durable.events import HistoryEvent
from durable.json_values import UNSHOWN_FIELDS, json_value
from durable.model import DroppedItem, OrchestrationState

HIDDEN: Final[Mapping[str, bool]] = {"$hidden": True}
INTEGER_EXACT_MAX: Final = 2**53 - 1
"""A browser's numbers are doubles."""

PREVIEW_BYTES: Final = 4096
CAUSES_MAX: Final = 100
"""Causes of a failure that are shown."""


def iso(when: datetime | None) -> str | None:
    """Return a time as ISO 8601 in UTC, with microseconds."""
    return None if when is None else when.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it, without an integer that a browser would round."""
    return _exact(json_value(value))


def _exact(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_exact(item) for item in value]
    if type(value) is int and abs(value) > INTEGER_EXACT_MAX:
        return str(value)
    return value


def as_json(value: Any) -> bytes:
    """Return plain data as JSON text; half a surrogate pair is written as an escape."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """How much somebody sees: no payloads at all without `payloads`, and of each at most `bytes_max` of JSON."""

    payloads: bool = True
    bytes_max: int | None = PREVIEW_BYTES

    def value(self, value: Any) -> Any:
        """Return a payload, as much of it as is seen."""
        if value is None:
            return None
        if not self.payloads:
            return dict(HIDDEN)
        shown = plain(value)
        if self.bytes_max is None:
            return shown
        text = as_json(shown)
        if len(text) <= self.bytes_max:
            return shown
        return {"$cut": True, "bytes": len(text), "text": text[: self.bytes_max].decode("utf-8", "ignore")}

    def failure(self, details: FailureDetails | None) -> Any:
        """Return a failure with its causes. Its texts may tell of values, and are hidden as payloads are."""
        shown: list[dict[str, Any]] = []
        while details is not None and len(shown) < CAUSES_MAX:
            shown.append(
                {
                    "error_type": details.error_type,
                    "message": details.message if self.payloads else dict(HIDDEN),
                    "stack_trace": details.stack_trace if self.payloads else dict(HIDDEN),
                    "non_retryable": details.non_retryable,
                    "error_bases": list(details.error_bases),
                    "inner": None,
                }
            )
            details = details.inner
        for outer, inner in itertools.pairwise(shown):
            outer["inner"] = inner
        return shown[0] if shown else None

    def state(self, state: OrchestrationState, *, values: bool = True) -> dict[str, Any]:
        """Return the state of an instance; without `values` what a listing leaves out."""
        shown: dict[str, Any] = {
            "instance_id": state.instance_id,
            "run_id": state.run_id,
            "name": state.name,
            "version": state.version,
            "generation": state.generation,
            "status": state.status.name,
            "stall_reason": self.text(state.stall_reason),
            "created_at": iso(state.created_at),
            "scheduled_at": iso(state.scheduled_at),
            "last_updated_at": iso(state.last_updated_at),
            "completed_at": iso(state.completed_at),
            "parent_instance_id": state.parent_instance_id,
            "tags": dict(state.tags),
            "failure_details": self.failure(state.failure_details),
        }
        if values:
            for field in ("input", "output", "custom_status"):
                shown[field] = self.value(getattr(state, field))
            shown["activities"] = [
                {
                    "task_id": activity.task_id,
                    "name": activity.name,
                    "attempt": activity.attempt,
                    "queue": activity.queue,
                    "scheduled_at": iso(activity.scheduled_at),
                    "heartbeat": self.value(activity.heartbeat),
                    "note": activity.note,
                }
                for activity in state.activities
            ]
        return shown

    def text(self, text: str | None) -> Any:
        """Return a text that may quote a value."""
        return text if self.payloads or text is None else dict(HIDDEN)

    def event(self, event: HistoryEvent) -> dict[str, Any]:
        """Return an event of a history: its kind, when and where it stands, and its fields."""
        shown: dict[str, Any] = {
            "type": type(event).__name__,
            "sequence": event.sequence,
            "timestamp": iso(event.timestamp),
            "is_request": event.is_request,
        }
        for field in dataclasses.fields(event):
            if field.name in shown or field.name in NEVER_SHOWN:
                continue
            value = getattr(event, field.name)
            if value is None:
                continue
            if isinstance(value, FailureDetails):
                shown[field.name] = self.failure(value)
            elif field.name in ALWAYS_SHOWN:
                shown[field.name] = plain(value)
            else:
                shown[field.name] = self.value(value)
        return shown

    def dropped(self, item: DroppedItem) -> dict[str, Any]:
        """Return a note about something that was dropped."""
        return {
            "timestamp": iso(item.timestamp),
            "kind": item.kind,
            "name": item.name,
            "reason": self.text(item.reason),
        }


NEVER_SHOWN: Final = UNSHOWN_FIELDS | {"attachment", "options", "seed"}
"""What serves the machinery only; the queue and the limits of an activity stand in `options` beside a feature's own bytes."""

ALWAYS_SHOWN: Final = frozenset(
    {
        *(
            "task_id",
            "name",
            "version",
            "instance_id",
            "run_id",
            "kind",
            "key",
            "operation",
            "attempt",
            "call_id",
            "due",
        ),
        *(
            "purpose",
            "line",
            "tags",
            "is_timeout",
            "is_detached",
            "is_refused",
            "is_carried",
            "recursive",
            "at",
            "source",
        ),
        *(
            "parent",
            "writer",
            "python",
            "scheduled_for",
            "depth",
            "generation",
            "at_most",
            "carry_over_events",
            "patch_id",
        ),
    }
)
"""Fields that hold no user's value. All others count as payloads, so that a new one is hidden until it is known."""
