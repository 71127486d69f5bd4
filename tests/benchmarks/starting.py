"""How soon a program can begin: the import of the package, and the first result in a new file.

import        `import durable` in a new process, without Python's own start
first_result  from the start of a process to the result of its first orchestration, in a file that was not there
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import Wanted, line, scratch
from tests.benchmarks.stores import STORES, Place

ROOT = Path(__file__).parents[2]

IMPORT = """
import time
began = time.perf_counter()
import durable
print(time.perf_counter() - began)
"""

FIRST_RESULT = """
import asyncio, sys, time
from durable import App, Orchestration, OrchestrationContext, Worker

app = App()

@app.activity
def say_hello(city: str) -> str:
    return f"Hello, {city}!"

@app.orchestrator
def hello(ctx: OrchestrationContext, city: str) -> Orchestration[str]:
    return (yield ctx.call_activity(say_hello, city))

async def main() -> None:
    async with Worker(app, sys.argv[1]) as worker:
        assert await worker.client.run(hello, "Tokyo") == "Hello, Tokyo!"
        print(time.time())

asyncio.run(main())
"""


def _said(program: str, *arguments: str) -> float:
    command = [sys.executable, "-c", program, *arguments]
    # An installed package is compiled: what a program of this place asks of Python does not count.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


def _line(wanted: Wanted, place: Place, each: Sequence[float], notes: str) -> dict[str, Any]:
    ordered = sorted(each)
    median = ordered[len(ordered) // 2]
    return line(
        wanted,
        place,
        notes,
        seconds=round(median, 4),
        seconds_min=round(ordered[0], 4),
        seconds_max=round(ordered[-1], 4),
        per_second=round(1 / median, 2),
        p50_ms=round(1000 * median, 1),
        p99_ms=round(1000 * ordered[-1], 1),
        peak_rss_mb=None,
        repeats=len(ordered),
    )


def measure_import(wanted: Wanted) -> dict[str, Any]:
    """Import the package in several new processes; return the line."""
    _said(IMPORT)  # compiles what is not yet compiled
    return _line(
        wanted, Place("", "none", "none"), [_said(IMPORT) for _ in range(wanted.repeat)], "without Python's own start"
    )


def measure_first_result(wanted: Wanted) -> dict[str, Any]:
    """Run a first orchestration in several new processes, each with a new store; return the line."""
    each, last = [], Place("", "", "")
    for number in range(wanted.repeat + 1):
        with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch()) as name:
            with STORES[wanted.store](Path(name)) as place:
                began = time.time()
                ended = _said(FIRST_RESULT, place.url)
                last = place
        if number:  # the first one compiles what is not yet compiled
            each.append(ended - began)
    return _line(wanted, last, each, "from the start of the process, Python's own start included")
