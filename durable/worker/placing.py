"""Where the work of a turn goes: attempts to this worker, to the queue or to whom a limit makes wait, messages to inboxes.

Also the rest of a turn that sends much, and attempts that go to the queue later: those that a former owner held, and those
whose permits have come.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from durable import events as ev
from durable.engine.execution import Execution
from durable.engine.turn import Turn
from durable.messages import encode_activity
from durable.outgoing import Outgoing, outcome_messages
from durable.permits import PermitGranted
from durable.provider import ActivityRow, InstanceRow, Memo, Message, TaskAddress
from durable.worker.clock import StoreClock
from durable.worker.live import QUEUE, LiveInstance, Offer, OwnerState, Placement
from durable.worker.outbox import Origin, sender_of, to_message
from durable.worker.permits import all_left, left, needs_permit, refused, wanted
from durable.worker.queued import QueuedAttempts
from durable.worker.steps import Prepared, Steps, consumed_by, end_changes
from durable.worker.succession import is_stale

INLINE_MESSAGES_MAX = 500
"""A turn that sends more, to inboxes and to the activity queue, sends it afterwards, in steps of this many, from a cursor in
the row."""

ATTEMPT_ENDS = (ev.ActivityCompleted, ev.ActivityFailed, ev.ActivityCancelled)


Closed: TypeAlias = tuple[Sequence[TaskAddress], Mapping[str, Sequence[int]]]
NOTHING_CLOSED: Final[Closed] = ((), {})

Decide: TypeAlias = Callable[[int, ev.ActivityScheduled], Placement]


class Placing:
    """Says what a step adds to the queue and sends. `placement`: see `Turns`."""

    def __init__(self, steps: Steps, clock: StoreClock, partitions: int, placement: Decide) -> None:
        self._steps = steps
        self._clock = clock
        self._partitions = partitions
        self._placement = placement

    def place(
        self,
        live: LiveInstance,
        placed: InstanceRow,
        prepared: Prepared,
        turn: Turn,
        state: OwnerState,
        execution: Execution,
    ) -> tuple[Sequence[ActivityRow], Sequence[TaskAddress]]:
        """Place all that a turn asks for; return the rows that its step adds to the queue, and those that it drops.

        `placed`: the row as it stands behind a prefix, if there is one.
        """
        row, begun = live.row, live.begun
        assert row is not None
        permits: Iterable[Message] = ()
        if state.permits.counts and turn.outcome is not None:
            permits = list(all_left(row, state.permits, self._partitions))
        drops, ended = self._close(row, turn, state) if state.queued.firsts or state.in_line.firsts else NOTHING_CLOSED
        offers = self._place_activities(live, prepared, turn, state, execution)
        adds: Sequence[ActivityRow] = ()
        if offers or turn.messages or turn.memos or turn.outcome is not None or begun is not None:
            adds = self._place_messages(live, placed, prepared, turn, state, execution, offers)
        if begun is not None:
            now = max(turn.record.time, row.updated_at)
            sent = self._to_messages(begun.outgoing, row, live.origin, now)
            prepared.messages = [*prepared.messages, *sent, *begun.messages]
        if ended and turn.outcome is None:
            permits = left(row, ended, self._partitions)
        if permits:
            prepared.messages = [*prepared.messages, *permits]
        return adds, drops

    def _to_messages(self, items: Iterable[Outgoing], row: InstanceRow, origin: Origin, now: int) -> list[Message]:
        return [to_message(item, row, origin, self._partitions, now) for item in items]

    def _close(self, row: InstanceRow, turn: Turn, state: OwnerState) -> Closed:
        """Note which attempts are over that were queued. Return queue rows to drop, and by keeper those that had permits."""
        dropped = (task_id for task_id in turn.dropped_activities if task_id in state.queued)
        drops = [TaskAddress(row.key, row.run_id, row.generation, task_id) for task_id in dropped]
        ended: dict[str, list[int]] = {}
        for event in turn.record.events:
            if isinstance(event, ATTEMPT_ENDS):
                state.queued.close(event.task_id)
                state.in_line.close(event.task_id)
                keeper = state.permits.close(event.task_id)
                if keeper is not None:
                    ended.setdefault(keeper, []).append(event.task_id)
        return drops, ended

    def _place_activities(
        self, live: LiveInstance, prepared: Prepared, turn: Turn, state: OwnerState, execution: Execution
    ) -> Sequence[Offer]:
        """Decide who runs the turn's activities. Return those that go to the queue or wait for a permit."""
        offers: list[Offer] = []
        held: list[Offer] = []
        prepared.held = held  # from now on: if one of them fails, the slots of those before it are given back
        # Those that were open where a prefix ends are asked for once more: nobody runs them.
        asked = turn.activities if live.begun is None else list(execution.open_activities.values())
        for request in asked:
            is_limited = request.options.limit is not None
            placement = QUEUE if is_limited else self._placement(live.partition, request)
            state.place(request.task_id, placement)
            if placement is not QUEUE:
                held.append(Offer(request, execution.seeds))
            else:
                offers.append(Offer(request, execution.seeds, Origin.of(execution.started).trace))
                if needs_permit(request):
                    state.permits.add(request)
        if state.deliveries:
            state.keep_deliveries(execution.open_activities)
        return offers

    def redelivery(self, live: LiveInstance, requests: Sequence[ev.ActivityScheduled], state: OwnerState) -> Prepared:
        """Deliver again what a former owner held: here, or by the queue where this worker does not serve it."""
        row, execution = live.row, live.execution
        assert row is not None
        assert execution is not None, "what is open is known from the history"
        held: list[Offer] = []
        offered: list[ActivityRow] = []
        asked = {request.task_id: request for request in requests}
        in_line, state.in_line = state.in_line, QueuedAttempts()
        for task_id in execution.open_activities:
            if task_id not in asked:  # it runs here already, or is in the queue
                state.queued.skip()
                if task_id in in_line:
                    state.in_line.add(task_id)
                else:
                    state.in_line.skip()
                continue
            request = asked[task_id]
            placement = self._placement(live.partition, request)
            state.place(task_id, placement)
            if placement is not QUEUE:
                held.append(Offer(request, execution.seeds))
                continue
            count, since = state.deliveries.pop(request.task_id, (1, 0))
            offer = Offer(request, execution.seeds, Origin.of(execution.started).trace)
            queue_row = self.queue_row(row, offer, self._clock.now())
            offered.append(dataclasses.replace(queue_row, deliveries=count - 1, first_claimed_at=since))
        prepared = self._steps.redelivery(live, state, offered)
        prepared.held = held
        return prepared

    def queue_row(self, row: InstanceRow, offer: Offer, now: int) -> ActivityRow:
        """Return the queue row of an attempt that any worker may claim."""
        request = offer.request
        options = request.options
        return ActivityRow(
            task=TaskAddress(row.key, row.run_id, row.generation, request.task_id),
            partition=row.partition,
            queue=options.queue,
            name=request.name,
            version=request.version,
            data=encode_activity(request, offer.make_key(), now, offer.trace),
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
        offers: Sequence[Offer],
    ) -> Sequence[ActivityRow]:
        """Send the turn's messages and return its rows for the queue; or put all of it aside, if it is much.

        A run that ends with much to send is final once all of it is sent: a finished instance is written no more. What is sent
        for a prefix goes at once, however much it is: no record of its own tells of it.
        """
        live.origin = origin = Origin.of(execution.started)
        now = turn.record.time
        prepared.add_memos(Memo(key, data, expires_at) for key, data, expires_at in turn.memos)
        if len(turn.messages) + len(offers) > INLINE_MESSAGES_MAX and live.begun is None:
            live.outbox.extend((*turn.messages, *offers))
            live.ending = turn.outcome if turn.next_generation is None else None
            state.cursor = (row.generation, row.records, 0)
            return []
        messages = turn.messages
        if turn.outcome is not None and execution.started is None:  # ended early: only the row knows the parent
            messages = [*messages, *outcome_messages(turn.outcome, sender_of(row))]
        prepared.messages = self._to_messages(messages, row, origin, now)
        return self._offered(row, prepared, offers, now)

    def _offered(
        self, row: InstanceRow, prepared: Prepared, offers: Iterable[Offer], now: int
    ) -> Sequence[ActivityRow]:
        """Return the rows of attempts that may start; ask for the permits of the others."""
        rows = []
        limited: list[ev.ActivityScheduled] = []
        for offer in offers:
            if offer.request.options.limit is None:
                rows.append(self.queue_row(row, offer, now))
            else:
                limited.append(offer.request)
        if limited:
            asking = wanted(row, [request for request in limited if needs_permit(request)], self._partitions, now)
            failing: list[Message] = [refused(row, request) for request in limited if not needs_permit(request)]
            prepared.messages = [*prepared.messages, *asking, *failing]
        return rows

    def send_more(self, live: LiveInstance, row: InstanceRow) -> Prepared:
        """Send the next part of a large turn, and move the cursor in the same commit."""
        count = min(INLINE_MESSAGES_MAX, len(live.outbox))
        sending, live.outbox = live.outbox[:count], live.outbox[count:]
        state = dataclasses.replace(live.state)
        assert state.cursor is not None, "an outbox has a cursor"
        generation, index, sent = state.cursor
        state.cursor = (generation, index, sent + count) if live.outbox else None
        origin, now = live.origin, self._clock.now()
        messages = [item for item in sending if isinstance(item, Outgoing)]
        prepared = Prepared(live, messages=self._to_messages(messages, row, origin, now))
        adds = self._offered(row, prepared, (item for item in sending if isinstance(item, Offer)), now)
        open_work = row.open_work if live.outbox else max(row.open_work - 1, 0)
        is_dispensable = not live.outbox and live.execution is not None and live.execution.is_dispensable
        step = self._steps.quiet(row, state, open_work=open_work)
        step = dataclasses.replace(step, queue_adds=adds, removes_if_idle=is_dispensable)
        if live.ending is not None and not live.outbox:
            changes: dict[str, Any] = {} if row.stall_reason is None else {"stall_reason": None}
            status = end_changes(live.ending, changes, max(now, row.updated_at))
            state = OwnerState()
            step = self._steps.quiet(row, state, status=status, open_work=0, parked_until=0)
            step = dataclasses.replace(step, changes=changes)
        return self._steps.complete(prepared, row, state, step)

    # ---- permits

    def let_in(self, live: LiveInstance, row: InstanceRow) -> Prepared | None:
        """Hold the attempts whose permits have come, or queue them; None if there is none, or it is not the time."""
        execution, state = live.execution, live.state
        is_time = not (live.control or live.begun or row.parked_until or row.status.is_finished)
        if not is_time or execution is None:
            return None
        granted = [pending for pending in live.normal if isinstance(pending.event, PermitGranted)]
        if not granted:
            return None
        live.normal = [pending for pending in live.normal if not isinstance(pending.event, PermitGranted)]
        prepared, adds = Prepared(live, taken=granted), []
        prepared.held = held = list[Offer]()
        for pending in granted:
            event: Any = pending.event
            request = None if is_stale(pending, row) else execution.open_activities.get(event.task_id)
            if request is None or event.task_id not in state.queued:  # it is over, or has begun
                continue
            offer = Offer(request, execution.seeds, Origin.of(execution.started).trace, event.asked_at)
            if self._placement(live.partition, request) is QUEUE:
                adds.append(self.queue_row(row, offer, event.asked_at))
            else:
                state.let_in(request)
                held.append(offer)
        step = self._steps.quiet(row, state, open_work=row.open_work + len(held))
        step = dataclasses.replace(step, consumed=consumed_by(granted), queue_adds=adds)
        return self._steps.complete(prepared, row, state, step)

    def leave_permits(self, live: LiveInstance, row: InstanceRow, prepared: Prepared) -> None:
        """Leave permits that came along with what a turn takes to a step of their own. No code ever sees one."""
        if not any(isinstance(pending.event, PermitGranted) for pending in prepared.taken):
            return
        came = [pending for pending in prepared.taken if isinstance(pending.event, PermitGranted)]
        wanted_ones = {id(pending) for pending in came if live.state.permits and not is_stale(pending, row)}
        prepared.taken = [pending for pending in prepared.taken if id(pending) not in wanted_ones]
        live.put_back(pending for pending in came if id(pending) in wanted_ones)
