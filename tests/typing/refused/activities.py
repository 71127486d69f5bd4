"""Calls of activities that no type checker may accept."""

from datetime import timedelta

from durable import ActivityContext, App, OrchestrationContext, Task

app = App()


@app.activity
def nothing() -> int:
    return 1


@app.activity
def with_input(count: int) -> str:
    return str(count)


@app.activity
async def with_both(ctx: ActivityContext, count: int) -> str:
    return str(count)


@app.activity
def with_context(ctx: ActivityContext) -> str:
    return ctx.name


def two_inputs(first: int, second: int) -> int:
    return first + second


async def main(ctx: OrchestrationContext) -> None:
    ctx.call_activity(nothing, 5)  # expect-error
    ctx.call_activity(with_input)  # expect-error
    ctx.call_activity(with_input, "five")  # expect-error
    ctx.call_activity(with_input, None)  # expect-error
    ctx.call_activity(with_both)  # expect-error
    ctx.call_activity(with_both, "five")  # expect-error
    ctx.call_activity(with_context, 5)  # expect-error
    ctx.call_activity(two_inputs, 5)  # expect-error
    ctx.call_activity(5)  # expect-error
    ctx.call_activity(with_input, 5, timeout="5")  # expect-error
    ctx.call_activity(with_input, 5, retries=5)  # expect-error
    ctx.call_activity(with_input, 5, queue=7)  # expect-error
    ctx.call_activity(with_input, 5, timedelta(5))  # expect-error
    ctx.call_activity(with_input, 5, tags={"a": 1})  # expect-error
    wrong: Task[int] = ctx.call_activity(with_input, 5)  # expect-error
    number: int = await ctx.call_activity(with_input, 5)  # expect-error
    ctx.map(with_input, ["a", "b"])  # expect-error
    ctx.map(with_input, 5)  # expect-error
    ctx.map(nothing, [1])  # expect-error
    ctx.map(with_input, [1], concurrency="2")  # expect-error
    names: list[int] = await ctx.map(with_input, [1])  # expect-error
