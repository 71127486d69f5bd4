"""Writers of a SQLite store: one at a time, across connections, and what they do when the disk or a rival fails them."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import shutil
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from durable_sqlite import writer as writing
from durable_sqlite.filelock import FileLock, is_held
from durable_sqlite.wal import ROOM_BYTES
from durable_sqlite.writer import RIVAL_S

from durable import App, Worker
from durable.errors import LeaseLostError, StoreError, StoreUnavailableError
from durable.provider import Belief, InstanceFilter, InstanceRow
from durable.testing.conformance import Store
from durable.testing.conformance.store import LATER_US, event_to, new_row, start_of, step_of, wait_for
from tests.providers.sqlite_store import inside, store_at, writer_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


async def test_a_file_is_the_same_by_whatever_name_it_is_opened(path: Path, tmp_path: Path) -> None:
    """Whoever lives, and whoever writes, is known by files beside it."""
    store, link = store_at(path), tmp_path / "elsewhere" / "link.db"
    living = await store.worker(range(32))
    link.parent.mkdir()
    link.symlink_to(path)
    by_link = store_at(link)
    other = await by_link.worker(())
    assert not await other.provider.take(other.lease, range(32))
    assert {found.name for found in link.parent.iterdir()} == {"link.db"}
    await by_link.close()
    await living.commit()
    await store.close()


@pytest.fixture
def store(path: Path) -> Store:
    return store_at(path)


class _Failing:
    """A connection whose COMMIT fails as if the disk had."""

    def __init__(self, database: sqlite3.Connection, code: int) -> None:
        self._database = database
        self._code = code

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement == "COMMIT":
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = self._code
            raise error
        return self._database.execute(statement, *values)


async def test_every_statement_that_writes_holds_the_lock(store: Store, path: Path) -> None:
    session = await store.worker()
    writer = writer_of(session.provider)
    unlocked: list[str] = []
    count = 0

    def check(statement: str) -> None:
        nonlocal count
        count += 1
        if not is_held(f"{path}.lock"):
            unlocked.append(statement)

    writer.database.set_trace_callback(check)
    row = await session.start("instance")
    await session.commit(step_of(row, b"record"), alone=True)
    session.provider.mark_slow_turn(session.lease, row.key, row.run_id)
    await session.provider.renew(session.lease)
    row = await session.finish(await session.load("instance"))
    await session.provider.purge([(row.key, row.run_id)])
    await session.provider.release(session.lease)
    writer.database.set_trace_callback(None)
    await store.close()
    assert count > 50
    assert not unlocked
    assert not is_held(f"{path}.lock")


async def test_the_wal_is_copied_under_the_lock_and_does_not_grow(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable_sqlite.connection.FRAMES_MAX", 100)
    session = await store.worker()
    row = await session.start("instance")
    checkpoints: list[bool] = []

    def check(statement: str) -> None:
        if "wal_checkpoint" in statement:
            checkpoints.append(is_held(f"{path}.lock"))

    writer_of(session.provider).database.set_trace_callback(check)
    for turn in range(300):
        await session.commit(step_of(row, bytes(3000)), alone=turn % 2 == 0)
        row = await session.load("instance")
    assert len(checkpoints) > 5
    assert all(checkpoints)
    assert os.path.getsize(f"{path}-wal") < 400 * 4096
    await store.close()


async def test_there_is_room_in_the_wal_before_a_commit_comes_to_its_end(store: Store, path: Path) -> None:
    """A sync that makes a file longer takes twice as long. Whoever has opened the store: it is made once, not by each."""
    session, other = await store.worker(), await store.client()
    row = await session.start("instance")
    for turn in range(200):
        await session.commit(step_of(row, bytes(3000)), alone=turn % 2 == 0)
        await other.submit(event_to("instance", bytes(3000)))
        row = await session.load("instance")
    size = os.path.getsize(f"{path}-wal")
    assert size % ROOM_BYTES == 0
    ends_at = len(Path(f"{path}-wal").read_bytes().rstrip(bytes(1)))
    assert size - ROOM_BYTES < ends_at < size
    await store.close()


async def test_a_disk_without_room_for_zeros_may_have_some_for_commits(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_half(descriptor: int, data: bytes, offset: int) -> int:
        pwrite(descriptor, data[: len(data) // 2], offset)
        raise OSError(errno.ENOSPC, "no space left on device")

    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", write_half)
    session = await store.worker()
    row = await session.start("instance")
    for _ in range(3):
        await session.commit(step_of(row, b"record"))
        row = await session.load("instance")
    assert os.path.getsize(f"{path}-wal") < ROOM_BYTES // 2, "what was written was given back"
    await store.close()


async def test_a_commit_that_follows_another_reads_nothing(store: Store) -> None:
    session = await store.worker()
    row = await session.start("instance")
    await session.commit(step_of(row, b"record"), alone=True)
    row = await session.load("instance")
    statements: list[str] = []
    writer_of(session.provider).database.set_trace_callback(statements.append)
    await session.commit(step_of(row, b"record"), alone=True)
    writer_of(session.provider).database.set_trace_callback(None)
    assert [statement.split()[0] for statement in statements] == ["BEGIN", "UPDATE", "INSERT", "UPDATE", "COMMIT"]
    await store.close()


@pytest.mark.parametrize("alone", [True, False])
async def test_a_commit_that_reads_nothing_notices_what_others_have_done_since_the_last(
    store: Store, alone: bool
) -> None:
    session, other = await store.worker(range(63)), await store.worker([63])
    rows = (new_row(f"instance-{number}") for number in itertools.count())
    far = next(row for row in rows if row.partition == 63)
    await session.submit(start_of(far))
    row = await session.start(next(row for row in rows if row.partition < 63).key.id)

    async def commit(row: InstanceRow) -> int:
        committed = await session.commit(step_of(row, b"record"), alone=alone)
        await session.commit(alone=alone)  # so that there is one that the next one follows
        return committed.now

    await commit(row)
    before = store.now
    store.turn_clock(1000 * LATER_US)
    await other.provider.renew(other.lease, belief=lambda: Belief(0, before))
    row = await session.load(row.key.id)
    assert await commit(row) == before, "the clock was set right"
    await other.provider.release(other.lease)
    await other.provider.take(session.lease, [63])
    await commit(await session.load(far.key.id))
    await other.provider.release(session.lease, [row.partition])
    row = await session.load(row.key.id)
    with pytest.raises(LeaseLostError):
        await commit(row)
    await store.close()


async def test_a_commit_waits_for_another_writer(store: Store, path: Path) -> None:
    session = await store.worker()
    row = await session.start("instance")
    for alone in (False, True):
        lock = FileLock(f"{path}.lock")
        lock.acquire()
        commit = asyncio.create_task(session.commit(step_of(row, b"record"), alone=alone))
        await asyncio.sleep(0.05)
        assert not commit.done()
        lock.close()
        await commit
        row = await session.load("instance")
    assert row.records == 2
    await store.close()


async def test_while_others_write_no_commit_holds_the_lock_for_a_threads_sake(store: Store, path: Path) -> None:
    session = await store.worker()
    rows = [await session.start(f"instance {number}") for number in range(3)]
    writer, elsewhere, here = writer_of(session.provider), list[str](), threading.get_ident()
    writer.database.set_trace_callback(lambda text: elsewhere.append(text) if threading.get_ident() != here else None)
    lock = FileLock(f"{path}.lock")
    lock.acquire()
    commit = asyncio.create_task(session.commit(step_of(rows[0], b"record")))
    await asyncio.sleep(0.05)
    writer.commit_s_average = 0.0  # as on a fast disk
    lock.close()
    await commit
    assert elsewhere == []
    writer.commit_s_average = 0.1
    await session.commit(step_of(rows[1], b"record"))
    assert elsewhere == ["COMMIT"]
    writer.commit_s_average = 0.0
    inside(session.provider).writer._rival_at -= RIVAL_S
    await session.commit(step_of(rows[2], b"record"))
    assert elsewhere == ["COMMIT"] * 2
    await store.close()


async def test_the_loop_does_not_wait_for_long_for_a_rival_that_does_not_end(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have stopped, or do something long."""
    session = await store.worker()
    row = await session.start("instance")
    writer_of(session.provider).commit_s_average = 0.0  # as on a fast disk
    lock = FileLock(f"{path}.lock")
    lock.acquire()
    waits: list[float] = []
    with monkeypatch.context() as patched:
        patched.setattr(time, "sleep", waits.append)
        patched.setattr(writing, "WAIT_S", 0.0001)
        commit = asyncio.create_task(session.commit(step_of(row, b"record")))
        await asyncio.sleep(0.1)
        met = len(waits)
        await asyncio.sleep(0.1)
        assert met
        assert len(waits) == met
    lock.close()
    await commit
    await store.close()


