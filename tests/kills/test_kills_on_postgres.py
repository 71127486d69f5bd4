"""The storms of `test_kills.py` on a real server, which crashes and loses connections as well; `__main__` is the long form."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from durable import Client
from tests.kills.stores import server_store
from tests.kills.storm import Plan, run_storm
from tests.kills.workers import workers_on

LEASE_S = 1.5


@pytest.mark.timeout(180)
async def test_a_storm_of_kills_and_freezes_breaks_no_promise(tmp_path: Path) -> None:
    async with server_store() as store:
        outcome = await run_storm(Plan(kills=4, stops=1, seed=3, lease_s=LEASE_S, in_flight=6), tmp_path, store)
    assert outcome.violations == []
    assert (outcome.kills >= 4, outcome.zombies >= 1, outcome.instances > 20) == (True, True, True)


@pytest.mark.timeout(180)
async def test_a_storm_over_the_server_and_the_wires_to_it_breaks_no_promise(tmp_path: Path) -> None:
    plan = Plan(kills=2, stops=0, seed=4, lease_s=LEASE_S, restarts=1, broken=1, cuts=10, in_flight=6)
    async with server_store(cut_chance=0.05, seed=4) as store:
        outcome = await run_storm(plan, tmp_path, store)
    assert outcome.violations == []
    assert (outcome.restarts, outcome.broken, outcome.cuts >= 10) == (1, 1, True)


@pytest.mark.timeout(60)
async def test_a_killed_workers_partitions_are_taken_over_within_its_lease_and_a_second(tmp_path: Path) -> None:
    """Nobody watches over workers: the others see when a lease that is not prolonged ends, and look then."""
    notes = tmp_path / "notes"
    async with server_store() as store, Client(store.url) as client:
        async with workers_on(store.url, tmp_path, LEASE_S) as workers:
            names = [await workers.bear() for _ in range(3)]
            for name in names:
                while not await store.is_owner(name):
                    await asyncio.sleep(0.02)
            handles = [await client.start("chain", 20) for _ in range(30)]
            while not notes.exists() or notes.read_text().count("ended") < 60:
                await asyncio.sleep(0.005)
            workers.kill(names[0])
            killed_at = time.monotonic()
            while await store.is_owner(names[0]):
                await asyncio.sleep(0.02)
            assert time.monotonic() - killed_at < LEASE_S + 1.0
            for handle in handles:
                assert len(await handle.result(timeout=30)) == 20


@pytest.mark.timeout(60)
async def test_partitions_are_shared_by_the_workers_that_are_there(tmp_path: Path) -> None:
    """Workers come and go in order: each time all partitions are in hands again, with equal shares, and nothing waits."""
    async with server_store() as store, Client(store.url) as client:
        async with workers_on(store.url, tmp_path, 10.0) as workers:
            names: list[str] = []

            async def are_shared(seconds_max: float) -> None:
                until = time.monotonic() + seconds_max
                expected = dict.fromkeys(names, 64 // len(names))
                while await store.shares() != expected:
                    assert time.monotonic() < until, (await store.shares(), expected)
                    await asyncio.sleep(0.05)

            async def is_served() -> None:
                handles = [await client.start("chain", 1) for _ in range(20)]  # in partitions of all workers
                for handle in handles:
                    await handle.result(timeout=5)

            for count in (1, 2, 4):
                names += [await workers.bear() for _ in range(count - len(names))]
                await are_shared(10.0)
                await is_served()
            for _ in range(2):
                await workers.retire(names.pop())
            await are_shared(5.0)  # well before a lease of ten seconds would have ended
            await is_served()
