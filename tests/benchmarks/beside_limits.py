"""The workload `beside_limits`: the engine and what it is held against, taking turns on one server, for only such ratios count.

In each round: a sequential step of one instance (`long`) beside a commit of one row by the same driver, and `seq5` beside the
bare loop with group commit, 50 and 500 at a time. The ratios are those of the best of all rounds: whatever else a machine does
can only take time.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks import machine
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
        ours = _ours(wanted, "seq5", wanted.n, concurrency, folder, place)
        found[f"bare_{concurrency}_per_second"] = bare["per_second"]
        found[f"seq5_{concurrency}_per_second"] = ours["per_second"]
    return found


def _ours(wanted: Wanted, workload: str, n: int, concurrency: int, folder: Path, place: Place) -> dict[str, Any]:
    return asyncio.run(measure_at(Wanted(workload, n, concurrency, wanted.store, repeat=1), folder, place))
