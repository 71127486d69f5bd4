"""Every shape of an activity, sync and async, called by function and by name, in both styles."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from durable import ActivityContext, App, OrchestrationContext, Worker
from durable.jobs import Job, JobContext
from tests.worker.calls import STYLES, calls, calls_and_tells, run

C = TypeVar("C", bound=ActivityContext)


class ShopContext(ActivityContext):
    """A user's own subclass."""

    @property
    def title(self) -> str:
        return f"{self.name} in the shop"


def shapes() -> tuple[App, dict[str, Any]]:
    """An app with one activity of each shape, and these by name."""
    app = App()

    @app.activity
    def sync_nothing() -> str:
        return "nothing"

    @app.activity
    def sync_input(value: str) -> str:
        return value

    @app.activity
    def sync_context(ctx: ActivityContext) -> str:
        return ctx.name

    @app.activity
    def sync_both(ctx: ActivityContext, value: str) -> str:
        return f"{ctx.name} {value}"

    @app.activity
    async def async_nothing() -> str:
        return "nothing"

    @app.activity
    async def async_input(value: str) -> str:
        return value

    @app.activity
    async def async_context(ctx: ActivityContext) -> str:
        return ctx.name

    @app.activity
    async def async_both(ctx: ActivityContext, value: str) -> str:
        return f"{ctx.name} {value}"

    @app.activity
    async def unannotated(value):  # type: ignore[no-untyped-def]
        return value

    @app.activity
    async def unannotated_both(anything, value):  # type: ignore[no-untyped-def]
        return f"{anything.name} {value}"

    @app.activity
    def subclass(ctx: ShopContext, value: str) -> str:
        return f"{ctx.title} {value}"

    @app.activity
    def keyword(value: str, *, extra: str = "extra") -> str:
        return f"{value} {extra}"

    found = dict(locals())
    del found["app"]
    return app, found


