"""Jobs side by side: what a running job adds with IN_PROGRESS begins at once and runs beside it.

While an order is processed, the customer is told, the inventory is updated and the activity is logged. The three do not wait
for the order, and the order does not wait for them; the tree is over when all four are.

    python samples/jobs_side_by_side.py [STORE_URL]
"""

import asyncio
import sys
from datetime import timedelta

from durable import App, Client, Worker
from durable.jobs import Job, JobContext, JobHandle, JobNode, RunCondition

app = App()


@app.activity
async def process_order(ctx: JobContext, order_id: int) -> str:
    for function in (send_notification, update_inventory, log_activity):
        ctx.schedule_child(Job(function, order_id, run_condition=RunCondition.IN_PROGRESS))
    await asyncio.sleep(0.2)  # the work itself
    return f"order {order_id} is done"


@app.activity
def send_notification(ctx: JobContext, order_id: int) -> str:
    assert ctx.parent is not None
    return f"told the customer while order {order_id} was {ctx.parent.status}"


@app.activity
async def update_inventory(order_id: int) -> str:
    return f"one less for order {order_id}"


@app.activity
def log_activity(order_id: int) -> str:
    return f"logged order {order_id}"


async def schedule(client: Client, _: timedelta = timedelta(0)) -> JobHandle:
    return await client.schedule(Job(process_order, 7))


async def main(store: str = "memory://") -> JobNode:
    async with Worker(app, store) as worker:
        tree = await (await schedule(worker.client)).result(timeout=60)
    print(tree)
    return tree


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
