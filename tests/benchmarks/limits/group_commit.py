"""The bound that the engine is held against: a bare loop with group commit, and nothing else.

N instances of five activities that do nothing, C at a time. A step writes one history record and one row of a task, deletes
the row of the task before, and updates the instance; all that is ready goes into one transaction, which is on the disk
before anything follows from it. There is no replay, no lease, no inbox, no checksum, no client that waits: what a feature
costs is what the engine is slower than this.

On SQLite the statements run in a thread; on PostgreSQL a commit is one call of a function that takes arrays.

`python -m tests.benchmarks.limits.group_commit --n 2000 --concurrency 50 --store sqlite`
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import msgpack

from tests.benchmarks.measuring import scratch
from tests.benchmarks.stores import STORES

STEPS = 5
RUNNING, ENDED = 1, 2

SCHEMA = """
CREATE TABLE instances (id TEXT PRIMARY KEY, status INTEGER, updated_at REAL, output BLOB) WITHOUT ROWID;
CREATE TABLE history (id TEXT, turn INTEGER, events BLOB, PRIMARY KEY (id, turn)) WITHOUT ROWID;
CREATE TABLE tasks (id TEXT, number INTEGER, name TEXT, input BLOB, PRIMARY KEY (id, number)) WITHOUT ROWID;
"""


POSTGRES_SCHEMA = """
CREATE TABLE instances (id text COLLATE "C" PRIMARY KEY, status int, updated_at float8, output bytea);
CREATE TABLE history (id text COLLATE "C", turn int, events bytea, PRIMARY KEY (id, turn));
CREATE TABLE tasks (id text COLLATE "C", number int, name text, input bytea, PRIMARY KEY (id, number));
CREATE TYPE started AS (id text, status int, updated_at float8);
CREATE TYPE turn AS (id text, turn int, events bytea);
CREATE TYPE closed AS (id text, number int);
CREATE TYPE opened AS (id text, number int, name text, input bytea);
CREATE TYPE updated AS (status int, updated_at float8, output bytea, id text);
CREATE FUNCTION bare_commit(a started[], b turn[], c closed[], d opened[], e updated[]) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    INSERT INTO instances SELECT x.id, x.status, x.updated_at, NULL FROM unnest(a) AS x;
    INSERT INTO history SELECT x.* FROM unnest(b) AS x;
    DELETE FROM tasks t USING unnest(c) AS x WHERE t.id = x.id AND t.number = x.number;
    INSERT INTO tasks SELECT x.* FROM unnest(d) AS x;
    UPDATE instances i SET status = x.status, updated_at = x.updated_at, output = x.output
    FROM unnest(e) AS x WHERE i.id = x.id;
END $$
"""


class Asked:
    """What the loop's coroutines await: an activity."""

    __slots__ = ("argument",)

    def __init__(self, argument: int) -> None:
        self.argument = argument

    def __await__(self) -> Generator[Asked, int, int]:
        return (yield self)


async def _five_steps() -> int:
    total = 0
    for number in range(STEPS):
        total += await Asked(number)
    return total


@dataclasses.dataclass(slots=True)
class _Instance:
    id: str
    code: Coroutine[Any, Any, int]
    done: asyncio.Future[None]
    turn: int = 0


@dataclasses.dataclass(slots=True)
class _Rows:
    """What one transaction writes."""

    started: list[tuple[Any, ...]] = dataclasses.field(default_factory=list)
    records: list[tuple[Any, ...]] = dataclasses.field(default_factory=list)
    opened: list[tuple[Any, ...]] = dataclasses.field(default_factory=list)
    closed: list[tuple[Any, ...]] = dataclasses.field(default_factory=list)
    updated: list[tuple[Any, ...]] = dataclasses.field(default_factory=list)


class Writer(Protocol):
    """Writes what one group has ready, and returns when it is on the disk."""

    async def write(self, rows: _Rows) -> None:
        """Write and commit."""
        ...

    async def close(self) -> None:
        """End."""
        ...


