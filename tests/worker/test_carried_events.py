"""Events that are left by a generation: kept aside at a cost by what changes, and conserved whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any, cast

import pytest

from durable import (
    App,
    Handle,
    Orchestration,
    OrchestrationContext,
    OrchestrationStatus,
    OrchestrationTerminatedError,
    ReusePolicy,
    Worker,
)
from durable.carried import Carried
from durable.client.states import dropped_of
from durable.engine import execution, refusals
from durable.errors import HistoryDamagedError
from durable.events import EventRaised, InstanceKey
from durable.messages import new_row
from durable.provider import InstanceRow, Provider, RecordRow
from durable.worker.carrying import FIRST_NUMBER, GONE_MAX, journal_step, read_carried
from durable.worker.live import Journal
from tests.worker.lives import STYLES, Damage, becomes_true, is_cached, open_store, provider_of, until

STALLED, RUNNING = OrchestrationStatus.STALLED, OrchestrationStatus.RUNNING


def build_app() -> App:
    app = App()

    @app.orchestrator(name="one each-async")
    async def one_each_async(ctx: OrchestrationContext, state: list[Any]) -> Any:
        """Waits for `go`, then takes one event per generation, of the names in turn, until `count` are seen."""
        names, count, seen = state
        if ctx.generation == 0:
            ctx.set_custom_status("waiting")
            await ctx.wait_for_external_event("go")
        else:
            seen = [*seen, await ctx.wait_for_external_event(names[len(seen) % len(names)])]
            ctx.set_custom_status(len(seen))
            if len(seen) == count:
                return seen
        ctx.continue_as_new([names, count, seen])

    @app.orchestrator(name="one each-generator")
    def one_each(ctx: OrchestrationContext, state: list[Any]) -> Orchestration[Any]:
        names, count, seen = state
        if ctx.generation == 0:
            ctx.set_custom_status("waiting")
            yield ctx.wait_for_external_event("go")
        else:
            seen = [*seen, (yield ctx.wait_for_external_event(names[len(seen) % len(names)]))]
            ctx.set_custom_status(len(seen))
            if len(seen) == count:
                return seen
        ctx.continue_as_new([names, count, seen])

    @app.orchestrator(name="sums")
    async def sums(ctx: OrchestrationContext, state: list[int]) -> int:
        """As above, and keeps only a sum: what it hands on does not grow."""
        count, total = state
        if ctx.generation == 0:
            ctx.set_custom_status("waiting")
            await ctx.wait_for_external_event("go")
        else:
            total += await ctx.wait_for_external_event("item", int)
            if ctx.generation == count:
                return total
        ctx.continue_as_new([count, total])

    @app.orchestrator(name="leaves them")
    async def leaves_them(ctx: OrchestrationContext, again: bool) -> str:
        ctx.set_custom_status("second" if ctx.generation else "first")
        await ctx.wait_for_external_event("go")
        if ctx.generation == 2:
            return "done"
        ctx.continue_as_new(True, carry_over_events=ctx.generation == 0)

    return app


async def raised(handle: Handle[Any], name: str, values: list[Any]) -> None:
    for value in values:
        await handle.raise_event(name, value)


async def waiting(worker: Worker, names: list[str], count: int, style: str) -> Handle[Any]:
    handle: Handle[Any] = await worker.client.start(f"one each-{style}", [names, count, []])
    await until(handle, status="waiting")
    return handle


def counts_bytes(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many bytes of records a worker writes: beside the generations, and in all."""
    written: Counter[str] = Counter()
    commit = worker._provider.commit

    async def counting(lease: Any, batch: Any) -> Any:
        for step in batch.steps:
            for generation, record in step.appends:
                written["all"] += len(record.data)
                written["journal"] += len(record.data) if generation >= FIRST_NUMBER else 0
                written["longest"] = max(written["longest"], len(record.data))
        return await commit(lease, batch)

    monkeypatch.setattr(worker._provider, "commit", counting)
    return written


