"""The long form: `python -m tests.generated --orchestrators 2000 [--seed N]`, or `--case JSON` to repeat one."""

from __future__ import annotations

import argparse
import secrets
import shlex
import sys
import traceback

from tests.generated.battery import check, from_text, run, to_text
from tests.generated.processes import SURROUNDINGS, Replayers
from tests.ledger import Ledger


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.generated", description=__doc__)
    parser.add_argument("--orchestrators", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--case", help="check this one case, as a violation prints it")
    options = parser.parse_args()
    if options.case is not None:
        with Replayers() as replayers:
            print(f"replayed from {check(from_text(options.case), replayers)} prefixes, all the same")
        return 0
    ledger = Ledger("generated", secrets.randbits(32) if options.seed is None else options.seed)
    with Replayers() as replayers:
        tally = run(options.orchestrators, ledger.seed, replayers)
    violations = []
    if tally.violation is not None:
        case, error = tally.violation
        violations = [
            f"{''.join(traceback.format_exception(error))}\nseed: {ledger.seed}\n"
            f"the smallest case that was found: {to_text(case)}\n"
            f"to repeat it: python -m tests.generated --case {shlex.quote(to_text(case))}"
        ]
    return ledger.close(
        violations, orchestrators=tally.orchestrators, prefixes=tally.prefixes, processes=len(SURROUNDINGS)
    )


if __name__ == "__main__":
    sys.exit(main())
