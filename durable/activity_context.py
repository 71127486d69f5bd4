"""What an activity sees of itself and of the world around it: `ActivityContext`.

The context is a thin face over a port, which whoever runs the activity hands in: the worker, or a test. It may be used
from any thread for as long as the attempt runs, and is harmless afterwards. A feature registers a context of its own, for
attempts that it has sent something along with, and for functions that name its class.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Coroutine, MutableMapping
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from durable.errors import DurableError

if TYPE_CHECKING:
    from durable.app import App
    from durable.client import Client, SyncClient
    from durable.events import ActivityScheduled, HistoryEvent
    from durable.payloads import Sealer
    from durable.provider import Memo, TaskAddress
    from durable.signatures import Signature


class ActivityPort(Protocol):
    """The attempt, as the one who runs it knows it. All of it is safe to use from the attempt's thread."""

    @property
    def request(self) -> ActivityScheduled:
        """The recorded request that this attempt carries out."""
        ...

    @property
    def address(self) -> TaskAddress:
        """Whose request it is."""
        ...

    @property
    def idempotency_key(self) -> str:
        """The same on every delivery and attempt of one call."""
        ...

    @property
    def deadline(self) -> datetime | None:
        """When the attempt's timeout ends it, aware; None without one."""
        ...

    @property
    def last_heartbeat(self) -> Any:
        """The details, decoded, that the attempt or delivery before this one last beat with."""
        ...

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits for the outcome any more."""
        ...

    @property
    def client(self) -> Client | SyncClient:
        """A client of the same hub, the one that fits where it is asked for."""
        ...

    @property
    def started_us(self) -> int:
        """When it began, by the store's clock, in microseconds since 1970 UTC."""
        ...

    @property
    def app(self) -> App:
        """The app of the worker that runs it. For features."""
        ...

    @property
    def sealer(self) -> Sealer:
        """What payloads go through on their way to the store. For features."""
        ...

    def heartbeat(self, details: Any = None) -> None:
        """Take a sign of life, throttled. Raises for details that cannot be stored."""
        ...

    def spawn(self, send: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
        """Let something be sent meanwhile, from the worker's event loop; it may be lost with the worker. For features."""
        ...


running_activity: Final[ContextVar[ActivityPort]] = ContextVar("running_activity")
"""Set by whoever runs an activity, in the context in which it runs."""

running_context: Final[ContextVar[ActivityContext]] = ContextVar("running_context")
"""Set beside it: what runs on after the activity has returned still finds its context."""


class ActivityContext:
    """The context of one attempt of an activity; the first parameter of an activity annotated with it."""

    __durable_activity_context__: ClassVar[bool] = True

    def __init__(self, port: ActivityPort) -> None:
        self._port = port
        self._logger: logging.LoggerAdapter[logging.Logger] | None = None

    # ---- for whoever runs it; what a feature makes of it

    @property
    def is_ready(self) -> bool:
        """Whether the function may begin at once; else `prepare` is awaited first."""
        return True

    async def prepare(self) -> None:
        """Get ready, in the worker's event loop. What it raises fails the attempt."""

    def start_note(self) -> Memo | None:
        """Return a note of the start that others can see; asked for where any worker could have claimed the attempt."""

    def outcome(self, outcome: HistoryEvent) -> HistoryEvent:
        """Return what is reported as the attempt's outcome, given what its function did or why it was ended."""
        return outcome

    # ---- what it tells

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of activity '{self.name}', attempt {self.attempt}, for '{self.instance_id}'>"

    @property
    def instance_id(self) -> str:
        """The id of the orchestration that called the activity."""
        return self._port.address.key.id

    @property
    def name(self) -> str:
        """The name of the activity."""
        return self._port.request.name

    @property
    def attempt(self) -> int:
        """Which attempt of the call this is, counted from 1. A crash repeats the delivery of an attempt, not the count."""
        return self._port.request.attempt

    @property
    def idempotency_key(self) -> str:
        """The same text on every delivery and attempt of one call, and different for any other call."""
        return self._port.idempotency_key

    @property
    def deadline(self) -> datetime | None:
        """When the attempt's `timeout` ends it, as an aware datetime in UTC; None without one."""
        return self._port.deadline

    @property
    def last_heartbeat(self) -> Any:
        """The details of the last heartbeat of the attempt (or delivery) before this one, as plain data; else None."""
        return self._port.last_heartbeat

    @property
    def is_cancelled(self) -> bool:
        """True once nobody waits for the outcome: cancelled, timed out, or the orchestration has ended.

        An async activity gets CancelledError at the same time; a sync one looks here and returns.
        """
        return self._port.is_cancelled

    @property
    def client(self) -> Any:
        """A client of the hub that the activity runs for: a `Client` in an `async def` activity, a `SyncClient` in a sync one.

        It goes by where it is asked for, the worker's event loop or a thread, which no type can say. For a checker's help
        write `client: SyncClient = ctx.client`. What still waits when the worker has stopped gets a DurableError.
        """
        return self._port.client

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry `instance_id`, `run_id`, `activity` and `attempt`."""
        if self._logger is None:
            fields = {
                "instance_id": self.instance_id,
                "run_id": self._port.address.run_id,
                "activity": self.name,
                "attempt": self.attempt,
            }
            self._logger = _FieldsAdapter(logging.getLogger(f"durable.activity.{self.name}"), fields)
        return self._logger

    def heartbeat(self, details: Any = None) -> None:
        """Say that the attempt lives, and how far it is. A plain call, from any thread; cheap, and stored throttled.

        `details` are plain data; the next attempt sees them as `last_heartbeat`. Raises for what cannot be stored.
        """
        self._port.heartbeat(details)


class _FieldsAdapter(logging.LoggerAdapter[logging.Logger]):
    """Adds fields to each record beside those of the call; the standard adapter drops the call's own."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


def current_activity() -> ActivityContext:
    """Return the context of the activity that is running here, also in what it calls. Raises DurableError elsewhere."""
    context = running_context.get(None)
    if context is None:
        raise DurableError(
            "no activity is running here: current_activity() is for code that an activity calls, in its own task or thread"
        )
    return context


_features: dict[bytes, type[ActivityContext]] = {}


def register_context(mark: bytes, cls: type[ActivityContext]) -> None:
    """Make `cls` the context of attempts whose attachment begins with this byte, and of functions that name it.

    Features call it for their own. Raises ValueError for a mark that is taken.
    """
    if len(mark) != 1 or _features.setdefault(mark, cls) is not cls:
        raise ValueError(f"attachments marked {mark!r} belong to {_features.get(mark)}")


def context_for(port: ActivityPort, signature: Signature) -> ActivityContext:
    """Return the context of an attempt: of the feature that asked for it, or that its function's annotation names.

    Where that annotation is a class of the user's own, the context is one of these.
    """
    attachment, named = port.request.options.attachment, signature.context_names
    if not (attachment or named):
        return ActivityContext(port)  # which only what the function calls can ask for
    if attachment:
        cls = _features.get(attachment[:1], ActivityContext)
    else:
        cls = _named_in(named)
    return _as_annotated(cls, signature.context_class)(port)


def _named_in(names: Collection[str]) -> type[ActivityContext]:
    return next((cls for cls in _features.values() if cls.__name__ in names), ActivityContext)


_both: Final[dict[tuple[type, type], type[ActivityContext]]] = {}
"""A user's own class of context and that of a feature in one, for functions that a feature calls."""


def _as_annotated(cls: type[ActivityContext], annotated: type | None) -> type[ActivityContext]:
    if annotated is None or not issubclass(annotated, ActivityContext) or issubclass(cls, annotated):
        return cls
    if issubclass(annotated, cls):
        return annotated
    return _both.setdefault((annotated, cls), type(annotated.__name__, (annotated, cls), {}))
