"""Cases under clocks that jump, each as it was found by a drawn schedule, and with jumps of other sizes in its place.

Goal: a store's clock that is wrong for a while, by however much, takes nothing from anybody and holds nothing up.
"""

from __future__ import annotations

import pytest

from durable.testing.simulation.faults import Fault, FaultKind, Schedule
from tests.simulation.__main__ import play, told
from tests.simulation.cases import CASES

HOUR_S = 3600.0
YEARS_S = 87_660 * HOUR_S
JUMPS_S = pytest.mark.parametrize(
    "jump_s", [1800.0, HOUR_S, 2 * HOUR_S, YEARS_S, -1800.0, -HOUR_S, -2 * HOUR_S, -YEARS_S]
)


def _check(name: str, schedule: Schedule, engine: str = "memory") -> float:
    outcome = play(CASES[name], schedule, engine)
    assert outcome.is_good, told(CASES[name], schedule, engine, outcome)
    return outcome.seconds


@JUMPS_S
def test_timers_that_were_set_under_a_wrong_clock_come_in_time(jump_s: float) -> None:
    faults = (
        Fault(13, FaultKind.CLOCK_JUMP, jump_s),
        Fault(31, FaultKind.CLOCK_JUMP, -jump_s),
        Fault(35, FaultKind.CRASH_BEFORE, 2.0),
        Fault(42, FaultKind.ANSWER_LOST),
    )
    _check("races", Schedule(33269, workers=2, faults=faults, latency_s_max=0.05))


@JUMPS_S
def test_workers_that_began_under_a_wrong_clock_go_on_when_it_is_right(jump_s: float) -> None:
    faults = (
        Fault(1, FaultKind.CLOCK_JUMP, jump_s),
        Fault(10, FaultKind.STOP_BEFORE, 11.0),
        Fault(24, FaultKind.CLOCK_JUMP, jump_s),
        Fault(31, FaultKind.STOP_BEFORE, 30.0),
        Fault(34, FaultKind.SLOW, 12.0),
        Fault(40, FaultKind.CRASH_BEFORE, 2.0),
    )
    seconds = _check("a_failure_is_the_orchestrations", Schedule(40754, workers=3, faults=faults))
    assert seconds < 200


@JUMPS_S
@pytest.mark.parametrize("engine", ["memory", "sqlite"])
def test_nobodys_lease_runs_out_by_a_jump(jump_s: float, engine: str) -> None:
    faults = (
        Fault(19, FaultKind.TWICE),
        Fault(35, FaultKind.ANSWER_LOST),
        Fault(37, FaultKind.CLOCK_JUMP, jump_s),
    )
    _check("children", Schedule(31427, workers=3, faults=faults, latency_s_max=0.05), engine)


@JUMPS_S
def test_a_run_that_takes_anothers_place_begins_though_the_clock_is_set_back(jump_s: float) -> None:
    faults = (
        Fault(15, FaultKind.CRASH_BEFORE, 0.1),
        Fault(22, FaultKind.STOP_AFTER, 30.0),
        Fault(25, FaultKind.CLOCK_JUMP, jump_s),
        Fault(31, FaultKind.STOP_AFTER, 11.0),
        Fault(42, FaultKind.CRASH_BEFORE, 20.0),
        Fault(48, FaultKind.CLOCK_JUMP, HOUR_S),
    )
    schedule = Schedule(104573, workers=3, faults=faults, is_cached=False, is_deaf=True, latency_s_max=0.05)
    assert _check("an_event_for_the_former_run", schedule) < 300


@JUMPS_S
@pytest.mark.parametrize("call", range(5, 60, 5))
def test_notes_of_what_was_dropped_outlive_a_jump(jump_s: float, call: int) -> None:
    _check("an_event_for_nobody", Schedule(call, faults=(Fault(call, FaultKind.CLOCK_JUMP, jump_s),)))


@pytest.mark.parametrize("is_cached", [True, False])
def test_an_answer_that_was_on_its_way_while_time_leapt_is_not_taken_for_a_jump(is_cached: bool) -> None:
    faults = (
        Fault(3, FaultKind.SLOW, 12.0),
        Fault(35, FaultKind.CRASH_AFTER),
        Fault(44, FaultKind.STOP_AFTER, 11.0),
        Fault(58, FaultKind.ECHO, 60.0),
        Fault(67, FaultKind.CRASH_BEFORE, 0.1),
        Fault(73, FaultKind.CRASH_AFTER, 0.1),
        Fault(82, FaultKind.CRASH_BEFORE, 2.0),
    )
    seconds = _check("a_month", Schedule(102615, faults=faults, is_cached=is_cached, latency_s_max=0.05))
    assert seconds < 31 * 86400
