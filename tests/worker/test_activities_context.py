"""What an activity knows of itself: identity, keys, logger, client, heartbeats, and nothing of its neighbours."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable import (
    ActivityContext,
    App,
    DurableError,
    Orchestration,
    OrchestrationContext,
    RetryPolicy,
    SyncClient,
    Worker,
    current_activity,
    when_all,
)
from durable.worker import activities
from tests.worker.calls import STYLES, Records, calls, holds, run

AT_ONCE = RetryPolicy(timedelta(0), 3)
KINDS = ["async", "sync"]


# ---- who is running


@pytest.mark.parametrize("kind", KINDS)
async def test_an_activity_knows_who_it_is(store_url: str, kind: str) -> None:
    app = App()

    def told(ctx: ActivityContext) -> list[Any]:
        return [ctx.instance_id, ctx.name, ctx.attempt, ctx.deadline, ctx.last_heartbeat, ctx.is_cancelled]

    if kind == "async":

        @app.activity(name="tells")
        async def tells_async(ctx: ActivityContext) -> list[Any]:
            return told(ctx)
    else:

        @app.activity(name="tells")
        def tells(ctx: ActivityContext) -> list[Any]:
            return told(ctx)

    calls(app, lambda ctx: ctx.call_activity("tells"))
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start("main", instance_id="who-1")
        assert await handle.result(timeout=10) == ["who-1", "tells", 1, None, None, False]


async def test_the_deadline_is_the_end_of_the_timeout(store_url: str) -> None:
    app = App()

    @app.activity
    def tells(ctx: ActivityContext) -> list[datetime]:
        assert ctx.deadline is not None
        return [datetime.now(UTC), ctx.deadline]

    calls(app, lambda ctx: ctx.call_activity(tells, timeout=60))
    now, deadline = await run(app, store_url)
    assert deadline.utcoffset() == timedelta(0)
    assert timedelta(seconds=58) < deadline - now < timedelta(seconds=62)


@pytest.mark.parametrize("style", STYLES)
async def test_the_idempotency_key_is_one_for_all_attempts_and_another_for_each_call(
    store_url: str, style: str
) -> None:
    app = App()
    keys: dict[tuple[str, int], list[str]] = defaultdict(list)

    @app.activity
    def fails_twice(ctx: ActivityContext, number: int) -> None:
        keys[ctx.instance_id, number].append(ctx.idempotency_key)
        if ctx.attempt < 3:
            raise ValueError(ctx.attempt)

    if style == "async":

        @app.orchestrator
        async def main(ctx: OrchestrationContext) -> None:
            await when_all([ctx.call_activity(fails_twice, number, retry_policy=AT_ONCE) for number in range(3)])
    else:

        @app.orchestrator(name="main")
        def main_in_generator_style(ctx: OrchestrationContext) -> Orchestration[None]:
            yield when_all([ctx.call_activity(fails_twice, number, retry_policy=AT_ONCE) for number in range(3)])

    async with Worker(app, store_url) as worker:
        for name in ("a", "b"):
            await (await worker.client.start("main", instance_id=name)).result(timeout=10)
    assert len(keys) == 6
    assert all(len(found) == 3 and len(set(found)) == 1 for found in keys.values())
    assert len({found[0] for found in keys.values()}) == 6
    assert all(isinstance(found[0], str) and len(found[0]) >= 16 for found in keys.values())


async def test_another_generation_and_another_run_have_other_keys() -> None:
    app = App()
    keys: list[str] = []

    @app.activity
    def note(ctx: ActivityContext) -> None:
        keys.append(ctx.idempotency_key)

    @app.orchestrator
    async def main(ctx: OrchestrationContext, left: int) -> None:
        await ctx.call_activity(note)
        if left:
            ctx.continue_as_new(left - 1)

    async with Worker(app, "memory://") as worker:
        for _ in range(2):
            handle = await worker.client.start("main", 1, instance_id="again")
            await handle.result(timeout=10)
            await handle.purge()
    assert len(set(keys)) == 4


@pytest.mark.parametrize("kind", KINDS)
async def test_current_activity_is_known_in_everything_that_an_activity_calls(kind: str) -> None:
    app = App()

    def deep_down() -> str:
        return current_activity().idempotency_key

    if kind == "async":

        @app.activity(name="works")
        async def works_async(ctx: ActivityContext) -> bool:
            in_task = await asyncio.create_task(_later(deep_down))
            in_thread = await asyncio.to_thread(deep_down)
            return deep_down() == in_task == in_thread == ctx.idempotency_key
    else:

        @app.activity(name="works")
        def works(ctx: ActivityContext) -> bool:
            return deep_down() == ctx.idempotency_key

    calls(app, lambda ctx: ctx.call_activity("works"))
    assert await run(app, "memory://")


async def _later(function: Any) -> Any:
    await asyncio.sleep(0)
    return function()


async def test_what_runs_on_after_its_activity_still_finds_its_context() -> None:
    class Mine(ActivityContext):
        """A program's own."""

    app, left = App(), list[asyncio.Task[bool]]()

    async def runs_on(context: Mine) -> bool:
        await goes_on.wait()
        return current_activity() is context

    @app.activity
    async def leaves_a_task(context: Mine) -> None:
        left.append(asyncio.create_task(runs_on(context)))

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> None:
        await ctx.call_activity(leaves_a_task)

    goes_on = asyncio.Event()
    async with Worker(app, "memory://") as worker:
        await worker.client.run(main)
        goes_on.set()
        assert await left[0]


