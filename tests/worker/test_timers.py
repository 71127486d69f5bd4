"""Durable timers: of any length, in order, once, also when nobody was there at the time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable import App, Orchestration, OrchestrationContext, OrchestrationStatus, Worker, when_all, when_any
from durable.worker import receiving, timers
from tests.worker.lives import STYLES, becomes_true, lives_app, names_of, open_store, until


def timers_app() -> App:
    app = lives_app()

    @app.orchestrator(name="sleeps-async")
    async def sleeps_async(ctx: OrchestrationContext, seconds: float) -> float:
        began = ctx.current_utc_datetime
        ctx.set_custom_status("sleeping")
        await ctx.create_timer(timedelta(seconds=seconds))
        return (ctx.current_utc_datetime - began).total_seconds()

    @app.orchestrator(name="sleeps-generator")
    def sleeps(ctx: OrchestrationContext, seconds: float) -> Orchestration[float]:
        began = ctx.current_utc_datetime
        ctx.set_custom_status("sleeping")
        yield ctx.create_timer(timedelta(seconds=seconds))
        return (ctx.current_utc_datetime - began).total_seconds()

    @app.orchestrator(name="at-async")
    async def at_async(ctx: OrchestrationContext, when: datetime) -> datetime:
        await ctx.create_timer(when)
        return ctx.current_utc_datetime

    @app.orchestrator(name="at-generator")
    def at(ctx: OrchestrationContext, when: datetime) -> Orchestration[datetime]:
        yield ctx.create_timer(when)
        return ctx.current_utc_datetime

    @app.orchestrator(name="races-async")
    async def races_async(ctx: OrchestrationContext) -> str:
        quick, long = ctx.create_timer(timedelta(milliseconds=10)), ctx.create_timer(timedelta(days=400))
        winner = await when_any([long, quick])
        assert not long.is_complete
        return "quick" if winner is quick else "long"

    @app.orchestrator(name="races-generator")
    def races(ctx: OrchestrationContext) -> Orchestration[str]:
        quick, long = ctx.create_timer(timedelta(milliseconds=10)), ctx.create_timer(timedelta(days=400))
        winner = yield when_any([long, quick])
        assert not long.is_complete
        return "quick" if winner is quick else "long"

    @app.orchestrator(name="many-async")
    async def many_async(ctx: OrchestrationContext, count: int) -> list[int]:
        """The numbers of timers, in the order in which they came back; a later one is due earlier."""
        back: list[int] = []

        async def one(number: int) -> None:
            await ctx.create_timer(timedelta(milliseconds=(count - number) // 4))
            back.append(number)

        await asyncio.gather(*(one(number) for number in range(count)))
        return back

    @app.orchestrator(name="many-generator")
    def many(ctx: OrchestrationContext, count: int) -> Orchestration[list[int]]:
        tasks = [ctx.create_timer(timedelta(milliseconds=(count - number) // 4)) for number in range(count)]
        back: list[int] = []
        while len(back) < count:
            done = yield when_any([task for task in tasks if tasks.index(task) not in back])
            back.append(tasks.index(done))
        return back

    return app


app = timers_app()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seconds", [0, -1, -1e9, 0.05])
async def test_a_timer_fires_not_before_it_is_due_and_one_of_the_past_at_once(
    store_url: str, seconds: float, style: str
) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"sleeps-{style}", seconds)
        slept = await handle.result(timeout=10)
        assert max(seconds, 0) <= slept < max(seconds, 0) + 5
        assert names_of(await handle.history()) == [
            "OrchestrationStarted",
            "TimerCreated",
            "TimerFired",
            "OrchestrationCompleted",
        ]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "when",
    [datetime(1970, 1, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC), datetime.now(UTC) - timedelta(seconds=1)],
    ids=["1970", "year 1", "just past"],
)
async def test_a_moment_of_the_past_is_now(store_url: str, when: datetime, style: str) -> None:
    async with Worker(app, store_url) as worker:
        found = await worker.client.run(f"at-{style}", when, timeout=10)
        assert abs(found - datetime.now(UTC)) < timedelta(seconds=10)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("days", [400, 36_525, 2_000_000])
async def test_a_timer_of_any_length_is_kept_and_goes_with_its_instance(store_url: str, days: int, style: str) -> None:
    async with open_store(store_url, app) as client:
        async with Worker(app, store_url):
            handle = await client.start(f"sleeps-{style}", days * 86_400.0)
            await until(handle, status="sleeping")
        async with Worker(app, store_url):
            await handle.cancel()
            assert (await handle.wait(timeout=10)).status is OrchestrationStatus.CANCELLED
            assert "TimerCancelled" in names_of(await handle.history())


@pytest.mark.parametrize("style", STYLES)
async def test_a_timer_that_was_due_while_nobody_ran_fires_with_the_next_worker(store_url: str, style: str) -> None:
    async with open_store(store_url, app) as client:
        async with Worker(app, store_url):
            handles = [await client.start(f"sleeps-{style}", 0.3) for _ in range(20)]
            for handle in handles:
                await until(handle, status="sleeping")
        due = (await handles[-1].state()).last_updated_at + timedelta(seconds=0.3)
        await becomes_true(lambda: datetime.now(UTC) > due)
        async with Worker(app, store_url):
            for handle in handles:
                assert await handle.result(timeout=5) >= 0.3


@pytest.mark.parametrize("style", STYLES)
async def test_the_loser_of_a_race_is_recorded_as_cancelled_and_holds_nothing_up(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"races-{style}")
        assert await handle.result(timeout=10) == "quick"
        history = await handle.history()
        created = [event.task_id for event in history if type(event).__name__ == "TimerCreated"]
        assert [event.task_id for event in history if type(event).__name__ == "TimerFired"] == created[:1]
        assert [event.task_id for event in history if type(event).__name__ == "TimerCancelled"] == created[1:]


@pytest.mark.parametrize("style", STYLES)
async def test_many_timers_of_one_instance_fire_once_each_in_the_order_of_their_times(
    store_url: str, style: str
) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"many-{style}", 200)
        found = await handle.result(timeout=20)
        assert sorted(found) == list(range(200))
        assert [number // 4 for number in found] != sorted(number // 4 for number in found)
        # Timers that became due between two turns come back by their times, those of one time by their position.
        due = {n: (200 - n) // 4 for n in range(200)}
        assert [due[n] for n in found] == sorted(due[n] for n in found)


async def test_many_instances_with_timers_each_wake_once(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        handles = [await worker.client.start("sleeps-async", 0.2 + (n % 7) / 100) for n in range(300)]
        assert await worker.client.wait(timeout=20) == 300
        for handle in handles[::50]:
            assert names_of(await handle.history()).count("TimerFired") == 1


@pytest.mark.parametrize("style", STYLES)
async def test_timers_beyond_the_horizon_are_found_in_the_store_in_time(
    store_url: str, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker keeps only timers of the near future in memory; here that is a tenth of a second, and it polls as often."""
    monkeypatch.setattr(timers, "HORIZON_US", 100_000)
    monkeypatch.setattr(receiving, "POLL_S", 0.05)
    async with Worker(app, store_url) as worker:
        handles = [await worker.client.start(f"sleeps-{style}", 0.2 + n / 20) for n in range(5)]
        for handle in handles:
            assert await handle.result(timeout=5) < 3


