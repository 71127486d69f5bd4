"""Times as users give them, at the ends of what can be given."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from durable.client.times import EARLIEST_US, LATEST_US, due_time, seconds_of
from durable.history import utc_datetime


@pytest.mark.parametrize("timeout", [math.inf, 10**400], ids=["infinite", "an int that is no float"])
def test_a_timeout_longer_than_any_number_of_seconds_has_no_end(timeout: float) -> None:
    assert seconds_of(timeout) is None


@pytest.mark.parametrize("timeout", [-math.inf, -(10**400), -1, timedelta.min], ids=["inf", "int", "1", "timedelta"])
def test_a_negative_timeout_is_over_at_once(timeout: float | timedelta) -> None:
    assert seconds_of(timeout) == 0.0


def test_what_no_datetime_can_show_is_shown_as_the_first_or_the_last_one() -> None:
    for us, shown in (
        (EARLIEST_US, datetime.min),
        (LATEST_US, datetime.max),
        (-(2**63), datetime.min),
        (2**63, datetime.max),
    ):
        assert utc_datetime(us) == shown.replace(tzinfo=UTC)


def test_a_span_into_the_past_ends_where_time_begins() -> None:
    assert due_time(timedelta.min, 1_700_000_000_000_000) == EARLIEST_US
    assert due_time(timedelta(microseconds=-5), 1_000) == 995
