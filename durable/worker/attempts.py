"""The owner's side of activities: which it keeps, starting and stopping those, and taking their outcomes and beats.

An attempt is held (it runs here, without a row, for it follows from the history) or offered (a row that any worker may
claim). The outcome of a held one never passes through the inbox, unless its instance went to another owner meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from durable import events as ev
from durable.errors import StoreError
from durable.events import HistoryEvent, InstanceKey
from durable.messages import dropped_memo, encode_arrivals, heartbeat_key
from durable.provider import ActivityRow, Memo, Message, Provider, TaskAddress
from durable.worker.activities import ActivityRunner
from durable.worker.attempt import Attempt
from durable.worker.claims import Claims
from durable.worker.clock import StoreClock
from durable.worker.committing import GroupCommits
from durable.worker.leasing import LeaseKeeper
from durable.worker.live import LINE, QUEUE, SLOT, LiveInstance, Offer, Pending, Placement

logger = logging.getLogger("durable.worker")

RANKED_FREE_MIN = 8
"""Slots that must be free for an attempt with a feature's attachment (a job's) to be kept here. While fewer are, they wait by
priority, each with its row in the one queue of all workers: with only one slot, none ever goes ahead of another by luck."""

LINE_S_MAX = 5.0
"""How long the line in memory may be for an attempt with an attachment to be kept here, all slots taken: what waits for longer
has its row in the queue, where a worker that joins finds it."""

OWN_S = 0.0002
"""What this worker itself does for each attempt in the line, whatever its function does."""

SHARED_LINE_S_MAX = 1.0
"""How long what gains nothing elsewhere may wait here while there is company."""

STUCK_S = 0.05
"""All slots are taken, and none has become free for so long: then nobody knows when one will."""

SLICE_S = 0.02
"""How long the owner runs turns before it lets the loop do something else."""

SLICE_WITH_LINE_S = 0.002
"""The same while attempts wait for a slot: each round of the loop lets those that run go on, and begins no more than slots."""

HEARTBEAT_KEPT_US = 24 * 3600 * 1_000_000


class OwnerAttempts:
    """Attempts of the instances of one owner."""

    def __init__(
        self,
        provider: Provider,
        keeper: LeaseKeeper,
        clock: StoreClock,
        runner: ActivityRunner,
        claims: Claims,
        *,
        find: Callable[[InstanceKey], LiveInstance | None],
        on_outcome: Callable[[LiveInstance], None],
        commits: GroupCommits,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._provider = provider
        self._keeper = keeper
        self._clock = clock
        self._runner = runner
        self._claims = claims
        self._find = find
        self._on_outcome = on_outcome
        self._commits = commits
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        # Activities that are kept, each with a slot, but whose request is not yet durable; by identity.
        self._reserved: dict[int, ev.ActivityScheduled] = {}
        self._lasting: set[int] = set()  # those of them that may take their time
        self._reserved_s = 0.0  # what those of them that wait in line will take
        self.is_draining = False

    # ---- deciding and starting

    def placement(self, partition: int, request: ev.ActivityScheduled) -> Placement:
        """Decide whether this worker keeps an activity, and reserve a slot for it, or any worker may claim it."""
        options, placement = request.options, SLOT
        if not self._claims.accepts(options.queue) or self.is_draining:
            return QUEUE
        if partition in self._keeper.parting or not self._runner.serves(request.name, request.version):
            return QUEUE
        free = self._runner.free_slots - self._runner.line.count - len(self._reserved)
        if options.attachment is not None:
            if free < RANKED_FREE_MIN:
                if not self._has_line_for(request):
                    return QUEUE
                placement = LINE
        elif options.priority != 1 or (free <= 0 and self._keeper.others and not self._is_soon(request, -free)):
            return QUEUE
        self._reserved[id(request)] = request
        if not self._runner.line.is_quick(request.name):
            self._lasting.add(id(request))
        return placement

    def _has_line_for(self, request: ev.ActivityScheduled) -> bool:
        """Tell whether an attempt may wait here: nobody else would run it, and nothing in the queue goes first."""
        line = self._runner.line
        usual_s = line.usual_s(request.name)
        if usual_s is None or self._keeper.others or self._claims.may_be_behind:
            return False
        work_s = (line.work_s + self._reserved_s + usual_s) / self._runner.slots
        if work_s + (len(line) + len(self._reserved)) * OWN_S > LINE_S_MAX:
            return False
        self._reserved_s += usual_s
        return True

    def _is_soon(self, request: ev.ActivityScheduled, waiting: int) -> bool:
        """Tell whether a worker beside this one would not end an attempt sooner, before which so many wait for a slot here."""
        runner, line = self._runner, self._runner.line
        usual_s = line.usual_s(request.name)
        if usual_s is None or not line.is_quick(request.name):
            return False
        # Nobody knows when what has the other slots, or comes before it, gives them up.
        slots = runner.slots - runner.lasting - line.lasting - len(self._lasting)
        if slots <= 0 or (runner.free_slots <= 0 and self._loop.time() - line.freed_at > STUCK_S):
            return False
        return (waiting + 1) * max(usual_s / slots + OWN_S, line.freed_each_s) <= SHARED_LINE_S_MAX

    def unreserve(self, held: Iterable[Offer]) -> None:
        """Give back the slots of kept activities: they begin now, or what asked for them was not written."""
        for offer in held:
            self._reserved.pop(id(offer.request), None)
            self._lasting.discard(id(offer.request))
        if not self._reserved:
            self._reserved_s = 0.0

    def lose_everything(self) -> None:
        """Nothing that was prepared will be written, and what waits for a slot is for the next owner. What runs goes on."""
        self._reserved.clear()
        self._lasting.clear()
        self._reserved_s = 0.0
        self._runner.lose_unbegun()

    @property
    def reserved(self) -> int:
        """How many slots are kept for activities that have not begun."""
        return len(self._reserved)

    @property
    def slice_s(self) -> float:
        """How long the owner may run turns before those that run here go on."""
        return SLICE_WITH_LINE_S if self._runner.line.count else SLICE_S

    def start(self, live: LiveInstance, held: Offer) -> None:
        """Run an attempt here, whose request is durable now, as soon as it has a slot and the lease is surely not lost."""
        row, state = live.row, live.state
        assert row is not None
        if row.status.is_finished:
            return
        request, _, trace, asked_at = held
        address = TaskAddress(row.key, row.run_id, row.generation, request.task_id)
        live.held.add(address)
        if trace is None and live.execution is not None and live.execution.started is not None:
            trace = live.execution.started.trace
        attempt = Attempt(self._runner, address, row.partition, request, held.make_key, asked_at or row.updated_at)
        if state.deliveries:
            attempt.is_repeated = request.task_id in state.deliveries
        if state.in_line.firsts:
            attempt.is_in_line = request.task_id in state.in_line
        if trace is not None:
            attempt.trace = trace
        self._runner.start(attempt)

    def take_back(self, live: LiveInstance) -> None:
        """Hold again what went on running here while the instance's partition was lost."""
        row, execution = live.row, live.execution
        if row is None or execution is None:
            return
        for task_id in execution.open_activities:
            address = TaskAddress(row.key, row.run_id, row.generation, task_id)
            running = self._runner.attempts.get(address)
            if running is not None and not (running.is_settled or running.is_claimed):
                live.held.add(address)

    def stop(self, live: LiveInstance, address: TaskAddress) -> None:
        """Tell a held attempt that nobody waits for it."""
        if address in live.held:
            live.held.discard(address)
            self._runner.cancel(address)

    def offer(self, added: Sequence[ActivityRow]) -> None:
        """Let it be known that there is something to claim."""
        self._claims.offered()
        for start_by in {row.start_by for row in added if row.start_by is not None}:
            self._loop.call_later(max(start_by - self._clock.now(), 0) / 1e6, self._claims.wake)

    # ---- what comes back

    def outcome(self, attempt: Attempt, event: HistoryEvent) -> None:
        """Take the outcome of an attempt that ran here."""
        if attempt.is_claimed:
            self._claims.report(attempt, event)
            return
        address = attempt.address
        live = self._find(address.key)
        if live is not None and address in live.held:
            live.held.discard(address)
            live.normal.append(Pending(event, None, address.run_id, address.generation))
            self._on_outcome(live)
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

    def late(self, attempt: Attempt, event: HistoryEvent) -> None:
        """Note that a function has ended after its attempt had an outcome, or nobody waited for it any more."""
        address = attempt.address
        kind, name = type(event).__name__, attempt.request.name
        reason = f"attempt {attempt.request.attempt} of it ended after it had been cancelled or had timed out"
        fields = {"instance_id": address.key.id, "run_id": address.run_id}
        logger.info("instance '%s': dropped %s of '%s': %s", address.key.id, kind, name, reason, extra=fields)
        self._commits.add_note(dropped_memo(address.run_id, kind, name, reason, self._clock.now()))

    def beat(self, attempt: Attempt) -> None:
        """Store the heartbeat of an attempt that runs here: where states show it, and the next owner of a held one finds it."""
        if attempt.is_claimed:
            self._claims.beat(attempt)  # where the next claimer finds it
        address = attempt.address
        key = heartbeat_key(address.run_id, address.generation, address.task_id)
        self._commits.add_memo(Memo(key, attempt.heartbeat_details or b"", self._clock.now() + HEARTBEAT_KEPT_US))
