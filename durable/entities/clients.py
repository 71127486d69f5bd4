"""What clients do with entities: signal them, look at them. No worker is needed for either."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from durable import payloads
from durable.client.connection import Connection
from durable.client.filters import check_limit, check_text
from durable.client.purging import rows_of
from durable.client.states import dropped_of
from durable.client.times import due_time, microseconds_of
from durable.entities.definitions import EntityDefinition, definition_of, entities_of
from durable.entities.events import received
from durable.entities.ids import KIND, EntityId, entity_id_of, failures_of
from durable.entities.plans import check_entity_id, known_definition, plan_operation
from durable.errors import DurableError, InstanceNotFoundError
from durable.history import History, read_history, utc_datetime
from durable.messages import beginning_message, encode_arrivals
from durable.model import DroppedItem
from durable.provider import InstanceFilter, InstanceRow, Message, Status, Verdict, partition_of
from durable.signatures import AnyFunction

if TYPE_CHECKING:
    from durable.client import Client

logger = logging.getLogger("durable.client")

E_co = TypeVar("E_co", covariant=True)


@dataclasses.dataclass(frozen=True, slots=True)
class EntityState(Generic[E_co]):
    """An entity as it was at one moment. Times are aware, in UTC.

    `state` is an object of the entity's class, with its fields as they were; changing it changes nothing else. It is a dict
    of plain data where the client has no app and the id names no class. `stall_reason`: why the entity does not go on, as
    where no worker has its class; then `state` is None if it never had any. None: it goes on.
    """

    id: EntityId[E_co]
    state: E_co
    created_at: datetime
    last_updated_at: datetime
    stall_reason: str | None = None


async def signal_entity(
    client: Client,
    entity: EntityId[Any],
    operation: AnyFunction | str,
    input: Any,  # noqa: A002
    at: datetime | timedelta | None,
) -> None:
    """Do what `Client.signal_entity` promises."""
    connection = client.connection
    plan = plan_operation(None, entity, operation, app=connection.app)
    plain = plan.encode_input(input)
    payload = None if plain is None else connection.sealer.seal(plain)
    now = await connection.clock.now(connection.provider)
    due = None if at is None else max(due_time(at, now), 0)
    key, event = entity.instance_key, received(plan.operation, payload)
    begins = dataclasses.replace(event, due=due)
    message = Message(
        target=key,
        partition=partition_of(key, connection.partitions),
        data=encode_arrivals([event]),
        visible_at=0 if due is None else due,
        otherwise=beginning_message(
            key, connection.partitions, connection.ports.new_id(), entity.name, begins, now=now
        ),
    )
    delivery = await connection.submit("signal_entity", message)
    if delivery.verdict not in (Verdict.STORED, Verdict.ABSENT, Verdict.FINISHED):  # the last two: it has begun
        connection.refuse(delivery, key)


async def get_entity(client: Client, entity: EntityId[E_co]) -> EntityState[E_co] | None:
    """Do what `Client.get_entity` promises."""
    connection = client.connection
    definition = known_definition(connection.app, entity)
    try:
        row = await connection.load(entity.instance_key, None)
    except InstanceNotFoundError:
        return None
    plain = _plain_state(row, connection)
    if plain is None:
        return _state_of(entity, row, None) if row.status is Status.STALLED else None
    return _state_of(entity, row, _made(plain, definition, row))


async def query_entities(
    client: Client,
    entity: type[Any] | str | None,
    *,
    prefix: str | None = None,
    updated_after: datetime | None = None,
    updated_before: datetime | None = None,
    limit: int | None = None,
    newest_first: bool = True,
) -> AsyncGenerator[EntityState[Any], None]:
    """Do what `Client.query_entities` promises."""
    check_limit(limit)
    connection = client.connection
    name: Any = entity
    given: EntityDefinition | None = None
    if isinstance(entity, type):
        given = definition_of(entity)
        name = given.name
    after = None if updated_after is None else microseconds_of(updated_after, "updated_after")
    before = None if updated_before is None else microseconds_of(updated_before, "updated_before")
    wanted = InstanceFilter(kind=KIND, name=check_text(name, "entity"), prefix=check_text(prefix, "prefix") or None)
    rows = rows_of(connection.provider, wanted, newest_first=newest_first)
    left = limit
    async with contextlib.aclosing(rows):
        while left is None or left > 0:
            row = await anext(rows, None)
            if row is None:
                return
            entity_id = entity_id_of(row.key)
            is_wanted = prefix is None or entity_id.key.startswith(prefix)
            is_wanted = is_wanted and (after is None or row.updated_at >= after)
            if not is_wanted or (before is not None and row.updated_at >= before):
                continue
            plain = _plain_state(row, connection)
            if plain is None:
                continue
            known = None if connection.app is None else entities_of(connection.app).get(entity_id.name)
            yield _state_of(entity_id, row, _listed(plain, known or given, row))
            left = None if left is None else left - 1


async def entity_history(client: Client, entity: EntityId[Any]) -> History:
    """Do what `Client.entity_history` promises."""
    connection = client.connection
    return await read_history(connection.provider, check_entity_id(entity).instance_key, sealer=connection.sealer)


async def entity_dropped(client: Client, entity: EntityId[Any]) -> list[DroppedItem]:
    """Do what `Client.entity_dropped` promises."""
    provider, key = client.connection.provider, check_entity_id(entity).instance_key
    signals = await dropped_of(provider, failures_of(key))  # one of which the state is gone may have had some
    (row,) = await provider.load([(key, None)])
    if row is None and not signals:
        raise InstanceNotFoundError(
            f"there is no entity '{entity}', and nothing is known of a signal of it that has failed"
        )
    others = [] if row is None else await dropped_of(provider, row.run_id)
    return sorted([*signals, *others], key=lambda item: item.timestamp)


def _plain_state(row: InstanceRow, connection: Connection) -> bytes | None:
    if row.custom_status is None or row.status.is_finished:
        return None
    return connection.sealer.unseal(row.custom_status)


def _made(plain: bytes, definition: EntityDefinition | None, row: InstanceRow) -> Any:
    if definition is not None:
        return definition.form.decode(plain)
    return payloads.decode(plain, what=f"state of entity '{row.key.id}'", strict_size=False)


def _listed(plain: bytes, definition: EntityDefinition | None, row: InstanceRow) -> Any:
    """Return a state for a listing, which one that does not fit today's class must not end."""
    try:
        return _made(plain, definition, row)
    except DurableError as error:
        logger.warning("entity '%s' is shown as plain data: %s", row.key.id, error, extra={"instance_id": row.key.id})
        return _made(plain, None, row)


def _state_of(entity: EntityId[Any], row: InstanceRow, state: Any) -> EntityState[Any]:
    times = utc_datetime(row.created_at), utc_datetime(row.updated_at)
    return EntityState(entity, state, *times, row.stall_reason if row.status is Status.STALLED else None)
