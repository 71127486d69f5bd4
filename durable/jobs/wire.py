"""Jobs as bytes: how a tree travels to its instance, and what is sent to it and along with attempts afterwards.

    input of the instance     {"jobs": [job, …], "parts": n}, the first jobs and how many events bring the others
    event PART                [job, …]
    event COMMAND             a `Command`, from clients and from jobs that run
    attachment of a request   a `Ticket`: which job an attempt is for
    attachment of an outcome  a `Stub`: what the attempt leaves for the tree
    memo                      a `Trace`: what is left of a job for those below it

A job is a list of the fields of `JobSpec` in their order, without those at the end that are as usual. Its parent is a place in
the same list of jobs, each before its children. Requests are payloads inside of the whole, which is sealed as one.

Every decoder here raises PayloadError, and nothing else, for whatever bytes.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any, Final, TypeVar

import msgpack

from durable import payloads
from durable.errors import FailureDetails
from durable.jobs.model import JobStatus, Priority, RunCondition
from durable.payloads import PayloadError
from durable.records import details_from_plain, details_to_plain, reason_of, require

TREE: Final = "durable.jobs"
"""The name of what runs the trees."""

PART: Final = "durable.jobs/part"
COMMAND: Final = "durable.jobs/command"

TICKET_MARK: Final = b"j"
"""What the attachment of a job's request begins with: then comes the sealed ticket."""

JOB_TAG: Final = "durable.job"
"""The tag of a child orchestration that says which job of its parent's tree it is."""

NO_PARENT: Final = -1
"""Stands for the parent of the first job of a list: none, or a job that is not in it."""

T = TypeVar("T")


class Kind(enum.StrEnum):
    """What a job's function is; NAME where only the worker can tell."""

    ACTIVITY = "a"
    ORCHESTRATOR = "o"
    NAME = ""


@dataclasses.dataclass(frozen=True, slots=True)
class JobSpec:
    """A job as its tree keeps it: what `Job` says, with times in microseconds and the request encoded."""

    parent: int
    kind: Kind
    name: str
    version: str | None = None
    request: bytes | None = None
    condition: RunCondition = RunCondition.ON_SUCCESS
    at_us: int | None = None
    delay_us: int = 0
    retries: int = 0
    intervals_us: tuple[int, ...] = ()
    timeout_us: int | None = None
    priority: Priority = Priority.NORMAL
    description: str = ""

    def to_plain(self) -> list[Any]:
        """Return what msgpack carries."""
        found = [getattr(self, name) for name in _FIELDS]
        while found[-1] == _USUAL[len(found) - 1]:
            found.pop()
        return [_field_to_plain(name, value) for name, value in zip(_FIELDS, found, strict=False)]

    @classmethod
    def from_plain(cls, plain: Any) -> JobSpec:
        """Read what `to_plain` gave; further fields are ignored. Raises anything for what is none."""
        require(list, plain)
        return cls(*(_field_from_plain(name, value) for name, value in zip(_FIELDS, plain, strict=False)))

    def __post_init__(self) -> None:
        if self.timeout_us == 0 or min(self.delay_us, self.retries, self.timeout_us or 0, *self.intervals_us) < 0:
            raise ValueError(f"job '{self.name}' has a number that is none of a job's")
        if not self.name or not self.condition:
            raise ValueError(f"job '{self.name}' has no name, or no condition")


_FIELDS: Final = tuple(field.name for field in dataclasses.fields(JobSpec))
_USUAL: Final = tuple(field.default for field in dataclasses.fields(JobSpec))

_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "parent": int,
    "kind": str,
    "name": str,
    "version": (str, NoneType),
    "request": (bytes, NoneType),
    "condition": int,
    "at_us": (int, NoneType),
    "delay_us": int,
    "retries": int,
    "intervals_us": list,
    "timeout_us": (int, NoneType),
    "priority": str,
    "description": str,
}
"""What each field is on the wire, exactly."""

_CONVERTED: Final[Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]]] = {
    "kind": (lambda kind: kind.value, Kind),
    "condition": (lambda condition: condition.value, RunCondition),
    "intervals_us": (list, lambda spans: _whole(spans)),
    "priority": (lambda priority: priority.value, Priority),
}


