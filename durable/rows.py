"""An instance's row, as every store keeps it: part of the storage contract (`durable.provider`, where all import it from)."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

from durable.events import InstanceKey
from durable.value_objects import value_object


class Status(enum.IntEnum):
    """An instance's status as stored. Those from COMPLETED on are final."""

    PENDING = 0
    RUNNING = 1
    SUSPENDED = 2
    STALLED = 3
    COMPLETED = 4
    FAILED = 5
    CANCELLED = 6
    TERMINATED = 7

    is_finished: bool  # true for a final status

    def __init__(self, value: int) -> None:
        self.is_finished = value >= 4  # here once, and not in a property: it is asked for many times in each turn


@value_object
class Progress:
    """The columns of an instance's row that every turn writes; named as in `InstanceRow`."""

    generation: int
    records: int
    chain: bytes
    status: Status
    updated_at: int
    due_at: int | None
    open_work: int
    parked_until: int = 0
    state: bytes = b""


@value_object
class InstanceRow:
    """The current run of an instance, or one that was replaced: what `state()` shows and what its owner must find again.

    `input`, `output`, `custom_status` and `failure` are encoded. `records` counts the current generation's history
    records and `chain` is the checksum of the last one. `due_at` is the earliest time at which the instance wants a turn by
    itself (None: never); `open_work` is above zero while a new owner has something to do at once (activities held by the
    owner, effects not yet sent, a turn not yet run). `parked_until`: before it only CONTROL messages are eligible.
    `state` belongs to the owner. `slow_turns` and `slow_since` count the deaths under the mark of `mark_slow_turn`.
    """

    key: InstanceKey
    partition: int
    run_id: str
    name: str
    version: str | None
    created_at: int
    scheduled_at: int
    updated_at: int
    status: Status = Status.PENDING
    generation: int = 0
    records: int = 0
    chain: bytes = b""
    input: bytes | None = None
    output: bytes | None = None
    custom_status: bytes | None = None
    failure: bytes | None = None
    stall_reason: str | None = None
    completed_at: int | None = None
    parent: InstanceKey | None = None
    parent_run_id: str | None = None
    parent_task: str | None = None  # generation and task id of the request in the parent, as text
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    due_at: int | None = None
    open_work: int = 0
    parked_until: int = 0
    state: bytes = b""
    slow_turns: int = 0
    slow_since: int = 0

    def after(self, progress: Progress, changes: Mapping[str, Any]) -> InstanceRow:
        """Return the row as a step with this progress and these changes leaves it."""
        row = InstanceRow(
            self.key,
            self.partition,
            self.run_id,
            self.name,
            self.version,
            self.created_at,
            self.scheduled_at,
            progress.updated_at,
            progress.status,
            progress.generation,
            progress.records,
            progress.chain,
            self.input,
            self.output,
            self.custom_status,
            self.failure,
            self.stall_reason,
            self.completed_at,
            self.parent,
            self.parent_run_id,
            self.parent_task,
            self.tags,
            progress.due_at,
            progress.open_work,
            progress.parked_until,
            progress.state,
        )
        for name, value in changes.items():
            setattr(row, name, value)  # nobody else has seen it yet
        return row
