"""What an orchestrator sees of the world: `OrchestrationContext`.

Everything here is recorded, derived from what is recorded, or without effect on a replay. A context belongs to one
generation of one instance; it acts only inside that instance's turns, and says so wherever else it is used.

Invariant: no member asks for the time or draws a random number by itself; the execution hands out both.
"""

# ruff: noqa: A002 (`input` and `type` are names of the public interface)

from __future__ import annotations

import uuid
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from datetime import datetime, timedelta
from random import Random
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias, TypeVar, Unpack, overload

from durable import events as ev
from durable.activity_context import ActivityContext
from durable.context.entity_methods import EntityMethods
from durable.context.fan_out import FanOut
from durable.context.handlers import HandlerMethods
from durable.context.http_methods import HttpMethods
from durable.context.logger import ReplayLogger
from durable.context.options import (
    DECLARED,
    ActivityCallOptions,
    ChildOptions,
    Declared,
    Span,
    StartOptions,
    check_retry_policy,
    due_us,
    from_us,
    limit_us,
    merged_options,
    span_us,
)
from durable.context.plans import Plans, refusal
from durable.context.starts import recorded_child, recorded_version, start_request
from durable.engine.calls import ActivityCall, ChildCall
from durable.engine.execution import Execution
from durable.engine.loop import user_place
from durable.engine.tasks import Task
from durable.errors import (
    ActivityFailedError,
    EventDataError,
    LimitExceededError,
    StoredValueError,
    SubOrchestrationFailedError,
    TaskFailedError,
)
from durable.events import InstanceKey
from durable.ids import check_event_name, check_instance_id, check_tags
from durable.payloads import MisfitError, PayloadError, check, encode
from durable.retry import RetryPolicy
from durable.versions import canonical_version

if TYPE_CHECKING:
    import logging

    from durable.app import OrchestratorDefinition

C = TypeVar("C", bound=ActivityContext)
I = TypeVar("I")  # noqa: E741 (the input, as in the interface's own text)
R = TypeVar("R")
T = TypeVar("T")

Orchestration: TypeAlias = Generator[Task[Any], Any, R]
"""What an orchestrator in generator style returns: `Orchestration[R]` for one whose result is an R."""

CUSTOM_STATUS_BYTES_MAX: Final = 64 * 1024
"""A custom status is written with the instance's row at every change, and read with every listing."""

CHILD_DEPTH_MAX: Final = 1_000
"""Children below one another: a runaway recursion ends here, and not when the disk is full."""


