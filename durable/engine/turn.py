"""What a turn answers: one frozen value that holds everything that must now become durable, and what may follow it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from durable import events as ev
from durable.carried import CarriedChange
from durable.events import HistoryEvent
from durable.outgoing import Outgoing
from durable.records import Record
from durable.retry import FailedAttempt
from durable.value_objects import value_object


class Unchanged:
    """The type of UNCHANGED."""


UNCHANGED = Unchanged()
"""Says that a turn did not touch a value (None is a value)."""


@value_object
class Turn:
    """The answer of the engine to some arrivals. The comments say what must be durable before what."""

    # Durable first, in the transaction that also consumes the messages behind the arrivals in it.
    record: Record
    # Arrivals that are in the record, and those that were refused, with the reason: both are consumed with it.
    refused: Sequence[tuple[HistoryEvent, str]]
    # Arrivals that the turn did not get to, because the generation ended: not consumed; the next generation takes them.
    leftover: Sequence[HistoryEvent]
    # In the same transaction: events that were put aside for later, of this generation or the next, and taken up again.
    carried: CarriedChange
    # In the same transaction: how the generation ended, if it did, and how the next one opens.
    outcome: HistoryEvent | None
    next_generation: Record | None
    # In the same transaction: the row. Earliest open timer; activities without an outcome; what the code said of itself.
    next_due: int | None
    open_activities: int
    is_suspended: bool
    goes_on: bool  # it has more to do at once: another turn shall come, with or without arrivals
    custom_status: bytes | Unchanged | None
    memos: Sequence[tuple[str, bytes, int]]
    is_dispensable: bool  # it holds nothing worth keeping: it goes with this commit, unless something waits for it
    # In the same transaction (a large turn: afterwards, by the owner, in this order and idempotently).
    messages: Sequence[Outgoing]
    # Kept in the row, for whichever commit ends the run.
    farewells: Mapping[str, Outgoing]
    # Only after the commit: attempts to start, and running ones to tell that nobody waits for them.
    activities: Sequence[ev.ActivityScheduled]
    dropped_activities: Sequence[int]
    # Only after the commit: for the log.
    failed_attempts: Sequence[FailedAttempt]
