"""The workload `idle`: N instances wait for timers and events that never come; what two workers with nothing to do cost.

`worker_cpu_percent` and `server_cpu_percent` are of one core, over SECONDS after the workers have shared the partitions.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from durable import OrchestrationStatus, Worker
from tests.benchmarks import program
from tests.benchmarks.many_workers import cpu_s, serving, until_balanced
from tests.benchmarks.measuring import Wanted, line, scratch
from tests.benchmarks.stores import STORES, Place
from tests.benchmarks.workloads import at_a_time
from tests.postgres_server import run_sql

WORKERS = 2
SECONDS = 60.0
SETTLE_S = 15.0
"""More than a lease: what a worker does once after it has begun is over by then."""

_TRANSACTIONS = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
_READ = "SELECT tup_returned FROM pg_stat_database WHERE datname = current_database()"


def measure(wanted: Wanted) -> dict[str, Any]:
    """Let the instances wait, and look on; return the line."""
    if wanted.store != "postgres":
        raise SystemExit("two workers need a server: --store postgres")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch()) as name, STORES[wanted.store](Path(name)) as place:
        return measure_at(wanted, place, SETTLE_S, SECONDS)


def measure_at(wanted: Wanted, place: Place, settle_s: float, seconds: float) -> dict[str, Any]:
    """Let the instances wait on this store, and look on for so long; return the line."""
    asyncio.run(_let_wait(wanted, place.url))
    with serving(WORKERS, place.url) as pids:
        until_balanced(place.url, WORKERS)
        time.sleep(settle_s)
        before, began = _state(place.url, pids), time.monotonic()
        time.sleep(seconds)
        after, passed = _state(place.url, pids), time.monotonic() - began
    per_s = {name: (after[name] - before[name]) / passed for name in after}
    return line(
        wanted,
        place,
        f"{WORKERS} worker processes with nothing to do; percent of one core",
        seconds=round(passed, 1),
        per_second=None,
        p50_ms=None,
        p99_ms=None,
        peak_rss_mb=None,
        repeats=1,
        worker_cpu_percent=round(100 * per_s["workers"] / WORKERS, 2),
        server_cpu_percent=round(100 * per_s["server"], 2),
        transactions_per_s=round(per_s["transactions"], 1),
        rows_read_per_s=round(per_s["rows"], 1),
    )


async def _let_wait(wanted: Wanted, url: str) -> None:
    async with Worker(program.app, url) as worker:

        async def start(number: int) -> None:
            what = program.asleep_for_a_year if number % 2 else program.event
            await worker.client.start(what, instance_id=f"w-{number}")

        await at_a_time(wanted.n, wanted.concurrency, start)
        while await worker.client.count(status=OrchestrationStatus.RUNNING) < wanted.n:
            await asyncio.sleep(0.1)


def _state(url: str, pids: list[int]) -> dict[str, float]:
    [(transactions,)], [(rows,)] = run_sql(url, _TRANSACTIONS), run_sql(url, _READ)
    return cpu_s(url, pids) | {"transactions": float(transactions), "rows": float(rows)}
