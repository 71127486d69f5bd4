"""What all requests share: the client, opened with the first of them; how much is allowed; and one ear at the store."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from durable.client import Client
from durable.client.connection import Connection
from durable.provider import Wakeup
from durable.web.audit import Audit
from durable.web.roles import Role
from durable.web.sessions import Sessions

POLL_SECONDS: Final = 1.0
"""A wake-up may be lost: so long a watcher waits at most before it looks by itself."""

REST_SHARE: Final = 10
"""What is looked up for all watchers rests ten times as long as it took: at most a tenth of the time goes into it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What a site allows. `payload_role`: who sees what users' code received, returned and raised."""

    read_only: bool = False
    payload_role: Role = Role.VIEWER
    streams_max: int = 200
    title: str = "durable"


class Pulse:
    """Tells watchers that something has changed; at least every POLL_SECONDS they look by themselves."""

    def __init__(self, connection: Connection) -> None:
        self._event = asyncio.Event()
        self._end = connection.provider.listen(self._hear)

    def _hear(self, wakeup: Wakeup) -> None:
        self.wake()

    def wake(self) -> None:
        """Let all watchers look."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float = POLL_SECONDS) -> None:
        """Wait for a change, and no longer than this."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)

    def close(self) -> None:
        """Stop listening."""
        self._end()


class Shared:
    """An answer that many ask for: one works it out, and it counts for a while that grows with what it cost."""

    def __init__(self, make: Callable[[], Awaitable[Any]], seconds: float) -> None:
        self._make = make
        self._seconds = seconds
        self._until = 0.0
        self._answer: Any = None
        self._making: asyncio.Task[Any] | None = None

    async def get(self) -> Any:
        """Return the answer, at most so old."""
        if time.monotonic() < self._until:
            return self._answer
        if self._making is None:
            self._making = asyncio.ensure_future(self._made())
            self._making.add_done_callback(self._forget)
        return await asyncio.shield(self._making)

    async def _made(self) -> Any:
        began = time.monotonic()
        self._answer = await self._make()
        ended = time.monotonic()
        self._until = ended + max(self._seconds, REST_SHARE * (ended - began))
        return self._answer

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._making = None
        if not task.cancelled():
            task.exception()  # it was raised to those who waited; nobody may be left


class Site:
    """One hub on the web. `client`: opened here with the first request, unless it is one that its owner opens and closes."""

    def __init__(self, client: Client, options: Options, *, is_owner: bool) -> None:
        self.options = options
        self._client = client
        self._is_owner = is_owner
        self._is_entered = False
        self._opening = asyncio.Lock()
        self._pulse: tuple[Connection, Pulse] | None = None
        self._shared: dict[str, Shared] = {}
        self._streams = 0
        self.is_ending = False  # streams have no end of their own

    async def client(self) -> Client:
        """Return the client, open. Raises StoreError where the store cannot be opened."""
        if self._is_owner and not self._is_entered:
            async with self._opening:
                if not self._is_entered:
                    await self._client.__aenter__()
                    self._is_entered = True
        return self._client

    async def connection(self) -> Connection:
        """Return the open hub."""
        return (await self.client()).connection

    async def audit(self) -> Audit:
        """Return the notes of what was done."""
        return (await self.connection()).feature(Audit)

    async def sessions(self) -> Sessions:
        """Return the sessions of browsers."""
        return (await self.connection()).feature(Sessions)

    async def pulse(self) -> Pulse:
        """Return the ear at the store; a client that was opened anew gets another."""
        connection = await self.connection()
        if self._pulse is None or self._pulse[0] is not connection:
            if self._pulse is not None:
                self._pulse[1].close()
            self._pulse = connection, Pulse(connection)
        return self._pulse[1]

    def shared(self, name: str, make: Callable[[], Awaitable[Any]], seconds: float = 1.0) -> Shared:
        """Return the shared answer of a name."""
        if name not in self._shared:
            self._shared[name] = Shared(make, seconds)
        return self._shared[name]

    @contextlib.asynccontextmanager
    async def stream(self) -> AsyncIterator[bool]:
        """Count a stream of live updates; False: there are too many already."""
        if self._streams >= self.options.streams_max:
            yield False
            return
        self._streams += 1
        try:
            yield True
        finally:
            self._streams -= 1

    def end_streams(self) -> None:
        """Let all streams end: the server is about to."""
        self.is_ending = True
        if self._pulse is not None:
            self._pulse[1].wake()

    async def close(self) -> None:
        """Let go of what was opened here."""
        pulse, self._pulse = self._pulse, None
        if pulse is not None:
            pulse[1].close()
        if self._is_entered:
            self._is_entered = False
            await self._client.close()
