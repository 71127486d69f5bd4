"""A start by a client in the worker's own process is one commit with its first turn, and means what every start means."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    App,
    Client,
    Handle,
    InstanceAlreadyExistsError,
    LeaseLostError,
    OrchestrationContext,
    OrchestrationStatus,
    ReusePolicy,
    StoreUnavailableError,
    Worker,
)
from durable.engine.execution import Execution
from durable.provider import Batch, Lease
from tests.worker.lives import becomes_true, until

Commit = Callable[[Lease, Batch], Awaitable[Any]]

turns: list[str] = []
"""The ids of the instances whose code began to run, once for each time."""


@pytest.fixture(autouse=True)
def no_turns_yet() -> None:
    turns.clear()


def build_app() -> App:
    app = App()

    @app.activity
    async def double(number: int) -> int:
        return 2 * number

    @app.orchestrator
    async def doubles(ctx: OrchestrationContext, number: int) -> int:
        turns.append(ctx.instance_id)
        return await ctx.call_activity(double, number)

    @app.orchestrator
    async def hears(ctx: OrchestrationContext) -> list[Any]:
        return [await ctx.wait_for_external_event("word") for _ in range(2)]

    @app.orchestrator
    async def hears_all(ctx: OrchestrationContext, count: int) -> list[Any]:
        return [await ctx.wait_for_external_event("word") for _ in range(count)]

    @app.orchestrator
    async def hears_later(ctx: OrchestrationContext, left: int) -> list[Any]:
        if left:
            ctx.continue_as_new(left - 1)
        return [await ctx.wait_for_external_event("word") for _ in range(3)]

    @app.orchestrator
    async def naps(ctx: OrchestrationContext) -> str:
        await ctx.create_timer(timedelta(seconds=0.3))
        return "awake"

    @app.orchestrator
    async def ponders(ctx: OrchestrationContext) -> str:
        turns.append(ctx.instance_id)
        until = time.thread_time() + 0.3
        while time.thread_time() < until:
            pass
        return "well"

    @app.orchestrator
    async def counts(ctx: OrchestrationContext, left: int) -> str:
        if left:
            ctx.continue_as_new(left - 1)
        return "done"

    return app


class Watched:
    """What a worker asks of its store, and what comes between."""

    def __init__(self, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
        self.submits = 0
        self.begun: list[str] = []
        self.instead: Callable[[Commit, Lease, Batch], Awaitable[Any]] | None = None
        provider = worker._provider
        commit, submit = provider.commit, provider.submit

        async def seen_commit(lease: Lease, batch: Batch) -> Any:
            self.begun += [step.key.id for step in batch.steps if step.begins is not None]
            if self.instead is not None:
                return await self.instead(commit, lease, batch)
            return await commit(lease, batch)

        async def seen_submit(*arguments: Any) -> Any:
            self.submits += 1
            return await submit(*arguments)

        monkeypatch.setattr(provider, "commit", seen_commit)
        monkeypatch.setattr(provider, "submit", seen_submit)


async def test_a_start_stores_nothing_before_its_first_turn(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Worker(build_app(), store_url) as worker:
        seen = Watched(worker, monkeypatch)
        handle = await worker.client.start("doubles", 4, instance_id="one", tags={"team": "blue"})
        state = await handle.state()
        assert (state.name, state.tags, state.input) == ("doubles", {"team": "blue"}, 4)
        assert await handle.result(timeout=10) == 8
        assert await (await worker.client.start("counts", 3)).result(timeout=10) == "done"
        assert (seen.submits, seen.begun[0], len(seen.begun)) == (0, "one", 2)
        assert [state.instance_id async for state in worker.client.query(tags={"team": "blue"})] == ["one"]
    async with Worker(build_app(), store_url) as heir:
        history = await heir.client.get("one").history()
        assert [type(event).__name__ for event in history][:2] == ["OrchestrationStarted", "ActivityScheduled"]


async def test_what_must_wait_is_stored_as_a_message(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Worker(build_app(), store_url) as worker:
        seen = Watched(worker, monkeypatch)
        later = await worker.client.start("doubles", 1, at=timedelta(hours=1))
        assert (await later.state()).status is OrchestrationStatus.PENDING
        replacing = await worker.client.start("doubles", 2, reuse_policy=ReusePolicy.TERMINATE_AND_REPLACE)
        assert await replacing.result(timeout=10) == 4
        assert (seen.submits, seen.begun) == (2, [])


@pytest.mark.parametrize("policy", [ReusePolicy.REJECT, ReusePolicy.USE_EXISTING])
async def test_an_id_in_use_is_found_out_in_that_commit(
    store_url: str, monkeypatch: pytest.MonkeyPatch, policy: ReusePolicy
) -> None:
    async with Worker(build_app(), store_url) as worker:
        first = await worker.client.start("doubles", 1, instance_id="one")
        assert await first.result(timeout=10) == 2
        seen = Watched(worker, monkeypatch)
        others = [worker.client.start("doubles", number) for number in range(5)]
        again = worker.client.start("doubles", 7, instance_id="one", events=[], reuse_policy=policy)
        *handles, used = await asyncio.gather(*others, again, return_exceptions=True)
        assert [await handle.result(timeout=10) for handle in handles] == [0, 2, 4, 6, 8]  # type: ignore[union-attr]
        assert "one" in seen.begun
        if policy is ReusePolicy.REJECT:
            assert isinstance(used, InstanceAlreadyExistsError)
            assert used.state is not None
            assert used.state.run_id == first.run_id
        else:
            assert used.run_id == first.run_id  # type: ignore[union-attr]
        assert await first.result(timeout=10) == 2


async def test_whoever_stores_an_id_first_has_it(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another client starts the same id between the turn and its commit."""
    async with Worker(build_app(), store_url) as worker, Client(worker._provider) as other:
        seen = Watched(worker, monkeypatch)
        rivals: list[Handle[Any]] = []

        async def overtaken(commit: Commit, lease: Lease, batch: Batch) -> Any:
            if not rivals and any(step.begins is not None for step in batch.steps):
                rivals.append(await other.start("doubles", 50, instance_id="one"))
                await rivals[0].raise_event("word", "kept")
            return await commit(lease, batch)

        seen.instead = overtaken
        with pytest.raises(InstanceAlreadyExistsError):
            await worker.client.start("doubles", 4, instance_id="one")
        assert await rivals[0].result(timeout=10) == 100
        assert worker.footprint["instances"] == 0


