"""The storage contract. Its docstrings are law: the conformance suite states each of them as a test.

A provider stores; it never decides, and never looks inside `data`, payloads, records or `state`. Times are microseconds
since 1970 UTC by "the store's time": its clock with the correction of the hub's `HubClock`. A call is safe to repeat
unless its docstring says otherwise. Every call may raise `StoreUnavailableError` (try later) or `StoreError` (unusable).

    Ownership    open close lease renew take release
    Turns        recover receive load read_history commit mark_slow_turn
    Activities   claim report
    Clients      submit list_instances count purge read_memos
    Wake-ups     listen (may lose any of them; a poll runs underneath)

One rule stands above all: **`commit` is the only call that changes an unfinished instance** (but for the mark of
`mark_slow_turn`), and it succeeds only for the holder of the instance's partition.
"""

from __future__ import annotations

import dataclasses
import enum
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from durable.events import InstanceKey as InstanceKey
from durable.hub_clock import CLOCK_JUMP_US as CLOCK_JUMP_US
from durable.hub_clock import UNBROKEN_US as UNBROKEN_US
from durable.hub_clock import Belief as Belief
from durable.hub_clock import HubClock as HubClock
from durable.leases import LEASE_AHEAD_US as LEASE_AHEAD_US
from durable.leases import LEASE_US as LEASE_US
from durable.leases import Lease as Lease
from durable.leases import LeaseView as LeaseView
from durable.leases import OtherLease as OtherLease
from durable.rows import InstanceRow as InstanceRow
from durable.rows import Progress as Progress
from durable.rows import Status as Status
from durable.value_objects import value_object

PARTITIONS = 64  # of a new hub; fixed in the hub's row from then on
RECORD_PART_BYTES_MAX = 512 * 1024  # a longer record is stored in parts of this size, so that no row is large


def partition_of(key: InstanceKey, partitions: int) -> int:
    """Return the partition of an instance: CRC-32 of kind, NUL and id, modulo the number of partitions."""
    return zlib.crc32(f"{key.kind}\0{key.id}".encode()) % partitions


class Priority(enum.IntEnum):
    """The order in which an instance's messages are received; equal ones in the order in which they were stored."""

    CONTROL = 0  # cancel, terminate, suspend, resume, replace: also to an instance that is parked or not yet due
    NORMAL = 1


class Expects(enum.IntEnum):
    """What must hold of the target when a message is stored; checked under the target row's lock."""

    UNFINISHED = 0  # exists and is unfinished: events and steering
    ABSENT = 1  # starts: the id is free
    ABSENT_OR_FINISHED = 2  # starts: free, or its current run has ended and is replaced
    ANY = 3  # starts: an unfinished run is replaced too, by its owner, when it receives the message
    ENDED = 4  # the very run of `start` has ended, in an earlier generation (else EXISTS): its row is written anew


class Verdict(enum.IntEnum):
    """What became of a message."""

    STORED = 0
    ABSENT = 1  # there is no such instance
    FINISHED = 2  # the instance has ended
    EXISTS = 3  # the id is in use
    ADOPTED = 4  # the start was stored before: the instance exists and names the same parent run and parent task
    TOO_LARGE = 5  # the store refuses the item: over its size limit
    REFUSED = 6  # the store refuses the item for another reason (text it cannot hold)


@value_object
class Memo:
    """A small keyed note: answers, undelivered messages, announcements, audit. A later one replaces it.

    From `expires_at` on it may be removed, by an owner of partitions that has proof of the time (`Ownership.renew`).
    """

    key: str
    data: bytes
    expires_at: int


@value_object
class Message:
    """A message on its way to an inbox. `data` is opaque. With `start` it brings the row of the run that it begins.

    `run_id` limits it to that run (another current run counts as FINISHED, unless the run of that id still waits in a
    message of Expects.ANY: then it is stored, and received after that start, which is never delayed). If `expects` does
    not hold or the store refuses it, it is not stored and the verdict says why; `otherwise` is then written instead, in the
    same transaction (a message there is held to its own `expects`; its own `otherwise` is not looked at). If the store
    refuses that too, nothing is written, and the verdict is that refusal. A start with ABSENT whose id is in use by a row
    with the same `parent_run_id` and `parent_task` (not None) is ADOPTED: nothing is written, `otherwise` is not used.
    `in_place_of`: in a commit, the sequence of a message that it consumes, whose place in the order this one takes.
    """

    target: InstanceKey
    partition: int
    data: bytes
    priority: Priority = Priority.NORMAL
    visible_at: int = 0
    run_id: str | None = None
    start: InstanceRow | None = None
    expects: Expects = Expects.UNFINISHED
    otherwise: Message | Memo | None = None
    in_place_of: int | None = None


