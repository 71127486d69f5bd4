"""The steps that need no engine: what a commit writes when an instance stalls, recovers, is ended by force or replaced.

Also what all steps share: appending a record to the chain, noting what was dropped, and the row as a step leaves it.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from durable import events as ev
from durable.engine.execution import Execution
from durable.engine.turn import Turn, Unchanged
from durable.errors import DurableError, FailureDetails, TurnBudgetExceededError, UnknownNameError
from durable.events import HistoryEvent
from durable.failures import TEXT_BYTES_MAX, encode_details
from durable.messages import dropped_memos, encode_arrivals
from durable.outgoing import outcome_messages
from durable.permits import PermitGranted
from durable.provider import (
    ActivityRow,
    InstanceRow,
    Memo,
    Message,
    Priority,
    Progress,
    RecordRow,
    Status,
    Step,
    StoredMessage,
)
from durable.records import Record, encode_record, first_checksum, next_checksum
from durable.timers import DUE_MAX
from durable.worker.clock import StoreClock
from durable.worker.live import LiveInstance, Offer, OwnerState, Pending
from durable.worker.outbox import NOWHERE, begin_again, sender_of, to_message
from durable.worker.permits import all_left
from durable.worker.succession import (
    is_stale,
    is_waiting_for_its_start,
    next_start,
    parted,
    replaces,
    successor_row,
)

logger = logging.getLogger("durable.worker")

TURN_BYTES_MAX = 64 * 1024 * 1024
"""A turn whose record would be larger stalls its instance."""

STALL_FIRST_US = 2_000_000
STALL_LONGEST_US = 300_000_000
"""How long a stalled instance waits for its next try: doubled each time, up to five minutes."""

LEFT_LONGEST_US = 120_000_000
"""How long an instance is left, not stalled, to a worker that knows its orchestrator: twice what handing it over may take."""

NOT_TAKEN = (
    "; another worker has it, but could not take the instance over so far: activities of other instances of its partition run "
    "here, or that worker is busy"
)

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

UNDELIVERED = "the instance ended before anybody waited for it"


_SILENT = (ev.OrchestrationStarted, ev.OrchestrationRewound, ev.OrchestrationForked, PermitGranted)


class StallError(DurableError):
    """Something that is not the orchestration's own failure keeps an instance from going on."""


class Prepared:
    """What is to be committed for one instance, and what follows. One is made for each turn: what is not said costs nothing."""

    step: Step | None = None
    row: InstanceRow | None = None  # the row as the step leaves it
    state: OwnerState | None = None
    memos: Sequence[Memo] = ()
    turn: Turn | None = None
    held: Sequence[Offer] = ()
    carried: Sequence[HistoryEvent] = ()  # consumed, though the generation did not get to it
    opening: Record | None = None  # what the next generation begins with
    opening_bytes: int = 0
    record_bytes: int = 0
    is_outcome: bool = False
    children: list[InstanceRow] | None = None  # those still to be terminated
    notes: Sequence[Any] = ()  # what those who watch the worker have made of the turn

    def __init__(
        self,
        live: LiveInstance,
        taken: Sequence[Pending] = (),
        *,
        messages: Sequence[Message] = (),
        consumed: Sequence[int] = (),
    ) -> None:
        self.live = live
        self.taken = taken
        self.messages = messages
        self.consumed = consumed

    def add_memos(self, memos: Iterable[Memo]) -> None:
        """Write memos with it."""
        if not isinstance(self.memos, list):
            self.memos = list(self.memos)
        self.memos.extend(memos)


