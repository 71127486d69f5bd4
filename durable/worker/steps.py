"""The steps that need no engine: what a commit writes when an instance stalls, recovers, is ended by force or replaced.

Also what all steps share: appending a record to the chain, noting what was dropped, and the row as a step leaves it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from durable.engine import events as ev
from durable.engine.events import HistoryEvent
from durable.engine.execution import Execution
from durable.engine.records import Record, encode_record, first_checksum, next_checksum
from durable.engine.turn import Turn, outcome_messages
from durable.errors import DurableError, FailureDetails
from durable.failures import encode_details
from durable.messages import dropped_memo, encode_arrivals
from durable.provider import (
    InstanceRow,
    Memo,
    Message,
    Priority,
    Progress,
    RecordRow,
    Status,
    Step,
)
from durable.worker.clock import StoreClock
from durable.worker.live import LiveInstance, OwnerState, Pending
from durable.worker.outbox import sender_of, to_message

logger = logging.getLogger("durable.worker")

TURN_BYTES_MAX = 64 * 1024 * 1024
"""A turn whose record would be larger stalls its instance."""

STALL_FIRST_US = 2_000_000
STALL_LONGEST_US = 300_000_000
"""How long a stalled instance waits for its next try: doubled each time, up to five minutes."""


class StallError(DurableError):
    """Something that is not the orchestration's own failure keeps an instance from going on."""


@dataclasses.dataclass(slots=True)
class Prepared:
    """What is to be committed for one instance, and what follows."""

    live: LiveInstance
    step: Step | None = None
    row: InstanceRow | None = None  # the row as the step leaves it
    state: OwnerState | None = None
    messages: list[Message] = dataclasses.field(default_factory=list)
    memos: list[Memo] = dataclasses.field(default_factory=list)
    consumed: list[int] = dataclasses.field(default_factory=list)
    taken: list[Pending] = dataclasses.field(default_factory=list)
    turn: Turn | None = None
    held: list[tuple[ev.ActivityScheduled, str]] = dataclasses.field(
        default_factory=list
    )  # with their idempotency keys
    carried: list[HistoryEvent] = dataclasses.field(default_factory=list)
    opening: Record | None = None  # what the next generation begins with
    opening_bytes: int = 0
    record_bytes: int = 0
    is_outcome: bool = False


