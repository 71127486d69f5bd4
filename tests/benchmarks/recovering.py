"""The workload `recover`: a worker is killed with a third of the activities done; how long until another has done the rest.

The clock runs from the start of the second process, so that it includes Python's start and the imports.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from durable import Worker
from tests.benchmarks import program
from tests.benchmarks.measuring import Wanted, line, scratch
from tests.benchmarks.stores import STORES
from tests.benchmarks.workloads import at_a_time

ROOT = Path(__file__).parents[2]
STEPS = 5
LOOK_S = 0.005
PATIENCE_S = 120.0
IN_MEMORY = "memory"

BEGIN, GO_ON = "begin", "go-on"
"""What a child is asked for: to start all instances and work until it is killed, or to work until all have ended."""


@dataclasses.dataclass(frozen=True, slots=True)
class Recovery:
    """One kill, and what became of it."""

    seconds: float
    first_activity_s: float
    lost: int
    ran_before: int
    ran_twice: int
    missing: int


def measure(wanted: Wanted) -> dict[str, Any]:
    """Kill and recover a few times; return the line of the median."""
    if wanted.store == IN_MEMORY:
        raise SystemExit("nothing of the memory store outlives its process: recover needs another one")
    found, place = [], None
    for _ in range(wanted.repeat):
        with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch()) as name:
            with STORES[wanted.store](Path(name)) as place:
                found.append(_kill_and_recover(wanted.n, place.url, Path(name)))
    assert place is not None
    ordered = sorted(found, key=lambda recovery: recovery.seconds)
    median = ordered[len(ordered) // 2]
    return line(
        wanted,
        place,
        "SIGKILL of the worker; seconds from the start of the next process",
        seconds=round(median.seconds, 3),
        seconds_min=round(ordered[0].seconds, 3),
        seconds_max=round(ordered[-1].seconds, 3),
        per_second=round(wanted.n / median.seconds, 1),
        p50_ms=None,
        p99_ms=None,
        peak_rss_mb=None,
        first_activity_s=round(median.first_activity_s, 3),
        lost=max(recovery.lost for recovery in found),
        activities_run_twice=[recovery.ran_twice for recovery in found],
        activities_missing=max(recovery.missing for recovery in found),
        activities_before_kill=median.ran_before,
        in_flight=wanted.n,
        repeats=len(found),
    )


def _kill_and_recover(n: int, url: str, folder: Path) -> Recovery:
    log, submitted, done = folder / "activities.log", folder / "submitted", folder / "done.json"
    first = _child(BEGIN, n, url, folder)
    _until(lambda: submitted.exists() and len(_lines(log)) >= n * STEPS // 3, first)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before = len(_lines(log))
    began = time.time()
    second = _child(GO_ON, n, url, folder)
    _until(lambda: len(_lines(log)) > before, second)
    first_activity_s = time.time() - began
    second.wait(PATIENCE_S)
    ended = json.loads(done.read_text(encoding="ascii"))
    lines = _lines(log)
    return Recovery(
        seconds=ended["at"] - began,
        first_activity_s=first_activity_s,
        lost=n - ended["completed"],
        ran_before=before,
        ran_twice=len(lines) - len(set(lines)),
        missing=n * STEPS - len(set(lines)),
    )


def _child(task: str, n: int, url: str, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", __name__, task, str(n), url, str(folder)], cwd=ROOT)


def _until(is_so: Any, process: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not is_so():
        if process.poll() not in (None, 0) or time.monotonic() > give_up_at:
            process.kill()
            raise SystemExit(f"the worker did not do its part (exit code {process.wait()})")
        time.sleep(LOOK_S)


def _lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


async def _begin(n: int, url: str, folder: Path) -> None:
    async with Worker(program.app, url, max_activities=n) as worker:

        async def start(number: int) -> None:
            await worker.client.start(program.rec, instance_id=f"rec-{number}")

        await at_a_time(n, n, start)
        (folder / "submitted").touch()
        await asyncio.sleep(PATIENCE_S)


async def _go_on(n: int, url: str, folder: Path) -> None:
    async with Worker(program.app, url, max_activities=n) as worker:
        handles = [worker.client.get(f"rec-{number}", program.rec) for number in range(n)]
        ended = await asyncio.gather(*(handle.result(PATIENCE_S) for handle in handles), return_exceptions=True)
        completed = sum(isinstance(result, list) for result in ended)
        (folder / "done.json").write_text(json.dumps({"completed": completed, "at": time.time()}), encoding="ascii")


def child() -> None:
    """What a child process runs."""
    task, n, url, folder = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    program.activity_log.open(os.path.join(folder, "activities.log"))
    asyncio.run({BEGIN: _begin, GO_ON: _go_on}[task](int(n), url, Path(folder)))


if __name__ == "__main__":
    child()
