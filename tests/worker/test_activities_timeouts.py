"""The four timeouts of an activity, and what an attempt that ran into one may still do: nothing that counts."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    ActivityContext,
    ActivityTimeoutError,
    App,
    Orchestration,
    OrchestrationContext,
    RetryPolicy,
    Worker,
    when_all,
)
from durable.worker import claims
from tests.worker.calls import STYLES, calls, calls_and_tells, holds, names_in, run

KINDS = ["async", "sync"]
AT_ONCE = RetryPolicy(timedelta(0), 3)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets stuck sync activities go, at the latest when the test ends."""
    event = threading.Event()
    yield event
    event.set()


def stuck_app(kind: str, release: threading.Event, ended: list[Any]) -> App:
    """An app whose activity `stuck` gets stuck on its first attempt, and tells of it; the second one ends at once."""
    app = App()
    if kind == "async":

        @app.activity(name="stuck")
        async def stuck_async(ctx: ActivityContext, beats: bool = False) -> str:
            if ctx.attempt == 1:
                if beats:
                    ctx.heartbeat("far")
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    ended.append(("cancelled", ctx.is_cancelled))
                    raise
            ended.append(("saw", ctx.last_heartbeat))
            return f"attempt {ctx.attempt}"
    else:

        @app.activity(name="stuck")
        def stuck(ctx: ActivityContext, beats: bool = False) -> str:
            if ctx.attempt == 1:
                if beats:
                    ctx.heartbeat("far")
                while not ctx.is_cancelled and not release.wait(0.002):
                    pass
                ended.append(("cancelled", ctx.is_cancelled))
                return "late"
            ended.append(("saw", ctx.last_heartbeat))
            return f"attempt {ctx.attempt}"

    return app


# ---- timeout: one attempt from its start


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", KINDS)
async def test_an_attempt_over_its_timeout_fails_as_a_timeout(
    store_url: str, kind: str, style: str, release: threading.Event
) -> None:
    ended: list[Any] = []
    app = stuck_app(kind, release, ended)
    calls_and_tells(app, lambda ctx: ctx.call_activity("stuck", timeout=timedelta(seconds=0.05)), style)
    seen = await run(app, store_url)
    assert (seen["raised"], seen["is_timeout"], seen["type"]) == ("ActivityTimeoutError", True, "TimeoutError")
    assert "timeout of 0.05 s" in seen["message"]
    assert "'stuck'" in seen["message"]
    assert ended == [("cancelled", True)], "the function was told"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_timed_out_attempt_counts_and_is_tried_again(
    store_url: str, kind: str, release: threading.Event
) -> None:
    ended: list[Any] = []
    app = stuck_app(kind, release, ended)
    calls(app, lambda ctx: ctx.call_activity("stuck", True, timeout=0.05, retry_policy=AT_ONCE))
    assert await run(app, store_url) == "attempt 2"
    assert sorted(ended) == [("cancelled", True), ("saw", "far")], "the next attempt sees how far it came"


@pytest.mark.parametrize("style", STYLES)
async def test_except_timeout_error_catches_it(style: str, release: threading.Event) -> None:
    app = stuck_app("async", release, [])
    if style == "async":

        @app.orchestrator
        async def main(ctx: OrchestrationContext) -> str:
            try:
                return await ctx.call_activity("stuck", timeout=0.02)
            except TimeoutError as error:
                assert isinstance(error, ActivityTimeoutError)
                return "in time"
    else:

        @app.orchestrator(name="main")
        def main_in_generator_style(ctx: OrchestrationContext) -> Orchestration[str]:
            try:
                return (yield ctx.call_activity("stuck", timeout=0.02))
            except TimeoutError as error:
                assert isinstance(error, ActivityTimeoutError)
                return "in time"

    assert await run(app, "memory://") == "in time"


