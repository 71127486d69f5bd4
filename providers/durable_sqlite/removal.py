"""Removing runs with all that belongs to them."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from durable.provider import InstanceKey
from durable_sqlite.listings import after_prefix
from durable_sqlite.rows import drop_tags

_FIND_CURRENT = "SELECT number, run_id, status FROM runs WHERE hub = ? AND kind = ? AND id = ? AND place = 0"
_FIND_REPLACED = (
    "SELECT number, run_id FROM runs INDEXED BY runs_ended WHERE hub = ? AND kind = ? AND id = ? AND place = 1"
    " ORDER BY number"
)
_DROP_HISTORY = "DELETE FROM history WHERE hub = ? AND run_id = ?"
_DROP_LARGE = "DELETE FROM large_values WHERE number = ?"
_DROP_RUN = "DELETE FROM runs WHERE number = ?"
_DROP_MEMOS = "DELETE FROM memos WHERE hub = ? AND key >= ? AND key < ?"
_TARGETS = "SELECT kind, id FROM inbox WHERE hub = ?"
_IS_LATER = (
    "SELECT 1 FROM inbox_later INDEXED BY {index} WHERE hub = ? AND kind = ? AND id = ? AND parked = {parked} LIMIT 1"
)
_IS_ANY_LATER = (
    _IS_LATER.format(index="inbox_delayed_of", parked=0),
    _IS_LATER.format(index="inbox_parked", parked=1),
)


def find_current(database: sqlite3.Connection, hub: int, key: InstanceKey) -> tuple[int, str, int] | None:
    """Return (number, run id, status) of the current run."""
    found: tuple[int, str, int] | None = database.execute(_FIND_CURRENT, (hub, key.kind, key.id)).fetchone()
    return found


def find_replaced(database: sqlite3.Connection, hub: int, key: InstanceKey) -> list[tuple[int, str]]:
    """Return (number, run id) of each ended run that was replaced, the oldest first."""
    return database.execute(_FIND_REPLACED, (hub, key.kind, key.id)).fetchall()


def remove_run(database: sqlite3.Connection, hub: int, number: int, run_id: str) -> None:
    """Remove one run with its history and its memos. Its tags are the caller's."""
    database.execute(_DROP_HISTORY, (hub, run_id))
    database.execute(_DROP_LARGE, (number,))
    database.execute(_DROP_RUN, (number,))
    prefix = f"run/{run_id}/"
    database.execute(_DROP_MEMOS, (hub, prefix, after_prefix(prefix)))


def remove_idle(database: sqlite3.Connection, hub: int, keys: Collection[InstanceKey]) -> list[InstanceKey]:
    """Remove those of these instances for which no message waits; return their keys.

    One look at the inbox for all of them: an index by target would cost every message its entry.
    """
    awaited = {InstanceKey(key_id, kind) for kind, key_id in database.execute(_TARGETS, (hub,))}
    gone = []
    for key in keys:
        place = (hub, key.kind, key.id)
        if key in awaited or any(database.execute(query, place).fetchone() for query in _IS_ANY_LATER):
            continue
        current = find_current(database, hub, key)
        assert current is not None, "its step was written just now"
        drop_tags(database, hub, current[0])
        for number, run_id in (*find_replaced(database, hub, key), current[:2]):
            remove_run(database, hub, number, run_id)
        gone.append(key)
    return gone
