"""`handle.fork`: a new instance that goes on from a point of another one's history, which stays as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    App,
    Client,
    InstanceAlreadyExistsError,
    InstanceNotFoundError,
    Orchestration,
    OrchestrationContext,
    OrchestrationFailedError,
    OrchestrationStatus,
    Worker,
    when_all,
)
from tests.worker.lives import STYLES, becomes_true, names_of, until


class World:
    """What has been done, under which idempotency keys it was."""

    def __init__(self) -> None:
        self.app = App()
        self.ran: list[str] = []
        self.is_broken = False
        self.gate: asyncio.Event | None = None

        @self.app.activity
        async def work(name: str) -> str:
            self.ran.append(name)
            if name == "slow" and self.gate is not None:
                await self.gate.wait()
            if self.is_broken and name == "c":
                raise ValueError("c is broken")
            return name.upper()

        self.work = work


@pytest.fixture
def world() -> World:
    return World()


def steps(world: World, style: str) -> Callable[..., Any]:
    """An orchestrator that does a, b and c, one after the other."""

    async def in_order(ctx: OrchestrationContext, more: str) -> list[str]:
        return [more] + [await ctx.call_activity(world.work, name) for name in "abc"]

    def in_order_generator(ctx: OrchestrationContext, more: str) -> Orchestration[list[str]]:
        done = [more]
        for name in "abc":
            done.append((yield ctx.call_activity(world.work, name)))
        return done

    return world.app.orchestrator(name="steps")(in_order if style == "async" else in_order_generator)


@pytest.mark.parametrize("style", STYLES)
async def test_from_every_point_it_does_what_is_not_behind_it(store_url: str, world: World, style: str) -> None:
    program = steps(world, style)
    async with Worker(world.app, store_url, strict=True) as worker:
        handle = await worker.client.start(program, "in", tags={"t": "1"})
        await handle.result(timeout=20)
        history = await handle.history()
        assert len(history) == 8
        for at in range(len(history) + 1):
            behind = [event.result for event in history[:at] if type(event).__name__ == "ActivityCompleted"]
            world.ran.clear()
            fork = await handle.fork(at=at)
            assert await fork.result(timeout=20) == ["in", "A", "B", "C"]
            assert world.ran == [name for name in "abc" if name.upper() not in behind]
            state = await fork.state()
            assert (state.input, state.tags, state.generation) == ("in", {"t": "1"}, 0)
        assert await handle.history() == history
        assert len({state.instance_id async for state in worker.client.query()}) == 10


async def test_its_history_says_where_it_comes_from(store_url: str, world: World) -> None:
    program = steps(world, "async")
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(program, "in", instance_id="first")
        await handle.result(timeout=20)
        fork = await handle.fork(at=5, new_id="second")
        await fork.result(timeout=20)
        history = await fork.history()
        assert names_of(history)[:7] == [
            "OrchestrationStarted",
            "ActivityScheduled",
            "ActivityCompleted",
            "ActivityScheduled",
            "ActivityCompleted",
            "OrchestrationForked",
            "ActivityScheduled",
        ] or names_of(history)[:6] == [
            "OrchestrationStarted",
            "ActivityScheduled",
            "ActivityCompleted",
            "ActivityScheduled",
            "OrchestrationForked",
            "ActivityCompleted",
        ]
        event: Any = next(event for event in history if type(event).__name__ == "OrchestrationForked")
        assert (event.at, event.source.instance_id, event.source.run_id) == (5, "first", handle.run_id)
        assert (fork.instance_id, event.past) == ("second", None)
        assert type(history).load(history.export()) == history


async def test_what_failed_is_tried_by_another(store_url: str, world: World) -> None:
    program = steps(world, "async")
    world.is_broken = True
    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(program, "in")
        with pytest.raises(OrchestrationFailedError):
            await handle.result(timeout=20)
        world.is_broken = False
        world.ran.clear()
        at = next(event.sequence for event in await handle.history() if type(event).__name__ == "ActivityFailed")
        fork = await handle.fork(at=at)
        assert await fork.result(timeout=20) == ["in", "A", "B", "C"]
        assert world.ran == ["c"]
        assert (await handle.state()).status is OrchestrationStatus.FAILED


async def test_a_running_one_goes_on_beside_its_fork(store_url: str, world: World) -> None:
    @world.app.orchestrator
    async def waits(ctx: OrchestrationContext) -> list[Any]:
        first = await ctx.call_activity(world.work, "a")
        ctx.set_custom_status("waiting")
        return [first, await ctx.wait_for_external_event("go")]

    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(waits)
        await until(handle, status="waiting")
        fork = await handle.fork(at=len(await handle.history()))
        await fork.raise_event("go", 2)
        assert await fork.result(timeout=20) == ["A", 2]
        await handle.raise_event("go", 1)
        assert await handle.result(timeout=20) == ["A", 1]
        assert world.ran == ["a"]


async def test_children_that_are_not_answered_are_its_own(store_url: str, world: World) -> None:
    child = steps(world, "async")

    @world.app.orchestrator
    async def parent(ctx: OrchestrationContext) -> list[list[str]]:
        first = ctx.call_sub_orchestrator(child, "one")
        return await when_all([first, ctx.call_sub_orchestrator(child, "two")])

    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(parent)
        result = await handle.result(timeout=20)
        history = await handle.history()
        at = 1 + next(event.sequence for event in history if type(event).__name__ == "SubOrchestrationCompleted")
        fork = await handle.fork(at=at)
        assert await fork.result(timeout=20) == result
        assert len([state async for state in worker.client.query(parent=handle.instance_id)]) == 2
        children = [state.input async for state in worker.client.query(parent=fork.instance_id)]
        answered: Any = history[at - 1]
        assert children == ["two" if answered.task_id == 0 else "one"]


async def test_an_id_that_the_code_chose_is_in_use(store_url: str, world: World) -> None:
    world.gate = asyncio.Event()

    @world.app.orchestrator
    async def child(ctx: OrchestrationContext) -> str:
        return await ctx.call_activity(world.work, "slow")

    @world.app.orchestrator
    async def parent(ctx: OrchestrationContext) -> str:
        before = await ctx.call_activity(world.work, "a")
        try:
            return before + await ctx.call_sub_orchestrator(child, instance_id="the-child")
        except InstanceAlreadyExistsError:
            return "in use"

    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(parent)
        await becomes_true(lambda: "slow" in world.ran)
        fork = await handle.fork(at=len(await handle.history()))
        assert await fork.result(timeout=20) == "in use"
        world.gate.set()
        assert await handle.result(timeout=20) == "ASLOW"


async def test_a_fork_of_a_child_has_no_parent_to_tell(store_url: str, world: World) -> None:
    @world.app.orchestrator
    async def child(ctx: OrchestrationContext) -> list[Any]:
        before = [ctx.parent_instance_id]
        await ctx.call_activity(world.work, "a")
        ctx.set_custom_status("waiting")
        return [*before, await ctx.wait_for_external_event("go"), ctx.parent_instance_id]

    @world.app.orchestrator
    async def parent(ctx: OrchestrationContext) -> list[Any]:
        return await ctx.call_sub_orchestrator(child, instance_id="the-child")

    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(parent, instance_id="the-parent")
        child_handle = worker.client.get("the-child")
        await becomes_true(lambda: worker.client.count(prefix="the-child"))
        await until(child_handle, status="waiting")
        for at in (1, 2, 3):
            fork = await child_handle.fork(at=at)
            await fork.raise_event("go", at)
            found = await fork.result(timeout=20)
            assert found[1:] == [at, None]
            assert (await fork.state()).parent_instance_id is None
        await child_handle.raise_event("go", "last")
        assert await handle.result(timeout=20) == ["the-parent", "last", "the-parent"]
        assert await handle.dropped() == []


async def test_what_is_behind_it_was_done_as_another(store_url: str, world: World) -> None:
    """Values made of the instance's id are in the history: a strict replay of them must not fail."""

    @world.app.orchestrator
    async def tells_its_name(ctx: OrchestrationContext) -> list[str]:
        names = [ctx.instance_id, str(ctx.new_uuid()), ctx.run_id]
        for name in tuple(names):
            await ctx.call_activity(world.work, name)
        return [*names, ctx.instance_id, str(ctx.new_uuid()), ctx.run_id]

    async with Worker(world.app, store_url, strict=True) as worker:
        handle = await worker.client.start(tells_its_name)
        first = await handle.result(timeout=20)
        fork = await handle.fork(at=len(await handle.history()) - 3)
        second = await fork.result(timeout=20)
        assert second[:3] == first[:3]
        assert second[3] == fork.instance_id
        assert second[5] == fork.run_id
        assert second[4] != first[4]


