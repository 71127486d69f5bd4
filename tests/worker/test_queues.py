"""Queues: who runs which activity, across workers of one process and of several, and what happens where nobody does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from durable import ActivityContext, App, Client, OrchestrationContext, OrchestrationStatus, Worker, when_all
from tests.worker.calls import STYLES, Records, calls, holds, names_in
from tests.worker.lives import provider_of, rob

ROOT = Path(__file__).parents[2]


def app_of(place: str, ran: list[Any]) -> App:
    """The app of a worker: the same names everywhere, but its activities note where they run."""
    app = App()

    @app.activity
    async def anywhere(number: int = 0) -> str:
        ran.append((place, number))
        return place

    @app.activity(queue="gpu")
    async def on_gpu(number: int = 0) -> str:
        ran.append((place, number))
        return place

    @app.activity
    async def slow(number: int) -> str:
        ran.append((place, number))
        await holds(lambda: len({where for where, _ in ran}) > 1)
        return place

    calls(app, lambda ctx: ctx.call_activity("anywhere"), name="anywhere")
    calls(app, lambda ctx: ctx.call_activity("on_gpu"), name="declared")
    calls(app, lambda ctx: ctx.call_activity("anywhere", queue="gpu"), name="called")
    calls(app, lambda ctx: ctx.call_activity("on_gpu", queue="default"), name="called back")
    calls(app, lambda ctx: ctx.call_activity("on_gpu", queue=None), name="called with none")

    @app.orchestrator
    async def many(ctx: OrchestrationContext, count: int) -> list[str]:
        return await when_all([ctx.call_activity("anywhere", number) for number in range(count)])

    @app.orchestrator
    async def many_slow(ctx: OrchestrationContext, count: int) -> list[str]:
        return await when_all([ctx.call_activity("slow", number) for number in range(count)])

    return app


async def test_a_declared_queue_and_a_called_one_say_where_it_runs(store_url: str) -> None:
    ran: list[Any] = []
    gpu = Worker(app_of("gpu", ran), store_url, queues=("gpu",), orchestrations=False, name="gpu")
    async with Worker(app_of("main", ran), store_url) as worker, gpu:
        wanted = {
            "anywhere": "main",
            "declared": "gpu",
            "called": "gpu",
            "called back": "main",
            "called with none": "main",
        }
        for name, place in wanted.items():
            assert await worker.client.run(name, timeout=10) == place, name


async def test_a_worker_serves_all_of_its_queues() -> None:
    ran: list[Any] = []
    async with Worker(app_of("main", ran), "memory://", queues=("gpu", "default")) as worker:
        assert await worker.client.run("declared", timeout=10) == "main"
        assert await worker.client.run("anywhere", timeout=10) == "main"


async def test_queues_are_a_sequence_of_names() -> None:
    with pytest.raises(TypeError, match="gpu"):
        Worker(App(), "memory://", queues="gpu")
    for bad in ("", " ", "a\0b"):
        with pytest.raises(ValueError, match="queue"):
            Worker(App(), "memory://", queues=("default", bad))


@pytest.mark.parametrize("style", STYLES)
async def test_a_worker_that_only_decides_leaves_all_activities_to_others(store_url: str, style: str) -> None:
    ran: list[Any] = []
    decider = app_of("decider", ran)
    calls(decider, lambda ctx: ctx.call_activity("anywhere", 5), style)
    side = Worker(app_of("side", ran), store_url, orchestrations=False, name="side")
    async with Worker(decider, store_url, activities=False) as worker, side:
        assert await worker.client.run("main", timeout=10) == "side"
        assert await worker.client.run("many", 100, timeout=20) == ["side"] * 100
    assert len(ran) == 101, "each ran once"


async def test_an_activity_only_worker_runs_no_orchestration(store_url: str) -> None:
    ran: list[Any] = []
    async with Worker(app_of("side", ran), store_url, orchestrations=False, name="side") as side:
        handle = await side.client.start("anywhere")
        with pytest.raises(TimeoutError):
            await handle.result(timeout=0.3)
        assert (await handle.state()).status is OrchestrationStatus.PENDING
        async with Worker(app_of("main", ran), store_url, activities=False) as worker:
            assert await worker.client.get(handle.instance_id).result(timeout=10) == "side"


async def test_a_fan_out_is_shared_with_the_workers_beside(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More at once than the owner has slots: the rest is for whoever is free."""
    monkeypatch.setattr("durable.worker.leasing.LOOK_AROUND_S", 0.05)
    ran: list[Any] = []
    one = Worker(app_of("one", ran), store_url, max_activities=2, name="one")
    two = Worker(app_of("two", ran), store_url, max_activities=2, name="two")
    async with one, two:
        await holds(lambda: one._parts.keeper.others and two._parts.keeper.others)  # type: ignore[union-attr]
        assert set(await one.client.run("many_slow", 20, timeout=20)) == {"one", "two"}
    assert len(ran) == 20