async def test_a_commit_that_is_refused_leaves_the_start_to_be_stored(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Worker(build_app(), store_url) as worker:
        seen, refused = Watched(worker, monkeypatch), 0

        async def lost(commit: Commit, lease: Lease, batch: Batch) -> Any:
            nonlocal refused
            if batch.steps and not refused:
                refused += 1
                raise LeaseLostError("it was taken")
            return await commit(lease, batch)

        seen.instead = lost
        handle = await worker.client.start("doubles", 4)
        assert await handle.result(timeout=20) == 8
        assert (refused, seen.submits) == (1, 1)


async def test_an_outcome_that_nobody_knows_is_said_to_be_unknown(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is lost, and then the lease: the run may have begun, so the start is not stored a second time."""
    async with Worker(build_app(), store_url) as worker:
        seen, tries = Watched(worker, monkeypatch), 0

        async def unanswered(commit: Commit, lease: Lease, batch: Batch) -> Any:
            nonlocal tries
            if not any(step.begins is not None for step in batch.steps):
                return await commit(lease, batch)
            tries += 1
            if tries == 1:
                await commit(lease, batch)
                raise StoreUnavailableError("the connection broke")
            raise LeaseLostError("it was taken")

        seen.instead = unanswered
        with pytest.raises(StoreUnavailableError, match="unknown whether this was stored: the connection broke"):
            await worker.client.start("doubles", 4, instance_id="one")
        assert (tries, seen.submits) == (2, 0)
        assert await worker.client.get("one").result(timeout=20) == 8


async def test_a_first_turn_that_cannot_be_taken_is_not_taken_twice(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Worker(build_app(), store_url) as worker:
        taken = 0

        def spoilt(self: Execution, *arguments: Any) -> Any:
            nonlocal taken
            taken += 1
            raise RuntimeError("a slip in the engine")

        with monkeypatch.context() as patch:
            patch.setattr(Execution, "turn", spoilt)
            handle = await worker.client.start("doubles", 4)
            state = await until(handle, OrchestrationStatus.STALLED)
        assert taken == 1
        assert state.stall_reason is not None
        assert "a slip in the engine" in state.stall_reason
        assert await handle.result(timeout=20) == 8


async def test_what_is_sent_after_a_start_comes_after_it(store_url: str) -> None:
    async with Worker(build_app(), store_url) as worker:
        handle = worker.client.get("one")
        starting = worker.client.start("hears", instance_id="one")
        await asyncio.gather(starting, handle.raise_event("word", "first"), handle.raise_event("word", "second"))
        assert await handle.result(timeout=10) == ["first", "second"]


async def test_of_two_starts_of_one_id_the_first_begins(store_url: str) -> None:
    async with Worker(build_app(), store_url) as worker:
        starts = [worker.client.start("doubles", number, instance_id="one") for number in (1, 2, 3)]
        first, *others = await asyncio.gather(*starts, return_exceptions=True)
        assert all(isinstance(other, InstanceAlreadyExistsError) for other in others)
        assert await first.result(timeout=10) == 2  # type: ignore[union-attr]


async def test_a_turn_sees_nothing_of_whoever_started_its_instance(store_url: str) -> None:
    mine, seen = contextvars.ContextVar("mine", default="nobody's"), []
    app = App()

    @app.activity
    async def looks() -> str:
        return mine.get()

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> str:
        seen.append(mine.get())
        return str(await ctx.call_activity(looks))

    async with Worker(app, store_url) as worker:
        mine.set("the caller's")
        assert await worker.client.run(main, timeout=10) == "nobody's"
        assert seen[0] == "nobody's"


async def test_a_caller_that_goes_away_takes_nothing_along(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Worker(build_app(), store_url) as worker:
        seen, gate = Watched(worker, monkeypatch), asyncio.Event()

        async def held_up(commit: Commit, lease: Lease, batch: Batch) -> Any:
            if any(step.begins is not None for step in batch.steps):
                await gate.wait()
            return await commit(lease, batch)

        seen.instead = held_up
        starting = asyncio.create_task(worker.client.start("doubles", 4, instance_id="one"))
        await becomes_true(lambda: bool(seen.begun))
        starting.cancel()
        await asyncio.wait([starting])
        gate.set()
        await becomes_true(lambda: worker.footprint["instances"] == 0)
        assert await worker.client.get("one").result(timeout=10) == 8


@pytest.mark.parametrize(("name", "given", "count"), [("hears_all", 301, 300), ("hears_later", 1, 2)])
async def test_events_that_come_with_a_start_are_durable_when_it_returns(
    store_url: str, monkeypatch: pytest.MonkeyPatch, name: str, given: int, count: int
) -> None:
    """More than a turn takes, and those that the first generation does not get to; nothing else is written in time."""
    async with Worker(build_app(), store_url) as worker:
        seen, has_begun, refused = Watched(worker, monkeypatch), False, 0

        async def once(commit: Commit, lease: Lease, batch: Batch) -> Any:
            nonlocal has_begun, refused
            if has_begun and batch.steps and not refused:
                refused += 1
                raise LeaseLostError("it was taken")
            has_begun = has_begun or any(step.begins is not None for step in batch.steps)
            return await commit(lease, batch)

        seen.instead = once
        events = [("word", number) for number in range(count)]
        handle = await worker.client.start(name, given, instance_id="one", events=events)
        await handle.raise_event("word", count)
        assert await handle.result(timeout=20) == list(range(count + 1))
        assert (refused, seen.begun) == (1, ["one"])


async def test_a_timer_of_whoever_has_the_id_fires_though_a_start_was_in_its_place(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instance sleeps outside of memory; its timer is due while a start of the same id is on its way."""
    async with Worker(build_app(), store_url, max_cached_orchestrations=0) as worker:
        sleeper = await worker.client.start("naps", instance_id="one")
        await becomes_true(lambda: worker.footprint["instances"] == 0)
        seen = Watched(worker, monkeypatch)

        async def held_up(commit: Commit, lease: Lease, batch: Batch) -> Any:
            if any(step.begins is not None for step in batch.steps):
                await becomes_true(lambda: worker.footprint["due times"] == 0)
            return await commit(lease, batch)

        seen.instead = held_up
        with pytest.raises(InstanceAlreadyExistsError):
            await worker.client.start("doubles", 4, instance_id="one")
        assert seen.begun == ["one"]
        assert await sleeper.result(timeout=10) == "awake"


async def test_what_waits_for_its_new_owner_goes_on_though_a_start_was_in_its_place(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its second generation is lost with the lease; while that is looked for in the store, its id is given once more."""
    async with Worker(build_app(), store_url) as worker:
        seen, recovered, starts = Watched(worker, monkeypatch), asyncio.Event(), list[asyncio.Task[Any]]()
        recover = worker._provider.recover

        async def recovers(*arguments: Any) -> Any:
            found = await recover(*arguments)
            starts.append(asyncio.create_task(worker.client.start("doubles", 4, instance_id="one")))
            await becomes_true(lambda: seen.begun == ["one", "one"])
            asyncio.get_running_loop().call_soon(recovered.set)
            return found

        async def once(commit: Commit, lease: Lease, batch: Batch) -> Any:
            if batch.steps and batch.steps[0].begins is None and not starts:
                raise LeaseLostError("it was taken")
            if starts:
                await recovered.wait()
            return await commit(lease, batch)

        seen.instead = once
        monkeypatch.setattr(worker._provider, "recover", recovers)
        first = await worker.client.start("counts", 1, instance_id="one")
        assert await first.result(timeout=10) == "done"
        with pytest.raises(InstanceAlreadyExistsError):
            await starts[0]


async def test_a_start_whose_commit_has_no_answer_fails_when_its_worker_stops(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the worker has lost its lease meanwhile, and knows nothing of the instance any more."""
    monkeypatch.setattr("durable.worker.worker.SETTLE_S", 0.0)
    async with Worker(build_app(), store_url) as worker:
        seen, never = Watched(worker, monkeypatch), asyncio.Event()
        seen.instead = lambda commit, lease, batch: never.wait()
        starting = asyncio.create_task(worker.client.start("doubles", 4))
        await becomes_true(lambda: bool(seen.begun))
        worker._parts.keeper.lost(worker._parts.keeper.lease)  # type: ignore[union-attr, arg-type]
        await becomes_true(lambda: worker.footprint["instances"] == 0)
    done, _ = await asyncio.wait([starting], timeout=5)
    assert done
    with pytest.raises(StoreUnavailableError):
        await starting


async def test_a_worker_that_cannot_write_any_more_keeps_no_start_waiting(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable.worker.worker.SETTLE_S", 0.0)
    async with Worker(build_app(), store_url) as worker:
        seen = Watched(worker, monkeypatch)

        async def broken(commit: Commit, lease: Lease, batch: Batch) -> Any:
            raise RuntimeError("a slip in the provider")

        seen.instead = broken
        starts = [worker.client.start("doubles", 4, instance_id=name) for name in ("one", "two")]
        async with asyncio.timeout(5):
            found = await asyncio.gather(*starts, return_exceptions=True)
            assert [type(outcome) for outcome in found] == [StoreUnavailableError] * 2
            await worker.client.start("doubles", 4, instance_id="three")
        assert seen.submits == 1


async def test_a_slow_first_turn_is_not_said_to_be_unmarked(
    store_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is nothing in the store to be marked; and should its worker die, so does whoever waits for the start."""
    monkeypatch.setattr("durable.worker.watchdog.SLOW_S", 0.05)
    monkeypatch.setattr("durable.worker.watchdog.CHECK_S", 0.02)
    async with Worker(build_app(), store_url) as worker:
        assert await worker.client.run("ponders", timeout=10) == "well"
    assert [record.message for record in caplog.records if "turn" in record.message] == [
        f"a turn of '{turns[0]}' takes over a second"
    ]
