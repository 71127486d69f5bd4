"""Cancelling a running activity: its task goes on at once, its function is told, and its outcome counts no more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    ActivityContext,
    App,
    Orchestration,
    OrchestrationContext,
    OrchestrationStatus,
    RetryPolicy,
    Worker,
    when_any,
)
from tests.worker.calls import STYLES, holds, names_in

KINDS = ["async", "sync"]


class Watched:
    """An app with an activity `long` that tells of its life, until it is cancelled or let go."""

    def __init__(self, kind: str) -> None:
        self.app = App()
        self.started: list[int] = []
        self.told: list[int] = []
        self.release = threading.Event()
        if kind == "async":

            @self.app.activity(name="long")
            async def long_async(ctx: ActivityContext, number: int = 0) -> str:
                self.started.append(number)
                try:
                    while not self.release.is_set():
                        await asyncio.sleep(0.002)
                except asyncio.CancelledError:
                    assert ctx.is_cancelled
                    self.told.append(number)
                    raise
                return "late"
        else:

            @self.app.activity(name="long")
            def long(ctx: ActivityContext, number: int = 0) -> str:
                self.started.append(number)
                while not self.release.wait(0.002):
                    if ctx.is_cancelled:
                        self.told.append(number)
                        break
                return "late"


@pytest.fixture
def watched(request: pytest.FixtureRequest) -> Iterator[Watched]:
    found = Watched(request.param)
    yield found
    found.release.set()


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claimed attempt learns of its cancellation with its next sign of life; a second of that is long for a test."""
    monkeypatch.setattr("durable.worker.claims.BEAT_S", 0.03)


both_kinds = pytest.mark.parametrize("watched", KINDS, indirect=True)
everywhere = pytest.mark.parametrize(
    ("watched", "place"), [("async", "held"), ("sync", "held"), ("async", "claimed")], indirect=["watched"]
)


class Running:
    """A worker that holds its activities, or one that leaves them to an activity-only worker beside it."""

    def __init__(self, app: App, store_url: str, place: str, **options: Any) -> None:
        self._workers = [Worker(app, store_url, activities=place == "held", **options)]
        if place == "claimed":
            self._workers.append(Worker(app, store_url, orchestrations=False, name="side", **options))

    async def __aenter__(self) -> Worker:
        for worker in self._workers:
            await worker.__aenter__()
        return self._workers[0]

    async def __aexit__(self, *_: object) -> None:
        for worker in reversed(self._workers):
            await worker.__aexit__(None, None, None)


@pytest.mark.parametrize("style", STYLES)
@everywhere
async def test_cancelling_the_task_tells_the_activity(store_url: str, style: str, watched: Watched, place: str) -> None:
    if style == "async":

        @watched.app.orchestrator
        async def main(ctx: OrchestrationContext) -> list[Any]:
            task = ctx.call_activity("long")
            await ctx.wait_for_external_event("go")
            first, second = task.cancel(), task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                return [first, second, task.is_complete, task.is_cancelled, task.is_failed]
            return []
    else:

        @watched.app.orchestrator(name="main")
        def main_in_generator_style(ctx: OrchestrationContext) -> Orchestration[list[Any]]:
            task = ctx.call_activity("long")
            yield ctx.wait_for_external_event("go")
            first, second = task.cancel(), task.cancel()
            try:
                yield task
            except asyncio.CancelledError:
                return [first, second, task.is_complete, task.is_cancelled, task.is_failed]
            return []

    async with Running(watched.app, store_url, place) as worker:
        handle = await worker.client.start("main")
        await holds(lambda: watched.started)
        await handle.raise_event("go")
        assert await handle.result(timeout=10) == [True, False, True, True, False]
        await holds(lambda: watched.told)
        names = await names_in(handle)
    assert names.count("ActivityCancelled") == 1
    assert names.count("ActivityCompleted") == names.count("ActivityFailed") == 0


