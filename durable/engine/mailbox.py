"""External events: who waits for which name, and what arrived before anybody did. First in, first out, per name."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from durable.carried import Carried
from durable.engine.tasks import Task
from durable.events import EventRaised

DecodeEvent: TypeAlias = Callable[[EventRaised], Any]
"""Makes the waiter's result of an event, or raises what awaiting shall raise."""


class Mailbox:
    """The waiters and the unconsumed events of one execution; beside them what earlier generations have left.

    Invariant: while events of a name are `carried`, none of that name is kept: what is taken is the oldest.
    """

    __slots__ = ("_events", "_kept", "_waiters", "carried")

    def __init__(self) -> None:
        self.carried = Carried()
        self._kept = 0
        self._waiters: dict[str, deque[tuple[Task[Any], DecodeEvent]]] = {}
        self._events: dict[str, deque[tuple[EventRaised, int]]] = {}

    def deliver(self, event: EventRaised, order: int) -> None:
        """Hand an event to the first waiter of its name, or keep it, with its place in the order of what happens."""
        waiters = self._waiters.get(event.name)
        if not waiters:
            self._events.setdefault(event.name, deque()).append((event, order))
            self._kept += 1
            return
        task, decode = waiters.popleft()
        if not waiters:
            del self._waiters[event.name]
        _settle(task, decode, event)

    def take(self, name: str, task: Task[Any], decode: DecodeEvent) -> bool:
        """Settle a task with the oldest kept event of that name; False if there is none."""
        events = self._events.get(name)
        if not events:
            return False
        event, order = events.popleft()
        self._kept -= 1
        if not events:
            del self._events[name]
        _settle(task, decode, event)
        task.finished_order = order  # that of its arrival, whenever it is asked for
        return True

    def wait(self, name: str, task: Task[Any], decode: DecodeEvent) -> Callable[[], None]:
        """Add a waiter; return what withdraws it."""
        waiter = (task, decode)
        self._waiters.setdefault(name, deque()).append(waiter)
        self.carried.want(name)

        def withdraw() -> None:
            waiters = self._waiters.get(name)
            if waiters and waiter in waiters:
                waiters.remove(waiter)
                if not waiters:
                    del self._waiters[name]

        return withdraw

    def forget(self) -> None:
        """Forget the waiters: their execution is closed, to which each of them refers."""
        for waiters in self._waiters.values():
            for task, _ in waiters:
                task.when_cancelled(None)
        self._waiters.clear()

    def is_awaited(self, name: str) -> bool:
        """Tell whether an event of that name would go to a waiter at once."""
        return name in self._waiters

    @property
    def count(self) -> int:
        """How many events are unconsumed."""
        return self._kept + self.carried.count

    def kept(self) -> list[EventRaised]:
        """Return the unconsumed events that this generation was shown, per name in order."""
        return [event for events in self._events.values() for event, _ in events]

    def carry(self, carried: Carried) -> None:
        """Take over what earlier generations have left."""
        self.carried = carried
        for name in self._waiters:
            carried.want(name)

    def leave(self, held: Iterable[EventRaised]) -> None:
        """Leave all events to the next generation: those kept, and then those that were held meanwhile."""
        for event in (*self.kept(), *held):
            self.carried.add(dataclasses.replace(event, is_carried=True))
        self._events.clear()
        self._kept = 0


def _settle(task: Task[Any], decode: DecodeEvent, event: EventRaised) -> None:
    try:
        value = decode(event)
    except Exception as error:  # noqa: BLE001 (raised where the event is awaited)
        task.fail(error)
    else:
        task.succeed(value)