@pytest.mark.parametrize("place", ["held", "claimed"])
@pytest.mark.parametrize(
    ("kind", "how"), [("async", "returns"), ("async", "raises"), ("sync", "returns"), ("sync", "raises")]
)
async def test_a_late_outcome_is_ignored_and_told_of(
    store_url: str, kind: str, how: str, place: str, release: threading.Event
) -> None:
    """The history has one outcome; what came too late is listed among what was dropped."""
    app = App()
    may_end = asyncio.Event()

    def end() -> str:
        if how == "raises":
            raise ValueError("late")
        return "late"

    if kind == "async":

        @app.activity(name="stubborn")
        async def stubborn_async() -> str:
            while not may_end.is_set():
                try:
                    await may_end.wait()
                except asyncio.CancelledError:
                    pass
            return end()
    else:

        @app.activity(name="stubborn")
        def stubborn() -> str:
            release.wait(10)
            return end()

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> str:
        try:
            await ctx.call_activity("stubborn", timeout=0.2)
        except TimeoutError:
            await ctx.wait_for_external_event("go")
        return "done"

    side = Worker(app, store_url, orchestrations=False, activities=place == "claimed", name="side")
    async with Worker(app, store_url, activities=place == "held") as worker, side:
        handle = await worker.client.start(main)

        async def has_timed_out() -> bool:
            return "ActivityFailed" in await names_in(handle)

        await holds(has_timed_out)
        release.set()
        may_end.set()
        dropped = await holds(handle.dropped)
        assert [(item.kind, item.name) for item in dropped] == [
            ("ActivityFailed" if how == "raises" else "ActivityCompleted", "stubborn")
        ]
        assert "timed out" in dropped[0].reason
        await handle.raise_event("go")
        assert await handle.result(timeout=10) == "done"
        names = await names_in(handle)
    assert names.count("ActivityFailed") == 1
    assert names.count("ActivityCompleted") == 0


async def test_a_timeout_runs_from_the_start_and_not_in_the_queue(store_url: str) -> None:
    """Ten that take longer together than the timeout of each, one slot: all succeed."""
    app = App()

    @app.activity(timeout=timedelta(seconds=0.5))
    async def works() -> int:
        await asyncio.sleep(0.08)
        return 1

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> int:
        return sum(await when_all([ctx.call_activity(works) for _ in range(10)]))

    assert await run(app, store_url, max_activities=1) == 10


async def test_a_call_overrides_the_declared_timeout_also_with_none() -> None:
    app = App()

    @app.activity(timeout=timedelta(seconds=0.02), heartbeat_timeout=timedelta(seconds=0.02))
    async def works() -> str:
        await asyncio.sleep(0.1)
        return "done"

    calls_and_tells(app, lambda ctx: ctx.call_activity(works), name="declared")
    calls_and_tells(app, lambda ctx: ctx.call_activity(works, timeout=5, heartbeat_timeout=5), name="longer")
    calls_and_tells(app, lambda ctx: ctx.call_activity(works, timeout=None, heartbeat_timeout=None), name="none")
    async with Worker(app, "memory://") as worker:
        assert (await worker.client.run("declared", timeout=10))["is_timeout"]
        assert await worker.client.run("longer", timeout=10) == "done"
        assert await worker.client.run("none", timeout=10) == "done"


async def test_a_timed_out_sync_activity_keeps_its_slot_until_it_returns(release: threading.Event) -> None:
    app = App()
    runs: list[int] = []

    @app.activity
    def stuck(ctx: ActivityContext) -> str:
        runs.append(ctx.attempt)
        if ctx.attempt == 1:
            release.wait(10)
        return "second"

    calls(app, lambda ctx: ctx.call_activity(stuck, timeout=0.05, retry_policy=AT_ONCE))
    async with Worker(app, "memory://", max_activities=1) as worker:
        handle = await worker.client.start("main")

        async def second_waits() -> bool:
            activities = (await handle.state()).activities
            return bool(activities) and activities[0].attempt == 2

        await holds(second_waits)
        assert runs == [1], "nobody can stop a thread, so its slot is not free"
        release.set()
        assert await handle.result(timeout=10) == "second"


# ---- heartbeat_timeout: from beat to beat


