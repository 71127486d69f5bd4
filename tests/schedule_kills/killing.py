"""Schedules of every second, on several workers of which one is killed again and again.

Goal: each occurrence is started exactly once, however many workers run and die. Method: each schedule has an end; when all are
over, what the store holds is compared with the seconds in between, and with what the workers have noted.
"""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from durable import Client, OverlapPolicy

ROOT = Path(__file__).parents[2]
SECOND = timedelta(seconds=1)
PATIENCE_S = 120.0
BEGIN_S = 2
"""From the creation of the schedules to their first time."""


@dataclasses.dataclass
class Tally:
    """What a run has gone through."""

    occurrences: int = 0
    kills: int = 0
    ran_twice: int = 0
    violations: list[str] = dataclasses.field(default_factory=list)


async def play(store: str, notes: Path, *, schedules: int, seconds: int, workers: int, kill_every_s: float) -> Tally:
    """Let so many schedules go for so many seconds, and kill the oldest worker again and again."""
    tally = Tally()
    alive = [await _born(store, notes) for _ in range(workers)]
    try:
        async with Client(store) as client:
            first = datetime.now(UTC).replace(microsecond=0) + BEGIN_S * SECOND
            bounds = {"start": first, "end": first + (seconds - 1) * SECOND}
            creating = (
                client.schedules.create(
                    f"s{number}",
                    "tick",
                    cron="* * * * * *",
                    overlap=OverlapPolicy.ALLOW_ALL,
                    **bounds,  # type: ignore[arg-type]
                )
                for number in range(schedules)
            )
            await asyncio.gather(*creating)
            # Each has its time, from the beginning on, and happens, if late: so a slow machine sees no fewer workers die.
            for number in range(1, int((seconds - 1) / kill_every_s) + 1):
                alive.append(await _born(store, notes))
                next_kill = first + number * timedelta(seconds=kill_every_s)
                await asyncio.sleep((next_kill - datetime.now(UTC)).total_seconds())
                oldest = alive.pop(0)
                oldest.kill()
                await asyncio.to_thread(oldest.wait)
                tally.kills += 1
            async with asyncio.timeout(PATIENCE_S):
                while not all(state.is_finished for state in await client.schedules.list()):
                    await asyncio.sleep(0.2)
                await client.wait(prefix="s")
            expected = [first + number * SECOND for number in range(seconds)]
            tally.violations += [text async for text in _wrong(client, schedules, expected)]
        begun = Counter(notes.read_text().splitlines())
        tally.occurrences, tally.ran_twice = len(begun), sum(count > 1 for count in begun.values())
        if len(begun) != schedules * seconds:
            tally.violations.append(f"{len(begun)} occurrences have run, and {schedules * seconds} were due")
        return tally
    finally:
        for worker in alive:
            worker.kill()
        for worker in alive:
            worker.wait()


async def _wrong(client: Client, schedules: int, expected: list[datetime]) -> AsyncIterator[str]:
    found: dict[str, list[datetime]] = {}
    async for state in client.query(name="durable.jobs", payloads=False):
        schedule_id = state.instance_id.partition("/")[0]
        found.setdefault(schedule_id, []).append(state.scheduled_at)
        if state.status.name != "COMPLETED":
            yield f"'{state.instance_id}' is {state.status.name}"
    for number in range(schedules):
        times = Counter(found.get(f"s{number}", []))
        if times != Counter(expected):
            missing, more = Counter(expected) - times, times - Counter(expected)
            yield f"s{number}: missing {sorted(map(str, missing))}, too many {sorted(map(str, more))}"
        state = await client.schedules.get(f"s{number}")
        if (state.started, state.skipped, state.missed) != (len(expected), 0, 0):
            yield f"s{number} says that it started {state.started}, left out {state.skipped}, missed {state.missed}"


async def _born(store: str, notes: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.schedule_kills.worker", store, str(notes)]
    worker = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    await asyncio.get_running_loop().run_in_executor(None, worker.stdout.readline)
    worker.stdout.close()
    return worker


def run(*, schedules: int, seconds: int, workers: int, kill_every_s: float) -> Tally:
    """Play in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        store, notes = f"sqlite:///{folder}/store.db", Path(folder) / "notes"
        return asyncio.run(
            play(store, notes, schedules=schedules, seconds=seconds, workers=workers, kill_every_s=kill_every_s)
        )
