"""All workloads beside the limits of the machine, measured in one run: `python -m tests.benchmarks.table`, or `make bench`.

Each figure comes from a process of its own. The limits are measured again before every group of workloads, for the speed of
a disk drifts within minutes; a ratio is to the limit that was measured last. `--json FILE` keeps everything.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
POPULATED_N = 1_000_000

Figures = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A line of the table: what is run, and what its figure is held against.

    `limit` gives from the figures of the limits the one that this workload cannot pass, and the name that it goes by; the
    ratio is ours to that. With `is_time` less is better, and the ratio is how many times as long ours takes.
    """

    workload: str
    n: int
    concurrency: int = 50
    figure: str = "per_second"
    unit: str = "instances/s"
    limit: Callable[[Figures], tuple[str, float]] | None = None
    is_time: bool = False
    is_slow: bool = False
    processes: int = 1


def _bare_loop(concurrency: int) -> Callable[[Figures], tuple[str, float]]:
    return lambda limits: (f"bare loop at C {concurrency}", limits[f"group_commit_{concurrency}"]["per_second"])


def _commits(limits: Figures) -> tuple[str, float]:
    return "single commits/s", limits["single_commit"]["commits_per_s"]


def _commit_ms(limits: Figures) -> tuple[str, float]:
    return "one commit, ms", limits["single_commit"]["commit_ms"]


def _rows(limits: Figures) -> tuple[str, float]:
    return "rows/s by hundreds", limits["single_commit"]["rows_per_s_by_hundreds"]


ENTRIES = (
    Entry("seq5", 2_000, 50, limit=_bare_loop(50)),
    Entry("seq5", 2_000, 500, limit=_bare_loop(500)),
    Entry("seq5", 2_000, 50, limit=_bare_loop(50), processes=2),
    Entry("seq5", 2_000, 500, limit=_bare_loop(500), processes=2),
    Entry("seq1_latency", 300, 1, "p50_ms", "ms, p50", _commit_ms, is_time=True),
    Entry("fanout", 1_000, figure="steps_per_second", unit="activities/s", limit=_rows),
    Entry("long", 1_000, figure="steps_per_second", unit="activities/s", limit=_commits),
    Entry("timers", 500, 500, "p50_ms", "ms late, p50", _commit_ms, is_time=True),
    Entry("events", 500, limit=_rows),
    Entry("starts", 2_000, limit=_rows),
    Entry("job_tree", 2_500, figure="steps_per_second", unit="jobs/s", limit=_commits),
    Entry("limited", 1_000, figure="steps_per_second", unit="activities/s", limit=_rows),
    Entry("due_jobs", 1_000, figure="p99_ms", unit="ms late, p99", is_time=True),
    Entry("second_process", 2_000, unit="starts/s", limit=_rows),
    Entry("recover", 100, figure="seconds", unit="s", is_time=True),
    Entry("import", 1, figure="p50_ms", unit="ms", is_time=True),
    Entry("first_result", 1, figure="p50_ms", unit="ms", is_time=True),
    Entry("long", 100, figure="steps_per_second", unit="activities/s", limit=_commits),
    Entry("long", 10_000, figure="steps_per_second", unit="activities/s", limit=_commits, is_slow=True),
    Entry("fanout", 50_000, figure="steps_per_second", unit="activities/s", limit=_rows, is_slow=True),
    Entry("fanout", 100_000, figure="steps_per_second", unit="activities/s", limit=_rows, is_slow=True),
    Entry("timers", 10_000, 10_000, "p99_ms", "ms late, p99", is_time=True, is_slow=True),
    Entry("job_tree", 5_000, figure="steps_per_second", unit="jobs/s", limit=_commits, is_slow=True),
    Entry("job_tree", 10_000, figure="steps_per_second", unit="jobs/s", limit=_commits, is_slow=True),
    Entry("due_jobs", 10_000, figure="p99_ms", unit="ms late, p99", is_time=True, is_slow=True),
    Entry("waiting", 100_000, figure="peak_rss_mb", unit="MiB", is_time=True, is_slow=True),
    Entry("populated", POPULATED_N, limit=None, is_slow=True),
)

OF_ONE_PROCESS = ("recover", "second_process", "populated")
"""Workloads that the memory store cannot have."""


def _json_of(*command: str) -> Figures:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_limits(store: str) -> Figures:
    """Measure what the machine can do at the moment, by the store's own engine; memory is held against SQLite."""
    engine = ("--store", "postgres" if store == "postgres" else "sqlite")
    group = "tests.benchmarks.limits.group_commit"
    return {
        "single_commit": _json_of("tests.benchmarks.limits.single_commit", *engine),
        "group_commit_50": _json_of(group, "--n", "2000", "--concurrency", "50", *engine),
        "group_commit_500": _json_of(group, "--n", "2000", "--concurrency", "500", *engine),
    }


def measure_entry(entry: Entry, store: str, limits: Figures) -> Figures:
    """Measure a workload; return its line of JSON with the limit and the ratio to it."""
    size = ("--n", str(entry.n), "--concurrency", str(entry.concurrency))
    shared = ("--processes", str(entry.processes)) if entry.processes > 1 else ()
    found = _json_of("tests.benchmarks", "--workload", entry.workload, *size, "--store", store, *shared)
    found |= {"figure": found[entry.figure], "unit": entry.unit}
    if entry.limit is not None:
        name, limit = entry.limit(limits)
        found |= {"limit": name, "limit_figure": limit, "ratio_to_limit": round(found["figure"] / limit, 3)}
    return found


def table(lines: Sequence[Figures]) -> str:
    """Return the lines as a table."""
    rows = [("workload", "N", "C", "figure", "unit", "p50 ms", "p99 ms", "us CPU a step", "MiB", "limit", "ratio")]
    for found in lines:
        limit = f"{found['limit_figure']:,.4g} ({found['limit']})" if "limit" in found else ""
        measured = (found.get(name) for name in ("p50_ms", "p99_ms", "cpu_us_per_step", "peak_rss_mb"))
        shown = ["" if value is None else f"{value:,.4g}" for value in measured]
        ratio = f"{found['ratio_to_limit']:.3g}" if "ratio_to_limit" in found else ""
        size = (f"{found['n']:,}", f"{found['concurrency']:,}")
        name = found["workload"] + (f", {found['processes']} processes" if "processes" in found else "")
        rows.append((name, *size, f"{found['figure']:,.5g}", found["unit"], *shown, limit, ratio))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.table", description=__doc__)
    parser.add_argument("--store", default="sqlite")
    parser.add_argument("--slow", action="store_true", help="also what takes minutes: the large sizes")
    parser.add_argument("--json", type=Path, default=ROOT / "bench.json", help="where all figures go (bench.json)")
    given = parser.parse_args()
    lines, all_limits = [], []
    limits: Figures = {}
    for number, entry in enumerate(entry for entry in ENTRIES if given.slow or not entry.is_slow):
        if given.store == "memory" and (entry.workload in OF_ONE_PROCESS or entry.processes > 1):
            continue
        if number % 4 == 0:
            limits = measure_limits(given.store)
            all_limits.append(limits)
        lines.append(measure_entry(entry, given.store, limits))
        print(f"{entry.workload} {entry.n}: {lines[-1]['figure']} {entry.unit}", flush=True)
    written = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "limits": all_limits, "workloads": lines}
    given.json.write_text(json.dumps(written, indent=1), encoding="utf-8")
    print(f"\n{table(lines)}\n\nwritten to {given.json}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
