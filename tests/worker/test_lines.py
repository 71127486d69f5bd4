"""The lines of attempts can be looked at from any thread, at any moment."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from durable.worker.fairness import TakingTurns
from durable.worker.lines import Line


@contextmanager
def at_any_moment(change: Callable[[], None]) -> Iterator[None]:
    """Let something happen wherever Python may let another thread run: whenever an object is made that it keeps an eye on."""
    before = gc.get_threshold()

    def collected(phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            change()

    gc.callbacks.append(collected)
    gc.set_threshold(1)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(collected)


def test_a_queue_of_many_lines_can_be_looked_at_while_it_changes() -> None:
    queue: TakingTurns[str, int] = TakingTurns()
    for number in range(12):
        queue.append("abc"[number % 3], number)

    def change() -> None:
        queue.append("b", queue.pop())

    with at_any_moment(change):
        for _ in range(100):
            list(queue)  # raises nothing
    assert sorted(queue) == list(range(12))


def test_a_line_by_priority_can_be_looked_at_while_it_changes() -> None:
    line, numbers = Line(10), iter(range(1_000_000))

    def attempt(priority: int) -> Any:
        request = SimpleNamespace(name="work", options=SimpleNamespace(priority=priority))
        address = SimpleNamespace(key=f"{priority % 3}")
        return SimpleNamespace(request=request, address=address, is_in_line=False, is_lasting=False, expected_s=0.0)

    for number in range(12):
        line.append(attempt(number % 4))

    def change() -> None:
        line.append(attempt(next(numbers) % 50))
        line.pop()

    with at_any_moment(change):
        for _ in range(100):
            list(line)  # raises nothing
    assert len(list(line)) == line.count == 12
