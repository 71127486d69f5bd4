"""What is not an orchestration's own failure stalls it: visible with a reason, said once, tried again with a growing pause,
never in a hot loop, and over by itself when a worker comes that can run it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    App,
    Client,
    Handle,
    HistoryDamagedError,
    Orchestration,
    OrchestrationCancelledError,
    OrchestrationContext,
    OrchestrationState,
    OrchestrationStatus,
    Worker,
    when_all,
)
from durable.engine import loop
from durable.worker import steps, timers
from durable.worker.steps import Steps
from durable.worker.watchdog import Watchdog
from tests.worker.lives import (
    STYLES,
    Damage,
    Errors,
    becomes_true,
    errors_logged,
    lives_app,
    names_of,
    open_store,
    until,
)

STALLED, SUSPENDED = OrchestrationStatus.STALLED, OrchestrationStatus.SUSPENDED
COMPLETED, TERMINATED = OrchestrationStatus.COMPLETED, OrchestrationStatus.TERMINATED
RUNNING, PENDING = OrchestrationStatus.RUNNING, OrchestrationStatus.PENDING


@pytest.fixture(autouse=True)
def brief_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pause of a stalled instance is 50 ms here, and the longest 400 ms."""
    monkeypatch.setattr(steps, "STALL_FIRST_US", 50_000)
    monkeypatch.setattr(steps, "STALL_LONGEST_US", 400_000)


