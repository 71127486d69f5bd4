"""How fast this machine is at the moment, so that two figures of different hours can be told apart."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path

PROBE_S = 0.25
LOOPS = 200_000


def cpu_loop_ms() -> float:
    """Return how long a fixed loop of Python takes, the best of three."""
    best = float("inf")
    for _ in range(3):
        began, total = time.perf_counter(), 0
        for number in range(LOOPS):
            total += number & 7
        best = min(best, time.perf_counter() - began)
    return best * 1000


def syncs_per_s(folder: Path, seconds: float = PROBE_S) -> float:
    """Return how many appends of 4 KiB the disk takes per second, each synced before the next."""
    path = folder / "probe"
    descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    try:
        count, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds:
            os.write(descriptor, bytes(4096))
            os.fdatasync(descriptor)
            count += 1
        return count / passed
    finally:
        os.close(descriptor)
        path.unlink()


def device_flushes(folder: Path) -> int | None:
    """Return how many flushes the disk under `folder` has been asked for since the start; None where nobody counts them."""
    device = folder.stat().st_dev
    try:
        lines = Path("/proc/diskstats").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for fields in map(str.split, lines):
        if (int(fields[0]), int(fields[1])) == (os.major(device), os.minor(device)) and len(fields) > 18:
            return int(fields[18])
    return None


def stolen_s() -> float | None:
    """Return for how many seconds, of all cores since the start, the host ran somebody else instead of this machine."""
    try:
        line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    except OSError:
        return None
    return int(line.split()[8]) / os.sysconf("SC_CLK_TCK")


def peak_rss_mb() -> float:
    """Return the most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value that `part` of the values are below, as they are, without interpolation."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
