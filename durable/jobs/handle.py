"""A handle to a job tree: an ordinary handle to its instance, and the tree."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

import msgpack

from durable import payloads
from durable.client.blocking import BlockingFace
from durable.client.connection import Connection
from durable.client.faces import face_of
from durable.client.handle import Handle
from durable.client.starting import encode_event
from durable.client.states import failure_of
from durable.client.times import Timeout, microseconds_of, seconds_of
from durable.context.options import Span, limit_us, span_us
from durable.engine.calls import MICROSECOND
from durable.errors import InstanceFinishedError, InvalidInputError, UpdateRejectedError
from durable.events import InstanceKey
from durable.jobs.model import (
    JobNode,
    Priority,
    RunCondition,
    check_at,
    check_condition,
    check_delay,
    check_retries,
    check_text,
    checked_intervals,
    checked_priority,
)
from durable.jobs.nodes import Moment, node_of
from durable.jobs.packing import bounded
from durable.jobs.reading import TreeReader
from durable.jobs.wire import COMMAND, Command, Do, TreeInput, started_prefix
from durable.provider import InstanceRow
from durable.records import decode_record
from durable.worker.live import OwnerState

ANSWER_SECONDS: Final = 30.0
"""How long an answer of the tree is waited for, unless the caller says otherwise: a worker may be about to start."""

PAUSE_SECONDS: Final = 0.01
PAUSE_SECONDS_MAX: Final = 0.5
"""Between two looks for an answer: doubled each time."""

NOTES_MAX: Final = 10_000
"""Notes of started attempts that one look takes in."""


class JobChanges(TypedDict, total=False):
    """What is to be changed of a job, as in `Job`; what is left out stays."""

    request: Any
    run_condition: RunCondition
    at: datetime | None
    delay: timedelta | None
    retries: int
    retry_intervals: tuple[Span, ...]
    timeout: Span | None
    priority: Priority
    description: str


class JobHandle(Handle[JobNode]):
    """A job tree, from outside: all that a `Handle` is, and the tree. Made by `client.schedule` and `client.get_job`."""

    __slots__ = ("_reader",)

    def __init__(
        self,
        connection: Connection,
        key: InstanceKey,
        run_id: str | None = None,
        *,
        result_annotation: Any = payloads.ANY,
        is_fresh: bool = False,
    ) -> None:
        """For clients and features; see `Handle`."""
        super().__init__(connection, key, run_id, result_annotation=result_annotation, is_fresh=is_fresh)
        self._reader: tuple[str, int, TreeReader] | None = None

    async def tree(self) -> JobNode:
        """Return the root of the tree as it stands; it needs no worker, and `str()` of it shows it as text.

        Looking again costs what has happened in between. Raises InstanceNotFoundError, and PayloadError or
        HistoryDamagedError for what cannot be read.
        """
        row = await self._row()
        reader = await self._read(row)
        moment = await self._moment(row, reader)
        if not reader.standing.has_begun:
            reader = TreeReader(self._connection.sealer)
            reader.begin_unread(self._input(row))
        return node_of(reader, moment, self._connection.sealer, self._key.id)

    async def result(self, timeout: Timeout = None) -> JobNode:
        """Wait until every job has settled; return the root of the tree. Raises what `Handle.result` raises."""
        await super().result(timeout)
        return await self.tree()

    async def cancel(self, reason: str = "") -> None:
        """Cancel every job that waits for its time, its worker or its end; those that run are told.

        What follows is left to the conditions: a child with ON_CANCELLED runs, others are skipped. The instance is COMPLETED
        once all have settled. It is durable on return, and applies at the next turn.
        """
        check_text("reason", reason)
        await self._send(Command(Do.CANCEL, self._connection.ports.new_id(), reason=reason))

    async def cancel_job(self, job_id: str, reason: str = "", *, wait: Timeout = ANSWER_SECONDS) -> None:
        """Cancel one job that has not settled; its children go by their conditions.

        It is durable once it is sent. Returns when the tree has taken it; raises UpdateRejectedError if the job has settled
        by then, TimeoutError if no worker has taken it within `wait`, LookupError for an id that can be none.
        """
        check_text("reason", reason)
        await self._command(Do.CANCEL, job_id, wait, reason=reason)

    async def delete_job(self, job_id: str, reason: str = "", *, wait: Timeout = ANSWER_SECONDS) -> None:
        """Take a job that has not started out of the tree, with all below it: they are SKIPPED.

        Waits and raises as `cancel_job`; UpdateRejectedError if the job has started.
        """
        check_text("reason", reason)
        await self._command(Do.DELETE, job_id, wait, reason=reason)

    async def update_job(self, job_id: str, *, wait: Timeout = ANSWER_SECONDS, **changes: Unpack[JobChanges]) -> None:
        """Change a job that has not started: its request, times, condition, retries and so on, as in `Job`.

        Waits and raises as `delete_job`; TypeError and ValueError as `Job` does. A request is not checked against the
        function.
        """
        found = dict(_wire_change(name, value) for name, value in changes.items())
        if not found:
            raise InvalidInputError("update_job was given nothing to change")
        await self._command(Do.CHANGE, job_id, wait, changes=found)

    # ---- reading

    async def _read(self, row: InstanceRow) -> TreeReader:
        """Return a reader that has taken in all that the history holds by now."""
        kept, self._reader = self._reader, None  # two looks at once do not share one
        if kept is None or kept[:2] != (row.run_id, row.generation) or kept[2].records > row.records:
            kept = (row.run_id, row.generation, TreeReader(self._connection.sealer))
        reader = kept[2]
        while reader.records < row.records:
            part = await self._connection.provider.read_history(row.run_id, row.generation, reader.records)
            if not part:
                break
            for stored in part[: row.records - reader.records]:
                reader.feed(decode_record(stored.data))
        self._reader = kept
        return reader

    def _input(self, row: InstanceRow) -> TreeInput:
        plain = b"" if row.input is None else self._connection.sealer.unseal(row.input)
        return TreeInput.decode(payloads.decode(plain, what=f"input of '{row.key.id}'", strict_size=False))

    async def _moment(self, row: InstanceRow, reader: TreeReader) -> Moment:
        state = OwnerState.decode(row.state)
        started: dict[int, int] = {}  # of the others that are asked for each has a slot: it runs
        if state.queued or state.in_line:
            prefix = started_prefix(row.run_id)
            for memo in await self._connection.provider.read_memos(prefix, NOTES_MAX):
                number = memo.key.removeprefix(prefix)
                if number.isdecimal():
                    started[int(number)] = msgpack.unpackb(memo.data)
        return Moment(state.queued, state.in_line, started, failure_of(row), row.status.is_finished)

    # ---- sending

    async def _send(self, command: Command) -> None:
        event = encode_event(COMMAND, command.to_plain(), self._connection.sealer)
        await self._connection.send(self._key, [event], run_id=self._run_id)

    async def _command(self, do: Do, job_id: str, wait: Timeout, **fields: Any) -> None:
        if not str(job_id).isdecimal():
            raise LookupError(f"there is no job {job_id!r:.60}: an id is that of a JobNode, such as '3'")
        seconds = seconds_of(wait)
        command = Command(do, self._connection.ports.new_id(), int(job_id), **fields)
        await self._send(command)
        refusal = await self._answer(command.mark, seconds)
        if refusal is not None:
            raise UpdateRejectedError(refusal)

    async def _answer(self, mark: str, seconds: float | None) -> str | None:
        """Wait until the tree has taken a command; return why it was refused, None if it was not."""
        loop = asyncio.get_running_loop()
        until = None if seconds is None else loop.time() + seconds
        pause = PAUSE_SECONDS
        while True:
            row = await self._row()
            answers = (await self._read(row)).standing.answers
            if mark in answers:
                return answers[mark]
            if row.status.is_finished:
                raise InstanceFinishedError(f"job tree '{self._key.id}' ended ({row.status.name}) before it took this")
            if until is not None and loop.time() >= until:
                raise TimeoutError(
                    f"job tree '{self._key.id}' has not taken this after {seconds:g} s: it is stored, and applies at the next "
                    "turn, once a worker runs"
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)


def _wire_change(name: str, value: Any) -> tuple[str, Any]:
    """Return a change by the field of `JobSpec`, checked as `Job` checks it."""
    if name not in _CHANGES:
        raise TypeError(f"of a job may be changed: {', '.join(sorted(_CHANGES))}; not {name!r}")
    field, convert = _CHANGES[name]
    return field, convert(value)


def _at(at: Any) -> int | None:
    check_at("at", at)
    return None if at is None else microseconds_of(at, "at")


def _delay(delay: Any) -> int:
    check_delay(delay)
    return 0 if delay is None else int(delay // MICROSECOND)


def _checked(check: Callable[[Any], None]) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        check(value)
        return value

    return convert


_CHANGES: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {
    "request": (
        "request",
        lambda request: None if request is None else bounded(payloads.encode(request, what="request"), "update"),
    ),
    "run_condition": ("condition", _checked(check_condition)),
    "at": ("at_us", _at),
    "delay": ("delay_us", _delay),
    "retries": ("retries", _checked(check_retries)),
    "retry_intervals": (
        "intervals_us",
        lambda intervals: tuple(span_us("retry_intervals", one) for one in checked_intervals(intervals)),
    ),
    "timeout": ("timeout_us", lambda timeout: limit_us("timeout", timeout)),
    "priority": ("priority", checked_priority),
    "description": ("description", _checked(lambda text: check_text("description", text))),
}

if TYPE_CHECKING:
    from durable.client.sync_types import SyncJobHandle as SyncJobHandle  # pyright: ignore[reportMissingModuleSource]
else:
    SyncJobHandle = face_of(JobHandle, "SyncJobHandle", base=BlockingFace)
