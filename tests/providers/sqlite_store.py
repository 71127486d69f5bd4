"""What the tests of the SQLite store share: a store at a known path, and a look inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import durable_sqlite
from durable_sqlite.connection import WriteConnection

from durable.provider import Provider
from durable.testing.conformance import Store


def store_at(path: Path) -> Store:
    """A store in this file."""
    return Store(lambda ports: durable_sqlite.connect(f"sqlite:///{path}", ports), has_clock=True)


def inside(provider: Provider) -> Any:
    """What an open provider is made of."""
    return provider._opened  # type: ignore[attr-defined]


def writer_of(provider: Provider) -> WriteConnection:
    """Its writing connection."""
    connection = inside(provider).write
    assert isinstance(connection, WriteConnection)
    return connection
