"""What may stand between a worker and PostgreSQL: a wire that breaks at the worst moment, and a pooler.

Both read the protocol's messages: one letter, four bytes of length, the rest. `CuttingProxy` lets a chosen statement reach
the server and be committed, swallows the answer and cuts the connection. `TransactionPooler` lends its few server connections
for a transaction at a time, as such poolers do, to any client in turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


class _Wire:
    """One end of a connection, as messages."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def startup(self) -> bytes:
        """Read the first message, which has no letter; refuse encryption before it."""
        while True:
            head = await self.reader.readexactly(4)
            message = head + await self.reader.readexactly(struct.unpack("!i", head)[0] - 4)
            if message != _SSL_REQUEST:
                return message
            self.writer.write(b"N")

    async def message(self) -> tuple[bytes, bytes]:
        """Read a message: its letter and all of it."""
        head = await self.reader.readexactly(5)
        return head[:1], head + await self.reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)

    def cut(self) -> None:
        """End without a word."""
        self.writer.transport.abort()


async def _connected(port: int) -> _Wire:
    return _Wire(*await asyncio.open_connection("127.0.0.1", port))


class _Front:
    """A server that clients connect to, and the tasks that serve them."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._listening.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listening is not None
        self._listening.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._guarded(_Wire(reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, client: _Wire) -> None:
        with contextlib.suppress(OSError, EOFError):  # a connection that breaks is what this is about
            try:
                await self._serve(client)
            finally:
                client.cut()

    async def _serve(self, client: _Wire) -> None:
        raise NotImplementedError


class CuttingProxy(_Front):
    """Passes everything on. `must_cut(sql)` is asked for each statement that is run: if so, its answer never arrives."""

    def __init__(self, port: int, must_cut: Callable[[str], bool]) -> None:
        super().__init__(port)
        self._must_cut = must_cut
        self.cuts = 0

    async def _serve(self, client: _Wire) -> None:
        server = await _connected(self._server_port)
        is_swallowing = asyncio.Event()
        try:
            server.writer.write(await client.startup())
            async with asyncio.TaskGroup() as group:
                group.create_task(self._upstream(client, server, is_swallowing))
                group.create_task(self._downstream(client, server, is_swallowing))
        except* (OSError, EOFError):
            pass
        finally:
            server.cut()

    async def _upstream(self, client: _Wire, server: _Wire, is_swallowing: asyncio.Event) -> None:
        statements: dict[bytes, str] = {}
        while True:
            letter, message = await client.message()
            if letter == b"P":
                name, sql, _ = message[5:].split(b"\0", 2)
                statements[name] = sql.decode()
            elif letter == b"B":
                _, name, _ = message[5:].split(b"\0", 2)
                if self._must_cut(statements.get(name, "")):
                    is_swallowing.set()
            server.writer.write(message)
            await server.writer.drain()

    async def _downstream(self, client: _Wire, server: _Wire, is_swallowing: asyncio.Event) -> None:
        while True:
            letter, message = await server.message()
            if not is_swallowing.is_set():
                client.writer.write(message)
                await client.writer.drain()
            elif letter == b"Z":  # the server is ready for the next one: what was asked for is done
                self.cuts += 1
                raise ConnectionAbortedError


class TransactionPooler(_Front):
    """Lends `size` server connections, in turn, from a client's message until the server is idle again."""

    def __init__(self, port: int, database: str, size: int) -> None:
        super().__init__(port)
        self._database = database
        self._size = size
        self._idle: asyncio.Queue[_Wire] = asyncio.Queue()
        self._all: list[_Wire] = []
        self._greeting = b""
        self.lent = 0

    async def __aenter__(self) -> Self:
        for _ in range(self._size):
            wire = await _connected(self._server_port)
            parameters = b"user\0postgres\0database\0" + self._database.encode() + b"\0client_encoding\0UTF8\0\0"
            wire.writer.write(struct.pack("!ii", 8 + len(parameters), 196608) + parameters)
            self._greeting = b""
            async for _, message in _until_ready(wire):
                self._greeting += message
            self._all.append(wire)
            self._idle.put_nowait(wire)
        return await super().__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        for wire in self._all:
            wire.cut()

    async def _serve(self, client: _Wire) -> None:
        await client.startup()
        client.writer.write(self._greeting)
        reading = asyncio.create_task(client.message())
        try:
            while True:
                letter, _ = await asyncio.shield(reading)
                if letter == b"X":
                    return
                reading = await self._lend(client, reading)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _lend(
        self, client: _Wire, reading: asyncio.Task[tuple[bytes, bytes]]
    ) -> asyncio.Task[tuple[bytes, bytes]]:
        """Let a client have a server connection for one transaction; return what reads its next message."""
        server = await self._idle.get()
        self.lent += 1
        answering = asyncio.create_task(server.message())
        while True:
            if reading.done():
                server.writer.write(reading.result()[1])
                reading = asyncio.create_task(client.message())
            await asyncio.wait([reading, answering], return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                letter, answer = answering.result()
                client.writer.write(answer)
                if letter == b"Z" and answer[5:] == b"I":
                    self._idle.put_nowait(server)
                    return reading
                answering = asyncio.create_task(server.message())


async def _until_ready(wire: _Wire) -> AsyncIterator[tuple[bytes, bytes]]:
    while True:
        letter, message = await wire.message()
        yield letter, message
        if letter == b"Z":
            return
