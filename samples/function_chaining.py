"""Function chaining: each step takes what the step before gave.

An order is checked, charged and shipped. A crash between two steps loses nothing: on restart the finished steps are
read from history, and the orchestration goes on with the next one.

    python samples/function_chaining.py [STORE_URL]
"""

import asyncio
import dataclasses
import sys

from durable import ActivityContext, App, Orchestration, OrchestrationContext, Worker

app = App()


@dataclasses.dataclass
class Order:
    order_id: int
    prices: list[int]  # in cents


@app.activity
def add_up(order: Order) -> int:
    if not order.prices:
        raise ValueError(f"order {order.order_id} is empty")
    return sum(order.prices)


@app.activity
def charge(ctx: ActivityContext, amount: int) -> str:
    # A payment service that is given the same key twice charges once: activities run at least once.
    return f"receipt {ctx.idempotency_key[:8]} over {amount / 100:.2f}"


@app.activity
def ship(receipt: str) -> str:
    return f"shipped against {receipt}"


@app.orchestrator
def process_order(ctx: OrchestrationContext, order: Order) -> Orchestration[str]:
    amount = yield from ctx.call_activity(add_up, order)
    receipt = yield from ctx.call_activity(charge, amount)
    return (yield from ctx.call_activity(ship, receipt))


async def main(store: str = "memory://") -> str:
    async with Worker(app, store) as worker:
        outcome = await worker.client.run(process_order, Order(order_id=7, prices=[1250, 300]), timeout=30)
    print(outcome)
    return outcome


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
