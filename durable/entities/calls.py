"""What an orchestrator asks of entities: calls and signals."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from durable.context.options import due_us
from durable.context.orchestration import OrchestrationContext
from durable.context.plans import refusal
from durable.engine.execution import Execution
from durable.engine.loop import user_place
from durable.engine.tasks import Task
from durable.entities.events import EntityOperationCalled, EntityOperationFailed, EntityOperationSignaled
from durable.entities.ids import EntityId
from durable.entities.locks import lock_for, lock_of_call
from durable.entities.plans import plan_operation
from durable.errors import EntityOperationFailedError
from durable.events import HistoryEvent
from durable.payloads import PayloadError
from durable.signatures import AnyFunction


class EntityCall:
    """One call of an operation: it is answered once, and never repeated. Given up, the operation is performed all the same."""

    def __init__(
        self,
        execution: Execution,
        title: str,
        make: Callable[[int], EntityOperationCalled],
        read_result: Callable[[bytes | None], Any],
    ) -> None:
        self.task: Task[Any] = Task(execution.loop, f"operation {title}")
        self._execution = execution
        self._title = title
        self._make = make
        self._read_result = read_result

    def begin(self) -> None:
        """Ask for the operation."""
        execution = self._execution
        task_id = execution.new_task_id()
        self.task.task_id = task_id
        execution.open_request(execution.emit(self._make(task_id)), self)
        self.task.when_cancelled(lambda: execution.drop_request(task_id))

    def settle(self, event: HistoryEvent) -> None:
        """Take the answer."""
        if isinstance(event, EntityOperationFailed):
            instance_id = self._execution.key.id
            self.task.fail(EntityOperationFailedError(event.details, task_name=self._title, instance_id=instance_id))
        else:
            self.task.succeed(self._read_result(event.result))  # type: ignore[attr-defined]  # EntityOperationCompleted


def call_entity(
    ctx: OrchestrationContext,
    entity: EntityId[Any],
    operation: AnyFunction | str,
    input: Any,  # noqa: A002
) -> Task[Any]:
    """Do what `OrchestrationContext.call_entity` promises."""
    execution, plans = ctx.execution, ctx.plans
    plan = plan_operation(plans, entity, operation)
    lock = lock_of_call(execution, entity)
    try:
        plain = plan.encode_input(input)
    except (PayloadError, ValueError) as error:
        refused: Task[Any] = Task(execution.loop, f"operation {plan.title}")
        refused.fail(refusal(EntityOperationFailedError, error, plan.title, execution.key.id))
        return refused

    def make(task_id: int) -> EntityOperationCalled:
        payload, digest = execution.value(plain)
        line = "" if execution.is_replaying else user_place()
        return EntityOperationCalled(
            task_id, entity.name, entity.key, plan.operation, payload, digest, lock=lock, line=line
        )

    what = f"recorded result of operation '{plan.title}'"
    annotation = plan.result_annotation
    return execution.call(EntityCall(execution, plan.title, make, lambda stored: plans.read(stored, annotation, what)))


def signal_entity(
    ctx: OrchestrationContext,
    entity: EntityId[Any],
    operation: AnyFunction | str,
    input: Any,  # noqa: A002
    at: datetime | timedelta | None,
) -> None:
    """Do what `OrchestrationContext.signal_entity` promises."""
    execution = ctx.execution
    plan = plan_operation(ctx.plans, entity, operation)
    due = None if at is None else due_us("at", at, execution.time_us)
    plain = plan.encode_input(input)
    if execution.is_over:
        return
    payload, digest = execution.value(plain)
    # What is for later is not asked for in the lock: that may be over by then.
    lock = lock_for(execution, entity) if due is None else None
    line = "" if execution.is_replaying else user_place()
    task_id = execution.new_task_id()
    execution.emit(
        EntityOperationSignaled(
            task_id, entity.name, entity.key, plan.operation, payload, digest, due=due, lock=lock, line=line
        )
    )
