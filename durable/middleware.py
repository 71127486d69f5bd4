"""What runs around activities, turns and what clients send: measuring, logging, contexts of one's own.

    class Timed(Middleware):
        @contextmanager
        def activity(self, call: ActivityCall) -> Iterator[None]:
            began = perf_counter()
            try:
                yield
            finally:
                print(call.name, call.error, perf_counter() - began)

    Worker(app, url, middleware=[Timed()])

Each method returns a context manager, entered before and left after; the first middleware is the outermost. That of an
activity runs where the function runs, in its thread or its task, and sees the same context variables. None of them changes
what happens: an exception of the function stands, whatever a context manager makes of it. What the middleware of an
activity or of a client's call raises itself fails that attempt or that call; what one of a turn raises is logged, and the
turn goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from durable.activity_context import ActivityContext
    from durable.events import TaskRef

logger = logging.getLogger("durable.worker")


@dataclasses.dataclass(slots=True)
class ActivityCall:
    """A call of an activity's function. `result` and `error` are there when it has ended.

    `task`: the request that it carries out. `requested_us`, `started_us`: when it was asked for and when it began, by the
    hub's clock, in microseconds since 1970 UTC. `trace`: that of the run that asked for it (`durable.traces`).
    """

    name: str
    version: str | None
    context: ActivityContext
    input: Any
    result: Any = None
    error: BaseException | None = None
    task: TaskRef | None = None
    requested_us: int = 0
    started_us: int = 0
    trace: str | None = None


@dataclasses.dataclass(slots=True)
class TurnCall:
    """A turn of one instance. `arrivals`: what it applies; `events`: what it has recorded, once it is over, them included.

    `error`: why there was none, a divergence for instance; the instance stalls. What an orchestrator raises is no error of
    a turn. The turn is not yet durable when it ends, and may be run again.
    """

    instance_id: str
    run_id: str
    generation: int
    name: str
    version: str | None
    arrivals: int
    events: int = 0
    error: BaseException | None = None


@dataclasses.dataclass(slots=True)
class ClientCall:
    """Something that a client sends: `start`, `raise_event`, `cancel`, `update`, … `error`: what the sender got instead.

    What an operation does with many instances is a call for each. `name`: what begins, where a run begins or goes on with it.
    `verdict`: what became of it in the store, "STORED" if it is durable; None as long as that is not known. `trace`: set by
    whoever knows the trace that a start belongs to (`durable.traces`); it goes with the start.
    """

    operation: str
    instance_id: str
    name: str | None = None
    error: BaseException | None = None
    verdict: str | None = None
    trace: str | None = None


class Middleware:
    """Derive from it, and override what is wanted."""

    def activity(self, call: ActivityCall) -> AbstractContextManager[object]:
        """Return what runs around an activity's function, once for each delivery of each attempt."""
        del call
        return contextlib.nullcontext()

    def turn(self, call: TurnCall) -> AbstractContextManager[object]:
        """Return what runs around a turn, in the worker's event loop. It must not wait for anything."""
        del call
        return contextlib.nullcontext()

    def client(self, call: ClientCall) -> AbstractContextManager[object]:
        """Return what runs around something that a client sends, from before it is sent until it is durable or refused."""
        del call
        return contextlib.nullcontext()


Call = TypeVar("Call", ActivityCall, ClientCall)

_NOTHING = contextlib.nullcontext()
"""Most workers and clients have no middleware: what is around each of their steps is made once."""


class Around:
    """All the middleware of a worker or a client."""

    def __init__(self, middleware: Sequence[Middleware] = ()) -> None:
        """Raises TypeError for what is none."""
        for one in middleware:
            if not isinstance(one, Middleware):
                raise TypeError(f"middleware is made of instances of durable.Middleware, not of {one!r:.200}")
        self._activity = _overridden(middleware, "activity")
        self._turn = _overridden(middleware, "turn")
        self._client = _overridden(middleware, "client")
        self.has_activities, self.has_turns = bool(self._activity), bool(self._turn)  # any of it runs around those

    def activity(self, call: ActivityCall) -> AbstractContextManager[None]:
        """Return what runs around a function."""
        return _around(self._activity, call)

    def client(self, call: ClientCall) -> AbstractContextManager[None]:
        """Return what runs around something that is sent."""
        return _around(self._client, call) if self._client else _NOTHING

    def turn(self, call: TurnCall) -> AbstractContextManager[None]:
        """Return what runs around a turn; nothing of it reaches the turn."""
        return self._around_turn(call) if self._turn else _NOTHING

    @contextlib.contextmanager
    def _around_turn(self, call: TurnCall) -> Iterator[None]:
        entered: list[AbstractContextManager[object]] = []
        for enter in self._turn:
            with _told():
                manager = enter(call)
                manager.__enter__()
                entered.append(manager)
        try:
            yield
        except BaseException as error:
            call.error = error
            raise
        finally:
            passed = call.error
            kind, trace = (None, None) if passed is None else (type(passed), passed.__traceback__)
            for manager in reversed(entered):
                with _told(passed):
                    manager.__exit__(kind, passed, trace)


def _overridden(middleware: Sequence[Middleware], method: str) -> list[Callable[[Any], AbstractContextManager[object]]]:
    """Return a method of those that have their own: the others cost nothing."""
    return [getattr(one, method) for one in middleware if getattr(type(one), method) is not getattr(Middleware, method)]


@contextlib.contextmanager
def _around(managers: Sequence[Callable[[Call], AbstractContextManager[object]]], call: Call) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for enter in managers:
            stack.enter_context(enter(call))
        try:
            yield
        except BaseException as error:
            call.error = error
            raise
    if call.error is not None:  # somebody has swallowed it
        raise call.error


@contextlib.contextmanager
def _told(passed: BaseException | None = None) -> Iterator[None]:
    """Let the log tell what a middleware raises of its own. `passed`: what it was given, and lets through."""
    try:
        yield
    except Exception as error:
        if error is not passed:
            logger.exception("a middleware around turns failed; the turn goes on")
