"""Retries and heartbeats: an activity that fails, tries again, and goes on from where it was.

A file is copied in chunks from a line that breaks. The activity reports with each heartbeat how far it got; the next
attempt finds that in `last_heartbeat`. Between attempts nothing runs: the wait is a durable timer.

    python samples/retries_and_heartbeats.py [STORE_URL]
"""

import asyncio
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from durable import ActivityContext, App, OrchestrationContext, RetryPolicy, Worker

app = App()

SOURCE = Path(__file__).read_bytes()
CHUNK_BYTES = 256
BREAKS_AFTER_CHUNKS = 5  # of each attempt

PATIENT = RetryPolicy(
    first_retry_interval=timedelta(milliseconds=20),
    max_number_of_attempts=10,
    backoff_coefficient=1.5,
    max_retry_interval=timedelta(seconds=1),
    jitter=0.1,
    non_retryable=(FileNotFoundError,),
)


@app.activity(retry_policy=PATIENT, timeout=timedelta(minutes=5), heartbeat_timeout=timedelta(seconds=10))
def copy_in_chunks(ctx: ActivityContext, target: str) -> int:
    """Copy SOURCE to the file `target`; return the number of the attempt that finished it."""
    begin = ctx.last_heartbeat or 0  # bytes that an earlier attempt has written for certain
    with Path(target).open("r+b") as file:
        file.seek(begin)
        for chunk, offset in enumerate(range(begin, len(SOURCE), CHUNK_BYTES)):
            if chunk == BREAKS_AFTER_CHUNKS:
                raise ConnectionError(f"the line broke at byte {offset}")
            file.write(SOURCE[offset : offset + CHUNK_BYTES])
            file.flush()
            ctx.heartbeat(offset + CHUNK_BYTES)
    return ctx.attempt


@app.orchestrator
async def fetch(ctx: OrchestrationContext, target: str) -> int:
    return await ctx.call_activity(copy_in_chunks, target)


async def main(store: str = "memory://") -> int:
    with tempfile.NamedTemporaryFile() as file:
        async with Worker(app, store) as worker:
            attempts = await worker.client.run(fetch, file.name, timeout=60)
        assert Path(file.name).read_bytes() == SOURCE
    print(f"{len(SOURCE)} bytes copied in {attempts} attempts of at most {BREAKS_AFTER_CHUNKS * CHUNK_BYTES} bytes")
    return attempts


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
