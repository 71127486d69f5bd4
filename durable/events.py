"""The events of a history: one family of frozen values, the same in the engine, in the store and in `handle.history()`.

An event is a past fact. A **request** is what the orchestrator asked for; an **arrival** is what the world answered. A
request has a shape (compared on every replay), values (compared by digest) and notes (never compared): see `shape` and
`values`. A `task_id` is the request's position in its generation, counted from 0; what answers a request names it.

In the engine and in the store, payload fields hold encoded bytes and `sequence` and `timestamp` are not set. A `History`
read by a client gives copies in which payloads are plain data and both are set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime

from durable.errors import FailureDetails

Payload: TypeAlias = Any
"""Encoded user data (`bytes`, or None for no value); in a client's `History` the plain data that it stands for."""

ORCHESTRATION = "o"
"""The kind of ordinary instances. Features add kinds of their own, so that an entity is never a user's id."""

ACTIVITY_IS_OVER = "the activity call has an outcome already"
CHILD_IS_OVER = "the child has an outcome already"
"""Why the answer to a request is refused that has one."""


class InstanceKey(NamedTuple):
    """What an instance is found by: the user's id, and beside it a kind."""

    id: str
    kind: str = ORCHESTRATION


class TaskRef(NamedTuple):
    """A request of some instance: whom an outcome is for. Never used again for another request."""

    instance_id: str
    kind: str
    run_id: str
    generation: int
    task_id: int

    @property
    def key(self) -> InstanceKey:
        """The key of the instance that made the request."""
        return InstanceKey(self.instance_id, self.kind)


@dataclasses.dataclass(frozen=True, slots=True)
class HistoryEvent:
    """Base of all events. `sequence` counts from 0 over one generation; `timestamp` is the time of the event's turn, UTC."""

    sequence: int = dataclasses.field(default=-1, kw_only=True, compare=False)
    timestamp: datetime | None = dataclasses.field(default=None, kw_only=True, compare=False)

    code: ClassVar[int] = -1
    is_request: ClassVar[bool] = False
    payload_field: ClassVar[str | None] = None

    @property
    def shape(self) -> tuple[Any, ...]:
        """What is always compared on replay: the kind of request, its name, version, target and position."""
        return (type(self).__name__,)


class Arrival(HistoryEvent):
    """What the world answered."""

    __slots__ = ()


class Answer(Arrival):
    """What answers one request, that of its `task_id`. A second one is refused, and so is one that nobody waits for."""

    __slots__ = ()
    task_id: int
    late: ClassVar[str] = "the request has an answer already, or was given up"


class Remark(HistoryEvent):
    """What is only noted, for whoever reads the history: no code runs at it, and a replay passes over it."""

    __slots__ = ()


class Request(HistoryEvent):
    """What the orchestrator asked for."""

    __slots__ = ()
    is_request = True


# ---- activities


class Limit(NamedTuple):
    """How many attempts of an activity may be under way, or begin, at once: None is no limit.

    At most `max_concurrency` at a time, and at most `rate` starts within `per` microseconds; of one `key`, where there is one.
    `error`: why no key could be told, so that the attempt fails.
    """

    max_concurrency: int | None = None
    rate: int | None = None
    per: int | None = None
    key: str | None = None
    error: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ActivityOptions:
    """How an attempt is to be run. Times in microseconds; None: no limit.

    `timeout`: one attempt from its start; `heartbeat_timeout`: from beat to beat; `queue_timeout`: from the request of the
    attempt to its start. `attachment`: what a feature sends along to the attempt, for the context that it makes of it.
    `limit`: what it needs a permit for.
    """

    queue: str = "default"
    timeout: int | None = None
    heartbeat_timeout: int | None = None
    queue_timeout: int | None = None
    priority: int = 1
    attachment: Payload = None
    limit: Limit | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ActivityScheduled(Request):
    """An attempt of an activity was asked for. `call_id` is the task id of the first attempt of the same call."""

    task_id: int
    name: str
    version: str | None
    input: Payload
    digest: bytes | None = None
    attempt: int = 1
    call_id: int = -1
    options: ActivityOptions = ActivityOptions()
    tags: Mapping[str, str] | None = None
    last_heartbeat: Payload = None
    line: str = ""

    code: ClassVar[int] = 1
    payload_field: ClassVar[str | None] = "input"

    @property
    def shape(self) -> tuple[Any, ...]:
        """Name, version, position and attempt."""
        return ("ActivityScheduled", self.name, self.version, self.task_id, self.attempt)


