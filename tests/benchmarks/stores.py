"""The stores that can be measured, by the name that `--store` takes. A further one is an entry in STORES."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import secrets
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from tests.postgres_server import PostgresServer, new_folder, run_sql


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """An empty store to measure on, and what is to be said beside the figures."""

    url: str
    store: str
    durability: str


@contextlib.contextmanager
def _sqlite(folder: Path) -> Iterator[Place]:
    path = folder / "store.db"
    # What the provider sets, reads back, and refuses to work without.
    yield Place(f"sqlite:///{path}", f"SQLite {sqlite3.sqlite_version} file", "WAL, synchronous=FULL")
    for suffix in ("", "-wal", "-shm", ".lock", ".live"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextlib.contextmanager
def _memory(folder: Path) -> Iterator[Place]:
    yield Place(f"memory://{folder.name}", "memory", "none: gone with the process")


@contextlib.contextmanager
def _postgres(folder: Path) -> Iterator[Place]:
    """An empty database of a server that is there (`BENCH_PG_URL`), or of one that is started for it."""
    given = os.environ.get("BENCH_PG_URL")
    with contextlib.nullcontext(given) if given else _server(folder) as server_url:
        name = f"bench_{secrets.token_hex(4)}"
        run_sql(f"{server_url}/postgres", f"CREATE DATABASE {name}")
        try:
            [(version, fsync, synchronous)] = run_sql(f"{server_url}/{name}", _SETTINGS)
            durability = f"fsync={fsync}, synchronous_commit={synchronous}"
            yield Place(f"{server_url}/{name}", f"PostgreSQL {version}", durability)
        finally:
            run_sql(f"{server_url}/postgres", f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[str]:
    server = PostgresServer(new_folder(str(folder.parent)), durable=True)
    server.start()
    try:
        yield server.url("").rstrip("/")
    finally:
        server.stop(signal.SIGINT)
        server.remove()


_SETTINGS = "SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')"

STORES: dict[str, Callable[[Path], AbstractContextManager[Place]]] = {
    "sqlite": _sqlite,
    "memory": _memory,
    "postgres": _postgres,
}
"""Each makes an empty store in a folder that is there, and takes it away afterwards."""


def version() -> str:
    """Return the version of the package that is measured."""
    return importlib.metadata.version("durable-orchestration")
