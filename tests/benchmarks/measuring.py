"""One measurement: warm up, run a few times in this process, and say what the median run took."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from durable import Worker
from durable.worker.worker import RARE_COLLECTIONS
from tests.benchmarks import machine
from tests.benchmarks.program import app
from tests.benchmarks.stores import STORES, Place, version
from tests.benchmarks.workloads import WORKLOADS, Timing, collect

NOTES = "async activities, client and worker in one process, garbage collected as `worker.run()` does"
WARM_UP_SEQ5 = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured."""

    workload: str
    n: int
    concurrency: int
    store: str
    repeat: int = 3
    processes: int = 1


def line(wanted: Wanted, place: Place, notes: str = NOTES, **figures: Any) -> dict[str, Any]:
    """Return what is printed for a measurement: the fields that each one has, and its figures."""
    known = {
        "peer": "durable-orchestration",
        "version": version(),
        "store": place.store,
        "durability": place.durability,
        "workload": wanted.workload,
        "n": wanted.n,
        "concurrency": wanted.concurrency,
    }
    return known | figures | {"notes": notes}


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """One run, and the machine around it."""

    timing: Timing
    cpu_s: float
    flushes: int | None
    around: dict[str, float | None]


async def _measure(wanted: Wanted, folder: Path, place: Place) -> list[Measured]:
    found = []
    gc.set_threshold(*RARE_COLLECTIONS)
    async with Worker(app, place.url) as worker:
        await collect(worker.client, "seq5", WARM_UP_SEQ5, wanted.concurrency, f"w5-{secrets.token_hex(3)}")
        warm_up = min(wanted.n, WORKLOADS[wanted.workload].warm_up)
        await collect(worker.client, wanted.workload, warm_up, wanted.concurrency, f"wm-{secrets.token_hex(3)}")
        for number in range(wanted.repeat):
            gc.collect()  # what the run before has left is not this one's to clear away
            around = {"cal_ms": machine.cpu_loop_ms(), "fdatasync_per_s": machine.syncs_per_s(folder)}
            stolen, flushes, cpu = machine.stolen_s(), machine.device_flushes(folder), time.process_time()
            ids = f"r{number}-{secrets.token_hex(3)}"
            timing = await collect(worker.client, wanted.workload, wanted.n, wanted.concurrency, ids)
            cpu = time.process_time() - cpu
            after = machine.device_flushes(folder)
            spent = None if after is None or flushes is None else after - flushes
            still_stolen = machine.stolen_s()
            around["steal_s"] = None if stolen is None or still_stolen is None else still_stolen - stolen
            found.append(Measured(timing, cpu, spent, around))
    return found


def _figures(wanted: Wanted, found: Sequence[Measured]) -> dict[str, Any]:
    workload = WORKLOADS[wanted.workload]
    ordered = sorted(found, key=lambda measured: measured.timing.seconds)
    median = ordered[len(ordered) // 2]
    seconds = median.timing.seconds
    units = 1 if workload.is_one_instance else wanted.n
    steps = wanted.n * (workload.steps_per_instance or (1 if workload.is_one_instance else 0))
    return {
        "seconds": round(seconds, 4),
        "seconds_min": round(ordered[0].timing.seconds, 4),
        "seconds_max": round(ordered[-1].timing.seconds, 4),
        "per_second": round(units / seconds, 2),
        "steps_per_second": round(steps / seconds, 1) if steps else None,
        "p50_ms": round(1000 * machine.percentile(median.timing.each, 0.5), 2),
        "p99_ms": round(1000 * machine.percentile(median.timing.each, 0.99), 2),
        "peak_rss_mb": round(machine.peak_rss_mb(), 1),
        "cpu_s": round(median.cpu_s, 3),
        "cpu_us_per_step": round(1e6 * median.cpu_s / steps, 1) if steps else None,
        "device_flushes": median.flushes,
        "repeats": len(found),
        **{name: None if value is None else round(value, 2) for name, value in median.around.items()},
    }


def measure(wanted: Wanted) -> dict[str, Any]:
    """Measure a workload that runs in one process, on a new store; return its line."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch()) as name, STORES[wanted.store](Path(name)) as place:
        return asyncio.run(measure_at(wanted, Path(name), place))


async def measure_at(wanted: Wanted, folder: Path, place: Place) -> dict[str, Any]:
    """Measure a workload that runs in one process, on this store; return its line. `folder`: where the disk is probed."""
    return line(wanted, place, **_figures(wanted, await _measure(wanted, folder, place)))


def scratch() -> str:
    """Return where stores are made: a real disk, where the machine has one."""
    return os.environ.get("BENCH_SCRATCH") or tempfile.gettempdir()


def medians(values: Sequence[float]) -> dict[str, float]:
    """Return the median of some figures with the least and the greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
