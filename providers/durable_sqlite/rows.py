"""Instances as rows of the table `runs`, and back."""

from __future__ import annotations

import functools
import json
import logging
import sqlite3
from collections.abc import Mapping
from typing import Any

from durable.errors import StoreError
from durable.provider import InstanceKey, InstanceRow, Status

logger = logging.getLogger("durable.sqlite")

CURRENT, ENDED, WAITING = 0, 1, 2
"""The places of a run: see the table."""

INLINE_BYTES_MAX = 512
"""A longer payload lies in `large_values`, so that the row, which every turn rewrites, stays short."""

COPIED_BYTES_MAX = 4096
"""A copy of as much takes a fifth of the time that looking for an adapter takes (0.4 µs)."""

LARGE_COLUMNS = ("input", "output", "custom_status", "failure")

# In the order in which `row_of` reads them.
_PLAIN = (
    "partition",
    "run_id",
    "name",
    "version",
    "created_at",
    "scheduled_at",
    "updated_at",
    "status",
    "generation",
    "records",
    "chain",
    *LARGE_COLUMNS,
    "stall_reason",
    "completed_at",
    "parent_kind",
    "parent_id",
    "parent_run_id",
    "parent_task",
    "tags",
    "due_at",
    "open_work",
    "parked_until",
    "state",
    "slow_turns",
    "slow_since",
)
COLUMNS = ("number", "kind", "id", *_PLAIN)


def _selected(name: str) -> str:
    if name not in LARGE_COLUMNS:
        return f"runs.{name}"
    elsewhere = f"SELECT value FROM large_values WHERE number = runs.number AND column_name = '{name}'"
    return f"CASE typeof(runs.{name}) WHEN 'integer' THEN ({elsewhere}) ELSE runs.{name} END"


SELECTED = ", ".join(map(_selected, COLUMNS))
"""The columns that `row_of` takes, for a SELECT."""

# What every run has; a new one has few of the others.
_ALWAYS = (
    "hub",
    "place",
    "kind",
    "id",
    "partition",
    "run_id",
    "name",
    "created_at",
    "scheduled_at",
    "updated_at",
    "status",
    "generation",
    "records",
    "chain",
    "open_work",
    "parked_until",
    "state",
    "slow_turns",
    "slow_since",
)


@functools.lru_cache(maxsize=64)
def _insert(others: tuple[str, ...]) -> str:
    """Return the statement that adds a run with these columns beside `_ALWAYS`."""
    columns = (*_ALWAYS, *others)
    return f"INSERT INTO runs ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


_WRITE_LARGE = "INSERT OR REPLACE INTO large_values (number, column_name, value) VALUES (?, ?, ?)"
_ADD_TAG = (
    "INSERT OR REPLACE INTO tags (hub, name, value, created_at, number)"
    " SELECT ?, ?, ?, created_at, number FROM runs WHERE number = ?"
)
_DROP_TAG = "DELETE FROM tags WHERE hub = ? AND name = ? AND value = ? AND created_at = ? AND number = ?"


def blob(data: bytes) -> bytes | bytearray:
    """Return bytes as a parameter that takes little time: for bytes, as for None, sqlite3 looks for an adapter."""
    return bytearray(data) if len(data) <= COPIED_BYTES_MAX else data


def inline(payload: bytes | None) -> bytes | bytearray | int | None:
    """Return what the row holds of a payload: itself, or its length where it lies elsewhere."""
    if payload is None:
        return None
    return blob(payload) if len(payload) <= INLINE_BYTES_MAX else len(payload)


def encode_tags(tags: Mapping[str, str]) -> str | None:
    """Return tags as the row holds them."""
    return json.dumps(dict(tags), ensure_ascii=False) if tags else None


def decode_tags(text: Any) -> dict[str, str]:
    """Return the tags of a row; damaged ones count as none, for the run goes on and a listing must not fail on them."""
    try:
        tags = json.loads(text)
        if type(tags) is dict and all(type(value) is str for value in tags.values()):
            return tags
    except (ValueError, TypeError, RecursionError):
        pass
    logger.warning("the tags of a run are damaged, it is shown without: %.200r", text)
    return {}


def insert_run(database: sqlite3.Connection, hub: int, place: int, row: InstanceRow) -> int:
    """Add a run; return its number."""
    parent = row.parent or (None, None)
    values = (
        hub,
        place,
        row.key.kind,
        row.key.id,
        row.partition,
        row.run_id,
        row.name,
        row.created_at,
        row.scheduled_at,
        row.updated_at,
        int(row.status),  # a plain int: SQLite looks for an adapter of anything else
        row.generation,
        row.records,
        blob(row.chain),
        row.open_work,
        row.parked_until,
        blob(row.state),
        row.slow_turns,
        row.slow_since,
    )
    others = {
        "version": row.version,
        "input": inline(row.input),
        "output": inline(row.output),
        "custom_status": inline(row.custom_status),
        "failure": inline(row.failure),
        "stall_reason": row.stall_reason,
        "completed_at": row.completed_at,
        "parent_kind": parent[1],
        "parent_id": parent[0],
        "parent_run_id": row.parent_run_id,
        "parent_task": row.parent_task,
        "tags": encode_tags(row.tags) if row.tags else None,
        "due_at": row.due_at,
    }
    others = {name: value for name, value in others.items() if value is not None}
    number = database.execute(_insert(tuple(others)), (*values, *others.values())).lastrowid
    assert number is not None
    for name in LARGE_COLUMNS:
        payload = getattr(row, name)
        if payload is not None and len(payload) > INLINE_BYTES_MAX:
            write_large(database, number, name, payload)
    if row.tags and place == CURRENT:
        add_tags(database, hub, number, row.tags)
    return number


def write_large(database: sqlite3.Connection, number: int, name: str, payload: bytes) -> None:
    """Store a payload that is too long for its row."""
    database.execute(_WRITE_LARGE, (number, name, payload))


def add_tags(database: sqlite3.Connection, hub: int, number: int, tags: Mapping[str, str]) -> None:
    """Let a current run be found by its tags."""
    database.executemany(_ADD_TAG, [(hub, name, value, number) for name, value in tags.items()])


def drop_tags(database: sqlite3.Connection, hub: int, number: int) -> None:
    """End that."""
    text, created_at = database.execute("SELECT tags, created_at FROM runs WHERE number = ?", (number,)).fetchone()
    if text:
        tags = decode_tags(text)
        database.executemany(_DROP_TAG, [(hub, name, value, created_at, number) for name, value in tags.items()])


def row_of(values: tuple[Any, ...]) -> InstanceRow:
    """Return the row that a SELECT of SELECTED has found. Raises StoreError for a status that there is not."""
    parent_kind, parent_id, parent_run_id, parent_task, tags = values[20:25]
    fields: tuple[Any, ...] = (
        InstanceKey(values[2], values[1]),
        *values[3:10],
        _status_of(values),
        *values[11:20],
        None if parent_id is None else InstanceKey(parent_id, parent_kind),
        parent_run_id,
        parent_task,
        decode_tags(tags) if tags else {},
        *values[25:],
    )
    return InstanceRow(*fields)


def _status_of(values: tuple[Any, ...]) -> Status:
    status = _STATUSES.get(values[10])
    if status is None:
        raise StoreError(
            f"the row of instance '{values[2]}' is damaged, its status is {values[10]!r:.60}: stop all workers of this store "
            "and restore it from a backup"
        )
    return status


_STATUSES = {int(status): status for status in Status}
