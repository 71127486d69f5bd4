"""Promises about ownership: leases, partitions, takeover, fencing, and what a new owner finds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from durable.errors import LeaseLostError, StoreError
from durable.events import InstanceKey
from durable.provider import (
    CLOCK_JUMP_US,
    LEASE_US,
    PARTITIONS,
    Batch,
    Belief,
    InstanceFilter,
    Lease,
    Memo,
    Provider,
    Status,
    partition_of,
)
from durable.testing.conformance.store import (
    SECOND_US,
    Promises,
    Store,
    end_of,
    event_to,
    new_row,
    start_of,
    step_of,
)

ALL = set(range(PARTITIONS))


def _every_call(provider: Provider, lease: Lease) -> dict[str, Callable[[], Any]]:
    """Every call of the contract but `open`, `close` and `listen`, with the least that it can be given."""
    key = InstanceKey("instance")
    return {
        "lease": lambda: provider.lease("late", b"", worker=True),
        "renew": lambda: provider.renew(lease),
        "take": lambda: provider.take(lease, [1]),
        "release": lambda: provider.release(lease),
        "recover": lambda: provider.recover(lease, [1]),
        "receive": lambda: provider.receive(lease, (), 1),
        "load": lambda: provider.load([(key, None)]),
        "read_history": lambda: provider.read_history("run", 0),
        "commit": lambda: provider.commit(lease, Batch(1)),
        "mark_slow_turn": lambda: asyncio.to_thread(provider.mark_slow_turn, lease, key, "run"),
        "claim": lambda: provider.claim(lease, ["default"], None, 1),
        "report": lambda: provider.report(lease, []),
        "submit": lambda: provider.submit(lease, 1, []),
        "list_instances": lambda: provider.list_instances(InstanceFilter(), limit=1),
        "count": lambda: provider.count(InstanceFilter()),
        "purge": lambda: provider.purge([(key, "run")]),
        "read_memos": lambda: provider.read_memos(""),
    }


class Leases(Promises):
    """`open`, `close`, `lease`, `renew`, `take`, `release`, `recover`, `mark_slow_turn`."""

    async def test_open_tells_the_hubs_facts(self, store: Store) -> None:
        provider = store.connect()
        hub = await provider.open()
        assert (hub.partitions, hub.now) == (PARTITIONS, store.now)
        assert await provider.open() == hub
        await provider.close()

    async def test_a_provider_says_what_it_can_hold_and_how_it_knows_the_dead(self, store: Store) -> None:
        provider = await store.open()
        for limit in (provider.message_bytes_max, provider.batch_bytes_max):
            assert limit is None or (type(limit) is int and limit > 0)
        assert type(provider.is_fenced_by_lock) is type(provider.is_remote) is bool

    async def test_a_hub_is_the_same_for_all_who_open_it(self, store: Store) -> None:
        providers = [store.connect() for _ in range(2)]
        first, second = [await provider.open() for provider in providers]
        for provider in providers:
            await provider.close()
        assert first == second

    async def test_close_may_be_repeated_and_nothing_works_after_it(self, store: Store) -> None:
        session = await store.worker()
        await session.provider.close()
        await session.provider.close()
        with pytest.raises(StoreError):
            await session.receive()
        with pytest.raises(StoreError):
            await session.commit()

    @pytest.mark.parametrize("when", ["before it is opened", "after it is closed"])
    async def test_no_call_works_while_the_store_is_not_open(self, store: Store, when: str) -> None:
        witness = await store.worker()
        provider = store.connect()
        if when == "after it is closed":
            await provider.open()
            await provider.close()
        for name, call in _every_call(provider, witness.lease).items():
            try:
                await call()
            except StoreError:
                continue
            pytest.fail(f"{name} works {when}")
        with pytest.raises(StoreError):
            provider.listen(lambda wakeup: None)

    async def test_nothing_works_before_open(self, store: Store) -> None:
        with pytest.raises(StoreError):
            await store.connect().lease("early", b"", worker=True)

    async def test_what_was_stored_is_there_for_the_next_who_opens(self, store: Store) -> None:
        witness = await store.client()  # keeps a store alive that lives only while it is used
        session = await store.worker()
        await session.start("kept", input=b"input")
        await session.provider.close()
        assert (await witness.load("kept")).input == b"input"

    async def test_close_is_no_release(self, store: Store) -> None:
        first, second = await store.worker([1, 2], name="closed"), await store.worker(())
        await first.provider.close()
        [other] = (await second.provider.renew(second.lease)).others
        assert (other.lease_id, other.name, set(other.partitions)) == (first.lease.lease_id, "closed", {1, 2})
        if not second.provider.is_fenced_by_lock:
            assert other.is_live
            assert set(await second.provider.take(second.lease, [1])) == set()

    async def test_every_answer_carries_the_stores_time(self, store: Store) -> None:
        session = await store.worker()
        for _ in range(2):
            times = [
                (await session.provider.open()).now,
                (await session.provider.lease("other", b"", worker=True)).now,
                (await session.provider.renew(session.lease)).now,
                (await session.commit()).now,
                (await session.received()).now,
            ]
            assert times == [store.now] * 5
            assert {type(time) for time in times} == {int}
            store.turn_clock(SECOND_US + 1)

    async def test_a_new_lease_owns_nothing_and_lasts_a_fixed_time(self, store: Store) -> None:
        session = await store.worker(())
        assert (session.lease.epoch, session.lease.now) == (1, store.now)
        assert session.lease.expires_at == store.now + LEASE_US
        view = await session.provider.renew(session.lease)
        assert (set(view.partitions), set(view.unowned)) == (set[int](), ALL)

    async def test_leases_have_ids_of_their_own(self, store: Store) -> None:
        provider = await store.open()
        ids = {(await provider.lease("same name", b"", worker=True)).lease_id for _ in range(5)}
        assert len(ids) == 5

    # ---- taking and giving up

    async def test_unowned_partitions_are_taken(self, store: Store) -> None:
        session = await store.worker(())
        assert set(await session.provider.take(session.lease, [3, 5])) == {3, 5}
        view = await session.provider.renew(session.lease)
        assert (set(view.partitions), set(view.unowned)) == ({3, 5}, ALL - {3, 5})

    async def test_taking_again_what_one_has_is_no_error(self, store: Store) -> None:
        session = await store.worker([3])
        assert set(await session.provider.take(session.lease, [3, 4])) == {3, 4}

    async def test_a_partition_that_there_is_not_is_an_error(self, store: Store) -> None:
        session = await store.worker(())
        with pytest.raises(StoreError):
            await session.provider.take(session.lease, [1, PARTITIONS])
        assert not set((await session.provider.renew(session.lease)).partitions)

    async def test_partitions_of_a_live_lease_are_left_alone(self, store: Store) -> None:
        first, second = await store.worker([1, 2]), await store.worker(())
        assert set(await second.provider.take(second.lease, [1, 2, 3])) == {3}
        assert set((await first.provider.renew(first.lease)).partitions) == {1, 2}

    async def test_released_partitions_are_free_for_others(self, store: Store) -> None:
        first, second = await store.worker([1, 2]), await store.worker(())
        await first.provider.release(first.lease, [1, 7])
        assert set(await second.provider.take(second.lease, [1, 2])) == {1}
        assert set((await first.provider.renew(first.lease)).partitions) == {2}

    async def test_a_released_partition_is_unowned(self, store: Store) -> None:
        first, second = await store.worker(ALL), await store.worker(())
        await first.provider.release(first.lease, [3, 4])
        view = await second.provider.renew(second.lease)
        assert (set(view.unowned), set(view.others[0].partitions)) == ({3, 4}, ALL - {3, 4})
        assert view.others[0].is_live

    async def test_what_another_owns_cannot_be_released(self, store: Store) -> None:
        first, second = await store.worker([1, 2]), await store.worker([3])
        await second.provider.release(second.lease, [1, 2, 3, 5])
        view = await second.provider.renew(second.lease)
        assert (set(view.partitions), set(view.others[0].partitions)) == (set[int](), {1, 2})
        await first.commit()

    async def test_a_released_lease_is_gone_with_all_it_owned(self, store: Store) -> None:
        first, second = await store.worker([1, 2]), await store.worker(())
        await first.provider.release(first.lease)
        await first.provider.release(first.lease)
        await first.provider.release(first.lease, [1])
        with pytest.raises(LeaseLostError):
            await first.provider.renew(first.lease)
        with pytest.raises(LeaseLostError):
            await first.provider.take(first.lease, [5])
        view = await second.provider.renew(second.lease)
        assert set(view.unowned) == ALL
        assert not view.others

    async def test_two_who_take_at_once_share_without_overlap(self, store: Store) -> None:
        sessions = [await store.worker(()) for _ in range(4)]
        taken = [set(await session.provider.take(session.lease, ALL)) for session in sessions]
        assert taken == [set(ALL), set(), set(), set()]

    # ---- life and death

    async def test_renewing_prolongs_a_lease(self, store: Store) -> None:
        first, second = await store.worker([1]), await store.worker(())
        for _ in range(3):
            store.turn_clock(LEASE_US - 1)
            view = await first.provider.renew(first.lease)
            assert (view.now, view.expires_at) == (store.now, store.now + LEASE_US)
        await second.provider.renew(second.lease)
        assert set(await second.provider.take(second.lease, [1])) == set()

    async def test_the_others_see_when_a_lease_ends(self, store: Store) -> None:
        first, second = await store.worker([1]), await store.worker(())
        for _ in range(2):
            [other] = (await second.provider.renew(second.lease)).others
            assert other.expires_at in (0, store.now + LEASE_US)
            store.turn_clock(SECOND_US)
            await first.provider.renew(first.lease)

    async def test_taking_prolongs_a_lease(self, store: Store) -> None:
        first, second = await store.worker([1]), await store.worker(())
        for partition in (2, 3, 4):
            store.turn_clock(LEASE_US - 1)
            await first.provider.take(first.lease, [partition])
        await second.provider.renew(second.lease)
        assert set(await second.provider.take(second.lease, [1])) == set()

    async def test_a_commit_is_a_sign_of_life(self, store: Store) -> None:
        first, second = await store.worker([1]), await store.worker(())
        for _ in range(3):
            store.turn_clock(LEASE_US - 1)
            assert (await first.commit()).now == store.now
        await second.provider.renew(second.lease)
        assert set(await second.provider.take(second.lease, [1])) == set()

    async def test_an_expired_lease_is_dead(self, store: Store) -> None:
        first, second = await store.worker([1, 2]), await store.worker(())
        store.turn_clock(LEASE_US)
        view = await second.provider.renew(second.lease)
        assert set(view.unowned) == ALL
        assert [other.is_live for other in view.others] == [False]
        assert set(await second.provider.take(second.lease, [1])) == {1}
        with pytest.raises(LeaseLostError):
            await first.provider.renew(first.lease)

    async def test_a_lease_of_a_clock_that_ran_ahead_holds_nobody_up(self, store: Store) -> None:
        store.turn_clock(CLOCK_JUMP_US // 2)  # more would be a jump, and taken back
        first = await store.worker([1, 2])
        store.turn_clock(-CLOCK_JUMP_US // 2)
        second = await store.worker(())
        assert set((await second.provider.renew(second.lease)).unowned) == ALL
        assert set(await second.provider.take(second.lease, [1])) == {1}
        with pytest.raises(LeaseLostError):
            await first.provider.renew(first.lease)

    async def test_a_holder_of_such_a_lease_renews_it(self, store: Store) -> None:
        store.turn_clock(3600 * LEASE_US)
        first = await store.worker([1, 2])
        store.turn_clock(-3600 * LEASE_US)
        await first.provider.renew(first.lease)
        second = await store.worker(())
        assert set(await second.provider.take(second.lease, [1])) == set()

    async def test_an_expired_lease_of_which_nobody_took_lives_again(self, store: Store) -> None:
        first, second = await store.worker([1]), await store.worker(())
        store.turn_clock(10 * LEASE_US)
        assert set((await first.provider.renew(first.lease)).partitions) == {1}
        await first.commit()
        await second.provider.renew(second.lease)
        assert set(await second.provider.take(second.lease, [1])) == set()

    async def test_a_dead_workers_partitions_are_taken(self, store: Store) -> None:
        first, second = await store.worker(), await store.worker(())
        await store.kill(first)
        view = await second.provider.renew(second.lease)
        assert set(view.unowned) == ALL
        assert set(await second.provider.take(second.lease, ALL)) == ALL

    async def test_a_lease_loses_everything_when_its_epoch_is_raised(self, store: Store) -> None:
        first, second = await store.worker(), await store.worker(())
        store.turn_clock(LEASE_US)
        await second.provider.take(second.lease, [1])
        view = await second.provider.renew(second.lease)
        assert (set(view.partitions), set(view.unowned)) == ({1}, ALL - {1})
        assert not any(other.partitions for other in view.others)
        assert not await first.receive()

    async def test_a_live_lease_is_fenced_only_on_demand(self, store: Store) -> None:
        first, second = await store.worker(), await store.worker(())
        assert set(await second.provider.take(second.lease, [1], from_live=True)) == {1}
        with pytest.raises(LeaseLostError):
            await first.commit()

    async def test_a_lease_that_is_fenced_alive_loses_everything(self, store: Store) -> None:
        first, second = await store.worker([1, 2, 3]), await store.worker([4])
        assert set(await second.provider.take(second.lease, [2, 4], from_live=True)) == {2, 4}
        view = await second.provider.renew(second.lease)
        assert (set(view.partitions), set(view.unowned)) == ({2, 4}, ALL - {2, 4})
        for call in (first.provider.renew(first.lease), first.provider.take(first.lease, [1])):
            with pytest.raises(LeaseLostError):
                await call
        await second.commit()

    async def test_a_lease_cannot_fence_itself(self, store: Store) -> None:
        session = await store.worker([1, 2])
        assert set(await session.provider.take(session.lease, [1], from_live=True)) == {1}
        assert set((await session.provider.renew(session.lease)).partitions) == {1, 2}
        await session.commit()

    async def test_workers_see_each_other(self, store: Store) -> None:
        first, second = await store.worker([1], name="one"), await store.worker([2], name="two")
        await store.client()
        [other] = (await first.provider.renew(first.lease)).others
        assert (other.lease_id, other.name, other.is_live) == (second.lease.lease_id, "two", True)
        assert (other.announcement, set(other.partitions)) == (b"two is here", {2})
        await second.provider.renew(second.lease, b"two can do more")
        await second.provider.renew(second.lease)
        [other] = (await first.provider.renew(first.lease)).others
        assert other.announcement == b"two can do more"

    async def test_a_lease_that_owns_nothing_is_forgotten_long_after_its_end(self, store: Store) -> None:
        first, second = await store.worker(()), await store.worker()
        store.turn_clock(25 * 3600 * 1_000_000)
        for _ in range(3):
            assert not (await second.provider.renew(second.lease, belief=lambda: Belief(0, store.now))).others
        with pytest.raises(LeaseLostError):
            await first.provider.renew(first.lease)

    # ---- the fence

    async def test_a_fenced_worker_writes_nothing(self, store: Store) -> None:
        first, second = await store.worker(), await store.worker(())
        row = await first.start("contested")
        store.turn_clock(LEASE_US)
        await second.provider.take(second.lease, [row.partition])
        late = Memo("late", b"", store.now + LEASE_US)
        with pytest.raises(LeaseLostError):
            await first.commit(step_of(row, b"late"), memos=[late])
        with pytest.raises(LeaseLostError):
            await first.commit(memos=[late])
        with pytest.raises(LeaseLostError):
            await first.provider.claim(first.lease, ["default"], None, 1)
        with pytest.raises(LeaseLostError):
            first.provider.mark_slow_turn(first.lease, row.key, row.run_id)
        assert await second.load("contested") == row
        assert not await second.memos()
        await second.commit(step_of(row, b"mine"))

    async def test_nobody_commits_for_a_partition_of_another(self, store: Store) -> None:
        partition = partition_of(new_row("theirs").key, PARTITIONS)
        first, second = await store.worker([partition]), await store.worker(ALL - {partition})
        row = await first.start("theirs")
        with pytest.raises(LeaseLostError):
            await second.commit(step_of(row, b"not mine"))
        assert await first.load("theirs") == row

    async def test_a_released_partition_can_no_longer_be_written(self, store: Store) -> None:
        first, second = await store.worker(), await store.worker(())
        row = await first.start("handed over")
        await first.provider.release(first.lease, [row.partition])
        with pytest.raises(LeaseLostError):
            await first.commit(step_of(row, b"late"))
        await second.provider.take(second.lease, [row.partition])
        await second.commit(step_of(row, b"mine"))

    async def test_a_partition_that_comes_back_can_be_written_again(self, store: Store) -> None:
        first, second = await store.worker(), await store.worker(())
        row = await first.start("there and back")
        await first.provider.release(first.lease, [row.partition])
        await second.provider.take(second.lease, [row.partition])
        await second.commit(step_of(row, b"second", open_work=3))
        await second.provider.release(second.lease, [row.partition])
        await first.provider.take(first.lease, [row.partition])
        await first.commit(step_of(await first.load("there and back"), b"first"))
        assert await first.history(row.run_id) == [b"second", b"first"]

    async def test_a_client_needs_no_partition(self, store: Store) -> None:
        client = await store.client()
        [delivery] = await client.submit(start_of(new_row("started")))
        [second] = await client.submit(event_to("started"))
        assert second.sequence > delivery.sequence

    # ---- what a new owner finds

    async def test_a_new_owner_finds_what_needs_it(self, store: Store) -> None:
        session = await store.worker()
        rows = {
            key_id: await session.start(key_id) for key_id in ("idle", "working", "stalled", "slow", "done", "was busy")
        }
        await session.commit(
            step_of(rows["working"], open_work=2),
            step_of(rows["stalled"], status=Status.STALLED),
            end_of(rows["done"], open_work=1),
            step_of(rows["was busy"], open_work=1),
        )
        await session.commit(step_of(rows["was busy"]))
        session.provider.mark_slow_turn(session.lease, rows["slow"].key, rows["slow"].run_id)
        await session.submit(start_of(new_row("new", open_work=1)))
        found = await session.provider.recover(session.lease, range(PARTITIONS))
        assert sorted(key.id for key in found) == ["new", "slow", "stalled", "working"]

    async def test_only_the_named_partitions_are_recovered(self, store: Store) -> None:
        session = await store.worker()
        row = new_row("working", open_work=1)
        await session.submit(start_of(row))
        others = set(range(PARTITIONS)) - {row.partition}
        assert not await session.provider.recover(session.lease, others)
        assert list(await session.provider.recover(session.lease, [row.partition])) == [row.key]

    async def test_what_others_own_is_not_recovered(self, store: Store) -> None:
        row = new_row("working", open_work=1)
        first, second = await store.worker([row.partition]), await store.worker(ALL - {row.partition})
        await first.submit(start_of(row))
        assert not await second.provider.recover(second.lease, [row.partition])
        assert list(await first.provider.recover(first.lease, ALL)) == [row.key]

    async def test_slow_turns_are_counted_until_the_next_commit(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("slow")
        session.provider.mark_slow_turn(session.lease, row.key, row.run_id)
        marked = await session.load("slow")
        assert (marked.slow_turns, marked.slow_since) == (1, store.now)
        store.turn_clock(SECOND_US)
        session.provider.mark_slow_turn(session.lease, row.key, row.run_id)
        again = await session.load("slow")
        assert (again.slow_turns, again.slow_since) == (2, marked.slow_since)
        await session.commit(step_of(row, b"done at last"))
        after = await session.load("slow")
        assert (after.slow_turns, after.slow_since) == (0, 0)

    async def test_a_slow_turn_of_another_run_is_not_marked(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        with pytest.raises(LeaseLostError):
            session.provider.mark_slow_turn(session.lease, row.key, "other run")
        assert await session.load("instance") == row

    async def test_a_slow_turn_is_marked_from_a_thread_by_the_owner_alone(self, store: Store) -> None:
        first, second = await store.worker(), await store.worker(())
        row = await first.start("slow")
        with pytest.raises(LeaseLostError):
            await asyncio.to_thread(second.provider.mark_slow_turn, second.lease, row.key, row.run_id)
        await asyncio.to_thread(first.provider.mark_slow_turn, first.lease, row.key, row.run_id)
        assert (await second.load("slow")).slow_turns == 1
        await first.provider.release(first.lease, [row.partition])
        with pytest.raises(LeaseLostError):
            first.provider.mark_slow_turn(first.lease, row.key, row.run_id)
        assert (await second.load("slow")).slow_turns == 1
