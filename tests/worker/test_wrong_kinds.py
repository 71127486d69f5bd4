"""An activity where an orchestrator is meant, and the other way round: told at once, with what to write instead."""

from __future__ import annotations

from typing import Any

import pytest

from durable import App, OrchestrationContext, UnknownNameError, Worker
from tests.worker.calls import PATIENCE_S

app = App()


@app.activity
def charge(order: str) -> str:
    return f"receipt for {order}"


@app.orchestrator
async def pay(ctx: OrchestrationContext, order: str) -> str:
    return await ctx.call_activity(charge, order)


async def calls_an_orchestrator_as_activity(ctx: OrchestrationContext) -> Any:
    return await ctx.call_activity(pay, "A-7")  # type: ignore[arg-type]


async def maps_an_orchestrator(ctx: OrchestrationContext) -> Any:
    return await ctx.map(pay, ["A-7"])  # type: ignore[arg-type]


async def calls_an_activity_as_child(ctx: OrchestrationContext) -> Any:
    return await ctx.call_sub_orchestrator(charge, "A-7")  # type: ignore[arg-type]


async def starts_an_activity(ctx: OrchestrationContext) -> Any:
    return ctx.start_orchestration(charge, "A-7")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (calls_an_orchestrator_as_activity, "is no activity: inside another one it is called by ctx.call_sub_orch"),
        (maps_an_orchestrator, "is no activity: inside another one it is called by ctx.call_sub_orchestrator"),
        (calls_an_activity_as_child, "is no orchestrator: it is called inside an orchestrator, by ctx.call_activity"),
        (starts_an_activity, "is no orchestrator: it is called inside an orchestrator, by ctx.call_activity"),
    ],
)
async def test_an_orchestrator_that_mixes_them_up_fails_with_the_remedy(function: Any, told: str) -> None:
    mixed = App()
    mixed.include(app)
    mixed.orchestrator(name=f"{function.__name__} here")(function)
    async with Worker(mixed, "memory://") as worker:
        handle = await worker.client.start(f"{function.__name__} here")
        state = await handle.wait(timeout=PATIENCE_S)
    assert state.failure_details is not None
    assert state.failure_details.error_type == "durable.errors.UnknownNameError"
    assert told in state.failure_details.message


async def test_a_client_that_starts_an_activity_is_told_so() -> None:
    async with Worker(app, "memory://") as worker:
        with pytest.raises(UnknownNameError, match="activity 'charge' .* is no orchestrator: .* ctx.call_activity"):
            await worker.client.start(charge, "A-7")  # type: ignore[arg-type]
