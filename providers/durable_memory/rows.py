"""What a hub keeps beside the contract's own rows: leases, claims, and what a transaction has changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from durable.errors import StoreError
from durable.provider import (
    ActivityRow,
    Committed,
    Delivery,
    InstanceRow,
    Lease,
    Memo,
    StoredMessage,
    TaskAddress,
    Verdict,
    Wakeup,
)


@dataclasses.dataclass(slots=True)
class LeaseRow:
    """A lease as stored, with the answers to its last commit and its last submit."""

    lease_id: str
    name: str
    announcement: bytes
    is_worker: bool
    expires_at: int
    epoch: int = 1
    commit_number: int = 0
    commit_answer: Committed | None = None
    submit_number: int = 0
    submit_answer: Sequence[Delivery] = ()


@dataclasses.dataclass(slots=True)
class QueueEntry:
    """An activity row with its age and the lease that has claimed it."""

    row: ActivityRow
    age: int
    claimer: str | None = None


@dataclasses.dataclass(slots=True)
class Changes:
    """What a transaction has changed, as its listeners will hear it."""

    rows: list[InstanceRow]
    messages: list[StoredMessage] = dataclasses.field(default_factory=list)
    activities: bool = False
    memos: list[Memo] = dataclasses.field(default_factory=list)

    def told(self) -> Wakeup:
        """Return what the listeners are told."""
        memos = tuple(self.memos)
        return Wakeup(tuple(self.messages), tuple(self.rows), activities=self.activities, memos=memos)


def is_unknown(entry: QueueEntry, lease: Lease, held: Collection[TaskAddress] | None) -> bool:
    """Tell whether a lease has claimed a row without having heard of it."""
    return held is not None and entry.claimer == lease.lease_id and entry.row.task not in held


def is_expired(row: ActivityRow, now: int) -> bool:
    """Tell whether nobody claimed an attempt in time."""
    return row.start_by is not None and row.start_by <= now and row.first_claimed_at == 0


def judge_going_on(start: InstanceRow | None, row: InstanceRow | None) -> Verdict:
    """Tell whether the run of `start` has ended, in an earlier generation than that in which it is to go on."""
    if row is None or start is None:
        return Verdict.ABSENT
    has_ended = row.run_id == start.run_id and row.status.is_finished and row.generation < start.generation
    return Verdict.STORED if has_ended else Verdict.EXISTS


def check_number(what: str, number: int, last: int) -> None:
    """Raise StoreError for a number that was used before the last one."""
    if number <= last:
        raise StoreError(f"{what} {number} is older than {last}, the last one: its answer is no longer known")
