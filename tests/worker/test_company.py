"""With company a worker keeps what would not end sooner elsewhere, and offers the rest to whoever has a slot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from durable import App, OrchestrationContext, Worker, when_all
from durable.provider import PARTITIONS, Batch, Lease
from tests.worker.lives import becomes_true

SLOTS = 20


class Gate:
    """What some activities wait for."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()


def build_app(gate: Gate) -> App:
    app = App()

    @app.activity
    async def quick(number: int) -> int:
        return number

    @app.activity
    async def slow(number: int) -> int:
        await asyncio.sleep(0.1)
        return number

    @app.activity
    async def endless(number: int) -> int:
        await gate.is_open.wait()
        return number

    @app.orchestrator
    async def many(ctx: OrchestrationContext, of: tuple[str, int]) -> int:
        name, count = of
        return sum(await when_all([ctx.call_activity(name, number) for number in range(count)]))

    @app.orchestrator
    async def mixed(ctx: OrchestrationContext) -> int:
        waiting = [ctx.call_activity("endless", number) for number in range(SLOTS)]
        result: int = await ctx.call_activity("quick", 7)
        await when_all(waiting)
        return result

    return app


async def offered_by(
    store_url: str, monkeypatch: pytest.MonkeyPatch, scenario: Callable[[Worker], Awaitable[object]], gate: Gate
) -> int:
    """Let one of two workers run a scenario; return how many attempts it has put into the queue."""
    monkeypatch.setattr("durable.worker.leasing.LOOK_AROUND_S", 0.05)
    app = build_app(gate)
    offered = 0
    one, other = (Worker(app, store_url, max_activities=SLOTS) for _ in range(2))
    async with one, other:
        await becomes_true(lambda: [w.health().partitions for w in (one, other)] == [PARTITIONS // 2] * 2)
        commit = one._provider.commit

        async def counted(lease: Lease, batch: Batch) -> Any:
            nonlocal offered
            offered += sum(len(step.queue_adds) for step in batch.steps)
            return await commit(lease, batch)

        monkeypatch.setattr(one._provider, "commit", counted)
        await scenario(one)
    return offered


async def run(worker: Worker, name: str, count: int) -> None:
    total = await worker.client.run("many", (name, count), timeout=30)
    assert total == count * (count - 1) // 2


async def test_what_is_quick_waits_for_a_slot_here(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(worker: Worker) -> None:
        await run(worker, "quick", 10)  # from now on it is known how long they take
        await run(worker, "quick", 300)

    assert await offered_by(store_url, monkeypatch, scenario, Gate()) == 0


async def test_of_what_nothing_is_known_is_shared(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(worker: Worker) -> None:
        await run(worker, "quick", 60)

    assert await offered_by(store_url, monkeypatch, scenario, Gate()) == 60 - SLOTS


async def test_what_is_slow_is_shared(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(worker: Worker) -> None:
        await run(worker, "slow", 10)
        await run(worker, "slow", 60)

    assert await offered_by(store_url, monkeypatch, scenario, Gate()) == 60 - SLOTS


async def test_what_would_wait_for_long_is_shared(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durable.worker.attempts.SHARED_LINE_S_MAX", 0.01)

    async def scenario(worker: Worker) -> None:
        await run(worker, "quick", 10)
        await run(worker, "quick", 300)

    assert await offered_by(store_url, monkeypatch, scenario, Gate()) > 100


async def test_nothing_waits_for_slots_that_nobody_gives_up(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()

    async def scenario(worker: Worker) -> None:
        await run(worker, "quick", 10)
        taken = await worker.client.start("many", ("endless", SLOTS))
        await becomes_true(lambda: worker.health().activities == SLOTS)
        freed_at = asyncio.get_running_loop().time()
        await becomes_true(lambda: asyncio.get_running_loop().time() > freed_at + 0.1)
        await run(worker, "quick", 5)  # the other worker has free slots
        gate.is_open.set()
        await taken.result(timeout=30)

    assert await offered_by(store_url, monkeypatch, scenario, gate) == 5


async def test_nothing_waits_behind_what_is_not_known_to_be_quick(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where these have only been asked for, in the same turn, or begun a moment ago."""
    gate = Gate()

    async def scenario(worker: Worker) -> None:
        await run(worker, "quick", 10)
        mixed = await worker.client.start("mixed")
        await becomes_true(lambda: worker.health().activities == SLOTS)
        await run(worker, "quick", 5)
        gate.is_open.set()
        assert await mixed.result(timeout=30) == 7

    assert await offered_by(store_url, monkeypatch, scenario, gate) == 6
