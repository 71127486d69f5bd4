"""How carried events are stored: a journal beside the generations of a run, that grows by what changes.

The journal is kept like a generation's history, under a number that no generation reaches. Each entry says which events were
added and then how many of each name were taken, and continues the checksum of the one before; the last one's is in the row's
`state`. Once it holds more that is gone than what is left it is written anew under the other of its two numbers, in the same
commit that drops the old one. So a run of generations that consume what is left costs by what they consume.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import msgpack

from durable.carried import Carried, CarriedChange
from durable.errors import HistoryDamagedError
from durable.events import EventRaised
from durable.provider import InstanceRow, Provider, RecordRow
from durable.records import decode_event, encode_event, first_checksum, next_checksum, require, unpack
from durable.worker.live import Journal

FIRST_NUMBER = 1 << 40
"""The journal's numbers are this and the next: more generations than any run lives to see."""

FORMAT = 1
ENTRY_EVENTS_MAX = 1000
"""Events in one entry, so that a long journal is read in parts."""

GONE_MAX = 1000
"""What a journal may hold of what is gone, beside as much as is left."""


@dataclasses.dataclass(frozen=True, slots=True)
class JournalStep:
    """What a commit does to the journal: where it stands then, the entries to append, the numbers to drop."""

    journal: Journal | None
    appends: Sequence[tuple[int, RecordRow]]
    drops: tuple[int, ...] = ()


NO_JOURNAL = JournalStep(None, ())
"""Nothing is carried, and nothing was: as for most turns."""


def journal_step(row: InstanceRow, journal: Journal | None, carried: Carried, change: CarriedChange) -> JournalStep:
    """Say how a change of the carried events is stored; `carried` are those that are left after it."""
    if not carried.count:
        return NO_JOURNAL if journal is None else JournalStep(None, [], (journal.number,))
    if not change:
        return JournalStep(journal, ())
    if journal is not None and journal.changes <= 2 * carried.count + GONE_MAX:
        return _appended(journal, [change])
    number = FIRST_NUMBER if journal is None or journal.number != FIRST_NUMBER else FIRST_NUMBER + 1
    anew = Journal(number, 0, first_checksum(row.key, row.run_id, number), 0)
    written = _appended(anew, _in_parts(tuple(carried)))
    return dataclasses.replace(written, drops=() if journal is None else (journal.number,))


def _in_parts(left: tuple[EventRaised, ...]) -> list[CarriedChange]:
    starts = range(0, len(left), ENTRY_EVENTS_MAX)
    return [CarriedChange(left[at : at + ENTRY_EVENTS_MAX]) for at in starts]


def _appended(journal: Journal, changes: list[CarriedChange]) -> JournalStep:
    appends: list[tuple[int, RecordRow]] = []
    number, entries, chain, count = journal
    for change in changes:
        data = _encode(change)
        chain = next_checksum(chain, data)
        appends.append((number, RecordRow(entries, data, chain)))
        entries += 1
        count += len(change.added) + sum(change.taken.values())
    return JournalStep(Journal(number, entries, chain, count), appends)


async def read_carried(provider: Provider, row: InstanceRow, journal: Journal | None) -> Carried:
    """Read what is left for the present generation. Raises HistoryDamagedError, as reading a history does."""
    carried = Carried()
    if journal is None:
        return carried
    chain, expected = first_checksum(row.key, row.run_id, journal.number), 0
    while expected < journal.entries:
        entries = await provider.read_history(row.run_id, journal.number, expected)
        if not entries:
            raise HistoryDamagedError(f"entry {expected} of {journal.entries} of the carried events is missing")
        for stored in entries[: journal.entries - expected]:
            chain = next_checksum(chain, stored.data)
            if stored.index != expected or stored.checksum != chain:
                raise HistoryDamagedError(f"entry {expected} of the carried events does not match its checksum")
            expected += 1
            _apply(carried, stored.data)
    if chain != journal.chain:
        raise HistoryDamagedError("the carried events do not end with the checksum in the instance's row")
    carried.change()  # it is stored
    return carried


def _encode(change: CarriedChange) -> bytes:
    events = [encode_event(event) for event in change.added]
    data: bytes = msgpack.packb([FORMAT, events, list(change.taken.items())])
    return data


def _apply(carried: Carried, data: bytes) -> None:
    try:
        layout, added, taken = unpack(data)[:3]
        require(int, layout)
        if layout > FORMAT:
            raise HistoryDamagedError(f"the carried events have format {layout}; this version reads up to {FORMAT}")
        for packed in added:
            event: Any = decode_event(unpack(packed))
            assert isinstance(event, EventRaised), "only events are carried"
            carried.add(event)
        for name, count in taken:
            for _ in range(count):
                carried.take(name)
    except HistoryDamagedError:
        raise
    except Exception as error:  # whatever garbage does to the decoder is one fact: this is not an entry
        raise HistoryDamagedError(f"the carried events cannot be read: {error!r}") from error
