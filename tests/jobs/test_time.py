"""Jobs and time: delays, times, retries, timeouts, lateness. In simulated time, where a minute costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any

import pytest

from durable import App, OrchestrationContext, Worker
from durable.jobs import Job, JobContext, JobStatus, RunCondition
from durable.testing import Environment
from tests.jobs.parts import eventually, statuses

ON = RunCondition
MINUTE = timedelta(minutes=1)

app = App()
runs: list[tuple[str, Any, datetime | None]] = []


@app.activity
async def note(ctx: JobContext, name: str) -> str:
    runs.append((name, ctx.is_due, ctx.scheduled_for))
    return name


@app.activity
async def fail(ctx: JobContext, times: int) -> int:
    if ctx.attempt <= times:
        raise ValueError(f"attempt {ctx.attempt}")
    return ctx.attempt


@app.activity
async def hang(_: int) -> None:
    await asyncio.Event().wait()


@app.orchestrator
async def hanging(ctx: OrchestrationContext, times: int) -> str:
    if int(ctx.tags["durable.job"]) or times:
        await ctx.wait_for_external_event("never")
    return "done"


Test = Callable[[Environment], Coroutine[Any, Any, None]]


def simulated(test: Test) -> None:
    runs.clear()
    Environment(app).run(test)


def test_at_and_delay_hold_back_and_never_replace_the_condition() -> None:
    async def test(env: Environment) -> None:
        begun = env.now
        tree = (
            Job(note, "root")
            .then(Job(note, "a minute later", delay=MINUTE))
            .then(Job(note, "at its time", at=begun + 3 * MINUTE))
            .then(Job(note, "its time has passed", at=begun - MINUTE))
            .then(Job(note, "never", at=begun + MINUTE, run_condition=ON.ON_FAILURE))
        )
        handle = await env.client.schedule(tree, at=2 * MINUTE)
        await env.advance(MINUTE)
        root = await handle.tree()
        assert (root.status, root.scheduled_for) == (JobStatus.IDLE, begun + 2 * MINUTE)
        assert not runs
        root = await handle.result()
        times = {node.request: node.started_at for node in root.walk() if node.started_at is not None}
        rounded = {name: round((at - begun) / MINUTE, 2) for name, at in times.items()}
        assert rounded == {"root": 2, "a minute later": 3, "at its time": 3, "its time has passed": 2}
        assert env.now - begun < 3.1 * MINUTE

    simulated(test)


def test_the_waits_between_attempts_are_those_that_the_job_names() -> None:
    async def test(env: Environment) -> None:
        begun = env.now
        handle = await env.client.schedule(Job(fail, 4, retries=5, retry_intervals=(1, timedelta(seconds=30))))
        await env.advance(timedelta(seconds=20))
        tree = await handle.tree()
        assert (tree.status, tree.attempts) == (JobStatus.QUEUED, 2), "it waits for its third attempt"
        tree = await handle.result()
        assert (tree.status, tree.attempts, tree.result) == (JobStatus.DONE, 5, 5)
        assert round((env.now - begun).total_seconds()) == 1 + 30 + 30 + 30

    simulated(test)


def test_a_failed_job_has_the_error_of_its_last_attempt() -> None:
    async def test(env: Environment) -> None:
        tree = await (await env.client.schedule(Job(fail, 9, retries=2))).result()
        assert (tree.status, tree.attempts) == (JobStatus.FAILED, 3)
        assert tree.error is not None
        assert tree.error.message == "attempt 3"

    simulated(test)


@pytest.mark.parametrize("function", [hang, hanging])
def test_a_timeout_limits_each_attempt_and_is_a_failure(function: Callable[..., Any]) -> None:
    async def test(env: Environment) -> None:
        begun = env.now
        job = Job(function, 1, timeout=MINUTE, retries=1, retry_intervals=(MINUTE,)).then(
            Job(note, "recovered", run_condition=ON.ON_FAILURE)
        )
        handle = await env.client.schedule(job)
        tree = await handle.result()
        assert [node.status.value for node in tree.walk()] == ["FAILED", "DONE"]
        assert tree.attempts == 2
        assert tree.error is not None
        assert tree.error.error_type == "TimeoutError"
        assert "60 s" in tree.error.message
        assert round((env.now - begun) / MINUTE, 1) == 3
        await env.advance(timedelta(seconds=1))
        left = [state.status async for state in env.client.query(parent=handle.instance_id)]
        assert all(status.is_finished for status in left), "an orchestration that took too long was cancelled"

    simulated(test)


def test_what_starts_over_a_minute_late_is_told_so() -> None:
    async def test(env: Environment) -> None:
        at = env.now - timedelta(minutes=5)
        tree = Job(note, "late").then(Job(note, "follows"))
        late = await (await env.client.schedule(tree, at=at)).result()
        assert [node.status.value for node in late.walk()] == ["DUE_DONE", "DONE"]
        assert late.scheduled_for == at
        in_time = await (await env.client.schedule(Job(note, "in time"), at=env.now - timedelta(seconds=59))).result()
        assert in_time.status is JobStatus.DONE
        assert [(name, is_due) for name, is_due, _ in runs] == [("late", True), ("follows", False), ("in time", False)]
        assert runs[0][2] == at

    simulated(test)


async def test_delays_and_retries_survive_the_worker(store_url: str) -> None:
    span = timedelta(seconds=0.3)
    tree = Job(fail, 1, retries=1, retry_intervals=(span,)).then(Job(note, "after", delay=span))
    async with Worker(app, store_url, activities=False) as deciding:
        async with Worker(app, store_url, orchestrations=False) as working:
            handle = await working.client.schedule(tree)
            waiting = await eventually(handle.tree, lambda root: root.attempts == 1 and root.status is JobStatus.QUEUED)
            assert waiting.error is None
        async with Worker(app, store_url) as other:
            handle = other.client.get_job(handle.instance_id)
            assert statuses(await handle.result(timeout=20)) == {"fail": "DONE", "note": "DONE"}
    assert deciding is not None
