"""Promises about ownership: leases, partitions, takeover, fencing."""

from __future__ import annotations

import pytest

from durable.errors import LeaseLostError, StoreError
from durable.provider import LEASE_US, PARTITIONS, Memo, partition_of
from durable.testing.conformance.store import Promises, Store, event_to, new_row, start_of, step_of

ALL = set(range(PARTITIONS))


class Leases(Promises):
    """`open`, `close`, `lease`, `renew`, `take`, `release`."""

    async def test_open_tells_the_hubs_facts(self, store: Store) -> None:
        provider = store.connect()
        hub = await provider.open()
        assert (hub.partitions, hub.now) == (PARTITIONS, store.now)
        assert await provider.open() == hub
        await provider.close()

    async def test_close_may_be_repeated_and_nothing_works_after_it(self, store: Store) -> None:
        session = await store.worker()
        await session.provider.close()
        await session.provider.close()
        with pytest.raises(StoreError):
            await session.receive()
        with pytest.raises(StoreError):
            await session.commit()

    async def test_nothing_works_before_open(self, store: Store) -> None:
        with pytest.raises(StoreError):
            await store.connect().lease("early", b"", worker=True)

    async def test_what_was_stored_is_there_for_the_next_who_opens(self, store: Store) -> None:
        witness = await store.client()  # keeps a store alive that lives only while it is used
        session = await store.worker()
        await session.start("kept", input=b"input")
        await session.provider.close()
        assert (await witness.load("kept")).input == b"input"

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

    async def test_unowned_partitions_are_taken(self, store: Store) -> None:
        session = await store.worker(())
        assert set(await session.provider.take(session.lease, [3, 5])) == {3, 5}
        view = await session.provider.renew(session.lease)
        assert (set(view.partitions), set(view.unowned)) == ({3, 5}, ALL - {3, 5})

    async def test_taking_again_what_one_has_is_no_error(self, store: Store) -> None:
        session = await store.worker([3])
        assert set(await session.provider.take(session.lease, [3, 4])) == {3, 4}

    async def test_partitions_of_a_live_lease_are_left_alone(self, store: Store) -> None:
        first, second = await store.worker([1, 2]), await store.worker(())
        assert set(await second.provider.take(second.lease, [1, 2, 3])) == {3}
        assert set((await first.provider.renew(first.lease)).partitions) == {1, 2}

    async def test_released_partitions_are_free_for_others(self, store: Store) -> None:
        first, second = await store.worker([1, 2]), await store.worker(())
        await first.provider.release(first.lease, [1, 7])
        assert set(await second.provider.take(second.lease, [1, 2])) == {1}
        assert set((await first.provider.renew(first.lease)).partitions) == {2}

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

    async def test_renewing_prolongs_a_lease(self, store: Store) -> None:
        first, second = await store.worker([1]), await store.worker(())
        for _ in range(3):
            store.turn_clock(LEASE_US - 1)
            view = await first.provider.renew(first.lease)
            assert (view.now, view.expires_at) == (store.now, store.now + LEASE_US)
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
        assert not await first.receive()

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

    async def test_a_live_lease_is_fenced_only_on_demand(self, store: Store) -> None:
        first, second = await store.worker(), await store.worker(())
        assert set(await second.provider.take(second.lease, [1], from_live=True)) == {1}
        with pytest.raises(LeaseLostError):
            await first.commit()

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
        first, second = await store.worker(()), await store.worker(())
        store.turn_clock(25 * 3600 * 1_000_000)
        for _ in range(3):
            assert not (await second.provider.renew(second.lease)).others
        with pytest.raises(LeaseLostError):
            await first.provider.renew(first.lease)

    async def test_two_who_take_at_once_share_without_overlap(self, store: Store) -> None:
        sessions = [await store.worker(()) for _ in range(4)]
        taken = [set(await session.provider.take(session.lease, ALL)) for session in sessions]
        assert taken == [set(ALL), set(), set(), set()]

    async def test_a_client_needs_no_partition(self, store: Store) -> None:
        client = await store.client()
        [delivery] = await client.submit(start_of(new_row("started")))
        [second] = await client.submit(event_to("started"))
        assert second.sequence > delivery.sequence
