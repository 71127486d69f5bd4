"""The orchestrator that runs job trees: it carries out what the rules say.

One instance, one tree, one generation: the history is the tree's own record, from which it can be shown without a worker. An
attempt of a job is an ordinary activity or child orchestration, with a `Ticket` along; its outcome brings a `Stub` back.
Invariant: requests follow from arrivals by the rules alone, so that a replay asks for the same ones. What an app decides (of
which kind a name is, which version it means) is taken from the recorded request, where there is one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from durable import events as ev
from durable.app import OrchestratorDefinition
from durable.context import OrchestrationContext
from durable.context.plans import Plan
from durable.context.starts import recorded_child, start_request
from durable.engine.calls import ActivityCall, ChildCall, TimerPurpose
from durable.errors import FailureDetails, OrchestrationCancelledError, OrchestrationTerminatedError, qualified_name
from durable.events import HistoryEvent
from durable.jobs.events import JobFailed
from durable.jobs.model import JobStatus, Priority
from durable.jobs.packing import definition_for
from durable.jobs.rules import SHOWN_AS, Brought, JobState, Stage
from durable.jobs.standing import Carried, Ending, TreeStanding
from durable.jobs.wire import (
    COMMAND,
    JOB_TAG,
    NO_PARENT,
    PART,
    TICKET_MARK,
    Command,
    JobSpec,
    Kind,
    Stub,
    Ticket,
    Trace,
    TreeInput,
    decode_part,
    trace_key,
)
from durable.messages import dropped_memo
from durable.payloads import ANY, PayloadError
from durable.retry import RetryPolicy

QUEUE_PRIORITIES: Final = {Priority.HIGH: 0, Priority.NORMAL: 1, Priority.LOW: 2}
"""What the activity queue goes by: a low number first. Activities of ordinary orchestrations have 1."""

KEPT_US: Final = timedelta(days=36_525) // timedelta(microseconds=1)
"""Traces go when their run is purged; until then they stay, for which a hundred years will do."""

ENDED_BY_OTHERS: Final = frozenset(map(qualified_name, (OrchestrationCancelledError, OrchestrationTerminatedError)))


NO_SPECS: Final[list[JobSpec]] = []
"""Shared by all trees that have begun; never changed."""


async def run_job_tree(ctx: OrchestrationContext, tree: Any) -> dict[str, int]:
    """Run a tree of jobs; return how many jobs ended in which status. The input is a `TreeInput`, decoded."""
    run = TreeRun(ctx, TreeInput.decode(tree))
    del tree  # very many trees may wait for their time: none keeps what it was made of
    return await run.run()


class TreeRun:
    """One tree in its instance. There may be very many that wait for their time: it is small as long as nothing happens."""

    __slots__ = (
        "_calls",
        "_is_cancelled",
        "_jobs",
        "_over",
        "_parts",
        "_specs",
        "_timers",
        "_traced",
        "ctx",
        "execution",
        "plans",
        "standing",
    )

    def __init__(self, ctx: OrchestrationContext, tree: TreeInput) -> None:
        self.standing = TreeStanding()
        self.plans = ctx.plans
        self.ctx = ctx
        self.execution = ctx.execution
        self._jobs = self.standing.tree.jobs
        self._calls: dict[int, JobActivity | JobChild] = {}
        self._timers: dict[int, int] = {}
        self._traced: dict[int, Stage] = {}
        self._specs = list(tree.jobs)  # until the tree begins
        self._parts = tree.parts
        self._over: asyncio.Future[None] | None = None
        self._is_cancelled = False

    @property
    def now(self) -> int:
        """The time of the turn, in microseconds."""
        return self.execution.time_us

    async def run(self) -> dict[str, int]:
        """Run the tree until every job has settled, also after it was cancelled."""
        started = self.execution.started
        assert started is not None
        for _ in range(self._parts):
            self._specs += await self.execution.wait_for_event(PART, self._read_part)
        begun = self.standing.begin(self._specs, started.scheduled_for or self.now, self.now)
        self._specs = NO_SPECS
        self._act(begun)
        self._listen()
        while not self.standing.tree.is_over:
            self._over = self.execution.loop.create_future()
            try:
                await self._over
            except asyncio.CancelledError:
                if self._is_cancelled or self.execution.cancel_reason is None:
                    raise
                self._is_cancelled = True
                self._carry_out(self.standing.cancel_all(self.execution.cancel_reason, self.now))
        return dict(Counter(SHOWN_AS[job.stage].value for job in self._jobs))

    # ---- what arrives

    def _read_part(self, event: ev.EventRaised) -> Sequence[JobSpec]:
        return decode_part(self.plans.decode(event.data, ANY, "a part of a job tree"), len(self._specs))

    def _listen(self) -> None:
        """Wait for the next command, without a coroutine of its own."""
        self.execution.wait_for_event(COMMAND, self._read_command).add_done_callback(self._take_command)

    def _take_command(self, taken: asyncio.Future[Command | None]) -> None:
        command = None if taken.cancelled() else taken.result()
        if command is not None:
            self._carry_out(self.standing.take_command(command, self.now))
        if not self.standing.tree.is_over:
            self._listen()

    def _read_command(self, event: ev.EventRaised) -> Command | None:
        try:
            return Command.decode(self.plans.decode(event.data, ANY, "a command to a job tree"))
        except PayloadError as error:
            self._note_dropped(str(error))
            return None

    def attempt_ended(self, job: JobState, ending: Ending, result: bytes | None = None) -> None:
        """Take the end of an attempt; `result` as it is stored."""
        brought = self.standing.take_ending(job.number, ending, self.now)
        if ending.is_final:
            self._calls.pop(job.number, None)
        if job.stage is Stage.FAILED:
            self.execution.emit(JobFailed(job.number, job.endings))
        self._act(brought, ended=job, result=result)

    def read_stub(self, attachment: bytes | None) -> Stub | None:
        """Return what an attempt has left for the tree; None, which is noted, for what cannot be read."""
        if attachment is None:
            return None
        try:
            return Stub.decode(self.plans.unseal(attachment))
        except PayloadError as error:
            self._note_dropped(str(error))
            return None

    # ---- what follows

    def _carry_out(self, carried: Carried) -> None:
        for number in carried.given_up:
            call = self._calls.pop(number, None)
            if call is not None:
                call.give_up()
            timer = self._timers.pop(number, None)
            if timer is not None:
                self.execution.drop_timer(timer)
        self._act(carried.brought)

    def _act(self, brought: Brought, ended: JobState | None = None, result: bytes | None = None) -> None:
        for number in (*brought.asked, *brought.held):
            parent = self._jobs[number].parent
            if parent != NO_PARENT:
                self._leave_trace(parent, result if ended is not None and ended.number == parent else None)
        for number in brought.let_go:
            self.execution.drop_timer(self._timers.pop(number))
        for number in brought.asked:
            self._ask(self._jobs[number])
        for number in brought.held:
            due_at = self._jobs[number].due_at
            assert due_at is not None
            come_due = functools.partial(self._come_due, number)
            self._timers[number] = self.execution.set_timer(due_at, TimerPurpose.USER, come_due)
        for text in self.standing.dropped:
            self._note_dropped(text)
        self.standing.dropped.clear()
        if self.standing.tree.is_over and self._over is not None and not self._over.done():
            self._over.set_result(None)

    def _come_due(self, number: int) -> None:
        del self._timers[number]
        self._act(self.standing.tree.ask(number, self.now))

    def _leave_trace(self, number: int, result: bytes | None) -> None:
        """Leave for the jobs below what they may ask of this one, and of those above it."""
        while number != NO_PARENT and self._traced.get(number) is not self._jobs[number].stage:
            job = self._jobs[number]
            self._traced[number] = job.stage
            status = JobStatus.IN_PROGRESS if job.stage is Stage.ASKED else SHOWN_AS[job.stage]
            request, _ = self.execution.value(job.spec.request)
            parent = None if job.parent == NO_PARENT else job.parent
            trace = Trace(job.spec.name, status, request, result, job.error, parent)
            self.execution.set_memo(trace_key(self.execution.run_id, number), trace.encode(), KEPT_US)
            if job.was_asked:
                return  # that of its parent was left when it was asked for
            number, result = job.parent, None

    def _note_dropped(self, reason: str) -> None:
        if not self.execution.is_replaying:
            self.ctx.logger.warning("job tree '%s': dropped: %s", self.ctx.instance_id, reason)
            memo = dropped_memo(self.execution.run_id, "command", COMMAND, reason, self.now)
            self.execution.set_memo(memo.key, memo.data, memo.expires_at - self.now)

    # ---- asking for jobs

    def _ask(self, job: JobState) -> None:
        is_orchestrator, plan = self._plan(job.spec)
        call = JobChild(self, job, plan) if is_orchestrator else JobActivity(self, job, plan)
        self._calls[job.number] = call
        call.begin()

    def _plan(self, spec: JobSpec) -> tuple[bool, Plan]:
        """Return whether a job's function is an orchestrator, and what a call of it means here, or meant when it was asked."""
        recorded = self.execution.recorded_request
        if isinstance(recorded, ev.ActivityScheduled | ev.SubOrchestrationScheduled) and recorded.name == spec.name:
            kind = Kind.ORCHESTRATOR if isinstance(recorded, ev.SubOrchestrationScheduled) else Kind.ACTIVITY
            spec = dataclasses.replace(spec, kind=kind, version=recorded.version)
        definition = definition_for(self.plans.app, spec)
        if definition is not None:
            return isinstance(definition, OrchestratorDefinition), self.plans.own(definition)
        if spec.kind is Kind.ORCHESTRATOR:
            return True, self.plans.orchestrator(spec.name, spec.version)
        return False, dataclasses.replace(self.plans.activity(spec.name), version=spec.version)


