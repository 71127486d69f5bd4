"""An owned instance in memory, and what its owner keeps in the row's `state`."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import itertools
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from types import NoneType
from typing import Any, NamedTuple

import msgpack

from durable.engine.execution import Execution
from durable.errors import StoreUnavailableError
from durable.events import (
    ActivityScheduled,
    EventRaised,
    HistoryEvent,
    InstanceKey,
    OrchestrationForked,
    OrchestrationRewound,
)
from durable.outgoing import Outgoing
from durable.provider import InstanceRow, Message, Priority, RecordRow, StoredMessage, TaskAddress
from durable.records import decode_event, encode_event, require, unpack
from durable.seeds import Seeds
from durable.worker.outbox import NOWHERE
from durable.worker.permits import OpenPermits
from durable.worker.queued import QueuedAttempts


class Placement(enum.Enum):
    """Where an attempt waits: for whoever claims it, or with its owner, for whom a slot is free or who has it wait in line."""

    QUEUE = enum.auto()
    SLOT = enum.auto()
    LINE = enum.auto()


QUEUE, SLOT, LINE = Placement  # by names of their own: a member of an enum takes a while to be found


class Offer(NamedTuple):
    """An attempt that is to go to the activity queue, or is held. `asked_at`: 0 if the row tells when it was asked for.

    `seeds`: those of its execution.
    """

    request: ActivityScheduled
    seeds: Seeds
    trace: str | None = None
    asked_at: int = 0

    def make_key(self) -> str:
        """Return its idempotency key, for which few activities ask."""
        return self.seeds.derived_id("activity", self.request.call_id)


@dataclasses.dataclass(slots=True)
class Pending:
    """An arrival that waits for a turn; `message` is the inbox message that brought it (None: a local outcome).

    `run_id` and `generation` limit it to what that run and generation asked for. Of a message with several arrivals each
    carries the message; with the last one consumed (`is_last`) the message is.
    """

    event: HistoryEvent
    message: StoredMessage | None = None
    run_id: str | None = None
    generation: int | None = None
    is_last: bool = True

    @property
    def is_control(self) -> bool:
        """True for what goes ahead of other arrivals."""
        return self.message is not None and self.message.priority is Priority.CONTROL

    def starts(self, run_id: str) -> bool:
        """Tell whether the message behind it is the start of that run."""
        start = self.message.start if self.message is not None else None
        return start is not None and start.run_id == run_id


class Journal(NamedTuple):
    """Where the journal of carried events stands: its number, its entries, the last one's checksum, the changes in them."""

    number: int
    entries: int
    chain: bytes
    changes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Begun:
    """A generation that begins with what an older one has done, before its first turn; its execution stands at the end of that.

    `first` says so in the history, and `arrivals` are applied behind it. `rows`: the records that are taken over, `chain` the
    checksum of the last. `outgoing` and `messages`: what is sent for it to its children.
    """

    first: HistoryEvent
    arrivals: Sequence[HistoryEvent]
    rows: Sequence[RecordRow]
    chain: bytes
    outgoing: Sequence[Outgoing]
    messages: Sequence[Message]

    def before(self, arrivals: Iterable[HistoryEvent]) -> list[HistoryEvent]:
        """Return what a first turn is given that takes these too."""
        kind = type(self.first)
        return [self.first, *self.arrivals, *(event for event in arrivals if not isinstance(event, kind))]

    def left(self, leftover: Iterable[HistoryEvent]) -> list[HistoryEvent]:
        """Return the events among `arrivals` that a turn did not get to."""
        left = {id(event) for event in leftover if isinstance(event, EventRaised)}
        return [event for event in self.arrivals if id(event) in left]

    def placed(self, row: InstanceRow) -> InstanceRow:
        """Return a row as it stands behind what is taken over."""
        return dataclasses.replace(row, records=len(self.rows), chain=self.chain)


