"""What is near: an instance without an id begins where it is started, and who waits for what runs here asks nobody."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace

import pytest

from durable import App, OrchestrationContext, OrchestrationStatus, Worker
from durable.events import InstanceKey
from durable.provider import PARTITIONS, InstanceRow, partition_of
from tests.worker.lives import becomes_true, is_cached

COUNT = 40


def build_app() -> App:
    app = App()

    @app.orchestrator
    async def nothing(ctx: OrchestrationContext) -> str:
        return "done"

    @app.orchestrator
    async def hears(ctx: OrchestrationContext) -> str:
        return await ctx.wait_for_external_event("word", str)

    return app


@asynccontextmanager
async def two_workers(store_url: str) -> AsyncIterator[tuple[Worker, Worker]]:
    """Two workers of a hub that have equal shares of it."""
    async with Worker(build_app(), store_url) as one, Worker(build_app(), store_url) as other:
        await becomes_true(lambda: [w.health().partitions for w in (one, other)] == [PARTITIONS // 2] * 2)
        yield one, other


async def owners_of_new_instances(one: Worker, **options: object) -> set[bool]:
    """Start some; return whether the worker that started them owns them."""
    handles = [await one.client.start("nothing", None, **options) for _ in range(COUNT)]  # type: ignore[arg-type]
    owned = set(one._parts.keeper.owned)  # type: ignore[union-attr]
    return {partition_of(InstanceKey(handle.instance_id), PARTITIONS) in owned for handle in handles}


async def test_an_instance_without_an_id_begins_where_it_is_started(store_url: str) -> None:
    async with two_workers(store_url) as workers:
        for worker in workers:
            assert await owners_of_new_instances(worker) == {True}


async def test_a_busy_worker_lets_others_have_what_may_begin_anywhere(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable.worker.direct.BUSY_AT", 0)
    async with two_workers(store_url) as (one, _):
        assert await owners_of_new_instances(one) == {True, False}


async def test_what_begins_later_begins_anywhere(store_url: str) -> None:
    async with two_workers(store_url) as (one, _):
        assert await owners_of_new_instances(one, at=timedelta(hours=1)) == {True, False}


async def test_what_this_worker_cannot_run_begins_anywhere(store_url: str) -> None:
    async with two_workers(store_url) as (one, _):
        assert await owners_of_new_instances(one, version="7") == {True, False}


async def test_the_only_worker_starts_what_it_likes(store_url: str) -> None:
    async with Worker(build_app(), store_url) as worker:
        assert await (await worker.client.start("nothing")).result(timeout=10) == "done"


async def test_who_waits_for_what_runs_here_asks_the_store_nothing(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Worker(build_app(), store_url) as worker:
        handles = [await worker.client.start("hears") for _ in range(3)]
        assert await worker.client.count(status=OrchestrationStatus.RUNNING) == 3
        client = worker.client.connection
        monkeypatch.setattr(client.waiters, "_heard_at", -math.inf)  # they were started long ago
        asked: list[Sequence[object]] = []
        load = worker._provider.load

        async def seen_load(targets: Sequence[tuple[InstanceKey, str | None]]) -> Sequence[InstanceRow | None]:
            asked.append(targets)
            return await load(targets)

        monkeypatch.setattr(client.waiters, "_provider", SimpleNamespace(load=seen_load))
        old = [worker.client.get(handle.instance_id) for handle in handles]
        waiting = [asyncio.create_task(handle.result(timeout=10)) for handle in handles]
        await asyncio.sleep(0)
        for handle in old:
            await handle.raise_event("word", "well")
        assert await asyncio.gather(*waiting) == ["well"] * 3
        if is_cached():
            assert asked == []
        asked.clear()
        assert await handles[0].result(timeout=10) == "well"
        assert len(asked) == 1, "what has ended is in the store alone"
