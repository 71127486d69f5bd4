"""Recovery from a failure: a job that fails says itself what is to be done about it, and then fails.

The payment is tried three times. Each failed attempt adds the job that tells the customer why; of these only that of the last
attempt stays, and it runs because the payment has failed. What would have followed a payment is skipped.

    python samples/job_recovery.py [STORE_URL [SECONDS_OF_A_MINUTE]]
"""

import asyncio
import dataclasses
import sys
from datetime import timedelta

from durable import App, Client, Worker
from durable.jobs import Job, JobContext, JobHandle, JobNode, RunCondition

app = App()


class PaymentError(Exception):
    pass


@dataclasses.dataclass
class PaymentRequest:
    order_id: int
    tells_after: timedelta = timedelta(minutes=1)


@dataclasses.dataclass
class Notification:
    order_id: int
    error: str


@app.activity
def process_payment(ctx: JobContext, payment: PaymentRequest) -> None:
    try:
        raise PaymentError(f"card declined, attempt {ctx.attempt}")
    except PaymentError as error:
        notification = Notification(payment.order_id, str(error))
        recovery = Job(notify_payment_failure, notification, run_condition=RunCondition.ON_FAILURE)
        ctx.schedule_child(dataclasses.replace(recovery, delay=payment.tells_after))
        raise  # so that the payment counts as failed


@app.activity
def notify_payment_failure(notification: Notification) -> str:
    return f"order {notification.order_id} is not paid: {notification.error}"


@app.activity
def send_confirmation(order_id: int) -> str:
    return f"order {order_id} is paid"


async def schedule(client: Client, minute: timedelta) -> JobHandle:
    payment = Job(process_payment, PaymentRequest(7, minute), retries=2, retry_intervals=(minute / 4, minute / 2))
    return await client.schedule(payment.then(Job(send_confirmation, 7)))


async def main(store: str = "memory://", seconds_of_a_minute: str = "0.2") -> JobNode:
    async with Worker(app, store) as worker:
        handle = await schedule(worker.client, timedelta(seconds=float(seconds_of_a_minute)))
        tree = await handle.result(timeout=60)
    print(tree)
    return tree


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
