"""The workload `churn`: N instances of one activity come, end and are purged; what is left behind in the tables of PostgreSQL.

Purged every PURGE_EVERY instances, as by an operator's job; the sizes are read at the end, and again when the server's own
sweeper has had its minute.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from pathlib import Path
from typing import Any

from durable import OrchestrationStatus, Worker
from tests.benchmarks import machine, program
from tests.benchmarks.measuring import Wanted, line, scratch
from tests.benchmarks.stores import STORES, Place
from tests.benchmarks.workloads import at_a_time
from tests.postgres_server import run_sql

PURGE_EVERY = 5_000
SWEEP_S = 65.0
"""PostgreSQL looks once a minute which tables are due."""

_TABLES = (
    "SELECT relname, n_live_tup, n_dead_tup, pg_total_relation_size(relid) FROM pg_stat_user_tables"
    " WHERE schemaname = 'durable_default' ORDER BY relname"
)


def measure(wanted: Wanted) -> dict[str, Any]:
    """Let the instances come and go; return the line."""
    if wanted.store != "postgres":
        raise SystemExit("churn looks into the tables of PostgreSQL: --store postgres")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch()) as name, STORES[wanted.store](Path(name)) as place:
        return measure_at(wanted, place, SWEEP_S)


def measure_at(wanted: Wanted, place: Place, sweep_s: float) -> dict[str, Any]:
    """Let the instances come and go on this store; return the line."""
    seconds = asyncio.run(_come_and_go(wanted, place.url))
    at_once = _tables(place.url)
    time.sleep(sweep_s)
    return line(
        wanted,
        place,
        "one activity each, purged as they end; tables: live rows, dead rows, KiB with indexes",
        seconds=round(seconds, 3),
        per_second=round(wanted.n / seconds, 1),
        p50_ms=None,
        p99_ms=None,
        peak_rss_mb=round(machine.peak_rss_mb(), 1),
        repeats=1,
        tables_at_the_end=at_once,
        tables_after_a_sweep=_tables(place.url),
    )


async def _come_and_go(wanted: Wanted, url: str) -> float:
    async with Worker(program.app, url) as worker:
        began = time.perf_counter()
        for first in range(0, wanted.n, PURGE_EVERY):
            ids = secrets.token_hex(3)

            async def run(number: int, ids: str = ids) -> None:
                await worker.client.run(program.one, instance_id=f"{ids}-{number}")

            await at_a_time(min(PURGE_EVERY, wanted.n - first), wanted.concurrency, run)
            await worker.client.purge(status=OrchestrationStatus.COMPLETED)
        assert await worker.client.count() == 0
        return time.perf_counter() - began


def _tables(url: str) -> dict[str, list[int]]:
    return {name: [live, dead, size // 1024] for name, live, dead, size in run_sql(url, _TABLES)}
