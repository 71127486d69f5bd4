"""The activity queue: attempts that any worker may claim, and what becomes of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from durable.errors import StoreError
from durable.provider import (
    LEASE_AHEAD_US,
    LEASE_US,
    ActivityRow,
    Beat,
    Held,
    Lease,
    Message,
    Report,
    Served,
    TaskAddress,
)
from durable_postgres import refusal
from durable_postgres.failures import UNSTORABLE
from durable_postgres.hub import OpenHub
from durable_postgres.rows import attempt_of, task_of
from durable_postgres.sending import Outgoing, outcome_of

logger = logging.getLogger("durable.postgres")


async def claim(
    hub: OpenHub, lease: Lease, queues: Sequence[str], served: Served, limit: int, held: Held
) -> list[ActivityRow]:
    """See `durable.provider.Activities.claim`."""
    names = None if served is None else [name for name, _ in served]
    versions = None if served is None else [version for _, version in served]
    found = await hub.call(
        "claim_v1",
        lease.lease_id,
        lease.epoch,
        list(dict.fromkeys(queues)),
        names,
        versions,
        limit,
        [task_of(task) for task in held or ()],
        held is not None,
        LEASE_AHEAD_US,
        hub.at(),
    )
    return [attempt_of(values) for values in found]


async def report(hub: OpenHub, lease: Lease, reports: Sequence[Report], beats: Sequence[Beat]) -> list[bool]:
    """See `durable.provider.Activities.report`."""
    try:
        return await _report(hub, lease, reports, beats, is_careful=False)
    except UNSTORABLE:
        pass
    try:
        return await _report(hub, lease, reports, beats, is_careful=True)
    except UNSTORABLE as error:
        raise StoreError(f"PostgreSQL at {hub.server.address.name} cannot take these outcomes: {error}") from error


async def _report(
    hub: OpenHub, lease: Lease, reports: Sequence[Report], beats: Sequence[Beat], *, is_careful: bool
) -> list[bool]:
    stored: dict[TaskAddress, Message] = {}
    put_off: dict[TaskAddress, None] = {}
    for task, message in reports:
        if task not in stored and task not in put_off:  # of several outcomes of one attempt the first wins
            if refusal.is_refused_whole(message, is_careful=is_careful):
                put_off[task] = None
            else:
                stored[task] = message
    outgoing = Outgoing(list(stored.values()), is_careful=is_careful)
    doubts = hub.doubts()
    found = await hub.write(
        "report_v1",
        lease.lease_id,
        [task_of(task) for task in stored],
        outgoing.messages,
        outgoing.others,
        outgoing.memos,
        [task_of(task) for task in put_off],
        LEASE_US,
        [task_of(beat.task) for beat in beats],
        [beat.details for beat in beats],
        hub.at(),
    )
    answers = found["answers"]
    done = dict(zip(stored, answers, strict=False))
    for task, is_there in zip(put_off, answers[len(stored) :], strict=False):
        if is_there:
            logger.error("the outcome of %s cannot be stored; it is tried again later", task)
    taken = [message for task, message in stored.items() if done[task]]
    if taken or doubts != hub.doubts():
        hub.tell_outcome(outcome_of(taken, found), is_doubtful=doubts != hub.doubts())
    first_of_each = {report.task: index for index, report in reversed(list(enumerate(reports)))}
    return [
        *(done.get(report.task, False) and first_of_each[report.task] == index for index, report in enumerate(reports)),
        *answers[len(stored) + len(put_off) :],
    ]
