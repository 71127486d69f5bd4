"""The rules of a tree, by their tables: without an instance, a store or a clock."""

from __future__ import annotations

import itertools

import pytest

from durable.jobs.model import RunCondition
from durable.jobs.rules import MET_BY, TRANSITIONS, JobTree, Move, Stage
from durable.jobs.wire import NO_PARENT, JobSpec, Kind

NOW = 1_000_000_000
MINUTE = 60_000_000

ON = RunCondition


def spec(parent: int = NO_PARENT, condition: RunCondition = ON.ON_SUCCESS, **fields: object) -> JobSpec:
    return JobSpec(parent, Kind.NAME, f"job below {parent}", condition=condition, **fields)  # type: ignore[arg-type]


def tree_of(*specs: JobSpec) -> JobTree:
    tree = JobTree()
    tree.add(specs)
    return tree


def stages(tree: JobTree) -> list[str]:
    return [job.stage.name for job in tree.jobs]


def in_stage(stage: Stage) -> JobTree:
    """A tree whose root is in a stage."""
    tree = tree_of(spec(at_us=NOW + MINUTE))
    ways = {
        Stage.UNDECIDED: [],
        Stage.HELD: [Move.MEET],
        Stage.ASKED: [Move.MEET, Move.ASK],
        Stage.DONE: [Move.MEET, Move.ASK, Move.SUCCEED],
        Stage.DUE_DONE: [Move.MEET, Move.ASK, Move.SUCCEED_LATE],
        Stage.FAILED: [Move.MEET, Move.ASK, Move.FAIL],
        Stage.CANCELLED: [Move.CANCEL],
        Stage.SKIPPED: [Move.SKIP],
    }
    for move in ways[stage]:
        tree.move(0, move, NOW)
    assert tree.jobs[0].stage is stage
    return tree


@pytest.mark.parametrize(("stage", "move"), list(itertools.product(Stage, Move)))
def test_a_move_is_made_as_the_table_says_or_changes_nothing(stage: Stage, move: Move) -> None:
    tree = in_stage(stage)
    before = repr(tree.jobs), tree.unsettled
    if move not in TRANSITIONS[stage]:
        with pytest.raises(AssertionError, match=f"no {move.name} in stage {stage.name}"):
            tree.move(0, move, NOW)
        assert (repr(tree.jobs), tree.unsettled) == before
        return
    tree.move(0, move, NOW)
    assert tree.jobs[0].stage is TRANSITIONS[stage][move]
    assert tree.is_over is tree.jobs[0].stage.is_settled


def test_the_tables_speak_of_every_stage() -> None:
    assert set(TRANSITIONS) == set(MET_BY) == set(Stage)


@pytest.mark.parametrize(
    ("move", "met"),
    [
        (Move.SUCCEED, {ON.ON_SUCCESS, ON.ON_ANY_COMPLETED_STATUS}),
        (Move.SUCCEED_LATE, {ON.ON_SUCCESS, ON.ON_ANY_COMPLETED_STATUS}),
        (Move.FAIL, {ON.ON_FAILURE, ON.ON_FAILURE_OR_CANCELLED, ON.ON_ANY_COMPLETED_STATUS}),
        (Move.CANCEL, {ON.ON_CANCELLED, ON.ON_FAILURE_OR_CANCELLED, ON.ON_ANY_COMPLETED_STATUS}),
        (Move.SKIP, set()),
    ],
)
def test_each_end_meets_its_conditions_and_misses_all_others(move: Move, met: set[RunCondition]) -> None:
    conditions = [*ON, ON.ON_FAILURE_OR_CANCELLED, ON.ON_ANY_COMPLETED_STATUS]
    tree = tree_of(spec(), *(spec(0, condition) for condition in conditions))
    assert tree.begin(NOW, NOW).asked == [0, 1 + conditions.index(ON.IN_PROGRESS)]
    brought = tree.move(0, move, NOW, "why")
    asked = {conditions[number - 1] for number in brought.asked}
    assert asked == met
    missed = [job for job in tree.jobs[1:] if job.spec.condition not in met | {ON.IN_PROGRESS}]
    assert {job.stage for job in missed} == {Stage.SKIPPED}
    assert all(job.reason for job in missed)


def test_below_a_skipped_job_everything_is_skipped_for_the_first_reason() -> None:
    tree = tree_of(spec(), spec(0), spec(1, ON.ON_ANY_COMPLETED_STATUS), spec(2, ON.IN_PROGRESS), spec(3))
    tree.begin(NOW, NOW)
    tree.move(0, Move.FAIL, NOW)
    assert stages(tree) == ["FAILED", *["SKIPPED"] * 4]
    assert tree.jobs[1].reason == "it runs ON_SUCCESS, and its parent 'job below -1' ended FAILED"
    assert {job.reason for job in tree.jobs[2:]} == {f"'job below 0' was skipped: {tree.jobs[1].reason}"}
    assert tree.is_over


