"""Nobody is held up by many others: instances take turns at the slots for activities, and timers with messages at the owner."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

from durable import App, OrchestrationContext, Worker, when_all
from durable.worker.fairness import DUE_IN_A_ROW, ReadyLines, TakingTurns
from tests.worker.lives import becomes_true

WIDTH = 60
STARTS = 300


async def test_an_activity_does_not_wait_for_another_instances_fan_out(store_url: str) -> None:
    app, opened, began = App(), asyncio.Event(), []

    @app.activity
    async def note(name: str) -> None:
        began.append(name)
        await opened.wait()

    @app.orchestrator
    async def fans_out(ctx: OrchestrationContext, width: int) -> None:
        await when_all([ctx.call_activity(note, "wide") for _ in range(width)])

    @app.orchestrator
    async def single(ctx: OrchestrationContext, name: str) -> None:
        await ctx.call_activity(note, name)

    async with Worker(app, store_url, max_activities=2) as worker:
        assert worker._parts is not None
        runner = worker._parts.runner
        wide = await worker.client.start(fans_out, WIDTH)
        await becomes_true(lambda: runner.waiting == WIDTH - 2)
        others = [await worker.client.start(single, name) for name in ("first", "second")]
        await becomes_true(lambda: runner.waiting == WIDTH)
        opened.set()
        for handle in (wide, *others):
            await handle.result(timeout=10)
    assert sorted(began) == sorted(["wide"] * WIDTH + ["first", "second"])
    assert began.index("second") < 8


def test_lines_take_turns_and_each_keeps_its_order() -> None:
    queue: TakingTurns[str, str] = TakingTurns()
    for item in ("a1", "a2", "a3", "a4", "b1", "b2"):
        queue.append(item[0], item)
    taken = [queue.pop()]
    queue.append("c", "c1")
    assert (len(queue), sorted(queue)) == (6, ["a2", "a3", "a4", "b1", "b2", "c1"])
    while queue:
        taken.append(queue.pop())
    assert taken == ["a1", "b1", "a2", "c1", "b2", "a3", "a4"]
    queue.append("a", "a5")
    queue.clear()
    assert not queue
    assert list(queue) == []


def test_what_is_due_waits_behind_no_flood_of_what_has_come_and_the_other_way_about() -> None:
    ready = ReadyLines[str]()
    for item in ("c1", "c2", "c3"):
        ready.append(item, is_due=False)
    taken = [ready.pop()]
    due = [f"d{number}" for number in range(DUE_IN_A_ROW + 2)]
    for item in due:
        ready.append(item, is_due=True)
    assert len(ready) == len(due) + 2
    while ready:
        taken.append(ready.pop())
    assert taken == ["c1", *due[:DUE_IN_A_ROW], "c2", *due[DUE_IN_A_ROW:], "c3"]
    ready.append("late", is_due=True)
    ready.clear()
    assert not ready


async def test_a_timer_does_not_wait_for_all_the_starts_that_came_before_it_was_due(store_url: str) -> None:
    app, ran = App(), list[str]()

    @app.orchestrator
    async def sleeps(ctx: OrchestrationContext) -> None:
        await ctx.create_timer(timedelta(seconds=0.03))
        ran.append("timer")

    @app.orchestrator
    async def takes_a_while(ctx: OrchestrationContext) -> None:
        began = time.perf_counter()
        while time.perf_counter() - began < 0.001:  # as much code of users' would
            pass
        ran.append("start")

    async with Worker(app, store_url) as worker:
        timer = await worker.client.start(sleeps)
        await asyncio.gather(*(worker.client.start(takes_a_while) for _ in range(STARTS)))
        await timer.result(timeout=10)
        await worker.client.wait(timeout=10)
    assert ran.index("timer") < STARTS - 100  # reading it back, where it is not cached, takes some rounds of the loop
