"""The long form: `python -m tests.kills --kills 100 --stops 30 [--seed N]`."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

from tests.kills.storm import Plan, run_storm
from tests.ledger import Ledger


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs of workers (default: 100)")
    parser.add_argument(
        "--stops", type=int, default=30, help="workers frozen for longer than their lease (default: 30)"
    )
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(1 << 32), help="of every choice (default: random)"
    )
    parser.add_argument("--lease", type=float, default=10.0, help="seconds that a lease lasts (default: 10)")
    given = parser.parse_args()
    ledger = Ledger("kills", given.seed)
    with tempfile.TemporaryDirectory(prefix="durable-kills-") as folder:
        outcome = asyncio.run(run_storm(Plan(given.kills, given.stops, given.seed, given.lease), Path(folder)))
    return ledger.close(
        outcome.violations,
        kills=outcome.kills,
        stops=outcome.stops,
        zombies=outcome.zombies,
        instances=outcome.instances,
        lost=outcome.lost,
        doubled=outcome.doubled,
        deliveries_repeated=outcome.deliveries_repeated,
        unanswered=outcome.unanswered,
    )


if __name__ == "__main__":
    sys.exit(main())
