"""The owner of partitions: arrivals in, turns, group commits, effects out.

Theory of operation. Messages, local outcomes and due timers are queued on their `LiveInstance`; an instance with something
queued goes to the ready queue. `_pump`, a callback of the loop, runs turns for ready instances and hands what they must
write to the group commit. After the commit, and only then, `_apply` lets the effects out.

Invariant: an instance has at most one turn that is not yet durable (`is_busy`). After a refused commit every instance of
the batch is forgotten and read again.
Invariant: a parked instance keeps at most what its last turn had taken and PARKED_KEPT_MAX more in memory, and runs no turn
before its pause is over, unless it is steered (decision 51).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Collection, Coroutine, Sequence
from typing import Any

from durable.errors import DurableError, StoreError
from durable.events import InstanceKey
from durable.provider import Batch, Committed, InstanceRow, Provider, TaskAddress, partition_of
from durable.records import Record
from durable.worker.activities import ActivityRunner
from durable.worker.arrivals import Arrivals
from durable.worker.attempts import OwnerAttempts
from durable.worker.backlog import Backlog
from durable.worker.cache import Cache
from durable.worker.claims import Claims
from durable.worker.clock import StoreClock
from durable.worker.committing import STOPPED, GroupCommits
from durable.worker.direct import DirectStarts, is_first_step
from durable.worker.failure_log import log_failed_attempts, log_failed_instance
from durable.worker.fairness import ReadyLines
from durable.worker.health import Stalled
from durable.worker.leasing import LeaseKeeper
from durable.worker.live import LiveInstance, OwnerState, Pending
from durable.worker.loading import Loader
from durable.worker.parking import Parking
from durable.worker.receiving import Receiver
from durable.worker.steps import Prepared, blind_arrival, ending
from durable.worker.succession import is_waiting_for_its_start, lacks_its_start
from durable.worker.timers import DueTimes
from durable.worker.turns import Turns
from durable.worker.unserved import Unserved

logger = logging.getLogger("durable.worker")


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
        partitions: int,
        max_cached: int,
    ) -> None:
        self._provider, self._keeper = provider, keeper
        self._clock = clock
        self._turns = turns
        self._claims = claims
        self._partitions = partitions
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # a turn sees nothing of who started its instance
        self._loader = Loader(
            provider,
            turns,
            clock,
            self._loop,
            is_parked=lambda live: self._parking.is_parked(live),
            on_loaded=self._loaded,
            on_unread=self._load_again,
            slots=runner.slots,
        )
        self._lives: dict[InstanceKey, LiveInstance] = {}
        self._cache = Cache(max_cached, close=turns.close, forget=self._forget)
        self._ready = ReadyLines[LiveInstance]()
        self._backlog = Backlog()
        self._due_times = DueTimes(clock, self._loop, self._come_due)
        self._parking = Parking(clock, self._backlog, self._due_times, find=self._lives.get)
        self.stalled = Stalled()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_pumping = self._is_draining = False
        self.commits = GroupCommits(
            provider,
            keeper,
            clock,
            on_written=self._apply,
            on_refused=self._drop,
            is_alone=lambda: not self._ready.count,
            watchers=turns.watchers,
        )
        self._unserved = Unserved(keeper, clock, self.commits.add_memo)
        self.receiver, self.arrivals, self.direct = self._intake(claims)
        self.attempts = OwnerAttempts(
            provider,
            keeper,
            clock,
            runner,
            claims,
            find=self._lives.get,
            on_outcome=self._make_ready,
            commits=self.commits,
            spawn=self._spawn,
        )

    def _intake(self, claims: Claims) -> tuple[Receiver, Arrivals, DirectStarts]:
        """Make what takes in: from the store, and from a client of this process."""
        keeper, clock = self._keeper, self._clock
        receiver = Receiver(
            self._provider,
            keeper,
            clock,
            self._backlog,
            self._due_times,
            parking=self._parking,
            accept=lambda message, **how: self.arrivals.accept(message, **how),
            on_read=self._read,
            unserved=self._unserved,
        )
        direct = DirectStarts(
            keeper,
            receiver,
            self._backlog,
            self._lives,
            live_at=self._live,
            make_ready=self._make_ready,
            abandon=self._abandon,
            wake=self._wake,
            count_waiting=lambda: self._ready.count + self.commits.count,
        )
        arrivals = Arrivals(
            keeper,
            receiver,
            self._backlog,
            claims,
            clock,
            self.commits,
            self._lives,
            live_at=self._live,
            make_ready=self._make_ready,
            give_back=direct.give_back,
        )
        return receiver, arrivals, direct

    # ---- the ready queue

    def _read(self) -> None:
        """Messages were received, or memory is full of them: go on with what has waited for its own."""
        for live in self._parking.was_read(is_full=self.receiver.is_full):
            if self._lives.get(live.key) is live:
                self._make_ready(live)

    def _live(self, key: InstanceKey) -> LiveInstance:
        live = self._lives.get(key)
        if live is None:
            live = self._lives[key] = LiveInstance(key, partition_of(key, self._partitions))
        return live

    def _make_ready(self, live: LiveInstance, *, is_due: bool = False) -> None:
        if live.is_queued or live.is_busy or live.is_loading or live.awaits_read or not live.has_work:
            return
        if live.row is not None and live.row.parked_until and self._parking.is_parked(live):
            return
        if live.partition in self._keeper.leaving:
            return
        live.is_queued = True
        self._ready.append(live, is_due=is_due)
        self._pump_soon()

    def _pump_soon(self) -> None:
        if not self._is_pumping:
            self._is_pumping = True
            self._loop.call_soon(self._pump, context=self._context)

    def _pump(self) -> None:
        """Run turns for what is ready: a callback of the loop, never inside a task."""
        self._is_pumping = False
        until, turns = self._loop.time() + self.attempts.slice_s, self.commits.turns_at_once(self._ready.count)
        loading: list[LiveInstance] = []
        while self._ready.count and not self.commits.is_full:
            live = self._ready.pop()
            live.is_queued = False
            if live.is_busy or live.is_loading or self._lives.get(live.key) is not live:
                continue
            if self._loader.is_needed(live):
                if live.direct is not None:  # nothing of it is in the store to be read
                    self.direct.give_back(live)
                    continue
                live.is_loading = True
                loading.append(live)
                continue
            self._turn(live)
            turns -= 1
            if turns == 0 or self._loop.time() > until:
                break
        if loading:
            self._spawn(self._loader.load(loading))
        if self._ready.count and not self.commits.is_full:
            self._pump_soon()

    def _turn(self, live: LiveInstance) -> None:
        live.skips_pause = False
        met = self.direct.met(live)
        if met is not None:
            self._stall(live, met)
            return
        row = live.row
        if row is not None and lacks_its_start(live, row) and ending(live, row) is None:
            self._look_for_start(live, row)
            return
        if live.normal and self._turns.is_ahead_of_its_start(live):
            self._parking.release(live)
        prepared = self._turns.prepare(live)
        if live.direct is not None and not is_first_step(prepared):
            self.attempts.unreserve(prepared.held if prepared is not None else ())
            self.direct.give_back(live)
        elif prepared is None:
            self._rest(live)
        else:
            self._add(prepared)

    def _look_for_start(self, live: LiveInstance, row: InstanceRow) -> None:
        """Let an instance have its next turn after a read, for which the store keeps nothing back."""
        live.awaits_read, live.looked_for = True, (row.run_id, row.generation)
        if row.parked_until:
            self._add(self._turns.steps.let_go(live, row))
        else:
            self._parking.is_over(live)
            self.receiver.wake()

    def _add(self, prepared: Prepared) -> None:
        if prepared.step is not None or prepared.messages:
            prepared.live.is_busy = True
        self.commits.add(prepared)

    def _stall(self, live: LiveInstance, error: BaseException) -> None:
        self._turns.close(live.drop_execution())
        live.wants_turn = live.skips_pause = False
        self._add(self._turns.steps.stall(live, error))

    def _rest(self, live: LiveInstance) -> None:
        """A turn is over and durable: keep the instance cached, or forget it; go on if more has come."""
        if live.row is not None and live.row.parked_until:
            self._parking.rest(live)
        self._cache.keep(live)
        if live.has_work:
            self._make_ready(live, is_due=live.wants_turn)
        elif live.execution is None and live.is_idle:
            self._forget(live)

    def _forget(self, live: LiveInstance) -> None:
        if self._lives.get(live.key) is live:
            del self._lives[live.key]
            self._cache.discard(live.key)

    def _loaded(self, live: LiveInstance, error: BaseException | None, is_first: bool) -> None:
        """Go on with an instance that was read back."""
        if self._lives.get(live.key) is not live:  # lost while it was being read
            self._turns.close(live.drop_execution())
            return
        self._parking.loaded(live, is_first=is_first)
        if error is not None:
            self._stall(live, error)
        elif live.row is None:
            self._drop_unknown(live)
        elif self._parking.is_parked(live):
            self._parking.rest(live)
        elif not live.is_recovered and blind_arrival(live, live.row) is None:
            self._redeliver(live)
        else:
            self._make_ready(live, is_due=live.wants_turn)
            self._rest_if_idle(live)

    def _load_again(self, lives: Sequence[LiveInstance]) -> None:
        for live in lives:
            if self._lives.get(live.key) is live:
                self._make_ready(live)

    def _rest_if_idle(self, live: LiveInstance) -> None:
        if not live.has_work and not live.is_busy:
            self._rest(live)

    def _drop_unknown(self, live: LiveInstance) -> None:
        """Consume messages to an instance that is not there (purged)."""
        consumed = [item.message.sequence for item in live.waiting if item.message is not None and item.is_last]
        live.control, live.aside, live.normal = [], [], []
        live.wants_turn = False
        if consumed:
            logger.info("%d messages to '%s' were dropped: there is no such instance", len(consumed), live.key.id)
            self._add(Prepared(live, consumed=consumed))
        self._forget(live)

    # ---- recovery

    async def recover(self, partitions: Collection[int]) -> None:
        """Find what the partitions' former owner left unfinished. What had stalled there is tried here at once."""
        self._backlog.take_over(partitions)
        self._backlog.fall_behind(self._keeper.owned)  # the former owner may have sent to any of them, unheard of
        keys = await self._provider.recover(self._keeper.current, partitions)
        for key in keys:
            self._wake(key)
        self._due_times.forget()
        self.receiver.wake()
        self.commits.wake()

    def _redeliver(self, live: LiveInstance) -> None:
        """Start again what a former owner held, after noting durably that it is delivered once more."""
        live.is_recovered = True
        live.wants_turn = live.wants_turn or (
            live.row is not None and live.row.records == 1 and live.row.generation > 0
        )
        self.attempts.take_back(live)
        found = self._loader.lost_attempts(live, self._clock.now())
        if not found.requests and not found.lost:
            self._make_ready(live, is_due=live.wants_turn)
            self._rest_if_idle(live)
            return
        row = live.row
        assert row is not None
        for event in found.lost:
            live.normal.append(Pending(event, None, row.run_id, row.generation))
        self._add(self._turns.placing.redelivery(live, found.requests, found.state))

    # ---- losing

    def _drop(self, prepared: Sequence[Prepared], unknown: StoreError | None) -> None:
        """Forget the instances of a batch that was not written; what they had taken is read again.

        `unknown`: why nobody can say that it was not.
        """
        for item in prepared:
            self.attempts.unreserve(item.held)
            if item.live.direct is not None and unknown is not None:
                item.live.direct.fail(unknown)
            item.live.is_busy = False
            self._abandon(item.live)

    def _abandon(self, live: LiveInstance) -> None:
        if live.direct is not None and not live.is_busy:  # if it is, its commit will tell
            live.direct.settle(has_begun=False)
        self._turns.close(live.drop_execution())
        if self._lives.get(live.key) is not live:
            return  # it was lost before: its messages may be in other hands by now
        for pending in live.waiting:
            if pending.message is not None:
                self.receiver.held.discard(pending.message.sequence)
        live.is_busy = False
        self._forget(live)

    def _wake(self, key: InstanceKey) -> None:
        """Let an instance that is in the store have a turn, though it may be parked."""
        live = self._live(key)
        if live.direct is not None:
            live.direct.is_id_wanted = True
            return
        live.wants_turn = live.skips_pause = True
        self._make_ready(live)

    async def lose_everything(self) -> None:
        """The lease is lost: nothing here may be written any more. What runs goes on; its outcome is sent as a message."""
        for live in list(self._lives.values()):
            self._abandon(live)
        self.commits.forget()
        self.stalled.keep(lambda _: False)
        self.attempts.lose_everything()
        self._unserved.forget()
        self.receiver.held.clear()
        self._backlog.forget()
        self._due_times.clear()
        self._ready.clear()

    def find_busy(self) -> Collection[int]:
        """Return the partitions with instances whose activities run here."""
        return {live.partition for live in self._lives.values() if live.runs_activities}

    async def leave(self, partitions: Collection[int]) -> Collection[int]:
        """Let go of partitions that are about to be given up: no turn of theirs begins any more, and the last ones end.

        Returns those that may go; a partition whose last turns have begun an activity here stays.
        """
        while self.commits.involves(partitions):  # one that is being read can go: a replay may take long
            await asyncio.sleep(0.001)
        leaving = [live for live in self._lives.values() if live.partition in partitions]
        staying = {live.partition for live in leaving if live.runs_activities}
        for live in leaving:
            if live.partition not in staying:
                self._abandon(live)
        left = set(partitions) - staying
        self.stalled.keep(lambda partition: partition not in left)
        self._due_times.keep(lambda key: partition_of(key, self._partitions) not in left)
        return left

    def stay(self, partitions: Collection[int]) -> None:
        """Go on with partitions that were to be given up: what came for them meanwhile is read now."""
        self._backlog.fall_behind(partitions)
        self._due_times.forget()
        self.receiver.wake()
        for live in list(self._lives.values()):
            if live.partition in partitions:
                self._make_ready(live)

    # ---- effects

    def _apply(self, prepared: Sequence[Prepared], batch: Batch, committed: Committed) -> None:
        """Let out the effects of what is now durable."""
        refused = {id(batch.steps[index]): why for index, why in committed.refused.items()}
        for item in prepared:
            self.attempts.unreserve(item.held)
            is_ours = self._lives.get(item.live.key) is item.live
            why = refused.get(id(item.step)) if refused else None
            if item.live.direct is not None:
                self.direct.tell(item.live, has_begun=why is None)
            elif why is not None and is_ours:
                self._stall_refused(item, why)
            if why is not None:
                continue
            self._settle(item)
            if not is_ours:
                continue
            if item.step is not None:
                self._apply_step(item)
                continue
            if item.messages:  # another run has begun
                item.live.is_busy, item.live.is_row_stale = False, True
            if not item.live.is_busy:
                self._rest(item.live)
        if self._ready.count:  # a full commit made them wait
            self._pump_soon()
        self.receiver.worked_off()

    def _settle(self, item: Prepared) -> None:
        """Note what was consumed."""
        consumed = item.consumed if item.step is None else item.step.consumed
        if consumed:
            again = [message.in_place_of for message in item.messages]  # of these another stands there now
            for sequence in consumed:
                if sequence not in again:
                    self.receiver.settle(sequence)

    def _stall_refused(self, item: Prepared, why: str) -> None:
        """The store cannot hold what a turn asks for: the instance stalls, and is tried again."""
        live = item.live
        live.is_busy = live.is_recovered = False  # the rest of a large turn is read again from its record
        live.outbox.clear()
        live.ending = None
        live.put_back(item.taken)
        self._stall(live, StoreError(why))

    def _apply_step(self, item: Prepared) -> None:
        live, step, row = item.live, item.step, item.row
        assert step is not None
        assert row is not None
        assert item.state is not None
        before = live.row
        live.row, live.state, live.is_busy, live.children, live.begun = row, item.state, False, item.children, None
        if live.execution is not None:
            live.execution.recorded(item.record_bytes)
        if item.turn is not None:
            if item.turn.failed_attempts:
                log_failed_attempts(row, item.turn.failed_attempts)
            for task_id in item.turn.dropped_activities:
                self.attempts.stop(live, TaskAddress(live.key, step.run_id, step.before[0], task_id))
        if item.is_outcome:
            log_failed_instance(row)
            self._end(live)
        if item.opening is not None:
            self._begin_generation(live, item.opening, item.opening_bytes)
        if step.replaced_by is not None:
            self._begin_run(live, step.replaced_by)
        for held in item.held:
            self.attempts.start(live, held)
        if step.queue_adds:
            self.attempts.offer(step.queue_adds)
        self.stalled.note(step.replaced_by or row)
        self._note_due(live, row, before)
        if step.removes_if_idle:  # it may be gone, or not: whoever has more for it looks
            live.is_row_stale = True
            self._turns.close(live.drop_execution())
            self._cache.discard(live.key)
        self._rest(live)

    def _note_due(self, live: LiveInstance, row: InstanceRow, before: InstanceRow | None) -> None:
        if row.parked_until:
            return
        if before is not None and before.parked_until:
            self._parking.is_over(live)  # what was left in the store meanwhile is eligible now
            self.receiver.wake()
        if row.due_at is None:
            self._due_times.drop(live.key)
        elif before is None or row.due_at != before.due_at or live.pushed_due is None:
            live.pushed_due = row.due_at
            self._due_times.push(row.due_at, live.key)

    def _end(self, live: LiveInstance) -> None:
        self._turns.close(live.drop_execution())
        self._due_times.drop_all(live.key)
        self._cache.discard(live.key)
        for address in list(live.held):
            self.attempts.stop(live, address)
        live.outbox.clear()
        live.ending = None

    def _begin_generation(self, live: LiveInstance, opening: Record, size_bytes: int) -> None:
        """Open the next generation in memory, as a replay of what was just written would."""
        former = live.drop_execution()
        self._turns.close(former)
        live.wants_turn = True
        assert live.row is not None
        if not self._cache.is_off:
            try:
                live.execution = self._turns.new_execution(live.row)
                self._turns.feed(live.execution, opening, size_bytes)
                if former is not None:
                    live.execution.mailbox.carry(former.mailbox.carried)
            except DurableError:  # found again, with its reason, when the instance is loaded for its turn
                live.execution = None

    def _begin_run(self, live: LiveInstance, row: InstanceRow) -> None:
        """Put the row of a new run in the place of the ended one; its start waits in the queue."""
        live.row = row
        live.state = OwnerState.decode(row.state)
        live.is_recovered = True
        self._parking.let_steering_pass(live)

    def _come_due(self, key: InstanceKey) -> None:
        partition = partition_of(key, self._partitions)
        if partition not in self._keeper.owned or partition in self._keeper.leaving:
            return
        live = self._live(key)
        if live.direct is not None:
            live.direct.is_id_wanted = True
            return
        live.pushed_due = None
        if live.row is not None and is_waiting_for_its_start(live.row) and not live.has_work:
            self.receiver.wake()  # its start is in the store, and is eligible now
            return
        live.wants_turn = True
        self._make_ready(live, is_due=True)

    @property
    def footprint(self) -> dict[str, int]:
        """How much is in memory, by kind."""
        return {
            "instances": len(self._lives),
            "engines": len(self._cache),
            "messages": len(self.receiver.held),
            "due times": self._due_times.count,
            "reserved slots": self.attempts.reserved,
            "tasks": len(self._tasks),
            "turns": self._ready.count + self.commits.count,
        }

    # ---- ending

    @property
    def is_draining(self) -> bool:
        """True while the worker stops: nothing new is taken."""
        return self._is_draining

    @is_draining.setter
    def is_draining(self, value: bool) -> None:
        self._is_draining = self.receiver.is_draining = self.attempts.is_draining = value

    @property
    def is_settled(self) -> bool:
        """True when nothing waits for a turn or a commit."""
        if self._ready.count or self._tasks or not self.commits.is_settled:
            return False
        return not any(live.is_busy for live in self._lives.values())

    async def close(self) -> None:
        """Forget everything; nothing is written, and nothing goes on."""
        self._due_times.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.drop_everything()

    def drop_everything(self) -> None:
        """Forget all instances, and close what their orchestrators were in the middle of."""
        for live in list(self._lives.values()):
            self._turns.close(live.drop_execution())
        self.direct.end(STOPPED)
        self._lives.clear()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