async def test_elsewhere_there_is_no_current_activity() -> None:
    app = App()

    @app.activity
    async def works() -> None:
        pass

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> bool:
        await ctx.call_activity(works)
        try:
            current_activity()
        except DurableError:
            return True
        return False

    assert await run(app, "memory://")
    with pytest.raises(DurableError, match="no activity is running here"):
        current_activity()


@pytest.mark.parametrize("kind", KINDS)
async def test_the_logger_names_the_instance_the_activity_and_the_attempt(kind: str) -> None:
    app = App()

    def log(ctx: ActivityContext) -> None:
        ctx.logger.info("working on %s", "it", extra={"mine": 5})

    if kind == "async":

        @app.activity(name="logs")
        async def logs_async(ctx: ActivityContext) -> None:
            log(ctx)
    else:

        @app.activity(name="logs")
        def logs(ctx: ActivityContext) -> None:
            log(ctx)

    calls(app, lambda ctx: ctx.call_activity("logs"))
    with Records("durable.activity") as records:
        async with Worker(app, "memory://") as worker:
            handle = await worker.client.start("main", instance_id="logged")
            await handle.result(timeout=10)
    (record,) = [record for record in records.found if record.getMessage() == "working on it"]
    fields = vars(record)
    assert fields["instance_id"] == "logged"
    assert fields["run_id"] == handle.run_id
    assert (fields["activity"], fields["attempt"], fields["mine"]) == ("logs", 1, 5)
    assert record.name.startswith("durable.activity")


async def test_the_client_in_an_activity_starts_raises_and_waits(store_url: str) -> None:
    app = App()

    @app.orchestrator
    async def other(ctx: OrchestrationContext, value: int) -> int:
        return value + int(await ctx.wait_for_external_event("add"))

    @app.activity
    async def drives(ctx: ActivityContext, value: int) -> int:
        handle = await ctx.client.start(other, value)
        await handle.raise_event("add", 2)
        return await handle.result(timeout=10)

    calls(app, lambda ctx: ctx.call_activity(drives, 40))
    assert await run(app, store_url) == 42