def _whole(numbers: list[Any]) -> tuple[int, ...]:
    require(int, *numbers)
    return tuple(numbers)


def _field_to_plain(name: str, value: Any) -> Any:
    return _CONVERTED[name][0](value) if name in _CONVERTED else value


def _field_from_plain(name: str, plain: Any) -> Any:
    require(_TYPES[name], plain)
    return _CONVERTED[name][1](plain) if name in _CONVERTED else plain


def specs_to_plain(specs: Sequence[JobSpec]) -> list[Any]:
    """Return a list of jobs as msgpack carries it."""
    return [spec.to_plain() for spec in specs]


def specs_from_plain(plain: Any, *, first: int = 0) -> list[JobSpec]:
    """Read a list of jobs, of which the first is number `first` of a whole. Raises anything for what is none."""
    require(list, plain)
    specs = [JobSpec.from_plain(item) for item in plain]
    for place, spec in enumerate(specs, first):
        if not (-1 if place == 0 else 0) <= spec.parent < max(place, 0):
            raise ValueError(f"job {place} has a parent {spec.parent}")
    return specs


# ---- a tree on its way to its instance


@dataclasses.dataclass(frozen=True, slots=True)
class TreeInput:
    """The first jobs of a tree, and how many events bring the others."""

    jobs: Sequence[JobSpec]
    parts: int = 0

    def to_plain(self) -> dict[str, Any]:
        """Return the input of the instance."""
        return {"jobs": specs_to_plain(self.jobs), "parts": self.parts}

    @classmethod
    def decode(cls, plain: Any) -> TreeInput:
        """Read it from the decoded payload."""
        return _read("the input of a job tree", lambda: cls._from_plain(plain))

    @classmethod
    def _from_plain(cls, plain: Any) -> TreeInput:
        require(dict, plain)
        require(int, plain["parts"])
        jobs = specs_from_plain(plain["jobs"])
        if not jobs:
            raise ValueError("no job")
        return cls(jobs, plain["parts"])


def decode_part(plain: Any, first: int) -> list[JobSpec]:
    """Read the decoded payload of a part, whose first job is number `first` of the tree."""
    return _read("a part of a job tree", lambda: specs_from_plain(plain, first=first))


# ---- what is sent to a tree afterwards


class Do(enum.StrEnum):
    """What a command is about."""

    ADD = "add"
    CANCEL = "cancel"
    CHANGE = "change"
    DELETE = "delete"


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """What is to become of a job of a tree; of CANCEL without one: of all.

    `mark` names the command: one that comes twice counts once, and who has sent it finds its answer by it. ADD brings
    `jobs`, CHANGE `changes` by the fields of `JobSpec`.
    """

    do: Do
    mark: str
    job: int | None = None
    reason: str = ""
    jobs: Sequence[JobSpec] = ()
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """Return it as an event's data."""
        return {
            "do": self.do.value,
            "mark": self.mark,
            "job": self.job,
            "reason": self.reason,
            "jobs": specs_to_plain(self.jobs),
            "changes": {name: _field_to_plain(name, value) for name, value in self.changes.items()},
        }

    @classmethod
    def decode(cls, plain: Any) -> Command:
        """Read it from the decoded payload of an event."""
        return _read("a command to a job tree", lambda: cls._from_plain(plain))

    @classmethod
    def _from_plain(cls, plain: Any) -> Command:
        require(dict, plain, plain["changes"])
        require(str, plain["do"], plain["mark"], plain["reason"], *plain["changes"])
        require((int, NoneType), plain["job"])
        if not CHANGEABLE.issuperset(plain["changes"]):
            raise ValueError(f"a change of {sorted(plain['changes'])}")
        changes = {name: _field_from_plain(name, value) for name, value in plain["changes"].items()}
        jobs = specs_from_plain(plain["jobs"])
        return cls(Do(plain["do"]), plain["mark"], plain["job"], plain["reason"], jobs, changes)


CHANGEABLE: Final = frozenset(_FIELDS) - {"parent", "kind", "name", "version"}
"""What may be changed of a job that was not asked for."""


