"""A slot that a turn reserves for an activity is given back, whatever becomes of the turn."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from durable import App, LeaseLostError, OrchestrationContext, OrchestrationStatus, Worker
from durable.worker import placing, steps
from tests.worker.lives import becomes_true, until

STALLED, COMPLETED = OrchestrationStatus.STALLED, OrchestrationStatus.COMPLETED


@pytest.fixture(autouse=True)
def brief_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "STALL_FIRST_US", 50_000)


def build_app() -> App:
    app = App()

    @app.activity
    async def work(number: int) -> int:
        return number

    @app.orchestrator
    async def asks(ctx: OrchestrationContext, count: int) -> int:
        calls = [ctx.call_activity(work, number, timeout=timedelta(seconds=30)) for number in range(count)]
        ctx.raise_event("nobody", "hello")
        return sum(await asyncio.gather(*calls))

    return app


def reserved(worker: Worker) -> int:
    assert worker._parts is not None
    return worker._parts.owner.attempts.reserved


async def test_a_turn_that_fails_after_it_placed_its_activities_keeps_no_slot(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, fails = placing.to_message, True

    def to_message(*arguments: Any) -> Any:
        if fails:
            raise RuntimeError("no such message")
        return real(*arguments)

    monkeypatch.setattr(placing, "to_message", to_message)
    async with Worker(build_app(), store_url) as worker:
        handle = await worker.client.start("asks", 5)
        await until(handle, STALLED)
        assert reserved(worker) == 0
        fails = False
        assert await handle.result(timeout=10) == 10
        assert reserved(worker) == 0


async def test_a_turn_whose_commit_is_refused_keeps_no_slot(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A late refusal gives back what its own turns had reserved, and nothing of those that came after it."""
    async with Worker(build_app(), store_url) as worker:
        commit, gate = worker._provider.commit, asyncio.Event()
        is_first = True

        async def refused_once(lease: Any, batch: Any) -> Any:
            nonlocal is_first
            if is_first and batch.steps:
                is_first = False
                await gate.wait()
                raise LeaseLostError("it was taken")
            return await commit(lease, batch)

        monkeypatch.setattr(worker._provider, "commit", refused_once)
        starting = asyncio.create_task(worker.client.start("asks", 5))
        await becomes_true(lambda: not is_first)
        assert reserved(worker) == 5
        gate.set()
        assert await (await starting).result(timeout=20) == 10
        assert reserved(worker) == 0
