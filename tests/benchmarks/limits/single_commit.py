"""What one durable commit costs here, of one row and of a hundred, one after the other.

SQLite in WAL with `synchronous=FULL`, or PostgreSQL by the driver that our provider uses, a statement that commits by itself.

`python -m tests.benchmarks.limits.single_commit --store sqlite`
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg

from tests.benchmarks import machine
from tests.benchmarks.measuring import scratch
from tests.benchmarks.stores import STORES

SECONDS = 1.0
ROW_BYTES = 120
ROWS_OF_A_LARGE_ONE = 100


def _commits_per_s(folder: Path, rows: int, seconds: float) -> float:
    database = sqlite3.connect(folder / f"rows-{rows}.db", isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(
            "CREATE TABLE records (id TEXT, number INTEGER, data BLOB, PRIMARY KEY (id, number)) WITHOUT ROWID"
        )
        count, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds:
            database.execute("BEGIN IMMEDIATE")
            written = [(f"i{count}", number, bytes(ROW_BYTES)) for number in range(rows)]
            database.executemany("INSERT INTO records VALUES (?, ?, ?)", written)
            database.execute("COMMIT")
            count += 1
        return count / passed
    finally:
        database.close()


def _of_sqlite(folder: Path, seconds: float) -> tuple[float, float]:
    _commits_per_s(folder, 2, seconds / 10)  # warm-up
    return _commits_per_s(folder, 1, seconds), _commits_per_s(folder, ROWS_OF_A_LARGE_ONE, seconds)


async def _of_postgres(url: str, seconds: float) -> tuple[float, float]:
    connection = await asyncpg.connect(url)
    await connection.execute(
        'CREATE TABLE records (id text COLLATE "C", number int, data bytea, PRIMARY KEY (id, number))'
    )
    insert = "INSERT INTO records SELECT * FROM unnest($1::text[], $2::int[], $3::bytea[])"

    async def commits_per_s(rows: int, seconds: float) -> float:
        count, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds:
            key = f"{rows}-{began}-{count}"
            if rows == 1:
                await connection.fetch("INSERT INTO records VALUES ($1, $2, $3)", key, 0, bytes(ROW_BYTES))
            else:
                await connection.fetch(insert, [key] * rows, list(range(rows)), [bytes(ROW_BYTES)] * rows)
            count += 1
        return count / passed

    try:
        await commits_per_s(1, seconds / 10)  # warm-up
        return await commits_per_s(1, seconds), await commits_per_s(ROWS_OF_A_LARGE_ONE, seconds)
    finally:
        await connection.close()


def measure(seconds: float = SECONDS, store: str = "sqlite") -> dict[str, Any]:
    """Commit for some seconds each; return the figures."""
    with tempfile.TemporaryDirectory(prefix="limit-", dir=scratch()) as name, STORES[store](Path(name)) as place:
        folder = Path(name)
        if store == "sqlite":
            one, hundred = _of_sqlite(folder, seconds)
        else:
            one, hundred = asyncio.run(_of_postgres(place.url, seconds))
        return {
            "limit": "single_commit",
            "store": place.store,
            "commits_per_s": round(one, 1),
            "commit_ms": round(1000 / one, 3),
            "rows_per_s_by_hundreds": round(hundred * ROWS_OF_A_LARGE_ONE, 1),
            "fdatasync_per_s": round(machine.syncs_per_s(folder), 1),
            "cpu_loop_ms": round(machine.cpu_loop_ms(), 2),
        }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.limits.single_commit", description=__doc__)
    parser.add_argument("--store", default="sqlite", choices=("sqlite", "postgres"))
    print(json.dumps(measure(store=parser.parse_args().store)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
