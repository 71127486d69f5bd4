"""From start to purge: what a handle shows of an instance at each station of its life."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable import (
    Client,
    InstanceAlreadyExistsError,
    InstanceFinishedError,
    InstanceNotFoundError,
    InstanceRunningError,
    Orchestration,
    OrchestrationCancelledError,
    OrchestrationContext,
    OrchestrationFailedError,
    OrchestrationStatus,
    OrchestrationTerminatedError,
    Worker,
)
from tests.worker.lives import STYLES, becomes_true, lives_app, names_of, open_store, until

app = lives_app()

PENDING, RUNNING, COMPLETED = OrchestrationStatus.PENDING, OrchestrationStatus.RUNNING, OrchestrationStatus.COMPLETED
FAILED, CANCELLED = OrchestrationStatus.FAILED, OrchestrationStatus.CANCELLED
SUSPENDED, TERMINATED = OrchestrationStatus.SUSPENDED, OrchestrationStatus.TERMINATED


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("value", [0, "", [], {}, False, None, "text", 2**70, [1, {"a": None}]], ids=repr)
async def test_a_result_arrives_as_it_was_returned(store_url: str, value: Any, style: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"returns-{style}", value)
        assert await handle.result(timeout=10) == value
        assert await worker.client.get(handle.instance_id).result() == value
        state = await handle.state()
        assert (state.status, state.input, state.output) == (COMPLETED, value, value)
        assert state.completed_at is not None
        assert state.failure_details is None
        assert names_of(await handle.history()) == ["OrchestrationStarted", "OrchestrationCompleted"]


@pytest.mark.parametrize("style", STYLES)
async def test_a_failure_shows_what_left_the_orchestrator(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"raises-{style}", "so bad")
        with pytest.raises(OrchestrationFailedError) as failed:
            await handle.result(timeout=10)
        details = failed.value.details
        assert (details.error_type, details.message) == ("ValueError", "so bad")
        assert details.is_caused_by(ValueError)
        assert "lives.py" in details.stack_trace
        state = await handle.wait()
        assert state.status is FAILED
        assert state.failure_details == details
        assert names_of(await handle.history())[-1] == "OrchestrationFailed"


async def test_watch_gives_every_station_and_then_ends(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start("collects-async", 3)
        seen = []

        async def look() -> None:
            async for state in handle.watch():
                seen.append((state.status, state.custom_status))

        watching = asyncio.create_task(look())
        await becomes_true(lambda: seen)
        for number in range(3):
            await handle.raise_event("item", number)
            await until(handle, COMPLETED, status=number + 1)
        await asyncio.wait_for(watching, 10)
        assert seen[0] in [(PENDING, None), (RUNNING, None)]
        assert seen[-1] == (COMPLETED, 3)
        assert [custom for _, custom in seen if custom] == sorted({custom for _, custom in seen if custom} | {3})


async def test_a_timeout_says_where_the_instance_stands(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start("waits-async")
        await until(handle, status="waiting")
        for wait in (handle.result, handle.wait):
            with pytest.raises(TimeoutError, match="RUNNING"):
                await wait(timeout=timedelta(milliseconds=20))
        with pytest.raises(TimeoutError, match="RUNNING"):
            await worker.client.run("waits-async", timeout=0.2)


async def test_an_unknown_id_is_not_found_by_any_call(store_url: str) -> None:
    async with Client(store_url) as client:
        handle = client.get("nobody")
        calls = [
            handle.result,
            handle.wait,
            handle.state,
            handle.history,
            handle.dropped,
            handle.purge,
            handle.cancel,
            handle.terminate,
            handle.suspend,
            handle.resume,
            lambda: handle.raise_event("go"),
            lambda: anext(handle.watch()),
        ]
        for call in calls:
            with pytest.raises(InstanceNotFoundError):
                await call()


@pytest.mark.parametrize("style", STYLES)
async def test_a_finished_instance_takes_nothing_more(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"returns-{style}", 1)
        await handle.result(timeout=10)
        before = await handle.state()
        for call in (handle.cancel, handle.terminate, handle.suspend, handle.resume, lambda: handle.raise_event("go")):
            with pytest.raises(InstanceFinishedError):
                await call()
        assert await handle.state() == before


async def test_purge_removes_a_finished_run_and_refuses_an_unfinished_one(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start("waits-async", instance_id="one")
        await until(handle, status="waiting")
        with pytest.raises(InstanceRunningError):
            await handle.purge()
        await handle.raise_event("go")
        await handle.result(timeout=10)
        assert await handle.purge() == 1
        for call in (handle.state, handle.result, handle.history, handle.purge):
            with pytest.raises(InstanceNotFoundError):
                await call()
        again = await worker.client.start("returns-async", 2, instance_id="one")
        assert await again.result(timeout=10) == 2
        with pytest.raises(InstanceNotFoundError):
            await handle.state()


async def test_tags_parent_and_times_are_shown_from_the_start(store_url: str) -> None:
    async with Client(store_url, app) as client:
        handle = await client.start("waits-async", "in", instance_id="one", tags={"team": "blue"})
        state = await handle.state()
        assert (state.status, state.name, state.input, dict(state.tags)) == (
            PENDING,
            "waits-async",
            "in",
            {"team": "blue"},
        )
        assert state.created_at.tzinfo is not None
        assert abs(state.created_at - datetime.now(UTC)) < timedelta(seconds=30)
        assert (state.parent_instance_id, state.generation, state.completed_at) == (None, 0, None)
        assert names_of(await handle.history()) == []


# ---- delayed starts


@pytest.mark.parametrize("style", STYLES)
async def test_a_delayed_start_waits_for_its_time_and_keeps_what_comes_before(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        due = datetime.now(UTC) + timedelta(seconds=0.6)
        handle = await worker.client.start(f"waits-{style}", "in", at=due)
        await handle.raise_event("go", "early")
        state = await handle.state()
        assert state.status is PENDING
        assert abs(state.scheduled_at - due) < timedelta(milliseconds=1)
        assert await handle.result(timeout=10) == ["in", "early"]
        ended = (await handle.state()).completed_at
        assert ended is not None
        assert ended >= due
        with pytest.raises(InstanceAlreadyExistsError):
            await worker.client.start("returns-async", instance_id=handle.instance_id, at=timedelta(hours=1))


async def test_a_start_that_became_due_while_no_worker_ran_runs_at_once(store_url: str) -> None:
    async with open_store(store_url, app) as client:
        past = await client.start("returns-async", 1, at=datetime.now(UTC) - timedelta(days=3))
        soon = await client.start("returns-generator", 2, at=timedelta(milliseconds=1))
        async with Worker(app, store_url):
            assert await past.result(timeout=10) == 1
            assert await soon.result(timeout=10) == 2


@pytest.mark.parametrize("at", [timedelta(days=36_525), datetime(9999, 12, 31, tzinfo=UTC)], ids=["100 years", "9999"])
async def test_a_start_in_the_far_future_is_kept_and_can_be_ended(store_url: str, at: Any) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start("returns-async", 1, at=at)
        with pytest.raises(TimeoutError, match="PENDING"):
            await handle.result(timeout=0.05)
        await handle.terminate("not needed")
        assert (await handle.wait(timeout=10)).status is TERMINATED


async def test_a_naive_time_is_refused(store_url: str) -> None:
    async with Client(store_url, app) as client:
        with pytest.raises(ValueError, match="aware"):
            await client.start("returns-async", at=datetime(2030, 1, 1))
        with pytest.raises(TypeError):
            await client.start("returns-async", at=5)  # type: ignore[arg-type]
        assert await client.count() == 0


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("after_restart", [False, True], ids=["same worker", "next worker"])
@pytest.mark.parametrize("steer", ["cancel", "terminate"])
async def test_a_start_that_is_not_due_can_be_ended_and_never_runs(
    store_url: str, steer: str, after_restart: bool, style: str
) -> None:
    ran = []
    own = lives_app()

    @own.orchestrator(name="notes-async")
    async def notes_async(ctx: OrchestrationContext) -> None:
        ran.append(ctx.instance_id)

    @own.orchestrator(name="notes-generator")
    def notes(ctx: OrchestrationContext) -> Orchestration[None]:
        ran.append(ctx.instance_id)
        return
        yield

    error = OrchestrationCancelledError if steer == "cancel" else OrchestrationTerminatedError
    due = datetime.now(UTC) + timedelta(seconds=1)  # on a busy machine a worker takes its time to begin
    async with open_store(store_url, own) as client:
        handle = await client.start(f"notes-{style}", at=due, events=[("spare", 1)])
        if after_restart:
            await getattr(handle, steer)("changed our mind")
        async with Worker(own, store_url):
            if not after_restart:
                await getattr(handle, steer)("changed our mind")
            with pytest.raises(error, match="changed our mind"):
                await handle.result(timeout=10)
            sentinel = await client.start(f"notes-{style}", at=due + timedelta(seconds=0.1))
            await sentinel.result(timeout=10)
            assert ran == [sentinel.instance_id]
            assert [item.name for item in await handle.dropped()] == ["spare"]
            state = await handle.state()
            assert state.status is (CANCELLED if steer == "cancel" else TERMINATED)
            assert state.completed_at is not None
            assert state.completed_at < due


@pytest.mark.parametrize("style", STYLES)
async def test_a_start_that_is_not_due_can_be_suspended_and_resumed(store_url: str, style: str) -> None:
    """Suspended before it is due, it stays so past its time; resumed before it is due, it begins when it is.

    They are due late enough to be suspended before, also on a machine that has much else to do.
    """
    async with Worker(app, store_url) as worker:
        long = await worker.client.start(f"waits-{style}", "long", at=timedelta(seconds=0.5))
        await long.suspend()
        assert (await until(long, SUSPENDED)).custom_status is None
        await long.raise_event("go", 1)
        brief = await worker.client.start(f"waits-{style}", "brief", at=timedelta(seconds=0.6), events=[("go", 2)])
        await brief.suspend()
        await until(brief, SUSPENDED)
        await brief.resume()
        assert (await until(brief, PENDING, RUNNING)).status is PENDING
        assert await brief.result(timeout=10) == ["brief", 2]
        assert (await long.state()).status is SUSPENDED
        await long.resume()
        assert await long.result(timeout=10) == ["long", 1]


# ---- workers come and go


@pytest.mark.parametrize("style", STYLES)
async def test_an_instance_goes_on_with_each_next_worker(store_url: str, style: str) -> None:
    """One event per worker; each one knows what the ones before had seen."""
    async with open_store(store_url, app) as client:
        handle = await client.start(f"collects-{style}", 4)
        for number in range(4):
            async with Worker(app, store_url):
                await handle.raise_event("item", number)
                state = await until(handle, COMPLETED, status=number + 1)
        assert state.output == [0, 1, 2, 3] or await handle.result() == [0, 1, 2, 3]


async def test_what_is_sent_while_no_worker_runs_is_kept_in_order(store_url: str) -> None:
    async with open_store(store_url, app) as client:
        handle = await client.start("collects-generator", 300)
        for number in range(300):
            await handle.raise_event("item", number)
        async with Worker(app, store_url):
            assert await handle.result(timeout=20) == list(range(300))