class OrchestrationContext(EntityMethods, HandlerMethods, HttpMethods):
    """The context of a running orchestration; the first parameter of every orchestrator."""

    def __init__(self, execution: Execution, plans: Plans, definition: OrchestratorDefinition) -> None:
        assert execution.started is not None, "a context is made for an orchestration that has started"
        self._execution = execution
        self._plans = plans
        self._definition = definition
        self._started = execution.started
        self._began_us = execution.time_us
        self.before_continuing: list[Callable[[], None]] = []
        """What features do before the generation continues as new."""
        self._logger: ReplayLogger | None = None

    def __repr__(self) -> str:
        return f"<OrchestrationContext of '{self.instance_id}', {self.name}, generation {self.generation}>"

    @property
    def execution(self) -> Execution:
        """The engine behind this context. For features; a program has no use for it."""
        self._execution.check_access()
        return self._execution

    @property
    def plans(self) -> Plans:
        """What is known of calls before they are made. For features."""
        return self._plans

    # ---- who is running

    @property
    def instance_id(self) -> str:
        """The id of this instance; in what a fork has taken over, as it was there."""
        return self._execution.writer.instance_id

    @property
    def run_id(self) -> str:
        """The id of this run: one life of the instance id, across its generations; in what was taken over, as it was there."""
        return self._execution.writer.run_id

    @property
    def generation(self) -> int:
        """How often this run has continued as new, or was rewound; in what was taken over, as it was there."""
        return self._execution.writer.generation

    @property
    def name(self) -> str:
        """The name that the orchestrator is registered under."""
        return self._started.name

    @property
    def version(self) -> str | None:
        """The version of the orchestrator that this generation runs; None for one without."""
        return self._definition.version

    @property
    def parent_instance_id(self) -> str | None:
        """The id of the orchestration that waits for this one; None without a parent."""
        started = self._execution.started or self._started
        return started.parent.instance_id if started.parent else None

    @property
    def tags(self) -> Mapping[str, str]:
        """The tags that the instance was started with: a dict of its own each time, as plain as any other value."""
        return dict(self._started.tags or {})

    @property
    def scheduled_for(self) -> datetime:
        """The time that this instance is for: of its schedule, its `at=`, or else its start. Aware, in UTC."""
        return from_us(self._started.scheduled_for or self._began_us)

    # ---- time, chance and the log

    @property
    def current_utc_datetime(self) -> datetime:
        """The time of this turn, from the history. Aware, in UTC; it stands still within a turn and never decreases."""
        self._execution.check_access()
        return from_us(self._execution.time_us)

    @property
    def is_replaying(self) -> bool:
        """True while recorded history is being consumed: what happens now has happened before."""
        self._execution.check_access()
        return self._execution.is_replaying

    @property
    def random(self) -> Random:
        """A random generator that draws the same numbers on every replay."""
        self._check_may_draw()
        return self._execution.seeds.stream("random")

    def new_uuid(self) -> uuid.UUID:
        """Return a UUID (version 4 in form) that is the same on every replay, and different from any other."""
        self._check_may_draw()
        return uuid.UUID(bytes=self._execution.seeds.next_uuid(), version=4)

    @property
    def logger(self) -> logging.Logger:
        """A logger that is silent while replaying. Its records carry `instance_id` and `run_id`."""
        if self._logger is None:
            self._logger = ReplayLogger(f"durable.orchestration.{self.name}", self._execution)
        return self._logger

    @property
    def history_length(self) -> int:
        """How many events the history of this generation has so far."""
        self._execution.check_access()
        return self._execution.history_length

    @property
    def history_bytes(self) -> int:
        """How many bytes the history of this generation takes, without the present turn."""
        self._execution.check_access()
        return self._execution.history_bytes

    # ---- activities

    @overload
    def call_activity(
        self, activity: Callable[[], Coroutine[Any, Any, R]], input: None = None, **options: Unpack[ActivityCallOptions]
    ) -> Task[R]: ...
    @overload
    def call_activity(
        self, activity: Callable[[], R], input: None = None, **options: Unpack[ActivityCallOptions]
    ) -> Task[R]: ...
    @overload
    def call_activity(
        self,
        activity: Callable[[C], Coroutine[Any, Any, R]],
        input: None = None,
        **options: Unpack[ActivityCallOptions],
    ) -> Task[R]: ...
    @overload
    def call_activity(
        self, activity: Callable[[C], R], input: None = None, **options: Unpack[ActivityCallOptions]
    ) -> Task[R]: ...
    @overload
    def call_activity(
        self, activity: Callable[[I], Coroutine[Any, Any, R]], input: I, **options: Unpack[ActivityCallOptions]
    ) -> Task[R]: ...
    @overload
    def call_activity(
        self, activity: Callable[[I], R], input: I, **options: Unpack[ActivityCallOptions]
    ) -> Task[R]: ...
    @overload
    def call_activity(
        self, activity: Callable[[C, I], Coroutine[Any, Any, R]], input: I, **options: Unpack[ActivityCallOptions]
    ) -> Task[R]: ...
    @overload
    def call_activity(
        self, activity: Callable[[C, I], R], input: I, **options: Unpack[ActivityCallOptions]
    ) -> Task[R]: ...
    @overload
    def call_activity(self, activity: str, input: Any = None, **options: Unpack[ActivityCallOptions]) -> Task[Any]: ...

    def call_activity(
        self,
        activity: Callable[..., Any] | str,
        input: Any = None,
        *,
        retry_policy: RetryPolicy | Declared | None = DECLARED,
        timeout: Span | Declared | None = DECLARED,
        heartbeat_timeout: Span | Declared | None = DECLARED,
        queue_timeout: Span | None = None,
        total_timeout: Span | None = None,
        queue: str | Declared | None = DECLARED,
        tags: Mapping[str, str] | None = None,
    ) -> Task[Any]:
        """Ask for an activity; the task gives its result, or raises ActivityFailedError.

        `timeout` limits one attempt from its start, `heartbeat_timeout` from beat to beat, `queue_timeout` the wait for a
        start, `total_timeout` all attempts from now. What is not given is as the activity declares; None is none.
        An input that does not fit fails the task, and so does one that is over a limit. Raises UnknownNameError for a
        function that is not registered anywhere; a name that this worker does not know is for another one.
        """
        execution = self._execution
        execution.check_access()
        plan = self._plans.activity(activity)
        options = plan.options
        if (
            timeout is not DECLARED
            or heartbeat_timeout is not DECLARED
            or queue_timeout is not None
            or queue is not DECLARED
        ):
            options = merged_options(options, timeout, heartbeat_timeout, queue_timeout, queue)
        policy = plan.retry_policy if retry_policy is DECLARED else check_retry_policy(retry_policy, plan.retry_policy)
        total_us = None if total_timeout is None else limit_us("total_timeout", total_timeout)
        noted = check_tags(tags) if tags else None
        try:
            plain = plan.encode_input(input)
        except (PayloadError, ValueError) as error:
            return self._refused(f"activity {plan.name}", ActivityFailedError, plan.name, error)
        call = ActivityCall(
            execution,
            plan.name,
            plan.version if plan.function else recorded_version(execution, plan, plan.version),
            plain,
            options=options if options.limit is None else plan.limited(options, plain, execution.recorded_request),
            decode=plan.read_result,
            policy=policy,
            total_timeout_us=total_us,
            tags=noted,
            line="" if execution.is_replaying else user_place(),
        )
        return execution.call(call)

    @overload
    def map(
        self,
        activity: Callable[[I], Coroutine[Any, Any, R]],
        inputs: Iterable[I],
        *,
        concurrency: int | None = None,
        **options: Unpack[ActivityCallOptions],
    ) -> Task[list[R]]: ...
    @overload
    def map(
        self,
        activity: Callable[[I], R],
        inputs: Iterable[I],
        *,
        concurrency: int | None = None,
        **options: Unpack[ActivityCallOptions],
    ) -> Task[list[R]]: ...
    @overload
    def map(
        self,
        activity: Callable[[C, I], Coroutine[Any, Any, R]],
        inputs: Iterable[I],
        *,
        concurrency: int | None = None,
        **options: Unpack[ActivityCallOptions],
    ) -> Task[list[R]]: ...
    @overload
    def map(
        self,
        activity: Callable[[C, I], R],
        inputs: Iterable[I],
        *,
        concurrency: int | None = None,
        **options: Unpack[ActivityCallOptions],
    ) -> Task[list[R]]: ...
    @overload
    def map(
        self,
        activity: str,
        inputs: Iterable[Any],
        *,
        concurrency: int | None = None,
        **options: Unpack[ActivityCallOptions],
    ) -> Task[list[Any]]: ...

    def map(
        self,
        activity: Callable[..., Any] | str,
        inputs: Iterable[Any],
        *,
        concurrency: int | None = None,
        **options: Unpack[ActivityCallOptions],
    ) -> Task[list[Any]]:
        """Call an activity for each input, at most `concurrency` at a time; the task gives the results in order.

        When all have settled it raises the first failure, in the order of the inputs. Cancelling it cancels those that
        run and begins no more. The options are those of `call_activity`, for each call.
        """
        self._execution.check_access()
        if concurrency is not None and (isinstance(concurrency, bool) or not isinstance(concurrency, int)):
            raise TypeError(f"concurrency must be an int or None, not {concurrency!r}")
        if concurrency is not None and concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}; None is no limit")

        def call(value: Any) -> Task[Any]:
            return self.call_activity(activity, value, **options)

        return FanOut(self._execution.loop, call, inputs).begin(concurrency)

    # ---- other orchestrations

    @overload
    def call_sub_orchestrator(
        self,
        orchestrator: Callable[[OrchestrationContext], Generator[Any, Any, R] | Coroutine[Any, Any, R]],
        input: None = None,
        **options: Unpack[ChildOptions],
    ) -> Task[R]: ...
    @overload
    def call_sub_orchestrator(
        self,
        orchestrator: Callable[[OrchestrationContext, I], Generator[Any, Any, R] | Coroutine[Any, Any, R]],
        input: I,
        **options: Unpack[ChildOptions],
    ) -> Task[R]: ...
    @overload
    def call_sub_orchestrator(
        self, orchestrator: str, input: Any = None, **options: Unpack[ChildOptions]
    ) -> Task[Any]: ...

    def call_sub_orchestrator(
        self,
        orchestrator: Callable[..., Any] | str,
        input: Any = None,
        *,
        instance_id: str | None = None,
        version: str | None = None,
        retry_policy: RetryPolicy | Declared | None = DECLARED,
        tags: Mapping[str, str] | None = None,
    ) -> Task[Any]:
        """Start a child with its own history; the task gives its result, or raises SubOrchestrationFailedError.

        A child gets an id of its own, another one for each attempt; one with `instance_id` keeps it, and if that id is in
        use the task raises InstanceAlreadyExistsError. Without `version` a function means its own, a name the newest here.
        Input and limits as in `call_activity`. Raises UnknownNameError, and ValueError for a bad id or version.
        """
        execution = self._execution
        execution.check_access()
        plan = self._plans.orchestrator(orchestrator, version)
        policy = check_retry_policy(retry_policy, plan.retry_policy)
        noted = check_tags(tags) if tags else None
        if instance_id is not None:
            check_instance_id(instance_id)
        try:
            plain = plan.encode_input(input)
            self._check_depth(plan.name)
        except (PayloadError, ValueError) as error:
            return self._refused(f"child {plan.name}", SubOrchestrationFailedError, plan.name, error)
        chosen = plan.version

        def make(attempt: int, task_id: int) -> ev.SubOrchestrationScheduled:
            nonlocal chosen
            if version is None:
                chosen = recorded_version(execution, plan, chosen)
            child_id = instance_id or recorded_child(execution, task_id) or execution.derived_id("child", task_id)
            return start_request(execution, plan, chosen, child_id, plain, task_id, attempt=attempt, tags=noted)

        return execution.call(ChildCall(execution, plan.name, make, decode=plan.read_result, policy=policy))

    @overload
    def start_orchestration(
        self,
        orchestrator: Callable[[OrchestrationContext], Generator[Any, Any, R] | Coroutine[Any, Any, R]],
        input: None = None,
        **options: Unpack[StartOptions],
    ) -> str: ...
    @overload
    def start_orchestration(
        self,
        orchestrator: Callable[[OrchestrationContext, I], Generator[Any, Any, R] | Coroutine[Any, Any, R]],
        input: I,
        **options: Unpack[StartOptions],
    ) -> str: ...
    @overload
    def start_orchestration(self, orchestrator: str, input: Any = None, **options: Unpack[StartOptions]) -> str: ...

    def start_orchestration(
        self,
        orchestrator: Callable[..., Any] | str,
        input: Any = None,
        *,
        instance_id: str | None = None,
        at: datetime | timedelta | None = None,
    ) -> str:
        """Start an orchestration without waiting for it, with the commit of this turn; return its instance id.

        If the id is in use by then, nothing is started, which is counted and recorded. Raises InvalidInputError for an
        input that does not fit, LimitExceededError, UnknownNameError, and ValueError for a bad id or a naive `at`.
        """
        execution = self._execution
        execution.check_access()
        plan = self._plans.orchestrator(orchestrator, None)
        if instance_id is not None:
            check_instance_id(instance_id)
        start_at = None if at is None else due_us("at", at, execution.time_us)
        plain = plan.encode_input(input)
        self._check_depth(plan.name)

        def make(task_id: int) -> ev.SubOrchestrationScheduled:
            chosen = recorded_version(execution, plan, plan.version)
            started_id = instance_id or execution.derived_id("detached", task_id)
            return start_request(
                execution, plan, chosen, started_id, plain, task_id, is_detached=True, start_at=start_at
            )

        request = execution.start_detached(make)
        return request.instance_id if request is not None else instance_id or ""

    def raise_event(self, instance_id: str, name: str, data: Any = None) -> None:
        """Send an event to another instance, with the commit of this turn. One that cannot be delivered is recorded.

        Raises InvalidInputError for a bad id or name, and as `call_activity` fails for data that cannot be sent.
        """
        self._execution.check_access()
        target = InstanceKey(check_instance_id(instance_id))
        check_event_name(name)
        plain = None if data is None else check(data, what=f"data of event '{name}'")
        self._execution.send_event(target, name, plain)

    # ---- waiting

    def create_timer(self, when: datetime | timedelta) -> Task[None]:
        """Ask for a durable timer, of any length; the task completes when it is due. The past is now.

        Raises ValueError for a datetime without a time zone.
        """
        execution = self._execution
        execution.check_access()
        return execution.create_timer(due_us("the time given to create_timer", when, execution.time_us))

    @overload
    def wait_for_external_event(self, name: str, type: None = None, *, timeout: Span | None = None) -> Task[Any]: ...
    @overload
    def wait_for_external_event(self, name: str, type: type[T], *, timeout: Span | None = None) -> Task[T]: ...
    @overload
    def wait_for_external_event(self, name: str, type: UnionType, *, timeout: Span | None = None) -> Task[Any]: ...

    def wait_for_external_event(self, name: str, type: Any = None, *, timeout: Span | None = None) -> Task[Any]:
        """Wait for an external event; the task gives its data. Events of one name are taken in order, also earlier ones.

        Data that does not fit `type` raises EventDataError where the task is awaited, and the event is consumed. When
        nothing has come within `timeout` (a timedelta, or seconds), awaiting raises TimeoutError.
        """
        execution = self._execution
        execution.check_access()
        check_event_name(name)
        annotation = Any if type is None else type
        due = None if timeout is None else execution.time_us + span_us("timeout", timeout)

        def read(event: ev.EventRaised) -> Any:
            what = f"data of event '{name}'"
            try:
                return self._plans.decode(event.data, annotation, what)
            except MisfitError as error:
                raise EventDataError(str(error)) from error
            except PayloadError as error:
                execution.fail_turn(StoredValueError(f"{what} cannot be read: {error}"))

        return execution.wait_for_event(name, read, due)

    # ---- this orchestration itself

    def patched(self, id: str) -> bool:
        """Tell whether a change in place holds for this generation: True unless it came by here without the change.

        So `if ctx.patched("notify"):` is where a step is added to code that is running. The answer is the same for the whole
        generation and on every replay. Once nothing that began without the change is left, the question may go, and so may
        the old branch. Raises TypeError or ValueError for an id that is no text or empty.
        """
        execution = self._execution
        execution.check_access()
        if not isinstance(id, str):
            raise TypeError(f"the id of a patch is a string, not {id!r:.200}")
        if not id:
            raise ValueError("the id of a patch must not be empty")
        return execution.patched(id)

    def continue_as_new(
        self, input: Any = None, *, carry_over_events: bool = True, version: str | None = None
    ) -> NoReturn:
        """End this generation here; the next one begins with `input` and an empty history.

        Events that nobody has waited for go over, unless `carry_over_events` is false. It runs in the newest version, or
        in `version`. Nothing that the code does after this call counts. Raises InvalidInputError for an input that does
        not fit, LimitExceededError, and ValueError for a bad version: then the generation goes on.
        """
        execution = self._execution
        execution.check_access()
        exact = None if version is None else canonical_version(version)
        plain = self._plans.own(self._definition).encode_input(input)
        for action in tuple(self.before_continuing):
            action()
        execution.continue_as_new(plain, exact, carry_over_events=carry_over_events)

    def set_custom_status(self, value: Any) -> None:
        """Show a value in the instance's state, with the commit of this turn; the last one of a turn wins.

        Plain data up to 64 KiB. Raises TypeError for what is not plain, and LimitExceededError.
        """
        self._execution.check_access()
        payload: bytes | None = None
        if value is not None:
            plain = encode(value, what="custom status", max_bytes=CUSTOM_STATUS_BYTES_MAX)
            payload, _ = self._execution.value(plain)
        self._execution.set_custom_status(payload)

    # ---- behind the requests

    def _check_may_draw(self) -> None:
        self._execution.check_access()
        if self._execution.handlers is not None:
            self._execution.handlers.check_may_ask()

    def _check_depth(self, name: str) -> None:
        depth = self._started.depth + 1
        if depth > CHILD_DEPTH_MAX:
            raise LimitExceededError(f"'{name}' would be a child at depth {depth}, over the limit of {CHILD_DEPTH_MAX}")

    def _refused(self, task_name: str, kind: type[TaskFailedError], name: str, error: Exception) -> Task[Any]:
        """Return the task of a request that fails before it is made."""
        task: Task[Any] = Task(self._execution.loop, task_name)
        task.fail(refusal(kind, error, name, self.instance_id))
        return task
