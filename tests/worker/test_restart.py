"""`handle.restart`: the same input once more, under the same id or a new one."""

from __future__ import annotations

from datetime import timedelta

import pytest

from durable import (
    App,
    Client,
    InstanceAlreadyExistsError,
    InstanceNotFoundError,
    InstanceRunningError,
    InvalidInputError,
    OrchestrationContext,
    OrchestrationFailedError,
    OrchestrationStatus,
    SyncHandle,
    Worker,
)
from tests.worker.lives import STYLES, lives_app, until

app = lives_app()


@app.orchestrator
async def has_a_child(ctx: OrchestrationContext) -> str:
    return await ctx.call_sub_orchestrator(child, "one", instance_id="the-child")


@app.orchestrator
async def child(ctx: OrchestrationContext, text: str) -> str:
    return text


@app.orchestrator
async def twice(ctx: OrchestrationContext, number: int) -> int:
    if not number:
        ctx.continue_as_new(number + 1)
    return number


@pytest.mark.parametrize("style", STYLES)
async def test_a_finished_one_begins_again_under_its_own_id(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        first = await worker.client.start(f"returns-{style}", [1, "two"], instance_id="order", tags={"a": "b"})
        await first.result(timeout=20)
        second = await first.restart()
        assert second.instance_id == "order"
        assert await second.result(timeout=20) == [1, "two"]
        assert second.run_id != first.run_id
        state = await second.state()
        assert (state.input, state.tags) == ([1, "two"], {"a": "b"})
        assert (await first.state()).run_id == first.run_id  # it shows its own end, as after any replacement
        assert (await worker.client.get("order").state()).run_id == second.run_id


async def test_what_failed_can_be_started_again_and_again(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start("raises-async", "broken", instance_id="order")
        for _ in range(3):
            with pytest.raises(OrchestrationFailedError):
                await handle.result(timeout=20)
            handle = await handle.restart()


async def test_a_new_id_takes_the_input_along_also_of_one_that_runs(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        running = await worker.client.start("waits-async", "input", instance_id="first")
        await until(running, status="waiting")
        other = await running.restart(new_id="second")
        for handle in (running, other):
            await handle.raise_event("go", "now")
            assert await handle.result(timeout=20) == ["input", "now"]
        assert other.instance_id == "second"


async def test_what_runs_keeps_its_id(store_url: str) -> None:
    async with Client(store_url) as client:
        handle = await client.start("waits-async", "input", instance_id="order")
        with pytest.raises(InstanceRunningError, match="'order' exists and is PENDING"):
            await handle.restart()
        with pytest.raises(InstanceRunningError):
            await client.get("order").restart(new_id="order")
        assert (await client.get("order").state()).run_id == handle.run_id


async def test_an_id_in_use_is_refused_and_so_is_a_bad_one(store_url: str) -> None:
    async with Client(store_url) as client:
        handle = await client.start("waits-async", "input")
        await client.start("waits-async", "other", instance_id="taken")
        with pytest.raises(InstanceAlreadyExistsError) as caught:
            await handle.restart(new_id="taken")
        assert caught.value.state.input == "other"
        with pytest.raises(InvalidInputError):
            await handle.restart(new_id="")
        with pytest.raises(InstanceNotFoundError):
            await client.get("nobody").restart()


async def test_a_child_that_is_restarted_has_no_parent_any_more(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        await worker.client.run(has_a_child, timeout=20)
        again = await worker.client.get("the-child", child).restart()
        assert await again.result(timeout=20) == "one"
        assert (await again.state()).parent_instance_id is None
        assert await again.dropped() == []


async def test_after_continue_as_new_it_is_the_last_input(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(twice, 0)
        assert await handle.result(timeout=20) == 1
        again = await handle.restart()
        assert await again.result(timeout=20) == 1
        assert (await again.state()).generation == 0


async def test_it_runs_in_the_newest_version_unless_one_is_named(store_url: str) -> None:
    versions = App()
    for version in ("1", "1.10", "1.9"):

        @versions.orchestrator(name="named", version=version)
        async def named(ctx: OrchestrationContext) -> str | None:
            return ctx.version

    async with Worker(versions, store_url) as worker:
        handle = await worker.client.start("named", version="1")
        assert await handle.result(timeout=20) == "1"
        assert await (await handle.restart()).result(timeout=20) == "1.10"
        assert await (await handle.restart(version="1.9.0")).result(timeout=20) == "1.9"
        with pytest.raises(ValueError, match="newest"):
            await handle.restart(version="newest")


async def test_the_blocking_handle_restarts_too(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        await worker.client.run("returns-async", 7, instance_id="order", timeout=20)

        def restart() -> SyncHandle[int]:
            with Client.sync(store_url) as client:
                again = client.get("order").restart(new_id="again")
                assert again.result(timeout=20) == 7
                assert again.state().status is OrchestrationStatus.COMPLETED
                return again

        assert (await worker.ports.run_blocking(restart)).instance_id == "again"


async def test_a_run_for_a_time_is_started_again_for_that_time_and_any_other_for_its_own_start(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        for at in (timedelta(hours=-1), timedelta(milliseconds=50), None):
            handle = await worker.client.start("returns-async", 1, at=at)
            await handle.result(timeout=20)
            was_for = (await handle.state()).scheduled_at
            again = await handle.restart()
            await again.result(timeout=20)
            assert ((await again.state()).scheduled_at == was_for) is (at is not None)
