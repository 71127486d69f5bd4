"""Workers that die by SIGKILL or are frozen under load, on a real file: nothing is lost, nothing is done twice in a history.

The long form is `python -m tests.kills`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from durable import Client, OrchestrationStatus, Worker
from tests.kills import starter_program
from tests.kills.payloads import files_in, opened_by, sweep
from tests.kills.stores import FileStore
from tests.kills.storm import Plan, run_storm
from tests.kills.workers import workers_on
from tests.worker.lives import becomes_true


@pytest.mark.timeout(180)
async def test_a_storm_of_25_kills_and_2_freezes_breaks_no_promise(tmp_path: Path) -> None:
    outcome = await run_storm(Plan(kills=25, stops=2, seed=7, lease_s=1.5), tmp_path)
    assert outcome.violations == []
    assert outcome.kills >= 25
    assert outcome.zombies >= 1, "a frozen worker found its lease lost"
    assert outcome.deliveries_repeated > 0, "the kills found activities in flight"
    assert outcome.instances > 25


@pytest.mark.timeout(180)
async def test_killed_workers_lose_nothing_and_repeat_no_transition(tmp_path: Path) -> None:
    """200 instances of 5 activities that are all there from the beginning, and 20 kills: exactly one outcome per activity."""
    store = f"sqlite:///{tmp_path}/kills.db"
    async with Client(store) as client, workers_on(store, tmp_path, 10.0) as workers:
        handles = [await client.start("chain", 5) for _ in range(200)]
        name = await workers.bear()
        for _ in range(20):
            await asyncio.sleep(0.05)
            workers.kill(name)
            name = await workers.bear()
        assert await client.wait(timeout=90) == 200
        for handle in handles:
            assert [number for number, _ in await handle.result()] == [0, 1, 2, 3, 4]
            history = await handle.history()
            outcomes = Counter(event.task_id for event in history if type(event).__name__ == "ActivityCompleted")
            assert sorted(outcomes) == sorted(e.task_id for e in history if type(e).__name__ == "ActivityScheduled")
            assert set(outcomes.values()) == {1}


@pytest.mark.timeout(60)
async def test_kills_lose_no_payload_outside_and_a_sweep_finds_what_they_have_left(tmp_path: Path) -> None:
    store = FileStore(tmp_path, is_offloaded=True)
    async with (
        workers_on(store.workers_url, tmp_path, 10.0) as workers,
        Client(opened_by(store.url, tmp_path)) as client,
    ):
        items = [("item", str(number) * 100) for number in range(5)]
        handles = [await client.start("relay", [5, []], events=items) for _ in range(20)]
        handles += [await client.start("chain", 5) for _ in range(80)]
        kills = orphans = 0
        while kills < 2 or (not orphans and kills < 10):
            name = await workers.bear()
            before = files_in(tmp_path)
            await becomes_true(lambda before=before: len(files_in(tmp_path) - before) > 20)  # type: ignore[misc]
            workers.kill(name)
            await workers.death_of(name)
            orphans += await sweep(store.url, tmp_path)
            kills += 1
        assert orphans, "a kill between a put and its commit leaves what only a sweep finds"
        await workers.bear()
        for handle in handles[:20]:
            assert await handle.result(timeout=30) == [data for _, data in items]
        for handle in handles[20:]:
            assert [number for number, _ in await handle.result(timeout=30)] == [0, 1, 2, 3, 4]
        await sweep(store.url, tmp_path)
        for handle in handles:
            await handle.history()
        assert await client.purge(status=OrchestrationStatus.COMPLETED) == 100
        assert files_in(tmp_path) == set(), "whatever is left belongs to a run, and goes with it"


async def test_a_new_process_resumes_within_a_second(tmp_path: Path) -> None:
    """After SIGKILL, the first new outcome comes within a second of the new worker's start."""
    store, notes = f"sqlite:///{tmp_path}/resume.db", tmp_path / "notes"
    async with Client(store) as client, workers_on(store, tmp_path, 10.0) as workers:
        handles = [await client.start("chain", 5) for _ in range(100)]
        name = await workers.bear()
        while not notes.exists() or notes.read_text().count("ended") < 30:
            await asyncio.sleep(0.005)
        workers.kill(name)
        await workers.death_of(name)
        before = notes.read_text().count("ended")
        await workers.bear()
        began = time.monotonic()
        while notes.read_text().count("ended") == before:
            await asyncio.sleep(0.005)
        assert time.monotonic() - began < 1.0
        for handle in handles:
            assert [number for number, _ in await handle.result(timeout=30)] == [0, 1, 2, 3, 4]


@pytest.mark.timeout(60)
async def test_a_start_that_was_told_by_the_killed_process_itself_is_there(tmp_path: Path) -> None:
    """The client dies with its worker, in which its starts began with their first turns."""
    store, told = f"sqlite:///{tmp_path}/kills.db", []
    for name in ("one", "two", "three"):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.kills.starter_program", store, name, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        lines = [await process.stdout.readline() for _ in range(100)]
        process.kill()
        lines += (await process.stdout.read()).splitlines(keepends=True)
        await process.wait()
        told += [line.decode().split() for line in lines if line.endswith(b"\n")]
    assert len(told) >= 300
    async with Worker(starter_program.app, store) as worker:
        for instance_id, number, run_id in told:
            handle = worker.client.get(instance_id)
            assert await handle.result(timeout=30) == 4 * int(number)
            assert (await handle.state()).run_id == run_id
        assert await worker.client.count() - len(told) <= 30, (
            "of each of the ten that were on their way, at most one more"
        )
        assert await worker.client.wait(timeout=30) == await worker.client.count()