async def test_the_client_in_a_sync_activity_is_the_blocking_face_of_the_same(store_url: str) -> None:
    app = App()

    @app.orchestrator
    async def other(ctx: OrchestrationContext, value: int) -> int:
        return value + int(await ctx.wait_for_external_event("add"))

    @app.activity
    def drives(ctx: ActivityContext, value: int) -> list[Any]:
        client: SyncClient = ctx.client
        with client:  # of no effect: it is the worker's
            handle = client.start(other, value, instance_id="driven")
        handle.raise_event("add", 2)
        states = [state.instance_id for state in current_activity().client.query(name="other")]
        return [handle.result(timeout=10), client.get("driven").state().status.name, states]

    calls(app, lambda ctx: ctx.call_activity(drives, 40))
    assert await run(app, store_url) == [42, "COMPLETED", ["driven"]]


async def test_the_client_goes_by_where_it_is_asked_for(store_url: str) -> None:
    app = App()

    @app.activity
    def in_thread(ctx: ActivityContext) -> str:
        return type(ctx.client).__name__

    @app.activity
    async def in_loop(ctx: ActivityContext) -> list[str]:
        return [type(ctx.client).__name__, await asyncio.to_thread(lambda: type(current_activity().client).__name__)]

    @app.activity
    def a_coroutine_behind_a_plain_function(ctx: ActivityContext) -> Any:
        return in_loop(ctx)

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> Any:
        names = ["in_thread", "in_loop", "a_coroutine_behind_a_plain_function"]
        return [await ctx.call_activity(name) for name in names]

    assert await run(app, store_url) == ["SyncClient", ["Client", "SyncClient"], ["Client", "SyncClient"]]


async def test_the_blocking_client_of_an_activity_refuses_the_event_loop() -> None:
    app = App()
    kept: list[Any] = []

    @app.activity
    def keeps(ctx: ActivityContext) -> None:
        kept.append(ctx.client)

    calls(app, lambda ctx: ctx.call_activity(keeps))
    async with Worker(app, "memory://") as worker:
        await worker.client.run("main", timeout=10)
        with pytest.raises(DurableError, match="used in the event loop"):
            kept[0].count()


async def test_a_thread_that_waits_by_the_client_is_let_go_when_the_worker_stops(store_url: str) -> None:
    app = App()
    begun, ended = threading.Event(), threading.Event()
    told: list[str] = []

    @app.activity
    def waits_for_ever(ctx: ActivityContext) -> None:
        client: SyncClient = ctx.client
        begun.set()
        for _ in range(2):  # what comes after the end is refused as well
            try:
                client.get(ctx.instance_id).result()
            except DurableError as error:
                told.append(str(error))
        ended.set()

    calls(app, lambda ctx: ctx.call_activity(waits_for_ever))
    async with Worker(app, store_url, shutdown_timeout=0.01) as worker:
        await worker.client.start("main")
        await holds(begun.is_set)
    await holds(ended.is_set)
    assert len(told) == 2


async def test_the_client_of_an_activity_only_worker_works_too(store_url: str) -> None:
    app = App()

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> Any:
        ctx.call_activity("tells_parent", queue="side")
        return await ctx.wait_for_external_event("done")

    @app.activity
    async def tells_parent(ctx: ActivityContext) -> None:
        await ctx.client.get(ctx.instance_id).raise_event("done", "it is")

    side = Worker(app, store_url, queues=("side",), orchestrations=False, name="side")
    async with Worker(app, store_url, activities=False) as worker, side:
        assert await worker.client.run(main, timeout=10) == "it is"


# ---- isolation

secret: contextvars.ContextVar[str] = contextvars.ContextVar("secret", default="nothing")


