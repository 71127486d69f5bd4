"""A process that only serves lets Python look for garbage less often; one that does other things as well is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Generator
from datetime import timedelta
from typing import Any

import pytest

from durable import ActivityContext, ActivityFailedError, App, OrchestrationContext, Worker
from durable.jobs import Job
from durable.worker.worker import RARE_COLLECTIONS
from tests.jobs.parts import eventually


@pytest.mark.parametrize("chosen", [(700, 10, 10), (50_000, 10, 10), (0, 10, 10)])
async def test_the_collector_comes_less_often_while_a_worker_runs_unless_the_program_has_chosen(
    chosen: tuple[int, int, int],
) -> None:
    before = gc.get_threshold()
    gc.set_threshold(*chosen)
    try:
        worker = Worker(App(), "memory://")
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(10):
            while not worker.footprint:
                await asyncio.sleep(0.01)
        assert gc.get_threshold() == (RARE_COLLECTIONS if chosen[0] == 700 else chosen)
        os.kill(os.getpid(), signal.SIGTERM)
        await running
        assert gc.get_threshold() == chosen
    finally:
        gc.set_threshold(*before)


ENDED = 40


SHAPES = (
    *("sequence", "fan_out", "timers", "unheard", "job"),
    *("failure", "failure_in_generator", "failed", "failed_in_generator", "out_of_time", "cancelled", "continued"),
)


@pytest.mark.parametrize("shape", SHAPES)
async def test_what_has_ended_leaves_nothing_to_the_collector(store_url: str, shape: str) -> None:
    """Of a cached instance that has ended, and of its activities, nothing refers to one another when they are let go."""
    app = _app_of_shapes()

    async def run(worker: Worker, number: int) -> None:
        if shape == "job":
            await (await worker.client.schedule(Job("step", number))).wait(timeout=20)
            return
        handle = await worker.client.start(shape, number)
        if shape == "cancelled":
            await eventually(handle.state, lambda state: state.custom_status == "waits")
            await handle.cancel()
        await handle.wait(timeout=20)

    async with Worker(app, store_url, max_cached_orchestrations=100) as worker:
        await run(worker, 0)
        gc.collect()
        gc.disable()
        try:
            for number in range(ENDED):
                await run(worker, number)
            found = gc.collect()
        finally:
            gc.enable()
    assert found < ENDED, f"{found} objects of {ENDED} instances"


def _app_of_shapes() -> App:
    app = App()

    @app.activity
    async def step(ctx: ActivityContext, number: int) -> int:
        assert ctx.name == "step"
        return number

    @app.activity
    def fails() -> None:
        raise ValueError("no")

    @app.orchestrator
    async def sequence(ctx: OrchestrationContext, number: int) -> int:
        return sum([await ctx.call_activity(step, number) for _ in range(3)])

    @app.orchestrator
    async def fan_out(ctx: OrchestrationContext, number: int) -> int:
        return sum(await asyncio.gather(*(ctx.call_activity(step, number) for _ in range(3))))

    @app.orchestrator
    async def failure(ctx: OrchestrationContext, number: int) -> int:
        try:
            await ctx.call_activity(fails)
        except ActivityFailedError:
            return number
        return 0

    @app.orchestrator
    def failure_in_generator(ctx: OrchestrationContext, number: int) -> Generator[Any, Any, int]:
        try:
            yield ctx.call_activity(fails)
        except ActivityFailedError:
            return number
        return 0

    @app.orchestrator
    async def failed(ctx: OrchestrationContext, number: int) -> None:
        await ctx.call_activity(fails)

    @app.orchestrator
    def failed_in_generator(ctx: OrchestrationContext, number: int) -> Generator[Any, Any, None]:
        yield ctx.call_activity(fails)

    @app.orchestrator
    async def out_of_time(ctx: OrchestrationContext, number: int) -> int:
        with contextlib.suppress(TimeoutError):
            await ctx.wait_for_external_event("never", timeout=timedelta(0))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await ctx.wait_for_external_event("never")
        return number

    @app.orchestrator
    async def cancelled(ctx: OrchestrationContext, number: int) -> None:
        ctx.set_custom_status("waits")
        await ctx.wait_for_external_event("never")

    @app.orchestrator
    async def continued(ctx: OrchestrationContext, number: int) -> int:
        if number >= 0:
            ctx.continue_as_new(-1)
        return number

    @app.orchestrator
    async def timers(ctx: OrchestrationContext, number: int) -> int:
        await ctx.create_timer(timedelta(0))
        return number

    @app.orchestrator
    async def unheard(ctx: OrchestrationContext, number: int) -> int:
        ctx.wait_for_external_event("never")
        ctx.call_activity(step, number)
        await asyncio.sleep(0)
        return number

    return app
