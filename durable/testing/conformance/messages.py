"""Promises about `submit`: what a message expects of its target, and what becomes of it."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from durable.errors import StoreError
from durable.events import InstanceKey
from durable.provider import Delivery, Expects, InstanceRow, Memo, Message, Priority, Status, Verdict
from durable.testing.conformance.store import (
    LATER_US,
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

# Ids that a careless store takes for one another, or for something else than text.
ODD_IDS = (
    *("a", "A", "a ", " a", "a\n", "é", "e\u0301", "ß", "ss", "x" * 512, "日本語", "😀"),
    *("%", "_", "a%", "a_", "*", "?", "[a]", "{a}", "$1", ":a", "@a", "#a", "'", '"', "--", ";", "\\"),
    *(".", "..", "../a", "/", "a/b", "a.b", "a>b", "0", "00", "1", "1.0", "1e0", "0x1", "None", "null", "true"),
    *("\x01", "\x7f", "\u200b", "\ufeff", "\ud7ff", "\ue000", "\U0010ffff"),
)


async def _only(session: Session, message: Message) -> Delivery:
    [delivery] = await session.submit(message)
    return delivery


def _child(key_id: str, **columns: Any) -> InstanceRow:
    parent: dict[str, Any] = {"parent": InstanceKey("parent"), "parent_run_id": "run of parent", "parent_task": "0/7"}
    return new_row(key_id, **(parent | columns))


class Messages(Promises):
    """`submit`, and the verdicts of messages wherever they come from."""

    # ---- starts

    async def test_a_start_creates_its_row(self, store: Store) -> None:
        session = await store.worker()
        row = new_row("new", input=b"input", tags={"a": "1", "b": ""}, version="1.2", parked_until=0)
        delivery = await _only(session, start_of(row))
        assert (delivery.verdict, delivery.row) == (Verdict.STORED, None)
        assert await session.load("new") == row
        [message] = await session.receive()
        assert (message.sequence, message.start, message.data) == (delivery.sequence, row, start_of(row).data)

    async def test_every_column_of_a_row_is_kept(self, store: Store) -> None:
        session = await store.worker()
        row = _child(
            "full",
            input=b"\x00input" * 1000,
            output=b"",
            custom_status=b"status" * 999,
            failure=b"failure",
            stall_reason="why\nnot",
            completed_at=5,
            tags={"ключ": "значение", "": "", "a": "%"},
            due_at=7,
            open_work=8,
            parked_until=9,
            state=b"state",
            generation=10,
            records=11,
            chain=b"\xff" * 32,
            version="1.0",
            slow_turns=12,
            slow_since=13,
            status=Status.SUSPENDED,
        )
        await session.submit(start_of(row))
        assert await session.load("full") == row

    async def test_an_id_in_use_is_refused_with_its_row(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("taken")
        for expects in (Expects.ABSENT, Expects.ABSENT_OR_FINISHED):
            delivery = await _only(session, start_of(new_row("taken"), expects))
            assert (delivery.verdict, delivery.row) == (Verdict.EXISTS, row)
        row = await session.finish(row)
        delivery = await _only(session, start_of(new_row("taken"), Expects.ABSENT))
        assert (delivery.verdict, delivery.row) == (Verdict.EXISTS, row)
        assert not await session.receive()

    @pytest.mark.parametrize("expects", [Expects.ABSENT, Expects.ABSENT_OR_FINISHED, Expects.ANY])
    async def test_every_kind_of_start_takes_a_free_id(self, store: Store, expects: Expects) -> None:
        session = await store.worker()
        row = new_row("free")
        assert (await _only(session, start_of(row, expects))).verdict is Verdict.STORED
        assert await session.load("free") == row

    @pytest.mark.parametrize("expects", [Expects.ABSENT_OR_FINISHED, Expects.ANY])
    async def test_a_finished_run_is_replaced_and_kept(self, store: Store, expects: Expects) -> None:
        session = await store.worker()
        old = await session.finish(await session.start("again", tags={"run": "old"}), appends=())
        new = new_row("again", tags={"run": "new"})
        delivery = await _only(session, start_of(new, expects))
        assert delivery.verdict is Verdict.STORED
        assert await session.load("again") == new
        assert await session.load("again", old.run_id) == old
        [message] = await session.receive()
        assert (message.start, message.priority) == (new, Priority.NORMAL)

    async def test_an_unfinished_run_is_replaced_by_its_owner(self, store: Store) -> None:
        session = await store.worker()
        old = await session.start("busy")
        new = new_row("busy", input=b"new input" * 200)
        delivery = await _only(session, start_of(new, Expects.ANY))
        assert delivery.verdict is Verdict.STORED
        assert await session.load("busy") == old
        assert await session.load("busy", new.run_id) == new
        [message] = await session.receive()
        assert (message.priority, message.start) == (Priority.CONTROL, new)
        step = end_of(old, status=Status.TERMINATED, consumed=[message.sequence], replaced_by=new)
        await session.commit(step)
        assert await session.load("busy") == new
        assert (await session.load("busy", old.run_id)).status is Status.TERMINATED
        await session.commit(step_of(new, b"begun"))

    async def test_a_start_that_its_owner_drops_leaves_nothing(self, store: Store) -> None:
        session = await store.worker()
        old = await session.start("busy")
        new = new_row("busy")
        delivery = await _only(session, start_of(new, Expects.ANY))
        await session.commit(step_of(old, consumed=[delivery.sequence]))
        assert await session.find("busy", new.run_id) is None

    async def test_the_same_request_of_a_parent_is_adopted(self, store: Store) -> None:
        session = await store.worker()
        first = _child("child")
        await session.submit(start_of(first))
        never = memo("never", expires_at=store.now + LATER_US)
        delivery = await _only(session, start_of(_child("child"), otherwise=never))
        assert (delivery.verdict, delivery.row) == (Verdict.ADOPTED, first)
        assert len(await session.receive()) == 1
        assert not await session.memos()

    async def test_a_child_of_another_is_not_adopted(self, store: Store) -> None:
        session = await store.worker()
        await session.submit(start_of(_child("child")), start_of(new_row("nobody's")))
        others = (_child("child", parent_run_id="other"), _child("child", parent_task="0/8"), new_row("child"))
        for row in others:
            assert (await _only(session, start_of(row))).verdict is Verdict.EXISTS
        assert (await _only(session, start_of(new_row("nobody's")))).verdict is Verdict.EXISTS
        assert (await _only(session, start_of(_child("nobody's")))).verdict is Verdict.EXISTS

    async def test_ids_are_byte_exact(self, store: Store) -> None:
        session = await store.worker()
        rows = [new_row(key_id, input=key_id.encode()) for key_id in ODD_IDS]
        deliveries = await session.submit(*map(start_of, rows))
        assert {delivery.verdict for delivery in deliveries} == {Verdict.STORED}
        for row in rows:
            assert await session.load(row.key.id) == row
        assert sorted(message.target.id for message in await session.receive()) == sorted(row.key.id for row in rows)

    async def test_kinds_keep_ids_apart(self, store: Store) -> None:
        session = await store.worker()
        rows = [new_row("same", kind=kind) for kind in ("o", "O", "entity")]
        await session.submit(*map(start_of, rows))
        assert [await session.load("same", kind=row.key.kind) for row in rows] == rows

    # ---- events

    async def test_an_event_needs_an_unfinished_target(self, store: Store) -> None:
        session = await store.worker()
        assert await _only(session, event_to("nobody")) == Delivery(Verdict.ABSENT)
        row = await session.start("somebody")
        assert (await _only(session, event_to("somebody"))).verdict is Verdict.STORED
        row = await session.finish(row)
        assert await _only(session, event_to("somebody")) == Delivery(Verdict.FINISHED, 0, row)

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

    # ---- otherwise

    async def test_a_memo_is_written_in_place_of_an_undeliverable_message(self, store: Store) -> None:
        session = await store.worker()
        await session.start("there")
        instead = memo("undelivered", b"event", expires_at=store.now + LATER_US)
        await session.submit(event_to("there", otherwise=instead))
        assert not await session.memos()
        await session.submit(event_to("nobody", otherwise=instead))
        assert await session.memos() == {"undelivered": b"event"}

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

    async def test_a_client_is_not_fenced(self, store: Store) -> None:
        session = await store.worker()
        client = await store.client()
        store.turn_clock(24 * LATER_US)
        await session.provider.renew(session.lease)
        assert (await _only(client, start_of(new_row("late")))).verdict is Verdict.STORED

    async def test_messages_of_many_clients_at_once_are_all_stored(self, store: Store) -> None:
        worker = await store.worker()
        await worker.start("busy")
        clients = [await store.client() for _ in range(3)]

        async def send(client: Session) -> list[int]:
            found = []
            for _ in range(20):
                found += [delivery.sequence for delivery in await client.submit(event_to("busy"), event_to("busy"))]
            return found

        sent = await asyncio.gather(*map(send, clients))
        assert all(sequences == sorted(sequences) for sequences in sent)
        received = [message.sequence for message in await worker.receive()]
        assert received == sorted(sequence for sequences in sent for sequence in sequences)
        assert len(set(received)) == 120

    async def test_two_who_start_the_same_id_do_not_both_succeed(self, store: Store) -> None:
        clients = [await store.client() for _ in range(3)]
        answers = await asyncio.gather(*(client.submit(start_of(new_row("one"))) for client in clients))
        verdicts = sorted(delivery.verdict for [delivery] in answers)
        assert verdicts == [Verdict.STORED, Verdict.EXISTS, Verdict.EXISTS]

    async def test_a_memo_in_place_of_a_start_whose_id_is_in_use(self, store: Store) -> None:
        session = await store.worker()
        await session.start("taken")
        instead: Memo = memo("instead", expires_at=store.now + LATER_US)
        await session.submit(dataclasses.replace(start_of(new_row("taken")), otherwise=instead))
        assert list(await session.memos()) == ["instead"]
