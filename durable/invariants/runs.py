"""Runs as a store holds them, read through the storage contract; and what clients were told of them."""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from durable import events as ev
from durable.errors import HistoryDamagedError, StoreError
from durable.events import EventRaised, HistoryEvent, InstanceKey
from durable.messages import dropped_prefix, read_dropped
from durable.provider import InstanceFilter, InstanceRow, Provider, RecordRow, Status
from durable.records import Record, decode_record
from durable.worker.carrying import read_carried
from durable.worker.live import OwnerState

READS_MAX: Final = 20
"""How often a run is read again that continues as new while it is read."""

MEMOS_MAX: Final = 1_000_000


_ENDS = {ev.OrchestrationFailed, ev.OrchestrationCancelled, ev.OrchestrationTerminated}
"""Those that a rewind takes back."""


class Moment(enum.IntEnum):
    """When a hub is read, and with it what may be expected of it.

    RUNNING: others write while it is read, so that runs are read at different moments and are not compared. STILL: nobody
    writes; messages may wait. SETTLED: the faults are over and every message was received: what is missing now is lost.
    """

    RUNNING = 0
    STILL = 1
    SETTLED = 2


@dataclasses.dataclass(frozen=True, slots=True)
class StoredRun:
    """One run as a store holds it: its row, the records of each generation that is kept, and what was dropped of it.

    `carried`: events that the generations so far have left.
    `dropped`: (time, kind, name, reason) per note. `is_current` is False for a run that was replaced by another.
    """

    row: InstanceRow
    generations: Mapping[int, Sequence[RecordRow]]
    dropped: Sequence[tuple[int, str, str, str]] = ()
    is_current: bool = True
    carried: Sequence[EventRaised] = ()

    @property
    def is_complete(self) -> bool:
        """True if the history is kept from the first record on."""
        return 0 in self.generations

    @property
    def was_rewound(self) -> bool:
        """True if the run went on after its end, as far as that can be seen: its former ends are no ends then."""
        if self.row.generation and not self.row.records:
            return True
        kinds = {generation: set(map(type, self.events_of(generation))) for generation in self.generations}
        return any(
            ev.OrchestrationRewound in found
            # It was ended before the first turn of the generation in which it was to go on.
            or (found & _ENDS and generation + 1 in kinds and ev.OrchestrationStarted not in kinds[generation + 1])
            for generation, found in kinds.items()
        )

    def events_of(self, generation: int) -> list[HistoryEvent]:
        """Return the events of a generation's readable records."""
        records = map(decoded, self.generations[generation])
        return [event for record in records if record is not None for event in record.events]

    def events(self) -> Iterator[HistoryEvent]:
        """Give the events of all readable records once, with those carried: what two generations had is not repeated.

        Nor is what a fork has taken over, which is another run's.
        """
        first = min(self.generations, default=0)
        for generation, rows in sorted(self.generations.items()):
            is_repeated = generation != first
            if is_repeated and rows and (opening := decoded(rows[0])) is not None and opening.is_opening:
                own = self.events_of(generation)[len(opening.events) :]
            else:
                own = self.events_of(generation)
            for at in range(len(own) - 1, -1, -1):
                if isinstance(own[at], ev.OrchestrationForked) or (
                    is_repeated and isinstance(own[at], ev.OrchestrationRewound)
                ):
                    own, is_repeated = own[at:], True
                    break
            yield from (e for e in own if not (is_repeated and isinstance(e, EventRaised) and e.is_carried))
        yield from (event for event in self.carried if not event.is_carried)


@dataclasses.dataclass(slots=True)
class Answers:
    """What clients were told, to be compared with what the store holds.

    `started`: starts that returned, key by run id. `raised`: events accepted, counted by (run id, event name); `asked`: those
    whose answer never came. `ended`: final statuses that somebody saw, by run id. `purged`: run ids that are gone on purpose;
    `rewound`: those that were to go on after an end, of which their histories need not tell any more.
    """

    started: dict[str, InstanceKey] = dataclasses.field(default_factory=dict)
    raised: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)
    asked: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)
    ended: dict[str, Status] = dataclasses.field(default_factory=dict)
    purged: set[str] = dataclasses.field(default_factory=set)
    rewound: set[str] = dataclasses.field(default_factory=set)


