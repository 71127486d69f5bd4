"""Workers come, go, share and are robbed: each instance has one owner at a time, and none is lost or done twice."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from durable import App, Orchestration, OrchestrationContext, OrchestrationStatus, Worker, when_all
from durable.worker import leasing
from tests.worker.lives import STYLES, becomes_true, is_cached, lives_app, names_of, open_store, provider_of, rob, until

COMPLETED, RUNNING = OrchestrationStatus.COMPLETED, OrchestrationStatus.RUNNING


@pytest.fixture(autouse=True)
def brisk_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers look around ten times a second here, not every three seconds."""
    monkeypatch.setattr(leasing, "LOOK_AROUND_S", 0.1)
    monkeypatch.setattr(leasing, "LOOK_AROUND_LOCKED_S", 0.1)


def busy_app(runs: Counter[Any] | None = None) -> App:
    app = lives_app()

    @app.activity
    async def step(number: int) -> int:
        await asyncio.sleep(0.002)
        return number

    @app.orchestrator(name="busy-async")
    async def busy_async(ctx: OrchestrationContext, count: int) -> list[Any]:
        """Activities, timers, events and a child, in a mix; the events say 0, 1, 2, …"""
        found: list[Any] = []
        for number in range(count):
            found.append(await ctx.call_activity(step, number))
            if number % 3 == 0:
                await ctx.create_timer(timedelta(milliseconds=1))
            if number % 4 == 0:
                found.append(await ctx.wait_for_external_event("item"))
            ctx.set_custom_status(number)
        found.append(await ctx.call_sub_orchestrator("returns-async", "child"))
        return found

    @app.orchestrator(name="busy-generator")
    def busy(ctx: OrchestrationContext, count: int) -> Orchestration[list[Any]]:
        found: list[Any] = []
        for number in range(count):
            found.append((yield ctx.call_activity(step, number)))
            if number % 3 == 0:
                yield ctx.create_timer(timedelta(milliseconds=1))
            if number % 4 == 0:
                found.append((yield ctx.wait_for_external_event("item")))
            ctx.set_custom_status(number)
        found.append((yield ctx.call_sub_orchestrator("returns-generator", "child")))
        return found

    return app


