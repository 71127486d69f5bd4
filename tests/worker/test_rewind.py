"""`handle.rewind`: what failed runs again from the point of failure, and what had succeeded does not.

Each orchestration does named pieces of work; `World` notes each piece as it runs, and breaks those that it is told to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    ActivityContext,
    ActivityFailedError,
    App,
    Client,
    EntityId,
    Handle,
    InstanceFinishedError,
    InstanceNotFoundError,
    InstanceRunningError,
    Orchestration,
    OrchestrationCancelledError,
    OrchestrationContext,
    OrchestrationFailedError,
    OrchestrationStatus,
    OrchestrationTerminatedError,
    RetryPolicy,
    SubOrchestrationFailedError,
    TaskFailedError,
    Worker,
    when_all,
)
from durable.worker import receiving
from durable.worker import steps as stalling
from tests.worker.lives import becomes_true, names_of, raises_soon, until

AT_ONCE = RetryPolicy(timedelta(0), 3)
SOON = RetryPolicy(timedelta(milliseconds=5), 2)


class World:
    """What the pieces of work do, and which have been done."""

    def __init__(self) -> None:
        self.app = App()
        self.broken: set[str] = set()
        self.ran: list[str] = []
        self.keys: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}

        @self.app.activity
        async def work(ctx: ActivityContext, name: str) -> str:
            self.ran.append(name)
            self.keys.append(ctx.idempotency_key)
            if name in self.gates:
                await self.gates[name].wait()
            if name in self.broken:
                raise ValueError(f"{name} is broken")
            return name.upper()

        self.work = work

    def mend(self, *broken: str) -> None:
        """Break nothing but this any more, and forget what has run."""
        self.broken = set(broken)
        self.ran.clear()


@pytest.fixture
def world() -> World:
    return World()


async def failed(handle: Handle[Any]) -> OrchestrationFailedError:
    with pytest.raises(OrchestrationFailedError) as caught:
        await handle.result(timeout=20)
    return caught.value


async def rewound(handle: Handle[Any]) -> Any:
    await handle.rewind("mended")
    return await handle.result(timeout=20)


def steps(world: World, style: str, *names: str, policy: RetryPolicy | None = None) -> Callable[..., Any]:
    """An orchestrator that does one thing after the other."""

    async def in_order(ctx: OrchestrationContext) -> list[str]:
        return [await ctx.call_activity(world.work, name, retry_policy=policy) for name in names]

    def in_order_generator(ctx: OrchestrationContext) -> Orchestration[list[str]]:
        done = []
        for name in names:
            done.append((yield from ctx.call_activity(world.work, name, retry_policy=policy)))
        return done

    return world.app.orchestrator(name="steps")(in_order if style == "async" else in_order_generator)


# ---- what runs again


@pytest.mark.parametrize("style", ["async", "generator"])
async def test_one_step_after_the_other_goes_on_where_it_failed(store_url: str, world: World, style: str) -> None:
    program = steps(world, style, "a", "b", "c")
    world.broken = {"b"}
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(program)
        await failed(handle)
        world.mend()
        assert await rewound(handle) == ["A", "B", "C"]
        assert world.ran == ["b", "c"]
        state = await handle.state()
        assert (state.generation, state.status, state.failure_details) == (1, OrchestrationStatus.COMPLETED, None)
        assert (await worker.client.get(handle.instance_id).state()).run_id == handle.run_id


async def test_it_is_unfinished_on_return_and_may_fail_and_be_rewound_again(store_url: str, world: World) -> None:
    program = steps(world, "async", "a", "b", "c")
    world.broken = {"b", "c"}
    async with Client(store_url, world.app) as client:
        async with Worker(world.app, store_url):
            handle = await client.start(program)
            await failed(handle)
        await handle.rewind()
        assert not (await handle.state()).status.is_finished
        with pytest.raises(InstanceRunningError):
            await handle.rewind()
        async with Worker(world.app, store_url):
            assert "b is broken" in str(await failed(handle))
            world.mend("c")
            await handle.rewind()
            assert "c is broken" in str(await failed(handle))
            world.mend()
            assert await rewound(handle) == ["A", "B", "C"]
            assert world.ran == ["c"]
            assert (await handle.state()).generation == 3


@pytest.mark.parametrize("style", ["async", "generator"])
async def test_a_retry_policy_has_all_its_attempts_again(store_url: str, world: World, style: str) -> None:
    program = steps(world, style, "a", "b", policy=AT_ONCE)
    world.broken = {"b"}
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(program)
        await failed(handle)
        assert world.ran == ["a", "b", "b", "b"]
        world.mend("b")
        await handle.rewind()
        await failed(handle)
        assert world.ran == ["b", "b", "b"]
        world.mend()
        assert await rewound(handle) == ["A", "B"]
        assert world.ran == ["b"]
        assert len(set(world.keys[1:])) == 1  # it is one call all the time, also to the service that it pays with


@pytest.mark.parametrize("shape", ["when_all", "gather", "group", "map", "gather and see", "semaphore"])
async def test_of_many_at_a_time_only_those_that_failed_run_again(store_url: str, world: World, shape: str) -> None:
    names = ["a", "b", "c", "d", "e"]

    @world.app.orchestrator
    async def many(ctx: OrchestrationContext) -> list[str]:
        if shape == "map":
            return await ctx.map(world.work, names, concurrency=2)
        if shape == "semaphore":
            two = asyncio.Semaphore(2)
            found = await asyncio.gather(*(bounded(ctx, two, name) for name in names), return_exceptions=True)
            return first_failure_of(found)
        tasks = [ctx.call_activity(world.work, name, retry_policy=SOON) for name in names]
        if shape == "when_all":
            return await when_all(tasks)
        if shape == "gather":
            return list(await asyncio.gather(*tasks))
        if shape == "group":
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(wait_for(task)) for task in tasks]
            return [task.result() for task in running]
        return first_failure_of(await asyncio.gather(*tasks, return_exceptions=True))

    async def wait_for(task: Any) -> str:
        return await task  # type: ignore[no-any-return]

    async def bounded(ctx: OrchestrationContext, bound: asyncio.Semaphore, name: str) -> str:
        async with bound:
            return await ctx.call_activity(world.work, name)

    def first_failure_of(found: list[Any]) -> list[str]:
        for outcome in found:
            if isinstance(outcome, BaseException):
                raise outcome
        return found

    world.broken = {"b", "d"}
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(many)
        await failed(handle)
        history: Any = await handle.history()
        succeeded = {event.result for event in history if type(event).__name__ == "ActivityCompleted"}
        world.mend()
        assert await rewound(handle) == ["A", "B", "C", "D", "E"]
        assert not {name.upper() for name in world.ran} & succeeded
        assert {"b", "d"} <= set(world.ran)
        assert len(world.ran) == len(set(world.ran))


async def test_of_a_long_list_with_many_failures_only_those_run_again(store_url: str, world: World) -> None:
    names = [f"{number:02d}" for number in range(60)]

    @world.app.orchestrator
    async def bulk(ctx: OrchestrationContext) -> list[str]:
        return await ctx.map(world.work, names, concurrency=3)

    world.broken = set(names[4::3])
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(bulk)
        await failed(handle)
        broken = sorted(world.broken)
        world.mend()
        assert await rewound(handle) == names
        assert sorted(world.ran) == broken


async def test_what_went_on_beside_a_failure_is_kept(store_url: str, world: World) -> None:
    @world.app.orchestrator
    async def two_lines(ctx: OrchestrationContext) -> list[Any]:
        async def line(*names: str) -> str:
            return "".join([await ctx.call_activity(world.work, name) for name in names])

        found = await asyncio.gather(line("a"), line("b", "c", "d"), line("e", "f"), return_exceptions=True)
        if errors := [outcome for outcome in found if isinstance(outcome, BaseException)]:
            raise errors[0]
        return list(found)

    world.broken = {"a", "e"}
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(two_lines)
        await failed(handle)
        assert {"a", "b", "c", "d", "e"} == set(world.ran)
        world.mend()
        assert await rewound(handle) == ["A", "BCD", "EF"]
        assert sorted(world.ran) == ["a", "e", "f"]


async def test_what_was_asked_for_because_of_the_failure_is_forgotten(store_url: str, world: World) -> None:
    @world.app.orchestrator
    async def tells_of_it(ctx: OrchestrationContext) -> list[str]:
        beside = asyncio.create_task(line(ctx))
        try:
            first = await ctx.call_activity(world.work, "a")
        except ActivityFailedError:
            await ctx.call_activity(world.work, "tell")
            await beside
            raise
        return [first, await beside]

    async def line(ctx: OrchestrationContext) -> str:
        return "".join([await ctx.call_activity(world.work, name) for name in "bcd"])

    world.broken = {"a"}
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(tells_of_it)
        await failed(handle)
        assert sorted(world.ran) == ["a", "b", "c", "d", "tell"]
        world.mend()
        assert await rewound(handle) == ["A", "BCD"]
        assert world.ran == ["a"]


async def test_a_failure_that_was_dealt_with_stays(store_url: str, world: World) -> None:
    @world.app.orchestrator
    async def copes(ctx: OrchestrationContext) -> list[str]:
        done = []
        tasks = [ctx.call_activity(world.work, name) for name in ("a", "b", "c")]
        for task in tasks:  # nothing is asked for because of a failure here
            try:
                done.append(await task)
            except ActivityFailedError:
                done.append("-")
        try:
            done.append(await ctx.call_activity(world.work, "d"))
        except ActivityFailedError:
            done.append(await ctx.call_activity(world.work, "instead"))
        return [*done, await ctx.call_activity(world.work, "last")]

    world.broken = {"a", "c", "d", "last"}
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(copes)
        await failed(handle)
        world.mend()
        assert await rewound(handle) == ["-", "B", "-", "INSTEAD", "LAST"]
        assert world.ran == ["last"]


async def test_a_mistake_in_the_code_is_mended_in_place(store_url: str, world: World) -> None:
    def program(is_mended: bool) -> App:
        app = App()
        app.include(world.app)

        @app.orchestrator(name="order")
        async def order(ctx: OrchestrationContext) -> list[str]:
            first = await ctx.call_activity(world.work, "a")
            if not is_mended:
                ctx.raise_event("nobody", "told")
                raise KeyError("typo")
            return [first, await ctx.call_activity(world.work, "b")]

        return app

    async with Client(store_url) as client:
        async with Worker(program(False), store_url):
            handle = await client.start("order")
            assert (await failed(handle)).details.is_caused_by(KeyError)
        world.mend()
        await handle.rewind()
        async with Worker(program(True), store_url):
            assert await handle.result(timeout=20) == ["A", "B"]
        assert world.ran == ["b"]


async def test_an_input_that_fits_by_now_is_enough(store_url: str) -> None:
    def program(annotation: Any) -> App:
        app = App()

        @app.orchestrator(name="order")
        async def order(ctx: OrchestrationContext, value: annotation) -> Any:
            return [value, str(ctx.new_uuid())]

        return app

    async with Client(store_url) as client:
        async with Worker(program(int), store_url):
            handle = await client.start("order", "text")
            await failed(handle)
        await handle.rewind()
        async with Worker(program(str), store_url):
            assert (await handle.result(timeout=20))[0] == "text"


# ---- children


def nested(world: World, style: str) -> Callable[..., Any]:
    """A parent with a retried child with a child: each does something before and after."""

    @world.app.orchestrator
    async def innermost(ctx: OrchestrationContext) -> list[str]:
        return [await ctx.call_activity(world.work, name) for name in ("x", "y")]

    @world.app.orchestrator
    async def middle(ctx: OrchestrationContext) -> list[str]:
        before = await ctx.call_activity(world.work, "m")
        return [before, *await ctx.call_sub_orchestrator(innermost)]

    async def outer(ctx: OrchestrationContext) -> list[str]:
        before = await ctx.call_activity(world.work, "a")
        found = await ctx.call_sub_orchestrator(middle, retry_policy=SOON)
        return [before, *found, await ctx.call_activity(world.work, "b")]

    def outer_generator(ctx: OrchestrationContext) -> Orchestration[list[str]]:
        before = yield from ctx.call_activity(world.work, "a")
        found = yield from ctx.call_sub_orchestrator(middle, retry_policy=SOON)
        return [before, *found, (yield from ctx.call_activity(world.work, "b"))]

    return world.app.orchestrator(name="outer")(outer if style == "async" else outer_generator)


@pytest.mark.parametrize("style", ["async", "generator"])
async def test_of_a_failed_retried_child_only_what_failed_runs_again(store_url: str, world: World, style: str) -> None:
    program = nested(world, style)
    world.broken = {"y"}
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(program)
        assert "y is broken" in str(await failed(handle))
        assert world.ran == ["a", "m", "x", "y", "m", "x", "y"]  # two attempts of the child
        world.mend()
        assert await rewound(handle) == ["A", "M", "X", "Y", "B"]
        assert world.ran == ["y", "b"]
        statuses = [(state.name, state.status.name) async for state in worker.client.query()]
        assert sorted(statuses) == [
            ("innermost", "COMPLETED"),
            ("innermost", "FAILED"),  # of the first attempt: its failure was followed by a retry
            ("middle", "COMPLETED"),
            ("middle", "FAILED"),
            ("outer", "COMPLETED"),
        ]


async def test_a_child_that_fails_again_may_be_tried_as_often_again(store_url: str, world: World) -> None:
    program = nested(world, "async")
    world.broken = {"y"}
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(program)
        await failed(handle)
        world.mend("y")
        await handle.rewind()
        await failed(handle)
        assert world.ran == ["y", "m", "x", "y"]
        world.mend()
        assert await rewound(handle) == ["A", "M", "X", "Y", "B"]
        assert world.ran == ["y", "b"]


async def test_a_child_with_an_id_of_its_own_goes_on_under_it(store_url: str, world: World) -> None:
    child = steps(world, "async", "x", "y")

    @world.app.orchestrator
    async def parent(ctx: OrchestrationContext) -> list[str]:
        return await ctx.call_sub_orchestrator(child, instance_id="the-child", retry_policy=SOON)

    world.broken = {"y"}
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(parent)
        await failed(handle)
        world.mend()
        assert await rewound(handle) == ["X", "Y"]
        assert world.ran == ["y"]
        assert (await worker.client.get("the-child").state()).status is OrchestrationStatus.COMPLETED


@pytest.mark.parametrize("ends", ["before", "after"])
async def test_a_child_that_ran_on_brings_its_result(store_url: str, world: World, ends: str) -> None:
    child = steps(world, "async", "slow")
    world.gates["slow"] = asyncio.Event()

    @world.app.orchestrator
    async def parent(ctx: OrchestrationContext) -> list[Any]:
        running = ctx.call_sub_orchestrator(child, instance_id="the-child")
        return [await ctx.call_activity(world.work, "a"), await running]

    world.broken = {"a"}
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(parent)
        await failed(handle)
        await becomes_true(lambda: "slow" in world.ran)
        world.mend()
        if ends == "before":
            world.gates["slow"].set()
            await worker.client.get("the-child").result(timeout=20)
        await handle.rewind()
        await becomes_true(lambda: "a" in world.ran)
        world.gates["slow"].set()
        assert await handle.result(timeout=20) == ["A", ["SLOW"]]
        assert world.ran == ["a"]


async def test_a_child_that_is_gone_begins_anew(store_url: str, world: World) -> None:
    child = steps(world, "async", "x", "y")

    @world.app.orchestrator
    async def parent(ctx: OrchestrationContext) -> list[str]:
        return await ctx.call_sub_orchestrator(child, instance_id="the-child")

    world.broken = {"y"}
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(parent)
        await failed(handle)
        await worker.client.get("the-child").purge()
        world.mend()
        assert await rewound(handle) == ["X", "Y"]
        assert world.ran == ["x", "y"]


async def test_an_id_that_another_has_taken_is_lost(store_url: str, world: World) -> None:
    child = steps(world, "async", "x", "y")

    @world.app.orchestrator
    async def parent(ctx: OrchestrationContext) -> list[str]:
        return await ctx.call_sub_orchestrator(child, instance_id="the-child")

    world.broken = {"y"}
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(parent)
        await failed(handle)
        await failed(await worker.client.get("the-child").restart())
        await handle.rewind()
        assert "cannot go on" in str(await failed(handle))


async def test_a_child_that_is_rewound_by_itself_does_not_tell_its_parent_twice(store_url: str, world: World) -> None:
    child = steps(world, "async", "x", "y")

    @world.app.orchestrator
    async def parent(ctx: OrchestrationContext) -> str:
        try:
            await ctx.call_sub_orchestrator(child, instance_id="the-child")
        except SubOrchestrationFailedError:
            return str(await ctx.wait_for_external_event("go"))
        return "no failure"

    world.broken = {"y"}
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(parent)
        child_handle = worker.client.get("the-child")
        await becomes_true(lambda: "y" in world.ran)
        await failed(child_handle)
        world.mend()
        assert await rewound(child_handle) == ["X", "Y"]
        await handle.raise_event("go", "on")
        assert await handle.result(timeout=20) == "on"


# ---- other ends, and what is refused


async def test_what_was_terminated_goes_on_with_its_children(store_url: str, world: World) -> None:
    child = steps(world, "async", "x", "slow")
    world.gates["slow"] = asyncio.Event()

    @world.app.orchestrator
    async def parent(ctx: OrchestrationContext) -> list[str]:
        before = await ctx.call_activity(world.work, "a")
        return [before, *await ctx.call_sub_orchestrator(child, instance_id="the-child")]

    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(parent)
        await becomes_true(lambda: "slow" in world.ran)
        await handle.terminate("by mistake")
        await raises_soon(OrchestrationTerminatedError, handle.result())
        await raises_soon(OrchestrationTerminatedError, worker.client.get("the-child").result())
        world.mend()
        world.gates["slow"].set()
        assert await rewound(handle) == ["A", "X", "SLOW"]
        assert world.ran == ["slow"]


async def test_what_was_cancelled_goes_on_from_before_that(store_url: str, world: World) -> None:
    world.gates["slow"] = asyncio.Event()

    @world.app.orchestrator
    async def tidy(ctx: OrchestrationContext) -> list[str]:
        try:
            first = await ctx.call_activity(world.work, "a")
            return [first, await ctx.call_activity(world.work, "slow")]
        except asyncio.CancelledError:
            await ctx.call_activity(world.work, "tidy up")
            raise

    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(tidy)
        await becomes_true(lambda: "slow" in world.ran)
        await handle.cancel("by mistake")
        await raises_soon(OrchestrationCancelledError, handle.result())
        assert world.ran == ["a", "slow", "tidy up"]
        world.mend()
        world.gates["slow"].set()
        assert await rewound(handle) == ["A", "SLOW"]
        assert world.ran == ["slow"]


async def test_what_never_began_begins(store_url: str, world: World) -> None:
    program = steps(world, "async", "a")
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(program, at=timedelta(hours=1))
        await handle.terminate()
        await raises_soon(OrchestrationTerminatedError, handle.result())
        assert await rewound(handle) == ["A"]


async def test_what_was_suspended_stays_suspended(store_url: str, world: World) -> None:
    @world.app.orchestrator
    async def waits(ctx: OrchestrationContext) -> list[Any]:
        return [await ctx.wait_for_external_event("go"), await ctx.call_activity(world.work, "a")]

    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(waits)
        await until(handle, OrchestrationStatus.RUNNING)
        await handle.suspend()
        await until(handle, OrchestrationStatus.SUSPENDED)
        await handle.raise_event("go", 1)
        await becomes_true(lambda: _length_is(handle, 3))
        await handle.terminate()
        await raises_soon(OrchestrationTerminatedError, handle.result())
        await handle.rewind()
        await until(handle, OrchestrationStatus.SUSPENDED)
        await handle.resume()
        assert await handle.result(timeout=20) == [1, "A"]


async def _length_is(handle: Handle[Any], length: int) -> bool:
    return len(await handle.history()) == length


async def test_only_what_has_ended_without_completing_is_rewound(store_url: str, world: World) -> None:
    program = steps(world, "async", "a")
    async with Worker(world.app, store_url) as worker:
        client = worker.client
        handle = await client.start(program)
        await handle.result(timeout=20)
        with pytest.raises(InstanceFinishedError, match="nothing failed"):
            await handle.rewind()
        with pytest.raises(InstanceNotFoundError):
            await client.get("nobody").rewind()
        with pytest.raises(TypeError):
            await handle.rewind(5)  # type: ignore[arg-type]
        world.broken = {"a"}
        old = await client.start(program, instance_id="order")
        await failed(old)
        await failed(await old.restart())
        with pytest.raises(InstanceFinishedError, match="has taken its place"):
            await old.rewind()


# ---- what is kept, and what is new


async def test_timeouts_begin_anew(store_url: str, world: World) -> None:
    world.gates["slow"] = asyncio.Event()

    @world.app.orchestrator
    async def in_time(ctx: OrchestrationContext, seconds: float) -> list[Any]:
        span = timedelta(seconds=seconds)
        first = await ctx.wait_for_external_event("go", timeout=span)
        return [first, await ctx.call_activity(world.work, "slow", total_timeout=span)]

    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(in_time, 0.3)
        assert (await failed(handle)).details.is_caused_by(TimeoutError)
        await handle.rewind()
        await handle.raise_event("go", "event")
        await becomes_true(lambda: "slow" in world.ran)
        assert "total_timeout" in str(await failed(handle))
        world.gates["slow"].set()
        assert await rewound(handle) == ["event", "SLOW"]


async def test_events_that_nobody_had_taken_are_there_again(store_url: str, world: World) -> None:
    @world.app.orchestrator
    async def takes(ctx: OrchestrationContext) -> list[Any]:
        first = await ctx.call_activity(world.work, "a")
        return [first, await ctx.wait_for_external_event("item")]

    world.gates["a"] = asyncio.Event()
    world.broken = {"a"}
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(takes)
        await handle.raise_event("item", 1)
        await becomes_true(lambda: _length_is(handle, 3))
        world.gates["a"].set()
        await failed(handle)
        world.mend()
        assert await rewound(handle) == ["A", 1]


async def test_ids_and_numbers_are_those_of_before_and_then_new_ones(store_url: str, world: World) -> None:
    @world.app.orchestrator
    async def draws(ctx: OrchestrationContext) -> list[Any]:
        drawn: list[Any] = [str(ctx.new_uuid()), ctx.random.random(), ctx.generation]
        ctx.set_custom_status(drawn)
        await ctx.call_activity(world.work, drawn[0])
        for _ in range(3):
            drawn += [str(ctx.new_uuid()), ctx.random.random()]
        ctx.set_custom_status(drawn)
        if not ctx.generation:
            raise ValueError("once")
        return [drawn, ctx.generation]

    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(draws)
        await failed(handle)
        before = (await handle.state()).custom_status
        after, generation = await rewound(handle)
        assert after[:3] == before[:3]
        assert not set(after[3:]) & set(before[3:])
        assert generation == 1
        assert len(world.ran) == 1


async def test_the_failed_generation_stays_readable_until_a_purge(store_url: str, world: World) -> None:
    program = steps(world, "async", "a", "b")
    world.broken = {"b"}
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(program)
        await failed(handle)
        before = await handle.history()
        world.mend()
        await rewound(handle)
        after = await handle.history()
        assert names_of(after)[:4] == names_of(before)[:4]
        assert names_of(after)[4:] == ["OrchestrationRewound", "ActivityCompleted", "OrchestrationCompleted"]
        assert (after[4].reason, after[4].source) == ("mended", 0)  # type: ignore[attr-defined]
        assert await handle.history(generation=0) == before
        assert await handle.history(generation=1) == after
        with pytest.raises(InstanceNotFoundError, match="generation 2"):
            await handle.history(generation=2)
        await handle.purge()
        with pytest.raises(InstanceNotFoundError):
            await handle.history(generation=0)


# ---- when it cannot go on


async def test_where_todays_code_does_not_fit_it_stalls_and_goes_on_with_code_that_does(
    store_url: str, world: World
) -> None:
    other = World()
    program = steps(world, "async", "a", "b")
    steps(other, "async", "z", "a", "b")
    world.broken = {"b"}
    async with Client(store_url) as client:
        async with Worker(world.app, store_url):
            handle = await client.start(program)
            await failed(handle)
        world.mend()
        await handle.rewind()
        async with Worker(other.app, store_url, strict=True):
            state = await until(handle, OrchestrationStatus.STALLED)
            assert "history position" in str(state.stall_reason)
            assert not other.ran
        async with Worker(world.app, store_url):
            assert await handle.result(timeout=20) == ["A", "B"]
        assert world.ran == ["b"]


async def test_what_stalls_before_it_goes_on_can_be_ended_and_rewound_again(store_url: str, world: World) -> None:
    program = steps(world, "async", "a", "b")
    world.broken = {"b"}
    async with Client(store_url) as client:
        async with Worker(world.app, store_url):
            handle = await client.start(program)
            await failed(handle)
        await handle.rewind()
        async with Worker(App(), store_url):
            await until(handle, OrchestrationStatus.STALLED)
            await handle.terminate()
            await raises_soon(OrchestrationTerminatedError, handle.result())
        world.mend()
        await handle.rewind()
        async with Worker(world.app, store_url):
            assert await handle.result(timeout=20) == ["A", "B"]
        assert world.ran == ["b"]


@pytest.mark.parametrize("is_forked", [False, True], ids=["rewound", "forked"])
@pytest.mark.parametrize("is_taken_over", [False, True], ids=["one worker", "another worker"])
@pytest.mark.parametrize("is_known", [True, False], ids=["code that differs", "no code"])
@pytest.mark.parametrize("steered", ["resume", "suspend resume", "suspend", "cancel", "suspend cancel resume"])
async def test_what_stalls_before_it_goes_on_can_be_steered_and_loses_nothing_of_what_it_takes_over(
    store_url: str,
    world: World,
    steered: str,
    is_known: bool,
    is_taken_over: bool,
    is_forked: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The code is repaired after the steering, or a worker with the right one takes over, maybe after one more without it."""
    monkeypatch.setattr(stalling, "STALL_FIRST_US", 3600 * 1_000_000)
    monkeypatch.setattr(stalling, "STALL_LONGEST_US", 3600 * 1_000_000)
    is_wrong = True

    @world.app.orchestrator
    async def collects(ctx: OrchestrationContext) -> list[Any]:
        found = [await ctx.call_activity(world.work, "a"), await ctx.wait_for_external_event("item")]
        if ctx.is_replaying and is_wrong:
            await ctx.call_activity(world.work, "another")
        while len(found) < 4:
            found.append(await ctx.wait_for_external_event("item"))
        return found

    async with Client(store_url) as client, contextlib.AsyncExitStack() as workers:
        worker = await workers.enter_async_context(Worker(world.app, store_url))
        handle = await worker.client.start(collects)
        await handle.raise_event("item", 1)
        await becomes_true(lambda: _has_seen(handle, 1))
        if not is_forked:
            await handle.terminate()
            await handle.wait()
        handle = client.get(handle.instance_id)
        if not is_known:
            await workers.aclose()
            await workers.enter_async_context(Worker(App(), store_url))
        if is_forked:
            handle = client.get((await handle.fork(at=len(await handle.history()))).instance_id)
        else:
            await handle.rewind()
        await until(handle, OrchestrationStatus.STALLED)
        await handle.raise_event("item", 2)
        for word in steered.split():
            await getattr(handle, word)()
            if word == "suspend":
                await until(handle, OrchestrationStatus.SUSPENDED)
        await handle.raise_event("item", 3)
        if is_taken_over or not is_known:
            await workers.aclose()
        if is_taken_over and not is_known:
            async with Worker(App(), store_url) as another:
                await another.client.start("nobody knows it", instance_id="another")
                await until(another.client.get("another"), OrchestrationStatus.STALLED)
        is_wrong = False
        if is_taken_over or not is_known:
            await workers.enter_async_context(Worker(world.app, store_url))
        with contextlib.suppress(InstanceFinishedError):
            await handle.resume()
        if "cancel" in steered:
            await raises_soon(OrchestrationCancelledError, handle.result())
        else:
            assert await handle.result(timeout=20) == ["A", 1, 2, 3]
        names = names_of(await handle.history())
        assert names[0] == "OrchestrationStarted"
        assert names.count("OrchestrationSuspended") == ("suspend" in steered)


