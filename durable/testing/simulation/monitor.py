"""Watches a simulated run from outside: every commit that took place, and every activity that began.

It keeps its own account of what is durable, from the calls that reached the store, and compares. So it knows what an
answer that was lost had said, and a store that forgets or a worker that hurries does not get past it.
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Sequence

from durable import events as ev
from durable.errors import HistoryDamagedError
from durable.events import ORCHESTRATION, InstanceKey
from durable.provider import (
    LEASE_US,
    PARTITIONS,
    Batch,
    Committed,
    Delivery,
    Expects,
    Lease,
    Message,
    Status,
    Step,
    TaskAddress,
    Verdict,
    partition_of,
)
from durable.records import decode_record
from durable.timers import DUE_MAX
from durable.worker.carrying import FIRST_NUMBER

_OUTCOMES = (ev.Answer, ev.TimerFired)


LEASE_S = LEASE_US / 1e6


class Monitor:
    """One run's account. `violations` are sentences, each with the instance that it is about."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.commits = 0
        self.due: dict[InstanceKey, int] = {}  # when an unfinished instance wants a turn by itself
        self.unfinished: dict[str, None] = {}  # run ids of orchestrations
        self.endless: dict[InstanceKey, None] = {}  # what is no orchestration, and never ends
        self.awaited: collections.Counter[InstanceKey] = collections.Counter()  # messages to those that have no end
        self.queues: dict[str, None] = {}  # those in which activities were asked for
        self.stalled: set[InstanceKey] = set()
        self.progress = 0  # counts what became durable, but for instances that stall again
        self.visible: dict[int, int] = {}  # delayed messages: number of the submit, and when they can be received
        self._batches: set[tuple[str, int, int]] = set()
        self._submits: set[tuple[str, int]] = set()
        self._places: dict[str, tuple[int, int]] = {}  # run id: its generation and number of records
        self._finished: dict[str, Status] = {}
        self._consumed: set[int] = set()
        self._unconsumed: dict[int, tuple[InstanceKey, int]] = {}  # messages in the inboxes: for whom, and from when on
        self._requested: dict[tuple[str, int, int], str] = {}  # run, generation, task id: what was asked for
        self._resolved: set[tuple[str, int, int]] = set()
        self._owners: dict[int, str] = {}  # partition: the lease that has it
        self._clock_moved_at = -LEASE_S
        self._looked_at: dict[str, float] = {}  # lease: when it saw the others first
        self._unaware: set[tuple[int, str]] = set()  # partitions, and leases that have taken them from who lives

    def violated(self, sentence: str) -> None:
        """Note a broken promise."""
        self.violations.append(sentence)

    # ---- what became durable

    def committed(self, lease: Lease, batch: Batch, answer: Committed) -> None:
        """Take note of a commit that the store has written (or has repeated the answer of)."""
        batch_key = (lease.lease_id, lease.epoch, batch.number)
        if batch_key in self._batches:
            return
        self._batches.add(batch_key)
        self.commits += 1
        for index, step in enumerate(batch.steps):
            if index not in answer.refused:
                self._take_step(step)
                owner = self._owners.get(partition_of(step.key, PARTITIONS))
                if owner != lease.lease_id:
                    self.violated(f"'{step.key.id}': a commit was written under a lease that does not own it (I4)")
        consumed = [*batch.consumed]
        for index, step in enumerate(batch.steps):
            if index not in answer.refused:
                consumed += step.consumed
        for sequence in consumed:
            if sequence in self._consumed:
                self.violated(f"message {sequence} was consumed twice (I2)")
            self._consumed.add(sequence)
            self._unconsumed.pop(sequence, None)
        self._consumed -= {message.in_place_of for message in batch.messages}  # they stand there again
        self._sent(batch.messages, answer.deliveries)

    def submitted(self, lease: Lease, number: int, messages: Sequence[Message], answer: Sequence[Delivery]) -> None:
        """Take note of what a client has sent (or has been told of again)."""
        if (lease.lease_id, number) not in self._submits:
            self._submits.add((lease.lease_id, number))
            self._sent(messages, answer)

    @property
    def is_settled(self) -> bool:
        """True when every orchestration has ended, and all that was sent to what has no end has been taken."""
        return not self.unfinished and not +self.awaited

    def _sent(self, messages: Sequence[Message], deliveries: Sequence[Delivery]) -> None:
        """Take note of messages that were stored: some are for later."""
        self.progress += len(messages)
        for message, delivery in zip(messages, deliveries, strict=True):
            start = message.start
            if message.target.kind != ORCHESTRATION:
                self.awaited[message.target] += _is_stored(message, delivery)
            elif start is not None and message.expects is Expects.ENDED:
                # An answer that is told again says nothing new.
                is_new = self._places.get(start.run_id, (0, 0))[0] < start.generation
                if delivery.verdict is Verdict.STORED and is_new:
                    self._finished.pop(start.run_id, None)
                    self._places[start.run_id] = (start.generation, 0)
                    self.unfinished[start.run_id] = None
            elif delivery.verdict is Verdict.STORED and start is not None and start.run_id not in self._places:
                self.unfinished[start.run_id] = None
            if delivery.verdict is Verdict.STORED and delivery.sequence not in self._consumed:
                self._unconsumed[delivery.sequence] = message.target, message.visible_at
            visible_at = max(message.visible_at, message.start.parked_until if message.start is not None else 0)
            if visible_at:
                self.visible[len(self.visible)] = visible_at

    def _take_step(self, step: Step) -> None:
        key, run_id = step.key, step.run_id
        known = self._places.get(run_id)
        if known is not None and known != step.before:
            self.violated(f"'{key.id}': a commit continued {step.before}, but {known} was durable (I2)")
        if run_id in self._finished:
            self.violated(f"'{key.id}': a commit changed run {run_id}, which was {self._finished[run_id].name} (I8)")
        progress = step.progress
        if key.kind != ORCHESTRATION:
            self.awaited[key] -= len(step.consumed)
            self.endless[key] = None
        self.progress += progress.status is not Status.STALLED
        (self.stalled.add if progress.status is Status.STALLED else self.stalled.discard)(key)
        self._places[run_id] = (progress.generation, progress.records)
        if progress.status.is_finished:
            self._finished[run_id] = progress.status
            self.unfinished.pop(run_id, None)
            self.due.pop(key, None)
        else:
            if key.kind == ORCHESTRATION:
                self.unfinished[run_id] = None
            due = [at for at in (progress.due_at, progress.parked_until or None) if at is not None and at < DUE_MAX]
            if due:
                self.due[key] = min(due)
            else:
                self.due.pop(key, None)
        for generation, record in step.appends:
            if generation >= FIRST_NUMBER:
                continue  # the journal of carried events: its events are in the histories as well
            try:
                events = decode_record(record.data).events
            except HistoryDamagedError as error:
                self.violated(f"'{key.id}': a record was written that cannot be read: {error} (I13)")
                continue
            for event in events:
                self._take_event(step, generation, event)

    def _take_event(self, step: Step, generation: int, event: ev.HistoryEvent) -> None:
        task_id = getattr(event, "task_id", None)
        if task_id is None:
            return
        place = (step.run_id, generation, task_id)
        if isinstance(event, ev.ActivityScheduled):
            self._requested[place] = event.name
            self.queues[event.options.queue] = None
        elif isinstance(event, _OUTCOMES):
            if place in self._resolved:
                self.violated(f"'{step.key.id}': request {task_id} of generation {generation} has two outcomes (I2)")
            self._resolved.add(place)

    def purged(self, keys: Collection[InstanceKey]) -> None:
        """Take note of instances that may be gone, with the messages that waited for them."""
        self._unconsumed = {number: item for number, item in self._unconsumed.items() if item[0] not in keys}

    def is_all_consumed(self, now_us: int) -> bool:
        """Tell whether no message waits that can be received at this time."""
        return all(visible_at > now_us for _, visible_at in self._unconsumed.values())

    # ---- who may do what

    def clock_moved(self, now: float) -> None:
        """Take note that the store's clock was set, at this second of the run."""
        self._clock_moved_at = now

    def renewed(self, lease: Lease, now: float) -> None:
        """Take note that a lease was renewed, and has seen the others."""
        self._looked_at.setdefault(lease.lease_id, now)

    def took(self, lease: Lease, partitions: Collection[int], now: float) -> None:
        """Take note of partitions that a lease has got.

        When the store's clock is set forward all leases seem to have run out, until they are renewed. Who sees that clock
        for the first time cannot know; then two may run an activity, as after a crash. A commit is fenced all the same.
        """
        is_new = self._looked_at.get(lease.lease_id, now) >= self._clock_moved_at
        if is_new and now - self._clock_moved_at < LEASE_S:
            self._unaware.update((partition, lease.lease_id) for partition in partitions)
        self._owners.update(dict.fromkeys(partitions, lease.lease_id))

    def gave_up(self, lease: Lease, partitions: Collection[int] | None) -> None:
        """Take note of partitions (None: all of them) that a lease has given up."""
        for partition, owner in list(self._owners.items()):
            if owner == lease.lease_id and (partitions is None or partition in partitions):
                del self._owners[partition]

    # ---- effects

    def began(self, address: TaskAddress, name: str, partition: int, owner: Lease | None) -> None:
        """Take note of an activity that begins to run: what asked for it must be durable.

        `owner`: the lease of the worker that runs it, if it does so as the owner of the partition.
        """
        place = (address.run_id, address.generation, address.task_id)
        if self._requested.get(place) != name:
            self.violated(
                f"'{address.key.id}': activity '{name}' ran as task {address.task_id} of generation {address.generation}, "
                f"before that was durable (recorded: {self._requested.get(place)})"
            )
        holder = self._owners.get(partition)
        is_known = holder is not None and (partition, holder) not in self._unaware
        if owner is not None and is_known and holder != owner.lease_id:
            self.violated(
                f"'{address.key.id}': a worker began activity '{name}' though another one owns the instance (I4)"
            )

    def next_due(self, now_us: int, *, is_hopeful: bool = True) -> int | None:
        """Return the earliest time after `now_us` at which the store has something for somebody, None for never.

        What stalls is tried again and again; without hope these times do not count.
        """
        due = (at for key, at in self.due.items() if is_hopeful or key not in self.stalled)
        return min((at for at in (*due, *self.visible.values()) if at > now_us), default=None)


def _is_stored(message: Message, delivery: Delivery) -> bool:
    """Tell whether a message is in the inbox now, or what is to begin its target in its place."""
    if delivery.verdict is Verdict.STORED:
        return True
    return isinstance(message.otherwise, Message) and delivery.verdict in (Verdict.ABSENT, Verdict.FINISHED)
