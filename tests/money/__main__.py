"""The long form: `python -m tests.money --schedules 2000 --kills 20 [--seed N]`."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

from durable.testing.simulation.faults import Schedule, draw_schedule
from durable.testing.simulation.running import run_schedule
from tests.ledger import Ledger
from tests.money.bank import app, scenario
from tests.money.storm import run_storm


def simulated(schedules: int, seed: int) -> tuple[list[str], int]:
    """Play the scenario under drawn schedules; return what went wrong, and how many faults struck."""
    plain = run_schedule(app, scenario, Schedule(0))
    assert plain.is_good, f"without any fault: {plain.violations} {plain.error!r}"
    broken: list[str] = []
    struck = 0
    for drawn_from in range(seed, seed + schedules):
        outcome = run_schedule(app, scenario, draw_schedule(drawn_from, plain.calls, changes=plain.changes))
        struck += len(outcome.struck)
        if not outcome.is_good:
            told = [f"seed {drawn_from}: {outcome.error!r}", *outcome.violations, *outcome.struck]
            broken.append("\n  ".join(told))
            print(broken[-1], file=sys.stderr, flush=True)
    return broken, struck


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.money", description=__doc__)
    parser.add_argument("--schedules", type=int, default=2000, help="simulated fault schedules (default: 2000)")
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs of real workers (default: 20)")
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(1 << 31), help="of every choice (default: random)"
    )
    given = parser.parse_args()
    ledger = Ledger("money", given.seed)
    broken, struck = simulated(given.schedules, given.seed)
    if given.kills:
        with tempfile.TemporaryDirectory(prefix="durable-money-") as folder:
            broken += asyncio.run(run_storm(Path(folder), given.kills, given.seed))
    return ledger.close(broken, schedules=given.schedules, faults=struck, kills=given.kills)


if __name__ == "__main__":
    sys.exit(main())
