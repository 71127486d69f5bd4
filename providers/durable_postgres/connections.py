"""Connections to the server: a few for the work, two for long reads, opened when they are needed and kept.

A call is one statement that commits by itself: nothing is ever open between two round trips, so that a worker that stops in
the middle holds no lock, and a connection can be given to the next caller as it is.

What fails because others were at work (serialization, deadlock) or because the server went away is tried again here, for
RETRY_S_MAX; every call of the contract may be repeated. A connection on which something unexpected happened is not used again.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import asyncpg

from durable.errors import StoreError
from durable_postgres.failures import Failure, failure_of, store_error, unavailable

logger = logging.getLogger("durable.postgres")

T = TypeVar("T")
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

CONNECT_S_MAX = 5.0
CALL_S_MAX = 30.0
"""A call without an answer for so long is taken for lost: the network may have swallowed it."""

SLOW_CALL_S_MAX = 120.0
"""For long reads: counting millions of rows takes its time."""

RETRY_S_MAX = 10.0
"""How long a call is tried again: longer than a server needs to start again, and as long as a lease lasts."""

PAUSE_S_FIRST = 0.01
PAUSE_S_MAX = 0.5

IDLE_S_MAX = 300.0
"""A connection that nobody has needed for so long is closed."""

SLOW_CONNECTIONS_MAX = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """Where the server is. `name` may be shown; `is_pooled`: behind a pooler that keeps nothing between transactions."""

    dsn: str
    name: str
    is_pooled: bool
    connections_max: int

    async def connect(self) -> Connection:
        """Return a new connection."""
        connection: Connection = await asyncpg.connect(
            self.dsn,
            timeout=CONNECT_S_MAX,
            statement_cache_size=0 if self.is_pooled else 100,
            max_cached_statement_lifetime=0,
            server_settings=None if self.is_pooled else {"application_name": "durable"},
        )
        return connection


class Lane:
    """Up to so many connections, each used by one call at a time, the one used last first."""

    def __init__(self, address: Address, connections_max: int, timeout: float) -> None:
        self._address = address
        self._connections_max = connections_max
        self._timeout = timeout
        self._idle: list[tuple[Connection, float]] = []
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()
        self._count = 0
        self._is_closed = False

    async def fetch(
        self, statement: str, *values: Any, late: Callable[[], Sequence[Any]] | None = None
    ) -> Sequence[asyncpg.Record]:
        """Run one statement on a connection; raise what the driver raises. `late` is asked for the last values just then."""
        connection = await self._acquire()
        is_sound = False
        try:
            if late is not None:
                values = (*values, *late())
            records = await connection.fetch(statement, *values, timeout=self._timeout)
            is_sound = True
            return records
        except Exception as error:
            is_sound = failure_of(error) is not Failure.NO_ANSWER
            raise
        finally:
            self._give_back(connection, is_sound=is_sound)

    async def use(self, function: Callable[[Connection], Awaitable[T]]) -> T:
        """Let `function` have a connection to itself, for more than one statement."""
        connection = await self._acquire()
        is_sound = False
        try:
            async with asyncio.timeout(self._timeout):
                answer = await function(connection)
            is_sound = True
            return answer
        finally:
            self._give_back(connection, is_sound=is_sound)

    async def close(self) -> None:
        """Close all connections; those in use when they come back."""
        self._is_closed = True
        idle, self._idle = self._idle, []
        self._count -= len(idle)
        self._wake_all()
        await asyncio.gather(*(_closed(connection) for connection, _ in idle))

    async def _acquire(self) -> Connection:
        while True:
            if self._is_closed:
                raise StoreError("the store was closed while a call waited for a connection")
            while self._idle:
                connection, _ = self._idle.pop()
                if not connection.is_closed():
                    return connection
                self._count -= 1
            if self._count < self._connections_max:
                return await self._open()
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake_one()
                raise

    async def _open(self) -> Connection:
        self._count += 1
        try:
            return await self._address.connect()
        except BaseException:
            self._count -= 1
            self._wake_one()
            raise

    def _give_back(self, connection: Connection, *, is_sound: bool) -> None:
        now = asyncio.get_running_loop().time()
        if not is_sound or connection.is_closed() or self._is_closed:
            connection.terminate()
            self._count -= 1
        else:
            self._idle.append((connection, now))
            while self._idle[0][1] < now - IDLE_S_MAX:
                self._idle.pop(0)[0].terminate()
                self._count -= 1
        self._wake_one()

    def _wake_one(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _wake_all(self) -> None:
        while self._waiting:
            self._wake_one()


class Server:
    """The server as the provider calls it: `call` for the work, `read` for what may take long."""

    def __init__(self, address: Address, monotonic: Callable[[], float]) -> None:
        self.address = address
        self._monotonic = monotonic
        self._work = Lane(address, address.connections_max, CALL_S_MAX)
        self._reading = Lane(address, SLOW_CONNECTIONS_MAX, SLOW_CALL_S_MAX)
        self._away_since: float | None = None
        self.doubts = 0
        """How often a call got no answer, so that what it did may have been done twice, or by its first try alone."""

    async def call(
        self, statement: str, *values: Any, late: Callable[[], Sequence[Any]] | None = None
    ) -> Sequence[asyncpg.Record]:
        """Run one statement, again if need be. Raises the contract's errors; of the driver's only those for bad values."""
        return await self._tried(lambda: self._work.fetch(statement, *values, late=late))

    async def read(self, statement: str, *values: Any) -> Sequence[asyncpg.Record]:
        """Run a statement that may take long."""
        return await self._tried(lambda: self._reading.fetch(statement, *values))

    async def call_once(self, statement: str, *values: Any) -> Sequence[asyncpg.Record]:
        """Run one statement, once: raises StoreUnavailableError for whatever may be tried again."""
        try:
            return await self._work.fetch(statement, *values)
        except StoreError:
            raise
        except Exception as error:
            translated = self._translated(error, is_final=True)
            assert translated is not None
            raise translated from error

    async def use(self, function: Callable[[Connection], Awaitable[T]]) -> T:
        """Let `function` have a connection for several statements, again if need be."""
        return await self._tried(lambda: self._work.use(function))

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(self._work.close(), self._reading.close())

    async def _tried(self, attempt: Callable[[], Awaitable[T]]) -> T:
        until = self._monotonic() + RETRY_S_MAX
        pause = PAUSE_S_FIRST
        while True:
            try:
                answer = await attempt()
            except StoreError:
                raise
            except Exception as error:
                is_late = self._monotonic() + pause > until
                translated = self._translated(error, is_final=is_late)
                if translated is error:
                    raise
                if translated is not None:
                    raise translated from error
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # so that two who met do not meet again
                pause = min(pause * 2, PAUSE_S_MAX)
                continue
            self._answered()
            return answer

    def _translated(self, error: Exception, *, is_final: bool) -> Exception | None:
        """Return what to raise for an error of the driver, None if the call is to be tried again."""
        failure = failure_of(error)
        if failure is Failure.REFUSED:
            self._answered()
            return store_error(error, self.address.name)
        if failure is Failure.NO_ANSWER:
            self._did_not_answer(error)
        else:
            logger.debug("a call is tried again: %s", error)
        return unavailable(error, self.address.name) if is_final else None

    def _did_not_answer(self, error: Exception) -> None:
        self.doubts += 1
        if self._away_since is None:
            self._away_since = self._monotonic()
            logger.warning(
                "PostgreSQL at %s does not answer (%s: %s); calls wait for it",
                self.address.name,
                type(error).__name__,
                error,
            )

    def _answered(self) -> None:
        if self._away_since is not None:
            away_s = self._monotonic() - self._away_since
            self._away_since = None
            logger.warning("PostgreSQL at %s answers again, after %.1f s", self.address.name, away_s)


async def _closed(connection: Connection) -> None:
    """Close a connection in peace, or without."""
    try:
        await connection.close(timeout=1.0)
    except Exception as error:  # noqa: BLE001 (there is nothing more to lose)
        logger.debug("a connection did not close properly: %s", error)
        connection.terminate()
