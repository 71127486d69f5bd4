"""Permits of limited activities: what owners, workers and the keepers of limits say to each other.

An attempt of a limited activity is asked for like any other, but does not go to the queue before it has a permit. Each limit
(of a name, and of a key where it is divided) has a keeper, an instance of a kind of its own. The owner asks it for a permit
with the commit that records the request, sends the attempt to the queue when the permit comes, and says that it is left with
the commit that records the outcome, or the end of the run. A permit is called by the request that it is for, which no other
attempt ever has: so whatever is said twice, or late, means nothing else.

Invariant: for each permit that was asked for, one commit says that it is left.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import ClassVar, Final

from durable import events as ev
from durable.errors import FailureDetails
from durable.events import TaskRef
from durable.outgoing import Outgoing, Sender, register_messages
from durable.records import register_event

KIND: Final = "l"
"""The kind of instances that keep a limit."""

PROGRAM: Final = "durable.limits"
"""The name of what runs them."""

NAME: Final = "permits"
"""Under which all that a keeper is told arrives."""

ALL: Final = -1
"""In the place of a task id: all permits of a run's generation."""

ID_BYTES_MAX: Final = 512
"""As of every instance id."""

_ESCAPES: Final = (("%", "%25"), ("@", "%40"))
"""As in the id of an entity: a name is written without the mark that stands before it."""


def keeper_id(activity: str, key: str | None) -> str:
    """Return the instance id of the keeper of an activity's limit, or of one key's share; the key comes first."""
    name = activity
    for mark, written in _ESCAPES:
        name = name.replace(mark, written)
    found = name if key is None else f"{key}@{name}"
    if len(found.encode()) <= ID_BYTES_MAX:
        return found
    return f"{hashlib.blake2b(repr((activity, key)).encode(), digest_size=20).hexdigest()}@@"


# ---- what a keeper is told


@dataclasses.dataclass(frozen=True, slots=True)
class PermitWanted(ev.EventRaised):
    """Somebody wants a permit, by the limit as it is declared there. `holder`: the request that it is for.

    `activity`: its name. Of a lower `priority` number first. `asked_at`: when the attempt was asked for; `start_by`: until when
    it must have started, if it has a queue_timeout.
    """

    holder: TaskRef | None = None
    activity: str = ""
    max_concurrency: int | None = None
    rate: int | None = None
    per: int | None = None
    priority: int = 1
    asked_at: int = 0
    start_by: int | None = None

    code: ClassVar[int] = 52


@dataclasses.dataclass(frozen=True, slots=True)
class PermitUsed(ev.EventRaised):
    """The attempt with this permit has begun."""

    holder: TaskRef | None = None

    code: ClassVar[int] = 53


@dataclasses.dataclass(frozen=True, slots=True)
class PermitLeft(ev.EventRaised):
    """A permit is not needed any more, or not wanted; with the task ALL none of that run's generation is."""

    holder: TaskRef | None = None

    code: ClassVar[int] = 54


# ---- what a keeper answers


@dataclasses.dataclass(frozen=True, slots=True)
class PermitGiven(ev.Request):
    """A permit was given. In the history of a keeper."""

    task_id: int
    holder: TaskRef
    asked_at: int

    code: ClassVar[int] = 55

    @property
    def shape(self) -> tuple[object, ...]:
        """Who has it, and the position."""
        return ("PermitGiven", *self.holder, self.task_id)


@dataclasses.dataclass(frozen=True, slots=True)
class PermitRefused(ev.Request):
    """An attempt was not given a permit within its queue_timeout, of `span` microseconds: it has failed."""

    task_id: int
    holder: TaskRef
    activity: str
    span: int

    code: ClassVar[int] = 56

    @property
    def shape(self) -> tuple[object, ...]:
        """Whose attempt, and the position."""
        return ("PermitRefused", *self.holder, self.task_id)


@dataclasses.dataclass(frozen=True, slots=True)
class PermitGranted(ev.Answer):
    """The permit of an attempt has come. It goes to the owner alone and is in no history: the queue row is what counts."""

    task_id: int
    asked_at: int = 0

    code: ClassVar[int] = 57


def _of_given(request: PermitGiven, _: Sender) -> Iterator[Outgoing]:
    holder = request.holder
    event = PermitGranted(holder.task_id, request.asked_at)
    yield Outgoing(holder.key, event, run_id=holder.run_id, generation=holder.generation)


def _of_refused(request: PermitRefused, _: Sender) -> Iterator[Outgoing]:
    holder = request.holder
    details = FailureDetails(
        "TimeoutError",
        f"activity '{request.activity}' waited longer than its queue_timeout of {request.span / 1e6:g} s for a start",
        non_retryable=True,
        error_bases=("OSError", "Exception", "BaseException"),
    )
    event = ev.ActivityFailed(holder.task_id, details, is_timeout=True)
    yield Outgoing(holder.key, event, run_id=holder.run_id, generation=holder.generation)


for _event in (PermitWanted, PermitUsed, PermitLeft, PermitGiven, PermitRefused, PermitGranted):
    register_event(_event)
register_messages(PermitGiven, _of_given)
register_messages(PermitRefused, _of_refused)
