"""From arrivals to a step: running a turn of one instance, and saying what its commit must write.

`Turns.prepare` answers with a `Prepared`: the step, what is sent with it, and the effects that the owner lets out once it is
durable. Nothing here waits, and nothing here has an effect outside.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from durable.app import App
from durable.engine import events as ev
from durable.engine.events import HistoryEvent
from durable.engine.execution import Execution, StoredValueError, TurnInterrupted
from durable.engine.records import Record, first_checksum
from durable.engine.turn import Turn, Unchanged
from durable.errors import (
    DivergenceError,
    DurableError,
    HistoryDamagedError,
    TurnBudgetExceededError,
    UnknownNameError,
)
from durable.messages import encode_activity
from durable.orchestrations import OrchestrationRunner
from durable.payloads import Sealer
from durable.provider import (
    ActivityRow,
    InstanceRow,
    Memo,
    Priority,
    Progress,
    Status,
    Step,
    TaskAddress,
)
from durable.worker.clock import StoreClock
from durable.worker.live import LiveInstance, OwnerState, Pending
from durable.worker.outbox import to_message
from durable.worker.steps import (
    Prepared,
    StallError,
    Steps,
    chained,
    consumed_by,
    end_changes,
    is_stale,
    replaces,
)
from durable.worker.watchdog import Watchdog

logger = logging.getLogger("durable.worker")

T = TypeVar("T")

ARRIVALS_MAX = 256
"""Arrivals that one turn takes."""

TURN_BYTES_MAX = 64 * 1024 * 1024
"""A turn whose record would be larger stalls its instance."""

INLINE_MESSAGES_MAX = 500
"""A turn that sends more sends them afterwards, in steps of this many, from a cursor in the row."""

STALL_FIRST_US = 2_000_000
STALL_LONGEST_US = 300_000_000
"""How long a stalled instance waits for its next try: doubled each time, up to five minutes."""

SLOW_TURNS_MAX = 3
SLOW_SPAN_US = 60_000_000
"""Workers that may die under a slow turn of one instance, over at least this span, before it is stalled."""

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


STALLS = (
    StallError,
    DivergenceError,
    StoredValueError,
    TurnBudgetExceededError,
    HistoryDamagedError,
    UnknownNameError,
)


class Turns:
    """Runs turns. `is_held(request)` decides, per activity, whether this worker keeps it or any may claim it."""

    def __init__(
        self,
        app: App,
        sealer: Sealer,
        clock: StoreClock,
        watchdog: Watchdog,
        partitions: int,
        *,
        strict: bool,
        is_held: Callable[[ev.ActivityScheduled], bool],
    ) -> None:
        self._app = app
        self._sealer = sealer
        self.steps = Steps(clock, partitions)
        self._clock = clock
        self._watchdog = watchdog
        self._partitions = partitions
        self._strict = strict
        self._is_held = is_held
        self._runners: dict[tuple[str, str | None], OrchestrationRunner] = {}

    # ---- executions

    def new_execution(self, row: InstanceRow) -> Execution:
        """Return an execution of the row's present generation, to be fed. Raises UnknownNameError."""
        runner = self._runners.get((row.name, row.version))
        if runner is None:
            definition = self._app.find_orchestrator(row.name, row.version)  # no version yet: the newest
            runner = OrchestrationRunner(self._app, definition, self._sealer, strict=self._strict)
            self._runners[row.name, row.version] = runner
        return runner.new_execution(row.key, row.run_id, row.generation)

    def feed(self, execution: Execution, record: Record, size_bytes: int) -> None:
        """Replay one record, watched."""
        self.watched(execution, lambda: execution.feed(record, size_bytes))

    def close(self, execution: Execution | None) -> None:
        """Close an execution that is no longer needed, watched: its `finally` blocks may do anything."""
        if execution is not None:
            try:
                self.watched(execution, execution.close)
            except DurableError:
                logger.debug("closing '%s' was interrupted", execution.key.id)

    def watched(self, execution: Execution, function: Callable[[], T]) -> T:
        """Run a piece of an execution under the watchdog, and leave the thread as it was."""
        outer = asyncio._get_running_loop()
        hooks = sys.get_asyncgen_hooks()
        self._watchdog.begin(execution)
        try:
            return function()
        except TurnInterrupted:
            raise TurnBudgetExceededError(execution.interruption or "the turn was interrupted") from None
        finally:
            while True:
                try:
                    self._watchdog.end()
                    break
                except TurnInterrupted:  # raised again just now: the watchdog has not yet seen that the turn is over
                    continue
            if execution.interruption is not None:
                asyncio._set_running_loop(outer)
                sys.set_asyncgen_hooks(*hooks)

    # ---- turns

    def prepare(self, live: LiveInstance) -> Prepared | None:
        """Take what waits for an instance and say what to commit; None if there is nothing to do after all."""
        row = live.row
        assert row is not None, "an instance is loaded before its turn"
        if live.outbox:
            return self._send_more(live, row)
        live.wants_turn = False
        if row.status is Status.STALLED:
            blind = self.steps.blind(live, row)
            if blind is not None:
                return blind
        taken = list(live.take(ARRIVALS_MAX))
        if row.status.is_finished:
            return self.steps.ended(live, row, taken)
        prepared = Prepared(live, taken=taken)
        arrivals: list[HistoryEvent] = []
        for pending in taken:
            event = pending.event
            if isinstance(event, ev.OrchestrationTerminated) and not is_stale(pending, row):
                return self.steps.termination(live, row, prepared, event)
            if replaces(pending, row):
                return self.steps.replacement(live, row, prepared, pending.message.start)  # type: ignore[union-attr,arg-type]
            if is_stale(pending, row):
                self.steps.note_dropped(prepared, row, event, "it was meant for an earlier run or generation")
            else:
                arrivals.append(event)
        try:
            return self._run(live, row, prepared, arrivals)
        except STALLS as error:
            control = {id(item) for item in taken if item.message and item.message.priority is Priority.CONTROL}
            live.put_back(taken, control)
            self.close(live.drop_execution())
            return self.steps.stall(live, error)

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
            execution = live.execution = self.new_execution(row)
        arrivals = self._fit_start(row, arrivals)
        now = self._clock.now()
        due = execution.due_timers(now)
        opens = execution.has_opening
        if not arrivals and not due and not opens:
            if row.status is Status.STALLED:
                return self.steps.recovered(live, row, prepared, execution)
            return self.steps.onlyconsumed_by(live, prepared)
        turn: Turn = self.watched(execution, lambda: execution.turn([*due, *arrivals], now))
        prepared.turn = turn
        self._put_leftover_back(live, prepared, turn)
        for event, reason in turn.refused:
            self.steps.note_dropped(prepared, row, event, reason)
        if not turn.record.events and not opens and not turn.memos and isinstance(turn.custom_status, Unchanged):
            return self.steps.onlyconsumed_by(live, prepared)
        return self._step(live, row, prepared, turn, execution)

    def _fit_start(self, row: InstanceRow, arrivals: list[HistoryEvent]) -> list[HistoryEvent]:
        """Complete a start with what only the owner knows: the version that it runs in, and its Python."""
        fitted: list[HistoryEvent] = []
        for event in arrivals:
            if isinstance(event, ev.OrchestrationStarted):
                definition = self._app.find_orchestrator(row.name, row.version)
                fitted.append(dataclasses.replace(event, version=definition.exact_version, python=PYTHON))
            else:
                fitted.append(event)
        return fitted

    def _put_leftover_back(self, live: LiveInstance, prepared: Prepared, turn: Turn) -> None:
        """Return arrivals that the ended generation did not get to. Events wait for the next one; the rest is stale there."""
        if not turn.leftover:
            return
        unreached = {id(event) for event in turn.leftover}
        begun = {id(item.message) for item in prepared.taken if item.message and id(item.event) not in unreached}
        kept: list[Pending] = []
        reached: list[Pending] = []
        for pending in prepared.taken:
            if id(pending.event) not in unreached:
                reached.append(pending)
            elif pending.message is not None and id(pending.message) in begun:
                # The rest of a message that is consumed with this turn goes over in the next generation's opening.
                reached.append(pending)
                prepared.carried.append(pending.event)
            else:
                kept.append(pending)
        prepared.taken = reached
        control = {id(item) for item in kept if item.message and item.message.priority is Priority.CONTROL}
        live.put_back(kept, control)

    def _step(
        self, live: LiveInstance, row: InstanceRow, prepared: Prepared, turn: Turn, execution: Execution
    ) -> Prepared:
        now = max(turn.record.time, row.updated_at)
        state = dataclasses.replace(live.state, farewells=dict(turn.farewells), stalls=0)
        changes: dict[str, Any] = {}
        if not isinstance(turn.custom_status, Unchanged):
            changes["custom_status"] = turn.custom_status
        if row.stall_reason is not None:
            changes["stall_reason"] = None
        started = execution.started
        if row.version is None:
            changes.update(_settled_version(turn.record))
        appends, chain = self.steps.append(row, turn.record)
        prepared.record_bytes = len(appends[0][1].data) if appends else 0
        generation, records = row.generation, row.records + len(appends)
        status = Status.SUSPENDED if turn.is_suspended else Status.RUNNING if started else Status.PENDING
        drop_below: int | None = None
        if turn.next_generation is not None:
            opening = self._opening(row, turn.next_generation, prepared.carried)
            drop_below, generation, records = generation, generation + 1, 1
            chain, opening_row = chained(first_checksum(row.key, row.run_id, generation), 0, opening)
            appends.append((generation, opening_row))
            first: Any = opening.events[0]
            changes.update(input=first.input, version=first.version)
            prepared.opening, prepared.opening_bytes = opening, len(opening_row.data)
        elif turn.outcome is not None:
            status = end_changes(turn.outcome, changes, now)
            self.steps.note_undelivered(prepared, row, execution.buffered_events())
        drops = self._place_activities(live, row, prepared, turn, state, execution)
        self._place_messages(live, row, prepared, turn, state, execution)
        is_over = turn.outcome is not None
        if is_over:
            state = OwnerState(cursor=state.cursor)
        held_open = 0 if is_over else _held_count(state, execution, turn)
        progress = Progress(
            generation=generation,
            records=records,
            chain=chain,
            status=status,
            updated_at=now,
            due_at=None if is_over else turn.next_due,
            open_work=held_open + (1 if turn.next_generation is not None or state.cursor else 0),
            state=state.encode(),
        )
        return self.steps.complete(
            prepared,
            row,
            state,
            Step(
                key=row.key,
                run_id=row.run_id,
                before=(row.generation, row.records),
                progress=progress,
                changes=changes,
                appends=appends,
                consumed=consumed_by(prepared.taken),
                drop_generations_below=drop_below,
                queue_adds=drops[0],
                queue_drops=drops[1],
            ),
        )

    def _opening(self, row: InstanceRow, opening: Record, carried: list[HistoryEvent]) -> Record:
        """Settle the version of the next generation: the newest one now, unless it is pinned."""
        started: Any = opening.events[0]
        if started.version is None:
            try:
                started = dataclasses.replace(started, version=self._app.newest(row.name).exact_version)
            except UnknownNameError:  # it stalls there, with that reason
                pass
        started = dataclasses.replace(started, python=PYTHON)
        return Record(opening.time, [started, *opening.events[1:], *carried], is_opening=True)

    def _place_activities(
        self,
        live: LiveInstance,
        row: InstanceRow,
        prepared: Prepared,
        turn: Turn,
        state: OwnerState,
        execution: Execution,
    ) -> tuple[list[ActivityRow], list[TaskAddress]]:
        """Decide who runs the turn's activities; return queue rows to add and to drop."""
        adds: list[ActivityRow] = []
        if state.queued:
            state.queued = [list(span) for span in state.queued] if execution.open_activities else []
        for request in turn.activities:
            if self._is_held(request):
                prepared.held.append((request, execution.derived_id("activity", request.call_id)))
            else:
                state.add_queued(request.task_id)
                adds.append(self.queue_row(row, request, execution, turn.record.time))
        if state.deliveries:
            state.deliveries = {k: v for k, v in state.deliveries.items() if k in execution.open_activities}
        drops = [
            TaskAddress(row.key, row.run_id, row.generation, task_id)
            for task_id in turn.dropped_activities
            if state.is_queued(task_id)
        ]
        return adds, drops

    def queue_row(self, row: InstanceRow, request: ev.ActivityScheduled, execution: Execution, now: int) -> ActivityRow:
        """Return the queue row of an attempt that any worker may claim."""
        options = request.options
        return ActivityRow(
            task=TaskAddress(row.key, row.run_id, row.generation, request.task_id),
            partition=row.partition,
            queue=options.queue,
            name=request.name,
            version=request.version,
            data=encode_activity(request, execution.derived_id("activity", request.call_id), now),
            priority=options.priority,
            start_by=None if options.queue_timeout is None else now + options.queue_timeout,
        )

    def _place_messages(
        self,
        live: LiveInstance,
        row: InstanceRow,
        prepared: Prepared,
        turn: Turn,
        state: OwnerState,
        execution: Execution,
    ) -> None:
        live.depth = depth = execution.started.depth if execution.started else 0
        now = turn.record.time
        prepared.memos += [Memo(key, data, expires_at) for key, data, expires_at in turn.memos]
        if len(turn.messages) > INLINE_MESSAGES_MAX and turn.outcome is None:
            live.outbox.extend(turn.messages)
            state.cursor = (row.generation, row.records, 0)
            return
        prepared.messages = [to_message(item, row, depth, self._partitions, now) for item in turn.messages]

    def _send_more(self, live: LiveInstance, row: InstanceRow) -> Prepared:
        """Send the next part of a large turn, and move the cursor in the same commit."""
        count = min(INLINE_MESSAGES_MAX, len(live.outbox))
        sending = [live.outbox.popleft() for _ in range(count)]
        state = dataclasses.replace(live.state)
        assert state.cursor is not None, "an outbox has a cursor"
        generation, index, sent = state.cursor
        state.cursor = (generation, index, sent + count) if live.outbox else None
        depth, now = live.depth, self._clock.now()
        prepared = Prepared(live, messages=[to_message(item, row, depth, self._partitions, now) for item in sending])
        open_work = row.open_work if live.outbox else max(row.open_work - 1, 0)
        return self.steps.complete(prepared, row, state, self.steps.quiet(row, state, open_work=open_work))


def _settled_version(record: Record) -> dict[str, str | None]:
    """Return the version that a start in this record settled on: from then on the instance keeps it."""
    return {"version": event.version for event in record.events if isinstance(event, ev.OrchestrationStarted)}


def _held_count(state: OwnerState, execution: Execution, turn: Turn) -> int:
    if not state.queued:
        return turn.open_activities
    return sum(not state.is_queued(task_id) for task_id in execution.open_activities)