@value_object
class StoredMessage:
    """A message in an inbox. `sequence` is unique in the hub and, but for `Message.in_place_of`, never used again.

    `start`: the row of the run that it brings, as created or as it is by now; for ANY onto an unfinished run, to be created.
    """

    sequence: int
    target: InstanceKey
    partition: int
    data: bytes
    priority: Priority = Priority.NORMAL
    visible_at: int = 0
    run_id: str | None = None
    start: InstanceRow | None = None


class Delivery(NamedTuple):
    """The answer to one message: its verdict; its sequence where STORED; the current row where that is in the way."""

    verdict: Verdict
    sequence: int = 0
    row: InstanceRow | None = None


class RecordRow(NamedTuple):
    """One history record as stored: its index in the generation (from 0), its bytes, and its chained checksum."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls on a record
    data: bytes
    checksum: bytes


class TaskAddress(NamedTuple):
    """The one activity attempt that a queue row, a report or a heartbeat is about."""

    key: InstanceKey
    run_id: str
    generation: int
    task_id: int


Served = Collection[tuple[str, str | None]] | None  # names and versions that a claimer can run; None: any
Held = Collection[TaskAddress] | None  # what a claimer knows that it has claimed; None: all that it has


@value_object
class ActivityRow:
    """An attempt of an activity that any worker serving `queue` may claim, unless it lacks that name and version."""

    task: TaskAddress
    partition: int
    queue: str
    name: str
    version: str | None
    data: bytes
    priority: int = 1
    visible_at: int = 0
    start_by: int | None = None  # past it, if it was never claimed, any claimer gets it (to report the timeout)
    deliveries: int = 0  # how often it was claimed; counted by `claim`
    first_claimed_at: int = 0
    heartbeat: bytes | None = None  # the latest that was stored for it


@value_object
class Step:
    """What one commit does to one instance.

    Applies to the run `run_id`, which must be the current and unfinished one with exactly `before` = (generation, records);
    otherwise the whole commit raises `LeaseLostError`. `appends` are the new records by generation. `consumed`: sequences of
    its messages; they are deleted. `changes` are further columns of the row, by name. `drop_generations_below` deletes older
    history of the run, `drop_generations` that of any numbers. `queue_adds` and `queue_drops` change the activity queue, drops
    first; a final status then removes all its queue rows. `replaced_by`: the row (now final) is kept as an ended run and this
    one takes its place. `removes_if_idle`: where no message but the consumed ones waits for the instance, delayed ones too,
    it is removed with its history, its memos and its ended runs, as by `purge`, though it is unfinished; else it stays as this
    step leaves it. `messages` and `memos` are indexes, in the batch, of those that this step sends: if it is refused they
    are left out, and with a memo that the store refuses it is. A step clears `slow_turns` and `slow_since`.
    `begins`: the run begins with this step, and nothing was stored of it before; the row, as the step leaves it, is all that is
    written of `progress` and `changes`. `before` is (0, 0) then, and it consumes, drops, parks, replaces and removes nothing.
    If the id is in use, whoever has it, such a step is refused.
    """

    key: InstanceKey
    run_id: str
    before: tuple[int, int]
    progress: Progress
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    appends: Sequence[tuple[int, RecordRow]] = ()
    consumed: Sequence[int] = ()
    drop_generations_below: int | None = None
    drop_generations: Collection[int] = ()
    queue_adds: Sequence[ActivityRow] = ()
    queue_drops: Sequence[TaskAddress] = ()
    replaced_by: InstanceRow | None = None
    removes_if_idle: bool = False
    messages: Sequence[int] = ()
    memos: Sequence[int] = ()
    begins: InstanceRow | None = None


@value_object
class Batch:
    """One group commit. `number` is one more than that of the lease's last commit. At most one step per instance.

    `messages` and `memos` are written after all steps. `consumed` are sequences that belong to no step (addressed to no
    living instance); they are deleted. `alone`: nothing else is ready, so a fast store may commit before it returns.
    `rows`: as the steps leave them, where the owner says so (else none): a wake-up may tell these instead of reading them.
    """

    number: int
    steps: Sequence[Step] = ()
    messages: Sequence[Message] = ()
    memos: Sequence[Memo] = ()
    consumed: Sequence[int] = ()
    alone: bool = False
    rows: Sequence[InstanceRow] = ()


@value_object
class Committed:
    """The answer to a commit: a delivery per message, in order; the store's time; and the steps that were taken out.

    `refused`: index of a step that the store cannot hold (its limits, bad text; an id in use, where it begins a run) and why.
    Such a step is left out with everything in it and sent by it (a delivery of REFUSED stands for each of its messages, and no
    `otherwise` is written); the rest is committed. `refused_memos`: the same for memos of no step, by their index.
    """

    deliveries: Sequence[Delivery]
    now: int
    refused: Mapping[int, str] = dataclasses.field(default_factory=dict)
    refused_memos: Mapping[int, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Hub:
    """The hub's fixed facts."""

    name: str
    partitions: int
    now: int