async def test_one_event_per_generation_costs_the_same_however_many_are_left(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured in what is written, which depends on no machine."""
    costs: dict[int, float] = {}
    for count in (100, 800) if is_cached() else (30, 120):
        worker = Worker(build_app(), store_url)
        written = counts_bytes(worker, monkeypatch)
        async with worker:
            handle: Handle[int] = await worker.client.start("sums", [count, 0])
            await until(handle, status="waiting")
            await raised(handle, "item", list(range(count)))
            await handle.raise_event("go")
            assert await handle.result(timeout=60) == sum(range(count))
            assert await handle.dropped() == []
        costs[count] = written["all"] / count
    few, many = costs.values()
    assert many < 1.2 * few, costs


@pytest.mark.parametrize("style", STYLES)
async def test_each_name_is_in_order_across_generations_and_workers(store_url: str, style: str) -> None:
    """Other events of the same names come meanwhile; they go behind those that are left."""
    count = 30
    async with open_store(store_url) as client:
        async with Worker(build_app(), store_url) as worker:
            handle = client.get((await waiting(worker, ["a", "b"], count, style)).instance_id)
            await raised(handle, "a", list(range(10)))
            await raised(handle, "b", list(range(100, 110)))
            await raised(handle, "never", [1, 2])
        await handle.raise_event("go")
        for number in range(5):
            async with Worker(build_app(), store_url):
                await handle.raise_event("a", 10 + number)
                await handle.raise_event("b", 110 + number)
                await until(handle, OrchestrationStatus.COMPLETED, status=22 + 2 * number)
        async with Worker(build_app(), store_url):
            seen: Any = await handle.result(timeout=20)
            assert seen[::2] == list(range(15))
            assert seen[1::2] == list(range(100, 115))
            assert [item.name for item in await handle.dropped()] == ["never", "never"]
        async with provider_of(store_url) as provider:
            for number in (FIRST_NUMBER, FIRST_NUMBER + 1):
                assert await provider.read_history(handle.run_id, number) == [], "nothing is left behind in the store"


@pytest.mark.parametrize("style", STYLES)
async def test_a_robbed_worker_loses_and_doubles_no_carried_event(store_url: str, style: str) -> None:
    async with provider_of(store_url) as thief, Worker(build_app(), store_url) as worker:
        handle = await waiting(worker, ["item"], 24, style)
        await raised(handle, "item", list(range(24)))
        await handle.raise_event("go")
        assert worker._parts is not None
        keeper = worker._parts.keeper
        for number in range(1, 20, 6):
            await until(handle, OrchestrationStatus.COMPLETED, status=number)
            await becomes_true(lambda: keeper.owned)
            lease = await thief.lease("thief", b"", worker=True)
            await thief.take(lease, range(64), from_live=True)
            await thief.release(lease)
        assert await handle.result(timeout=20) == list(range(24))
        assert await handle.dropped() == []


@pytest.mark.parametrize("style", STYLES)
async def test_what_comes_while_suspended_goes_behind_what_is_left(store_url: str, style: str) -> None:
    async with Worker(build_app(), store_url) as worker:
        handle = await waiting(worker, ["item"], 12, style)
        await raised(handle, "item", list(range(8)))
        await handle.suspend()
        await until(handle, OrchestrationStatus.SUSPENDED)
        await handle.raise_event("go")
        await raised(handle, "item", [8, 9])
        await handle.resume()
        await raised(handle, "item", [10, 11])
        assert await handle.result(timeout=20) == list(range(12))


async def test_events_that_go_no_further_are_listed(store_url: str) -> None:
    async with Worker(build_app(), store_url) as worker:
        handle = await worker.client.start("leaves them", False)
        await until(handle, status="first")
        await raised(handle, "left", [1, 2, 3])
        await handle.raise_event("go")
        await until(handle, status="second")
        await raised(handle, "left", [4])
        await handle.raise_event("go")
        await handle.raise_event("go")
        assert await handle.result(timeout=10) == "done"
        assert [item.name for item in await handle.dropped()] == ["left"] * 4
        async with provider_of(store_url) as provider:
            assert await provider.read_history(handle.run_id, FIRST_NUMBER) == []


@pytest.mark.parametrize("again", [False, True], ids=["same worker", "next worker"])
async def test_events_that_are_left_at_a_termination_are_listed(store_url: str, again: bool) -> None:
    async with open_store(store_url) as client:
        async with Worker(build_app(), store_url) as worker:
            handle: Handle[Any] = client.get((await waiting(worker, ["other"], 9, "async")).instance_id)
            await raised(handle, "item", [1, 2, 3])
            await handle.raise_event("go")
            await handle.raise_event("other", 0)
            await until(handle, status=1)
            if not again:
                await handle.terminate()
                await until(handle, OrchestrationStatus.TERMINATED)
        if again:
            await handle.terminate()
        async with Worker(build_app(), store_url):
            with pytest.raises(OrchestrationTerminatedError):
                await handle.result(timeout=10)
            assert [item.name for item in await handle.dropped()] == ["item"] * 3


@pytest.mark.parametrize("is_replaced", [False, True], ids=["terminated", "replaced"])
async def test_events_that_are_left_at_the_end_of_a_stalled_run_are_listed(store_url: str, is_replaced: bool) -> None:
    """They stand in no history, for their generation has not seen them; and nobody can replay it."""
    async with open_store(store_url) as client:
        async with Worker(build_app(), store_url) as worker:
            handle = await waiting(worker, ["other"], 9, "async")
            await raised(handle, "item", [1, 2, 3])
            await handle.raise_event("go")
            await handle.raise_event("other", 0)
            await until(handle, status=1)
        run = client.get(handle.instance_id)
        run_id = (await run.state()).run_id
        async with Worker(App(), store_url):
            await run.raise_event("other", 1)
            await until(run, STALLED)
            if is_replaced:
                policy = ReusePolicy.TERMINATE_AND_REPLACE
                await client.start("sums", [1, 0], instance_id=run.instance_id, reuse_policy=policy)
                await becomes_true(lambda: _is_another(run, run_id))
            else:
                await run.terminate()
                await until(run, OrchestrationStatus.TERMINATED)
        provider = client.connection.provider
        (row,) = await provider.load([(InstanceKey(run.instance_id), run_id)])
        assert row is not None
        assert [item.name for item in await dropped_of(provider, row.run_id) if item.name == "item"] == ["item"] * 3
        async with Worker(build_app(), store_url):  # who knows the code of the next run, and reads what was kept back
            await becomes_true(lambda: _has_dropped(provider, row, 4))


async def _has_dropped(provider: Provider, row: InstanceRow, count: int) -> bool:
    return len(await dropped_of(provider, row.run_id)) == count


async def _is_another(handle: Handle[Any], run_id: str) -> bool:
    return (await handle.state()).run_id != run_id


async def test_what_is_left_counts_as_buffered(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "EVENTS_BUFFERED_MAX", 10)
    async with Worker(build_app(), store_url) as worker:
        handle = await waiting(worker, ["other"], 9, "async")
        await raised(handle, "item", list(range(10)))
        await handle.raise_event("go")
        await handle.raise_event("other", 0)
        await until(handle, status=1)
        await handle.raise_event("item", "one too many")
        await becomes_true(handle.dropped)
        assert [item.name for item in await handle.dropped()] == ["item"]
        assert "10 events wait already" in (await handle.dropped())[0].reason
        await handle.terminate()


async def test_damage_to_what_is_left_stalls_the_instance(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    async with open_store(url) as client:
        async with Worker(build_app(), url) as worker:
            handle: Handle[Any] = client.get((await waiting(worker, ["other"], 2, "async")).instance_id)
            await raised(handle, "item", [1, 2, 3])
            await handle.raise_event("go")
            await handle.raise_event("other", 0)
            await until(handle, status=1)
        run_id = (await handle.state()).run_id
        damage = Damage(url)
        stored = damage.read(run_id, FIRST_NUMBER)
        damage.write(run_id, {index: data[:-1] + b"?" for index, data in stored.items()}, FIRST_NUMBER)
        await handle.raise_event("other", 1)
        async with Worker(build_app(), url):
            state = await until(handle, STALLED)
            assert "carried events" in str(state.stall_reason)
            await handle.terminate()
            await until(handle, OrchestrationStatus.TERMINATED)


async def test_a_turn_takes_only_so_many_and_the_next_goes_on(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "CARRIED_MAX", 7)
    app = App()

    @app.orchestrator
    async def takes_all(ctx: OrchestrationContext, count: int) -> list[int]:
        if ctx.generation == 0:
            ctx.set_custom_status("waiting")
            await ctx.wait_for_external_event("go")
            ctx.continue_as_new(count)
        return [await ctx.wait_for_external_event("item", int) for _ in range(count)]

    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(takes_all, 40)
        await until(handle, status="waiting")
        await raised(handle, "item", list(range(40)))
        await handle.raise_event("go")
        assert await handle.result(timeout=20) == list(range(40))
        times = Counter(event.timestamp for event in await handle.history() if type(event).__name__ == "EventRaised")
        assert max(times.values()) <= 7


# ---- the journal


class Entries:
    """Keeps what journal steps append and drop, as a store does."""

    def __init__(self) -> None:
        self.row = new_row(InstanceKey("one"), 64, "run", "name", None, now=1, scheduled_at=1, payload=None)
        self.journal: Journal | None = None
        self.kept: dict[int, list[RecordRow]] = {}
        self.events_written = 0

    def write(self, carried: Carried) -> None:
        step = journal_step(self.row, self.journal, carried, carried.change())
        for number, entry in step.appends:
            self.kept.setdefault(number, []).append(entry)
            self.events_written += entry.data.count(b"\xc4")
        for number in step.drops:
            del self.kept[number]
        self.journal = step.journal

    async def read_history(self, run_id: str, generation: int, first: int = 0) -> list[RecordRow]:
        return self.kept.get(generation, [])[first : first + 3]

    async def read(self) -> list[EventRaised]:
        return list(await read_carried(cast(Provider, self), self.row, self.journal))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_read_back_is_what_was_left(seed: int) -> None:
    """Random additions and takings, of few and many names; after each commit the store tells the same."""
    dice, entries, carried, number = random.Random(seed), Entries(), Carried(), 0
    names = [f"name {index}" for index in range(dice.choice([1, 3, 50]))]
    for _ in range(60):
        for _ in range(dice.choice([0, 1, 1, 5, 400])):
            number += 1
            carried.add(EventRaised(dice.choice(names), b"%d" % number))
        for _ in range(dice.choice([0, 1, 1, 5, 300])):
            left = [name for name in names if carried.holds(name)]
            if left:
                carried.take(dice.choice(left))
        if dice.random() < 0.05:
            carried.clear()
        entries.write(carried)
        assert asyncio.run(entries.read()) == list(carried)
        assert len(entries.kept) == (1 if carried.count else 0)
        assert sum(len(kept) for kept in entries.kept.values()) < 70


def test_taking_all_one_by_one_writes_each_event_a_few_times_only() -> None:
    entries, carried = Entries(), Carried()
    for number in range(20_000):
        carried.add(EventRaised(f"{number % 1000}", b"%d" % number))
    entries.write(carried)
    for number in range(20_000):
        carried.take(f"{number % 1000}")
        entries.write(carried)
    assert entries.journal is None
    assert entries.events_written < 8 * 20_000 + GONE_MAX


def test_a_damaged_entry_is_noticed() -> None:
    entries, carried = Entries(), Carried()
    carried.add(EventRaised("a", b"1"))
    entries.write(carried)
    carried.add(EventRaised("a", b"2"))
    entries.write(carried)
    kept = entries.kept[FIRST_NUMBER]
    for damaged in (kept[:1], [kept[1]], [kept[0], kept[1]._replace(data=kept[0].data)], [kept[1], kept[0]]):
        entries.kept[FIRST_NUMBER] = damaged
        with pytest.raises(HistoryDamagedError, match="carried events"):
            asyncio.run(entries.read())