class Steps:
    """Makes steps for the instances of one worker.

    `leave_us(row)`: called for an instance whose orchestrator is not known here; tells how long it is left to other workers.
    """

    def __init__(self, clock: StoreClock, partitions: int, leave_us: Callable[[InstanceRow], int]) -> None:
        self._clock = clock
        self._partitions = partitions
        self._leave_us = leave_us
        self._noted_at = 0

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
            "open_work": row.open_work - is_left(row),
            "parked_until": row.parked_until,
            "state": state.encode(),
        } | progress
        return Step(row.key, row.run_id, (row.generation, row.records), Progress(**found))

    def complete(
        self, prepared: Prepared, row: InstanceRow, state: OwnerState, step: Step, after: InstanceRow | None = None
    ) -> Prepared:
        """Say what a step leaves behind; `after`: the row, where it is made already."""
        after = after or row.after(step.progress, step.changes)
        prepared.step = step
        prepared.row = after
        prepared.state = state
        prepared.is_outcome = after.status.is_finished
        return prepared

    def without_step(self, prepared: Prepared) -> Prepared | None:
        """Consume what was taken, and change nothing else."""
        prepared.consumed = consumed_by(prepared.taken)
        if not prepared.consumed and not prepared.memos:
            return None
        return prepared

    def note_dropped(
        self, prepared: Prepared, row: InstanceRow, event: HistoryEvent, reason: str, run_id: str | None = None
    ) -> None:
        """Record that something was dropped, under the run that it was meant for."""
        self.note_all(prepared, row, [event], reason, run_id)

    def note_all(
        self,
        prepared: Prepared,
        row: InstanceRow,
        events: Iterable[HistoryEvent],
        reason: str = UNDELIVERED,
        run_id: str | None = None,
    ) -> None:
        """Record that several things were dropped, in their order: in few notes, for there may be very many."""
        # The start of a run that was ended before it began is none of them: nobody waits for it. Nor for a permit.
        dropped = (event for event in events if not isinstance(event, _SILENT))
        for kind, same in itertools.groupby(dropped, key=type):
            names = [str(getattr(event, "name", None) or getattr(event, "task_id", "")) for event in same]
            what = f"{kind.__name__} {names[0]}" if len(names) == 1 else f"{len(names)} x {kind.__name__} {names[0]} …"
            fields = {"instance_id": row.key.id}
            logger.info("instance '%s': dropped %s: %s", row.key.id, what, reason, extra=fields)
            # A microsecond apart, in their order: the same note about the same moment would be one.
            self._noted_at = max(self._clock.now(), self._noted_at + 1)
            memos = dropped_memos(run_id or row.run_id, kind.__name__, names, reason, self._noted_at)
            self._noted_at += len(memos) - 1
            prepared.add_memos(memos)

    def note_pending(self, prepared: Prepared, row: InstanceRow, dropped: Iterable[Pending], reason: str) -> None:
        """Record that these arrivals were dropped, each under the run that it was meant for."""
        for run_id, items in itertools.groupby(dropped, key=lambda item: item.run_id):
            self.note_all(prepared, row, [item.event for item in items], reason, run_id)

    # ---- what needs no user code

    def stall(self, live: LiveInstance, error: BaseException) -> Prepared:
        """Say that an instance cannot go on, and when it is tried again. One that is suspended stays so meanwhile."""
        row = live.row
        assert row is not None
        if isinstance(error, UnknownNameError):
            wait = self._leave_us(row)
            if wait and row.stall_reason is None and not self._is_left_for_long(live.state):
                return self._leave(live, row, wait)
            if wait:
                error = UnknownNameError(f"{error}{NOT_TAKEN}")
        # From the row: what the turn that failed has changed in memory does not count.
        state = OwnerState.decode(row.state)
        state.stalls = live.state.stalls + 1
        now = self._clock.now()
        if is_blindly_suspended(row, live.state):
            return self.complete(Prepared(live), row, state, self.quiet(row, state, parked_until=DUE_MAX))
        wait = min(STALL_FIRST_US << min(state.stalls - 1, 16), STALL_LONGEST_US)
        reason = _first(f"{type(error).__name__}: {error}", TEXT_BYTES_MAX)
        if not _is_same_trouble(row.stall_reason, reason):
            logger.error("instance '%s' stalls: %s", row.key.id, reason, extra={"instance_id": row.key.id})
        step = self.quiet(row, state, status=Status.STALLED, parked_until=now + wait)
        step = dataclasses.replace(step, changes={"stall_reason": reason})
        return self.complete(Prepared(live), row, state, step)

    def _is_left_for_long(self, state: OwnerState) -> bool:
        return state.left_since > 0 and self._clock.now() - state.left_since >= LEFT_LONGEST_US

    def _leave(self, live: LiveInstance, row: InstanceRow, wait: int) -> Prepared:
        """Leave an instance to a worker that knows its orchestrator and is about to get the partition; look again later.

        The turn that it wants is open work: its new owner finds it at once.
        """
        if not is_left(row):
            fields = {"instance_id": row.key.id}
            logger.info("instance '%s' waits for a worker that knows '%s'", row.key.id, row.name, extra=fields)
        now, open_work = self._clock.now(), row.open_work + (not is_left(row))
        state = dataclasses.replace(live.state, left_since=live.state.left_since or now)
        step = self.quiet(row, state, parked_until=now + wait, open_work=open_work)
        return self.complete(Prepared(live), row, state, step)

    def let_go(self, live: LiveInstance, row: InstanceRow) -> Prepared:
        """Let the store hand out what waits for a run that is about to end, so that it is listed with the end."""
        return self.complete(Prepared(live), row, live.state, self.quiet(row, live.state, parked_until=0))

    def recovered(
        self, live: LiveInstance, row: InstanceRow, prepared: Prepared, execution: Execution, parked_until: int
    ) -> Prepared:
        """Say that an instance is stalled no more, or no more kept back, though it has nothing to do just now."""
        state = live.state.unhindered()
        status = Status.PENDING
        if execution.started is not None:
            status = Status.RUNNING
        if execution.is_suspended:
            status = Status.SUSPENDED
        step = self.quiet(row, state, status=status, parked_until=parked_until)
        step = dataclasses.replace(step, changes={"stall_reason": None}, consumed=consumed_by(prepared.taken))
        return self.complete(prepared, row, state, step)

    def redelivery(self, live: LiveInstance, state: OwnerState, offered: Sequence[ActivityRow]) -> Prepared:
        """Note that attempts which a former owner held are delivered again, before they are; `offered`: to any worker."""
        row = live.row
        assert row is not None
        step = self.quiet(row, state, open_work=max(row.open_work - len(offered), 0))
        return self.complete(Prepared(live), row, state, dataclasses.replace(step, queue_adds=offered))

    def blind(self, live: LiveInstance, row: InstanceRow, pending: Pending) -> Prepared | None:
        """Suspend or resume a stalled instance without its history: the arrival is recorded, a later turn applies it.

        Of a generation that begins with what an older one has done nothing is recorded before that: the arrival stays.
        """
        is_suspended = isinstance(pending.event, ev.OrchestrationSuspended)
        now = max(self._clock.now(), row.updated_at)
        state = dataclasses.replace(live.state, stalls=max(live.state.stalls, 1))
        status = Status.SUSPENDED if is_suspended else Status.STALLED
        parked_until = DUE_MAX if is_suspended else now
        live.wants_turn = not is_suspended  # its next try: there may be nothing else that it has to do
        if is_behind_its_past(live, row):
            step = self.quiet(row, state, status=status, parked_until=parked_until)
            return self.complete(Prepared(live), row, state, step)
        live.control.remove(pending)
        prepared = Prepared(live, taken=[pending])
        if is_suspended and row.status is Status.SUSPENDED:
            self.note_dropped(prepared, row, pending.event, "the orchestration is suspended already")
            return self.without_step(prepared)
        appends, chain = self.append(row, Record(now, [pending.event], is_opening=True))
        step = self.quiet(row, state, records=row.records + 1, chain=chain, status=status, parked_until=parked_until)
        step = dataclasses.replace(step, appends=appends, consumed=consumed_by(prepared.taken))
        return self.complete(prepared, row, state, step)

    def termination(
        self, live: LiveInstance, row: InstanceRow, prepared: Prepared, event: ev.OrchestrationTerminated
    ) -> Prepared:
        """End a run by force: no code runs, and no history needs to be readable."""
        prepared.taken, later = parted(prepared.taken, row, next_start(prepared.taken, row))
        live.put_back(later)
        others = [pending for pending in prepared.taken if pending.event is not event]
        self.note_pending(prepared, row, others, "the instance was terminated")
        self.note_all(prepared, row, live.undelivered())
        step = self._end_by_force(live, row, prepared, event)
        state = OwnerState()
        return self.complete(prepared, row, state, step)

    def _end_by_force(
        self, live: LiveInstance, row: InstanceRow, prepared: Prepared, event: ev.OrchestrationTerminated
    ) -> Step:
        now = max(self._clock.now(), row.updated_at)
        appends, chain = self.append(row, Record(now, [event]))
        goodbyes = [*outcome_messages(event, sender_of(row)), *live.state.farewells.values()]
        messages = [to_message(item, row, NOWHERE, self._partitions, now) for item in goodbyes]
        messages += all_left(row, live.state.permits, self._partitions)
        prepared.messages = [*messages, *(end_of_child(child, row) for child in live.children or ())]
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
            drop_generations=(live.state.carried.number,) if live.state.carried else (),
        )

    def end_children(self, live: LiveInstance, row: InstanceRow, count: int) -> Prepared:
        """Terminate some of the children of a run that is about to be ended by force; the others, and it, come later."""
        children = live.children or []
        prepared = Prepared(live, messages=[end_of_child(child, row) for child in children[:count]])
        prepared.children = children[count:]
        return self.complete(prepared, row, live.state, self.quiet(row, live.state, open_work=row.open_work))

    def replacement(self, live: LiveInstance, row: InstanceRow, prepared: Prepared, start: StoredMessage) -> Prepared:
        """End the old run with its children, and put the new one in its place, in one commit.

        The message that brought the new run stays: it is that run's start.
        """
        prepared.taken, later = parted(prepared.taken, row, start)
        live.put_back(later)
        self.note_pending(prepared, row, prepared.taken, "the instance was replaced")
        self.note_all(prepared, row, live.undelivered())
        new = successor_row(start, row)
        # Not before its start was sent: where the clock was set back since, a start for now would be one of later.
        new = dataclasses.replace(new, created_at=max(self._clock.now(), new.created_at), status=Status.PENDING)
        event = ev.OrchestrationTerminated(f"replaced by run {new.run_id}")
        step = self._end_by_force(live, row, prepared, event)
        prepared = self.complete(prepared, row, OwnerState(), dataclasses.replace(step, replaced_by=new))
        prepared.is_outcome = True
        return prepared

    def ended(self, live: LiveInstance, row: InstanceRow, taken: list[Pending]) -> Prepared | None:
        """Consume what came too late; but a run that was to replace this one begins all the same.

        Its start is stored once more, in its place, which makes its row the current one; what is in memory stays there.
        """
        start = next_start(taken, row)
        own, later = parted(taken, row, start)
        prepared = Prepared(live, taken=own)
        self.note_pending(prepared, row, own, f"the instance had ended ({row.status.name})")
        if start is not None:
            prepared.messages = [begin_again(start, successor_row(start, row))]
            live.put_back(later)
        found = self.without_step(prepared)
        if start is not None:
            prepared.consumed = [*prepared.consumed, start.sequence]
            return prepared
        return found