@pytest.fixture
def stalls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each instance has stalled, counted where it is decided."""
    counted: Counter[str] = Counter()
    real = Steps.stall

    def stall(self: Steps, live: Any, error: BaseException) -> Any:
        counted[live.key.id] += 1
        return real(self, live, error)

    monkeypatch.setattr(Steps, "stall", stall)
    return counted


@contextlib.contextmanager
def said_once(handle: Callable[[], Handle[Any]]) -> Iterator[Errors]:
    """Within the block exactly one error is logged for the instance."""
    with errors_logged() as errors:
        yield errors
        assert len(errors.of(handle().instance_id)) == 1, errors.of(handle().instance_id)


async def stalled(handle: Handle[Any]) -> OrchestrationState:
    state = await until(handle, STALLED)
    assert state.stall_reason
    with pytest.raises(TimeoutError) as waited:
        await handle.result(timeout=0)
    assert "STALLED" in str(waited.value)
    assert state.stall_reason.splitlines()[0] in str(waited.value)
    return state


def pair(style: str, name: str, *, good: bool) -> App:
    """One version of a deployment: two calls in this order, or with `good` false in the other."""
    app = lives_app()

    @app.activity
    async def charge(value: int) -> int:
        return value

    @app.activity
    async def ship(value: int) -> int:
        return value

    order = [charge, ship] if good else [ship, charge]

    if style == "async":

        @app.orchestrator(name=name)
        async def pair_async(ctx: OrchestrationContext) -> list[Any]:
            first = await ctx.call_activity(order[0], 1)
            ctx.set_custom_status("half way")
            go = await ctx.wait_for_external_event("go")
            return [first, go, await ctx.call_activity(order[1], 2)]
    else:

        @app.orchestrator(name=name)
        def pair_generator(ctx: OrchestrationContext) -> Orchestration[list[Any]]:
            first = yield ctx.call_activity(order[0], 1)
            ctx.set_custom_status("half way")
            go = yield ctx.wait_for_external_event("go")
            return [first, go, (yield ctx.call_activity(order[1], 2))]

    return app


async def half_way(client: Client, app: App, store_url: str) -> Handle[Any]:
    """Run the pair to its middle and stop the worker."""
    async with Worker(app, store_url):
        handle = await client.start("pair")
        await until(handle, status="half way")
    return handle


# ---- causes


@pytest.mark.parametrize("kind", ["name", "version"])
async def test_an_unknown_orchestrator_stalls_and_runs_when_a_worker_knows_it(
    store_url: str, kind: str, stalls: Counter[str]
) -> None:
    empty, whole = App(), App()

    @empty.orchestrator(name="new", version="1.0")
    async def old(ctx: OrchestrationContext, value: int) -> str:
        return "old"

    @whole.orchestrator(name="new", version="2.0")
    async def new(ctx: OrchestrationContext, value: int) -> str:
        return f"new {value} {ctx.version}"

    lacking = App() if kind == "name" else empty
    async with open_store(store_url) as client:
        with said_once(lambda: handle):
            async with Worker(lacking, store_url):
                handle = await client.start("new", 1, version="2.0")
                state = await stalled(handle)
                assert "'new'" in str(state.stall_reason)
                assert kind == "name" or "in version 1, but not in 2" in str(state.stall_reason)
                await becomes_true(lambda: stalls[handle.instance_id] >= 3)
        async with Worker(whole, store_url):
            assert await handle.result(timeout=3) == "new 1 2.0"
            assert (await handle.state()).stall_reason is None


@pytest.mark.parametrize("style", STYLES)
async def test_code_that_differs_from_its_history_stalls_with_both_lines(
    store_url: str, style: str, stalls: Counter[str]
) -> None:
    good, bad = pair(style, "pair", good=True), pair(style, "pair", good=False)
    async with open_store(store_url, good) as client:
        handle = await half_way(client, good, store_url)
        history = await handle.history()
        with said_once(lambda: handle):
            async with Worker(bad, store_url):
                await handle.raise_event("go", "on")
                state = await stalled(handle)
                reason = str(state.stall_reason)
                assert reason.startswith("DivergenceError")
                assert "charge" in reason
                assert "ship" in reason
                recorded, asked = (line for line in reason.splitlines() if "test_stalls.py:" in line)
                assert "recorded" in recorded
                assert "asked now" in asked
                await becomes_true(lambda: stalls[handle.instance_id] >= 3)
                assert await handle.history() == history, "a rejected turn adds nothing"
        async with Worker(good, store_url):
            assert await handle.result(timeout=3) == [1, "on", 2]


def flip(records: dict[int, bytes]) -> dict[int, bytes]:
    data = bytearray(records[0])
    data[len(data) // 2] ^= 0x10
    return {**records, 0: bytes(data)}


DAMAGES: dict[str, Callable[[dict[int, bytes]], dict[int, bytes]]] = {
    "a flipped bit": flip,
    "the first missing": lambda records: {i: data for i, data in records.items() if i != 0},
    "the last missing": lambda records: {i: data for i, data in records.items() if i != max(records)},
    "two swapped": lambda records: {**records, 0: records[1], 1: records[0]},
    "one cut short": lambda records: {**records, 1: records[1][:-1]},
    "one emptied": lambda records: {**records, 1: b""},
    "all missing": lambda records: {},
}


@pytest.mark.diverges("its history is damaged")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_history_is_never_run(store_url: str, damage: str, style: str, stalls: Counter[str]) -> None:
    ran: list[str] = []
    app = pair(style, "pair", good=True)
    disk = Damage(store_url)
    async with open_store(store_url, app) as client:
        handle = await half_way(client, app, store_url)
        assert handle.run_id is not None
        sound = disk.read(handle.run_id)
        disk.write(handle.run_id, DAMAGES[damage](sound))
        with said_once(lambda: handle):
            async with Worker(app, store_url):
                await handle.raise_event("go", "on")
                state = await stalled(handle)
                assert str(state.stall_reason).startswith("HistoryDamagedError")
                await becomes_true(lambda: stalls[handle.instance_id] >= 3)
                other = await client.start("pair", events=[("go", 1)])
                assert await other.result(timeout=10) == [1, 1, 2]
        with pytest.raises(HistoryDamagedError):
            await handle.history()
        async with Worker(app, store_url):
            await handle.terminate("beyond repair")
            assert (await handle.wait(timeout=5)).status is TERMINATED
        assert ran == []


@dataclasses.dataclass
class Before:
    number: int


@dataclasses.dataclass
class After:
    number: int
    place: str


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("what", ["input", "result", "child"])
async def test_a_recorded_value_that_no_longer_fits_its_type_stalls(store_url: str, what: str, style: str) -> None:
    def deployed(kind: type) -> App:
        app = App()

        @app.activity
        async def finds() -> kind:  # type: ignore[valid-type]
            return Before(7)

        @app.orchestrator
        async def child(ctx: OrchestrationContext) -> kind:  # type: ignore[valid-type]
            return Before(7)

        finds.__annotations__["return"] = kind

        async def body(ctx: Any, value: Any) -> int:
            if what == "result":
                value = await ctx.call_activity(finds)
            if what == "child":
                value = await ctx.call_sub_orchestrator(child)
            ctx.set_custom_status("has it")
            await ctx.wait_for_external_event("go")
            return int(value.number)

        def steps_of(ctx: Any, value: Any) -> Orchestration[int]:
            if what == "result":
                value = yield ctx.call_activity(finds)
            if what == "child":
                value = yield ctx.call_sub_orchestrator(child)
            ctx.set_custom_status("has it")
            yield ctx.wait_for_external_event("go")
            return int(value.number)

        if style == "async":

            async def keeps(ctx: OrchestrationContext, value: kind) -> int:  # type: ignore[valid-type]
                return await body(ctx, value)

            keeps.__annotations__["value"] = kind
            app.orchestrator(keeps)
        else:

            def keeps_too(ctx: OrchestrationContext, value: kind) -> Orchestration[int]:  # type: ignore[valid-type]
                return (yield from steps_of(ctx, value))

            keeps_too.__annotations__["value"] = kind
            app.orchestrator(name="keeps")(keeps_too)
        return app

    async with open_store(store_url) as client:
        async with Worker(deployed(Before), store_url):
            handle = await client.start("keeps", {"number": 7})
            await until(handle, status="has it")
        with said_once(lambda: handle):
            async with Worker(deployed(After), store_url):
                await handle.raise_event("go")
                state = await stalled(handle)
                assert str(state.stall_reason).startswith("StoredValueError")
                assert "place" in str(state.stall_reason)
        async with Worker(deployed(Before), store_url):
            assert await handle.result(timeout=3) == 7


@pytest.mark.parametrize("store_url", ["memory"], indirect=True)  # the store has no part in it
async def test_a_turn_that_never_comes_to_rest_stalls_after_a_million_steps(
    store_url: str, stalls: Counter[str]
) -> None:
    app = lives_app()
    released = False

    @app.orchestrator
    async def spins(ctx: OrchestrationContext) -> str:
        while not released:
            await asyncio.sleep(0)
        return "rested"

    with said_once(lambda: handle):
        async with Worker(app, store_url) as worker:
            handle = await worker.client.start(spins)
            state = await stalled(handle)
            assert str(state.stall_reason).startswith("TurnBudgetExceededError")  # by steps; on a slow machine by time
            assert await worker.client.run("returns-async", 1, timeout=10) == 1
            released = True
            assert await handle.result(timeout=10) == "rested"


@pytest.mark.parametrize(("store_url", "style"), [("memory", "async"), ("sqlite", "generator")], indirect=["store_url"])
async def test_a_turn_over_its_time_stalls_with_its_stack_and_the_others_go_on(
    store_url: str, style: str, stalls: Counter[str]
) -> None:
    """The budget is half a second here. The instance ends well once its code lets go."""
    app = lives_app()
    released = False

    def loops_here() -> None:
        while not released:
            try:
                sum(range(1000))
            except Exception:
                pass

    @app.orchestrator(name="loops-async")
    async def loops_async(ctx: OrchestrationContext) -> str:
        ctx.set_custom_status("before")
        await ctx.wait_for_external_event("go")
        loops_here()
        return "out"

    @app.orchestrator(name="loops-generator")
    def loops(ctx: OrchestrationContext) -> Orchestration[str]:
        ctx.set_custom_status("before")
        yield ctx.wait_for_external_event("go")
        loops_here()
        return "out"

    with said_once(lambda: handle):
        async with Worker(app, store_url) as worker:
            assert worker._parts is not None
            assert isinstance(worker._parts.watch, Watchdog)
            worker._parts.watch.budget_s = 0.5
            handle = await worker.client.start(f"loops-{style}")
            await until(handle, status="before")
            await handle.raise_event("go")
            state = await stalled(handle)
            assert str(state.stall_reason).startswith("TurnBudgetExceededError")
            assert "in loops_here" in str(state.stall_reason)
            assert state.custom_status == "before"
            assert await worker.client.run("returns-async", 1, timeout=10) == 1
            await becomes_true(lambda: stalls[handle.instance_id] >= 2)
            released = True
            assert await handle.result(timeout=10) == "out"


@pytest.mark.parametrize("style", STYLES)
async def test_a_turn_that_is_too_large_stalls_and_keeps_what_it_had_taken(
    store_url: str, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of a turn is 200 KiB here."""
    monkeypatch.setattr(steps, "TURN_BYTES_MAX", 200 * 1024)
    app = lives_app()
    size = 100_000
    started: list[int] = []

    @app.activity
    async def weighs(load: str) -> int:
        started.append(len(load))
        return len(load)

    @app.orchestrator(name="hauls-async")
    async def hauls_async(ctx: OrchestrationContext) -> list[Any]:
        note = await ctx.wait_for_external_event("go")
        return [note, sum(await when_all([ctx.call_activity(weighs, "x" * size) for _ in range(4)]))]

    @app.orchestrator(name="hauls-generator")
    def hauls(ctx: OrchestrationContext) -> Orchestration[list[Any]]:
        note = yield ctx.wait_for_external_event("go")
        return [note, sum((yield when_all([ctx.call_activity(weighs, "x" * size) for _ in range(4)])))]

    with said_once(lambda: handle):
        async with Worker(app, store_url) as worker:
            handle = await worker.client.start(f"hauls-{style}")
            await handle.raise_event("go", "kept")
            state = await stalled(handle)
            assert "204,800" in str(state.stall_reason)
            assert started == []
            size = 10
            assert await handle.result(timeout=10) == ["kept", 40]


