"""Promises about `listen`: told after the commit, in the event loop. Any wake-up may be lost; these stores lose none."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable

from durable.provider import (
    Expects,
    InstanceRow,
    Memo,
    Report,
    Status,
    Wakeup,
)
from durable.testing.conformance.store import (
    LATER_US,
    Promises,
    Store,
    attempt_of,
    end_of,
    event_to,
    new_row,
    start_of,
    step_of,
    wait_for,
)


class _Ear:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[Wakeup] = []

    def __call__(self, wakeup: Wakeup) -> None:
        asyncio.get_running_loop()  # raises where it is not called in one
        self.heard.append(wakeup)

    @property
    def data(self) -> list[bytes]:
        return [message.data for wakeup in self.heard for message in wakeup.messages]

    @property
    def rows(self) -> list[InstanceRow]:
        return [row for wakeup in self.heard for row in wakeup.rows]

    @property
    def statuses(self) -> list[Status]:
        return [row.status for row in self.rows]

    @property
    def anything(self) -> bool:
        return any(wakeup.anything for wakeup in self.heard)


def _has_more(ear: _Ear, before: int) -> bool:
    return len(ear.data) > before


class Wakeups(Promises):
    """`listen`."""

    async def test_a_stored_message_is_heard_as_it_will_be_received(self, store: Store) -> None:
        session = await store.worker()
        ear = _Ear()
        session.provider.listen(ear)
        row = new_row("new")
        await session.submit(start_of(row), event_to("new", b"event"), event_to("nobody", b"never"))
        await wait_for(lambda: b"event" in ear.data)
        assert ear.data == [start_of(row).data, b"event"]
        assert [message for wakeup in ear.heard for message in wakeup.messages] == list(await session.receive())

    async def test_what_a_listener_is_told_is_numbered_from_one(self, store: Store) -> None:
        session = await store.worker()
        ear, late = _Ear(), _Ear()
        session.provider.listen(ear)
        for count in range(1, 4):
            await session.submit(start_of(new_row(f"new-{count}")))
            await wait_for(functools.partial(_has_more, ear, count - 1))
        session.provider.listen(late)
        await session.submit(start_of(new_row("one more")))
        await wait_for(lambda: bool(late.data))
        for heard in (ear.heard, late.heard):
            assert [wakeup.number for wakeup in heard] == list(range(1, len(heard) + 1))

    async def test_a_message_of_a_commit_is_heard(self, store: Store) -> None:
        session = await store.worker()
        ear = _Ear()
        row = await session.start("instance")
        session.provider.listen(ear)
        await session.commit(step_of(row), messages=[event_to("instance", b"one")])
        await session.commit(step_of(row), messages=[event_to("instance", b"two")], alone=True)
        await wait_for(lambda: ear.data == [b"one", b"two"])

    async def test_the_end_of_an_instance_is_heard_with_its_row(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        ear = _Ear()
        session.provider.listen(ear)
        await session.commit(step_of(row, b"record", changes={"custom_status": b"half"}))
        await session.commit(end_of(await session.load("instance")))
        await wait_for(lambda: Status.COMPLETED in ear.statuses)
        assert ear.heard[-1].rows[-1] == await session.load("instance")

    async def test_what_clients_see_of_an_instance_is_heard_whenever_it_changes(self, store: Store) -> None:
        session = await store.worker()
        ear = _Ear()
        session.provider.listen(ear)
        row = new_row("instance")
        [start] = await session.submit(start_of(row))
        await wait_for(lambda: row in ear.rows)
        await session.commit(step_of(row, consumed=[start.sequence]))
        await wait_for(lambda: ear.statuses[-1] is Status.RUNNING)
        await session.commit(step_of(row, changes={"custom_status": b"half"}))
        await wait_for(lambda: ear.rows[-1].custom_status == b"half")
        await session.commit(step_of(row, status=Status.SUSPENDED))
        await wait_for(lambda: ear.statuses[-1] is Status.SUSPENDED)
        assert ear.rows[-1] == await session.load("instance")

    async def test_a_replaced_runs_end_is_heard(self, store: Store) -> None:
        session = await store.worker()
        row, new = await session.start("instance"), new_row("instance")
        [start] = await session.submit(start_of(new, Expects.ANY))
        ear = _Ear()
        session.provider.listen(ear)
        await session.commit(end_of(row, status=Status.TERMINATED, consumed=[start.sequence], replaced_by=new))
        await wait_for(lambda: Status.TERMINATED in ear.statuses)

    async def test_a_run_that_takes_anothers_place_is_heard(self, store: Store) -> None:
        session = await store.worker()
        row, new = await session.start("instance"), new_row("instance")
        ear = _Ear()
        session.provider.listen(ear)
        await session.commit(end_of(row, replaced_by=new))
        await wait_for(lambda: new in ear.rows)
        assert [found.run_id for found in ear.rows] == [row.run_id, new.run_id]

    async def test_memos_of_a_commit_are_heard_as_they_were_written(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        ear = _Ear()
        session.provider.listen(ear)
        memos = [
            Memo(f"run/{row.run_id}/answer/{name}", name.encode(), store.now + LATER_US) for name in ("one", "two")
        ]
        await session.commit(step_of(row, memos=(0,)), memos=memos)
        await wait_for(lambda: any(wakeup.memos for wakeup in ear.heard))
        assert [memo for wakeup in ear.heard for memo in wakeup.memos] == memos

    async def test_attempts_to_claim_are_heard(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        ear = _Ear()
        session.provider.listen(ear)
        await session.commit(step_of(row, queue_adds=[attempt_of(row)]))
        await wait_for(lambda: any(wakeup.activities or wakeup.anything for wakeup in ear.heard))

    async def test_an_outcome_is_heard(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        attempt = attempt_of(row)
        await session.commit(step_of(row, queue_adds=[attempt]))
        ear = _Ear()
        session.provider.listen(ear)
        await session.provider.report(session.lease, [Report(attempt.task, event_to("instance", b"outcome"))])
        await wait_for(lambda: b"outcome" in ear.data)

    async def test_others_on_the_store_hear_something(self, store: Store) -> None:
        writer, listener = await store.worker(), await store.client()
        row = await writer.start("instance")
        ear = _Ear()
        listener.provider.listen(ear)
        await writer.submit(event_to("instance", b"event"))
        await wait_for(lambda: ear.anything or b"event" in ear.data)
        await writer.commit(end_of(row))
        await wait_for(lambda: ear.anything or Status.COMPLETED in ear.statuses)

    async def test_all_who_listen_are_told(self, store: Store) -> None:
        session = await store.worker()
        await session.start("instance")
        ears = [_Ear() for _ in range(3)]
        for ear in ears:
            session.provider.listen(ear)
        await session.submit(event_to("instance", b"event"))
        await wait_for(lambda: all(ear.data == [b"event"] for ear in ears))

    async def test_others_hear_that_partitions_are_free(self, store: Store) -> None:
        first, second = await store.worker(), await store.worker(())
        ear = _Ear()
        second.provider.listen(ear)
        await first.provider.release(first.lease)
        await wait_for(lambda: ear.anything)

    async def test_workers_of_a_process_hear_that_one_comes_goes_or_gives_partitions_up(self, store: Store) -> None:
        listener = await store.worker()
        ear = _Ear()
        listener.provider.listen(ear)
        other = await store.worker(())
        calls: list[Callable[[], Awaitable[object]]] = [
            functools.partial(other.provider.renew, other.lease, b"announced"),
            functools.partial(listener.provider.release, listener.lease, {1, 2}),
            functools.partial(other.provider.release, other.lease),
        ]
        await wait_for(lambda: any(wakeup.leases for wakeup in ear.heard))
        for call in calls:
            ear.heard.clear()
            await call()
            await wait_for(lambda: any(wakeup.leases for wakeup in ear.heard))

    async def test_the_answer_comes_before_the_wake_up(self, store: Store) -> None:
        session = await store.worker()
        await session.start("instance")
        ear = _Ear()
        session.provider.listen(ear)
        for _ in range(10):
            before = len(ear.data)
            await session.submit(event_to("instance"))
            assert len(ear.data) == before
            await wait_for(functools.partial(_has_more, ear, before))

    async def test_what_was_not_written_is_not_heard(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        ear = _Ear()
        session.provider.listen(ear)
        try:
            await session.commit(step_of(row, before=(5, 5)), messages=[event_to("instance", b"lost")])
        except Exception:  # noqa: BLE001 (another test says which)
            await session.submit(event_to("instance", b"kept"))
        await wait_for(lambda: ear.data)
        assert ear.data == [b"kept"]

    async def test_who_stopped_listening_hears_nothing(self, store: Store) -> None:
        session = await store.worker()
        await session.start("instance")
        quiet, ear = _Ear(), _Ear()
        end = session.provider.listen(quiet)
        session.provider.listen(ear)
        end()
        end()
        await session.submit(event_to("instance", b"event"))
        await wait_for(lambda: ear.data)
        assert not quiet.heard

    async def test_who_has_closed_the_store_hears_nothing(self, store: Store) -> None:
        session, other = await store.worker(), await store.client()
        await session.start("instance")
        quiet, ear = _Ear(), _Ear()
        end = other.provider.listen(quiet)
        session.provider.listen(ear)
        await other.provider.close()
        await session.submit(event_to("instance", b"event"))
        await wait_for(lambda: ear.data)
        assert not quiet.heard
        end()
