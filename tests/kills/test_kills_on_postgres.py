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
        outcome = await run_storm(Plan(kills=8, stops=1, seed=3, lease_s=LEASE_S), tmp_path, store)
    assert outcome.violations == []
    assert (outcome.kills >= 8, outcome.zombies >= 1, outcome.instances > 20) == (True, True, True)


@pytest.mark.timeout(180)
async def test_a_storm_over_the_server_and_the_wires_to_it_breaks_no_promise(tmp_path: Path) -> None:
    plan = Plan(kills=4, stops=0, seed=4, lease_s=LEASE_S, restarts=2, broken=2, cuts=20)
    async with server_store(cut_chance=0.05, seed=4) as store:
        outcome = await run_storm(plan, tmp_path, store)
    assert outcome.violations == []
    assert (outcome.restarts, outcome.broken, outcome.cuts >= 20) == (2, 2, True)


@pytest.mark.timeout(60)
async def test_a_killed_workers_instances_go_on_within_its_lease_and_a_second(tmp_path: Path) -> None:
    """Nobody watches over workers: another one looks around, at the latest when the lease of the dead one is over."""
    notes = tmp_path / "notes"
    async with (
        server_store() as store,
        Client(store.url) as client,
        workers_on(store.url, tmp_path, LEASE_S) as workers,
    ):
        names = [await workers.bear(), await workers.bear()]
        await _until_all_own(store, names)
        handles = [await client.start("chain", 30) for _ in range(40)]
        while not notes.exists() or notes.read_text().count("ended") < 100:
            await asyncio.sleep(0.005)
        workers.kill(names[0])
        killed_at = time.monotonic()
        for handle in handles:
            assert len(await handle.result(timeout=30)) == 30
        # The other one renews every three seconds; at its next look after the end of the lease everything is its own.
        assert time.monotonic() - killed_at < LEASE_S + 3.0 + 10.0
        assert not await store.is_owner(names[0])


async def _until_all_own(store: object, names: list[str]) -> None:
    for name in names:
        while not await store.is_owner(name):  # type: ignore[attr-defined]
            await asyncio.sleep(0.02)
