"""What a probe needs to know of a worker: one frozen value, from what the worker has in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import datetime

from durable.events import InstanceKey
from durable.provider import InstanceRow, Status


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerHealth:
    """A worker as it is at one moment. Times are aware, in UTC, and those of the hub; spans are in seconds.

    `is_live`: it serves, and nothing has happened that it cannot go on with; that is what a liveness probe asks. `is_ready`: it
    also holds its lease and is not stopping; that is what a readiness probe asks.

    `store_error`: why the store did not answer the last time it was asked; None if it did. `store_answered_s`: how long ago it
    last did. `last_commit_at`: None before the first. `lease_s`: how long the lease still holds unless it is renewed; 0 without
    one. `partitions`: how many it owns. `turns`: instances whose turn is to be run or written. `activities`: those that run
    here; `activities_waiting`: those that wait for a slot. `stalled`: instances of its partitions that are STALLED. `failure`:
    what has ended it. `waiting_s`: for how long the one of those that wait has waited that was asked for first.
    """

    name: str
    is_live: bool
    is_ready: bool
    is_stopping: bool = False
    store_error: str | None = None
    store_answered_s: float | None = None
    last_commit_at: datetime | None = None
    lease_s: float = 0.0
    partitions: int = 0
    turns: int = 0
    activities: int = 0
    activities_waiting: int = 0
    stalled: int = 0
    waiting_s: float = 0.0
    failure: str | None = None


class Stalled:
    """Which instances of the owned partitions are stalled, by the steps that this worker has written.

    It is right from the moment on that a partition was taken: whoever takes one tries what is stalled there at once.
    """

    def __init__(self) -> None:
        self._keys: dict[InstanceKey, int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def note(self, row: InstanceRow) -> None:
        """Take in an instance's row, as a step has left it."""
        if row.status is Status.STALLED:
            self._keys[row.key] = row.partition
        elif self._keys:
            self._keys.pop(row.key, None)

    def keep(self, is_owned: Callable[[int], bool]) -> None:
        """Forget those of partitions that are in other hands."""
        self._keys = {key: partition for key, partition in self._keys.items() if is_owned(partition)}