async def test_the_writers_own_thread_is_no_rival(store: Store) -> None:
    session = await store.worker()
    row = await session.start("instance")
    opened = inside(session.provider)
    writer_of(session.provider).commit_s_average = 0.0  # as on a fast disk
    assert opened.write.try_begin()  # as while the writer's thread copies the WAL
    commit = asyncio.create_task(session.commit(step_of(row, b"record")))
    await asyncio.sleep(0.02)
    opened.write.rollback()
    opened.write.end()
    await commit
    assert opened.writer._rival_at < 0
    await store.close()


async def test_an_interrupted_commit_holds_no_lock(store: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await store.worker()
    writer = inside(session.provider).writer
    assert writer._connection.try_begin()

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer._connection, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer._commit_here([])
    assert not writer._connection.is_in_use
    assert not is_held(f"{path}.lock")
    monkeypatch.undo()
    await store.close()


async def test_a_commit_waits_for_a_program_that_does_not_know_the_lock(store: Store, path: Path) -> None:
    session = await store.worker()
    row = await session.start("instance")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    commit = asyncio.create_task(session.commit(step_of(row, b"record")))
    await asyncio.sleep(0.05)
    assert not commit.done()
    other.execute("ROLLBACK")
    await commit
    other.close()
    await store.close()


async def test_a_writer_that_is_locked_out_for_long_says_so(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await store.worker()
    row = await session.start("instance")
    monkeypatch.setattr("durable_sqlite.writer.WAIT_S_MAX", 0.05)
    monkeypatch.setattr("durable_sqlite.connection.WAIT_S_MAX", 0.05)
    with FileLock(f"{path}.lock"):
        with pytest.raises(StoreUnavailableError, match="locked by another process"):
            await session.commit(step_of(row, b"record"))
        with pytest.raises(StoreUnavailableError, match="locked by another process"):
            await session.provider.purge([])
        with pytest.raises(StoreUnavailableError, match="locked by another process"):
            session.provider.mark_slow_turn(session.lease, row.key, row.run_id)
        assert (await session.load("instance")) == row  # who only reads is not in the way of anybody
    await session.commit(step_of(row, b"record"))
    await store.close()


async def test_a_deleted_lock_file_locks_nobody_out_and_nobody_in(store: Store, path: Path) -> None:
    session, other = await store.worker(), await store.client()
    row = await session.start("instance")
    os.unlink(f"{path}.lock")
    await session.commit(step_of(row, b"record"))
    with FileLock(f"{path}.lock"):
        waiting = [
            asyncio.create_task(session.submit(event_to("instance"))),
            asyncio.create_task(other.submit(event_to("instance"))),
        ]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in waiting)
    await asyncio.gather(*waiting)
    await store.close()


@pytest.mark.parametrize("alone", [False, True])
async def test_after_an_error_of_the_disk_nothing_more_is_written(store: Store, path: Path, alone: bool) -> None:
    session = await store.worker()
    row = await session.start("instance")
    writer = writer_of(session.provider)
    database = writer.database
    writer.database = _Failing(database, sqlite3.SQLITE_IOERR | (4 << 8))  # type: ignore[assignment]
    with pytest.raises(StoreError, match="stop this process"):
        await session.commit(step_of(row, b"record"), alone=alone)
    writer.database = database
    for call in (session.commit(), session.submit(), session.receive(), session.provider.renew(session.lease)):
        with pytest.raises(StoreError, match="stop this process"):
            await call
    await store.close()
    again = store_at(path)
    client = await again.client()
    assert await client.load("instance") == row
    await again.close()


async def test_a_full_disk_is_told_and_nothing_is_written(store: Store) -> None:
    session = await store.worker()
    row = await session.start("instance")
    database = writer_of(session.provider).database
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages}")
    for alone in (False, True):
        with pytest.raises(StoreUnavailableError, match=r"disk .* is full.*nothing was written"):
            await session.commit(step_of(row, bytes(100_000)), alone=alone)
    client = await store.client(session.provider)
    results = await asyncio.gather(
        session.commit(step_of(row, bytes(100_000))), client.submit(start_of(new_row("small"))), return_exceptions=True
    )
    assert isinstance(results[0], StoreUnavailableError)
    assert await session.load("instance") == row
    assert not await session.history(row.run_id)
    database.execute("PRAGMA max_page_count = 1000000")
    await session.commit(step_of(row, bytes(100_000)))
    await store.close()


