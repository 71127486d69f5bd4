"""NOTIFY and LISTEN: how processes learn at once that another one has written. Every notification may be lost.

One is sent after the commit that it tells of, in a transaction of its own: NOTIFY inside a commit takes a lock on the whole
database cluster's queue until that commit is on the disk. While one is on its way the next ones are joined.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import asyncpg

from durable.errors import StoreError
from durable.news import CHANGED_S, News, heard
from durable.provider import Wakeup
from durable_postgres.connections import Address, Connection, Server

logger = logging.getLogger("durable.postgres")

REST_S_MAX = 0.005
REST_SHARE = 4
"""Between two notifications of one process, so many times as long as the last one took: what is done meanwhile goes into the
next one. So a process that does one thing after the other tells each at once, and a busy one is not busy with telling."""

CHECK_S = 15.0
"""How often an idle connection that listens is asked whether it is still one."""

PAUSE_S_MAX = 5.0
"""The longest rest between two attempts to listen again; the poll underneath goes on."""

PAYLOAD_BYTES_MAX = 7900
"""PostgreSQL takes 8,000."""


def channel_of(store_id: str) -> str:
    """Return the channel of a hub."""
    return f"durable_{store_id}"


class Notifier:
    """Sends notifications for one provider object."""

    def __init__(self, server: Server, channel: str) -> None:
        self._server = server
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._is_urgent = asyncio.Event()
        self.news = News()  # what is still to be told
        self._sending: asyncio.Task[None] | None = None

    def notify(self) -> None:
        """Tell other processes soon what was added to the news."""
        if self.news.is_urgent:
            self._is_urgent.set()
        if self.news and self._sending is None:
            self._sending = self._loop.create_task(self._send())

    async def close(self) -> None:
        """Send what is still to be told, and end."""
        if self._sending is not None:
            _, late = await asyncio.wait([self._sending], timeout=1.0)
            for task in late:
                task.cancel()

    async def _send(self) -> None:
        try:
            while self.news:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CHANGED_S):
                        await self._is_urgent.wait()
                self._is_urgent.clear()
                news, self.news = self.news, News()
                began = self._loop.time()
                for line in news.lines(PAYLOAD_BYTES_MAX):
                    try:
                        await self._server.call_once("SELECT pg_notify($1, $2)", self._channel, line)
                    except StoreError as error:
                        logger.debug("a notification was not sent: %s", error)
                await asyncio.sleep(min(REST_SHARE * (self._loop.time() - began), REST_S_MAX))
        finally:
            self._sending = None


class Ear:
    """Listens for one provider object, on a connection of its own, until it is closed; again after any loss."""

    def __init__(
        self, address: Address, channel: str, owned: Callable[[], int], tell: Callable[[Wakeup], None]
    ) -> None:
        self._address = address
        self._owned = owned
        self._channel = channel
        self._tell = tell
        self.is_listening = False
        self._is_broken = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """End."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        pause = 0.05
        is_first = True
        while True:
            try:
                connection = await self._address.connect()
            except Exception as error:  # noqa: BLE001 (whatever it is, the poll goes on and this tries again)
                logger.debug("cannot listen to PostgreSQL at %s: %s", self._address.name, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSE_S_MAX)
                continue
            try:
                await self._listen(connection)
                if not is_first:
                    logger.info("listening again to PostgreSQL at %s", self._address.name)
                    self._tell(
                        Wakeup(anything=True, activities=True, leases=True)
                    )  # nobody heard what was told meanwhile
                is_first, pause, self.is_listening = False, 0.05, True
                await self._serve(connection)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                logger.info("no longer listening to PostgreSQL at %s: %s", self._address.name, error)
            finally:
                self.is_listening = False
                connection.terminate()
            await asyncio.sleep(pause)

    async def _listen(self, connection: Connection) -> None:
        self._is_broken.clear()
        connection.add_termination_listener(lambda _: self._is_broken.set())
        await connection.add_listener(self._channel, self._hear)

    async def _serve(self, connection: Connection) -> None:
        """Wait for the end of the connection, which may come without a sign."""
        while not self._is_broken.is_set():
            try:
                async with asyncio.timeout(CHECK_S):
                    await self._is_broken.wait()
            except TimeoutError:
                await connection.execute("SELECT 1", timeout=CHECK_S)
        raise ConnectionError("the connection was closed")

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        wakeup = heard(str(payload), self._owned())
        if wakeup is not None:
            self._tell(wakeup)