def child_mark(job: int, attempt: int, position: int) -> str:
    """Return the mark of a child that an attempt has added: the same on each delivery of that attempt."""
    return f"{job}/{attempt}/{position}"


# ---- what goes along with an attempt


@dataclasses.dataclass(frozen=True, slots=True)
class Ticket:
    """Which job an attempt is for: its number, its parent's (None for the root), and when it was due."""

    job: int
    parent: int | None
    due_us: int

    def encode(self) -> bytes:
        """Return the attachment of a request."""
        return payloads.encode([self.job, self.parent, self.due_us])

    @classmethod
    def decode(cls, data: bytes) -> Ticket:
        """Read the attachment of a request, unsealed."""
        return _read("the ticket of a job", lambda: cls._from_plain(payloads.decode(data)))

    @classmethod
    def _from_plain(cls, plain: Any) -> Ticket:
        require(list, plain)
        job, parent, due_us = plain[:3]
        require(int, job, due_us)
        require((int, NoneType), parent)
        return cls(job, parent, due_us)


@dataclasses.dataclass(frozen=True, slots=True)
class Stub:
    """What an attempt leaves for its tree: when it began, whether it skipped, and the children that it has added.

    `children`: (position, jobs); the condition of the first job of each says whether it was sent at once, too.
    """

    started_us: int
    skip_reason: str | None = None
    children: Sequence[tuple[int, Sequence[JobSpec]]] = ()

    def encode(self) -> bytes:
        """Return the attachment of an outcome."""
        children = [[position, specs_to_plain(jobs)] for position, jobs in self.children]
        # Its size was checked child by child, where the user's code can be told.
        packed: bytes = msgpack.packb([self.started_us, self.skip_reason, children])
        return packed

    @classmethod
    def decode(cls, data: bytes) -> Stub:
        """Read the attachment of an outcome, unsealed."""
        return _read("what a job's attempt has left", lambda: cls._from_plain(payloads.decode(data, strict_size=False)))

    @classmethod
    def _from_plain(cls, plain: Any) -> Stub:
        require(list, plain)
        started_us, skip_reason, children = plain[:3]
        require(int, started_us)
        require((str, NoneType), skip_reason)
        require(list, children, *children)
        require(int, *(child[0] for child in children))
        return cls(started_us, skip_reason, [(child[0], specs_from_plain(child[1])) for child in children])


@dataclasses.dataclass(frozen=True, slots=True)
class Trace:
    """What is left of a job for those below it. Request and result are payloads as they are stored, each sealed."""

    name: str
    status: JobStatus
    request: bytes | None
    result: bytes | None
    error: FailureDetails | None
    parent: int | None

    def encode(self) -> bytes:
        """Return the data of a memo."""
        packed: bytes = msgpack.packb(
            [self.name, self.status.value, self.request, self.result, details_to_plain(self.error), self.parent]
        )
        return packed

    @classmethod
    def decode(cls, data: bytes) -> Trace:
        """Read the data of a memo."""
        return _read("the trace of a job", lambda: cls._from_plain(payloads.decode(data, strict_size=False)))

    @classmethod
    def _from_plain(cls, plain: Any) -> Trace:
        require(list, plain)
        name, status, request, result, error, parent = plain[:6]
        require(str, name, status)
        require((bytes, NoneType), request, result)
        require((int, NoneType), parent)
        return cls(name, JobStatus(status), request, result, details_from_plain(error), parent)


def trace_key(run_id: str, job: int) -> str:
    """Return the key of the memo with a job's trace; it goes with its run."""
    return f"run/{run_id}/job/{job}/"


def started_prefix(run_id: str) -> str:
    """Return what the keys of a run's notes of started attempts begin with; the task id follows."""
    return f"run/{run_id}/job-started/"


def started_key(run_id: str, task_id: int) -> str:
    """Return the key of the memo that says when an attempt began that any worker could claim."""
    return f"{started_prefix(run_id)}{task_id}"


def _read(what: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except PayloadError:
        raise
    except Exception as error:  # whatever garbage does to the decoder is one fact
        raise PayloadError(f"{what} cannot be read: {reason_of(error)}") from error
