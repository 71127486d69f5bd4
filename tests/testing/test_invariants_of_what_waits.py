"""What lies in inboxes and queues, and the order of events: each kind of damage is found, and nothing where all is well."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from durable import events as ev
from durable.events import EventRaised, InstanceKey
from durable.invariants import (
    Accepted,
    Moment,
    StoredRun,
    Waiting,
    violations_of_order,
    violations_of_waiting,
)
from durable.messages import encode_arrivals
from durable.provider import ActivityRow, Delivery, Message, Status, StoredMessage, TaskAddress, Verdict
from durable.timers import DUE_MAX
from durable.worker.live import OwnerState
from tests.testing.test_invariants import ACTIVITY, KEY, STARTED, run_of

ONE, TWO, THREE = (ev.EventRaised("go", data) for data in (b"1", b"2", b"3"))


def accepted(*messages: Sequence[EventRaised], run_id: str | None = None) -> Accepted:
    """Events accepted in this order, one message each."""
    found = Accepted()
    sent = [Message(KEY, 0, encode_arrivals(list(events)), run_id=run_id) for events in messages]
    found.note(sent, [Delivery(Verdict.STORED, 10 + place) for place in range(len(sent))])
    return found


@pytest.mark.parametrize(
    "seen",
    [
        [[ONE], [TWO], [THREE]],
        [[ONE, TWO, THREE]],
        [[TWO], [THREE]],
        [[ONE, THREE], [ev.EventRaised("go", b"unknown")]],
        [[ONE], [ev.EventRaised("other", b"1")], [TWO]],
    ],
)
def test_events_that_came_as_they_were_sent_are_in_order(seen: Sequence[Sequence[EventRaised]]) -> None:
    run = run_of([STARTED], *seen)
    assert violations_of_order([run], accepted([ONE], [TWO], [THREE])) == []
    assert violations_of_order([run], accepted([ONE, TWO], [THREE])) == []


@pytest.mark.parametrize("seen", [[[TWO], [ONE]], [[ONE, THREE, TWO]], [[ONE], [TWO], [ONE]], [[THREE], [ONE], [TWO]]])
def test_one_that_came_before_an_older_one_is_found(seen: Sequence[Sequence[EventRaised]]) -> None:
    found = violations_of_order([run_of([STARTED], *seen)], accepted([ONE], [TWO], [THREE]))
    assert found
    assert "came after one that was sent later" in found[0]


def test_events_that_were_sent_on_again_may_come_by_either_message() -> None:
    run = run_of([STARTED], [ONE], [TWO])
    assert violations_of_order([run], accepted([ONE], [TWO], [ONE], [TWO])) == []


def test_events_of_another_run_count_for_that_alone() -> None:
    assert violations_of_order([run_of([STARTED], [TWO], [ONE])], accepted([ONE], [TWO], run_id="another")) == []


def test_what_was_not_stored_was_not_accepted() -> None:
    found = Accepted()
    found.note([Message(KEY, 0, encode_arrivals([ONE]))], [Delivery(Verdict.FINISHED)])
    assert not found.events


# ---- the queue and the inboxes

TASK = TaskAddress(KEY, "run", 0, 0)
ROW = ActivityRow(TASK, 0, "default", "work", None, b"")


def row_of(**address: Any) -> ActivityRow:
    return dataclasses.replace(ROW, task=TASK._replace(**address))


def open_run(*, is_queued: bool, **columns: object) -> StoredRun:
    state = OwnerState()
    if is_queued:
        state.queued.add(0)
    return run_of([STARTED, ACTIVITY], open_work=1, state=state.encode(), **columns)


def outcome(task: TaskAddress = TASK) -> StoredMessage:
    data = encode_arrivals([ev.ActivityCompleted(task.task_id, b"x")], task.generation)
    return StoredMessage(7, task.key, 0, data, run_id=task.run_id)


HEALTHY = {
    "held": (open_run(is_queued=False), Waiting([], [])),
    "in the queue": (open_run(is_queued=True), Waiting([], [ROW])),
    "its outcome is on its way": (open_run(is_queued=True), Waiting([outcome()], [])),
    "stalled": (
        open_run(is_queued=True, status=Status.STALLED, stall_reason="why", parked_until=DUE_MAX),
        Waiting([], []),
    ),
}

DAMAGED = {
    "lost": ("I3", open_run(is_queued=True), Waiting([], [])),
    "twice": ("I9", open_run(is_queued=False), Waiting([], [ROW])),
    "of another task": ("I14", open_run(is_queued=False), Waiting([], [row_of(task_id=1)])),
    "of an older generation": (
        "I14",
        open_run(is_queued=False),
        Waiting([], [row_of(generation=7)]),
    ),
    "of nobody": (
        "I14",
        open_run(is_queued=False),
        Waiting([], [row_of(key=InstanceKey("gone"))]),
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_what_waits_for_somebody_is_well(name: str) -> None:
    run, waiting = HEALTHY[name]
    assert violations_of_waiting([run], waiting, Moment.STILL) == []


@pytest.mark.parametrize("name", DAMAGED)
def test_what_waits_for_nobody_is_found(name: str) -> None:
    promise, run, waiting = DAMAGED[name]
    assert [text.split(":")[0] for text in violations_of_waiting([run], waiting, Moment.STILL)] == [promise]


def test_a_message_that_nobody_receives_is_found_when_all_has_settled() -> None:
    run, waiting = open_run(is_queued=True), Waiting([outcome()], [])
    assert violations_of_waiting([run], waiting, Moment.STILL) == []
    assert [text[:2] for text in violations_of_waiting([run], waiting, Moment.SETTLED)] == ["I3"]
