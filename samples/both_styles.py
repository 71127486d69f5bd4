"""The same orchestrator in both styles. One engine runs them, and they leave the same history.

Generators yield tasks, as in the Durable Functions family; `yield from` is the same request, with a type. Coroutines await
them, and may use asyncio's own tools: here `asyncio.timeout` stands for a timer that races the event.

    python samples/both_styles.py [STORE_URL]
"""

import asyncio
import sys
from datetime import timedelta

from durable import App, Orchestration, OrchestrationContext, Worker, when_all, when_any

app = App()


@app.activity
def greet(name: str) -> str:
    return f"Hello, {name}!"


@app.orchestrator
def greet_with_generator(ctx: OrchestrationContext, names: list[str]) -> Orchestration[list[str]]:
    greetings = yield from when_all([ctx.call_activity(greet, name) for name in names])
    extra = ctx.wait_for_external_event("one_more", str)
    patience = ctx.create_timer(timedelta(seconds=20))
    winner = yield from when_any([extra, patience])
    if winner is extra:
        patience.cancel()
        greetings.append((yield from ctx.call_activity(greet, extra.result())))
    return greetings


@app.orchestrator
async def greet_with_coroutine(ctx: OrchestrationContext, names: list[str]) -> list[str]:
    greetings = await when_all([ctx.call_activity(greet, name) for name in names])
    extra = ctx.wait_for_external_event("one_more", str)
    try:
        async with asyncio.timeout(20):
            name = await extra
    except TimeoutError:
        return greetings
    greetings.append(await ctx.call_activity(greet, name))
    return greetings


async def main(store: str = "memory://") -> list[list[str]]:
    results = []
    async with Worker(app, store) as worker:
        for orchestrator in (greet_with_generator, greet_with_coroutine):
            handle = await worker.client.start(orchestrator, ["Tokyo", "London"], events=[("one_more", "Oslo")])
            results.append(await handle.result(timeout=30))
            history = await handle.history()
            print(orchestrator.__name__, results[-1])
            print("  ", " ".join(type(event).__name__ for event in history))
    assert results[0] == results[1]
    return results


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
