"""What orchestrator code awaits: `Task`.

It is an asyncio future of the execution's own loop, so that asyncio's tools take it as it is; `yield task` and
`yield from task` in a generator orchestrator are the same wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from durable.engine.loop import DurableLoop

T_co = TypeVar("T_co", covariant=True)


class Task(asyncio.Future[T_co]):  # type: ignore[type-var]
    """The outcome of a request, sooner or later: an activity call, a timer, an external event, a child.

    Awaited, yielded or `yield from`-ed any number of times. `task_id` is the request's position, None where the task
    stands for no single request. Covariant in its result: nobody but the engine sets it.
    """

    __slots__ = ("_on_cancel", "_ordinal", "finished_order", "name", "task_id")

    def __init__(self, loop: DurableLoop, name: str, task_id: int | None = None) -> None:
        self._ordinal = loop.next_ordinal()
        self._on_cancel: Callable[[], None] | None = None
        self.name = name
        self.task_id = task_id
        self.finished_order = 0
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._ordinal

    def __repr__(self) -> str:
        state = "pending"
        if self.done():
            state = "cancelled" if self.cancelled() else "failed" if self._exception is not None else "complete"
        return f"<Task {self.name} #{self.task_id} {state}>"

    @property
    def is_complete(self) -> bool:
        """True once there is an outcome of any kind."""
        return self.done()

    @property
    def is_failed(self) -> bool:
        """True if the outcome is an error (a cancelled task has not failed)."""
        return self.done() and not self.cancelled() and self._exception is not None

    @property
    def is_cancelled(self) -> bool:
        """True if the task was cancelled."""
        return self.cancelled()

    def cancel(self, msg: Any | None = None) -> bool:
        """Give the task up; False if it is complete.

        The code goes on at once; a running activity is asked to stop, a child is cancelled; awaiting raises
        CancelledError; a late outcome is counted and dropped. Raises DurableError outside of its instance's own turn.
        """
        if self.done():
            return False
        self._loop.check_access()  # type: ignore[attr-defined]
        if self._on_cancel is not None:
            on_cancel, self._on_cancel = self._on_cancel, None
            on_cancel()
        self.finished_order = self._loop.next_ordinal()  # type: ignore[attr-defined]
        return super().cancel(msg)

    def when_cancelled(self, action: Callable[[], None] | None) -> None:
        """Run `action` if the task is cancelled while pending; None: nothing. For the engine and features."""
        self._on_cancel = action

    def succeed(self, value: Any) -> None:
        """Complete the task, unless it is complete. For the engine and features."""
        if not self.done():
            self._on_cancel = None
            self.finished_order = self._loop.next_ordinal()  # type: ignore[attr-defined]
            self.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Fail the task, unless it is complete. For the engine and features."""
        if not self.done():
            self._on_cancel = None
            self.finished_order = self._loop.next_ordinal()  # type: ignore[attr-defined]
            self.set_exception(error)

    @property
    def is_seen(self) -> bool:
        """True once somebody was told how it ended, or if it has not failed."""
        return not self._log_traceback

    def __iter__(self) -> Generator[Task[Any], Any, T_co]:  # type: ignore[override]
        result: T_co = yield self
        return result