async def test_a_file_that_is_replaced_underneath_is_not_written_any_more(store: Store, path: Path) -> None:
    session = await store.worker()
    path.rename(path.with_name("moved.db"))
    with pytest.raises(StoreError, match="removed or replaced"):
        await session.commit()
    path.with_name("moved.db").rename(path)
    with pytest.raises(StoreError, match="removed or replaced"):
        await session.commit()
    await store.close()


@pytest.mark.parametrize("alone", [False, True])
async def test_where_the_folder_is_removed_calls_fail_and_nothing_hangs(tmp_path: Path, alone: bool) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    store = store_at(folder / "store.db")
    session = await store.worker()
    session.provider.listen(lambda _: None)
    row = await session.start("instance")
    shutil.rmtree(folder)
    async with asyncio.timeout(10):
        for _ in range(2):
            with pytest.raises(StoreError, match="was removed"):
                await session.commit(step_of(row, b"record"), alone=alone)
        await store.close()
    assert not folder.exists()


@pytest.mark.diverges("what it ran is gone with its folder")
async def test_a_worker_whose_store_was_removed_says_so_and_can_be_stopped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    async with asyncio.timeout(20):
        async with Worker(App(), f"sqlite:///{folder}/store.db") as worker:
            shutil.rmtree(folder)
            await wait_for(lambda: worker.health().store_error is not None)
        assert "was removed" in caplog.text


