"""Cancel, terminate, suspend and resume: what each does at each station, and what of it survives a restart."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    App,
    Orchestration,
    OrchestrationCancelledError,
    OrchestrationContext,
    OrchestrationFailedError,
    OrchestrationStatus,
    OrchestrationTerminatedError,
    Worker,
)
from tests.worker.lives import STYLES, becomes_true, lives_app, names_of, open_store, until

RUNNING, SUSPENDED = OrchestrationStatus.RUNNING, OrchestrationStatus.SUSPENDED
COMPLETED, FAILED = OrchestrationStatus.COMPLETED, OrchestrationStatus.FAILED
CANCELLED, TERMINATED = OrchestrationStatus.CANCELLED, OrchestrationStatus.TERMINATED


def steered_app(noted: list[Any] | None = None) -> App:
    """Programs that meet a cancellation in different ways; `noted` takes what an activity is given."""
    app = lives_app()

    @app.activity
    async def note(item: Any) -> Any:
        if noted is not None:
            noted.append(item)
        return item

    @app.activity
    async def slow(item: Any) -> Any:
        await asyncio.sleep(30)
        return item

    @app.orchestrator(name="swallows-async")
    async def swallows_async(ctx: OrchestrationContext) -> Any:
        raised = 0
        while True:
            try:
                ctx.set_custom_status(raised)
                return [raised, await ctx.wait_for_external_event("go")]
            except asyncio.CancelledError:
                raised += 1

    @app.orchestrator(name="swallows-generator")
    def swallows(ctx: OrchestrationContext) -> Orchestration[Any]:
        raised = 0
        while True:
            try:
                ctx.set_custom_status(raised)
                return [raised, (yield ctx.wait_for_external_event("go"))]
            except asyncio.CancelledError:
                raised += 1

    @app.orchestrator(name="tidies-async")
    async def tidies_async(ctx: OrchestrationContext) -> None:
        ctx.set_custom_status("waiting")
        try:
            await ctx.wait_for_external_event("go")
        finally:
            await ctx.call_activity(note, "tidied")

    @app.orchestrator(name="tidies-generator")
    def tidies(ctx: OrchestrationContext) -> Orchestration[None]:
        ctx.set_custom_status("waiting")
        try:
            yield ctx.wait_for_external_event("go")
        finally:
            yield ctx.call_activity(note, "tidied")

    @app.orchestrator(name="unasked-async")
    async def unasked_async(ctx: OrchestrationContext) -> None:
        raise asyncio.CancelledError

    @app.orchestrator(name="unasked-generator")
    def unasked(ctx: OrchestrationContext) -> Orchestration[None]:
        task = ctx.create_timer(timedelta(hours=1))
        task.cancel()
        yield task

    @app.orchestrator(name="works-async")
    async def works_async(ctx: OrchestrationContext) -> Any:
        ctx.set_custom_status("working")
        return await ctx.call_activity(slow, 1)

    @app.orchestrator(name="works-generator")
    def works(ctx: OrchestrationContext) -> Orchestration[Any]:
        ctx.set_custom_status("working")
        return (yield ctx.call_activity(slow, 1))

    return app


# ---- cancel


@pytest.mark.parametrize("style", STYLES)
async def test_a_cancel_that_is_let_out_ends_cancelled_with_its_reason(store_url: str, style: str) -> None:
    async with Worker(steered_app(), store_url) as worker:
        handle = await worker.client.start(f"waits-{style}")
        await until(handle, status="waiting")
        await handle.cancel("no longer needed")
        with pytest.raises(OrchestrationCancelledError, match="no longer needed"):
            await handle.result(timeout=10)
        assert (await handle.state()).status is CANCELLED
        assert names_of(await handle.history())[-2:] == ["OrchestrationCancelRequested", "OrchestrationCancelled"]


@pytest.mark.parametrize("style", STYLES)
async def test_a_cancel_is_raised_once_and_one_that_is_swallowed_ends_completed(store_url: str, style: str) -> None:
    async with Worker(steered_app(), store_url) as worker:
        handle = await worker.client.start(f"swallows-{style}")
        await until(handle, status=0)
        for _ in range(3):
            await handle.cancel("again")
        await until(handle, status=1)
        await handle.cancel()
        await handle.raise_event("go", "done")
        assert await handle.result(timeout=10) == [1, "done"]
        assert (await handle.state()).status is COMPLETED
        assert [item.kind for item in await handle.dropped()] == ["OrchestrationCancelRequested"] * 3


@pytest.mark.parametrize("style", STYLES)
async def test_tidying_up_after_a_cancel_may_wait_and_call(store_url: str, style: str) -> None:
    noted: list[Any] = []
    async with Worker(steered_app(noted), store_url) as worker:
        handle = await worker.client.start(f"tidies-{style}")
        await until(handle, status="waiting")
        await handle.cancel()
        assert (await handle.wait(timeout=10)).status is CANCELLED
        assert noted == ["tidied"]


@pytest.mark.parametrize("style", STYLES)
async def test_a_cancellation_that_nobody_asked_for_is_a_failure(store_url: str, style: str) -> None:
    async with Worker(steered_app(), store_url) as worker:
        handle = await worker.client.start(f"unasked-{style}")
        with pytest.raises(OrchestrationFailedError) as failed:
            await handle.result(timeout=10)
        assert failed.value.details.is_caused_by("CancelledError")
        assert (await handle.state()).status is FAILED


@pytest.mark.parametrize("style", STYLES)
async def test_a_cancel_sent_with_no_worker_around_applies_with_the_next(store_url: str, style: str) -> None:
    app = steered_app()
    async with open_store(store_url, app) as client:
        async with Worker(app, store_url):
            handle = await client.start(f"waits-{style}")
            await until(handle, status="waiting")
        await handle.cancel("in the night")
        assert (await handle.state()).status is RUNNING
        async with Worker(app, store_url):
            with pytest.raises(OrchestrationCancelledError, match="in the night"):
                await handle.result(timeout=10)


@pytest.mark.parametrize("style", STYLES)
async def test_cancel_and_event_in_either_order_have_one_outcome_that_wait_tells(store_url: str, style: str) -> None:
    """Whichever commits first wins, and the history agrees with the status."""
    async with Worker(steered_app(), store_url) as worker:
        for _ in range(10):
            handle = await worker.client.start(f"waits-{style}", 1)
            await asyncio.gather(handle.cancel(), handle.raise_event("go", 2), return_exceptions=True)
            state = await handle.wait(timeout=10)
            assert state.status in (CANCELLED, COMPLETED)
            last = names_of(await handle.history())[-1]
            assert last == ("OrchestrationCancelled" if state.status is CANCELLED else "OrchestrationCompleted")


# ---- terminate


@pytest.mark.parametrize("style", STYLES)
async def test_a_termination_ends_at_once_and_runs_no_code(store_url: str, style: str) -> None:
    noted: list[Any] = []
    async with Worker(steered_app(noted), store_url) as worker:
        handle = await worker.client.start(f"tidies-{style}")
        await until(handle, status="waiting")
        await handle.raise_event("spare", 1)
        await handle.terminate("by force")
        with pytest.raises(OrchestrationTerminatedError, match="by force"):
            await handle.result(timeout=10)
        assert noted == []
        state = await handle.state()
        assert (state.status, state.activities) == (TERMINATED, ())
        assert names_of(await handle.history())[-1] == "OrchestrationTerminated"
        assert "spare" in [item.name for item in await handle.dropped()]


@pytest.mark.parametrize("style", STYLES)
async def test_a_running_activity_of_a_terminated_instance_is_stopped(store_url: str, style: str) -> None:
    async with Worker(steered_app(), store_url, shutdown_timeout=20) as worker:
        handle = await worker.client.start(f"works-{style}")
        await until(handle, status="working")
        await becomes_true(lambda: _has_activities(handle))
        await handle.terminate()
        assert (await handle.wait(timeout=5)).status is TERMINATED
        assert worker._parts is not None
        await becomes_true(lambda: not worker._parts.runner.attempts, within_s=5)


async def _has_activities(handle: Any) -> bool:
    return bool((await handle.state()).activities)


@pytest.mark.parametrize("style", STYLES)
async def test_buffered_events_of_a_terminated_instance_are_listed_after_a_restart_too(
    store_url: str, style: str
) -> None:
    app = steered_app()
    async with open_store(store_url, app) as client:
        async with Worker(app, store_url):
            handle = await client.start(f"waits-{style}")
            for number in range(3):
                await handle.raise_event("spare", number)
            await until(handle, status="waiting")
            await becomes_true(lambda: _spares(handle))
        await handle.terminate()
        async with Worker(app, store_url):
            assert (await handle.wait(timeout=10)).status is TERMINATED
            assert [(item.kind, item.name) for item in await handle.dropped()] == [("EventRaised", "spare")] * 3


async def _spares(handle: Any) -> bool:
    return names_of(await handle.history()).count("EventRaised") == 3


# ---- suspend and resume


@pytest.mark.parametrize("style", STYLES)
async def test_a_suspended_instance_takes_in_what_arrives_and_moves_when_resumed(store_url: str, style: str) -> None:
    async with Worker(steered_app(), store_url) as worker:
        handle = await worker.client.start(f"collects-{style}", 4)
        await handle.raise_event("item", 0)
        await until(handle, status=1)
        await handle.suspend("lunch")
        await until(handle, SUSPENDED)
        for number in (1, 2, 3):
            await handle.raise_event("item", number)
        await handle.suspend("still")
        await becomes_true(lambda: _count(handle, "EventRaised", 4))
        state = await handle.state()
        assert (state.status, state.custom_status) == (SUSPENDED, 1)
        await handle.resume()
        assert await handle.result(timeout=10) == [0, 1, 2, 3]
        names = names_of(await handle.history())
        assert names.count("OrchestrationSuspended") == names.count("OrchestrationResumed") == 1
        assert [item.kind for item in await handle.dropped()] == ["OrchestrationSuspended"]


async def _count(handle: Any, name: str, count: int) -> bool:
    return names_of(await handle.history()).count(name) == count


@pytest.mark.parametrize("style", STYLES)
async def test_timers_and_activities_of_a_suspended_instance_wait_for_the_resume(store_url: str, style: str) -> None:
    app = steered_app()

    @app.orchestrator(name="mixed-async")
    async def mixed_async(ctx: OrchestrationContext) -> str:
        ctx.set_custom_status("begun")
        await asyncio.gather(ctx.create_timer(timedelta(milliseconds=50)), ctx.call_activity("note", 1))
        ctx.set_custom_status("went on")
        return "done"

    @app.orchestrator(name="mixed-generator")
    def mixed(ctx: OrchestrationContext) -> Orchestration[str]:
        ctx.set_custom_status("begun")
        tasks = [ctx.create_timer(timedelta(milliseconds=50)), ctx.call_activity("note", 1)]
        for task in tasks:  # noqa: UP028 (what is sent back goes to this generator)
            yield task
        ctx.set_custom_status("went on")
        return "done"

    async with open_store(store_url, app) as client:
        handle = await client.start(f"mixed-{style}")
        await handle.suspend()
        async with Worker(app, store_url):
            assert (await until(handle, SUSPENDED)).custom_status is None
            await handle.resume()
            await until(handle, COMPLETED, status="begun")
            await handle.suspend()
            await handle.wait(timeout=0.0) if (await handle.state()).status is COMPLETED else None
        async with Worker(app, store_url):
            if (await handle.state()).status is not COMPLETED:
                await becomes_true(lambda: _count(handle, "TimerFired", 1))
                assert (await until(handle, SUSPENDED, COMPLETED)).custom_status in ("begun", "went on")
                await handle.resume()
            assert await handle.result(timeout=10) == "done"


@pytest.mark.parametrize("style", STYLES)
async def test_cancel_of_a_suspended_instance_waits_and_terminate_does_not(store_url: str, style: str) -> None:
    async with Worker(steered_app(), store_url) as worker:
        patient = await worker.client.start(f"waits-{style}")
        doomed = await worker.client.start(f"waits-{style}")
        for handle in (patient, doomed):
            await until(handle, status="waiting")
            await handle.suspend()
            await until(handle, SUSPENDED)
        await patient.cancel("later")
        await becomes_true(lambda: _count(patient, "OrchestrationCancelRequested", 1))
        assert (await patient.state()).status is SUSPENDED
        await doomed.terminate()
        assert (await doomed.wait(timeout=10)).status is TERMINATED
        await patient.resume()
        with pytest.raises(OrchestrationCancelledError, match="later"):
            await patient.result(timeout=10)


@pytest.mark.parametrize("style", STYLES)
async def test_a_suspension_survives_restarts(store_url: str, style: str) -> None:
    app = steered_app()
    async with open_store(store_url, app) as client:
        async with Worker(app, store_url):
            handle = await client.start(f"collects-{style}", 3)
            await handle.raise_event("item", 0)
            await until(handle, status=1)
            await handle.suspend()
            await until(handle, SUSPENDED)
            await handle.raise_event("item", 1)
        await handle.raise_event("item", 2)
        async with Worker(app, store_url):
            await becomes_true(lambda: _count(handle, "EventRaised", 3))
            assert (await handle.state()).status is SUSPENDED
        await handle.resume()
        async with Worker(app, store_url):
            assert await handle.result(timeout=10) == [0, 1, 2]


async def test_resuming_what_is_not_suspended_is_noted_and_changes_nothing(store_url: str) -> None:
    async with Worker(steered_app(), store_url) as worker:
        handle = await worker.client.start("waits-async", 1)
        await until(handle, status="waiting")
        await handle.resume()
        await becomes_true(lambda: handle.dropped())
        assert (await handle.state()).status is RUNNING
        await handle.raise_event("go", 2)
        assert await handle.result(timeout=10) == [1, 2]
        assert [item.kind for item in await handle.dropped()] == ["OrchestrationResumed"]


@pytest.mark.parametrize("style", STYLES)
async def test_a_cancel_held_while_suspended_outlives_a_continue_as_new(store_url: str, style: str) -> None:
    """The resume first brings an event on which the code continues as new; the cancel behind it is still raised."""
    app = steered_app()

    @app.orchestrator(name="renews-async")
    async def renews_async(ctx: OrchestrationContext, round: int) -> None:
        ctx.set_custom_status(round)
        await ctx.wait_for_external_event("next")
        ctx.continue_as_new(round + 1)

    @app.orchestrator(name="renews-generator")
    def renews(ctx: OrchestrationContext, round: int) -> Orchestration[None]:
        ctx.set_custom_status(round)
        yield ctx.wait_for_external_event("next")
        ctx.continue_as_new(round + 1)

    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"renews-{style}", 1)
        await until(handle, status=1)
        await handle.suspend()
        await until(handle, SUSPENDED)
        await handle.raise_event("next")
        await becomes_true(lambda: _count(handle, "EventRaised", 1))
        await handle.cancel("enough")
        await becomes_true(lambda: _count(handle, "OrchestrationCancelRequested", 1))
        await handle.resume()
        with pytest.raises(OrchestrationCancelledError, match="enough"):
            await handle.result(timeout=10)
        assert (await handle.state()).generation == 1


@pytest.mark.parametrize("end", ["resume", "terminate"])
async def test_a_cancel_held_while_suspended_that_comes_too_late_is_listed(store_url: str, end: str) -> None:
    """The resume first brings the event on which the code ends; a termination leaves the cancel behind as well."""
    async with Worker(steered_app(), store_url) as worker:
        handle = await worker.client.start("waits-async", 1)
        await until(handle, status="waiting")
        await handle.suspend()
        await until(handle, SUSPENDED)
        await handle.raise_event("go", 2)
        await becomes_true(lambda: _count(handle, "EventRaised", 1))
        await handle.cancel("enough")
        await becomes_true(lambda: _count(handle, "OrchestrationCancelRequested", 1))
        await handle.cancel("once more")
        await becomes_true(lambda: handle.dropped())
        await (handle.resume() if end == "resume" else handle.terminate())
        assert (await handle.wait(timeout=10)).status is (COMPLETED if end == "resume" else TERMINATED)
        kinds = ["OrchestrationCancelRequested"] * 2 + ["EventRaised"] * (end == "terminate")
        assert sorted(item.kind for item in await handle.dropped()) == sorted(kinds)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("steer", ["cancel", "terminate", "suspend"])
async def test_an_instance_that_never_rests_can_be_steered(store_url: str, steer: str, style: str) -> None:
    """It continues as new without ever waiting, so that it always has a turn to run."""
    app = steered_app()

    @app.orchestrator(name="restless-async")
    async def restless_async(ctx: OrchestrationContext, number: int) -> None:
        await ctx.create_timer(timedelta(0))
        ctx.continue_as_new(number + 1)

    @app.orchestrator(name="restless-generator")
    def restless(ctx: OrchestrationContext, number: int) -> Orchestration[None]:
        yield ctx.create_timer(timedelta(0))
        ctx.continue_as_new(number + 1)

    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"restless-{style}", 0)
        await becomes_true(lambda: _generation_over(handle, 5))
        await getattr(handle, steer)("enough")
        end = {"cancel": CANCELLED, "terminate": TERMINATED, "suspend": SUSPENDED}[steer]
        state = await until(handle, end)
        assert await worker.client.run("returns-async", 1, timeout=10) == 1
        if steer == "suspend":
            assert (await handle.state()).generation == state.generation
            await handle.resume()
            await becomes_true(lambda: _generation_over(handle, state.generation + 5))
            await handle.terminate()
            await handle.wait(timeout=10)


async def _generation_over(handle: Any, generation: int) -> bool:
    return bool((await handle.state()).generation > generation)
