"""Nothing of one instance reaches another: context variables, random streams, log fields, exceptions, contexts (I12)."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from datetime import timedelta
from typing import Any

import pytest

from durable import App, DurableError, Orchestration, OrchestrationContext, OrchestrationStatus, Worker
from tests.worker.lives import STYLES, lives_app, open_store, until

COMPLETED = OrchestrationStatus.COMPLETED

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


def isolated_app(leaked: list[Any] | None = None) -> App:
    app = lives_app()

    @app.activity
    async def sees() -> str:
        found = tenant.get()
        tenant.set("an activity")
        return found

    @app.activity
    def sees_in_a_thread() -> str:
        found = tenant.get()
        tenant.set("a thread")
        return found

    @app.orchestrator(name="sets-async")
    async def sets_async(ctx: OrchestrationContext, name: str) -> list[str]:
        """What the variable holds: at first, after setting it, across waits, and in activities."""
        seen = [tenant.get()]
        tenant.set(name)
        await ctx.create_timer(timedelta(milliseconds=5))
        seen.append(tenant.get())
        seen.append(await ctx.call_activity(sees))
        seen.append(await ctx.call_activity(sees_in_a_thread))
        await ctx.wait_for_external_event("go")
        seen.append(tenant.get())
        return seen

    @app.orchestrator(name="sets-generator")
    def sets(ctx: OrchestrationContext, name: str) -> Orchestration[list[str]]:
        seen = [tenant.get()]
        tenant.set(name)
        yield ctx.create_timer(timedelta(milliseconds=5))
        seen.append(tenant.get())
        seen.append((yield ctx.call_activity(sees)))
        seen.append((yield ctx.call_activity(sees_in_a_thread)))
        yield ctx.wait_for_external_event("go")
        seen.append(tenant.get())
        return seen

    @app.orchestrator(name="draws-async")
    async def draws_async(ctx: OrchestrationContext) -> list[Any]:
        first = [ctx.random.random() for _ in range(3)]
        await ctx.create_timer(timedelta(milliseconds=1))
        return [*first, ctx.random.randint(0, 10**9), str(ctx.new_uuid()), ctx.random.getstate()[1][0]]

    @app.orchestrator(name="draws-generator")
    def draws(ctx: OrchestrationContext) -> Orchestration[list[Any]]:
        first = [ctx.random.random() for _ in range(3)]
        yield ctx.create_timer(timedelta(milliseconds=1))
        return [*first, ctx.random.randint(0, 10**9), str(ctx.new_uuid()), ctx.random.getstate()[1][0]]

    @app.orchestrator(name="logs-async")
    async def logs_async(ctx: OrchestrationContext) -> None:
        ctx.logger.warning("before")
        await ctx.create_timer(timedelta(milliseconds=1))
        ctx.logger.warning("after")

    @app.orchestrator(name="logs-generator")
    def logs(ctx: OrchestrationContext) -> Orchestration[None]:
        ctx.logger.warning("before")
        yield ctx.create_timer(timedelta(milliseconds=1))
        ctx.logger.warning("after")

    @app.orchestrator(name="leaks-async")
    async def leaks_async(ctx: OrchestrationContext) -> Any:
        assert leaked is not None
        leaked.append(ctx)
        ctx.set_custom_status("leaked")
        return await ctx.wait_for_external_event("go")

    @app.orchestrator(name="leaks-generator")
    def leaks(ctx: OrchestrationContext) -> Orchestration[Any]:
        assert leaked is not None
        leaked.append(ctx)
        ctx.set_custom_status("leaked")
        return (yield ctx.wait_for_external_event("go"))

    @app.orchestrator
    async def borrows(ctx: OrchestrationContext) -> list[str]:
        """Uses the context of another instance, by every door."""
        assert leaked is not None
        other: OrchestrationContext = leaked[0]
        raised = []
        for use in (
            lambda: other.call_activity(sees),
            lambda: other.create_timer(timedelta(0)),
            lambda: other.set_custom_status("stolen"),
            lambda: other.raise_event("a", "b"),
            lambda: other.current_utc_datetime,
            lambda: other.random,
            lambda: other.continue_as_new(1),
        ):
            try:
                use()
            except DurableError:
                raised.append("refused")
        return raised

    return app


@pytest.mark.parametrize("style", STYLES)
async def test_context_variables_stay_with_their_instance(store_url: str, style: str) -> None:
    app = isolated_app()
    token = tenant.set("the program")
    try:
        async with Worker(app, store_url) as worker:
            handles = [await worker.client.start(f"sets-{style}", f"tenant {n}") for n in range(20)]
            for handle in handles:
                await handle.raise_event("go")
            for number, handle in enumerate(handles):
                first, second, *of_activities, last = await handle.result(timeout=10)
                assert first == "nobody", "an orchestrator begins with an empty context, as on every replay"
                assert second == last == f"tenant {number}"
                assert not {"an activity", "a thread"} & set(of_activities)
                assert not any(str(found).startswith("tenant") for found in of_activities)
        assert tenant.get() == "the program"
    finally:
        tenant.reset(token)


@pytest.mark.parametrize("style", STYLES)
async def test_random_streams_are_apart_from_each_other_and_from_the_programs(store_url: str, style: str) -> None:
    app = isolated_app()
    async with Worker(app, store_url) as worker:
        random.seed(5)
        expected = random.Random(5).random()
        results = [await worker.client.run(f"draws-{style}", timeout=10) for _ in range(20)]
        assert random.random() == expected, "nobody has drawn from the program's own stream"
        for position in range(5):
            assert len({str(result[position]) for result in results}) == 20


@pytest.mark.parametrize("style", STYLES)
async def test_log_records_say_whose_they_are_once_each(
    store_url: str, style: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = isolated_app()
    async with Worker(app, store_url) as worker:
        with caplog.at_level(logging.WARNING, "durable.orchestration"):
            handles = [await worker.client.start(f"logs-{style}") for _ in range(10)]
            for handle in handles:
                await handle.result(timeout=10)
        for handle in handles:
            own = [record for record in caplog.records if getattr(record, "instance_id", "") == handle.instance_id]
            assert [record.getMessage() for record in own] == ["before", "after"]
            assert {getattr(record, "run_id", "") for record in own} == {handle.run_id}


@pytest.mark.parametrize("style", STYLES)
async def test_a_context_used_by_another_instance_or_from_outside_refuses(store_url: str, style: str) -> None:
    leaked: list[Any] = []
    app = isolated_app(leaked)
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"leaks-{style}")
        await until(handle, status="leaked")
        assert await worker.client.run("borrows", timeout=10) == ["refused"] * 7
        for use in (lambda: leaked[0].set_custom_status("outside"), lambda: leaked[0].call_activity("sees")):
            with pytest.raises(DurableError):
                use()
            with pytest.raises(DurableError):
                await asyncio.to_thread(use)
        assert (await handle.state()).custom_status == "leaked"
        await handle.raise_event("go", "unharmed")
        assert await handle.result(timeout=10) == "unharmed"
        with pytest.raises(DurableError):
            leaked[0].set_custom_status("after the end")


async def test_a_failing_instance_takes_no_other_with_it(store_url: str) -> None:
    """Instances that fail, stall and end in one batch with others."""
    app = isolated_app()
    async with open_store(store_url, app) as client:
        good = [await client.start("waits-generator", n, events=[("go", n)]) for n in range(30)]
        bad = [await client.start("raises-async", f"bad {n}") for n in range(30)]
        unknown = [await client.start("nobody knows it") for n in range(10)]
        async with Worker(app, store_url):
            for number, handle in enumerate(good):
                assert await handle.result(timeout=10) == [number, number]
            for number, handle in enumerate(bad):
                state = await handle.wait(timeout=10)
                assert state.failure_details is not None
                assert state.failure_details.message == f"bad {number}"
            for handle in unknown:
                await until(handle, OrchestrationStatus.STALLED)
