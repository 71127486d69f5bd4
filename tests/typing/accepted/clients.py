"""Clients and handles: results are typed by the function that was started."""

import asyncio
from datetime import timedelta
from typing import Any, assert_type

from durable import (
    App,
    Client,
    Handle,
    HistoryEvent,
    Orchestration,
    OrchestrationContext,
    OrchestrationState,
    OrchestrationStatus,
    ReusePolicy,
    SyncHandle,
    Worker,
)

app = App()


@app.orchestrator
async def count(ctx: OrchestrationContext, words: list[str]) -> int:
    return len(words)


@app.orchestrator
def tick(ctx: OrchestrationContext) -> Orchestration[str]:
    yield ctx.create_timer(timedelta(1))
    return "tick"


async def main() -> None:
    async with Worker(app, "sqlite:///hello.db", name="one", queues=("default", "heavy")) as worker:
        handle = await worker.client.start(count, ["a"])
        assert_type(handle, Handle[int])
        assert_type(await handle.result(timeout=30), int)
    async with Client("memory://") as client:
        assert_type(await client.run(tick, timeout=timedelta(seconds=5)), str)
        assert_type(await client.run(count, ["a"]), int)
        assert_type(await client.run("by-name", object()), Any)
        assert_type(
            await client.start(
                tick,
                instance_id="x",
                at=timedelta(1),
                tags={"a": "b"},
                reuse_policy=ReusePolicy.REJECT,
                events=[("n", 1)],
            ),
            Handle[str],
        )
        assert_type(await client.start("by-name", 5), Handle[Any])
        assert_type(client.get("x"), Handle[Any])
        assert_type(client.get("x", count), Handle[int])
        assert_type(client.get("x", tick), Handle[str])
        state = await client.get("x").state()
        assert_type(state, OrchestrationState)
        assert_type(state.status, OrchestrationStatus)
        async for found in client.query(status=OrchestrationStatus.RUNNING, tags={"a": "b"}, limit=5):
            assert_type(found, OrchestrationState)
        assert_type(await client.count(name="tick"), int)
        async for seen in handle.watch():
            assert_type(seen, OrchestrationState)
        for event in await handle.history():
            assert_type(event, HistoryEvent)
        assert_type(await handle.query("total"), Any)
        assert_type(await handle.update("add", 5, timeout=timedelta(seconds=5)), Any)


def handles_are_covariant(flags: Handle[bool]) -> Handle[float]:
    return flags


def script() -> None:
    with Client.sync("sqlite:///hello.db") as client:
        handle = client.start(count, ["a"])
        assert_type(handle, SyncHandle[int])
        assert_type(handle.result(timeout=5), int)
        assert_type(client.run(tick), str)
        assert_type(handle.query("total", 5), Any)
        assert_type(handle.update("add", 5, timeout=5), Any)


asyncio.run(main())
