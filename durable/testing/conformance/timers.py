"""Promises about time: what is delayed, parked or due."""

from __future__ import annotations

import pytest

from durable.provider import (
    PARTITIONS,
    Expects,
    Priority,
    Status,
    partition_of,
)
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


class Timers(Promises):
    """`visible_at`, `parked_until`, `due_at`."""

    # ---- delayed

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

    async def test_a_run_for_later_that_ends_before_lets_go_what_waited_for_it(self, store: Store) -> None:
        session = await store.worker()
        later = store.now + LATER_US
        row = new_row("later", parked_until=later, scheduled_at=later)
        await session.submit(start_of(row, data=b"start"), event_to("later", b"event"))
        assert not await session.receive()
        await session.commit(end_of(row, status=Status.CANCELLED))
        assert await _data(session) == [b"start", b"event"]

    async def test_what_was_delayed_keeps_each_instances_order_piece_by_piece(self, store: Store) -> None:
        # A store may put off what was delayed while more is eligible than fits, but not overtake within an instance.
        session = await store.worker()
        await session.start("a")
        await session.start("b")
        soon = store.now + SECOND_US
        await session.submit(
            event_to("a", b"a1", visible_at=soon + 9),
            event_to("a", b"a2"),
            *(event_to("b", f"b{9 - n}".encode(), visible_at=soon + n) for n in range(9, 0, -1)),
            event_to("a", b"a3", visible_at=soon),
            event_to("a", b"a0", visible_at=soon + 5, priority=Priority.CONTROL),
        )
        store.turn_clock(SECOND_US + 10)
        received: list[bytes] = []
        while messages := await session.receive(limit=2):
            assert len(messages) <= 2
            assert len(received) < 13
            received += [message.data for message in messages]
            await session.commit(consumed=[message.sequence for message in messages])
        for key_id in (b"a", b"b"):
            mine = [data for data in received if data.startswith(key_id)]
            assert mine == sorted(mine)
        assert len(received) == 13

    async def test_a_time_may_be_very_far_away(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        never = 2**62
        await session.submit(event_to("instance", visible_at=never))
        await session.commit(step_of(row, due_at=never))
        store.turn_clock(1000 * LATER_US)
        await session.provider.renew(session.lease)
        received = await session.received(due_before=store.now)
        assert (list(received.messages), list(received.due)) == ([], [])
        assert [due_at for _, due_at in (await session.received(due_before=never)).due] == [never]

    # ---- parked

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

    async def test_a_flood_for_a_parked_instance_keeps_its_order(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("parked")
        await session.start("other")
        await session.submit(*(event_to("parked", f"{n:02}".encode()) for n in range(10)))
        await session.commit(step_of(row, parked_until=store.now + SECOND_US))
        await session.submit(*(event_to("parked", f"{n:02}".encode()) for n in range(10, 20)), event_to("other", b"x"))
        assert await _data(session) == [b"x"]
        store.turn_clock(SECOND_US)
        received: list[bytes] = []
        while messages := await session.receive(limit=3):
            assert len(received) < 21
            received += [message.data for message in messages if message.target.id == "parked"]
            await session.commit(consumed=[message.sequence for message in messages])
        assert received == [f"{n:02}".encode() for n in range(20)]

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

    async def test_a_run_may_be_due_from_its_start_on(self, store: Store) -> None:
        session = await store.worker()
        await session.submit(start_of(new_row("new", due_at=10)))
        assert [key.id for key, _ in (await session.received(due_before=10)).due] == ["new"]

    @pytest.mark.parametrize("status", [Status.PENDING, Status.RUNNING, Status.SUSPENDED, Status.STALLED])
    async def test_whatever_is_unfinished_may_be_due(self, store: Store, status: Status) -> None:
        session = await store.worker()
        row = await session.start("instance")
        await session.commit(step_of(row, status=status, due_at=10, parked_until=store.now + LATER_US))
        assert [(key.id, at) for key, at in (await session.received(due_before=10)).due] == [("instance", 10)]

    async def test_a_run_that_takes_anothers_place_is_due_at_its_own_time(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        await session.commit(step_of(row, due_at=10))
        await session.commit(end_of(row, due_at=10, replaced_by=new_row("instance", due_at=20)))
        assert [at for _, at in (await session.received(due_before=100)).due] == [20]
        ended = await session.finish(await session.load("instance"))
        await session.submit(start_of(new_row("instance", due_at=30), Expects.ABSENT_OR_FINISHED))
        assert [at for _, at in (await session.received(due_before=100)).due] == [30]
        await session.finish(await session.load("instance"), due_at=30)
        ended = await session.load("instance")
        await session.provider.purge([(ended.key, ended.run_id)])
        assert not (await session.received(due_before=100)).due

    async def test_a_lost_lease_has_nothing_due(self, store: Store) -> None:
        session, other = await store.worker(), await store.worker(())
        await session.submit(start_of(new_row("new", due_at=10)))
        await other.provider.take(other.lease, [1], from_live=True)
        assert not (await session.received(due_before=10)).due