async def test_only_what_waits_for_the_disk_leaves_the_loops_thread(store: Store) -> None:
    # Any other statement in another thread would have to win the interpreter back from a busy loop.
    session = await store.worker()
    row = await session.start("instance")
    elsewhere: list[str] = []
    here = threading.get_ident()

    def note(statement: str) -> None:
        if threading.get_ident() != here:
            elsewhere.append(statement)

    writer_of(session.provider).database.set_trace_callback(note)
    await session.commit(step_of(row, b"record"), messages=[event_to("instance")])
    assert elsewhere == ["COMMIT"]
    writer_of(session.provider).commit_s_average = 0.0  # as on a fast disk
    await session.commit(step_of(await session.load("instance"), b"record"), alone=True)
    assert elsewhere == ["COMMIT"]
    await session.provider.purge([(row.key, row.run_id)])  # few statements that may take long
    assert len(elsewhere) > 2
    await store.close()


async def test_what_was_taken_in_a_transaction_that_was_undone_is_not_taken_for_owned(store: Store) -> None:
    """The next change of what the lease owns has the same number as the one that was undone."""
    session, other = await store.worker(range(32)), await store.worker([63])
    rows = {row.partition: row for row in (new_row(f"instance-{number}") for number in range(2000))}
    await session.submit(start_of(rows[0]))
    await session.submit(start_of(rows[32]))
    near, far = await session.load(rows[0].key.id), await session.load(rows[32].key.id)
    writer = writer_of(session.provider)
    database = writer.database
    writer.database = _Failing(database, sqlite3.SQLITE_FULL)  # type: ignore[assignment]
    taken = session.provider.take(session.lease, [32, 33])
    failed = await asyncio.gather(taken, session.commit(step_of(near, b"record")), return_exceptions=True)
    writer.database = database
    assert all(isinstance(error, StoreError) for error in failed)
    assert await other.provider.take(other.lease, [32]) == {32}
    assert await session.provider.take(session.lease, [32, 33]) == {33}
    with pytest.raises(LeaseLostError):
        await session.commit(step_of(far, b"of another"))
    await store.close()


async def test_a_message_that_is_sent_alone_is_stored_in_the_call_on_a_fast_disk(store: Store) -> None:
    client = await store.client()
    await client.submit(start_of(new_row("instance")))
    writer = writer_of(client.provider)
    for average, are_here in ((0.0, True), (1.0, False)):
        writer.commit_s_average = average
        threads: list[bool] = []
        here = threading.get_ident()
        writer.database.set_trace_callback(lambda _: threads.append(threading.get_ident() == here))  # noqa: B023
        await client.submit(event_to("instance"))
        assert all(threads) is are_here
    await store.close()


