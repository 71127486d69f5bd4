"""Counts runs of activities, outside the framework: each run appends one line to a file.

The lines are short and the file is opened with O_APPEND, so that lines of several threads and processes never mix and a
killed process leaves no half of one.
"""

import os
import threading
import time
from collections import Counter
from pathlib import Path

_PATH = "DURABLE_DEMO_LOG"
_HOLD_AT = "DURABLE_DEMO_HOLD_AT"
_READY = "ready"
HOLD_SECONDS_MAX = 20.0


class RunLog:
    """The parent's view of the file: how often each call of an activity has run, and when each process got to work."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: Counter[str] = Counter()
        self.ready_at: dict[int, float] = {}
        self.first_run_at: dict[int, float] = {}
        self._position = 0
        path.touch()

    def environment(self, *, hold_at: int | None) -> dict[str, str]:
        """Return the variables by which a worker process finds the file.

        With `hold_at`, whichever activity is that many-th to run waits there for the kill, so that the kill finds work in
        progress on a machine of any speed.
        """
        return {_PATH: str(self.path), **({_HOLD_AT: str(hold_at)} if hold_at else {})}

    def read_on(self) -> None:
        """Take in what was appended since the last call."""
        with self.path.open("rb") as file:
            file.seek(self._position)
            complete = file.read().rpartition(b"\n")[0]
        self._position += len(complete) + 1 if complete else 0
        for line in complete.decode().splitlines():
            key, process, moment = line.split()
            if key == _READY:
                self.ready_at[int(process)] = float(moment)
            else:
                self.runs[key] += 1
                self.first_run_at.setdefault(int(process), float(moment))


_runs_noted = 0
_lock = threading.Lock()


def note_ready() -> None:
    """Append the moment at which this process has done its imports."""
    _append(_READY)


def note_run(key: str) -> None:
    """Append a run of the activity call `key`; called by an activity as its last act."""
    global _runs_noted
    _append(key)
    with _lock:
        _runs_noted += 1
        is_held = _runs_noted == int(os.environ.get(_HOLD_AT, "0"))
    if is_held:
        time.sleep(HOLD_SECONDS_MAX)


def _append(key: str) -> None:
    # The monotonic clock counts from the start of the machine, so that processes can compare it.
    line = f"{key} {os.getpid()} {time.monotonic():.6f}\n"
    file = os.open(os.environ[_PATH], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
