"""Continue-as-new: a chain of generations under one id, each with an empty history and everything that it must not lose."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    App,
    InvalidInputError,
    Orchestration,
    OrchestrationContext,
    OrchestrationFailedError,
    OrchestrationStatus,
    Worker,
    when_any,
)
from tests.worker.lives import STYLES, becomes_true, is_cached, lives_app, names_of, open_store, until

COMPLETED = OrchestrationStatus.COMPLETED


@dataclasses.dataclass
class Cursor:
    page: int
    seen: list[str] = dataclasses.field(default_factory=list)


def chains_app() -> App:
    app = lives_app()

    @app.activity
    async def work(value: Any) -> Any:
        return value

    @app.orchestrator(name="counts-async")
    async def counts_async(ctx: OrchestrationContext, number: int) -> list[int]:
        """Goes on to 5, one generation each; gives the number and the generation."""
        await ctx.call_activity(work, number)
        if number == 5:
            return [number, ctx.generation]
        ctx.continue_as_new(number + 1)

    @app.orchestrator(name="counts-generator")
    def counts(ctx: OrchestrationContext, number: int) -> Orchestration[list[int]]:
        yield ctx.call_activity(work, number)
        if number == 5:
            return [number, ctx.generation]
        ctx.continue_as_new(number + 1)

    @app.orchestrator(name="then fails-async")
    async def fails_async(ctx: OrchestrationContext, number: int) -> None:
        if number == 2:
            raise ValueError("in the third")
        ctx.continue_as_new(number + 1)

    @app.orchestrator(name="then fails-generator")
    def fails(ctx: OrchestrationContext, number: int) -> Orchestration[None]:
        if number == 2:
            raise ValueError("in the third")
        ctx.continue_as_new(number + 1)
        yield

    @app.orchestrator(name="guarded-async")
    async def guarded_async(ctx: OrchestrationContext, number: int) -> int:
        """Nothing in these blocks may count, whatever they do."""
        if number == 3:
            return number
        try:
            try:
                ctx.continue_as_new(number + 1)
            except BaseException:
                ctx.set_custom_status("wrong")
                await ctx.call_activity(work, "wrong")
                raise
        finally:
            ctx.set_custom_status("wrong")
            await ctx.call_activity(work, "wrong")
            ctx.raise_event("nobody", "wrong")
            await ctx.create_timer(timedelta(hours=1))

    @app.orchestrator(name="guarded-generator")
    def guarded(ctx: OrchestrationContext, number: int) -> Orchestration[int]:
        if number == 3:
            return number
        try:
            try:
                ctx.continue_as_new(number + 1)
            except BaseException:
                ctx.set_custom_status("wrong")
                yield ctx.call_activity(work, "wrong")
                raise
        finally:
            ctx.set_custom_status("wrong")
            yield ctx.call_activity(work, "wrong")
            ctx.raise_event("nobody", "wrong")
            yield ctx.create_timer(timedelta(hours=1))

    @app.orchestrator(name="pages-async")
    async def pages_async(ctx: OrchestrationContext, cursor: Cursor) -> list[str]:
        cursor.seen.append(f"{type(cursor).__name__} {cursor.page}")
        if cursor.page == 2:
            return cursor.seen
        ctx.continue_as_new(Cursor(cursor.page + 1, cursor.seen))

    @app.orchestrator(name="pages-generator")
    def pages(ctx: OrchestrationContext, cursor: Cursor) -> Orchestration[list[str]]:
        cursor.seen.append(f"{type(cursor).__name__} {cursor.page}")
        if cursor.page == 2:
            return cursor.seen
        ctx.continue_as_new(Cursor(cursor.page + 1, cursor.seen))
        yield

    @app.orchestrator(name="misfits-async")
    async def misfits_async(ctx: OrchestrationContext, number: int) -> str:
        try:
            ctx.continue_as_new("not a number")
        except InvalidInputError as error:
            return f"refused, generation {ctx.generation}: {type(error).__name__}"

    @app.orchestrator(name="misfits-generator")
    def misfits(ctx: OrchestrationContext, number: int) -> Orchestration[str]:
        try:
            ctx.continue_as_new("not a number")
        except InvalidInputError as error:
            return f"refused, generation {ctx.generation}: {type(error).__name__}"
        yield

    @app.orchestrator(name="takes one-async")
    async def takes_one_async(ctx: OrchestrationContext, found: list[Any]) -> list[Any]:
        """One event `item` per generation, up to 4."""
        found = [*found, await ctx.wait_for_external_event("item")]
        ctx.set_custom_status(len(found))
        if len(found) == 4:
            return found
        ctx.continue_as_new(found)

    @app.orchestrator(name="takes one-generator")
    def takes_one(ctx: OrchestrationContext, found: list[Any]) -> Orchestration[list[Any]]:
        found = [*found, (yield ctx.wait_for_external_event("item"))]
        ctx.set_custom_status(len(found))
        if len(found) == 4:
            return found
        ctx.continue_as_new(found)

    @app.orchestrator(name="starts afresh-async")
    async def afresh_async(ctx: OrchestrationContext, round: int) -> Any:
        """Leaves its events behind once."""
        await ctx.wait_for_external_event("next")
        if round == 0:
            ctx.set_custom_status("second")
            ctx.continue_as_new(1, carry_over_events=False)
        return "done"

    @app.orchestrator(name="starts afresh-generator")
    def afresh(ctx: OrchestrationContext, round: int) -> Orchestration[Any]:
        yield ctx.wait_for_external_event("next")
        if round == 0:
            ctx.set_custom_status("second")
            ctx.continue_as_new(1, carry_over_events=False)
        return "done"

    return app


app = chains_app()


@pytest.mark.parametrize("style", STYLES)
async def test_a_chain_counts_its_generations_and_keeps_the_last_history(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"counts-{style}", 0, instance_id="chain", tags={"kept": "yes"})
        assert await handle.result(timeout=10) == [5, 5]
        state = await handle.state()
        assert (state.generation, state.input, state.run_id) == (5, 5, handle.run_id)
        assert dict(state.tags) == {"kept": "yes"}
        history = await handle.history()
        assert history.generation == 5
        assert names_of(history) == [
            "OrchestrationStarted",
            "ActivityScheduled",
            "ActivityCompleted",
            "OrchestrationCompleted",
        ]


@pytest.mark.parametrize("style", STYLES)
async def test_a_failure_after_continuing_is_that_of_the_instance(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"then fails-{style}", 0)
        with pytest.raises(OrchestrationFailedError, match="in the third"):
            await handle.result(timeout=10)
        assert (await handle.state()).generation == 2


@pytest.mark.parametrize("style", STYLES)
async def test_what_the_code_does_after_continuing_does_not_count(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"guarded-{style}", 0)
        assert await handle.result(timeout=10) == 3
        state = await handle.state()
        assert (state.generation, state.custom_status) == (3, None)
        assert await handle.dropped() == []
        previous = await worker._provider.read_history(state.run_id, 2)
        assert len(previous) == 2, "the opening, and one turn with nothing in it but the end"


@pytest.mark.parametrize("style", STYLES)
async def test_the_new_input_is_typed_as_the_first_was_and_checked(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        found = await worker.client.run(f"pages-{style}", Cursor(0), timeout=10)
        assert found == ["Cursor 0", "Cursor 1", "Cursor 2"]
        refused = await worker.client.run(f"misfits-{style}", 1, timeout=10)
        assert refused == "refused, generation 0: InvalidInputError"


@pytest.mark.parametrize("style", STYLES)
async def test_events_are_carried_over_in_order_from_wherever_they_wait(store_url: str, style: str) -> None:
    """Given with the start, sent before the worker came, sent while it runs: each is seen once, in order."""
    async with open_store(store_url, app) as client:
        handle = await client.start(f"takes one-{style}", [], events=[("item", 0), ("other", "a"), ("item", 1)])
        await handle.raise_event("item", 2)
        async with Worker(app, store_url):
            await until(handle, status=3)
            await handle.raise_event("item", 3)
            assert await handle.result(timeout=10) == [0, 1, 2, 3]
            assert [item.name for item in await handle.dropped()] == ["other"]


async def test_a_second_waiter_of_the_old_generation_takes_no_carried_event(store_url: str) -> None:
    """Opening events are applied one by one; the one behind that which continues as new belongs to the next generation,
    though somebody in the old one still waits for its name."""
    own = lives_app()

    @own.orchestrator
    async def two_names(ctx: OrchestrationContext, round: int) -> Any:
        first, second = ctx.wait_for_external_event("a"), ctx.wait_for_external_event("b")
        if round == 2:
            return [await first, await second]
        await when_any([first, second])
        ctx.continue_as_new(round + 1)

    async with open_store(store_url, own) as client:
        handle = await client.start(two_names, 0, events=[("a", 0), ("a", 1), ("b", "kept"), ("a", 2)])
        async with Worker(own, store_url):
            assert await handle.result(timeout=10) == [2, "kept"]
            assert await handle.dropped() == []


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("together", [True, False], ids=["in one message", "one by one"])
async def test_events_that_are_not_carried_over_are_listed(store_url: str, together: bool, style: str) -> None:
    async with open_store(store_url, app) as client:
        events = [("next", 0), ("left", 1), ("left", 2)]
        if together:
            handle = await client.start(f"starts afresh-{style}", 0, events=events)
        else:
            async with Worker(app, store_url):
                handle = await client.start(f"starts afresh-{style}", 0)
                for name, data in reversed(events):
                    await handle.raise_event(name, data)
                await until(handle, COMPLETED, status="second")
        async with Worker(app, store_url):
            await until(handle, COMPLETED, status="second")
            await handle.raise_event("next")
            assert await handle.result(timeout=10) == "done"
            assert Counter(item.name for item in await handle.dropped()) == {"left": 2}


@pytest.mark.parametrize("style", STYLES)
async def test_the_custom_status_is_kept_until_the_next_one(store_url: str, style: str) -> None:
    own = lives_app()

    @own.orchestrator(name="shows-async")
    async def shows_async(ctx: OrchestrationContext, number: int) -> None:
        if number == 0:
            ctx.set_custom_status("first")
            ctx.set_custom_status("last of the turn")
            ctx.continue_as_new(1)
        await ctx.wait_for_external_event("go")
        ctx.set_custom_status(None)
        await ctx.wait_for_external_event("go")

    @own.orchestrator(name="shows-generator")
    def shows(ctx: OrchestrationContext, number: int) -> Orchestration[None]:
        if number == 0:
            ctx.set_custom_status("first")
            ctx.set_custom_status("last of the turn")
            ctx.continue_as_new(1)
        yield ctx.wait_for_external_event("go")
        ctx.set_custom_status(None)
        yield ctx.wait_for_external_event("go")

    async with Worker(own, store_url) as worker:
        handle = await worker.client.start(f"shows-{style}", 0)
        await becomes_true(lambda: _generation_is(handle, 1))
        assert (await handle.state()).custom_status == "last of the turn"
        await handle.raise_event("go")
        await until(handle, status=None)
        await handle.raise_event("go")
        assert (await handle.wait(timeout=10)).custom_status is None


async def _generation_is(handle: Any, generation: int) -> bool:
    state = await handle.state()
    return state.generation == generation and state.status is OrchestrationStatus.RUNNING


@pytest.mark.parametrize("style", STYLES)
async def test_an_activity_of_an_older_generation_is_told_and_its_outcome_dropped(store_url: str, style: str) -> None:
    own = lives_app()
    release = asyncio.Event()
    ended: list[str] = []

    @own.activity
    async def lingers(name: str) -> str:
        try:
            await release.wait()
        except asyncio.CancelledError:
            ended.append(f"{name} told")
            raise
        return name

    @own.orchestrator(name="moves on-async")
    async def moves_on_async(ctx: OrchestrationContext, number: int) -> str:
        task = ctx.call_activity(lingers, f"of {number}")
        if number == 1:
            return await task
        await ctx.wait_for_external_event("go")
        ctx.continue_as_new(number + 1)

    @own.orchestrator(name="moves on-generator")
    def moves_on(ctx: OrchestrationContext, number: int) -> Orchestration[str]:
        task = ctx.call_activity(lingers, f"of {number}")
        if number == 1:
            return (yield task)
        yield ctx.wait_for_external_event("go")
        ctx.continue_as_new(number + 1)

    async with Worker(own, store_url) as worker:
        handle = await worker.client.start(f"moves on-{style}", 0)
        await becomes_true(lambda: _runs_activity(handle))
        await handle.raise_event("go")
        await becomes_true(lambda: _generation_is(handle, 1))
        await becomes_true(lambda: ended == ["of 0 told"])
        release.set()
        assert await handle.result(timeout=10) == "of 1"


async def _runs_activity(handle: Any) -> bool:
    return bool((await handle.state()).activities)


@pytest.mark.parametrize("style", STYLES)
async def test_a_chain_goes_on_where_the_last_worker_left_it(store_url: str, style: str) -> None:
    async with open_store(store_url, app) as client:
        handle = await client.start(f"takes one-{style}", [])
        for number in range(4):
            async with Worker(app, store_url):
                await handle.raise_event("item", number)
                await until(handle, COMPLETED, status=number + 1)
        assert await handle.result(timeout=10) == [0, 1, 2, 3]
        assert (await handle.state()).generation == 3


async def test_a_thousand_generations_leave_the_history_of_two(store_url: str) -> None:
    own = App()
    rounds = 1000 if is_cached() else 300

    @own.orchestrator
    async def forever(ctx: OrchestrationContext, number: int) -> int:
        if number == rounds:
            return number
        ctx.continue_as_new(number + 1)

    async with Worker(own, store_url) as worker:
        handle = await worker.client.start(forever, 0)
        assert await handle.result(timeout=60) == rounds
        state = await handle.state()
        kept = [n for n in range(rounds + 1) if await worker._provider.read_history(state.run_id, n)]
        assert kept == [rounds - 1, rounds]


async def test_a_child_that_continues_as_new_still_answers_its_parent(store_url: str) -> None:
    own = chains_app()

    @own.orchestrator
    async def parent(ctx: OrchestrationContext) -> Any:
        return [
            await ctx.call_sub_orchestrator("counts-async", 0, instance_id="child", tags={"a": "b"}),
            await ctx.call_sub_orchestrator("counts-generator", 3),
        ]

    async with Worker(own, store_url) as worker:
        assert await worker.client.run(parent, instance_id="parent", timeout=10) == [[5, 5], [5, 2]]
        child = await worker.client.get("child").state()
        assert (child.parent_instance_id, dict(child.tags), child.generation) == ("parent", {"a": "b"}, 5)
