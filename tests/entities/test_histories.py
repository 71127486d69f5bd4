"""What entities leave in histories, and what replaying these tells: in the tools for tests, and of changed code."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable import (
    App,
    Client,
    DivergenceError,
    EntityContext,
    EntityId,
    EntityLockAcquired,
    EntityLockReleased,
    EntityLockRequested,
    EntityOperationCalled,
    EntityOperationCompleted,
    EntityOperationFailed,
    EntityOperationFailedError,
    EntityOperationSignaled,
    History,
    OrchestrationContext,
    Worker,
)
from durable.testing import Environment, replay, simulate

app = App()


@app.entity
class Box:
    items: list[str] = []

    def put(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)

    def fail(self) -> None:
        raise ValueError("no")

    def remind(self, ctx: EntityContext, days: int) -> None:
        ctx.signal_entity(ctx.id, "put", f"after {days} days", at=timedelta(days=days))


ONE, TWO = EntityId(Box, "1"), EntityId(Box, "2")


@app.orchestrator
async def tour(ctx: OrchestrationContext) -> int:
    ctx.signal_entity(ONE, Box.put, "signaled")
    ctx.signal_entity(TWO, "put", "for later", at=timedelta(days=1))
    try:
        await ctx.call_entity(ONE, "fail")
    except EntityOperationFailedError:
        pass
    async with ctx.lock(TWO, ONE):
        return await ctx.call_entity(ONE, Box.put, "called")


TOUR = """\
OrchestrationStarted tour
EntityOperationSignaled #0 Box '1' put 'signaled'
EntityOperationSignaled #1 Box '2' put 'for later'
EntityOperationCalled #2 Box '1' fail
EntityOperationFailed #2 ValueError: no
EntityLockRequested #3 Box '1'
EntityLockAcquired #3
EntityLockRequested #4 Box '2'
EntityLockAcquired #4
EntityOperationCalled #5 Box '1' put 'called'
EntityOperationCompleted #5 2
EntityLockReleased Box '1'
EntityLockReleased Box '2'
OrchestrationCompleted 2
"""


async def test_a_history_tells_what_was_asked_and_answered() -> None:
    async with Environment(app) as env:
        handle = await env.client.start(tour, instance_id="tour")
        assert await handle.result() == 2
        assert env.history_text("tour") == TOUR
        history = await handle.history()
        assert {type(event) for event in history} >= {
            EntityOperationCalled,
            EntityOperationSignaled,
            EntityOperationCompleted,
            EntityOperationFailed,
            EntityLockRequested,
            EntityLockAcquired,
            EntityLockReleased,
        }
        called = next(event for event in history if isinstance(event, EntityOperationCalled))
        assert (called.name, called.key, called.operation, called.lock) == ("Box", "1", "fail", None)
        assert "test_histories.py:" in called.line


async def test_an_export_loses_nothing() -> None:
    async with Environment(app) as env:
        handle = await env.client.start(tour)
        await handle.result()
        for history in (await handle.history(), await env.client.entity_history(ONE)):
            again = History.load(history.export())
            assert again == history
            assert list(again) == list(history)
            assert again.key.kind in ("o", "e")
            replay(app, again)


async def test_delays_pass_in_simulated_time() -> None:
    async with Environment(app, start=datetime(2026, 1, 1, tzinfo=UTC)) as env:
        await env.client.signal_entity(ONE, Box.remind, 30)
        await env.client.signal_entity(TWO, Box.put, "in a week", at=timedelta(weeks=1))
        await env.advance(timedelta(days=6))
        assert await env.client.get_entity(TWO) is None
        found = await env.client.get_entity(ONE)
        assert found is not None
        assert found.state.items == []
        await env.advance(timedelta(days=25))
        states = {state.id: state.state.items async for state in env.client.query_entities(Box)}
        assert states == {ONE: ["after 30 days"], TWO: ["in a week"]}


def test_an_environment_runs_plain_tests_with_entities() -> None:
    async def test(env: Environment) -> list[str]:
        await env.client.run(tour)
        await env.advance(timedelta(days=2))
        found = await env.client.get_entity(TWO)
        assert found is not None
        return found.state.items

    assert Environment(app).run(test) == ["for later"]


def test_a_scenario_with_entities_is_simulated() -> None:
    async def scenario(client: Client) -> None:
        assert await client.run(tour) == 2

    assert simulate(app, scenario, schedules=10, seed=3).schedules == 10


# ---- changed code


def orchestrator_as(function: Any) -> App:
    changed = App()
    changed.orchestrator(name="tour")(function)

    @changed.entity(name="Box")
    class Another:
        def put(self, item: str) -> int:
            return 0

    return changed


async def calls_another_operation(ctx: OrchestrationContext) -> None:
    ctx.signal_entity(EntityId("Box", "1"), "take", "signaled")


async def calls_another_entity(ctx: OrchestrationContext) -> None:
    ctx.signal_entity(EntityId("Box", "other"), "put", "signaled")


async def sends_another_value(ctx: OrchestrationContext) -> int:
    ctx.signal_entity(EntityId("Box", "1"), "put", "something else")
    ctx.signal_entity(EntityId("Box", "2"), "put", "for later", at=timedelta(days=1))
    await ctx.call_entity(EntityId("Box", "1"), "fail")
    return 2


async def sends_at_another_time(ctx: OrchestrationContext) -> int:
    ctx.signal_entity(EntityId("Box", "1"), "put", "signaled")
    ctx.signal_entity(EntityId("Box", "2"), "put", "for later", at=timedelta(days=2))
    await ctx.call_entity(EntityId("Box", "1"), "fail")
    return 2


async def locks_nothing(ctx: OrchestrationContext) -> int:
    ctx.signal_entity(EntityId("Box", "1"), "put", "signaled")
    ctx.signal_entity(EntityId("Box", "2"), "put", "for later", at=timedelta(days=1))
    try:
        await ctx.call_entity(EntityId("Box", "1"), "fail")
    except EntityOperationFailedError:
        pass
    return int(await ctx.call_entity(EntityId("Box", "1"), "put", "called"))


@pytest.mark.parametrize(
    ("code", "recorded", "asked"),
    [
        (calls_another_operation, "EntityOperationSignaled(Box, 1, operation put", "Box, 1, operation take"),
        (calls_another_entity, "EntityOperationSignaled(Box, 1, operation put", "Box, other, operation put"),
        (sends_another_value, "other values than its history records", "operation put"),
        (sends_at_another_time, "other values than its history records", "operation put"),
        (locks_nothing, "EntityLockRequested(Box, 1", "EntityOperationCalled(Box, 1, operation put"),
    ],
)
async def test_changed_code_is_found_and_explained(code: Any, recorded: str, asked: str) -> None:
    async with Environment(app) as env:
        handle = await env.client.start(tour)
        await handle.result()
        history = await handle.history()
    replay(app, history)
    with pytest.raises(DivergenceError) as raised:
        replay(orchestrator_as(code), history)
    assert recorded in str(raised.value)
    assert asked in str(raised.value)
    assert "test_histories.py" in str(raised.value)


async def test_a_worker_stalls_what_diverges_and_asks_for_nothing(store_url: str) -> None:
    first, second = App(), App()
    for one in (first, second):
        one.include(app)

    @first.orchestrator(name="steps")
    async def steps(ctx: OrchestrationContext) -> int:
        await ctx.call_entity(ONE, Box.put, "a")
        await ctx.wait_for_external_event("go")
        return await ctx.call_entity(ONE, Box.put, "b")

    @second.orchestrator(name="steps")
    async def changed(ctx: OrchestrationContext) -> int:
        await ctx.call_entity(TWO, Box.put, "a")
        return 0

    async with Client(store_url, app) as client:
        async with Worker(first, store_url):
            handle = await client.start("steps")
            while await client.get_entity(ONE) is None:
                await asyncio.sleep(0.005)
        async with Worker(second, store_url, max_cached_orchestrations=0):
            await handle.raise_event("go")
            async for state in handle.watch():
                if state.status == "STALLED":
                    break
            assert state.stall_reason is not None
            assert "EntityOperationCalled(Box, 1, operation put, task 0)" in state.stall_reason
            assert await client.get_entity(TWO) is None
        async with Worker(first, store_url):
            assert await handle.result(30) == 2


# ---- entities that are not the same again

restless = App()


@restless.entity
class Clock:
    at: float = 0.0

    def tick(self) -> None:
        self.at = time.time()


@pytest.mark.diverges("the clock is not the context's, on purpose")
async def test_what_changes_between_runs_is_a_matter_of_replays_only(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker never performs an operation again: what it did is on record. A replay says that it would differ."""
    clock = EntityId(Clock, "c")
    async with Client(store_url) as client:
        times = []
        for _ in range(2):
            async with Worker(restless, store_url, strict=True, max_cached_orchestrations=0):
                await client.signal_entity(clock, Clock.tick)
                while (found := await client.get_entity(clock)) is None or found.state.at in times:
                    await asyncio.sleep(0.005)
                times.append(found.state.at)
        history = await client.entity_history(clock)
    with pytest.raises(DivergenceError, match="asks for other values"):
        replay(restless, history)
    with caplog.at_level(logging.WARNING):
        replay(restless, history, strict=False)
    assert "asks for other values" in caplog.text


class Doubling:
    items: list[str] = []

    def put(self, item: str) -> int:
        self.items += [item, item]
        return len(self.items)


async def test_a_replay_compares_what_operations_do() -> None:
    async with Environment(app) as env:
        await env.client.run(tour)
        history = await env.client.entity_history(ONE)
    replay(app, history)
    changed = App()
    changed.entity(name="Box")(Doubling)
    with pytest.raises(DivergenceError, match="other values"):
        replay(changed, history)
