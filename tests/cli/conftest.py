"""Stores for commands: an empty one, and one in which orders wait, have failed, and bear hostile names."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from durable import Worker
from durable.client import Client
from tests.cli.commands import HOSTILE, app, odd, order


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'orders.db'}"


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store that no test changes."""
    url = f"sqlite:///{tmp_path_factory.mktemp('filled') / 'orders.db'}"
    asyncio.run(_fill(url))
    return url


async def _fill(url: str) -> None:
    async with Worker(app, url) as worker:
        client: Client = worker.client
        await client.start(order, "A-1", instance_id="order-1", tags={"region": "eu"})
        await client.start(order, "A-2", instance_id="order-2", tags={"region": "us"}, events=[("approved", True)])
        await client.start(order, "unlucky", instance_id="order-3")
        strange = await client.start(odd, HOSTILE, instance_id=f"id {HOSTILE}", tags={HOSTILE: HOSTILE})
        for instance_id in ("order-2", "order-3"):
            await client.get(instance_id).wait(timeout=30)
        await strange.raise_event(f"name {HOSTILE}", HOSTILE)
        await strange.suspend(HOSTILE)
        await strange.resume(HOSTILE)
        await strange.raise_event(HOSTILE, HOSTILE)
        await strange.wait(timeout=30)
        async for state in client.get("order-1").watch():
            if state.custom_status is not None:
                break
