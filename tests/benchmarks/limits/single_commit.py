"""What one durable commit costs here: SQLite in WAL with `synchronous=FULL`, of one row and of a hundred, one after the other.

`python -m tests.benchmarks.limits.single_commit`
"""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks import machine
from tests.benchmarks.measuring import scratch

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


def measure(seconds: float = SECONDS) -> dict[str, Any]:
    """Commit for some seconds each; return the figures."""
    with tempfile.TemporaryDirectory(prefix="limit-", dir=scratch()) as name:
        folder = Path(name)
        _commits_per_s(folder, 2, seconds / 10)  # warm-up
        one = _commits_per_s(folder, 1, seconds)
        hundred = _commits_per_s(folder, ROWS_OF_A_LARGE_ONE, seconds)
        return {
            "limit": "single_commit",
            "commits_per_s": round(one, 1),
            "commit_ms": round(1000 / one, 3),
            "rows_per_s_by_hundreds": round(hundred * ROWS_OF_A_LARGE_ONE, 1),
            "fdatasync_per_s": round(machine.syncs_per_s(folder), 1),
            "cpu_loop_ms": round(machine.cpu_loop_ms(), 2),
        }


if __name__ == "__main__":
    print(json.dumps(measure()), flush=True)
    sys.exit(0)
