"""What is still in the store: messages that a wake-up brings must not overtake older ones that nobody has read yet.

A place, a partition or one instance, is behind while the store may hold eligible messages of it that are not in memory:
after the partition was taken, and after a message was left there. A fresh message of such a place waits until everything
eligible was read once, by a read that began after the place fell behind, and when the store kept back nothing of it.

Invariant: of one place, a message enters memory only after all that were stored before it and that this process was told of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from durable.events import InstanceKey
from durable.provider import Priority, StoredMessage

Place: TypeAlias = InstanceKey | int
"""An instance, or a partition."""

STASH_MAX = 1000
"""Fresh messages that wait here for the older ones; more are left in the store."""


class Backlog:
    """The places that are behind, each with the number of the read during which it fell behind."""

    def __init__(self) -> None:
        self._behind: dict[Place, int] = {}
        self._stash: list[StoredMessage] = []
        self._reads = 0
        self._taken: dict[int, int] = {}  # during which read a partition was last taken
        self._let_go: dict[
            InstanceKey, bool
        ] = {}  # of these messages left memory during the present read; steering as well?
        self._kept_back: dict[Place, int] = {}  # until when: as the present read began

    def fall_behind(self, places: Iterable[Place]) -> None:
        """Note that the store holds, or may hold, messages of these places that are not in memory."""
        self._behind.update(dict.fromkeys(places, self._reads))

    def let_go(self, key: InstanceKey, *, steering: bool = False) -> None:
        """Note that messages of an instance have left memory unconsumed, or all of them with `steering`.

        What a read returns that had left them out comes after them.
        """
        self._let_go[key] = steering or self._let_go.get(key, False)
        self.fall_behind([key])

    def take_over(self, partitions: Iterable[int]) -> None:
        """These were just taken. What was read or heard of them before may be consumed by now: only the store knows."""
        taken = dict.fromkeys(partitions, self._reads)
        self._taken |= taken
        self._stash = [message for message in self._stash if message.partition not in taken]
        self.fall_behind(taken)

    def is_outdated(self, message: StoredMessage) -> bool:
        """Tell whether the present read, which has found this message, may not have found older ones.

        Its partition was taken after the read had begun, or older ones were in memory then and are no more.
        """
        if self._taken.get(message.partition) == self._reads:
            return True
        if message.priority is Priority.CONTROL:
            return self._let_go.get(message.target, False)
        return message.target in self._let_go

    def place_of(self, message: StoredMessage) -> Place | None:
        """Return the place that holds a fresh message up, None if it may go ahead."""
        if message.partition in self._behind:
            return message.partition
        return message.target if message.target in self._behind else None

    def is_behind(self, place: Place) -> bool:
        """Tell whether the store may hold messages of a place that are not in memory."""
        return place in self._behind

    def keep(self, message: StoredMessage, place: Place) -> None:
        """Let a fresh message wait for the older ones of its place."""
        if len(self._stash) < STASH_MAX:
            self._stash.append(message)
        else:
            self.fall_behind([place])

    def begin_read(self, kept_back_until: Callable[[InstanceKey], int]) -> None:
        """A read of what is eligible begins. The store may keep back what came for an instance; 0: it does not."""
        self._reads += 1
        self._let_go.clear()
        untils = {place: kept_back_until(place) for place in self._behind if isinstance(place, InstanceKey)}
        self._kept_back = {place: until for place, until in untils.items() if until}

    def end_read(self, read_at: int) -> list[StoredMessage]:
        """What was eligible `read_at`, by the store, is taken in; return the fresh messages whose turn it is now."""
        for place, since in list(self._behind.items()):
            # An instance whose pause is over by now may have been in it when the store looked.
            if since < self._reads and self._kept_back.get(place, 0) <= read_at:
                del self._behind[place]
        ready = [message for message in self._stash if self.place_of(message) is None]
        self._stash = [message for message in self._stash if self.place_of(message) is not None]
        return ready

    def __bool__(self) -> bool:
        return bool(self._behind)

    def forget(self) -> None:
        """Everything in memory is gone, and will be read again."""
        self._behind.clear()
        self._let_go.clear()
        self._stash.clear()