@pytest.mark.parametrize("steered", ["resume", "suspend resume"])
async def test_steering_waits_for_what_it_takes_over_though_memory_is_full_of_messages(
    store_url: str, world: World, steered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = steps(world, "async", "a", "b")
    world.broken = {"b"}
    async with Client(store_url) as client:
        async with Worker(world.app, store_url):
            handle = client.get((await client.start(program)).instance_id)
            await raises_soon(OrchestrationFailedError, handle.result())
        world.mend()
        async with Worker(App(), store_url) as worker:
            await handle.rewind()
            await until(handle, OrchestrationStatus.STALLED)
            assert worker._parts is not None
            receiver, parking, looks = worker._parts.owner.receiver, worker._parts.owner._parking, 0
            was_read = parking.was_read

            def counted(*, is_full: bool) -> Any:
                nonlocal looks
                looks += is_full
                return was_read(is_full=is_full)

            monkeypatch.setattr(parking, "was_read", counted)
            with monkeypatch.context() as patch:
                patch.setattr(receiving, "HELD_MAX", -1)
                for word in steered.split():
                    await getattr(worker.client.get(handle.instance_id), word)()
                await becomes_true(lambda: parking._awaiting)
                before = looks
                receiver.wake()
                await becomes_true(lambda: looks > before)
            receiver.wake()
            await until(handle, OrchestrationStatus.STALLED)
        async with Worker(world.app, store_url):
            assert await handle.result(timeout=20) == ["A", "B"]
        assert names_of(await handle.history())[0] == "OrchestrationStarted"


async def _has_seen(handle: Handle[Any], count: int) -> bool:
    return names_of(await handle.history()).count("EventRaised") == count


async def test_steering_waits_for_it_and_counts(store_url: str, world: World) -> None:
    @world.app.orchestrator
    async def collects(ctx: OrchestrationContext) -> list[Any]:
        found = [await ctx.call_activity(world.work, "a")]
        while len(found) < 3:
            found.append(await ctx.wait_for_external_event("item"))
        return found

    world.broken = {"a"}
    async with Client(store_url, world.app) as client:
        async with Worker(world.app, store_url):
            handle = await client.start(collects)
            await failed(handle)
        world.mend()
        await handle.rewind()
        await handle.suspend()
        await handle.raise_event("item", 1)
        await handle.resume()
        await handle.raise_event("item", 2)
        async with Worker(world.app, store_url):
            assert await handle.result(timeout=20) == ["A", 1, 2]


async def test_a_parent_told_of_the_end_is_told_of_the_new_one_after_its_own_rewind(
    store_url: str, world: World
) -> None:
    """Two levels, rewound twice: what an older generation had asked for is answered in the newest."""
    child = steps(world, "async", "x", "y")

    @world.app.orchestrator
    async def parent(ctx: OrchestrationContext) -> list[Any]:
        running = ctx.call_sub_orchestrator(child)
        await ctx.call_activity(world.work, "a")
        try:
            return await running
        except TaskFailedError as error:
            raise RuntimeError("the child failed") from error

    world.broken = {"y"}
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(parent)
        for _ in range(3):
            assert (await failed(handle)).details.is_caused_by(ValueError)
            world.mend("y")
            await handle.rewind()
        await failed(handle)
        assert world.ran == ["y"]
        world.mend()
        assert await rewound(handle) == ["X", "Y"]


# ---- entities


async def test_what_entities_had_done_is_not_done_again(store_url: str, world: World) -> None:
    @world.app.entity
    class Counter:
        value: int = 0

        def add(self, amount: int) -> int:
            self.value += amount
            return self.value

    counter = EntityId(Counter, "one")

    @world.app.orchestrator
    async def counts(ctx: OrchestrationContext) -> list[Any]:
        first = await ctx.call_entity(counter, "add", 5)
        return [first, await ctx.call_activity(world.work, "a")]

    world.broken = {"a"}
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(counts)
        await failed(handle)
        world.mend()
        assert await rewound(handle) == [5, "A"]
        state = await worker.client.get_entity(counter)
        assert state is not None
        assert state.state.value == 5


async def test_nobody_goes_on_in_a_section_whose_lock_is_gone(store_url: str, world: World) -> None:
    @world.app.entity
    class Counter:
        value: int = 0

        def add(self, amount: int) -> None:
            self.value += amount

    counter = EntityId(Counter, "one")

    @world.app.orchestrator
    async def locks(ctx: OrchestrationContext) -> None:
        async with ctx.lock(counter):
            await ctx.call_entity(counter, "add", 5)
            await ctx.call_activity(world.work, "a")
            await ctx.call_entity(counter, "add", -5)

    world.broken = {"a"}
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(locks)
        await failed(handle)
        world.mend()
        await handle.rewind()
        state = await until(handle, OrchestrationStatus.STALLED)
        assert "critical section" in str(state.stall_reason)
        assert world.ran == []
        await handle.terminate()
        await raises_soon(OrchestrationTerminatedError, handle.result())
        again = await handle.restart()
        await again.result(timeout=20)
