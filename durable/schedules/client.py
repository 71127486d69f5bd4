"""Schedules from outside: `client.schedules`."""

# ruff: noqa: A002 (`id` and `input` are names of the public interface)

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from durable import payloads
from durable.client.blocking import BlockingFace
from durable.client.connection import Connection
from durable.client.faces import face_of
from durable.client.handle import Handle
from durable.client.purging import rows_of
from durable.client.starting import Target, encode_event, make_start
from durable.client.times import due_time, microseconds_of
from durable.context.options import Span, limit_us, span_us
from durable.errors import (
    InstanceAlreadyExistsError,
    InstanceFinishedError,
    InstanceNotFoundError,
    InvalidInputError,
    UpdateRejectedError,
)
from durable.events import InstanceKey, OrchestrationTerminated
from durable.history import plain_value, utc_datetime
from durable.ids import ID_BYTES_MAX, check_instance_id
from durable.jobs.handle import JobHandle
from durable.jobs.model import Job, check_text
from durable.model import OverlapPolicy, ReusePolicy
from durable.provider import InstanceFilter, InstanceRow, Priority, Status, Verdict
from durable.schedules.model import ScheduleState
from durable.schedules.running import BUFFERED_MAX, occurrence_id
from durable.schedules.states import state_of
from durable.schedules.targets import target_spec, with_input
from durable.schedules.times import fields_of, zone_of
from durable.schedules.wire import (
    COMMAND,
    KIND,
    PROGRAM,
    Command,
    Do,
    ScheduleSpec,
    Standing,
    TargetKind,
    changed,
    checked,
    key_of,
)

if TYPE_CHECKING:
    from durable.client import Client

SCHEDULE_ID_BYTES_MAX: Final = ID_BYTES_MAX - 28
"""The id of what a schedule starts is the schedule's, a slash and a time of at most 27 characters."""

ANSWER_SECONDS: Final = 5.0
"""How long it is waited for that a schedule takes what it is told. It is durable before, and applies once a worker runs."""

PAUSE_SECONDS: Final = 0.01
PAUSE_SECONDS_MAX: Final = 0.5

TIMES_MAX: Final = BUFFERED_MAX
"""Times that one call works out: no more can wait for one another."""

LOOKED_UP_AT_ONCE: Final = 500

logger = logging.getLogger("durable.schedules")


class ScheduleOptions(TypedDict, total=False):
    """How a schedule goes. Exactly one of `cron`, `interval` and `at` says when.

    `cron`: 5 fields, or 6 with seconds first, read in `timezone`; `interval`: a timedelta, or seconds; `at`: an aware datetime,
    or a timedelta from now. `overlap`: see `OverlapPolicy`. `catch_up`: how late a time may be started when no worker ran; a
    later one is missed (but never one that is at most ten seconds late). `jitter`: each start is put off by a part of this
    span. `start` and `end`: aware; no time before or after them counts, and an interval counts from `start`.
    """

    cron: str | None
    interval: Span | None
    at: datetime | timedelta | None
    timezone: str
    overlap: OverlapPolicy
    catch_up: Span
    jitter: Span | None
    start: datetime | None
    end: datetime | None


class ScheduleChanges(ScheduleOptions, total=False):
    """What is to be changed of a schedule; what is left out stays. Another kind of times takes the place of the former."""

    target: Callable[..., Any] | str | Job
    input: Any


