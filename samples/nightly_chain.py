"""A chain of jobs every night: a cron expression in a time zone starts a tree of jobs.

At two o'clock in Berlin, also in the nights when the clock changes, yesterday's sales are collected; then a report is made, and
sent. If the collection fails, somebody is called instead. Beside it stands `@app.cron`, for a single function. The sample does
not wait for the night: it starts the chain by hand, and the schedule's own next times are shown.

    python samples/nightly_chain.py [STORE_URL]
"""

import asyncio
import sys
from datetime import timedelta

from durable import App, OverlapPolicy, Worker
from durable.jobs import Job, JobContext, JobHandle, JobNode, RunCondition

app = App()


@app.activity
def collect_sales(ctx: JobContext) -> dict[str, int]:
    assert ctx.scheduled_for is not None
    print(f"collecting what was sold before {ctx.scheduled_for:%Y-%m-%d %H:%M}")
    return {"kettles": 3, "cups": 12}


@app.activity
def make_report(ctx: JobContext) -> str:
    assert ctx.parent is not None
    return ", ".join(f"{count} {goods}" for goods, count in ctx.parent.result.items())


@app.activity
def send_report(ctx: JobContext, to: str) -> str:
    assert ctx.parent is not None
    return f"to {to}: {ctx.parent.result}"


@app.activity
def call_somebody(number: str) -> str:
    return f"ringing {number}"


@app.cron("*/15 * * * *", id="heartbeat")
@app.activity
def heartbeat() -> None:
    print("alive")


NIGHTLY = (
    Job(collect_sales, retries=3, retry_intervals=(60, 600), timeout=timedelta(hours=1))
    .then(Job(make_report).then(Job(send_report, "ada@example.org")))
    .then(Job(call_somebody, "+49 30 1234", run_condition=RunCondition.ON_FAILURE))
)


async def main(store: str = "memory://") -> JobNode:
    async with Worker(app, store) as worker:
        schedules = worker.client.schedules
        if "nightly" not in {state.id for state in await schedules.list()}:
            await schedules.create(
                "nightly", NIGHTLY, cron="0 2 * * *", timezone="Europe/Berlin", overlap=OverlapPolicy.SKIP
            )
        for state in await schedules.list():
            print(f"{state.id}: {state.cron} in {state.timezone}, next at {state.next_times[0]}")
        handle = await schedules.trigger("nightly")
        assert isinstance(handle, JobHandle)
        tree = await handle.result(timeout=60)
    print(tree)
    return tree


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
