"""Queries to a run that has ended: nobody has it in memory any more, so whoever asks replays what it left.

That takes its code: a client that was given the app has it. Nothing is written, and no activity runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from durable.client.connection import Connection
from durable.context.handlers import answer_query
from durable.engine.execution import Execution
from durable.engine.loop import run_inside
from durable.errors import InstanceFinishedError
from durable.exchanges import Answer, QueryReceived
from durable.history import History, read_history
from durable.orchestrations import kind_of
from durable.provider import InstanceRow

T = TypeVar("T")

SLICE_S: Final = 0.02
"""How long a replay goes on before it lets the loop do something else."""


async def query_ended(connection: Connection, row: InstanceRow, event: QueryReceived) -> Answer:
    """Answer a query from the history of a run that has ended.

    Raises InstanceFinishedError where the client has no app, UnknownNameError where that lacks the orchestrator, and what a
    replay raises: DivergenceError, StoredValueError, HistoryDamagedError.
    """
    if connection.app is None:
        raise InstanceFinishedError(
            f"instance '{row.key.id}' has ended ({row.status.name}): a query can still be answered from its history, by a "
            "client that has the app: Client(url, app), or worker.client"
        )
    kind = kind_of(row.key)
    runner = kind.make_runner(
        connection.app, kind.find(connection.app, row.name, row.version), connection.sealer, False
    )
    history = await read_history(connection.provider, row.key, row.run_id, sealer=connection.sealer)
    execution = runner.new_execution(row.key, row.run_id, history.generation)
    try:
        await _replay(execution, history)
        answers: list[Answer] = []
        await in_callback(lambda: run_inside(execution.loop, lambda: answers.append(answer_query(execution, event)[0])))
        return answers[0]
    finally:
        await in_callback(execution.close)


async def _replay(execution: Execution, history: History) -> None:
    position = 0
    loop = asyncio.get_running_loop()

    def some() -> None:
        nonlocal position
        until = loop.time() + SLICE_S
        while position < len(history.records) and loop.time() < until:
            execution.feed(history.records[position], len(history.rows[position].data))
            position += 1

    while position < len(history.records):
        await in_callback(some)


async def in_callback(function: Callable[[], T]) -> T:
    """Call a function in a callback of the loop: orchestrator code never runs inside a task."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def call() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 (handed to whoever waits)
            if not done.done():
                done.set_exception(error)
        else:
            if not done.done():
                done.set_result(result)

    loop.call_soon(call)
    return await done
