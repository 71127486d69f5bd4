"""The samples of jobs, with a worker that is killed between two steps: at each of its commits, before it and after it.

Goal: the outcome is the same as without a kill; no job runs whose condition failed; none runs twice but the attempts that
were in flight. Method: a worker in a process of its own kills itself at a chosen commit, another one finishes. A kill behind
the last commit ends the series.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from durable import Client
from durable.jobs import JobHandle, JobNode
from tests.job_kills.nursery import SAMPLES

ROOT = Path(__file__).parents[2]
MINUTE = timedelta(seconds=0.06)
COMMITS_MAX = 60

Told = list[tuple[str, str, str, int, Any]]


class Nursery:
    """The process that bears the workers; see there."""

    def __init__(self, sample: str, folder: Path) -> None:
        self._sample = sample
        self._folder = folder
        command = [sys.executable, "-m", "tests.job_kills.nursery"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def work(self, store: str, notes: Path, commit: int = 0, *, is_after: bool = False) -> int:
        """Let a worker serve the store, until all is done or it dies; return how it ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"sample": self._sample, "store": store, "notes": str(notes), "commit": commit, "is_after": is_after}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def run(self, commit: int = 0, *, is_after: bool = False) -> tuple[bool, Told, Counter[tuple[str, ...]]]:
        """Run the sample once; return whether a worker was killed, what became of the trees, and which attempts began."""
        name = f"{commit}-{is_after}"
        store, notes = f"sqlite:///{self._folder / name}.db", self._folder / f"{name}.notes"
        asyncio.run(self._schedule(store))
        status = self.work(store, notes, commit, is_after=is_after)
        assert status in (0, -signal.SIGKILL), f"a worker ended with {status}"
        if status:
            assert self.work(store, notes) == 0
        begun = Counter(tuple(line.split()) for line in notes.read_text().splitlines())
        return status != 0, asyncio.run(self._told(store)), begun

    async def _schedule(self, store: str) -> None:
        sample = SAMPLES[self._sample]
        async with Client(store, sample.app) as client:
            await sample.schedule(client, MINUTE)

    async def _told(self, store: str) -> Told:
        async with Client(store) as client:
            told: Told = []
            async for state in client.query(name="durable.jobs", newest_first=False):
                assert state.status.name == "COMPLETED", state
                handle: JobHandle = client.get_job(state.instance_id)
                told += [_told(state.instance_id, node) for node in (await handle.tree()).walk()]
            return told


def _told(instance_id: str, node: JobNode) -> tuple[str, str, str, int, Any]:
    result = re.sub("receipt [0-9a-f]{6}", "receipt", node.result) if isinstance(node.result, str) else node.result
    return instance_id, node.function, str(node.status), node.attempts, result


def violations(sample: str, folder: Path, *, is_short: bool) -> Iterator[tuple[int, list[str]]]:
    """Kill at each commit in turn, before it and after it; yield what was wrong with each run.

    `is_short`: after every third commit only, which is before the next one too.
    """
    with Nursery(sample, folder) as nursery:
        _, expected, _ = nursery.run()
        for commit in range(1, COMMITS_MAX, 3 if is_short else 1):
            was_killed = False
            for is_after in (True,) if is_short else (False, True):
                was_killed, told, begun = nursery.run(commit, is_after=is_after)
                where = f"{sample}, killed {'after' if is_after else 'before'} commit {commit}"
                yield commit, [f"{where}: {text}" for text in _wrong(expected, told, begun)]
            if not was_killed:
                return
    raise AssertionError(f"{sample} takes more than {COMMITS_MAX} commits")


def _wrong(expected: Told, told: Told, begun: Counter[tuple[str, ...]]) -> Iterator[str]:
    if [job[1:] for job in told] != [job[1:] for job in expected]:
        yield f"the trees ended as {told}, and without a kill as {expected}"
    ran: Counter[str] = Counter()
    for (instance_id, _, _), times in begun.items():
        ran[instance_id] += times
        if times > 2:
            yield f"an attempt of '{instance_id}' began {times} times"
    attempts: Counter[str] = Counter()
    for instance_id, function, status, count, _ in told:
        attempts[instance_id] += count
        if status == "SKIPPED" and count:
            yield f"{function} was skipped, and has run"
    if len(begun) != attempts.total():
        yield f"{len(begun)} attempts began, and the trees know of {attempts.total()}"
