"""The orchestrator behind schedules: one eternal instance for each.

A generation is given its next times and has them come due one by one. When they are used up, or a command has changed what the
times are, it works out the next ones and continues as new with them: so what depends on the machine's time zone database is
recorded, and a replay never asks for it.

Invariant: a time is done with (started, left out or missed) in the very commit that says so; it is never looked at again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NoReturn

from durable import events as ev
from durable.context import OrchestrationContext
from durable.context.options import from_us
from durable.context.plans import Plan
from durable.context.starts import recorded_version, start_request
from durable.errors import StoredValueError
from durable.ids import SCHEDULE_TAG
from durable.jobs.wire import NO_PARENT, TREE, JobSpec, TreeInput
from durable.jobs.wire import Kind as JobKind
from durable.model import OverlapPolicy
from durable.payloads import ANY, PayloadError, encode
from durable.schedules.events import OccurrenceToldToEnd
from durable.schedules.merging import merged
from durable.schedules.wire import (
    ANSWERS_MAX,
    COMMAND,
    TIMING,
    Command,
    Do,
    Occurrence,
    ScheduleSpec,
    Standing,
    TargetKind,
    changed,
    checked,
)

TIMES_MAX: Final = 100
"""Times that one generation is given. Its history is as long as they make it, and all of it is replayed after a restart."""

HORIZON_US: Final = 24 * 3600 * 1_000_000
"""Times are worked out so far ahead, and the very next one: a new time zone database is heeded within a day or one time."""

MISSED_COUNTED_MAX: Final = 10_000
"""Missed times that are counted one by one; a schedule of every second that was down for a year is not."""

BUFFERED_MAX: Final = 10_000
"""Times that wait for what runs to end; further ones are left out, and counted."""

LATE_MIN_US: Final = 10 * 1_000_000
"""A time that is later than `catch_up` is missed, but none that is at most this late: no worker is ever quite in time."""

HISTORY_MAX: Final = 2_000
"""Events after which a generation ends whatever its times: commands come in addition to those."""

RECENT_MAX: Final = 10
"""Starts that the status shows."""

NEXT_SHOWN: Final = 5
"""Times that the status shows."""

SHOWN_MAX: Final = 100
"""Occurrences that run, of which the status shows so many."""

ENDED: Final = "durable.schedules/ended "
"""The name of the event by which the end of an occurrence arrives; its time follows."""


async def run_schedule(ctx: OrchestrationContext, standing: Any) -> dict[str, int]:
    """Run a schedule; return how many times were started, left out and missed. The input is a `Standing`, decoded."""
    try:
        decoded = Standing.decode(standing)
    except PayloadError as error:  # such as a time zone that this machine does not know: another one may
        ctx.execution.fail_turn(StoredValueError(str(error)))
    return await ScheduleRun(ctx, decoded).run()


class ScheduleRun:
    """One generation of one schedule."""

    def __init__(self, ctx: OrchestrationContext, standing: Standing) -> None:
        self._ctx = ctx
        self._execution = ctx.execution
        self._plans = ctx.plans
        self._standing = standing
        self._had_times = bool(standing.times)
        self._due: list[tuple[int, int]] = []  # when a time comes due, and the time itself
        self._happened: deque[Callable[[], None]] = deque()
        self._woken: asyncio.Future[None] | None = None
        self._is_new = False  # so much has changed that a new generation is to begin
        self._shown: Any = None

    @property
    def _now(self) -> int:
        return self._execution.time_us

    async def run(self) -> dict[str, int]:
        """Run until there are no more times, and nothing that was started runs any more."""
        standing = self._standing
        if standing.times is None:
            self._continue()
        self._due = [(self._due_at(time), time) for time in standing.times]
        heapq.heapify(self._due)
        for occurrence in standing.running:
            self._await_end(occurrence)
        self._listen()
        while True:
            self._come_due()
            if self._is_new or (self._had_times and not self._due) or self._ctx.history_length > HISTORY_MAX:
                self._continue()
            self._show()
            if not (self._due or standing.running or standing.buffered or standing.is_paused):
                return {"started": standing.started, "skipped": standing.skipped, "missed": standing.missed}
            await self._wait()

    async def _wait(self) -> None:
        """Wait until a time is due, a command has come, or an occurrence has ended; take in what has happened."""
        if not self._happened:
            timer = self._execution.create_timer(self._due[0][0]) if self._due else None
            self._woken = self._execution.loop.create_future()
            if timer is not None:
                timer.add_done_callback(self._wake_on_time)
            await self._woken
            if timer is not None:
                timer.cancel()
        while self._happened:
            self._happened.popleft()()

    def _wake_on_time(self, timer: asyncio.Future[None]) -> None:
        if not timer.cancelled():  # or it would wake up whoever has come to wait since
            self._wake()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def _happens(self, what: Callable[[], None]) -> None:
        self._happened.append(what)
        self._wake()

    def _continue(self) -> NoReturn:
        """Begin the next generation, with the times that come next."""
        if not self._standing.times:
            work_out_times(self._standing, self._now)
        self._ctx.continue_as_new(self._standing.to_plain())

    # ---- times

    def _due_at(self, time: int) -> int:
        """Return when a time comes due: a part of the jitter later, always the same part for the same time."""
        jitter_us = self._standing.spec.jitter_us
        if not jitter_us:
            return time
        digest = hashlib.blake2b(f"{self._ctx.instance_id}\0{time}".encode(), digest_size=8).digest()
        return time + random.Random(digest).randrange(jitter_us)

    def _come_due(self) -> None:
        standing = self._standing
        while self._due and self._due[0][0] <= self._now:
            due, time = heapq.heappop(self._due)
            assert standing.times is not None, "what comes due is one of its times"
            standing.times.remove(time)
            if self._now - due > max(standing.spec.catch_up_us, LATE_MIN_US):
                standing.missed += 1
            else:
                self._take_time(time, standing.spec.overlap)

    def _take_time(self, time: int, overlap: OverlapPolicy) -> None:
        """Start what is to be started at a time, now or later, or leave it out."""
        standing = self._standing
        if overlap is OverlapPolicy.ALLOW_ALL or not standing.running:
            self._start(time, is_followed=overlap is not OverlapPolicy.ALLOW_ALL)
        elif overlap in _ENDS_OTHERS:
            standing.skipped += len(standing.buffered)
            standing.buffered = [time]
            standing.running = [self._told_to_end(one, _ENDS_OTHERS[overlap]) for one in standing.running]
        elif len(standing.buffered) < _BUFFERS[overlap]:
            standing.buffered.append(time)
        else:
            standing.skipped += 1

    def _told_to_end(self, occurrence: Occurrence, is_forced: bool) -> Occurrence:
        if occurrence.is_told_to_end:
            return occurrence
        self._execution.emit(OccurrenceToldToEnd(occurrence.instance_id, occurrence.run_id, is_forced))
        return dataclasses.replace(occurrence, is_told_to_end=True)

    # ---- occurrences

    def _start(self, time: int, *, is_followed: bool = True) -> None:
        """Start what is to be done at a time; with `is_followed` its end is waited for."""
        standing, execution = self._standing, self._execution
        plan, plain = self._target()
        instance_id = occurrence_id(self._ctx.instance_id, time)

        def make(task_id: int) -> ev.SubOrchestrationScheduled:
            return start_request(
                execution,
                plan,
                recorded_version(execution, plan, plan.version),
                instance_id,
                plain,
                task_id,
                tags={SCHEDULE_TAG: self._ctx.instance_id},
                is_detached=True,
                end_event=f"{ENDED}{time}" if is_followed else None,
                start_at=time,
            )

        request = execution.start_detached(make)
        assert request is not None, "the generation goes on"
        standing.started += 1
        standing.recent = [*standing.recent, (time, self._now)][-RECENT_MAX:]
        if is_followed:
            occurrence = Occurrence(time, instance_id, request.run_id)
            standing.running.append(occurrence)
            self._await_end(occurrence)

    def _target(self) -> tuple[Plan, bytes | None]:
        """Return what is started, with its input: an orchestrator, or a job tree."""
        target = self._standing.spec.target
        if target.kind is TargetKind.JOBS:
            return self._plans.orchestrator(TREE, None), target.payload
        if target.kind is TargetKind.NAME and not self._is_orchestrator(target.name):
            tree = TreeInput([JobSpec(NO_PARENT, JobKind.NAME, target.name, request=target.payload)])
            return self._plans.orchestrator(TREE, None), encode(tree.to_plain())
        return self._plans.orchestrator(target.name, target.version), target.payload

    def _is_orchestrator(self, name: str) -> bool:
        """Tell whether a name is that of an orchestrator: here, or as it was recorded."""
        recorded = self._execution.recorded_request
        if isinstance(recorded, ev.SubOrchestrationScheduled):
            return recorded.name != TREE
        app = self._plans.app
        return app.orchestrator_of(name) is not None and app.activity_of(name) is None

    def _await_end(self, occurrence: Occurrence) -> None:
        ended = functools.partial(self._ended, occurrence.run_id)
        waiting = self._execution.wait_for_event(f"{ENDED}{occurrence.time_us}", lambda _: None)
        waiting.add_done_callback(lambda _: self._happens(ended))

    def _ended(self, run_id: str) -> None:
        standing = self._standing
        standing.running = [occurrence for occurrence in standing.running if occurrence.run_id != run_id]
        if not standing.running and standing.buffered:
            self._start(standing.buffered.pop(0))

    # ---- commands

    def _listen(self) -> None:
        self._execution.wait_for_event(COMMAND, self._read_command).add_done_callback(self._take_command)

    def _read_command(self, event: ev.EventRaised) -> Command | None:
        try:
            return Command.decode(self._plans.decode(event.data, ANY, "a command to a schedule"))
        except PayloadError as error:
            self._ctx.logger.warning("schedule '%s': dropped: %s", self._ctx.instance_id, error)
            return None

    def _take_command(self, taken: asyncio.Future[Command | None]) -> None:
        command = None if taken.cancelled() else taken.result()
        if command is not None:
            self._happens(functools.partial(self._carry_out, command))
        self._listen()

    def _carry_out(self, command: Command) -> None:
        standing = self._standing
        if command.mark not in standing.answers:
            refusal = self._DOERS[command.do](self, command)
            standing.answers = dict([*standing.answers.items(), (command.mark, refusal)][-ANSWERS_MAX:])

    def _pause(self, command: Command) -> str | None:
        standing = self._standing
        standing.is_paused, standing.note = True, command.note
        standing.times, self._due, self._had_times = [], [], False
        return None

    def _resume(self, command: Command) -> str | None:
        standing = self._standing
        if standing.is_paused:
            self._forget_times()
        standing.is_paused, standing.note = False, command.note
        return None

    def _change(self, command: Command) -> str | None:
        try:
            self._become(changed(self._standing.spec, command.changes))
        except (TypeError, ValueError) as error:
            return str(error)
        return None

    def _declare(self, command: Command) -> str | None:
        standing = self._standing
        try:
            declared = checked(ScheduleSpec(**command.changes))
            spec = checked(merged(standing.spec, standing.declared, declared))
        except (TypeError, ValueError) as error:
            return str(error)
        standing.declared = declared
        self._become(spec)
        return None

    def _become(self, spec: ScheduleSpec) -> None:
        former, self._standing.spec = self._standing.spec, spec
        self._is_new = True  # so that the input of the instance is what it is now
        if not self._standing.is_paused and any(getattr(spec, name) != getattr(former, name) for name in _MAKES_TIMES):
            self._forget_times()

    def _forget_times(self) -> None:
        """Let the times be worked out anew, from now on."""
        self._standing.times, self._standing.last_us = None, self._now
        self._due, self._is_new = [], True

    def _start_times(self, command: Command) -> str | None:
        for time in command.times:
            self._take_time(time, command.overlap or self._standing.spec.overlap)
        return None

    _DOERS: Final[dict[Do, Callable[[ScheduleRun, Command], str | None]]] = {
        Do.PAUSE: _pause,
        Do.RESUME: _resume,
        Do.CHANGE: _change,
        Do.DECLARE: _declare,
        Do.START: _start_times,
    }

    # ---- what people see

    def _show(self) -> None:
        standing = self._standing
        status = {
            "is_paused": standing.is_paused,
            "note": standing.note,
            "next": sorted(time for _, time in self._due)[:NEXT_SHOWN],
            "running": [one.instance_id for one in standing.running[:SHOWN_MAX]],
            "running_count": len(standing.running),
            "buffered": len(standing.buffered),
            "started": standing.started,
            "skipped": standing.skipped,
            "missed": standing.missed,
            "recent": [list(start) for start in standing.recent],
            "answers": standing.answers,
        }
        if status != self._shown:
            self._shown = status
            self._ctx.set_custom_status(status)


_ENDS_OTHERS: Final = {OverlapPolicy.CANCEL_OTHER: False, OverlapPolicy.TERMINATE_OTHER: True}
"""Policies that end what runs: whether by force."""

_BUFFERS: Final = {OverlapPolicy.SKIP: 0, OverlapPolicy.BUFFER_ONE: 1, OverlapPolicy.BUFFER_ALL: BUFFERED_MAX}
"""Policies that let what runs end: how many times then wait for that."""

_MAKES_TIMES: Final = (*TIMING, "timezone", "start_us", "end_us")
"""What the times of a schedule depend on."""


def occurrence_id(schedule_id: str, time_us: int) -> str:
    """Return the id of the instance that a schedule starts for a time."""
    time = from_us(time_us)
    return f"{schedule_id}/{time.isoformat(timespec='microseconds' if time.microsecond else 'seconds')[:-6]}Z"


def work_out_times(standing: Standing, now: int) -> None:
    """Fill in the times that come next. Those that nobody can catch up with any more are counted, and passed over."""
    standing.times = []
    if standing.is_paused:
        return
    spec, after = standing.spec, standing.last_us
    oldest = now - max(spec.catch_up_us, LATE_MIN_US) - spec.jitter_us
    time = spec.following(after, standing.created_us)
    counted = 0
    while time is not None and time < oldest and counted < MISSED_COUNTED_MAX:
        counted += 1
        after, time = time, spec.following(time, standing.created_us)
    standing.missed += counted
    if time is not None and time < oldest:
        after = oldest - 1
        time = spec.following(after, standing.created_us)
    while time is not None and len(standing.times) < TIMES_MAX and (not standing.times or time <= now + HORIZON_US):
        standing.times.append(time)
        after, time = time, spec.following(time, standing.created_us)
    standing.last_us = after