async def read_runs(provider: Provider, also: Iterable[tuple[InstanceKey, str]] = ()) -> list[StoredRun]:
    """Read every current run of a hub, those named in `also`, and children's former runs that a history names."""
    runs: dict[str, StoredRun] = {}
    page: bytes | None = None
    while True:
        answer = await provider.list_instances(InstanceFilter(kind=None), limit=1000, page=page)
        for row in answer.rows:
            await _read_into(runs, provider, row, is_current=True)
        page = answer.next_page
        if page is None:
            break
    wanted = dict.fromkeys([*also, *(target for run in runs.values() for target in children_of(run))])
    while wanted := {target: None for target in wanted if target[1] not in runs}:
        rows = await provider.load(list(wanted))
        read = [row for row in rows if row is not None]
        for row in read:
            await _read_into(runs, provider, row, is_current=False)
        wanted = dict.fromkeys(target for row in read if row.run_id in runs for target in children_of(runs[row.run_id]))
    return list(runs.values())


def children_of(run: StoredRun) -> Iterator[tuple[InstanceKey, str]]:
    """Give the runs that a run has asked for, as far as its history is kept."""
    for event in run.events():
        if isinstance(event, ev.SubOrchestrationScheduled):
            yield InstanceKey(event.instance_id, event.kind), event.run_id


async def _read_into(runs: dict[str, StoredRun], provider: Provider, row: InstanceRow, *, is_current: bool) -> None:
    run = await read_run(provider, row)
    if run is not None and run.row.run_id not in runs:
        runs[run.row.run_id] = dataclasses.replace(run, is_current=is_current)


async def read_run(provider: Provider, row: InstanceRow) -> StoredRun | None:
    """Read a run until its row and its history are of the same moment; None if it is purged meanwhile."""
    for _ in range(READS_MAX):
        generations = {}
        for generation in range(max(row.generation - 1, 0), row.generation + 1):  # the older first: it goes first
            generations[generation] = await _read_generation(provider, row.run_id, generation)
        damage: HistoryDamagedError | None = None
        try:
            carried = list(await read_carried(provider, row, OwnerState.decode(row.state).carried))
        except HistoryDamagedError as error:  # or it has changed meanwhile
            carried, damage = [], error
        [again] = await provider.load([(row.key, row.run_id)])
        if again is None:
            return None
        if (again.generation, again.records, again.chain) == (row.generation, row.records, row.chain):
            row = again
            if damage is not None:
                raise damage
            break
        if again.generation == row.generation and len(generations[row.generation]) >= row.records:
            del generations[row.generation][
                row.records :
            ]  # it went on meanwhile: what is newer than its row is left out
            break
        row = again
    else:
        raise StoreError(f"{named(row)} continues as new faster than it can be read")
    if row.generation and not generations.get(row.generation - 1):
        generations.pop(row.generation - 1, None)
    memos = await provider.read_memos(dropped_prefix(row.run_id), MEMOS_MAX)
    return StoredRun(row, generations, [item for memo in memos for item in read_dropped(memo)], carried=carried)


async def _read_generation(provider: Provider, run_id: str, generation: int) -> list[RecordRow]:
    found: list[RecordRow] = []
    first = 0
    while part := await provider.read_history(run_id, generation, first):
        found += part
        first = part[-1].index + 1
    return found


def decoded(row: RecordRow) -> Record | None:
    """Return a record's events; None if it cannot be read."""
    try:
        return decode_record(row.data)
    except HistoryDamagedError:
        return None


def named(row: InstanceRow, generation: int | None = None) -> str:
    """Say which run, and which generation of it, is meant."""
    place = f"instance '{row.key.id}', run {row.run_id}"
    return place if generation is None else f"{place}, generation {generation}"
