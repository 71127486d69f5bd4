"""Worker processes for the tests of queues and kills: `python -m tests.worker.queues_program STORE ROLE LOG`.

ROLE is `activities` (an activity-only worker), `orchestrations` (one that only decides) or `both`. Each start of an activity
is a line in LOG.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from durable import ActivityContext, App, Orchestration, OrchestrationContext, Worker

app = App()


def note(text: str) -> None:
    log = os.open(sys.argv[3], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(log, f"{text}\n".encode())
    os.close(log)


@app.activity
def where(number: int) -> int:
    """Give the process that it runs in."""
    return os.getpid()


@app.activity
async def lingers(ctx: ActivityContext) -> list[Any]:
    """Linger for ever after a heartbeat, unless an earlier delivery of it has beaten."""
    note(f"{os.getpid()} {ctx.attempt} {ctx.idempotency_key} {ctx.last_heartbeat}")
    if ctx.last_heartbeat is None:
        ctx.heartbeat("far")
        await asyncio.sleep(3600)
    return [ctx.attempt, ctx.idempotency_key, ctx.last_heartbeat]


@app.orchestrator
def places(ctx: OrchestrationContext, count: int) -> Orchestration[list[int]]:
    found = []
    for number in range(count):
        found.append((yield ctx.call_activity(where, number)))
    return found


@app.orchestrator
def waits_for_lingering(ctx: OrchestrationContext) -> Orchestration[Any]:
    return (yield ctx.call_activity(lingers))


async def main() -> None:
    role = sys.argv[2]
    worker = Worker(app, sys.argv[1], orchestrations=role != "activities", activities=role != "orchestrations")
    print("ready", flush=True)
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main())
