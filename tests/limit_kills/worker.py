"""A worker that is killed: `python -m tests.limit_kills.worker STORE NOTES`. It notes when each attempt begins and ends."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from datetime import timedelta

from durable import ActivityContext, App, OrchestrationContext, Worker, when_all

AT_A_TIME = 3
RATE = 10
SPAN_S = 0.5

app = App()
notes = -1


def note(what: str, key: str, ctx: ActivityContext) -> None:
    line = f"{time.monotonic_ns()} {os.getpid()} {what} {key} {ctx.idempotency_key}\n"
    os.write(notes, line.encode())


@app.activity(max_concurrency=AT_A_TIME, key=lambda job: job[0])
async def work(ctx: ActivityContext, job: tuple[str, float]) -> None:
    key, seconds = job
    note("begins", key, ctx)
    await asyncio.sleep(seconds)
    note("ends", key, ctx)


@app.activity(rate=RATE, per=timedelta(seconds=SPAN_S))
def tick(ctx: ActivityContext) -> None:
    note("ticks", "-", ctx)


@app.orchestrator
async def wide(ctx: OrchestrationContext, job: tuple[str, float, int]) -> int:
    key, seconds, width = job
    await when_all([ctx.call_activity(work, (key, seconds)) for _ in range(width)])
    return width


@app.orchestrator
async def ticking(ctx: OrchestrationContext, width: int) -> int:
    await when_all([ctx.call_activity(tick) for _ in range(width)])
    return width


async def serve(store: str) -> None:
    async with Worker(app, store):
        os.write(1, b"ready\n")
        await asyncio.Event().wait()


if __name__ == "__main__":
    notes = os.open(sys.argv[2], os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    asyncio.run(serve(sys.argv[1]))