class JobActivity(ActivityCall):
    """The attempts of a job whose function is an activity."""

    def __init__(self, run: TreeRun, job: JobState, plan: Plan) -> None:
        spec, execution = job.spec, run.execution
        ticket = Ticket(job.number, None if job.parent == NO_PARENT else job.parent, job.due_at or 0)
        sealed, _ = execution.value(ticket.encode())
        declared = plan.options
        options = ev.ActivityOptions(
            declared.queue,
            spec.timeout_us or declared.timeout,
            declared.heartbeat_timeout,
            declared.queue_timeout,
            QUEUE_PRIORITIES[spec.priority],
            TICKET_MARK + (sealed or b""),
            declared.limit,
        )
        if options.limit is not None:
            options = plan.limited(options, spec.request, execution.recorded_request)
        super().__init__(
            execution,
            plan.name,
            plan.version,
            spec.request,
            options=options,
            decode=_left_encoded,
            policy=policy_of(spec, plan.retry_policy),
        )
        self.job = job
        self.tree_run = run

    def settle(self, event: HistoryEvent) -> None:
        """Take an attempt's outcome; the tree hears of it after the next attempt was asked for, if there is one."""
        super().settle(event)
        if isinstance(event, ev.ActivityCompleted):
            self.tree_run.attempt_ended(self.job, Ending(stub=self.tree_run.read_stub(event.attachment)), event.result)
        elif isinstance(event, ev.ActivityFailed):
            stub = self.tree_run.read_stub(event.attachment)
            self.tree_run.attempt_ended(self.job, Ending(event.details, self.task.done(), stub=stub))

    def give_up(self) -> None:
        """Want no outcome any more: a running attempt is told."""
        self.task.cancel()


