"""Promises about runs that begin with their first step, for which no start was stored."""

from __future__ import annotations

import pytest

from durable.errors import LeaseLostError
from durable.provider import Batch, Delivery, InstanceFilter, InstanceRow, Status, Verdict
from durable.testing.conformance.store import (
    LATER_US,
    Promises,
    Session,
    Store,
    attempt_of,
    beginning_of,
    event_to,
    memo,
    new_row,
    start_of,
    step_of,
    wait_for,
)


class Beginnings(Promises):
    """A step may bring the run that it is the first of."""

    async def test_a_run_begins_with_its_first_step_and_all_that_it_writes(self, store: Store) -> None:
        session = await store.worker()
        await session.start("target")
        new = new_row("new", input=b"in" * 2000, tags={"team": "blue"})
        step = beginning_of(
            new,
            b"first",
            open_work=1,
            due_at=store.now + LATER_US,
            queue_adds=[attempt_of(new)],
            messages=[0],
            memos=[0],
        )
        noted = memo(f"run/{new.run_id}/note", expires_at=store.now + LATER_US)
        committed = await session.commit(step, messages=[event_to("target")], memos=[noted])
        assert [delivery.verdict for delivery in committed.deliveries] == [Verdict.STORED]
        assert not committed.refused
        row = await session.load("new")
        assert row == step.begins
        assert await session.history(new.run_id) == [b"first"]
        assert await session.memos("run/") == {noted.key: noted.data}
        assert [attempt.task for attempt in await session.claim()] == [attempt_of(new).task]
        assert [message.target.id for message in await session.receive()] == ["target"]
        found = await session.provider.list_instances(InstanceFilter(tags={"team": "blue"}), limit=10)
        assert [found_row.key for found_row in found.rows] == [row.key]
        [due] = (await session.received(due_before=store.now + 2 * LATER_US)).due
        assert due == (row.key, row.due_at)

    async def test_it_goes_on_as_any_other(self, store: Store) -> None:
        session = await store.worker()
        await session.commit(beginning_of(new_row("new"), b"first"))
        await session.commit(step_of(await session.load("new"), b"second"))
        [delivery] = await session.submit(event_to("new"))
        assert delivery.verdict is Verdict.STORED
        row = await session.finish(await session.load("new"), b"last")
        assert (row.records, row.status) == (3, Status.COMPLETED)
        assert await session.history(row.run_id) == [b"first", b"second", b"last"]

    async def test_a_run_may_end_with_the_step_that_it_begins_with(self, store: Store) -> None:
        session = await store.worker()
        new = new_row("new")
        attempt = attempt_of(new)
        await session.commit(beginning_of(new, b"only", status=Status.COMPLETED, queue_adds=[attempt]))
        row = await session.load("new")
        assert (row.status, row.output) == (Status.COMPLETED, b"output")
        assert not await session.claim()
        [delivery] = await session.submit(start_of(new_row("new")))
        assert delivery == Delivery(Verdict.EXISTS, row=row)
        assert await session.provider.purge([(row.key, row.run_id)]) == 1
        assert await session.history(row.run_id) == []

    @pytest.mark.parametrize("is_finished", [False, True])
    async def test_where_the_id_is_in_use_that_step_is_left_out_with_all_that_it_sends(
        self, store: Store, is_finished: bool
    ) -> None:
        session = await store.worker()
        other = await session.start("other")
        there = await session.start("new", tags={"team": "red"})
        if is_finished:
            there = await session.finish(there)
        rival, free = new_row("new", tags={"team": "blue"}), new_row("free", tags={"team": "blue"})
        steps = (
            step_of(other, b"kept", messages=[1]),
            beginning_of(rival, b"lost", queue_adds=[attempt_of(rival)], messages=[0], memos=[0]),
            beginning_of(free, b"first", messages=[2]),
        )
        messages = [event_to("other", data) for data in (b"of the rival", b"of the other", b"of the free one")]
        batch = Batch(
            session.commits + 1, steps, messages, [memo(f"run/{rival.run_id}/x", expires_at=store.now + LATER_US)]
        )
        committed = await session.provider.commit(session.lease, batch)
        verdicts = [delivery.verdict for delivery in committed.deliveries]
        assert verdicts == [Verdict.REFUSED, Verdict.STORED, Verdict.STORED]
        assert list(committed.refused) == [1]
        assert "new" in committed.refused[1]
        again = await session.provider.commit(session.lease, batch)  # as after an answer that was lost
        assert (list(again.refused), again.now) == ([1], committed.now)
        assert [delivery.verdict for delivery in again.deliveries] == verdicts
        assert await session.load("new") == there
        assert [await session.history(run) for run in (rival.run_id, other.run_id)] == [[], [b"kept"]]
        assert await session.history(free.run_id) == [b"first"]
        assert sorted(message.data for message in await session.receive()) == [b"of the free one", b"of the other"]
        assert not await session.claim()
        assert not await session.memos("run/")

    async def test_what_was_begun_already_is_not_begun_again_by_a_repeated_batch(self, store: Store) -> None:
        session = await store.worker()
        batch = Batch(1, [beginning_of(new_row("one"), b"first"), beginning_of(new_row("two"), b"first")])
        committed = await session.provider.commit(session.lease, batch)
        assert await session.provider.commit(session.lease, batch) == committed
        assert not committed.refused

    async def test_nor_is_it_said_to_be_in_use_once_it_has_ended_and_is_gone(self, store: Store) -> None:
        session = await store.worker()
        rival, new = new_row("there"), new_row("new")
        await session.start("there")
        steps = [beginning_of(rival, b"lost"), beginning_of(new, b"only", status=Status.COMPLETED)]
        batch = Batch(session.commits + 1, steps)
        committed = await session.provider.commit(session.lease, batch)
        assert await session.provider.purge([(new.key, new.run_id)]) == 1
        again = await session.provider.commit(session.lease, batch)
        assert list(committed.refused) == list(again.refused) == [0]
        assert await session.find("new") is None

    async def test_only_the_owner_begins_runs(self, store: Store) -> None:
        row = new_row("new")
        session = await store.worker([partition for partition in range(64) if partition != row.partition])
        with pytest.raises(LeaseLostError):
            await session.commit(beginning_of(row, b"first"))
        owner = await store.worker([row.partition])
        assert await owner.find("new") is None
        assert await owner.history(row.run_id) == []
        await owner.commit(beginning_of(row, b"first"))
        heir = await _heir(store, owner, row.partition)
        with pytest.raises(LeaseLostError):
            await owner.commit(beginning_of(new_row("new"), b"late"))
        assert await heir.history(row.run_id) == [b"first"]

    async def test_a_run_that_begins_is_told(self, store: Store) -> None:
        session = await store.worker()
        heard: list[InstanceRow] = []
        end = session.provider.listen(lambda wakeup: heard.extend(wakeup.rows))
        step = beginning_of(new_row("new"), b"first")
        assert step.begins is not None
        await session.commit(step, rows=[step.begins])
        await wait_for(lambda: heard)
        assert heard == [step.begins]
        end()


async def _heir(store: Store, owner: Session, partition: int) -> Session:
    """Let another worker take a partition from its owner."""
    heir = await store.worker([], name="heir")
    await heir.provider.take(heir.lease, [partition], from_live=True)
    assert heir.lease != owner.lease
    return heir