@dataclasses.dataclass(frozen=True, slots=True)
class InstanceFilter:
    """Which instances a listing, a count or a purge means; empty fields do not limit. All given ones must hold.

    `tags` must all be there with these values; `prefix` is of the id, byte for byte (`%` and `_` are plain);
    `created_after` is inclusive, `created_before` exclusive; `kind` is the key's kind.
    """

    kind: str | None = "o"
    status: Sequence[Status] = ()
    name: str | None = None
    prefix: str | None = None
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    created_after: int | None = None
    created_before: int | None = None
    parent: InstanceKey | None = None


class Page(NamedTuple):
    """A page of a listing, ordered by (created_at, id); `next_page` continues it, None at the end."""

    rows: Sequence[InstanceRow]
    next_page: bytes | None


class Received(NamedTuple):
    """What `receive` found."""

    messages: Sequence[StoredMessage]
    due: Sequence[tuple[InstanceKey, int]]
    now: int
    unserved: Sequence[ActivityRow] = ()


class Report(NamedTuple):
    """The outcome of a claimed attempt: the message that carries it."""

    task: TaskAddress
    message: Message


class Beat(NamedTuple):
    """A heartbeat of a claimed attempt. `details` None: nothing new, only the sign of life."""

    task: TaskAddress
    details: bytes | None


@value_object
class Wakeup:
    """Something has changed. Sent after the commit, coalesced, and allowed to be lost.

    `messages`: stored messages, where the sender is in this process. `rows`: rows as just committed, likewise: of runs that
    begin, end, or change their status or a column of `Step.changes`. `memos`: those of a commit, likewise. `leases`: a worker
    of this process came, went, announced something else or gave partitions up. `activities`: rows to claim. `anything`:
    somebody else changed the store: look; or only `inbox` (their messages wait in partitions of this process), `states` (they
    wrote what would be in `rows` or `memos`), `ended` and `changed` (they wrote the rows of these runs, by their ids).
    `number`: counts from 1 what one listener is told, to show that one was lost: `messages` come as they were stored, none of
    this process is left out between two numbers that follow, and they are told before any later answer to this process.
    """

    messages: Sequence[StoredMessage] = ()
    rows: Sequence[InstanceRow] = ()
    anything: bool = False
    activities: bool = False
    leases: bool = False
    number: int = 0
    inbox: bool = False
    states: bool = False
    memos: Sequence[Memo] = ()
    ended: Collection[str] = ()
    changed: Collection[str] = ()


