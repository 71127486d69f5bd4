"""Stopping a worker while activities run: what ends in time counts, the rest is delivered again, and nothing is left."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import threading
import time
import weakref
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from durable import ActivityContext, App, Client, OrchestrationContext, RetryPolicy, Worker, when_all
from durable.ports import Ports, system_ports
from tests.worker.calls import STYLES, calls, calls_and_tells, holds, names_in

KINDS = ["async", "sync"]
PLACES = ["held", "claimed"]
SECOND_US = 1_000_000


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets stuck sync activities go, at the latest when the test ends."""
    event = threading.Event()
    yield event
    event.set()


def worker_of(app: App, store_url: str, place: str, **options: Any) -> Worker:
    """The worker that runs the activities: the owner itself, or an activity-only one beside it."""
    return Worker(app, store_url, orchestrations=place == "held", name="works", **options)


def decider(app: App, store_url: str, place: str, **options: Any) -> Worker:
    """The worker beside: it owns the instances where another one runs the activities; else it keeps the store open."""
    return Worker(app, store_url, orchestrations=place == "claimed", activities=False, name="decides", **options)


# ---- what ends in time


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_stop_waits_for_running_activities_and_keeps_their_outcomes(
    store_url: str, kind: str, place: str, release: threading.Event
) -> None:
    app = App()
    started: list[int] = []

    @app.activity(name="async")
    async def works_async() -> str:
        started.append(1)
        await holds(release.is_set)
        return "ended"

    @app.activity(name="sync")
    def works() -> str:
        started.append(1)
        release.wait(10)
        return "ended"

    calls(app, lambda ctx: ctx.call_activity(kind))
    async with Client(store_url) as client, decider(app, store_url, place):
        async with worker_of(app, store_url, place, shutdown_timeout=10):
            handle = await client.start("main")
            await holds(lambda: started)
            asyncio.get_running_loop().call_later(0.05, release.set)

        async def has_ended() -> bool:
            return "ActivityCompleted" in await names_in(handle)

        await holds(has_ended)
    assert started == [1]


async def test_a_stopping_worker_starts_nothing_new(store_url: str, release: threading.Event) -> None:
    """One slot: the running one ends, those that wait for the slot are left for the next worker, and run once."""
    app = App()
    started: list[int] = []

    @app.activity
    async def works(number: int) -> int:
        started.append(number)
        await holds(release.is_set)
        return number

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> list[int]:
        return await when_all([ctx.call_activity(works, number) for number in range(4)])

    async with Client(store_url) as client:
        async with Worker(app, store_url, max_activities=1):
            handle = await client.start("main")
            await holds(lambda: started)
            asyncio.get_running_loop().call_later(0.02, release.set)
        assert started == [0]
        async with Worker(app, store_url):
            assert await handle.result(timeout=10) == [0, 1, 2, 3]
    assert started == [0, 1, 2, 3]


# ---- what does not


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("style", STYLES)
async def test_after_the_shutdown_timeout_async_activities_are_cancelled_and_delivered_again(
    store_url: str, style: str, place: str
) -> None:
    """The same attempt, with the same key; it sees also what the first delivery said as it was cancelled."""
    app = App()
    seen: list[Any] = []

    @app.activity(retry_policy=RetryPolicy(timedelta(0), 1))
    async def works(ctx: ActivityContext) -> str:
        seen.append((ctx.attempt, ctx.idempotency_key, ctx.last_heartbeat))
        if len(seen) == 2:
            return "ended"
        ctx.heartbeat("began")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ctx.heartbeat("cancelled")
            raise
        return "never"

    calls(app, lambda ctx: ctx.call_activity(works), style)
    async with Client(store_url) as client, decider(app, store_url, place):
        worker = worker_of(app, store_url, place, shutdown_timeout=timedelta(seconds=0.05))
        async with worker:
            handle = await client.start("main")
            await holds(lambda: seen)
            began = time.monotonic()
        assert time.monotonic() - began < 3
        async with worker_of(app, store_url, place):
            assert await handle.result(timeout=10) == "ended"
            names = await names_in(handle)
    (first, second) = seen
    assert first == (1, second[1], None)
    assert second == (1, first[1], "cancelled")
    assert names.count("ActivityScheduled") == names.count("ActivityCompleted") == 1


async def test_a_stuck_sync_activity_does_not_keep_the_stop(store_url: str, release: threading.Event) -> None:
    """It sees that it is cancelled; if it does not look, its thread is left behind, and its outcome counts no more."""
    app = App()
    seen: list[Any] = []

    @app.activity
    def stuck(ctx: ActivityContext) -> str:
        seen.append(ctx)
        if len(seen) == 1:
            release.wait(10)
            return "late"
        return "second"

    calls(app, lambda ctx: ctx.call_activity(stuck))
    async with Client(store_url) as client:
        async with Worker(app, store_url, shutdown_timeout=0.05):
            handle = await client.start("main")
            await holds(lambda: seen)
            began = time.monotonic()
        assert time.monotonic() - began < 3
        assert seen[0].is_cancelled
        async with Worker(app, store_url):
            assert await handle.result(timeout=10) == "second"
            release.set()