@pytest.mark.parametrize("kind", KINDS)
async def test_context_variables_of_an_activity_reach_nobody_else(store_url: str, kind: str) -> None:
    """Neither the next activity in the same thread or loop, nor an orchestrator that its outcome wakes."""
    app = App()
    seen: list[str] = []

    def look(number: int) -> None:
        seen.append(secret.get())
        secret.set(f"of activity {number}")

    if kind == "async":

        @app.activity(name="looks")
        async def looks_async(number: int) -> None:
            look(number)
    else:

        @app.activity(name="looks")
        def looks(number: int) -> None:
            look(number)

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> list[str]:
        tasks = [ctx.call_activity("looks", number) for number in range(5)]
        found = []
        for task in tasks:
            await task
            found.append(secret.get())
        secret.set("of the orchestrator")
        await ctx.call_activity("looks", 5)
        return found

    secret.set("of the program")
    async with Worker(app, store_url, max_activities=1) as worker:
        secret.set("of the caller")
        assert await worker.client.run("main", timeout=10) == ["nothing"] * 5
    assert seen == ["of the program"] * 6, "what the worker was started in"


async def test_the_context_of_whoever_starts_an_instance_from_an_activity_does_not_leak() -> None:
    app = App()
    seen: list[str] = []

    @app.activity
    async def looks() -> None:
        seen.extend([secret.get(), current_activity().name])

    @app.orchestrator
    async def child(ctx: OrchestrationContext) -> list[str]:
        found = [secret.get()]
        try:
            current_activity()
        except DurableError:
            found.append("none")
        await ctx.call_activity(looks)
        return found

    @app.activity
    async def starts(ctx: ActivityContext) -> None:
        secret.set("of the starter")
        seen.extend(await ctx.client.run(child, timeout=10))

    calls(app, lambda ctx: ctx.call_activity(starts))
    await run(app, "memory://")
    assert seen == ["nothing", "looks", "nothing", "none"]


# ---- slots and threads


@pytest.mark.parametrize("kind", KINDS)
async def test_no_more_than_max_activities_run_at_a_time(store_url: str, kind: str) -> None:
    app = App()
    lock = threading.Lock()
    running = peak = 0
    full = threading.Barrier(3)

    def enter() -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)

    def leave() -> None:
        nonlocal running
        with lock:
            running -= 1

    if kind == "async":

        @app.activity(name="works")
        async def works_async() -> None:
            enter()
            await asyncio.sleep(0.001)
            leave()
    else:

        @app.activity(name="works")
        def works() -> None:
            enter()
            full.wait(10)  # three really do run at a time
            leave()

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> None:
        await when_all([ctx.call_activity("works") for _ in range(30)])

    await run(app, store_url, max_activities=3)
    assert (peak, running) == (3, 0)


async def test_sync_activities_do_not_block_the_loop() -> None:
    """While one is stuck in its thread, async activities, turns and clients go on."""
    app = App()
    release = threading.Event()

    @app.activity
    def stuck() -> str:
        return "released" if release.wait(10) else "forgotten"

    @app.activity
    async def quick() -> str:
        return "quick"

    calls(app, lambda ctx: ctx.call_activity(stuck), name="slow")
    calls(app, lambda ctx: ctx.call_activity(quick), name="fast")
    async with Worker(app, "memory://", max_activities=2) as worker:
        slow = await worker.client.start("slow")
        await holds(lambda: _is_running(slow))
        for _ in range(20):
            assert await worker.client.run("fast", timeout=10) == "quick"
        release.set()
        assert await slow.result(timeout=10) == "released"


async def _is_running(handle: Any) -> bool:
    return bool((await handle.state()).activities)


# ---- heartbeats


@pytest.mark.parametrize("kind", KINDS)
async def test_the_next_attempt_sees_the_last_heartbeat(store_url: str, kind: str) -> None:
    """Also one that came right before the end, and whatever its kind; one without details changes nothing."""
    app = App()
    seen: list[Any] = []

    def work(ctx: ActivityContext) -> None:
        seen.append(ctx.last_heartbeat)
        if ctx.attempt == 1:
            ctx.heartbeat(1)
            ctx.heartbeat({"page": 2, "at": datetime(2026, 1, 1, tzinfo=UTC)})
            ctx.heartbeat()
        if ctx.attempt == 3:
            ctx.heartbeat(0)
        if ctx.attempt < 4:
            raise ValueError("again")

    if kind == "async":

        @app.activity(name="works")
        async def works_async(ctx: ActivityContext) -> None:
            work(ctx)
    else:

        @app.activity(name="works")
        def works(ctx: ActivityContext) -> None:
            work(ctx)

    calls(app, lambda ctx: ctx.call_activity("works", retry_policy=RetryPolicy(timedelta(0), 4)))
    await run(app, store_url)
    second = {"page": 2, "at": datetime(2026, 1, 1, tzinfo=UTC)}
    assert seen == [None, second, second, 0], "an attempt without a beat of its own passes on what it found"


