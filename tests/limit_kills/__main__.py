"""The long form: `python -m tests.limit_kills [--keys 20] [--width 100] [--workers 3] [--kills 20] [--every 2]`."""

from __future__ import annotations

import argparse
import sys

from tests.ledger import Ledger
from tests.limit_kills.killing import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.limit_kills", description=__doc__)
    parser.add_argument("--keys", type=int, default=20)
    parser.add_argument("--width", type=int, default=100, help="calls of each instance, of which a key has two")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two kills")
    options = parser.parse_args()
    ledger = Ledger("limits under kills", 0)
    tally = run(
        keys=options.keys, width=options.width, workers=options.workers, kills=options.kills, every_s=options.every
    )
    figures = {"kills": tally.kills, "attempts": tally.attempts, "most": tally.most, "ran_twice": tally.repeated}
    return ledger.close(tally.violations, **figures)


if __name__ == "__main__":
    sys.exit(main())
