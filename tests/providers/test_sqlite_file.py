"""The file of a SQLite store: how it is found, made, recognised, and what is said when it cannot be used."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import durable_sqlite
import pytest
from durable_sqlite import schema
from durable_sqlite.connection import is_free_of_the_wal_bug

from durable.errors import StoreError
from durable.events import InstanceKey
from durable.ports import system_ports
from durable.provider import Expects, InstanceFilter, Status
from durable.testing.conformance.store import end_of, event_to, memo, new_row, start_of
from tests.providers.sqlite_store import inside, store_at, writer_of


async def _open(url: str) -> None:
    provider = durable_sqlite.connect(url, system_ports())
    await provider.open()
    await provider.close()


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---- URLs


@pytest.mark.parametrize(
    "url",
    ["sqlite://", "sqlite:///", "sqlite://host/x.db", "sqlite:x.db", "mysql:///x.db"],
)
def test_a_url_that_names_no_file_is_an_error(url: str) -> None:
    with pytest.raises(StoreError, match="sqlite:///relative"):
        durable_sqlite.connect(url, system_ports())


@pytest.mark.parametrize("query", ["color=red", "Hub=x", "hub=x&timeout=5"])
def test_an_unknown_option_is_an_error_that_names_the_known_ones(query: str) -> None:
    with pytest.raises(StoreError, match="unknown option .* hub, mode"):
        durable_sqlite.connect(f"sqlite:///x.db?{query}", system_ports())


@pytest.mark.parametrize("url", [f"sqlite:///{'[' * 4098}", f"sqlite:///x.db?hub={'a' * 4097}"])
def test_a_name_that_nothing_has_is_refused_for_its_length(url: str) -> None:
    with pytest.raises(StoreError, match="characters; the most is 4,096"):
        durable_sqlite.connect(url, system_ports())


def test_a_wrong_mode_is_an_error() -> None:
    with pytest.raises(StoreError, match="mode is rw"):
        durable_sqlite.connect("sqlite:///x.db?mode=ro", system_ports())


async def test_relative_and_absolute_paths_are_meant_literally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    await _open("sqlite:///relative.db")
    await _open(f"sqlite:///{tmp_path}/sp%20ace%3F%23%25.db")
    assert {path.name for path in tmp_path.glob("*.db")} == {"relative.db", "sp ace?#%.db"}


# ---- what a store is


async def test_a_new_file_is_private(tmp_path: Path) -> None:
    store = store_at(tmp_path / "store.db")
    session = await store.worker()
    await session.start("instance")
    modes = {path.name: _mode(path) for path in tmp_path.iterdir() if path.is_file()}
    assert modes == dict.fromkeys(["store.db", "store.db-wal", "store.db-shm", "store.db.lock"], 0o600)
    live = tmp_path / "store.db.live"
    assert _mode(live) == 0o700
    assert [_mode(path) for path in live.iterdir()] == [0o600]
    await store.close()
    assert {path.name for path in tmp_path.iterdir()} == {"store.db", "store.db.lock"}


async def test_the_mode_of_an_existing_file_is_respected(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.touch()
    path.chmod(0o640)
    store = store_at(path)
    await store.worker()
    assert [_mode(tmp_path / name) for name in ("store.db", "store.db-wal")] == [0o640, 0o640]
    await store.close()


async def test_commits_reach_the_disk_before_they_are_acknowledged(tmp_path: Path) -> None:
    store = store_at(tmp_path / "store.db")
    provider = await store.open()
    database = writer_of(provider).database
    settings = {
        name: database.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "mmap_size", "wal_autocheckpoint")
    }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "mmap_size": 0, "wal_autocheckpoint": 0}
    await store.close()


async def test_a_store_that_does_not_become_durable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durable_sqlite.connection.FULL", 3)  # so that what is read back is not what was asked for
    with pytest.raises(StoreError, match="cannot be made durable .*synchronous=2"):
        await _open(f"sqlite:///{tmp_path}/store.db")


async def test_readers_cannot_write(tmp_path: Path) -> None:
    store = store_at(tmp_path / "store.db")
    provider = await store.open()
    await provider.count(InstanceFilter())
    opened = inside(provider)
    for statement in ("DELETE FROM runs", "PRAGMA user_version = 9", "PRAGMA wal_checkpoint(TRUNCATE)"):
        with pytest.raises(sqlite3.OperationalError):
            opened.read.execute(statement)
        with pytest.raises(sqlite3.OperationalError):
            await (await opened.open_slow()).execute(statement)
    await store.close()


async def test_a_reading_that_is_cancelled_as_it_begins_costs_the_next_one_nothing(tmp_path: Path) -> None:
    """It is the first, and opens the connection for all of them."""
    store = store_at(tmp_path / "store.db")
    provider = await store.open()
    opened = inside(provider)
    first = asyncio.ensure_future(provider.list_instances(InstanceFilter(), limit=1))
    while opened.slow_reads is None:
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not (await provider.list_instances(InstanceFilter(), limit=1)).rows
    await store.close()


async def test_hubs_of_one_file_are_independent(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    providers = [durable_sqlite.connect(f"{url}?hub={name}", system_ports()) for name in ("one", "two", "one")]
    hubs = [await provider.open() for provider in providers]
    assert [hub.name for hub in hubs] == ["one", "two", "one"]
    row = new_row("same", run_id="run")
    for provider in providers[:2]:
        lease = await provider.lease("client", b"", worker=True)
        assert len(await provider.take(lease, range(64))) == 64
        [delivery] = await provider.submit(lease, 1, [start_of(row)])
        assert delivery.row is None
    assert [await provider.count(InstanceFilter()) for provider in providers] == [1, 1, 1]
    for provider in providers:
        await provider.close()


@pytest.mark.parametrize(("version", "is_affected"), [((3, 40, 1), True), ((3, 51, 3), False)])
async def test_the_version_of_sqlite_is_judged_and_logged_without_alarm(
    version: tuple[int, int, int],
    is_affected: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    monkeypatch.setattr(sqlite3, "sqlite_version", ".".join(map(str, version)))
    with caplog.at_level(logging.INFO, "durable.sqlite"):
        await _open(f"sqlite:///{tmp_path}/store.db")
    [record] = [record for record in caplog.records if record.name == "durable.sqlite"]
    assert record.levelno == logging.INFO
    assert sqlite3.sqlite_version in record.getMessage()
    assert ("defect" in record.getMessage()) == is_affected
    assert ("nothing needs to be done" in record.getMessage()) == is_affected
    assert "corrupt" not in record.getMessage()


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
    ],
)
def test_the_versions_with_the_fix_are_known(version: tuple[int, int, int], expected: bool) -> None:
    assert is_free_of_the_wal_bug(version) is expected


# ---- what cannot be used


async def test_a_missing_file_is_not_created_where_that_is_not_wanted(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"store\.db' does not exist, and is not to be created \(mode=rw"):
        await _open(f"sqlite:///{tmp_path}/store.db?mode=rw")
    assert not list(tmp_path.iterdir())
    await _open(f"sqlite:///{tmp_path}/store.db")
    await _open(f"sqlite:///{tmp_path}/store.db?mode=rw")


async def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"the folder of .*nowhere/store\.db' does not exist"):
        await _open(f"sqlite:///{tmp_path}/nowhere/store.db")


async def test_a_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder"):
        await _open(f"sqlite:///{tmp_path}")


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be looked at" * 100, b"short"])
async def test_another_kind_of_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"notes\.txt' is not a SQLite database"):
        await _open(f"sqlite:///{path}")
    assert path.read_bytes() == content


async def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE theirs (x)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"theirs\.db' belongs to another program"):
        await _open(f"sqlite:///{path}")
    assert path.read_bytes() == before


async def test_a_store_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "newer.db"
    await _open(f"sqlite:///{path}")
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    database.close()
    with pytest.raises(StoreError, match=r"newer\.db' was written by a newer release .*upgrade"):
        await _open(f"sqlite:///{path}")


# It imports all that it needs before it becomes somebody who may not read the interpreter's files.
OPEN = """
import asyncio, concurrent.futures.thread, os, sys
import durable_sqlite
from durable.errors import StoreError
from durable.events import InstanceKey
from durable.ports import system_ports
if os.geteuid() == 0:
    os.setuid(65534)