class Ownership(Protocol):
    """Who may write what. Called by the worker's ownership task; `lease` also by clients."""

    async def open(self) -> Hub:
        """Connect; create or migrate the store where its URL allows it; return the hub's facts.

        Raises StoreError with a remedy for a store that is missing, foreign, newer, read-only or not ours.
        """
        ...

    async def close(self) -> None:
        """Let go of connections, threads and OS locks. Leases are not released: that is `release`. Again: does nothing."""
        ...

    async def lease(self, name: str, announcement: bytes, *, worker: bool) -> Lease:
        """Begin a new lease, epoch 1, that owns nothing. A worker's expires LEASE_US after its last prolonging call.

        Of a worker the hub's clock hears first (`begun`). What expires later than LEASE_AHEAD_US from now counts as expired.
        """
        ...

    async def renew(
        self,
        lease: Lease,
        announcement: bytes | None = None,
        *,
        belief: Callable[[], Belief] | None = None,
        confirms_clock: bool = False,
    ) -> LeaseView:
        """Prolong the lease (as `take`, `commit` do); look around. Raises LeaseLostError if its epoch was raised or it is gone.

        An expired lease whose epoch nobody raised is alive again: nobody took anything from it.
        First the hub's clock hears an owner's `belief` (`HubClock.renewed`; asked for next to the store's clock: told late it
        would look like a jump), or with `confirms_clock` an operator, through any lease (`HubClock.confirmed`); from anybody
        else, that a worker is there (`HubClock.begun`). Renewals of
        owners whose belief proves it (`HubClock.is_witnessed`) remove what has expired: memos; an hour after, idle leases.
        """
        ...

    async def take(self, lease: Lease, partitions: Collection[int], *, from_live: bool = False) -> Collection[int]:
        """Take partitions that are unowned or whose owner is dead; return those that were got.

        First raises the dead lease's epoch (so that its late commit is refused), and only then changes the owner; both in
        one transaction. A partition of a live lease is left alone, unless that lease offered it by `release` (which makes
        it unowned), or with `from_live`: then a live owner is treated as a dead one. A lease whose epoch is raised loses
        all its partitions; those not taken are unowned. Prolongs `lease`; raises LeaseLostError as `renew` does, and
        StoreError for a partition that the hub does not have.
        """
        ...

    async def release(self, lease: Lease, partitions: Collection[int] | None = None) -> None:
        """Give partitions up, or with None all of them and the lease itself. Never raises for what is not owned.

        Whatever the lease had claimed is free once the lease itself is given up.
        """
        ...


class Turns(Protocol):
    """What a partition's owner reads and writes."""

    async def recover(self, lease: Lease, partitions: Collection[int]) -> Sequence[InstanceKey]:
        """List unfinished instances of these partitions with `open_work` above 0, STALLED, or marked by `mark_slow_turn`.

        Only of partitions that the lease owns. Called once per taken partition.
        """
        ...

    async def receive(
        self,
        lease: Lease,
        held: Collection[int],
        limit: int,
        *,
        due_after: int = 0,
        due_before: int = 0,
        served: Collection[tuple[str, str]] | None = None,
    ) -> Received:
        """Return eligible messages, instances that become due, and the store's time.

        A message is eligible: in a partition that the lease owns; `visible_at` is not after the store's time; its
        sequence is not in `held`; and its priority is CONTROL or its instance's `parked_until` is not after the store's
        time (a message whose instance does not exist is eligible). Ordered by priority, then sequence, at most `limit`.
        By state, never by a cursor. Where more than `limit` are eligible, a store may put off those that were delayed or
        parked when they were stored, as long as each instance's messages come in this order. A lost lease owns nothing.
        `due`: owned unfinished instances with due_after < due_at <= due_before, by `due_at`, at most `limit` and those due
        at the same moment as the last one (then the caller asks again, from the last one on).
        `unserved`, where `served` is given: rows of the activity queue in owned partitions that nobody has claimed and whose
        queue and name are no pair of `served`, the oldest first, at most `limit`. Asked for seldom; it may take its time.
        """
        ...

    async def load(self, targets: Sequence[tuple[InstanceKey, str | None]]) -> Sequence[InstanceRow | None]:
        """Return a row per target, in order: the current run's, or with a run id that run's; None where there is none.

        A run is found where it is: current, ended (it was replaced), or still waiting in a message of Expects.ANY. Called
        by owners and by clients, without a lease.
        """
        ...

    async def read_history(
        self, run_id: str, generation: int, first: int = 0, bytes_max: int = 4 * 1024 * 1024
    ) -> Sequence[RecordRow]:
        """Return whole records from index `first` on, in order, until `bytes_max` is passed or the store finds it enough.

        At least one; [] only at the end.
        """
        ...

    async def commit(self, lease: Lease, batch: Batch) -> Committed:
        """Write the batch, all or nothing, in the order: fence, steps, messages, memos.

        The fence: the lease row is updated where its epoch matches; that renews it and stores `batch.number`. Raises
        LeaseLostError, with nothing written by this call, if the epoch was raised, a partition is not this lease's, or a
        step's `before` does not hold. A batch whose number is the one stored was written before: its answer is returned
        again (deliveries may then lack `row`); an older number is a StoreError, as is a column in `changes` that there is
        not or that is fixed (key, partition, run_id). Raises StoreUnavailableError if the outcome is unknown: the caller
        may repeat the same batch with the same number.
        """
        ...

    def mark_slow_turn(self, lease: Lease, key: InstanceKey, run_id: str) -> None:
        """Add 1 to `slow_turns` and set `slow_since` if it is 0. Blocks; called from a thread while the loop is busy.

        A repeated call counts again. Raises LeaseLostError unless the lease may commit for this unfinished run.
        """
        ...


