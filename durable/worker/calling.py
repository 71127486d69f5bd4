"""Calling an activity's function: with its input, with what the worker brings along, and with middleware around it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Coroutine
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from durable import payloads
from durable.app import ActivityDefinition
from durable.events import TaskRef
from durable.injection import Provided
from durable.middleware import ActivityCall, Around
from durable.payloads import Sealer

if TYPE_CHECKING:
    from durable.worker.attempt import Attempt


class Calling:
    """How the functions of a worker's app are called."""

    def __init__(self, sealer: Sealer, provided: Provided, around: Around) -> None:
        self._sealer = sealer
        self._provided = provided
        self._around = around

    def arguments(self, definition: ActivityDefinition, attempt: Attempt) -> tuple[Any, ...]:
        """Return the positional arguments of a call. Raises what a misfit of the stored input with the function raises."""
        what = f"input of activity '{definition.name}'"
        stored = attempt.request.input
        value = None
        if stored is None:
            if definition.takes_input:
                if definition.has_default_input:
                    value = definition.default_input()
                else:
                    value = payloads.decode(payloads.encode(None), definition.input_annotation, what=what)
        else:
            plain = self._sealer.unseal(stored)
            if definition.takes_input:
                value = payloads.decode(plain, definition.input_annotation, what=what)
                if value is None and definition.has_default_input:
                    value = definition.default_input()
            else:
                definition.check_accepts(payloads.decode(plain))
        return definition.arguments(attempt.context, value)

    def call(self, attempt: Attempt, definition: ActivityDefinition, arguments: tuple[Any, ...]) -> Any:
        """Call a plain function, in its thread. It may hand back a coroutine, which is still to be awaited."""
        named = self._provided.arguments(definition.signature.injected)
        if not self._around.has_activities:
            return definition.function(*arguments, **named)
        call = _call_of(attempt, definition, arguments)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._around.activity(call))
            result = definition.function(*arguments, **named)
            if inspect.iscoroutine(result):  # what is around it ends where it does
                return _awaited(result, call, stack.pop_all())
            call.result = result
        return result

    def call_async(
        self, attempt: Attempt, definition: ActivityDefinition, arguments: tuple[Any, ...]
    ) -> Coroutine[Any, Any, Any]:
        """Call a coroutine function; what is returned is to be awaited."""
        injected = definition.signature.injected
        named = self._provided.arguments(injected) if injected else {}
        if not self._around.has_activities:
            coroutine: Coroutine[Any, Any, Any] = definition.function(*arguments, **named)
            return coroutine
        call = _call_of(attempt, definition, arguments)
        return _awaited(definition.function(*arguments, **named), call, self._around.activity(call))


async def _awaited(coroutine: Coroutine[Any, Any, Any], call: ActivityCall, around: AbstractContextManager[Any]) -> Any:
    try:
        with around:
            call.result = await coroutine
    finally:
        coroutine.close()  # never begun, where the middleware itself has failed
    return call.result


def _call_of(attempt: Attempt, definition: ActivityDefinition, arguments: tuple[Any, ...]) -> ActivityCall:
    assert attempt.context is not None, "made before the function is called"
    value = arguments[-1] if definition.takes_input else None
    address = attempt.address
    return ActivityCall(
        definition.name,
        definition.version,
        attempt.context,
        value,
        task=TaskRef(*address.key, address.run_id, address.generation, address.task_id),
        requested_us=attempt.requested_at,
        started_us=attempt.started_us,
        trace=attempt.trace,
    )
