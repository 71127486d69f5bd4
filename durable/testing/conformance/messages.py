"""Promises about messages: what each expects of its target, what becomes of it, who receives it and in which order."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from durable.errors import LeaseLostError, StoreError
from durable.provider import (
    PARTITIONS,
    Delivery,
    Expects,
    Memo,
    Message,
    Priority,
    Status,
    StoredMessage,
    Verdict,
)
from durable.testing.conformance.store import (
    LATER_US,
    SECOND_US,
    Promises,
    Session,
    Store,
    end_of,
    event_to,
    memo,
    new_row,
    start_of,
    step_of,
)


async def _only(session: Session, message: Message) -> Delivery:
    [delivery] = await session.submit(message)
    return delivery


async def _data(session: Session, limit: int = 1000) -> list[bytes]:
    return [message.data for message in await session.receive(limit=limit)]


class Messages(Promises):
    """`submit` and `receive`, and the verdicts of messages wherever they come from."""

    # ---- what a message expects

    async def test_an_event_needs_an_unfinished_target(self, store: Store) -> None:
        session = await store.worker()
        assert await _only(session, event_to("nobody")) == Delivery(Verdict.ABSENT)
        row = await session.start("somebody")
        assert (await _only(session, event_to("somebody"))).verdict is Verdict.STORED
        row = await session.finish(row)
        assert await _only(session, event_to("somebody")) == Delivery(Verdict.FINISHED, 0, row)

    @pytest.mark.parametrize("status", [Status.PENDING, Status.RUNNING, Status.SUSPENDED, Status.STALLED])
    async def test_an_event_reaches_whatever_is_unfinished(self, store: Store, status: Status) -> None:
        session = await store.worker()
        await session.commit(step_of(await session.start("somebody"), status=status))
        assert (await _only(session, event_to("somebody"))).verdict is Verdict.STORED
        assert len(await session.receive()) == 1

    async def test_an_event_for_a_run_reaches_no_other(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        right, wrong = event_to("instance", run_id=row.run_id), event_to("instance", run_id="other")
        deliveries = await session.submit(right, wrong)
        assert [delivery.verdict for delivery in deliveries] == [Verdict.STORED, Verdict.FINISHED]
        [message] = await session.receive()
        assert message.run_id == row.run_id

    async def test_an_event_for_a_run_that_waits_to_begin_is_received_after_its_start(self, store: Store) -> None:
        session = await store.worker()
        old = await session.start("busy")
        new = new_row("busy")
        await session.submit(start_of(new, Expects.ANY), event_to("busy", run_id=new.run_id))
        start, event = await session.receive()
        assert (start.start, event.run_id) == (new, new.run_id)
        await session.commit(end_of(old, consumed=[start.sequence], replaced_by=new))
        late = await _only(session, event_to("busy", run_id=old.run_id))
        assert late.verdict is Verdict.FINISHED

    async def test_an_event_for_a_run_that_is_no_more_is_refused(self, store: Store) -> None:
        session = await store.worker()
        old = await session.start("instance")
        dropped = new_row("instance")
        start = await _only(session, start_of(dropped, Expects.ANY))
        await session.commit(step_of(old, consumed=[start.sequence]))
        current = await session.load("instance")
        refused = Delivery(Verdict.FINISHED, 0, current)
        assert await _only(session, event_to("instance", run_id=dropped.run_id)) == refused
        await session.finish(current)
        new = new_row("instance")
        await session.submit(start_of(new, Expects.ABSENT_OR_FINISHED))
        refused = Delivery(Verdict.FINISHED, 0, new)
        assert await _only(session, event_to("instance", run_id=old.run_id)) == refused

    async def test_a_message_is_received_as_it_was_sent(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance", kind="entity")
        fields: dict[str, Any] = {
            "kind": "entity",
            "priority": Priority.CONTROL,
            "visible_at": store.now - 5,
            "run_id": row.run_id,
        }
        sent = event_to("instance", b"\x00data", **fields)
        delivery = await _only(session, sent)
        expected = StoredMessage(
            delivery.sequence, row.key, row.partition, b"\x00data", Priority.CONTROL, store.now - 5, row.run_id
        )
        assert list(await session.receive()) == [expected]

    # ---- otherwise

    async def test_a_memo_is_written_in_place_of_an_undeliverable_message(self, store: Store) -> None:
        session = await store.worker()
        await session.start("there")
        instead = memo("undelivered", b"event", expires_at=store.now + LATER_US)
        await session.submit(event_to("there", otherwise=instead))
        assert not await session.memos()
        await session.submit(event_to("nobody", otherwise=instead))
        assert await session.memos() == {"undelivered": b"event"}

    async def test_a_memo_in_place_of_a_start_whose_id_is_in_use(self, store: Store) -> None:
        session = await store.worker()
        await session.start("taken")
        instead: Memo = memo("instead", expires_at=store.now + LATER_US)
        await session.submit(dataclasses.replace(start_of(new_row("taken")), otherwise=instead))
        assert list(await session.memos()) == ["instead"]

    async def test_starts_of_one_submit_are_each_judged_by_themselves(self, store: Store) -> None:
        session = await store.worker()
        taken = await session.start("m")
        instead: Memo = memo("instead", expires_at=store.now + LATER_US)
        rows = [new_row(key_id) for key_id in ("z", "m", "a", "z", "new")]
        starts = [start_of(row) for row in rows]
        starts[1] = dataclasses.replace(starts[1], otherwise=instead)
        deliveries = await session.submit(*starts)
        stored, exists = Verdict.STORED, Verdict.EXISTS
        assert [delivery.verdict for delivery in deliveries] == [stored, exists, stored, exists, stored]
        assert [delivery.row for delivery in deliveries if delivery.verdict is exists] == [taken, rows[0]]
        received = await session.receive()
        assert [(message.sequence, message.start) for message in received] == [
            (delivery.sequence, row)
            for delivery, row in zip(deliveries, rows, strict=True)
            if delivery.verdict is stored
        ]
        assert [await session.load(key_id) for key_id in ("z", "m", "a", "new")] == [rows[0], taken, rows[2], rows[4]]
        assert list(await session.memos()) == ["instead"]

    async def test_of_many_starts_with_the_same_ids_the_first_ones_begin(self, store: Store) -> None:
        session = await store.worker()
        first = [new_row(f"id-{7 * number % 30}") for number in range(30)]
        again = [new_row(f"id-{11 * number % 30}") for number in range(30)]
        deliveries = await session.submit(*map(start_of, (*first, *again)))
        assert [delivery.verdict for delivery in deliveries] == [Verdict.STORED] * 30 + [Verdict.EXISTS] * 30
        assert [await session.load(row.key.id) for row in first] == first

    async def test_a_message_is_stored_in_place_of_an_undeliverable_one(self, store: Store) -> None:
        session = await store.worker()
        await session.start("sender")
        never = memo("never", expires_at=store.now + LATER_US)
        back = event_to("sender", b"it is not there", otherwise=never)
        delivery = await _only(session, event_to("nobody", otherwise=back))
        assert delivery.verdict is Verdict.ABSENT
        assert [message.data for message in await session.receive()] == [b"it is not there"]

    async def test_what_is_stored_in_place_is_held_to_its_own_expectation(self, store: Store) -> None:
        session = await store.worker()
        never = memo("never", expires_at=store.now + LATER_US)
        await session.submit(event_to("nobody", otherwise=event_to("nobody either", otherwise=never)))
        assert not await session.receive()
        assert not await session.memos()

    async def test_a_start_may_be_stored_in_place_of_an_event(self, store: Store) -> None:
        session = await store.worker()
        row = new_row("nobody")
        delivery = await _only(session, event_to("nobody", otherwise=start_of(row, data=b"begin")))
        assert delivery == Delivery(Verdict.ABSENT)
        assert await session.load("nobody") == row
        assert [(message.data, message.start) for message in await session.receive()] == [(b"begin", row)]

    async def test_what_is_written_in_place_is_written_once(self, store: Store) -> None:
        session = await store.worker()
        await session.start("sender")
        messages = [event_to("nobody", otherwise=event_to("sender", b"it is not there"))]
        for _ in range(3):
            session.submits = 1
            await session.submit(*messages)
        assert [message.data for message in await session.receive()] == [b"it is not there"]

    # ---- many messages

    async def test_each_message_has_its_own_verdict(self, store: Store) -> None:
        session = await store.worker()
        row = new_row("one")
        deliveries = await session.submit(
            event_to("one"), start_of(row), event_to("one"), start_of(new_row("one")), event_to("two")
        )
        verdicts = [delivery.verdict for delivery in deliveries]
        assert verdicts == [Verdict.ABSENT, Verdict.STORED, Verdict.STORED, Verdict.EXISTS, Verdict.ABSENT]
        assert [message.sequence for message in await session.receive()] == [
            d.sequence for d in deliveries if d.sequence
        ]

    async def test_a_repeated_submit_is_recognised(self, store: Store) -> None:
        session = await store.worker()
        messages = [start_of(new_row("once")), event_to("once"), event_to("nobody")]
        first = await session.submit(*messages)
        session.submits -= 1
        again = await session.submit(*messages)
        assert [delivery[:2] for delivery in again] == [delivery[:2] for delivery in first]
        assert len(await session.receive()) == 2

    async def test_a_submit_is_recognised_by_another_who_has_opened_the_store(self, store: Store) -> None:
        # A connection breaks before the answer; the client connects again and repeats what it does not know of.
        worker = await store.worker()
        client = await store.client()
        first = await client.submit(start_of(new_row("once")), event_to("once"))
        again = await (await store.open()).submit(client.lease, 1, [start_of(new_row("once")), event_to("once")])
        assert [delivery[:2] for delivery in again] == [delivery[:2] for delivery in first]
        assert len(await worker.receive()) == 2

    async def test_an_older_submit_is_not_stored_again(self, store: Store) -> None:
        session = await store.worker()
        await session.submit(start_of(new_row("first")))
        await session.submit(start_of(new_row("second")))
        with pytest.raises(StoreError):
            await session.provider.submit(session.lease, 1, [start_of(new_row("third"))])
        assert await session.find("third") is None

    async def test_submits_and_commits_are_counted_apart(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("counted")
        await session.submit(event_to("counted"))
        await session.submit(event_to("counted"))
        await session.commit(step_of(row, b"record"))
        assert len(await session.receive()) == 2

    async def test_each_lease_counts_for_itself(self, store: Store) -> None:
        worker = await store.worker()
        await worker.start("busy")
        clients = [await store.client(worker.provider) for _ in range(3)]
        for client in clients:
            assert (await _only(client, event_to("busy"))).verdict is Verdict.STORED
        assert len(await worker.receive()) == 3

    async def test_a_submit_of_nothing_is_a_submit(self, store: Store) -> None:
        session = await store.client()
        assert list(await session.submit()) == []
        assert (await _only(session, start_of(new_row("next")))).verdict is Verdict.STORED

    async def test_a_client_is_not_fenced(self, store: Store) -> None:
        session = await store.worker()
        client = await store.client()
        store.turn_clock(60 * SECOND_US)
        assert (await _only(client, start_of(new_row("after a minute")))).verdict is Verdict.STORED
        store.turn_clock(24 * LATER_US)
        await session.provider.renew(session.lease)
        assert (await _only(client, start_of(new_row("late")))).verdict is Verdict.STORED

    async def test_a_forgotten_client_goes_on_with_its_next_submit(self, store: Store) -> None:
        session = await store.worker()
        client = await store.client()
        await client.submit(start_of(new_row("early")))
        store.turn_clock(24 * LATER_US)
        for _ in range(3):
            await session.provider.renew(session.lease)
        for key_id in ("late", "later"):
            assert (await _only(client, start_of(new_row(key_id)))).verdict is Verdict.STORED

    async def test_a_lost_lease_may_submit_and_stays_lost(self, store: Store) -> None:
        session, other = await store.worker(), await store.worker(())
        await session.provider.release(session.lease)
        assert (await _only(session, start_of(new_row("late")))).verdict is Verdict.STORED
        with pytest.raises(LeaseLostError):
            await session.provider.renew(session.lease)
        with pytest.raises(LeaseLostError):
            await session.provider.take(session.lease, [1])
        with pytest.raises(LeaseLostError):
            await session.commit()
        with pytest.raises(LeaseLostError):
            await session.claim()
        assert set((await other.provider.renew(other.lease)).unowned) == set(range(PARTITIONS))

    # ---- receiving

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

    async def test_whatever_is_held_is_passed_over(self, store: Store) -> None:
        session = await store.worker()
        await session.start("instance")
        deliveries = await session.submit(
            event_to("instance", b"control", priority=Priority.CONTROL),
            event_to("instance", b"delayed", visible_at=store.now + SECOND_US),
            event_to("instance", b"normal"),
        )
        store.turn_clock(SECOND_US)
        sequences = [delivery.sequence for delivery in deliveries]
        for held in ([], sequences[:1], sequences[1:2], sequences[:2], sequences):
            received = [message.sequence for message in await session.receive(held)]
            assert received == [sequence for sequence in sequences if sequence not in held]

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

    async def test_sequences_go_on_for_the_next_who_opens(self, store: Store) -> None:
        worker = await store.worker()
        await worker.start("instance")
        seen: list[int] = []
        for _ in range(3):
            client = await store.client()
            seen += [delivery.sequence for delivery in await client.submit(*[event_to("instance")] * 2)]
            await client.provider.close()
            await worker.commit(consumed=seen)
        assert seen == sorted(set(seen))

    # ---- a message in the place of another

    async def test_a_start_may_be_stored_again_in_its_place(self, store: Store) -> None:
        # The run that it was to replace has ended by itself: what came after it comes after it still.
        session = await store.worker()
        old, new = await session.start("instance"), new_row("instance")
        await session.submit(event_to("instance", b"before"))
        start = await _only(session, start_of(new, Expects.ANY, data=b"start"))
        await session.submit(event_to("instance", b"after", run_id=new.run_id))
        await session.finish(old)
        again = start_of(new, Expects.ANY, data=b"again", in_place_of=start.sequence)
        committed = await session.commit(consumed=[start.sequence], messages=[again])
        assert list(committed.deliveries) == [Delivery(Verdict.STORED, start.sequence)]
        assert (await session.load("instance")).run_id == new.run_id
        received = await session.receive()
        assert [message.data for message in received] == [b"before", b"again", b"after"]
        assert (received[1].sequence, received[1].priority) == (start.sequence, Priority.NORMAL)
        session.commits -= 1
        repeated = await session.commit(consumed=[start.sequence], messages=[again])
        assert [delivery[:2] for delivery in repeated.deliveries] == [(Verdict.STORED, start.sequence)]
        assert await session.receive() == received
        later = await _only(session, event_to("instance"))
        assert later.sequence > received[-1].sequence

    async def test_a_start_stored_again_goes_on_waiting_where_another_run_has_begun(self, store: Store) -> None:
        session = await store.worker()
        old, new = await session.start("instance"), new_row("instance", parked_until=store.now + LATER_US)
        start = await _only(session, start_of(new, Expects.ANY, data=b"start"))
        await session.finish(old)
        between = await _only(session, start_of(new_row("instance"), Expects.ABSENT_OR_FINISHED, data=b"between"))
        again = start_of(new, Expects.ANY, data=b"again", in_place_of=start.sequence)
        await session.commit(consumed=[start.sequence], messages=[again])
        received = [(message.sequence, message.data, message.priority) for message in await session.receive()]
        assert received == [
            (start.sequence, b"again", Priority.CONTROL),
            (between.sequence, b"between", Priority.NORMAL),
        ]
        assert await session.load("instance", new.run_id) == new

    async def test_a_start_stored_again_waits_with_what_came_after_it_until_it_is_due(self, store: Store) -> None:
        session = await store.worker()
        old = await session.start("instance")
        due = store.now + LATER_US
        new = new_row("instance", parked_until=due, scheduled_at=due)
        start = await _only(session, start_of(new, Expects.ANY, data=b"start"))
        await session.submit(
            event_to("instance", b"after", run_id=new.run_id),
            event_to("instance", b"cancel", run_id=new.run_id, priority=Priority.CONTROL),
        )
        await session.finish(old)
        again = start_of(new, Expects.ANY, data=b"again", in_place_of=start.sequence)
        await session.commit(consumed=[start.sequence], messages=[again])
        await session.submit(event_to("instance", b"last"))
        assert await _data(session) == [b"cancel"]
        store.turn_clock(LATER_US)
        assert await _data(session) == [b"cancel", b"again", b"after", b"last"]
