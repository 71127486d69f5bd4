"""A program as a newcomer writes it, to be interrupted: a worker, and a wait for an activity that lasts until a file is there.

python interrupted_program.py STORE_URL sync|async SHUTDOWN_TIMEOUT
"""

import asyncio
import logging
import signal
import sys
import time
from pathlib import Path

from durable import App, OrchestrationContext, Worker

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background may have had it ignored

app = App()
GO = Path("go")


@app.activity(name="sync")
def lasts() -> None:
    print("the activity runs", flush=True)
    while not GO.exists():
        time.sleep(0.01)
    print("the activity has ended", flush=True)


@app.activity(name="async")
async def lasts_too() -> None:
    print("the activity runs", flush=True)
    while not GO.exists():
        await asyncio.sleep(0.01)
    print("the activity has ended", flush=True)


@app.orchestrator
async def calls(ctx: OrchestrationContext, name: str) -> None:
    await ctx.call_activity(name)


async def main(store: str, name: str, timeout: str) -> None:
    async with Worker(app, store, shutdown_timeout=float(timeout)) as worker:
        await worker.client.run(calls, name)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    asyncio.run(main(*sys.argv[1:]))
