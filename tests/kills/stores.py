"""The store of a storm: a file, or a server that can itself be shaken; and what is looked at beside the contract."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import asyncpg
from durable_sqlite.connection import lock_path_of
from durable_sqlite.filelock import is_held

from tests.kills.payloads import MARK
from tests.postgres_proxy import CuttingProxy
from tests.postgres_server import PostgresServer, folder_in_memory, run_sql

LOOKS_AT_LOCK = 20
"""A lock that is held at each of so many looks is not held by workers that take turns."""

UNREACHABLE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What a call ends with while the server goes down, or its connection is ended; the last, when it was about to ask."""

WRITING = ("commit", "submit", "report", "claim", "take", "renew", "lease", "release")


class StormStore(Protocol):
    """What a storm asks of its store. `url` is that of the clients, `workers_url` that of the workers."""

    url: str
    workers_url: str
    lease_seen_after_s: float
    """How long after its lease has expired a worker's partitions are surely taken."""

    async def is_owner(self, name: str) -> bool:
        """Tell whether a worker has partitions."""
        ...

    async def is_blocked(self) -> bool:
        """Tell whether a frozen worker keeps everybody from writing."""
        ...

    async def count_messages(self) -> int:
        """Count the messages that were not received yet."""
        ...


class FileStore:
    """A SQLite file. A worker that is frozen inside a commit keeps it for itself."""

    lease_seen_after_s = 0.7  # the others look around every half second

    def __init__(self, folder: Path, *, is_offloaded: bool = False) -> None:
        self._path = folder / "storm.db"
        self.url = self.workers_url = f"{MARK if is_offloaded else ''}sqlite:///{self._path}"

    async def is_owner(self, name: str) -> bool:
        """Tell whether a worker has partitions."""
        owned = "SELECT count(*) FROM partitions JOIN workers USING (hub, lease_id) WHERE name = ?"
        return self._count(owned, name) > 0

    async def is_blocked(self) -> bool:
        """Tell whether the file's lock is held all the time."""
        lock = lock_path_of(str(self._path))
        for _ in range(LOOKS_AT_LOCK):
            if not is_held(lock):
                return False
            await asyncio.sleep(0.005)
        return True

    async def count_messages(self) -> int:
        """Count the messages that were not received yet."""
        return self._count("SELECT count(*) FROM inbox")

    def _count(self, statement: str, *values: str) -> int:
        with contextlib.closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)) as database:
            return int(database.execute(statement, values).fetchone()[0])


class ServerStore:
    """A PostgreSQL server. Workers may reach it through a wire that breaks between a commit and its answer."""

    lease_seen_after_s = 3.2  # the others look around every three seconds

    def __init__(self, server: PostgresServer, wire: CuttingProxy | None = None) -> None:
        self.server = server
        self._wire = wire
        self.url = server.url()
        self.workers_url = self.url.replace(str(server.port), str(wire.port if wire else server.port))

    @property
    def cuts(self) -> int:
        """How often an answer to a worker was cut off."""
        return self._wire.cuts if self._wire else 0

    async def is_owner(self, name: str) -> bool:
        """Tell whether a worker has partitions."""
        owned = "SELECT count(*) FROM {schema}.partitions JOIN {schema}.workers USING (lease_id) WHERE name = $1"
        return await self._count(owned, name) > 0

    async def shares(self) -> dict[str, int]:
        """Return how many partitions each worker has, by name."""
        shares = (
            "SELECT name, count(*) FROM durable_default.partitions JOIN durable_default.workers USING (lease_id)"
            " GROUP BY name"
        )
        return dict(await asyncio.to_thread(run_sql, self.url, shares))  # type: ignore[arg-type]

    async def is_blocked(self) -> bool:
        """Never: nothing is open between two round trips."""
        return False

    async def count_messages(self) -> int:
        """Count the messages that were not received yet."""
        return await self._count("SELECT count(*) FROM {schema}.inbox")

    async def _count(self, statement: str, *values: str) -> int:
        while True:
            try:
                connection = await asyncpg.connect(self.url, timeout=5)
                try:
                    return int(await connection.fetchval(statement.format(schema="durable_default"), *values))
                finally:
                    await connection.close()
            except UNREACHABLE:  # it is being restarted
                await asyncio.sleep(0.1)

    async def restart(self, chance: random.Random) -> None:
        """Let the server crash, and start it again."""
        await asyncio.to_thread(self.server.stop)
        await asyncio.sleep(chance.choice([0, 0, 0.5]))
        await asyncio.to_thread(self.server.start)

    async def kill_backends(self) -> int:
        """End every connection; return how many there were."""
        try:
            connection = await asyncpg.connect(self.url, timeout=5)
        except UNREACHABLE:
            return 0
        try:
            killed = await connection.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            return int(killed)
        except UNREACHABLE:
            return 0
        finally:
            connection.terminate()


@contextlib.asynccontextmanager
async def server_store(*, cut_chance: float = 0.0, seed: int = 0) -> AsyncIterator[ServerStore]:
    """A new server with PostgreSQL's own defaults; of what workers write, so many answers are cut off."""
    server = PostgresServer(folder_in_memory(), durable=True)
    await asyncio.to_thread(server.start)
    chance = random.Random(f"{seed} cuts")

    def must_cut(sql: str) -> bool:
        is_written = any(f".{name}_v1(" in sql for name in WRITING)
        return is_written and chance.random() < cut_chance

    try:
        async with CuttingProxy(server.port, must_cut) as proxy:
            yield ServerStore(server, proxy if cut_chance else None)
    finally:
        await asyncio.to_thread(server.remove)
