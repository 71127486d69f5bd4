"""What a former owner held is delivered again by whoever comes next: in part here, in part by the queue."""

from __future__ import annotations

import asyncio
from collections import Counter

from durable import App, OrchestrationContext, Worker, when_all
from tests.worker.lives import becomes_true, open_store


def app_with(*activities: str, began: Counter[str], hangs: bool) -> App:
    """An orchestrator that asks for `far`, `near` and `far` at once, and of these activities those that are named."""
    app = App()

    def add(name: str) -> None:
        @app.activity(name=name)
        async def work(number: int) -> int:
            began[name] += 1
            if hangs:
                await asyncio.Event().wait()
            return number

    for name in activities:
        add(name)

    @app.orchestrator
    async def asks(ctx: OrchestrationContext) -> list[int]:
        return await when_all([ctx.call_activity(name, at) for at, name in enumerate(("far", "near", "far"))])

    return app


async def test_what_is_held_between_two_attempts_of_the_queue_is_delivered_to_the_next_owner_too(
    store_url: str,
) -> None:
    """The second owner serves `near` alone: it holds that, and what comes before and after it goes to the queue."""
    async with open_store(store_url) as client:
        for activities in (("far", "near"), ("near",)):
            began: Counter[str] = Counter()
            app = app_with(*activities, began=began, hangs=True)
            async with Worker(app, store_url, shutdown_timeout=0):
                if "far" in activities:
                    handle = await client.start("asks")
                await becomes_true(lambda: began["near"])  # noqa: B023 (awaited at once)
        async with Worker(app_with("far", "near", began=Counter(), hangs=False), store_url):
            assert await handle.result(timeout=15) == [0, 1, 2]
