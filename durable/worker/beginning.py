"""Building a generation that begins with what an older one has done: a rewound run, or a fork.

Theory of operation. The message that says so waits in memory, in front of all others. What is taken over is read, replayed
into the engine that will go on from there (`durable.prefixes` says what it is, the code whether it fits), and kept as the
records that the first turn's commit writes along with its own. Until that commit nothing is changed; after a crash it is
built again.

Children that the prefix waits for: one that has completed meanwhile is answered for; one that ended otherwise is rewound as
well; one that still runs will tell its end. One that is gone, and every child of a fork, which are another run's, begins anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from durable import events as ev
from durable.engine.execution import Execution
from durable.engine.tasks import Task
from durable.errors import DivergenceError, FailureDetails, HistoryDamagedError, InstanceNotFoundError, qualified_name
from durable.events import HistoryEvent, InstanceKey, TaskRef
from durable.failures import carried_details
from durable.messages import decode_past, encode_arrivals, rewind_message
from durable.outgoing import Outgoing
from durable.payloads import digest, lies_outside
from durable.prefixes import (
    Prefix,
    Rewinding,
    Seen,
    default_children,
    fork_prefix,
    open_children,
    taken_over,
    with_children,
)
from durable.provider import InstanceRow, Message, Provider, RecordRow, Status
from durable.records import Record, decode_record, encode_record, first_checksum, next_checksum
from durable.seeds import Seeds
from durable.worker.clock import StoreClock
from durable.worker.live import Begun
from durable.worker.outbox import sender_of
from durable.worker.steps import StallError
from durable.worker.turns import Turns

Feed: TypeAlias = Callable[[Execution, Sequence[RecordRow]], Awaitable[None]]


@dataclasses.dataclass(slots=True)
class _Children:
    """What becomes of the children that a prefix waits for."""

    instead: dict[int, ev.SubOrchestrationScheduled] = dataclasses.field(default_factory=dict)
    arrivals: list[HistoryEvent] = dataclasses.field(default_factory=list)
    rewound: list[tuple[ev.SubOrchestrationScheduled, InstanceRow]] = dataclasses.field(default_factory=list)


class Beginnings:
    """Builds what begins with a prefix. `feed(execution, rows)` replays records, and lets others have their turn."""

    def __init__(self, provider: Provider, turns: Turns, clock: StoreClock, feed: Feed) -> None:
        self._provider = provider
        self._turns = turns
        self._clock = clock
        self._feed = feed

    async def build(self, row: InstanceRow, event: Any) -> tuple[Execution, Begun]:
        """Return an execution that stands at the end of the prefix, and what the first turn's commit takes along.

        Raises DivergenceError where today's code asks for something else than what is taken over as it was,
        HistoryDamagedError, UnknownNameError.
        """
        first = dataclasses.replace(event, writer=TaskRef(*row.key, row.run_id, row.generation, 0))
        if isinstance(first, ev.OrchestrationForked):
            past = [decode_record(data) for data in decode_past(first.past)]
            first = dataclasses.replace(first, past=None)
            prefix = _without_parent(taken_over(fork_prefix(past, first.at), first.seed, first.source))
            children = self._own_children(prefix, first)
            try:
                return await self._replayed(row, first, with_children(prefix, children.instead), children)
            except _DivergedError as error:
                raise error.reason from None
        writer, records = await self._past(row, first.source)
        if not records:
            return await self._replayed(row, first, Prefix((), (_anew(row, first.seed),)), _Children())
        rewinding = Rewinding(records)
        if rewinding.is_doubtful:
            rewinding.learn(await self._seen_by_the_code(row, records))
        while True:
            prefix = taken_over(rewinding.prefix, first.seed, writer)
            children = await self._children(prefix, first)
            children.arrivals[:0] = rewinding.answers(digest)
            try:
                return await self._replayed(row, first, with_children(prefix, children.instead), children)
            except _DivergedError as error:
                if not rewinding.reconsider(error.position, is_at_rest=error.is_at_rest):
                    raise error.reason from None

    async def _past(self, row: InstanceRow, source: int) -> tuple[TaskRef, list[Record]]:
        """Read the generation to go on from: the latest that had begun, for one that was to go on may have ended before."""
        for generation in range(source, -1, -1):
            writer = TaskRef(*row.key, row.run_id, generation, 0)
            records = await self._read(row, generation)
            if any(isinstance(event, ev.OrchestrationStarted) for record in records for event in record.events):
                return writer, records
        return writer, []

    async def _seen_by_the_code(self, row: InstanceRow, records: Sequence[Record]) -> Seen:
        """Replay a history that has ended, and say how the code had dealt with the failures in it."""
        execution = self._turns.new_execution(row)
        failed: dict[int, tuple[ev.ActivityFailed | ev.SubOrchestrationFailed, Task[Any]]] = {}
        left: set[int] = set()

        def look(event: HistoryEvent) -> None:
            call = execution.requests.latest
            if isinstance(event, ev.ActivityFailed | ev.SubOrchestrationFailed) and call is not None:
                task = call.task
                failed[id(event.details)] = event, task  # both kept, so that nothing else is found at this address
                if task.is_failed and task.is_seen and execution.loop.has_left(task.exception()):
                    left.add(event.task_id)

        execution.observer = look
        try:
            await self._feed(execution, _as_rows(records))
            main = execution.main
        except DivergenceError:
            return Seen()  # where it matters, it shows again
        finally:
            self._turns.close(execution)
        error = main.exception() if main is not None and main.done() and not main.cancelled() else None
        roots = [failed[id(details)][0].task_id for details in carried_details(error) if id(details) in failed]
        unseen = [event.task_id for event, task in failed.values() if task.is_failed and not task.is_seen]
        return Seen(frozenset(roots), frozenset(unseen), frozenset(left))

    async def _read(self, row: InstanceRow, generation: int) -> list[Record]:
        records: list[Record] = []
        chain = first_checksum(row.key, row.run_id, generation)
        while part := await self._provider.read_history(row.run_id, generation, len(records)):
            for stored in part:
                chain = next_checksum(chain, stored.data)
                if stored.index != len(records) or stored.checksum != chain:
                    raise HistoryDamagedError(
                        f"history record {len(records)} of generation {generation} is not what it was"
                    )
                records.append(decode_record(stored.data))
        return records

    async def _replayed(
        self, row: InstanceRow, first: HistoryEvent, prefix: Prefix, children: _Children
    ) -> tuple[Execution, Begun]:
        rows = _as_rows(prefix.records, first_checksum(row.key, row.run_id, row.generation))
        execution = self._turns.new_execution(row)
        try:
            await self._feed(execution, rows)
        except DivergenceError as error:
            self._turns.close(execution)
            raise _DivergedError(execution.history_length, error, is_at_rest=execution.is_at_rest) from None
        except BaseException:
            self._turns.close(execution)
            raise
        answered = {getattr(event, "task_id", None) for event in prefix.arrivals}
        if execution.requests.others.keys() - answered or execution.farewells:
            self._turns.close(execution)
            raise StallError(
                "what is taken over ends in a critical section, or where an entity had not answered yet: the lock was given "
                "back, and the answer is lost. Terminate this instance and restart it, or fork one from before that place"
            )
        begun = Begun(
            first=first,
            arrivals=(*children.arrivals, *prefix.arrivals),
            rows=rows,
            chain=rows[-1].checksum if rows else b"",
            outgoing=[_start_of(request, row) for request in children.instead.values()],
            messages=[self._rewind(row, first, *found) for found in children.rewound],
        )
        return execution, begun

    # ---- children

    async def _children(self, prefix: Prefix, first: ev.OrchestrationRewound) -> _Children:
        found = _Children()
        requests = open_children(prefix)
        targets = [(InstanceKey(request.instance_id, request.kind), request.run_id) for request in requests]
        children = await self._provider.load(targets) if targets else []
        current = await self._provider.load([(key, None) for key, _ in targets]) if targets else []
        for request, child, now in zip(requests, children, current, strict=True):
            task_id = request.task_id
            if child is None:
                run_id = _run_id(first.seed, self._clock.now(), task_id)
                found.instead[task_id] = dataclasses.replace(request, run_id=run_id)
            elif child.status is Status.COMPLETED:
                if lies_outside(child.output):
                    raise HistoryDamagedError(f"the output of the child '{child.key.id}' cannot be read here")
                found.arrivals.append(ev.SubOrchestrationCompleted(task_id, child.output))
            elif child.status.is_finished and (now is None or now.run_id != child.run_id):
                found.arrivals.append(_gone(request))
            elif child.status.is_finished:
                found.rewound.append((request, child))
        return found

    def _own_children(self, prefix: Prefix, first: ev.OrchestrationForked) -> _Children:
        found = _Children()
        defaults = default_children(prefix.events, first.source.generation)
        for request in open_children(prefix):
            task_id = request.task_id
            run_id = _run_id(first.seed, self._clock.now(), task_id)
            key_id = _derived(first.seed, "child", task_id) if task_id in defaults else request.instance_id
            found.instead[task_id] = dataclasses.replace(request, instance_id=key_id, run_id=run_id)
        return found

    def _rewind(
        self, row: InstanceRow, first: Any, request: ev.SubOrchestrationScheduled, child: InstanceRow
    ) -> Message:
        data = encode_arrivals([_gone(request)], row.generation)
        otherwise = Message(row.key, row.partition, data, run_id=row.run_id)
        reason = f"its parent '{row.key.id}' was rewound"
        seed = _derived(first.seed, "rewind", request.task_id)
        return rewind_message(child, reason, seed, self._clock.now(), otherwise=otherwise)


def _as_rows(records: Sequence[Record], chain: bytes = b"") -> list[RecordRow]:
    rows: list[RecordRow] = []
    for index, record in enumerate(records):
        data = encode_record(record)
        chain = next_checksum(chain, data)
        rows.append(RecordRow(index, data, chain))
    return rows


class _DivergedError(Exception):
    """The code does not ask for what a prefix holds at this position."""

    def __init__(self, position: int, reason: DivergenceError, *, is_at_rest: bool) -> None:
        super().__init__(position)
        self.position = position
        self.reason = reason
        self.is_at_rest = is_at_rest  # it asks for nothing there


def _without_parent(prefix: Prefix) -> Prefix:
    """Return the prefix of a fork, for which no parent waits. In records the start stays: the code has seen its parent."""
    arrivals = tuple(
        dataclasses.replace(event, parent=None, end_event=None) if isinstance(event, ev.OrchestrationStarted) else event
        for event in prefix.arrivals
    )
    return Prefix(prefix.records, arrivals)


def _anew(row: InstanceRow, seed: str) -> ev.OrchestrationStarted:
    """Return the start of a run that was ended before it had begun: its row is all that is left of it."""
    sender = sender_of(row)
    return ev.OrchestrationStarted(
        row.name,
        row.version,
        row.input,
        seed,
        "",
        sender.parent,
        row.tags or None,
        row.scheduled_at,
        sender.end_event,
    )


def _start_of(request: ev.SubOrchestrationScheduled, row: InstanceRow) -> Outgoing:
    sender = TaskRef(*row.key, row.run_id, row.generation, request.task_id)
    return Outgoing(InstanceKey(request.instance_id, request.kind), start=request, sender=sender)


def _gone(request: ev.SubOrchestrationScheduled) -> ev.SubOrchestrationFailed:
    text = f"child '{request.instance_id}' cannot go on: it was purged, or another run has taken its place"
    return ev.SubOrchestrationFailed(request.task_id, FailureDetails(qualified_name(InstanceNotFoundError), text))


def _derived(seed: str, purpose: str, task_id: int) -> str:
    return Seeds(seed, 0).derive(purpose, task_id).hex()


def _run_id(seed: str, now: int, task_id: int) -> str:
    """Return a run id like those that an orchestration gives its children: ordered by time."""
    return f"{now // 1000:012x}{_derived(seed, 'run', task_id)[:20]}"
