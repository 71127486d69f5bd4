"""Cron times where clocks do strange things; everywhere with `python -m tests.cron_zones`."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from durable.schedules.times import follows_elapsed_time
from tests.cron_zones.checking import EXPRESSIONS, violations
from tests.cron_zones.oracle import changes, year

# Santiago and Cairo change at midnight, Lord Howe by half an hour, Apia left out a day, Casablanca has a month of its own,
# Caracas moved by half an hour for good, Troll by two hours, Chatham counts from a quarter past.
ZONES = {
    "America/Santiago": (2022, 2024),
    "Africa/Cairo": (2023, 2025),
    "Australia/Lord_Howe": (2024, 2026),
    "Pacific/Apia": (2011, 2012),
    "Africa/Casablanca": (2025, 2026),
    "America/Caracas": (2016, 2017),
    "Antarctica/Troll": (2024, 2025),
    "Pacific/Chatham": (2024, 2025),
    "Europe/Berlin": (2026, 2027),
}


@pytest.mark.parametrize("zone", ZONES)
def test_times_around_changes_of_the_clock(zone: str) -> None:
    first, last = (year(number) for number in ZONES[zone])
    changed = changes(ZoneInfo(zone), first, last)
    assert changed
    found = list(violations(zone, changed))
    assert not found, "\n".join(found)


def test_both_kinds_of_expressions_are_looked_at() -> None:
    assert {follows_elapsed_time(expression) for expression in EXPRESSIONS} == {True, False}
