"""All long batteries: `python -m tests.torture [--only NAME] [--seed N]`, or `make torture`.

Those with real processes and real time run one after the other; then those that only compute, one on each processor.
Each battery is a command whose last line is its ledger (`tests/ledger.py`). What is wanted of it stands in BATTERIES; a
violation, a figure that was not reached, or a battery that ends in any other way than it should, fails the whole.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.decoders import DECODERS
from tests.ledger import ALWAYS, read_line

ROOT = Path(__file__).parents[1]

SECONDS_MAX = 3600.0
"""A battery that takes longer hangs: all of them together are meant to take less."""


@dataclasses.dataclass(frozen=True, slots=True)
class Battery:
    """A command, by its module and arguments, and the least that each of its figures must reach.

    One that is not `is_drawn` makes no choices: it does everything that there is. One that `is_alone` goes by real time, which
    another at its side would take from it.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    wanted: Mapping[str, float]
    is_drawn: bool = True
    is_alone: bool = True

    def command(self, seed: int) -> list[str]:
        """What is run; the seed is that of every choice."""
        return [sys.executable, "-m", self.module, *self.arguments, *(("--seed", str(seed)) if self.is_drawn else ())]


BATTERIES = (
    Battery("kills", "tests.kills", ("--kills", "100", "--stops", "30"), {"kills": 100, "zombies": 30}),
    Battery(
        "kills on PostgreSQL",
        "tests.kills",
        (
            *("--store", "postgres", "--kills", "100", "--stops", "20"),
            *("--restarts", "10", "--broken", "20", "--cuts", "200", "--lease", "3"),
        ),
        {"kills": 100, "zombies": 20, "restarts": 10, "broken": 20, "cuts": 200},
    ),
    Battery(
        "kills with payloads outside",
        "tests.kills",
        ("--store", "offloaded", "--kills", "50", "--stops", "5"),
        {"kills": 50, "zombies": 5},
    ),
    Battery("simulation", "tests.simulation", ("--schedules", "10000"), {"schedules": 10_000}, is_alone=False),
    Battery(
        "simulation on SQLite",
        "tests.simulation",
        ("--schedules", "1000", "--engine", "sqlite"),
        {"schedules": 1_000},
        is_alone=False,
    ),
    Battery(
        "single faults",
        "tests.single_faults",
        ("--scenarios", "40"),
        {"scenarios": 40},
        is_drawn=False,
        is_alone=False,
    ),
    Battery("planted bugs", "tests.planted_bugs", (), {"planted": 40, "found": 40}, is_drawn=False, is_alone=False),
    Battery("generated", "tests.generated", ("--orchestrators", "2000"), {"orchestrators": 2_000}, is_alone=False),
    Battery("money", "tests.money", ("--schedules", "2000", "--kills", "20"), {"schedules": 2_000, "kills": 20}),
    Battery("job trees", "tests.job_trees", ("--trees", "2000"), {"trees": 2_000}, is_alone=False),
    Battery("kills between jobs", "tests.job_kills", (), {"runs": 1}, is_drawn=False),
    Battery("schedules under kills", "tests.schedule_kills", (), {"kills": 5}, is_drawn=False),
    Battery("limits under kills", "tests.limit_kills", (), {"kills": 20, "attempts": 4_000}, is_drawn=False),
    Battery("zones of cron", "tests.cron_zones", (), {"years": 20, "zones": 100}, is_drawn=False, is_alone=False),
    Battery("fuzz", "tests.fuzz", ("--inputs", "100000"), {"inputs": 100_000 * len(DECODERS)}, is_alone=False),
    Battery("power loss", "tests.power_loss", ("--images", "2000"), {"images": 2_000}),
    Battery("sizes", "tests.sizes", (), {"tests": 12}, is_drawn=False),
)

TOTALS = ("schedules", "faults", "virtual_hours", "kills", "zombies", "orchestrators", "inputs", "images")
"""Figures that are added up under the table."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """What became of one battery: its ledger's line, if there was one, and what was wrong with it."""

    name: str
    line: Mapping[str, Any]
    seconds: float
    failures: Sequence[str]

    @property
    def figures(self) -> str:
        """The battery's own figures, in words."""
        return ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in self.line.items() if key not in ALWAYS)


