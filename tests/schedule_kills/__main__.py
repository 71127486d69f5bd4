"""The long form: `python -m tests.schedule_kills [--schedules 200] [--seconds 60] [--workers 3] [--every 10]`."""

from __future__ import annotations

import argparse
import sys

from tests.ledger import Ledger
from tests.schedule_kills.killing import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.schedule_kills", description=__doc__)
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two kills")
    options = parser.parse_args()
    ledger = Ledger("schedule kills", 0)
    tally = run(
        schedules=options.schedules, seconds=options.seconds, workers=options.workers, kill_every_s=options.every
    )
    return ledger.close(tally.violations, kills=tally.kills, occurrences=tally.occurrences, ran_twice=tally.ran_twice)


if __name__ == "__main__":
    sys.exit(main())