def end_of_child(child: InstanceRow, row: InstanceRow) -> Message:
    """Return the message that ends a child of a run that is ended by force."""
    data = encode_arrivals([ev.OrchestrationTerminated(f"its parent '{row.key.id}' was terminated")])
    return Message(child.key, child.partition, data, priority=Priority.CONTROL, run_id=child.run_id)


def ending(live: LiveInstance, row: InstanceRow) -> Pending | None:
    """Return the arrival that ends the row's run by force, if there is one: a termination, or a run in its place."""
    for pending in live.control:
        is_termination = isinstance(pending.event, ev.OrchestrationTerminated) and not is_stale(pending, row)
        if is_termination or replaces(pending, row):
            return pending
    return None


def lets_go_first(live: LiveInstance, row: InstanceRow) -> bool:
    """Tell whether the store keeps back what belongs to a run that ends now, and would go on doing so after it."""
    end = ending(live, row)
    if is_waiting_for_its_start(row):
        return end is not None or is_cancelled_early(live, row)
    start = end.message.start if end is not None and end.message is not None else None
    return row.parked_until > 0 and start is not None and start.parked_until > 0


def is_cancelled_early(live: LiveInstance, row: InstanceRow) -> bool:
    """Tell whether a run is to be cancelled before it has begun: no code of it runs."""
    if row.status is not Status.PENDING or row.generation:
        return False
    kinds = {type(pending.event) for pending in live.control if not is_stale(pending, row)}
    return ev.OrchestrationCancelRequested in kinds and ev.OrchestrationSuspended not in kinds


