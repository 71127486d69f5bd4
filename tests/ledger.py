"""What a battery prints last: one line of JSON, so that `python -m tests.torture` can put all of them into one table.

    {"battery": "kills", "seed": 7, "seconds": 412.5, "violations": 0, "kills": 100, …}

`battery`, `seed`, `seconds` and `violations` are always there; every other field is a figure of that battery, a number.
What was violated is printed before it, in words, and the battery ends with exit code 1.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

SHOWN_MAX = 50
"""Violations that are printed in words; one defect may break thousands of instances."""

ALWAYS = ("battery", "seed", "seconds", "violations")


@dataclasses.dataclass(slots=True)
class Ledger:
    """Counts the time of one battery from when it is made."""

    battery: str
    seed: int
    began: float = dataclasses.field(default_factory=time.monotonic)

    def close(self, violations: Sequence[str], **figures: float) -> int:
        """Print the violations and, as the last line, the ledger's; return the exit code."""
        for text in violations[:SHOWN_MAX]:
            print(text)
        if len(violations) > SHOWN_MAX:
            print(f"… and {len(violations) - SHOWN_MAX} more")
        seconds = round(time.monotonic() - self.began, 1)
        known = (self.battery, self.seed, seconds, len(violations))
        print(json.dumps(dict(zip(ALWAYS, known, strict=True)) | figures), flush=True)
        return 1 if violations else 0


def read_line(output: str) -> dict[str, Any]:
    """Return the ledger's line at the end of a battery's output. Raises ValueError if there is none."""
    lines = output.strip().splitlines()
    try:
        line = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        raise ValueError(f"the battery's last line is no ledger: {lines[-1:]}") from None
    if not isinstance(line, dict) or not set(ALWAYS) <= set(line):
        raise ValueError(f"the battery's last line is no ledger: {lines[-1]}")
    return line