@dataclasses.dataclass(frozen=True, slots=True)
class ActivityCompleted(Answer):
    """An attempt returned. `attachment`: what a feature sends along with the outcome."""

    task_id: int
    result: Payload
    attachment: Payload = None

    code: ClassVar[int] = 2
    payload_field: ClassVar[str | None] = "result"
    late: ClassVar[str] = ACTIVITY_IS_OVER


@dataclasses.dataclass(frozen=True, slots=True)
class ActivityFailed(Answer):
    """An attempt raised, ran into a timeout (`is_timeout`) or was lost with its workers."""

    task_id: int
    details: FailureDetails
    is_timeout: bool = False
    attachment: Payload = None
    last_heartbeat: Payload = None

    code: ClassVar[int] = 3
    late: ClassVar[str] = ACTIVITY_IS_OVER


@dataclasses.dataclass(frozen=True, slots=True)
class ActivityCancelled(Request):
    """The orchestrator gave an attempt up: a running one is told, a late outcome is dropped."""

    task_id: int

    code: ClassVar[int] = 4

    @property
    def shape(self) -> tuple[Any, ...]:
        """The cancelled request's position."""
        return ("ActivityCancelled", self.task_id)


# ---- timers


@dataclasses.dataclass(frozen=True, slots=True)
class TimerCreated(Request):
    """A durable timer was set for `due` (microseconds UTC). `purpose`: "" for the user's own, else what it serves."""

    task_id: int
    due: int
    purpose: str = ""
    line: str = ""

    code: ClassVar[int] = 5

    @property
    def shape(self) -> tuple[Any, ...]:
        """Position and purpose."""
        return ("TimerCreated", self.purpose, self.task_id)


@dataclasses.dataclass(frozen=True, slots=True)
class TimerFired(Arrival):
    """A timer became due."""

    task_id: int

    code: ClassVar[int] = 6


@dataclasses.dataclass(frozen=True, slots=True)
class TimerCancelled(Request):
    """A timer was given up before it was due; it never fires."""

    task_id: int

    code: ClassVar[int] = 7

    @property
    def shape(self) -> tuple[Any, ...]:
        """The cancelled request's position."""
        return ("TimerCancelled", self.task_id)


# ---- children and detached orchestrations


@dataclasses.dataclass(frozen=True, slots=True)
class SubOrchestrationScheduled(Request):
    """A child was asked for. With an `end_event` it is detached, and its end arrives as that external event."""

    task_id: int
    name: str
    version: str | None
    instance_id: str
    input: Payload
    digest: bytes | None = None
    run_id: str = ""
    kind: str = ORCHESTRATION
    attempt: int = 1
    tags: Mapping[str, str] | None = None
    is_detached: bool = False
    end_event: str | None = None
    start_at: int | None = None
    line: str = ""

    code: ClassVar[int] = 8
    payload_field: ClassVar[str | None] = "input"

    @property
    def shape(self) -> tuple[Any, ...]:
        """Name, version, the child's key and position."""
        return ("SubOrchestrationScheduled", self.name, self.version, self.kind, self.instance_id, self.task_id)


@dataclasses.dataclass(frozen=True, slots=True)
class SubOrchestrationCompleted(Answer):
    """A child returned."""

    task_id: int
    result: Payload
    attachment: Payload = None

    code: ClassVar[int] = 9
    payload_field: ClassVar[str | None] = "result"
    late: ClassVar[str] = CHILD_IS_OVER


@dataclasses.dataclass(frozen=True, slots=True)
class SubOrchestrationFailed(Answer):
    """A child failed, was cancelled or terminated, or (`is_refused`) could not be started: its id is in use."""

    task_id: int
    details: FailureDetails
    attachment: Payload = None
    is_refused: bool = False

    code: ClassVar[int] = 10
    late: ClassVar[str] = CHILD_IS_OVER


