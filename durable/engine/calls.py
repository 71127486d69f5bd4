"""An activity call or a child as the orchestrator sees it: one task, behind it one or several attempts.

An attempt is a request of its own with its own task id, so that each request has exactly one outcome. Between attempts
lies a durable timer. A call is given up by cancelling its task, by its total timeout, or at the end of the generation.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from durable import events as ev
from durable.engine.tasks import Task
from durable.errors import (
    ActivityFailedError,
    ActivityTimeoutError,
    FailureDetails,
    InstanceAlreadyExistsError,
    SubOrchestrationFailedError,
)
from durable.events import ActivityOptions, HistoryEvent
from durable.plain_events import activity_scheduled
from durable.retry import FailedAttempt, RetryPolicy, next_wait

if TYPE_CHECKING:
    from durable.engine.execution import Execution

Decode: TypeAlias = Callable[[Any], Any]
Observe: TypeAlias = Callable[[HistoryEvent], None]

MICROSECOND = timedelta(microseconds=1)


class TimerPurpose(enum.Enum):
    """What a durable timer serves; part of the request's shape."""

    USER = ""
    ASYNCIO = "asyncio"
    RETRY = "retry"
    EVENT = "event timeout"
    TOTAL = "total timeout"


class Call(Protocol):
    """A request that is answered, with the task in which its answer ends up. Features bring their own."""

    task: Task[Any]

    def begin(self) -> None:
        """Make the request."""
        ...

    def settle(self, event: Any) -> None:
        """Take the answer."""
        ...


class Attempts:
    """The attempts of one call, and what its policy says of a further one. What has a call derives from it.

    A call that was open where the run goes on after its end may have as many once more, from the one that is open.
    """

    def __init__(self, execution: Execution, policy: RetryPolicy | None, title: str) -> None:
        self.task: Task[Any] = Task(execution.loop, title)
        self._began_us = execution.time_us
        self._execution = execution
        self._policy = policy
        self._number = 0  # of the attempt that began last, from 1
        self._former = 0  # those that count no more
        self._renewals = execution.renewals

    def next_wait(self, details: FailureDetails) -> timedelta | None:
        """Ask the policy how long to wait for the next attempt; what its own `handle` raises becomes the call's failure."""
        execution = self._execution
        if self._renewals != execution.renewals:
            self._renewals, self._former, self._began_us = execution.renewals, self._number - 1, execution.renewed_us
        elapsed = timedelta(microseconds=execution.time_us - self._began_us)
        count = self._number - self._former
        try:
            return next_wait(self._policy, details, count, elapsed, execution.seeds.stream("jitter"))
        except StopIteration as error:  # no future takes one: as a generator would
            stopped = RuntimeError("handle of a RetryPolicy raised StopIteration: " + str(error))
            stopped.__cause__ = error
            self.task.fail(stopped)
        except Exception as error:  # noqa: BLE001 (user code in the policy)
            self.task.fail(error)
        return None

    def failed(self, name: str, details: FailureDetails, wait: timedelta | None) -> FailedAttempt:
        """Return what the log tells of the attempt that has just failed."""
        attempts_max = self._policy.max_number_of_attempts if self._policy else 1
        return FailedAttempt(name, self._number - self._former, attempts_max, details, wait)


