"""A few random trees against the model; many with `python -m tests.job_trees --trees 2000`."""

from __future__ import annotations

import traceback

from durable.jobs import RunCondition
from tests.job_trees.battery import run
from tests.job_trees.model import outcome
from tests.job_trees.plans import FAIL, Attempt, Case, Plan, from_text, to_text

TREES = 50


def test_random_trees_end_as_the_model_says() -> None:
    tally = run(TREES, seed=20260728)
    assert tally.violation is None, f"{to_text(tally.violation[0])}\n" + "".join(
        traceback.format_exception(tally.violation[1])
    )
    assert tally.jobs > 3 * TREES, "the trees are trees"


def test_a_case_is_repeated_from_its_text() -> None:
    recovery = Plan(RunCondition.ON_FAILURE, children=(Plan(RunCondition.IN_PROGRESS),))
    case = Case(Plan(attempts=(Attempt(FAIL, (recovery,)),), retries=1, children=(Plan(),)), cancels=True)
    assert from_text(to_text(case)) == case
    assert outcome(case) == ("FAILED", 2, (("DONE", 1, (("DONE", 1, ()),)), ("SKIPPED", 0, ())))
