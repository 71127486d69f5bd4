"""What one process tells another: enough to look where something has changed, and nobody else."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import durable_postgres
import pytest

from durable.ports import system_ports
from durable.provider import Wakeup
from durable.testing.conformance import Session
from durable.testing.conformance.store import wait_for
from tests.postgres_server import run_sql

PROGRAM = """
import asyncio, sys
import durable_postgres
from durable.ports import system_ports
from durable.testing.conformance import Session
from durable.testing.conformance.store import attempt_of, end_of, event_to, start_of, step_of, new_row

async def main():
    provider = durable_postgres.connect(sys.argv[1], system_ports())
    await provider.open()
    session = Session(provider, await provider.lease("other", b"", worker=True))
    row = new_row("instance", run_id="run")
    for line in sys.stdin:
        match line.strip():
            case "start": await session.submit(start_of(row))
            case "event": await session.submit(event_to("instance"))
            case "take": await provider.take(session.lease, [row.partition], from_live=True)
            case "step": await session.commit(step_of(await session.load("instance")))
            case "status": await session.commit(step_of(await session.load("instance"), changes={"custom_status": b"x"}))
            case "queue": await session.commit(step_of(row, queue_adds=[attempt_of(row)]))
            case "own": await session.commit(step_of(row), messages=[event_to("instance")])
            case "end": await session.commit(end_of(await session.load("instance")))
        while provider._hub._notifier._sending is not None:  # what is to be told was sent
            await asyncio.sleep(0.001)
        print("done", flush=True)
    await provider.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("is_owner", [True, False])
async def test_another_process_hears_what_concerns_it_and_nothing_else(postgres_url: str, is_owner: bool) -> None:
    provider = durable_postgres.connect(postgres_url, system_ports())
    await provider.open()
    session = Session(provider, await provider.lease("worker", b"", worker=True))
    heard: list[Wakeup] = []
    provider.listen(heard.append)
    if is_owner:
        await provider.take(session.lease, range(64))
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, postgres_url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert other.stdin is not None
    assert other.stdout is not None

    async def after(word: str) -> set[str]:
        """Return what is heard of a word: all that comes before what is sent here, after it."""
        assert other.stdin is not None
        assert other.stdout is not None
        heard.clear()
        other.stdin.write(f"{word}\n".encode())
        assert await other.stdout.readline() == b"done\n"
        last = "SELECT pg_notify('durable_' || store_id, 'another:l:0') FROM durable_default.hub"
        await asyncio.to_thread(run_sql, postgres_url, last)
        await wait_for(lambda: any(wakeup.leases for wakeup in heard))
        names = ("activities", "inbox", "states", "messages", "rows")
        return {name for wakeup in heard for name in names if getattr(wakeup, name)}

    await wait_for(lambda: provider._hub._ear is not None and provider._hub._ear.is_listening)
    await after("nothing")
    assert await after("start") == ({"inbox"} if is_owner else set())
    assert await after("event") == ({"inbox"} if is_owner else set())
    await after("take")
    await after("status")
    assert await after("step") == set()
    assert await after("status") == {"states"}
    assert await after("queue") == {"activities"}
    assert await after("own") == set()
    assert await after("end") == {"states"}
    other.stdin.close()
    await other.wait()
    await provider.close()
