"""The workload `workers_1` to `workers_4`: seq5 from one client process, served by so many worker processes on one server.

`cpu_s` is that of the workers, the client and the server's processes, each by itself: where the limit lies.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from durable import Client, Worker
from tests.benchmarks import program
from tests.benchmarks.measuring import Wanted, line, medians, scratch
from tests.benchmarks.stores import STORES
from tests.benchmarks.workloads import collect
from tests.postgres_server import run_sql

ROOT = Path(__file__).parents[2]
BALANCE_S_MAX = 30.0
_OWNERS = "SELECT count(DISTINCT lease_id), count(lease_id) FROM durable_default.partitions"
_SERVER = "SELECT pg_postmaster_start_time() IS NOT NULL, pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"


def measure(workers: int, wanted: Wanted) -> dict[str, Any]:
    """Run the workload a few times; return the line of the median."""
    if wanted.store != "postgres":
        raise SystemExit("many workers need a server: --store postgres")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch()) as name, STORES[wanted.store](Path(name)) as place:
        with serving(workers, place.url) as pids:
            rates, cpu = asyncio.run(_run(wanted, place.url, workers, pids))
        found = medians(rates)
        return line(
            wanted,
            place,
            f"{workers} worker processes, the client in another one; activities run where the instance is",
            seconds=round(wanted.n / found["median"], 4),
            per_second=round(found["median"], 1),
            per_second_min=round(found["min"], 1),
            per_second_max=round(found["max"], 1),
            p50_ms=None,
            p99_ms=None,
            peak_rss_mb=None,
            repeats=len(rates),
            workers=workers,
            cpu_us_per_step=cpu,
        )


async def _run(wanted: Wanted, url: str, workers: int, pids: list[int]) -> tuple[list[float], dict[str, float]]:
    rates: list[float] = []
    async with Client(url, program.app) as client:
        await asyncio.to_thread(until_balanced, url, workers)
        await collect(client, "seq5", 200, wanted.concurrency, f"warm-{secrets.token_hex(3)}")
        before = cpu_s(url, pids)
        for _ in range(wanted.repeat):
            timing = await collect(client, "seq5", wanted.n, wanted.concurrency, secrets.token_hex(3))
            rates.append(wanted.n / timing.seconds)
        after = cpu_s(url, pids)
    steps = 5 * wanted.n * wanted.repeat
    return rates, {name: round(1e6 * (after[name] - before[name]) / steps, 1) for name in after}


def until_balanced(url: str, workers: int) -> None:
    until = time.monotonic() + BALANCE_S_MAX
    while tuple(run_sql(url, _OWNERS)[0]) != (workers, 64):
        if time.monotonic() > until:
            raise SystemExit("the partitions were never shared among the workers")
        time.sleep(0.2)


def cpu_s(url: str, pids: list[int]) -> dict[str, float]:
    """Return the seconds of CPU that each side has taken so far."""
    [(_, checkpointer)] = run_sql(url, _SERVER)
    server = int(_fields(checkpointer)[1])
    backends = [int(name) for name in os.listdir("/proc") if name.isdigit() and _is_child(int(name), server)]
    times = os.times()
    return {
        "workers": sum(_seconds(pid) for pid in pids),
        "client": times.user + times.system,
        "server": _seconds(server, with_children=True) + sum(map(_seconds, backends)),
    }


def _fields(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _is_child(pid: int, parent: int) -> bool:
    try:
        return int(_fields(pid)[1]) == parent
    except OSError:
        return False


def _seconds(pid: int, *, with_children: bool = False) -> float:
    fields = _fields(pid)[11:15]
    return sum(map(int, fields if with_children else fields[:2])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serving(count: int, url: str) -> Iterator[list[int]]:
    command = [sys.executable, "-m", __name__, url]
    started = [subprocess.Popen(command, cwd=ROOT) for _ in range(count)]
    try:
        yield [process.pid for process in started]
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait()


MEASURES = {f"workers_{count}": functools.partial(measure, count) for count in (1, 2, 3, 4)}

if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    asyncio.run(Worker(program.app, sys.argv[1]).run())
