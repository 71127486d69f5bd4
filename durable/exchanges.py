"""What is asked of a running orchestration from outside, and how it answers: queries and updates.

Both travel to the inbox like any arrival, and are answered by a keyed memo, which whoever asked reads. Of a query nothing is
recorded. An update is recorded once it is accepted (`UpdateReceived`), and so is its answer (`UpdateCompleted`,
`UpdateFailed`), with which the memo is written; one that is refused leaves nothing but the memo.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from types import NoneType
from typing import Any, ClassVar, Final, Protocol

import msgpack

from durable import events as ev
from durable.errors import FailureDetails, HistoryDamagedError
from durable.records import details_from_plain, details_to_plain, reason_of, register_event, require, unpack
from durable.value_objects import value_object

ANSWER_KEPT_US: Final = 3_600_000_000
"""How long an answer is kept for whoever asked: an hour, for it may have to find its store again."""


@dataclasses.dataclass(frozen=True, slots=True)
class UpdateReceived(ev.Arrival):
    """An update arrived; it is on record if it was accepted. `update_id` is unique to the call."""

    update_id: str
    name: str
    argument: ev.Payload = None

    code: ClassVar[int] = 64
    payload_field: ClassVar[str | None] = "argument"


@dataclasses.dataclass(frozen=True, slots=True)
class UpdateCompleted(ev.Request):
    """The handler of an update returned."""

    update_id: str
    name: str
    result: ev.Payload
    digest: bytes | None = None

    code: ClassVar[int] = 65
    payload_field: ClassVar[str | None] = "result"

    @property
    def shape(self) -> tuple[Any, ...]:
        """The update's name and id."""
        return ("UpdateCompleted", self.name, self.update_id)


@dataclasses.dataclass(frozen=True, slots=True)
class UpdateFailed(ev.Request):
    """The handler of an update raised, or had not finished when the generation ended."""

    update_id: str
    name: str
    details: FailureDetails

    code: ClassVar[int] = 66

    @property
    def shape(self) -> tuple[Any, ...]:
        """The update's name and id."""
        return ("UpdateFailed", self.name, self.update_id)


@dataclasses.dataclass(frozen=True, slots=True)
class QueryReceived(ev.Arrival):
    """A query arrived: it is answered and never recorded."""

    query_id: str
    name: str
    argument: ev.Payload = None

    code: ClassVar[int] = 67
    payload_field: ClassVar[str | None] = "argument"


for _cls in (UpdateReceived, UpdateCompleted, UpdateFailed, QueryReceived):
    register_event(_cls)


# ---- answers


class Handlers(Protocol):
    """What the code has registered for those who ask from outside, as the engine sees it."""

    def check_may_ask(self) -> None:
        """Raise DurableError while only looking is allowed: in a query, in a validator."""

    def end(self, outcome: ev.HistoryEvent) -> None:
        """Answer the updates that are still open: the generation is about to end."""


class AnswerKind(enum.IntEnum):
    """What became of a query or an update."""

    RESULT = 0  # the handler returned `value`
    FAILURE = 1  # the handler raised `details`
    REFUSED = 2  # the validator refused it, or it does not fit the handler: `text` says why
    UNKNOWN = 3  # the orchestration has no handler of that name: `text` names those that it has


@value_object
class Answer:
    """What whoever asked is told."""

    kind: AnswerKind
    value: bytes | None = None
    details: FailureDetails | None = None
    text: str = ""


def answer_prefix(run_id: str) -> str:
    """Return what the keys of a run's answers begin with: they go with it."""
    return f"run/{run_id}/answer/"


def answer_key(run_id: str, asked_id: str) -> str:
    """Return the key of the memo that answers an update or a query."""
    return answer_prefix(run_id) + asked_id


def encode_answer(answer: Answer) -> bytes:
    """Return an answer as a memo holds it."""
    data: bytes = msgpack.packb([answer.kind, answer.value, details_to_plain(answer.details), answer.text])
    return data


def decode_answer(data: bytes) -> Answer:
    """Return it again. Raises HistoryDamagedError for anything else."""
    try:
        kind, value, details, text = unpack(data)[:4]
        require(int, kind)
        require((bytes, NoneType), value)
        require(str, text)
        answer = Answer(AnswerKind(kind), value, details_from_plain(details), text)
        if (answer.kind is AnswerKind.FAILURE) is not (answer.details is not None):
            raise ValueError("an answer tells of a failure if it is one")
        return answer
    except Exception as error:  # whatever garbage does to the decoder is one fact: this is not an answer
        raise HistoryDamagedError(f"an answer cannot be read: {reason_of(error)}") from error


# ---- why an update is not taken

NOT_YET: Final = "not yet"
"""An update waits, unrecorded, while the orchestration has not begun or is suspended."""

TAKEN_BEFORE: Final = "it was taken before"
"""An update that comes a second time is answered already, or will be."""

UNFINISHED: Final[Mapping[type[ev.HistoryEvent], str]] = {
    ev.OrchestrationCompleted: "completed",
    ev.OrchestrationFailed: "failed",
    ev.OrchestrationCancelled: "was cancelled",
    ev.OrchestrationContinuedAsNew: "continued as new",
}
"""How a generation ended, for the answer to an update whose handler had not finished."""