class SqliteWriter:
    """On a new file."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.executescript(SCHEMA)
        self._thread = ThreadPoolExecutor(1)

    async def write(self, rows: _Rows) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, rows)

    async def close(self) -> None:
        self._thread.shutdown()
        self._database.close()

    def _write(self, rows: _Rows) -> None:
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT INTO instances VALUES (?, ?, ?, NULL)", rows.started)
        database.executemany("INSERT INTO history VALUES (?, ?, ?)", rows.records)
        database.executemany("DELETE FROM tasks WHERE id = ? AND number = ?", rows.closed)
        database.executemany("INSERT INTO tasks VALUES (?, ?, ?, ?)", rows.opened)
        database.executemany("UPDATE instances SET status = ?, updated_at = ?, output = ? WHERE id = ?", rows.updated)
        database.execute("COMMIT")


class PostgresWriter:
    """In an empty database."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    @classmethod
    async def on(cls, url: str) -> PostgresWriter:
        """Connect and make the tables."""
        connection = await asyncpg.connect(url)
        await connection.execute(POSTGRES_SCHEMA)
        return cls(connection)

    async def write(self, rows: _Rows) -> None:
        groups = (rows.started, rows.records, rows.closed, rows.opened, rows.updated)
        await self._connection.fetch("SELECT bare_commit($1, $2, $3, $4, $5)", *groups)

    async def close(self) -> None:
        await self._connection.close()


class BareLoop:
    """The loop."""

    def __init__(self, writer: Writer) -> None:
        self.commits = 0
        self._writer = writer
        self._ready: list[tuple[_Instance, Any]] = []
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def run(self, instance_id: str) -> None:
        """Start an instance, and wait until it has ended."""
        instance = _Instance(instance_id, _five_steps(), asyncio.get_running_loop().create_future())
        self._ready.append((instance, None))
        self._wake.set()
        await instance.done

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._writer.close()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._ready = self._ready, []
            rows, effects = _Rows(), []
            now = time.time()
            for instance, value in batch:
                effects.append((instance, _turn(instance, value, now, rows)))
            await self._writer.write(rows)
            self.commits += 1
            for instance, asked in effects:
                if asked is None:
                    instance.done.set_result(None)
                else:
                    self._ready.append((instance, asked.argument))
            if self._ready:
                self._wake.set()


def _turn(instance: _Instance, value: Any, now: float, rows: _Rows) -> Asked | None:
    """Let an instance go on with a value; note what that writes; return what it asks for, None at its end."""
    turn, key = instance.turn, instance.id
    arrival = (2 * turn, 0 if value is None else 1, now, msgpack.packb(value))
    try:
        asked = instance.code.send(value)
    except StopIteration as end:
        events = [arrival, (2 * turn + 1, 3, msgpack.packb(end.value))]
        rows.updated.append((ENDED, now, msgpack.packb(end.value), key))
        asked = None
    else:
        argument = msgpack.packb(asked.argument)
        events = [arrival, (2 * turn + 1, 2, "activity", argument)]
        rows.opened.append((key, turn, "activity", argument))
        if turn:
            rows.updated.append((RUNNING, now, None, key))
        else:
            rows.started.append((key, RUNNING, now))
    if turn:
        rows.closed.append((key, turn - 1))
    rows.records.append((key, turn, msgpack.packb(events)))
    instance.turn = turn + 1
    return asked


async def _measure(n: int, concurrency: int, url: str) -> dict[str, Any]:
    is_file = url.startswith("sqlite:///")
    writer = SqliteWriter(Path(url.removeprefix("sqlite:///"))) if is_file else await PostgresWriter.on(url)
    loop = BareLoop(writer)
    try:
        await loop.run("warm-up")
        loop.commits = 0
        numbers = iter(range(n))

        async def some() -> None:
            for number in numbers:
                await loop.run(f"i{number}")

        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(some() for _ in range(concurrency)))
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    finally:
        await loop.close()
    return {
        "limit": "group_commit",
        "n": n,
        "concurrency": concurrency,
        "seconds": round(seconds, 4),
        "per_second": round(n / seconds, 1),
        "commits": loop.commits,
        "cpu_us_per_step": round(1e6 * cpu / (STEPS * n), 1),
    }


def measure(n: int, concurrency: int, store: str = "sqlite") -> dict[str, Any]:
    """Run the loop once on a new store; return its figures."""
    with tempfile.TemporaryDirectory(prefix="limit-", dir=scratch()) as name, STORES[store](Path(name)) as place:
        return asyncio.run(_measure(n, concurrency, place.url)) | {"store": place.store}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.limits.group_commit", description=__doc__)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--store", default="sqlite", choices=("sqlite", "postgres"))
    given = parser.parse_args()
    print(json.dumps(measure(given.n, given.concurrency, given.store)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
