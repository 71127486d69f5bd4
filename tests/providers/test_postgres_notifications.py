"""What one process tells another: enough to look where something has changed, and nobody else."""

from __future__ import annotations

import asyncio

import durable_postgres
import pytest

from durable.ports import system_ports
from durable.testing.conformance.store import wait_for
from tests.postgres_server import run_sql
from tests.providers.another_process import check_what_is_heard


@pytest.mark.parametrize("is_owner", [True, False])
async def test_another_process_hears_what_concerns_it_and_nothing_else(postgres_url: str, is_owner: bool) -> None:
    provider = durable_postgres.connect(postgres_url, system_ports())
    await provider.open()

    async def tell_last() -> None:
        await wait_for(lambda: provider._hub._ear is not None and provider._hub._ear.is_listening)
        last = "SELECT pg_notify('durable_' || store_id, 'another:l:0') FROM durable_default.hub"
        await asyncio.to_thread(run_sql, postgres_url, last)

    await check_what_is_heard(postgres_url, provider, tell_last, is_owner=is_owner)
    await provider.close()
