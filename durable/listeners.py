"""Wake-ups inside a process, for providers: joined until the listener's loop comes to them, and numbered.

Providers need not use this; what they owe is in `durable.provider.Wakeup`.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import dataclasses
import threading
from collections.abc import Callable, Collection, Hashable, Iterable

from durable.provider import InstanceRow, Memo, StoredMessage, Wakeup


@dataclasses.dataclass(slots=True)
class Changes:
    """What a transaction has changed, as its listeners will hear it."""

    messages: list[StoredMessage] = dataclasses.field(default_factory=list)
    rows: list[InstanceRow] = dataclasses.field(default_factory=list)
    anything: bool = False
    activities: bool = False
    leases: bool = False
    memos: list[Memo] = dataclasses.field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.messages or self.rows or self.anything or self.activities or self.leases or self.memos)

    def told(self) -> Wakeup:
        """Return the wake-up that says it."""
        memos = tuple(self.memos)
        return Wakeup(tuple(self.messages), tuple(self.rows), self.anything, self.activities, self.leases, memos=memos)


class Listener:
    """One callback in one event loop. `tell` may be called from any thread; the callback runs in the loop, later."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[Wakeup], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._context = contextvars.copy_context()  # the listener's: who changed the store is none of its business
        self._waiting: list[Wakeup] = []
        self._lock = threading.Lock()
        self._is_ended = False
        self._has_lost = False
        self._number = 0

    def tell(self, wakeup: Wakeup) -> None:
        """Pass `wakeup` on, together with whatever else is said before the loop comes to it."""
        if self._is_ended:
            return
        with self._lock:
            self._waiting.append(wakeup)
            if len(self._waiting) > 1:  # the loop was already asked to come
                return
        if asyncio._get_running_loop() is self._loop:
            self._loop.call_soon(self._deliver, context=self._context)
            return
        try:
            self._loop.call_soon_threadsafe(self._deliver, context=self._context)
        except RuntimeError:  # the loop is closed: nobody listens any more
            self.end()

    def lose(self) -> None:
        """Let the number of the next wake-up show that one before it was lost: messages that were stored are not told."""
        with self._lock:
            self._has_lost = True

    def end(self) -> None:
        """Say nothing from now on."""
        self._is_ended = True

    def _deliver(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
            has_lost, self._has_lost = self._has_lost, False
        if not self._is_ended:
            self._number += 2 if has_lost else 1
            self._callback(joined(waiting, self._number))


def joined(wakeups: list[Wakeup], number: int) -> Wakeup:
    """Return one wake-up that says what these say; of several rows of one run the last."""
    messages: list[StoredMessage] = []
    rows: dict[str, InstanceRow] = {}
    for wakeup in wakeups:
        messages.extend(wakeup.messages)
        for row in wakeup.rows:
            rows[row.run_id] = row
    return Wakeup(
        tuple(messages),
        tuple(rows.values()),
        anything=any(wakeup.anything for wakeup in wakeups),
        activities=any(wakeup.activities for wakeup in wakeups),
        leases=any(wakeup.leases for wakeup in wakeups),
        number=number,
        inbox=any(wakeup.inbox for wakeup in wakeups),
        states=any(wakeup.states for wakeup in wakeups),
        memos=tuple(memo for wakeup in wakeups for memo in wakeup.memos),
        ended=_runs(wakeup.ended for wakeup in wakeups),
        changed=_runs(wakeup.changed for wakeup in wakeups),
    )


def _runs(named: Iterable[Collection[str]]) -> Collection[str]:
    return frozenset().union(*named)


class ListenersOfProcess:
    """Everybody in this process who listens to a hub of a store, through whichever provider object."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[Hashable, list[Listener]] = collections.defaultdict(list)

    def add(self, place: Hashable, listener: Listener) -> None:
        """Let `listener` hear of changes at `place`: whatever names one hub of one store."""
        with self._lock:
            self._listeners[place] = [*self._listeners[place], listener]

    def remove(self, place: Hashable, listener: Listener) -> None:
        """End it; more than once is no error."""
        listener.end()
        with self._lock:
            left = [other for other in self._listeners.pop(place, []) if other is not listener]
            if left:
                self._listeners[place] = left

    def at(self, place: Hashable) -> list[Listener]:
        """Return who listens there."""
        return self._listeners.get(place) or []
