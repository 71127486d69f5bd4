"""What the tests of activities share: orchestrators of one call in both styles, and waiting for a condition.

Nothing here sleeps for luck: a condition is looked at until it holds, or until a deadline that fails the test.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any

from durable import ActivityFailedError, App, Handle, Orchestration, OrchestrationContext, Task, Worker

STYLES = ("async", "generator")
PATIENCE_S = 15.0

Make = Callable[[OrchestrationContext], Task[Any]]


def calls(app: App, make: Make, style: str = "async", name: str = "main") -> str:
    """Register an orchestrator that waits for one task and returns its result; return its name."""
    if style == "async":

        @app.orchestrator(name=name)
        async def in_async_style(ctx: OrchestrationContext) -> Any:
            return await make(ctx)
    else:

        @app.orchestrator(name=name)
        def in_generator_style(ctx: OrchestrationContext) -> Orchestration[Any]:
            return (yield make(ctx))

    return name


def calls_and_tells(app: App, make: Make, style: str = "async", name: str = "main") -> str:
    """As `calls`, but a failure is returned as what the orchestrator sees of it."""
    if style == "async":

        @app.orchestrator(name=name)
        async def in_async_style(ctx: OrchestrationContext) -> Any:
            try:
                return await make(ctx)
            except ActivityFailedError as error:
                return told(error)
    else:

        @app.orchestrator(name=name)
        def in_generator_style(ctx: OrchestrationContext) -> Orchestration[Any]:
            try:
                return (yield make(ctx))
            except ActivityFailedError as error:
                return told(error)

    return name


def told(error: ActivityFailedError) -> dict[str, Any]:
    """What an orchestrator sees of a failure, as plain data."""
    details = error.details
    return {
        "raised": type(error).__name__,
        "is_timeout": isinstance(error, TimeoutError),
        "type": details.error_type,
        "message": details.message,
        "stack": details.stack_trace,
        "final": details.non_retryable,
        "inner": details.inner.error_type if details.inner else None,
        "bases": list(details.error_bases),
    }


async def run(app: App, store_url: str, orchestrator: str = "main", input: Any = None, **options: Any) -> Any:
    """Run one orchestration on a worker of its own; return its result."""
    async with Worker(app, store_url, **options) as worker:
        return await worker.client.run(orchestrator, input, timeout=PATIENCE_S)


async def holds(condition: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
    """Look again and again, until a plain or an async condition gives something true; return that."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert asyncio.get_running_loop().time() < deadline, f"{inspect.getsource(condition).strip()} never held"
        await asyncio.sleep(0.005)


async def names_in(handle: Handle[Any]) -> list[str]:
    """The class names of an instance's history."""
    return [type(event).__name__ for event in await handle.history()]


class Records(logging.Handler):
    """Keeps what is logged below a name, from a level on, while it is entered."""

    def __init__(self, name: str = "durable", level: int = logging.DEBUG) -> None:
        super().__init__(level)
        self._logger = logging.getLogger(name)
        self._was = self._logger.level
        self.found: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record)

    def __enter__(self) -> Records:
        self._was = self._logger.level
        self._logger.addHandler(self)
        self._logger.setLevel(self.level)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._was)
