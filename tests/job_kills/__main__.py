"""The long form: `python -m tests.job_kills [--rounds N]`: each sample, killed before and after each of its commits."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.job_kills.killing import violations
from tests.job_kills.nursery import SAMPLES
from tests.ledger import Ledger


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.job_kills", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    ledger = Ledger("job kills", 0)
    found: list[str] = []
    runs = 0
    for _ in range(options.rounds):
        for sample in sorted(SAMPLES):
            with tempfile.TemporaryDirectory() as folder:
                for _, wrong in violations(sample, Path(folder), is_short=False):
                    found += wrong
                    runs += 1
    return ledger.close(found, samples=len(SAMPLES), runs=runs)


if __name__ == "__main__":
    sys.exit(main())
