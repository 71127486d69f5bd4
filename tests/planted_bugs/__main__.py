"""Plants each bug of the catalogue and lets the batteries look for it: `python -m tests.planted_bugs [--bug NAME]`."""

from __future__ import annotations

import argparse
import sys
import time

import pytest

from durable.testing.simulation import running
from durable.testing.simulation.faults import Schedule, draw_schedule
from tests.ledger import Ledger
from tests.planted_bugs.catalogue import CATALOGUE, Planted
from tests.simulation.__main__ import play
from tests.simulation.cases import CASES

STEPS_MAX = 50_000
"""A run that a bug keeps from coming to rest need not be watched for long."""

SCHEDULES_MAX = 300
"""Schedules that a bug may take to be found: a two-hundredth of what one night of the simulation plays."""

CALLS = 60


def find(bug: Planted) -> tuple[int, str] | None:
    """Return after how many schedules something was seen to be wrong, and what; None if it never was."""
    cases = [CASES[name] for name in bug.cases or CASES]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "STEPS_MAX", STEPS_MAX)
        bug.plant(patch)
        for seed in range(SCHEDULES_MAX):
            case = cases[seed % len(cases)]
            schedule = Schedule(seed) if seed < len(cases) else draw_schedule(seed, CALLS)
            outcome = play(case, schedule, "memory")
            if bug.told and (outcome.error is not None or any(bug.told not in text for text in outcome.violations)):
                return None  # others see it too: it does not show what that check is good for
            if not outcome.is_good:
                what = next(iter(outcome.violations), f"{type(outcome.error).__name__}: {outcome.error}")
                return seed + 1, f"{case.name}: {what}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.planted_bugs", description=__doc__)
    parser.add_argument("--bug", action="append", choices=sorted(CATALOGUE))
    asked = parser.parse_args()
    ledger = Ledger("planted_bugs", 0)
    missed: list[str] = []
    for name in asked.bug or CATALOGUE:
        began = time.monotonic()
        found = find(CATALOGUE[name])
        seconds = time.monotonic() - began
        if found is None:
            missed.append(
                f"planted bug '{name}' ({CATALOGUE[name].promise}) was not found in {SCHEDULES_MAX} schedules"
            )
            print(f"{name:50} NOT FOUND  {seconds:6.1f} s", flush=True)
        else:
            print(f"{name:50} {found[0]:4} schedules {seconds:6.1f} s  {found[1]:.150}", flush=True)
    return ledger.close(missed, planted=len(asked.bug or CATALOGUE), found=len(asked.bug or CATALOGUE) - len(missed))


if __name__ == "__main__":
    sys.exit(main())
