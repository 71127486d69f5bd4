"""The bound that the engine is held against: a bare loop with group commit on SQLite, and nothing else.

N instances of five activities that do nothing, C at a time. A step writes one history record and one row of a task, deletes
the row of the task before, and updates the instance; all that is ready goes into one transaction, which is on the disk
before anything follows from it. There is no replay, no lease, no inbox, no checksum, no client that waits: what a feature
costs is what the engine is slower than this.

`python -m tests.benchmarks.limits.group_commit --n 2000 --concurrency 50`
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
from typing import Any

import msgpack

from tests.benchmarks.measuring import scratch

STEPS = 5
RUNNING, ENDED = 1, 2

SCHEMA = """
CREATE TABLE instances (id TEXT PRIMARY KEY, status INTEGER, updated_at REAL, output BLOB) WITHOUT ROWID;
CREATE TABLE history (id TEXT, turn INTEGER, events BLOB, PRIMARY KEY (id, turn)) WITHOUT ROWID;
CREATE TABLE tasks (id TEXT, number INTEGER, name TEXT, input BLOB, PRIMARY KEY (id, number)) WITHOUT ROWID;
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


class BareLoop:
    """The loop, on a new file."""

    def __init__(self, path: Path) -> None:
        self.commits = 0
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.executescript(SCHEMA)
        self._writer = ThreadPoolExecutor(1)
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
        self._writer.shutdown()
        self._database.close()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._ready = self._ready, []
            rows, effects = _Rows(), []
            now = time.time()
            for instance, value in batch:
                effects.append((instance, _turn(instance, value, now, rows)))
            await loop.run_in_executor(self._writer, self._write, rows)
            self.commits += 1
            for instance, asked in effects:
                if asked is None:
                    instance.done.set_result(None)
                else:
                    self._ready.append((instance, asked.argument))
            if self._ready:
                self._wake.set()

    def _write(self, rows: _Rows) -> None:
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT INTO instances VALUES (?, ?, ?, NULL)", rows.started)
        database.executemany("INSERT INTO history VALUES (?, ?, ?)", rows.records)
        database.executemany("DELETE FROM tasks WHERE id = ? AND number = ?", rows.closed)
        database.executemany("INSERT INTO tasks VALUES (?, ?, ?, ?)", rows.opened)
        database.executemany("UPDATE instances SET status = ?, updated_at = ?, output = ? WHERE id = ?", rows.updated)
        database.execute("COMMIT")


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


async def _measure(n: int, concurrency: int, path: Path) -> dict[str, Any]:
    loop = BareLoop(path)
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


def measure(n: int, concurrency: int) -> dict[str, Any]:
    """Run the loop once on a new file; return its figures."""
    with tempfile.TemporaryDirectory(prefix="limit-", dir=scratch()) as folder:
        return asyncio.run(_measure(n, concurrency, Path(folder) / "bare.db"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.limits.group_commit", description=__doc__)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=50)
    given = parser.parse_args()
    print(json.dumps(measure(given.n, given.concurrency)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