@dataclasses.dataclass(frozen=True, slots=True)
class SubOrchestrationCancelled(Request):
    """The orchestrator gave a child up: the child is cancelled, its outcome is dropped."""

    task_id: int
    instance_id: str
    run_id: str
    kind: str = ORCHESTRATION

    code: ClassVar[int] = 11

    @property
    def shape(self) -> tuple[Any, ...]:
        """The cancelled request's position."""
        return ("SubOrchestrationCancelled", self.task_id)


# ---- external events


@dataclasses.dataclass(frozen=True, slots=True)
class EventRaised(Arrival):
    """An external event arrived. The end of a detached orchestration comes with `details` or an `attachment`.

    `is_carried`: an earlier generation has it on record too, and left it.
    """

    name: str
    data: Payload
    details: FailureDetails | None = None
    attachment: Payload = None
    is_carried: bool = False

    code: ClassVar[int] = 12
    payload_field: ClassVar[str | None] = "data"


@dataclasses.dataclass(frozen=True, slots=True)
class EventSent(Request):
    """An event was sent to another instance."""

    task_id: int
    instance_id: str
    name: str
    data: Payload
    digest: bytes | None = None
    kind: str = ORCHESTRATION
    line: str = ""

    code: ClassVar[int] = 13
    payload_field: ClassVar[str | None] = "data"

    @property
    def shape(self) -> tuple[Any, ...]:
        """Event name, target and position."""
        return ("EventSent", self.name, self.kind, self.instance_id, self.task_id)


# ---- the life of the orchestration


@dataclasses.dataclass(frozen=True, slots=True)
class OrchestrationStarted(Arrival):
    """A generation began. `seed` is what its ids and random numbers derive from; `python` the minor version that ran it.

    `writer`: who has written what comes first, where that was taken over (see OrchestrationRewound). `code_digest`: which code
    of that name and version made the requests that follow, as it was compiled by that Python; None: unknown. `trace`: see
    `durable.traces`.
    """

    name: str
    version: str | None
    input: Payload
    seed: str
    python: str
    parent: TaskRef | None = None
    tags: Mapping[str, str] | None = None
    scheduled_for: int = 0
    end_event: str | None = None
    depth: int = 0
    writer: TaskRef | None = None
    code_digest: bytes | None = None
    trace: str | None = None

    code: ClassVar[int] = 14
    payload_field: ClassVar[str | None] = "input"


@dataclasses.dataclass(frozen=True, slots=True)
class OrchestrationCodeChanged(Remark):
    """From here on the requests were made by other code of the same name and version (see OrchestrationStarted)."""

    code_digest: bytes | None
    python: str

    code: ClassVar[int] = 130


@dataclasses.dataclass(frozen=True, slots=True)
class OrchestrationSuspended(Arrival):
    """The instance was suspended: what arrives is recorded and waits for the resume."""

    reason: str = ""

    code: ClassVar[int] = 15


@dataclasses.dataclass(frozen=True, slots=True)
class OrchestrationResumed(Arrival):
    """The instance was resumed. Of what had arrived meanwhile its turn delivers `at_most` so many; another one the next."""

    reason: str = ""
    at_most: int | None = None

    code: ClassVar[int] = 16


@dataclasses.dataclass(frozen=True, slots=True)
class OrchestrationCancelRequested(Arrival):
    """Somebody asked the orchestration to cancel; it is raised in the code once."""

    reason: str = ""

    code: ClassVar[int] = 17


@dataclasses.dataclass(frozen=True, slots=True)
class OrchestrationTerminated(Arrival):
    """The instance was ended by force; no code ran. `recursive`: its unfinished children end with it."""

    reason: str = ""
    recursive: bool = True

    code: ClassVar[int] = 18


@dataclasses.dataclass(frozen=True, slots=True)
class OrchestrationCompleted(Request):
    """The orchestrator returned."""

    result: Payload
    digest: bytes | None = None

    code: ClassVar[int] = 19
    payload_field: ClassVar[str | None] = "result"


@dataclasses.dataclass(frozen=True, slots=True)
class OrchestrationFailed(Request):
    """An exception left the orchestrator."""

    details: FailureDetails

    code: ClassVar[int] = 20


@dataclasses.dataclass(frozen=True, slots=True)
class OrchestrationCancelled(Request):
    """The orchestrator let a requested cancellation out."""

    reason: str = ""

    code: ClassVar[int] = 21