@pytest.mark.parametrize("kind", KINDS)
async def test_an_attempt_without_a_heartbeat_in_time_fails_as_a_timeout(
    store_url: str, kind: str, release: threading.Event
) -> None:
    ended: list[Any] = []
    app = stuck_app(kind, release, ended)
    calls(app, lambda ctx: ctx.call_activity("stuck", True, heartbeat_timeout=0.05, retry_policy=AT_ONCE))
    calls_and_tells(app, lambda ctx: ctx.call_activity("stuck", heartbeat_timeout=0.05), name="once")
    async with Worker(app, store_url) as worker:
        assert await worker.client.run("main", timeout=10) == "attempt 2"
        seen = await worker.client.run("once", timeout=10)
    assert (seen["raised"], seen["type"]) == ("ActivityTimeoutError", "TimeoutError")
    assert "heartbeat_timeout of 0.05 s" in seen["message"]
    assert ("saw", "far") in ended


@pytest.mark.parametrize("kind", KINDS)
async def test_an_attempt_that_beats_in_time_lives_on(kind: str) -> None:
    app = App()

    @app.activity(name="async")
    async def works_async(ctx: ActivityContext) -> str:
        for _ in range(12):
            ctx.heartbeat()
            await asyncio.sleep(0.05)
        return "done"

    @app.activity(name="sync")
    def works(ctx: ActivityContext) -> str:
        for _ in range(12):
            ctx.heartbeat()
            time.sleep(0.05)
        return "done"

    calls(app, lambda ctx: ctx.call_activity(kind, heartbeat_timeout=0.4))
    assert await run(app, "memory://") == "done"


# ---- queue_timeout: until an attempt starts


@pytest.mark.parametrize("why", ["no slot here", "no slot elsewhere", "unknown queue", "unknown name"])
async def test_what_does_not_start_in_time_fails_as_a_timeout(
    store_url: str, why: str, release: threading.Event
) -> None:
    """Whatever the reason: no free slot on this worker or another one, a queue or a name that nobody serves."""
    app = App()

    @app.activity
    async def blocks() -> None:
        await asyncio.sleep(60)

    @app.activity
    async def works() -> str:
        return "ran"

    target, queue = ("nobody has it" if why == "unknown name" else "works"), None
    if why == "unknown queue":
        queue = "nobody serves it"
    waits = why.startswith("no slot")

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> list[Any]:
        if waits:
            ctx.call_activity(blocks)
        began = ctx.current_utc_datetime
        try:
            return [await ctx.call_activity(target, queue=queue, queue_timeout=0.1, retry_policy=AT_ONCE)]
        except ActivityTimeoutError as error:
            return [error.details.message, (ctx.current_utc_datetime - began).total_seconds()]

    side = Worker(app, store_url, orchestrations=False, max_activities=1, name="side", shutdown_timeout=0)
    async with Worker(
        app, store_url, activities=why != "no slot elsewhere", max_activities=1, shutdown_timeout=0
    ) as worker:
        async with side if why == "no slot elsewhere" else asyncio.timeout(30):
            message, waited = await worker.client.run(main, timeout=10)
    assert "queue_timeout of 0.1 s" in message
    assert 0.1 <= waited < 3, "an attempt more would wait in the same queue"


async def test_what_has_started_is_not_held_to_the_queue_timeout(store_url: str) -> None:
    app = App()

    @app.activity
    async def works() -> str:
        await asyncio.sleep(0.2)
        return "ran"

    calls(app, lambda ctx: ctx.call_activity(works, queue_timeout=0.1))
    assert await run(app, store_url) == "ran"


