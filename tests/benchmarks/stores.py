"""The stores that can be measured, by the name that `--store` takes. A further one is an entry in STORES."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path


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


STORES: dict[str, Callable[[Path], AbstractContextManager[Place]]] = {"sqlite": _sqlite, "memory": _memory}
"""Each makes an empty store in a folder that is there, and takes it away afterwards."""


def version() -> str:
    """Return the version of the package that is measured."""
    return importlib.metadata.version("durable-orchestration")