async def test_asyncio_sleep_is_a_durable_timer_too(store_url: str) -> None:
    own = lives_app()

    @own.orchestrator
    async def naps(ctx: OrchestrationContext) -> list[Any]:
        before = ctx.current_utc_datetime
        await asyncio.sleep(0)
        assert ctx.current_utc_datetime == before
        await asyncio.sleep(0.05)
        await when_all([ctx.create_timer(timedelta(0)) for _ in range(3)])
        return [ctx.current_utc_datetime - before >= timedelta(seconds=0.05)]

    async with Worker(own, store_url) as worker:
        assert await worker.client.run(naps, timeout=10) == [True]


@pytest.mark.parametrize("style", STYLES)
async def test_a_naive_time_fails_the_orchestration_with_a_value_error(store_url: str, style: str) -> None:
    own = App()

    @own.orchestrator(name="naive-async")
    async def naive_async(ctx: OrchestrationContext) -> str:
        try:
            await ctx.create_timer(datetime(2030, 1, 1))
        except ValueError as error:
            return str(error)
        return "taken"

    @own.orchestrator(name="naive-generator")
    def naive(ctx: OrchestrationContext) -> Orchestration[str]:
        try:
            yield ctx.create_timer(datetime(2030, 1, 1))
        except ValueError as error:
            return str(error)
        return "taken"

    async with Worker(own, store_url) as worker:
        assert "time zone" in await worker.client.run(f"naive-{style}", timeout=10)
