"""Uses of clients and handles that no type checker may accept."""

from durable import App, Client, Handle, Orchestration, OrchestrationContext, Worker

app = App()


@app.orchestrator
async def count(ctx: OrchestrationContext, words: list[str]) -> int:
    return len(words)


def no_orchestrator(words: list[str]) -> int:
    return len(words)


async def main(client: Client) -> None:
    await client.start(count)  # expect-error
    await client.start(count, 5)  # expect-error
    await client.start(no_orchestrator, ["a"])  # expect-error
    await client.start(count, ["a"], reuse="yes")  # expect-error
    await client.run(count, ["a"], timeout="5")  # expect-error
    wrong: Handle[str] = await client.start(count, ["a"])  # expect-error
    text: str = await client.run(count, ["a"])  # expect-error
    client.get(5)  # expect-error
    client.start(count, ["a"]).result()  # expect-error
    Worker(app)  # expect-error
    Worker(app, "memory://", None, ("default",))  # expect-error


@app.orchestrator
def generator(ctx: OrchestrationContext) -> Orchestration[int]:
    yield ctx.call_activity("a")
    return 1


def not_contravariant(handle: Handle[float]) -> Handle[int]:
    return handle  # expect-error
