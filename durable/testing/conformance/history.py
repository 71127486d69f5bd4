"""Promises about histories: whole, in order, by generation."""

from __future__ import annotations

from durable.provider import RECORD_PART_BYTES_MAX, RecordRow
from durable.testing.conformance.store import Promises, Store, step_of


class History(Promises):
    """`read_history`, and what `commit` does to histories."""

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
