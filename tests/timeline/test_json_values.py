"""Everything that a client shows can be written as JSON, by one set of rules."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from durable.events import ActivityScheduled
from durable.json_values import json_value
from durable.model import ActivityState, OrchestrationStatus


def test_values_that_json_lacks_are_written_as_what_reads_best() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    shown = json_value(
        {
            "when": [moment, date(2026, 1, 2), timedelta(minutes=1)],
            7: (b"\x00\xff", {"one"}, Decimal("1.10"), uuid.UUID(int=1)),
            "numbers": [float("nan"), float("inf"), float("-inf"), 1.5, 2**80, True, None],
            "status": OrchestrationStatus.RUNNING,
        }
    )
    assert json.loads(json.dumps(shown, allow_nan=False)) == {
        "when": ["2026-01-02T03:04:05+00:00", "2026-01-02", 60.0],
        "7": ["AP8=", ["one"], "1.10", "00000000-0000-0000-0000-000000000001"],
        "numbers": ["NaN", "Infinity", "-Infinity", 1.5, 2**80, True, None],
        "status": "RUNNING",
    }


def test_dataclasses_are_objects_and_events_name_their_kind() -> None:
    assert json_value(ActivityState(1, "pay", 2))["attempt"] == 2
    event = json_value(ActivityScheduled(3, "pay", None, {"amount": Decimal(1)}, sequence=5))
    assert (event["type"], event["sequence"], event["input"], event["options"]["queue"]) == (
        "ActivityScheduled",
        5,
        {"amount": "1"},
        "default",
    )
    json.dumps(event, allow_nan=False)
