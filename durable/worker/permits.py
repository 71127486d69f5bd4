"""The owner's side of limits: which permits a run's attempts have or wait for, and what is said to their keepers."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from durable.errors import DurableError, FailureDetails, InvalidInputError, qualified_name
from durable.events import ActivityFailed, ActivityScheduled, InstanceKey, TaskRef
from durable.messages import beginning_message, begun_run_id, encode_arrivals
from durable.permits import ALL, KIND, NAME, PROGRAM, PermitLeft, PermitUsed, PermitWanted, keeper_id
from durable.provider import InstanceRow, Message, TaskAddress, partition_of

if TYPE_CHECKING:
    from durable.client import Client

logger = logging.getLogger("durable.worker")

Spawn: TypeAlias = "Callable[[Callable[[Client], Coroutine[Any, Any, None]]], None]"

TOLD_MAX: Final = 500
"""Permits that one message is about: some 60 KB, and two turns of a keeper."""


class OpenPermits:
    """By task, the keepers of the permits that the open attempts of a generation have, or wait for.

    What a row notes is the keepers alone: which tasks they are follows from the history.
    """

    __slots__ = ("_keepers", "counts")

    def __init__(self, keepers: Iterable[str] = ()) -> None:
        self._keepers: dict[int, str] = {}
        self.counts: dict[str, int] = dict.fromkeys(keepers, 0)

    def __bool__(self) -> bool:
        return bool(self.counts)

    @property
    def keepers(self) -> list[str]:
        """All keepers that have something of this generation."""
        return list(self.counts)

    def add(self, request: ActivityScheduled) -> None:
        """Note an attempt for which a permit is asked."""
        assert request.options.limit is not None
        keeper = keeper_id(request.name, request.options.limit.key)
        self._keepers[request.task_id] = keeper
        self.counts[keeper] = self.counts.get(keeper, 0) + 1

    def close(self, task_id: int) -> str | None:
        """Note that an attempt is over; return the keeper of its permit, None where it needed none."""
        keeper = self._keepers.pop(task_id, None)
        if keeper is not None:
            self.counts[keeper] -= 1
            if not self.counts[keeper]:
                del self.counts[keeper]
        return keeper

    def recount(self, open_attempts: Mapping[int, ActivityScheduled]) -> None:
        """Find again, after a row was read, which attempts they are of."""
        if self.counts:
            self._keepers, self.counts = {}, {}
            for request in open_attempts.values():
                if needs_permit(request):
                    self.add(request)


def needs_permit(request: ActivityScheduled) -> bool:
    """Tell whether an attempt may not start before it has a permit."""
    limit = request.options.limit
    return limit is not None and limit.error is None


def wanted(row: InstanceRow, requests: Sequence[ActivityScheduled], partitions: int, now: int) -> Iterator[Message]:
    """Give the messages that ask for permits, to each keeper in the order of the requests. A keeper begins with the first."""
    by_keeper: dict[str, list[ActivityScheduled]] = {}
    for request in requests:
        assert request.options.limit is not None
        by_keeper.setdefault(keeper_id(request.name, request.options.limit.key), []).append(request)
    for keeper, asked in by_keeper.items():
        key = InstanceKey(keeper, KIND)
        for at in range(0, len(asked), TOLD_MAX):
            events = [_wanted(row, request, now) for request in asked[at : at + TOLD_MAX]]
            run_id = begun_run_id(TaskRef(*_of_run(row), asked[at].task_id), now)
            begins = beginning_message(key, partitions, run_id, PROGRAM, *events, now=now)
            yield Message(key, begins.partition, encode_arrivals(events), otherwise=begins)


def _wanted(row: InstanceRow, request: ActivityScheduled, now: int) -> PermitWanted:
    options = request.options
    assert options.limit is not None
    return PermitWanted(
        NAME,
        None,
        holder=TaskRef(*_of_run(row), request.task_id),
        activity=request.name,
        max_concurrency=options.limit.max_concurrency,
        rate=options.limit.rate,
        per=options.limit.per,
        priority=options.priority,
        asked_at=now,
        start_by=None if options.queue_timeout is None else now + options.queue_timeout,
    )


def left(row: InstanceRow, tasks: Mapping[str, Sequence[int]], partitions: int) -> Iterator[Message]:
    """Give the messages that say which permits of a run's generation are left, by keeper."""
    for keeper, task_ids in tasks.items():
        key = InstanceKey(keeper, KIND)
        for at in range(0, len(task_ids), TOLD_MAX):
            some = task_ids[at : at + TOLD_MAX]
            events = [PermitLeft(NAME, None, holder=TaskRef(*_of_run(row), task_id)) for task_id in some]
            yield Message(key, partition_of(key, partitions), encode_arrivals(events))


def all_left(row: InstanceRow, permits: OpenPermits, partitions: int) -> Iterator[Message]:
    """Give the messages that say that a generation needs none of its permits any more."""
    return left(row, dict.fromkeys(permits.keepers, (ALL,)), partitions)


def _of_run(row: InstanceRow) -> tuple[str, str, str, int]:
    return (*row.key, row.run_id, row.generation)


def refused(row: InstanceRow, request: ActivityScheduled) -> Message:
    """Return the message by which an attempt fails, for no key could be told for it."""
    limit = request.options.limit
    assert limit is not None
    assert limit.error is not None
    details = FailureDetails(
        qualified_name(InvalidInputError),
        limit.error,
        non_retryable=True,
        error_bases=("durable.errors.DurableError", "ValueError", "Exception", "BaseException"),
    )
    data = encode_arrivals([ActivityFailed(request.task_id, details)], row.generation)
    return Message(row.key, row.partition, data, run_id=row.run_id)


def tell_of_start(spawn: Spawn, task: TaskAddress, request: ActivityScheduled) -> None:
    """Let the keeper of a rate hear that an attempt has begun. Unheard, it counts when its permit is left."""
    limit = request.options.limit
    if limit is not None and limit.rate is not None:
        spawn(functools.partial(_tell, keeper_id(request.name, limit.key), task))


async def _tell(keeper: str, task: TaskAddress, client: Client) -> None:
    key, connection = InstanceKey(keeper, KIND), client.connection
    holder = TaskRef(*task.key, task.run_id, task.generation, task.task_id)
    data = encode_arrivals([PermitUsed(NAME, None, holder=holder)])
    try:
        await connection.submitter.submit(Message(key, partition_of(key, connection.partitions), data))
    except DurableError as error:
        logger.info("the keeper of the limit '%s' was not told of a start: %s", keeper, error)