def is_left(row: InstanceRow) -> bool:
    """Tell whether an instance waits, not stalled, for a worker that knows its orchestrator: its turn is open work."""
    return row.parked_until > 0 and row.stall_reason is None and row.open_work > 0


def is_of_unknown_code(row: InstanceRow) -> bool:
    """Tell whether an instance stalled because no worker had its orchestrator."""
    return row.stall_reason is not None and row.stall_reason.startswith(f"{UnknownNameError.__name__}:")


def is_blindly_suspended(row: InstanceRow, state: OwnerState) -> bool:
    """Tell whether an instance was suspended while it was stalled: it is not tried again before it is resumed."""
    return row.status is Status.SUSPENDED and state.stalls > 0


def is_behind_its_past(live: LiveInstance, row: InstanceRow) -> bool:
    """Tell whether nothing may be recorded yet, since an older generation's past comes first, or may: its start is not here."""
    return not row.records and (live.beginning() is not None or not live.has_start(row.run_id))


def blind_arrival(live: LiveInstance, row: InstanceRow) -> Pending | None:
    """Return the suspension or resumption that a stalled instance takes without its history, if there is one."""
    if not (row.status is Status.STALLED or is_blindly_suspended(row, live.state)) or ending(live, row) is not None:
        return None
    kinds = ev.OrchestrationSuspended | ev.OrchestrationResumed
    meant = [pending for pending in live.control if isinstance(pending.event, kinds) and not is_stale(pending, row)]
    if meant and is_behind_its_past(live, row):  # they wait for the first turn, and the last of them counts till then
        is_suspended = isinstance(meant[-1].event, ev.OrchestrationSuspended)
        return meant[-1] if is_suspended is not (row.status is Status.SUSPENDED) else None
    return meant[0] if meant else None