async def test_an_activity_that_swallows_its_cancellation_does_not_keep_the_stop() -> None:
    app = App()
    started: list[int] = []
    enough = asyncio.Event()

    @app.activity
    async def stubborn() -> None:
        started.append(1)
        while not enough.is_set():
            try:
                await enough.wait()
            except asyncio.CancelledError:
                pass

    calls(app, lambda ctx: ctx.call_activity(stubborn))
    async with Worker(app, "memory://", shutdown_timeout=0) as worker:
        await worker.client.start("main")
        await holds(lambda: started)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    enough.set()


@pytest.mark.parametrize("shutdown_timeout", [0, timedelta(0), 0.01], ids=repr)
async def test_no_time_for_the_stop_is_no_time(shutdown_timeout: Any) -> None:
    app = App()
    started: list[int] = []

    @app.activity
    async def works() -> None:
        started.append(1)
        await asyncio.sleep(3600)

    calls(app, lambda ctx: ctx.call_activity(works))
    async with Worker(app, "memory://", shutdown_timeout=shutdown_timeout) as worker:
        await worker.client.start("main")
        await holds(lambda: started)
        began = time.monotonic()
    assert time.monotonic() - began < 1


async def test_a_worker_whose_body_raises_stops_all_the_same() -> None:
    app = App()

    @app.activity
    async def works() -> None:
        await asyncio.sleep(3600)

    calls(app, lambda ctx: ctx.call_activity(works))

    async def serve() -> None:
        async with Worker(app, "memory://", shutdown_timeout=0) as worker:
            await worker.client.start("main")
            raise KeyError("body")

    with pytest.raises(KeyError, match="body"):
        await serve()
    assert len(asyncio.all_tasks()) == 1


# ---- nothing is left


def threads() -> set[str]:
    """Without those of the loop's own pool, which keeps a few for good."""
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


async def test_after_a_stop_nothing_is_left_running(store_url: str) -> None:
    """Tasks, threads and files are back to where they were, after hundreds of activities of all kinds and ends."""
    app = App()

    @app.activity
    async def in_loop(number: int) -> int:
        if number % 3 == 0:
            raise ValueError(number)
        return number

    @app.activity
    def in_thread(number: int) -> int:
        if number % 3 == 0:
            raise ValueError(number)
        return number

    @app.activity
    async def lingers(ctx: ActivityContext) -> None:
        ctx.heartbeat("x")
        await asyncio.sleep(3600)

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> int:
        tasks = [ctx.call_activity(function, n) for function in (in_loop, in_thread) for n in range(30)]
        ctx.call_activity(lingers, timeout=3600, heartbeat_timeout=3600, queue_timeout=3600, total_timeout=3600)
        await asyncio.wait(tasks)
        return sum(task.is_failed for task in tasks)

    async def storm() -> None:
        async with Worker(app, store_url, shutdown_timeout=0) as worker:
            handles = [await worker.client.start(main) for _ in range(5)]
            assert [await handle.result(timeout=20) for handle in handles] == [20] * 5
            await worker.client.start("lingering")

    calls(app, lambda ctx: ctx.call_activity(lingers), name="lingering")
    async with Client(store_url):
        for _ in range(2):
            await (
                storm()
            )  # what is made once and kept for good is made here: SQLite keeps one closed file to use it again
        await holds(lambda: not any(name.startswith(("durable-activity", "Thread-")) for name in threads()))
        before = (len(asyncio.all_tasks()), threads(), open_files())
        for _ in range(3):
            await storm()
        await holds(lambda: not any(name.startswith(("durable-activity", "Thread-")) for name in threads()))
        gc.collect()
        assert (len(asyncio.all_tasks()), threads(), open_files()) == before


