"""Entities: small states with a name, changed by operations that come one at a time.

    ids, definitions, states      which entity, of which class, with which state
    events                        what entities add to histories, and what they send
    program, context              what runs an entity, and what its operations see
    calls, locks                  what an orchestrator asks of entities
    clients                       what a client does with them

An entity is an instance of a kind of its own, beside the orchestrations; all that it needs of the layers below are their
public seams. `register` puts the feature in its places; `durable/__init__` calls it.
"""

from typing import Any

from durable.app import App
from durable.entities import calls, clients, locks
from durable.entities.clients import EntityState
from durable.entities.context import EntityContext
from durable.entities.definitions import SERVED, EntityDefinition, declare, entities_of
from durable.entities.events import (
    EVENTS,
    EntityLockAcquired,
    EntityLockGranted,
    EntityLockLeft,
    EntityLockReceived,
    EntityLockReleased,
    EntityLockRequested,
    EntityOperationCalled,
    EntityOperationCompleted,
    EntityOperationFailed,
    EntityOperationPerformed,
    EntityOperationReceived,
    EntityOperationSignaled,
    register_events,
)
from durable.entities.ids import KIND, EntityId
from durable.entities.locks import CriticalSection
from durable.entities.program import EntityRunner
from durable.features import register_feature
from durable.orchestrations import InstanceKind, register_kind

__all__ = [
    "EVENTS",
    "KIND",
    "CriticalSection",
    "EntityContext",
    "EntityId",
    "EntityLockAcquired",
    "EntityLockGranted",
    "EntityLockLeft",
    "EntityLockReceived",
    "EntityLockReleased",
    "EntityLockRequested",
    "EntityOperationCalled",
    "EntityOperationCompleted",
    "EntityOperationFailed",
    "EntityOperationPerformed",
    "EntityOperationReceived",
    "EntityOperationSignaled",
    "EntityState",
    "register",
]


class _Methods:
    """What stands behind the feature's methods on `App`, `Client` and the orchestrator's context."""

    declare = staticmethod(declare)
    call_entity = staticmethod(calls.call_entity)
    signal_entity = staticmethod(calls.signal_entity)
    lock = staticmethod(locks.lock)
    send_signal = staticmethod(clients.signal_entity)
    get_entity = staticmethod(clients.get_entity)
    query_entities = staticmethod(clients.query_entities)
    read_history = staticmethod(clients.entity_history)
    read_dropped = staticmethod(clients.entity_dropped)


def _find(app: App, name: str, version: str | None) -> EntityDefinition:
    return entities_of(app).find(name)


def _runner(app: App, definition: EntityDefinition, sealer: Any, strict: bool) -> EntityRunner:
    return EntityRunner(app, definition, sealer, strict)


def register() -> None:
    """Make entities known to the layers below."""
    register_events()
    register_kind(KIND, InstanceKind(SERVED, _find, _runner))
    register_feature("entities", _Methods)
