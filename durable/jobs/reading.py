"""A tree as its history tells of it: for clients, without a worker.

Theory of operation. The reader takes the arrivals of the history in their order, as the instance did, and lets the same
rules say what they mean. Requests tell it only what stands in no rule: which attempt, timer or child is which job's, and,
by `JobFailed`, which failed attempt was the last one.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

from durable import events as ev
from durable import payloads
from durable.engine.calls import TimerPurpose
from durable.events import HistoryEvent
from durable.jobs.events import JobFailed
from durable.jobs.rules import Brought, JobState, Stage
from durable.jobs.running import ENDED_BY_OTHERS, timeout_details
from durable.jobs.standing import Ending, TreeStanding
from durable.jobs.wire import (
    COMMAND,
    JOB_TAG,
    PART,
    TICKET_MARK,
    Command,
    JobSpec,
    Stub,
    Ticket,
    TreeInput,
    decode_part,
)
from durable.payloads import PayloadError, Sealer
from durable.records import Record


@dataclasses.dataclass(slots=True)
class Attempts:
    """What the history says of a job's attempts. `task_id`: of the open one; `result`: as it is stored."""

    count: int = 0
    task_id: int | None = None
    asked_at: int = 0
    result: bytes | None = None


class TreeReader:
    """One tree, read from the records of its instance's history, which are handed in once each, in order."""

    def __init__(self, sealer: Sealer) -> None:
        self.standing = TreeStanding()
        self.records = 0
        self.attempts: dict[int, Attempts] = {}
        self._sealer = sealer
        self._jobs_by_task: dict[int, int] = {}
        self._jobs_by_timer: dict[int, int] = {}
        self._timers_to_come: deque[int] = deque()  # of held jobs, in the order in which their timers are asked for
        self._specs: list[JobSpec] = []
        self._parts_missing = 0
        self._scheduled_for = 0
        self._commands: list[ev.EventRaised] = []  # before the tree begins
        self._held: deque[HistoryEvent] = deque()
        self._is_suspended = False
        self._final: Collection[tuple[int, int]] = ()  # jobs and attempts that fail for good in this record
        self._now = 0

    # ---- taking the history in

    def feed(self, record: Record) -> None:
        """Take a record. What in it is none of a job tree's is passed over."""
        self.records += 1
        self._now = max(self._now, record.time)
        self._final = {(event.job, event.attempt) for event in record.events if isinstance(event, JobFailed)}
        for event in record.events:
            self._take(event)

    def begin_unread(self, tree: TreeInput) -> None:
        """Take the jobs of a tree whose history has not begun: as many as its input holds."""
        if not self.standing.has_begun:
            self.standing.tree.add(tree.jobs)

    def _take(self, event: HistoryEvent) -> None:
        if isinstance(event, ev.OrchestrationSuspended):
            self._is_suspended = True
        elif isinstance(event, ev.OrchestrationResumed):
            self._is_suspended = False
            for _ in range(len(self._held) if event.at_most is None else min(event.at_most, len(self._held))):
                self._deliver(self._held.popleft())
        elif event.is_request or not (self._is_suspended or self._held):
            self._deliver(event)
        else:
            self._held.append(event)

    def _deliver(self, event: HistoryEvent) -> None:
        take = self._TAKERS.get(type(event))
        if take is not None:
            take(self, event)

    def _follow(self, brought: Brought) -> None:
        self._timers_to_come.extend(brought.held)

    # ---- arrivals

    def _take_start(self, event: ev.OrchestrationStarted) -> None:
        tree = TreeInput.decode(self._plain(event.input))
        self._specs, self._parts_missing = list(tree.jobs), tree.parts
        self._scheduled_for = event.scheduled_for or self._now
        self._begin_if_complete()

    def _take_event(self, event: ev.EventRaised) -> None:
        if event.name == PART and self._parts_missing:
            self._specs += decode_part(self._plain(event.data), len(self._specs))
            self._parts_missing -= 1
            self._begin_if_complete()
        elif event.name == COMMAND and self.standing.has_begun:
            self._take_command(event)
        elif event.name == COMMAND:
            self._commands.append(event)

    def _begin_if_complete(self) -> None:
        if not self._parts_missing:
            self._follow(self.standing.begin(self._specs, self._scheduled_for, self._now))
            commands, self._commands, self._specs = self._commands, [], []
            for event in commands:
                self._take_command(event)

    def _take_command(self, event: ev.EventRaised) -> None:
        try:
            command = Command.decode(self._plain(event.data))
        except PayloadError:
            return  # as the instance did
        self._follow(self.standing.take_command(command, self._now).brought)

    def _take_cancel(self, event: ev.OrchestrationCancelRequested) -> None:
        if self.standing.has_begun:
            self._follow(self.standing.cancel_all(event.reason, self._now).brought)

    def _take_timer(self, event: ev.TimerFired) -> None:
        number = self._jobs_by_timer.pop(event.task_id, None)
        if number is not None and self._jobs[number].stage is Stage.HELD:
            self._follow(self.standing.tree.ask(number, self._now))

    def _take_end(self, event: Any) -> None:
        """Take the outcome of an activity or a child orchestration."""
        number = self._jobs_by_task.pop(event.task_id, None)
        if number is None:
            return
        if isinstance(event, ev.ActivityCompleted | ev.SubOrchestrationCompleted):
            self.attempts[number].result = event.result
            self._end(number, Ending(stub=self._stub(event)))
        else:
            is_cancelled = isinstance(event, ev.SubOrchestrationFailed) and event.details.error_type in ENDED_BY_OTHERS
            is_final = is_cancelled or self._fails_for_good(number)
            self._end(number, Ending(event.details, is_final, is_cancelled, self._stub(event)))

    def _fails_for_good(self, number: int) -> bool:
        return (number, self._jobs[number].endings + 1) in self._final

    def _end(self, number: int, ending: Ending) -> None:
        self.attempts[number].task_id = None
        if self._jobs[number].stage is Stage.ASKED:
            self._follow(self.standing.take_ending(number, ending, self._now))

    # ---- requests

    def _take_activity(self, event: ev.ActivityScheduled) -> None:
        attachment = event.options.attachment
        if attachment is not None and attachment.startswith(TICKET_MARK):
            ticket = Ticket.decode(self._sealer.unseal(attachment[len(TICKET_MARK) :]))
            self._begin_attempt(ticket.job, event.attempt, event.task_id)

    def _take_child(self, event: ev.SubOrchestrationScheduled) -> None:
        number = (event.tags or {}).get(JOB_TAG, "")
        if number.isdecimal():
            self._begin_attempt(int(number), event.attempt, event.task_id)
            job = self._jobs[int(number)]
            job.started_at = self._now if job.started_at is None else job.started_at

    def _begin_attempt(self, number: int, attempt: int, task_id: int) -> None:
        attempts = self.attempts.setdefault(number, Attempts())
        attempts.count, attempts.task_id, attempts.asked_at = attempt, task_id, self._now
        self._jobs_by_task[task_id] = number

    def _take_timer_request(self, event: ev.TimerCreated) -> None:
        if event.purpose == TimerPurpose.USER.value and self._timers_to_come:
            self._jobs_by_timer[event.task_id] = self._timers_to_come.popleft()

    def _take_child_cancelled(self, event: ev.SubOrchestrationCancelled) -> None:
        """A child was given up: its job was cancelled, or else its time was over."""
        number = self._jobs_by_task.pop(event.task_id, None)
        if number is not None and self._jobs[number].stage is Stage.ASKED:
            job = self._jobs[number]
            details = timeout_details(job.spec.name, job.spec.timeout_us or 0)
            self._end(number, Ending(details, self._fails_for_good(number)))

    _TAKERS: ClassVar[Mapping[type[HistoryEvent], Callable[[TreeReader, Any], None]]] = {
        ev.OrchestrationStarted: _take_start,
        ev.EventRaised: _take_event,
        ev.OrchestrationCancelRequested: _take_cancel,
        ev.TimerFired: _take_timer,
        ev.ActivityCompleted: _take_end,
        ev.ActivityFailed: _take_end,
        ev.SubOrchestrationCompleted: _take_end,
        ev.SubOrchestrationFailed: _take_end,
        ev.ActivityScheduled: _take_activity,
        ev.SubOrchestrationScheduled: _take_child,
        ev.TimerCreated: _take_timer_request,
        ev.SubOrchestrationCancelled: _take_child_cancelled,
    }

    # ---- small things

    @property
    def _jobs(self) -> list[JobState]:
        return self.standing.tree.jobs

    def _plain(self, payload: bytes | None) -> Any:
        return None if payload is None else payloads.decode(self._sealer.unseal(payload), strict_size=False)

    def _stub(self, event: Any) -> Stub | None:
        if event.attachment is None:
            return None
        try:
            return Stub.decode(self._sealer.unseal(event.attachment))
        except PayloadError:
            return None  # as the instance did
