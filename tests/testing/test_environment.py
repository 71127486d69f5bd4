"""`Environment`: an app in memory and in simulated time, from plain tests and from a coroutine of a real event loop.

Method: small orchestrations, each test once by `Environment.run` and once inside `async with` on asyncio's own loop, which
must make no difference; and what only one of the two has.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import pytest

from durable import (
    ActivityContext,
    App,
    Client,
    DurableError,
    Handle,
    InstanceNotFoundError,
    NonRetryableError,
    Orchestration,
    OrchestrationContext,
    OrchestrationFailedError,
    OrchestrationStatus,
    RetryPolicy,
    SyncClient,
    UnknownNameError,
)
from durable.testing import Environment, NothingLeftToDoError

app = App()
MONTH = timedelta(days=30)
DAY = timedelta(days=1)


@app.activity
def charge(amount: int) -> str:
    return f"paid {amount}"


@app.activity
async def remind(ctx: ActivityContext) -> str:
    await asyncio.sleep(3600)
    return f"reminded by attempt {ctx.attempt}"


@app.activity(retry_policy=RetryPolicy(timedelta(minutes=1), 3))
def flaky() -> str:
    return "done"


@app.orchestrator
async def asked(ctx: OrchestrationContext) -> int:
    total = 0

    async def add(number: int) -> int:
        nonlocal total
        await asyncio.sleep(86_400)
        total += number
        return total

    ctx.on_query("total", lambda: total)
    ctx.on_update("add", add)
    await ctx.create_timer(MONTH)
    return total


@app.orchestrator
async def billing(ctx: OrchestrationContext, amount: int) -> str:
    await ctx.create_timer(MONTH)
    return await ctx.call_activity(charge, amount)


@app.orchestrator
def approval(ctx: OrchestrationContext, days: int = 0) -> Orchestration[str]:
    ctx.set_custom_status("waiting")
    timeout = timedelta(days=days) if days else None
    try:
        return (yield ctx.wait_for_external_event("approved", str, timeout=timeout))
    except TimeoutError:
        return "too late"


@app.orchestrator
async def reminding(ctx: OrchestrationContext) -> str:
    return await ctx.call_activity(remind)


@app.orchestrator
async def trying(ctx: OrchestrationContext) -> str:
    return await ctx.call_activity(flaky)


Test = Callable[[Environment], Coroutine[Any, Any, None]]


def in_simulated_time(test: Test, environment: Environment) -> None:
    environment.run(test)


def on_a_real_loop(test: Test, environment: Environment) -> None:
    async def main() -> None:
        async with environment as env:
            await test(env)

    asyncio.run(main())


EITHER = pytest.mark.parametrize("play", [in_simulated_time, on_a_real_loop])
Play = Callable[[Test, Environment], None]


@EITHER
def test_a_month_takes_milliseconds_and_is_a_month(play: Play) -> None:
    async def test(env: Environment) -> None:
        began = env.now
        assert await env.client.run(billing, 7) == "paid 7"
        assert env.now - began == MONTH

    began = time.process_time()
    play(test, Environment(app))
    assert time.process_time() - began < 5


@EITHER
def test_time_begins_where_it_is_told_to(play: Play) -> None:
    start = datetime(2027, 2, 3, 4, 5, 6, 7, tzinfo=UTC)

    async def test(env: Environment) -> None:
        assert env.now == start
        handle = await env.client.start(billing, 1)
        await handle.result()
        state = await handle.state()
        assert state.created_at == start
        assert state.completed_at == start + MONTH

    environment = Environment(app, start=start)
    assert environment.now == start
    play(test, environment)
    assert environment.now == start + MONTH


@EITHER
def test_advance_lets_happen_what_is_due_by_then_and_no_more(play: Play) -> None:
    async def test(env: Environment) -> None:
        handle = await env.client.start(billing, 7)
        await env.advance(MONTH - timedelta(microseconds=1))
        assert (await handle.state()).status is OrchestrationStatus.RUNNING
        await env.advance(timedelta(microseconds=1))
        assert (await handle.state()).output == "paid 7"
        assert env.now == datetime(2026, 1, 31, tzinfo=UTC)

    play(test, Environment(app))


@EITHER
def test_advance_by_nothing_lets_happen_what_is_due_now(play: Play) -> None:
    async def test(env: Environment) -> None:
        handle = await env.client.start(approval, 3)
        await env.advance(timedelta(0))
        assert (await handle.state()).custom_status == "waiting"
        await handle.raise_event("approved", "yes")
        assert await handle.result() == "yes"
        assert await env.client.run(approval, 3) == "too late"
        assert env.now == datetime(2026, 1, 4, tzinfo=UTC)

    play(test, Environment(app))


@EITHER
def test_many_are_awaited_at_once_and_time_does_not_run_ahead_of_the_test(play: Play) -> None:
    async def test(env: Environment) -> None:
        handles = [await env.client.start(approval, days) for days in (9, 1, 5)]
        order: list[timedelta] = []

        async def follow(handle: Handle[str]) -> None:
            began = env.now
            await handle.result()
            order.append(env.now - began)

        await asyncio.gather(*map(follow, handles))
        assert order == [DAY, 5 * DAY, 9 * DAY]

    play(test, Environment(app))


@EITHER
def test_activities_run_as_they_are_and_their_own_waiting_takes_no_time(play: Play) -> None:
    async def test(env: Environment) -> None:
        assert await env.client.run(reminding) == "reminded by attempt 1"
        assert env.now == datetime(2026, 1, 1, 1, tzinfo=UTC)

    play(test, Environment(app))


def with_input(amount: int) -> str:
    return f"fake {amount}"


def with_nothing() -> str:
    return "fake"


def with_context(ctx: ActivityContext) -> str:
    return f"fake {ctx.name}"


async def with_both(ctx: ActivityContext, amount: int) -> str:
    await asyncio.sleep(1)
    return f"fake {ctx.name} {amount}"


@EITHER
@pytest.mark.parametrize(
    ("fake", "result"),
    [
        (with_input, "fake 7"),
        (with_nothing, "fake"),
        (with_context, "fake charge"),
        (with_both, "fake charge 7"),
        (lambda amount: f"lambda {amount}", "lambda 7"),
        (Mock(return_value="mock"), "mock"),
    ],
)
def test_a_fake_has_any_shape(play: Play, fake: Callable[..., Any], result: str) -> None:
    async def test(env: Environment) -> None:
        env.replace(charge, fake)
        assert await env.client.run(billing, 7) == result
        env.replace("charge", charge)
        assert await env.client.run(billing, 7) == "paid 7"

    play(test, Environment(app))


def test_a_fake_may_take_what_the_activity_does_not() -> None:
    async def test(env: Environment) -> None:
        env.replace("flaky", lambda nothing: f"got {nothing}")
        env.replace("remind", lambda nothing=5: f"got {nothing}")
        assert await env.client.run(trying) == "got None"
        assert await env.client.run(reminding) == "got 5"

    Environment(app).run(test)


def test_what_a_fake_returns_must_fit_as_what_the_activity_returns() -> None:
    async def test(env: Environment) -> None:
        env.replace(charge, lambda amount: amount)
        with pytest.raises(OrchestrationFailedError, match="result of activity 'charge'"):
            await env.client.run(billing, 7)

    Environment(app).run(test)


@EITHER
def test_attempts_fail_to_order(play: Play) -> None:
    async def test(env: Environment) -> None:
        env.fail("flaky", ConnectionError("no line"), times=2)
        assert await env.client.run(trying, instance_id="third") == "done"
        assert env.now == datetime(2026, 1, 1, 0, 2, tzinfo=UTC)
        env.fail(flaky, NonRetryableError("for good"))
        with pytest.raises(OrchestrationFailedError, match="for good"):
            await env.client.run(trying)
        env.fail(flaky, KeyError, times=3)
        with pytest.raises(OrchestrationFailedError, match="KeyError"):
            await env.client.run(trying)
        assert await env.client.run(trying) == "done"

    play(test, Environment(app))


def test_a_mistake_in_the_test_is_an_error_at_once() -> None:
    other = App()

    @other.activity
    def elsewhere() -> None: ...

    env = Environment(app)
    with pytest.raises(UnknownNameError, match="Did you mean 'charge'"):
        env.replace("chrage", with_input)
    with pytest.raises(UnknownNameError, match="no activity of this app"):
        env.replace(elsewhere, with_input)
    with pytest.raises(UnknownNameError):
        env.fail(with_input, ValueError())
    with pytest.raises(TypeError, match="one input"):
        env.replace(charge, lambda first, second, third: None)
    with pytest.raises(TypeError):
        env.replace(charge, "paid")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be an exception"):
        env.fail(charge, "no line")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 or more"):
        env.fail(charge, ValueError, times=0)
    with pytest.raises(ValueError, match="aware"):
        Environment(app, start=datetime(2026, 1, 1))
    with pytest.raises(TypeError, match="for an App"):
        Environment(billing)  # type: ignore[arg-type]
    with pytest.raises(DurableError, match="not open"):
        env.client


GOLDEN = """\
OrchestrationStarted billing 7
TimerCreated #0 of 30 days, 0:00:00
TimerFired #0
ActivityScheduled #1 charge 7
ActivityFailed #1 ConnectionError: no line
OrchestrationFailed durable.errors.ActivityFailedError: charge: ConnectionError: no line
"""


@EITHER
def test_a_history_reads_as_text_that_can_be_compared(play: Play) -> None:
    async def test(env: Environment) -> None:
        env.fail(charge, ConnectionError("no line"))
        handle = await env.client.start(billing, 7, instance_id="bill")
        await handle.wait()
        assert env.history_text("bill") == GOLDEN
        with pytest.raises(InstanceNotFoundError):
            env.history_text("none")

    for seed in (0, 1):
        play(test, Environment(app, seed=seed))


def test_the_same_seed_gives_the_same_ids() -> None:
    async def test(env: Environment) -> str:
        return (await env.client.start(billing, 7)).instance_id

    ids = [Environment(app, seed=seed).run(test) for seed in (1, 1, 2)]
    assert ids[0] == ids[1] != ids[2]


@EITHER
def test_what_can_never_happen_is_said_with_what_everybody_waits_for(play: Play) -> None:
    async def test(env: Environment) -> None:
        handle = await env.client.start(approval, instance_id="forgotten")
        await env.client.start("nobody knows it", instance_id="unknown")
        await handle.result()

    with pytest.raises(NothingLeftToDoError) as raised:
        play(test, Environment(app))
    text = str(raised.value)
    assert "'forgotten' (approval) is RUNNING, custom status 'waiting': it waits for event 'approved'" in text
    assert "'unknown' (nobody knows it) is STALLED: UnknownNameError" in text
    if play is in_simulated_time:
        assert "await handle.result()" in text


def test_an_activity_that_never_ends_is_named() -> None:
    async def test(env: Environment) -> None:
        async def hang(ctx: ActivityContext) -> str:
            await asyncio.get_running_loop().create_future()
            return ""

        env.replace(remind, hang)
        await env.client.run(reminding)

    with pytest.raises(NothingLeftToDoError, match="waits for activity 'remind'"):
        Environment(app).run(test)


async def test_another_task_of_the_test_may_still_make_it_happen() -> None:
    async with Environment(app) as env:
        handle = await env.client.start(approval)
        near, far = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=near)

        async def answer() -> None:
            await reader.read(1)  # comes by a real socket, while the environment can only wait
            await handle.raise_event("approved", "in the end")

        waiting = asyncio.gather(handle.result(), answer())
        asyncio.get_running_loop().call_later(0.05, far.send, b"x")
        assert (await waiting)[0] == "in the end"
        writer.close()
        far.close()


async def test_faces_are_what_they_stand_for() -> None:
    async with Environment(app) as env:
        assert isinstance(env.client, Client)
        handle = await env.client.start(approval, 1)
        assert isinstance(handle, Handle)
        states = [state.status async for state in handle.watch()]
        assert states[-1] is OrchestrationStatus.COMPLETED
        assert [state.instance_id async for state in env.client.query()] == [handle.instance_id]
        async with env.client as client:
            assert await client.count() == 1
        assert (await env.client.get(handle.instance_id, approval).history())[-1] == (await handle.history())[-1]


async def test_giving_up_a_call_gives_up_nothing_else() -> None:
    async with Environment(app) as env:
        handle = await env.client.start(approval)
        with pytest.raises(TimeoutError, match="RUNNING"):
            await handle.result(timeout=60)
        waiting = asyncio.create_task(handle.result())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await handle.raise_event("approved", "yes")
        assert await handle.result() == "yes"


def test_in_run_asyncio_is_in_simulated_time_too() -> None:
    async def test(env: Environment) -> str:
        handle = await env.client.start(billing, 1)
        await asyncio.sleep(MONTH.total_seconds() + 1)
        assert (await handle.state()).status is OrchestrationStatus.COMPLETED
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(86400):
                await env.client.run(approval)
        return (env.now - datetime(2026, 1, 1, tzinfo=UTC)).__str__()

    assert Environment(app).run(test) == "31 days, 0:00:01"


@EITHER
def test_what_nobody_handled_comes_out_at_the_end(play: Play) -> None:
    async def test(env: Environment) -> None:
        async def careless() -> str:
            asyncio.get_running_loop().call_soon(lambda: 1 // 0)
            return "done"

        env.replace(flaky, careless)
        assert await env.client.run(trying) == "done"

    with pytest.raises(DurableError, match="nobody handled") as raised:
        play(test, Environment(app))
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_a_sync_activity_may_run_a_loop_and_use_its_client() -> None:
    rich = App()

    @rich.activity
    def ask(ctx: ActivityContext) -> str:
        async def inner() -> str:
            return "inner"

        client = ctx.client
        assert isinstance(client, SyncClient)
        return asyncio.run(inner()) + client.run(child, timeout=60)

    @rich.orchestrator
    async def child(ctx: OrchestrationContext) -> str:
        await ctx.create_timer(timedelta(seconds=5))
        return " child"

    @rich.orchestrator
    async def parent(ctx: OrchestrationContext) -> str:
        return await ctx.call_activity(ask)

    async def test(env: Environment) -> None:
        assert await env.client.run(parent) == "inner child"

    Environment(rich).run(test)


@EITHER
def test_an_environment_is_used_once(play: Play) -> None:
    async def test(env: Environment) -> None: ...

    environment = Environment(app)
    play(test, environment)
    with pytest.raises(DurableError, match="used once"):
        play(test, environment)
    with pytest.raises(DurableError, match="is over"):
        environment.client


async def test_run_is_for_plain_code() -> None:
    async def test(env: Environment) -> None: ...

    with pytest.raises(DurableError, match="async with"):
        Environment(app).run(test)


@EITHER
def test_advance_takes_a_span(play: Play) -> None:
    async def test(env: Environment) -> None:
        with pytest.raises(TypeError, match="timedelta"):
            await env.advance(5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="back"):
            await env.advance(timedelta(seconds=-1))

    play(test, Environment(app))


@EITHER
def test_updates_and_queries_go_by_simulated_time(play: Play) -> None:
    async def test(env: Environment) -> None:
        handle = await env.client.start(asked)
        begun = env.now
        assert await handle.update("add", 5) == 5
        assert env.now - begun == DAY
        await handle.suspend()
        with pytest.raises(TimeoutError, match="SUSPENDED"):
            await handle.update("add", 1, timeout=DAY)
        assert await handle.query("total") == 5
        await handle.resume()
        assert await handle.update("add", 1) == 7  # behind the other one, that waited
        assert await handle.result() == 7
        assert await handle.query("total") == 7

    play(test, Environment(app))


async def test_what_is_left_waiting_is_told_when_the_environment_is_left() -> None:
    async with Environment(app) as env:
        handle = await env.client.start(approval)
        waiting = asyncio.create_task(handle.result())
        await asyncio.sleep(0)
    with pytest.raises(DurableError, match="left while this was awaited"):
        await waiting
    with pytest.raises(DurableError, match="is over"):
        await handle.result()


def test_an_environment_stays_in_its_event_loop() -> None:
    async def enter() -> tuple[Environment, Client]:
        environment = await Environment(app).__aenter__()
        return environment, environment.client

    async def use(client: Client) -> None:
        with pytest.raises(DurableError, match="another event loop"):
            await client.count()

    with asyncio.Runner() as first:
        environment, client = first.run(enter())
        asyncio.run(use(client))
        first.run(environment.__aexit__(None, None, None))
