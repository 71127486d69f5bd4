"""A run of the workload on the real SQLite provider, recorded: what reached the disk, and what was promised in between.

Marks in the log: `opened` (the state of the store then), `committing` and `committed` (the state that a transaction leads to,
before COMMIT and after it), `answered` (what a worker or a client was told). A state is a digest of all rows of all tables.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import random
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from durable_sqlite import connection as connections
from durable_sqlite import wal
from durable_sqlite.connection import WriteConnection
from durable_sqlite.provider import SqliteProvider
from durable_sqlite.wal import WalRoom

from durable.provider import Batch, Committed, Delivery, Hub, InstanceKey, Lease, Message, Status, Verdict
from tests.power_loss.disk import read_files
from tests.power_loss.recorder import Entry, Recorder
from tests.power_loss.workload import finish

DATABASE = "store.db"

FRAMES_MAX = 40
"""A checkpoint after so many pages of the WAL rather than 4,000, so that a short run has dozens of them."""

ROOM_BYTES = 64 * 1024
"""Room in the WAL's file is made by so much rather than a megabyte, so that it is made again and again between those."""


@dataclasses.dataclass(frozen=True, slots=True)
class Promise:
    """How far a run was when somebody was told that this is durable."""

    key: InstanceKey
    run_id: str
    generation: int = 0
    records: int = 0
    chain: bytes = b""
    status: Status = Status.PENDING


@dataclasses.dataclass(frozen=True)
class Recording:
    """The files that were there before, and all that happened then."""

    before: Mapping[str, bytes]
    log: Sequence[Entry]


def state_of(database: sqlite3.Connection) -> str:
    """Return the digest of all that a store holds."""
    digest = hashlib.blake2b(digest_size=16)
    for (table,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall():
        rows = sorted(map(repr, database.execute(f'SELECT * FROM "{table}"').fetchall()))
        digest.update(f"{table} {rows}".encode())
    return digest.hexdigest()


def url_of(folder: Path) -> str:
    """Return the URL of the store in a folder."""
    return f"sqlite:///{folder / DATABASE}"


def record(folder: Path, instances: int, chance: random.Random) -> Recording:
    """Run the workload to its end on the store in a folder, which may have been begun before."""
    before = {name: data for name, data in read_files(folder).items() if not name.endswith("-shm")}
    with Recorder(folder) as recorder, _marks(recorder):
        asyncio.run(finish(url_of(folder), instances, chance))
    return Recording(before, recorder.log)


@contextlib.contextmanager
def _marks(recorder: Recorder) -> Iterator[None]:
    commit_connection, open_store = WriteConnection.commit, SqliteProvider.open
    commit_store, submit_store = SqliteProvider.commit, SqliteProvider.submit
    keep_room = WalRoom.keep

    def commit_and_mark(connection: WriteConnection) -> None:
        state = state_of(connection.database)
        recorder.mark("committing", state)
        commit_connection(connection)
        recorder.mark("committed", state)

    async def open_and_mark(self: SqliteProvider) -> Hub:
        hub = await open_store(self)
        recorder.mark("opened", state_of(self._opened.read))
        return hub

    async def commit_and_answer(self: SqliteProvider, lease: Lease, batch: Batch) -> Committed:
        answer = await commit_store(self, lease, batch)
        recorder.mark("answered", [_promise(step) for n, step in enumerate(batch.steps) if n not in answer.refused])
        return answer

    async def submit_and_answer(
        self: SqliteProvider, lease: Lease, number: int, messages: Sequence[Message]
    ) -> Sequence[Delivery]:
        answer = await submit_store(self, lease, number, messages)
        starts = [
            Promise(message.target, message.start.run_id)
            for message, delivery in zip(messages, answer, strict=True)
            if message.start is not None and delivery.verdict is Verdict.STORED
        ]
        recorder.mark("answered", starts)
        return answer

    def keep_and_note(room: WalRoom) -> None:
        before = room.file_bytes
        keep_room(room)
        if room.file_bytes > before:
            recorder.wrote(room.path, before, bytes(room.file_bytes - before))

    with (
        mock.patch.object(WalRoom, "keep", keep_and_note),
        mock.patch.object(wal, "ROOM_BYTES", ROOM_BYTES),
        mock.patch.object(WriteConnection, "commit", commit_and_mark),
        mock.patch.object(SqliteProvider, "open", open_and_mark),
        mock.patch.object(SqliteProvider, "commit", commit_and_answer),
        mock.patch.object(SqliteProvider, "submit", submit_and_answer),
        mock.patch.object(connections, "FRAMES_MAX", FRAMES_MAX),
    ):
        yield


def _promise(step: Any) -> Promise:
    progress = step.progress
    return Promise(step.key, step.run_id, progress.generation, progress.records, progress.chain, progress.status)
