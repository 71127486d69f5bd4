"""Every storage call of every case meets every single fault: `python -m tests.single_faults [--scenarios 40] [--engine …]`.

A case is played once without faults, to count its storage calls; then once per call and fault: the call fails before the
store did anything, its answer is lost, it reaches the store twice, and the process dies before or after it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from durable.testing.simulation.faults import Fault, FaultKind, Schedule
from tests.ledger import Ledger
from tests.simulation.__main__ import play, told
from tests.simulation.cases import CASES, Case

SINGLE = (
    FaultKind.FAILS_BEFORE,
    FaultKind.ANSWER_LOST,
    FaultKind.TWICE,
    FaultKind.CRASH_BEFORE,
    FaultKind.CRASH_AFTER,
)

LATENCY_S_MAX = 0.0005
SEEDS = (1, 3)
"""Every second case is played with the second one, for which the client counts as one of its workers' own: its starts may be
one commit with their first turns."""

CALLS_MAX = 400
"""Of a case that waits for long the later calls are all of one kind: looks around."""


def schedules_of(case: Case, engine: str) -> Iterator[Schedule]:
    """Give a schedule for each single fault of a case."""
    seed = SEEDS[list(CASES).index(case.name) % 2]
    plain = Schedule(seed, latency_s_max=LATENCY_S_MAX)
    outcome = play(case, plain, engine)
    assert outcome.is_good, f"{case.name} without any fault: {outcome.violations} {outcome.error!r}"
    for call in range(1, min(outcome.calls, CALLS_MAX) + 1):
        for kind in SINGLE:
            yield Schedule(seed, faults=(Fault(call, kind, 0.1),), latency_s_max=LATENCY_S_MAX)


def violations_of(case: Case, engine: str) -> tuple[list[str], int]:
    """Play all single faults of a case; return what went wrong, and how many faults struck."""
    broken: list[str] = []
    struck = 0
    for schedule in schedules_of(case, engine):
        outcome = play(case, schedule, engine)
        struck += len(outcome.struck)
        if not outcome.is_good:
            broken.append(told(case, schedule, engine, outcome))
    return broken, struck


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.single_faults", description=__doc__)
    parser.add_argument("--scenarios", type=int, default=len(CASES))
    parser.add_argument("--engine", default="memory")
    parser.add_argument("--case", action="append", choices=sorted(CASES))
    asked = parser.parse_args()
    ledger = Ledger("single_faults", 1)
    cases = [CASES[name] for name in asked.case or list(CASES)[: asked.scenarios]]
    broken: list[str] = []
    struck = 0
    for case in cases:
        found, count = violations_of(case, asked.engine)
        broken += found
        struck += count
        for text in found:
            print(text, file=sys.stderr, flush=True)
    return ledger.close(broken, scenarios=len(cases), faults=struck)


if __name__ == "__main__":
    sys.exit(main())