def test_below_a_job_that_skips_itself_nothing_begins_any_more() -> None:
    """One with IN_PROGRESS that waits for its time is skipped; one that runs goes on, and what is below that is skipped."""
    waits, runs = spec(0, ON.IN_PROGRESS, delay_us=MINUTE), spec(0, ON.IN_PROGRESS)
    below = (spec(2), spec(2, ON.IN_PROGRESS, delay_us=MINUTE), spec(2, ON.IN_PROGRESS), spec(5))
    tree = tree_of(spec(), waits, runs, *below)
    assert tree.begin(NOW, NOW) == ([0, 2, 5], [1, 4], [])
    brought = tree.move(0, Move.SKIP, NOW, "why")
    assert (brought.asked, brought.held, brought.let_go) == ([], [], [1, 4])
    assert stages(tree) == ["SKIPPED", "SKIPPED", "ASKED", "SKIPPED", "SKIPPED", "ASKED", "SKIPPED"]
    assert {job.reason for job in tree.jobs if job.number in (1, 3, 4, 6)} == {"'job below -1' was skipped: why"}
    added = tree.add([spec()], parent=2)
    tree.decide(added, NOW)
    assert tree.jobs[added[0]].stage is Stage.SKIPPED
    tree.move(2, Move.SUCCEED, NOW)
    tree.move(5, Move.FAIL, NOW)
    assert tree.is_over


def test_a_chain_of_any_depth_is_decided_without_recursion() -> None:
    depth = 5_000  # five times what Python would recurse
    tree = tree_of(*(spec(number - 1, ON.IN_PROGRESS) for number in range(depth)))
    assert tree.begin(NOW, NOW).asked == list(range(depth))
    other = tree_of(*(spec(number - 1) for number in range(depth)))
    other.begin(NOW, NOW)
    other.move(0, Move.CANCEL, NOW)
    assert other.is_over


def test_at_and_delay_hold_back_and_the_later_one_counts() -> None:
    tree = tree_of(
        spec(), spec(0, delay_us=MINUTE, at_us=NOW), spec(0, at_us=NOW + 5 * MINUTE), spec(0, at_us=NOW - MINUTE)
    )
    tree.begin(NOW, NOW)
    brought = tree.move(0, Move.SUCCEED, NOW + MINUTE)
    assert (brought.asked, brought.held) == ([3], [1, 2])
    assert [job.due_at for job in tree.jobs[1:]] == [NOW + 2 * MINUTE, NOW + 5 * MINUTE, NOW - MINUTE]
    assert tree.ask(2, NOW + 5 * MINUTE).asked == [2]


def test_a_root_that_begins_late_was_due_when_it_was_scheduled() -> None:
    tree = tree_of(spec(delay_us=MINUTE))
    tree.begin(NOW, NOW + 10 * MINUTE)
    assert tree.jobs[0].due_at == NOW + MINUTE
    assert tree.jobs[0].is_late(NOW + 10 * MINUTE)
    assert not tree.jobs[0].is_late(NOW + 2 * MINUTE)


def test_a_child_that_comes_after_its_parent_has_ended_is_decided_at_once() -> None:
    for move, beside, after in (
        (Move.SUCCEED, Stage.ASKED, Stage.ASKED),
        (Move.FAIL, Stage.ASKED, Stage.SKIPPED),
        (Move.SKIP, Stage.SKIPPED, Stage.SKIPPED),
    ):
        tree = tree_of(spec())
        tree.begin(NOW, NOW)
        tree.move(0, move, NOW, "why")
        tree.decide(tree.add([spec(condition=ON.IN_PROGRESS)], 0), NOW)
        tree.decide(tree.add([spec()], 0), NOW)
        assert [job.stage for job in tree.jobs[1:]] == [beside, after]


def test_what_was_never_asked_for_has_nothing_running_beside_it() -> None:
    tree = tree_of(spec(at_us=NOW + MINUTE), spec(0, ON.IN_PROGRESS), spec(0, ON.ON_CANCELLED))
    tree.begin(NOW, NOW)
    brought = tree.cancel([0], NOW, "changed our minds")
    assert brought.asked == [2]
    assert stages(tree) == ["CANCELLED", "SKIPPED", "ASKED"]
    assert tree.jobs[0].error is not None
    assert tree.jobs[0].error.message == "changed our minds"


def test_cancelling_several_leaves_their_children_to_the_conditions() -> None:
    tree = tree_of(spec(), spec(0, ON.IN_PROGRESS), spec(1, ON.ON_CANCELLED), spec(0), spec(0, ON.ON_CANCELLED))
    tree.begin(NOW, NOW)
    assert tree.cancel([0, 1], NOW).asked == [4, 2]
    assert stages(tree) == ["CANCELLED", "CANCELLED", "ASKED", "SKIPPED", "ASKED"]


def test_a_changed_job_keeps_its_place_and_goes_by_what_it_says_now() -> None:
    tree = tree_of(spec(at_us=NOW + MINUTE), spec(0))
    tree.begin(NOW, NOW)
    assert tree.change(0, spec(at_us=NOW + 2 * MINUTE), NOW) == ((), (0,), ())
    assert not any(tree.change(1, spec(0, ON.IN_PROGRESS), NOW))
    assert tree.change(0, spec(), NOW + MINUTE).asked == [0, 1]
    with pytest.raises(AssertionError, match="stage ASKED"):
        tree.change(0, spec(), NOW)
