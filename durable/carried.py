"""External events that earlier generations of a run have left, and that the present one is shown only as it awaits them.

Why not at its opening: a generation that consumes one of 4,000 events would be given 4,000, and the next one 3,999. So they
stay aside, and enter the history of the generation that consumes them, as arrivals. A new event of a name of which some are
left goes behind those: first in, first out, per name. Among several names that are awaited the oldest event comes first.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

from durable.events import EventRaised
from durable.value_objects import value_object

CARRIED_MAX = 256
"""Carried events that one turn takes: as many as arrivals, so that a turn stays short."""


@value_object
class CarriedChange:
    """What became of carried events: `added` (in order), and then how many of each name were `taken`."""

    added: tuple[EventRaised, ...] = ()
    taken: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.added or self.taken)


NOTHING_CHANGED = CarriedChange()


class Carried:
    """The events that are left, oldest first. Whoever changes them asks afterwards for the `change`, and stores it."""

    __slots__ = ("_added", "_events", "_number", "_taken", "_wanted", "count")

    def __init__(self, events: Iterable[EventRaised] = ()) -> None:
        self.count = 0
        self._events: dict[str, deque[tuple[int, EventRaised]]] = {}
        self._number = 0  # of the last event: their order across names
        self._wanted: list[tuple[int, str]] = []  # a heap of names that are, or were, awaited, by their oldest event
        self._added: list[EventRaised] = []
        self._taken: dict[str, int] = {}
        for event in events:
            self.add(event)
        self.change()

    def __iter__(self) -> Iterator[EventRaised]:
        """Yield what is left, oldest first."""
        return (event for _, event in heapq.merge(*self._events.values(), key=lambda item: item[0]))

    def holds(self, name: str) -> bool:
        """Tell whether events of that name are left."""
        return name in self._events

    def add(self, event: EventRaised) -> None:
        """Leave an event for later."""
        self._number += 1
        self._events.setdefault(event.name, deque()).append((self._number, event))
        self._added.append(event)
        self.count += 1

    def want(self, name: str) -> None:
        """Note that somebody waits for that name now."""
        if name in self._events:
            heapq.heappush(self._wanted, (self._events[name][0][0], name))

    def has_wanted(self, is_awaited: Callable[[str], bool]) -> bool:
        """Tell whether an event of a name that is awaited is left."""
        while self._wanted:
            number, name = self._wanted[0]
            events = self._events.get(name)
            if events and events[0][0] == number and is_awaited(name):
                return True
            heapq.heappop(self._wanted)
        return False

    def take_wanted(self) -> EventRaised:
        """Take the event that `has_wanted` has found."""
        _, name = heapq.heappop(self._wanted)
        event = self.take(name)
        self.want(name)  # there may be a second waiter
        return event

    def take(self, name: str) -> EventRaised:
        """Take the oldest event of a name."""
        events = self._events[name]
        _, event = events.popleft()
        if not events:
            del self._events[name]
        self.count -= 1
        self._taken[name] = self._taken.get(name, 0) + 1
        return event

    def clear(self) -> None:
        """Leave nothing."""
        for name, events in self._events.items():
            self._taken[name] = self._taken.get(name, 0) + len(events)
        self._events.clear()
        self.count = 0

    def change(self) -> CarriedChange:
        """Return what has changed since the last time this was asked."""
        if not (self._added or self._taken):
            return NOTHING_CHANGED
        change = CarriedChange(tuple(self._added), self._taken)
        self._added, self._taken = [], {}
        return change
