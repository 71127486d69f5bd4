"""What the tests of an instance's life share: orchestrators in both styles, waiting for a condition, and a store that lives on.

Nothing here sleeps: a condition is awaited through `watch`, or by looking again until a deadline that a failure names.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import durable_memory.provider

from durable import (
    App,
    Client,
    Handle,
    Orchestration,
    OrchestrationContext,
    OrchestrationState,
    OrchestrationStatus,
    Worker,
)
from durable.events import InstanceKey
from durable.ports import system_ports
from durable.provider import Lease, Provider, RecordRow
from durable.stores import connect
from tests.postgres_server import run_sql

STYLES = ("async", "generator")


PATIENCE_S = 15.0

FINISHED = (
    OrchestrationStatus.COMPLETED,
    OrchestrationStatus.FAILED,
    OrchestrationStatus.CANCELLED,
    OrchestrationStatus.TERMINATED,
)


def is_cached() -> bool:
    """Tell whether the workers of this test keep instances; else each turn replays, and tests of many turns take fewer."""
    defaults: dict[str, Any] = inspect.unwrap(Worker.__init__).__kwdefaults__
    return bool(defaults["max_cached_orchestrations"])


def lives_app() -> App:
    """The usual programs; each is registered as `NAME-async` and `NAME-generator`."""
    app = App()

    @app.activity
    async def echo(value: Any) -> Any:
        return value

    @app.orchestrator(name="returns-async")
    async def returns_async(ctx: OrchestrationContext, value: Any = None) -> Any:
        return value

    @app.orchestrator(name="returns-generator")
    def returns(ctx: OrchestrationContext, value: Any = None) -> Orchestration[Any]:
        return value
        yield

    @app.orchestrator(name="waits-async")
    async def waits_async(ctx: OrchestrationContext, value: Any = None) -> Any:
        """Gives its input and the data of the event `go`."""
        ctx.set_custom_status("waiting")
        return [value, await ctx.wait_for_external_event("go")]

    @app.orchestrator(name="waits-generator")
    def waits(ctx: OrchestrationContext, value: Any = None) -> Orchestration[Any]:
        ctx.set_custom_status("waiting")
        return [value, (yield ctx.wait_for_external_event("go"))]

    @app.orchestrator(name="raises-async")
    async def raises_async(ctx: OrchestrationContext, text: str) -> None:
        raise ValueError(text)

    @app.orchestrator(name="raises-generator")
    def raises(ctx: OrchestrationContext, text: str) -> Orchestration[None]:
        raise ValueError(text)
        yield

    @app.orchestrator(name="collects-async")
    async def collects_async(ctx: OrchestrationContext, count: int) -> list[Any]:
        """Gives the data of so many events `item`."""
        found = []
        for _ in range(count):
            found.append(await ctx.wait_for_external_event("item"))
            ctx.set_custom_status(len(found))
        return found

    @app.orchestrator(name="collects-generator")
    def collects(ctx: OrchestrationContext, count: int) -> Orchestration[list[Any]]:
        found = []
        for _ in range(count):
            found.append((yield ctx.wait_for_external_event("item")))
            ctx.set_custom_status(len(found))
        return found

    return app


async def until(
    handle: Handle[Any], *statuses: OrchestrationStatus, status: Any = ..., within_s: float = PATIENCE_S
) -> OrchestrationState:
    """Wait until an instance has one of these statuses, or this custom status; return that state."""
    state: OrchestrationState | None = None
    try:
        async with asyncio.timeout(within_s):
            async with contextlib.aclosing(handle.watch()) as states:
                async for state in states:
                    if state.status in statuses or (status is not ... and state.custom_status == status):
                        return state
    except TimeoutError:
        pass
    raise AssertionError(f"awaited {statuses or status!r}, but it stands at {state}")


async def becomes_true(condition: Callable[[], Any], within_s: float = PATIENCE_S) -> None:
    """Look again and again, until a plain or an async condition holds."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return
        assert asyncio.get_running_loop().time() < deadline, f"{condition} never held"
        await asyncio.sleep(0.005)