class Activities(Protocol):
    """Attempts that any worker may run."""

    async def claim(
        self, lease: Lease, queues: Sequence[str], served: Served, limit: int, *, held: Held = None
    ) -> Sequence[ActivityRow]:
        """Claim attempts in these queues, by priority (a low number first) and then age; each counts a delivery.

        Of those added by one commit the older are those of the step that comes first in it.

        Free are rows that nobody claimed and rows whose claimer's lease is dead, once `visible_at` has passed; with `held`
        also those that this very lease has claimed and that are not in it: so asks who got no answer to a claim. With
        `served` only those names and versions. Rows never claimed whose `start_by` has passed come first, whatever their
        queue and name: whoever asks reports their timeout. At most `limit`. A lease that has expired gets nothing until it
        is prolonged: to it all others may seem dead. Raises LeaseLostError for a lost lease.
        """
        ...

    async def report(self, lease: Lease, reports: Sequence[Report], beats: Sequence[Beat] = ()) -> Sequence[bool]:
        """Delete the reported rows and store their messages, and store the heartbeats, in one transaction.

        A bool per report, then per beat. A report's is False where the row is gone (cancelled, or reported by another): its
        message is not stored. A row that another lease has claimed meanwhile is reported all the same: the first outcome
        wins. A message that the store refuses (TOO_LARGE, REFUSED) is logged as an error and its report's answer is False;
        the row stays, and is free again after LEASE_US. A beat's is False where the attempt is gone or not claimed by
        this lease: it should stop. A lost lease may report.
        """
        ...


class Clients(Protocol):
    """What clients read and write. They never change an unfinished instance; they send it messages."""

    async def submit(self, lease: Lease, number: int, messages: Sequence[Message]) -> Sequence[Delivery]:
        """Store messages, each on its own verdict, in one transaction; a repeated `number` returns its former answer.

        (Its deliveries may then lack `row`.) `number` is one more than that of the lease's last submit (commits are counted
        apart; an older one is a StoreError); one call at a time. A client's lease that was not used for an hour may be
        forgotten: its next submit is as its first. A lost lease may submit, and stays lost.

        A start whose `expects` holds creates its row with the message, or puts it in place of the finished one, which is
        kept as an ended run. A start with ANY onto an unfinished one only stores the message (CONTROL, `start` with it).
        """
        ...

    async def list_instances(
        self, wanted: InstanceFilter, *, limit: int, page: bytes | None = None, newest_first: bool = True
    ) -> Page:
        """Return one page of current rows, at most `limit`. Raises StoreError for a `page` that is none of this store's."""
        ...

    async def count(self, wanted: InstanceFilter) -> int:
        """Count current rows."""
        ...

    async def purge(self, targets: Sequence[tuple[InstanceKey, str]]) -> int:
        """Remove these runs with their history, memos under `run/<run_id>/` and earlier ended runs of the same id.

        Only where the run is finished and no start waits to take its place (checked under the row's lock); returns how many
        of the targets were removed. The messages that still wait for a removed current run are removed too.
        """
        ...

    async def read_memos(self, prefix: str, limit: int = 1000, *, after: str = "") -> Sequence[Memo]:
        """Return memos whose key begins with `prefix` and comes after `after`, in the order of their keys' bytes.

        At most `limit`: who wants more goes on after the last key. A memo that has expired is there until it is removed
        (`renew`): the hub's time may be wrong for a while, and what nobody removed is not lost by that.
        """
        ...


class Provider(Ownership, Turns, Activities, Clients, Protocol):
    """An implementation of the storage contract, bound to one hub of one store.

    A module offers `connect(url, ports) -> Provider` under the entry-point group `durable.providers`, named by the
    scheme. Its limits (None: none): `message_bytes_max` for any one value of a message or step (data, payload, state; a
    record is cut into parts), `batch_bytes_max` for a batch.
    """

    message_bytes_max: int | None
    batch_bytes_max: int | None
    is_fenced_by_lock: bool  # True where a dead worker is known at once (an OS lock), not only after its lease
    is_remote: bool  # True where a commit is worked on by another process, while turns go on in this one

    def listen(self, callback: Callable[[Wakeup], None]) -> Callable[[], None]:
        """Call `callback` in the event loop after changes; return a function that ends it."""
        ...
