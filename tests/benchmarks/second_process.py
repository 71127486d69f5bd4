"""The workload `second_process`: how fast starts are answered in a process beside the worker's, against within it.

Both are measured in turn on one store with one worker, C starters at a time; each start is an instance of one activity. Then
the second process runs instances one at a time, from start to result: `latency_p50_ms`; and after a tenth of a second in which
nothing happened: `quiet_p50_ms`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from durable import Client, Worker
from tests.benchmarks import machine, program
from tests.benchmarks.measuring import Wanted, line, scratch
from tests.benchmarks.stores import STORES
from tests.benchmarks.workloads import Timing, seq1_latency, starts

ROOT = Path(__file__).parents[2]
LATENCY_N = 200
QUIET_N = 20
QUIET_S = 0.1
IN_MEMORY = "memory"


def measure(wanted: Wanted) -> dict[str, Any]:
    """Start from both sides, a few times each; return the line of the second process's median."""
    if wanted.store == IN_MEMORY:
        raise SystemExit("the memory store is that of one process: second_process needs another one")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch()) as name, STORES[wanted.store](Path(name)) as place:
        inside, outside, latencies = asyncio.run(_both(wanted, place.url))
        median = sorted(outside, key=lambda timing: timing.seconds)[len(outside) // 2]
        rate = wanted.n / median.seconds
        rate_inside = wanted.n / sorted(timing.seconds for timing in inside)[len(inside) // 2]
        return line(
            wanted,
            place,
            "starts of a second process; inside_per_second: those in the worker's own",
            seconds=round(median.seconds, 4),
            seconds_min=round(min(timing.seconds for timing in outside), 4),
            seconds_max=round(max(timing.seconds for timing in outside), 4),
            per_second=round(rate, 2),
            p50_ms=round(1000 * machine.percentile(median.each, 0.5), 2),
            p99_ms=round(1000 * machine.percentile(median.each, 0.99), 2),
            peak_rss_mb=round(machine.peak_rss_mb(), 1),
            inside_per_second=round(rate_inside, 2),
            ratio_to_inside=round(rate / rate_inside, 3),
            **{name: round(1000 * machine.percentile(each, 0.5), 2) for name, each in latencies.items()},
            repeats=len(outside),
        )


async def _both(wanted: Wanted, url: str) -> tuple[list[Timing], list[Timing], dict[str, list[float]]]:
    inside, outside = [], []
    latencies: dict[str, list[float]] = {"latency_p50_ms": [], "quiet_p50_ms": []}
    async with Worker(program.app, url) as worker:
        for number in range(wanted.repeat + 1):
            ids = secrets.token_hex(3)
            here = await starts(worker.client, wanted.n, wanted.concurrency, f"in-{ids}")
            there, lone, quiet = await _in_a_second_process(wanted, url, f"out-{ids}")
            if number:  # the first round warms up
                inside.append(here)
                outside.append(Timing(*there))
                latencies["latency_p50_ms"] += lone
                latencies["quiet_p50_ms"] += quiet
    return inside, outside, latencies


async def _in_a_second_process(wanted: Wanted, url: str, ids: str) -> tuple[Any, list[float], list[float]]:
    command = [sys.executable, "-m", __name__, url, str(wanted.n), str(wanted.concurrency), ids]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    there, lone, quiet = json.loads(output)
    return there, lone, quiet


async def _start_all(url: str, n: int, concurrency: int, ids: str) -> tuple[Timing, Sequence[float], list[float]]:
    async with Client(url, program.app) as client:
        await starts(client, min(n, 50), concurrency, f"warm-{ids}")
        timing = await starts(client, n, concurrency, ids)
        lone = await seq1_latency(client, min(n, LATENCY_N), 1, f"lone-{ids}")
        quiet: list[float] = []
        for number in range(QUIET_N):
            await asyncio.sleep(QUIET_S)
            quiet += (await seq1_latency(client, 1, 1, f"quiet-{number}-{ids}")).each
        return timing, lone.each, quiet


def child() -> None:
    """What the second process runs."""
    url, n, concurrency, ids = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    timing, lone, quiet = asyncio.run(_start_all(url, int(n), int(concurrency), ids))
    print(json.dumps([[timing.seconds, list(timing.each)], list(lone), quiet]), flush=True)


if __name__ == "__main__":
    child()
