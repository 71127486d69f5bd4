"""Child orchestrations: each with a history of its own, so that no single one grows too large.

A campaign sends letters region by region, each region as a child. The failure of one child does not end the others, and
the parent decides what to do about it.

    python samples/child_orchestrations.py [STORE_URL]
"""

import asyncio
import dataclasses
import sys

from durable import App, OrchestrationContext, SubOrchestrationFailedError, Worker, when_all

app = App()


@dataclasses.dataclass
class Region:
    name: str
    addresses: list[str]


@app.activity
def send_letter(address: str) -> int:
    if "@" in address:
        raise ValueError(f"{address} has no letter box")
    return len(address)


@app.orchestrator
async def cover_region(ctx: OrchestrationContext, region: Region) -> int:
    lengths = await when_all([ctx.call_activity(send_letter, address) for address in region.addresses])
    return len(lengths)


@app.orchestrator
async def run_campaign(ctx: OrchestrationContext, regions: list[Region]) -> dict[str, str]:
    children = {
        region.name: ctx.call_sub_orchestrator(
            cover_region, region, instance_id=f"{ctx.instance_id}/{region.name}", tags={"region": region.name}
        )
        for region in regions
    }
    report: dict[str, str] = {}
    for name, child in children.items():  # they all run; this loop only collects
        try:
            report[name] = f"{await child} letters"
        except SubOrchestrationFailedError as error:
            report[name] = f"failed: {error.details.message}"
    return report


async def main(store: str = "memory://") -> dict[str, str]:
    regions = [Region("north", ["Lerwick 1", "Wick 2"]), Region("south", ["Rye 3", "ada@example.org"])]
    async with Worker(app, store) as worker:
        handle = await worker.client.start(run_campaign, regions)
        report = await handle.result(timeout=30)
        async for state in worker.client.query(parent=handle.instance_id, newest_first=False):
            print(f"{state.tags['region']}: {state.status.name}")
    print(report)
    return report


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