async def test_what_the_store_cannot_hold_stalls_one_instance_and_sends_nothing_of_its_turn(tmp_path: Any) -> None:
    """A store with a limit of its own: the turn that is over it is taken out whole, with what it would have sent."""
    store_url = f"memory://{tmp_path.name}?message_bytes_max=50000"
    app = lives_app()
    size = 60_000

    @app.orchestrator
    async def shows(ctx: OrchestrationContext) -> str:
        ctx.raise_event("receiver", "item", 1)
        ctx.set_custom_status("x" * size)
        ctx.start_orchestration("returns-async", instance_id="detached")
        return "shown"

    async with Worker(app, store_url) as worker:
        receiver = await worker.client.start("collects-async", 1, instance_id="receiver")
        handle = await worker.client.start(shows)
        await stalled(handle)
        with pytest.raises(LookupError):
            await worker.client.get("detached").state()
        assert names_of(await receiver.history()) == ["OrchestrationStarted"]
        assert await worker.client.run("returns-async", 1, timeout=10) == 1
        size = 10
        assert await handle.result(timeout=10) == "shown"
        assert await receiver.result(timeout=10) == [1]
        assert await worker.client.get("detached").result(timeout=10) is None


# ---- pauses


async def test_the_pauses_grow_and_steering_or_events_make_no_hot_loop(
    store_url: str, stalls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a second of events, against a stalled instance that somebody has also asked to cancel: a handful of tries."""
    monkeypatch.setattr(steps, "STALL_LONGEST_US", 10_000_000)
    good, bad = pair("async", "pair", good=True), pair("async", "pair", good=False)
    async with open_store(store_url, good) as client:
        handle = await half_way(client, good, store_url)
        async with Worker(bad, store_url):
            clock = asyncio.get_running_loop().time
            await handle.raise_event("go", 0)
            await stalled(handle)
            await handle.cancel("please")
            began = clock()
            sent = 1
            while clock() - began < 0.5:
                await handle.raise_event("go", sent)
                sent += 1
            # 50, 100, 200, 400 ms of pause, and one try for the cancel
            assert stalls[handle.instance_id] <= 7
            assert sent > 10
        async with Worker(good, store_url):
            with pytest.raises(OrchestrationCancelledError, match="please"):
                await handle.result(timeout=5)
            consumed = names_of(await handle.history()).count("EventRaised")  # one, if it came before the cancel
            assert consumed <= 1
            await becomes_true(lambda: _dropped_are(handle, sent - consumed))


async def test_a_pause_longer_than_the_timers_horizon_ends_too(
    store_url: str, stalls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker keeps only near times in memory, here 50 ms; the end of a pause is in no `due_at`."""
    monkeypatch.setattr(timers, "HORIZON_US", 50_000)
    monkeypatch.setattr(steps, "STALL_FIRST_US", 300_000)
    async with Worker(App(), store_url) as worker:
        handle = await worker.client.start("nobody knows it")
        await becomes_true(lambda: stalls[handle.instance_id] >= 2, within_s=5)


async def _dropped_are(handle: Any, count: int) -> bool:
    return len(await handle.dropped()) == count


@pytest.mark.parametrize("style", STYLES)
async def test_a_flood_for_a_stalled_instance_stays_in_the_store_and_in_order(store_url: str, style: str) -> None:
    """2,000 events while it is stalled: few are kept in memory, all arrive in order once it goes on."""
    good, bad = App(), App()

    @good.orchestrator(name="collects")
    async def collects(ctx: OrchestrationContext) -> list[int]:
        await ctx.create_timer(timedelta(0))
        found = [await ctx.wait_for_external_event("item")]
        while len(found) < 2_100:
            found.append(await ctx.wait_for_external_event("item"))
        return found

    @bad.orchestrator(name="collects")
    async def differs(ctx: OrchestrationContext) -> list[int]:
        await ctx.wait_for_external_event("item")
        await ctx.wait_for_external_event("item", timeout=5)
        return []

    async with open_store(store_url, good) as client:
        async with Worker(good, store_url):
            handle = await client.start("collects")
            await handle.raise_event("item", 0)
            await becomes_true(lambda: _has(handle, "EventRaised"))
        async with Worker(bad, store_url) as worker:
            await handle.raise_event("item", 1)
            await stalled(handle)
            for first in range(2, 2_002, 100):
                await asyncio.gather(*(handle.raise_event("item", n) for n in range(first, first + 100)))
            assert worker._parts is not None
            owner = worker._parts.owner
            await becomes_true(lambda: len(owner.receiver.held) < 600)
            assert (await handle.state()).status is STALLED
        async with Worker(good, store_url):
            for number in range(2_002, 2_100):
                await handle.raise_event("item", number)
            assert await handle.result(timeout=30) == list(range(2_100))


async def _has(handle: Any, name: str) -> bool:
    return name in names_of(await handle.history())


async def test_events_sent_while_it_recovers_do_not_overtake_those_left_in_the_store(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same worker stalls and recovers while one sender goes on sending. A turn has a thousand steps here."""
    monkeypatch.setattr(loop, "STEPS_MAX", 1000)
    app = lives_app()
    sane = False

    @app.orchestrator
    async def moody(ctx: OrchestrationContext) -> list[int]:
        while not sane:
            await asyncio.sleep(0)
        found = []
        while len(found) < 1_500:
            found.append(await ctx.wait_for_external_event("item"))
        return found

    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(moody)
        await stalled(handle)
        for first in range(0, 1_500, 10):
            sane = first >= 700
            await asyncio.gather(*(handle.raise_event("item", n) for n in range(first, first + 10)))
        assert await handle.result(timeout=20) == list(range(1_500))


# ---- steering what is stalled


@pytest.mark.diverges("the parent's history is damaged")
@pytest.mark.parametrize("style", STYLES)
async def test_a_stalled_instance_is_terminated_without_its_history_and_with_its_children(
    store_url: str, style: str
) -> None:
    app = lives_app()

    @app.orchestrator
    async def parent(ctx: OrchestrationContext) -> Any:
        ctx.set_custom_status("calling")
        return await ctx.call_sub_orchestrator(f"waits-{style}", instance_id="child")

    disk = Damage(store_url)
    async with open_store(store_url, app) as client:
        async with Worker(app, store_url):
            handle = await client.start(parent)
            await becomes_true(lambda: _is_there(client, "child"))
            await until(client.get("child"), status="waiting")
        assert handle.run_id is not None
        disk.write(handle.run_id, flip(disk.read(handle.run_id)))
        async with Worker(app, store_url):
            await client.get("child").raise_event("other")
            await handle.raise_event("anything")
            await stalled(handle)
            await handle.terminate("give up")
            assert (await handle.wait(timeout=5)).status is TERMINATED
            assert (await client.get("child").wait(timeout=5)).status is TERMINATED
            assert "anything" in [item.name for item in await handle.dropped()]


async def _is_there(client: Client, instance_id: str) -> bool:
    return bool(await client.count(prefix=instance_id))


@pytest.mark.parametrize("style", STYLES)
async def test_a_stalled_instance_is_suspended_and_resumed_without_its_history(
    store_url: str, style: str, stalls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pause is longer than 100 ms here."""
    monkeypatch.setattr(steps, "STALL_LONGEST_US", 100_000)
    good, bad = pair(style, "pair", good=True), pair(style, "pair", good=False)
    async with open_store(store_url, good) as client:
        handle = await half_way(client, good, store_url)
        async with Worker(bad, store_url):
            await handle.raise_event("go", "on")
            await stalled(handle)
            await handle.suspend("until it is repaired")
            await until(handle, SUSPENDED)
            await handle.raise_event("spare", 1)
            before = stalls[handle.instance_id]
            sentinel = [await client.start("returns-async", n, at=timedelta(seconds=n / 20)) for n in range(6)]
            for other in sentinel:
                await other.result(timeout=10)
            assert stalls[handle.instance_id] == before, "nobody tries what is suspended"
            assert (await handle.state()).status is SUSPENDED
        async with Worker(bad, store_url):
            sentinel = [await client.start("returns-async", 1, at=timedelta(seconds=0.15))]
            await sentinel[0].result(timeout=10)
            assert (await handle.state()).status is SUSPENDED
            await handle.resume()
            await until(handle, STALLED)
            await becomes_true(lambda: stalls[handle.instance_id] >= before + 2)
            await handle.suspend("again")
            await until(handle, SUSPENDED)
        async with Worker(good, store_url):
            sentinel = [await client.start("returns-async", 1, at=timedelta(seconds=0.15))]
            await sentinel[0].result(timeout=10)
            assert (await handle.state()).status is SUSPENDED
            await handle.resume()
            assert await handle.result(timeout=5) == [1, "on", 2]
            names = names_of(await handle.history())
            assert names.count("OrchestrationSuspended") == names.count("OrchestrationResumed") == 2
            assert [item.name for item in await handle.dropped()] == ["spare"]


@pytest.mark.parametrize("is_taken_over", [False, True], ids=["one worker", "another worker"])
async def test_a_stalled_instance_that_only_waits_for_a_timer_is_tried_again_when_it_is_resumed(
    store_url: str, is_taken_over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has come for it, so that nothing else would have it tried before its pause of an hour is over."""
    monkeypatch.setattr(steps, "STALL_FIRST_US", 3600 * 1_000_000)
    monkeypatch.setattr(steps, "STALL_LONGEST_US", 3600 * 1_000_000)
    is_wrong = True
    app = App()

    @app.orchestrator
    async def sleeps(ctx: OrchestrationContext) -> str:
        if ctx.is_replaying and is_wrong:
            await ctx.wait_for_external_event("another")
        await ctx.create_timer(timedelta(seconds=0.3))
        return "awake"

    async with open_store(store_url) as client, contextlib.AsyncExitStack() as workers:
        async with Worker(app, store_url):
            handle = await client.start(sleeps)
            await until(handle, OrchestrationStatus.RUNNING)
        await workers.enter_async_context(Worker(app, store_url))
        await stalled(handle)
        await handle.suspend()
        await until(handle, SUSPENDED)
        if is_taken_over:
            await workers.aclose()
            await workers.enter_async_context(Worker(app, store_url))
        is_wrong = False
        await handle.resume()
        assert await handle.result(timeout=5) == "awake"


async def test_an_unbegun_instance_that_stalled_is_suspended_and_resumed(store_url: str) -> None:
    async with open_store(store_url) as client:
        async with Worker(App(), store_url):
            handle = await client.start("waits-async", "in")
            await stalled(handle)
            await handle.suspend()
            await until(handle, SUSPENDED)
            await handle.raise_event("go", 1)
        async with Worker(lives_app(), store_url):
            sentinel = await client.start("returns-async", 1, at=timedelta(seconds=0.2))
            await sentinel.result(timeout=10)
            assert (await handle.state()).status is SUSPENDED
            await handle.resume()
            assert await handle.result(timeout=5) == ["in", 1]


async def test_steering_that_comes_together_is_taken_to_the_last(store_url: str) -> None:
    """What is suspended is parked for good: a resume in the same breath must not be left lying behind the suspension."""
    async with open_store(store_url) as client:
        async with Worker(App(), store_url):
            handle = await client.start("waits-async", "in")
            await stalled(handle)
            await asyncio.gather(handle.suspend(), handle.suspend("again"), handle.resume())
            await becomes_true(lambda: _has_resumed(handle))
            assert (await handle.state()).status is STALLED
        async with Worker(lives_app(), store_url):
            await handle.raise_event("go", 1)
            assert await handle.result(timeout=5) == ["in", 1]


async def _has_resumed(handle: Handle[Any]) -> bool:
    return "OrchestrationResumed" in names_of(await handle.history())


@pytest.mark.parametrize("style", STYLES)
async def test_cancel_of_a_stalled_instance_waits_until_it_can_run(store_url: str, style: str) -> None:
    good, bad = pair(style, "pair", good=True), pair(style, "pair", good=False)
    async with open_store(store_url, good) as client:
        handle = await half_way(client, good, store_url)
        async with Worker(bad, store_url):
            await handle.raise_event("go", "on")
            await stalled(handle)
            await handle.cancel("patiently")
            await becomes_true(lambda: _always_stalled(handle))
        async with Worker(good, store_url):
            with pytest.raises(OrchestrationCancelledError, match="patiently"):
                await handle.result(timeout=5)


async def _always_stalled(handle: Any) -> bool:
    return (await handle.state()).status is STALLED


# ---- over by itself


@pytest.mark.parametrize("style", STYLES)
async def test_a_stalled_instance_goes_on_at_once_with_a_new_worker_however_long_its_pause(
    store_url: str, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause is ten minutes here; what waits in the store, open activities and timers go on with it."""
    monkeypatch.setattr(steps, "STALL_FIRST_US", 600_000_000)
    monkeypatch.setattr(steps, "STALL_LONGEST_US", 600_000_000)
    good, bad = pair(style, "pair", good=True), pair(style, "pair", good=False)
    async with open_store(store_url, good) as client:
        handle = await half_way(client, good, store_url)
        unbegun = await client.start("unknown so far", 5)
        async with Worker(bad, store_url):
            await handle.raise_event("go", "on")
            await stalled(handle)
            await stalled(unbegun)
        good.orchestrator(name="unknown so far")(_returns)
        async with Worker(good, store_url):
            assert await handle.result(timeout=3) == [1, "on", 2]
            assert await unbegun.result(timeout=3) == 5


async def _returns(ctx: OrchestrationContext, value: int) -> int:
    return value


async def test_activities_and_timers_that_end_while_stalled_are_not_lost(store_url: str) -> None:
    good, bad = App(), App()
    release = asyncio.Event()

    async def slow(value: int) -> int:
        await release.wait()
        return value

    good.activity(slow)
    bad.activity(slow)

    @good.orchestrator(name="mixes")
    async def mixes(ctx: OrchestrationContext) -> list[int]:
        made = [ctx.call_activity("slow", n) for n in range(5)]
        await ctx.create_timer(timedelta(seconds=0.2))
        ctx.set_custom_status("timer is over")
        return await when_all(made)

    @bad.orchestrator(name="mixes")
    async def differs(ctx: OrchestrationContext) -> list[int]:
        return [await ctx.call_activity("slow", 7)]

    async with open_store(store_url, good) as client:
        async with Worker(good, store_url, shutdown_timeout=0):
            handle = await client.start("mixes")
            await becomes_true(lambda: _has(handle, "TimerCreated"))
        async with Worker(bad, store_url, shutdown_timeout=0):
            await stalled(handle)
            release.set()
            other = await client.start("mixes", at=timedelta(seconds=0.3))
            await other.wait(timeout=10)
        async with Worker(good, store_url):
            assert await handle.result(timeout=5) == [0, 1, 2, 3, 4]
            names = names_of(await handle.history())
            assert names.count("ActivityCompleted") == 5
            assert names.count("TimerFired") == 1


async def test_many_stalled_instances_leave_the_worker_free_for_others(store_url: str, stalls: Counter[str]) -> None:
    app = lives_app()
    async with Worker(app, store_url) as worker:
        bad = [await worker.client.start("nobody knows it") for _ in range(100)]
        for handle in bad:
            await until(handle, STALLED)
        for number in range(20):
            assert await worker.client.run("returns-async", number, timeout=5) == number
        assert await worker.client.count(status=STALLED) == 100
        assert max(stalls.values()) < 30