@dataclasses.dataclass(frozen=True, slots=True)
class OrchestrationContinuedAsNew(Request):
    """The generation ended at its own wish; the next one begins with `input`."""

    input: Payload
    digest: bytes | None = None
    version: str | None = None
    carry_over_events: bool = True
    line: str = ""

    code: ClassVar[int] = 22
    payload_field: ClassVar[str | None] = "input"


@dataclasses.dataclass(frozen=True, slots=True)
class OrchestrationRewound(Arrival):
    """The run goes on: what precedes is what its generation `source` had done, without what had failed.

    What follows is this generation's own (`writer`), and derives from another `seed`.
    """

    reason: str = ""
    seed: str = ""
    source: int = 0
    writer: TaskRef | None = None

    code: ClassVar[int] = 60


@dataclasses.dataclass(frozen=True, slots=True)
class OrchestrationForked(Arrival):
    """A run of its own goes on here from the first `at` events of another run's history, `source`: they precede.

    What follows is this run's own (`writer`), and derives from another `seed`. `past`: those records, on their way.
    """

    at: int
    seed: str
    source: TaskRef
    writer: TaskRef | None = None
    past: bytes | None = None

    code: ClassVar[int] = 61


@dataclasses.dataclass(frozen=True, slots=True)
class AnswerKept(Arrival):
    """What a call returned in the generation that was rewound, for when it is asked for again.

    `request`: the mark of that call, of which there was one only. `unless`: the request whose failure had led to it; where
    that fails again, it is not kept any longer.
    """

    request: bytes | None
    result: Payload
    unless: int = -1

    code: ClassVar[int] = 62
    payload_field: ClassVar[str | None] = "result"


@dataclasses.dataclass(frozen=True, slots=True)
class PatchApplied(Request):
    """The code asked whether a change in place holds for this generation, and it does: see `ctx.patched`.

    A replay by code that asks no more passes over it.
    """

    patch_id: str
    line: str = ""

    code: ClassVar[int] = 63

    @property
    def shape(self) -> tuple[Any, ...]:
        """Which change it is."""
        return ("PatchApplied", self.patch_id)


GOES_ON = (OrchestrationRewound, OrchestrationForked)
"""The events with which a run goes on after what it has taken over."""

OUTCOMES = (
    OrchestrationCompleted,
    OrchestrationFailed,
    OrchestrationCancelled,
    OrchestrationTerminated,
    OrchestrationContinuedAsNew,
)
"""The events that end a generation."""


def values(event: HistoryEvent) -> tuple[bytes | None, bytes | None, tuple[int | None, bytes | None]]:
    """Return a request's values: its payload; the digest of the payload's plaintext if it is not itself plain; what is small.

    That is its due time, and the digest of a state that it leaves.
    """
    payload = getattr(event, event.payload_field) if event.payload_field else None
    small = getattr(event, "due", None), getattr(event, "state_digest", None)
    return payload, getattr(event, "digest", None), small


def outcome_details(outcome: HistoryEvent) -> FailureDetails | None:
    """Return what a parent learns of an end that is no completion."""
    if isinstance(outcome, OrchestrationFailed):
        return outcome.details
    if isinstance(outcome, OrchestrationCancelled):
        return _end_details("OrchestrationCancelledError", outcome.reason or "the orchestration was cancelled")
    if isinstance(outcome, OrchestrationTerminated):
        return _end_details("OrchestrationTerminatedError", outcome.reason or "the orchestration was terminated")
    return None


def _end_details(name: str, message: str) -> FailureDetails:
    return FailureDetails(f"durable.errors.{name}", message, error_bases=("durable.errors.DurableError", "Exception"))


_TOLD = {
    "name": "",
    "key": "",
    "operation": "operation ",
    "version": "version ",
    "purpose": "",
    "instance_id": "",
    "task_id": "task ",
    "attempt": "attempt ",
}
"""Which fields of a request tell people which one it is."""


def describe_request(event: HistoryEvent | None) -> str:
    """Say in words what a request asks for, for explanations; version 0 is none."""
    if event is None:
        return "nothing"
    told = [(label, getattr(event, field, None)) for field, label in _TOLD.items()]
    return f"{event.shape[0]}({', '.join(f'{label}{value}' for label, value in told if value not in (None, '', '0'))})"
