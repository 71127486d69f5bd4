"""Queries and updates: what an orchestration lets others ask of it while it runs.

Theory of operation. The code registers handlers. An update that arrives is looked at between two arrivals, when the code is at
rest: its argument must fit, and the validator, which may only look, must not raise. Then it is on record, and its handler runs
as a part of the orchestration: a plain function at once, an async one beside the rest of the code. Its answer is a request
like any other, and goes into a memo with the commit. A query is answered between two turns, or behind one, from the code as
it stands there; of it nothing is recorded.

Whoever may only look is kept from asking for anything by `Execution.is_over`, through which every request goes. What passes by
that (a random number, a task of the loop) is noticed afterwards: then the execution has been changed by something that no
replay will know of, and is of no further use.

Invariant: each accepted update is answered by one request, at the latest by the one before the generation's outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from types import GeneratorType
from typing import Any, Final, TypeVar

from durable import events as ev
from durable.context.plans import NO_VALUE, Plans
from durable.engine.deliveries import DELIVERIES
from durable.engine.driver import TurnInterrupted, run_program
from durable.engine.execution import Execution
from durable.engine.loop import GenerationEnded
from durable.engine.refusals import CHECKS
from durable.errors import (
    DivergenceError,
    DurableError,
    FailureDetails,
    InvalidInputError,
    StoredValueError,
)
from durable.exchanges import (
    ANSWER_KEPT_US,
    NOT_YET,
    TAKEN_BEFORE,
    UNFINISHED,
    Answer,
    AnswerKind,
    QueryReceived,
    UpdateCompleted,
    UpdateFailed,
    UpdateReceived,
    answer_key,
    encode_answer,
)
from durable.failures import describe
from durable.ids import check_event_name
from durable.payloads import PayloadError, check
from durable.signatures import EMPTY, Style, read_handler

T = TypeVar("T")

# The end of a generation, of a turn and of the process are no failure of a handler.
_NOT_FAILURES: Final = (GenerationEnded, TurnInterrupted, KeyboardInterrupt, GeneratorExit, StoredValueError)

_SHOWN_MAX: Final = 20
"""Names of handlers that an error tells."""


class SpoiltExecutionError(Exception):
    """Whoever may only look has changed the execution, unseen: it is of no further use. `event` is what was asked."""

    def __init__(self, event: UpdateReceived, text: str) -> None:
        self.event = event
        super().__init__(text)


class HandlerMethods:
    """The part of `OrchestrationContext` that is about queries and updates."""

    _execution: Execution
    _plans: Plans

    def on_query(self, name: str, handler: Callable[[], Any] | Callable[[Any], Any]) -> None:
        """Answer `handle.query(name, arg)` by what `handler` returns: `f()` or `f(arg)`, a plain function.

        It may only look at what the orchestrator knows: nothing is recorded of it, also not that it was asked. What asks for
        anything (an activity, a status, a random number) raises DurableError there. A later handler of that name takes the
        place of the former. Raises TypeError for a function of another shape, InvalidInputError for a bad name.
        """
        handlers_of(self._execution, self._plans).add_query(check_event_name(name), handler)

    def on_update(
        self,
        name: str,
        handler: Callable[[], Any] | Callable[[Any], Any],
        validator: Callable[[], Any] | Callable[[Any], Any] | None = None,
    ) -> None:
        """Answer `handle.update(name, arg)` by what `handler` returns: `f()` or `f(arg)`; it may be async, or a generator.

        The update is recorded and its handler is a part of the orchestration: it may change what that knows and ask for
        whatever the context offers. `validator`, of the same shape, is called before and may refuse by raising (or
        by returning False): then nothing is recorded. It may only look, as a query. A handler that has not finished when the
        orchestration ends or continues as new is answered by that failure. Raises as `on_query`.
        """
        handlers_of(self._execution, self._plans).add_update(check_event_name(name), handler, validator)


def handlers_of(execution: Execution, plans: Plans) -> Handlers:
    """Return what an orchestration has registered, where the caller may register something."""
    execution.check_access()
    found = execution.handlers
    if found is None:
        found = execution.handlers = Handlers(execution, plans)
    assert isinstance(found, Handlers), "nobody else sets it"
    found.check_may_ask()
    return found


def is_looking(execution: Execution) -> bool:
    """Tell whether the code may only look just now."""
    return isinstance(execution.handlers, Handlers) and execution.handlers.looks_on != ""


class Handler:
    """A function that answers, with the types that it names."""

    __slots__ = (
        "_plans",
        "_what_argument",
        "_what_result",
        "annotation",
        "default",
        "function",
        "is_plain",
        "result",
        "takes",
    )

    def __init__(self, plans: Plans, what: str, function: Callable[..., Any]) -> None:
        signature = read_handler(function)
        self.function = function
        self.is_plain = signature.style is Style.PLAIN
        self.takes = signature.input_parameter is not None
        self.annotation = signature.input_annotation
        self.default = signature.input_default
        self.result = signature.result_annotation
        self._plans = plans
        self._what_argument = f"argument of {what}"
        self._what_result = f"result of {what}"

    def arguments(self, stored: bytes | None) -> tuple[Any, ...]:
        """Return what the function is called with. Raises PayloadError or InvalidInputError for what does not fit it."""
        plans, what = self._plans, self._what_argument
        is_none = stored is None or plans.unseal(stored) == NO_VALUE
        if not self.takes:
            if not is_none:
                raise InvalidInputError(f"{what}: it takes none: leave it out, or add a parameter")
            return ()
        if is_none and self.default is not EMPTY:
            return (self.default,)
        return (plans.decode(stored, self.annotation, what),)

    def encode(self, result: Any) -> bytes:
        """Return the payload of what the function returned. Raises InvalidInputError, LimitExceededError."""
        return check(result, self.result, what=self._what_result)


class Handlers:
    """What one execution lets others ask. Made when something is first registered."""

    __slots__ = ("_execution", "_plans", "_queries", "_taken", "_unanswered", "_updates", "_validators", "looks_on")

    def __init__(self, execution: Execution, plans: Plans) -> None:
        self._execution = execution
        self._plans = plans
        self._queries: dict[str, Handler] = {}
        self._updates: dict[str, Handler] = {}
        self._validators: dict[str, Handler] = {}
        self._taken: set[str] = set()  # the ids of all updates of this generation
        self._unanswered: dict[str, UpdateReceived] = {}
        self.looks_on = ""  # who may only look, while that runs

    # ---- registering

    def add_query(self, name: str, function: Callable[..., Any]) -> None:
        """See `HandlerMethods.on_query`."""
        self._queries[name] = self._looker(f"query '{name}'", function)

    def add_update(self, name: str, function: Callable[..., Any], validator: Callable[..., Any] | None) -> None:
        """See `HandlerMethods.on_update`."""
        handler = Handler(self._plans, f"update '{name}'", function)
        self._validators.pop(name, None)
        if validator is not None:
            self._validators[name] = self._looker(f"the validator of update '{name}'", validator)
        self._updates[name] = handler

    def _looker(self, what: str, function: Callable[..., Any]) -> Handler:
        handler = Handler(self._plans, what, function)
        if not handler.is_plain:
            raise TypeError(f"{what} must be a plain function, for it may only look: it cannot await or yield anything")
        return handler

    # ---- looking

    def check_may_ask(self) -> None:
        """Raise DurableError while only looking is allowed."""
        if self.looks_on:
            raise DurableError(
                f"{self.looks_on} may only look at what orchestration '{self._execution.key.id}' knows: it cannot ask for "
                "anything, wait, set a status, or draw an id or a random number. Do that in the handler of an update."
            )

    def _look(self, what: str, handler: Handler, arguments: tuple[Any, ...]) -> tuple[Any, bool]:
        """Call what may only look. Returns its result, and whether it has changed the execution all the same."""
        execution = self._execution
        before = _mark(execution)
        self.looks_on = what
        try:
            result: Any = execution.loop.context.copy().run(handler.function, *arguments)
            if asyncio.iscoroutine(result) or isinstance(result, GeneratorType):
                result.close()
                raise TypeError(f"{what} returned {result!r:.200}: it must be a plain function, for it may only look")
        except _NOT_FAILURES:
            raise
        except BaseException as error:  # noqa: BLE001 (it may raise anything; it is handed back)
            result = error
        finally:
            self.looks_on = ""
        return result, _mark(execution) != before

    def query(self, event: QueryReceived) -> tuple[Answer, bool]:
        """Answer a query. The bool: whether it has changed the execution, which is then of no further use."""
        handler = self._queries.get(event.name)
        if handler is None:
            return unknown_query(self._execution, event, self._queries), False
        what = f"query '{event.name}'"
        try:
            arguments = handler.arguments(event.argument)
        except (PayloadError, InvalidInputError) as error:
            return Answer(AnswerKind.REFUSED, text=str(error)), False
        result, is_spoilt = self._look(what, handler, arguments)
        if is_spoilt:
            result = _spoilt(what)
        if not isinstance(result, BaseException):
            try:
                return Answer(AnswerKind.RESULT, self._execution.ports.seal(handler.encode(result))[0]), False
            except Exception as error:  # noqa: BLE001 (a result that cannot be stored is its handler's failure)
                result = error
        return Answer(AnswerKind.FAILURE, details=describe(result)), is_spoilt

    # ---- updates

    def refusal(self, event: UpdateReceived) -> str | None:
        """Say why an update is refused; None if it is accepted. Raises SpoiltExecutionError."""
        handler = self._updates.get(event.name)
        if handler is None:
            return unknown_text(self._execution, "update", event.name, self._updates)
        if event.update_id in self._taken:
            return TAKEN_BEFORE
        validator = self._validators.get(event.name)
        try:
            handler.arguments(event.argument)
            if validator is None:
                return None
            arguments = validator.arguments(event.argument)
        except (PayloadError, InvalidInputError) as error:
            return str(error)
        what = f"the validator of update '{event.name}'"
        try:
            verdict, is_spoilt = self._look(what, validator, arguments)
        except TurnInterrupted:  # what was sent is no reason to stall
            raise SpoiltExecutionError(event, f"{what} was stopped: it used up the time of a turn") from None
        if is_spoilt:
            raise SpoiltExecutionError(event, str(_spoilt(what)))
        if isinstance(verdict, BaseException):
            return describe(verdict).message or type(verdict).__name__
        return f"{what} returned False" if verdict is False else None

    def begin(self, event: UpdateReceived) -> None:
        """Run the handler of an update that is on record."""
        execution, handler = self._execution, self._updates.get(event.name)
        if handler is None:
            execution.fail_turn(DivergenceError(_gone(execution, event, self._updates)))
        self._taken.add(event.update_id)
        self._unanswered[event.update_id] = event
        context = execution.loop.context.copy()
        try:
            arguments = handler.arguments(event.argument)
        except (PayloadError, InvalidInputError) as error:
            execution.fail_turn(StoredValueError(f"{error}. It fitted when the update was accepted"))
        try:
            made = context.run(handler.function, *arguments)
        except _NOT_FAILURES:
            raise
        except BaseException as error:  # noqa: BLE001 (a handler may raise anything)
            self._fail(event, execution.ports.describe(error))
            return
        if asyncio.iscoroutine(made) or isinstance(made, GeneratorType):
            name = f"update '{event.name}'"
            _ = execution.loop.create_task(self._finish(event, handler, made), name=name, context=context)
        else:
            self._complete(event, handler, made)

    async def _finish(self, event: UpdateReceived, handler: Handler, made: Any) -> None:
        try:
            result = await run_program(made)
        except _NOT_FAILURES:
            raise
        except BaseException as error:  # noqa: BLE001 (as above)
            self._fail(event, self._execution.ports.describe(error))
        else:
            self._complete(event, handler, result)

    def _complete(self, event: UpdateReceived, handler: Handler, result: Any) -> None:
        execution = self._execution
        if execution.is_over or self._unanswered.pop(event.update_id, None) is None:
            return
        try:
            payload, digest = execution.value(handler.encode(result))
        except Exception as error:  # noqa: BLE001 (a result that cannot be stored is its handler's failure)
            self._unanswered[event.update_id] = event
            self._fail(event, execution.ports.describe(error))
            return
        recorded = execution.emit(UpdateCompleted(event.update_id, event.name, payload, digest))
        self._answer(event, Answer(AnswerKind.RESULT, recorded.result))

    def _fail(self, event: UpdateReceived, details: FailureDetails) -> None:
        execution = self._execution
        if not execution.is_over and self._unanswered.pop(event.update_id, None) is not None:
            execution.emit(UpdateFailed(event.update_id, event.name, details))
            self._answer(event, Answer(AnswerKind.FAILURE, details=details))

    def _answer(self, event: UpdateReceived, answer: Answer) -> None:
        execution = self._execution
        execution.set_memo(answer_key(execution.run_id, event.update_id), encode_answer(answer), ANSWER_KEPT_US)

    def end(self, outcome: ev.HistoryEvent) -> None:
        """Answer the updates whose handlers have not finished: the generation is about to end."""
        for event in list(self._unanswered.values()):
            text = f"the orchestration {UNFINISHED.get(type(outcome), 'ended')} before the handler of update '{event.name}' had"
            self._fail(event, FailureDetails("durable.errors.DurableError", f"{text} finished"))


def _mark(execution: Execution) -> tuple[object, ...]:
    """Return what differs afterwards if something happened that no replay will know of."""
    return execution.loop.mark, execution.seeds.mark, execution.next_task_id, execution.history_length


def _spoilt(what: str) -> DurableError:
    return DurableError(
        f"{what} may only look, but has begun or woken something in the orchestration, or has drawn an id or a random number. "
        "Do that in the handler of an update."
    )


def unknown_text(execution: Execution, kind: str, name: str, known: Iterable[str]) -> str:
    """Say that there is no handler of that name, and which there are."""
    names = sorted(known)
    told = ", ".join(f"'{one}'" for one in names[:_SHOWN_MAX]) + (", …" if len(names) > _SHOWN_MAX else "")
    which = f"it has {told}" if names else f"it has registered none (ctx.on_{kind})"
    return f"orchestration '{execution.key.id}' has no {kind} '{name:.200}': {which}"


def unknown_query(execution: Execution, event: QueryReceived, known: Iterable[str]) -> Answer:
    """Answer a query for which there is no handler."""
    return Answer(AnswerKind.UNKNOWN, text=unknown_text(execution, "query", event.name, known))


def _gone(execution: Execution, event: UpdateReceived, known: Iterable[str]) -> str:
    return (
        f"the history of '{execution.key.id}' records an accepted update '{event.name}', and today's code, when it comes "
        f"there, has no handler for it: {unknown_text(execution, 'update', event.name, known)}. Register it again, or "
        "deploy the change as a new version"
    )


def answer_query(execution: Execution, event: QueryReceived) -> tuple[Answer, bool]:
    """Answer a query from an execution as it stands; to be called with its loop as the running one.

    The bool: whether the execution was changed by it, and is of no further use.
    """
    handlers = execution.handlers
    if not isinstance(handlers, Handlers):
        return unknown_query(execution, event, ()), False
    return handlers.query(event)


def _refusal(execution: Execution, event: UpdateReceived) -> str | None:
    if execution.started is None or execution.is_suspended or execution.held:
        return NOT_YET
    handlers = execution.handlers
    if not isinstance(handlers, Handlers):
        return unknown_text(execution, "update", event.name, ())
    return handlers.refusal(event)


def _deliver(execution: Execution, event: UpdateReceived) -> None:
    handlers = execution.handlers
    if not isinstance(handlers, Handlers):
        execution.fail_turn(DivergenceError(_gone(execution, event, ())))
    handlers.begin(event)


CHECKS[UpdateReceived] = _refusal
DELIVERIES[UpdateReceived] = _deliver
