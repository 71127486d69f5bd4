"""The owner's side of activities: which it keeps, starting and stopping those, and taking their outcomes and beats.

An attempt is held (it runs here, without a row, for it follows from the history) or offered (a row that any worker may
claim). The outcome of a held one never passes through the inbox, unless its instance went to another owner meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgpack

from durable import events as ev
from durable.errors import StoreError
from durable.events import HistoryEvent, InstanceKey
from durable.messages import dropped_memo, encode_arrivals, heartbeat_key
from durable.provider import ActivityRow, Memo, Message, Provider, TaskAddress
from durable.worker.activities import ActivityRunner, Attempt
from durable.worker.claims import Claims
from durable.worker.clock import StoreClock
from durable.worker.leasing import LeaseKeeper
from durable.worker.live import LiveInstance, Pending

logger = logging.getLogger("durable.worker")

UNSERVED_S = 30.0
"""How long an activity may wait without a worker that serves it before that is said."""

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
        add_memo: Callable[[Memo], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._provider = provider
        self._keeper = keeper
        self._clock = clock
        self._runner = runner
        self._claims = claims
        self._find = find
        self._on_outcome = on_outcome
        self._add_memo = add_memo
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self.is_draining = False

    # ---- deciding and starting

    def is_held(self, request: ev.ActivityScheduled) -> bool:
        """Decide whether this worker keeps an activity, or any worker may claim it."""
        options = request.options
        if options.priority != 1 or not self._claims.accepts(options.queue) or self.is_draining:
            return False
        if not self._runner.serves(request.name, request.version):
            return False
        return self._keeper.others == 0 or self._runner.free_slots - self._runner.waiting > 0

    def start(self, live: LiveInstance, request: ev.ActivityScheduled, idempotency_key: str) -> None:
        """Run an attempt here, whose request is durable now."""
        row = live.row
        assert row is not None
        if not self._keeper.is_valid or row.status.is_finished:
            return
        address = TaskAddress(row.key, row.run_id, row.generation, request.task_id)
        live.held.add(address)
        self._runner.start(Attempt(self._runner, address, row.partition, request, idempotency_key, row.updated_at))

    def stop(self, live: LiveInstance, address: TaskAddress) -> None:
        """Tell a held attempt that nobody waits for it."""
        if address in live.held:
            live.held.discard(address)
            self._runner.cancel(address)

    def offer(self, added: Sequence[ActivityRow]) -> None:
        """Let it be known that there is something to claim."""
        self._claims.wake()
        for row in added:
            if not self._keeper.serves(row.name, row.queue):
                self._loop.call_later(UNSERVED_S, self._warn_unserved, row)

    def _warn_unserved(self, added: ActivityRow) -> None:
        """Say that an activity waits and no live worker serves it."""
        live = self._find(added.task.key)
        execution = live.execution if live is not None else None
        is_open = execution is None or added.task.task_id in execution.open_activities
        if not is_open or self._keeper.serves(added.name, added.queue) or self.is_draining:
            return
        text = f"no live worker serves activity '{added.name}' in queue '{added.queue}'"
        logger.warning("instance '%s' waits: %s", added.task.key.id, text, extra={"instance_id": added.task.key.id})
        _, run_id, generation, task_id = added.task
        key = f"run/{run_id}/note/{generation}/{task_id}"
        self._add_memo(Memo(key, msgpack.packb(text), self._clock.now() + HEARTBEAT_KEPT_US))

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
        self._add_memo(dropped_memo(address.run_id, kind, name, reason, self._clock.now()))

    def beat(self, attempt: Attempt) -> None:
        """Store the heartbeat of an attempt that runs here."""
        if attempt.is_claimed:
            self._claims.beat(attempt)
            return
        address = attempt.address
        key = heartbeat_key(address.run_id, address.generation, address.task_id)
        self._add_memo(Memo(key, attempt.heartbeat_details or b"", self._clock.now() + HEARTBEAT_KEPT_US))
