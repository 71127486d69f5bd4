"""`durable dashboard`: the application served by itself, on this machine unless somebody has to say who they are."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Final

import uvicorn

from durable.app import App
from durable.errors import InvalidInputError
from durable.payloads import Sealer
from durable.provider import Provider
from durable.web.access import Access
from durable.web.application import LOOPBACK_HOSTS, WebApp, create_app
from durable.web.roles import Role

logger = logging.getLogger("durable.web")

PORT: Final = 8765
BACKLOG: Final = 256
LOOK_SECONDS: Final = 0.1
"""How often it is looked whether the server was told to exit; it does the same."""

SHUTDOWN_SECONDS: Final = 3
"""Live streams have no end of their own."""


def serve(
    store: str | Provider,
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    tokens: str | os.PathLike[str] | None = None,
    allowed_hosts: Sequence[str] = (),
    read_only: bool = False,
    payload_role: Role = Role.VIEWER,
    certificate: str | os.PathLike[str] | None = None,
    certificate_key: str | os.PathLike[str] | None = None,
    app: App | None = None,
    sealer: Sealer | None = None,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve the API and the dashboard of a store until SIGINT or SIGTERM.

    Without `tokens`, a file made by `durable.web.add_token`, everybody on this machine may do everything, and nobody else gets
    in: for any address but a loopback one tokens are needed. `allowed_hosts`: further names under which it is reached.
    `certificate` and its key: files in PEM, for HTTPS. `app` and `sealer`: as for a `Client` of this store.
    `announce` is told the address once it is listened at, else a line on standard error says it; `port` 0 takes a free one.
    Raises InvalidInputError, before anything is opened, for what is not safe or an address that cannot be had, and StoreError
    for a store that cannot be opened.
    """
    access = Access.on_loopback() if tokens is None else Access.by_tokens(tokens)
    is_loopback = is_loopback_host(host)
    if access.is_open and not is_loopback:
        raise InvalidInputError(
            f"{host} can be reached from other machines, so that those who come must say who they are: give a file of tokens "
            "(python -m durable.web token add FILE NAME --role admin), or stay on 127.0.0.1"
        )
    hosts = (*allowed_hosts, *_own_names(host, is_loopback=is_loopback))
    if not hosts:
        raise InvalidInputError(f"{host} stands for every address: say under which names it is reached (allowed_hosts)")
    site = create_app(
        store,
        access=access,
        allowed_hosts=hosts,
        app=app,
        sealer=sealer,
        read_only=read_only,
        payload_role=payload_role,
    )
    is_tls = certificate is not None
    if not is_loopback and not is_tls:
        logger.warning(
            "tokens and data travel as they are over http: give a certificate, or put a proxy with one before"
        )
    config = uvicorn.Config(
        site,
        log_config=None,
        access_log=False,
        http="h11",
        ws="none",
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        ssl_certfile=certificate,
        ssl_keyfile=certificate_key,
    )
    listening = listen(host, port)
    try:
        asyncio.run(_run(site, config, listening, announce or _announce))
    except KeyboardInterrupt:
        pass  # it was asked to end, and has
    finally:
        listening.close()


async def _run(site: WebApp, config: uvicorn.Config, listening: socket.socket, announce: Callable[[str], None]) -> None:
    try:
        await site.open()
        announce(_address(listening, config.is_ssl))
        await serve_on(site, config, listening)
    finally:
        await site.aclose()


async def serve_on(
    site: WebApp, config: uvicorn.Config, listening: socket.socket, server: uvicorn.Server | None = None
) -> None:
    """Serve until the server is told to exit, by a signal or by its `should_exit`; then end the live updates first."""
    running = server or uvicorn.Server(config)
    serving = asyncio.create_task(running.serve(sockets=[listening]))
    while not running.should_exit and not serving.done():
        await asyncio.wait([serving], timeout=LOOK_SECONDS)
    site.end_streams()
    await serving


def _announce(address: str) -> None:
    sys.stderr.write(f"the dashboard is at {address} (Ctrl-C ends it)\n")
    sys.stderr.flush()


def is_loopback_host(host: str) -> bool:
    """Tell whether only this machine can reach an address; a name counts by all that it stands for here."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise InvalidInputError(f"{host!r:.200} is no address of this machine: {error}") from error
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)


def _own_names(host: str, *, is_loopback: bool) -> tuple[str, ...]:
    """Return the names that an address has by itself."""
    if is_loopback:
        return LOOPBACK_HOSTS
    if host in ("", "0.0.0.0", "::", "*"):
        return ()
    return (f"[{host}]" if ":" in host else host,)


def listen(host: str, port: int) -> socket.socket:
    """Listen at an address; port 0 takes a free one. Raises InvalidInputError where it cannot be had."""
    listening: socket.socket | None = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # Named as TCP, for asyncio turns off the waiting for further bytes only where it reads that: 40 ms an answer.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
        return listening
    except (OSError, OverflowError) as error:
        if listening is not None:
            listening.close()
        raise InvalidInputError(f"{host} port {port} cannot be listened at: {error}; choose another port") from error


def _address(listening: socket.socket, is_tls: bool) -> str:
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if is_tls else 'http'}://{shown}:{port}/"
