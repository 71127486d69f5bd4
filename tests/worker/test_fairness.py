"""A wide fan-out holds up nobody else: instances take turns in the slots for activities."""

from __future__ import annotations

import asyncio

from durable import App, OrchestrationContext, Worker, when_all
from durable.worker.fairness import TakingTurns
from tests.worker.lives import becomes_true

WIDTH = 60


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
