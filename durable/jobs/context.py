"""What a job sees of itself and of the tree around it: `JobContext`."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import threading
from datetime import datetime
from typing import TYPE_CHECKING, Final, NoReturn

import msgpack

from durable import events as ev
from durable.activity_context import ActivityContext, ActivityPort, register_context
from durable.client.starting import encode_event
from durable.errors import DurableError, LimitExceededError, StoreUnavailableError
from durable.events import HistoryEvent
from durable.history import utc_datetime
from durable.jobs.model import Job, RunCondition, check_text
from durable.jobs.packing import PART_BYTES_MAX, Packer
from durable.jobs.rules import LATE_US
from durable.jobs.traces import JobTraces, ParentJob
from durable.jobs.wire import (
    COMMAND,
    TICKET_MARK,
    Command,
    Do,
    JobSpec,
    Stub,
    Ticket,
    child_mark,
    specs_to_plain,
    started_key,
)
from durable.payloads import encode
from durable.provider import Memo, TaskAddress

if TYPE_CHECKING:
    from durable.client import Client

logger = logging.getLogger("durable.jobs")

PAUSE_S: Final = 0.2
"""Before the store is asked again for what is above a job."""

NOTE_KEPT_US: Final = 30 * 24 * 3600 * 1_000_000
"""A note that an attempt has begun outlives any attempt, one would think."""


class JobSkipped(BaseException):
    """Ends a job's function from within; no `except Exception` of the user's catches it."""


class JobContext(ActivityContext):
    """The context of one attempt of a job; the first parameter of a function annotated with it.

    In a function that was called as a plain activity, `id`, `parent_id`, `scheduled_for` and `parent` are None, and
    `schedule_child` and `skip` raise DurableError.
    """

    def __init__(self, port: ActivityPort) -> None:
        super().__init__(port)
        attachment = port.request.options.attachment
        self._ticket = None if attachment is None else Ticket.decode(port.sealer.unseal(attachment[len(TICKET_MARK) :]))
        self._parent: ParentJob | None = None
        self._is_prepared = False
        self._lock = threading.Lock()
        self._children: list[tuple[int, list[JobSpec]]] = []
        self._children_bytes = 0
        self._skip_reason: str | None = None
        self._is_over = False

    # ---- what it tells

    @property
    def id(self) -> str | None:
        """The job's id, unique within its tree; that of the tree's instance is `instance_id`."""
        return None if self._ticket is None else str(self._ticket.job)

    @property
    def parent_id(self) -> str | None:
        """The id of the job above; None for the root."""
        return None if self._ticket is None or self._ticket.parent is None else str(self._ticket.parent)

    @property
    def scheduled_for(self) -> datetime | None:
        """When the job was due: its condition was met by then, and `at` and `delay` held it back no longer. Aware, in UTC."""
        return None if self._ticket is None else utc_datetime(self._ticket.due_us)

    @property
    def is_due(self) -> bool:
        """Whether it is overdue: this attempt has started over 60 s after `scheduled_for`."""
        return self._ticket is not None and self._port.started_us - self._ticket.due_us > LATE_US

    @property
    def retry_count(self) -> int:
        """How many attempts have failed before this one."""
        return self.attempt - 1

    @property
    def parent(self) -> ParentJob | None:
        """The job above, with its status, request, result, error, and its own parent; None for the root.

        Raises DurableError where the function does not take a JobContext: then nothing of it was read.
        """
        if self._ticket is None or self._ticket.parent is None:
            return None
        if not self._is_prepared:
            raise DurableError(
                f"'{self.name}' takes no JobContext: annotate its first parameter with it to see its parent"
            )
        return self._parent

    # ---- what it does

    def schedule_child(self, job: Job) -> None:
        """Add a job, with all below it, under this one. A plain call, from any thread.

        It is recorded together with the outcome of this attempt, also if that is a failure; if the attempt is repeated, it
        goes with it. One with IN_PROGRESS is sent to the tree at once, stays, and runs beside the attempt. Raises
        DurableError outside of a tree and after the end of the attempt, TypeError for what is no job, LimitExceededError for
        too many or too large ones, and what `client.schedule` raises for a job.
        """
        ticket = self._in_tree("schedule_child")
        if not isinstance(job, Job):
            raise TypeError(f"schedule_child takes a Job, not {job!r:.200}")
        specs = Packer(self._port.app).flat(job)
        size = len(encode(specs_to_plain(specs), what="the jobs given to schedule_child"))
        with self._lock:
            if self._is_over:
                raise DurableError(
                    f"schedule_child was called after this attempt of '{self.name}' had ended, with which children are recorded"
                )
            if self._children_bytes + size > PART_BYTES_MAX:
                raise LimitExceededError(
                    f"the children that an attempt of '{self.name}' has scheduled take {self._children_bytes + size} bytes, "
                    f"over the limit of {PART_BYTES_MAX}: schedule fewer, or keep their data elsewhere and pass its name"
                )
            position = len(self._children)
            self._children.append((position, specs))
            self._children_bytes += size
        if specs[0].condition & RunCondition.IN_PROGRESS:
            mark = child_mark(ticket.job, self.attempt, position)
            command = Command(Do.ADD, mark, ticket.job, jobs=specs)
            self._port.spawn(functools.partial(_send, self._port.address, command))

    def skip(self, reason: str) -> NoReturn:
        """End the job here: it is SKIPPED with that reason, and so is everything below it that has not begun.

        Raises DurableError outside of a tree, TypeError and ValueError for what is no reason.
        """
        self._in_tree("skip")
        check_text("reason", reason)
        self._skip_reason = reason
        raise JobSkipped(reason)

    def _in_tree(self, what: str) -> Ticket:
        if self._ticket is None:
            raise DurableError(
                f"{what} is for jobs, and '{self.name}' was called as a plain activity: start it with client.schedule(Job(…))"
            )
        return self._ticket

    # ---- for whoever runs it

    @property
    def is_ready(self) -> bool:
        """Whether there is nothing above it to be read."""
        return self._ticket is None or self._ticket.parent is None

    async def prepare(self) -> None:
        """Read what the jobs above have left."""
        assert self._ticket is not None
        assert self._ticket.parent is not None
        client: Client = self._port.client  # type: ignore[assignment]  # in the worker's loop it is that one
        traces = client.connection.feature(JobTraces)
        address = self._port.address
        while True:
            try:
                self._parent = await traces.load(address.key, address.run_id, self._ticket.parent)
                break
            except StoreUnavailableError:
                await asyncio.sleep(PAUSE_S)
        self._is_prepared = True

    def start_note(self) -> Memo | None:
        """Return the note that the attempt has begun."""
        if self._ticket is None:
            return None
        started_us, address = self._port.started_us, self._port.address
        data: bytes = msgpack.packb(started_us)
        return Memo(started_key(address.run_id, address.task_id), data, started_us + NOTE_KEPT_US)

    def outcome(self, outcome: HistoryEvent) -> HistoryEvent:
        """Return the outcome with what the attempt leaves for the tree."""
        if self._ticket is None or not isinstance(outcome, ev.ActivityCompleted | ev.ActivityFailed):
            return outcome
        with self._lock:
            self._is_over = True
            stub = Stub(self._port.started_us, self._skip_reason, tuple(self._children))
        attachment = self._port.sealer.seal(stub.encode())
        if self._skip_reason is not None:
            return ev.ActivityCompleted(outcome.task_id, None, attachment)
        if isinstance(outcome, ev.ActivityCompleted):
            return ev.ActivityCompleted(outcome.task_id, outcome.result, attachment)
        return dataclasses.replace(outcome, attachment=attachment)


register_context(TICKET_MARK, JobContext)


async def _send(address: TaskAddress, command: Command, client: Client) -> None:
    """Tell the tree of a child at once. If that fails, the attempt's outcome still will."""
    connection = client.connection
    try:
        event = encode_event(COMMAND, command.to_plain(), connection.sealer)
        await connection.send(address.key, [event], run_id=address.run_id)
    except DurableError as error:
        logger.debug("a child of job %s of '%s' was not sent at once: %s", command.job, address.key.id, error)
