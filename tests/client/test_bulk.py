"""Cancel, terminate, suspend, resume and rewind by filter, with a dry run that says how many would be meant."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durable import Client, InvalidInputError, OrchestrationContext, OrchestrationStatus, Worker
from tests.worker.lives import lives_app, until

app = lives_app()
mended = asyncio.Event()


@app.activity
def work(name: str) -> str:
    if not mended.is_set():
        raise ValueError(f"{name} is broken")
    return name


@app.orchestrator
async def works(ctx: OrchestrationContext, name: str) -> str:
    return await ctx.call_activity(work, name)


async def statuses(client: Client, **filters: Any) -> dict[str, str]:
    return {state.instance_id: state.status.name async for state in client.query(**filters)}


async def test_each_means_those_with_which_it_can_do_something(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        client = worker.client
        waiting = [
            await client.start("waits-async", None, instance_id=f"w{n}", tags={"t": str(n % 2)}) for n in range(6)
        ]
        await client.run("returns-async", 1, instance_id="done", timeout=20)
        for handle in waiting:
            await until(handle, status="waiting")
        assert await client.suspend(tags={"t": "0"}, dry_run=True) == 3
        assert set((await statuses(client, prefix="w")).values()) == {"RUNNING"}
        assert await client.suspend(tags={"t": "0"}) == 3
        for handle in waiting[::2]:
            await until(handle, OrchestrationStatus.SUSPENDED)
        assert await client.suspend(prefix="w", dry_run=True) == 3
        assert await client.resume(prefix="w0") == 1
        assert await client.resume(prefix="w", dry_run=True, status="RUNNING") == 0
        await until(waiting[0], OrchestrationStatus.RUNNING)
        assert await client.cancel(prefix="w", status=[OrchestrationStatus.RUNNING], reason="enough") == 4
        for number in (0, 1, 3, 5):
            await until(waiting[number], OrchestrationStatus.CANCELLED)
        assert await client.terminate(prefix="w") == 2
        assert await client.wait(prefix="w", timeout=20) == 6
        assert await statuses(client) == {
            **{f"w{n}": "CANCELLED" if n in (0, 1, 3, 5) else "TERMINATED" for n in range(6)},
            "done": "COMPLETED",
        }
        assert await client.terminate(prefix="w") == await client.cancel(name="waits-async") == 0


async def test_rewind_means_what_has_failed(store_url: str) -> None:
    mended.clear()
    async with Worker(app, store_url) as worker:
        client = worker.client
        handles = [await client.start(works, f"name-{n}", instance_id=f"f{n}") for n in range(5)]
        waiting = await client.start("waits-async", None, instance_id="fw")
        await until(waiting, status="waiting")
        await waiting.terminate()
        await client.wait(prefix="f", timeout=20)
        assert await client.rewind(prefix="f", dry_run=True) == 5
        mended.set()
        assert await client.rewind(prefix="f", reason="mended") == 5
        assert [await handle.result(timeout=20) for handle in handles] == [f"name-{n}" for n in range(5)]
        assert await client.rewind(prefix="f") == 0
        assert (await waiting.state()).status is OrchestrationStatus.TERMINATED
        assert await client.rewind(status="TERMINATED") == 1
        await waiting.raise_event("go", 1)
        assert await waiting.result(timeout=20) == [None, 1]


async def test_more_than_a_page_of_them(store_url: str) -> None:
    async with Client(store_url, app) as client:
        await asyncio.gather(*(client.start("waits-async", n, tags={"t": "1"}) for n in range(450)))
        assert await client.cancel(tags={"t": "1"}, dry_run=True) == 450
        assert await client.cancel(tags={"t": "1"}) == 450
        async with Worker(app, store_url):
            assert await client.wait(tags={"t": "1"}, timeout=60) == 450
        assert await client.count(status="CANCELLED") == 450


@pytest.mark.parametrize("call", ["cancel", "terminate", "suspend", "resume", "rewind"])
async def test_everything_is_meant_by_nobody(store_url: str, call: str) -> None:
    async with Client(store_url, app) as client:
        handle = await client.start("waits-async", 1)
        act: Any = getattr(client, call)
        for options in ({}, {"dry_run": True}, {"prefix": ""}, {"tags": {}}):
            with pytest.raises(ValueError, match=f"{call} needs a filter"):
                await act(**options)
        with pytest.raises(InvalidInputError):
            await act(prefix="x", reason="\ud800")
        assert await act(status=()) == 0
        assert await act(prefix="nobody") == 0
        assert (await handle.state()).status is OrchestrationStatus.PENDING


async def test_the_blocking_client_has_them_too(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start("waits-async", 1, instance_id="w")
        await until(handle, status="waiting")

        def terminate() -> int:
            with Client.sync(store_url) as client:
                return client.terminate(prefix="w", recursive=False)

        assert await worker.ports.run_blocking(terminate) == 1
        await until(handle, OrchestrationStatus.TERMINATED)
