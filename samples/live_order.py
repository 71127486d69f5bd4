"""An order that can be looked at and changed while it runs: queries and updates.

The shop asks a running order what is in it (a query, which leaves no trace) and changes it (an update, which is recorded and
answered). A validator refuses what makes no sense before anything is recorded. The order is packed when it is closed, or an
hour after the last change: `asyncio.timeout` is durable here, as all of asyncio's tools.

    python samples/live_order.py [STORE_URL]
"""

import asyncio
import dataclasses
import sys

from durable import App, OrchestrationContext, UpdateRejectedError, Worker

app = App()

PRICES = {"pen": 2, "ink": 7, "paper": 5}


@dataclasses.dataclass
class Line:
    item: str
    count: int = 1


@app.activity
def reserve(line: Line) -> int:
    return PRICES[line.item] * line.count


@app.orchestrator
async def order(ctx: OrchestrationContext) -> dict[str, int]:
    lines: dict[str, int] = {}
    changed, is_closed = asyncio.Event(), False

    def check(line: Line) -> None:
        if line.item not in PRICES:
            raise ValueError(f"we sell no {line.item}")

    async def add(line: Line) -> int:
        price = await ctx.call_activity(reserve, line)
        lines[line.item] = lines.get(line.item, 0) + line.count
        changed.set()
        return price

    def close() -> None:
        nonlocal is_closed
        is_closed = True
        changed.set()

    ctx.on_query("lines", lambda: lines)
    ctx.on_update("add", add, validator=check)
    ctx.on_update("close", close)
    try:
        while not is_closed:
            async with asyncio.timeout(3600):
                await changed.wait()
            changed.clear()
    except TimeoutError:
        ctx.set_custom_status("closed by itself")
    return lines


async def main(store_url: str = "sqlite:///durable.db") -> list[object]:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(order)
        found: list[object] = [await handle.update("add", Line(*line)) for line in (("pen", 3), ("ink", 1))]
        try:
            await handle.update("add", Line("rocket"))
        except UpdateRejectedError as error:
            found.append(str(error))
        found.append(await handle.query("lines"))
        await handle.update("close")
        return [*found, await handle.result()]


if __name__ == "__main__":
    for line in asyncio.run(main(*sys.argv[1:])):
        print(line)
