"""One driver for both styles: a generator orchestrator is run by a coroutine that awaits what it yields."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from types import GeneratorType
from typing import Any

from durable.engine.tasks import Task


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
        if not isinstance(awaited, Task):
            step, value = generator.throw, _not_a_task(awaited, generator)
            continue
        try:
            value = await awaited
            step = generator.send
        except GeneratorExit:
            generator.close()
            raise
        except BaseException as error:  # noqa: BLE001 (raised where the code waits, whatever it is)
            step, value = generator.throw, error


def _not_a_task(awaited: object, generator: Generator[Any, Any, Any]) -> TypeError:
    frame = getattr(generator, "gi_frame", None)
    place = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "the orchestrator"
    is_several = isinstance(awaited, list | tuple)
    hint = "when_all([...]) waits for several" if is_several else "yield what ctx.call_activity and the like return"
    return TypeError(f"{place}: an orchestrator yielded {awaited!r:.200}, which is not a durable task; {hint}")
