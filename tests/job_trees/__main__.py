"""The long form: `python -m tests.job_trees --trees 2000 [--seed N]`, or `--case JSON` to repeat one."""

from __future__ import annotations

import argparse
import secrets
import shlex
import sys
import traceback

from tests.job_trees.battery import check, run
from tests.job_trees.plans import from_text, to_text
from tests.ledger import Ledger


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.job_trees", description=__doc__)
    parser.add_argument("--trees", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--case", help="check this one case, as a violation prints it")
    options = parser.parse_args()
    if options.case is not None:
        print(check(from_text(options.case)))
        return 0
    ledger = Ledger("job trees", secrets.randbits(32) if options.seed is None else options.seed)
    tally = run(options.trees, ledger.seed)
    violations = []
    if tally.violation is not None:
        case, error = tally.violation
        violations = [
            f"{''.join(traceback.format_exception(error))}\nseed: {ledger.seed}\n"
            f"to repeat it: python -m tests.job_trees --case {shlex.quote(to_text(case))}"
        ]
    return ledger.close(violations, trees=tally.trees, jobs=tally.jobs)


if __name__ == "__main__":
    sys.exit(main())
