"""Messages that wait for older ones: their partition goes to another worker and comes back, or the store keeps some."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from durable import App, Client, Handle, InstanceAlreadyExistsError, OrchestrationContext, OrchestrationStatus, Worker
from durable.errors import StoreUnavailableError
from durable.history import utc_datetime
from durable.provider import partition_of
from durable.worker import leasing, steps
from durable.worker.committing import GroupCommits
from durable.worker.parking import Parking
from tests.worker.lives import becomes_true, key_of, lives_app, names_of, open_store, raises_soon, until


@pytest.mark.parametrize("is_heard", [True, False], ids=["heard", "read"])
async def test_what_another_owner_has_consumed_meanwhile_is_not_delivered_again(
    store_url: str, is_heard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had been heard and waited for older ones, or the read that has found it had been on its way all the time."""
    monkeypatch.setattr(leasing, "LOOK_AROUND_S", 0.1)
    monkeypatch.setattr(leasing, "LOOK_AROUND_LOCKED_S", 0.1)
    async with Worker(lives_app(), store_url) as worker:
        assert worker._parts is not None
        owner, keeper, store = worker._parts.owner, worker._parts.keeper, worker._provider
        names = (f"instance {number}" for number in range(1000))
        name = next(name for name in names if partition_of(key_of(worker.client.get(name)), 64) == 63)
        handle = await worker.client.start("collects-async", 2, instance_id=name)
        await until(handle, OrchestrationStatus.RUNNING)
        reads = asyncio.Event()
        receive = store.receive

        found: list[Any] = []

        async def later(*arguments: Any, **options: Any) -> Any:
            if is_heard:
                await reads.wait()
            answer = await receive(*arguments, **options)
            found.extend(answer.messages)
            if answer.messages:
                await reads.wait()
            return answer

        monkeypatch.setattr(store, "receive", later)
        if is_heard:
            owner.stay([63])  # it may have unread messages, so that what is fresh waits for these
        else:
            assert worker._parts._unlisten is not None
            worker._parts._unlisten()
        await handle.raise_event("item", 1)
        await becomes_true(lambda: owner._backlog._stash if is_heard else found)
        async with Worker(lives_app(), store_url):
            await until(handle, status=1)
        await becomes_true(lambda: 63 in keeper.owned)
        reads.set()
        await handle.raise_event("item", 2)
        assert await handle.result(timeout=10) == [1, 2]