class JobChild(ChildCall):
    """The attempts of a job whose function is an orchestrator."""

    def __init__(self, run: TreeRun, job: JobState, plan: Plan) -> None:
        policy = policy_of(job.spec, plan.retry_policy)
        super().__init__(run.execution, plan.name, self._request, decode=_left_encoded, policy=policy)
        self.job = job
        self.tree_run = run
        self._plan = plan
        self._limit: int | None = None  # the timer of the attempt's timeout

    def _request(self, attempt: int, task_id: int) -> ev.SubOrchestrationScheduled:
        """Build the request of an attempt. The timer that limits it comes right behind it."""
        execution, spec = self.tree_run.execution, self.job.spec
        if spec.timeout_us is not None:
            execution.loop.call_soon(self._set_limit, task_id, spec.timeout_us)
        child_id = recorded_child(execution, task_id) or execution.derived_id("child", task_id)
        tags = {JOB_TAG: str(self.job.number)}
        return start_request(
            execution, self._plan, self._plan.version, child_id, spec.request, task_id, attempt=attempt, tags=tags
        )

    def _set_limit(self, task_id: int, timeout_us: int) -> None:
        execution = self.tree_run.execution
        if task_id in execution.open_children:
            due = self.tree_run.now + timeout_us
            self._limit = execution.set_timer(due, TimerPurpose.TOTAL, lambda: self._out_of_time(task_id, timeout_us))

    def _out_of_time(self, task_id: int, timeout_us: int) -> None:
        self._limit = None
        details = timeout_details(self._plan.name, timeout_us)
        self.tree_run.execution.drop_child(task_id)
        self.settle(ev.SubOrchestrationFailed(task_id, details))

    def settle(self, event: HistoryEvent) -> None:
        """Take an attempt's outcome, as `JobActivity` does. One that somebody else has ended is not repeated."""
        self._drop_limit()
        if isinstance(event, ev.SubOrchestrationCompleted):
            super().settle(event)
            self.tree_run.attempt_ended(self.job, Ending(), event.result)
        elif isinstance(event, ev.SubOrchestrationFailed):
            is_cancelled = event.details.error_type in ENDED_BY_OTHERS
            if not is_cancelled:
                super().settle(event)
            is_final = is_cancelled or self.task.done()
            self.tree_run.attempt_ended(self.job, Ending(event.details, is_final, is_cancelled))

    def _drop_limit(self) -> None:
        if self._limit is not None:
            self.tree_run.execution.drop_timer(self._limit)
            self._limit = None

    def give_up(self) -> None:
        """Want no outcome any more: the child is cancelled."""
        self._drop_limit()
        self.task.cancel()


def policy_of(spec: JobSpec, declared: RetryPolicy | None) -> RetryPolicy | None:
    """Return when a job's attempts are repeated: by what the job says, or else by what its function declares."""
    if not spec.retries:
        return declared
    intervals = [timedelta(microseconds=interval) for interval in spec.intervals_us] or [timedelta(0)]

    def wait(_: FailureDetails, attempt: int) -> timedelta:
        return intervals[min(attempt, len(intervals)) - 1]

    return RetryPolicy(timedelta(0), spec.retries + 1, handle=wait)


def timeout_details(name: str, timeout_us: int) -> FailureDetails:
    """Return what is known of a child that took too long."""
    text = f"an attempt of orchestrator '{name}' ran into its timeout of {timeout_us / 1e6:g} s"
    return FailureDetails("TimeoutError", text, error_bases=("OSError", "Exception", "BaseException"))


def _left_encoded(_: Any) -> None:
    """A tree never looks inside of a result: who wants it reads it from the history, or from a trace."""
