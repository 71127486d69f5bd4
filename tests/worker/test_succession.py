"""Which run gets what: a start takes the place of a run that is running, stalled, about to be ended, or just ending.

What was stored before the start of the second run is for the first, unless it names its run; the rest is for the second.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from durable import App, Client, Handle, OrchestrationContext, OrchestrationStatus, ReusePolicy, Worker
from durable.provider import Batch, Lease
from durable.worker.committing import GroupCommits
from durable.worker.live import LiveInstance
from durable.worker.turns import Turns
from tests.worker.lives import becomes_true, lives_app, open_store, provider_of, rob, until

app = lives_app()

REPLACE: Any = {"instance_id": "one", "reuse_policy": ReusePolicy.TERMINATE_AND_REPLACE}

TERMINATED = OrchestrationStatus.TERMINATED


async def begin_old(store_url: str) -> None:
    """A run that waits for `go`, and no worker any more."""
    async with Worker(app, store_url) as worker:
        await until(await worker.client.start("waits-async", "old", instance_id="one"), status="waiting")


async def dropped(handle: Handle[Any]) -> list[str]:
    return [item.name for item in await handle.dropped()]


@contextlib.asynccontextmanager
async def gate(worker: Worker, store_url: str, robbed_after: int | None = None) -> AsyncIterator[asyncio.Event]:
    """Hold a worker's commits back until the event is set; take its partitions away after so many commits."""
    opened = asyncio.Event()
    store: Any = worker._provider
    commit, count = store.commit, 0

    async def late_commit(lease: Lease, batch: Batch) -> Any:
        nonlocal count
        await opened.wait()
        committed = await commit(lease, batch)
        count += 1
        if count == robbed_after:
            await rob(thief)
        return committed

    async with provider_of(store_url) as thief:
        store.commit = late_commit
        try:
            yield opened
        finally:
            opened.set()
            store.commit = commit


async def test_a_run_begins_though_the_one_before_was_terminated_at_the_same_moment(store_url: str) -> None:
    async with open_store(store_url, app) as client:
        await begin_old(store_url)
        old = await client.get("one").state()
        await client.get("one").terminate("enough")
        new = await client.start("waits-async", "new", events=[("go", 1)], **REPLACE)
        async with Worker(app, store_url):
            assert await new.result(timeout=10) == ["new", 1]
            history = await new.history()
        assert old.run_id != history.run_id


async def test_a_termination_after_the_start_ends_the_second_run_unless_it_names_the_first(store_url: str) -> None:
    async with open_store(store_url, app) as client:
        async with Worker(app, store_url):
            old = await client.start("waits-async", "old", instance_id="one")
            await until(old, status="waiting")
        new = await client.start("waits-async", "new", events=[("go", 1)], **REPLACE)
        await old.terminate("too late")
        async with Worker(app, store_url):
            assert await new.result(timeout=10) == ["new", 1]
            assert (await old.state()).status is TERMINATED
        last = await client.start("waits-async", "last", **REPLACE)
        await client.get("one").terminate("in time")
        async with Worker(app, store_url):
            assert (await last.wait(timeout=10)).status is TERMINATED


async def test_an_event_before_the_start_is_for_the_first_run_and_one_after_it_for_the_second(store_url: str) -> None:
    async with open_store(store_url, app) as client:
        async with Worker(app, store_url):
            old = await client.start("collects-async", 3, instance_id="one")
            await old.raise_event("item", "begun")
            await until(old, status=1)
        await client.get("one").raise_event("item", "early")
        new = await client.start("collects-async", 2, events=[("item", "first")], **REPLACE)
        await client.get("one").raise_event("item", "second")
        async with Worker(app, store_url):
            assert await new.result(timeout=10) == ["first", "second"]
            assert await dropped(old) == ["item"]
            assert await dropped(new) == []


async def test_what_waited_for_a_stalled_run_is_not_for_the_one_that_replaces_it(store_url: str) -> None:
    """Also what was left in the store, of which the owner has kept only the first few in memory."""
    bad = App()

    @bad.orchestrator(name="collects-async")
    async def other_code(ctx: OrchestrationContext, count: int) -> None:
        await ctx.create_timer(ctx.current_utc_datetime)

    async with open_store(store_url, app) as client:
        async with Worker(app, store_url):
            old = await client.start("collects-async", 100, instance_id="one")
            await old.raise_event("item", 0)
            await until(old, status=1)
        async with Worker(bad, store_url):
            await client.get("one").raise_event("item", "old")
            await until(old, OrchestrationStatus.STALLED)
            for number in range(29):
                await client.get("one").raise_event("item", f"old {number}")
            new = await client.start("waits-async", "new", **REPLACE)
            await client.get("one").raise_event("go", "new")
            assert (await old.wait(timeout=10)).status is TERMINATED
        async with Worker(app, store_url):
            assert await new.result(timeout=10) == ["new", "new"]
            await becomes_true(lambda: _is_count(old, 30))
            assert await dropped(new) == []


