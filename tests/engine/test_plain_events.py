"""Makers of events give what the classes give: equal, frozen, of the very class, and copied and pickled like any other."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest

from durable import events as ev
from durable.plain_events import activity_completed, activity_scheduled, completed_start
from durable.value_objects import made_plainly

OPTIONS = ev.ActivityOptions(queue="gpu")
SCHEDULED: tuple[Any, ...] = (3, "a", "1", b"in", b"digest", 2, 1, OPTIONS, {"k": "v"}, b"beat", "f.py:7")

MADE = [
    (activity_scheduled(*SCHEDULED), ev.ActivityScheduled(*SCHEDULED)),
    (activity_scheduled(0, "a", None, None), ev.ActivityScheduled(0, "a", None, None)),
    (activity_completed(3, b"out"), ev.ActivityCompleted(3, b"out")),
    (made_plainly(ev.TimerFired)(4, sequence=2), ev.TimerFired(4, sequence=2)),
]


@pytest.mark.parametrize(("made", "called"), MADE)
def test_an_event_that_is_made_is_what_its_class_gives(made: ev.HistoryEvent, called: ev.HistoryEvent) -> None:
    assert type(made) is type(called)
    assert (made, repr(made)) == (called, repr(called))
    assert copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == called
    assert type(dataclasses.replace(made, sequence=7)) is type(called)


@pytest.mark.parametrize(("made", "called"), MADE)
def test_an_event_that_is_made_is_frozen(made: Any, called: ev.HistoryEvent) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.task_id = 9
    with pytest.raises(dataclasses.FrozenInstanceError):
        del made.task_id
    assert made == called


def test_a_maker_asks_for_what_the_class_asks_for() -> None:
    with pytest.raises(TypeError, match="result"):
        activity_completed(3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected"):
        activity_completed(3, b"", other=1)  # type: ignore[call-arg]


def test_a_start_keeps_all_but_what_its_owner_knows() -> None:
    fields: list[Any] = [
        f"the {field.name}" for field in dataclasses.fields(ev.OrchestrationStarted) if not field.kw_only
    ]
    start = ev.OrchestrationStarted(*fields)
    known: dict[str, Any] = {"version": "2", "python": "3.13", "code_digest": b"digest"}
    assert completed_start(start, **known) == dataclasses.replace(start, **known)
