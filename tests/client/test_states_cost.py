"""Looking at an instance costs what is new, not how old it is."""

from __future__ import annotations

import asyncio

from durable import App, OrchestrationContext, Worker, when_all


async def test_looking_again_reads_only_what_is_new(store_url: str) -> None:
    """The second look at a wide fan-out reads no history again, and shows the same activities."""
    app = App()
    gate = asyncio.Event()

    @app.activity
    async def hold(number: int) -> int:
        await gate.wait()
        return number

    @app.orchestrator
    async def wide(ctx: OrchestrationContext) -> int:
        return sum(await when_all([ctx.call_activity(hold, number) for number in range(1_500)]))

    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(wide)
        while len((await handle.state()).activities) < 1_000:
            await asyncio.sleep(0.005)
        provider = worker.client.connection.provider
        reads: list[int] = []
        read_history = provider.read_history

        async def counted(run_id: str, generation: int, first: int = 0, bytes_max: int = 1 << 22) -> object:
            reads.append(first)
            return await read_history(run_id, generation, first, bytes_max)

        provider.read_history = counted  # type: ignore[method-assign, assignment]
        first, second = await handle.state(), await handle.state()
        assert [found.task_id for found in first.activities] == list(range(1_000))
        assert second.activities == first.activities
        assert reads == []
        gate.set()
        assert await handle.result(timeout=30) == sum(range(1_500))