@dataclasses.dataclass(slots=True)
class OwnerState:
    """What an owner notes in the row for the next one.

    `deliveries`: of attempts delivered more than once, [count, time of the first redelivery]. `queued`: the attempts that
    went to the activity queue; it is changed in place, and read again from the row with the history. `cursor`: where the
    sending of a large turn stands: (generation, record index, messages sent). `stalls`: stalls in a row. `farewells`: see
    the engine's Turn. `former`: of a run that took the place of an unfinished one, the sequence of its start, and the run
    before it. `carried`: where events are that earlier generations have left. `left_since`: when the instance was first left to
    another worker, in microseconds, as long as that goes on. `permits`: as `queued`, those that attempts have or wait for.
    `in_line`: as `queued`, the held attempts for which no slot was free when they were asked for.
    """

    deliveries: dict[int, list[int]] = dataclasses.field(default_factory=dict)
    queued: QueuedAttempts = dataclasses.field(default_factory=QueuedAttempts)
    cursor: tuple[int, int, int] | None = None
    stalls: int = 0
    farewells: dict[str, Outgoing] = dataclasses.field(default_factory=dict)
    former: tuple[int, str] | None = None
    carried: Journal | None = None
    left_since: int = 0
    permits: OpenPermits = dataclasses.field(default_factory=OpenPermits)
    in_line: QueuedAttempts = dataclasses.field(default_factory=QueuedAttempts)
    unreadable: bytes = b""

    @property
    def is_noteworthy(self) -> bool:
        """False where there is nothing to note, as after most turns."""
        # What is asked twice in each turn looks at lists and dicts, and calls nothing.
        noted = self.deliveries or self.queued.firsts or self.cursor or self.stalls or self.farewells or self.former
        waits = self.permits.counts or self.in_line.firsts
        return bool(noted or waits or self.carried or self.left_since or self.unreadable)

    @property
    def has_placed(self) -> bool:
        """Whether there is any of what a turn may add for the attempts that it asks for, and for what it sends."""
        return bool(self.queued.firsts or self.in_line.firsts or self.cursor)

    def place(self, task_id: int, placement: Placement) -> None:
        """Note where the next attempt waits."""
        if placement is QUEUE:
            self.queued.add(task_id)
        else:
            self.queued.skip()
        if placement is LINE:
            self.in_line.add(task_id)
        else:
            self.in_line.skip()

    def keep_deliveries(self, open_attempts: Container[int]) -> None:
        """Forget how often attempts were delivered that are over."""
        self.deliveries = {k: v for k, v in self.deliveries.items() if k in open_attempts}

    def let_in(self, request: ActivityScheduled) -> None:
        """Note that an attempt that has waited for its permit is held from now on."""
        self.queued.take_out(request.task_id)
        if request.options.attachment is not None:  # it is shown as waiting until a note says that it has begun
            self.in_line.skip()
            self.in_line.add(request.task_id)
            self.in_line.skip()

    def encode(self) -> bytes:
        """Return the row's `state`; empty where there is nothing to note, as for most turns."""
        if self.unreadable:
            return self.unreadable
        if not self.is_noteworthy:
            return b""
        farewells = {name: _farewell_to_plain(message) for name, message in self.farewells.items()}
        noted = [
            self.deliveries,
            self.queued.ranges,
            self.cursor,
            self.stalls,
            farewells,
            self.former,
            self.carried,
            self.left_since,
            self.permits.keepers,
            self.in_line.ranges,
            self.queued.taken_out,
        ]
        packed: bytes = msgpack.packb(noted)
        return packed

    def unhindered(self) -> OwnerState:
        """Return it as it is once the instance goes on."""
        return dataclasses.replace(self, stalls=0, left_since=0)

    def after_turn(self, farewells: Mapping[str, Outgoing]) -> OwnerState:
        """Return it as it is after a turn that has left these farewells; to be changed further."""
        return OwnerState(  # and no `replace`, which takes several times as long: it is made in most turns of a burst of jobs
            self.deliveries,
            self.queued,
            self.cursor,
            0,
            dict(farewells),
            self.former,
            self.carried,
            0,
            self.permits,
            self.in_line,
            self.unreadable,
        )

    @classmethod
    def decode(cls, data: bytes) -> OwnerState:
        """Read a row's `state`. What cannot be read is kept as it is, in `unreadable`."""
        if not data:
            return cls()
        try:
            deliveries, queued, cursor, stalls, farewells, *more = unpack(data)
            require(int, stalls, *deliveries)
            _require_numbers(2, *deliveries.values(), *queued)
            if cursor is not None:
                _require_numbers(3, cursor)
                cursor = tuple(cursor)
            require(str, *farewells)
            known = {name: _farewell_from_plain(plain) for name, plain in farewells.items()}
            former = _former_from_plain(more[0]) if more else None
            carried = _journal_from_plain(more[1]) if len(more) > 1 else None
            left_since = more[2] if len(more) > 2 else 0
            require(int, left_since)
            keepers = more[3] if len(more) > 3 else []
            require(list, keepers)
            require(str, *keepers)
            in_line = more[4] if len(more) > 4 else []
            _require_numbers(2, *in_line)
            taken_out = more[5] if len(more) > 5 else []
            require(int, *taken_out)
            return cls(
                deliveries,
                QueuedAttempts(queued, taken_out),
                cursor,
                stalls,
                known,
                former,
                carried,
                left_since,
                OpenPermits(keepers),
                QueuedAttempts(in_line),
            )
        except Exception:  # noqa: BLE001 (whatever garbage does to the decoder is one fact)
            return cls(unreadable=data)


