"""Promises about instances: how a run begins, is found, ends, gives place to another, and is removed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from durable.errors import LeaseLostError
from durable.events import InstanceKey
from durable.provider import (
    PARTITIONS,
    Beat,
    Delivery,
    Expects,
    InstanceFilter,
    InstanceRow,
    Message,
    Priority,
    RecordRow,
    Report,
    Status,
    Verdict,
)
from durable.testing.conformance.store import (
    LATER_US,
    Promises,
    Session,
    Store,
    attempt_of,
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

# Bytes that a careless store takes for text, for nothing, or for something of its own.
OPAQUE = (b"", b"\x00", b"\xff\xfe\x80", b"{}", b"null", b"'; DROP TABLE runs; --", b"\r\n", bytes(range(256)) * 9)

_PARENT: dict[str, Any] = {"parent": InstanceKey("parent"), "parent_run_id": "run of parent", "parent_task": "0/7"}


async def _only(session: Session, message: Message) -> Delivery:
    [delivery] = await session.submit(message)
    return delivery


def _child(key_id: str, **columns: Any) -> InstanceRow:
    return new_row(key_id, **(_PARENT | columns))


def _going_on(row: InstanceRow) -> InstanceRow:
    """Return the row of a run that goes on after its end."""
    empty: dict[str, Any] = {"records": 0, "chain": b"", "output": None, "completed_at": None}
    return dataclasses.replace(row, status=Status.PENDING, generation=row.generation + 1, **empty)


async def _listed(session: Session) -> list[InstanceRow]:
    return list((await session.provider.list_instances(InstanceFilter(), limit=100)).rows)


class Instances(Promises):
    """Starts, replacement, final statuses, purge; and that only a commit changes what is unfinished."""

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

    async def test_a_child_that_has_ended_is_adopted_all_the_same(self, store: Store) -> None:
        session = await store.worker()
        ended = await session.finish(await session.start("child", **_PARENT))
        delivery = await _only(session, start_of(_child("child")))
        assert delivery == Delivery(Verdict.ADOPTED, 0, ended)
        assert not await session.receive()

    async def test_only_a_start_that_wants_a_free_id_is_adopted(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("child", **_PARENT)
        delivery = await _only(session, start_of(_child("child"), Expects.ABSENT_OR_FINISHED))
        assert (delivery.verdict, delivery.row) == (Verdict.EXISTS, row)
        await session.finish(row)
        again = _child("child")
        delivery = await _only(session, start_of(again, Expects.ABSENT_OR_FINISHED))
        assert (delivery.verdict, await session.load("child")) == (Verdict.STORED, again)

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

    async def test_what_is_opaque_comes_back_as_it_went_in(self, store: Store) -> None:
        session = await store.worker()
        for place, data in enumerate(OPAQUE):
            columns: dict[str, Any] = dict.fromkeys(
                ("input", "output", "custom_status", "failure", "state", "chain"), data
            )
            row = new_row(f"i{place}", **columns)
            [start] = await session.submit(start_of(row, data=data))
            assert await session.load(row.key.id) == row
            later = memo(f"memo{place}", data, expires_at=store.now + LATER_US)
            record = [(0, RecordRow(0, data, data))]
            add = attempt_of(row, data=data)
            step = step_of(row, records=1, chain=data, state=data, appends=record, queue_adds=[add])
            [message] = await session.receive()
            assert (message.sequence, message.data) == (start.sequence, data)
            await session.commit(dataclasses.replace(step, consumed=[start.sequence]), memos=[later])
            after = await session.load(row.key.id)
            assert (after.chain, after.state, after.input) == (data, data, data)
            assert list(await session.provider.read_history(row.run_id, 0)) == [record[0][1]]
            assert await session.memos(later.key) == {later.key: data}
            assert [found.data for found in await session.claim()] == [data]

    async def test_hubs_do_not_see_each_other(self, store: Store, other_hub: Store) -> None:
        here, there = await store.worker(), await other_hub.worker()
        row = await here.start("same", tags={"a": "1"})
        other = await there.start("same", input=b"other")
        await here.commit(
            step_of(row, b"record", due_at=5, open_work=1, queue_adds=[attempt_of(row)]),
            memos=[memo("memo", expires_at=store.now + LATER_US)],
        )
        await here.submit(event_to("same"))
        assert await there.load("same") == other
        assert await there.find("same", row.run_id) is None
        assert not await there.history(row.run_id)
        assert not await there.memos()
        assert not await there.claim()
        received = await there.received(due_before=LATER_US)
        assert (list(received.messages), list(received.due)) == ([], [])
        assert not await there.provider.recover(there.lease, range(PARTITIONS))
        assert not (await there.provider.renew(there.lease)).others
        assert [found.key.id for found in await _listed(there)] == ["same"]
        assert await there.provider.count(InstanceFilter(tags={"a": "1"})) == 0
        assert await there.provider.purge([(row.key, row.run_id)]) == 0

    # ---- one writer

    @pytest.mark.parametrize("status", [Status.PENDING, Status.RUNNING, Status.SUSPENDED, Status.STALLED])
    async def test_nothing_but_a_commit_changes_an_unfinished_instance(self, store: Store, status: Status) -> None:
        session, client = await store.worker(), await store.client()
        row = await session.start("instance", **_PARENT)
        await session.commit(step_of(row, b"record", status=status, queue_adds=[attempt_of(row)], open_work=1))
        row = await session.load("instance")
        [claimed] = await session.claim()
        await client.submit(
            event_to("instance"),
            event_to("instance", priority=Priority.CONTROL, run_id=row.run_id),
            *(start_of(new_row("instance", input=b"other"), expects) for expects in Expects if expects),
            start_of(_child("instance")),
        )
        outcome = Report(claimed.task, event_to("instance", b"outcome", run_id=row.run_id))
        await session.provider.report(session.lease, [], [Beat(claimed.task, b"beat")])
        await session.provider.report(session.lease, [outcome])
        await session.receive()
        await session.provider.recover(session.lease, range(PARTITIONS))
        await session.provider.renew(session.lease)
        await client.provider.purge([(row.key, row.run_id)])
        await session.provider.release(session.lease, [row.partition])
        await session.provider.take(session.lease, [row.partition])
        assert await session.load("instance") == row
        assert await session.history(row.run_id) == [b"record"]

    @pytest.mark.parametrize("status", [status for status in Status if status.is_finished])
    async def test_what_has_ended_stays_as_it_is(self, store: Store, status: Status) -> None:
        session = await store.worker()
        row = await session.start("instance")
        end = end_of(row, b"last", status=status, due_at=5, open_work=3, queue_adds=[attempt_of(row)])
        await session.commit(end)
        ended = await session.load("instance")
        assert ended.status is status
        with pytest.raises(LeaseLostError):
            await session.commit(step_of(ended, b"late"))
        with pytest.raises(LeaseLostError):
            session.provider.mark_slow_turn(session.lease, row.key, row.run_id)
        assert (await _only(session, event_to("instance"))) == Delivery(Verdict.FINISHED, 0, ended)
        received = await session.received(due_before=10)
        assert (list(received.messages), list(received.due)) == ([], [])
        assert not await session.provider.recover(session.lease, range(PARTITIONS))
        assert not await session.claim()
        assert await session.load("instance") == ended
        assert await session.history(row.run_id) == [b"last"]

    # ---- replacement

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

    async def test_a_replaced_run_is_kept_and_the_new_one_takes_its_place(self, store: Store) -> None:
        session = await store.worker()
        old = await session.start("instance", tags={"run": "old"})
        await session.commit(step_of(old, b"old record"))
        old = await session.load("instance")
        new = new_row("instance", tags={"run": "new"}, input=b"new" * 500, open_work=1)
        await session.commit(end_of(old, b"last", status=Status.TERMINATED, replaced_by=new))
        assert await session.load("instance") == new
        ended = await session.load("instance", old.run_id)
        assert (ended.status, ended.output, ended.records) == (Status.TERMINATED, b"output", 2)
        assert await session.history(old.run_id) == [b"old record", b"last"]
        for name, expected in (("old", 0), ("new", 1)):
            assert await session.provider.count(InstanceFilter(tags={"run": name})) == expected
        assert await session.provider.count(InstanceFilter()) == 1
        with pytest.raises(LeaseLostError):
            await session.commit(step_of(ended, b"late"))
        await session.commit(step_of(new, b"new record"))

    # ---- going on

    async def test_a_run_that_has_ended_goes_on(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("again", input=b"input" * 500, tags={"a": "1"})
        row = await session.finish(row, b"first", changes={"output": b"output" * 500})
        await session.commit(memos=[memo(f"run/{row.run_id}/note", expires_at=store.now + LATER_US)])
        later = _going_on(row)
        assert (await _only(session, start_of(later, Expects.ENDED))).verdict is Verdict.STORED
        assert await session.load("again") == await session.load("again", row.run_id) == later
        assert await session.history(row.run_id) == [b"first"]
        assert list(await session.memos()) == [f"run/{row.run_id}/note"]
        assert (await session.provider.list_instances(InstanceFilter(tags={"a": "1"}), limit=9)).rows == [later]
        [message] = await session.receive()
        assert (message.start, message.priority) == (later, Priority.NORMAL)
        await session.commit(step_of(later, b"second", consumed=[message.sequence]))
        assert await session.history(row.run_id, later.generation) == [b"second"]
        [delivery] = await session.submit(event_to("again"))
        assert delivery.verdict is Verdict.STORED

    async def test_a_run_goes_on_only_after_its_end(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("again")
        never = memo("never", expires_at=store.now + LATER_US)
        assert (await _only(session, start_of(_going_on(row), Expects.ENDED))).verdict is Verdict.EXISTS
        assert await session.load("again") == row
        row = await session.finish(row)
        same_generation = dataclasses.replace(_going_on(row), generation=row.generation)
        for start in (same_generation, _going_on(new_row("again"))):
            delivery = await _only(session, start_of(start, Expects.ENDED))
            assert (delivery.verdict, delivery.row) == (Verdict.EXISTS, row)
        delivery = await _only(session, start_of(_going_on(new_row("nobody")), Expects.ENDED, otherwise=never))
        assert (delivery.verdict, delivery.row) == (Verdict.ABSENT, None)
        assert list(await session.memos()) == ["never"]
        assert not await session.receive()

    async def test_a_run_that_was_replaced_does_not_go_on(self, store: Store) -> None:
        session = await store.worker()
        row = await session.finish(await session.start("again"))
        [delivery] = await session.submit(start_of(new_row("again"), Expects.ABSENT_OR_FINISHED))
        current = await session.load("again")
        assert (await _only(session, start_of(_going_on(row), Expects.ENDED))).verdict is Verdict.EXISTS
        current = await session.finish(current, consumed=[delivery.sequence])
        assert (await _only(session, start_of(_going_on(row), Expects.ENDED))).verdict is Verdict.EXISTS
        assert (await _only(session, start_of(_going_on(current), Expects.ENDED))).verdict is Verdict.STORED
        assert await session.load("again", row.run_id) == row  # what it had replaced stays an ended run

    async def test_a_run_goes_on_by_a_commit_too(self, store: Store) -> None:
        session = await store.worker()
        row = await session.finish(await session.start("again"))
        committed = await session.commit(messages=[start_of(_going_on(row), Expects.ENDED)])
        assert [delivery.verdict for delivery in committed.deliveries] == [Verdict.STORED]
        assert await session.load("again") == _going_on(row)

    async def test_a_run_found_under_another_id_is_not_it(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        await session.start("other")
        assert await session.find("other", row.run_id) is None
        await session.commit(end_of(row, replaced_by=new_row("instance")))
        assert await session.find("other", row.run_id) is None
        assert await session.find("instance", row.run_id) is not None

    # ---- purge

    async def test_an_unfinished_run_is_not_removed(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("running")
        assert await session.provider.purge([(row.key, row.run_id), (InstanceKey("nobody"), "no run")]) == 0
        assert await session.load("running") == row

    async def test_a_removed_run_leaves_nothing(self, store: Store) -> None:
        session = await store.worker()
        later = store.now + LATER_US
        row = await session.start("done", input=b"i" * 5000, tags={"a": "b"})
        other = await session.start("other")
        await session.submit(
            event_to("done", b"unread"), event_to("done", visible_at=later), event_to("other", b"other")
        )
        mine, theirs = memo(f"run/{row.run_id}/x", expires_at=later), memo(f"run/{row.run_id}0/x", expires_at=later)
        await session.commit(end_of(row, b"record"), memos=[mine, theirs])
        assert await session.provider.purge([(row.key, "another run")]) == 0
        assert await session.provider.purge([(row.key, row.run_id)]) == 1
        assert await session.find("done") is None
        assert await session.find("done", row.run_id) is None
        assert not await session.history(row.run_id)
        assert list(await session.memos()) == [theirs.key]
        assert await session.provider.count(InstanceFilter(tags={"a": "b"})) == 0
        assert [message.data for message in await session.receive()] == [b"other"]
        store.turn_clock(LATER_US)
        await session.provider.renew(session.lease)
        assert [message.data for message in await session.receive()] == [b"other"]
        assert await session.provider.purge([(row.key, row.run_id)]) == 0
        assert await session.load("other") == other

    async def test_an_id_is_free_after_a_purge_and_inherits_nothing(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("again")
        await session.submit(event_to("again", b"old"))
        row = await session.finish(row)
        await session.provider.purge([(row.key, row.run_id)])
        [delivery] = await session.submit(start_of(new_row("again"), data=b"new"))
        assert delivery.verdict is Verdict.STORED
        assert [message.data for message in await session.receive()] == [b"new"]

    async def test_earlier_runs_go_with_a_removed_one(self, store: Store) -> None:
        session = await store.worker()
        rows = []
        for _ in range(4):
            row = new_row("often")
            [delivery] = await session.submit(start_of(row, Expects.ABSENT_OR_FINISHED))
            await session.commit(end_of(row, b"record", consumed=[delivery.sequence]))
            rows.append(await session.load("often"))
        assert await session.provider.purge([(rows[1].key, rows[1].run_id)]) == 1
        found = [await session.find("often", row.run_id) for row in rows]
        assert found == [None, None, rows[2], rows[3]]
        assert await session.provider.purge([(rows[3].key, rows[3].run_id)]) == 1
        assert [await session.find("often", row.run_id) for row in rows] == [None] * 4
        assert [await session.history(row.run_id) for row in rows] == [[]] * 4

    async def test_an_ended_run_can_be_removed_while_the_next_one_runs(self, store: Store) -> None:
        session = await store.worker()
        old = await session.finish(await session.start("busy"))
        new = new_row("busy")
        await session.submit(start_of(new, Expects.ABSENT_OR_FINISHED))
        assert await session.provider.purge([(old.key, old.run_id), (new.key, new.run_id)]) == 1
        assert await session.find("busy", old.run_id) is None
        assert await session.load("busy") == new
        assert len(await session.receive()) == 1

    async def test_a_run_whose_place_a_start_waits_for_is_not_removed(self, store: Store) -> None:
        # Who sent that start was told that it is stored: it must not vanish with the run before it.
        session = await store.worker()
        row, new = await session.start("busy"), new_row("busy")
        [start] = await session.submit(start_of(new, Expects.ANY))
        row = await session.finish(row)
        assert await session.provider.purge([(row.key, row.run_id)]) == 0
        assert (await session.load("busy"), await session.load("busy", new.run_id)) == (row, new)
        assert [message.sequence for message in await session.receive()] == [start.sequence]
        await session.commit(consumed=[start.sequence], messages=[start_of(new, Expects.ANY)])
        assert await session.load("busy") == new
        assert await session.provider.purge([(row.key, row.run_id)]) == 1

    async def test_a_start_that_came_too_late_goes_with_its_run(self, store: Store) -> None:
        session = await store.worker()
        row = new_row("never")
        await session.submit(start_of(row, visible_at=store.now + LATER_US))
        await session.commit(end_of(row, status=Status.TERMINATED))
        assert await session.provider.purge([(row.key, row.run_id)]) == 1
        store.turn_clock(LATER_US)
        await session.provider.renew(session.lease)
        assert not await session.receive()

    async def test_an_earlier_start_that_came_too_late_holds_nobody_back(self, store: Store) -> None:
        session = await store.worker()
        row = new_row("instance")
        await session.submit(start_of(row, visible_at=store.now + LATER_US))
        await session.commit(end_of(row, status=Status.TERMINATED))
        new = new_row("instance")
        [start] = await session.submit(start_of(new, Expects.ABSENT_OR_FINISHED))
        await session.commit(end_of(new, consumed=[start.sequence]))
        assert await session.provider.purge([(new.key, new.run_id)]) == 1
        assert await session.find("instance", row.run_id) is None

    async def test_a_run_is_removed_once(self, store: Store) -> None:
        session = await store.worker()
        row, other = await session.finish(await session.start("one")), await session.finish(await session.start("two"))
        twice = [(row.key, row.run_id), (row.key, row.run_id), (other.key, other.run_id)]
        assert await session.provider.purge(twice) == 2
        assert await session.provider.purge(twice) == 0
        assert await session.provider.purge([]) == 0

    async def test_a_run_of_another_id_or_kind_is_not_removed(self, store: Store) -> None:
        session = await store.worker()
        row = await session.finish(await session.start("one"))
        others = (InstanceKey("two"), InstanceKey("one", "other"))
        assert await session.provider.purge([(key, row.run_id) for key in others]) == 0
        assert await session.load("one") == row
