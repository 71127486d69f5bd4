"""A hub with a little of everything, and the site over it, as the tests of the web use them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from durable import App, OrchestrationContext, RetryPolicy
from durable.web import Access, Role, WebApp, add_token
from durable.web.server import listen, serve_on

app = App()
LOCAL = ("127.0.0.1", 50000)
SECRET = "the password is 1234"


@app.activity
def charge(amount: int) -> str:
    if amount > 1000:
        raise ValueError(f"{amount} is too much for {SECRET}")
    return f"charged {amount}"


def add_to(amount: int) -> Callable[[int], int]:
    return lambda more: amount + more


def refuse_negative(more: int) -> None:
    if more < 0:
        raise ValueError(f"{more} is negative")


@app.orchestrator
async def order(ctx: OrchestrationContext, amount: int) -> str:
    ctx.set_custom_status({"stage": "waiting", "secret": SECRET})
    ctx.on_query("double", lambda: 2 * amount)
    ctx.on_update("add", add_to(amount), validator=refuse_negative)
    approval = await ctx.wait_for_external_event("approve", str)
    retry = RetryPolicy(first_retry_interval=timedelta(milliseconds=10), max_number_of_attempts=2)
    return f"{approval}: {await ctx.call_activity(charge, amount, retry_policy=retry)}"


@app.orchestrator
async def quick(ctx: OrchestrationContext, value: Any) -> Any:
    return value


@app.orchestrator
async def parent(ctx: OrchestrationContext, count: int) -> list[Any]:
    return [await ctx.call_sub_orchestrator(quick, number) for number in range(count)]


@app.entity
class Counter:
    value: int = 0

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A file of tokens, and one of each role."""

    path: Path
    viewer: str
    operator: str
    admin: str

    @classmethod
    def at(cls, path: Path) -> Tokens:
        return cls(path, *(add_token(path, role.name.title(), role) for role in Role))

    def of(self, role: Role) -> dict[str, str]:
        return bearer({Role.VIEWER: self.viewer, Role.OPERATOR: self.operator, Role.ADMIN: self.admin}[role])


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def client_of(site: WebApp, *, client: tuple[str, int] = LOCAL, **options: Any) -> httpx.AsyncClient:
    """Return what calls a site without a network; streams that do not end are for `served`."""
    transport = httpx.ASGITransport(site, raise_app_exceptions=True, client=client)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", **options)


@contextlib.asynccontextmanager
async def served(site: WebApp) -> AsyncIterator[str]:
    """Serve a site on a free port of this machine; the address."""
    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        site, log_config=None, http="h11", ws="none", lifespan="on", timeout_graceful_shutdown=1, access_log=False
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(serve_on(site, config, listening, server))
    try:
        while not server.started:
            await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listening.close()


async def raw(address: str, head: str, body: bytes = b"") -> tuple[int, str]:
    """Send a request as it is written, and return the status and the body of the answer."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(head.encode("latin-1") + b"Connection: close\r\n\r\n" + body)
        await writer.drain()
        answer = await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
    top, _, rest = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]) if top else 0, rest.decode("utf-8", "replace")


async def events_of(response: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    """Yield the server-sent events of an answer."""
    kind = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))


def by_tokens(tokens: Tokens) -> Access:
    return Access.by_tokens(tokens.path)
