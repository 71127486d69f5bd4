"""The workload `beside_limits`: the engine and what it is held against, taking turns on one server, for only such ratios count.

In each round: a sequential step of one instance (`long`) beside a commit of one row by the same driver, and `seq5` beside the
bare loop with group commit, 50 and 500 at a time. The ratios are those of the best of all rounds: whatever else a machine does
can only take time. With `--processes P` `seq5` runs in P processes, and the bare loop also in as many at the same time.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks import machine, processes
from tests.benchmarks.limits import group_commit, single_commit
from tests.benchmarks.measuring import Wanted, line, measure_at, scratch
from tests.benchmarks.stores import STORES, Place

LONG_N = 300
BARE_N_FACTOR = 3
"""The bare loop is that much faster at least: its runs should not be too short to be measured."""
COMMITS_S = 0.3
CONCURRENCIES = (50, 500)


def measure(wanted: Wanted) -> dict[str, Any]:
    """Measure in `wanted.repeat` rounds; `wanted.n`: the instances of a run of `seq5`. Return the line."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch()) as name, STORES[wanted.store](Path(name)) as place:
        with _server_of(place):
            return measure_beside(wanted, Path(name), place)


def measure_beside(wanted: Wanted, folder: Path, place: Place) -> dict[str, Any]:
    """Measure on this store, the limits on `wanted.store`; return the line."""
    rounds = [_round(wanted, folder, place) for _ in range(wanted.repeat)]
    best = {name: (min if name.endswith("_ms") else max)(each[name] for each in rounds) for name in rounds[0]}
    best["step_to_commit"] = best["step_ms"] / best["commit_ms"]
    for concurrency in CONCURRENCIES:
        ours, bare = best[f"seq5_{concurrency}_per_second"], best[f"bare_{concurrency}_per_second"]
        best[f"seq5_{concurrency}_to_bare"] = ours / bare
        if wanted.processes > 1:
            best[f"seq5_{concurrency}_to_bares"] = ours / best[f"bares_{concurrency}_per_second"]
    return line(
        wanted,
        place,
        "the best of the rounds; of a step to a commit less is better, of seq5 to the bare loop more",
        seconds=None,
        per_second=None,
        p50_ms=None,
        p99_ms=None,
        peak_rss_mb=round(machine.peak_rss_mb(), 1),
        repeats=len(rounds),
        **{name: round(value, 3) for name, value in best.items()},
        rounds=[{name: round(value, 3) for name, value in each.items()} for each in rounds],
    )


@contextmanager
def _server_of(place: Place) -> Iterator[None]:
    """Let all that is measured inside use the same server, where the store is one."""
    before = os.environ.get("BENCH_PG_URL")
    if place.url.startswith("postgresql:"):
        os.environ["BENCH_PG_URL"] = place.url.rpartition("/")[0]
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("BENCH_PG_URL", None)
        else:
            os.environ["BENCH_PG_URL"] = before


def _round(wanted: Wanted, folder: Path, place: Place) -> dict[str, float]:
    found = {"commit_ms": single_commit.measure(COMMITS_S, wanted.store)["commit_ms"]}
    found["step_ms"] = 1000 * _ours(wanted, "long", LONG_N, 1, folder, place)["seconds"] / LONG_N
    for concurrency in CONCURRENCIES:
        bare = group_commit.measure(wanted.n * BARE_N_FACTOR, concurrency, wanted.store)
        found[f"bare_{concurrency}_per_second"] = bare["per_second"]
        if wanted.processes > 1:
            found[f"bares_{concurrency}_per_second"] = _bare_loops(wanted, concurrency)
            one = dataclasses.replace(wanted, workload="seq5", concurrency=concurrency, repeat=1)
            ours = processes.measure_at(one, place)
        else:
            ours = _ours(wanted, "seq5", wanted.n, concurrency, folder, place)
        found[f"seq5_{concurrency}_per_second"] = ours["per_second"]
    return found


def _bare_loops(wanted: Wanted, concurrency: int) -> float:
    """Return what so many bare loops do together, each in a process of its own."""
    n, at_a_time = wanted.n * BARE_N_FACTOR // wanted.processes, concurrency // wanted.processes
    command = [sys.executable, "-m", "tests.benchmarks.limits.group_commit", "--store", wanted.store]
    command += ["--n", str(n), "--concurrency", str(at_a_time)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(wanted.processes)]
    outputs = [process.communicate()[0] for process in running]
    return float(sum(json.loads(output.splitlines()[-1])["per_second"] for output in outputs))


def _ours(wanted: Wanted, workload: str, n: int, concurrency: int, folder: Path, place: Place) -> dict[str, Any]:
    return asyncio.run(measure_at(Wanted(workload, n, concurrency, wanted.store, repeat=1), folder, place))
