"""Calls of entities in all their shapes: what the task is a task of."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from pydantic import BaseModel

from durable import (
    App,
    Client,
    CriticalSection,
    EntityContext,
    EntityId,
    EntityState,
    Orchestration,
    OrchestrationContext,
    SyncClient,
    Task,
)

app = App()


@app.entity
class Counter:
    value: int = 0

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    def get(self) -> int:
        return self.value

    async def add_later(self, amount: int) -> float:
        return float(self.add(amount))

    async def get_later(self) -> str:
        return str(self.value)

    def tell(self, ctx: EntityContext) -> bytes:
        assert_type(ctx.id, EntityId[Any])
        ctx.signal_entity(EntityId(Counter, "other"), Counter.add, 1)
        ctx.signal_entity(ctx.id, "add", 1, at=timedelta(days=1))
        assert_type(ctx.start_orchestration(main), str)
        ctx.delete_state()
        return ctx.id.key.encode()

    async def tell_more(self, ctx: EntityContext, text: str) -> list[str]:
        return [ctx.id.name, text]


@app.entity(name="box")
class Box(BaseModel):
    items: list[str] = []

    def put(self, item: str) -> None:
        self.items.append(item)


@app.entity
@dataclass
class Place:
    x: float = 0.0

    def move(self, by: float) -> None:
        self.x += by


counter = EntityId(Counter, "a")
assert_type(counter, EntityId[Counter])
by_name = EntityId("Counter", "a")
assert_type(by_name, EntityId[Any])
assert_type(Box().put("x"), None)


@app.orchestrator
async def main(ctx: OrchestrationContext) -> None:
    assert_type(ctx.call_entity(counter, Counter.add, 5), Task[int])
    assert_type(ctx.call_entity(counter, Counter.get), Task[int])
    assert_type(ctx.call_entity(counter, Counter.add_later, 5), Task[float])
    assert_type(ctx.call_entity(counter, Counter.get_later), Task[str])
    assert_type(ctx.call_entity(counter, Counter.tell), Task[bytes])
    assert_type(ctx.call_entity(counter, Counter.tell_more, "text"), Task[list[str]])
    assert_type(ctx.call_entity(counter, "add", 5), Task[Any])
    assert_type(await ctx.call_entity(counter, Counter.add, 5), int)
    ctx.signal_entity(counter, "add", 5)
    ctx.signal_entity(counter, Counter.add, 5, at=datetime(2030, 1, 1, tzinfo=UTC))
    async with ctx.lock(counter, EntityId("Counter", "b")) as section:
        assert_type(section, CriticalSection)
    async with ctx.lock(counter):
        pass
    assert_type(await ctx.lock(counter), CriticalSection)


@app.orchestrator
def with_generator(ctx: OrchestrationContext) -> Orchestration[int]:
    with (yield ctx.lock(counter)):
        total = yield from ctx.call_entity(counter, Counter.add, 5)
        assert_type(total, int)
    with (yield from ctx.lock(counter)) as section:
        assert_type(section, CriticalSection)
    return total


async def from_outside(client: Client, blocking: SyncClient) -> None:
    await client.signal_entity(counter, "add", 5, at=None)
    found = await client.get_entity(counter)
    assert_type(found, EntityState[Counter] | None)
    if found is not None:
        assert_type(found.state.value, int)
        assert_type(found.last_updated_at, datetime)
    async for state in client.query_entities(Counter, prefix="a", limit=3):
        assert_type(state, EntityState[Counter])
    async for other in client.query_entities("Counter"):
        assert_type(other, EntityState[Any])
    blocking.signal_entity(counter, Counter.add, 5)
    assert_type(blocking.get_entity(counter), EntityState[Counter] | None)
    for state in blocking.query_entities(Counter):
        assert_type(state.state, Counter)
