"""A worker that is killed: `python -m tests.schedule_kills.worker STORE NOTES`. It notes each tick that it begins."""

from __future__ import annotations

import asyncio
import os
import sys

from durable import App, Worker
from durable.jobs import JobContext

app = App()
notes = -1


@app.activity
async def tick(ctx: JobContext) -> None:
    os.write(notes, f"{ctx.instance_id}\n".encode())


async def serve(store: str) -> None:
    async with Worker(app, store):
        os.write(1, b"ready\n")
        await asyncio.Event().wait()


if __name__ == "__main__":
    notes = os.open(sys.argv[2], os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    asyncio.run(serve(sys.argv[1]))
