"""NOTIFY and LISTEN: how processes learn at once that another one has written. Every notification may be lost.

One is sent after the commit that it tells of, in a transaction of its own: NOTIFY inside a commit takes a lock on the whole
database cluster's queue until that commit is on the disk. While one is on its way the next ones are joined.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Iterable

import asyncpg

from durable.errors import StoreError
from durable.provider import Wakeup
from durable_postgres.connections import Address, Connection, Server

logger = logging.getLogger("durable.postgres")

REST_S = 0.005
"""Between two notifications of one process: what is done meanwhile goes into the next one."""

CHECK_S = 15.0
"""How often an idle connection that listens is asked whether it is still one."""

PAUSE_S_MAX = 5.0
"""The longest rest between two attempts to listen again; the poll underneath goes on."""

ACTIVITIES, LEASES, STATES, INBOX = "a", "l", "s", "i"
"""What a notification says; of `INBOX` also in which partitions, as the bits of a number."""

_sender = f"{os.getpid():x}.{os.urandom(6).hex()}"


def sender() -> str:
    """Return what marks the notifications of this process."""
    if not _sender.startswith(f"{os.getpid():x}."):  # a child of a fork is somebody else
        globals()["_sender"] = f"{os.getpid():x}.{os.urandom(6).hex()}"
    return _sender


def channel_of(store_id: str) -> str:
    """Return the channel of a hub."""
    return f"durable_{store_id}"


class Notifier:
    """Sends notifications for one provider object."""

    def __init__(self, server: Server, channel: str) -> None:
        self._server = server
        self._channel = channel
        self._pending: set[str] = set()
        self._partitions = 0
        self._sending: asyncio.Task[None] | None = None

    def notify(self, what: Collection[str], partitions: int = 0) -> None:
        """Tell other processes soon that something of these kinds has changed."""
        self._pending.update(what)
        self._partitions |= partitions
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send())

    async def close(self) -> None:
        """Send what is still to be told, and end."""
        if self._sending is not None:
            _, late = await asyncio.wait([self._sending], timeout=1.0)
            for task in late:
                task.cancel()

    async def _send(self) -> None:
        try:
            while self._pending:
                payload = f"{sender()}:{''.join(sorted(self._pending))}:{self._partitions:x}"
                self._pending.clear()
                self._partitions = 0
                try:
                    await self._server.call_once("SELECT pg_notify($1, $2)", self._channel, payload)
                except StoreError as error:
                    logger.debug("a notification was not sent: %s", error)
                await asyncio.sleep(REST_S)
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
        origin, _, rest = str(payload).partition(":")
        if origin == sender():
            return
        what, _, partitions = rest.partition(":")
        try:
            is_for_us = INBOX in what and bool(int(partitions, 16) & self._owned())
        except ValueError:  # of a release that says it in other words
            is_for_us = True
        self._tell(
            Wakeup(
                anything=LEASES in what,
                activities=ACTIVITIES in what,
                leases=LEASES in what,
                inbox=is_for_us,
                states=STATES in what,
            )
        )


def bits(partitions: Iterable[int]) -> int:
    """Return partitions as the bits of a number."""
    found = 0
    for partition in partitions:
        found |= 1 << partition
    return found
