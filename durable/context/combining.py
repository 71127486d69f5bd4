"""The two ways of waiting for several tasks: `when_all` and `when_any`.

They stand on what a `Task` offers to everybody above the engine, as `fan_out` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, TypeVar, overload

from durable.engine.loop import DurableLoop
from durable.engine.tasks import Task

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")


def _check_tasks(tasks: Iterable[Any], caller: str) -> list[Task[Any]]:
    found = list(tasks)
    for task in found:
        if not isinstance(task, Task):
            raise TypeError(
                f"{caller} takes durable tasks (what ctx.call_activity, ctx.create_timer, … return), not {task!r:.200}; "
                "for coroutines use asyncio.gather or asyncio.wait in an async orchestrator"
            )
    return found


def _loop_of(tasks: list[Task[Any]]) -> DurableLoop:
    loop = tasks[0].get_loop() if tasks else asyncio.get_running_loop()
    if not isinstance(loop, DurableLoop):
        raise TypeError("when_all and when_any are for orchestrators: no orchestrator is running here")
    return loop


# A tuple is an iterable too, so that mypy sees these overlap with the last one; the more precise answer is meant.
@overload
def when_all(tasks: tuple[Task[T1]]) -> Task[tuple[T1]]: ...  # type: ignore[overload-overlap]
@overload
def when_all(tasks: tuple[Task[T1], Task[T2]]) -> Task[tuple[T1, T2]]: ...  # type: ignore[overload-overlap]
@overload
def when_all(tasks: tuple[Task[T1], Task[T2], Task[T3]]) -> Task[tuple[T1, T2, T3]]: ...  # type: ignore[overload-overlap]
@overload
def when_all(tasks: tuple[Task[T1], Task[T2], Task[T3], Task[T4]]) -> Task[tuple[T1, T2, T3, T4]]: ...  # type: ignore[overload-overlap]
@overload
def when_all(  # type: ignore[overload-overlap]
    tasks: tuple[Task[T1], Task[T2], Task[T3], Task[T4], Task[T5]],
) -> Task[tuple[T1, T2, T3, T4, T5]]: ...
@overload
def when_all(tasks: tuple[Task[T], ...]) -> Task[tuple[T, ...]]: ...  # type: ignore[overload-overlap]
@overload
def when_all(tasks: Iterable[Task[T]]) -> Task[list[T]]: ...


def when_all(tasks: Iterable[Task[Any]]) -> Task[Any]:
    """Wait for all tasks; then give their results in order, or raise the first failure in schedule order.

    A tuple gives a tuple, anything else a list; nothing gives an empty one. Cancelling it cancels the tasks.
    """
    waited = _check_tasks(tasks, "when_all")
    as_tuple = isinstance(tasks, tuple)
    loop = _loop_of(waited)
    whole: Task[Any] = Task(loop, "when_all")
    pending = {task for task in waited if not task.done()}
    left = len(pending)

    def one_done(_: asyncio.Future[Any]) -> None:
        nonlocal left
        left -= 1
        if not left and not whole.done():
            _settle_all(whole, waited, as_tuple=as_tuple)

    def pass_on() -> None:
        for task in waited:
            task.cancel()

    if not left:
        _settle_all(whole, waited, as_tuple=as_tuple)
        return whole
    whole.when_cancelled(pass_on)
    for task in waited:
        if task in pending:
            pending.discard(task)
            task.add_done_callback(one_done)
    return whole


def _settle_all(whole: Task[Any], waited: list[Task[Any]], *, as_tuple: bool) -> None:
    """Settle a `when_all` whose tasks are all settled: the first that did not succeed, in schedule order, decides."""
    unsuccessful = [task for task in waited if task.is_cancelled or task.is_failed]
    if not unsuccessful:
        results = [task.result() for task in waited]
        whole.succeed(tuple(results) if as_tuple else results)
        return
    first = min(unsuccessful, key=hash)  # the order in which they were made, wherever they stand in the list
    if (error := None if first.cancelled() else first.exception()) is not None:
        whole.fail(error)
    elif not whole.done():
        asyncio.Future.cancel(whole)  # there is nothing left to pass on


def when_any(tasks: Iterable[Task[T]]) -> Task[Task[T]]:
    """Give the task that completes first, in the order of the history; never raises for it, and cancels none.

    Raises ValueError for no tasks.
    """
    waited = _check_tasks(tasks, "when_any")
    if not waited:
        raise ValueError("when_any needs at least one task")
    loop = _loop_of(waited)
    winner: Task[Any] = Task(loop, "when_any")
    done = [task for task in waited if task.done()]
    if done:
        winner.succeed(min(done, key=lambda task: task.finished_order))
        return winner
    once = list(dict.fromkeys(waited))

    def first_done(first: asyncio.Future[Any]) -> None:
        winner.succeed(first)
        for task in once:
            task.remove_done_callback(first_done)  # one that is waited for again and again shall not keep them all

    for task in once:
        task.add_done_callback(first_done)
    return winner
