"""The promises that the product is sold on; those of size in a small form, and at full size with `python -m tests.sizes`."""

from __future__ import annotations

import asyncio
import gc
import itertools
import resource
import time
from collections import Counter, defaultdict
from typing import Any

import pytest

from durable import (
    App,
    Orchestration,
    OrchestrationContext,
    OrchestrationStatus,
    UpdateReceived,
    UpdateRejectedError,
    Worker,
    when_all,
)
from tests.sizes import sized
from tests.worker.lives import STYLES, is_cached


def counting_app() -> App:
    app = App()

    @app.activity
    async def echo(value: int) -> int:
        return value

    @app.orchestrator
    def sequence(ctx: OrchestrationContext, steps: int) -> Orchestration[int]:
        total = 0
        for step in range(steps):
            total += yield ctx.call_activity(echo, step)
        return total

    @app.orchestrator
    async def fan_out(ctx: OrchestrationContext, width: int) -> int:
        return sum(await when_all([ctx.call_activity(echo, 1) for _ in range(width)]))

    return app


@pytest.mark.size
@pytest.mark.timeout(120)
async def test_a_step_costs_the_same_at_the_end_of_a_long_history(tmp_path: Any) -> None:
    """10,000 sequential activities at full size: the last tenth takes at most 1.2 times as long as an early one."""
    steps = sized(10_000, 4_000)
    marks: list[float] = []
    app = App()

    @app.activity
    async def step(number: int) -> int:
        if number % (steps // 20) == 0:
            marks.append(time.process_time())
        return number

    @app.orchestrator
    def long(ctx: OrchestrationContext, steps: int) -> Orchestration[int]:
        for number in range(steps):
            yield ctx.call_activity(step, number)
        return steps

    async with Worker(app, f"sqlite:///{tmp_path}/long.db") as worker:
        assert await worker.client.run(long, steps + 1, timeout=100) == steps + 1
    spans = [after - before for before, after in itertools.pairwise(marks)]
    # The least of several spans: whatever else the machine does only adds to one.
    early, late = min(spans[1:8]), min(spans[-7:])
    assert late <= 1.2 * early, spans


@pytest.mark.size
@pytest.mark.timeout(240)
async def test_a_fan_out_of_100_000_is_linear_and_leaves_room_for_others(tmp_path: Any) -> None:
    """100,000 activities at once at full size: linear time, under 1 GiB, and small instances go on meanwhile."""
    widest = sized(100_000, 20_000)
    app = counting_app()
    seconds: dict[int, float] = {}
    async with Worker(app, f"sqlite:///{tmp_path}/fan.db") as worker:
        await worker.client.run("fan_out", 1_000, timeout=60)
        for width in (widest // 2, widest):
            gc.collect()
            began = time.perf_counter()
            wide = await worker.client.start("fan_out", width)
            whole = asyncio.create_task(wide.result(timeout=120))
            others: list[float] = []
            while not whole.done():
                asked = time.perf_counter()
                assert await worker.client.run("sequence", 3, timeout=60) == 3
                others.append(time.perf_counter() - asked)
            assert await whole == width
            seconds[width] = time.perf_counter() - began
            assert len(others) >= 3, "no other instance finished while the fan-out ran"
    assert seconds[widest] <= 2.6 * seconds[widest // 2], seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1024 * 1024, "over 1 GiB"


@pytest.mark.parametrize("store_url", ["sqlite", "memory"], indirect=True)
@pytest.mark.parametrize("style", STYLES)
async def test_each_of_1000_events_is_seen_once_in_order_across_generations(store_url: str, style: str) -> None:
    """20 tasks raise 50 events each (without the cache 15) at an instance that continues as new after every one."""
    app = App()
    each = 50 if is_cached() else 15
    seen: list[tuple[int, int]] = []

    @app.activity
    async def note(item: list[int]) -> None:
        seen.append((item[0], item[1]))

    if style == "generator":

        @app.orchestrator(name="listener")
        def listen(ctx: OrchestrationContext, left: int) -> Orchestration[int]:
            item = yield ctx.wait_for_external_event("item")
            yield ctx.call_activity(note, item)
            if left == 1:
                return 0
            ctx.continue_as_new(left - 1)
    else:

        @app.orchestrator(name="listener")
        async def listen_async(ctx: OrchestrationContext, left: int) -> int:
            item = await ctx.wait_for_external_event("item")
            await ctx.call_activity(note, item)
            if left == 1:
                return 0
            ctx.continue_as_new(left - 1)

    async with Worker(app, store_url) as worker:
        handle = await worker.client.start("listener", 20 * each)

        async def send(sender: int) -> None:
            for number in range(each):
                await handle.raise_event("item", [sender, number])

        await asyncio.gather(*(send(sender) for sender in range(20)))
        assert await handle.result(timeout=60) == 0
        assert await handle.dropped() == []
    by_sender: dict[int, list[int]] = defaultdict(list)
    for sender, number in seen:
        by_sender[sender].append(number)
    assert len(seen) == 20 * each
    assert all(numbers == list(range(each)) for numbers in by_sender.values())


async def test_an_eternal_orchestration_does_not_grow(store_url: str) -> None:
    """After hundreds of generations the store holds the history of two."""
    app = App()

    @app.orchestrator
    async def forever(ctx: OrchestrationContext, number: int) -> int:
        ctx.set_custom_status(number)
        await asyncio.sleep(0.0001)
        if number == 300:
            return number
        ctx.continue_as_new(number + 1)

    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(forever, 0)
        assert await handle.result(timeout=60) == 300
        state = await handle.state()
        assert state.generation == 300
        kept = [
            generation for generation in range(301) if await worker._provider.read_history(state.run_id, generation)
        ]
        assert kept == [299, 300]


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_an_endless_loop_stalls_and_others_go_on(store_url: str) -> None:
    """A turn that never ends is stopped within ten seconds, its stack is shown, and the worker goes on."""
    app = App()

    @app.activity
    async def work() -> str:
        return "done"

    @app.orchestrator
    async def spin(ctx: OrchestrationContext) -> None:
        while True:
            try:
                sum(range(100))
            except BaseException:
                pass

    @app.orchestrator
    async def fine(ctx: OrchestrationContext) -> str:
        return await ctx.call_activity(work)

    async with Worker(app, store_url) as worker:
        began = time.process_time()  # the loop spins: this is the time that it had, whatever else the machine does
        stuck = await worker.client.start(spin)
        others = [await worker.client.start(fine) for _ in range(5)]
        async for state in stuck.watch():
            if state.status is OrchestrationStatus.STALLED:
                break
        assert time.process_time() - began < 10
        assert state.stall_reason is not None
        assert "test_must_show.py" in state.stall_reason
        assert "in spin" in state.stall_reason
        assert [await other.result(timeout=10) for other in others] == ["done"] * 5
        await stuck.terminate("enough")
        assert (await stuck.wait(timeout=15)).status is OrchestrationStatus.TERMINATED


async def test_every_activity_has_exactly_one_outcome(store_url: str) -> None:
    """200 instances of 5 activities, all at once: each history has one outcome per request, none missing."""
    app = counting_app()
    async with Worker(app, store_url) as worker:
        handles = [await worker.client.start("sequence", 5) for _ in range(200)]
        assert await worker.client.wait(timeout=60) == 200
        for handle in handles:
            history = await handle.history()
            names = Counter(type(event).__name__ for event in history)
            assert names["ActivityScheduled"] == names["ActivityCompleted"] == 5
            outcomes = Counter(event.task_id for event in history if type(event).__name__ == "ActivityCompleted")
            assert set(outcomes.values()) == {1}


@pytest.mark.size
@pytest.mark.timeout(120)
async def test_ten_thousand_updates_to_one_instance_are_each_answered_once_and_in_order(tmp_path: Any) -> None:
    """Every tenth is refused, and leaves nothing. Ten thousand at full size."""
    app, count = App(), sized(10_000, 2_000)

    @app.orchestrator
    async def counter(ctx: OrchestrationContext) -> None:
        taken: list[int] = []

        def check(number: int) -> None:
            if number % 10 == 9:
                raise ValueError(f"not {number}")

        def take(number: int) -> int:
            taken.append(number)
            return len(taken)

        ctx.on_update("take", take, check)
        ctx.on_query("count", lambda: len(taken))
        await ctx.wait_for_external_event("never")

    async with Worker(app, f"sqlite:///{tmp_path}/updates.db") as worker:
        handle = await worker.client.start(counter)
        calls = (handle.update("take", number) for number in range(count))
        found = await asyncio.gather(*calls, return_exceptions=True)
        refused = [str(answer) for answer in found if isinstance(answer, UpdateRejectedError)]
        assert refused == [f"not {number}" for number in range(9, count, 10)]
        assert [answer for answer in found if isinstance(answer, int)] == list(range(1, count * 9 // 10 + 1))
        assert await handle.query("count") == count * 9 // 10
        events = list(await handle.history())
        received = [event for event in events if isinstance(event, UpdateReceived)]
        assert [event.argument for event in received] == [number for number in range(count) if number % 10 != 9]
        assert len(events) == 1 + 2 * (count * 9 // 10)
        assert await handle.dropped() == []