def _require_numbers(count: int, *items: Any) -> None:
    for item in items:
        require(list, item)
        require(int, *item)
        if len(item) != count:
            raise ValueError(f"{count} numbers expected, not {len(item)}")


def _former_from_plain(plain: Any) -> tuple[int, str] | None:
    if plain is None:
        return None
    sequence, run_id = plain
    require(int, sequence)
    require(str, run_id)
    return sequence, run_id


def _journal_from_plain(plain: Any) -> Journal | None:
    if plain is None:
        return None
    number, entries, chain, changes = plain
    require(int, number, entries, changes)
    require(bytes, chain)
    return Journal(number, entries, chain, changes)


def _farewell_to_plain(message: Outgoing) -> list[Any]:
    assert message.event is not None, "a farewell is an event"
    return [*message.target, message.run_id, message.generation, encode_event(message.event)]


def _farewell_from_plain(plain: list[Any]) -> Outgoing:
    instance_id, kind, run_id, generation, event = plain
    require(str, instance_id, kind)
    require((str, NoneType), run_id)
    require((int, NoneType), generation)
    unpacked = decode_event(unpack(event))
    if unpacked is None:
        raise ValueError("a farewell of a later version")
    return Outgoing(InstanceKey(instance_id, kind), unpacked, run_id, generation)


class DirectStart:
    """A start on its way: `future` tells whether its run has begun, or it is given back; `met`: what its turn met then.

    `is_id_wanted`: another instance has that id, and wants a turn: it gets it when the start is given back.
    """

    __slots__ = ("future", "is_id_wanted", "met")

    def __init__(self, future: asyncio.Future[bool]) -> None:
        self.future = future
        self.is_id_wanted = False
        self.met: BaseException | None = None

    def settle(self, *, has_begun: bool) -> None:
        """Tell."""
        if not self.future.done():
            self.future.set_result(has_begun)

    def fail(self, why: BaseException | str) -> None:
        """Tell that nobody knows."""
        if not self.future.done():
            self.future.set_exception(StoreUnavailableError(f"it is unknown whether this was stored: {why}"))


