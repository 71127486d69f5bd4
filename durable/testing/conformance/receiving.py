"""Promises about `receive` and `recover`: what is eligible, what is due, in which order."""

from __future__ import annotations

import pytest

from durable.errors import LeaseLostError
from durable.provider import PARTITIONS, Expects, Priority, Status, partition_of
from durable.testing.conformance.store import (
    LATER_US,
    SECOND_US,
    Promises,
    Session,
    Store,
    end_of,
    event_to,
    new_row,
    start_of,
    step_of,
)


async def _data(session: Session, limit: int = 1000) -> list[bytes]:
    return [message.data for message in await session.receive(limit=limit)]


class Receiving(Promises):
    """`receive`, `recover`, `mark_slow_turn`."""

    async def test_messages_are_received_until_they_are_consumed(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        await session.submit(event_to("instance", b"one"), event_to("instance", b"two"))
        one, two = await session.receive()
        assert await session.receive() == [one, two]
        await session.commit(step_of(row, consumed=[one.sequence]))
        assert await session.receive() == [two]
        await session.commit(consumed=[two.sequence])
        assert not await session.receive()

    async def test_only_the_owner_receives(self, store: Store) -> None:
        first, second = await store.worker(()), await store.worker(())
        row = new_row("instance")
        await first.submit(start_of(row))
        assert not await first.receive()
        await second.provider.take(second.lease, [row.partition])
        assert not await first.receive()
        assert len(await second.receive()) == 1
        await second.provider.release(second.lease, [row.partition])
        assert not await second.receive()

    async def test_a_lost_lease_receives_nothing(self, store: Store) -> None:
        session = await store.worker()
        await session.submit(start_of(new_row("instance", open_work=1)))
        await session.provider.release(session.lease)
        assert not await session.receive()
        assert not await session.provider.recover(session.lease, range(PARTITIONS))

    async def test_what_is_held_is_not_received_again(self, store: Store) -> None:
        session = await store.worker()
        await session.start("instance")
        deliveries = await session.submit(*(event_to("instance", bytes([n])) for n in range(10)))
        held = {delivery.sequence for delivery in deliveries[:7]}
        assert [message.data for message in await session.receive(held, 2)] == [b"\x07", b"\x08"]

    async def test_control_goes_ahead_and_the_rest_is_in_order(self, store: Store) -> None:
        session = await store.worker()
        await session.start("instance")
        await session.start("other")
        await session.submit(
            event_to("instance", b"3"),
            event_to("other", b"1", priority=Priority.CONTROL),
            event_to("other", b"4"),
            event_to("instance", b"2", priority=Priority.CONTROL),
            event_to("instance", b"5"),
        )
        assert await _data(session) == [b"1", b"2", b"3", b"4", b"5"]
        assert await _data(session, limit=3) == [b"1", b"2", b"3"]

    async def test_sequences_are_never_used_again(self, store: Store) -> None:
        session = await store.worker()
        await session.start("instance")
        seen: list[int] = []
        for _ in range(4):
            [delivery] = await session.submit(event_to("instance"))
            committed = await session.commit(consumed=[delivery.sequence], messages=[event_to("instance")])
            seen += [delivery.sequence, committed.deliveries[0].sequence]
            await session.commit(consumed=[committed.deliveries[0].sequence])
        assert seen == sorted(set(seen))

    async def test_a_delayed_message_waits(self, store: Store) -> None:
        session = await store.worker()
        await session.start("instance")
        later = store.now + 5 * SECOND_US
        await session.submit(
            event_to("instance", b"second", visible_at=later),
            event_to("instance", b"cancel", visible_at=later, priority=Priority.CONTROL),
            event_to("instance", b"first"),
        )
        assert await _data(session) == [b"first"]
        store.turn_clock(5 * SECOND_US - 1)
        assert await _data(session) == [b"first"]
        store.turn_clock(1)
        received = await session.receive()
        assert [message.data for message in received] == [b"cancel", b"second", b"first"]
        assert received[1].visible_at == later
        await session.commit(consumed=[message.sequence for message in received])
        assert not await session.receive()

    async def test_a_delayed_start_waits_and_can_be_steered(self, store: Store) -> None:
        session = await store.worker()
        later = store.now + LATER_US
        row = new_row("later", parked_until=later, scheduled_at=later)
        await session.submit(start_of(row, data=b"start", visible_at=later))
        await session.submit(event_to("later", b"event"), event_to("later", b"cancel", priority=Priority.CONTROL))
        assert await _data(session) == [b"cancel"]
        store.turn_clock(LATER_US)
        assert await _data(session) == [b"cancel", b"start", b"event"]

    async def test_a_parked_instance_receives_control_only(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("parked")
        await session.start("other")
        await session.submit(event_to("parked", b"before"), event_to("other", b"other"))
        parked_until = store.now + 5 * SECOND_US
        await session.commit(step_of(row, status=Status.STALLED, parked_until=parked_until))
        await session.submit(event_to("parked", b"after"), event_to("parked", b"resume", priority=Priority.CONTROL))
        assert await _data(session) == [b"resume", b"other"]
        store.turn_clock(5 * SECOND_US)
        assert await _data(session) == [b"resume", b"before", b"other", b"after"]

    async def test_a_parked_instance_that_goes_on_receives_at_once(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("parked")
        await session.commit(step_of(row, parked_until=store.now + LATER_US))
        await session.submit(event_to("parked", b"one"), event_to("parked", b"two", visible_at=store.now + SECOND_US))
        assert not await session.receive()
        await session.commit(step_of(row, parked_until=store.now + 2 * LATER_US))
        await session.submit(event_to("parked", b"three"))
        assert not await session.receive()
        await session.commit(step_of(row))
        assert await _data(session) == [b"one", b"three"]
        store.turn_clock(SECOND_US)
        assert await _data(session) == [b"one", b"two", b"three"]
        await session.commit(consumed=[message.sequence for message in await session.receive()])
        assert not await session.receive()

    async def test_messages_of_a_parked_instance_can_be_consumed(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("parked")
        [delivery] = await session.submit(event_to("parked"))
        await session.commit(step_of(row, parked_until=store.now + SECOND_US))
        await session.commit(step_of(row, consumed=[delivery.sequence], parked_until=store.now + SECOND_US))
        await session.commit(step_of(row))
        assert not await session.receive()

    async def test_a_replaced_instance_is_no_longer_parked(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("parked")
        await session.commit(step_of(row, parked_until=store.now + LATER_US))
        await session.submit(event_to("parked", b"event"))
        await session.commit(end_of(row, parked_until=store.now + LATER_US, appends=()))
        assert not await session.receive()
        await session.submit(start_of(new_row("parked"), Expects.ABSENT_OR_FINISHED, data=b"start"))
        assert await _data(session) == [b"event", b"start"]

    async def test_a_run_that_takes_anothers_place_may_be_parked(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        await session.submit(event_to("instance", b"event"))
        parked = new_row("instance", parked_until=store.now + SECOND_US)
        await session.commit(end_of(row, replaced_by=parked))
        assert not await session.receive()
        store.turn_clock(SECOND_US)
        assert await _data(session) == [b"event"]

    async def test_a_message_to_nobody_is_eligible(self, store: Store) -> None:
        session = await store.worker()
        await session.submit(event_to("nobody", expects=Expects.ANY))
        assert len(await session.receive()) == 1

    async def test_a_flood_is_received_in_order_piece_by_piece(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("flooded")
        await session.submit(*(event_to("flooded", str(n).encode()) for n in range(500)))
        received: list[bytes] = []
        while messages := await session.receive(limit=64):
            received += [message.data for message in messages]
            await session.commit(step_of(row, consumed=[message.sequence for message in messages]))
        assert received == [str(n).encode() for n in range(500)]

    # ---- due

    async def test_instances_are_due_in_order_of_time(self, store: Store) -> None:
        session = await store.worker()
        for key_id, due_at in (("c", 30), ("a", 10), ("b", 20), ("d", None)):
            await session.commit(step_of(await session.start(key_id), due_at=due_at))
        received = await session.received(due_before=30)
        assert [(key.id, due_at) for key, due_at in received.due] == [("a", 10), ("b", 20), ("c", 30)]
        assert received.now == store.now
        assert [key.id for key, _ in (await session.received(due_after=10, due_before=29)).due] == ["b"]
        assert not (await session.received()).due

    async def test_due_instances_are_listed_piece_by_piece(self, store: Store) -> None:
        session = await store.worker()
        times = [10, 20, 20, 20, 30, 40, 40]
        for place, due_at in enumerate(times):
            await session.commit(step_of(await session.start(f"i{place}"), due_at=due_at))
        found: list[int] = []
        while due := (await session.received(limit=2, due_after=found[-1] if found else 0, due_before=100)).due:
            assert len(due) <= 4
            found += [due_at for _, due_at in due]
        assert found == times

    async def test_only_what_is_owned_and_unfinished_is_due(self, store: Store) -> None:
        first, second = await store.worker(), await store.worker(())
        rows = [await first.start(key_id) for key_id in ("done", "mine", "theirs")]
        for row in rows:
            await first.commit(step_of(row, due_at=10))
        await first.commit(end_of(rows[0], due_at=10))
        theirs = partition_of(rows[2].key, PARTITIONS)
        assert theirs != partition_of(rows[1].key, PARTITIONS)
        await first.provider.release(first.lease, [theirs])
        await second.provider.take(second.lease, [theirs])
        assert [key.id for key, _ in (await first.received(due_before=10)).due] == ["mine"]
        assert [key.id for key, _ in (await second.received(due_before=10)).due] == ["theirs"]

    async def test_a_due_time_can_be_moved_and_taken_back(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        for due_at, expected in ((10, [10]), (20, [20]), (None, []), (30, [30])):
            await session.commit(step_of(row, due_at=due_at))
            assert [at for _, at in (await session.received(due_before=100)).due] == expected

    # ---- recover

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