def chained(chain: bytes, index: int, record: Record) -> tuple[bytes, RecordRow]:
    data = encode_record(record)
    checksum = next_checksum(chain, data)
    return checksum, RecordRow(index, data, checksum)


def leave_unreached(prepared: Prepared, turn: Turn) -> list[Pending]:
    """Return the arrivals that the ended generation did not get to, for the next one; `carried` takes those for nobody.

    After the end of the run there is no next one, and a message of which a part was reached is consumed with this turn. So is
    what came with a start that was not stored: it is nowhere else.
    """
    unreached = {id(event) for event in turn.leftover}
    is_end = turn.outcome is not None and turn.next_generation is None
    is_end = is_end or prepared.live.direct is not None
    begun = {id(item.message) for item in prepared.taken if item.message and id(item.event) not in unreached}
    left = [item for item in prepared.taken if id(item.event) in unreached]
    kept = [item for item in left if not is_end and id(item.message) not in begun]
    gone = {id(item) for item in kept}
    prepared.carried = [item.event for item in left if id(item) not in gone]
    prepared.taken = [item for item in prepared.taken if id(item) not in gone]
    return kept


def with_code_change(execution: Execution, arrivals: list[HistoryEvent], first: int) -> tuple[list[HistoryEvent], bool]:
    """Note before arrivals, behind the `first` of them, that today's code did not make the last requests; tell if it is so."""
    started, today = execution.started, execution.ports.code_digest
    if started is None or started.code_digest == today:  # as of most
        return arrivals, False
    if started.code_digest is None or today is None or execution.is_suspended or execution.held:
        return arrivals, False
    return [*arrivals[:first], ev.OrchestrationCodeChanged(today, PYTHON), *arrivals[first:]], True


def consumed_by(taken: Sequence[Pending]) -> Sequence[int]:
    if len(taken) == 1 and taken[0].message is None:  # an outcome from here, as most are
        return ()
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
        changes["failure"] = encode_details(_reason_details(outcome))
    return Status.CANCELLED if isinstance(outcome, ev.OrchestrationCancelled) else Status.TERMINATED


def _reason_details(outcome: ev.OrchestrationCancelled | ev.OrchestrationTerminated) -> FailureDetails:
    return FailureDetails(f"durable.errors.{type(outcome).__name__}Error", outcome.reason)


def _is_same_trouble(former: str | None, reason: str) -> bool:
    """Tell whether a reason was said before. A turn over its budget is stopped somewhere else each time."""
    if former is None:
        return False
    kind = TurnBudgetExceededError.__name__ + ":"
    return former == reason or (former.startswith(kind) and reason.startswith(kind))


def _first(text: str, bytes_max: int) -> str:
    """Return the beginning of a text, as every store can hold it."""
    return text.encode(errors="backslashreplace")[:bytes_max].decode(errors="ignore")


def changes_of(row: InstanceRow, turn: Turn) -> dict[str, Any]:
    """Return the columns that a turn changes as long as it does not end anything."""
    changes: dict[str, Any] = {}
    if not isinstance(turn.custom_status, Unchanged):
        changes["custom_status"] = turn.custom_status
    if row.stall_reason is not None:
        changes["stall_reason"] = None
    if row.version is None:
        changes.update(_settled_version(turn.record))
    return changes


def _settled_version(record: Record) -> dict[str, str | None]:
    """Return the version that a start in this record settled on: from then on the instance keeps it."""
    started = next((event for event in record.events if isinstance(event, ev.OrchestrationStarted)), None)
    return {} if started is None else {"version": started.version}


def state_over_the_end(state: OwnerState, turn: Turn) -> OwnerState:
    """Return what an owner still notes when a generation has ended: for the next one, or until all is sent."""
    goes_on = turn.next_generation is not None
    if not (goes_on or state.is_noteworthy):
        return state
    return OwnerState(
        cursor=state.cursor,
        farewells=state.farewells if goes_on or state.cursor else {},
        former=state.former if goes_on else None,
        carried=state.carried,
    )
