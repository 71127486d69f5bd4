"""A start for later: what comes before it is due waits behind it, in the order in which it came.

Steering passes, the clock judges when the run begins, and nothing that was accepted is lost or seen out of order.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable import App, Client, Handle, Orchestration, OrchestrationContext, OrchestrationStatus, ReusePolicy, Worker
from durable.events import InstanceKey
from durable.messages import new_row
from durable.provider import PARTITIONS
from tests.worker.lives import STYLES, becomes_true, lives_app, open_store, until

app = lives_app()

SOON = timedelta(seconds=0.4)
LATER = timedelta(hours=1)
CANCELLED, TERMINATED = OrchestrationStatus.CANCELLED, OrchestrationStatus.TERMINATED


@app.orchestrator(name="starts-later-async")
async def starts_later_async(ctx: OrchestrationContext, milliseconds: int) -> str:
    child = ctx.start_orchestration("collects-async", 3, instance_id="late", at=timedelta(milliseconds=milliseconds))
    for number in range(1, 4):
        ctx.raise_event(child, "item", number)
    return child


@app.orchestrator(name="starts-later-generator")
def starts_later(ctx: OrchestrationContext, milliseconds: int) -> Orchestration[str]:
    child = ctx.start_orchestration(
        "collects-generator", 3, instance_id="late", at=timedelta(milliseconds=milliseconds)
    )
    for number in range(1, 4):
        ctx.raise_event(child, "item", number)
    return child
    yield


async def begin(client: Client, at: timedelta = SOON, style: str = "async", **options: Any) -> Handle[Any]:
    """Start a run for later with two events, and raise two more."""
    name = f"collects-{style}"
    handle = await client.start(name, 4, instance_id="late", at=at, events=[("item", 1), ("item", 2)], **options)
    await handle.raise_event("item", 3)
    # By its id alone an event may find the run that is to be replaced, which has just ended.
    is_alone = options.get("reuse_policy") is not ReusePolicy.TERMINATE_AND_REPLACE
    await (client.get("late") if is_alone else handle).raise_event("item", 4)
    return handle


async def noted(handle: Handle[Any]) -> list[str]:
    return [item.name for item in await handle.dropped()]


async def is_noted(handle: Handle[Any], count: int) -> bool:
    return len(await noted(handle)) == count


# ---- order


@pytest.mark.parametrize("style", STYLES)
async def test_events_raised_before_a_start_is_due_come_after_those_given_with_it(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await begin(worker.client, style=style)
        assert await handle.result(timeout=10) == [1, 2, 3, 4]
        state = await handle.state()
        assert state.last_updated_at >= state.scheduled_at


@pytest.mark.parametrize("is_due", [False, True], ids=["not yet due", "overdue"])
@pytest.mark.parametrize("is_restarted", [False, True], ids=["no worker before", "another worker before"])
async def test_a_worker_that_comes_later_keeps_the_order(store_url: str, is_due: bool, is_restarted: bool) -> None:
    async with open_store(store_url, app) as client:
        if is_restarted:
            async with Worker(app, store_url):
                handle = await begin(client)
                await client.run("returns-async", 1, timeout=10)
        else:
            handle = await begin(client)
        if is_due:
            due = (await handle.state()).scheduled_at
            await becomes_true(lambda: datetime.now(UTC) > due)
        async with Worker(app, store_url):
            assert await handle.result(timeout=10) == [1, 2, 3, 4]


async def test_an_event_at_the_very_moment_does_not_overtake_the_start(store_url: str) -> None:
    """Events are raised one after the other, from before the start is due until after it."""
    async with Worker(app, store_url) as worker:
        starts = [
            await worker.client.start("collects-async", 40, at=timedelta(milliseconds=100), events=[("item", 0)])
            for _ in range(5)
        ]
        for number in range(1, 40):
            for handle in starts:
                await handle.raise_event("item", number)
            await asyncio.sleep(0.005)
        for handle in starts:
            assert await handle.result(timeout=10) == list(range(40))


async def test_more_events_than_a_turn_or_a_read_takes_keep_their_order(store_url: str) -> None:
    count = 1500
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start("counts", count, at=SOON, events=[("item", 0)])
        await asyncio.gather(*(handle.raise_event("item", number) for number in range(1, count)))
        assert await handle.result(timeout=30) == list(range(count))


@app.orchestrator(name="counts")
async def counts(ctx: OrchestrationContext, count: int) -> list[Any]:
    return [await ctx.wait_for_external_event("item") for _ in range(count)]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("milliseconds", [300, -300])
async def test_what_an_orchestrator_starts_for_later_sees_its_events_in_order(
    store_url: str, style: str, milliseconds: int
) -> None:
    async with Worker(app, store_url) as worker:
        await worker.client.run(f"starts-later-{style}", milliseconds, timeout=10)
        assert await worker.client.get("late").result(timeout=10) == [1, 2, 3]


@pytest.mark.parametrize("policy", [ReusePolicy.REPLACE_FINISHED, ReusePolicy.USE_RUNNING])
async def test_the_order_holds_where_a_finished_run_is_replaced(store_url: str, policy: ReusePolicy) -> None:
    async with Worker(app, store_url) as worker:
        await worker.client.run("returns-async", "old", instance_id="late", timeout=10)
        handle = await begin(worker.client, reuse_policy=policy)
        assert await handle.result(timeout=10) == [1, 2, 3, 4]


@pytest.mark.parametrize("is_restarted", [False, True], ids=["one worker", "two workers"])
@pytest.mark.parametrize("ends_by_itself", [False, True])
async def test_the_order_holds_where_a_running_one_is_replaced(
    store_url: str, ends_by_itself: bool, is_restarted: bool
) -> None:
    async with open_store(store_url, app) as client:
        async with Worker(app, store_url):
            old = await client.start("waits-async", "old", instance_id="late")
            await until(old, status="waiting")
            if ends_by_itself:
                await old.raise_event("go", 0)
            handle = await begin(client, reuse_policy=ReusePolicy.TERMINATE_AND_REPLACE)
            assert (await old.wait(timeout=10)).status in (TERMINATED, OrchestrationStatus.COMPLETED)
            if not is_restarted:
                assert await handle.result(timeout=10) == [1, 2, 3, 4]
        async with Worker(app, store_url):
            assert await handle.result(timeout=10) == [1, 2, 3, 4]
            is_early = (await old.state()).status is TERMINATED  # before it had seen its event
            assert await noted(old) == (["go"] if ends_by_itself and is_early else [])
            assert await noted(handle) == []


async def test_what_was_sent_to_the_run_before_is_not_for_the_one_that_begins_later(store_url: str) -> None:
    async with open_store(store_url, app) as client:
        async with Worker(app, store_url):
            old = await client.start("waits-async", "old", instance_id="late")
            await until(old, status="waiting")
        await client.get("late").raise_event("item", "for the old run")
        handle = await begin(client, reuse_policy=ReusePolicy.TERMINATE_AND_REPLACE)
        async with Worker(app, store_url):
            assert await handle.result(timeout=10) == [1, 2, 3, 4]
            assert await noted(old) == ["item"]


# ---- steering before it is due


@pytest.mark.parametrize("word", ["cancel", "terminate"])
@pytest.mark.parametrize("is_restarted", [False, True], ids=["one worker", "two workers"])
async def test_a_run_ended_before_it_is_due_ends_at_once_and_lists_its_events(
    store_url: str, word: str, is_restarted: bool
) -> None:
    async with open_store(store_url, app) as client:
        async with Worker(app, store_url):
            handle = await begin(client, LATER)
            if not is_restarted:
                await getattr(handle, word)("enough")
                await handle.wait(timeout=10)
        if is_restarted:
            await getattr(handle, word)("enough")
        async with Worker(app, store_url):
            state = await handle.wait(timeout=10)
            assert state.status is (CANCELLED if word == "cancel" else TERMINATED)
            assert await noted(handle) == ["item"] * 4
            assert await handle.purge() == 1
            assert await client.run("returns-async", 1, instance_id="late", timeout=10) == 1


@pytest.mark.parametrize("is_restarted", [False, True], ids=["one worker", "two workers"])
@pytest.mark.parametrize("resumes", ["before it is due", "after"])
async def test_the_order_holds_over_a_suspension(store_url: str, resumes: str, is_restarted: bool) -> None:
    async with open_store(store_url, app) as client:
        async with Worker(app, store_url):
            handle = await begin(client)
            await handle.suspend()
            await until(handle, OrchestrationStatus.SUSPENDED)
            if resumes == "before it is due":
                await handle.resume()
                await until(handle, OrchestrationStatus.PENDING, OrchestrationStatus.RUNNING)
        if not is_restarted:
            async with Worker(app, store_url):
                await client.run("returns-async", 1, timeout=10)
        due = (await handle.state()).scheduled_at
        await becomes_true(lambda: datetime.now(UTC) > due)
        async with Worker(app, store_url):
            if resumes == "after":
                assert (await handle.state()).status is OrchestrationStatus.SUSPENDED
                await client.run("returns-async", 1, timeout=10)
                await handle.resume()
            assert await handle.result(timeout=10) == [1, 2, 3, 4]


async def test_steering_that_changes_nothing_leaves_a_start_for_later_as_it_is(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await begin(worker.client)
        await handle.resume()
        await becomes_true(lambda: is_noted(handle, 1))
        assert (await handle.state()).status is OrchestrationStatus.PENDING
        assert await handle.result(timeout=10) == [1, 2, 3, 4]


async def test_a_start_for_later_can_be_steered_where_its_code_is_unknown(store_url: str) -> None:
    async with open_store(store_url, app) as client:
        handle = await begin(client)
        await handle.suspend()
        async with Worker(App(), store_url):
            await until(handle, OrchestrationStatus.STALLED)
        async with Worker(app, store_url):
            await until(handle, OrchestrationStatus.SUSPENDED)
            await handle.resume()
            assert await handle.result(timeout=10) == [1, 2, 3, 4]


async def test_a_start_for_later_is_replaced_by_one_for_now(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        late = await begin(worker.client, LATER)
        new = await worker.client.start(
            "collects-async",
            2,
            instance_id="late",
            events=[("item", "a"), ("item", "b")],
            reuse_policy=ReusePolicy.TERMINATE_AND_REPLACE,
        )
        assert await new.result(timeout=10) == ["a", "b"]
        assert (await late.state()).status is TERMINATED
        assert await noted(late) == ["item"] * 4
        assert await noted(new) == []


async def test_a_start_for_later_is_replaced_by_another_one(store_url: str) -> None:
    """What the first one leaves is listed with its end, and not when the second one is due."""
    async with Worker(app, store_url) as worker:
        late = await begin(worker.client, LATER)
        await late.suspend()
        await until(late, OrchestrationStatus.SUSPENDED)
        later = await begin(worker.client, LATER, reuse_policy=ReusePolicy.TERMINATE_AND_REPLACE)
        assert (await late.wait(timeout=10)).status is TERMINATED
        assert await noted(late) == ["item"] * 4
        assert (await later.state()).status is OrchestrationStatus.PENDING
        await later.cancel()
        assert (await later.wait(timeout=10)).status is CANCELLED
        assert await noted(later) == ["item"] * 4


# ---- time


async def test_where_the_stores_clock_lags_behind_the_workers_nothing_is_overtaken(store_url: str) -> None:
    """By the worker's clock the start is due, by the store's it is not: an event heard then waits for it all the same."""
    async with Worker(app, store_url) as worker:
        assert worker._parts is not None
        handle = await begin(worker.client, timedelta(minutes=30))
        clock = worker._parts.owner._clock
        clock.agree(clock.now() + 31 * 60 * 1_000_000, clock.monotonic())
        await handle.raise_event("item", 5)
        assert await handle.result(timeout=10) == [1, 2, 3, 4]


def test_only_what_lies_ahead_is_kept_back() -> None:
    key = InstanceKey("one")
    for scheduled_at, parked_until in ((1001, 1001), (1000, 0), (-5, 0)):
        row = new_row(key, PARTITIONS, "r", "n", None, now=1000, scheduled_at=scheduled_at, payload=None)
        assert row.parked_until == parked_until
