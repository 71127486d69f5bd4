"""Workers that die by SIGKILL under load, on a real file: nothing is lost, nothing is done twice in a history."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from durable import Client

ROOT = Path(__file__).parents[2]


def start_worker(store: str, log: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.worker.killed_worker", store, str(log)]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


def stop_worker(worker: subprocess.Popen[str]) -> None:
    if worker.poll() is None:
        worker.kill()
    worker.wait()
    assert worker.stdout is not None
    worker.stdout.close()


@pytest.mark.timeout(180)
async def test_killed_workers_lose_nothing_and_repeat_no_transition(tmp_path: Any) -> None:
    """200 instances of 5 activities, SIGKILL 20 times at random moments: exactly one outcome per activity."""
    store, log = f"sqlite:///{tmp_path}/kills.db", tmp_path / "runs.log"
    chance = random.Random(7)
    worker = start_worker(store, log)
    try:
        async with Client(store) as client:
            handles = [await client.start("five_steps") for _ in range(200)]
            for _ in range(20):
                await asyncio.sleep(chance.uniform(0.02, 0.25))
                worker.send_signal(signal.SIGKILL)
                stop_worker(worker)
                worker = await asyncio.to_thread(start_worker, store, log)
            assert await client.wait(timeout=90) == 200
            for handle in handles:
                assert await handle.result() == [0, 1, 2, 3, 4]
                history = await handle.history()
                outcomes = Counter(event.task_id for event in history if type(event).__name__ == "ActivityCompleted")
                assert sorted(outcomes) == sorted(e.task_id for e in history if type(e).__name__ == "ActivityScheduled")
                assert set(outcomes.values()) == {1}
    finally:
        stop_worker(worker)
    runs = Counter(log.read_text().split("\n"))
    repeated = sum(count - 1 for count in runs.values())
    assert repeated <= 20 * 200, "only what was in flight runs again"


async def test_a_new_process_resumes_within_a_second(tmp_path: Any) -> None:
    """After SIGKILL, the first new outcome comes within a second of the new worker's start."""
    store, log = f"sqlite:///{tmp_path}/resume.db", tmp_path / "runs.log"
    worker = start_worker(store, log)
    try:
        async with Client(store) as client:
            handles = [await client.start("five_steps") for _ in range(100)]
            while not log.exists() or log.read_text().count("\n") < 30:
                await asyncio.sleep(0.005)
            worker.send_signal(signal.SIGKILL)
            stop_worker(worker)
            before = log.read_text().count("\n")
            worker = await asyncio.to_thread(start_worker, store, log)
            began = time.monotonic()
            while log.read_text().count("\n") == before:
                await asyncio.sleep(0.005)
            assert time.monotonic() - began < 1.0
            for handle in handles:
                assert await handle.result(timeout=30) == [0, 1, 2, 3, 4]
    finally:
        stop_worker(worker)