async def test_what_is_ready_together_is_one_transaction(store: Store) -> None:
    session = await store.worker()
    row = await session.start("instance")
    clients = [await store.client(session.provider) for _ in range(5)]
    statements: list[str] = []
    writer_of(session.provider).database.set_trace_callback(statements.append)
    sent = [event_to("instance"), event_to("instance")]
    await asyncio.gather(*(client.submit(*sent) for client in clients), session.commit(step_of(row)))
    assert statements.count("COMMIT") == 1
    await store.close()


async def test_a_cancelled_caller_leaves_the_writer_in_order(store: Store) -> None:
    session = await store.worker()
    await session.start("instance")
    for _ in range(20):
        client = await store.client(session.provider)
        task = asyncio.create_task(client.submit(event_to("instance")))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await session.submit(event_to("instance", b"last"))
    assert (await session.receive())[-1].data == b"last"
    await store.close()


async def test_a_slow_turn_is_marked_from_another_thread_while_the_loop_is_busy(store: Store) -> None:
    session = await store.worker()
    row = await session.start("instance")
    pending = asyncio.create_task(session.submit(event_to("instance")))
    await asyncio.sleep(0)
    marked = threading.Event()

    def mark() -> None:
        session.provider.mark_slow_turn(session.lease, row.key, row.run_id)
        marked.set()

    thread = threading.Thread(target=mark)
    thread.start()
    assert marked.wait(5)  # blocks the loop, as a turn without an end would
    thread.join()
    await pending
    assert (await session.load("instance")).slow_turns == 1
    await store.close()


async def test_closing_waits_for_what_was_asked_for(store: Store, path: Path) -> None:
    session = await store.worker()
    await session.start("instance")
    tasks = [asyncio.create_task(session.submit(event_to("instance"))) for _ in range(3)]
    await asyncio.sleep(0)
    await session.provider.close()
    await asyncio.gather(*tasks)
    assert not list(path.parent.glob("*-wal"))


async def test_a_close_that_is_interrupted_closes_all_the_same(store: Store, path: Path) -> None:
    threads = len(_own_threads())
    session = await store.worker()
    await session.start("instance")
    opened = inside(session.provider)
    assert opened.write.try_begin()  # as while another writes
    task = asyncio.create_task(session.submit(event_to("instance")))
    await asyncio.sleep(0)
    closing = asyncio.create_task(session.provider.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(StoreError, match="is closed"):
        await task
    opened.write.rollback()
    opened.write.end()
    with pytest.raises(asyncio.CancelledError):
        await closing
    for database in (opened.write.database, opened.read):
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            database.execute("SELECT 1")
    assert len(_own_threads()) <= threads
    other = store_at(path)
    taker = await other.worker(())
    assert await taker.provider.take(taker.lease, range(4)), "what was its own is free at once"
    await other.close()
    await store.close()


def _own_threads() -> list[str]:
    """The threads of this process but those of the loop's pool, which stay."""
    return [thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]


async def test_nothing_is_left_open_after_close(store: Store) -> None:
    async def use() -> None:
        provider = await store.open()
        provider.listen(lambda wakeup: None)
        await provider.lease("worker", b"", worker=True)
        await provider.count(InstanceFilter())
        await provider.close()

    threads = len(_own_threads())
    await use()
    files = len(os.listdir("/dev/fd"))
    for _ in range(5):
        await use()
    await wait_for(lambda: len(_own_threads()) <= threads)  # a reader's thread answers a moment before it ends
    assert len(os.listdir("/dev/fd")) == files
    await store.close()


async def test_what_a_lone_commit_finds_in_its_way_it_waits_for(store: Store) -> None:
    session, other = await store.worker(), await store.client()
    row = await session.start("instance")
    opened = inside(session.provider)
    assert opened.write.try_begin()  # as while the writer's thread copies the WAL
    commit = asyncio.create_task(session.commit(step_of(row, b"record"), alone=True))
    await asyncio.sleep(0.02)
    assert not commit.done()
    opened.write.rollback()
    opened.write.end()
    await commit
    assert (await other.load("instance")).records == 1
    await store.close()
