"""What lies in a hub and waits: messages in the inboxes and rows in the activity queue, against the histories and each other.

Also the order in which events were accepted: per name they are seen in it, however often they were sent on.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from durable import events as ev
from durable.errors import HistoryDamagedError
from durable.events import ORCHESTRATION, EventRaised, InstanceKey
from durable.invariants.runs import Moment, StoredRun, decoded, named
from durable.messages import decode_arrivals
from durable.permits import KIND, keeper_id
from durable.provider import (
    PARTITIONS,
    ActivityRow,
    Delivery,
    InstanceRow,
    Message,
    Provider,
    Status,
    StoredMessage,
    TaskAddress,
    Verdict,
)
from durable.worker.live import OwnerState

LIMIT: Final = 1_000_000
"""More than one look at a hub may find."""

_ENDS_OF_ATTEMPTS: Final = (ev.ActivityCompleted, ev.ActivityFailed, ev.ActivityCancelled)


# ---- the order of events


@dataclasses.dataclass(slots=True)
class Accepted:
    """The events that a store has accepted, by target and name: by the sequence of the message, what it brought.

    Each with the run that it was sent to, None for whichever is the current one.
    """

    events: dict[tuple[InstanceKey, str], dict[tuple[int, int], tuple[str | None, EventRaised]]] = dataclasses.field(
        default_factory=lambda: defaultdict(dict)
    )

    def note(self, messages: Sequence[Message], deliveries: Iterable[Delivery]) -> None:
        """Take note of what a submit or a commit was answered."""
        for message, delivery in zip(messages, deliveries, strict=False):
            if delivery.verdict is not Verdict.STORED:
                continue
            run_id = message.run_id if message.start is None else message.start.run_id
            try:
                arrivals = decode_arrivals(message.data)[1]
            except HistoryDamagedError:
                continue
            for place, event in enumerate(arrivals):
                if isinstance(event, EventRaised):
                    self.events[message.target, event.name][delivery.sequence, place] = run_id, event

    def of(self, row: InstanceRow, name: str) -> list[EventRaised]:
        """Return the events of a name that a run may have been sent, in the order in which they were accepted."""
        known = sorted(self.events[row.key, name].items())
        return [event for _, (run_id, event) in known if run_id in (None, row.run_id)]


def violations_of_order(runs: Sequence[StoredRun], accepted: Accepted) -> list[str]:
    """Return where events of one name were not seen in the order in which the store had accepted them.

    Of orchestrations: what other instances are sent is in order by sender, as their feature says.
    """
    found: list[str] = []
    for run in runs:
        if run.row.key.kind != ORCHESTRATION:
            continue
        for generation, rows in run.generations.items():
            records = [record for row in rows if (record := decoded(row)) is not None]
            seen = [event for record in records for event in record.events if isinstance(event, EventRaised)]
            found += _disorder(run, seen, accepted, named(run.row, generation))
        if run.is_complete:
            seen = [event for event in run.events() if isinstance(event, EventRaised)]
            found += _disorder(run, seen, accepted, named(run.row))
    return found


def _disorder(run: StoredRun, seen: Sequence[EventRaised], accepted: Accepted, where: str) -> Iterator[str]:
    by_name: dict[str, list[EventRaised]] = defaultdict(list)
    for event in seen:
        by_name[event.name].append(dataclasses.replace(event, is_carried=False))
    for name, events in by_name.items():
        known = accepted.of(run.row, name)
        left = iter(known)
        for place, event in enumerate(events):
            if event in known and event not in left:  # `in` goes on to the first that is equal
                yield f"I7: {where}: event {place} of name '{name}', {event.data!r:.60}, came after one that was sent later"
                break


# ---- inboxes and the activity queue


@dataclasses.dataclass(frozen=True, slots=True)
class Waiting:
    """What waits in a hub: messages that can be received, and rows that can be claimed."""

    messages: Sequence[StoredMessage]
    rows: Sequence[ActivityRow]


async def read_waiting(provider: Provider, queues: Collection[str]) -> Waiting:
    """Take a hub over whose workers are dead, and read what waits in it; `queues`: those in which activities may lie.

    Their leases must have run out, or what they had claimed is not found.
    """
    lease = await provider.lease("reader", b"", worker=True)
    await provider.take(lease, range(PARTITIONS), from_live=True)
    received = await provider.receive(lease, (), LIMIT, served=())
    claimed = await provider.claim(lease, sorted(queues), None, LIMIT)
    rows = {row.task: row for row in (*received.unserved, *claimed)}
    await provider.release(lease)
    return Waiting(received.messages, list(rows.values()))


def violations_of_waiting(runs: Sequence[StoredRun], waiting: Waiting, moment: Moment) -> list[str]:
    """Return what waits for nobody, and who waits for what is not there."""
    on_their_way = {address for message in waiting.messages for address in _outcomes_in(message)}
    rows = {row.task for row in waiting.rows}
    kept = {run.row.key.id for run in runs if run.row.key.kind == KIND and run.is_current}
    found: list[str] = []
    wanted: set[TaskAddress] = set()
    for run in runs:
        if run.is_current and not run.row.status.is_finished:
            queued, held, limited = open_attempts(run)
            wanted |= queued | held
            if run.row.status is not Status.STALLED and OwnerState.decode(run.row.state).cursor is None:
                where = named(run.row, run.row.generation)
                for task in sorted(limited.keys() - rows - on_their_way):
                    if limited[task] not in kept:
                        found.append(
                            f"I3: {where}: activity {task.task_id} waits for a permit, and nobody keeps its limit"
                        )
                for task in sorted(queued - limited.keys() - rows - on_their_way):
                    found.append(f"I3: {where}: activity {task.task_id} went to the queue, and is not there")
                for task in sorted(held & rows):
                    found.append(f"I9: {where}: activity {task.task_id} is held by the owner, and is in the queue too")
    for task in sorted(rows - wanted):
        found.append(
            f"I14: instance '{task.key.id}', run {task.run_id}, generation {task.generation}: activity {task.task_id} is in "
            "the queue, and nobody waits for it"
        )
    if moment is Moment.SETTLED:
        for message in waiting.messages:
            found.append(
                f"I3: instance '{message.target.id}': message {message.sequence} can be received, and never was"
            )
    return found


def open_attempts(run: StoredRun) -> tuple[set[TaskAddress], set[TaskAddress], dict[TaskAddress, str]]:
    """Return the attempts without an outcome: those in the queue, as the row says, and those that the owner holds.

    Of the former also those that need a permit before they are there, with the keepers of these.
    """
    row = run.row
    open_ids: dict[int, ev.ActivityScheduled] = {}
    for record_row in run.generations.get(row.generation, ()):
        record = decoded(record_row)
        for event in record.events if record is not None else ():
            if isinstance(event, ev.ActivityScheduled):
                open_ids[event.task_id] = event
            elif isinstance(event, _ENDS_OF_ATTEMPTS):
                open_ids.pop(event.task_id, None)
    state = OwnerState.decode(row.state)
    addresses = {task_id: TaskAddress(row.key, row.run_id, row.generation, task_id) for task_id in open_ids}
    queued = {address for task_id, address in addresses.items() if task_id in state.queued}
    limited = {
        addresses[task_id]: keeper_id(request.name, request.options.limit.key)
        for task_id, request in open_ids.items()
        if request.options.limit is not None and request.options.limit.error is None
    }
    return queued, set(addresses.values()) - queued, limited


def _outcomes_in(message: StoredMessage) -> Iterator[TaskAddress]:
    try:
        generation, events = decode_arrivals(message.data)
    except HistoryDamagedError:
        return
    for event in events:
        if isinstance(event, ev.ActivityCompleted | ev.ActivityFailed) and generation is not None and message.run_id:
            yield TaskAddress(message.target, message.run_id, generation, event.task_id)
