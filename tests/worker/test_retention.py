"""What has ended is removed as long after its end as its orchestrator says, and not before.

Method: simulated time for what is kept how long; a real store of each engine, with the clock of its ports moved by hand, for
what is removed with a run.
"""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from durable import App, Client, OrchestrationContext, Worker
from durable.ports import seconds_since_boot, system_ports, wall_clock_us
from durable.stores import connect
from durable.testing import Environment
from durable.worker import retention
from tests.worker.lives import becomes_true

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def keeping_app() -> App:
    app = App(retain=DAY)

    @app.orchestrator
    async def ordinary(ctx: OrchestrationContext, value: int) -> int:
        return value

    @app.orchestrator(retain=HOUR)
    async def brief(ctx: OrchestrationContext) -> str:
        ctx.set_custom_status("brief")
        return "done"

    @app.orchestrator(retain=HOUR)
    async def failing(ctx: OrchestrationContext) -> None:
        raise ValueError("no")

    @app.orchestrator
    async def parent(ctx: OrchestrationContext) -> str:
        child = ctx.call_sub_orchestrator(brief, instance_id="child")
        await ctx.create_timer(2 * DAY)
        return await child

    @app.orchestrator
    async def eternal(ctx: OrchestrationContext, round_number: int) -> None:
        await ctx.call_sub_orchestrator(brief, instance_id=f"round-{round_number}")
        await ctx.create_timer(HOUR / 2)
        ctx.continue_as_new(round_number + 1)

    return app


async def ids(env: Environment) -> set[str]:
    return {state.instance_id async for state in env.client.query()}


def test_each_instance_is_kept_as_long_as_it_says_and_then_goes_with_its_history() -> None:
    async def scenario(env: Environment) -> None:
        client = env.client
        await client.run("ordinary", 1, instance_id="ordinary")
        await client.run("brief", instance_id="brief")
        failed = await client.start("failing", instance_id="failing")
        waits = await client.start("ordinary", 2, instance_id="later", at=3 * DAY)
        await failed.wait()
        await env.advance(HOUR - timedelta(minutes=1))
        assert await ids(env) == {"ordinary", "brief", "failing", "later"}
        await env.advance(timedelta(minutes=2))
        assert await ids(env) == {"ordinary", "later"}
        await env.advance(DAY)
        assert await ids(env) == {"later"}
        assert await waits.result() == 2
        await env.advance(HOUR)
        assert await ids(env) == {"later"}, "its time runs from its end, not from when it was asked for"
        await env.advance(DAY)
        assert await ids(env) == set()

    Environment(keeping_app()).run(scenario)


def test_a_child_stays_while_its_parent_may_ask_for_it_and_goes_after_that() -> None:
    async def scenario(env: Environment) -> None:
        handle = await env.client.start("parent", instance_id="parent")
        await env.advance(DAY)
        assert await ids(env) == {"parent", "child"}
        assert await handle.result() == "done"
        await env.advance(timedelta(minutes=1))
        assert await ids(env) == {"parent"}

    Environment(keeping_app()).run(scenario)


def test_children_of_an_eternal_orchestration_go_when_their_generation_is_over() -> None:
    async def scenario(env: Environment) -> None:
        await env.client.start("eternal", 0, instance_id="eternal")
        await env.advance(10 * HOUR + timedelta(minutes=1))
        assert await ids(env) == {"eternal", "round-20", "round-19"}

    Environment(keeping_app()).run(scenario)


async def test_what_was_kept_for_long_enough_leaves_nothing_in_the_store_and_a_jump_of_the_clock_ends_nothing_early(
    store_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retention, "LOOK_S", 0.02)
    passed_s, jumped_s = 0, 0
    ports = dataclasses.replace(
        system_ports(),
        now_us=lambda: wall_clock_us() + (passed_s + jumped_s) * 1_000_000,
        monotonic=lambda: seconds_since_boot() + passed_s,
    )
    async with Worker(keeping_app(), store_url, ports=ports) as worker:
        client = worker.client
        brief = await client.start("brief", instance_id="brief")
        waits = await client.start("ordinary", 1, instance_id="ordinary")
        await brief.wait()
        await waits.wait()
        provider = connect(store_url, ports)
        await provider.open()
        assert await provider.read_history(brief.run_id or "", 0)
        jumped_s = 10 * 365 * 24 * 3600
        worker._parts.keeper.wake()  # type: ignore[union-attr]
        await becomes_true(lambda: "the store's clock has jumped" in caplog.text)
        passed_s = 2 * 3600

        async def is_gone() -> bool:
            return await client.count(name="brief") == 0

        await becomes_true(is_gone)
        assert await client.count(name="ordinary") == 1
        assert await provider.read_history(brief.run_id or "", 0) == []
        assert await provider.read_memos(f"run/{brief.run_id}/") == []
        await provider.close()


async def test_a_worker_removes_at_once_what_it_has_seen_from_the_beginning_and_the_rest_when_it_is_sure_of_the_time(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOOK_S", 0.02)
    behind_us = 60_000_000
    ports = dataclasses.replace(system_ports(), now_us=lambda: wall_clock_us() - behind_us)
    app = App(retain=timedelta(0))

    @app.orchestrator
    async def done(ctx: OrchestrationContext) -> None: ...

    async with Client(store_url, ports=ports) as client:
        await client.start("done", instance_id="before")
        behind_us = 0
        async with Worker(app, store_url, ports=ports) as worker:
            await client.get("before").wait()
            await worker.client.start("done", instance_id="after")

            async def is_gone() -> bool:
                return await client.count(prefix="after") == 0

            await becomes_true(is_gone)
        assert await client.count() == 1
