"""Generated programs, as data: what an orchestrator does, and what the world does to it.

A program is plain lists, numbers and texts, so that it travels as JSON and shrinks well: a step is `[kind, number]`, or
`[kind, number, parts]` where each part is a list of steps. The world's moves are data as well, and say what to do with
whatever is open just then. When the moves are used up, the world answers everything, so that most programs end.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from hypothesis import strategies as st

Step: TypeAlias = list[Any]
Steps: TypeAlias = list[Step]

LEAVES = (  # the simplest first: a shrinking program moves towards them
    "note",
    "activity",
    "timer",
    "event",
    "timed event",
    "child",
    "retried",
    "when_all",
    "when_any",
    "event or timer",
    "cancel",
    "map",
    "send",
    "fail",
    "raise",
)
BRANCHES = ("try", "swallow", "again")

ASYNC_LEAVES = (*LEAVES, "sleep")
ASYNC_BRANCHES = (
    *BRANCHES,
    "gather",
    "gather all",
    "task group",
    "wait_for",
    "timeout",
    "shield",
    "beside",
    "wait",
    "as_completed",
    "lock",
    "semaphore",
    "queue",
    "asyncio event",
    "condition",
    "async generator",
)

ARRIVALS = ("complete", "event", "fail", "late", "cancel", "suspend", "resume", "refuse")

DEPTH = 3
GENERATIONS_MAX = 3
TURNS_MAX = 20


class Case(NamedTuple):
    """A program with its world. `style`: "async" or "generator". `generations`: the steps of each, in order.

    A turn of the world is [seconds that pass, whether to wait for the next timer, whether to evict first, arrivals], an
    arrival [kind, number].
    """

    style: str
    generations: list[Steps]
    turns: list[Any]


def _steps(leaves: tuple[str, ...], branches: tuple[str, ...], depth: int) -> st.SearchStrategy[Steps]:
    step = st.tuples(st.sampled_from(leaves), st.integers(0, 3)).map(list)
    if depth:
        parts = st.lists(_steps(leaves, branches, depth - 1), min_size=1, max_size=3)
        step |= st.tuples(st.sampled_from(branches), st.integers(0, 20), parts).map(list)
    return st.lists(step, max_size=3)


def _generations(leaves: tuple[str, ...], branches: tuple[str, ...]) -> st.SearchStrategy[list[Steps]]:
    return st.lists(_steps(leaves, branches, DEPTH), min_size=1, max_size=GENERATIONS_MAX)


_ARRIVAL = st.tuples(st.sampled_from(ARRIVALS), st.integers(0, 7)).map(list)
_TURN = st.tuples(st.sampled_from((0, 1, 3, 30)), st.booleans(), st.booleans(), st.lists(_ARRIVAL, max_size=4)).map(
    list
)
_TURNS = st.lists(_TURN, max_size=TURNS_MAX)

CASES: st.SearchStrategy[Case] = st.one_of(
    st.builds(Case, st.just("generator"), _generations(LEAVES, BRANCHES), _TURNS),
    st.builds(Case, st.just("async"), _generations(ASYNC_LEAVES, ASYNC_BRANCHES), _TURNS),
    st.builds(Case, st.just("async"), _generations(ASYNC_LEAVES, ASYNC_BRANCHES), _TURNS),
)
