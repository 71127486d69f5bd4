"""Activities that wait for a slot while their worker's lease is lost: they are for whoever comes next, not for it."""

from __future__ import annotations

import asyncio
from typing import Any

from durable import App, OrchestrationContext, Worker, when_all
from tests.worker.lives import becomes_true, provider_of


async def test_what_waits_for_a_slot_does_not_begin_after_its_lease_was_lost(store_url: str) -> None:
    app, begun, may_end = App(), [], asyncio.Event()

    @app.activity
    async def act(number: int) -> int:
        begun.append(number)
        await may_end.wait()
        return number

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> Any:
        return await when_all([ctx.call_activity(act, number) for number in range(3)])

    async with provider_of(store_url) as provider, Worker(app, store_url, max_activities=1) as worker:
        await worker.client.start(main)
        await becomes_true(lambda: begun == [0])
        assert worker._parts is not None
        keeper, runner = worker._parts.keeper, worker._parts.runner
        former = keeper.lease
        thief = await provider.lease("thief", b"", worker=True)
        await provider.take(thief, range(64), from_live=True)
        keeper.wake()
        await becomes_true(lambda: keeper.lease not in (None, former))
        may_end.set()
        await becomes_true(lambda: not runner.attempts)
        assert begun == [0]
        await provider.release(thief)


async def test_nothing_begins_while_the_lease_may_be_lost(store_url: str) -> None:
    """The worker stood still: it does not know yet whether its lease is still its own."""
    app, begun, may_end = App(), [], asyncio.Event()

    @app.activity
    async def act(number: int) -> int:
        begun.append((number, keeper.is_valid))
        await may_end.wait()
        return number

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> Any:
        return await when_all([ctx.call_activity(act, number) for number in range(3)])

    async with Worker(app, store_url, max_activities=1) as worker:
        assert worker._parts is not None
        keeper = worker._parts.keeper
        handle = await worker.client.start(main)
        await becomes_true(lambda: begun)
        keeper._valid_until = 0.0
        may_end.set()
        assert await handle.result(timeout=20) == [0, 1, 2]
    assert begun == [(0, True), (1, True), (2, True)]


async def test_nothing_is_called_that_was_let_in_before_the_process_stood_still(store_url: str) -> None:
    """Between the look at the lease and the call a process may be stopped for as long as it takes to lose it."""
    app, begun = App(), []

    @app.activity
    async def in_the_loop(number: int) -> int:
        begun.append(is_lost)
        return number

    @app.activity
    def in_a_thread(number: int) -> int:
        begun.append(is_lost)
        return number

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> Any:
        return await when_all([ctx.call_activity(in_the_loop, 1), ctx.call_activity(in_a_thread, 2)])

    is_lost, looks = False, 0

    def may_begin() -> bool:
        nonlocal is_lost, looks
        looks += 1
        is_lost = looks in (2, 3, 4, 7)  # let in, and lost by the time of the call
        return not is_lost

    async with Worker(app, store_url) as worker:
        assert worker._parts is not None
        worker._parts.runner._may_begin = may_begin
        assert await worker.client.run(main, timeout=20) == [1, 2]
    assert begun == [False, False]
    assert looks > 7
