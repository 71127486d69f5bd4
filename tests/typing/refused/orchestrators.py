"""Uses of the context that no type checker may accept."""

from datetime import timedelta

from durable import App, Orchestration, OrchestrationContext, Task, when_all, when_any

app = App()


@app.activity
def shout(text: str) -> str:
    return text.upper()


@app.orchestrator
async def count(ctx: OrchestrationContext, words: list[str]) -> int:
    return len(words)


@app.orchestrator
def tick(ctx: OrchestrationContext) -> Orchestration[str]:
    yield ctx.create_timer(timedelta(1))
    return "tick"


def plain(ctx: OrchestrationContext) -> int:
    return 1


async def children(ctx: OrchestrationContext) -> None:
    ctx.call_sub_orchestrator(count)  # expect-error
    ctx.call_sub_orchestrator(count, "word")  # expect-error
    ctx.call_sub_orchestrator(count, [1, 2])  # expect-error
    ctx.call_sub_orchestrator(tick, 5)  # expect-error
    ctx.call_sub_orchestrator(plain)  # expect-error
    ctx.call_sub_orchestrator(shout, "text")  # expect-error
    ctx.call_sub_orchestrator(tick, instance_id=5)  # expect-error
    ctx.call_sub_orchestrator(tick, timeout=5)  # expect-error
    ctx.start_orchestration(count, 5)  # expect-error
    ctx.start_orchestration(tick, version="1")  # expect-error
    wrong: Task[str] = ctx.call_sub_orchestrator(count, ["a"])  # expect-error


async def waits(ctx: OrchestrationContext) -> None:
    ctx.create_timer(5)  # expect-error
    ctx.wait_for_external_event(5)  # expect-error
    ctx.wait_for_external_event("go", int, timeout="5")  # expect-error
    word: str = await ctx.wait_for_external_event("go", int)  # expect-error
    when_any([1, 2])  # expect-error
    _first, _second = await when_all((ctx.create_timer(timedelta(1)),))  # expect-error
    ctx.instance_id = "x"  # expect-error
    ctx.tags["a"] = "b"  # expect-error
    ctx.raise_event("other")  # expect-error


def wrong_result(ctx: OrchestrationContext) -> Orchestration[int]:
    yield ctx.create_timer(timedelta(1))
    return "text"  # expect-error


def wrong_yield(ctx: OrchestrationContext) -> Orchestration[int]:
    yield 5  # expect-error
    number: int = yield from ctx.call_activity(shout, "x")  # expect-error
    return number


def not_contravariant(number: Task[float]) -> Task[bool]:
    return number  # expect-error
