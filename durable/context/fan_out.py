"""Many calls of one activity, of which only so many run at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from durable.engine.loop import DurableLoop
from durable.engine.tasks import Task


class FanOut:
    """A call for each input; `task` gives the results in order, once all have settled.

    Deterministic, since calls begin at once or from the loop, in the order in which earlier ones ended. Each ended call
    costs the same, however many there are.
    """

    def __init__(self, loop: DurableLoop, call: Callable[[Any], Task[Any]], inputs: Iterable[Any]) -> None:
        self.task: Task[list[Any]] = Task(loop, "map")
        self._call = call
        self._inputs = list(inputs)
        self._calls: list[Task[Any]] = []
        self._open = 0

    def begin(self, concurrency: int | None) -> Task[list[Any]]:
        """Begin the first calls; return the task."""
        if not self._inputs:
            self.task.succeed([])
            return self.task
        self.task.when_cancelled(self._give_up)
        count = len(self._inputs)
        for _ in range(count if concurrency is None else min(concurrency, count)):
            self._begin_next()
        return self.task

    def _begin_next(self) -> None:
        position = len(self._calls)
        value, self._inputs[position] = self._inputs[position], None  # encoded now: no need to keep both
        call = self._call(value)
        self._calls.append(call)
        self._open += 1
        call.add_done_callback(self._ended)

    def _ended(self, _: asyncio.Future[Any]) -> None:
        self._open -= 1
        if self.task.done():
            return
        if len(self._calls) < len(self._inputs):
            self._begin_next()
        elif not self._open:
            self._settle()

    def _settle(self) -> None:
        for call in self._calls:
            error = None if call.cancelled() else call.exception()
            if call.cancelled():
                asyncio.Future.cancel(self.task)  # nothing is left to pass on
                return
            if error is not None:
                self.task.fail(error)
                return
        self.task.succeed([call.result() for call in self._calls])

    def _give_up(self) -> None:
        for call in self._calls:
            call.cancel()
