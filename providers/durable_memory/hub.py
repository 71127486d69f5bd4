"""What the calls of the storage contract mean, in plain Python: one hub as a few dictionaries.

A method is one transaction: it looks first, raises before it has changed anything, then changes all. Callers hold the lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Sequence

from durable.errors import LeaseLostError, StoreError
from durable.listeners import Listener
from durable.provider import (
    LEASE_AHEAD_US,
    LEASE_US,
    PARTITIONS,
    ActivityRow,
    Batch,
    Beat,
    Belief,
    Committed,
    Delivery,
    Expects,
    Held,
    Hub,
    HubClock,
    InstanceFilter,
    InstanceKey,
    InstanceRow,
    Lease,
    LeaseView,
    Memo,
    Message,
    OtherLease,
    Page,
    Priority,
    Progress,
    Received,
    RecordRow,
    Report,
    Served,
    Status,
    Step,
    StoredMessage,
    TaskAddress,
    Verdict,
    Wakeup,
    partition_of,
)
from durable_memory.listings import is_wanted, page_of
from durable_memory.memos import Memos
from durable_memory.refusal import REFUSALS, refusal_of_all, refusal_of_memo, refusal_of_message, refusal_of_step
from durable_memory.rows import Changes, LeaseRow, QueueEntry, check_number, is_expired, is_unknown, judge_going_on

logger = logging.getLogger("durable.memory")

FORGOTTEN_AFTER_US = 3600 * 1_000_000
"""A lease that owns nothing is removed this long after it expired; nobody repeats a batch so late."""

PROGRESS_COLUMNS = tuple(field.name for field in dataclasses.fields(Progress))
FIXED_COLUMNS = frozenset({"key", "partition", "run_id"})
CHANGEABLE_COLUMNS = frozenset(field.name for field in dataclasses.fields(InstanceRow)) - FIXED_COLUMNS


class MemoryHub:
    """One hub: its rows, its leases and whoever listens to it. The store's clock is that of the object that made it."""

    def __init__(self, name: str, now_us: Callable[[], int]) -> None:
        self.name = name
        self.users = 0
        self.listeners: dict[Listener, None] = {}  # in the order in which they came
        self._store_now_us = now_us
        self._clock = HubClock()
        self._lock = threading.RLock()
        self._sequence = 0
        self._leases: dict[str, LeaseRow] = {}
        self._owners: dict[int, str | None] = dict.fromkeys(range(PARTITIONS))
        self._instances: dict[InstanceKey, InstanceRow] = {}
        self._due: dict[InstanceKey, int] = {}  # `due_at` of the unfinished instances that have one
        self._ended: dict[str, InstanceRow] = {}  # runs that were replaced, by run id, oldest first
        self._records: dict[tuple[str, int], dict[int, RecordRow]] = {}
        self._inbox: dict[int, StoredMessage] = {}
        self._queue: dict[TaskAddress, QueueEntry] = {}
        self._memos = Memos()

    @contextlib.contextmanager
    def visit(self) -> Iterator[MemoryHub]:
        """Hold the hub's lock."""
        with self._lock:
            yield self

    def tell(self, wakeup: Wakeup) -> None:
        """Wake all listeners."""
        for listener in tuple(self.listeners):
            listener.tell(wakeup)

    def facts(self) -> Hub:
        """Return the hub's fixed facts and its time."""
        return Hub(self.name, len(self._owners), self._now_us())

    def _now_us(self) -> int:
        return self._clock.time(self._store_now_us())

    def _next_number(self) -> int:
        self._sequence += 1
        return self._sequence

    # ---- ownership

    def begin_lease(self, lease_id: str, name: str, announcement: bytes, *, worker: bool) -> Lease:
        """Add a lease that owns nothing."""
        if worker:
            self._set_clock(self._clock.begun(self._store_now_us()))
        now = self._now_us()
        row = self._leases[lease_id] = LeaseRow(lease_id, name, announcement, worker, now + LEASE_US)
        return Lease(lease_id, row.epoch, row.expires_at, now, self._clock.number)

    def _set_clock(self, clock: HubClock) -> None:
        """Go by this clock; if it was set, no lease has run out by that, and no client is forgotten."""
        before, self._clock = self._clock, clock
        if clock.number == before.number:
            return
        for row in self._leases.values():
            if row.epoch == 1 or not row.is_worker:
                row.expires_at = self._now_us() + LEASE_US

    def _row_of(self, lease: Lease) -> LeaseRow:
        row = self._leases.get(lease.lease_id)
        if row is None or row.epoch != lease.epoch:
            raise LeaseLostError(f"lease {lease.lease_id} was taken over or given up; nothing was written")
        return row

    def _is_live(self, lease_id: str | None) -> bool:
        row = self._leases.get(lease_id) if lease_id is not None else None
        left = 0 if row is None or row.epoch != 1 else row.expires_at - self._now_us()
        return 0 < left <= LEASE_AHEAD_US

    def _owned_by(self, lease: Lease) -> set[int]:
        row = self._leases.get(lease.lease_id)
        if row is None or row.epoch != lease.epoch:
            return set()
        return {partition for partition, owner in self._owners.items() if owner == lease.lease_id}

    def renew(
        self,
        lease: Lease,
        announcement: bytes | None,
        belief: Callable[[], Belief] | None,
        *,
        confirms_clock: bool,
    ) -> LeaseView:
        """Prolong the lease, set the clock, forget what has expired, and look around."""
        row = self._row_of(lease)
        owned = self._owned_by(lease)
        believed = belief() if owned and belief is not None else None
        is_witness = believed is not None and self._clock.is_witnessed(believed)
        if confirms_clock:
            self._set_clock(self._clock.confirmed(self._store_now_us()))
        elif believed is not None:
            self._set_clock(self._clock.renewed(self._store_now_us(), believed))
        else:
            self._set_clock(self._clock.begun(self._store_now_us()))
        now = self._now_us()
        row.expires_at = now + LEASE_US
        if announcement is not None:
            row.announcement = announcement
        if is_witness:
            self._forget_expired(now)
        unowned = {partition for partition, owner in self._owners.items() if not self._is_live(owner)}
        others = [
            OtherLease(one.lease_id, one.name, one.announcement, theirs, self._is_live(one.lease_id), one.expires_at)
            for one in self._leases.values()
            if one.is_worker and one is not row
            if (theirs := {p for p, owner in self._owners.items() if owner == one.lease_id})
            or self._is_live(one.lease_id)
        ]
        return LeaseView(now, row.expires_at, owned, unowned, others, self._clock)

    def _forget_expired(self, now: int) -> None:
        owners = set(self._owners.values())
        for row in [row for row in self._leases.values() if row.expires_at + FORGOTTEN_AFTER_US <= now]:
            if row.lease_id not in owners:
                del self._leases[row.lease_id]
        for memo in [memo for memo in self._memos.values() if memo.expires_at <= now]:
            del self._memos[memo.key]

    def take(self, lease: Lease, partitions: Collection[int], *, from_live: bool) -> set[int]:
        """Take what is free; a dead owner's epoch is raised first, and all that it owned is then unowned."""
        row = self._row_of(lease)
        if unknown := set(partitions) - self._owners.keys():
            raise StoreError(f"no such partitions: {sorted(unknown)}")
        self._set_clock(self._clock.taken(self._store_now_us()))
        row.expires_at = self._now_us() + LEASE_US
        taken = set()
        for partition in partitions:
            owner = self._owners[partition]
            if owner is not None and owner != lease.lease_id and (from_live or not self._is_live(owner)):
                self._leases[owner].epoch += 1
                self._disown(owner)
            if self._owners[partition] in (None, lease.lease_id):
                self._owners[partition] = lease.lease_id
                taken.add(partition)
        return taken

    def _disown(self, lease_id: str, partitions: Collection[int] | None = None) -> None:
        for partition, owner in self._owners.items():
            if owner == lease_id and (partitions is None or partition in partitions):
                self._owners[partition] = None

    def release(self, lease: Lease, partitions: Collection[int] | None) -> None:
        """Give up partitions, or everything."""
        row = self._leases.get(lease.lease_id)
        if row is None or row.epoch != lease.epoch:
            return
        self._disown(lease.lease_id, partitions)
        if partitions is None:
            del self._leases[lease.lease_id]
        self.tell(Wakeup(anything=True, leases=row.is_worker))

    # ---- turns: reading

    def recover(self, lease: Lease, partitions: Collection[int]) -> list[InstanceKey]:
        """List what a new owner must look at once."""
        wanted = self._owned_by(lease).intersection(partitions)
        return [
            row.key
            for row in self._instances.values()
            if row.partition in wanted
            and not row.status.is_finished
            and (row.open_work > 0 or row.status is Status.STALLED or row.slow_turns > 0)
        ]

    def receive(self, lease: Lease, held: Collection[int], limit: int, due_after: int, due_before: int) -> Received:
        """Return what is eligible, and what is due."""
        now = self._now_us()
        owned = self._owned_by(lease)
        eligible = [
            message
            for message in self._inbox.values()
            if message.partition in owned
            and message.visible_at <= now
            and message.sequence not in held
            and (message.priority is Priority.CONTROL or self._parked_until(message.target) <= now)
        ]
        eligible.sort(key=lambda message: (message.priority, message.sequence))
        due = sorted(
            (due_at, key)
            for key, due_at in self._due.items()
            if due_after < due_at <= due_before and self._instances[key].partition in owned
        )
        last_due = due[limit - 1][0] if len(due) >= limit else due_before
        return Received(eligible[:limit], [(key, due_at) for due_at, key in due if due_at <= last_due], now)

    def find_unserved(self, lease: Lease, served: Collection[tuple[str, str]], limit: int) -> list[ActivityRow]:
        """Return the oldest unclaimed rows of owned partitions that are for other queues and names."""
        owned = self._owned_by(lease)
        found = [
            entry
            for entry in self._queue.values()
            if entry.claimer is None
            and entry.row.partition in owned
            and (entry.row.queue, entry.row.name) not in served
        ]
        return [entry.row for entry in sorted(found, key=lambda entry: entry.age)[:limit]]

    def _parked_until(self, key: InstanceKey) -> int:
        row = self._instances.get(key)
        return 0 if row is None else row.parked_until

    def find_run(self, key: InstanceKey, run_id: str | None) -> InstanceRow | None:
        """Return the current row, or the row of that run, wherever it is."""
        current = self._instances.get(key)
        if current is not None and run_id in (None, current.run_id):
            return current
        if run_id is None:
            return None
        ended = self._ended.get(run_id)
        if ended is not None:
            return ended if ended.key == key else None
        return self._waiting_run(key, run_id)

    def _waiting_run(self, key: InstanceKey, run_id: str) -> InstanceRow | None:
        for message in self._inbox.values():
            if message.target == key and message.start is not None and message.start.run_id == run_id:
                return message.start
        return None

    def read_history(self, run_id: str, generation: int, first: int, bytes_max: int) -> list[RecordRow]:
        """Return records from `first` on until `bytes_max` is passed."""
        records: list[RecordRow] = []
        size = 0
        for index, record in sorted(self._records.get((run_id, generation), {}).items()):
            if index >= first and size < bytes_max:
                records.append(record)
                size += len(record.data)
        return records

    # ---- turns: writing

    def commit(self, lease: Lease, batch: Batch, bytes_max: int | None) -> Committed:
        """Fence, steps, messages, memos."""
        row = self._row_of(lease)
        if row.commit_answer is not None and batch.number == row.commit_number:
            return row.commit_answer
        check_number("batch", batch.number, row.commit_number)
        refused: dict[int, str] = {}
        for index, step in enumerate(batch.steps):
            self._check_step(lease, step)
            if reason := refusal_of_step(step, [batch.memos[memo] for memo in step.memos], bytes_max):
                refused[index] = reason
            elif step.begins is not None and step.key in self._instances:
                refused[index] = f"the id '{step.key.id}' is in use"
        now = self._now_us()
        row.expires_at = now + LEASE_US
        steps = [step for index, step in enumerate(batch.steps) if index not in refused]
        rows = [self._apply(step) for step in steps]
        for sequence in batch.consumed:
            self._inbox.pop(sequence, None)
        gone = self._remove_idle({step.key for step in steps if step.removes_if_idle})
        unsent = [batch.steps[index] for index in refused]
        rows = [row for row in rows if row.key not in gone]
        rows += [step.replaced_by for step in steps if step.replaced_by is not None]
        wakeup = Changes(rows, activities=any(step.queue_adds for step in steps))
        unsent_messages = {index for step in unsent for index in step.messages}
        deliveries = [
            Delivery(Verdict.REFUSED) if index in unsent_messages else self._deliver(message, bytes_max, wakeup)
            for index, message in enumerate(batch.messages)
        ]
        unsent_memos = {index for step in unsent for index in step.memos}
        refused_memos: dict[int, str] = {}
        for index, memo in enumerate(batch.memos):
            if index in unsent_memos:
                continue
            if refusal := refusal_of_memo(memo, bytes_max):
                refused_memos[index] = refusal.reason
            else:
                self._memos[memo.key] = memo
                wakeup.memos.append(memo)
        row.commit_number, row.commit_answer = batch.number, Committed(deliveries, now, refused, refused_memos)
        self.tell(wakeup.told())
        return row.commit_answer

    def _check_step(self, lease: Lease, step: Step) -> None:
        row = self._instances.get(step.key)
        is_ours = self._owners[partition_of(step.key, len(self._owners))] == lease.lease_id
        if is_ours and step.begins is not None:  # whether its id is free is asked for where steps are refused
            return
        if not is_ours or row is None or row.run_id != step.run_id or row.status.is_finished:
            raise LeaseLostError(f"instance '{step.key.id}', run {step.run_id}, is not this lease's to write")
        if (row.generation, row.records) != step.before:
            raise LeaseLostError(f"instance '{step.key.id}' was written by somebody else: {step.before} does not hold")
        unknown = set(step.changes) - CHANGEABLE_COLUMNS
        if unknown:
            raise StoreError(f"no such columns, or fixed ones: {sorted(unknown)}")

    def _apply(self, step: Step) -> InstanceRow:
        for generation, record in step.appends:
            self._records.setdefault((step.run_id, generation), {})[record.index] = record
        if step.drop_generations_below is not None:
            self._drop_history(step.run_id, step.drop_generations_below)
        for generation in step.drop_generations:
            self._records.pop((step.run_id, generation), None)
        for sequence in step.consumed:
            self._inbox.pop(sequence, None)
        for task in step.queue_drops:
            self._queue.pop(task, None)
        for activity in step.queue_adds:
            self._queue[activity.task] = QueueEntry(activity, self._next_number())
        progress = {name: getattr(step.progress, name) for name in PROGRESS_COLUMNS}
        marks = {"slow_turns": 0, "slow_since": 0}
        row = step.begins or dataclasses.replace(self._instances[step.key], **(progress | marks | dict(step.changes)))
        self._put(row)
        if row.status.is_finished:
            for task in [task for task in self._queue if task.key == step.key and task.run_id == step.run_id]:
                del self._queue[task]
        if step.replaced_by is not None:
            self._put(step.replaced_by)
        return row

    def _remove_idle(self, keys: set[InstanceKey]) -> set[InstanceKey]:
        """Remove those of these instances for which no message waits; return their keys."""
        gone = keys - {message.target for message in self._inbox.values()} if keys else keys
        for key in gone:
            former = [row.run_id for row in self._ended.values() if row.key == key]
            self._forget_runs([*former, self._instances.pop(key).run_id])
            self._due.pop(key, None)
        return gone

    def _put(self, row: InstanceRow) -> None:
        """Make `row` the current one of its instance; a former run is kept as an ended one."""
        former = self._instances.get(row.key)
        if former is not None and former.run_id != row.run_id:
            self._ended[former.run_id] = former
        self._instances[row.key] = row
        self._due.pop(row.key, None)
        if row.due_at is not None and not row.status.is_finished:
            self._due[row.key] = row.due_at

    def _drop_history(self, run_id: str, below: int | None = None) -> None:
        for found in [key for key in self._records if key[0] == run_id and (below is None or key[1] < below)]:
            del self._records[found]

    def mark_slow_turn(self, lease: Lease, key: InstanceKey, run_id: str) -> None:
        """Count one more turn that runs for long, in case nobody lives to see its end."""
        row = self._instances.get(key)
        is_running = row is not None and row.run_id == run_id and not row.status.is_finished
        if row is None or not is_running or row.partition not in self._owned_by(lease):
            raise LeaseLostError(f"instance '{key.id}', run {run_id}, is not this lease's to write")
        since = row.slow_since or self._now_us()
        self._instances[key] = dataclasses.replace(row, slow_turns=row.slow_turns + 1, slow_since=since)

    # ---- messages

    def submit(
        self, lease: Lease, number: int, messages: Sequence[Message], bytes_max: int | None
    ) -> Sequence[Delivery]:
        """Store a client's messages; its lease only numbers them."""
        now = self._now_us()
        # One that is gone comes back with another epoch: what it could do besides submitting stays lost.
        row = self._leases.setdefault(lease.lease_id, LeaseRow(lease.lease_id, "", b"", False, now, lease.epoch + 1))
        if number == row.submit_number:
            return row.submit_answer
        check_number("submit", number, row.submit_number)
        wakeup = Changes([])
        deliveries = [self._deliver(message, bytes_max, wakeup) for message in messages]
        row.submit_number, row.submit_answer = number, deliveries
        if not row.is_worker:
            row.expires_at = now + LEASE_US
        self.tell(wakeup.told())
        return deliveries

    def _deliver(self, message: Message, bytes_max: int | None, wakeup: Changes) -> Delivery:
        row = self._instances.get(message.target)
        refusal = refusal_of_message(message, bytes_max)
        verdict = self._judge(message, row) if refusal is None else refusal.verdict
        if verdict is Verdict.STORED:
            return Delivery(verdict, self._store(message, row, wakeup))
        if verdict is not Verdict.ADOPTED and message.otherwise is not None:
            verdict = self._deliver_instead(message.otherwise, bytes_max, wakeup) or verdict
        return Delivery(verdict, row=None if verdict in REFUSALS else row)

    def _deliver_instead(self, item: Message | Memo, bytes_max: int | None, wakeup: Changes) -> Verdict | None:
        """Store what stands in for a message; return the verdict on it if this store refuses that too."""
        if isinstance(item, Message):
            verdict = self._deliver(dataclasses.replace(item, otherwise=None), bytes_max, wakeup).verdict
            return verdict if verdict in REFUSALS else None
        if refusal := refusal_of_memo(item, bytes_max):
            return refusal.verdict
        self._memos[item.key] = item
        return None

    def _judge(self, message: Message, row: InstanceRow | None) -> Verdict:
        """Tell whether what the message expects of its target holds."""
        match message.expects:
            case Expects.UNFINISHED:
                if row is None:
                    return Verdict.ABSENT
                if message.run_id not in (None, row.run_id):
                    is_waiting = self._waiting_run(message.target, str(message.run_id)) is not None
                    return Verdict.STORED if is_waiting and message.run_id not in self._ended else Verdict.FINISHED
                return Verdict.FINISHED if row.status.is_finished else Verdict.STORED
            case Expects.ABSENT if row is not None:
                return Verdict.ADOPTED if _is_same_request(message.start, row) else Verdict.EXISTS
            case Expects.ABSENT_OR_FINISHED if row is not None:
                return Verdict.STORED if row.status.is_finished else Verdict.EXISTS
        return judge_going_on(message.start, row) if message.expects is Expects.ENDED else Verdict.STORED

    def _store(self, message: Message, row: InstanceRow | None, wakeup: Changes) -> int:
        replaces = row is not None and not row.status.is_finished
        stored = StoredMessage(
            self._next_number() if message.in_place_of is None else message.in_place_of,
            message.target,
            message.partition,
            message.data,
            Priority.CONTROL if message.start is not None and replaces else message.priority,
            message.visible_at,
            message.run_id,
            message.start,
        )
        self._inbox[stored.sequence] = stored
        wakeup.messages.append(stored)
        if message.start is not None and not replaces:
            self._put(message.start)
            wakeup.rows.append(message.start)
        return stored.sequence

    # ---- activities

    def claim(
        self,
        lease: Lease,
        queues: Collection[str],
        served: Served,
        limit: int,
        held: Held,
    ) -> list[ActivityRow]:
        """Claim the oldest free rows of the lowest priority number."""
        self._row_of(lease)
        if not self._is_live(lease.lease_id):
            return []
        now = self._now_us()
        free = [
            entry
            for entry in self._queue.values()
            if (not self._is_live(entry.claimer) or is_unknown(entry, lease, held))
            and (
                is_expired(entry.row, now)
                or (
                    entry.row.queue in queues
                    and entry.row.visible_at <= now
                    and (served is None or (entry.row.name, entry.row.version) in served)
                )
            )
        ]
        free.sort(key=lambda entry: (not is_expired(entry.row, now), entry.row.priority, entry.age))
        for entry in free[:limit]:
            entry.claimer = lease.lease_id
            first = entry.row.first_claimed_at or now
            entry.row = dataclasses.replace(entry.row, deliveries=entry.row.deliveries + 1, first_claimed_at=first)
        return [entry.row for entry in free[:limit]]

    def report(
        self, lease: Lease, reports: Sequence[Report], beats: Sequence[Beat], bytes_max: int | None
    ) -> list[bool]:
        """Exchange rows for the messages that carry their outcomes, and keep the heartbeats."""
        wakeup = Changes([])
        answers = []
        for report in reports:
            entry = self._queue.get(report.task)
            refusal = None if entry is None else refusal_of_all(report.message, bytes_max)
            if entry is not None and refusal is not None:
                logger.error("the outcome of %s cannot be stored: %s", report.task, refusal.reason)
                entry.row = dataclasses.replace(entry.row, visible_at=self._now_us() + LEASE_US)
                entry.claimer = None
            elif entry is not None:
                del self._queue[report.task]
                self._deliver(report.message, bytes_max, wakeup)
            answers.append(entry is not None and refusal is None)
        for beat in beats:
            entry = self._queue.get(beat.task)
            is_ours = entry is not None and entry.claimer == lease.lease_id
            if entry is not None and is_ours and beat.details is not None:
                entry.row = dataclasses.replace(entry.row, heartbeat=beat.details)
            answers.append(is_ours)
        self.tell(wakeup.told())
        return answers

    # ---- clients

    def list_instances(self, wanted: InstanceFilter, limit: int, page: bytes | None, *, newest_first: bool) -> Page:
        """Return one page, and the place of its last row as the next one's beginning."""
        rows = [row for row in self._instances.values() if is_wanted(row, wanted)]
        return page_of(rows, limit, page, newest_first=newest_first)

    def count(self, wanted: InstanceFilter) -> int:
        """Count current rows."""
        return sum(is_wanted(row, wanted) for row in self._instances.values())

    def purge(self, key: InstanceKey, run_id: str) -> bool:
        """Remove a finished run and the ended runs before it."""
        current = self._instances.get(key)
        former = [row.run_id for row in self._ended.values() if row.key == key]  # oldest first
        if current is not None and current.run_id == run_id:
            if not current.status.is_finished or self._is_awaited(key, run_id):
                return False
            del self._instances[key]
            self._inbox = {number: message for number, message in self._inbox.items() if message.target != key}
            gone = [*former, run_id]
        elif run_id in former:
            gone = former[: former.index(run_id) + 1]
        else:
            return False
        self._forget_runs(gone)
        return True

    def _forget_runs(self, run_ids: Sequence[str]) -> None:
        for run_id in run_ids:
            self._ended.pop(run_id, None)
            self._drop_history(run_id)
            for memo_key in self._memos.below(f"run/{run_id}/"):
                del self._memos[memo_key]

    def _is_awaited(self, key: InstanceKey, run_id: str) -> bool:
        """Tell whether a start waits to take the place of this run."""
        starts = (message.start for message in self._inbox.values() if message.target == key)
        return any(start is not None and start.run_id not in (run_id, *self._ended) for start in starts)

    def read_memos(self, prefix: str, limit: int, after: str) -> list[Memo]:
        """See `durable.provider.Clients.read_memos`."""
        return [self._memos[key] for key in self._memos.below(prefix, after)[:limit]]


def _is_same_request(start: InstanceRow | None, row: InstanceRow) -> bool:
    """Tell whether the row in the way was started by the very request that wants to start it."""
    if start is None or start.parent_run_id is None or start.parent_task is None:
        return False
    return (start.parent_run_id, start.parent_task) == (row.parent_run_id, row.parent_task)
