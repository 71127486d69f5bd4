"""The short form of the battery, and that it would find something: see `battery.py`, and `python -m tests.generated`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from durable.engine.tasks import Task
from durable.seeds import Seeds
from tests.generated.battery import check, from_text, run, to_text
from tests.generated.processes import Replayers
from tests.generated.programs import Case

ORCHESTRATORS = 30


@pytest.fixture(scope="module")
def replayers() -> Iterator[Replayers]:
    with Replayers() as made:
        yield made


def test_generated_orchestrators_replay_from_every_prefix(replayers: Replayers) -> None:
    tally = run(ORCHESTRATORS, 1, replayers)
    if tally.violation is not None:
        case, error = tally.violation
        error.add_note(f"to repeat it: python -m tests.generated --case '{to_text(case)}'")
        raise error
    assert tally.orchestrators >= ORCHESTRATORS


def test_a_case_survives_as_text(replayers: Replayers) -> None:
    case = Case("async", [[["gather", 3, [[["note", 1]], [["timer", 2]]]]], [["event", 0]]], [[1, True, False, []]])
    assert from_text(to_text(case)) == case
    check(from_text(to_text(case)), replayers)


def test_what_differs_between_processes_is_found(replayers: Replayers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks come in another order out of a set here than in the other processes."""
    case = Case("generator", [[["when_any", 1]]], [])
    check(case, replayers)
    monkeypatch.setattr(Task, "__hash__", lambda task: -task._ordinal)
    with pytest.raises(AssertionError, match="in another process with .*PYTHONHASHSEED"):
        check(case, replayers)


def test_what_differs_on_replay_is_found_and_shrunk(replayers: Replayers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers that go on from one execution to the next."""
    shared = Seeds("shared", 0)
    monkeypatch.setattr(Seeds, "next_uuid", lambda self: shared.derive(len(drawn), drawn.append(0)))
    drawn: list[int] = []
    tally = run(ORCHESTRATORS, 1, replayers)
    assert tally.violation is not None
    case, _ = tally.violation
    assert case.generations == [[["note", 0]]]
