"""Asking a running orchestration: queries and updates."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from durable import payloads
from durable.client.connection import Connection
from durable.client.ended import query_ended
from durable.errors import (
    InstanceFinishedError,
    InvalidInputError,
    QueryFailedError,
    UnknownNameError,
    UpdateFailedError,
    UpdateRejectedError,
)
from durable.events import HistoryEvent, InstanceKey
from durable.exchanges import Answer, AnswerKind, QueryReceived, UpdateReceived
from durable.ids import check_event_name
from durable.provider import InstanceRow, Status

QUERY_SECONDS_MAX: Final = 30.0
"""How long the answer to a query is waited for: a worker may be about to start, or have to replay a long history."""


async def query(connection: Connection, key: InstanceKey, run_id: str | None, name: str, arg: Any) -> Any:
    """Do what `Handle.query` promises."""
    argument = _argument(connection, f"query '{check_event_name(name)}'", arg)
    event = QueryReceived(connection.answers.new_id(), name, argument)
    found = await _ask(connection, key, run_id, event, event.query_id, QUERY_SECONDS_MAX)
    if isinstance(found, InstanceRow):
        found = await query_ended(connection, found, event)
    what = f"query '{name}' of '{key.id}'"
    if found.kind is AnswerKind.FAILURE:
        assert found.details is not None, "a failure says what it was"
        raise QueryFailedError(what, found.details)
    if found.kind is not AnswerKind.RESULT:
        raise (UnknownNameError if found.kind is AnswerKind.UNKNOWN else InvalidInputError)(found.text)
    return _value(connection, found, what)


async def update(
    connection: Connection, key: InstanceKey, run_id: str | None, name: str, arg: Any, seconds: float | None
) -> Any:
    """Do what `Handle.update` promises."""
    argument = _argument(connection, f"update '{check_event_name(name)}'", arg)
    event = UpdateReceived(connection.answers.new_id(), name, argument)
    found = await _ask(connection, key, run_id, event, event.update_id, seconds)
    if isinstance(found, InstanceRow):
        raise InstanceFinishedError(
            f"instance '{key.id}' has ended ({found.status.name}), and did not take update '{name}'"
        )
    if found.kind is AnswerKind.FAILURE:
        assert found.details is not None, "as above"
        raise UpdateFailedError(f"update '{name}' of '{key.id}'", found.details)
    if found.kind is not AnswerKind.RESULT:
        raise UpdateRejectedError(found.text)
    return _value(connection, found, f"update '{name}' of '{key.id}'")


def _argument(connection: Connection, what: str, arg: Any) -> bytes | None:
    return None if arg is None else connection.sealer.seal(payloads.check(arg, what=f"argument of {what}"))


def _value(connection: Connection, answer: Answer, what: str) -> Any:
    if answer.value is None:
        return None
    return payloads.decode(connection.sealer.unseal(answer.value), what=f"answer to {what}", strict_size=False)


async def _ask(
    connection: Connection,
    key: InstanceKey,
    run_id: str | None,
    event: HistoryEvent,
    asked_id: str,
    seconds: float | None,
) -> Answer | InstanceRow:
    """Send a question to a run, None: the current one, and wait for the answer; return its row where it ended without one.

    Questions of one client to one instance are sent in the order of the calls.
    """
    try:
        async with asyncio.timeout(seconds):
            while True:
                asked = run_id or await connection.answers.current_run(key)
                try:
                    with connection.answers.expect((key, asked), asked_id) as waiting:
                        await connection.send(key, [event], run_id=asked)
                        return await waiting.future
                except InstanceFinishedError:
                    row = await connection.load(key, run_id)
                    if row.run_id == asked:
                        return row
    except TimeoutError:
        told = _standing(await connection.load(key, run_id), seconds)
    is_done_later = isinstance(event, UpdateReceived)
    raise TimeoutError(f"{told}. The update is stored, and is carried out all the same" if is_done_later else told)


_STANDING: Final[dict[Status, str]] = {
    Status.STALLED: "it is STALLED",
    Status.SUSPENDED: "it is SUSPENDED; an update waits until it is resumed",
    Status.PENDING: "it is PENDING: it has not begun, or no worker runs",
}


def _standing(row: InstanceRow, seconds: float | None) -> str:
    """Say where an instance stands that has not answered in time."""
    told = _STANDING.get(row.status, f"it is {row.status.name}, and perhaps no worker runs")
    reason = f": {row.stall_reason}" if row.stall_reason else ""
    return f"'{row.key.id}' has not answered after {seconds:g} s: {told}{reason}"