async def test_a_queue_timeout_outlives_the_worker_that_asked(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next worker, whatever it serves, reports it. It polls every 50 ms here."""
    monkeypatch.setattr(claims, "POLL_S", 0.05)
    app = App()

    @app.activity(queue="nobody serves it")
    async def works() -> str:
        return "ran"

    calls_and_tells(app, lambda ctx: ctx.call_activity(works, queue_timeout=0.3))
    async with Worker(app, store_url, name="keeps the store open", orchestrations=False, activities=False):
        async with Worker(app, store_url) as first:
            handle = await first.client.start("main")
            await holds(lambda: _is_waiting(handle))
        async with Worker(app, store_url, queues=("another",)) as second:
            seen = await second.client.get(handle.instance_id).result(timeout=10)
    assert "queue_timeout" in seen["message"]


async def _is_waiting(handle: Any) -> bool:
    return bool((await handle.state()).activities)


# ---- total_timeout: everything from the request


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", KINDS)
async def test_the_total_timeout_ends_a_running_attempt(
    store_url: str, kind: str, style: str, release: threading.Event
) -> None:
    ended: list[Any] = []
    app = stuck_app(kind, release, ended)
    calls_and_tells(app, lambda ctx: ctx.call_activity("stuck", total_timeout=0.05), style)
    async with Worker(app, store_url) as worker:
        seen = await worker.client.run("main", timeout=10)
        await holds(lambda: ended)
    assert (seen["raised"], seen["is_timeout"]) == ("ActivityTimeoutError", True)
    assert "total_timeout of 0.05 s" in seen["message"]
    assert ended == [("cancelled", True)]


async def test_the_total_timeout_ends_the_wait_between_attempts_and_all_attempts_together(store_url: str) -> None:
    app = App()
    attempts: list[int] = []

    @app.activity
    async def fails(ctx: ActivityContext) -> None:
        attempts.append(ctx.attempt)
        raise ValueError("no")

    long_wait = RetryPolicy(timedelta(hours=1), None)
    short_wait = RetryPolicy(timedelta(seconds=0.02), None)
    calls_and_tells(app, lambda ctx: ctx.call_activity(fails, total_timeout=0.1, retry_policy=long_wait), name="long")
    calls_and_tells(
        app, lambda ctx: ctx.call_activity(fails, total_timeout=0.15, retry_policy=short_wait), name="short"
    )
    async with Worker(app, store_url) as worker:
        assert (await worker.client.run("long", timeout=10))["raised"] == "ActivityTimeoutError"
        assert attempts == [1]
        assert (await worker.client.run("short", timeout=10))["raised"] == "ActivityTimeoutError"
        assert len(attempts) >= 3


async def test_the_total_timeout_of_a_call_that_ends_in_time_leaves_no_timer(store_url: str) -> None:
    app = App()

    @app.activity
    async def works() -> int:
        return 1

    calls(app, lambda ctx: ctx.call_activity(works, total_timeout=3600))
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start("main")
        assert await handle.result(timeout=10) == 1
        names = await names_in(handle)
    assert names.count("TimerCreated") == names.count("TimerCancelled") == 1


async def test_a_timeout_of_any_length_is_taken(store_url: str) -> None:
    """Longer than any machine runs: as good as none."""
    app = App()

    @app.activity
    async def works(ctx: ActivityContext) -> bool:
        return ctx.deadline is not None

    for number, long in enumerate([timedelta.max, float("inf"), 1e12]):
        options = {f"{name}timeout": long for name in ("", "heartbeat_", "queue_", "total_")}
        calls(app, lambda ctx, options=options: ctx.call_activity(works, **options), name=f"main {number}")
    side = Worker(app, store_url, orchestrations=False, name="side")
    async with Worker(app, store_url, activities=False) as worker, side:
        assert [await worker.client.run(f"main {number}", timeout=10) for number in range(3)] == [True] * 3


@pytest.mark.parametrize("option", ["timeout", "heartbeat_timeout", "queue_timeout", "total_timeout"])
@pytest.mark.parametrize("bad", [0, -1, timedelta(0), "5", True, float("nan")], ids=repr)
async def test_a_timeout_that_is_none_is_refused_where_it_is_written(option: str, bad: Any) -> None:
    app = App()

    @app.activity
    async def works() -> int:
        return 1

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> str:
        try:
            await ctx.call_activity(works, **{option: bad})
        except (TypeError, ValueError) as error:
            return str(error)
        return "taken"

    text = await run(app, "memory://")
    assert option in text
    assert repr(bad) in text