def expected(count: int) -> list[Any]:
    found: list[Any] = []
    for number in range(count):
        found.append(number)
        if number % 4 == 0:
            found.append(number // 4)
    return [*found, "child"]


async def check(handle: Any, count: int) -> None:
    assert await handle.result(timeout=30) == expected(count)
    history = await handle.history()
    for asked, answered in (("ActivityScheduled", "ActivityCompleted"), ("TimerCreated", "TimerFired")):
        requests = [event.task_id for event in history if type(event).__name__ == asked]
        answers = [event.task_id for event in history if type(event).__name__ == answered]
        assert sorted(requests) == sorted(answers), "each request has exactly one outcome"
    assert names_of(history).count("EventRaised") == len(range(0, count, 4))


async def feed(handle: Any, count: int) -> None:
    for number in range(len(range(0, count, 4))):
        await handle.raise_event("item", number)


async def test_two_workers_share_the_partitions_and_nothing_is_lost(store_url: str) -> None:
    app = busy_app()
    async with Worker(app, store_url) as one:
        handles = [await one.client.start(f"busy-{STYLES[n % 2]}", 9) for n in range(40)]
        async with Worker(app, store_url) as two:
            await asyncio.gather(*(feed(handle, 9) for handle in handles))
            assert one._parts is not None
            assert two._parts is not None
            await becomes_true(lambda: len(one._parts.keeper.owned) == len(two._parts.keeper.owned) == 32)
            assert not one._parts.keeper.owned & two._parts.keeper.owned
            more = [await two.client.start("busy-async", 5) for _ in range(20)]
            await asyncio.gather(*(feed(handle, 5) for handle in more))
            for handle in handles:
                await check(handle, 9)
            for handle in more:
                await check(handle, 5)
        await becomes_true(lambda: len(one._parts.keeper.owned) == 64)
        assert await one.client.run("returns-async", 1, timeout=10) == 1


async def test_giving_partitions_up_under_load_costs_nobody_a_lease(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Workers join and leave while instances run: partitions move in peace, no commit is refused."""
    app = busy_app()
    count = 40 if is_cached() else 12
    with caplog.at_level(logging.WARNING, "durable.worker"):
        async with Worker(app, store_url) as one:
            handles = [await one.client.start(f"busy-{STYLES[n % 2]}", count) for n in range(30)]
            feeding = asyncio.gather(*(feed(handle, count) for handle in handles))
            for _ in range(3):
                async with Worker(app, store_url) as two:
                    assert two._parts is not None
                    await becomes_true(lambda: len(two._parts.keeper.owned) >= 32)
            await feeding
            for handle in handles:
                await check(handle, count)
    lost = [record.getMessage() for record in caplog.records if "lease" in record.getMessage()]
    assert not lost, lost
    assert not [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]


@pytest.mark.parametrize("style", STYLES)
async def test_a_robbed_worker_writes_nothing_and_recovers(store_url: str, style: str) -> None:
    """Its epoch is raised again and again, at any moment: each time it begins a new lease, and all goes on."""
    app = busy_app()
    count = 24 if is_cached() else 12
    async with provider_of(store_url) as thief, Worker(app, store_url) as worker:
        handles = [await worker.client.start(f"busy-{style}", count) for _ in range(15)]
        feeding = asyncio.gather(*(feed(handle, count) for handle in handles))
        for round_ in range(5):
            await until(handles[round_], COMPLETED, status=round_ * 2)
            assert worker._parts is not None
            keeper = worker._parts.keeper
            await becomes_true(lambda: keeper.owned)  # noqa: B023
            robbed = keeper.lease
            await rob(thief)
            await becomes_true(lambda: keeper.lease not in (None, robbed))  # noqa: B023
        await feeding
        for handle in handles:
            await check(handle, count)


async def test_what_a_robbed_worker_had_prepared_is_not_written(store_url: str) -> None:
    """The thief keeps the partitions: the robbed worker's next commit is refused, whatever it holds."""
    app = busy_app()
    async with provider_of(store_url) as thief, Worker(app, store_url) as worker:
        handle = await worker.client.start("collects-async", 2)
        await handle.raise_event("item", 1)
        await until(handle, status=1)
        before = await handle.history()
        lease = await thief.lease("thief", b"", worker=True)
        await thief.take(lease, range(64), from_live=True)
        await handle.raise_event("item", 2)
        assert worker._parts is not None
        await becomes_true(lambda: not worker._parts.keeper.owned)
        assert await handle.history() == before
        assert (await handle.state()).status is RUNNING
        await thief.release(lease)
        assert await handle.result(timeout=10) == [1, 2]
        assert await handle.dropped() == []


async def test_a_worker_whose_lease_is_gone_takes_a_new_one(store_url: str) -> None:
    app = busy_app()
    async with provider_of(store_url) as thief, Worker(app, store_url) as worker:
        assert worker._parts is not None
        lease = worker._parts.keeper.current
        await thief.release(lease)
        assert await worker.client.run("returns-async", 1, timeout=10) == 1
        assert worker._parts.keeper.current is not lease


@pytest.mark.parametrize("style", STYLES)
async def test_restarts_in_the_middle_of_everything_lose_and_double_nothing(store_url: str, style: str) -> None:
    """A dozen workers one after the other, each stopped at some point of the work; the first outcome counts."""
    app = busy_app()
    count = 16
    async with open_store(store_url, app) as client:
        handles = [await client.start(f"busy-{style}", count) for _ in range(10)]
        feeding = asyncio.gather(*(feed(handle, count) for handle in handles))
        for round_ in range(10):
            async with Worker(app, store_url, shutdown_timeout=0):
                await until(handles[round_], COMPLETED, status=round_)
        await feeding
        async with Worker(app, store_url):
            for handle in handles:
                await check(handle, count)


async def test_a_worker_that_is_stopped_leaves_nothing_running(store_url: str) -> None:
    before = {task for task in asyncio.all_tasks() if not task.done()}
    app = busy_app()
    async with Worker(app, store_url, shutdown_timeout=0.1) as worker:
        for number in range(10):
            await worker.client.start("busy-async", 50, instance_id=f"one {number}")
            await worker.client.start("nobody knows it")
    left = {task for task in asyncio.all_tasks() if not task.done()} - before
    assert not left, left


async def test_an_activity_only_worker_and_a_deciding_one_work_together(store_url: str) -> None:
    ran_in: list[str] = []
    app = lives_app()

    @app.activity
    async def where() -> None:
        ran_in.append("here")

    @app.orchestrator
    async def asks(ctx: OrchestrationContext) -> int:
        await when_all([ctx.call_activity(where) for _ in range(20)])
        return len(ran_in)

    async with Worker(app, store_url, activities=False) as decides:
        handle = await decides.client.start(asks)
        await becomes_true(lambda: _asked(handle))
        assert ran_in == []
        async with Worker(app, store_url, orchestrations=False):
            assert await handle.result(timeout=10) == 20


async def _asked(handle: Any) -> bool:
    return len((await handle.state()).activities) == 20


async def test_clients_in_other_hands_see_the_same(store_url: str) -> None:
    """Several clients, each with a provider of its own, beside two workers: what one does the others see."""
    app = busy_app()
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_store(store_url, app)) for _ in range(3)]
        for _ in range(2):
            await stack.enter_async_context(Worker(app, store_url))
        handles = [await clients[n % 3].start("collects-async", 6) for n in range(9)]
        for number in range(6):
            for index, handle in enumerate(handles):
                await clients[(index + number) % 3].get(handle.instance_id).raise_event("item", number)
        for index, handle in enumerate(handles):
            found = await clients[(index + 1) % 3].get(handle.instance_id).result(timeout=10)
            assert found == list(range(6)), "in the order in which they were accepted, whoever sent them"


@pytest.mark.parametrize("cached", [0, 1, 3])
async def test_a_small_cache_changes_nothing_but_time(store_url: str, cached: int) -> None:
    app = busy_app()
    async with Worker(app, store_url, max_cached_orchestrations=cached) as worker:
        handles = [await worker.client.start(f"busy-{STYLES[n % 2]}", 8) for n in range(20)]
        await asyncio.gather(*(feed(handle, 8) for handle in handles))
        for handle in handles:
            await check(handle, 8)
        assert worker._parts is not None
        assert len(worker._parts.owner._cache) <= cached