class Steps:
    """Makes steps for the instances of one worker."""

    def __init__(self, clock: StoreClock, partitions: int) -> None:
        self._clock = clock
        self._partitions = partitions

    # ---- what all steps share

    def append(self, row: InstanceRow, record: Record) -> tuple[list[tuple[int, RecordRow]], bytes]:
        chain = row.chain or first_checksum(row.key, row.run_id, row.generation)
        chain, record_row = chained(chain, row.records, record)
        if len(record_row.data) > TURN_BYTES_MAX:
            raise StallError(
                f"the turn's record has {len(record_row.data):,} bytes, over the limit of {TURN_BYTES_MAX:,}; "
                "start less at a time, or pass references instead of large values"
            )
        return [(row.generation, record_row)], chain

    def quiet(self, row: InstanceRow, state: OwnerState, **progress: Any) -> Step:
        """Return a step that appends nothing to the history."""
        found: dict[str, Any] = {
            "generation": row.generation,
            "records": row.records,
            "chain": row.chain,
            "status": row.status,
            "updated_at": max(self._clock.now(), row.updated_at),
            "due_at": row.due_at,
            "open_work": row.open_work,
            "parked_until": row.parked_until,
            "state": state.encode(),
        } | progress
        return Step(row.key, row.run_id, (row.generation, row.records), Progress(**found))

    def complete(self, prepared: Prepared, row: InstanceRow, state: OwnerState, step: Step) -> Prepared:
        progress = step.progress
        columns: dict[str, Any] = {
            "generation": progress.generation,
            "records": progress.records,
            "chain": progress.chain,
            "status": progress.status,
            "updated_at": progress.updated_at,
            "due_at": progress.due_at,
            "open_work": progress.open_work,
            "parked_until": progress.parked_until,
            "state": progress.state,
            "slow_turns": 0,
            "slow_since": 0,
        }
        after = dataclasses.replace(row, **columns, **step.changes)
        shown = after.status is not row.status or "custom_status" in step.changes
        prepared.step = dataclasses.replace(step, row=after) if shown else step
        prepared.row = after
        prepared.state = state
        prepared.is_outcome = after.status.is_finished
        return prepared

    def onlyconsumed_by(self, live: LiveInstance, prepared: Prepared) -> Prepared | None:
        prepared.consumed = consumed_by(prepared.taken)
        if not prepared.consumed and not prepared.memos:
            return None
        return prepared

    def note_dropped(self, prepared: Prepared, row: InstanceRow, event: HistoryEvent, reason: str) -> None:
        if isinstance(event, ev.OrchestrationStarted):
            return  # the start of a run that was ended before it began: nobody waits for it
        name = str(getattr(event, "name", None) or getattr(event, "task_id", ""))
        logger.info(
            "instance '%s': dropped %s %s: %s",
            row.key.id,
            type(event).__name__,
            name,
            reason,
            extra={"instance_id": row.key.id},
        )
        prepared.memos.append(
            dropped_memo(row.run_id, type(event).__name__, name, reason, self._clock.now() + len(prepared.memos))
        )

    def note_undelivered(self, prepared: Prepared, row: InstanceRow, events: Sequence[HistoryEvent]) -> None:
        for event in events:
            self.note_dropped(prepared, row, event, "the instance ended before anybody waited for it")

    # ---- what needs no user code

    def stall(self, live: LiveInstance, error: BaseException) -> Prepared:
        """Say that an instance cannot go on, and when it is tried again."""
        row = live.row
        assert row is not None
        state = dataclasses.replace(live.state, stalls=live.state.stalls + 1)
        wait = min(STALL_FIRST_US << min(state.stalls - 1, 16), STALL_LONGEST_US)
        reason = f"{type(error).__name__}: {error}"
        now = self._clock.now()
        if state.stalls == 1 or row.stall_reason != reason:
            logger.error("instance '%s' stalls: %s", row.key.id, reason, extra={"instance_id": row.key.id})
        step = self.quiet(row, state, status=Status.STALLED, parked_until=now + wait)
        step = dataclasses.replace(step, changes={"stall_reason": reason[: 64 * 1024]})
        return self.complete(Prepared(live), row, state, step)

    def recovered(self, live: LiveInstance, row: InstanceRow, prepared: Prepared, execution: Execution) -> Prepared:
        """Say that a stalled instance can go on, though it has nothing to do just now."""
        state = dataclasses.replace(live.state, stalls=0)
        status = Status.PENDING
        if execution.started is not None:
            status = Status.RUNNING
        if execution.is_suspended:
            status = Status.SUSPENDED
        step = self.quiet(row, state, status=status, parked_until=0)
        step = dataclasses.replace(step, changes={"stall_reason": None}, consumed=consumed_by(prepared.taken))
        return self.complete(prepared, row, state, step)

    def redelivery(self, live: LiveInstance, state: OwnerState) -> Prepared:
        """Note that attempts which a former owner held are delivered again, before they are."""
        row = live.row
        assert row is not None
        return self.complete(Prepared(live), row, state, self.quiet(row, state))

    def blind(self, live: LiveInstance, row: InstanceRow) -> Prepared | None:
        """Suspend or resume a stalled instance without its history: the arrival is recorded, a later turn applies it."""
        found = [
            pending
            for pending in live.control
            if isinstance(pending.event, ev.OrchestrationSuspended | ev.OrchestrationResumed)
            and not is_stale(pending, row)
        ]
        if not found or any(isinstance(pending.event, ev.OrchestrationTerminated) for pending in live.control):
            return None
        pending = found[0]
        live.control.remove(pending)
        prepared = Prepared(live, taken=[pending])
        now = max(self._clock.now(), row.updated_at)
        appends, chain = self.append(row, Record(now, [pending.event], is_opening=True))
        is_suspended = isinstance(pending.event, ev.OrchestrationSuspended)
        state = dataclasses.replace(live.state)
        step = self.quiet(
            row,
            state,
            records=row.records + 1,
            chain=chain,
            status=Status.SUSPENDED if is_suspended else Status.STALLED,
            parked_until=now + STALL_LONGEST_US if is_suspended else now,
        )
        step = dataclasses.replace(step, appends=appends, consumed=consumed_by(prepared.taken))
        return self.complete(prepared, row, state, step)

    def termination(
        self, live: LiveInstance, row: InstanceRow, prepared: Prepared, event: ev.OrchestrationTerminated
    ) -> Prepared:
        """End a run by force: no code runs, and no history needs to be readable."""
        for pending in prepared.taken:
            if pending.event is not event:
                self.note_dropped(prepared, row, pending.event, "the instance was terminated")
        execution, buffered = live.execution, []
        if execution is not None:
            buffered = execution.buffered_events()
        self.note_undelivered(prepared, row, buffered)
        step = self._end_by_force(live, row, prepared, event)
        state = OwnerState()
        return self.complete(prepared, row, state, step)

    def _end_by_force(
        self, live: LiveInstance, row: InstanceRow, prepared: Prepared, event: ev.OrchestrationTerminated
    ) -> Step:
        now = max(self._clock.now(), row.updated_at)
        appends, chain = self.append(row, Record(now, [event]))
        goodbyes = [*outcome_messages(event, sender_of(row)), *live.state.farewells.values()]
        prepared.messages = [to_message(item, row, 0, self._partitions, now) for item in goodbyes]
        for child in live.children or ():
            reason = f"its parent '{row.key.id}' was terminated"
            data = encode_arrivals([ev.OrchestrationTerminated(reason)])
            prepared.messages.append(
                Message(child.key, child.partition, data, priority=Priority.CONTROL, run_id=child.run_id)
            )
        changes: dict[str, Any] = {"stall_reason": None}
        progress = Progress(
            generation=row.generation,
            records=row.records + 1,
            chain=chain,
            status=end_changes(event, changes, now),
            updated_at=now,
            due_at=None,
            open_work=0,
        )
        return Step(
            key=row.key,
            run_id=row.run_id,
            before=(row.generation, row.records),
            progress=progress,
            changes=changes,
            appends=appends,
            consumed=consumed_by(prepared.taken),
        )

    def replacement(self, live: LiveInstance, row: InstanceRow, prepared: Prepared, start: InstanceRow) -> Prepared:
        """End the old run with its children, and put the new one in its place, in one commit.

        The message that brought the new run stays: it is that run's start.
        """
        fresh = [pending for pending in prepared.taken if replaces(pending, row)]
        older = prepared.taken[: prepared.taken.index(fresh[0])]
        later = prepared.taken[prepared.taken.index(fresh[0]) :]
        prepared.taken = older
        live.put_back(later, {id(item) for item in later if item.message and item.message.priority is Priority.CONTROL})
        for pending in older:
            self.note_dropped(prepared, row, pending.event, "the instance was replaced")
        event = ev.OrchestrationTerminated(f"replaced by run {start.run_id}")
        step = self._end_by_force(live, row, prepared, event)
        new = dataclasses.replace(start, created_at=self._clock.now(), status=Status.PENDING)
        prepared = self.complete(prepared, row, OwnerState(), dataclasses.replace(step, replaced_by=new))
        prepared.is_outcome = True
        return prepared

    def ended(self, live: LiveInstance, row: InstanceRow, taken: list[Pending]) -> Prepared | None:
        """Consume what came too late."""
        prepared = Prepared(live, taken=taken)
        for pending in taken:
            self.note_dropped(prepared, row, pending.event, f"the instance had ended ({row.status.name})")
        return self.onlyconsumed_by(live, prepared)


