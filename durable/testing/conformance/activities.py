"""Promises about the activity queue: claimed by one, delivered again when that one dies, reported once."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from durable.errors import LeaseLostError
from durable.provider import (
    LEASE_US,
    PARTITIONS,
    ActivityRow,
    Beat,
    Expects,
    Report,
    Status,
    TaskAddress,
)
from durable.testing.conformance.store import (
    BAD_TEXT,
    LATER_US,
    SECOND_US,
    Promises,
    Session,
    Store,
    attempt_of,
    event_to,
    memo,
    new_row,
    start_of,
    step_of,
)


async def _queued(session: Session, count: int = 1, **fields: Any) -> list[ActivityRow]:
    """Start an instance with so many open attempts."""
    row = await session.start("caller")
    adds = [attempt_of(row, task_id, **fields) for task_id in range(count)]
    await session.commit(step_of(row, queue_adds=adds))
    return adds


def _report(task: TaskAddress, data: bytes = b"outcome", **fields: Any) -> Report:
    return Report(task, event_to(task.key.id, data, run_id=task.run_id, **fields))


class Activities(Promises):
    """`claim` and `report`."""

    async def test_a_claimed_attempt_is_as_it_was_added(self, store: Store) -> None:
        session = await store.worker()
        [added] = await _queued(session, data=b"\x00data", name="näme", version="1.1", priority=5)
        [claimed] = await session.claim()
        assert (claimed.task, claimed.partition, claimed.queue) == (added.task, added.partition, "default")
        assert (claimed.name, claimed.version, claimed.data, claimed.priority) == ("näme", "1.1", b"\x00data", 5)
        assert (claimed.deliveries, claimed.first_claimed_at, claimed.heartbeat) == (1, store.now, None)

    async def test_an_attempt_is_claimed_by_one(self, store: Store) -> None:
        first, second = await store.worker(), await store.worker(())
        await _queued(first, 3)
        assert [row.task.task_id for row in await first.claim(limit=2)] == [0, 1]
        assert [row.task.task_id for row in await second.claim()] == [2]
        assert not await first.claim()
        assert not await second.claim()

    async def test_the_owner_sees_what_waits_and_nobody_serves(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("caller")
        places = [("default", "call"), ("gpu", "call"), ("default", "other"), ("gpu", "call"), ("gpu", "other")]
        adds = [attempt_of(row, n, queue=queue, name=name) for n, (queue, name) in enumerate(places)]
        await session.commit(step_of(row, queue_adds=adds))

        async def unserved(*served: tuple[str, str], limit: int = 1000) -> list[int]:
            found = (await session.received(limit=limit, served=served)).unserved
            assert all(found_row == adds[found_row.task.task_id] for found_row in found)
            return [found_row.task.task_id for found_row in found]

        assert await unserved() == [0, 1, 2, 3, 4]
        assert await unserved(("default", "call"), ("gpu", "other")) == [1, 2, 3]
        assert await unserved(("default", "call"), limit=2) == [1, 2]
        assert await unserved(*set(places)) == []
        assert not (await session.received()).unserved
        await session.claim(limit=1)
        assert await unserved() == [1, 2, 3, 4]
        other = await store.worker(())
        assert not (await other.received(served=())).unserved
        await session.provider.release(session.lease, {row.partition})
        assert await unserved() == []

    async def test_low_numbers_first_and_then_the_oldest(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("caller")
        priorities = (5, 1, 0, 5, 1, -1)
        adds = [attempt_of(row, task_id, priority=priority) for task_id, priority in enumerate(priorities)]
        await session.commit(step_of(row, queue_adds=adds[:3]))
        await session.commit(step_of(row, queue_adds=adds[3:]))
        claimed = [row.task.task_id for row in await session.claim(limit=4)]
        assert claimed + [row.task.task_id for row in await session.claim()] == [5, 2, 1, 4, 0, 3]

    async def test_the_order_goes_across_queues(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("caller")
        places = (("a", 2), ("b", 1), ("a", 1), ("b", 2), ("c", 0))
        adds = [attempt_of(row, n, queue=queue, priority=priority) for n, (queue, priority) in enumerate(places)]
        await session.commit(step_of(row, queue_adds=adds))
        assert [found.task.task_id for found in await session.claim("b", "a", limit=3)] == [1, 2, 0]

    async def test_attempts_of_several_instances_are_as_old_as_their_place_in_the_commit(self, store: Store) -> None:
        session = await store.worker()
        rows = [await session.start(name) for name in ("m", "z", "a", "q")]
        await session.commit(*(step_of(row, queue_adds=[attempt_of(row)]) for row in rows))
        assert [found.task.key.id for found in await session.claim()] == ["m", "z", "a", "q"]

    async def test_only_the_served_queues_and_names_are_claimed(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("caller")
        kinds = (("a", "x", None), ("a", "y", None), ("b", "x", "1"), ("b", "x", "2"), ("A", "x", None))
        adds = [
            attempt_of(row, task_id, queue=queue, name=name, version=version)
            for task_id, (queue, name, version) in enumerate(kinds)
        ]
        await session.commit(step_of(row, queue_adds=adds))
        assert not await session.claim("none")
        assert not await session.claim("a", "b", served=[])
        assert [row.task.task_id for row in await session.claim("a", served={("x", None)})] == [0]
        claimed = await session.claim("a", "b", served={("x", "1"), ("x", None), ("y", None)})
        assert sorted(row.task.task_id for row in claimed) == [1, 2]
        assert [row.task.task_id for row in await session.claim("a", "b")] == [3]

    async def test_a_delayed_attempt_waits(self, store: Store) -> None:
        session = await store.worker()
        await _queued(session, visible_at=store.now + SECOND_US)
        assert not await session.claim()
        store.turn_clock(SECOND_US)
        assert len(await session.claim()) == 1

    async def test_an_attempt_that_nobody_began_in_time_goes_to_whoever_asks(self, store: Store) -> None:
        session, other = await store.worker(), await store.worker(())
        row = await session.start("caller")
        soon = store.now + SECOND_US
        adds = [
            attempt_of(row, 0, queue="elsewhere", name="unknown", start_by=soon, priority=9),
            attempt_of(row, 1, queue="elsewhere", start_by=soon + 1),
            attempt_of(row, 2),
            attempt_of(row, 3, queue="begun", start_by=soon),
        ]
        await session.commit(step_of(row, queue_adds=adds))
        assert [found.task.task_id for found in await other.claim("begun")] == [3]
        assert not await session.claim("none")
        store.turn_clock(SECOND_US)
        await session.provider.renew(session.lease)
        assert [found.task.task_id for found in await session.claim("default", served=[("act", None)])] == [0, 2]
        await other.provider.release(other.lease)
        assert not await session.claim("none")  # it was claimed once, so it is no longer a question of its beginning
        assert [found.start_by for found in await session.claim("begun")] == [soon]

    async def test_no_more_are_claimed_than_were_asked_for(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("caller")
        soon = store.now + SECOND_US
        late = [attempt_of(row, n, queue="elsewhere", start_by=soon) for n in range(4)]
        await session.commit(step_of(row, queue_adds=[*late, *(attempt_of(row, n) for n in range(4, 8))]))
        store.turn_clock(SECOND_US)
        claimed = [[found.task.task_id for found in await session.claim(limit=3)] for _ in range(4)]
        assert [len(some) for some in claimed] == [3, 3, 2, 0]
        assert sorted(claimed[0] + claimed[1][:1]) == [0, 1, 2, 3]
        assert claimed[1][1:] + claimed[2] == [4, 5, 6, 7]

    # ---- claimed again

    async def test_what_a_dead_worker_had_claimed_is_claimed_again(self, store: Store) -> None:
        owner, worker, other = await store.worker(), await store.worker(()), await store.worker(())
        await _queued(owner)
        began = store.now
        [claimed] = await worker.claim()
        await worker.provider.report(worker.lease, [], [Beat(claimed.task, b"half done")])
        assert not await other.claim()
        await store.kill(worker)
        await other.provider.renew(other.lease)
        [again] = await other.claim()
        assert (again.task, again.deliveries, again.first_claimed_at) == (claimed.task, 2, began)
        assert again.heartbeat == b"half done"

    async def test_each_claim_counts_a_delivery_from_the_first_on(self, store: Store) -> None:
        owner = await store.worker()
        await _queued(owner)
        began = store.now
        for count in (1, 2, 3, 4):
            worker = await store.worker(())
            [claimed] = await worker.claim()
            assert (claimed.deliveries, claimed.first_claimed_at) == (count, began)
            await worker.provider.release(worker.lease)
            store.turn_clock(SECOND_US)
            await owner.provider.renew(owner.lease)

    async def test_an_expired_lease_claims_nothing_until_it_is_renewed(self, store: Store) -> None:
        owner, worker = await store.worker(), await store.worker(())
        await _queued(owner)
        store.turn_clock(LEASE_US)
        assert not await worker.claim()
        await worker.provider.renew(worker.lease)
        assert len(await worker.claim()) == 1

    async def test_what_an_expired_lease_had_claimed_is_free(self, store: Store) -> None:
        owner, worker = await store.worker(), await store.worker(())
        await _queued(owner)
        assert len(await worker.claim()) == 1
        store.turn_clock(LEASE_US)
        await owner.provider.renew(owner.lease)
        assert len(await owner.claim()) == 1

    async def test_what_a_released_lease_had_claimed_is_free(self, store: Store) -> None:
        owner, worker = await store.worker(), await store.worker(())
        await _queued(owner)
        assert len(await worker.claim()) == 1
        await worker.provider.release(worker.lease)
        assert len(await owner.claim()) == 1

    async def test_what_a_fenced_lease_had_claimed_is_free(self, store: Store) -> None:
        owner, worker = await store.worker(range(1, PARTITIONS)), await store.worker([0])
        await _queued(owner)
        assert len(await worker.claim()) == 1
        assert not await owner.claim()
        await owner.provider.take(owner.lease, [0], from_live=True)
        assert len(await owner.claim()) == 1

    async def test_who_released_partitions_only_keeps_what_it_claimed(self, store: Store) -> None:
        owner, worker = await store.worker(), await store.worker(())
        await _queued(owner)
        await worker.claim()
        await worker.provider.release(worker.lease, [1, 2])
        assert not await owner.claim()

    async def test_a_claim_without_an_answer_is_made_up_for(self, store: Store) -> None:
        owner, worker = await store.worker(), await store.worker(())
        added = await _queued(owner, 4)
        known = await worker.claim(limit=1)
        await worker.claim(limit=2)  # its answer is lost on the way
        held = {row.task for row in known}
        again = await worker.provider.claim(worker.lease, ["default"], None, 9, held=held)
        assert [(row.task, row.deliveries) for row in again] == [
            (row.task, deliveries) for row, deliveries in zip(added[1:], (2, 2, 1), strict=True)
        ]
        held |= {row.task for row in again}
        assert not await worker.provider.claim(worker.lease, ["default"], None, 9, held=held)
        assert not await worker.claim()

    async def test_what_another_has_claimed_is_not_made_up_for(self, store: Store) -> None:
        owner, worker = await store.worker(), await store.worker(())
        await _queued(owner, 2)
        await worker.claim()
        assert not await owner.provider.claim(owner.lease, ["default"], None, 9, held=())

    async def test_a_lost_lease_claims_nothing(self, store: Store) -> None:
        owner, worker = await store.worker(), await store.worker(())
        await _queued(owner)
        await worker.provider.release(worker.lease)
        with pytest.raises(LeaseLostError):
            await worker.claim()
        assert len(await owner.claim()) == 1

    # ---- reports

    async def test_a_report_exchanges_the_attempt_for_its_message(self, store: Store) -> None:
        session = await store.worker()
        added = await _queued(session, 2)
        await session.claim()
        answers = await session.provider.report(session.lease, [_report(row.task) for row in added])
        assert list(answers) == [True, True]
        assert [message.data for message in await session.receive()] == [b"outcome"] * 2
        assert not await session.claim()

    async def test_an_attempt_that_nobody_claimed_can_be_reported(self, store: Store) -> None:
        session = await store.worker()
        [added] = await _queued(session)
        assert list(await session.provider.report(session.lease, [_report(added.task)])) == [True]
        assert len(await session.receive()) == 1
        assert not await session.claim()

    async def test_the_first_outcome_wins(self, store: Store) -> None:
        owner, slow, quick = await store.worker(), await store.worker(()), await store.worker(())
        await _queued(owner)
        [claimed] = await slow.claim()
        await slow.provider.release(slow.lease)
        await quick.claim()
        assert list(await slow.provider.report(slow.lease, [_report(claimed.task, b"first")])) == [True]
        assert list(await quick.provider.report(quick.lease, [_report(claimed.task, b"second")])) == [False]
        assert [message.data for message in await owner.receive()] == [b"first"]

    async def test_a_repeated_report_is_dropped(self, store: Store) -> None:
        session = await store.worker()
        [added] = await _queued(session)
        await session.claim()
        answers = [await session.provider.report(session.lease, [_report(added.task)]) for _ in range(3)]
        assert [list(answer) for answer in answers] == [[True], [False], [False]]
        assert len(await session.receive()) == 1

    async def test_the_outcome_of_a_cancelled_attempt_is_dropped(self, store: Store) -> None:
        session = await store.worker()
        [added] = await _queued(session)
        await session.claim()
        row = await session.load("caller")
        await session.commit(step_of(row, queue_drops=[added.task]))
        assert list(await session.provider.report(session.lease, [_report(added.task)])) == [False]
        assert not await session.receive()

    async def test_an_outcome_that_nobody_awaits_goes_elsewhere(self, store: Store) -> None:
        session = await store.worker()
        [added] = await _queued(session)
        instead = memo("dropped", expires_at=store.now + LATER_US)
        report = Report(added.task, event_to("nobody", otherwise=instead))
        assert list(await session.provider.report(session.lease, [report])) == [True]
        assert list(await session.memos()) == ["dropped"]

    async def test_an_outcome_for_a_run_that_has_ended_is_delivered_to_no_other(self, store: Store) -> None:
        session = await store.worker()
        [added] = await _queued(session)
        await session.claim()
        await session.finish(await session.load("caller"))
        await session.submit(start_of(new_row("caller"), Expects.ABSENT_OR_FINISHED))
        assert list(await session.provider.report(session.lease, [_report(added.task)])) == [False]
        assert [message.start is not None for message in await session.receive()] == [True]

    async def test_a_task_address_is_exact(self, store: Store) -> None:
        session = await store.worker()
        [added] = await _queued(session)
        task = added.task
        others = (
            task._replace(task_id=1),
            task._replace(generation=1),
            task._replace(run_id="other"),
            task._replace(key=task.key._replace(kind="other")),
        )
        assert list(await session.provider.report(session.lease, [_report(other) for other in others])) == [False] * 4
        assert len(await session.claim()) == 1

    @pytest.mark.parametrize("fault", ["too large", "bad text"])
    async def test_an_outcome_that_the_store_refuses_is_not_lost(
        self, store: Store, fault: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        session = await store.worker()
        added = await _queued(session, 2)
        await session.claim()
        bad = _refused_report(session, added[0].task, fault)
        answers = await session.provider.report(session.lease, [bad, _report(added[1].task)])
        assert list(answers) == [False, True]
        assert any(record.levelname == "ERROR" and "caller" in record.getMessage() for record in caplog.records)
        assert [message.data for message in await session.receive()] == [b"outcome"]
        assert not await session.claim()
        store.turn_clock(LEASE_US)
        await session.provider.renew(session.lease)
        [again] = await session.claim()
        assert (again.task, again.deliveries) == (added[0].task, 2)

    @pytest.mark.parametrize("fault", ["too large", "bad text"])
    async def test_what_stands_in_for_a_refused_outcome_is_delivered(self, store: Store, fault: str) -> None:
        session = await store.worker()
        [added] = await _queued(session)
        await session.claim()
        bad = _refused_report(session, added.task, fault)
        instead = bad._replace(message=dataclasses.replace(bad.message, otherwise=event_to("caller", b"too much")))
        assert list(await session.provider.report(session.lease, [instead])) == [True]
        assert [message.data for message in await session.receive()] == [b"too much"]

    # ---- heartbeats

    async def test_heartbeats_are_kept_and_answered(self, store: Store) -> None:
        first, second = await store.worker(), await store.worker(())
        added = await _queued(first, 2)
        await first.claim(limit=1)
        beats = [Beat(added[0].task, b"one"), Beat(added[1].task, b"not claimed"), Beat(added[0].task, None)]
        assert list(await first.provider.report(first.lease, [], beats)) == [True, False, True]
        assert list(await second.provider.report(second.lease, [], beats[:1])) == [False]
        await first.provider.release(first.lease)
        heartbeats = {row.task.task_id: row.heartbeat for row in await second.claim()}
        assert heartbeats == {0: b"one", 1: None}
        assert list(await first.provider.report(first.lease, [], beats[:1])) == [False]

    async def test_the_latest_heartbeat_is_kept(self, store: Store) -> None:
        first, second = await store.worker(), await store.worker(())
        [added] = await _queued(first)
        await first.claim()
        for details in (b"one", None, b"two", None):
            await first.provider.report(first.lease, [], [Beat(added.task, details)])
        await first.provider.release(first.lease)
        assert [row.heartbeat for row in await second.claim()] == [b"two"]

    async def test_reports_come_before_beats(self, store: Store) -> None:
        session = await store.worker()
        added = await _queued(session, 2)
        await session.claim()
        beats = [Beat(row.task, b"still here") for row in added]
        answers = await session.provider.report(session.lease, [_report(added[0].task)], beats)
        assert list(answers) == [True, False, True]

    async def test_an_attempt_that_is_added_again_is_a_new_row(self, store: Store) -> None:
        session = await store.worker()
        [added] = await _queued(session)
        await session.claim()
        row = await session.load("caller")
        await session.commit(step_of(row, queue_drops=[added.task], queue_adds=[added]))
        [claimed] = await session.claim()
        assert claimed.deliveries == 1

    async def test_a_run_that_ends_leaves_no_attempt_in_the_queue_whatever_else_is_written(self, store: Store) -> None:
        session = await store.worker()
        await _queued(session, 2)
        await session.commit(step_of(await session.load("caller"), b"end", status=Status.FAILED))
        assert not await session.claim()


def _refused_report(session: Session, task: TaskAddress, fault: str) -> Report:
    """Return a report whose message the store cannot hold."""
    limit = session.provider.message_bytes_max
    if fault == "bad text":
        return Report(task, event_to(task.key.id, run_id=BAD_TEXT))
    if limit is None:
        pytest.skip("this store has no limit")
    return _report(task, bytes(limit + 1))