async def test_a_freed_slot_is_filled_from_the_queue_at_once(store_url: str) -> None:
    """Thirty through one slot of an activity-only worker take as long as they take, not a poll each."""
    ran: list[Any] = []
    side = Worker(app_of("side", ran), store_url, orchestrations=False, max_activities=1, name="side")
    async with Worker(app_of("main", ran), store_url, activities=False) as worker, side:
        began = time.monotonic()
        assert await worker.client.run("many", 30, timeout=20) == ["side"] * 30
        assert time.monotonic() - began < 5


async def test_an_activity_only_worker_respects_its_slots(store_url: str) -> None:
    app = App()
    running = peak = 0

    @app.activity
    async def works() -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.002)
        running -= 1

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> None:
        await when_all([ctx.call_activity(works) for _ in range(40)])

    side = Worker(app, store_url, orchestrations=False, max_activities=3, name="side")
    async with Worker(app, store_url, activities=False) as worker, side:
        await worker.client.run(main, timeout=20)
    assert peak == 3


async def test_a_name_that_only_another_worker_knows_is_left_to_it(store_url: str) -> None:
    """An app of activities alone beside one of orchestrators alone, in the same queue."""
    deciding, working = App(), App()
    calls(deciding, lambda ctx: ctx.call_activity("elsewhere", 20))

    @working.activity
    def elsewhere(value: int) -> int:
        return value + 1

    side = Worker(working, store_url, orchestrations=False, name="side")
    async with Worker(deciding, store_url) as worker, side:
        assert await worker.client.run("main", timeout=10) == 21


# ---- nobody serves it


