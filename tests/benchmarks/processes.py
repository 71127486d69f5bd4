"""A workload of many instances in several processes, each with a worker and a client of its own, as a web server has them.

`--processes P`: each runs N/P instances, C/P at a time, on one store. Time counts from the first start of all to the last
result.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from durable import Worker
from durable.provider import PARTITIONS
from durable.worker.worker import RARE_COLLECTIONS
from tests.benchmarks import machine
from tests.benchmarks.measuring import WARM_UP_SEQ5, Wanted, line, scratch
from tests.benchmarks.program import app
from tests.benchmarks.stores import STORES, Place
from tests.benchmarks.workloads import WORKLOADS, collect

ROOT = Path(__file__).parents[2]
READY = "ready"
LOOK_S = 0.05


def measure(wanted: Wanted) -> dict[str, Any]:
    """Measure on a new store; return the line of the median."""
    if wanted.store == "memory":
        raise SystemExit("the memory store is that of one process")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch()) as name, STORES[wanted.store](Path(name)) as place:
        return measure_at(wanted, place)


def measure_at(wanted: Wanted, place: Place) -> dict[str, Any]:
    """Measure on this store; return the line of the median."""
    with _serving(wanted, place.url) as running:
        found = [_round(running) for _ in range(wanted.repeat)]
    found.sort(key=lambda each: each["seconds"])
    median = found[len(found) // 2]
    steps = wanted.n * (WORKLOADS[wanted.workload].steps_per_instance or 0)
    return line(
        wanted,
        place,
        f"{wanted.processes} processes, each with a worker and a client that runs its part",
        seconds=round(median["seconds"], 4),
        seconds_min=round(found[0]["seconds"], 4),
        seconds_max=round(found[-1]["seconds"], 4),
        per_second=round(wanted.n / median["seconds"], 2),
        steps_per_second=round(steps / median["seconds"], 1) if steps else None,
        p50_ms=round(1000 * machine.percentile(median["each"], 0.5), 2),
        p99_ms=round(1000 * machine.percentile(median["each"], 0.99), 2),
        peak_rss_mb=round(max(each["rss_mb"] for each in found), 1),
        cpu_us_per_step=round(1e6 * median["cpu_s"] / steps, 1) if steps else None,
        repeats=len(found),
        processes=wanted.processes,
    )


@contextmanager
def _serving(wanted: Wanted, url: str) -> Iterator[Sequence[subprocess.Popen[str]]]:
    processes = wanted.processes
    share = [str(total // processes) for total in (wanted.n, wanted.concurrency)]
    command = [sys.executable, "-m", __name__, url, wanted.workload, *share, str(processes)]
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            for _ in range(processes)
        ]  # each ends with its input
        for process in running:
            if _out(process).readline().strip() != READY:
                raise SystemExit("a process of the benchmark did not become ready")
        yield running
        for process in running:
            assert process.stdin is not None
            process.stdin.close()


def _out(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def _round(running: Sequence[subprocess.Popen[str]]) -> dict[str, Any]:
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [json.loads(_out(process).readline()) for process in running]
    return {
        "seconds": max(each["ended"] for each in found) - min(each["began"] for each in found),
        "each": [seconds for each in found for seconds in each["each"]],
        "cpu_s": sum(each["cpu_s"] for each in found),
        "rss_mb": sum(each["rss_mb"] for each in found),
    }


async def _serve(url: str, workload: str, n: int, concurrency: int, processes: int) -> None:
    gc.set_threshold(*RARE_COLLECTIONS)
    async with Worker(app, url) as worker:
        while worker.health().partitions > -(-PARTITIONS // processes) or worker.health().partitions == 0:
            await asyncio.sleep(LOOK_S)
        for name, count in (("seq5", WARM_UP_SEQ5), (workload, WORKLOADS[workload].warm_up)):
            await collect(worker.client, name, count, concurrency, secrets.token_hex(4))
        gc.collect()
        print(READY, flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            cpu, began = time.process_time(), time.time()
            timing = await collect(worker.client, workload, n, concurrency, secrets.token_hex(4))
            figures = {
                "began": began,
                "ended": time.time(),
                "each": list(timing.each),
                "cpu_s": time.process_time() - cpu,
                "rss_mb": machine.peak_rss_mb(),
            }
            gc.collect()
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    url, workload, n, concurrency, processes = sys.argv[1:]
    asyncio.run(_serve(url, workload, int(n), int(concurrency), int(processes)))