async def test_a_start_that_waits_for_its_turn_keeps_its_events_though_another_one_comes_in_between(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run is over before the second has its place, so that a third one may begin; the second one replaces that."""
    is_held_up = False
    prepare = Turns.prepare

    def prepared(turns: Turns, live: LiveInstance) -> Any:
        nonlocal is_held_up
        is_held_up = True  # this is the last turn for now
        return prepare(turns, live)

    async with Worker(lives_app(), store_url) as worker:
        client = worker.client
        first = await client.start("collects-async", 1, instance_id="one")
        await until(first, OrchestrationStatus.RUNNING)
        monkeypatch.setattr(GroupCommits, "is_full", property(lambda commits: is_held_up))
        is_held_up = True
        await first.terminate()
        events = [("item", 1), ("item", 2)]
        second = await client.start(
            "collects-async", 3, instance_id="one", reuse_policy=ReusePolicy.TERMINATE_AND_REPLACE, events=events
        )
        monkeypatch.setattr(Turns, "prepare", prepared)
        is_held_up = False
        assert worker._parts is not None
        worker._parts.owner._pump_soon()
        await until(first, OrchestrationStatus.TERMINATED)
        await client.start("collects-async", 1, instance_id="one", reuse_policy=ReusePolicy.REPLACE_FINISHED)
        monkeypatch.setattr(Turns, "prepare", prepare)
        is_held_up = False
        worker._parts.owner._pump_soon()
        await second.raise_event("item", 3)
        assert await second.result(timeout=10) == [1, 2, 3]


async def _is_count(handle: Handle[Any], count: int) -> bool:
    return len(await dropped(handle)) == count


@pytest.mark.parametrize("robbed_after", [None, 1, 2])
async def test_a_run_gets_its_events_though_the_one_before_ended_by_itself(
    store_url: str, robbed_after: int | None
) -> None:
    """The start and an event for the new run are stored while the end of the old one is on its way.

    The partitions are lost after no commit, after the old run's end, or after the commit that begins the new one again.
    """
    async with Worker(app, store_url) as worker, Client(store_url, app) as other:
        old = await worker.client.start("waits-async", "old", instance_id="one")
        await until(old, status="waiting")
        async with gate(worker, store_url, robbed_after) as opened:
            await old.raise_event("go", "old")
            assert worker._parts is not None
            await becomes_true(lambda: not worker._parts.owner.commits.is_settled)
            await other.get("one").raise_event("go", "too late")
            new = await other.start("collects-async", 2, **REPLACE)
            await other.get("one").raise_event("item", "first")
            await other.get("one").raise_event("item", "second")
            await becomes_true(lambda: len(worker._parts.owner.receiver.held) >= 4)
            opened.set()
            assert await old.result(timeout=10) == ["old", "old"]
            assert await new.result(timeout=15) == ["first", "second"]
        assert await dropped(old) == ["go"]
        assert await dropped(new) == []


async def test_of_several_starts_each_replaces_the_one_before_and_gets_what_came_after_it(store_url: str) -> None:
    async with Worker(app, store_url) as worker, Client(store_url, app) as other:
        old = await worker.client.start("waits-async", "old", instance_id="one")
        await until(old, status="waiting")
        async with gate(worker, store_url) as opened:
            await old.raise_event("go", "old")
            assert worker._parts is not None
            await becomes_true(lambda: not worker._parts.owner.commits.is_settled)
            second = await other.start("waits-async", "second", **REPLACE)
            await other.get("one").raise_event("go", "for the second")
            third = await other.start("waits-async", "third", **REPLACE)
            await other.get("one").raise_event("go", "for the third")
            opened.set()
            assert await old.result(timeout=10) == ["old", "old"]
            assert await third.result(timeout=10) == ["third", "for the third"]
        assert (await second.state()).status in (TERMINATED, OrchestrationStatus.COMPLETED)
        assert await dropped(third) == []


@pytest.mark.parametrize("late", [3, 300])
@pytest.mark.parametrize("robbed_after", [None, 1, 2])
async def test_however_many_events_wait_for_a_run_whose_former_ended_by_itself_they_stay_in_order(
    store_url: str, robbed_after: int | None, late: int
) -> None:
    """More than a turn takes, some of them stored while the new run is put in the place of the old one."""
    count = 700
    async with Worker(app, store_url) as worker, Client(store_url, app) as other:
        old = await worker.client.start("waits-async", "old", instance_id="one")
        await until(old, status="waiting")
        async with gate(worker, store_url, robbed_after) as opened:
            await old.raise_event("go", "old")
            assert worker._parts is not None
            await becomes_true(lambda: not worker._parts.owner.commits.is_settled)
            await asyncio.gather(*(other.get("one").raise_event("late", number) for number in range(late)))
            new = await other.start("collects-async", count, events=[("item", 0), ("item", 1)], **REPLACE)
            for number in range(2, count - 100, 2):
                await asyncio.gather(new.raise_event("item", number), other.get("one").raise_event("item", number + 1))
            await becomes_true(lambda: len(worker._parts.owner.receiver.held) >= count - 100)
            opened.set()
            for number in range(count - 100, count):
                await new.raise_event("item", number)
            assert await new.result(timeout=30) == list(range(count))
            assert await old.result(timeout=10) == ["old", "old"]
        await becomes_true(lambda: _is_count(old, late))
        assert await dropped(new) == []
