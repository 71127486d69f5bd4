"""From arrivals to a step: running a turn of one instance, and saying what its commit must write.

`Turns.prepare` answers with a `Prepared`: the step, what is sent with it, and the effects that the owner lets out once it is
durable. Nothing here waits, and nothing here has an effect outside.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from durable import events as ev
from durable.app import App
from durable.carried import NOTHING_CHANGED, CarriedChange
from durable.context.handlers import SpoiltExecutionError
from durable.engine.driver import TurnInterrupted
from durable.engine.execution import Execution
from durable.engine.turn import Turn, Unchanged
from durable.errors import (
    DivergenceError,
    DurableError,
    HistoryDamagedError,
    StoredValueError,
    TurnBudgetExceededError,
    UnknownNameError,
)
from durable.events import HistoryEvent
from durable.middleware import Around, TurnCall
from durable.orchestrations import Runnable, Runner, code_digest_of, kind_of
from durable.payloads import Sealer
from durable.permits import PermitGranted
from durable.plain_events import completed_start
from durable.provider import (
    InstanceRow,
    Progress,
    RecordRow,
    Status,
    Step,
)
from durable.records import Record, first_checksum
from durable.traces import read_trace
from durable.worker import placing
from durable.worker.asking import Asking
from durable.worker.carrying import journal_step
from durable.worker.clock import StoreClock
from durable.worker.live import LiveInstance, Offer, OwnerState, Pending
from durable.worker.placing import Placing
from durable.worker.steps import (
    PYTHON,
    Prepared,
    StallError,
    Steps,
    blind_arrival,
    chained,
    changes_of,
    consumed_by,
    end_changes,
    ending,
    is_cancelled_early,
    leave_unreached,
    lets_go_first,
    state_over_the_end,
    with_code_change,
)
from durable.worker.succession import is_stale, is_taken_over, name_former_run, replaces
from durable.worker.watchdog import TurnWatch
from durable.worker.watching import UNWATCHED, Taken, Watchers

logger = logging.getLogger("durable.worker")

T = TypeVar("T")

ARRIVALS_MAX = 256
"""Arrivals that one turn takes."""

SLOW_TURNS_MAX = 3
SLOW_SPAN_US = 60_000_000
"""Workers that may die under a slow turn of one instance, over at least this span, before it is stalled."""

STALLS = (
    StallError,
    DivergenceError,
    StoredValueError,
    TurnBudgetExceededError,
    HistoryDamagedError,
    UnknownNameError,
)


class Turns:
    """Runs turns. `placement(partition, request)` decides, per activity, whether this worker keeps it or any may claim it.

    A kept one has a slot reserved; `unreserve(held)` gives it back where the turn comes to nothing.
    `leave_us(row)`: see `Steps`.
    """

    def __init__(
        self,
        app: App,
        sealer: Sealer,
        clock: StoreClock,
        watch: TurnWatch,
        partitions: int,
        around: Around,
        *,
        watchers: Watchers = UNWATCHED,
        strict: bool,
        placement: placing.Decide,
        unreserve: Callable[[Sequence[Offer]], None],
        leave_us: Callable[[InstanceRow], int],
    ) -> None:
        self._app = app
        self._sealer = sealer
        self.steps = Steps(clock, partitions, leave_us)
        self._asking = Asking(clock, self.steps, self.watched, self.close)
        self.placing = Placing(self.steps, clock, partitions, placement)
        self._clock = clock
        self._watch = watch
        self._around = around
        self.watchers = watchers
        self._strict = strict
        self._unreserve = unreserve
        self._outer, self._hooks = asyncio._get_running_loop(), sys.get_asyncgen_hooks()  # of the worker's own loop
        self._runners: dict[tuple[str, str, str | None], Runner] = {}

    # ---- executions

    def new_execution(self, row: InstanceRow) -> Execution:
        """Return an execution of the row's present generation, to be fed. Raises UnknownNameError."""
        program = (row.key.kind, row.name, row.version)
        runner = self._runners.get(program)
        if runner is None:
            definition = self._definition_of(row, row.version)  # no version yet: the newest
            runner = kind_of(row.key).make_runner(self._app, definition, self._sealer, self._strict)
            self._runners[program] = runner
        execution = runner.new_execution(row.key, row.run_id, row.generation)
        execution.stored_status = row.custom_status
        if row.generation:  # what an earlier generation left to be said at the end of the run
            execution.farewells.update(OwnerState.decode(row.state).farewells)
        return execution

    def _definition_of(self, row: InstanceRow, version: str | None) -> Runnable:
        return kind_of(row.key).find(self._app, row.name, version)

    def feed(self, execution: Execution, record: Record, size_bytes: int) -> None:
        """Replay one record, watched."""
        self.watched(execution, execution.feed, record, size_bytes)
        if self.watchers:
            self.watchers.replayed(execution, record)

    def close(self, execution: Execution | None) -> None:
        """Close an execution that is no longer needed, watched: its `finally` blocks may do anything."""
        if execution is not None:
            try:
                self.watched(execution, execution.close)
            except DurableError:
                logger.debug("closing '%s' was interrupted", execution.key.id)

    def watched(self, execution: Execution, function: Callable[..., T], *args: Any) -> T:
        """Run a piece of an execution under the watch, and leave the thread as it was."""
        self._watch.begin(execution)
        try:
            return function(*args)
        except TurnInterrupted:
            raise TurnBudgetExceededError(execution.interruption or "the turn was interrupted") from None
        finally:
            while True:
                try:
                    self._watch.end()
                    break
                except TurnInterrupted:  # raised again just now: the watch has not yet seen that the turn is over
                    continue
            if execution.interruption is not None:
                asyncio._set_running_loop(self._outer)
                sys.set_asyncgen_hooks(*self._hooks)

    # ---- turns

    def prepare(self, live: LiveInstance) -> Prepared | None:
        """Take what waits for an instance and say what to commit; None if there is nothing to do after all."""
        row = live.row
        assert row is not None, "an instance is loaded before its turn"
        if live.outbox:
            return self.placing.send_more(live, row)
        if (
            live.children is not None
            and len(live.children) > placing.INLINE_MESSAGES_MAX
            and ending(live, row) is not None
        ):
            return self.steps.end_children(live, row, placing.INLINE_MESSAGES_MAX)
        let_in = self.placing.let_in(live, row) if live.state.permits.counts else None
        if let_in is not None:
            return let_in
        live.wants_turn = False
        if live.control and lets_go_first(live, row):
            live.awaits_read = True
            return self.steps.let_go(live, row)
        blind = blind_arrival(live, row) if live.control else None
        if blind is not None:
            self.close(live.drop_execution())
            return self.steps.blind(live, row, blind)
        taken = self._take(live, row)
        if row.status.is_finished:
            return self.steps.ended(live, row, taken)
        prepared = Prepared(live, taken)
        try:
            return self._prepare(live, row, prepared)
        except Exception as error:
            if not isinstance(error, (*STALLS, SpoiltExecutionError)):
                logger.exception("the turn of '%s' failed inside the engine", row.key.id)
            live.put_back(taken)
            self._unreserve(prepared.held)
            live.outbox.clear()
            live.ending = None
            self.close(live.drop_execution())
            if live.direct is not None:  # it stalls once its start is stored
                live.direct.met = error
                return None
            return self._asking.refuse_spoiling(live, row, error) or self.steps.stall(live, error)

    def _take(self, live: LiveInstance, row: InstanceRow) -> list[Pending]:
        """Take what this turn is about; leave a start that has replaced a run and is not yet due itself."""
        limit = ARRIVALS_MAX
        has_begun = _has_begun(live, row)
        is_early = bool(live.control) and not has_begun and is_cancelled_early(live, row)
        is_ending = is_early or (bool(live.control) and ending(live, row) is not None)
        if is_ending:  # everything, so that the end is among it, and what it leaves is listed with it
            limit = max(limit, len(live.control) + len(live.normal))
        is_ending = is_ending or row.status.is_finished
        if live.state.former is not None or not has_begun:
            name_former_run(live, row)
        taken = live.take(limit)
        if has_begun:
            return taken
        if is_early and self._due_later(live, row):  # steering comes before a start that is there already
            taken.sort(key=functools.partial(_comes_behind, row.run_id))
        if not is_ending and self._due_later(live, row):
            return live.put_back_start(taken, row.run_id)
        return taken

    def _due_later(self, live: LiveInstance, row: InstanceRow) -> int:
        """Return when a run that has not begun is due; 0 if it has begun, or is due now."""
        # A start for now is due, whatever the clock says since: it may have been set back.
        is_later = row.scheduled_at > row.created_at and row.scheduled_at > self._clock.now()
        return row.scheduled_at if is_later and not _has_begun(live, row) else 0

    def is_ahead_of_its_start(self, live: LiveInstance) -> bool:
        """Tell whether what waits in memory for a run that has not begun must come after a start that is not there yet."""
        row = live.row
        if row is None or not row.parked_until or _has_begun(live, row) or ending(live, row) is not None:
            return False
        return bool(self._due_later(live, row)) or not live.has_start(row.run_id)

    def _prepare(self, live: LiveInstance, row: InstanceRow, prepared: Prepared) -> Prepared | None:
        arrivals: list[HistoryEvent] = []
        if live.state.permits.counts:
            self.placing.leave_permits(live, row, prepared)
        has_messages = False
        for pending in prepared.taken:
            event = pending.event
            if pending.message is None and not is_stale(pending, row):  # the outcome of an attempt that ran here
                arrivals.append(event)
                continue
            has_messages = True
            if isinstance(event, ev.OrchestrationTerminated) and not is_stale(pending, row):
                return self.steps.termination(live, row, prepared, event)
            if replaces(pending, row):
                assert pending.message is not None
                return self.steps.replacement(live, row, prepared, pending.message)
            if is_stale(pending, row) and not is_taken_over(live, pending, row):
                reason = "it was meant for an earlier run or generation"
                self.steps.note_dropped(prepared, row, event, reason, pending.run_id)
            elif not isinstance(event, PermitGranted):  # of an attempt that is over: no loss
                arrivals.append(event)
        asked = self._asking.set_apart(prepared, arrivals) if has_messages else ()
        made = self._run(live, row, prepared, arrivals)
        return self._asking.answer(live, prepared, made, asked) if asked else made

    def _run(
        self, live: LiveInstance, row: InstanceRow, prepared: Prepared, arrivals: list[HistoryEvent]
    ) -> Prepared | None:
        if row.slow_turns >= SLOW_TURNS_MAX and self._clock.now() - row.slow_since >= SLOW_SPAN_US:
            raise StallError(
                f"{row.slow_turns} workers died while a turn of this instance took more than a second; it is not run again "
                "before the stall's next try"
            )
        execution = live.execution
        if execution is None:
            assert not row.records, "what has a history is loaded before its turn"
            execution = live.execution = self.new_execution(row)
        begun, opens = live.begun, execution.has_opening
        arrivals = self._completed(live, row, execution, arrivals)
        now = self._clock.now()
        due = [] if begun is not None else execution.due_timers(now, ARRIVALS_MAX)  # timeouts begin anew in that turn
        live.wants_turn = live.wants_turn or len(due) == ARRIVALS_MAX
        if not (arrivals or due or opens or execution.goes_on):
            parked_until = self._due_later(live, row)
            if row.parked_until != parked_until or row.status is Status.STALLED:
                return self.steps.recovered(live, row, prepared, execution, parked_until)
            return self.steps.without_step(prepared)
        given, changed = with_code_change(
            execution, [*due, *arrivals] if due else arrivals, first=int(begun is not None)
        )
        turn = self._turn(row, prepared, execution, given, now)
        live.wants_turn = live.wants_turn or turn.goes_on
        kept = leave_unreached(prepared, turn) if turn.leftover else ()
        if begun is not None:
            prepared.carried = [*prepared.carried, *begun.left(turn.leftover)]
        if turn.refused:
            self._asking.refuse(live, row, prepared, turn.refused)
        is_empty = not (len(turn.record.events) > changed or turn.memos or turn.carried) and isinstance(
            turn.custom_status, Unchanged
        )
        if (
            is_empty
            and not opens
            and row.parked_until == self._due_later(live, row)
            and row.status is not Status.STALLED
        ):
            made = self.steps.without_step(prepared)
            if turn.record.events:  # all was refused, and the execution knows of a change that is not on record
                self.close(live.drop_execution())
        else:
            made = self._step(live, row, prepared, turn, execution)
        if kept:
            live.put_back(kept)
        return made

    def _turn(
        self, row: InstanceRow, prepared: Prepared, execution: Execution, given: list[HistoryEvent], now: int
    ) -> Turn:
        """Take a turn, with what is around it."""
        began = self._clock.monotonic() if self.watchers else 0.0
        if self._around.has_turns:
            call = TurnCall(row.key.id, row.run_id, row.generation, row.name, row.version, len(given))
            with self._around.turn(call):
                turn = self.watched(execution, execution.turn, given, now)
                call.events = len(turn.record.events)
        else:
            turn = self.watched(execution, execution.turn, given, now)
        prepared.turn = turn
        if self.watchers:
            seconds = self._clock.monotonic() - began
            prepared.notes = self.watchers.turned(Taken(row, execution, turn, len(given), now, seconds))
        return turn

    def _completed(
        self, live: LiveInstance, row: InstanceRow, execution: Execution, arrivals: list[HistoryEvent]
    ) -> list[HistoryEvent]:
        """Put before arrivals what comes first, and complete them with what only the owner knows.

        That is a start's version, Python and code, and how much a resumption delivers.
        """
        begun = live.begun
        if begun is not None:
            arrivals = begun.before(arrivals)
        elif execution.held and not execution.is_suspended:
            arrivals = [ev.OrchestrationResumed(at_most=ARRIVALS_MAX), *arrivals]
        if execution.started is not None and not execution.held:
            return arrivals
        for index, event in enumerate(arrivals):
            if isinstance(event, ev.OrchestrationStarted):
                definition = self._definition_of(row, row.version)
                known = completed_start(event, definition.exact_version, PYTHON, execution.ports.code_digest)
                arrivals[index] = self._with_trace(row, known) if self.watchers else known
            elif isinstance(event, ev.OrchestrationResumed) and len(execution.held) > ARRIVALS_MAX:
                arrivals[index] = dataclasses.replace(event, at_most=ARRIVALS_MAX)
        return arrivals

    def _with_trace(self, row: InstanceRow, started: ev.OrchestrationStarted) -> ev.OrchestrationStarted:
        """Return a start with the trace that begins with it, where it has none of its own."""
        if read_trace(started.trace).parent is not None:
            return started
        return dataclasses.replace(started, trace=self.watchers.begin_trace(row, started) or started.trace)

    def _step(
        self, live: LiveInstance, row: InstanceRow, prepared: Prepared, turn: Turn, execution: Execution
    ) -> Prepared:
        now = max(turn.record.time, row.updated_at)
        is_quiet = _leaves_nothing_to_note(live.state, turn)
        state = live.state if is_quiet else live.state.after_turn(turn.farewells)
        changes = changes_of(row, turn)
        begun = live.begun
        placed = row if begun is None else begun.placed(row)
        appends, chain = self.steps.append(placed, turn.record)
        prepared.record_bytes = len(appends[0][1].data)
        generation, records = row.generation, placed.records + len(appends)
        if begun is not None:
            appends = [*zip(itertools.repeat(generation), begun.rows), *appends]
        status = Status.SUSPENDED if turn.is_suspended else Status.RUNNING if execution.started else Status.PENDING
        drop_below: int | None = None
        carried = turn.carried
        if turn.next_generation is not None:
            drop_below, generation, records = generation, generation + 1, 1
            carried = self._carry_over(row, prepared, turn, execution)
            chain, opening_row = self._open(row, prepared, turn.next_generation, changes)
            appends.append((generation, opening_row))
        elif turn.outcome is not None:
            self.steps.note_all(prepared, row, [*execution.undelivered(), *prepared.carried])
            execution.mailbox.carried.clear()
        journal_drops: tuple[int, ...] = ()
        if state.carried is not None or execution.mailbox.carried.count:
            journal = journal_step(row, state.carried, execution.mailbox.carried, carried)
            state.carried, journal_drops = journal.journal, journal.drops
            appends += journal.appends
        adds, drops = self.placing.place(live, placed, prepared, turn, state, execution)
        is_over = turn.outcome is not None
        if turn.outcome is not None:
            if turn.next_generation is None and not state.cursor:
                status = end_changes(turn.outcome, changes, now)
            state = state_over_the_end(state, turn)
        held_open = 0 if is_over else turn.open_activities - state.queued.count
        # It and the step in the order of their fields: by their names they would take twice as long.
        progress = Progress(
            generation,
            records,
            chain,
            status,
            now,
            None if is_over else turn.next_due,
            held_open + (turn.next_generation is not None or turn.goes_on) + (state.cursor is not None),
            0 if is_over else self._due_later(live, row),
            b"" if is_quiet and not state.has_placed else state.encode(),
        )
        after, begins = row.after(progress, changes), live.direct is not None
        step = Step(
            row.key,
            row.run_id,
            (row.generation, row.records),
            progress,
            changes,
            appends,
            consumed_by(prepared.taken),
            None if begins else drop_below,
            journal_drops,
            adds,
            drops,
            None,  # nothing takes its place
            turn.is_dispensable and state.cursor is None,
            (),  # what it sends is numbered in its batch
            (),
            after if begins else None,
        )
        return self.steps.complete(prepared, row, state, step, after)

    def _carry_over(self, row: InstanceRow, prepared: Prepared, turn: Turn, execution: Execution) -> CarriedChange:
        """Leave to the next generation what this one did not get to of a message, or record that it shall not have it."""
        assert isinstance(turn.outcome, ev.OrchestrationContinuedAsNew)
        carried = execution.mailbox.carried
        unreached = [event for event in prepared.carried if isinstance(event, ev.EventRaised)]
        if not turn.outcome.carry_over_events:
            left = [*execution.buffered_events(), *unreached]
            self.steps.note_all(prepared, row, left, "the orchestration continued as new without it")
            carried.clear()
            return turn.carried
        for event in unreached:
            carried.add(event)
        more = carried.change()
        return CarriedChange((*turn.carried.added, *more.added), turn.carried.taken)

    def _open(
        self, row: InstanceRow, prepared: Prepared, record: Record, changes: dict[str, Any]
    ) -> tuple[bytes, RecordRow]:
        """Note what the next generation begins with; return the checksum and the row of that record."""
        opening = self._opening(row, record)
        first: Any = opening.events[0]
        changes.update(input=first.input, version=first.version)
        chain, opening_row = chained(first_checksum(row.key, row.run_id, row.generation + 1), 0, opening)
        prepared.opening, prepared.opening_bytes = opening, len(opening_row.data)
        return chain, opening_row

    def _opening(self, row: InstanceRow, opening: Record) -> Record:
        """Settle the version of the next generation: the newest one now, unless it is pinned."""
        started: Any = opening.events[0]
        started = dataclasses.replace(started, python=PYTHON, code_digest=None)
        try:
            found = self._definition_of(row, started.version)
            started = dataclasses.replace(started, version=found.exact_version, code_digest=code_digest_of(found))
        except UnknownNameError:  # it stalls there, with that reason
            pass
        return Record(opening.time, [started, *opening.events[1:]], is_opening=True)


def _comes_behind(run_id: str, item: Pending) -> bool:
    return not item.is_control or item.starts(run_id)


def _has_begun(live: LiveInstance, row: InstanceRow) -> bool:
    """Tell whether a run's start was applied, or will not matter: a cancel that is held comes first."""
    if not row.records and not row.generation:
        return False
    execution = live.execution
    return execution is None or execution.started is not None or bool(execution.held)


def _leaves_nothing_to_note(state: OwnerState, turn: Turn) -> bool:
    """Tell whether an owner has nothing to note, neither before a turn nor after it: as for most turns."""
    if turn.outcome is not None or turn.farewells or turn.carried is not NOTHING_CHANGED or state.is_noteworthy:
        return False
    return len(turn.messages) + len(turn.activities) <= placing.INLINE_MESSAGES_MAX
