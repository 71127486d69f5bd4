"""The owner of partitions: arrivals in, turns, group commits, effects out.

Theory of operation. Messages, local outcomes and due timers are queued on their `LiveInstance`; an instance with something
queued goes to the ready queue. `_pump`, a callback of the loop, runs turns for ready instances and collects what they must
write. One commit is on its way at a time; what becomes ready meanwhile fills the next one. After the commit, and only then,
`_apply` lets the effects out.

Invariant: an instance has at most one turn that is not yet durable (`is_busy`). After a refused commit every instance of
the batch is forgotten and read again.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Collection, Coroutine, Sequence
from typing import Any

import msgpack

from durable.engine import events as ev
from durable.engine.events import HistoryEvent, InstanceKey
from durable.engine.records import Record
from durable.errors import DurableError, HistoryDamagedError, LeaseLostError, StoreError, StoreUnavailableError
from durable.messages import decode_arrivals, dropped_memo, encode_arrivals, heartbeat_key
from durable.provider import (
    ActivityRow,
    Batch,
    Committed,
    InstanceRow,
    Memo,
    Message,
    Priority,
    Provider,
    Status,
    StoredMessage,
    TaskAddress,
    Wakeup,
)
from durable.worker.activities import ActivityRunner, Attempt
from durable.worker.claims import Claims
from durable.worker.clock import StoreClock
from durable.worker.leasing import LeaseKeeper
from durable.worker.live import LiveInstance, OwnerState, Pending
from durable.worker.loading import Loader
from durable.worker.steps import Prepared
from durable.worker.timers import HORIZON_US, DueTimes
from durable.worker.turns import Turns

logger = logging.getLogger("durable.worker")

POLL_S = 1.0
"""The poll bound: what a lost wake-up costs at most."""

RECEIVE_MAX = 1000
HELD_MAX = 20_000
"""Messages in memory at which the worker stops receiving until it has worked some off."""

SLICE_S = 0.02
"""How long `_pump` runs turns before it lets the loop do something else."""

BATCH_STEPS_MAX = 1000
BATCH_BYTES_MAX = 16 * 1024 * 1024
"""A group commit is closed at this size; the rest goes into the next one."""

UNSERVED_S = 30.0
"""How long an activity may wait without a worker that serves it before that is said."""

SETTLED_KEPT = 65_536
"""Sequences of consumed messages that are remembered, against a wake-up or a read that is late."""

HEARTBEAT_KEPT_US = 24 * 3600 * 1_000_000


class Owner:
    """Runs the instances of the partitions that its keeper owns."""

    def __init__(
        self,
        provider: Provider,
        keeper: LeaseKeeper,
        clock: StoreClock,
        turns: Turns,
        runner: ActivityRunner,
        claims: Claims,
        *,
        max_cached: int,
    ) -> None:
        self._provider = provider
        self._keeper = keeper
        self._clock = clock
        self._turns = turns
        self._runner = runner
        self._claims = claims
        self._max_cached = max_cached
        self._loop = asyncio.get_running_loop()
        self._loader = Loader(provider, turns, self._loop)
        self._lives: dict[InstanceKey, LiveInstance] = {}
        self._cached: collections.OrderedDict[InstanceKey, LiveInstance] = collections.OrderedDict()
        self._ready: collections.deque[LiveInstance] = collections.deque()
        self._held: set[int] = set()
        self._settled: collections.OrderedDict[int, None] = collections.OrderedDict()
        self._due_times = DueTimes(clock, self._loop, self._come_due)
        self._batch: list[Prepared] = []
        self._batch_bytes = 0
        self._memos: dict[str, Memo] = {}
        self._number = 0
        self._is_pumping = False
        self._committing = False
        self._commit_wake = asyncio.Event()
        self._receive_wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_draining = False

    # ---- arrivals

    def hear(self, wakeup: Wakeup) -> None:
        """Take a wake-up of the store."""
        for message in wakeup.messages:
            if message.partition in self._keeper.owned:
                self._accept(message, is_fresh=True)
        if wakeup.anything:
            self._receive_wake.set()
        if wakeup.activities or wakeup.anything:
            self._claims.wake()

    def _accept(self, message: StoredMessage, *, is_fresh: bool = False) -> None:
        """Queue a message on its instance, once."""
        sequence = message.sequence
        if sequence in self._held or sequence in self._settled or message.partition in self._keeper.leaving:
            return
        if is_fresh and message.visible_at > self._clock.now():
            delay = (message.visible_at - self._clock.now()) / 1e6
            if delay * 1e6 < HORIZON_US:
                self._loop.call_later(delay, self._receive_wake.set)
            return
        self._held.add(sequence)
        live = self._live(message.target)
        try:
            generation, events = decode_arrivals(message.data)
        except HistoryDamagedError as error:
            logger.error("a message to '%s' is damaged and was dropped: %s", message.target.id, error)
            self._discard(message, str(error))
            return
        start = message.start
        is_control = message.priority is Priority.CONTROL
        run_id = message.run_id
        if start is not None and not is_control:
            run_id = start.run_id
            if live.row is None and is_fresh:  # just created: nothing can have changed it since
                live.row = start
                live.is_recovered = True
        queue = live.control if is_control else live.normal
        last = len(events) - 1
        for index, event in enumerate(events):
            queue.append(Pending(event, message, run_id, generation, index == last))
        if not events:
            self._discard(message, "it holds nothing that this version knows")
        self._make_ready(live)

    def _discard(self, message: StoredMessage, reason: str) -> None:
        """Consume a message that nobody can read, and say so."""
        live = self._live(message.target)
        run_id = message.run_id or (live.row.run_id if live.row else "unknown")
        memo = dropped_memo(run_id, "message", str(message.sequence), reason, self._clock.now())
        self._add(Prepared(live, memos=[memo], consumed=[message.sequence]))

    def outcome(self, attempt: Attempt, event: HistoryEvent) -> None:
        """Take the outcome of an attempt that ran here."""
        if attempt.is_claimed:
            self._claims.report(attempt, event)
            return
        address = attempt.address
        live = self._lives.get(address.key)
        if live is not None and address in live.held:
            live.held.discard(address)
            live.normal.append(Pending(event, None, address.run_id, address.generation))
            self._make_ready(live)
            return
        # The partition went to another owner meanwhile: the outcome arrives there as an ordinary message.
        data = encode_arrivals([event], address.generation)
        message = Message(target=address.key, partition=attempt.partition, data=data, run_id=address.run_id)
        self._spawn(self._send_orphan(message))

    async def _send_orphan(self, message: Message) -> None:
        try:
            lease = await self._provider.lease("outcome", b"", worker=False)
            await self._provider.submit(lease, 1, [message])
            await self._provider.release(lease)
        except StoreError as error:
            logger.warning("the outcome of an activity of '%s' could not be sent: %s", message.target.id, error)

    def beat(self, attempt: Attempt) -> None:
        """Store the heartbeat of an attempt that runs here."""
        if attempt.is_claimed:
            self._claims.beat(attempt)
            return
        address = attempt.address
        key = heartbeat_key(address.run_id, address.generation, address.task_id)
        self._memos[key] = Memo(key, attempt.heartbeat_details or b"", self._clock.now() + HEARTBEAT_KEPT_US)
        self._commit_wake.set()

    def is_held(self, request: ev.ActivityScheduled) -> bool:
        """Decide whether this worker keeps an activity, or any worker may claim it."""
        options = request.options
        if options.priority != 1 or not self._claims.accepts(options.queue) or self.is_draining:
            return False
        if not self._runner.serves(request.name, request.version):
            return False
        return self._keeper.others == 0 or self._runner.free_slots - self._runner.waiting > 0

    # ---- the ready queue

    def _live(self, key: InstanceKey) -> LiveInstance:
        live = self._lives.get(key)
        if live is None:
            live = self._lives[key] = LiveInstance(key)
        return live

    def _make_ready(self, live: LiveInstance) -> None:
        if live.is_queued or live.is_busy or live.is_loading or not live.has_work or self._is_parked(live):
            return
        live.is_queued = True
        self._ready.append(live)
        if not self._is_pumping:
            self._is_pumping = True
            self._loop.call_soon(self._pump)

    def _is_parked(self, live: LiveInstance) -> bool:
        """A stalled instance waits for its next try; only steering comes before it."""
        row = live.row
        return row is not None and row.parked_until > self._clock.now() and not live.control

    def _pump(self) -> None:
        """Run turns for what is ready: a callback of the loop, never inside a task."""
        self._is_pumping = False
        until = self._loop.time() + SLICE_S
        loading: list[LiveInstance] = []
        while self._ready and len(self._batch) < BATCH_STEPS_MAX and self._batch_bytes < BATCH_BYTES_MAX:
            live = self._ready.popleft()
            live.is_queued = False
            if live.is_busy or live.is_loading or self._lives.get(live.key) is not live:
                continue
            if self._loader.is_needed(live):
                live.is_loading = True
                loading.append(live)
                continue
            self._turn(live)
            if self._loop.time() > until:
                break
        if loading:
            self._spawn(self._load(loading))
        if self._batch:
            self._commit_wake.set()
        if self._ready and len(self._batch) < BATCH_STEPS_MAX and not self._is_pumping:
            self._is_pumping = True
            self._loop.call_soon(self._pump)

    def _turn(self, live: LiveInstance) -> None:
        try:
            prepared = self._turns.prepare(live)
        except Exception as error:
            logger.exception("the turn of '%s' failed inside the engine", live.key.id)
            self._turns.close(live.drop_execution())
            prepared = self._turns.steps.stall(live, error)
        if prepared is None:
            self._rest(live)
        else:
            self._add(prepared)

    def _add(self, prepared: Prepared) -> None:
        if prepared.step is not None:
            prepared.live.is_busy = True
        self._batch.append(prepared)
        self._batch_bytes += prepared.record_bytes + sum(len(message.data) for message in prepared.messages)
        self._commit_wake.set()

    def _rest(self, live: LiveInstance) -> None:
        """A turn is over and durable: keep the instance cached, or forget it; go on if more has come."""
        if live.execution is not None:
            if self._max_cached == 0:
                self._turns.close(live.drop_execution())
            else:
                self._cached[live.key] = live
                self._cached.move_to_end(live.key)
                self._evict()
        if live.has_work:
            self._make_ready(live)
        elif live.execution is None and live.is_idle:
            self._forget(live)

    def _evict(self) -> None:
        while len(self._cached) > self._max_cached:
            key, live = self._cached.popitem(last=False)
            if live.is_busy or live.is_loading or live.outbox:
                self._cached[key] = live
                return
            self._turns.close(live.drop_execution())
            if live.is_idle:
                self._forget(live)

    def _forget(self, live: LiveInstance) -> None:
        if self._lives.get(live.key) is live:
            del self._lives[live.key]
        self._cached.pop(live.key, None)

    async def _load(self, lives: list[LiveInstance]) -> None:
        try:
            async for live, error in self._loader.load(lives):
                live.is_loading = False
                if self._lives.get(live.key) is not live:  # lost while it was being read
                    self._turns.close(live.drop_execution())
                    continue
                if error is not None:
                    self._add(self._turns.steps.stall(live, error))
                elif live.row is None:
                    self._drop_unknown(live)
                elif not live.is_recovered:
                    self._redeliver(live)
                else:
                    self._make_ready(live)
                    self._rest_if_idle(live)
        except StoreError as error:
            logger.warning("instances could not be read, they are tried again: %s", error)
            for live in lives:
                live.is_loading = False
            self._loop.call_later(POLL_S, self._retry, lives)

    def _retry(self, lives: list[LiveInstance]) -> None:
        for live in lives:
            if self._lives.get(live.key) is live:
                self._make_ready(live)

    def _rest_if_idle(self, live: LiveInstance) -> None:
        if not live.has_work and not live.is_busy:
            self._rest(live)

    def _drop_unknown(self, live: LiveInstance) -> None:
        """Consume messages to an instance that is not there (purged)."""
        taken = [*live.control, *live.normal]
        live.control.clear()
        live.normal.clear()
        consumed = [item.message.sequence for item in taken if item.message is not None and item.is_last]
        logger.info("%d messages to '%s' were dropped: there is no such instance", len(consumed), live.key.id)
        if consumed:
            self._add(Prepared(live, consumed=consumed))
        self._forget(live)

    # ---- recovery

    async def recover(self, partitions: Collection[int]) -> None:
        """Find what the partitions' former owner left unfinished."""
        keys = await self._provider.recover(self._keeper.current, partitions)
        for key in keys:
            live = self._live(key)
            live.wants_turn = True
            self._make_ready(live)
        self._due_times.forget()
        self._receive_wake.set()

    def _redeliver(self, live: LiveInstance) -> None:
        """Start again what a former owner held, after noting durably that it is delivered once more."""
        live.is_recovered = True
        live.wants_turn = live.wants_turn or (
            live.row is not None and live.row.records == 1 and live.row.generation > 0
        )
        found = self._loader.lost_attempts(live, self._clock.now())
        if not found.requests and not found.lost:
            self._make_ready(live)
            self._rest_if_idle(live)
            return
        row = live.row
        assert row is not None
        for event in found.lost:
            live.normal.append(Pending(event, None, row.run_id, row.generation))
        prepared = self._turns.steps.redelivery(live, found.state)
        prepared.held = found.requests
        self._add(prepared)

    # ---- commits

    async def run_commits(self) -> None:
        """Commit until cancelled."""
        while True:
            await self._commit_wake.wait()
            self._commit_wake.clear()
            while self._batch or self._memos:
                await self._commit_once()

    async def _commit_once(self) -> None:
        prepared, self._batch, self._batch_bytes = self._batch, [], 0
        memos, self._memos = list(self._memos.values()), {}
        self._number += 1
        batch = Batch(
            number=self._number,
            steps=[item.step for item in prepared if item.step is not None],
            messages=[message for item in prepared for message in item.messages],
            memos=[*memos, *(memo for item in prepared for memo in item.memos)],
            consumed=[sequence for item in prepared for sequence in item.consumed],
            alone=not self._ready,
        )
        self._committing = True
        try:
            committed = await self._commit(batch)
        except LeaseLostError as error:
            logger.warning("a commit was refused: %s", error)
            self._drop(prepared)
            self._keeper.lost()
            return
        except StoreError as error:
            logger.error("the store failed: %s", error)
            self._drop(prepared)
            self._keeper.lost()
            await asyncio.sleep(POLL_S)
            return
        finally:
            self._committing = False
        self._clock.agree(committed.now)
        self._apply(prepared, batch, committed)

    async def _commit(self, batch: Batch) -> Committed:
        """Commit a batch; while its outcome is unknown, ask again under the same number."""
        lease = self._keeper.current
        pause = 0.05
        while True:
            asked_at = self._clock.monotonic()
            try:
                committed = await self._provider.commit(lease, batch)
            except StoreUnavailableError as error:
                if not self._keeper.is_valid or self._keeper.lease is not lease:
                    raise LeaseLostError(f"the store did not answer for the length of a lease: {error}") from error
                logger.warning("a commit has no answer yet (%s); it is asked for again", error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
                continue
            self._keeper.renewed(asked_at)
            return committed

    def _drop(self, prepared: Sequence[Prepared]) -> None:
        """Forget the instances of a batch that was not written; what they had taken is read again."""
        for item in prepared:
            self._abandon(item.live)

    def _abandon(self, live: LiveInstance) -> None:
        self._turns.close(live.drop_execution())
        for pending in [*live.control, *live.normal]:
            if pending.message is not None:
                self._held.discard(pending.message.sequence)
        live.is_busy = False
        self._forget(live)

    async def lose_everything(self) -> None:
        """The lease is lost: nothing here may be written any more. What runs goes on; its outcome is sent as a message."""
        for live in list(self._lives.values()):
            self._abandon(live)
        self._batch.clear()
        self._batch_bytes = 0
        self._memos.clear()
        self._held.clear()
        self._due_times.clear()
        self._ready.clear()
        self._number = 0

    async def leave(self, partitions: Collection[int]) -> None:
        """Let go of partitions that are about to be given up."""
        leaving = [live for live in self._lives.values() if live.row is not None and live.row.partition in partitions]
        while any(live.is_busy or live.is_loading for live in leaving):
            await asyncio.sleep(0.001)
        for live in leaving:
            self._abandon(live)

    # ---- effects

    def _apply(self, prepared: Sequence[Prepared], batch: Batch, committed: Committed) -> None:
        """Let out the effects of what is now durable."""
        refused = {id(batch.steps[index]): why for index, why in committed.refused.items()}
        for item in prepared:
            why = refused.get(id(item.step)) if item.step is not None else None
            if why is not None:
                self._stall_refused(item, why)
                continue
            for sequence in item.consumed if item.step is None else item.step.consumed:
                self._settle(sequence)
            if item.step is None:
                if self._lives.get(item.live.key) is item.live and not item.live.is_busy:
                    self._rest(item.live)
                continue
            if self._lives.get(item.live.key) is item.live:
                self._apply_step(item)

    def _settle(self, sequence: int) -> None:
        self._held.discard(sequence)
        self._settled[sequence] = None
        if len(self._settled) > SETTLED_KEPT:
            self._settled.popitem(last=False)

    def _stall_refused(self, item: Prepared, why: str) -> None:
        """The store cannot hold what a turn asks for: the instance stalls, and is tried again."""
        live = item.live
        live.is_busy = False
        self._turns.close(live.drop_execution())
        live.outbox.clear()
        control = {
            id(pending) for pending in item.taken if pending.message and pending.message.priority is Priority.CONTROL
        }
        live.put_back(item.taken, control)
        self._add(self._turns.steps.stall(live, StoreError(why)))

    def _apply_step(self, item: Prepared) -> None:
        live, step, row = item.live, item.step, item.row
        assert step is not None
        assert row is not None
        assert item.state is not None
        before = live.row
        live.row, live.state, live.is_busy, live.children = row, item.state, False, None
        if live.execution is not None:
            live.execution.recorded(item.record_bytes)
        if item.turn is not None:
            for task_id in item.turn.dropped_activities:
                self._stop_attempt(live, TaskAddress(live.key, step.run_id, step.before[0], task_id))
        if item.is_outcome:
            self._end(live)
        if item.opening is not None:
            self._begin_generation(live, item.opening, item.opening_bytes)
        if step.replaced_by is not None:
            self._begin_run(live, step.replaced_by)
        for request, idempotency_key in item.held:
            self._start_attempt(live, request, idempotency_key)
        if step.queue_adds:
            self._offer(step.queue_adds)
        self._note_due(live, row, before)
        if row.status is not Status.STALLED:
            self._rest(live)

    def _note_due(self, live: LiveInstance, row: InstanceRow, before: InstanceRow | None) -> None:
        if row.parked_until:
            self._push_due(live, row.parked_until)
        elif row.due_at is not None and (before is None or row.due_at != before.due_at or live.pushed_due is None):
            self._push_due(live, row.due_at)

    def _offer(self, added: Sequence[ActivityRow]) -> None:
        """Let it be known that there is something to claim."""
        self._claims.wake()
        for row in added:
            if not self._keeper.serves(row.name, row.queue):
                self._loop.call_later(UNSERVED_S, self._warn_unserved, row)

    def _end(self, live: LiveInstance) -> None:
        self._turns.close(live.drop_execution())
        self._cached.pop(live.key, None)
        for address in list(live.held):
            self._stop_attempt(live, address)
        live.outbox.clear()

    def _begin_generation(self, live: LiveInstance, opening: Record, size_bytes: int) -> None:
        """Open the next generation in memory, as a replay of what was just written would."""
        self._turns.close(live.drop_execution())
        live.wants_turn = True
        assert live.row is not None
        if self._max_cached:
            try:
                live.execution = self._turns.new_execution(live.row)
                self._turns.feed(live.execution, opening, size_bytes)
            except DurableError:  # found again, with its reason, when the instance is loaded for its turn
                live.execution = None

    def _begin_run(self, live: LiveInstance, row: InstanceRow) -> None:
        """Put the row of a new run in the place of the ended one; its start waits in the queue."""
        live.row = row
        live.state = OwnerState()
        live.is_recovered = True

    def _start_attempt(self, live: LiveInstance, request: ev.ActivityScheduled, idempotency_key: str) -> None:
        row = live.row
        assert row is not None
        if not self._keeper.is_valid or row.status.is_finished:
            return
        address = TaskAddress(row.key, row.run_id, row.generation, request.task_id)
        live.held.add(address)
        self._runner.start(Attempt(self._runner, address, row.partition, request, idempotency_key, row.updated_at))

    def _warn_unserved(self, added: ActivityRow) -> None:
        """Say that an activity waits and no live worker serves it."""
        live = self._lives.get(added.task.key)
        execution = live.execution if live is not None else None
        is_open = execution is None or added.task.task_id in execution.open_activities
        if not is_open or self._keeper.serves(added.name, added.queue) or self.is_draining:
            return
        text = f"no live worker serves activity '{added.name}' in queue '{added.queue}'"
        logger.warning("instance '%s' waits: %s", added.task.key.id, text, extra={"instance_id": added.task.key.id})
        _, run_id, generation, task_id = added.task
        key = f"run/{run_id}/note/{generation}/{task_id}"
        self._memos[key] = Memo(key, msgpack.packb(text), self._clock.now() + HEARTBEAT_KEPT_US)
        self._commit_wake.set()

    def _stop_attempt(self, live: LiveInstance, address: TaskAddress) -> None:
        if address in live.held:
            live.held.discard(address)
            self._runner.cancel(address)

    def _come_due(self, key: InstanceKey) -> None:
        live = self._live(key)
        live.pushed_due = None
        live.wants_turn = True
        self._make_ready(live)

    def _push_due(self, live: LiveInstance, due: int) -> None:
        live.pushed_due = due
        self._due_times.push(due, live.key)

    # ---- receiving

    async def run_receives(self) -> None:
        """Receive until cancelled: at once after a wake-up, and at least once per poll bound."""
        while True:
            try:
                more = await self._receive()
            except (StoreError, LeaseLostError) as error:
                logger.warning("messages could not be received: %s", error)
                more = False
            if more:
                await asyncio.sleep(0)
                continue
            try:
                async with asyncio.timeout(POLL_S):
                    await self._receive_wake.wait()
            except TimeoutError:
                pass
            self._receive_wake.clear()

    async def _receive(self) -> bool:
        if not self._keeper.owned or self.is_draining or len(self._held) > HELD_MAX:
            return False
        window = self._due_times.next_window()
        received = await self._provider.receive(
            self._keeper.current, self._held, RECEIVE_MAX, due_after=window[0], due_before=window[1]
        )
        self._clock.agree(received.now)
        for message in received.messages:
            if message.partition in self._keeper.owned:
                self._accept(message)
        more_due = len(received.due) == RECEIVE_MAX
        self._due_times.fill(window, received.due, is_cut=more_due)
        return len(received.messages) == RECEIVE_MAX or more_due

    # ---- ending

    @property
    def is_settled(self) -> bool:
        """True when nothing waits for a turn or a commit."""
        busy = self._ready or self._batch or self._committing or self._memos or self._tasks
        return not busy and not any(live.is_busy for live in self._lives.values())

    def close(self) -> None:
        """Forget everything; nothing is written."""
        self._due_times.clear()
        for task in self._tasks:
            task.cancel()
        for live in list(self._lives.values()):
            self._turns.close(live.drop_execution())
        self._lives.clear()
        self._cached.clear()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