async def test_generations_after_a_fork_have_ids_of_their_own(store_url: str, world: World) -> None:
    child = steps(world, "async")

    @world.app.orchestrator
    async def again(ctx: OrchestrationContext, number: int) -> int:
        await ctx.call_sub_orchestrator(child, str(number))
        if number < 3:
            ctx.continue_as_new(number + 1)
        return number

    async with Worker(world.app, store_url) as worker:
        handle = await worker.client.start(again, 2)
        await becomes_true(lambda: "c" in world.ran)
        fork = await handle.fork(at=1)
        assert await fork.result(timeout=20) == await handle.result(timeout=20) == 3


async def test_it_is_whole_when_the_call_returns(store_url: str, world: World) -> None:
    program = steps(world, "async")
    async with Client(store_url, world.app) as client:
        async with Worker(world.app, store_url):
            handle = await client.start(program, "in")
            await handle.result(timeout=20)
        fork = await handle.fork(at=3)
        assert (await fork.state()).status is OrchestrationStatus.PENDING
        await handle.purge()
        world.ran.clear()
        async with Worker(world.app, store_url):
            assert await fork.result(timeout=20) == ["in", "A", "B", "C"]
        assert world.ran == ["b", "c"]


async def test_what_is_asked_wrongly_is_refused(store_url: str, world: World) -> None:
    program = steps(world, "async")
    async with Worker(world.app, store_url) as worker:
        client = worker.client
        handle = await client.start(program, "in", instance_id="first")
        await handle.result(timeout=20)
        for at in (-1, 9):
            with pytest.raises(ValueError, match="from 0 to 8"):
                await handle.fork(at=at)
        for wrong in ("1", 1.0, True):
            with pytest.raises(TypeError):
                await handle.fork(at=wrong)  # type: ignore[arg-type]
        for at in (0, 3):
            with pytest.raises(InstanceAlreadyExistsError) as caught:
                await handle.fork(at=at, new_id="first")
            assert caught.value.state.run_id == handle.run_id
        with pytest.raises(InstanceNotFoundError):
            await client.get("nobody").fork(at=0)
        later = await client.start(program, "in", at=timedelta(hours=1))
        fork = await later.fork(at=0)
        assert await fork.result(timeout=20) == ["in", "A", "B", "C"]
