"""A job that decides what comes after it: it adds the next job itself, from what it has found out.

Only an order with goods is shipped. What a job adds is recorded together with its own outcome: there is never a shipment
without the decision behind it, nor a decision whose shipment got lost.

    python samples/job_adds_a_job.py [STORE_URL [SECONDS_OF_A_MINUTE]]
"""

import asyncio
import dataclasses
import sys
from datetime import timedelta

from durable import App, Client, Worker
from durable.jobs import Job, JobContext, JobHandle, JobNode

app = App()


@dataclasses.dataclass
class Order:
    order_id: int
    goods: list[str]
    ships_after: timedelta = timedelta(minutes=5)


@dataclasses.dataclass
class ShipmentRequest:
    order_id: int
    goods: list[str]


@app.activity
def process_order(ctx: JobContext, order: Order) -> bool:
    requires_shipping = bool(order.goods)
    if requires_shipping:
        shipment = ShipmentRequest(order.order_id, order.goods)
        ctx.schedule_child(Job(create_shipment, shipment, delay=order.ships_after))
    return requires_shipping


@app.activity
def create_shipment(shipment: ShipmentRequest) -> str:
    return f"{', '.join(shipment.goods)} on the way for order {shipment.order_id}"


async def schedule(client: Client, minute: timedelta) -> list[JobHandle]:
    orders = [Order(7, ["a kettle"], 5 * minute), Order(8, [])]
    return await client.schedule_many(Job(process_order, order) for order in orders)


async def main(store: str = "memory://", seconds_of_a_minute: str = "0.1") -> list[JobNode]:
    async with Worker(app, store) as worker:
        handles = await schedule(worker.client, timedelta(seconds=float(seconds_of_a_minute)))
        trees = [await handle.result(timeout=60) for handle in handles]
    for tree in trees:
        print(tree)
    return trees


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
