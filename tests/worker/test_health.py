"""`worker.health()`: what a probe is told of a worker, whatever happens to the worker or its store."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable import (
    App,
    OrchestrationContext,
    OrchestrationStatus,
    StoreUnavailableError,
    Worker,
    WorkerHealth,
    when_all,
)
from durable.ports import system_ports
from tests.worker.lives import becomes_true, provider_of, until


def app_that_waits(go: asyncio.Event) -> App:
    app = App()

    @app.activity
    async def wait() -> str:
        await go.wait()
        return "done"

    @app.orchestrator
    async def two(ctx: OrchestrationContext) -> list[str]:
        return await when_all([ctx.call_activity(wait) for _ in range(2)])

    return app


async def test_a_worker_tells_how_it_is_through_its_life(store_url: str) -> None:
    go = asyncio.Event()
    worker = Worker(app_that_waits(go), store_url, name="one", max_activities=1)
    assert worker.health() == WorkerHealth("one", is_live=False, is_ready=False)
    async with worker:
        begun = worker.health()
        assert (begun.is_live, begun.is_ready, begun.is_stopping, begun.failure) == (True, True, False, None)
        assert (begun.partitions, begun.store_error, begun.activities, begun.stalled) == (64, None, 0, 0)
        assert 0 < begun.lease_s < 10
        handle = await worker.client.start("two")
        await becomes_true(lambda: worker.health().activities == 1)
        busy = worker.health()
        assert busy.activities_waiting == 1
        assert busy.last_commit_at is not None
        assert abs(datetime.now(UTC) - busy.last_commit_at) < timedelta(seconds=60)
        stopping = asyncio.ensure_future(worker.__aexit__(None, None, None))
        await becomes_true(lambda: worker.health().is_stopping)
        assert (worker.health().is_live, worker.health().is_ready) == (True, False)
        go.set()
        await stopping
        assert worker.health() == WorkerHealth("one", is_live=False, is_ready=False, is_stopping=True)
        assert handle.instance_id


async def test_a_probe_in_a_thread_of_its_own_is_answered_while_attempts_come_and_go() -> None:
    app, over, failed, looks = App(), threading.Event(), list[BaseException](), 0

    @app.activity
    async def quick(number: int) -> int:
        return number

    @app.orchestrator
    async def fan(ctx: OrchestrationContext) -> int:
        return len(await when_all([ctx.call_activity(quick, number) for number in range(200)]))

    async with Worker(app, "memory://", max_activities=2) as worker:

        def probe() -> None:
            nonlocal looks
            while not over.is_set():
                looks += 1
                try:
                    worker.health()
                except RuntimeError as error:
                    failed.append(error)

        thread = threading.Thread(target=probe)
        thread.start()
        try:
            handles = [await worker.client.start(fan) for _ in range(10)]
            assert [await handle.result(timeout=60) for handle in handles] == [200] * 10
        finally:
            over.set()
            thread.join()
    assert looks > 100
    assert failed == []


@pytest.mark.diverges("what it is called by is not there")
async def test_what_stalls_is_counted_for_as_long_as_it_does(store_url: str) -> None:
    async with Worker(App(), store_url) as worker:
        stalled = [await worker.client.start("unknown") for _ in range(2)]
        for handle in stalled:
            await until(handle, OrchestrationStatus.STALLED)
        await becomes_true(lambda: worker.health().stalled == 2)
        await stalled[0].terminate()
        await becomes_true(lambda: worker.health().stalled == 1)
        async with provider_of(store_url) as provider:
            thief = await provider.lease("thief", b"", worker=True)
            await provider.take(thief, range(64), from_live=True)
            await becomes_true(lambda: worker.health().stalled == 0)


async def test_it_tells_of_a_store_that_is_away_and_asks_nobody(store_url: str) -> None:
    passed = 0.0
    ports = dataclasses.replace(system_ports(), monotonic=lambda: time.monotonic() + passed)
    async with Worker(App(), store_url, ports=ports) as worker:
        renew = worker._provider.renew

        async def away(*_: Any, **__: Any) -> Any:
            raise StoreUnavailableError("nobody is there")

        assert worker._parts is not None
        worker._provider.renew = away  # type: ignore[method-assign]
        worker._parts.keeper.wake()
        await becomes_true(lambda: worker.health().store_error == "nobody is there")
        assert worker.health().is_ready  # its lease holds still
        passed = 11.0
        found = worker.health()
        assert (found.is_live, found.is_ready, found.lease_s) == (True, False, 0.0)
        assert found.store_answered_s is not None
        assert found.store_answered_s > 10
        worker._provider.renew = renew  # type: ignore[method-assign]
        worker._parts.keeper.wake()
        await becomes_true(lambda: worker.health().is_ready)
        assert worker.health().store_error is None
