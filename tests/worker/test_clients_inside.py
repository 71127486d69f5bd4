"""An orchestrator that uses a client is told in that very turn: nothing of it would be in its history."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from durable import App, Client, EntityId, OrchestrationContext, OrchestrationFailedError, Worker

Use = Callable[[Client], Awaitable[Any]]


async def _first(states: Any) -> Any:
    async for state in states:
        return state
    return None


USES: dict[str, Use] = {
    "count": lambda client: client.count(),
    "query": lambda client: _first(client.query()),
    "wait": lambda client: client.wait(prefix="x", timeout=1),
    "purge": lambda client: client.purge(prefix="x"),
    "start": lambda client: client.start("returns", instance_id="never"),
    "run": lambda client: client.run("returns", instance_id="never"),
    "state": lambda client: client.get("there").state(),
    "result": lambda client: client.get("there").result(timeout=1),
    "watch": lambda client: _first(client.get("there").watch()),
    "history": lambda client: client.get("there").history(),
    "raise_event": lambda client: client.get("there").raise_event("go"),
    "terminate": lambda client: client.get("there").terminate(),
    "ask": lambda client: client.get("there").query("how"),
    "signal_entity": lambda client: client.signal_entity(EntityId("Counter", "a"), "add", 1),
    "get_entity": lambda client: client.get_entity(EntityId("Counter", "a")),
    "schedules": lambda client: client.schedules.list(),
    "create": lambda client: client.schedules.create("never", "returns", interval=timedelta(hours=1)),
}


@pytest.mark.diverges("the client is closed by the time of a replay")
@pytest.mark.parametrize("name", USES)
async def test_a_client_is_refused_in_an_orchestrator_and_does_nothing(name: str, store_url: str) -> None:
    """On SQLite the worker waited for good for a connection that had been asked for in the orchestrator's loop."""
    app, clients = App(), list[Client]()

    @app.orchestrator
    async def uses(ctx: OrchestrationContext) -> Any:
        return await USES[name](clients[0])

    @app.orchestrator
    async def returns(ctx: OrchestrationContext) -> int:
        return 1

    @app.orchestrator
    async def waits(ctx: OrchestrationContext) -> str:
        await ctx.wait_for_external_event("go")
        return "went"

    async with Worker(app, store_url) as worker:
        clients.append(worker.client)
        there = await worker.client.start(waits, instance_id="there")
        with pytest.raises(OrchestrationFailedError) as failed:
            await worker.client.run(uses, timeout=10)
        assert failed.value.details.error_type == "durable.errors.NonDurableAwaitError"
        assert f"{__file__}:" in failed.value.details.message
        assert "a call of a client" in failed.value.details.message
        await there.raise_event("go")
        assert await there.result(timeout=10) == "went"
        assert await worker.client.count() == 2, "nothing has begun"