async def test_a_complete_task_cannot_be_cancelled() -> None:
    app = App()

    @app.activity
    async def works() -> int:
        return 1

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> list[Any]:
        task = ctx.call_activity(works)
        await task
        return [task.cancel(), task.is_cancelled, await task]

    async with Worker(app, "memory://") as worker:
        assert await worker.client.run(main, timeout=10) == [False, False, 1]


@pytest.mark.parametrize("how", ["returns", "fails", "is cancelled", "is terminated", "continues as new"])
@everywhere
async def test_at_the_end_of_an_orchestration_its_activities_are_told(
    store_url: str, how: str, watched: Watched, place: str
) -> None:
    @watched.app.orchestrator
    async def main(ctx: OrchestrationContext, input: str = "first") -> str:
        if input == "second":
            return "second"
        ctx.call_activity("long", 7)
        await ctx.wait_for_external_event("go")
        if how == "fails":
            raise ValueError("no")
        if how == "continues as new":
            ctx.continue_as_new("second")
        return "first"

    async with Running(watched.app, store_url, place) as worker:
        handle = await worker.client.start(main)
        await holds(lambda: watched.started)
        if how == "is cancelled":
            await handle.cancel("enough")
        elif how == "is terminated":
            await handle.terminate("enough")
        else:
            await handle.raise_event("go")
        state = await handle.wait(timeout=10)
        assert state.status is {
            "fails": OrchestrationStatus.FAILED,
            "is cancelled": OrchestrationStatus.CANCELLED,
            "is terminated": OrchestrationStatus.TERMINATED,
        }.get(how, OrchestrationStatus.COMPLETED)
        assert state.activities == ()
        await holds(lambda: watched.told == [7])
        assert (await handle.wait(timeout=10)).status is state.status
    assert watched.started == [7]


@both_kinds
async def test_what_has_not_started_never_starts(watched: Watched) -> None:
    """One slot, one running, one waiting: the waiting one is cancelled and never runs."""

    @watched.app.orchestrator
    async def main(ctx: OrchestrationContext) -> list[bool]:
        running, waiting = ctx.call_activity("long", 1), ctx.call_activity("long", 2)
        await ctx.wait_for_external_event("go")
        waiting.cancel()
        await ctx.wait_for_external_event("end")
        return [running.is_complete, waiting.is_cancelled]

    async with Worker(watched.app, "memory://", max_activities=1) as worker:
        handle = await worker.client.start(main)
        await holds(lambda: watched.started == [1])
        await handle.raise_event("go")

        async def is_cancelled() -> bool:
            return "ActivityCancelled" in await names_in(handle)

        await holds(is_cancelled)
        watched.release.set()

        async def is_completed() -> bool:
            return "ActivityCompleted" in await names_in(handle)

        await holds(is_completed)
        await handle.raise_event("end")
        assert await handle.result(timeout=10) == [True, True]
    assert watched.started == [1]
    assert watched.told == []


async def test_a_cancelled_sync_activity_keeps_its_slot_until_it_returns() -> None:
    app = App()
    release = threading.Event()
    runs: list[int] = []

    @app.activity
    def deaf(number: int) -> int:
        runs.append(number)
        if number == 1:
            release.wait(10)
        return number

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> int:
        first = ctx.call_activity(deaf, 1)
        await ctx.wait_for_external_event("go")
        first.cancel()
        return await ctx.call_activity(deaf, 2)

    async with Worker(app, "memory://", max_activities=1) as worker:
        handle = await worker.client.start(main)
        await holds(lambda: runs == [1])
        await handle.raise_event("go")

        async def second_is_asked_for() -> bool:
            return (await names_in(handle)).count("ActivityScheduled") == 2

        await holds(second_is_asked_for)
        assert runs == [1]
        release.set()
        assert await handle.result(timeout=10) == 2
        (dropped,) = await holds(handle.dropped)
        assert (dropped.kind, dropped.name) == ("ActivityCompleted", "deaf")


