"""What an orchestrator asks of entities, as methods of its context. What they do is the feature's; here are their types."""

# ruff: noqa: A002 (`input` is a name of the public interface)

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, overload

from durable.engine.tasks import Task
from durable.features import feature

if TYPE_CHECKING:
    from durable.entities.context import EntityContext
    from durable.entities.ids import EntityId
    from durable.entities.locks import LockTask

EC = TypeVar("EC", bound="EntityContext")
I = TypeVar("I")  # noqa: E741 (the input, as in the interface's own text)
R = TypeVar("R")


class EntityMethods:
    """The part of `OrchestrationContext` that is about entities."""

    @overload
    def call_entity(
        self, entity: EntityId[Any], operation: Callable[[Any], Coroutine[Any, Any, R]], input: None = None
    ) -> Task[R]: ...
    @overload
    def call_entity(self, entity: EntityId[Any], operation: Callable[[Any], R], input: None = None) -> Task[R]: ...
    @overload
    def call_entity(
        self, entity: EntityId[Any], operation: Callable[[Any, EC], Coroutine[Any, Any, R]], input: None = None
    ) -> Task[R]: ...
    @overload
    def call_entity(self, entity: EntityId[Any], operation: Callable[[Any, EC], R], input: None = None) -> Task[R]: ...
    @overload
    def call_entity(
        self, entity: EntityId[Any], operation: Callable[[Any, I], Coroutine[Any, Any, R]], input: I
    ) -> Task[R]: ...
    @overload
    def call_entity(self, entity: EntityId[Any], operation: Callable[[Any, I], R], input: I) -> Task[R]: ...
    @overload
    def call_entity(
        self, entity: EntityId[Any], operation: Callable[[Any, EC, I], Coroutine[Any, Any, R]], input: I
    ) -> Task[R]: ...
    @overload
    def call_entity(self, entity: EntityId[Any], operation: Callable[[Any, EC, I], R], input: I) -> Task[R]: ...
    @overload
    def call_entity(self, entity: EntityId[Any], operation: str, input: Any = None) -> Task[Any]: ...

    def call_entity(self, entity: EntityId[Any], operation: Callable[..., Any] | str, input: Any = None) -> Task[Any]:
        """Call an operation of an entity; the task gives its result, or raises EntityOperationFailedError.

        The operation is given by name, or as a method of the class: then its types count. It is performed once, after all
        that reached the entity before, also if the task is cancelled meanwhile. An input that does not fit fails the task.
        Raises UnknownNameError for a method of another class, and CriticalSectionError inside of a critical section for an
        entity that is not locked there.
        """
        task: Task[Any] = feature("entities").call_entity(self, entity, operation, input)
        return task

    def signal_entity(
        self,
        entity: EntityId[Any],
        operation: Callable[..., Any] | str,
        input: Any = None,
        *,
        at: datetime | timedelta | None = None,
    ) -> None:
        """Signal an operation of an entity, with the commit of this turn. Nobody waits for it, and nobody hears of its failure.

        `at`: an aware datetime, or a timedelta from now. Raises InvalidInputError for an input that does not fit,
        LimitExceededError, UnknownNameError for a method of another class, and ValueError for a naive `at`.
        """
        feature("entities").signal_entity(self, entity, operation, input, at)

    def lock(self, *entities: EntityId[Any]) -> LockTask:
        """Lock entities for a critical section: `async with ctx.lock(a, b):`, or `with (yield ctx.lock(a, b)):`.

        Inside of it they serve nobody else, in this orchestration and in others; what it asks of them itself is served at
        once. The locks are released when the section is left, however that is, and whenever the run ends or continues as
        new. Several are acquired in one order for everybody, so that sections cannot block each other. Raises ValueError for
        no entities, and CriticalSectionError inside of another section.
        """
        task: LockTask = feature("entities").lock(self, entities)
        return task
