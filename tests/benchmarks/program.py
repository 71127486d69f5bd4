"""What the benchmarks run: orchestrators whose activities do nothing, so that what is measured is the engine."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import timedelta

from durable import App, OrchestrationContext, when_all

CITIES = ("Tokyo", "Seattle", "London", "Lima", "Cairo")
TIMER_S = 1.0
SLOW_ACTIVITY_S = 0.05

app = App()

asleep: dict[str, float] = {}
awake: dict[str, float] = {}
waiting: set[str] = set()
"""When instances of this process fell asleep and woke up, by id, and which wait. Notes of the moment: a replay adds nothing."""


class ActivityLog:
    """A line for each real run of an activity, appended to a file that outlives the process: what was run twice shows."""

    def __init__(self) -> None:
        self._descriptor = -1

    def open(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def add(self, line: str) -> None:
        os.write(self._descriptor, f"{line}\n".encode())


activity_log = ActivityLog()


@app.activity
async def hello(city: str) -> str:
    return f"Hello {city}!"


@app.activity
async def same(number: int) -> int:
    return number


@app.activity
async def slow(step: str) -> str:
    activity_log.add(step)
    await asyncio.sleep(SLOW_ACTIVITY_S)
    return step


@app.activity
async def job(number: int) -> int:
    return number


@app.activity(max_concurrency=4)
async def four_at_a_time(number: int) -> int:
    return number


@app.orchestrator
async def limited(ctx: OrchestrationContext, width: int) -> int:
    return sum(await when_all([ctx.call_activity(four_at_a_time, number) for number in range(width)]))


@app.orchestrator
async def seq5(ctx: OrchestrationContext) -> list[str]:
    return [await ctx.call_activity(hello, city) for city in CITIES]


@app.orchestrator
async def one(ctx: OrchestrationContext) -> str:
    return await ctx.call_activity(hello, "Tokyo")


@app.orchestrator
async def fan(ctx: OrchestrationContext, count: int) -> int:
    return sum(await when_all([ctx.call_activity(same, number) for number in range(count)]))


@app.orchestrator
async def long(ctx: OrchestrationContext, count: int) -> int:
    total = 0
    for _ in range(count):
        total += await ctx.call_activity(same, 1)
    return total


@app.orchestrator
async def timer(ctx: OrchestrationContext) -> int:
    asleep.setdefault(ctx.instance_id, time.monotonic())
    await ctx.create_timer(timedelta(seconds=TIMER_S))
    awake.setdefault(ctx.instance_id, time.monotonic())
    return 1


@app.orchestrator
async def event(ctx: OrchestrationContext) -> str:
    waiting.add(ctx.instance_id)
    return await ctx.wait_for_external_event("go", str)


@app.orchestrator
async def dormant(ctx: OrchestrationContext) -> None:
    """Waits for an event and for a timer, and neither comes."""
    await ctx.wait_for_external_event("never", timeout=timedelta(days=365))


@app.orchestrator
async def asleep_for_a_year(ctx: OrchestrationContext) -> None:
    await ctx.create_timer(timedelta(days=365))


@app.orchestrator
async def rec(ctx: OrchestrationContext) -> list[str]:
    return [await ctx.call_activity(slow, f"{ctx.instance_id} {step}") for step in range(5)]
