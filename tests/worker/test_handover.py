"""Workers with different apps on one hub: what one cannot run goes to one that can, while both live."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest

from durable import App, Client, Handle, OrchestrationContext, OrchestrationStatus, Worker
from durable.errors import StoreUnavailableError
from durable.events import InstanceKey
from durable.provider import HubClock, Lease, LeaseView, OtherLease, partition_of
from durable.worker import handover, leasing, receiving, steps
from durable.worker.announcement import Announcement, Offer
from durable.worker.handover import HAND_OVER_S, LACKING_MAX, LACKING_S, OFFER_S, HandOver
from tests.worker.lives import becomes_true, errors_logged, key_of, open_store, until

RUNNING, STALLED = OrchestrationStatus.RUNNING, OrchestrationStatus.STALLED


def app_of(*names: str, version: str | None = None) -> App:
    """Orchestrators of these names: each waits for the event `go` and gives its input and the event's data."""
    app = App()
    for name in names:

        @app.orchestrator(name=name, version=version)
        async def waits(ctx: OrchestrationContext, value: Any = None) -> Any:
            ctx.set_custom_status("waiting")
            return [value, await ctx.wait_for_external_event("go")]

    return app


@pytest.fixture(autouse=True)
def looks_around_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where all workers are in one process, at a new lease; but also without being told."""
    monkeypatch.setattr(leasing, "LOOK_AROUND_S", 0.1)
    monkeypatch.setattr(leasing, "LOOK_AROUND_LOCKED_S", 0.1)


@pytest.fixture
def hands_over_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "HAND_OVER_S", 0.3)


async def start_all(client: Client, names: Sequence[str], count: int) -> list[Handle[Any]]:
    """So many of each name, each with its event."""
    return [await client.start(name, name, events=[("go", n)]) for n in range(count) for name in names]


async def all_run(handles: Sequence[Handle[Any]]) -> None:
    for handle in handles:
        name, _ = await handle.result(timeout=30)
        assert name == (await handle.state()).name


async def statuses_of(handle: Handle[Any]) -> list[OrchestrationStatus]:
    return [state.status async for state in handle.watch()]


# ---- with a store


@pytest.mark.parametrize("parts", [2, 3])
async def test_each_instance_runs_where_its_code_is_and_none_stalls(
    store_url: str, parts: int, hands_over_often: None
) -> None:
    """Partitions with instances of several names go round."""
    names = ["one", "two", "three"][:parts]
    async with open_store(store_url) as client:
        workers = [Worker(app_of(name), store_url, name=name) for name in names]
        with errors_logged() as errors:
            async with workers[0], workers[1], workers[-1] if parts == 3 else open_store(store_url):
                handles = await start_all(client, names, 40)
                watching = [asyncio.ensure_future(statuses_of(handle)) for handle in handles]
                await all_run(handles)
                for seen in await asyncio.gather(*watching):
                    assert STALLED not in seen
        assert not errors.found


async def test_what_had_stalled_goes_at_once_to_a_worker_that_joins_and_knows_it(store_url: str) -> None:
    """However recently their partitions were handed over; the worker that lacks them stays."""
    async with Worker(app_of("old"), store_url) as lacking:
        handles = await start_all(lacking.client, ["new"], 20)
        for handle in handles:
            await until(handle, STALLED)
        async with Worker(app_of("new"), store_url):
            await all_run(handles)
        more = await start_all(lacking.client, ["new"], 20)
        for handle in more:
            await until(handle, STALLED)
        async with Worker(app_of("new"), store_url):
            await all_run(more)


async def test_a_worker_that_lacks_a_version_leaves_the_instance_to_one_that_has_it(store_url: str) -> None:
    both = app_of("program", version="1")
    both.include(app_of("program", version="2.0"))
    async with Worker(app_of("program", version="1"), store_url) as older, Worker(both, store_url):
        start = older.client.start
        handles = [await start("program", "program", version="2", events=[("go", n)]) for n in range(20)]
        await all_run(handles)
        assert {(await handle.state()).version for handle in handles} == {"2"}


async def test_a_partition_stays_with_the_worker_that_can_run_what_is_in_it(store_url: str) -> None:
    """Nothing moves while nothing has to: what sleeps there is not given back for the sake of equal shares."""
    async with Worker(app_of("one"), store_url) as first, Worker(app_of("two"), store_url) as second:
        ids = [*same_partition(5), *(name for name in map(str, range(100)) if partition_of(InstanceKey(name), 64) == 6)]
        handles = [await first.client.start("two", "two", instance_id=name) for name in ids]
        for handle in handles:
            await until(handle, status="waiting")
        owned = [worker._parts.keeper.owned for worker in (first, second) if worker._parts is not None]
        await becomes_true(lambda: [len(some) for some in owned] == [32, 32])
        assert owned[1] >= {5, 6}
        releases = count_calls([first, second], "release")
        looks = count_calls([first, second], "renew")
        await becomes_true(lambda: min(looks.values(), default=0) >= 10 and len(looks) == 2)
        assert not releases
        for handle in handles:
            await handle.raise_event("go", 0)
        await all_run(handles)


def count_calls(workers: Sequence[Worker], name: str) -> Counter[int]:
    """Count a storage call of each worker from now on, by its place in the list."""
    counted: Counter[int] = Counter()
    for index, worker in enumerate(workers):

        def counting(call: Callable[..., Any], index: int) -> Callable[..., Any]:
            async def counted_call(*arguments: Any, **options: Any) -> Any:
                counted[index] += 1
                return await call(*arguments, **options)

            return counted_call

        setattr(worker._provider, name, counting(getattr(worker._provider, name), index))
    return counted


async def test_a_partition_that_several_need_is_handed_over_only_now_and_then(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One id's partition holds what only the first knows and what only the second knows: nothing spins meanwhile."""
    monkeypatch.setattr(handover, "HAND_OVER_S", 3600.0)
    async with Worker(app_of("one"), store_url) as first, Worker(app_of("two"), store_url) as second:
        ids = same_partition(20)
        ones = [await first.client.start("one", "one", instance_id=name) for name in ids[:10]]
        for handle in ones:
            await until(handle, status="waiting")
        twos = [await first.client.start("two", "two", instance_id=name) for name in ids[10:]]
        for handle in twos:
            await until(handle, status="waiting")
        for handle in ones:
            await handle.raise_event("go", 0)
        looks = count_calls([first, second], "renew")
        commits = count_calls([first, second], "commit")
        await becomes_true(lambda: min(looks.values(), default=0) >= 10 and len(looks) == 2)
        assert sum(commits.values()) <= 2 * len(ones)
        assert {(await handle.state()).status for handle in ones} == {RUNNING}
        monkeypatch.setattr(handover, "HAND_OVER_S", 0.0)
        await all_run(ones)
        for handle in twos:
            await handle.raise_event("go", 0)
        await all_run(twos)


