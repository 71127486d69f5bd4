"""Schedules that found something once, each as it was drawn, without the faults that did not matter."""

from __future__ import annotations

from durable.testing.simulation.faults import Fault, FaultKind, Schedule
from tests.simulation.__main__ import play, told
from tests.simulation.cases import CASES


def _check(name: str, schedule: Schedule, engine: str = "memory") -> None:
    outcome = play(CASES[name], schedule, engine)
    assert outcome.is_good, told(CASES[name], schedule, engine, outcome)


def test_a_repeated_submit_is_known_after_a_jump_that_somebody_without_partitions_takes_for_the_time() -> None:
    """It took the partitions of the one who knew better, and forgot the client, whose lease had run out by that time."""
    faults = (Fault(6, FaultKind.ANSWER_LOST), Fault(8, FaultKind.CLOCK_JUMP, 36000.0))
    _check("signals_come_once_and_in_order", Schedule(1005770, workers=2, faults=faults, latency_s_max=0.0001))


def test_time_does_not_go_back_by_ten_years_between_two_owners() -> None:
    """The one had died, the other owned nothing yet: a note written then had expired once the clock was right again."""
    faults = (
        Fault(2, FaultKind.FAILS_BEFORE),
        Fault(9, FaultKind.CRASH_AFTER, 2.0),
        Fault(29, FaultKind.CLOCK_JUMP, -315576000.0),
    )
    _check("an_event_for_nobody", Schedule(2009716, workers=2, faults=faults))


def test_what_a_stopped_process_was_told_comes_before_what_it_asks() -> None:
    """The simulator's own part: a message that was told, and then consumed by another, is not new after a takeover."""
    faults = (
        Fault(6, FaultKind.SLOW, 0.3),
        Fault(7, FaultKind.STOP_BEFORE, 11.0),
        Fault(13, FaultKind.SLOW, 0.01),
        Fault(25, FaultKind.SLOW, 0.3),
        Fault(31, FaultKind.STOP_BEFORE, 30.0),
    )
    _check("children", Schedule(100287, workers=2, faults=faults))


def test_what_was_written_with_the_call_whose_answer_kills_is_known() -> None:
    """The simulator's own part: SQLite wrote two calls in one transaction, and the first answer ended who asked for both."""
    faults = (Fault(13, FaultKind.STOP_AFTER, 3.0), Fault(26, FaultKind.CRASH_AFTER, 2.0))
    _check("a_schedule_that_is_steered", Schedule(4000491, workers=1, faults=faults, latency_s_max=0.0001), "sqlite")


def test_an_attempt_that_was_being_got_ready_for_is_not_called_under_the_next_lease() -> None:
    """Its process was stopped past its lease meanwhile, and had another one when it asked whether it may go on."""
    faults = (Fault(38, FaultKind.STOP_BEFORE, 11.0),)
    _check("a_job_tree_that_grows", Schedule(20262397, workers=2, faults=faults, latency_s_max=0.002))


def test_time_does_not_go_back_where_an_owner_died_before_it_renewed_its_lease() -> None:
    """Nobody had told the hub what time it was: timers of its time waited for ten years, long after the clock was right."""
    faults = (
        Fault(20, FaultKind.CRASH_BEFORE, 0.1),
        Fault(59, FaultKind.CRASH_BEFORE, 20.0),
        Fault(74, FaultKind.CLOCK_JUMP, -315576000.0),
    )
    schedule = Schedule(20263182, workers=2, faults=faults, is_cached=False, is_deaf=True, latency_s_max=0.0001)
    _check("schedules_that_end_or_leave_out", schedule)


def test_notes_of_what_was_dropped_are_read_while_the_hubs_time_is_ten_years_ahead() -> None:
    """All that was written before seemed to have expired: the only worker had begun under a wrong clock, and went by it."""
    faults = (Fault(45, FaultKind.CRASH_BEFORE, 0.0), Fault(51, FaultKind.CLOCK_JUMP, 315576000.0))
    schedule = Schedule(20267337, workers=1, faults=faults, is_cached=False, is_deaf=True, latency_s_max=0.002)
    _check("an_event_for_the_former_run", schedule)


def test_the_answer_to_an_update_arrives_while_the_hubs_time_is_ten_years_ahead() -> None:
    """It was written a moment before the leap, seemed to have expired, and was waited for without end."""
    faults = (
        Fault(27, FaultKind.DEAF, 10.0),
        Fault(29, FaultKind.CRASH_BEFORE, 0.0),
        Fault(30, FaultKind.CLOCK_JUMP, 315576000.0),
    )
    schedule = Schedule(20268438, workers=2, faults=faults, is_cached=False, latency_s_max=0.0001)
    _check("updates_in_order_over_generations", schedule)


def test_a_clock_that_is_set_back_by_an_hour_makes_a_timer_late_by_no_more() -> None:
    """That is followed as an adjustment: who took over from a worker that still went by the old time waited for the hour."""
    faults = (
        Fault(1, FaultKind.CLOCK_JUMP, 36000.0),
        Fault(11, FaultKind.CLOCK_JUMP, -3600.0),
        Fault(36, FaultKind.CRASH_AFTER, 0.1),
        Fault(72, FaultKind.CRASH_AFTER, 0.1),
    )
    _check("races", Schedule(30115649, workers=2, faults=faults, latency_s_max=0.05))
