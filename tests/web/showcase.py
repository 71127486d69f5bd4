"""A hub to be looked at: a shop with orders that wait, fail, retry and have children, for the pictures in the documentation."""

from __future__ import annotations

import asyncio
import linecache
from datetime import timedelta
from pathlib import Path
from typing import Any

from durable import ActivityContext, App, Client, EntityId, OrchestrationContext, RetryPolicy, when_all, when_any
from durable.jobs import Job, RunCondition

app = App()
RETRY = RetryPolicy(first_retry_interval=timedelta(milliseconds=150), max_number_of_attempts=3, backoff_coefficient=2)


@app.activity
async def reserve_stock(order: str) -> str:
    await asyncio.sleep(0.08)
    return f"shelf {len(order)}"


@app.activity
async def charge_card(ctx: ActivityContext, order: str) -> str:
    await asyncio.sleep(0.1)
    if ctx.attempt < 3 and order.endswith("7"):
        raise ConnectionError("the bank does not answer")
    if order.endswith("13"):
        raise ValueError("card declined: insufficient funds")
    return "paid"


@app.activity
async def pack(parcel: int) -> str:
    await asyncio.sleep(0.05 + parcel * 0.03)
    return f"parcel {parcel}"


@app.activity
async def send_mail(text: str) -> None:
    await asyncio.sleep(0.03)


@app.orchestrator
async def shipping(ctx: OrchestrationContext, parcels: int) -> list[str]:
    packed = await when_all([ctx.call_activity(pack, number) for number in range(parcels)])
    await ctx.create_timer(timedelta(milliseconds=200))
    return packed


@app.orchestrator
async def order(ctx: OrchestrationContext, details: dict[str, Any]) -> dict[str, Any]:
    ctx.set_custom_status({"step": "reserving", "lines": details["lines"]})
    shelf = await ctx.call_activity(reserve_stock, ctx.instance_id)
    ctx.set_custom_status({"step": "paying"})
    await ctx.call_activity(charge_card, ctx.instance_id, retry_policy=RETRY)
    ctx.set_custom_status({"step": "waiting for approval"})
    approval = ctx.wait_for_external_event("approve", bool)
    patience = ctx.create_timer(timedelta(hours=6))
    if await when_any([approval, patience]) is approval:
        patience.cancel()
    ctx.set_custom_status({"step": "shipping"})
    parcels = await ctx.call_sub_orchestrator(shipping, details["lines"])
    await ctx.call_activity(send_mail, f"{ctx.instance_id} is on its way")
    return {"shelf": shelf, "parcels": parcels, "approved": approval.is_complete}


@app.entity
class Stock:
    pieces: int = 100
    reserved: int = 0

    def reserve(self, count: int) -> int:
        self.reserved += count
        return self.pieces - self.reserved


async def fill(client: Client) -> None:
    """Start what there is to see; a worker of `app` does the rest."""
    for number in range(1, 31):
        details = {"customer": f"customer-{number}", "lines": 1 + number % 4, "express": number % 3 == 0}
        events = [("approve", True)] if number % 3 else []
        tags = {"region": ["north", "south"][number % 2]}
        await client.start(order, details, instance_id=f"order-{number:04}-{number}", tags=tags, events=events)
    jobs = Job(reserve_stock, "invoice-1", description="close the books").then(
        Job(charge_card, "invoice-13", description="collect").then(
            Job(send_mail, "reminder", run_condition=RunCondition.ON_FAILURE, description="remind")
        )
    )
    await client.schedule(jobs.then(Job(send_mail, "done", delay=timedelta(hours=2))), instance_id="month-end")
    await client.schedules.create("nightly-report", send_mail, "report", cron="0 3 * * *", timezone="Europe/Berlin")
    await client.schedules.create("inventory", send_mail, "count", interval=timedelta(hours=4))
    for key in ("lamp", "chair", "table"):
        await client.signal_entity(EntityId(Stock, key), "reserve", len(key))


def under_the_name(name: str) -> dict[str, Any]:
    """Return this module's names, made as if it stood in a file of that name: stacks in pictures are nobody's folders."""
    source = Path(__file__).read_text("utf-8")
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    made: dict[str, Any] = {"__name__": "orders", "__file__": __file__}
    exec(compile(source, name, "exec", dont_inherit=True), made)
    return made
