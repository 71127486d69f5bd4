"""When schedules are due: without a clock. Changes of a zone's clock have tests of their own, in `tests/cron_zones`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable.schedules.running import TIMES_MAX, occurrence_id, work_out_times
from durable.schedules.times import EPOCH, SECOND_US, Cron, Every, Once, Times, fields_of, zone_of
from durable.schedules.wire import ScheduleSpec, Standing, TargetKind, TargetSpec

HOUR_US = 3600 * SECOND_US
DAY_US = 24 * HOUR_US
NOW = 1_767_225_600 * SECOND_US  # 2026-01-01

NOTHING = TargetSpec(TargetKind.NAME, "nothing", None, None)


def after(times: Times, moment: str) -> Iterator[str]:
    """Yield the times after a moment, as text."""
    time: int | None = (datetime.fromisoformat(moment).replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
    while time is not None and (time := times.following(time)) is not None:
        yield (EPOCH + timedelta(microseconds=time)).strftime("%Y-%m-%d %H:%M:%S")


def first(count: int, times: Times, moment: str) -> list[str]:
    return list(itertools.islice(after(times, moment), count))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("*/20 * * * *", ["2026-01-01 00:20:00", "2026-01-01 00:40:00", "2026-01-01 01:00:00"]),
        ("0 9 * * MON-FRI", ["2026-01-01 09:00:00", "2026-01-02 09:00:00", "2026-01-05 09:00:00"]),
        ("*/20 30 9 * * *", ["2026-01-01 09:30:00", "2026-01-01 09:30:20", "2026-01-01 09:30:40"]),
        ("0 0 29 2 *", ["2028-02-29 00:00:00", "2032-02-29 00:00:00", "2036-02-29 00:00:00"]),
        ("0 0 13 * FRI", ["2026-01-02 00:00:00", "2026-01-09 00:00:00", "2026-01-13 00:00:00"]),
        ("0 0 L * *", ["2026-01-31 00:00:00", "2026-02-28 00:00:00", "2026-03-31 00:00:00"]),
    ],
)
def test_an_expression_has_five_fields_or_six_with_seconds_first(expression: str, expected: list[str]) -> None:
    assert first(3, Cron(expression, "UTC"), "2026-01-01") == expected


def test_a_zone_says_what_the_hours_mean() -> None:
    assert first(2, Cron("0 9 * * *", "Asia/Kolkata"), "2026-01-01") == ["2026-01-01 03:30:00", "2026-01-02 03:30:00"]


@pytest.mark.parametrize(
    "expression", ["", "* * * *", "60 * * * *", "* * * * * * *", "x * * * *", "0 0 30 2 *", "*/0 * * * *"]
)
def test_an_expression_that_is_none_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="cron expression"):
        fields_of(expression)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "Europe"])
def test_a_zone_that_is_none_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match="time zone"):
        zone_of(zone)


def test_an_interval_counts_from_its_anchor_both_ways() -> None:
    every = Every(90 * SECOND_US, NOW)
    assert every.following(NOW - 1) == NOW
    assert every.following(NOW) == NOW + 90 * SECOND_US
    assert every.following(NOW - 200 * SECOND_US) == NOW - 180 * SECOND_US


def test_one_time_is_one() -> None:
    assert Once(NOW).following(NOW - 1) == NOW
    assert Once(NOW).following(NOW) is None


def test_an_expression_that_nothing_matches_any_more_ends() -> None:
    assert Cron("0 0 1 1 *", "UTC").following(253_402_300_000 * SECOND_US) is None


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["*/7 * * * *", "30 2 * * *", "0 0,12 1 * *", "*/10 */3 * * 1", "15 2-4 * * *"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/Santiago", "Australia/Lord_Howe", "Africa/Cairo"]),
    st.datetimes(datetime(2010, 1, 1), datetime(2035, 1, 1)),
)
def test_the_next_time_is_the_same_whatever_moment_before_it_is_asked_from(
    expression: str, zone: str, moment: datetime
) -> None:
    times = Cron(expression, zone)
    start = (moment.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
    time = times.following(start)
    assert time is not None
    assert time > start
    assert time % SECOND_US == 0
    for between in (start + (time - start) // 2, time - 1):
        assert times.following(between) == time


# ---- what a schedule makes of its times


def standing(now: int = NOW, **fields: Any) -> Standing:
    usual: dict[str, Any] = {"interval_us": HOUR_US}
    return Standing(ScheduleSpec(NOTHING, **(usual | fields)), now, now)


def test_start_and_end_bound_the_times_and_an_interval_counts_from_the_start() -> None:
    spec = ScheduleSpec(NOTHING, interval_us=HOUR_US, start_us=NOW + 5, end_us=NOW + 5 + 2 * HOUR_US)
    found = [spec.following(NOW, NOW)]
    while found[-1] is not None:
        found.append(spec.following(found[-1], NOW))
    assert found == [NOW + 5, NOW + 5 + HOUR_US, NOW + 5 + 2 * HOUR_US, None]


def test_times_are_worked_out_a_day_ahead_and_at_least_one() -> None:
    often, seldom, dense = standing(), standing(interval_us=30 * DAY_US), standing(interval_us=SECOND_US)
    for one in (often, seldom, dense):
        work_out_times(one, NOW)
    assert often.times == [NOW + number * HOUR_US for number in range(1, 25)]
    assert seldom.times == [NOW + 30 * DAY_US]
    assert dense.times is not None
    assert len(dense.times) == TIMES_MAX
    assert dense.last_us == NOW + TIMES_MAX * SECOND_US


def test_what_nobody_can_catch_up_with_is_missed_and_the_rest_is_not() -> None:
    one = standing(catch_up_us=2 * HOUR_US)
    work_out_times(one, NOW + 10 * HOUR_US)
    assert one.missed == 7
    assert one.times is not None
    assert one.times[:3] == [NOW + 8 * HOUR_US, NOW + 9 * HOUR_US, NOW + 10 * HOUR_US]


def test_years_of_missed_seconds_are_passed_over_at_once() -> None:
    one = standing(interval_us=SECOND_US, catch_up_us=0)
    work_out_times(one, NOW + 400 * DAY_US)
    assert one.missed == 10_000
    assert one.times is not None
    assert one.times[0] == NOW + 400 * DAY_US - 10 * SECOND_US


def test_a_schedule_that_is_paused_has_no_times() -> None:
    one = standing()
    one.is_paused = True
    work_out_times(one, NOW)
    assert one.times == []


def test_an_occurrence_is_called_by_its_time() -> None:
    assert occurrence_id("nightly", NOW) == "nightly/2026-01-01T00:00:00Z"
    assert occurrence_id("nightly", NOW + 1500) == "nightly/2026-01-01T00:00:00.001500Z"