def same_partition(count: int) -> list[str]:
    """Ids of one partition."""
    found = [f"id-{n}" for n in range(20_000)]
    return [name for name in found if partition_of(InstanceKey(name), 64) == 5][:count]


async def test_an_instance_stalls_when_the_last_worker_that_knows_it_is_gone(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leasing, "LEFT_US", 100_000)
    monkeypatch.setattr(handover, "HAND_OVER_S", 3600.0)
    name, other = same_partition(2)
    async with Worker(app_of("one"), store_url) as first:
        async with Worker(app_of("two"), store_url) as second:
            moved = await first.client.start("one", "one", instance_id=name)
            await until(moved, status="waiting")
            mover = await first.client.start("two", "two", instance_id=other)
            await until(mover, status="waiting")
            left = await first.client.start("one", "one", instance_id=same_partition(3)[2])
            store = second._provider

            async def is_left() -> bool:
                [row] = await store.load([(key_of(left), None)])
                return row is not None and row.parked_until > 0

            await becomes_true(is_left)
            assert (await left.state()).status is OrchestrationStatus.PENDING
        await until(left, status="waiting")  # its partition is free again, and the first worker takes it
        state = await until(mover, STALLED, status="waiting")
        await mover.raise_event("go", 1)
        state = await until(mover, STALLED)
        assert state.stall_reason is not None
        assert "'two'" in state.stall_reason