@pytest.mark.parametrize("why", ["queue", "name"])
async def test_an_activity_that_nobody_serves_waits_and_says_so(
    store_url: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instance is RUNNING, a warning names it, its state shows why; a worker that comes later runs it."""
    monkeypatch.setattr("durable.worker.unserved.UNSERVED_S", 0.1)
    ran: list[Any] = []
    deciding = App()
    calls(deciding, lambda ctx: ctx.call_activity("on_gpu", queue="gpu" if why == "queue" else None))
    if why == "queue":
        deciding = app_of("decider", ran)
        calls(deciding, lambda ctx: ctx.call_activity("on_gpu"))

    with Records("durable.worker", logging.WARNING) as records:
        async with Worker(deciding, store_url) as worker:
            handle = await worker.client.start("main", instance_id="waits")

            async def noted() -> Any:
                state = await handle.state()
                return state if state.activities and state.activities[0].note else None

            state = await holds(noted)
            assert state.status is OrchestrationStatus.RUNNING
            (activity,) = state.activities
            assert (activity.name, activity.attempt) == ("on_gpu", 1)
            assert "no live worker serves activity 'on_gpu'" in activity.note
            warnings = [record for record in records.found if "no live worker serves" in record.getMessage()]
            assert len(warnings) == 1
            assert vars(warnings[0])["instance_id"] == "waits"
            assert ran == []
            side = Worker(app_of("side", ran), store_url, queues=("gpu", "default"), orchestrations=False, name="side")
            async with side:
                assert await handle.result(timeout=10) == "side"
            assert (await handle.state()).activities == ()
    assert len([r for r in records.found if "no live worker serves" in r.getMessage()]) == 1, "it is said once"


async def test_the_next_worker_says_that_nobody_serves_an_activity(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that asked for it has gone before it was time to say so."""
    ran: list[Any] = []
    deciding = app_of("decider", ran)
    calls(deciding, lambda ctx: ctx.call_activity("on_gpu"))
    async with Client(store_url) as client:
        async with Worker(deciding, store_url) as worker:
            handle = await worker.client.start("main", instance_id="waits")
            await holds(lambda: _activities(handle))
        monkeypatch.setattr("durable.worker.unserved.UNSERVED_S", 0.1)
        with Records("durable.worker", logging.WARNING) as records:
            async with Worker(deciding, store_url):

                async def noted() -> Any:
                    return [item.note for item in (await client.get("waits").state()).activities if item.note]

                assert "no live worker serves activity 'on_gpu'" in (await holds(noted))[0]
                assert len([r for r in records.found if "no live worker serves" in r.getMessage()]) == 1


async def test_what_a_worker_said_that_has_gone_is_not_said_for_ever(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is there who would remove its note, or take it back."""
    monkeypatch.setattr("durable.worker.unserved.UNSERVED_S", 0.1)
    deciding = App()
    calls(deciding, lambda ctx: ctx.call_activity("on_gpu", queue="gpu"))
    async with Client(store_url) as client:

        async def notes() -> list[str]:
            return [item.note for item in (await client.get("waits").state()).activities if item.note]

        async with Worker(deciding, store_url) as worker:
            await worker.client.start("main", instance_id="waits")
            await holds(notes)

        async def silent() -> bool:
            return not await notes()

        assert await holds(silent)


async def test_it_is_said_also_where_the_last_worker_that_served_an_activity_has_gone(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was served all the time that it waited for a slot, until then."""
    monkeypatch.setattr("durable.worker.unserved.UNSERVED_S", 0.1)
    ran: list[Any] = []
    deciding = app_of("decider", ran)
    calls(deciding, lambda ctx: ctx.call_activity("on_gpu"))
    serving = App()
    begun, ended = asyncio.Event(), asyncio.Event()

    @serving.activity(queue="gpu")
    async def fills() -> None:
        begun.set()
        await ended.wait()

    @serving.activity(queue="gpu")
    async def on_gpu() -> None:
        raise AssertionError("the only slot is taken")

    @deciding.orchestrator
    async def filling(ctx: OrchestrationContext) -> None:
        await ctx.call_activity("fills", queue="gpu")

    async with Worker(deciding, store_url) as worker:
        options: dict[str, Any] = {"queues": ("gpu",), "orchestrations": False, "max_activities": 1}
        side = Worker(serving, store_url, name="side", shutdown_timeout=0, **options)
        async with side:
            await worker.client.start(filling)
            await begun.wait()
            handle = await worker.client.start("main")
            unserved: Any = worker._parts.owner._unserved  # type: ignore[union-attr]
            before = unserved._looked_at
            await holds(lambda: unserved._looked_at > before + 0.2)
            (activity,) = await holds(lambda: _activities(handle))
            assert activity.note == ""

        async def noted() -> Any:
            return [item.note for item in (await handle.state()).activities if item.note]

        assert "no live worker serves activity 'on_gpu'" in (await holds(noted))[0]


async def test_before_its_time_nothing_is_said_of_an_activity_that_waits(store_url: str) -> None:
    """30 seconds are no fault: a worker may just be starting."""
    with Records("durable.worker", logging.WARNING) as records:
        async with Worker(app_of("main", []), store_url) as worker:
            handle = await worker.client.start("declared")
            (activity,) = await holds(lambda: _activities(handle))
            assert activity.note == ""
            assert activity.queue == "gpu"
    assert records.found == []


async def test_what_was_served_in_time_is_not_warned_of(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker that ran it has gone again when it is looked after: there is nothing to say."""
    monkeypatch.setattr("durable.worker.unserved.UNSERVED_S", 0.5)
    ran: list[Any] = []
    app = app_of("main", ran)

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> str:
        await ctx.call_activity("on_gpu")
        return str(await ctx.wait_for_external_event("go"))

    with Records("durable.worker", logging.WARNING) as records:
        async with Worker(app, store_url) as worker:
            async with Worker(app_of("gpu", ran), store_url, queues=("gpu",), orchestrations=False, name="gpu"):
                handle = await worker.client.start(main)  # not before: that worker may take its time to come

                async def has_run() -> bool:
                    return "ActivityCompleted" in await names_in(handle)

                await holds(has_run)
            loop = asyncio.get_running_loop()
            passed = loop.create_future()
            loop.call_later(0.6, passed.set_result, None)
            await passed
            await handle.raise_event("go", "x")
            assert await handle.result(timeout=10) == "x"
    assert [record.getMessage() for record in records.found] == []


async def _activities(handle: Any) -> Any:
    return (await handle.state()).activities


# ---- taking over


@pytest.mark.parametrize("style", STYLES)
async def test_a_new_owner_runs_only_what_it_serves(store_url: str, style: str) -> None:
    """What its predecessor held in a queue that it does not serve goes to a worker that does."""
    ran: list[Any] = []
    first_app = App()

    @first_app.activity(name="on_gpu")
    async def never_ends(number: int = 0) -> str:
        ran.append(("first", number))
        await asyncio.sleep(3600)
        return "never"

    calls(first_app, lambda ctx: ctx.call_activity("on_gpu", 7), style)
    deciding = app_of("decider", ran)
    calls(deciding, lambda ctx: ctx.call_activity("on_gpu", 7, queue="default"), style)
    async with Client(store_url):
        async with Worker(first_app, store_url, shutdown_timeout=0) as first:
            handle = await first.client.start("main")
            await holds(lambda: ran)
        async with Worker(deciding, store_url, activities=False, name="decider") as second:
            again = second.client.get(handle.instance_id)
            with pytest.raises(TimeoutError):
                await again.result(timeout=0.2)
            assert ran == [("first", 7)]
            async with Worker(app_of("side", ran), store_url, orchestrations=False, name="side"):
                assert await again.result(timeout=10) == "side"
    assert ran == [("first", 7), ("side", 7)]


async def test_what_waited_for_a_slot_goes_to_the_next_workers_too(store_url: str) -> None:
    """Of ten held by a worker with two slots eight never began; a worker that only decides hands all of them on."""
    ran: list[Any] = []
    first_app = App()

    @first_app.activity(name="anywhere")
    async def never_ends(number: int) -> str:
        ran.append(("first", number))
        await asyncio.sleep(3600)
        return "never"

    async with Client(store_url) as client:
        handle = await client.start("many", 10)
        deciding = app_of("decider", ran)

        @first_app.orchestrator
        async def many(ctx: OrchestrationContext, count: int) -> list[str]:
            return await when_all([ctx.call_activity("anywhere", number) for number in range(count)])

        async with Worker(first_app, store_url, max_activities=2, shutdown_timeout=0):
            await holds(lambda: len(ran) == 2)
        side = Worker(app_of("side", ran), store_url, orchestrations=False, name="side")
        async with Worker(deciding, store_url, activities=False, name="decider"), side:
            assert await handle.result(timeout=10) == ["side"] * 10
    assert sorted(ran) == [("first", 0), ("first", 1), *(("side", number) for number in range(10))]


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_worker_that_gets_its_partitions_back_goes_on_with_what_runs(store_url: str, kind: str) -> None:
    """Its lease was taken away and nobody came: what went on running meanwhile is not begun a second time."""
    app = App()
    ran: list[int] = []
    release = threading.Event()

    @app.activity(name="async")
    async def works_async() -> str:
        ran.append(1)
        await holds(release.is_set)
        return "ended"

    @app.activity(name="sync")
    def works() -> str:
        ran.append(1)
        release.wait(10)
        return "ended"

    calls(app, lambda ctx: ctx.call_activity(kind))
    async with provider_of(store_url) as provider, Worker(app, store_url) as worker:
        handle = await worker.client.start("main")
        await holds(lambda: ran)
        parts = worker._parts
        assert parts is not None
        former = parts.keeper.lease
        await rob(provider)
        parts.keeper._wake.set()  # look around now, and not in three seconds
        await holds(lambda: parts.keeper.lease not in (None, former) and len(parts.keeper.owned) == 64)
        await holds(lambda: parts.owner.find_busy())
        release.set()
        assert await handle.result(timeout=10) == "ended"
        names = await names_in(handle)
    assert ran == [1]
    assert names.count("ActivityScheduled") == names.count("ActivityCompleted") == 1


async def test_a_worker_that_joins_makes_no_running_activity_run_twice(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partitions move to it once the activities that run for them have ended; under load that takes no quiet moment."""
    monkeypatch.setattr("durable.worker.leasing.LOOK_AROUND_S", 0.05)
    monkeypatch.setattr("durable.worker.leasing.LOOK_AROUND_LOCKED_S", 0.05)
    app = App()
    ran: list[Any] = []
    release = asyncio.Event()

    @app.activity
    async def long(name: str) -> None:
        ran.append(name)
        await release.wait()

    @app.activity
    async def short(name: str) -> None:
        ran.append(name)
        await asyncio.sleep(0.005)

    @app.orchestrator
    async def main(ctx: OrchestrationContext, number: int) -> None:
        waits = ctx.call_activity(long, f"long {number}") if number < 10 else None
        for step in range(30):
            await ctx.call_activity(short, f"short {number} {step}")
        if waits is not None:
            await waits

    async with Worker(app, store_url, name="one") as one:
        handles = [await one.client.start(main, number) for number in range(40)]
        await holds(lambda: len(ran) > 100)
        async with Worker(app, store_url, name="two") as two:
            await holds(lambda: len(_owned_by(two)) >= 20)
            release.set()
            for handle in handles:
                await handle.result(timeout=20)
            await holds(lambda: len(_owned_by(one)) == len(_owned_by(two)) == 32)
    assert len(ran) == len(set(ran)) == 40 * 30 + 10


def _owned_by(worker: Worker) -> set[int]:
    parts = worker._parts
    assert parts is not None
    return parts.keeper.owned


# ---- worker processes


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    found = Processes(f"sqlite:///{tmp_path}/processes.db", tmp_path / "log")
    yield found
    found.stop()


class Processes:
    """Worker processes on one file."""

    def __init__(self, store: str, log: Path) -> None:
        self.store = store
        self.log = log
        self._running: list[subprocess.Popen[str]] = []

    async def start(self, role: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.worker.queues_program", self.store, role, str(self.log)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self._running.append(process)
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
        return process

    def lines(self) -> list[list[str]]:
        return [line.split(" ") for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def kill(self, process: subprocess.Popen[str]) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def stop(self) -> None:
        for process in self._running:
            self.kill(process)


@pytest.mark.own_processes
async def test_deciding_and_working_processes_share_a_file(processes: Processes) -> None:
    async with Client(processes.store) as client:
        handle = await client.start("places", 5)
        decider, worker = await asyncio.gather(processes.start("orchestrations"), processes.start("activities"))
        assert await handle.result(timeout=20) == [worker.pid] * 5
        assert decider.poll() is None


@pytest.mark.own_processes
@pytest.mark.parametrize("place", ["held", "claimed"])
async def test_after_a_kill_the_delivery_is_repeated_with_its_heartbeat_and_key(
    processes: Processes, place: str
) -> None:
    """The attempt is the same one, and sees how far the killed delivery said that it was."""
    async with Client(processes.store) as client:
        if place == "claimed":
            await processes.start("orchestrations")
        role = "both" if place == "held" else "activities"
        first = await processes.start(role)
        handle = await client.start("waits_for_lingering")

        async def has_beaten() -> bool:
            return any(activity.heartbeat == "far" for activity in (await handle.state()).activities)

        await holds(has_beaten)
        await holds(lambda: _heartbeat_is_with_the_claim(processes, place))
        processes.kill(first)
        second = await processes.start(role)
        attempt, key, heartbeat = await handle.result(timeout=20)
    assert (attempt, heartbeat) == (1, "far")
    assert [line[:3] for line in processes.lines()] == [[str(first.pid), "1", key], [str(second.pid), "1", key]]
    assert second.pid != os.getpid()


def _heartbeat_is_with_the_claim(processes: Processes, place: str) -> bool:
    """A claimed attempt's beat is written twice, for states and for the next claimer: the test waits for both."""
    if place == "held":
        return True
    database = sqlite3.connect(processes.store.removeprefix("sqlite:///"))
    try:
        return bool(database.execute("SELECT 1 FROM queue WHERE heartbeat IS NOT NULL").fetchone())
    finally:
        database.close()


async def test_a_claim_outlives_its_lease_only_with_its_worker(store_url: str) -> None:
    """An activity-only worker that stops gives its attempts back; another one goes on with the heartbeat."""
    app = App()
    seen: list[Any] = []

    @app.activity
    async def lingers(ctx: ActivityContext) -> Any:
        seen.append((ctx.attempt, ctx.idempotency_key, ctx.last_heartbeat))
        if ctx.last_heartbeat is None:
            ctx.heartbeat("far")
            await asyncio.sleep(3600)
        return ctx.last_heartbeat

    calls(app, lambda ctx: ctx.call_activity(lingers))
    options: dict[str, Any] = {"orchestrations": False, "shutdown_timeout": timedelta(0)}
    async with Worker(app, store_url, activities=False) as worker:
        async with Worker(app, store_url, name="one", **options):
            handle = await worker.client.start("main")
            await holds(lambda: seen)
        async with Worker(app, store_url, name="two", **options):
            assert await handle.result(timeout=10) == "far"
    (first, second) = seen
    assert first == (1, second[1], None)
    assert second == (1, first[1], "far")