def is_stale(pending: Pending, row: InstanceRow) -> bool:
    """Tell whether an arrival was meant for an earlier run or generation."""
    if pending.run_id is not None and pending.run_id != row.run_id:
        return True
    return pending.generation is not None and pending.generation != row.generation


def replaces(pending: Pending, row: InstanceRow) -> bool:
    """Tell whether an arrival brings a run that takes the place of the row's (a start onto an unfinished instance)."""
    message = pending.message
    return (
        message is not None
        and message.priority is Priority.CONTROL
        and message.start is not None
        and message.start.run_id != row.run_id
        and isinstance(pending.event, ev.OrchestrationStarted)
    )


def chained(chain: bytes, index: int, record: Record) -> tuple[bytes, RecordRow]:
    data = encode_record(record)
    checksum = next_checksum(chain, data)
    return checksum, RecordRow(index, data, checksum)


def consumed_by(taken: list[Pending]) -> list[int]:
    return [pending.message.sequence for pending in taken if pending.message is not None and pending.is_last]


def end_changes(outcome: HistoryEvent, changes: dict[str, Any], now: int) -> Status:
    """Fill in the columns of an ended run; return its status."""
    changes["completed_at"] = now
    if isinstance(outcome, ev.OrchestrationCompleted):
        changes["output"] = outcome.result
        return Status.COMPLETED
    if isinstance(outcome, ev.OrchestrationFailed):
        changes["failure"] = encode_details(outcome.details)
        return Status.FAILED
    assert isinstance(outcome, ev.OrchestrationCancelled | ev.OrchestrationTerminated)
    if outcome.reason:
        changes["stall_reason"] = None
        changes["failure"] = encode_details(_reason_details(outcome))
    return Status.CANCELLED if isinstance(outcome, ev.OrchestrationCancelled) else Status.TERMINATED


def _reason_details(outcome: ev.OrchestrationCancelled | ev.OrchestrationTerminated) -> FailureDetails:
    return FailureDetails(f"durable.errors.{type(outcome).__name__}Error", outcome.reason)
