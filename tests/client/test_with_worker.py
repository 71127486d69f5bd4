"""The client with a real worker: in its own process half, and from beside it."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    ActivityContext,
    App,
    Client,
    InstanceFinishedError,
    Orchestration,
    OrchestrationCancelledError,
    OrchestrationContext,
    OrchestrationFailedError,
    OrchestrationStatus,
    OrchestrationTerminatedError,
    ReusePolicy,
    SyncHandle,
    Worker,
)

app = App()


@app.activity
def add(numbers: list[int]) -> int:
    return sum(numbers)


@app.activity
async def beat_until_cancelled(ctx: ActivityContext, text: str) -> None:
    while True:
        ctx.heartbeat({"text": text})
        await asyncio.sleep(0.01)


@app.orchestrator
async def add_all(ctx: OrchestrationContext, numbers: list[int]) -> int:
    ctx.set_custom_status("adding")
    return await ctx.call_activity(add, numbers)


@app.orchestrator
def collect(ctx: OrchestrationContext, count: int) -> Orchestration[list[Any]]:
    found = []
    for _ in range(count):
        found.append((yield ctx.wait_for_external_event("item")))
    return found


@app.orchestrator
async def wait_for_ever(ctx: OrchestrationContext) -> None:
    await ctx.wait_for_external_event("never")


@app.orchestrator
async def beat(ctx: OrchestrationContext) -> None:
    await ctx.call_activity(beat_until_cancelled, "tick")


@app.orchestrator
async def break_down(ctx: OrchestrationContext) -> None:
    raise ValueError("broken")


async def until_running(handle: Any) -> None:
    async for state in handle.watch():
        if state.status is not OrchestrationStatus.PENDING:
            return


async def test_a_client_beside_the_worker_sees_what_the_workers_own_sees(store_url: str) -> None:
    async with Worker(app, store_url) as worker, Client(store_url, app) as beside:
        for client in (worker.client, beside):
            assert await client.run(add_all, [1, 2, 3], timeout=20) == 6
            handle = await client.start(add_all, [4], tags={"who": "me"})
            assert await handle.result(timeout=20) == 4
            states = [state.custom_status async for state in client.query(tags={"who": "me"})]
            assert states[0] == "adding"
            assert [type(event).__name__ for event in await handle.history()][:2] == [
                "OrchestrationStarted",
                "ActivityScheduled",
            ]


async def test_events_reach_the_generator_in_order(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(collect, 5, events=[("item", 0), ("item", None)])
        for number in range(2, 5):
            await handle.raise_event("item", number)
        assert await handle.result(timeout=20) == [0, None, 2, 3, 4]
        with pytest.raises(InstanceFinishedError):
            await handle.raise_event("item", 5)


async def test_how_it_ends_is_what_result_raises(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        client = worker.client
        failed, cancelled, terminated = [
            await client.start(function) for function in (break_down, wait_for_ever, wait_for_ever)
        ]
        await asyncio.gather(until_running(cancelled), until_running(terminated))
        await cancelled.cancel("enough")
        await terminated.terminate("now")
        with pytest.raises(OrchestrationFailedError) as caught:
            await failed.result(timeout=20)
        assert caught.value.details.is_caused_by(ValueError)
        with pytest.raises(OrchestrationCancelledError, match="enough"):
            await cancelled.result(timeout=20)
        with pytest.raises(OrchestrationTerminatedError, match="now"):
            await terminated.result(timeout=20)


async def test_suspend_and_resume_are_watched(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(collect, 1)
        seen = []
        async for state in handle.watch():
            seen.append(state.status)
            if state.status is OrchestrationStatus.RUNNING and OrchestrationStatus.SUSPENDED not in seen:
                await handle.suspend("a moment")
            elif state.status is OrchestrationStatus.SUSPENDED:
                await handle.raise_event("item", 1)
                await handle.resume()
        assert seen[-4:] == [
            OrchestrationStatus.RUNNING,
            OrchestrationStatus.SUSPENDED,
            OrchestrationStatus.RUNNING,
            OrchestrationStatus.COMPLETED,
        ] or seen[-3:] == [OrchestrationStatus.RUNNING, OrchestrationStatus.SUSPENDED, OrchestrationStatus.COMPLETED]


async def test_state_shows_the_running_activity_and_its_heartbeat(store_url: str) -> None:
    async with Worker(app, store_url, shutdown_timeout=0) as worker:
        handle = await worker.client.start(beat)
        async with asyncio.timeout(20):
            while True:
                activities = (await handle.state()).activities
                if activities and activities[0].heartbeat is not None:
                    break
                await asyncio.sleep(0.01)
        assert (activities[0].name, activities[0].attempt) == ("beat_until_cancelled", 1)
        assert activities[0].heartbeat == {"text": "tick"}
        await handle.terminate()
        assert (await handle.wait(timeout=20)).activities == ()


async def test_every_reuse_policy_holds_with_a_worker(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        client = worker.client
        first = await client.start(collect, 1, instance_id="a")
        existing = await client.start(collect, 1, instance_id="a", reuse_policy=ReusePolicy.USE_EXISTING)
        assert existing.run_id == first.run_id
        replaced = await client.start(collect, 2, instance_id="a", reuse_policy=ReusePolicy.TERMINATE_AND_REPLACE)
        await replaced.raise_event("item", "x")
        running = await client.start(
            collect, 3, instance_id="a", reuse_policy=ReusePolicy.USE_RUNNING, events=[("item", "y")]
        )
        with pytest.raises(OrchestrationTerminatedError):
            await first.result(timeout=20)
        assert await replaced.result(timeout=20) == ["x", "y"]
        assert running.run_id in (replaced.run_id, first.run_id)
        fourth = await client.start(collect, 0, instance_id="a", reuse_policy=ReusePolicy.REPLACE_FINISHED)
        assert await fourth.result(timeout=20) == []
        assert (await client.get("a").state()).run_id == fourth.run_id


async def test_a_start_for_later_begins_later(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(add_all, [1], at=timedelta(milliseconds=300))
        with pytest.raises(TimeoutError, match="PENDING"):
            await handle.result(timeout=0.1)
        assert await handle.result(timeout=20) == 1
        state = await handle.state()
        assert state.completed_at is not None
        assert state.completed_at >= state.scheduled_at


async def test_bulk_wait_and_purge_with_a_worker(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        await asyncio.gather(*(worker.client.start(add_all, [n], instance_id=f"b{n}") for n in range(30)))
        assert await worker.client.wait(prefix="b", timeout=20) == 30
        assert await worker.client.purge(prefix="b") == 30
        assert await worker.client.count() == 0


async def test_a_blocking_client_in_a_thread_talks_to_the_worker(store_url: str) -> None:
    async with Worker(app, store_url):
        answers: list[Any] = []

        def script() -> None:
            with Client.sync(store_url, app) as client:
                answers.append(client.run(add_all, [1, 2], timeout=20))
                handle: SyncHandle[list[Any]] = client.start(collect, 1)
                handle.raise_event("item", 7)
                answers.append(handle.result(timeout=20))

        thread = threading.Thread(target=script)
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.01)
        assert answers == [3, [7]]


async def test_states_and_histories_agree_on_versions(store_url: str) -> None:
    app = App()

    @app.activity
    def plain() -> None: ...

    @app.activity(version="1.2")
    def versioned() -> None: ...

    async def calls_both(ctx: OrchestrationContext) -> str | None:
        await ctx.call_activity(plain)
        await ctx.call_activity(versioned)
        return ctx.version

    app.orchestrator(name="without")(calls_both)
    app.orchestrator(name="with", version="1.10")(calls_both)
    async with Worker(app, store_url) as worker:
        for name, version in (("without", None), ("with", "1.10")):
            handle = await worker.client.start(name)
            assert await handle.result(timeout=15) == version
            assert (await handle.state()).version == version
            versions = {event.name: event.version for event in await handle.history() if hasattr(event, "version")}
            assert versions == {name: version, "plain": None, "versioned": "1.2"}
