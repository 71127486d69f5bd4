"""The workload `waiting`: N instances that wait for an event and a timer, and what memory the worker takes for them."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from durable import OrchestrationStatus, Worker
from tests.benchmarks import machine, program
from tests.benchmarks.measuring import Wanted, line, scratch
from tests.benchmarks.stores import STORES, Place
from tests.benchmarks.workloads import at_a_time

LOOK_S = 0.1


def measure(wanted: Wanted) -> dict[str, Any]:
    """Start the instances once; return the line."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch()) as name, STORES[wanted.store](Path(name)) as place:
        return asyncio.run(measure_at(wanted, place))


async def measure_at(wanted: Wanted, place: Place) -> dict[str, Any]:
    """Start the instances on this store; return the line."""
    seconds = await _start_all(wanted, place.url)
    return line(
        wanted,
        place,
        "each waits for an event and for a timer; worker and client in one process",
        seconds=round(seconds, 3),
        per_second=round(wanted.n / seconds, 1),
        p50_ms=None,
        p99_ms=None,
        peak_rss_mb=round(machine.peak_rss_mb(), 1),
        repeats=1,
    )


async def _start_all(wanted: Wanted, url: str) -> float:
    async with Worker(program.app, url) as worker:

        async def start(number: int) -> None:
            await worker.client.start(program.dormant, instance_id=f"d-{number}")

        began = time.perf_counter()
        await at_a_time(wanted.n, wanted.concurrency, start)
        while await worker.client.count(status=OrchestrationStatus.PENDING):
            await asyncio.sleep(LOOK_S)
        return time.perf_counter() - began
