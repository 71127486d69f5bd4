"""What an owner notes in the row: small, and following what changes, however many activities are open."""

from __future__ import annotations

from durable.worker.live import OwnerState


def decoded(state: OwnerState) -> OwnerState:
    return OwnerState.decode(state.encode())


def test_neighbours_in_the_queue_are_one_range() -> None:
    state = OwnerState()
    for task_id in (3, 4, 5, 9):
        state.queued.add(task_id)
    state.queued.skip()  # 11 is held
    state.queued.add(12)
    assert [task_id for task_id in range(14) if task_id in state.queued] == [3, 4, 5, 6, 7, 8, 9, 12]
    assert state.queued.count == 5
    assert [task_id in decoded(state).queued for task_id in (3, 9, 11, 12)] == [True, True, False, True]


def test_what_lies_between_two_queued_attempts_and_is_held_by_nobody_makes_no_further_range() -> None:
    """Timers and children take positions too; a fan-out of calls with timers between them is one range."""
    state = OwnerState()
    for task_id in range(0, 200_000, 2):
        state.queued.add(task_id)
    assert len(state.encode()) < 100
    assert state.queued.count == 100_000


def test_a_range_goes_with_its_last_attempt() -> None:
    state = OwnerState()
    for task_id in range(3):
        state.queued.add(task_id)
    state.queued.skip()  # 3 is held
    state.queued.add(4)
    for task_id in (1, 0):
        state.queued.close(task_id)
    assert 2 in state.queued
    state.queued.close(2)
    assert 2 not in state.queued
    assert state.queued.count == 1
    state.queued.close(3)  # was held: nothing to note
    state.queued.close(4)
    assert state.queued.count == 0
    assert state.encode() == b""


def test_what_is_held_once_it_has_its_permit_is_taken_out_of_the_range() -> None:
    state = OwnerState()
    for task_id in range(5):
        state.queued.add(task_id)
    for task_id in (1, 3):
        state.queued.take_out(task_id)
    again = decoded(state)
    again.queued.recount([1, 2, 3, 4])
    for one in (state, again):
        assert [task_id for task_id in range(1, 5) if task_id in one.queued] == [2, 4]
        assert one.queued.taken_out == [1, 3]
    assert (state.queued.count, again.queued.count) == (3, 2)
    again.queued.close(1)
    again.queued.add(3)  # a new owner leaves it to the queue
    assert (again.queued.taken_out, again.queued.count, 3 in again.queued) == ([], 3, True)
    for task_id in (2, 3, 4):
        again.queued.close(task_id)
    assert again.encode() == b""


def test_after_reading_it_back_the_open_ones_are_counted_again() -> None:
    state = OwnerState()
    for task_id in (1, 2, 3):
        state.queued.add(task_id)
    state.queued.skip()  # 4 is held
    state.queued.add(5)
    again = decoded(state)
    again.queued.recount([2, 4])
    assert again.queued.count == 1
    assert 2 in again.queued
    assert 4 not in again.queued
    assert 5 not in again.queued, "nobody waits for what that range was about"
    again.queued.add(7)
    assert 4 not in again.queued, "a new range does not take in what a former owner held"
