"""What a start consists of: the orchestrator that is meant, its checked input, and the one message that brings it all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypedDict, TypeVar

from durable import payloads
from durable.app import App, OrchestratorDefinition, check_name, definition_of
from durable.client.times import due_time
from durable.engine.refusals import EVENTS_BUFFERED_MAX
from durable.errors import InvalidInputError, LimitExceededError, UnknownNameError
from durable.events import EventRaised, HistoryEvent, InstanceKey
from durable.ids import check_event_name, check_tags
from durable.messages import encode_arrivals, new_row
from durable.model import ReusePolicy
from durable.plain_events import orchestration_started
from durable.provider import Expects, Message
from durable.versions import canonical_version

if TYPE_CHECKING:
    from durable.context import OrchestrationContext

I = TypeVar("I")  # noqa: E741 (the name that api.md gives it)
R = TypeVar("R")

OrchestratorWithInput: TypeAlias = (
    "Callable[[OrchestrationContext, I], Generator[Any, Any, R] | Coroutine[Any, Any, R]]"
)
OrchestratorWithoutInput: TypeAlias = (
    "Callable[[OrchestrationContext], Generator[Any, Any, R] | Coroutine[Any, Any, R]]"
)
AnyOrchestrator: TypeAlias = Callable[..., Generator[Any, Any, R] | Coroutine[Any, Any, R]]


class StartOptions(TypedDict, total=False):
    """How an orchestration is started.

    `instance_id`: the caller's own; a new one otherwise. `at`: an aware datetime, or a timedelta from now. `events`: (name,
    data) pairs delivered with the start, in one step, to the instance that the call returns.
    """

    instance_id: str | None
    at: datetime | timedelta | None
    version: str | None
    tags: Mapping[str, str] | None
    reuse_policy: ReusePolicy
    events: Iterable[tuple[str, Any]]


class OversizedInputError(InvalidInputError, LimitExceededError):
    """An input over a limit: an invalid input, and a limit exceeded, as the interface says of both."""


EXPECTS: Final = {
    ReusePolicy.REJECT: Expects.ABSENT,
    ReusePolicy.USE_EXISTING: Expects.ABSENT,
    ReusePolicy.USE_RUNNING: Expects.ABSENT_OR_FINISHED,
    ReusePolicy.REPLACE_FINISHED: Expects.ABSENT_OR_FINISHED,
    ReusePolicy.TERMINATE_AND_REPLACE: Expects.ANY,
}
USES_OTHER: Final = frozenset({ReusePolicy.USE_EXISTING, ReusePolicy.USE_RUNNING})
"""Policies that give a handle to an instance that is in the way; the events are then for that one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """The orchestrator that a start means. `definition` is set where a function was given: then its types are at hand.

    `is_known`: the app has it, in this version.
    """

    name: str
    version: str | None
    definition: OrchestratorDefinition | None = None
    is_known: bool = False

    @property
    def result_annotation(self) -> Any:
        """What the result is made by."""
        return payloads.ANY if self.definition is None else self.definition.result_annotation


def find_target(app: App | None, orchestrator: Callable[..., Any] | str, version: str | None = None) -> Target:
    """Return what is meant: the newest version that the app knows unless one is given.

    A name need not be known here, for another app may run it. Raises UnknownNameError for a function that no app knows.
    """
    if version is not None:
        version = canonical_version(version)
    if isinstance(orchestrator, str):
        known = None
        if app is None or version is not None or (known := app.orchestrator_of(orchestrator)) is None:
            check_name("the name of an orchestrator", orchestrator)
        return Target(orchestrator, known.exact_version if known else version, is_known=known is not None)
    if not callable(orchestrator):
        raise TypeError(f"an orchestrator is given as a function or its name, not {orchestrator!r:.200}")
    definition = app.orchestrator_of(orchestrator) if app else definition_of(orchestrator, OrchestratorDefinition)
    assert definition is not None, "only a name can be unknown without an error"
    if version is None or version == definition.exact_version:
        return Target(definition.name, definition.exact_version, definition, is_known=True)
    found = _in_version(app, definition.name, version)
    return Target(definition.name, version, found, is_known=found is not None)


def _in_version(app: App | None, name: str, version: str) -> OrchestratorDefinition | None:
    try:
        return app.find_orchestrator(name, version) if app else None
    except UnknownNameError:
        return None  # the workers may have it


def encode_input(target: Target, value: Any, sealer: payloads.Sealer) -> bytes | None:
    """Return the payload of an input, checked where the function is at hand. None is no input.

    Raises InvalidInputError there; for a name, what `payloads.encode` raises.
    """
    definition = target.definition
    what = f"input of orchestrator '{target.name}'"
    if definition is None:
        return None if value is None else sealer.seal(payloads.encode(value, what=what))
    definition.check_accepts(value)
    if value is None and (definition.has_default_input or not definition.takes_input):
        return None
    try:
        plain = payloads.check(value, definition.input_annotation, what=what)
    except LimitExceededError as error:
        raise OversizedInputError(str(error)) from None
    return None if value is None else sealer.seal(plain)


def encode_event(name: str, data: Any, sealer: payloads.Sealer) -> EventRaised:
    """Return an external event. Raises InvalidInputError for a bad name, and what `payloads.encode` raises."""
    check_event_name(name)
    what = f"data of event '{name}'"
    return EventRaised(name, None if data is None else sealer.seal(payloads.encode(data, what=what)))


def encode_events(events: Iterable[tuple[str, Any]], sealer: payloads.Sealer) -> list[EventRaised]:
    """Return the external events of a start. Raises LimitExceededError for more than an instance keeps."""
    found: list[EventRaised] = []
    for event in events:
        if len(found) == EVENTS_BUFFERED_MAX:
            raise LimitExceededError(
                f"a start with more than {EVENTS_BUFFERED_MAX:,} events, of which no more can wait"
            )
        try:
            name, data = event
        except (TypeError, ValueError):
            raise TypeError(f"events are pairs of a name and data, not {event!r:.200}") from None
        found.append(encode_event(name, data, sealer))
    return found


class Start(NamedTuple):
    """A message that begins a run, and the events that it holds."""

    message: Message
    events: Sequence[HistoryEvent]


def make_start(
    key: InstanceKey,
    partitions: int,
    run_id: str,
    target: Target,
    payload: bytes | None,
    *,
    now: int,
    at: datetime | timedelta | None = None,
    tags: Mapping[str, str] | None = None,
    reuse_policy: ReusePolicy = ReusePolicy.REJECT,
    events: list[EventRaised] | None = None,
) -> Start:
    """Return what begins a run; where another instance is in the way, the message's `otherwise` brings it the events."""
    checked_tags = check_tags(tags) if tags else None
    scheduled_at = now if at is None else due_time(at, now)
    row = new_row(
        key,
        partitions,
        run_id,
        target.name,
        target.version,
        now=now,
        scheduled_at=scheduled_at,
        payload=payload,
        tags=checked_tags,
    )
    started = orchestration_started(
        target.name, target.version, payload, run_id, "", tags=checked_tags, scheduled_for=scheduled_at
    )
    otherwise, expects = None, EXPECTS[reuse_policy]
    if events and reuse_policy in USES_OTHER:
        otherwise = Message(key, row.partition, encode_arrivals(events))
    held: list[HistoryEvent] = [started, *events] if events else [started]
    message = Message(
        target=key,
        partition=row.partition,
        data=encode_arrivals(held),
        start=row,
        expects=expects,
        otherwise=otherwise,
    )
    return Start(message, held)
