"""What can be known of an operation before it is asked for: what its input must be, and what its result is made by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from durable.app import App
from durable.context.plans import Plan, Plans
from durable.entities.definitions import EntityDefinition, OperationDefinition, definition_of, entities_of, operation_of
from durable.entities.ids import EntityId
from durable.events import ActivityOptions
from durable.signatures import AnyFunction


@dataclasses.dataclass(frozen=True, slots=True)
class OperationPlan:
    """An operation of an entity as somebody asks for it. `title`: for people, as `Counter.add`."""

    operation: str
    title: str
    encode_input: Callable[[Any], bytes | None]
    result_annotation: Any


def check_entity_id(entity: EntityId[Any]) -> EntityId[Any]:
    """Return what must be an entity's id. Raises TypeError for anything else."""
    if not isinstance(entity, EntityId):
        raise TypeError(f"an entity is meant by its id, EntityId(Class, key), not by {entity!r:.200}")
    return entity


def known_definition(app: App | None, entity: EntityId[Any]) -> EntityDefinition | None:
    """Return what is known of an entity here: by the app, or by the class that its id was made with; None for nothing."""
    check_entity_id(entity)
    known = entities_of(app).get(entity.name) if app is not None else None
    if known is not None or entity.entity_class is None:
        return known
    return definition_of(entity.entity_class)


def plan_operation(
    plans: Plans | None, entity: EntityId[Any], operation: AnyFunction | str, *, app: App | None = None
) -> OperationPlan:
    """Return what asking for an operation means. Raises TypeError for what is no entity or operation, UnknownNameError."""
    definition = known_definition(plans.app if plans is not None else app, entity)
    name, found = operation_of(operation, definition, entity.name)
    title = f"{entity.name}.{name}"
    plan = Plan(
        name=title,
        version=None,
        definition=found,
        function=found is not None,
        retry_policy=None,
        options=ActivityOptions(),
        what_input=f"input of operation '{title}'",
        read_result=_never_read,
    )
    return OperationPlan(name, title, plan.encode_input, _result_annotation(found))


def _result_annotation(found: OperationDefinition | None) -> Any:
    return Any if found is None else found.result_annotation


def _never_read(stored: Any) -> Any:
    raise AssertionError("results are read by whoever waits for them")