class ActivityCall(Attempts):
    """One call of an activity.

    `decode` makes the task's result of the recorded payload; `observe` sees the outcome event of the last attempt first.
    """

    def __init__(
        self,
        execution: Execution,
        name: str,
        version: str | None,
        plain: bytes | None,
        *,
        options: ActivityOptions,
        decode: Decode,
        policy: RetryPolicy | None = None,
        total_timeout_us: int | None = None,
        tags: Mapping[str, str] | None = None,
        observe: Observe | None = None,
        line: str = "",
    ) -> None:
        super().__init__(execution, policy, f"activity {name}")
        self._name = name
        self._version = version
        self._plain = plain
        self._options = options
        self._decode = decode
        self._total_timeout_us = total_timeout_us
        self._tags = tags
        self._observe = observe
        self._line = line  # of the user's code; no further attempt is asked for there
        self._call_id = -1
        self._current: int | None = None  # the open attempt's task id, or the retry timer's
        self._timer: int | None = None
        self._total_timer: int | None = None
        self._last_heartbeat: Any = None

    def begin(self) -> None:
        """Ask for the first attempt."""
        self._schedule()
        self.task.task_id = self._call_id
        self.task.when_cancelled(self._give_up)
        if self._total_timeout_us is not None:
            due = self._began_us + self._total_timeout_us
            self._total_timer = self._execution.set_timer(due, TimerPurpose.TOTAL, self._out_of_time)

    def _schedule(self) -> None:
        execution = self._execution
        if execution.is_over:
            return
        self._timer = None
        attempt = self._number = self._number + 1
        task_id = execution.new_task_id()
        if attempt == 1:
            self._call_id = task_id
        payload, digest = execution.value(self._plain)
        request = activity_scheduled(
            task_id,
            self._name,
            self._version,
            payload,
            digest,
            attempt,
            self._call_id,
            self._options,
            self._tags,
            self._last_heartbeat,
            self._line if attempt == 1 else "",
        )
        self._current = task_id
        execution.open_request(execution.emit(request), self)

    def settle(self, event: HistoryEvent) -> None:
        """Take an attempt's outcome: the result, another attempt, or the failure."""
        self._current = None
        if isinstance(event, ev.ActivityFailed):
            self._last_heartbeat = event.last_heartbeat or self._last_heartbeat
            wait = self.next_wait(event.details)
            self._execution.failed_attempts.append(self.failed(self._name, event.details, wait))
            if self.task.done():
                return self._finish()
            if wait is not None:
                return self._wait(wait)
        if self._observe is not None:
            self._observe(event)
        if isinstance(event, ev.ActivityCompleted):
            self.task.succeed(self._decode(event.result))
        elif isinstance(event, ev.ActivityFailed):
            error = ActivityTimeoutError if event.is_timeout else ActivityFailedError
            self.task.fail(error(event.details, task_name=self._name, instance_id=self._execution.key.id))
        if self._total_timer is not None:
            self._finish()
        return None

    def _wait(self, wait: timedelta) -> None:
        if not wait:
            self._schedule()
            return
        due = self._execution.time_us + wait // MICROSECOND
        self._timer = self._execution.set_timer(due, TimerPurpose.RETRY, self._schedule)

    def _out_of_time(self) -> None:
        self._total_timer = None
        seconds = (self._total_timeout_us or 0) / 1e6
        details = FailureDetails(
            "TimeoutError", f"activity '{self._name}' did not finish within its total_timeout of {seconds:g} s"
        )
        self._give_up()
        self.task.fail(ActivityTimeoutError(details, task_name=self._name, instance_id=self._execution.key.id))

    def _give_up(self) -> None:
        if self._current is not None:
            self._execution.drop_activity(self._current)
        if self._timer is not None:
            self._execution.drop_timer(self._timer)
        self._finish()

    def _finish(self) -> None:
        if self._total_timer is not None:
            self._execution.drop_timer(self._total_timer)
            self._total_timer = None


class ChildCall(Attempts):
    """One child orchestration; `make(attempt, task_id)` builds the request of an attempt."""

    def __init__(
        self,
        execution: Execution,
        name: str,
        make: Callable[[int, int], ev.SubOrchestrationScheduled],
        *,
        decode: Decode,
        policy: RetryPolicy | None = None,
        observe: Observe | None = None,
    ) -> None:
        super().__init__(execution, policy, f"child {name}")
        self._name = name
        self._make = make
        self._decode = decode
        self._observe = observe
        self._current: int | None = None
        self._timer: int | None = None

    def begin(self) -> None:
        """Ask for the child."""
        self._schedule()
        self.task.task_id = self._current
        self.task.when_cancelled(self._give_up)

    def _schedule(self) -> None:
        execution = self._execution
        if execution.is_over:
            return
        self._timer = None
        self._number += 1
        task_id = execution.new_task_id()
        self._current = task_id
        execution.open_request(execution.emit(self._make(self._number, task_id)), self)

    def settle(self, event: HistoryEvent) -> None:
        """Take a child's outcome: the result, another attempt, or the failure."""
        self._current = None
        is_refused = isinstance(event, ev.SubOrchestrationFailed) and event.is_refused
        if isinstance(event, ev.SubOrchestrationFailed) and not is_refused:
            wait = self.next_wait(event.details)
            if self.task.done():
                return
            if wait is not None:
                due = self._execution.time_us + wait // MICROSECOND
                self._timer = self._execution.set_timer(due, TimerPurpose.RETRY, self._schedule)
                return
        if self._observe is not None:
            self._observe(event)
        if isinstance(event, ev.SubOrchestrationCompleted):
            self.task.succeed(self._decode(event.result))
        elif isinstance(event, ev.SubOrchestrationFailed):
            if is_refused:
                self.task.fail(InstanceAlreadyExistsError(event.details.message))
            else:
                self.task.fail(
                    SubOrchestrationFailedError(event.details, task_name=self._name, instance_id=self._execution.key.id)
                )

    def _give_up(self) -> None:
        if self._current is not None:
            self._execution.drop_child(self._current)
        if self._timer is not None:
            self._execution.drop_timer(self._timer)