async def test_however_many_stall_for_want_of_code_the_others_run(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the worker holds messages of."""
    monkeypatch.setattr(receiving, "HELD_MAX", 20)
    async with Worker(app_of("known"), store_url) as worker:
        stalled = [await worker.client.start("unknown") for _ in range(60)]
        await all_run(await start_all(worker.client, ["known"], 10))
        for handle in stalled:
            await until(handle, STALLED)
        await all_run(await start_all(worker.client, ["known"], 10))


async def test_what_is_left_to_another_can_be_terminated_meanwhile(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Worker(app_of("one"), store_url) as first, Worker(app_of("two"), store_url) as second:
        assert first._parts is not None
        assert second._parts is not None
        for worker in (first, second):
            worker._parts.keeper._hand_over.find_due = lambda owned: {}  # type: ignore[union-attr, method-assign]
        handles = [await first.client.start(name) for _ in range(10) for name in ("one", "two")]
        for handle in handles:
            await handle.terminate()
            assert (await handle.wait(timeout=10)).status is OrchestrationStatus.TERMINATED


async def test_a_running_activity_is_not_run_twice_for_it(store_url: str) -> None:
    """A partition in which an activity runs is handed over when it has ended."""
    busy, free = asyncio.Event(), asyncio.Event()
    calls = 0
    app = App()

    @app.activity
    async def takes_long() -> str:
        nonlocal calls
        calls += 1
        busy.set()
        await free.wait()
        return "done"

    @app.orchestrator(name="one")
    async def one(ctx: OrchestrationContext) -> Any:
        return await ctx.call_activity(takes_long)

    name, other = same_partition(2)
    async with Worker(app, store_url) as first:
        working = await first.client.start("one", instance_id=name)
        await busy.wait()
        async with Worker(app_of("two"), store_url) as second:
            waiting = await first.client.start("two", "two", instance_id=other, events=[("go", 1)])
            assert first._parts is not None
            keeper = first._parts.keeper
            await becomes_true(lambda: keeper.parting >= {5})
            looks = count_calls([first, second], "renew")
            await becomes_true(lambda: min(looks.values(), default=0) >= 5 and len(looks) == 2)
            assert (await waiting.state()).status is OrchestrationStatus.PENDING
            free.set()
            assert await working.result(timeout=10) == "done"
            assert await waiting.result(timeout=10) == ["two", 1]
    assert calls == 1


@pytest.mark.parametrize("goes_on", [True, False])
async def test_what_the_other_worker_never_takes_stalls_and_says_why(
    store_url: str, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    """An activity in its partition does not end; when it has, the instance goes to the other worker after all."""
    monkeypatch.setattr(leasing, "LEFT_US", 50_000)
    monkeypatch.setattr(steps, "LEFT_LONGEST_US", 400_000)
    busy, free = asyncio.Event(), asyncio.Event()
    app = App()

    @app.activity
    async def takes_long() -> None:
        busy.set()
        await free.wait()

    @app.orchestrator(name="one")
    async def one(ctx: OrchestrationContext) -> None:
        await ctx.call_activity(takes_long)

    name, other = same_partition(2)
    async with Worker(app, store_url) as first:
        working = await first.client.start("one", instance_id=name)
        await busy.wait()
        async with Worker(app_of("two"), store_url):
            with errors_logged() as errors:
                waiting = await first.client.start("two", "two", instance_id=other, events=[("go", 1)])
                state = await until(waiting, STALLED)
            assert state.stall_reason is not None
            assert state.stall_reason.startswith("UnknownNameError: ")
            assert "another worker has it, but could not take the instance over" in state.stall_reason
            assert errors.of(other) == [f"instance '{other}' stalls: {state.stall_reason}"]
            if goes_on:
                free.set()
                await working.result(timeout=10)
                assert await waiting.result(timeout=20) == ["two", 1]
                assert (await waiting.state()).stall_reason is None
            else:
                await waiting.terminate()
                assert (await waiting.wait(timeout=10)).status is OrchestrationStatus.TERMINATED
                free.set()


@pytest.mark.parametrize("is_done", [False, True], ids=["not done", "answer lost"])
@pytest.mark.parametrize("call", ["renew", "release", "take"])
async def test_a_failing_store_in_the_middle_of_it_leaves_nothing_stuck(
    store_url: str, hands_over_often: None, call: str, is_done: bool
) -> None:
    """The first call of that kind that concerns a hand-over fails, for either worker."""
    async with Worker(app_of("one", "both"), store_url) as first, Worker(app_of("two", "both"), store_url) as second:
        failed = [fail_once(worker, call, is_done=is_done) for worker in (first, second)]
        handles = await start_all(first.client, ["one", "two", "both"], 30)
        await all_run(handles)
        assert any(failed)


def fail_once(worker: Worker, name: str, *, is_done: bool) -> list[str]:
    """Let a call fail once, before or after it was done; a renewal only where it announces something."""
    store: Any = worker._provider
    call, failed = getattr(store, name), []

    async def failing(lease: Lease, *arguments: Any, **options: Any) -> Any:
        if failed or not arguments:
            return await call(lease, *arguments, **options)
        failed.append(name)
        if is_done:
            await call(lease, *arguments, **options)
        raise StoreUnavailableError("the store is away")

    setattr(store, name, failing)
    return failed


# ---- the decisions alone


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lease(lease_id: str, *names: str, partitions: Sequence[int] = (), is_live: bool = True, **more: Any) -> OtherLease:
    announcement = Announcement.of(app_of(*names).served(), (), orchestrations=True)
    announcement = Announcement(True, (), announcement.served, more.get("offers", {}))
    return OtherLease(lease_id, lease_id, announcement.encode(), frozenset(partitions), is_live)


def look(hand_over: HandOver, *others: OtherLease, unowned: Collection[int] = ()) -> bool:
    seen = {other.lease_id: Announcement.decode(other.announcement) for other in others if other.is_live}
    return hand_over.look(seen, LeaseView(0, 0, (), unowned, others, HubClock()))


def test_a_partition_is_offered_to_a_worker_that_knows_what_is_in_it() -> None:
    hand_over = HandOver(Clock())
    look(hand_over, lease("x", "x"), lease("y", "y"), lease("dead", "z", is_live=False))
    assert hand_over.lacks(3, "y", None) is True
    assert hand_over.lacks(4, "z", None) is None
    assert hand_over.lacks(5, "y", "7") is None
    look(hand_over, lease("x", "x"), lease("y", "y"))
    assert hand_over.lacks(3, "y", None) is True
    assert hand_over.lacks(4, "z", None) is False
    assert hand_over.lacks(5, "y", "7") is False
    assert hand_over.find_due({1, 3, 4}) == {3: Offer("y", ())}
    assert hand_over.find_due({1, 4}) == {}


def test_what_is_lacked_is_forgotten_when_nothing_of_it_is_met_any_more() -> None:
    clock = Clock()
    hand_over = HandOver(clock)
    look(hand_over, lease("x", "x"))
    for name in ("x", "y"):
        hand_over.lacks(3, name, None)
    clock.now += LACKING_S - 1
    hand_over.lacks(3, "y", None)
    clock.now += 1
    look(hand_over, lease("x", "x"))
    assert hand_over.find_due({3}) == {}
    assert hand_over.lacking == 1
    clock.now += LACKING_S
    look(hand_over, lease("x", "x"))
    assert hand_over.lacking == 0


def test_however_many_names_are_lacked_only_so_many_are_noted() -> None:
    """Of the others it is known all the same whether somebody has them."""
    hand_over = HandOver(Clock())
    for _ in range(2):
        look(hand_over, lease("x", "x"))
    for number in range(LACKING_MAX + 10):
        hand_over.lacks(number % 64, f"unknown {number}", None)
    assert hand_over.lacking == LACKING_MAX
    assert hand_over.lacks(3, "another", None) is False
    assert hand_over.lacks(3, "x", None) is True
    assert hand_over.lacking == LACKING_MAX


def test_it_is_not_offered_again_before_its_time_except_to_a_worker_that_joins() -> None:
    clock = Clock()
    hand_over = HandOver(clock)
    for _ in range(2):
        look(hand_over, lease("x", "x"))
    hand_over.received(3, Offer("me", ("x",)))
    hand_over.lacks(3, "x", None)
    assert hand_over.find_due({3}) == {}
    look(hand_over, lease("x", "x"), lease("x2", "x"))
    assert set(hand_over.find_due({3})) == {3}
    assert hand_over.find_due({3})[3].lease_id == "x2"
    look(hand_over, lease("x", "x"), lease("x2", "x"))
    assert hand_over.find_due({3}) == {}
    clock.now += HAND_OVER_S
    assert set(hand_over.find_due({3})) == {3}


def test_of_several_workers_it_goes_to_the_one_that_had_it_longest_ago() -> None:
    clock = Clock()
    hand_over = HandOver(clock)
    look(hand_over, lease("x", "x"), lease("y", "y"), lease("z", "z"))
    hand_over.received(3, Offer("me", ("y", "gone", "x")))
    for name in "xyz":
        hand_over.lacks(3, name, None)
    clock.now += HAND_OVER_S
    due = hand_over.find_due({3})
    assert due[3].lease_id == "z"
    hand_over.offered("me", due)
    assert hand_over.offers == {3: Offer("z", ("y", "x", "me"))}
    hand_over.forget([3])
    hand_over.received(3, Offer("me", ("x", "z", "y")))
    for name in "xyz":
        hand_over.lacks(3, name, None)
    clock.now += HAND_OVER_S
    assert hand_over.find_due({3})[3].lease_id == "x"


def test_many_partitions_are_spread_over_those_that_know_what_is_in_them() -> None:
    hand_over = HandOver(Clock())
    look(hand_over, lease("x", "x", partitions=[60, 61]), lease("x2", "x"), lease("y", "y"))
    for partition in range(10):
        hand_over.lacks(partition, "x", None)
    assert Counter(offer.lease_id for offer in hand_over.find_due(range(10)).values()) == {"x": 4, "x2": 6}


def test_an_offer_holds_until_it_is_taken_or_its_taker_is_gone_or_slow() -> None:
    clock = Clock()
    hand_over = HandOver(clock)
    look(hand_over, lease("x", "x"))
    for partition in (1, 2):
        hand_over.lacks(partition, "x", None)
    hand_over.offered("me", hand_over.find_due({1, 2}))
    assert set(hand_over.find_offered("me", {1, 2, 3})) == {1, 2}
    assert look(hand_over, lease("x", "x", partitions=[1]), unowned={2})
    assert set(hand_over.offers) == {2}
    assert not look(hand_over, lease("x", "x"), unowned={2})
    clock.now += OFFER_S
    assert look(hand_over, lease("x", "x"), unowned={2})
    assert not hand_over.offers
    hand_over.offered("me", {2: Offer("x", ())})
    assert look(hand_over, lease("x", "x", is_live=False), unowned={2})
    assert not hand_over.offers


def test_the_others_leave_a_partition_to_the_one_that_it_is_offered_to() -> None:
    hand_over = HandOver(Clock())
    offers = {1: Offer("me", ("x",)), 2: Offer("y", ("x",)), 3: Offer("gone", ("x",)), 4: Offer("me", ("x",))}
    look(hand_over, lease("x", offers=offers), lease("y", "y"))
    assert hand_over.find_offered("me", {1, 2, 3}) == {1: offers[1], 2: offers[2]}


def test_a_partition_that_was_handed_over_is_kept_while_the_giver_lives() -> None:
    hand_over = HandOver(Clock())
    hand_over.received(1, Offer("me", ("y", "x")))
    look(hand_over, lease("x"), lease("y"))
    assert hand_over.is_kept(1)
    assert not hand_over.is_kept(2)
    look(hand_over, lease("x", is_live=False), lease("y"))
    assert not hand_over.is_kept(1)