class LiveInstance:
    """One owned instance: its row as last committed, its engine while cached, and what waits for its next turn."""

    __slots__ = (
        "aside",
        "awaits_read",
        "begun",
        "children",
        "control",
        "direct",
        "ending",
        "execution",
        "has_heard",
        "heartbeats",
        "held",
        "is_busy",
        "is_loading",
        "is_queued",
        "is_recovered",
        "is_row_stale",
        "key",
        "left_over",
        "looked_for",
        "normal",
        "origin",
        "outbox",
        "partition",
        "pushed_due",
        "row",
        "skips_pause",
        "state",
        "wants_turn",
    )

    def __init__(self, key: InstanceKey, partition: int) -> None:
        self.key = key
        self.partition = partition
        self.row: InstanceRow | None = None
        self.execution: Execution | None = None
        self.direct: DirectStart | None = None  # until its first step is durable: its start is nowhere else
        self.begun: Begun | None = None  # until the first turn of a generation that begins with a prefix is durable
        self.state = OwnerState()
        # Lists, taken from in front by the hundred: a deque would take 600 bytes of each instance that merely waits.
        self.control: list[Pending] = []
        self.normal: list[Pending] = []
        self.aside: list[
            Pending
        ] = []  # updates that wait, unrecorded, until the code can be asked: while it is suspended
        self.outbox: list[Outgoing | Offer] = []  # of a large turn: what is still to be sent
        self.ending: HistoryEvent | None = None  # the run's outcome, on record, final once the outbox is empty
        self.is_busy = False  # a turn of it is not yet durable
        self.is_loading = False
        self.is_queued = False  # in the ready queue
        self.is_recovered = False  # what a former owner held has been started again
        self.is_row_stale = False  # another run has begun: the row is read again
        self.awaits_read = False  # the store has just let its messages go: they belong to what its next turn does
        self.left_over: Sequence[
            HistoryEvent
        ] = ()  # of what is ended unread: the events that earlier generations have left
        self.looked_for: tuple[str, int] | None = None  # the run and generation whose start was looked for in the store
        self.has_heard = False  # messages of it were heard before its row was known: older ones may be in the store
        self.wants_turn = False  # a timer is due, an opening waits, or it is to be tried again
        self.skips_pause = False  # though parked, it is tried now: somebody steers it, or its worker is a new one
        self.pushed_due: int | None = None
        self.origin = NOWHERE  # what those that it starts follow from
        self.held: set[TaskAddress] = set()  # attempts of it that run here without a row
        self.heartbeats: dict[str, bytes] = {}  # read with the history: what a former owner's attempts had told
        self.children: list[InstanceRow] | None = None  # unfinished ones, looked up before it is terminated

    @property
    def runs_activities(self) -> bool:
        """True while activities run here for it, or their outcomes wait for its next turn: another owner would repeat them."""
        return bool(self.held) or (self.direct is None and any(pending.message is None for pending in self.normal))

    @property
    def is_idle(self) -> bool:
        """True when nothing would be lost by forgetting it."""
        return not (
            self.is_busy
            or self.is_loading
            or self.is_queued
            or self.wants_turn
            or self.awaits_read
            or self.control
            or self.normal
            or self.aside
            or self.outbox
            or self.held
        )

    @property
    def has_work(self) -> bool:
        """True when a turn would have something to do."""
        return bool(self.control or self.normal or self.wants_turn or self.outbox)

    @property
    def waiting(self) -> Iterator[Pending]:
        """All arrivals in memory."""
        yield from self.control
        yield from self.aside
        yield from self.normal

    def take(self, limit: int) -> list[Pending]:
        """Take pending arrivals, steering first, and what was put aside; the arrivals of one message are never parted."""
        if self.aside:
            self.normal[:0], self.aside = self.aside, []
        if not self.control and len(self.normal) <= limit:
            taken, self.normal = self.normal, []
            return taken
        taken = []
        for queue in (self.control, self.normal):
            count = min(max(limit - len(taken), 0), len(queue))
            while 0 < count < len(queue) and not queue[count - 1].is_last:
                count += 1
            taken += queue[:count]
            del queue[:count]
        return taken

    def put_back(self, pending: Iterable[Pending]) -> None:
        """Return taken arrivals to the front, in their order."""
        items = list(pending)
        self.control[:0] = [item for item in items if item.is_control]
        self.normal[:0] = [item for item in items if not item.is_control]

    def put_back_start(self, pending: Iterable[Pending], run_id: str) -> list[Pending]:
        """Return what is the start of a run to the front; give the others."""
        others: list[Pending] = []
        starts: list[Pending] = []
        for item in pending:
            (starts if item.starts(run_id) else others).append(item)
        self.put_back(starts)
        return others

    def has_start(self, run_id: str) -> bool:
        """Tell whether the start of a run is in memory."""
        return any(item.starts(run_id) for item in self.waiting)

    def release(self, kept_max: int) -> list[int]:
        """Let go of the messages behind the first ones; return their sequences. Local outcomes stay: they are nowhere else."""
        if len(self.normal) <= kept_max:
            return []
        first = {id(item.message) for item in itertools.islice(self.normal, kept_max)}
        gone = [item for item in self.normal if item.message is not None and id(item.message) not in first]
        left = {id(item) for item in gone}
        self.normal = [item for item in self.normal if id(item) not in left]
        return [item.message.sequence for item in gone if item.message is not None]

    def beginning(self) -> Pending | None:
        """Return the arrival that says what its present generation begins with, of one that begins with a prefix."""
        row = self.row
        if row is None or row.records:
            return None
        of_run = (item for item in (*self.control, *self.normal) if item.run_id == row.run_id)
        return next(
            (item for item in of_run if isinstance(item.event, OrchestrationRewound | OrchestrationForked)), None
        )

    def undelivered(self) -> Sequence[HistoryEvent]:
        """Return the events that nobody has consumed, as far as they are known, of a run that is ended by force."""
        return self.left_over if self.execution is None else self.execution.undelivered()

    def go_first(self, pending: Pending) -> None:
        """Let an arrival be the first that is taken."""
        queue = self.control if pending in self.control else self.normal
        queue.remove(pending)
        self.control.insert(0, pending)

    def drop_execution(self) -> Execution | None:
        """Forget the engine; it is made again by replay. The caller closes what is returned."""
        execution, self.execution, self.begun = self.execution, None, None
        return execution
