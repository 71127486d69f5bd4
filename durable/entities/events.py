"""What entities add to histories.

An orchestrator's history has what it asked of entities (`EntityOperationCalled`, `EntityOperationSignaled`,
`EntityLockRequested`, `EntityLockReleased`) and what they answered (`EntityOperationCompleted`, `EntityOperationFailed`,
`EntityLockAcquired`). An entity's own history has what arrived (`EntityOperationReceived`, `EntityLockReceived`,
`EntityLockLeft`: events that wait in its mailbox like any other) and what it did (`EntityOperationPerformed`,
`EntityLockGranted`), beside what its operations sent and started.

Invariant: a request holds all that it takes to build its message again (`outgoing_messages`): the record is the outbox.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar, Final

from durable import events as ev
from durable.entities.ids import EntityId
from durable.errors import FailureDetails
from durable.events import Payload, TaskRef
from durable.outgoing import Beginning, Outgoing, Sender, register_messages
from durable.records import register_event

OPERATIONS: Final = "operation"
"""The name under which operations and lock requests wait in an entity's mailbox: one after the other, as they came."""

IN_LOCK: Final = "in lock"
"""The name for what the holder of a lock sends: it passes those that wait for the lock's end."""


# ---- in the history of an orchestration


@dataclasses.dataclass(frozen=True, slots=True)
class EntityOperationCalled(ev.Request):
    """An operation was called. `lock`: the request of the lock in which that was done, None outside of any."""

    task_id: int
    name: str
    key: str
    operation: str
    input: Payload
    digest: bytes | None = None
    lock: int | None = None
    line: str = ""

    code: ClassVar[int] = 40
    payload_field: ClassVar[str | None] = "input"

    @property
    def shape(self) -> tuple[Any, ...]:
        """The entity, the operation, the lock and the position."""
        return ("EntityOperationCalled", self.name, self.key, self.operation, self.lock, self.task_id)


@dataclasses.dataclass(frozen=True, slots=True)
class EntityOperationSignaled(ev.Request):
    """An operation was signaled: nobody waits for it. `due`: when it is to arrive (microseconds UTC), None: at once."""

    task_id: int
    name: str
    key: str
    operation: str
    input: Payload
    digest: bytes | None = None
    due: int | None = None
    lock: int | None = None
    line: str = ""

    code: ClassVar[int] = 41
    payload_field: ClassVar[str | None] = "input"

    @property
    def shape(self) -> tuple[Any, ...]:
        """The entity, the operation, the lock and the position."""
        return ("EntityOperationSignaled", self.name, self.key, self.operation, self.lock, self.task_id)


@dataclasses.dataclass(frozen=True, slots=True)
class EntityOperationCompleted(ev.Answer):
    """A called operation returned."""

    task_id: int
    result: Payload

    code: ClassVar[int] = 42
    payload_field: ClassVar[str | None] = "result"
    late: ClassVar[str] = "nobody waits for the operation any more"


@dataclasses.dataclass(frozen=True, slots=True)
class EntityOperationFailed(ev.Answer):
    """A called operation raised; the entity's state is as it was before."""

    task_id: int
    details: FailureDetails

    code: ClassVar[int] = 43
    late: ClassVar[str] = "nobody waits for the operation any more"


@dataclasses.dataclass(frozen=True, slots=True)
class EntityLockRequested(ev.Request):
    """The lock of one entity was asked for: several are asked for one after the other, in the order of the entities."""

    task_id: int
    name: str
    key: str
    line: str = ""

    code: ClassVar[int] = 44

    @property
    def shape(self) -> tuple[Any, ...]:
        """The entity and the position."""
        return ("EntityLockRequested", self.name, self.key, self.task_id)


@dataclasses.dataclass(frozen=True, slots=True)
class EntityLockAcquired(ev.Answer):
    """The entity serves nobody else now."""

    task_id: int

    code: ClassVar[int] = 45
    late: ClassVar[str] = "the lock was given up"


@dataclasses.dataclass(frozen=True, slots=True)
class EntityLockReleased(ev.Request):
    """A lock was given back, or given up before it was acquired. `lock`: its request."""

    lock: int
    name: str
    key: str

    code: ClassVar[int] = 46

    @property
    def shape(self) -> tuple[Any, ...]:
        """The entity and the lock."""
        return ("EntityLockReleased", self.name, self.key, self.lock)


# ---- in the history of an entity


@dataclasses.dataclass(frozen=True, slots=True)
class EntityOperationReceived(ev.EventRaised):
    """An operation arrived, with its input as `data`. `caller`: who waits for its result, None for a signal.

    `holder`: the lock in which it was asked for. `due`: it came early, because the entity did not exist yet.
    """

    operation: str = ""
    caller: TaskRef | None = None
    holder: TaskRef | None = None
    due: int | None = None

    code: ClassVar[int] = 47


@dataclasses.dataclass(frozen=True, slots=True)
class EntityLockReceived(ev.EventRaised):
    """Somebody wants the lock. `holder`: the request behind it, which is also what the lock is called by."""

    holder: TaskRef | None = None

    code: ClassVar[int] = 48


