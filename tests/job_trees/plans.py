"""What a random tree of jobs is to do: plain data, from which both the real tree and the model are made.

A plan of a job says under which condition it runs, whether it is held back for an hour, how often it may try again, and for
each attempt how it ends and which jobs it adds. Attempts beyond those listed end as the last one.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from hypothesis import strategies as st

from durable.jobs import RunCondition

OK, FAIL, SKIP, HANG = "ok", "fail", "skip", "hang"

CONDITIONS = (
    RunCondition.ON_SUCCESS,
    RunCondition.ON_FAILURE,
    RunCondition.ON_CANCELLED,
    RunCondition.IN_PROGRESS,
    RunCondition.ON_FAILURE_OR_CANCELLED,
    RunCondition.ON_ANY_COMPLETED_STATUS,
    RunCondition.ON_SUCCESS | RunCondition.IN_PROGRESS,
    RunCondition.ON_CANCELLED | RunCondition.IN_PROGRESS,
)


@dataclasses.dataclass(frozen=True)
class Attempt:
    """How an attempt ends, and the jobs that it adds before."""

    end: str = OK
    adds: tuple[Plan, ...] = ()


@dataclasses.dataclass(frozen=True)
class Plan:
    """A job, and what is below it. `is_orchestrator`: its function is one; its attempts all end as the first."""

    condition: RunCondition = RunCondition.ON_SUCCESS
    attempts: tuple[Attempt, ...] = (Attempt(),)
    retries: int = 0
    is_held: bool = False
    is_orchestrator: bool = False
    children: tuple[Plan, ...] = ()

    def attempt(self, number: int) -> Attempt:
        """Return what an attempt does, counted from 1."""
        return self.attempts[min(number, len(self.attempts)) - 1]


@dataclasses.dataclass(frozen=True)
class Case:
    """A tree, and whether whatever is still open when nothing happens any more is cancelled; else time goes on."""

    root: Plan
    cancels: bool


def to_plain(plan: Plan) -> dict[str, Any]:
    """Return a plan as a job's request carries it."""
    return {
        "condition": plan.condition.value,
        "attempts": [{"end": one.end, "adds": [to_plain(added) for added in one.adds]} for one in plan.attempts],
        "retries": plan.retries,
        "is_held": plan.is_held,
        "is_orchestrator": plan.is_orchestrator,
        "children": [to_plain(child) for child in plan.children],
    }


def from_plain(plain: dict[str, Any]) -> Plan:
    """Return the plan that `to_plain` gave."""
    return Plan(
        RunCondition(plain["condition"]),
        tuple(Attempt(one["end"], tuple(map(from_plain, one["adds"]))) for one in plain["attempts"]),
        plain["retries"],
        plain["is_held"],
        plain["is_orchestrator"],
        tuple(map(from_plain, plain["children"])),
    )


def to_text(case: Case) -> str:
    """Return a case as text, for the command line."""
    return json.dumps([to_plain(case.root), case.cancels])


def from_text(text: str) -> Case:
    """Return the case of a text."""
    root, cancels = json.loads(text)
    return Case(from_plain(root), cancels)


def _plans(children: st.SearchStrategy[tuple[Plan, ...]], ends: tuple[str, ...]) -> st.SearchStrategy[Plan]:
    attempt = st.builds(Attempt, st.sampled_from(ends), children)
    of_activity = st.builds(
        Plan,
        st.sampled_from(CONDITIONS),
        st.lists(attempt, min_size=1, max_size=3).map(tuple),
        st.integers(0, 2),
        st.booleans(),
        st.just(False),
        children,
    )
    simple = st.sampled_from([end for end in ends if end != SKIP]).map(lambda end: (Attempt(end),))
    of_orchestrator = st.builds(
        Plan, st.sampled_from(CONDITIONS), simple, st.integers(0, 1), st.booleans(), st.just(True), children
    )
    return st.one_of(of_activity, of_activity, of_orchestrator)


def _trees(ends: tuple[str, ...]) -> st.SearchStrategy[Plan]:
    leaf = _plans(st.just(()), ends)
    lower = _plans(st.lists(leaf, max_size=2).map(tuple), ends)
    middle = _plans(st.lists(lower, max_size=3).map(tuple), ends)
    upper = _plans(st.lists(middle, max_size=2).map(tuple), ends)
    return st.one_of(
        middle, middle, upper, st.recursive(leaf, lambda below: _plans(st.tuples(below), ends), max_leaves=12)
    )


CASES = st.one_of(
    st.builds(Case, _trees((OK, OK, FAIL, SKIP)), st.just(False)),
    st.builds(Case, _trees((OK, OK, FAIL, SKIP, HANG)), st.just(True)),
)
