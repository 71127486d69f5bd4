"""How turns that are ready at one moment come to be written."""

from __future__ import annotations

import asyncio
from pathlib import Path

import durable_memory
import pytest

from durable import App, OrchestrationContext, Worker
from durable.ports import system_ports
from durable.provider import Batch, Committed, Lease
from tests.worker.lives import is_cached

app = App()

TOGETHER = 40


@app.orchestrator
async def waits(ctx: OrchestrationContext) -> str:
    return await ctx.wait_for_external_event("go", str)


@pytest.mark.parametrize("is_remote", [False, True])
async def test_a_round_is_halved_where_another_process_works_on_the_commit(tmp_path: Path, is_remote: bool) -> None:
    provider = durable_memory.connect(f"memory://{tmp_path.name}", system_ports())
    provider.is_remote = is_remote
    sizes: list[int] = []
    commit = provider.commit

    async def counted(lease: Lease, batch: Batch) -> Committed:
        sizes.append(len(batch.steps))
        return await commit(lease, batch)

    provider.commit = counted  # type: ignore[method-assign]
    async with Worker(app, provider) as worker:
        handles = [await worker.client.start(waits) for _ in range(TOGETHER)]
        while await worker.client.count(status="RUNNING") < TOGETHER:  # type: ignore[arg-type]
            await asyncio.sleep(0.01)
        sizes.clear()
        await asyncio.gather(*(handle.raise_event("go", "gone") for handle in handles))
        assert [await handle.result(timeout=10) for handle in handles] == ["gone"] * TOGETHER
    assert sum(sizes) == TOGETHER
    if is_cached():  # else each one is read before its turn, and they come one by one
        assert (max(sizes) <= TOGETHER / 2) is is_remote
