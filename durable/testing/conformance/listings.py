"""Promises about what clients read and remove: listings, counts, memos, purge."""

from __future__ import annotations

import pytest

from durable.errors import StoreError
from durable.events import InstanceKey
from durable.provider import Expects, InstanceFilter, Status, Verdict
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


async def _ids(session: Session, *, newest_first: bool = False, limit: int = 3, **wanted: object) -> list[str]:
    """List in small pages."""
    found: list[str] = []
    page = None
    while True:
        answer = await session.provider.list_instances(
            InstanceFilter(**wanted),  # type: ignore[arg-type]
            limit=limit,
            page=page,
            newest_first=newest_first,
        )
        assert len(answer.rows) <= limit
        found += [row.key.id for row in answer.rows]
        page = answer.next_page
        if page is None:
            assert await session.provider.count(InstanceFilter(**wanted)) == len(found)  # type: ignore[arg-type]
            return found


class Listings(Promises):
    """`list_instances`, `count`, `purge`, `read_memos`."""

    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 100])
    async def test_pages_have_every_instance_once_in_order(self, store: Store, limit: int) -> None:
        session = await store.worker()
        times = {"b": 1, "a": 1, "é": 1, "B": 1, "c": 0, "d": 5, "😀": 1}
        await session.submit(*(start_of(new_row(key_id, created_at=at)) for key_id, at in times.items()))
        expected = [key_id for at, key_id in sorted((at, key_id) for key_id, at in times.items())]
        assert await _ids(session, limit=limit) == expected
        assert await _ids(session, limit=limit, newest_first=True) == expected[::-1]
        assert await _ids(session, limit=limit, kind=None) == expected

    async def test_a_row_is_listed_as_it_is_loaded(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("full", input=b"i" * 5000, tags={"a": "b"}, parent=InstanceKey("parent"))
        row = await session.finish(row, b"record")
        page = await session.provider.list_instances(InstanceFilter(), limit=10)
        assert list(page.rows) == [row]
        assert page.next_page is None

    async def test_a_listing_goes_on_while_instances_come_and_go(self, store: Store) -> None:
        session = await store.worker()
        await session.submit(*(start_of(new_row(f"i{n}", created_at=n)) for n in range(6)))
        page = await session.provider.list_instances(InstanceFilter(), limit=3)
        await session.submit(start_of(new_row("newer", created_at=9)))
        gone = await session.finish(await session.load("i3"))
        await session.provider.purge([(gone.key, gone.run_id)])
        rest = await session.provider.list_instances(InstanceFilter(), limit=9, page=page.next_page)
        assert [row.key.id for row in (*page.rows, *rest.rows)] == ["i5", "i4", "i3", "i2", "i1", "i0"]

    async def test_a_wrong_page_is_an_error(self, store: Store) -> None:
        session = await store.client()
        with pytest.raises(StoreError):
            await session.provider.list_instances(InstanceFilter(), limit=1, page=b"nonsense")

    async def test_filters_limit_what_is_listed(self, store: Store) -> None:
        session = await store.worker()
        parent = InstanceKey("parent", "p")
        await session.submit(
            start_of(new_row("a1", name="work", created_at=1, tags={"x": "1", "y": "2"})),
            start_of(new_row("a2", name="Work", created_at=2, tags={"x": "1"}, parent=parent)),
            start_of(new_row("b1", name="work", created_at=3, tags={"x": "2", "y": "1"}, parent=InstanceKey("parent"))),
            start_of(new_row("a3", kind="entity", created_at=4, tags={"x": "1"}, parent=parent)),
        )
        assert await _ids(session) == ["a1", "a2", "b1"]
        assert await _ids(session, kind=None) == ["a1", "a2", "b1", "a3"]
        assert await _ids(session, kind="entity") == ["a3"]
        assert await _ids(session, name="work") == ["a1", "b1"]
        assert await _ids(session, prefix="a") == ["a1", "a2"]
        assert await _ids(session, prefix="a", kind=None) == ["a1", "a2", "a3"]
        assert await _ids(session, tags={"x": "1"}) == ["a1", "a2"]
        assert await _ids(session, tags={"x": "1", "y": "2"}) == ["a1"]
        assert await _ids(session, tags={"x": "9"}) == []
        assert await _ids(session, created_after=2) == ["a2", "b1"]
        assert await _ids(session, created_before=2) == ["a1"]
        assert await _ids(session, created_after=2, created_before=3) == ["a2"]
        assert await _ids(session, parent=parent) == ["a2"]
        assert await _ids(session, parent=parent, kind=None) == ["a2", "a3"]
        assert await _ids(session, prefix="a", name="work", tags={"y": "2"}) == ["a1"]

    async def test_instances_are_found_by_status(self, store: Store) -> None:
        session = await store.worker()
        await session.submit(start_of(new_row("pending")))
        for status in (Status.RUNNING, Status.SUSPENDED, Status.STALLED):
            await session.commit(step_of(await session.start(status.name.lower()), status=status))
        for status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.TERMINATED):
            await session.commit(end_of(await session.start(status.name.lower()), status=status))
        for status in Status:
            assert await _ids(session, status=[status]) == [status.name.lower()]
        assert await _ids(session, status=[Status.FAILED, Status.PENDING]) == ["failed", "pending"]
        assert len(await _ids(session, status=list(Status))) == 8
        assert len(await _ids(session)) == 8

    async def test_a_prefix_is_bytes_and_nothing_else(self, store: Store) -> None:
        session = await store.worker()
        ids = [
            "a",
            "A",
            "ab",
            "a%b",
            "a_b",
            "a%",
            "é",
            "e\u0301x",
            "\ud7ff1",
            "\ue000",
            "z\U0010ffff",
            "z\U0010ffff1",
            "z",
        ]
        await session.submit(*(start_of(new_row(key_id)) for key_id in ids))
        for prefix in ("a", "A", "a%", "a_", "é", "e", "\ud7ff", "z\U0010ffff", "\U0010ffff", "", "x"):
            expected = sorted(key_id for key_id in ids if key_id.startswith(prefix))
            assert await _ids(session, prefix=prefix) == expected

    async def test_only_current_runs_are_listed(self, store: Store) -> None:
        session = await store.worker()
        old = await session.finish(await session.start("twice"))
        await session.submit(start_of(new_row("twice"), Expects.ABSENT_OR_FINISHED))
        await session.submit(start_of(new_row("twice"), Expects.ANY))
        assert await _ids(session) == ["twice"]
        assert await _ids(session, status=[old.status]) == []

    async def test_many_are_counted(self, store: Store) -> None:
        session = await store.worker()
        await session.submit(*(start_of(new_row(f"i{n}", tags={"odd": str(n % 2)})) for n in range(250)))
        assert await session.provider.count(InstanceFilter()) == 250
        assert await session.provider.count(InstanceFilter(tags={"odd": "1"})) == 125
        assert len(await _ids(session, limit=37, tags={"odd": "0"})) == 125

    # ---- load

    async def test_rows_are_loaded_in_the_order_asked_for(self, store: Store) -> None:
        session = await store.worker()
        await session.submit(*(start_of(new_row(f"i{n}")) for n in range(300)))
        keys = [InstanceKey(f"i{n % 400}") for n in range(0, 4000, 7)]
        rows = await session.provider.load([(key, None) for key in keys])
        found = [None if row is None else row.key for row in rows]
        assert found == [key if int(key.id[1:]) < 300 else None for key in keys]
        assert not await session.provider.load([])

    # ---- memos

    async def test_memos_are_read_by_prefix_until_they_expire(self, store: Store) -> None:
        session = await store.worker()
        keys = ["a/1", "a/2", "a/10", "b", "A/1", "a%", "a_", "é"]
        soon, later = store.now + SECOND_US, store.now + LATER_US
        memos = [memo(key, key.encode(), expires_at=soon if key == "a/2" else later) for key in keys]
        await session.commit(memos=memos)
        assert await session.memos("a/") == {key: key.encode() for key in ("a/1", "a/10", "a/2")}
        assert list(await session.memos()) == sorted(keys)
        assert [found.key for found in await session.provider.read_memos("", 2)] == sorted(keys)[:2]
        store.turn_clock(SECOND_US)
        assert list(await session.memos("a/")) == ["a/1", "a/10"]
        await session.provider.renew(session.lease)
        assert list(await session.memos("a/")) == ["a/1", "a/10"]

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
