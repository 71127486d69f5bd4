"""What runs while a power cut is recorded: instances of every kind, whose clients come back after it, as clients do.

Every part can be begun again, whatever of it was stored: starts use an existing instance, and events carry a number, of which
the orchestrator keeps one. So whatever a power cut leaves, `finish` brings all instances to the same results.
"""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import Any

from durable import (
    App,
    Client,
    InstanceFinishedError,
    OrchestrationContext,
    OrchestrationFailedError,
    ReusePolicy,
    Worker,
    when_all,
)

PATIENCE_S = 60.0

EVENTS = 4
BRANCHES = 6
ROUNDS = 3
TEXT = "payload " * 60  # longer than what a row holds itself
LARGE = "large " * 8_000  # several pages


def workload_app() -> App:
    """The programs."""
    app = App()

    @app.activity
    async def echo(value: Any) -> Any:
        return value

    @app.activity(queue="elsewhere")
    async def echo_elsewhere(value: Any) -> Any:
        return value

    @app.orchestrator
    async def chain(ctx: OrchestrationContext, number: int) -> list[Any]:
        found = [await ctx.call_activity(echo, TEXT), await ctx.call_activity(echo_elsewhere, number)]
        ctx.set_custom_status({"step": 2})
        await ctx.create_timer(timedelta(milliseconds=5))
        found.append(await ctx.call_activity(echo, number + 1))
        return found

    @app.orchestrator
    async def fan_out(ctx: OrchestrationContext, number: int) -> int:
        return sum(await when_all([ctx.call_activity(echo, number + branch) for branch in range(BRANCHES)]))

    @app.orchestrator
    async def collect(ctx: OrchestrationContext, number: int) -> list[int]:
        seen: set[int] = set()
        while len(seen) < EVENTS:
            seen.add(await ctx.wait_for_external_event("item"))
        return sorted(seen)

    @app.orchestrator
    async def parent(ctx: OrchestrationContext, number: int) -> list[Any]:
        return await when_all(
            [ctx.call_sub_orchestrator(fan_out, number), ctx.call_sub_orchestrator(again, [number, 0])]
        )

    @app.orchestrator
    async def again(ctx: OrchestrationContext, place: list[int]) -> list[int]:
        number, rounds = place
        await ctx.call_activity(echo, rounds)
        if rounds < ROUNDS:
            ctx.continue_as_new([number, rounds + 1])
        return place

    @app.orchestrator
    async def large(ctx: OrchestrationContext, number: int) -> str:
        return str(await ctx.call_activity(echo, LARGE + str(number)))

    @app.orchestrator
    async def fails(ctx: OrchestrationContext, number: int) -> None:
        raise ValueError(f"no {number}")

    return app


KINDS = ("chain", "fan_out", "collect", "parent", "again", "large", "fails")


def expected(kind: str, number: int) -> Any:
    """Return what an instance of that kind ends with."""
    branches = sum(number + branch for branch in range(BRANCHES))
    return {
        "chain": [TEXT, number, number + 1],
        "fan_out": branches,
        "collect": list(range(EVENTS)),
        "parent": [branches, [number, ROUNDS]],
        "again": [number, ROUNDS],
        "large": LARGE + str(number),
        "fails": f"no {number}",
    }[kind]


async def drive(client: Client, kind: str, number: int, chance: random.Random) -> Any:
    """Start one instance, or find it, give it what it waits for, and return its end."""
    argument = [number, 0] if kind == "again" else number
    handle = await client.start(
        kind, argument, instance_id=f"{kind}-{number}", reuse_policy=ReusePolicy.USE_EXISTING, tags={"kind": kind}
    )
    if kind == "collect":
        try:
            for item in chance.sample(range(EVENTS), EVENTS):
                await handle.raise_event("item", item)
        except InstanceFinishedError:
            pass  # it had them all before the power was cut
    try:
        return await handle.result(timeout=PATIENCE_S)
    except OrchestrationFailedError as error:
        return error.details.message


async def finish(url: str, instances: int, chance: random.Random) -> None:
    """Run workers and a client on a store until all instances have ended as they should."""
    app = workload_app()
    numbered = [(KINDS[number % len(KINDS)], number) for number in range(instances)]
    chance.shuffle(numbered)
    async with (
        Worker(app, url, name="main") as worker,
        Worker(app, url, name="elsewhere", orchestrations=False, queues=("elsewhere",)),
        Client(url, app) as client,
    ):
        clients = [client, worker.client]
        ends = await asyncio.gather(*(drive(clients[number % 2], kind, number, chance) for kind, number in numbered))
    for (kind, number), end in zip(numbered, ends, strict=True):
        assert end == expected(kind, number), f"{kind}-{number} ended with {end!r:.200}"
