"""Notes about what was dropped: all of it, in order, in few notes, and not lost with a commit that was refused."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from durable import ActivityTimeoutError, App, Client, Handle, OrchestrationContext, ReusePolicy, Worker
from durable.errors import HistoryDamagedError, LeaseLostError
from durable.messages import dropped_memos, dropped_prefix, read_dropped
from durable.provider import Batch, Lease, Memo
from tests.worker.lives import becomes_true, key_of, until

COUNT = 3000


def app_of_ends() -> App:
    app = App()

    @app.orchestrator
    async def ends(ctx: OrchestrationContext, how: str) -> None:
        await ctx.wait_for_external_event("go")
        if how == "failed":
            raise ValueError(how)
        if how == "continued":
            ctx.continue_as_new("completed", carry_over_events=False)

    return app


def memos_per_commit(worker: Worker) -> list[int]:
    """How many notes each commit of a worker writes, from now on."""
    store: Any = worker._provider
    commit, counted = store.commit, []

    async def counting(lease: Lease, batch: Batch) -> Any:
        counted.append(len(batch.memos))
        return await commit(lease, batch)

    store.commit = counting
    return counted


async def flood(client: Client, how: str) -> tuple[Handle[Any], list[str]]:
    """Raise events that nobody waits for, and see them on record."""
    handle = await client.start("ends", how, instance_id="one")
    names = ["one"] * (COUNT // 2) + [f"name {number // 3}" for number in range(COUNT // 2)]
    for first in range(0, COUNT, 500):
        await asyncio.gather(*(handle.raise_event(name) for name in names[first : first + 500]))
    await becomes_true(lambda: _has_all(handle))
    return handle, names


async def _has_all(handle: Handle[Any]) -> bool:
    return sum(type(event).__name__ == "EventRaised" for event in await handle.history()) == COUNT


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled", "terminated", "replaced", "continued"])
async def test_a_run_that_leaves_many_events_lists_each_and_writes_few_notes(store_url: str, how: str) -> None:
    async with Worker(app_of_ends(), store_url) as worker:
        handle, names = await flood(worker.client, how)
        counted = memos_per_commit(worker)
        if how == "cancelled":
            await handle.cancel()
        elif how == "terminated":
            await handle.terminate()
        elif how == "replaced":
            options: Any = {"instance_id": "one", "reuse_policy": ReusePolicy.TERMINATE_AND_REPLACE}
            await worker.client.start("ends", "completed", **options)
        else:
            await handle.raise_event("go")
        if how == "continued":
            await becomes_true(lambda: _is_generation(handle, 1))
        else:
            await handle.wait(timeout=20)
        dropped = await handle.dropped()
        assert sorted(item.name for item in dropped) == sorted(names)
        assert {item.kind for item in dropped} == {"EventRaised"}
        assert 0 < sum(counted) <= 3


async def _is_generation(handle: Handle[Any], generation: int) -> bool:
    return (await handle.state()).generation == generation


async def test_what_comes_too_late_is_listed_in_order(store_url: str) -> None:
    async with Worker(app_of_ends(), store_url) as worker, Client(store_url) as other:
        handle = await worker.client.start("ends", "completed")
        await until(handle, status=None)
        store: Any = worker._provider
        commit, opened = store.commit, asyncio.Event()

        async def late_commit(lease: Lease, batch: Batch) -> Any:
            await opened.wait()
            return await commit(lease, batch)

        store.commit = late_commit
        await handle.raise_event("go")
        late = other.get(handle.instance_id)
        names = [f"name {number}" for number in range(600)]
        for first in range(0, 600, 100):
            await asyncio.gather(*(late.raise_event(name) for name in names[first : first + 100]))
        opened.set()
        await handle.wait(timeout=10)
        await becomes_true(lambda: _is_count(handle, 600))
        assert [item.name for item in await handle.dropped()] == names


async def _is_count(handle: Handle[Any], count: int) -> bool:
    return len(await handle.dropped()) == count


async def test_the_note_of_a_late_outcome_is_not_lost_with_a_refused_commit(store_url: str) -> None:
    app, free = App(), asyncio.Event()

    @app.activity
    async def stubborn() -> str:
        try:
            await free.wait()
        except asyncio.CancelledError:
            await free.wait()
        return "too late"

    @app.orchestrator
    async def impatient(ctx: OrchestrationContext) -> str:
        try:
            await ctx.call_activity(stubborn, timeout=timedelta(milliseconds=50))
        except ActivityTimeoutError:
            return "gave up"
        return "no"

    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(impatient)
        assert await handle.result(timeout=10) == "gave up"
        assert await handle.dropped() == []
        store: Any = worker._provider
        commit, refused = store.commit, []
        prefix = dropped_prefix(str(handle.run_id))

        async def refusing(lease: Lease, batch: Batch) -> Any:
            if len(refused) < 2 and any(memo.key.startswith(prefix) for memo in batch.memos):
                refused.append(batch)
                raise LeaseLostError("somebody has taken the lease")
            return await commit(lease, batch)

        store.commit = refusing
        free.set()
        await becomes_true(lambda: _is_count(handle, 1))
        assert len(refused) == 2
        [item] = await handle.dropped()
        assert (item.kind, item.name) == ("ActivityCompleted", "stubborn")
        assert key_of(handle).id == handle.instance_id


def test_very_many_names_are_told_of_in_notes_of_bounded_size() -> None:
    names = [f"{number:0512}" for number in range(100_000)]
    memos = dropped_memos("run", "EventRaised", names, "too late", 7)
    assert len(memos) == 100
    assert max(len(memo.data) for memo in memos) < 600_000
    assert len({memo.key for memo in memos}) == 100
    assert sorted(memos, key=lambda memo: memo.key) == memos
    assert [name for memo in memos for _, _, name, _ in read_dropped(memo)] == names


def test_one_name_however_often_is_one_entry() -> None:
    [memo] = dropped_memos("run", "EventRaised", ["a"] * 100_000 + ["b"], "too late", 7)
    assert len(memo.data) < 100
    found = read_dropped(memo)
    assert len(found) == 100_001
    assert found[-1] == (7, "EventRaised", "b", "too late")
    assert dropped_memos("run", "EventRaised", [], "too late", 7) == []


@pytest.mark.parametrize("counts", [[2**60], [600_000, 600_000], [0], [-1], []])
def test_a_damaged_note_is_no_flood(counts: list[int]) -> None:
    import msgpack

    data = msgpack.packb([7, "EventRaised", "too late", [["a", count] for count in counts]])
    with pytest.raises(HistoryDamagedError):
        read_dropped(Memo("key", data, 0))