def run(battery: Battery, seed: int, *, seconds_max: float = SECONDS_MAX) -> Entry:
    """Run a battery, showing what it says; nothing of it is left running."""
    whose = "" if battery.is_alone else f"{battery.name}: "
    print(f"── {battery.name}: {' '.join(battery.command(seed)[1:])}", flush=True)
    began = time.monotonic()
    process = subprocess.Popen(
        battery.command(seed),
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    last = threading.Timer(seconds_max, _kill, (process,))
    last.start()
    output: list[str] = []
    try:
        for line in process.stdout:
            print(f"{whose}{line}", end="", flush=True)
            output.append(line)
        status = process.wait()
    finally:
        last.cancel()
        _kill(process)
        process.stdout.close()
        process.wait()
    seconds = time.monotonic() - began
    try:
        line = read_line("".join(output[-1:]))
    except ValueError as error:
        return Entry(battery.name, {}, seconds, [f"{error} (exit code {status})"])
    return Entry(battery.name, line, seconds, list(_failures(battery, line, status)))


def _kill(process: subprocess.Popen[str]) -> None:
    """End a battery with all processes that it has started in its session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _failures(battery: Battery, line: Mapping[str, Any], status: int) -> list[str]:
    found = []
    if line["violations"]:
        found.append(f"{line['violations']} violations, seed {line['seed']}")
    elif status:
        found.append(f"exit code {status}")
    for figure, least in battery.wanted.items():
        if line.get(figure, 0) < least:
            found.append(f"{line.get(figure, 0):,} {figure}, and {least:,} are wanted")
    return found


def run_all(batteries: Sequence[Battery], seed: int) -> list[Entry]:
    """Run batteries, each alone that must be; return what became of them, in their order."""
    found = {battery.name: run(battery, seed) for battery in batteries if battery.is_alone}
    others = [battery for battery in batteries if not battery.is_alone]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as side_by_side:
        found |= {entry.name: entry for entry in side_by_side.map(lambda battery: run(battery, seed), others)}
    return [found[battery.name] for battery in batteries]


def table(entries: Sequence[Entry], seconds: float = 0.0) -> str:
    """Return the ledger of all batteries, which took so long together, as text."""
    rows = [("battery", "seconds", "violations", "figures")]
    totals: Counter[str] = Counter()
    for entry in entries:
        violations = f"{entry.line.get('violations', '?')}"
        rows.append((entry.name, f"{entry.seconds:,.0f}", violations, entry.figures))
        totals.update({figure: entry.line.get(figure, 0) for figure in TOTALS})
        totals["violations"] += entry.line.get("violations", 0)
    sums = [f"{totals[figure]:,} {figure.replace('_', ' ')}" for figure in TOTALS if totals[figure]]
    rows.append(("all", f"{seconds:,.0f}", f"{totals['violations']}", ", ".join(sums)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"{name:<{widths[0]}}  {taken:>{widths[1]}}  {violations:>{widths[2]}}  {figures}".rstrip()
        for name, taken, violations, figures in rows
    ]
    failures = [f"FAILED {entry.name}: {failure}" for entry in entries for failure in entry.failures]
    return "\n".join([*lines, *failures])


def main(arguments: Sequence[str] | None = None, batteries: Sequence[Battery] = BATTERIES) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--only", action="append", choices=[battery.name for battery in batteries])
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(1 << 32), help="of every choice (default: random)"
    )
    options = parser.parse_args(arguments)
    chosen = [battery for battery in batteries if not options.only or battery.name in options.only]
    began = time.monotonic()
    entries = run_all(chosen, options.seed)
    print(f"\n{table(entries, time.monotonic() - began)}", flush=True)
    return 1 if any(entry.failures for entry in entries) else 0


if __name__ == "__main__":
    sys.exit(main())
