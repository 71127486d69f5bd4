"""Monitor: look at something again and again, for as long as it takes, in a history that does not grow.

An eternal orchestration checks how full a disk is. After each look it continues as new: the next generation begins with
an empty history, and what it must know of the past travels in its input. The event `stop` ends it.

    python samples/monitor.py [STORE_URL]
"""

import asyncio
import dataclasses
import shutil
import sys
from datetime import timedelta

from durable import App, OrchestrationContext, Worker

app = App()


@dataclasses.dataclass
class Watch:
    path: str
    every: timedelta
    looks: int = 0
    fullest_percent: int = 0


@app.activity
def percent_used(path: str) -> int:
    usage = shutil.disk_usage(path)
    return round(100 * usage.used / usage.total)


@app.orchestrator
async def watch_disk(ctx: OrchestrationContext, watch: Watch) -> Watch:
    percent = await ctx.call_activity(percent_used, watch.path)
    seen = Watch(watch.path, watch.every, watch.looks + 1, max(watch.fullest_percent, percent))
    ctx.set_custom_status({"looks": seen.looks, "percent_used": percent})
    try:
        await ctx.wait_for_external_event("stop", timeout=watch.every)
    except TimeoutError:
        ctx.continue_as_new(seen)  # ends this generation here
    return seen


async def main(store: str = "memory://", looks: str = "5") -> Watch:
    async with Worker(app, store) as worker:
        handle = await worker.client.start(watch_disk, Watch(path="/", every=timedelta(milliseconds=20)))
        async for state in handle.watch():
            print(f"{state.status.name.lower()}, generation {state.generation}: {state.custom_status}")
            if state.custom_status and state.custom_status["looks"] >= int(looks):
                break
        await handle.raise_event("stop")
        result = await handle.result(timeout=30)
    print(f"looked {result.looks} times, at most {result.fullest_percent} % used")
    return result


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
