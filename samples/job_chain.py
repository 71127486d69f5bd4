"""A chain of jobs: each runs after the one before has succeeded, and not before its time.

An order is validated; a minute later it is paid for, and two minutes after that confirmed. Each step sees what the steps
before it did. Kill the process anywhere: started again on the same store, the chain goes on where it was.

    python samples/job_chain.py [STORE_URL [SECONDS_OF_A_MINUTE]]
"""

import asyncio
import dataclasses
import sys
from datetime import timedelta

from durable import App, Client, Worker
from durable.jobs import Job, JobContext, JobHandle, JobNode

app = App()


@dataclasses.dataclass
class OrderRequest:
    order_id: int


@app.activity
def validate_order(order: OrderRequest) -> dict[str, int]:
    return {"order_id": order.order_id, "cents": 1550}


@app.activity
def process_payment(ctx: JobContext) -> str:
    assert ctx.parent is not None
    order = ctx.parent.result
    return f"receipt {ctx.idempotency_key[:6]} over {order['cents'] / 100:.2f}"


@app.activity
def send_confirmation(ctx: JobContext) -> str:
    assert ctx.parent is not None
    assert ctx.parent.parent is not None
    return f"order {ctx.parent.parent.result['order_id']}: {ctx.parent.result}"


def workflow(minute: timedelta) -> Job:
    confirmation = Job(send_confirmation, delay=2 * minute, description="tell the customer")
    return Job(validate_order, OrderRequest(order_id=7)).then(Job(process_payment, delay=minute).then(confirmation))


async def schedule(client: Client, minute: timedelta) -> JobHandle:
    return await client.schedule(workflow(minute))


async def main(store: str = "memory://", seconds_of_a_minute: str = "0.2") -> JobNode:
    async with Worker(app, store) as worker:
        handle = await schedule(worker.client, timedelta(seconds=float(seconds_of_a_minute)))
        print(await handle.tree())
        tree = await handle.result(timeout=60)
    print(tree)
    return tree


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
