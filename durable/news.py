"""What processes tell one another of what they have written, for providers: names only, for all of it is in the store.

One line of text, which may be lost: `origin:kinds:partitions:ended:changed`. `kinds` are letters, `partitions` the bits of a
number, in hexadecimal, `ended` and `changed` ids of runs with commas between them. A line with a letter or a field that is not
known here comes from another release, and is understood as far as it is.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator

from durable.provider import Status, Wakeup

ACTIVITIES, LEASES, STATES, INBOX, NAMED = "a", "l", "s", "i", "r"
"""What a line says: rows to claim; workers came or went; rows or memos were written; messages wait; and which rows."""

ROOM = 40
"""What a line's letters, numbers and marks take at most beside its names, in bytes."""

CHANGED_S = 0.005
"""How long what has only changed waits to be told with what is urgent."""

_origin = f"{os.getpid():x}.{os.urandom(6).hex()}"


def origin() -> str:
    """Return what marks the lines of this process."""
    if not _origin.startswith(f"{os.getpid():x}."):  # a child of a fork is somebody else
        globals()["_origin"] = f"{os.getpid():x}.{os.urandom(6).hex()}"
    return _origin


@dataclasses.dataclass(slots=True)
class News:
    """What is still to be told.

    `states`: rows or memos were written, and which is not said. `partitions`: bits of those in which messages wait. `ended`,
    `changed`: runs whose rows were written.
    """

    activities: bool = False
    leases: bool = False
    states: bool = False
    partitions: int = 0
    ended: set[str] = dataclasses.field(default_factory=set)
    changed: set[str] = dataclasses.field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.activities or self.leases or self.states or self.partitions or self.ended or self.changed)

    @property
    def is_urgent(self) -> bool:
        """True if somebody may wait for it; what has only changed can wait a moment for what comes next."""
        return bool(self.activities or self.leases or self.states or self.partitions or self.ended)

    def add(self, wakeup: Wakeup, own: int = 0) -> None:
        """Note what those of this process were told; messages in `own` partitions concern nobody else.

        Nor does a run that only begins: whoever waits for it has started it.
        """
        self.activities = self.activities or wakeup.activities
        self.leases = self.leases or wakeup.leases
        self.states = self.states or bool(wakeup.memos)
        if wakeup.messages:
            self.partitions |= bits({message.partition for message in wakeup.messages}) & ~own
        for row in wakeup.rows:
            if row.status.is_finished:
                self.ended.add(row.run_id)
            elif row.status is not Status.PENDING:
                self.changed.add(row.run_id)

    def lines(self, bytes_max: int) -> list[str]:
        """Return it as lines of at most so many bytes, if a run's id is not longer than that."""
        kinds = f"{ACTIVITIES * self.activities}{LEASES * self.leases}{INBOX * bool(self.partitions)}"
        if self.states or not (self.ended or self.changed):  # then all who wait look, whatever is named
            return [f"{origin()}:{kinds}{STATES * self.states}:{self.partitions:x}"]
        lines = []
        partitions = self.partitions
        for ended, changed in _in_pieces(self.ended, self.changed - self.ended, bytes_max - len(origin()) - ROOM):
            lines.append(f"{origin()}:{kinds}{STATES}{NAMED}:{partitions:x}:{','.join(ended)}:{','.join(changed)}")
            kinds, partitions = "", 0
        return lines


def _in_pieces(ended: Iterable[str], changed: Iterable[str], bytes_max: int) -> Iterator[tuple[list[str], list[str]]]:
    """Cut what is named into pieces of so many bytes; one at least, be it empty."""
    piece: tuple[list[str], list[str]] = ([], [])
    left = bytes_max
    for kind, runs in enumerate((ended, changed)):
        for run in runs:
            size = len(run.encode()) + 1
            if size > left and left < bytes_max:
                yield piece
                piece, left = ([], []), bytes_max
            piece[kind].append(run)
            left -= size
    yield piece


def heard(line: str, owned: int) -> Wakeup | None:
    """Return what a line says to a process that owns these partitions; None if it is its own."""
    sender, kinds, partitions, ended, changed = [*line.split(":"), "", "", "", ""][:5]
    if sender == origin():
        return None
    try:
        is_for_us = INBOX in kinds and bool(int(partitions, 16) & owned)
    except ValueError:  # of a release that says it in other words
        is_for_us = True
    return Wakeup(
        anything=LEASES in kinds,
        activities=ACTIVITIES in kinds,
        leases=LEASES in kinds,
        inbox=is_for_us,
        states=STATES in kinds and NAMED not in kinds,
        ended=ended.split(",") if ended else (),
        changed=changed.split(",") if changed else (),
    )


def bits(partitions: Iterable[int]) -> int:
    """Return partitions as the bits of a number."""
    found = 0
    for partition in partitions:
        found |= 1 << partition
    return found