class Schedules:
    """The schedules of a hub; `client.schedules` is one.

    What is told to a schedule is durable on return, and has been taken in if a worker runs; it applies once one does.
    """

    __slots__ = ("_connection",)

    def __init__(self, client: Client) -> None:
        """For clients: `client.schedules`."""
        self._connection: Connection = client.connection

    def __repr__(self) -> str:
        return "<Schedules>"

    # ---- life

    async def create(
        self,
        id: str,
        target: Callable[..., Any] | str | Job,
        input: Any = None,
        **options: Unpack[ScheduleOptions],
    ) -> ScheduleState:
        """Create a schedule that starts `target`, an activity, an orchestrator, a name or a job tree, at its times.

        What is started has the instance id `id/TIME`, TIME in UTC, and is an ordinary instance: an orchestrator's own, or a job
        tree. Raises InstanceAlreadyExistsError for an id in use, ValueError or TypeError for options that cannot be meant, and
        before anything is stored what `client.start` and `client.schedule` raise for the target and its input.
        """
        now = await self._now()
        changes = _changes(options, now)
        spec = checked(ScheduleSpec(target_spec(self._connection.app, target, input), **changes))
        done_with = (
            now if spec.at_us is None else min(now, spec.at_us - 1)
        )  # one that has just passed is caught up with
        row = await self._create(_checked_id(id), Standing(spec, now, done_with))
        return self._state(row)

    async def declare(self, id: str, spec: ScheduleSpec) -> bool:
        """For `@app.cron`: bring a schedule in step with its declaration; tell whether anything was to be done.

        One that an operator has deleted stays so as long as the declaration is the same.
        """
        key, now = key_of(_checked_id(id)), await self._now()
        (row,) = await self._connection.provider.load([(key, None)])
        standing = None if row is None else self._standing(row)
        if standing is not None and standing.declared == spec:
            return False
        if row is None or row.status.is_finished:
            try:
                await self._create(id, Standing(spec, now, now, declared=spec))
                return True
            except InstanceAlreadyExistsError:  # another worker was first: with the same declaration, most likely
                pass
        changes = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
        await self._send(key, Command(Do.DECLARE, self._connection.ports.new_id(), changes=changes))
        return True

    async def delete(self, id: str) -> None:
        """Delete a schedule. What it has started runs on. Raises InstanceNotFoundError."""
        row = await self._row(id)
        if not row.status.is_finished:
            try:
                event = OrchestrationTerminated("deleted", recursive=False)
                await self._connection.send(row.key, [event], run_id=row.run_id, priority=Priority.CONTROL)
            except InstanceFinishedError:
                pass
            row = await self._settled(row, lambda found: found.status.is_finished)
        # What is declared in code leaves a trace, so that the next worker does not bring it back.
        if row.status.is_finished and self._standing(row).declared is None:
            await self._connection.provider.purge([(row.key, row.run_id)])

    async def _create(self, id: str, standing: Standing) -> InstanceRow:
        connection, run_id = self._connection, self._connection.ports.new_id()
        payload = connection.sealer.seal(payloads.encode(standing.to_plain(), what=f"schedule '{id}'"))
        start = make_start(
            key_of(id),
            connection.partitions,
            run_id,
            Target(PROGRAM, None),
            payload,
            now=standing.created_us,
            reuse_policy=ReusePolicy.REPLACE_FINISHED,
        )
        delivery = await connection.submit("start", *start)
        row = delivery.row or start.message.start
        assert row is not None, "a start brings a row"
        if delivery.verdict is Verdict.EXISTS and row.run_id != run_id:
            raise InstanceAlreadyExistsError(f"schedule '{id}' exists: change it with update, or delete it first", None)
        if delivery.verdict not in (Verdict.STORED, Verdict.EXISTS):
            connection.refuse(delivery, key_of(id))
        return row

    # ---- looking

    async def get(self, id: str) -> ScheduleState:
        """Return a schedule as it stands; it needs no worker. Raises InstanceNotFoundError."""
        return self._state(await self._row(id))

    async def list(self) -> Sequence[ScheduleState]:
        """Return all schedules, by the time of their creation; those that are over too, until they are deleted."""
        found = []
        async for row in rows_of(self._connection.provider, InstanceFilter(kind=KIND), newest_first=False):
            try:
                if row.status is not Status.TERMINATED:
                    found.append(self._state(row))
            except payloads.PayloadError as error:  # one that cannot be read hides no other
                logger.warning("schedule '%s' cannot be shown: %s", row.key.id, error)
        return found

    async def next_times(self, id: str, count: int = 10) -> Sequence[datetime]:
        """Return the next times of a schedule by now, also of one that is paused; fewer than `count` if it has no more.

        Raises InstanceNotFoundError, ValueError for a count that is not between 1 and 10,000.
        """
        if not 1 <= count <= TIMES_MAX:
            raise ValueError(f"count must be between 1 and {TIMES_MAX:,}, not {count!r}")
        standing, now = self._standing(await self._row(id)), await self._now()
        return [utc_datetime(time) for time in itertools.islice(_times_after(standing, now), count)]

    # ---- telling it

    async def update(self, id: str, **changes: Unpack[ScheduleChanges]) -> None:
        """Change a schedule; see `ScheduleChanges`. New times count from now on; what runs is left alone.

        Raises InstanceNotFoundError, and what `create` raises.
        """
        row, now = await self._row(id), await self._now()
        standing = self._standing(row)
        found = _changes(changes, now)
        target = changes.get("target")
        if target is not None:
            found["target"] = target_spec(self._connection.app, target, changes.get("input"))
        elif "input" in changes:
            found["target"] = with_input(standing.spec.target, changes["input"])
        if not found:
            raise InvalidInputError("update was given nothing to change")
        changed(standing.spec, found)  # what cannot be meant is refused here, too
        await self._command(row, Do.CHANGE, changes=found)

    async def pause(self, id: str, note: str = "") -> None:
        """Let no further time count until the schedule is resumed. `note` says why. Raises InstanceNotFoundError."""
        await self._command(await self._row(id), Do.PAUSE, note=_checked_note(note))

    async def resume(self, id: str, note: str = "") -> None:
        """Let a paused schedule go on, with its next time from now on. Raises InstanceNotFoundError."""
        await self._command(await self._row(id), Do.RESUME, note=_checked_note(note))

    async def trigger(self, id: str, *, overlap: OverlapPolicy | None = None) -> Handle[Any]:
        """Start what the schedule starts now, also while it is paused; return a handle to it, by the id that it will have.

        `overlap` says how it goes together with what runs; None: as the schedule does. Raises InstanceNotFoundError.
        """
        row, now = await self._row(id), await self._now()
        await self._command(row, Do.START, times=[now], overlap=overlap)
        key = InstanceKey(occurrence_id(id, now))
        is_tree = self._standing(row).spec.target.kind is TargetKind.JOBS
        return JobHandle(self._connection, key) if is_tree else Handle(self._connection, key)

    async def backfill(
        self,
        id: str,
        start: datetime,
        end: datetime,
        *,
        overlap: OverlapPolicy | None = None,
    ) -> int:
        """Start what the schedule would have started from `start` to `end` (both included, and not after now); return how much.

        One after the other unless `overlap` says otherwise, or the schedule is one of ALLOW_ALL. What was started before for a
        time, and not purged since, is not started again, nor counted. Raises InstanceNotFoundError, ValueError for more than
        10,000 times.
        """
        row, now = await self._row(id), await self._now()
        first, last = microseconds_of(start, "start"), min(microseconds_of(end, "end"), now)
        standing = self._standing(row)
        times = await self._not_started(id, _times_between(standing, first, last))
        usual = OverlapPolicy.BUFFER_ALL if standing.spec.overlap is not OverlapPolicy.ALLOW_ALL else None
        if times:
            await self._command(row, Do.START, times=times, overlap=overlap or usual)
        return len(times)

    # ---- inside

    async def _now(self) -> int:
        return await self._connection.clock.now(self._connection.provider)

    async def _row(self, id: str) -> InstanceRow:
        (row,) = await self._connection.provider.load([(key_of(_checked_id(id)), None)])
        if row is None or row.status is Status.TERMINATED:
            raise InstanceNotFoundError(f"there is no schedule '{id}'")
        return row

    def _standing(self, row: InstanceRow) -> Standing:
        plain = b"" if row.input is None else self._connection.sealer.unseal(row.input)
        return Standing.decode(payloads.decode(plain, what=f"schedule '{row.key.id}'", strict_size=False))

    def _state(self, row: InstanceRow) -> ScheduleState:
        return state_of(row, self._standing(row), self._connection.sealer)

    async def _not_started(self, id: str, times: Sequence[int]) -> Sequence[int]:
        """Return the times for which there is no instance."""
        found: list[int] = []
        for first in range(0, len(times), LOOKED_UP_AT_ONCE):
            some = times[first : first + LOOKED_UP_AT_ONCE]
            rows = await self._connection.provider.load([(InstanceKey(occurrence_id(id, time)), None) for time in some])
            found += [time for time, row in zip(some, rows, strict=True) if row is None]
        return found

    async def _command(self, row: InstanceRow, do: Do, **fields: Any) -> None:
        """Tell a schedule something, and wait for a while until it has taken that in."""
        command = Command(do, self._connection.ports.new_id(), **fields)
        await self._send(row.key, command)
        settled = await self._settled(
            row, lambda found: command.mark in self._answers(found) or found.status.is_finished
        )
        refusal = self._answers(settled).get(command.mark)
        if refusal is not None:
            raise UpdateRejectedError(refusal)

    async def _send(self, key: InstanceKey, command: Command) -> None:
        event = encode_event(COMMAND, command.to_plain(), self._connection.sealer)
        try:
            await self._connection.send(key, [event])
        except InstanceFinishedError:
            raise InstanceFinishedError(f"schedule '{key.id}' is over: it has no further times") from None

    def _answers(self, row: InstanceRow) -> Mapping[str, str | None]:
        status = plain_value(row.custom_status, self._connection.sealer, "status", row.key.id)
        answers: Mapping[str, str | None] = status["answers"] if isinstance(status, dict) else {}
        return answers

    async def _settled(self, row: InstanceRow, holds: Callable[[InstanceRow], bool]) -> InstanceRow:
        """Look at a schedule until something holds, at most for ANSWER_SECONDS; return what was seen last."""
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + ANSWER_SECONDS, PAUSE_SECONDS
        while not holds(row) and loop.time() < until:
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)
            (found,) = await self._connection.provider.load([(row.key, row.run_id)])
            if found is None:
                return row
            row = found
        return row


