"""Replaying recorded histories against today's code.

`replay` is the question that a deployment asks: does the code still ask for what this history records? It compares as a
worker does, by shape and (with `strict`) by value. `replay_prefixes` is the question that the framework asks of itself: from
every point of a history, is the rest asked for again, byte for byte?
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from durable import events as ev
from durable.app import App
from durable.engine.execution import Execution
from durable.engine.tasks import Task
from durable.errors import DivergenceError
from durable.events import HistoryEvent
from durable.history import History
from durable.orchestrations import kind_of
from durable.records import Record, encode_record


def replay(app: App, history: History, *, strict: bool = True) -> None:
    """Replay a history, as `handle.history()` or `History.load` gives it, against the code in `app`.

    Returns when the code asks for what the history records. Raises DivergenceError, which explains the first difference
    (where, recorded, asked now, both source lines, likely cause): of a request, and with `strict` also of a value that one
    carries; without, a differing value is logged as a warning. Raises UnknownNameError if the app lacks the orchestrator or
    the version that wrote it, and StoredValueError for a recorded value that no longer fits. No activity runs, and nothing is
    stored.
    """
    with replayed(app, history, strict=strict):
        pass


@contextlib.contextmanager
def replayed(app: App, history: History, *, strict: bool = True) -> Iterator[Execution]:
    """Give the execution as a history leaves it, for the length of the block. Raises what `replay` raises."""
    execution = _new_execution(app, history, strict=strict)
    try:
        for record, size_bytes in _sized(history):
            execution.feed(record, size_bytes)
        yield execution
    finally:
        execution.close()


def awaited(app: App, history: History) -> list[str]:
    """Return in words what an unfinished orchestration waits for, as its code says; its activities left out.

    So the names of external events are known, which no history holds before they come. Raises what `replay` raises.
    """
    with replayed(app, history, strict=False) as execution:
        waits = [found for task in asyncio.all_tasks(execution.loop) for found in _awaited_by(task)]
        return sorted({found.name for found in waits if found.task_id not in execution.open_activities})


def _awaited_by(awaiting: object) -> Iterator[Task[Any]]:
    """Yield the durable tasks that a task of asyncio, or a future that gathers several, waits for."""
    waiters = [getattr(awaiting, "_fut_waiter", None), *getattr(awaiting, "_children", ())]
    for waiter in waiters:
        if isinstance(waiter, Task):
            yield waiter
        elif waiter is not None:
            yield from _awaited_by(waiter)


def replay_prefixes(app: App, history: History, prefixes: Iterable[int] | None = None) -> int:
    """Replay each prefix of a history, and take the turns after it anew: they must give the very bytes of its records.

    `prefixes`: how many records to replay before turns are taken, each from 0 to the number of records (None: all of
    these). Returns how many prefixes were replayed. Raises DivergenceError that says from which prefix, in which record and
    at which event the bytes differ; and what `replay` raises.
    """
    records = list(_sized(history))
    count = 0
    for prefix in range(len(records) + 1) if prefixes is None else prefixes:
        _replay_from(app, history, records, prefix)
        count += 1
    return count


def _replay_from(app: App, history: History, records: list[tuple[Record, int]], prefix: int) -> None:
    execution = _new_execution(app, history, strict=True)
    own = _first_own(records)
    try:
        for index, (record, size_bytes) in enumerate(records):
            if index < max(prefix, own) or _is_of_no_turn(record):
                execution.feed(record, size_bytes)
                continue
            arrivals = [event for event in record.events if not event.is_request]
            turn = execution.turn(arrivals, record.time)
            execution.recorded(size_bytes)
            if encode_record(turn.record) != encode_record(record):
                raise DivergenceError(_difference(history, prefix, index, turn.record))
    finally:
        execution.close()


def _first_own(records: list[tuple[Record, int]]) -> int:
    """Return the index of the record from which on a generation has written its records itself: those before it took over."""
    begins = (ev.OrchestrationRewound, ev.OrchestrationForked)
    found = (at for at, (record, _) in enumerate(records) if any(isinstance(event, begins) for event in record.events))
    return max(found, default=0)


def _is_of_no_turn(record: Record) -> bool:
    """Tell whether a record was written without running the code: as an opening, or by the owner who ended the run."""
    return record.is_opening or any(isinstance(event, ev.OrchestrationTerminated) for event in record.events)


def _new_execution(app: App, history: History, *, strict: bool) -> Execution:
    """Return an execution of the very version that wrote the history."""
    arrivals = (event for record in history.records for event in record.events)
    started = next((event for event in arrivals if isinstance(event, ev.OrchestrationStarted)), None)
    kind = kind_of(history.key)
    definition = kind.find(app, history.name, started.version if started is not None else None)
    runner = kind.make_runner(app, definition, history.sealer, strict)
    return runner.new_execution(history.key, history.run_id, history.generation)


def _sized(history: History) -> Iterator[tuple[Record, int]]:
    """Yield the records with their sizes in bytes as stored: `ctx.history_bytes` tells the code their sum."""
    for record, row in zip(history.records, history.rows, strict=True):
        yield record, len(row.data)


def _difference(history: History, prefix: int, index: int, asked: Record) -> str:
    recorded = history.records[index]
    head = (
        f"replayed from its first {prefix} records, '{history.instance_id}' (run {history.run_id}, generation "
        f"{history.generation}) asks for something else than record {index} holds:\n"
    )
    pairs = zip(_padded(recorded, len(asked.events)), _padded(asked, len(recorded.events)), strict=True)
    for place, (was, now) in enumerate(pairs):
        if was != now or type(was) is not type(now):
            return f"{head}  event {place} as recorded: {was!r}\n  event {place} asked now:   {now!r}"
    return f"{head}  recorded: {recorded!r:.2000}\n  asked now: {asked!r:.2000}"


def _padded(record: Record, count: int) -> list[HistoryEvent | None]:
    return [*record.events, *[None] * max(count - len(record.events), 0)]
