"""A whole hub, checked run by run: what is in memory is bounded by the largest run, however many there are.

Finds what `violations` finds of a hub that is not settled. Runs are compared with their parents and children as they come up.
Where nobody works, what waits in inboxes and in the activity queue is looked at too, through a lease that is given back.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final

from durable.errors import HistoryDamagedError, StoreError
from durable.events import InstanceKey
from durable.invariants.comparing import unasked_child, violations_among
from durable.invariants.runs import Moment, StoredRun, children_of, named, read_run
from durable.invariants.stories import violations_in
from durable.invariants.waiting import open_attempts
from durable.messages import decode_arrivals
from durable.provider import PARTITIONS, ActivityRow, InstanceFilter, Lease, Provider

PAGE: Final = 100
"""Rows of a page: each may hold megabytes of payload."""

COMPARED_AT_ONCE: Final = 100
PARENTS_KEPT: Final = 4
"""Children of one parent mostly follow one another in a listing."""

WAITING_MAX: Final = 100_000
"""So many messages, and attempts in the queue, are looked at."""


async def examine(provider: Provider, moment: Moment = Moment.RUNNING) -> AsyncIterator[str]:
    """Give what is wrong with the runs of an open hub, as it is found. Raises what the provider raises."""
    parents: collections.OrderedDict[str, StoredRun | None] = collections.OrderedDict()
    page: bytes | None = None
    while True:
        answer = await provider.list_instances(InstanceFilter(kind=None), limit=PAGE, page=page, newest_first=False)
        for row in answer.rows:
            try:
                run = await read_run(provider, row)
            except HistoryDamagedError as error:
                yield f"I13: {named(row)}: {error}"
                continue
            if run is None:
                continue
            for text in violations_in(run):
                yield text
            if moment is Moment.RUNNING:
                continue
            async for text in _beside_children(provider, run):
                yield text
            parent = await _parent_of(provider, run, parents)
            if parent is not None:
                for text in unasked_child(run, {parent.row.run_id: parent}):
                    yield text
        page = answer.next_page
        if page is None:
            return


async def _beside_children(provider: Provider, run: StoredRun) -> AsyncIterator[str]:
    wanted = iter(list(dict.fromkeys(children_of(run))))
    while some := list(itertools.islice(wanted, COMPARED_AT_ONCE)):
        children = await _read(provider, some)
        # Beside this run only: what is wrong among them is found where each comes up itself.
        for text in violations_among([run, *map(_alone, children)], Moment.STILL):
            yield text
        current = await provider.load([(child.row.key, None) for child in children])
        for child, now in zip(children, current, strict=True):
            if now is None or now.run_id != child.row.run_id:  # no listing has it any more
                for text in violations_in(dataclasses.replace(child, is_current=False)):
                    yield text


def _alone(run: StoredRun) -> StoredRun:
    """Return a run that is compared with others, but says nothing of its own parent."""
    row = run.row
    return dataclasses.replace(run, row=dataclasses.replace(row, parent_task=None)) if row.parent_task else run


async def _parent_of(
    provider: Provider, run: StoredRun, kept: collections.OrderedDict[str, StoredRun | None]
) -> StoredRun | None:
    row = run.row
    if row.parent is None or row.parent_run_id is None:
        return None
    if row.parent_run_id not in kept:
        found = await _read(provider, [(row.parent, row.parent_run_id)])
        kept[row.parent_run_id] = found[0] if found else None
        while len(kept) > PARENTS_KEPT:
            kept.popitem(last=False)
    return kept[row.parent_run_id]


async def _read(provider: Provider, targets: Sequence[tuple[InstanceKey, str]]) -> list[StoredRun]:
    """Return those of the runs that can be read; what cannot is told of where a listing comes to it."""
    runs = []
    for row in await provider.load(list(targets)):
        with contextlib.suppress(HistoryDamagedError):
            runs.append(None if row is None else await read_run(provider, row))
    return [run for run in runs if run is not None]


# ---- inboxes and the queue


@dataclasses.dataclass(slots=True)
class Waits:
    """What waits in a hub: how many messages and attempts, and what is wrong with them."""

    messages: int = 0
    attempts: int = 0
    violations: list[str] = dataclasses.field(default_factory=list)


async def examine_waiting(provider: Provider) -> Waits:
    """Look at the messages that could be received, and the attempts that nobody has claimed; nothing of it is changed.

    Raises StoreError where a worker lives: only it can see them.
    """
    lease = await provider.lease("doctor", b"", worker=True)
    try:
        taken = await provider.take(lease, range(PARTITIONS))
        if len(taken) < PARTITIONS:
            raise StoreError(
                "a worker is running, or has died less than ten seconds ago: --still is for a store that nobody works on"
            )
        found = Waits()
        await _look_at_messages(provider, lease, found)
        await _look_at_queue(provider, lease, found)
        return found
    finally:
        await provider.release(lease)


async def _look_at_messages(provider: Provider, lease: Lease, found: Waits) -> None:
    seen: set[int] = set()
    while len(seen) < WAITING_MAX:
        received = await provider.receive(lease, seen, 1000)
        if not received.messages:
            break
        for message in received.messages:
            seen.add(message.sequence)
            try:
                decode_arrivals(message.data)
            except HistoryDamagedError as error:
                found.violations.append(f"I13: instance '{message.target.id}': message {message.sequence}: {error}")
    found.messages = len(seen)


async def _look_at_queue(provider: Provider, lease: Lease, found: Waits) -> None:
    received = await provider.receive(lease, (), 1, served=())
    rows: Iterable[ActivityRow] = received.unserved
    if received.unserved:
        rows = (await provider.receive(lease, (), WAITING_MAX, served=())).unserved
    by_run: dict[tuple[InstanceKey, str], list[ActivityRow]] = collections.defaultdict(list)
    for row in rows:
        by_run[row.task.key, row.task.run_id].append(row)
        found.attempts += 1
    for (key, run_id), attempts in by_run.items():
        runs = await _read(provider, [(key, run_id)])
        is_open = bool(runs) and runs[0].is_current and not runs[0].row.status.is_finished
        wanted = open_attempts(runs[0]) if is_open else (set(), set(), {})
        for row in attempts:
            where = f"instance '{key.id}', run {run_id}" if not runs else named(runs[0].row, row.task.generation)
            if row.task in wanted[1]:
                found.violations.append(
                    f"I9: {where}: activity {row.task.task_id} is held by the owner, and is in the queue too"
                )
            elif row.task not in wanted[0]:
                found.violations.append(
                    f"I14: {where}: activity {row.task.task_id} is in the queue, and nobody waits for it"
                )