try:
    asyncio.run(durable_sqlite.connect(sys.argv[1], system_ports()).open())
except StoreError as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_read_only_store_is_an_error(tmp_path: Path, what: str) -> None:
    # In a process of another user, for root may write everything.
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "store.db"
    subprocess.run([sys.executable, "-c", OPEN.replace("os.setuid(65534)", "pass"), f"sqlite:///{path}"], check=True)
    for parent in [*folder.parents][: len(folder.parts) - len(Path(os.sep, "tmp").parts)]:
        parent.chmod(0o755)
    (folder / "store.db.lock").chmod(0o666)
    path.chmod(0o444 if what == "file" else 0o666)
    folder.chmod(0o777 if what == "file" else 0o555)
    answer = subprocess.run(
        [sys.executable, "-c", OPEN, f"sqlite:///{path}"], check=True, capture_output=True, text=True
    ).stdout
    folder.chmod(0o755)
    assert re.search(r"store\.db' (is read-only for this user|cannot be opened).*folder", answer), answer


# ---- migrations


def test_a_schema_is_migrated_step_by_step_and_only_once() -> None:
    database = sqlite3.connect(":memory:", isolation_level=None)
    first = ("CREATE TABLE a (x)", "INSERT INTO a VALUES (1)")
    second = ("ALTER TABLE a ADD COLUMN y DEFAULT 7",)
    schema.migrate(database, (first,))
    assert database.execute("PRAGMA user_version").fetchone() == (1,)
    for _ in range(2):
        schema.migrate(database, (first, second))
    assert database.execute("PRAGMA user_version").fetchone() == (2,)
    assert database.execute("SELECT x, y FROM a").fetchall() == [(1, 7)]
    database.close()


