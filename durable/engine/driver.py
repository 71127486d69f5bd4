"""One driver for both styles, a coroutine that awaits what a generator yields; and what its end means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from durable import events as ev
from durable.engine.loop import GenerationEnded
from durable.engine.tasks import Task
from durable.errors import StoredValueError
from durable.places import not_a_task

if TYPE_CHECKING:
    from durable.engine.execution import Execution


class TurnInterrupted(BaseException):
    """Raised into user code by the watchdog."""


async def run_program(made: Any) -> Any:
    """Run what a program began: a generator, a coroutine, or the result of a plain function."""
    if isinstance(made, GeneratorType):
        return await _drive(made)
    if asyncio.iscoroutine(made):
        return await made
    return made


async def _drive(generator: Generator[Any, Any, Any]) -> Any:
    step: Callable[[Any], Any] = generator.send
    value: Any = None
    while True:
        try:
            awaited = step(value)
        except StopIteration as stop:
            return stop.value
        finally:
            value = None  # an error, whose stack holds this frame: a circle would be left to the garbage collector
        if not isinstance(awaited, Task):
            step, value = generator.throw, not_a_task(awaited, generator)
            continue
        try:
            step, value = generator.send, await awaited
        except GeneratorExit:
            generator.close()
            raise
        except BaseException as error:  # noqa: BLE001 (raised where the code waits, whatever it is)
            step, value, awaited = generator.throw, error, None


def outcome_of(main: asyncio.Task[Any], execution: Execution) -> Any:
    """Return the request by which an orchestration ends whose code has ended."""
    ports = execution.ports
    if main.cancelled():
        if execution.cancel_reason is not None:
            return ev.OrchestrationCancelled(execution.cancel_reason)
        try:
            main.result()
        except asyncio.CancelledError as stray:
            stray.args = stray.args or ("nobody asked for it",)
            return ev.OrchestrationFailed(ports.describe(stray))
    error = main.exception()
    if error is None:
        try:
            plain = ports.encode_result(main.result())
            return ev.OrchestrationCompleted(*execution.value(plain))
        except Exception as refused:  # noqa: BLE001 (a result that cannot be stored is the orchestration's failure)
            error = refused
    if isinstance(error, GenerationEnded | TurnInterrupted):
        raise error
    if isinstance(error, StoredValueError):
        execution.fail_turn(error)
    return ev.OrchestrationFailed(ports.describe(error))