async def test_asyncio_timeouts_and_task_groups_cancel_what_they_wait_for(store_url: str) -> None:
    watched = Watched("async")

    @watched.app.activity
    async def fails() -> None:
        await holds(lambda: 2 in watched.started)
        raise ValueError("no")

    @watched.app.orchestrator
    async def main(ctx: OrchestrationContext) -> list[str]:
        ended = []
        try:
            async with asyncio.timeout(0.05):
                await ctx.call_activity("long", 1)
        except TimeoutError:
            ended.append("timeout")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_awaited(ctx.call_activity("long", 2)))
                group.create_task(_awaited(ctx.call_activity(fails)))
        except* Exception:
            ended.append("group")
        return ended

    async with Worker(watched.app, store_url) as worker:
        assert await worker.client.run(main, timeout=10) == ["timeout", "group"]
        await holds(lambda: sorted(watched.told) == [1, 2])


async def _awaited(task: Any) -> Any:
    return await task


@pytest.mark.parametrize("style", STYLES)
async def test_when_any_cancels_nothing(store_url: str, style: str) -> None:
    """The loser goes on, and is told only at the end of the orchestration."""
    watched = Watched("async")
    if style == "async":

        @watched.app.orchestrator
        async def main(ctx: OrchestrationContext) -> bool:
            loser, timer = ctx.call_activity("long", 1), ctx.create_timer(timedelta(seconds=0.02))
            winner = await when_any([loser, timer])
            await ctx.wait_for_external_event("go")
            return winner is timer
    else:

        @watched.app.orchestrator(name="main")
        def main_in_generator_style(ctx: OrchestrationContext) -> Orchestration[bool]:
            loser, timer = ctx.call_activity("long", 1), ctx.create_timer(timedelta(seconds=0.02))
            winner = yield when_any([loser, timer])
            yield ctx.wait_for_external_event("go")
            return winner is timer

    async with Worker(watched.app, store_url) as worker:
        handle = await worker.client.start("main")

        async def timer_has_fired() -> bool:
            return "TimerFired" in await names_in(handle)

        await holds(timer_has_fired)
        assert watched.told == []
        await handle.raise_event("go")
        assert await handle.result(timeout=10) is True
        await holds(lambda: watched.told == [1])


@pytest.mark.parametrize("style", STYLES)
async def test_cancelling_a_call_in_the_wait_between_attempts_begins_no_other(store_url: str, style: str) -> None:
    app = App()
    attempts: list[int] = []

    @app.activity(retry_policy=RetryPolicy(timedelta(hours=1), None))
    async def fails(ctx: ActivityContext) -> None:
        attempts.append(ctx.attempt)
        raise ValueError("no")

    if style == "async":

        @app.orchestrator
        async def main(ctx: OrchestrationContext) -> str:
            task = ctx.call_activity(fails)
            await ctx.wait_for_external_event("cancel")
            task.cancel()
            await ctx.wait_for_external_event("end")
            return "done"
    else:

        @app.orchestrator(name="main")
        def main_in_generator_style(ctx: OrchestrationContext) -> Orchestration[str]:
            task = ctx.call_activity(fails)
            yield ctx.wait_for_external_event("cancel")
            task.cancel()
            yield ctx.wait_for_external_event("end")
            return "done"

    async def has(name: str) -> bool:
        return name in await names_in(handle)

    async with Worker(app, store_url) as worker:
        handle = await worker.client.start("main")
        await holds(lambda: has("TimerCreated"))
        await handle.raise_event("cancel")
        await holds(lambda: has("TimerCancelled"))  # and not only at the end, which comes later
        await handle.raise_event("end")
        assert await handle.result(timeout=10) == "done"
        names = await names_in(handle)
    assert attempts == [1]
    assert names.count("TimerCancelled") == 1


async def test_an_activity_that_swallows_its_cancellation_harms_nobody() -> None:
    app = App()

    @app.activity
    async def stubborn(ctx: ActivityContext) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
        return "swallowed"

    @app.activity
    async def works() -> str:
        return "works"

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> str:
        task = ctx.call_activity(stubborn)
        await asyncio.sleep(0.02)
        task.cancel()
        return await ctx.call_activity(works)

    async with Worker(app, "memory://", max_activities=1) as worker:
        assert await worker.client.run(main, timeout=10) == "works"