def test_a_migration_that_fails_changes_nothing() -> None:
    database = sqlite3.connect(":memory:", isolation_level=None)
    schema.migrate(database, (("CREATE TABLE a (x)",),))
    with pytest.raises(sqlite3.OperationalError):
        schema.migrate(database, (("CREATE TABLE a (x)",), ("CREATE TABLE b (x)", "no statement")))
    assert database.execute("PRAGMA user_version").fetchone() == (1,)
    assert database.execute("SELECT name FROM sqlite_schema").fetchall() == [("a",)]
    database.close()


async def test_a_store_that_was_begun_and_not_finished_is_completed(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.touch()  # as after a kill between the making of the file and its first transaction
    await _open(f"sqlite:///{path}")
    await _open(f"sqlite:///{path}?mode=rw")


async def test_what_lies_beside_a_shared_store_is_shared(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.touch()
    path.chmod(0o660)
    store = store_at(path)
    await store.worker()
    modes = {
        name: _mode(tmp_path / name) for name in ("store.db-wal", "store.db-shm", "store.db.lock", "store.db.live")
    }
    assert modes == {"store.db-wal": 0o660, "store.db-shm": 0o660, "store.db.lock": 0o660, "store.db.live": 0o770}
    await store.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # a fork beside threads is what is tested
async def test_a_provider_does_not_work_in_a_forked_child(tmp_path: Path) -> None:
    store = store_at(tmp_path / "store.db")
    session = await store.client()
    child = os.fork()
    if child == 0:
        try:
            await session.submit()
        except StoreError as error:
            os._exit(0 if "forked" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    await session.submit()
    await store.close()


async def test_nothing_remains_of_what_was_removed(tmp_path: Path) -> None:
    store = store_at(tmp_path / "store.db")
    session = await store.worker()
    for turn in range(5):
        row = await session.start("instance", tags={"turn": str(turn)}, input=bytes(5000), parent=InstanceKey("p"))
        new = new_row("instance", tags={"new": "1"}, input=bytes(5000))
        [start] = await session.submit(start_of(new, Expects.ANY))
        step = end_of(row, b"record", status=Status.TERMINATED, consumed=[start.sequence], replaced_by=new)
        await session.commit(step, memos=[memo(f"run/{row.run_id}/x", expires_at=store.now + 10)])
        done = end_of(new, b"record", changes={"tags": {"a": "b"}, "output": bytes(5000)})
        await session.commit(done)
        await session.submit(event_to("instance"))
        await session.provider.purge([(new.key, new.run_id)])
    database = inside(session.provider).read
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    found = {name: database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}
    assert {name for name, count in found.items() if count} == {"hubs", "leases", "workers", "partitions"}
    await store.close()


# ---- a damaged row


@pytest.mark.parametrize("tags", ['{"a":', "[1]", "5", '{"a": 1}', "[" * 5_000])
async def test_damaged_tags_make_no_listing_fail_and_no_run_stay(
    tmp_path: Path, tags: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_at(tmp_path / "store.db")
    session = await store.worker()
    await session.start("b", tags={"t": "x"})
    row = await session.start("a", tags={"t": "x"})
    writer_of(session.provider).database.execute("UPDATE runs SET tags = ? WHERE id = 'a'", (tags,))
    rows = (await session.provider.list_instances(InstanceFilter(), limit=10)).rows
    assert {(row.key.id, tuple(row.tags)) for row in rows} == {("b", ("t",)), ("a", ())}
    assert "tags of a run are damaged" in caplog.text
    await session.commit(end_of(row, b"record"))
    assert await session.provider.purge([(row.key, row.run_id)]) == 1
    await store.close()


@pytest.mark.parametrize("status", [99, -1, "x"])
async def test_a_damaged_status_is_a_store_error_that_names_the_instance(tmp_path: Path, status: object) -> None:
    store = store_at(tmp_path / "store.db")
    session = await store.worker()
    row = await session.start("a")
    writer_of(session.provider).database.execute("UPDATE runs SET status = ?", (status,))
    with pytest.raises(StoreError, match="instance 'a' is damaged"):
        await session.provider.load([(row.key, None)])
    await store.close()


def test_entries_of_tags_of_an_older_file_get_the_time_of_their_runs() -> None:
    database = sqlite3.connect(":memory:", isolation_level=None)
    schema.migrate(database, schema.MIGRATIONS[:3])
    for number in (1, 2):
        database.execute(
            "INSERT INTO runs (number, hub, place, kind, id, run_id, partition, status, generation, records, chain, updated_at,"
            " open_work, parked_until, state, slow_turns, slow_since, name, created_at, scheduled_at)"
            " VALUES (?, 1, 0, 'o', ?, 'run', 0, 1, 0, 0, x'', 0, 0, 0, x'', 0, 0, 'main', ?, 0)",
            (number, f"id {number}", 100 * number),
        )
        database.execute("INSERT INTO tags (hub, name, value, number) VALUES (1, 'a', 'b', ?)", (number,))
    schema.migrate(database)
    found = database.execute("SELECT hub, name, value, created_at, number FROM tags ORDER BY number").fetchall()
    assert found == [(1, "a", "b", 100, 1), (1, "a", "b", 200, 2)]
    database.close()
