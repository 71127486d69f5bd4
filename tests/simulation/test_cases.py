"""The cases under faults, in the short form that runs with every change.

Goal: whatever happens to workers, store, messages and time, every promise holds and everything finishes. Method: a fixed sample
of drawn schedules over all cases, on both stores, and every single fault at every storage call of the short ones. The long
forms are `python -m tests.simulation` and `python -m tests.single_faults`.
"""

from __future__ import annotations

import pytest

from durable.testing.simulation.faults import Fault, FaultKind, Schedule, draw_schedule
from tests.simulation.__main__ import play, told
from tests.simulation.cases import CASES
from tests.single_faults import violations_of

CALLS = 60
SCHEDULES = {"memory": 29, "sqlite": 1}
LONG = {
    "wider_than_a_turn_sends_at_once": 6,
    "schedules_that_end_or_leave_out": 6,
    "money_moves": 12,
    "entities_at_random": 10,
    "schedules_at_random": 10,
    "signaled_for_later": 12,
    "a_schedule_starts_each_time_once": 12,
}
"""Schedules of each case: together over 2,000."""

SHORT = (
    "events_with_the_start_and_at_once",
    "a_child_that_ends_after_its_parent",
    "chance_that_is_the_same_again",
    "terminated_before_its_time",
    "cancelled_while_suspended",
    "cancelled_with_work_running",
    "timers_side_by_side",
    "wide",
    "replaced_while_it_runs",
    "one_after_the_other",
)


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("engine", SCHEDULES)
def test_a_case_survives_whatever_is_drawn(name: str, engine: str) -> None:
    case = CASES[name]
    place = list(CASES).index(name) * 1000
    for seed in range(place, place + min(SCHEDULES[engine], LONG.get(name, 1_000))):
        outcome = play(case, draw_schedule(seed, CALLS), engine)
        assert outcome.is_good, told(case, outcome.schedule, engine, outcome)


@pytest.mark.parametrize("name", SHORT)
def test_a_case_survives_every_single_fault(name: str) -> None:
    broken, struck = violations_of(CASES[name], "memory")
    assert not broken, broken[0]
    assert struck > 50


@pytest.mark.parametrize("name", list(CASES))
def test_with_every_notification_lost_a_case_ends_all_the_same(name: str) -> None:
    outcome = play(CASES[name], Schedule(7, is_deaf=True), "memory")
    assert outcome.is_good, told(CASES[name], outcome.schedule, "memory", outcome)


def test_there_are_cases_enough() -> None:
    assert len(CASES) >= 40
    assert sum(min(count, LONG.get(name, 1_000)) for name in CASES for count in SCHEDULES.values()) >= 2000


@pytest.mark.parametrize(
    "name", ["one_after_the_other", "a_month", "timers_side_by_side", "generations_by_time", "children"]
)
@pytest.mark.parametrize("call", [3, 12, 20])
def test_a_clock_that_jumps_ten_years_freezes_nothing(name: str, call: int) -> None:
    ten_years_s = 10 * 365 * 86400.0
    schedule = Schedule(call, faults=(Fault(call, FaultKind.CLOCK_JUMP, ten_years_s),))
    outcome = play(CASES[name], schedule, "memory")
    assert outcome.is_good, told(CASES[name], schedule, "memory", outcome)
    plain = play(CASES[name], Schedule(call), "memory")
    assert outcome.seconds < plain.seconds + 120


@pytest.mark.parametrize("call", range(3, 14))
def test_a_clock_that_is_set_back_holds_no_start_up(call: int) -> None:
    """What comes after a start is not seen before it, though the start's time lies ahead for a while."""
    faults = (Fault(call, FaultKind.CLOCK_JUMP, -3600.0), Fault(call + 1, FaultKind.CRASH_BEFORE, 2.0))
    schedule = Schedule(call, faults=faults)
    outcome = play(CASES["events_with_the_start_and_at_once"], schedule, "memory")
    assert outcome.is_good, told(CASES["events_with_the_start_and_at_once"], schedule, "memory", outcome)