async def test_after_a_storm_of_sync_activities_a_running_worker_has_no_threads_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They end when they have been idle for a while, and come again when there is work."""
    monkeypatch.setattr("durable.worker.threads.IDLE_S", 0.02)
    app = App()
    together = threading.Barrier(20)

    @app.activity
    def works() -> str:
        together.wait(10)
        return threading.current_thread().name

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> list[str]:
        return await when_all([ctx.call_activity(works) for _ in range(20)])

    async with Worker(app, "memory://") as worker:
        for _ in range(3):
            assert len(set(await worker.client.run(main, timeout=10))) == 20
            await holds(lambda: not any("durable-activity" in name for name in threads()))


async def test_a_running_worker_keeps_nothing_of_activities_that_have_ended() -> None:
    app = App()

    class Payload:
        pass

    alive: list[weakref.ref[Payload]] = []

    def work() -> None:
        payload = Payload()
        alive.append(weakref.ref(payload))
        current[0] = payload  # also what an activity leaves in its own frame's reach
        current.clear()

    current: dict[int, Any] = {}

    @app.activity(timeout=timedelta(hours=1), heartbeat_timeout=timedelta(hours=1))
    async def in_loop(ctx: ActivityContext) -> None:
        work()
        ctx.heartbeat(1)

    @app.activity(timeout=timedelta(hours=1), heartbeat_timeout=timedelta(hours=1))
    def in_thread(ctx: ActivityContext) -> None:
        work()
        ctx.heartbeat(1)

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> None:
        await when_all([ctx.call_activity(function) for function in (in_loop, in_thread) for _ in range(20)])

    async with Worker(app, "memory://", max_activities=4) as worker:
        await worker.client.run(main, timeout=10)
        runner = worker._parts.runner  # type: ignore[union-attr]
        assert (runner.attempts, runner.waiting, runner.free_slots) == ({}, 0, 4)
        gc.collect()
        assert not any(reference() for reference in alive)


# ---- lost workers


class Clock:
    """The machine's clock, moved on by hand."""

    def __init__(self) -> None:
        self.ahead_us = 0

    def ports(self) -> Ports:
        real = system_ports()
        return dataclasses.replace(real, now_us=lambda: real.now_us() + self.ahead_us)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("style", STYLES)
async def test_five_deliveries_over_a_minute_without_an_outcome_fail_the_attempt(
    store_url: str, style: str, place: str
) -> None:
    """Each worker is gone before the activity has ended; the sixth does not try again, and says what it seems to be."""
    app = App()
    clock = Clock()
    ports = clock.ports()
    deliveries: list[int] = []

    @app.activity
    async def kills(ctx: ActivityContext) -> None:
        deliveries.append(ctx.attempt)
        await asyncio.sleep(3600)

    calls_and_tells(app, lambda ctx: ctx.call_activity(kills), style)
    options: dict[str, Any] = {"shutdown_timeout": 0, "ports": ports}
    async with Client(store_url, ports=ports) as client, decider(app, store_url, place, ports=ports):
        handle = await client.start("main")
        for number in range(1, 6):
            async with worker_of(app, store_url, place, **options):
                await holds(lambda number=number: len(deliveries) == number)
            clock.ahead_us += 20 * SECOND_US
        async with worker_of(app, store_url, place, **options):
            seen = await handle.result(timeout=10)
    assert seen["type"] == "durable.errors.WorkerLostError"
    assert "delivered 5 times" in seen["message"]
    assert "'kills'" in seen["message"]
    assert deliveries == [1] * 5


@pytest.mark.parametrize("place", PLACES)
async def test_a_burst_of_restarts_is_no_verdict(store_url: str, place: str) -> None:
    """Ten deliveries within seconds: the eleventh runs like the first."""
    app = App()
    deliveries: list[int] = []

    @app.activity
    async def works(ctx: ActivityContext) -> str:
        deliveries.append(ctx.attempt)
        if len(deliveries) <= 10:
            await asyncio.sleep(3600)
        return "ended"

    calls(app, lambda ctx: ctx.call_activity(works))
    async with Client(store_url) as client, decider(app, store_url, place):
        handle = await client.start("main")
        for number in range(1, 11):
            async with worker_of(app, store_url, place, shutdown_timeout=0):
                await holds(lambda number=number: len(deliveries) == number)
        async with worker_of(app, store_url, place):
            assert await handle.result(timeout=10) == "ended"


async def test_a_lost_attempt_is_tried_again_by_policy(store_url: str) -> None:
    """It is a failure of that attempt, and the next one has five deliveries of its own."""
    app = App()
    clock = Clock()
    ports = clock.ports()
    deliveries: list[int] = []

    @app.activity
    async def kills(ctx: ActivityContext) -> str:
        deliveries.append(ctx.attempt)
        if ctx.attempt == 1:
            await asyncio.sleep(3600)
        return f"attempt {ctx.attempt}"

    calls(app, lambda ctx: ctx.call_activity(kills, retry_policy=RetryPolicy(timedelta(0), 2)))
    async with Client(store_url, ports=ports) as client:
        handle = await client.start("main")
        for number in range(1, 6):
            async with Worker(app, store_url, ports=ports, shutdown_timeout=0):
                await holds(lambda number=number: len(deliveries) == number)
            clock.ahead_us += 20 * SECOND_US
        async with Worker(app, store_url, ports=ports):
            assert await handle.result(timeout=10) == "attempt 2"
    assert deliveries == [1, 1, 1, 1, 1, 2]
