"""Promises about what is read: rows, histories, listings, counts, memos."""

from __future__ import annotations

import pytest

from durable.errors import StoreError
from durable.events import InstanceKey
from durable.provider import (
    RECORD_PART_BYTES_MAX,
    Belief,
    Expects,
    InstanceFilter,
    RecordRow,
    Status,
)
from durable.testing.conformance.store import (
    LATER_US,
    SECOND_US,
    Promises,
    Session,
    Store,
    end_of,
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
        assert answer.rows or page is None, "a page is followed by an empty one"
        found += [row.key.id for row in answer.rows]
        assert len(found) <= 1000, "the pages do not end"
        page = answer.next_page
        if page is None:
            assert await session.provider.count(InstanceFilter(**wanted)) == len(found)  # type: ignore[arg-type]
            return found


class Reads(Promises):
    """`load`, `read_history`, `list_instances`, `count`, `read_memos`."""

    # ---- rows

    async def test_rows_are_loaded_in_the_order_asked_for(self, store: Store) -> None:
        session = await store.worker()
        await session.submit(*(start_of(new_row(f"i{n}")) for n in range(300)))
        keys = [InstanceKey(f"i{n % 400}") for n in range(0, 4000, 7)]
        rows = await session.provider.load([(key, None) for key in keys])
        found = [None if row is None else row.key for row in rows]
        assert found == [key if int(key.id[1:]) < 300 else None for key in keys]
        assert not await session.provider.load([])

    async def test_a_run_is_found_wherever_it_is(self, store: Store) -> None:
        session, reader = await store.worker(), await store.client()
        ended = await session.finish(await session.start("instance", input=b"i" * 3000))
        current = new_row("instance", input=b"c" * 3000)
        [start] = await session.submit(start_of(current, Expects.ABSENT_OR_FINISHED))
        await session.commit(step_of(current, consumed=[start.sequence]))
        current = await session.load("instance")
        waiting = new_row("instance", input=b"w" * 3000)
        await session.submit(start_of(waiting, Expects.ANY))
        wanted = [None, ended.run_id, current.run_id, waiting.run_id, "no run"]
        found = await reader.provider.load([(current.key, run_id) for run_id in wanted])
        assert list(found) == [current, ended, current, waiting, None]

    # ---- histories

    async def test_records_come_back_as_they_were_written(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        written = [RecordRow(0, b"", b""), RecordRow(1, b"\x00\xff" * 9, b"\x00sum"), RecordRow(2, b"x", b"y" * 32)]
        await session.commit(step_of(row, appends=[(0, record) for record in written], records=3))
        assert list(await session.provider.read_history(row.run_id, 0)) == written

    async def test_a_history_is_read_piece_by_piece(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        await session.commit(step_of(row, *(bytes([n]) * 100 for n in range(20))))
        provider = session.provider
        assert [record.index for record in await provider.read_history(row.run_id, 0, 17)] == [17, 18, 19]
        assert [record.index for record in await provider.read_history(row.run_id, 0, 3, 1)] == [3]
        assert [record.index for record in await provider.read_history(row.run_id, 0, 3, 250)] == [3, 4, 5]
        assert not await provider.read_history(row.run_id, 0, 20)
        assert not await provider.read_history(row.run_id, 1)
        assert not await provider.read_history("nobody", 0)

    async def test_long_records_are_whole(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        sizes = (RECORD_PART_BYTES_MAX, RECORD_PART_BYTES_MAX + 1, 1, 5 * RECORD_PART_BYTES_MAX + 7, 0)
        written = [bytes([place + 1]) * size for place, size in enumerate(sizes)]
        await session.commit(step_of(row, *written))
        [first] = await session.provider.read_history(row.run_id, 0, 3, 1)
        assert (first.index, first.data, first.checksum) == (3, written[3], b"sum of " + written[3][:20])
        assert await session.history(row.run_id) == written

    async def test_a_long_history_is_read_to_its_end(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        written = [str(n).encode() * 50 for n in range(3000)]
        await session.commit(step_of(row, *written))
        assert await session.history(row.run_id) == written

    # ---- listings

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

    @pytest.mark.parametrize("newest_first", [True, False])
    async def test_a_listing_repeats_and_skips_nothing_that_was_there_all_the_time(
        self, store: Store, newest_first: bool
    ) -> None:
        session = await store.worker()
        rows = [await session.start(f"i{n}", created_at=n) for n in range(1, 9)]
        first = await session.provider.list_instances(InstanceFilter(), limit=3, newest_first=newest_first)
        for row in (rows[0], rows[1], rows[-1], rows[-2]):
            ended = await session.finish(row)
            await session.provider.purge([(ended.key, ended.run_id)])
        await session.submit(start_of(new_row("older", created_at=0)), start_of(new_row("newer", created_at=9)))
        rest = await session.provider.list_instances(
            InstanceFilter(), limit=9, page=first.next_page, newest_first=newest_first
        )
        seen = [row.key.id for row in (*first.rows, *rest.rows)]
        assert len(seen) == len(set(seen))
        assert {"i3", "i4", "i5", "i6"} <= set(seen)

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

    # ---- memos

    async def test_memos_are_read_by_prefix_until_they_are_removed(self, store: Store) -> None:
        session = await store.worker()
        keys = ["a/1", "a/2", "a/10", "b", "b/a/1", "A/1", "a%", "a_", "é"]
        soon, later = store.now + SECOND_US, store.now + LATER_US
        memos = [memo(key, key.encode(), expires_at=soon if key == "a/1" else later) for key in keys]
        await session.commit(memos=memos)
        assert await session.memos("a/") == {key: key.encode() for key in ("a/1", "a/10", "a/2")}
        assert list(await session.memos()) == sorted(keys)
        assert [found.key for found in await session.provider.read_memos("", 2)] == sorted(keys)[:2]
        store.turn_clock(SECOND_US)
        assert list(await session.memos("a/")) == ["a/1", "a/10", "a/2"]  # nobody has proved that it is so late
        await session.provider.renew(session.lease, belief=lambda: Belief(0, store.now))
        assert list(await session.memos("a/")) == ["a/10", "a/2"]
        assert [found.key for found in await session.provider.read_memos("a/", 2)] == ["a/10", "a/2"]

    async def test_memos_are_read_piece_by_piece(self, store: Store) -> None:
        session = await store.worker()
        keys = [f"run/{n}" for n in range(25)] + ["run/\ue000", "run/\U0010ffff", "other"]
        await session.commit(memos=[memo(key, expires_at=store.now + LATER_US) for key in keys])
        found: list[str] = []
        while memos := await session.provider.read_memos("run/", 10, after=found[-1] if found else ""):
            assert len(memos) <= 10
            assert len(found) < 27
            found += [each.key for each in memos]
        assert found == sorted(key for key in keys if key != "other")
        assert [each.key for each in await session.provider.read_memos("run/2", after="run/20")] == [
            key for key in found if key.startswith("run/2") and key > "run/20"
        ]
        assert [each.key for each in await session.provider.read_memos("run/1", after="a")] == [
            key for key in found if key.startswith("run/1")
        ]
        assert not await session.provider.read_memos("run/1", after="run/2")
