"""Limits of activities: what `max_concurrency`, `rate` and `key` promise, whoever asks and however it ends.

In simulated time, where waiting costs nothing; with real workers and stores where it is about those.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from durable import (
    ActivityContext,
    ActivityFailedError,
    ActivityTimeoutError,
    App,
    Client,
    Handle,
    OrchestrationContext,
    OrchestrationStatus,
    RetryPolicy,
    ReusePolicy,
    Worker,
    when_all,
)
from durable.jobs import Job, JobStatus, Priority
from durable.permits import KIND
from durable.provider import InstanceFilter
from durable.testing import Environment

SECOND = timedelta(seconds=1)
CHAPTER = Path(__file__).parents[2] / "docs" / "limits.md"


@dataclasses.dataclass
class Order:
    customer: str
    seconds: float = 1.0


app = App()
started: list[tuple[Any, datetime]] = []
under_way = 0
most = 0
now: Callable[[], datetime]


async def take(name: Any, seconds: float) -> None:
    """Be under way for so long, and count how many are."""
    global under_way, most
    started.append((name, now()))
    under_way += 1
    most = max(most, under_way)
    try:
        await asyncio.sleep(seconds)
    finally:
        under_way -= 1


@app.activity(max_concurrency=2)
async def two_at_a_time(number: int) -> int:
    await take(number, 1.0)
    return number


@app.activity(max_concurrency=1)
async def one_at_a_time(seconds: float) -> None:
    await take(seconds, seconds)


@app.activity(max_concurrency=1, key=lambda order: order.customer)
async def charge(order: Order) -> str:
    await take(order.customer, order.seconds)
    return order.customer


@app.activity(rate=3, per=10 * SECOND)
def rated(number: int) -> int:
    started.append((number, now()))
    return number


@app.activity(max_concurrency=1, retry_policy=RetryPolicy(timedelta(0), 3))
async def fail_twice(ctx: ActivityContext, name: str) -> str:
    await take(f"{name} {ctx.attempt}", 1.0)
    if ctx.attempt < 3:
        raise ValueError(name)
    return name


@app.orchestrator
async def fan_out(ctx: OrchestrationContext, call: list[Any]) -> list[Any]:
    name, inputs = call
    return await when_all([ctx.call_activity(name, one) for one in inputs])


@app.orchestrator
async def hold(ctx: OrchestrationContext, then: str) -> str:
    """Take the only permit, and wait for another one; then end, or begin again."""
    first = ctx.call_activity(one_at_a_time, 1000.0)
    second = ctx.call_activity(one_at_a_time, 1000.0)
    if await ctx.wait_for_external_event("go on") and then == "continue as new":
        ctx.continue_as_new("wait")
    if then == "give up":
        first.cancel()
        second.cancel()
    if then == "fail":
        raise ValueError("as asked")
    if then in ("wait", "give up"):
        await ctx.wait_for_external_event("never")
    return "done"


@app.orchestrator
async def two_kinds(ctx: OrchestrationContext) -> None:
    slow = ctx.call_activity(one_at_a_time, 5.0)
    await ctx.create_timer(SECOND)
    await ctx.call_activity(two_at_a_time, 7)
    await slow


@app.orchestrator
async def limited_waits(ctx: OrchestrationContext) -> list[str]:
    """Ask for work while somebody else has the permit, each with another limit on time."""
    timed = ctx.call_activity(one_at_a_time, 5.0, timeout=6)
    queued = ctx.call_activity(one_at_a_time, 1.0, queue_timeout=2)
    total = ctx.call_activity(one_at_a_time, 1.0, total_timeout=3)
    said = []
    for task in (timed, queued, total):
        try:
            await task
            said.append("done")
        except ActivityTimeoutError as error:
            said.append(str(error.details.message))
    return said


Test = Callable[[Environment], Coroutine[Any, Any, None]]


def simulated(test: Test, app: App = app) -> None:
    global now, under_way, most
    started.clear()
    under_way = most = 0

    async def timed(env: Environment) -> None:
        global now
        now = lambda: env.now  # noqa: E731
        await test(env)
        await env.advance(timedelta(hours=1))
        assert await keepers(env.client) == 0, "a keeper that keeps nothing goes"

    Environment(app).run(timed)


async def keepers(client: Client) -> int:
    return await client.connection.provider.count(InstanceFilter(kind=KIND))


def test_no_more_at_a_time_than_the_maximum_and_first_come_first_served() -> None:
    async def test(env: Environment) -> None:
        begun, handles = env.now, []
        for first in (0, 10, 20):
            handles.append(await env.client.start(fan_out, ["two_at_a_time", list(range(first, first + 3))]))
            await env.advance(SECOND / 10)
        for handle in handles:
            await handle.result()
        assert most == 2
        assert [name for name, _ in started] == [0, 1, 2, 10, 11, 12, 20, 21, 22]
        assert timedelta(seconds=4.9) < env.now - begun < timedelta(seconds=6)

    simulated(test)


def test_the_limit_of_one_key_holds_up_no_other() -> None:
    async def test(env: Environment) -> None:
        begun = env.now
        orders = [Order("anna", 100.0), Order("anna"), Order("", 1.0), Order("berta"), Order("c" * 2000)]
        handle = await env.client.start(fan_out, ["charge", orders])
        await env.advance(10 * SECOND)
        assert sorted(name[:5] for name, _ in started) == ["", "anna", "berta", "ccccc"]
        await handle.result()
        assert [name for name, at in started if at - begun > 10 * SECOND] == ["anna"]

    simulated(test)


def test_no_span_sees_more_starts_than_the_rate() -> None:
    async def test(env: Environment) -> None:
        first = await env.client.start(fan_out, ["rated", [0, 1]])
        await env.advance(5 * SECOND)
        second = await env.client.start(fan_out, ["rated", list(range(2, 9))])
        await first.result()
        await second.result()
        times = [at for _, at in started]
        assert [name for name, _ in started] == list(range(9))
        assert all(later - earlier >= 10 * SECOND for earlier, later in zip(times, times[3:], strict=False))
        assert times[-1] - times[0] < 31 * SECOND

    simulated(test)


def test_each_attempt_takes_a_permit_of_its_own_behind_those_who_wait() -> None:
    async def test(env: Environment) -> None:
        await env.client.run(fan_out, ["fail_twice", ["a", "b"]])
        assert most == 1
        assert [name for name, _ in started] == ["a 1", "b 1", "a 2", "b 2", "a 3", "b 3"]

    simulated(test)


def test_waiting_for_a_permit_counts_for_the_limits_of_the_queue_and_of_all_but_not_for_the_attempts_own() -> None:
    async def test(env: Environment) -> None:
        other = await env.client.start(fan_out, ["one_at_a_time", [10.0]])
        await env.advance(SECOND)
        said = await env.client.run(limited_waits)
        assert said[0] == "done"
        assert "waited longer than its queue_timeout of 2 s for a start" in said[1]
        assert "total_timeout of 3 s" in said[2]
        await other.result()

    simulated(test)


async def cancelled(env: Environment, handle: Handle[Any]) -> None:
    await handle.cancel()
    assert (await handle.wait()).status is OrchestrationStatus.CANCELLED


async def terminated(env: Environment, handle: Handle[Any]) -> None:
    await handle.terminate()


async def replaced(env: Environment, handle: Handle[Any]) -> None:
    policy = ReusePolicy.TERMINATE_AND_REPLACE
    await env.client.start(fan_out, ["rated", []], instance_id=handle.instance_id, reuse_policy=policy)


async def told(env: Environment, handle: Handle[Any]) -> None:
    await handle.raise_event("go on", True)


@pytest.mark.parametrize(
    ("end", "then"),
    [
        (cancelled, "wait"),
        (terminated, "wait"),
        (replaced, "wait"),
        (told, "finish"),
        (told, "fail"),
        (told, "give up"),
    ],
)
def test_whatever_ends_a_run_or_a_call_leaves_its_permits(
    end: Callable[[Environment, Handle[Any]], Coroutine[Any, Any, None]], then: str
) -> None:
    async def test(env: Environment) -> None:
        holder = await env.client.start(hold, then)
        await env.advance(SECOND)
        other = await env.client.start(fan_out, ["one_at_a_time", [1.0]])
        await env.advance(100 * SECOND)
        assert not (await other.state()).status.is_finished
        await end(env, holder)
        await env.advance(10 * SECOND)
        assert (await other.state()).status is OrchestrationStatus.COMPLETED
        if then == "give up":
            await holder.terminate()

    simulated(test)


def test_a_generation_that_continues_as_new_leaves_its_permits_and_the_next_one_waits_for_its_own() -> None:
    async def test(env: Environment) -> None:
        holder = await env.client.start(hold, "continue as new")
        await env.advance(SECOND)
        other = await env.client.start(fan_out, ["one_at_a_time", [1.0]])
        await env.advance(SECOND)
        await told(env, holder)
        await env.advance(10 * SECOND)
        assert (await other.state()).status is OrchestrationStatus.COMPLETED
        assert [name for name, _ in started] == [1000.0, 1.0, 1000.0]
        await holder.terminate()

    simulated(test)


def test_a_rewound_run_asks_again_for_the_permit_of_what_it_takes_over_unfinished() -> None:
    async def test(env: Environment) -> None:
        env.fail("two_at_a_time", ValueError("broken"))
        handle = await env.client.start(two_kinds)
        assert (await handle.wait()).status is OrchestrationStatus.FAILED
        other = await env.client.start(fan_out, ["one_at_a_time", [20.0]])
        await env.advance(SECOND)
        assert [name for name, _ in started] == [5.0, 20.0]
        await handle.rewind()
        await env.advance(10 * SECOND)
        assert not (await handle.state()).status.is_finished, "its permit is out"
        await handle.result()
        await other.result()
        assert [name for name, _ in started] == [5.0, 20.0, 7, 5.0]

    simulated(test)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (lambda _: 7, "must be a string, not 7"),
        (lambda text: text.nothing, "has no attribute 'nothing'"),
        (lambda _: "a\0b", "must not contain a NUL"),
    ],
)
def test_a_key_that_cannot_be_told_fails_the_request_and_says_so(key: Callable[[str], str], why: str) -> None:
    app = App()

    @app.activity(max_concurrency=1, key=key, retry_policy=RetryPolicy(SECOND, 5))
    def divided(text: str) -> str:
        return text

    @app.orchestrator
    async def call(ctx: OrchestrationContext) -> str:
        try:
            return await ctx.call_activity(divided, "a")
        except ActivityFailedError as error:
            assert error.details.non_retryable
            return error.details.message

    async def test(env: Environment) -> None:
        said = await env.client.run(call)
        assert "key= of activity 'divided'" in said
        assert why in said
        tree = await (await env.client.schedule(Job(divided, "a"))).result()
        assert tree.status is JobStatus.FAILED
        assert tree.error is not None
        assert why in tree.error.message

    simulated(test, app)


@pytest.mark.parametrize(
    "options",
    [
        {"max_concurrency": 0},
        {"max_concurrency": -1},
        {"rate": 0, "per": SECOND},
        {"rate": 1},
        {"per": SECOND},
        {"per": timedelta(0), "rate": 1},
        {"key": str},
    ],
)
def test_a_limit_that_is_none_is_refused_where_it_is_declared(options: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):

        @App().activity(**options)
        def never(text: str) -> None: ...


def test_jobs_wait_for_permits_by_their_priority() -> None:
    async def test(env: Environment) -> None:
        order = (Priority.LOW, Priority.NORMAL, Priority.HIGH)
        for number in range(8):
            await env.client.schedule(Job(two_at_a_time, number, priority=order[number % 3]))
            await env.advance(SECOND / 20)
        await env.advance(10 * SECOND)
        assert [name for name, _ in started] == [0, 1, 2, 5, 4, 7, 3, 6]

    simulated(test)


def test_the_program_of_the_chapter_does_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    code = CHAPTER.read_text().partition("```python\n")[2].partition("```")[0]
    exec(compile(code, str(CHAPTER), "exec"), {"__name__": "chapter"})
    assert capsys.readouterr().out == "7\n"


async def test_a_deployment_that_changes_a_limit_counts_from_its_first_request(store_url: str) -> None:
    def deployed(limit: int) -> tuple[App, Any, list[int]]:
        app, found, running = App(), [0], [0]

        @app.activity(name="work", max_concurrency=limit)
        async def work(number: int) -> None:
            running[0] += 1
            found[0] = max(found[0], running[0])
            await asyncio.sleep(0.02)
            running[0] -= 1

        @app.orchestrator(name="wide")
        async def wide(ctx: OrchestrationContext) -> None:
            await when_all([ctx.call_activity(work, n) for n in range(8)])

        return app, wide, found

    for limit in (1, 3):
        app, wide, found = deployed(limit)
        async with Worker(app, store_url) as worker:
            await worker.client.run(wide, timeout=30)
        assert found == [limit]


async def test_a_long_line_goes_on_over_generations_and_other_workers(store_url: str) -> None:
    """Many wait, and the worker is another one in the middle of it."""
    app, running, most, done = App(), set[int](), [0], set[int]()

    @app.activity(max_concurrency=5)
    async def work(number: int) -> int:
        running.add(number)
        most[0] = max(most[0], len(running))
        await asyncio.sleep(0)
        running.discard(number)
        done.add(number)
        return number

    @app.orchestrator
    async def wide(ctx: OrchestrationContext, width: int) -> int:
        return sum(await when_all([ctx.call_activity(work, n) for n in range(width)]))

    async with Client(store_url) as client:  # which keeps a store in memory while there is no worker
        async with Worker(app, store_url):
            await client.start(wide, 200, instance_id="wide")
            async with asyncio.timeout(30):
                while len(done) < 60:
                    await asyncio.sleep(0.01)
        async with Worker(app, store_url):
            assert await client.get("wide", wide).result(timeout=60) == sum(range(200))
            assert most[0] <= 5
            async with asyncio.timeout(10):
                while await keepers(client):
                    await asyncio.sleep(0.01)
