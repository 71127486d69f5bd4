"""Beginning again, from a client's side: the one message by which a run is started from an earlier one."""

from __future__ import annotations

from durable.client.connection import Connection
from durable.client.starting import Target, start_message
from durable.client.states import state_of
from durable.errors import InstanceAlreadyExistsError, InstanceRunningError
from durable.events import InstanceKey
from durable.ids import check_instance_id
from durable.model import ReusePolicy
from durable.provider import InstanceRow, Message, Verdict
from durable.versions import canonical_version


async def restart(
    connection: Connection, row: InstanceRow, new_id: str | None, version: str | None
) -> tuple[InstanceKey, str]:
    """Start a run with the input and tags of an earlier one; return its key and run id. Raises as `Handle.restart`."""
    key = row.key if new_id is None else InstanceKey(check_instance_id(new_id), row.key.kind)
    run_id = connection.ports.new_id()
    message = start_message(
        key,
        connection.partitions,
        run_id,
        Target(row.name, None if version is None else canonical_version(version)),
        row.input,
        now=await connection.clock.now(connection.provider),
        tags=row.tags,
        reuse_policy=ReusePolicy.REPLACE_FINISHED if key == row.key else ReusePolicy.REJECT,
    )
    await begin(connection, message, run_id, is_same=key == row.key)
    return key, run_id


async def begin(connection: Connection, message: Message, run_id: str, *, is_same: bool) -> None:
    """Submit a start; raise why it was not stored. `is_same`: it is to take the place of a finished run of its own id."""
    key = message.target
    delivery = await connection.submitter.submit(message)
    if delivery.verdict is Verdict.STORED:
        return
    if delivery.verdict not in (Verdict.EXISTS, Verdict.ADOPTED):
        connection.refuse(delivery, key)
    row = delivery.row
    if row is None:  # the answer to a repeated batch may lack it
        (row,) = await connection.provider.load([(key, None)])
    if row is not None and row.run_id == run_id:
        return  # it was stored by an earlier try, whose answer was lost
    status = "" if row is None else f" and is {row.status.name}"
    if is_same:
        raise InstanceRunningError(
            f"instance '{key.id}' exists{status}: it can begin again once it has ended, or at once under a new id"
        )
    state = None if row is None else state_of(row, connection.sealer)
    raise InstanceAlreadyExistsError(f"instance '{key.id}' exists{status}: choose another id", state)
