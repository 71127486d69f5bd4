"""A worker process for the tests that kill it: `python -m tests.worker.killed_worker STORE LOG`."""

from __future__ import annotations

import asyncio
import os
import sys

from durable import ActivityContext, App, Orchestration, OrchestrationContext, Worker

app = App()


@app.activity
async def step(ctx: ActivityContext, number: int) -> int:
    """Note each real run, then take a moment, so that kills find activities in flight."""
    log = os.open(sys.argv[2], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(log, f"{ctx.instance_id} {number}\n".encode())
    os.close(log)
    await asyncio.sleep(0.01)
    return number


@app.orchestrator
def five_steps(ctx: OrchestrationContext) -> Orchestration[list[int]]:
    done = []
    for number in range(5):
        done.append((yield ctx.call_activity(step, number)))
    return done


async def main() -> None:
    worker = Worker(app, sys.argv[1])
    print("ready", flush=True)
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main())
