"""A small HTTP server in the test's own loop: it answers by path, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ssl
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias


@dataclasses.dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Answer: TypeAlias = tuple[int, dict[str, str], bytes]
Route: TypeAlias = Callable[[Asked], Answer]


@dataclasses.dataclass
class Server:
    """What it is asked, in order, and where it listens."""

    port: int = 0
    asked: list[Asked] = dataclasses.field(default_factory=list)

    @property
    def url(self) -> str:
        """Its origin, by its address."""
        return f"http://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def serving(route: Route, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Serve until the block ends."""
    known = Server()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:]) if name}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            known.asked.append(Asked(method, path, headers, body))
            status, fields, content = route(known.asked[-1])
            fields = {"content-length": str(len(content)), "connection": "close", **fields}
            lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
            writer.write("\r\n".join(lines).encode("latin-1") + content)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # it was only connected to, or it has heard enough
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    known.port = server.sockets[0].getsockname()[1]
    async with server:
        yield known