async def test_what_came_while_a_partition_could_not_be_given_up_is_not_overtaken(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Worker(lives_app(), store_url) as worker:
        assert worker._parts is not None
        keeper, store = worker._parts.keeper, worker._provider
        handle = await worker.client.start("collects-async", 2)
        await until(handle, OrchestrationStatus.RUNNING)
        partition = partition_of(key_of(handle), 64)

        async def fails(*arguments: Any) -> None:
            await handle.raise_event("item", 1)
            await asyncio.sleep(0)  # it was heard
            raise StoreUnavailableError("the store is away")

        monkeypatch.setattr(store, "release", fails)
        with pytest.raises(StoreUnavailableError):
            await keeper._give_up(keeper.current, {partition}, {})
        monkeypatch.undo()
        await handle.raise_event("item", 2)
        assert await handle.result(timeout=10) == [1, 2]


async def test_what_a_former_owner_sent_is_not_overtaken_by_what_its_successor_sends(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first event comes from another process that dies before it can wake anybody; its partitions are taken over."""
    async with Worker(lives_app(), store_url) as worker:
        assert worker._parts is not None
        owner, keeper, store = worker._parts.owner, worker._parts.keeper, worker._provider
        handle = await worker.client.start("collects-async", 2)
        await until(handle, OrchestrationStatus.RUNNING)
        partition = partition_of(key_of(handle), 64)
        reads, receive = asyncio.Event(), store.receive

        async def later(*arguments: Any, **options: Any) -> Any:
            await reads.wait()
            return await receive(*arguments, **options)

        monkeypatch.setattr(store, "receive", later)
        keeper.leaving.add(partition)  # so that nobody hears of it
        await handle.raise_event("item", 1)
        await asyncio.sleep(0.01)
        keeper.leaving.remove(partition)
        await owner.recover([(partition + 1) % 64])
        await handle.raise_event("item", 2)
        await asyncio.sleep(0.01)
        reads.set()
        assert await handle.result(timeout=10) == [1, 2]


async def test_a_new_owner_of_a_stalled_instance_lets_nothing_go_ahead_of_what_the_store_keeps_back(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next try does not wait for the pause, as the store does. An event is heard after a read, before that try."""
    good = _collects()
    async with open_store(store_url, good) as client:
        handle = await _stalled_with_events(store_url, client, good, monkeypatch)
        is_loaded = False
        loaded = Parking.loaded

        def loaded_and_held_up(parking: Parking, *arguments: Any, **options: Any) -> None:
            nonlocal is_loaded
            is_loaded = True  # no turn begins from now on
            loaded(parking, *arguments, **options)

        monkeypatch.setattr(Parking, "loaded", loaded_and_held_up)
        monkeypatch.setattr(GroupCommits, "is_full", property(lambda commits: is_loaded))
        async with Worker(good, store_url) as worker:
            await becomes_true(lambda: is_loaded)
            assert worker._parts is not None
            owner, receive, reads = worker._parts.owner, worker._provider.receive, 0

            async def counted(*arguments: Any, **options: Any) -> Any:
                nonlocal reads
                answer = await receive(*arguments, **options)
                reads += 1
                return answer

            monkeypatch.setattr(worker._provider, "receive", counted)
            for count in (1, 2, 3):
                owner.receiver.wake()
                await becomes_true(lambda count=count: reads >= count)
            await handle.raise_event("item", 21)
            await becomes_true(lambda: owner.arrivals._heard > 0)
            monkeypatch.setattr(Parking, "loaded", loaded)  # without a cache it is read again for each turn
            is_loaded = False
            owner._pump_soon()
            assert await handle.result(timeout=10) == list(range(22))


async def test_what_was_heard_before_a_stalled_instance_is_loaded_does_not_overtake_what_the_store_keeps_back(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the first read of its partition, which does not tell what is kept back; only the row that is loaded does."""
    good = _collects()
    async with open_store(store_url, good) as client:
        handle = await _stalled_with_events(store_url, client, good, monkeypatch)
        worker = Worker(good, store_url)
        read = Slow(worker, monkeypatch)
        load, is_asked, may_load = worker._provider.load, asyncio.Event(), asyncio.Event()

        async def later(*arguments: Any, **options: Any) -> Any:
            is_asked.set()
            await may_load.wait()
            return await load(*arguments, **options)

        monkeypatch.setattr(worker._provider, "load", later)
        async with worker:
            await read.has_answer.wait()
            await is_asked.wait()
            assert worker._parts is not None
            owner = worker._parts.owner
            await handle.raise_event("item", 21)
            await becomes_true(lambda: owner._backlog._stash)
            read.may_end.set()
            await becomes_true(lambda: not owner._backlog._stash)
            may_load.set()
            assert await handle.result(timeout=10) == list(range(22))


async def test_a_worker_that_stops_plans_no_look_at_what_it_hears(store_url: str) -> None:
    """Its looks are called off when it ends its reading; one that was planned after that would go on beyond its end."""
    async with Worker(lives_app(), store_url) as worker:
        assert worker._parts is not None
        receiver = worker._parts.owner.receiver
        await worker.client.start("returns-async", 1, at=timedelta(hours=1), instance_id="in an hour")
        await worker.client.start("returns-async", 1, at=timedelta(seconds=20), instance_id="before it stops")
        await becomes_true(lambda: len(receiver._planned) == 1)
        worker._parts.owner.is_draining = True
        heard = worker._parts.owner.arrivals._heard
        await worker.client.start("returns-async", 1, at=timedelta(seconds=21), instance_id="while it stops")
        await becomes_true(lambda: worker._parts and worker._parts.owner.arrivals._heard > heard)
        assert len(receiver._planned) == 1
    assert receiver._planned == {}


async def test_a_read_from_before_a_start_was_due_lets_nothing_go_ahead_of_it(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It found nothing of the run, and ends when the run is due: what is heard meanwhile still waits for the next read."""
    async with Worker(lives_app(), store_url) as worker:
        at = timedelta(milliseconds=300)
        handle = await worker.client.start("collects-async", 3, at=at, events=[("item", 0)])
        await handle.raise_event("item", 1)
        assert worker._parts is not None
        owner = worker._parts.owner
        await becomes_true(lambda: owner._backlog)  # it is known that the store keeps the event back
        read = Slow(worker, monkeypatch)
        await read.has_answer.wait()
        due = (await handle.state()).scheduled_at
        await becomes_true(lambda: due < _now(worker))
        await handle.raise_event("item", 2)
        is_full = GroupCommits.is_full
        monkeypatch.setattr(GroupCommits, "is_full", True)  # no turn begins before all has been read
        read.may_end.set()
        await becomes_true(lambda: len(owner.receiver.held) == 3)
        monkeypatch.setattr(GroupCommits, "is_full", is_full)
        owner._pump_soon()
        assert await handle.result(timeout=10) == [0, 1, 2]


async def test_a_read_from_before_a_stalled_instance_went_on_lets_nothing_go_ahead_of_what_it_has_not_seen(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read begins while the store keeps the instance's events back, and ends after the turn that has ended its pause."""
    good = _collects()
    async with open_store(store_url, good) as client:
        handle = await _stalled_with_events(store_url, client, good, monkeypatch)
        is_held_up = False
        loaded = Parking.loaded

        def loaded_and_held_up(parking: Parking, *arguments: Any, **options: Any) -> None:
            nonlocal is_held_up
            is_held_up = True  # no turn begins from now on
            loaded(parking, *arguments, **options)

        monkeypatch.setattr(Parking, "loaded", loaded_and_held_up)
        monkeypatch.setattr(GroupCommits, "is_full", property(lambda commits: is_held_up))
        async with Worker(good, store_url) as worker:
            await becomes_true(lambda: is_held_up)
            assert worker._parts is not None
            read = Slow(worker, monkeypatch)
            await read.has_answer.wait()
            monkeypatch.setattr(Parking, "loaded", loaded)  # without a cache it is read again for each turn
            is_held_up = False
            worker._parts.owner._pump_soon()
            await until(handle, OrchestrationStatus.RUNNING)
            await handle.raise_event("item", 21)
            read.may_end.set()
            assert await handle.result(timeout=10) == list(range(22))


async def test_a_read_lets_nothing_go_ahead_of_what_a_refused_start_has_let_go(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker's own start waits for its commit when somebody else has the id; what came for that one waited in memory."""
    async with open_store(store_url) as client, Worker(lives_app(), store_url) as worker:
        assert worker._parts is not None
        assert worker._parts._unlisten is not None
        worker._parts._unlisten()  # nothing is heard
        owner, store = worker._parts.owner, worker._provider
        commit, may_commit = store.commit, asyncio.Event()

        async def later(*arguments: Any, **options: Any) -> Any:
            await may_commit.wait()
            return await commit(*arguments, **options)

        monkeypatch.setattr(store, "commit", later)
        refused = asyncio.ensure_future(worker.client.start("collects-async", 9, instance_id="one"))
        await becomes_true(lambda: owner.commits.count)
        handle = await client.start("collects-async", 2, instance_id="one")
        await handle.raise_event("item", 1)
        owner.receiver.wake()
        await becomes_true(lambda: len(owner.receiver.held) == 2)
        await handle.raise_event("item", 2)
        read = Slow(worker, monkeypatch)  # it has left out what is in memory
        await read.has_answer.wait()
        may_commit.set()
        await raises_soon(InstanceAlreadyExistsError, refused)
        read.may_end.set()
        assert await handle.result(timeout=10) == [1, 2]


class Slow:
    """A read of a worker's messages that begins now, and ends when it may."""

    def __init__(self, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_answer, self.may_end = asyncio.Event(), asyncio.Event()
        self._receive = worker._provider.receive
        monkeypatch.setattr(worker._provider, "receive", self._later)
        if worker._parts is not None:  # it runs
            worker._parts.owner.receiver.wake()

    async def _later(self, *arguments: Any, **options: Any) -> Any:
        answer = await self._receive(*arguments, **options)
        self.has_answer.set()
        await self.may_end.wait()
        return answer


def _now(worker: Worker) -> datetime:
    assert worker._parts is not None
    return utc_datetime(worker._parts.owner._clock.now())


async def _has_begun(handle: Handle[Any]) -> bool:
    return "EventRaised" in names_of(await handle.history())


def _collects() -> App:
    """A program that takes 22 events, and says how many it has."""
    app = App()

    @app.orchestrator
    async def collects(ctx: OrchestrationContext) -> list[int]:
        found = []
        for _ in range(22):
            found.append(await ctx.wait_for_external_event("item"))
            ctx.set_custom_status(len(found))
        return found

    return app


async def _stalled_with_events(
    store_url: str, client: Client, good: App, monkeypatch: pytest.MonkeyPatch
) -> Handle[list[int]]:
    """Return an instance of `_collects` that has stalled for an hour at the event 1; the store keeps 2 to 20 back."""
    monkeypatch.setattr(steps, "STALL_FIRST_US", 3600 * 1_000_000)
    monkeypatch.setattr(steps, "STALL_LONGEST_US", 3600 * 1_000_000)
    bad = App()

    @bad.orchestrator(name="collects")
    async def differs(ctx: OrchestrationContext) -> None:
        await ctx.create_timer(timedelta(hours=1))

    async with Worker(good, store_url):
        handle = await client.start("collects")
        await handle.raise_event("item", 0)
        await becomes_true(lambda: _has_begun(handle))
    async with Worker(bad, store_url):
        await handle.raise_event("item", 1)
        await until(handle, OrchestrationStatus.STALLED)
        for number in range(2, 21):
            await handle.raise_event("item", number)
    return handle
