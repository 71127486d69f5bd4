"""A process with a worker and its own client, which starts instances without end and says of each that it was told: started.

python -m tests.kills.starter_program STORE_URL NAME
"""

from __future__ import annotations

import asyncio
import itertools
import sys

from durable import App, OrchestrationContext, Worker

app = App()


@app.activity
async def double(number: int) -> int:
    return 2 * number


@app.orchestrator
async def doubles_twice(ctx: OrchestrationContext, number: int) -> int:
    return await ctx.call_activity(double, await ctx.call_activity(double, number))


async def main(store: str, name: str) -> None:
    numbers = itertools.count()
    async with Worker(app, store) as worker:

        async def start_without_end() -> None:
            for number in numbers:
                handle = await worker.client.start(doubles_twice, number, instance_id=f"{name}-{number}")
                print(handle.instance_id, number, handle.run_id, flush=True)

        await asyncio.gather(*(start_without_end() for _ in range(10)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
