"""The long form: `python -m tests.simulation --schedules 10000 [--seed N] [--engine memory|sqlite] [--case NAME]`."""

from __future__ import annotations

import argparse
import sys

from durable.testing.simulation.faults import Schedule, draw_schedule
from durable.testing.simulation.running import Outcome, run_schedule
from tests.ledger import Ledger
from tests.simulation import steering, steering_entities, steering_jobs, steering_schedules
from tests.simulation.cases import CASES, Case, app

AT_RANDOM = (
    steering.steered_at_random,
    steering_entities.entities_at_random,
    steering_jobs.jobs_at_random,
    steering_schedules.schedules_at_random,
)
assert all(play.__name__ in CASES for play in AT_RANDOM)


def play(case: Case, schedule: Schedule, engine: str, *, is_traced: bool = False) -> Outcome:
    """Play a case under a schedule."""
    return run_schedule(app, case.play, schedule, engine=engine, roles=case.roles, is_traced=is_traced)


def calls_of(case: Case, engine: str) -> int:
    """Return how many storage calls a case makes when nothing goes wrong; raises if something does all the same."""
    outcome = play(case, Schedule(0), engine)
    assert outcome.is_good, f"{case.name} without any fault: {outcome.violations} {outcome.error!r}"
    return outcome.calls


def told(case: Case, schedule: Schedule, engine: str, outcome: Outcome) -> str:
    """Say what went wrong, and how to see it again."""
    lines = [f"{case.name}, seed {schedule.seed}, {engine}:"]
    lines += [f"  {violation}" for violation in outcome.violations]
    if outcome.error is not None:
        lines.append(f"  {type(outcome.error).__name__}: {outcome.error}")
    lines += [f"    {step}" for step in outcome.struck]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", default="memory")
    parser.add_argument("--case", action="append", choices=sorted(CASES))
    parser.add_argument("--trace", action="store_true")
    asked = parser.parse_args()
    ledger = Ledger("simulation", asked.seed)
    cases = [CASES[name] for name in asked.case or CASES]
    calls = {case.name: calls_of(case, asked.engine) for case in cases}
    broken: list[str] = []
    hours = 0.0
    struck = 0
    for seed in range(asked.seed, asked.seed + asked.schedules):
        case = cases[seed % len(cases)]
        outcome = play(case, draw_schedule(seed, calls[case.name]), asked.engine, is_traced=asked.trace)
        hours += outcome.seconds / 3600
        struck += len(outcome.struck)
        if asked.trace:
            print("\n".join(line[:400] for line in outcome.trace))
        if not outcome.is_good:
            command = f"--case {case.name} --engine {asked.engine} --seed {seed} --schedules 1 --trace"
            broken.append(
                f"{told(case, outcome.schedule, asked.engine, outcome)}\n  python -m tests.simulation {command}"
            )
            print(broken[-1], file=sys.stderr, flush=True)
    return ledger.close(broken, schedules=asked.schedules, faults=struck, virtual_hours=round(hours))


if __name__ == "__main__":
    sys.exit(main())