@pytest.mark.parametrize("where", ["held", "claimed"])
async def test_state_shows_running_activities_with_attempt_and_heartbeat(store_url: str, where: str) -> None:
    app = App()
    release = asyncio.Event()

    @app.activity(retry_policy=AT_ONCE)
    async def works(ctx: ActivityContext, number: int) -> None:
        if ctx.attempt == 1:
            raise ValueError("again")
        ctx.heartbeat({"at": number})
        await release.wait()

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> None:
        await when_all([ctx.call_activity(works, number) for number in range(2)])

    def beats(state: Any) -> bool:
        return len(state.activities) == 2 and all(activity.heartbeat for activity in state.activities)

    side = Worker(app, store_url, orchestrations=False, name="side")
    async with Worker(app, store_url, activities=where == "held") as worker:
        async with side if where == "claimed" else asyncio.timeout(30):
            handle = await worker.client.start(main)

            async def shown() -> Any:
                state = await handle.state()
                return state if beats(state) else None

            state = await holds(shown)
            assert [(a.name, a.attempt, a.heartbeat) for a in state.activities] == [
                ("works", 2, {"at": 0}),
                ("works", 2, {"at": 1}),
            ]
            release.set()
            await handle.result(timeout=10)
            assert (await handle.state()).activities == ()


async def test_heartbeats_are_throttled_and_the_latest_is_stored_in_the_end(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of beats cost a handful of writes; the last one is stored although none follows it."""
    monkeypatch.setattr(activities, "HEARTBEAT_INTERVAL_S", 0.3)
    app = App()
    release = asyncio.Event()

    @app.activity
    async def works(ctx: ActivityContext) -> None:
        for number in range(5000):
            ctx.heartbeat(number)
        await release.wait()

    calls(app, lambda ctx: ctx.call_activity(works))
    async with Worker(app, store_url) as worker:
        commits = 0
        provider = worker._provider
        commit = provider.commit

        async def counting(*arguments: Any) -> Any:
            nonlocal commits
            commits += 1
            return await commit(*arguments)

        provider.commit = counting  # type: ignore[method-assign]
        handle = await worker.client.start("main")

        async def latest() -> Any:
            activities = (await handle.state()).activities
            return activities and activities[0].heartbeat == 4999

        await holds(latest)
        assert commits <= 10
        release.set()
        await handle.result(timeout=10)


async def test_a_heartbeat_that_cannot_be_stored_raises_in_the_activity() -> None:
    app = App()

    @app.activity
    def works(ctx: ActivityContext) -> str:
        try:
            ctx.heartbeat(object())
        except (TypeError, ValueError) as error:
            return str(error)
        return "taken"

    calls(app, lambda ctx: ctx.call_activity(works))
    assert "heartbeat of activity 'works'" in await run(app, "memory://")


async def test_a_context_is_harmless_after_its_activity() -> None:
    app = App()
    kept: list[ActivityContext] = []

    @app.activity
    async def works(ctx: ActivityContext) -> None:
        kept.append(ctx)

    calls(app, lambda ctx: ctx.call_activity(works))
    async with Worker(app, "memory://") as worker:
        await worker.client.run("main", timeout=10)
        kept[0].heartbeat("late")
        await asyncio.to_thread(kept[0].heartbeat, "later")
    kept[0].heartbeat("after the worker")
    await asyncio.to_thread(kept[0].heartbeat, "and from a thread")
    assert not kept[0].is_cancelled
