"""The long form: `python -m tests.cron_zones [--first 2010] [--years 20]`: every zone, every change of its clock."""

from __future__ import annotations

import argparse
import sys

from tests.cron_zones.checking import violations
from tests.cron_zones.oracle import distinct_zones, year
from tests.ledger import Ledger


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cron_zones", description=__doc__)
    parser.add_argument("--first", type=int, default=2010)
    parser.add_argument("--years", type=int, default=20)
    options = parser.parse_args()
    ledger = Ledger("cron zones", 0)
    zones = distinct_zones(year(options.first), year(options.first + options.years))
    found: list[str] = []
    for zone, changed in zones.items():
        found += violations(zone, changed)
    return ledger.close(found, zones=len(zones), changes=sum(map(len, zones.values())), years=options.years)


if __name__ == "__main__":
    sys.exit(main())