TAKES_INPUT = {
    "sync_input": "x",
    "sync_both": "sync_both x",
    "async_input": "x",
    "async_both": "async_both x",
    "unannotated": "x",
    "unannotated_both": "unannotated_both x",
    "subclass": "subclass in the shop x",
    "keyword": "x extra",
}
TAKES_NONE = {
    "sync_nothing": "nothing",
    "sync_context": "sync_context",
    "async_nothing": "nothing",
    "async_context": "async_context",
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("by", ["function", "name"])
async def test_each_shape_gets_what_it_takes(store_url: str, style: str, by: str) -> None:
    app, activities = shapes()
    results: dict[str, Any] = {}
    for name in TAKES_INPUT | TAKES_NONE:
        target = activities[name] if by == "function" else name
        if name in TAKES_INPUT:
            calls(app, lambda ctx, target=target: ctx.call_activity(target, "x"), style, f"run {name}")
        else:
            calls(app, lambda ctx, target=target: ctx.call_activity(target), style, f"run {name}")
    async with Worker(app, store_url) as worker:
        for name in TAKES_INPUT | TAKES_NONE:
            results[name] = await worker.client.run(f"run {name}", timeout=10)
    assert results == TAKES_INPUT | TAKES_NONE


@pytest.mark.parametrize("by", ["function", "name"])
@pytest.mark.parametrize("name", sorted(TAKES_NONE))
async def test_a_value_for_an_activity_without_input_fails_the_call(name: str, by: str) -> None:
    app, activities = shapes()
    target = activities[name] if by == "function" else name
    calls_and_tells(app, lambda ctx: ctx.call_activity(target, 5))
    seen = await run(app, "memory://")
    assert seen["type"] == "durable.errors.InvalidInputError"
    assert seen["final"]
    assert name in seen["message"]
    assert "takes no input" in seen["message"]


@pytest.mark.parametrize("given", [None, ...], ids=["None", "nothing"])
@pytest.mark.parametrize("by", ["function", "name"])
async def test_none_and_no_input_are_one(by: str, given: Any) -> None:
    """A default applies; without one None is passed where the annotation takes it, and refused where it does not."""
    app = App()

    @app.activity
    def default(value: int = 7) -> Any:
        return value

    @app.activity
    async def default_with_context(ctx: ActivityContext, value: int | None = 8) -> Any:
        return value

    @app.activity
    def default_of_another_type(value: int = "nine") -> Any:  # type: ignore[assignment]
        return value

    @app.activity
    def optional(value: int | None) -> Any:
        return value

    @app.activity
    def anything(value):  # type: ignore[no-untyped-def]
        return value

    @app.activity
    def required(value: int) -> Any:
        return value

    wanted = {default: 7, default_with_context: 8, default_of_another_type: "nine", optional: None, anything: None}
    async with Worker(app, "memory://") as worker:
        for function in [*wanted, required]:
            target = function if by == "function" else function.__name__
            arguments = () if given is ... else (given,)
            make = functools.partial(_call, target, arguments)
            calls_and_tells(app, make, name=f"run {function.__name__}")
            result = await worker.client.run(f"run {function.__name__}", timeout=10)
            if function is required:
                assert result["final"]
                assert "input of activity 'required'" in result["message"]
            else:
                assert result == wanted[function]


def _call(target: Any, arguments: tuple[Any, ...], ctx: OrchestrationContext) -> Any:
    return ctx.call_activity(target, *arguments)


async def test_falsy_values_are_values() -> None:
    """None of them is taken for "no input", neither on the way in nor on the way out."""
    app = App()
    falsy: list[Any] = [0, 0.0, False, "", b"", [], {}]

    @app.activity
    def echo(value: Any = "the default") -> Any:
        return value

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> list[Any]:
        return [await ctx.call_activity(echo, value) for value in falsy]

    results = await run(app, "memory://")
    assert results == falsy
    assert [type(result) for result in results] == [type(value) for value in falsy]


async def test_methods_partials_and_callable_objects_are_activities() -> None:
    app = App()

    class Shop:
        def __init__(self, name: str) -> None:
            self.name = name

        def greet(self, who: str) -> str:
            return f"{self.name} greets {who}"

        async def wave(self, ctx: ActivityContext, who: str) -> str:
            return f"{self.name} waves at {who} in {ctx.name}"

        def __call__(self, who: str) -> str:
            return f"{self.name} calls {who}"

        @staticmethod
        def nod(who: str) -> str:
            return f"nods at {who}"

    def add(first: int, second: int) -> int:
        return first + second

    shop = Shop("Ann")
    app.activity(shop.greet)
    app.activity(shop.wave)
    app.activity(Shop.nod)
    app.activity(name="call")(shop)
    app.activity(name="add")(functools.partial(add, 40))

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> list[Any]:
        return [
            await ctx.call_activity(shop.greet, "Bob"),
            await ctx.call_activity(shop.wave, "Bob"),
            await ctx.call_activity(Shop.nod, "Bob"),
            await ctx.call_activity("call", "Bob"),
            await ctx.call_activity("add", 2),
        ]

    assert await run(app, "memory://") == [
        "Ann greets Bob",
        "Ann waves at Bob in wave",
        "nods at Bob",
        "Ann calls Bob",
        42,
    ]


async def test_an_async_activity_behind_a_plain_decorator_is_awaited() -> None:
    app = App()

    def logged(function: Callable[[int], Awaitable[int]]) -> Callable[[int], Awaitable[int]]:
        @functools.wraps(function)
        def wrapper(value: int) -> Awaitable[int]:
            return function(value)

        return wrapper

    @app.activity
    @logged
    async def double(value: int) -> int:
        await asyncio.sleep(0)
        return 2 * value

    calls(app, lambda ctx: ctx.call_activity(double, 21))
    assert await run(app, "memory://") == 42


async def test_async_activities_run_in_the_loop_and_sync_ones_in_threads_beside_it() -> None:
    app = App()
    seen: dict[str, threading.Thread] = {}

    @app.activity
    async def in_loop() -> None:
        seen["async"] = threading.current_thread()

    @app.activity
    def in_thread() -> None:
        seen["sync"] = threading.current_thread()

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> None:
        await ctx.call_activity(in_loop)
        await ctx.call_activity(in_thread)

    await run(app, "memory://")
    assert seen["async"] is threading.current_thread()
    assert seen["sync"] is not threading.current_thread()
    assert seen["sync"].daemon, "a stuck activity must not keep its process from ending"


async def test_the_function_itself_is_not_changed_by_its_registration() -> None:
    app = App()

    @app.activity
    def double(value: int) -> int:
        return 2 * value

    assert double(4) == 8


async def test_a_job_gives_a_users_own_context_what_a_job_has(store_url: str) -> None:
    app, activities = shapes()

    @app.activity
    def adds(ctx: ShopContext, value: str) -> str:
        assert isinstance(ctx, JobContext)
        ctx.schedule_child(Job(activities["subclass"], value))
        return ctx.title

    async with Worker(app, store_url) as worker:
        tree = await (await worker.client.schedule(Job(adds, "x"))).result(timeout=20)
    assert (tree.result, tree.children[0].result) == ("adds in the shop", "subclass in the shop x")
