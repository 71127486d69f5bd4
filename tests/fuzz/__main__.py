"""`python -m tests.fuzz --inputs 100000 [--decoder NAME] [--seed N]`: one line for each decoder, then
the ledger; exit code 1 if anything was wrong.

`--input HEX` feeds one input, which a violation has named.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from tests.fuzz.decoders import DECODERS
from tests.fuzz.running import Tally, Violation, check, run
from tests.ledger import Ledger


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
    ledger = Ledger("fuzz", options.seed)
    tallies = [_printed(run(DECODERS[name], options.inputs, options.seed)) for name in names]
    return ledger.close(
        [text for tally in tallies for text in _described(tally)],
        decoders=len(tallies),
        inputs=sum(tally.inputs for tally in tallies),
        accepted=sum(tally.accepted for tally in tallies),
        refused=sum(tally.refused for tally in tallies),
    )


def _printed(tally: Tally) -> Tally:
    print(tally, flush=True)
    return tally


def _described(tally: Tally) -> Iterator[str]:
    for what, data in tally.violations:
        again = f"python -m tests.fuzz --decoder {tally.decoder} --input {data.hex() or repr('')}"
        yield f"{tally.decoder}: {what}\n  seed {tally.seed}, input {data.hex()}\n  again: {again}"


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
