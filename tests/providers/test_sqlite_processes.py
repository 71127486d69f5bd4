"""Several processes on one SQLite store: they wake one another, take over from the dead, and never write at once."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import resource
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import durable_sqlite
import pytest
from durable_sqlite.watching import LOOK_S_MAX

from durable.ports import Ports, system_ports
from durable.provider import LEASE_US, PARTITIONS, Provider, Wakeup
from durable.testing.conformance import Session
from durable.testing.conformance.store import wait_for
from tests.providers import sqlite_process
from tests.sizes import sized


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[Provider]:
    provider = durable_sqlite.connect(url, system_ports())
    await provider.open()
    try:
        yield provider
    finally:
        await provider.close()


async def start(url: str, role: str, name: str = "") -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, sqlite_process.__file__, url, role, name),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


async def kill(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.wait()
    process._transport.close()  # type: ignore[attr-defined]


async def test_a_killed_worker_is_known_to_be_dead_at_once(url: str, tmp_path: Path) -> None:
    holder = await start(url, "hold", "holder")
    assert await line(holder) == f"holding {PARTITIONS}"
    async with opened(url) as provider:
        lease = await provider.lease("taker", b"", worker=True)
        view = await provider.renew(lease)
        assert (set(view.unowned), [other.is_live for other in view.others]) == (set(), [True])
        assert not await provider.take(lease, range(PARTITIONS))
        began = time.monotonic()
        await kill(holder)
        view = await provider.renew(lease)
        assert set(view.unowned) == set(range(PARTITIONS))
        assert set(await provider.take(lease, range(PARTITIONS))) == set(range(PARTITIONS))
        assert time.monotonic() - began < 1.0
        await provider.renew(lease)
        assert [path.name for path in (tmp_path / "store.db.live").iterdir()] == [lease.lease_id]


async def test_a_stopped_worker_is_dead_when_its_lease_ends_and_writes_nothing_then(url: str) -> None:
    zombie = await start(url, "stop_and_commit", "instance")
    assert await line(zombie) == "owner"
    zombie.send_signal(signal.SIGSTOP)
    later = system_ports().now_us() + LEASE_US + 1_000_000
    provider = durable_sqlite.connect(url, _ports_at(later))
    await provider.open()
    lease = await provider.lease("taker", b"", worker=True)
    assert len(await provider.take(lease, range(PARTITIONS))) == PARTITIONS
    zombie.send_signal(signal.SIGCONT)
    zombie.stdin.write(b"\n")  # type: ignore[union-attr]
    assert await line(zombie) == "refused"
    assert not await Session(provider, lease).history("instance")
    await provider.close()
    await zombie.communicate()


def _ports_at(now: int) -> Ports:
    return dataclasses.replace(system_ports(), now_us=lambda: now)


async def test_a_forked_child_does_not_keep_a_dead_worker_alive(url: str) -> None:
    holder = await start(url, "fork_and_hold")
    child = int((await line(holder)).removeprefix("holding "))
    try:
        async with opened(url) as provider:
            lease = await provider.lease("taker", b"", worker=True)
            assert not await provider.take(lease, range(PARTITIONS))
            await kill(holder)
            assert len(await provider.take(lease, range(PARTITIONS))) == PARTITIONS
    finally:
        os.kill(child, signal.SIGKILL)


async def test_a_worker_is_woken_by_another_process(url: str) -> None:
    async with opened(url) as provider:
        session = Session(provider, await provider.lease("worker", b"", worker=True))
        await provider.take(session.lease, range(PARTITIONS))
        await session.start("instance")
        await asyncio.sleep(0.3)  # until the watch looks as seldom as it does when nothing happens
        heard: list[tuple[float, Wakeup]] = []
        provider.listen(lambda wakeup: heard.append((time.monotonic(), wakeup)))
        sender = await start(url, "send", "instance")
        sequences = [int(await line(sender)) for _ in range(50)]
        await wait_for(lambda: any(wakeup.inbox for _, wakeup in heard))
        await sender.communicate()
        assert [message.sequence for message in await session.receive()] == sequences
        count = len(heard)
        await asyncio.sleep(0.2)
        assert len(heard) <= count + 1  # silence is not a change


async def test_processes_write_one_after_the_other(url: str, tmp_path: Path) -> None:
    names = _names_in_different_partitions(4)
    writers = [await start(url, "write", name) for name in names]
    assert [await line(writer) for writer in writers] == ["200"] * 4
    for writer in writers:
        await writer.communicate()
        assert writer.returncode == 0
    database = sqlite3.connect(tmp_path / "store.db")
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert database.execute("SELECT count(*) FROM history").fetchone() == (800,)
    database.close()


def _names_in_different_partitions(count: int) -> list[str]:
    found: dict[int, str] = {}
    number = 0
    while len(found) < count:
        row = sqlite_process.new_row(f"writer {number}")
        found.setdefault(row.partition, row.key.id)
        number += 1
    return list(found.values())


@contextlib.contextmanager
def cpu_seconds() -> Iterator[list[float]]:
    """Yield a list that gets the CPU time which this process has taken in here."""
    found: list[float] = []
    before = resource.getrusage(resource.RUSAGE_SELF)
    yield found
    after = resource.getrusage(resource.RUSAGE_SELF)
    found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


@pytest.mark.size
async def test_listening_costs_next_to_nothing_when_nothing_happens(url: str) -> None:
    """No more than a bare timer that comes as often, where the machine takes more for that than a hundredth of a core."""
    idle_s = sized(5, 2)
    with cpu_seconds() as bare:
        for _ in range(round(idle_s / LOOK_S_MAX)):
            await asyncio.sleep(LOOK_S_MAX)
    async with opened(url) as provider:
        provider.listen(lambda wakeup: None)
        await asyncio.sleep(1)
        with cpu_seconds() as listening:
            await asyncio.sleep(idle_s)
    allowed = max(0.01 * idle_s, 2.5 * bare[0])
    assert listening[0] < allowed, f"{listening[0] / idle_s:.4f} of a core; a bare timer {bare[0] / idle_s:.4f}"
