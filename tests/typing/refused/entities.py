"""Calls of entities that no type checker may accept."""

from durable import App, Client, EntityContext, EntityId, OrchestrationContext, Task

app = App()


@app.entity
class Counter:
    value: int = 0

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    def get(self) -> int:
        return self.value

    async def tell(self, ctx: EntityContext, text: str) -> str:
        ctx.signal_entity("Counter", "add")  # expect-error
        ctx.start_orchestration(main, 5)  # expect-error
        return text


async def main(ctx: OrchestrationContext) -> None:
    counter = EntityId(Counter, "a")
    ctx.call_entity(counter, Counter.add, "five")  # expect-error
    ctx.call_entity(counter, Counter.get, 5)  # expect-error
    ctx.call_entity(counter, Counter.tell, 5)  # expect-error
    ctx.call_entity("Counter", "add", 5)  # expect-error
    text: Task[str] = ctx.call_entity(counter, Counter.add, 5)  # expect-error
    ctx.signal_entity(counter, 5)  # expect-error
    ctx.lock("Counter")  # expect-error
    with ctx.lock(counter):  # expect-error
        pass


async def from_outside(client: Client) -> None:
    await client.signal_entity("Counter", "add")  # expect-error
    await client.get_entity("Counter")  # expect-error
    client.query_entities(5)  # expect-error
    client.query_entities(Counter, status="RUNNING")  # expect-error
    EntityId(5, "a")  # expect-error
