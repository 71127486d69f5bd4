"""What a storage call has come to is known when it has happened, whether or not its process is there to hear of it.

A store may write what several calls ask for in one transaction and then answer them one after the other. A process that is
killed or stopped by the first answer never hears the second, or hears it long after; what was written is durable all the same.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from durable.testing.simulation.loop import Process


class Overheard:
    """Awaits a call in a process; `heard` is told the answer when it comes, even if the process is dead or stopped then.

    Nothing of a process that is gone runs but the last lines of the call, those that take the answer from the store.
    `context` is that of somebody who is neither killed nor stopped.
    """

    def __init__(
        self, call: Awaitable[Any], process: Process, heard: Callable[[Any], None], context: contextvars.Context
    ) -> None:
        self._steps: Generator[Any, None, Any] = call.__await__()
        self._process = process
        self._heard = heard
        self._context = context
        self._waits_for: Any = None
        self._is_over = False
        self._answer: Any = None
        self._error: Exception | None = None

    def __await__(self) -> Generator[Any, None, Any]:
        """Return the answer, or raise what the call raises."""
        self._go_on()
        while not self._is_over:
            waits_for = self._waits_for
            if waits_for is not None:  # None: the call only lets others go first
                waits_for.add_done_callback(self._overhear, context=self._context)
            try:
                yield waits_for
            except BaseException as error:  # noqa: BLE001 (cancelled, or closed for good: the call's to know)
                self._go_on(error)
            else:
                if waits_for is self._waits_for:  # else it has gone on while the process was stopped
                    self._go_on()
        if self._error is not None:
            raise self._error
        return self._answer

    def _overhear(self, happened: asyncio.Future[Any]) -> None:
        """Called when what the call waits for has happened, just before the process goes on with it, if it can."""
        if (self._process.is_dead or self._process.is_stopped) and not happened.cancelled():
            self._process.context.copy().run(self._go_on)

    def _go_on(self, error: BaseException | None = None) -> None:
        self._waits_for = None
        try:
            self._waits_for = self._steps.send(None) if error is None else self._steps.throw(error)
        except StopIteration as end:
            self._is_over, self._answer = True, end.value
            self._heard(end.value)
        except Exception as raised:  # noqa: BLE001 (raised where the call is awaited)
            self._is_over, self._error = True, raised
