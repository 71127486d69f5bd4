"""A power cut at any moment loses nothing that was answered and leaves nothing half-written (I1, I6, I10, I13).

Method: `recorder` notes what SQLite asks of the disk during a real run, `disk` says what a power cut may leave of it, and
`checking` opens that with the real provider. Here a small sample of what `python -m tests.power_loss` does at length; and
the same with defects planted, which it must find.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from durable_sqlite import provider as providers
from durable_sqlite.connection import WriteConnection, make_durable

from tests.ledger import read_line
from tests.power_loss import __main__ as command
from tests.power_loss.checking import Battery, Tally, cuts
from tests.power_loss.disk import Disk
from tests.power_loss.recorder import Deleted, Entry, Mark, Opened, Recorder, Synced, Truncated, Written, find_library
from tests.power_loss.recording import DATABASE, Recording, record

pytestmark = pytest.mark.skipif(
    find_library() is None, reason="the sqlite3 module of this Python hides its SQLite, so that nothing can be recorded"
)

IMAGES = 80


def test_a_power_cut_at_any_sync_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    tally = Battery(tmp_path, seed=1).run(IMAGES)
    assert not tally.violations, tally.violations
    assert tally.images >= IMAGES
    assert tally.distinct > IMAGES // 2
    assert tally.finished >= 2
    assert not list(tmp_path.glob("*/*")), "images are left only where something was wrong"


def test_a_run_has_what_a_power_cut_could_hurt(tmp_path: Path) -> None:
    log = record(tmp_path, 21, random.Random(2)).log
    wal = str(tmp_path.resolve() / DATABASE) + "-wal"
    began = [entry for entry in log if isinstance(entry, Written) and entry.path == wal and entry.offset == 0]
    assert len(began) > 1, "the WAL begins anew after a checkpoint"
    rooms = [entry for entry in log if isinstance(entry, Written) and entry.path == wal and not any(entry.data)]
    assert len(rooms) > 1, "room is made in its file"
    assert len([entry for entry in log if isinstance(entry, Synced) and entry.path != wal]) > 1, "checkpoints"
    answered = [
        promise for entry in log if isinstance(entry, Mark) and entry.what == "answered" for promise in entry.value
    ]
    assert any(promise.generation for promise in answered), "continued as new"
    turns = [len(entry.value) for entry in log if isinstance(entry, Mark) and entry.what == "answered"]
    assert max(turns) > 1, "group commits"


# ---- planted defects


def _synced_less(database: sqlite3.Connection, path: str) -> None:
    make_durable(database, path)
    database.execute("PRAGMA synchronous = NORMAL")


def _never_synced(database: sqlite3.Connection, path: str) -> None:
    make_durable(database, path)
    database.execute("PRAGMA synchronous = OFF")


def _in_two_halves(connection: WriteConnection) -> None:
    """Commit what a transaction did to the inbox apart from what it did to the rest."""
    database = connection.database
    inbox = database.execute("SELECT * FROM inbox").fetchall()
    database.execute("DELETE FROM inbox")
    database.execute("COMMIT")
    database.execute("BEGIN IMMEDIATE")
    if inbox:
        database.executemany(f"INSERT INTO inbox VALUES ({', '.join('?' * len(inbox[0]))})", inbox)
    database.execute("COMMIT")


def _battery(tmp_path: Path) -> Tally:
    return Battery(tmp_path, seed=3, finished_each=10_000).run(60)


@pytest.mark.parametrize("defect", [_synced_less, _never_synced])
def test_a_store_that_does_not_sync_each_commit_is_found(tmp_path: Path, defect: Any) -> None:
    with mock.patch.object(providers, "make_durable", defect):
        tally = _battery(tmp_path)
    assert any("its state is neither" in violation for violation in tally.violations)
    assert (tmp_path / "violation-0" / DATABASE).exists() or list((tmp_path / "violation-0").iterdir())


def test_a_turn_that_is_committed_in_two_halves_is_found(tmp_path: Path) -> None:
    with mock.patch.object(WriteConnection, "commit", _in_two_halves):
        tally = _battery(tmp_path)
    assert any("its state is neither" in violation for violation in tally.violations)


def test_an_answer_before_its_commit_is_found(tmp_path: Path) -> None:
    recording = record(tmp_path / _made(tmp_path, "run"), 7, random.Random(4))
    early = Recording(recording.before, list(_with_early_answers(recording.log)))
    battery = Battery(tmp_path / _made(tmp_path, "images"), seed=5, finished_each=10_000)
    battery.check(recording, 60)
    assert not battery.tally.violations
    battery.check(early, 60)
    assert any("answered" in violation for violation in battery.tally.violations), battery.tally.violations


def _made(folder: Path, name: str) -> str:
    (folder / name).mkdir()
    return name


def _with_early_answers(log: Any) -> Iterator[Entry]:
    """Move each answer to the beginning of the transaction before it."""
    begun: list[Entry] = []
    for entry in log:
        if isinstance(entry, Mark) and entry.what == "committing":
            yield from begun
            begun = []
        if isinstance(entry, Mark) and entry.what == "answered":
            begun.insert(0, entry)
        else:
            begun.append(entry)
    yield from begun


def test_the_command_prints_its_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--images", "5", "--seed", "7", "--folder", str(tmp_path)]) == 0
    line = read_line(capsys.readouterr().out)
    assert (line["battery"], line["images"], line["violations"]) == ("power loss", 5, 0)
    with mock.patch.object(providers, "make_durable", _never_synced):
        assert command.main(["--images", "60", "--folder", str(tmp_path)]) == 1
    assert "the image is in" in capsys.readouterr().out


# ---- the model of the disk


def _images(*log: Entry, before: dict[str, bytes] | None = None) -> list[dict[str, bytes]]:
    disk = Disk(before or {})
    for entry in log:
        disk.apply(entry)
    chance = random.Random(1)
    return [disk.cut(chance) for _ in range(400)]


def test_what_was_synced_is_there_and_what_was_not_may_be_lost_or_torn() -> None:
    old, new = b"o" * 1024, b"n" * 1024
    log = (Opened("f", False, False), Written("f", 0, old), Synced("f"))
    assert {image["f"] for image in _images(*log)} == {old}
    halves = {old, new, old[:512] + new[:512], new[:512] + old[:512]}
    assert {image["f"] for image in _images(*log, Written("f", 0, new))} == halves
    assert {image["f"] for image in _images(*log, Written("f", 0, new), Synced("f"))} == {new}
    both = {image["f"] for image in _images(*log, Written("f", 0, b"1"), Written("f", 1, b"2"))}
    assert {content[:2] for content in both} == {b"oo", b"1o", b"o2", b"12"}, "in any order"


def test_bytes_around_what_was_written_stay_as_they_were() -> None:
    images = _images(Opened("f", False, False), Written("f", 100, b"n" * 800), before={"f": b"o" * 2000})
    for image in images:
        assert image["f"][:100] == b"o" * 100
        assert image["f"][900:] == b"o" * 1100


def test_a_file_that_has_grown_may_hold_garbage_where_a_write_was_lost() -> None:
    images = _images(Opened("f", False, False), Written("f", 0, b"a" * 8), Written("f", 8, b"b" * 8), before={"f": b""})
    contents = {image["f"] for image in images}
    assert {b"", b"a" * 8, b"a" * 8 + b"b" * 8, bytes(8) + b"b" * 8} <= contents
    assert len(contents) > 20, "garbage is never twice the same"


def test_a_cut_of_a_file_may_not_have_happened() -> None:
    images = _images(Opened("f", False, False), Truncated("f", 2), before={"f": b"1234"})
    assert {image["f"] for image in images} == {b"12", b"1234"}


def test_a_new_file_may_be_missing_and_a_deleted_one_may_be_back_until_the_folder_is_synced() -> None:
    names = [
        {tuple(sorted(image)) for image in _images(*log, before={"db": b""})}
        for log in (
            (Opened("j", True, True),),
            (Opened("j", True, True), Synced("j")),
            (Opened("j", True, True), Synced("j"), Deleted("j", False)),
            (Opened("j", True, True), Synced("j"), Deleted("j", True)),
            (Opened("j", True, True), Synced("j"), Deleted("j", False), Opened("w", True, True), Synced("w")),
        )
    ]
    assert names == [
        {("db",), ("db", "j")},
        {("db", "j")},
        {("db",), ("db", "j")},
        {("db",)},
        {("db", "w")},
    ]


def test_the_recorder_sees_all_that_a_connection_writes(tmp_path: Path) -> None:
    with Recorder(tmp_path) as recorder:
        database = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE t (a)")
        database.execute("INSERT INTO t VALUES (1)")
        database.close()
    disk = Disk({})
    for entry in recorder.log:
        disk.apply(entry)
    whole = {name: bytes(file.durable) for name, file in disk._files.items() if file is not None}
    assert whole == {"a.db": (tmp_path / "a.db").read_bytes()}
    assert any(isinstance(entry, Deleted) and entry.path.endswith("-wal") for entry in recorder.log)
    outside = sqlite3.connect(tmp_path / "b.db")
    outside.execute("CREATE TABLE t (a)")
    outside.close()
    assert not any("b.db" in getattr(entry, "path", "") for entry in recorder.log), "it ends with its block"


def test_images_are_made_at_each_sync(tmp_path: Path) -> None:
    recording = record(tmp_path, 3, random.Random(6))
    syncs = {place for place, entry in enumerate(recording.log) if isinstance(entry, Synced)}
    places = {cut.place for cut in cuts(recording, 2 * len(syncs), random.Random(7))}
    assert syncs <= places
