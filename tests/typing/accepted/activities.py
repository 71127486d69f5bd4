"""Calls of activities in all their shapes: what the task is a task of."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

from durable import (
    ActivityContext,
    App,
    Client,
    Inject,
    OrchestrationContext,
    RetryPolicy,
    SyncClient,
    SyncHandle,
    Task,
    current_activity,
)

app = App()


@dataclass
class Order:
    number: int


class ShopContext(ActivityContext):
    """A feature's context."""


@app.activity
def nothing() -> int:
    return current_activity().attempt


@app.activity
async def nothing_async() -> int:
    return 1


@app.activity(name="with-input", timeout=timedelta(seconds=5), retry_policy=RetryPolicy(timedelta(seconds=1), 3))
def with_input(order: Order) -> str:
    return str(order.number)


@app.activity
async def with_input_async(order: Order) -> list[str]:
    return [str(order.number)]


@app.activity
def with_default(count: int = 3) -> float:
    return count / 2


@app.activity
def with_context(ctx: ActivityContext) -> bytes:
    return ctx.idempotency_key.encode()


@app.activity
async def with_context_async(ctx: ShopContext) -> bytes | None:
    return None


@app.activity
def with_both(ctx: ShopContext, order: Order) -> tuple[int, str]:
    ctx.heartbeat({"number": order.number})
    return (ctx.attempt, ctx.name)


@app.activity
async def with_both_async(ctx: ActivityContext, order: Order | None = None) -> dict[str, int]:
    return {}


class Database:
    def get(self, number: int) -> str:
        return str(number)


@app.activity
def with_database(order: Order, *, database: Database = Inject(Database)) -> str:
    return database.get(order.number)


@app.activity
async def with_both_and_database(ctx: ActivityContext, order: Order, database: Database = Inject(Database)) -> int:
    assert_type(Inject("by name"), Any)
    return len(database.get(order.number))


async def main(ctx: OrchestrationContext, order: Order) -> None:
    assert_type(ctx.call_activity(nothing), Task[int])
    assert_type(ctx.call_activity(nothing_async), Task[int])
    assert_type(ctx.call_activity(with_input, order), Task[str])
    assert_type(ctx.call_activity(with_input, Order(1)), Task[str])
    assert_type(ctx.call_activity(with_input_async, order), Task[list[str]])
    assert_type(ctx.call_activity(with_default), Task[float])
    assert_type(ctx.call_activity(with_default, 5), Task[float])
    assert_type(ctx.call_activity(with_context), Task[bytes])
    assert_type(ctx.call_activity(with_context_async), Task[bytes | None])
    assert_type(ctx.call_activity(with_both, order), Task[tuple[int, str]])
    assert_type(ctx.call_activity(with_both_async), Task[dict[str, int]])
    assert_type(ctx.call_activity(with_both_async, order), Task[dict[str, int]])
    assert_type(ctx.call_activity(with_database, order), Task[str])
    assert_type(ctx.call_activity(with_both_and_database, order), Task[int])
    assert_type(with_database(order, database=Database()), str)
    assert_type(ctx.call_activity("by-name"), Task[Any])
    assert_type(ctx.call_activity("by-name", {"any": "thing"}), Task[Any])

    assert_type(await ctx.call_activity(with_input, order), str)
    with_options = ctx.call_activity(
        with_input,
        order,
        retry_policy=None,
        timeout=timedelta(seconds=5),
        heartbeat_timeout=2.5,
        queue_timeout=60,
        total_timeout=None,
        queue="heavy",
        tags={"team": "a"},
    )
    assert_type(with_options, Task[str])

    assert_type(ctx.map(with_input, [order, order]), Task[list[str]])
    assert_type(ctx.map(with_input_async, (order for _ in range(3)), concurrency=2), Task[list[list[str]]])
    assert_type(ctx.map(with_both, (order, order), queue="heavy", timeout=5), Task[list[tuple[int, str]]])
    assert_type(await ctx.map("by-name", range(3)), list[Any])


def look(ctx: ActivityContext) -> None:
    assert_type(ctx.instance_id, str)
    assert_type(ctx.attempt, int)
    assert_type(ctx.is_cancelled, bool)
    if ctx.deadline is not None:
        assert_type(ctx.deadline.tzinfo is None, bool)
    ctx.heartbeat()
    ctx.logger.info("attempt %s", ctx.attempt)


@app.orchestrator
async def doubled(ctx: OrchestrationContext, count: int) -> str:
    return str(2 * count)


@app.activity
def in_a_thread(ctx: ActivityContext) -> str:
    client: SyncClient = ctx.client  # a sync activity has the blocking face
    assert_type(client.start(doubled, 3), SyncHandle[str])
    return client.run(doubled, 3)


@app.activity
async def in_the_loop(ctx: ActivityContext) -> str:
    client: Client = ctx.client
    return await client.run(doubled, 3)
