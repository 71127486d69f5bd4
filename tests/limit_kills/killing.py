"""Limited activities on several workers of which one is killed again and again.

Goal: no limit is ever exceeded, no permit is lost with a worker, and the limit of one key holds up no other. Method: workers
note when attempts begin and end, by the one clock of the machine; an attempt of a killed worker ends with it. At each moment
the attempts under way are counted, by key. One key has so much work that all others must be done before it is.
"""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from durable import Client
from durable.permits import KIND
from durable.provider import InstanceFilter
from tests.limit_kills.worker import AT_A_TIME, RATE, SPAN_S, ticking, wide

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
BUSY = "busy"


@dataclasses.dataclass
class Tally:
    """What a run has gone through. `most`: attempts of one key at a time; `repeated`: delivered more than once."""

    attempts: int = 0
    kills: int = 0
    most: int = 0
    repeated: int = 0
    violations: list[str] = dataclasses.field(default_factory=list)


class Crew:
    """Worker processes, and when each of them died."""

    def __init__(self, store: str, notes: Path) -> None:
        self._command = [sys.executable, "-m", "tests.limit_kills.worker", store, str(notes)]
        self._alive: list[subprocess.Popen[bytes]] = []
        self.died: dict[int, int] = {}

    async def grow(self) -> None:
        """Start a worker; return when it works."""
        worker = subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.PIPE)
        self._alive.append(worker)
        assert worker.stdout is not None
        await asyncio.to_thread(worker.stdout.readline)
        worker.stdout.close()

    def kill_oldest(self) -> None:
        """Kill the worker that has lived longest."""
        worker = self._alive.pop(0)
        worker.kill()
        worker.wait()
        self.died[worker.pid] = time.monotonic_ns()

    def end(self) -> None:
        """Kill them all."""
        while self._alive:
            self.kill_oldest()


async def play(store: str, notes: Path, *, keys: int, width: int, workers: int, kills: int, every_s: float) -> Tally:
    """Let instances ask for limited work, and kill the oldest worker so many times."""
    tally, crew = Tally(), Crew(store, notes)
    try:
        await asyncio.gather(*(crew.grow() for _ in range(workers)))
        async with Client(store) as client:
            jobs = [(f"key {number}", 0.02, width) for number in range(keys)]
            busy = await client.start(wide, (BUSY, every_s / 2, AT_A_TIME * 2 * (kills + 2)))
            others = [await client.start(wide, job) for job in jobs for _ in range(2)]
            others.append(await client.start(ticking, width))
            for _ in range(kills):
                await asyncio.sleep(every_s)
                await crew.grow()
                await asyncio.to_thread(crew.kill_oldest)
                tally.kills += 1
            ended = [(await handle.wait(PATIENCE_S)).completed_at for handle in (busy, *others)]
            if max(ended, key=str) != ended[0]:
                tally.violations.append(f"the busy key was not the last one that was done: {ended}")
            async with asyncio.timeout(PATIENCE_S):
                while await client.connection.provider.count(InstanceFilter(kind=KIND)):
                    await asyncio.sleep(0.05)
        tally.attempts = 2 * keys * width + width + AT_A_TIME * 2 * (kills + 2)
    finally:
        crew.end()
    look(notes.read_text().splitlines(), crew.died, tally)
    return tally


def look(lines: list[str], died: dict[int, int], tally: Tally) -> None:
    """Compare what the workers have noted with the limits."""
    spans, ticks = _read(lines, died)
    tally.repeated = sum(len(found) > 1 for found in spans.values())
    if len(spans) + len(ticks) != tally.attempts:
        tally.violations.append(f"{len(spans) + len(ticks)} attempts have run, and {tally.attempts} were asked for")
    moments: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for (key, attempt), found in spans.items():
        for begins, ends in found:
            moments[key] += [(begins, 1, attempt), (ends, -1, attempt)]
    for key, changes in moments.items():
        most = max(_counts(sorted(changes)))
        tally.most = max(tally.most, most)
        if most > AT_A_TIME:
            tally.violations.append(f"{most} attempts of '{key}' were under way at a time")
    times = sorted(ticks)
    for earlier, later in zip(times, times[RATE:], strict=False):
        if later - earlier < SPAN_S * 1e9:
            tally.violations.append(f"{RATE + 1} starts within {(later - earlier) / 1e9:.3f} s")


def _counts(changes: list[tuple[int, int, str]]) -> Iterator[int]:
    """Count at each change the attempts under way; two deliveries of one attempt are one."""
    under_way: dict[str, int] = defaultdict(int)
    for _, change, attempt in changes:
        under_way[attempt] += change
        if not under_way[attempt]:
            del under_way[attempt]
        yield len(under_way)


def _read(lines: list[str], died: dict[int, int]) -> tuple[dict[tuple[str, str], list[tuple[int, int]]], list[int]]:
    """Return when the deliveries of each attempt, by key, began and ended; and when each tick first began."""
    begun: dict[tuple[str, str, int], int] = {}
    spans: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    ticks: dict[str, int] = {}
    for line in lines:
        head, attempt = line.rsplit(" ", 1)
        time_ns, pid, what, key = head.split(" ", 3)
        at, delivery = int(time_ns), (key, attempt, int(pid))
        if what == "ticks":
            ticks.setdefault(attempt, at)
        elif what == "begins":
            begun[delivery] = at
        else:
            spans[key, attempt].append((begun.pop(delivery), at))
    for (key, attempt, pid_of_dead), began in begun.items():
        spans[key, attempt].append((began, died[pid_of_dead]))
    return spans, list(ticks.values())


def run(*, keys: int, width: int, workers: int, kills: int, every_s: float) -> Tally:
    """Play in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        store, notes = f"sqlite:///{folder}/store.db", Path(folder) / "notes"
        return asyncio.run(play(store, notes, keys=keys, width=width, workers=workers, kills=kills, every_s=every_s))
