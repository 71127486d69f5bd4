"""Instances as values of the type `run_v1`, and back."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import asyncpg

from durable.errors import StoreError
from durable.provider import ActivityRow, InstanceKey, InstanceRow, Status, TaskAddress

logger = logging.getLogger("durable.postgres")

Values: TypeAlias = Sequence[Any] | asyncpg.Record
"""A value of a composite type: its fields in order."""

# In the order of `run_v1`, and with the names of the table `runs`.
COLUMNS = (
    *("kind", "id", "partition", "run_id", "name", "version", "created_at", "scheduled_at", "updated_at", "status"),
    *("generation", "records", "chain", "input", "output", "custom_status", "failure", "stall_reason", "completed_at"),
    *(
        "parent_kind",
        "parent_id",
        "parent_run_id",
        "parent_task",
        "tags",
        "due_at",
        "open_work",
        "parked_until",
        "state",
    ),
    *("slow_turns", "slow_since"),
)
SELECTED = ", ".join(f"runs.{name}" for name in COLUMNS)
"""What `row_of` takes, for a SELECT."""

PLACES = {name: place for place, name in enumerate(COLUMNS)}


def tag_hash(name: str, value: str) -> int:
    """Return the number under which a tag is entered: 64 bits, the same on every machine and release."""
    digest = hashlib.blake2b(f"{len(name)}:{name}{value}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def encode_tags(tags: Mapping[str, str]) -> tuple[str | None, list[int] | None]:
    """Return tags as the row holds them, and their hashes."""
    if not tags:
        return None, None
    return json.dumps(dict(tags), ensure_ascii=False), [tag_hash(name, value) for name, value in tags.items()]


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


def run_of(row: InstanceRow) -> tuple[Any, ...]:
    """Return a row as a value of `run_v1`."""
    parent = row.parent
    tags, hashes = encode_tags(row.tags) if row.tags else (None, None)
    return (
        row.key.kind,
        row.key.id,
        row.partition,
        row.run_id,
        row.name,
        row.version,
        row.created_at,
        row.scheduled_at,
        row.updated_at,
        row.status,
        row.generation,
        row.records,
        row.chain,
        row.input,
        row.output,
        row.custom_status,
        row.failure,
        row.stall_reason,
        row.completed_at,
        None if parent is None else parent.kind,
        None if parent is None else parent.id,
        row.parent_run_id,
        row.parent_task,
        tags,
        row.due_at,
        row.open_work,
        row.parked_until,
        row.state,
        row.slow_turns,
        row.slow_since,
        hashes,
    )


def changes_of(changes: Mapping[str, Any]) -> tuple[int, tuple[Any, ...]]:
    """Return which columns change, a bit for each, and a value of `run_v1` that holds them."""
    values: list[Any] = [None] * (len(COLUMNS) + 1)
    mask = 0
    columns: dict[str, Any] = {}
    for name, value in changes.items():
        if name == "parent":
            columns["parent_kind"], columns["parent_id"] = (value.kind, value.id) if value else (None, None)
        elif name == "tags":
            columns["tags"], values[-1] = encode_tags(value)
        else:
            columns[name] = value
    for name, value in columns.items():
        place = PLACES[name]
        values[place] = value
        mask |= 1 << place
    return mask, tuple(values)


def row_of(values: Values) -> InstanceRow:
    """Return a row from the columns in their order. Raises StoreError for a status that there is not."""
    (parent_kind, parent_id, parent_run_id, parent_task, tags) = values[19:24]
    status = _STATUSES.get(values[9])
    if status is None:
        raise StoreError(
            f"the row of instance '{values[1]}' is damaged, its status is {values[9]!r:.60}: stop all workers of this store "
            "and restore it from a backup"
        )
    fields: tuple[Any, ...] = (
        InstanceKey(values[1], values[0]),
        *values[2:9],
        status,
        *values[10:19],
        None if parent_id is None else InstanceKey(parent_id, parent_kind),
        parent_run_id,
        parent_task,
        decode_tags(tags) if tags else {},
        *values[24:30],
    )
    return InstanceRow(*fields)


_STATUSES = {int(status): status for status in Status}


def task_of(address: TaskAddress) -> tuple[Any, ...]:
    """Return an address as a value of `task_v1`."""
    return address.key.kind, address.key.id, address.run_id, address.generation, address.task_id


def activity_of(row: ActivityRow) -> tuple[Any, ...]:
    """Return an attempt as a value of `activity_v1`."""
    return (
        *task_of(row.task),
        row.partition,
        row.queue,
        row.name,
        row.version,
        row.data,
        row.priority,
        row.visible_at,
        row.start_by,
        row.deliveries,
        row.first_claimed_at,
        row.heartbeat,
    )


def attempt_of(values: Values) -> ActivityRow:
    """Return an attempt from the fields of `activity_v1`."""
    kind, key_id, run_id, generation, task_id, *rest = values
    return ActivityRow(TaskAddress(InstanceKey(key_id, kind), run_id, generation, task_id), *rest)