@dataclasses.dataclass(frozen=True, slots=True)
class EntityLockLeft(ev.EventRaised):
    """A lock is over, or nobody wants it any more."""

    holder: TaskRef | None = None

    code: ClassVar[int] = 49


@dataclasses.dataclass(frozen=True, slots=True)
class EntityOperationPerformed(ev.Request):
    """An operation was performed, or failed with `details` and changed nothing. `state_digest`: of the state after it."""

    task_id: int
    operation: str
    result: Payload = None
    digest: bytes | None = None
    details: FailureDetails | None = None
    caller: TaskRef | None = None
    state_digest: bytes | None = None

    code: ClassVar[int] = 50
    payload_field: ClassVar[str | None] = "result"

    @property
    def shape(self) -> tuple[Any, ...]:
        """The operation, whether it failed, and the position."""
        return ("EntityOperationPerformed", self.operation, self.details is not None, self.task_id)


@dataclasses.dataclass(frozen=True, slots=True)
class EntityLockGranted(ev.Request):
    """The lock was given to somebody; from now on nobody else is served."""

    task_id: int
    holder: TaskRef

    code: ClassVar[int] = 51

    @property
    def shape(self) -> tuple[Any, ...]:
        """The position."""
        return ("EntityLockGranted", self.task_id)


EVENTS: Final = (
    EntityOperationCalled,
    EntityOperationSignaled,
    EntityOperationCompleted,
    EntityOperationFailed,
    EntityLockRequested,
    EntityLockAcquired,
    EntityLockReleased,
    EntityOperationReceived,
    EntityLockReceived,
    EntityLockLeft,
    EntityOperationPerformed,
    EntityLockGranted,
)


# ---- what requests send


def received(
    operation: str, payload: Payload, *, caller: TaskRef | None = None, holder: TaskRef | None = None
) -> EntityOperationReceived:
    """Return an operation as it arrives at its entity."""
    name = OPERATIONS if holder is None else IN_LOCK
    return EntityOperationReceived(name, payload, operation=operation, caller=caller, holder=holder)


def lock_left(entity: EntityId[Any], lock: TaskRef) -> Outgoing:
    """Return the message that gives a lock back, or takes its request back. Where the entity is not there, there is no lock."""
    return Outgoing(entity.instance_key, EntityLockLeft(IN_LOCK, None, holder=lock))


def _of_call(request: EntityOperationCalled, sender: Sender) -> Iterator[Outgoing]:
    me = _ref(sender, request.task_id)
    holder = None if request.lock is None else _ref(sender, request.lock)
    event = received(request.operation, request.input, caller=me, holder=holder)
    yield _to_entity(request, event, sender)


def _of_signal(request: EntityOperationSignaled, sender: Sender) -> Iterator[Outgoing]:
    holder = None if request.lock is None else _ref(sender, request.lock)
    event = received(request.operation, request.input, holder=holder)
    message = _to_entity(request, event, sender)
    if request.due is not None:
        early = Beginning(request.name, dataclasses.replace(event, due=request.due))
        message = dataclasses.replace(message, visible_at=request.due, begins=early)
    yield message


def _of_lock(request: EntityLockRequested, sender: Sender) -> Iterator[Outgoing]:
    event = EntityLockReceived(OPERATIONS, None, holder=_ref(sender, request.task_id))
    yield _to_entity(request, event, sender)


def _of_release(request: EntityLockReleased, sender: Sender) -> Iterator[Outgoing]:
    yield lock_left(EntityId(request.name, request.key), _ref(sender, request.lock))


def _of_outcome(request: EntityOperationPerformed, sender: Sender) -> Iterator[Outgoing]:
    caller = request.caller
    if caller is None:
        return
    answer: ev.Answer = EntityOperationCompleted(caller.task_id, request.result)
    if request.details is not None:
        answer = EntityOperationFailed(caller.task_id, request.details)
    yield Outgoing(caller.key, answer, run_id=caller.run_id, generation=caller.generation)


def _of_grant(request: EntityLockGranted, sender: Sender) -> Iterator[Outgoing]:
    holder = request.holder
    answer = EntityLockAcquired(holder.task_id)
    yield Outgoing(holder.key, answer, run_id=holder.run_id, generation=holder.generation)


def _ref(sender: Sender, task_id: int) -> TaskRef:
    return TaskRef(*sender.key, sender.run_id, sender.generation, task_id)


def _to_entity(request: Any, event: ev.EventRaised, sender: Sender) -> Outgoing:
    target = EntityId(request.name, request.key).instance_key
    return Outgoing(target, event, sender=_ref(sender, request.task_id), begins=Beginning(request.name, event))


def register_events() -> None:
    """Make the events known to histories, and say what the requests among them send."""
    for event in EVENTS:
        register_event(event)
    register_messages(EntityOperationCalled, _of_call)
    register_messages(EntityOperationSignaled, _of_signal)
    register_messages(EntityLockRequested, _of_lock)
    register_messages(EntityLockReleased, _of_release)
    register_messages(EntityOperationPerformed, _of_outcome)
    register_messages(EntityLockGranted, _of_grant)
