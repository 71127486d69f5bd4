"""A process of its own on a SQLite store: `python sqlite_process.py URL ROLE [NAME]`. It says what it does, line by line."""

from __future__ import annotations

import asyncio
import os
import sys
import time

import durable_sqlite

from durable.errors import LeaseLostError
from durable.ports import system_ports
from durable.provider import PARTITIONS, Provider
from durable.testing.conformance.store import Session, event_to, new_row, start_of, step_of


async def hold(provider: Provider, name: str) -> None:
    """Own all partitions and one claimed attempt, until killed."""
    lease = await provider.lease(name, b"announcement", worker=True)
    taken = await provider.take(lease, range(PARTITIONS))
    print(f"holding {len(taken)}", flush=True)
    await asyncio.sleep(3600)


async def fork_and_hold(provider: Provider, name: str) -> None:
    """Likewise, with a forked child that outlives this process."""
    lease = await provider.lease(name, b"announcement", worker=True)
    await provider.take(lease, range(PARTITIONS))
    child = os.fork()
    if child == 0:
        os.close(0)  # the parent's end must be seen
        os.close(1)
        time.sleep(60)
        os._exit(0)
    print(f"holding {child}", flush=True)
    await asyncio.sleep(3600)


async def send(provider: Provider, name: str) -> None:
    """Send messages to the instance named, one at a time."""
    session = Session(provider, await provider.lease("sender", b"", worker=False))
    for number in range(50):
        [delivery] = await session.submit(event_to(name, f"{os.getpid()} {number}".encode()))
        print(delivery.sequence, flush=True)


async def write(provider: Provider, name: str) -> None:
    """Commit to an instance of its own, which lies in a partition that is free; then say what was written."""
    session = Session(provider, await provider.lease(name, b"", worker=True))
    row = new_row(name, run_id=system_ports().new_id())
    [start] = await session.submit(start_of(row))
    await provider.take(session.lease, [row.partition])
    await session.commit(step_of(row, consumed=[start.sequence]))
    for turn in range(200):
        row = await session.load(name)
        await session.commit(step_of(row, f"{turn} ".encode() * 100), alone=turn % 2 == 0)
        if turn % 50 == 0:
            await provider.renew(session.lease)
    print(len(await session.history(row.run_id)), flush=True)
    await provider.release(session.lease)


async def stop_and_commit(provider: Provider, name: str) -> None:
    """Own everything, say so, and try to commit when a line comes in."""
    session = Session(provider, await provider.lease("zombie", b"", worker=True))
    await provider.take(session.lease, range(PARTITIONS))
    row = await session.start(name)
    print("owner", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    try:
        await session.commit(step_of(row, b"zombie"))
        print("written", flush=True)
    except LeaseLostError:
        print("refused", flush=True)


ROLES = {role.__name__: role for role in (hold, fork_and_hold, send, write, stop_and_commit)}


async def main(url: str, role: str, name: str = "") -> None:
    provider = durable_sqlite.connect(url, system_ports())
    await provider.open()
    await ROLES[role](provider, name)
    await provider.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
