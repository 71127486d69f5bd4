"""The tests marked `size` at full size: `python -m tests.sizes`, a battery of `make torture`.

In `make test` they take their small form: that a cost grows no faster than the size shows there as well, and what each workload
costs is counted in `tests/benchmarks/test_counts.py`, to the last commit. `DURABLE_TEST_SIZES=full` is what this command sets.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.ledger import Ledger

IS_FULL = os.environ.get("DURABLE_TEST_SIZES") == "full"


def sized(full: int, small: int) -> int:
    """Return how large something is to be in this run."""
    return full if IS_FULL else small


class Results:
    """A plugin of pytest that keeps how the tests ended."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest after each phase of each test."""
        if report.failed:
            self.failed.append(f"{report.nodeid} ({report.when})")
        elif report.when == "call" and report.passed:
            self.passed += 1


def main() -> int:
    """Run the command; return the exit code."""
    os.environ["DURABLE_TEST_SIZES"] = "full"
    ledger, results = Ledger("sizes", 1), Results()
    code = pytest.main(["-q", "-m", "size", str(Path(__file__).parent)], plugins=[results])
    problems = results.failed or ([] if code == pytest.ExitCode.OK else [f"pytest ended with {code!r}"])
    return ledger.close(problems, tests=results.passed)


if __name__ == "__main__":
    sys.exit(main())
