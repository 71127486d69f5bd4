"""Random trees of jobs against the model. Each runs on a whole system in simulated time, and is read from its history.

Goal: every combination of conditions, failures, retries, skips, children added on the way and cancels ends as the rules say;
no attempt runs twice, and none that should not. Method: Hypothesis makes up plans; jobs carry their plan as their request.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

from durable import App, OrchestrationContext
from durable.jobs import Job, JobContext, JobNode
from durable.testing import Environment
from tests.job_trees.model import outcome, shape
from tests.job_trees.plans import CASES, FAIL, HANG, SKIP, Case, Plan, from_plain, to_plain

HOUR = timedelta(hours=1)
WAVES_MAX = 60

app = App()
attempts_run: Counter[tuple[str, str, int]] = Counter()
"""How often each attempt of each job was run."""


@app.activity
async def work(ctx: JobContext, plan: dict[str, Any]) -> str:
    """Do what the plan has for this attempt."""
    attempt = from_plain(plan).attempt(ctx.attempt)
    attempts_run[ctx.instance_id, str(ctx.id), ctx.attempt] += 1
    assert (ctx.parent is None) is (ctx.parent_id is None)
    for added in attempt.adds:
        ctx.schedule_child(job_of(added))
    if attempt.end == SKIP:
        ctx.skip("so it is planned")
    if attempt.end == FAIL:
        raise ValueError("so it is planned")
    if attempt.end == HANG:
        await asyncio.Event().wait()
    return f"done by {ctx.id}"


@app.orchestrator
async def process(ctx: OrchestrationContext, plan: dict[str, Any]) -> str:
    """Do what the plan has for an orchestrator."""
    attempt = from_plain(plan).attempt(1)
    if attempt.end == FAIL:
        raise ValueError("so it is planned")
    if attempt.end == HANG:
        await ctx.wait_for_external_event("never")
    return "done"


def job_of(plan: Plan) -> Job:
    """Return the real tree of a plan."""
    function: Callable[..., Any] = process if plan.is_orchestrator else work
    return Job(
        function,
        to_plain(plan),
        run_condition=plan.condition,
        delay=HOUR if plan.is_held else None,
        retries=plan.retries,
        retry_intervals=(0, timedelta(seconds=0.2)),
        children=tuple(map(job_of, plan.children)),
    )


async def run_one(env: Environment, case: Case) -> JobNode:
    """Run a case to its end; return the tree as its history has it."""
    handle = await env.client.schedule(job_of(case.root))
    for _ in range(WAVES_MAX):
        await env.advance(timedelta(minutes=1) if case.cancels else HOUR)
        state = await handle.state()
        if state.status.is_finished:
            tree = await handle.result()
            assert state.output == Counter(node.status.value for node in tree.walk()), (
                "the instance and its reader agree"
            )
            return tree
        if case.cancels:
            await handle.cancel("enough")
    raise AssertionError(f"after {WAVES_MAX} waves it stands so:\n{await handle.tree()}")


def check(case: Case) -> JobNode:
    """Run a case; raise AssertionError where it does not end as the model says."""
    attempts_run.clear()
    tree: list[JobNode] = []

    async def test(env: Environment) -> None:
        tree.append(await run_one(env, case))

    Environment(app).run(test)
    assert shape(tree[0]) == outcome(case), f"the tree ended so:\n{tree[0]}"
    assert set(attempts_run.values()) <= {1}, f"an attempt ran twice: {attempts_run.most_common(3)}"
    for node in tree[0].walk():
        assert (node.status.value == "SKIPPED") is (node.skip_reason is not None), node
        assert node.status.is_settled, node
    return tree[0]


@dataclasses.dataclass
class Tally:
    """What a run has gone through. `violation`: the smallest case that was found to differ, and how."""

    trees: int = 0
    jobs: int = 0
    violation: tuple[Case, BaseException] | None = None


def run(trees: int, seed: int) -> Tally:
    """Check that many cases, always the same ones for a seed, up to the first violation, which is shrunk."""
    tally = Tally()

    @seeded(seed)
    @settings(
        max_examples=trees,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(CASES)
    def each(case: Case) -> None:
        try:
            tree = check(case)
        except BaseException as error:
            tally.violation = (case, error)
            raise
        tally.trees += 1
        tally.jobs += sum(1 for _ in tree.walk())

    try:
        each()
    except BaseException:
        if tally.violation is None:
            raise
    return tally
