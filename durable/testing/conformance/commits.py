"""Promises about `commit`: all or nothing, behind a fence, once."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from durable.errors import LeaseLostError, StoreError
from durable.events import InstanceKey
from durable.provider import (
    Batch,
    Belief,
    Delivery,
    Expects,
    InstanceFilter,
    InstanceRow,
    Progress,
    RecordRow,
    Status,
    Step,
    Verdict,
)
from durable.testing.conformance.store import (
    LATER_US,
    SECOND_US,
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


class Commits(Promises):
    """`commit`."""

    async def test_a_step_writes_progress_records_and_changes_together(self, store: Store) -> None:
        session = await store.worker()
        row = new_row("instance", input=b"input")
        [start] = await session.submit(start_of(row))
        progress = Progress(
            generation=3,
            records=2,
            chain=b"chain",
            status=Status.SUSPENDED,
            updated_at=42,
            due_at=43,
            open_work=44,
            parked_until=0,
            state=b"state",
        )
        step = step_of(row, b"one", b"two", changes={"custom_status": b"half", "stall_reason": "why"})
        committed = await session.commit(dataclasses.replace(step, progress=progress, consumed=[start.sequence]))
        assert (committed.now, list(committed.deliveries), dict(committed.refused)) == (store.now, [], {})
        expected = dataclasses.replace(
            row, **dataclasses.asdict(progress) | {"custom_status": b"half", "stall_reason": "why"}
        )
        assert await session.load("instance") == expected
        assert await session.history(row.run_id) == [b"one", b"two"]
        assert not await session.receive()

    async def test_every_further_column_can_be_changed(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance", tags={"old": "1"}, input=b"old")
        changes: dict[str, Any] = {
            "name": "other name",
            "version": "2",
            "created_at": 1,
            "scheduled_at": 2,
            "input": b"i" * 3000,
            "output": b"o" * 3000,
            "custom_status": b"c" * 3000,
            "failure": b"f" * 3000,
            "stall_reason": "reason",
            "completed_at": 3,
            "parent": InstanceKey("parent", "kind"),
            "parent_run_id": "parent run",
            "parent_task": "0/1",
            "tags": {"new": "2", "more": "3"},
        }
        await session.commit(step_of(row, changes=changes))
        changed = await session.load("instance")
        assert {name: getattr(changed, name) for name in changes} == changes
        emptied: dict[str, Any] = dict.fromkeys(changes) | {"name": "n", "created_at": 1, "scheduled_at": 1, "tags": {}}
        await session.commit(step_of(changed, changes=emptied))
        changed = await session.load("instance")
        assert {name: getattr(changed, name) for name in emptied} == emptied

    async def test_changed_tags_are_found_and_former_ones_are_not(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance", tags={"colour": "red"})
        await session.commit(step_of(row, changes={"tags": {"colour": "blue"}}))
        counts = [await session.provider.count(InstanceFilter(tags={"colour": name})) for name in ("red", "blue")]
        assert counts == [0, 1]

    async def test_an_unknown_column_is_an_error_and_writes_nothing(self, store: Store) -> None:
        session = await store.worker()
        rows = [await session.start("one"), await session.start("two")]
        for changes in ({"colour": 1}, {"run_id": "other"}, {"key": InstanceKey("x")}, {"partition": 1}):
            with pytest.raises(StoreError):
                await session.commit(step_of(rows[0], b"record"), step_of(rows[1], changes=changes))
        assert [await session.load("one"), await session.load("two")] == rows
        assert not await session.history(rows[0].run_id)

    async def test_many_instances_in_one_commit(self, store: Store) -> None:
        session = await store.worker()
        rows = [await session.start(f"i{place}") for place in range(100)]
        for turn in range(3):
            await session.commit(*(step_of(row, b"record", open_work=turn) for row in rows))
            rows = [await session.load(row.key.id) for row in rows]
        assert {row.records for row in rows} == {3}
        assert [await session.history(row.run_id) for row in rows] == [[b"record"] * 3] * 100

    async def test_generations_are_histories_of_their_own(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        await session.commit(
            step_of(
                row,
                appends=[(0, RecordRow(0, b"last", b"")), (1, RecordRow(0, b"first", b""))],
                generation=1,
                records=1,
            )
        )
        row = await session.load("instance")
        assert (row.generation, row.records) == (1, 1)
        await session.commit(step_of(row, b"second"))
        assert await session.history(row.run_id, 0) == [b"last"]
        assert await session.history(row.run_id, 1) == [b"first", b"second"]

    async def test_older_generations_are_dropped(self, store: Store) -> None:
        session = await store.worker()
        row, other = await session.start("instance"), await session.start("other")
        await session.commit(step_of(other, b"other"))
        for generation in range(1, 5):
            append = [(generation, RecordRow(0, b"record", b""))]
            step = step_of(row, appends=append, generation=generation, records=1, drop_generations_below=generation - 1)
            await session.commit(step)
            row = await session.load("instance")
        kept = [bool(await session.history(row.run_id, generation)) for generation in range(5)]
        assert kept == [False, False, False, True, True]
        assert await session.history(other.run_id) == [b"other"]

    async def test_single_generations_are_dropped(self, store: Store) -> None:
        """What is appended in the same step stays, under whichever number, and so does everything else."""
        session = await store.worker()
        row, other = await session.start("instance"), await session.start("other")
        aside = [1 << 40, (1 << 40) + 1]
        await session.commit(
            step_of(row, appends=[(number, RecordRow(0, b"aside", b"")) for number in (0, *aside)], records=1),
            step_of(other, appends=[(aside[0], RecordRow(0, b"other", b""))]),
        )
        row = await session.load("instance")
        await session.commit(
            step_of(row, appends=[(aside[1], RecordRow(1, b"more", b""))], records=1, drop_generations=[aside[0], 7])
        )
        assert await session.history(row.run_id, 0) == [b"aside"]
        assert await session.history(row.run_id, aside[0]) == []
        assert await session.history(row.run_id, aside[1]) == [b"aside", b"more"]
        assert await session.history(other.run_id, aside[0]) == [b"other"]

    async def test_runs_do_not_share_records(self, store: Store) -> None:
        session = await store.worker()
        rows = [await session.start("a", run_id="run"), await session.start("b", run_id="run2")]
        await session.commit(step_of(rows[0], b"a"), step_of(rows[1], b"b"))
        assert [await session.history(row.run_id) for row in rows] == [[b"a"], [b"b"]]

    # ---- the fence

    @pytest.mark.parametrize("fault", ["records", "generation", "run", "finished", "absent"])
    async def test_a_step_onto_another_state_writes_nothing_at_all(self, store: Store, fault: str) -> None:
        session = await store.worker()
        good, bad = await session.start("good"), await session.start("bad")
        [event] = await session.submit(event_to("good"))
        await session.commit(step_of(bad, b"record"))
        bad = await session.load("bad")
        faulty: dict[str, Step] = {
            "records": step_of(bad, b"x", before=(0, 0)),
            "generation": step_of(bad, b"x", before=(1, 1)),
            "run": dataclasses.replace(step_of(bad, b"x"), run_id="other"),
            "finished": step_of(bad, b"x"),
            "absent": step_of(new_row("absent"), b"x"),
        }
        if fault == "finished":
            bad = await session.finish(bad)
            faulty["finished"] = step_of(bad, b"x")
        steps = [step_of(good, b"lost", open_work=9, consumed=[event.sequence]), faulty[fault]]
        late = memo("lost", expires_at=store.now + LATER_US)
        for order in (steps, steps[::-1]):
            with pytest.raises(LeaseLostError):
                await session.commit(*order, messages=[event_to("good", b"lost")], memos=[late])
        assert [await session.load("good"), await session.load("bad")] == [good, bad]
        assert not await session.history(good.run_id)
        assert [message.data for message in await session.receive()] == [b"event"]
        assert not await session.memos()
        await session.commit(step_of(good, b"good"))

    async def test_a_step_that_changes_nothing_else_is_fenced_as_well(self, store: Store) -> None:
        # A store may take a shorter way for a step that only appends; it is held to the same conditions.
        session = await store.worker()
        row = await session.start("instance")
        for _ in range(3):
            await session.commit(step_of(row, b"record"))
            stale, row = row, await session.load("instance")
            with pytest.raises(LeaseLostError):
                await session.commit(step_of(stale, b"stale"))
        assert await session.history(row.run_id) == [b"record"] * 3

    async def test_a_lost_lease_is_told_so_whatever_the_number(self, store: Store) -> None:
        session, other = await store.worker(), await store.worker(())
        row = await session.start("instance")
        await session.commit(step_of(row, b"record"))
        await other.provider.take(other.lease, [row.partition], from_live=True)
        for number in (session.commits - 1, session.commits, session.commits + 1):
            with pytest.raises(LeaseLostError):
                await session.provider.commit(session.lease, Batch(number, [step_of(row, b"late")]))
        assert await other.history(row.run_id) == [b"record"]

    # ---- the number

    async def test_a_repeated_commit_is_recognised(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        batch = {
            "messages": [event_to("instance"), event_to("nobody"), start_of(new_row("child"))],
            "memos": [memo("memo", expires_at=store.now + LATER_US)],
        }
        step = step_of(row, b"record")
        first = await session.commit(step, **batch)
        session.commits -= 1
        store.turn_clock(1)
        again = await session.commit(step, **batch)
        assert again.now == first.now
        assert [delivery[:2] for delivery in again.deliveries] == [delivery[:2] for delivery in first.deliveries]
        assert await session.history(row.run_id) == [b"record"]
        assert len(await session.receive()) == 2

    async def test_a_commit_is_recognised_by_another_who_has_opened_the_store(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        batch = Batch(session.commits + 1, [step_of(row, b"record")], [event_to("instance")])
        first = await session.provider.commit(session.lease, batch)
        again = await (await store.open()).commit(session.lease, batch)
        assert (again.now, [delivery[:2] for delivery in again.deliveries]) == (
            first.now,
            [delivery[:2] for delivery in first.deliveries],
        )
        assert await session.history(row.run_id) == [b"record"]
        session.commits += 1
        await session.commit(step_of(await session.load("instance"), b"next"))
        assert await session.history(row.run_id) == [b"record", b"next"]
        assert len(await session.receive()) == 1

    async def test_an_older_commit_is_not_written_again(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        await session.commit(step_of(row, b"one"))
        session.commits = 0
        with pytest.raises(StoreError):
            await session.commit(step_of(await session.load("instance"), b"two"))
        assert await session.history(row.run_id) == [b"one"]

    async def test_a_refused_commit_does_not_use_up_its_number(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        with pytest.raises(LeaseLostError):
            await session.commit(step_of(row, before=(7, 7)))
        await session.commit(step_of(row, b"record"))
        assert await session.history(row.run_id) == [b"record"]

    async def test_each_lease_counts_its_own_commits(self, store: Store) -> None:
        first, second = await store.worker(range(32)), await store.worker(range(32, 64))
        for _ in range(3):
            assert (await first.commit()).now == (await second.commit()).now == store.now

    async def test_a_commit_of_nothing_is_a_commit(self, store: Store) -> None:
        session = await store.worker()
        assert (await session.commit()).now == store.now
        assert (await session.commit(alone=True)).now == store.now

    async def test_a_lone_commit_is_like_any_other(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        for turn in range(20):
            committed = await session.commit(step_of(row, b"record"), alone=True, messages=[event_to("instance")])
            assert committed.deliveries[0].verdict is Verdict.STORED
            row = await session.load("instance")
            assert row.records == turn + 1
        with pytest.raises(LeaseLostError):
            await session.commit(step_of(row, before=(0, 0)), alone=True)
        assert len(await session.receive()) == 20

    async def test_a_failing_commit_takes_no_other_call_with_it(self, store: Store) -> None:
        session = await store.worker()
        row, other = await session.start("instance"), await session.start("other")
        client, another = await store.client(session.provider), await store.client(session.provider)
        results = await asyncio.gather(
            client.submit(event_to("instance", b"one")),
            session.commit(
                step_of(other, b"lost", changes={"stall_reason": "x"}), step_of(row, b"record", before=(9, 9))
            ),
            another.submit(event_to("instance", b"two")),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [list, LeaseLostError, list]
        assert sorted(message.data for message in await session.receive()) == [b"one", b"two"]
        assert [await session.load("instance"), await session.load("other")] == [row, other]

    # ---- messages and memos

    async def test_messages_are_delivered_in_order_after_all_steps(self, store: Store) -> None:
        session = await store.worker()
        first, second = await session.start("first"), await session.start("second")
        child, again = new_row("child"), new_row("second")
        committed = await session.commit(
            step_of(first, b"record"),
            end_of(second),
            messages=[
                event_to("first", b"to first"),
                event_to("second", b"too late"),
                start_of(child, data=b"start"),
                event_to("child", b"to child"),
                start_of(again, Expects.ABSENT_OR_FINISHED, data=b"again"),
            ],
        )
        verdicts = [delivery.verdict for delivery in committed.deliveries]
        assert verdicts == [Verdict.STORED, Verdict.FINISHED, Verdict.STORED, Verdict.STORED, Verdict.STORED]
        received = await session.receive()
        assert [message.data for message in received] == [b"to first", b"start", b"to child", b"again"]
        sequences = [delivery.sequence for delivery in committed.deliveries if delivery.sequence]
        assert [message.sequence for message in received] == sequences
        assert await session.load("second") == again

    async def test_a_child_that_starts_and_ends_reports_to_its_parent(self, store: Store) -> None:
        session = await store.worker()
        parent = await session.start("parent")
        child = new_row("child", parent=parent.key, parent_run_id=parent.run_id, parent_task="0/0")
        committed = await session.commit(step_of(parent, b"asks"), messages=[start_of(child)])
        done = end_of(child, b"ends", consumed=[committed.deliveries[0].sequence])
        await session.commit(done, messages=[event_to("parent", b"outcome", run_id=parent.run_id)])
        assert [message.data for message in await session.receive()] == [b"outcome"]

    async def test_a_commit_writes_what_stands_in_for_its_messages(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("parent")
        taken = await session.start("taken")
        later = store.now + LATER_US
        committed = await session.commit(
            step_of(row, b"asks", messages=[0, 1]),
            messages=[
                start_of(new_row("taken"), otherwise=event_to("parent", b"the id is in use", run_id=row.run_id)),
                event_to("nobody", otherwise=memo("undelivered", expires_at=later)),
            ],
        )
        assert list(committed.deliveries) == [Delivery(Verdict.EXISTS, 0, taken), Delivery(Verdict.ABSENT)]
        assert [message.data for message in await session.receive()] == [b"the id is in use"]
        assert list(await session.memos()) == ["undelivered"]

    async def test_memos_are_written_after_messages(self, store: Store) -> None:
        session = await store.worker()
        later = store.now + LATER_US
        instead, last = memo("same", b"instead", expires_at=later), memo("same", b"last", expires_at=later)
        await session.commit(messages=[event_to("nobody", otherwise=instead)], memos=[last])
        assert await session.memos() == {"same": b"last"}

    async def test_a_later_memo_replaces_an_earlier_one(self, store: Store) -> None:
        session = await store.worker()
        later = store.now + LATER_US
        await session.commit(memos=[memo("a", b"1", expires_at=later), memo("b", b"2", expires_at=later)])
        await session.commit(memos=[memo("a", b"3", expires_at=later)])
        assert await session.memos() == {"a": b"3", "b": b"2"}

    async def test_a_memo_is_replaced_with_its_time_as_well(self, store: Store) -> None:
        session = await store.worker()
        soon, later = store.now + SECOND_US, store.now + LATER_US
        await session.commit(memos=[memo("a", expires_at=soon), memo("b", expires_at=later)])
        await session.commit(memos=[memo("a", expires_at=later), memo("b", expires_at=soon)])
        store.turn_clock(SECOND_US)
        await session.provider.renew(session.lease, belief=lambda: Belief(0, store.now))
        assert list(await session.memos()) == ["a"]

    async def test_what_belongs_to_nobody_is_consumed_beside_the_steps(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        deliveries = await session.submit(
            event_to("instance", b"its own"),
            event_to("nobody", b"to nobody", expects=Expects.ANY),
            event_to("instance"),
        )
        await session.commit(step_of(row, consumed=[deliveries[0].sequence]), consumed=[deliveries[1].sequence])
        assert [message.sequence for message in await session.receive()] == [deliveries[2].sequence]

    # ---- instances that go with their step

    async def test_an_idle_instance_goes_with_a_step_that_says_so(self, store: Store) -> None:
        session = await store.worker()
        old = await session.finish(await session.start("idle"), b"old record")
        row = new_row("idle", tags={"colour": "red"})
        [start] = await session.submit(start_of(row, Expects.ABSENT_OR_FINISHED))
        await session.commit(step_of(row, b"one", consumed=[start.sequence], due_at=store.now + SECOND_US))
        await session.submit(event_to("another"), event_to("idle", expects=Expects.ANY, kind="other"))
        [sent] = await session.submit(event_to("idle", b"last"))
        row = await session.load("idle")
        note = memo(f"run/{row.run_id}/note", expires_at=store.now + LATER_US)
        step = step_of(
            row, b"two", consumed=[sent.sequence], due_at=store.now + SECOND_US, changes={"output": b"o" * 3000}
        )
        await session.commit(dataclasses.replace(step, removes_if_idle=True))
        await session.commit(memos=[note])
        assert [await session.find("idle", run_id) for run_id in (None, row.run_id, old.run_id)] == [None] * 3
        assert [await session.history(run_id) for run_id in (row.run_id, old.run_id)] == [[], []]
        assert await session.provider.count(InstanceFilter(tags={"colour": "red"})) == 0
        assert not (await session.received(due_after=0, due_before=store.now + LATER_US)).due

    async def test_its_memos_go_with_it(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("idle", run_id="run-1")
        keys = ("run/run-1/note", "run/run-1", "run/run-10/note")
        await session.commit(memos=[memo(key, expires_at=store.now + LATER_US) for key in keys])
        await session.commit(step_of(row, removes_if_idle=True))
        assert list(await session.memos("run/")) == ["run/run-1", "run/run-10/note"]

    @pytest.mark.parametrize("how", ["eligible", "delayed", "parked", "parked and delayed", "of a start"])
    async def test_an_instance_stays_that_a_message_waits_for(self, store: Store, how: str) -> None:
        session = await store.worker()
        row = await session.start("awaited")
        if "parked" in how:
            await session.commit(step_of(row, parked_until=store.now + LATER_US))
        visible_at = store.now + LATER_US if "delayed" in how else 0
        message = event_to("awaited", b"later", visible_at=visible_at)
        if how == "of a start":
            message = start_of(new_row("awaited"), Expects.ANY)
        [delivery] = await session.submit(message)
        assert delivery.verdict is Verdict.STORED
        parked_until = store.now + LATER_US if "parked" in how else 0
        step = step_of(row, b"record", removes_if_idle=True, parked_until=parked_until)
        await session.commit(step)
        after = await session.load("awaited")
        assert (after.run_id, after.status, after.records) == (row.run_id, Status.RUNNING, 1)
        assert await session.history(row.run_id) == [b"record"]
        await session.commit(step_of(after, consumed=[delivery.sequence], removes_if_idle=True))
        assert await session.find("awaited") is None

    async def test_only_those_go_whose_step_says_so(self, store: Store) -> None:
        session = await store.worker()
        rows = [await session.start(name) for name in ("goes", "stays")]
        await session.commit(step_of(rows[0], removes_if_idle=True), step_of(rows[1]))
        assert await session.find("goes") is None
        assert (await session.load("stays")).status is Status.RUNNING

    async def test_a_message_of_the_commit_in_which_an_instance_goes_finds_it_gone(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("goes")
        new = new_row("goes")
        message = event_to("goes", otherwise=start_of(new, Expects.ABSENT_OR_FINISHED))
        committed = await session.commit(step_of(row, removes_if_idle=True), messages=[message])
        assert [delivery.verdict for delivery in committed.deliveries] == [Verdict.ABSENT]
        assert await session.load("goes") == new
        assert [found.start for found in await session.receive()] == [new]

    async def test_who_goes_leaves_an_id_that_begins_anew(self, store: Store) -> None:
        session = await store.worker()
        for _ in range(3):
            row = await session.start("again")
            assert await session.history(row.run_id) == []
            await session.commit(step_of(row, b"record"))
            row = await session.load("again")
            await session.commit(step_of(row, b"record", removes_if_idle=True))
        assert await session.find("again") is None

    # ---- the activity queue

    async def test_a_final_status_removes_the_runs_activities(self, store: Store) -> None:
        session = await store.worker()
        one, two = await session.start("one"), await session.start("two")
        await session.commit(
            step_of(one, queue_adds=[attempt_of(one, 0), attempt_of(one, 1)]),
            step_of(two, queue_adds=[attempt_of(two)]),
        )
        await session.finish(one)
        assert [row.task.key.id for row in await session.claim()] == ["two"]

    async def test_a_final_status_leaves_the_activities_of_others(self, store: Store) -> None:
        session = await store.worker()
        rows = [await session.start("same", kind=kind, run_id=f"run of {kind}") for kind in ("o", "entity")]
        await session.commit(*(step_of(row, queue_adds=[attempt_of(row)]) for row in rows))
        await session.commit(end_of(rows[0]))
        assert [row.task.key for row in await session.claim()] == [rows[1].key]

    async def test_a_step_that_ends_a_run_adds_no_activities(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        await session.commit(end_of(row, queue_adds=[attempt_of(row)]))
        assert not await session.claim()

    async def test_activities_are_added_and_dropped_by_steps(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        adds = [attempt_of(row, task_id) for task_id in range(4)]
        await session.commit(step_of(row, queue_adds=adds))
        await session.commit(step_of(row, queue_drops=[adds[1].task, adds[3].task]))
        assert [found.task.task_id for found in await session.claim()] == [0, 2]

    async def test_two_sessions_see_the_same(self, store: Store) -> None:
        worker, client = await store.worker(), await store.client()
        row: InstanceRow = await worker.start("instance")
        seen: Session = client
        assert await seen.load("instance") == row
        await worker.commit(end_of(row, b"record"))
        assert (await seen.load("instance")).status is Status.COMPLETED
        assert await seen.history(row.run_id) == [b"record"]
