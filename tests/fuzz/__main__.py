"""`python -m tests.fuzz --inputs 100000 [--decoder NAME] [--seed N]`: one line for each decoder; 1 if anything was wrong.

`--input HEX` feeds one input, which a violation has named.
"""

from __future__ import annotations

import argparse
import sys

from tests.fuzz.decoders import DECODERS
from tests.fuzz.running import Ledger, Violation, check, run


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="for each decoder (default: 100,000)")
    parser.add_argument("--decoder", action="append", choices=sorted(DECODERS), help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--input", metavar="HEX", help="feed this one input to the decoder")
    options = parser.parse_args(arguments)
    names = options.decoder or list(DECODERS)
    if options.input is not None:
        return _feed_one(names, bytes.fromhex(options.input))
    ledgers = [_reported(run(DECODERS[name], options.inputs, options.seed)) for name in names]
    return int(any(ledger.violations for ledger in ledgers))


def _reported(ledger: Ledger) -> Ledger:
    print(ledger, flush=True)
    for what, data in ledger.violations:
        print(f"  {what}\n  seed {ledger.seed}, input {data.hex()}")
        print(f"  again: python -m tests.fuzz --decoder {ledger.decoder} --input {data.hex() or repr('')}", flush=True)
    return ledger


def _feed_one(names: list[str], data: bytes) -> int:
    failed = False
    for name in names:
        try:
            print(f"{name}: {'accepted' if check(DECODERS[name], data, measured=True) else 'refused'}")
        except Violation as violation:
            failed = True
            print(f"{name}: {violation}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
