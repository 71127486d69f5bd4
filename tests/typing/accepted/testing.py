"""The tools for tests: environments, faults to order, simulations."""

from datetime import UTC, datetime, timedelta
from typing import assert_type

from durable import ActivityContext, App, Client, Handle, OrchestrationContext
from durable.testing import Environment, Simulation, SimulationFailedError, simulate

app = App()


@app.activity
def charge(amount: int) -> str:
    return f"paid {amount}"


@app.orchestrator
async def billing(ctx: OrchestrationContext, amount: int) -> str:
    return await ctx.call_activity(charge, amount)


async def fake(ctx: ActivityContext, amount: int) -> str:
    return "fake"


async def test(env: Environment) -> int:
    assert_type(env.client, Client)
    assert_type(await env.client.start(billing, 7), Handle[str])
    assert_type(await env.client.run(billing, 7), str)
    assert_type(env.now, datetime)
    await env.advance(timedelta(days=1))
    env.replace(charge, fake)
    env.replace("charge", lambda: "fake")
    env.fail(charge, ValueError)
    env.fail("charge", ValueError("no"), times=3)
    assert_type(env.history_text("id"), str)
    return 7


async def main() -> None:
    async with Environment(app, start=datetime(2026, 1, 1, tzinfo=UTC), seed=1) as env:
        assert_type(env, Environment)
        assert_type(await test(env), int)


assert_type(Environment(app).run(test), int)


async def scenario(client: Client) -> str:
    return await client.run(billing, 7)


try:
    assert_type(simulate(app, scenario, schedules=10, seed=1), Simulation)
except SimulationFailedError as error:
    assert_type(error.seed, int | None)