def _checked_id(id: object) -> str:
    checked_id = check_instance_id(id)
    if len(checked_id.encode()) > SCHEDULE_ID_BYTES_MAX:
        raise InvalidInputError(f"the id of a schedule has at most {SCHEDULE_ID_BYTES_MAX} bytes: {checked_id[:60]!r}…")
    return checked_id


def _checked_note(note: object) -> str:
    check_text("note", note)
    return str(note)


def _changes(options: Mapping[str, Any], now: int) -> dict[str, Any]:
    """Return options by the fields of `ScheduleSpec`. Raises TypeError, ValueError."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if name in ("target", "input"):
            continue
        if name not in _OPTIONS:
            raise TypeError(f"a schedule has no option {name!r}: there are {', '.join(sorted(_OPTIONS))}")
        field, convert = _OPTIONS[name]
        if value is not None or name not in TIMES_OF_CREATION:
            found[field] = convert(value, now)
    return found


def _optional(convert: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
    return lambda value, now: None if value is None else convert(value, now)


def _overlap(value: Any, _: int) -> OverlapPolicy:
    if not isinstance(value, OverlapPolicy):
        raise TypeError(f"overlap must be an OverlapPolicy, such as OverlapPolicy.SKIP, not {value!r:.200}")
    return value


TIMES_OF_CREATION: Final = ("cron", "interval", "at")
"""Of these the one that is given counts; None says nothing."""

_OPTIONS: Final[Mapping[str, tuple[str, Callable[[Any, int], Any]]]] = {
    "cron": ("cron", lambda value, _: " ".join(fields_of(value))),
    "interval": ("interval_us", lambda value, _: limit_us("interval", value)),
    "at": ("at_us", due_time),
    "timezone": ("timezone", lambda value, _: (zone_of(value), value)[1]),
    "overlap": ("overlap", _overlap),
    "catch_up": ("catch_up_us", lambda value, _: span_us("catch_up", value)),
    "jitter": ("jitter_us", lambda value, _: 0 if value is None else span_us("jitter", value)),
    "start": ("start_us", _optional(lambda value, _: microseconds_of(value, "start"))),
    "end": ("end_us", _optional(lambda value, _: microseconds_of(value, "end"))),
}


def _times_after(standing: Standing, after: int) -> Iterator[int]:
    time = standing.spec.following(after, standing.created_us)
    while time is not None:
        yield time
        time = standing.spec.following(time, standing.created_us)


def _times_between(standing: Standing, first: int, last: int) -> list[int]:
    """Return the times between two moments, whatever the schedule's own start and end."""
    times = standing.spec.times(standing.created_us)
    found: list[int] = []
    time = times.following(first - 1)
    while time is not None and time <= last:
        found.append(time)
        if len(found) > TIMES_MAX:
            raise ValueError(f"from start to end there are more than {TIMES_MAX:,} times: backfill a part at a time")
        time = times.following(time)
    return found


if TYPE_CHECKING:
    from durable.client.sync_types import SyncSchedules as SyncSchedules  # pyright: ignore[reportMissingModuleSource]
else:
    SyncSchedules = face_of(Schedules, "SyncSchedules", base=BlockingFace, without=frozenset({"declare"}))
