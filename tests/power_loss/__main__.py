"""`python -m tests.power_loss --images 10000 [--seed N]`: cuts the power at every sync of real runs; 1 if anything was lost.

The choices are those of the seed; the runs themselves have the timing of the machine, so that a violation is repeated with
the image that is left in the named folder.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.ledger import Ledger
from tests.power_loss.checking import Battery
from tests.power_loss.recorder import find_library


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.power_loss", description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where images are made, and those of violations left")
    options = parser.parse_args(arguments)
    if find_library() is None:
        print("the sqlite3 module of this Python hides its SQLite, so that nothing can be recorded")
        return 2
    folder = options.folder or Path(tempfile.mkdtemp(prefix="power-loss-"))
    ledger = Ledger("power loss", options.seed)
    tally = Battery(folder, options.seed).run(options.images)
    if not tally.violations and options.folder is None:
        folder.rmdir()
    return ledger.close(tally.violations, **tally.figures())


if __name__ == "__main__":
    sys.exit(main())
