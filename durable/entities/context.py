"""What an operation sees of the world: `EntityContext`.

What an operation asks for is kept here until it has returned, and forgotten if it raises: an operation is all or nothing.
"""

# ruff: noqa: A002 (`input` is a name of the public interface)

from __future__ import annotations

import dataclasses
import logging
import uuid
from collections.abc import Callable, Coroutine, Generator
from datetime import datetime, timedelta
from random import Random
from typing import Any, ClassVar, TypeVar, Unpack, overload

from durable import events as ev
from durable.context.logger import ReplayLogger
from durable.context.options import StartOptions, due_us, from_us
from durable.context.orchestration import OrchestrationContext
from durable.context.plans import Plans
from durable.context.starts import recorded_version, start_request
from durable.engine.execution import Execution
from durable.engine.loop import user_place
from durable.entities.events import EntityOperationSignaled
from durable.entities.ids import EntityId
from durable.entities.plans import plan_operation
from durable.errors import DurableError
from durable.ids import check_instance_id
from durable.signatures import AnyFunction

I = TypeVar("I")  # noqa: E741 (the input, as in the interface's own text)
R = TypeVar("R")

Ask = Callable[[], object]


@dataclasses.dataclass(slots=True)
class Doing:
    """One operation while it is performed. `number`: its place among those of the generation."""

    number: int
    asked: list[Ask] = dataclasses.field(default_factory=list)
    deletes_state: bool = False
    is_over: bool = False


class EntityContext:
    """The context of an operation; its first parameter, where it takes one. Of use until the operation has returned."""

    __durable_activity_context__: ClassVar[bool] = True

    def __init__(self, execution: Execution, plans: Plans, entity: EntityId[Any], doing: Doing) -> None:
        self._execution = execution
        self._plans = plans
        self._entity = entity
        self._doing = doing

    def __repr__(self) -> str:
        return f"<EntityContext of '{self._entity}'>"

    @property
    def id(self) -> EntityId[Any]:
        """The entity itself."""
        return self._entity

    @property
    def current_utc_datetime(self) -> datetime:
        """The time of this turn. Aware, in UTC; it never decreases."""
        self._check()
        return from_us(self._execution.time_us)

    @property
    def random(self) -> Random:
        """A random generator of which a replay of the entity's history draws the same numbers."""
        self._check()
        return self._execution.seeds.stream(f"random of operation {self._doing.number}")

    def new_uuid(self) -> uuid.UUID:
        """Return a UUID (version 4 in form) that is different from any other."""
        return uuid.UUID(int=self.random.getrandbits(128), version=4)

    @property
    def logger(self) -> logging.Logger:
        """A logger whose records carry `instance_id` and `run_id`."""
        self._check()
        return ReplayLogger(f"durable.entity.{self._entity.name}", self._execution)

    def delete_state(self) -> None:
        """Delete the entity's state as soon as the operation has returned, whatever it sets before or after this call.

        An entity without a state disappears; its next operation begins with a fresh one.
        """
        self._check()
        self._doing.deletes_state = True

    def signal_entity(
        self,
        entity: EntityId[Any],
        operation: AnyFunction | str,
        input: Any = None,
        *,
        at: datetime | timedelta | None = None,
    ) -> None:
        """Signal an operation of an entity, also of this one, with the commit of this operation. Nobody waits for it.

        `at`: an aware datetime, or a timedelta from now. Raises InvalidInputError for an input that does not fit,
        LimitExceededError, UnknownNameError for a method of another class, and ValueError for a naive `at`.
        """
        execution = self._check()
        plan = plan_operation(self._plans, entity, operation)
        due = None if at is None else due_us("at", at, execution.time_us)
        plain = plan.encode_input(input)
        line = "" if execution.is_replaying else user_place()

        def ask() -> None:
            payload, digest = execution.value(plain)
            task_id = execution.new_task_id()
            execution.emit(
                EntityOperationSignaled(
                    task_id, entity.name, entity.key, plan.operation, payload, digest, due, None, line
                )
            )

        self._doing.asked.append(ask)

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
        orchestrator: AnyFunction | str,
        input: Any = None,
        *,
        instance_id: str | None = None,
        at: datetime | timedelta | None = None,
    ) -> str:
        """Start an orchestration with the commit of this operation; return its instance id. Nobody waits for it.

        If the id is in use by then, nothing is started, which is noted and logged. Raises as `ctx.start_orchestration` of an
        orchestrator does.
        """
        execution = self._check()
        plan = self._plans.orchestrator(orchestrator, None)
        if instance_id is not None:
            check_instance_id(instance_id)
        start_at = None if at is None else due_us("at", at, execution.time_us)
        plain = plan.encode_input(input)
        started_id = instance_id or execution.derived_id("operation", self._doing.number, len(self._doing.asked))
        line = "" if execution.is_replaying else user_place()

        def make(task_id: int) -> ev.SubOrchestrationScheduled:
            version = recorded_version(execution, plan, plan.version)
            return start_request(
                execution,
                plan,
                version,
                started_id,
                plain,
                task_id,
                line=line,
                is_detached=True,
                start_at=start_at,
            )

        self._doing.asked.append(lambda: execution.start_detached(make))
        return started_id

    def _check(self) -> Execution:
        if self._doing.is_over:
            raise DurableError(
                f"the context of an operation of '{self._entity}' was used after the operation had returned: a context is "
                "only for the operation that it was made for"
            )
        self._execution.check_access()
        return self._execution