async def raises_soon(kind: type[BaseException], awaitable: Awaitable[Any]) -> Any:
    """Return the exception of that kind that an awaitable raises."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            await awaitable
    except kind as error:
        return error
    raise AssertionError(f"nothing was raised, {kind} was expected")


def names_of(history: Any) -> list[str]:
    return [type(event).__name__ for event in history]


@contextlib.asynccontextmanager
async def provider_of(store_url: str) -> AsyncIterator[Provider]:
    """The store's own interface, beside the workers and clients that use it."""
    provider = connect(store_url, system_ports())
    await provider.open()
    try:
        yield provider
    finally:
        await provider.close()


async def rob(provider: Provider) -> Lease:
    """Take all partitions away from whoever has them, and give the thief's lease up again; return it."""
    lease = await provider.lease("thief", b"", worker=True)
    await provider.take(lease, range(64), from_live=True)
    await provider.release(lease)
    return lease


class Damage:
    """Reaches below the contract, to where the records of a store lie."""

    def __init__(self, store_url: str) -> None:
        self._url = store_url

    def read(self, run_id: str, generation: int = 0) -> dict[int, bytes]:
        """The records of a generation, by index."""
        if self._url.startswith("memory"):
            return {index: record.data for index, record in self._memory(run_id, generation).items()}
        if self._url.startswith("postgresql"):
            found = self._postgres("SELECT record, data FROM {history} WHERE {its}", run_id, generation)
            return dict(found)
        with self._database() as database:
            found = database.execute(
                "SELECT record, data FROM history WHERE run_id = ? AND generation = ?", (run_id, generation)
            )
            return dict(found.fetchall())

    def write(self, run_id: str, records: dict[int, bytes], generation: int = 0) -> None:
        """Put these in the place of the stored ones, whose checksums stay; those that are not given are removed."""
        if self._url.startswith("memory"):
            stored = self._memory(run_id, generation)
            for index in list(stored):
                if index in records:
                    stored[index] = RecordRow(index, records[index], stored[index].checksum)
                else:
                    del stored[index]
            return
        if self._url.startswith("postgresql"):
            kept = list(records)
            self._postgres("DELETE FROM {history} WHERE {its} AND record <> ALL ($3)", run_id, generation, kept)
            for index in kept:
                change = "UPDATE {history} SET data = $4 WHERE {its} AND record = $3"
                self._postgres(change, run_id, generation, index, records[index])
            return
        with self._database() as database:
            for index in self.read(run_id, generation):
                place = (run_id, generation, index)
                if index in records:
                    change = "UPDATE history SET data = ? WHERE run_id = ? AND generation = ? AND record = ?"
                    database.execute(change, (records[index], *place))
                else:
                    database.execute("DELETE FROM history WHERE run_id = ? AND generation = ? AND record = ?", place)

    def _postgres(self, statement: str, *values: object) -> list[Any]:
        sql = statement.format(history="durable_default.history", its="run_id = $1 AND generation = $2")
        return run_sql(self._url, sql, values=values)

    def _memory(self, run_id: str, generation: int) -> dict[int, RecordRow]:
        name = self._url.removeprefix("memory://")
        return durable_memory.provider._shared[name, "default"]._records[run_id, generation]

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._url.removeprefix("sqlite:///"), isolation_level=None)
        try:
            yield database
        finally:
            database.close()


def key_of(handle: Handle[Any]) -> InstanceKey:
    return InstanceKey(handle.instance_id)


class Errors(logging.Handler):
    """The records of level ERROR and above that name an instance."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record)

    def of(self, instance_id: str) -> list[str]:
        return [r.getMessage() for r in self.found if getattr(r, "instance_id", None) == instance_id]


@contextlib.contextmanager
def errors_logged() -> Iterator[Errors]:
    """Collect what is logged as an error under `durable`."""
    handler = Errors()
    logger = logging.getLogger("durable")
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)


@contextlib.asynccontextmanager
async def open_store(store_url: str, app: App | None = None) -> AsyncIterator[Client]:
    """A client that stays while workers come and go; a memory store would be gone with its last user."""
    async with Client(store_url, app) as client:
        yield client


def delay_commits(worker: Any, seconds: float) -> None:
    """Let each commit of a worker wait a moment, so that what comes meanwhile comes in between."""
    commit = worker._provider.commit

    async def late_commit(*arguments: Any) -> Any:
        await asyncio.sleep(seconds)
        return await commit(*arguments)

    worker._provider.commit = late_commit
