"""The PostgreSQL store: many workers on many machines, one server.

`postgresql://USER@HOST:PORT/DATABASE` (or `postgres://`), with the driver's own options after `?` (`sslmode=…` and the like)
and these:

* `hub=NAME`: the hub; each has a schema of its own.
* `migrate=off`: do not create or change a schema; somebody else does that (`python -m durable_postgres`).
* `notify=off`: neither listen nor notify; what others change is found by polling.
* `pooler=transaction`: the address is that of a pooler that hands out a server connection for a transaction at a time:
  nothing is kept in a connection, so that there is no listening either.
* `connections=N`: at most so many to the server for the work (default 4), beside two for long reads and one that listens.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from durable.errors import StoreError
from durable.ports import Ports
from durable.urls import shown, split_store_url
from durable_postgres.connections import Address
from durable_postgres.provider import PostgresProvider

__all__ = ["PostgresProvider", "connect"]

OWN_OPTIONS = ("hub", "migrate", "notify", "pooler", "connections")
DRIVER_OPTIONS = (
    *("host", "port", "user", "password", "passfile", "dbname", "database", "service", "servicefile"),
    *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslpassword", "sslnegotiation"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs", "krbsrvname", "gsslib"),
)
SWITCHES = {"migrate": "off", "notify": "off", "pooler": "transaction"}
CONNECTIONS = re.compile(r"[1-9][0-9]{0,3}")
CONNECTIONS_DEFAULT = 4
"""A busy worker commits, receives, claims and renews at the same time; more would only wait for one another."""


def connect(url: str, ports: Ports, *, clock: Callable[[], int] | None = None) -> PostgresProvider:
    """Return a provider for `postgresql://…`; nothing is connected before its `open`.

    `clock`: microseconds since 1970 UTC to be taken for the server's time, for tests; None: the server's own.
    """
    parts = split_store_url(url, (*OWN_OPTIONS, *DRIVER_OPTIONS))
    if parts.scheme not in ("postgresql", "postgres"):
        raise StoreError(f"{shown(url)} is no PostgreSQL store: write postgresql://user@host:5432/database")
    for name, value in SWITCHES.items():
        if parts.options.get(name, value) != value:
            raise StoreError(f"{shown(url)}: {name} is {value}, or left out, not '{parts.options[name]:.60}'")
    limit = parts.options.get("connections", str(CONNECTIONS_DEFAULT))
    if not CONNECTIONS.fullmatch(limit):
        raise StoreError(f"{shown(url)}: connections is a number from 1 on, not '{limit:.60}'")
    address = Address(
        dsn=_for_the_driver(url),
        name=shown(_for_the_driver(url)),
        is_pooled="pooler" in parts.options,
        connections_max=int(limit),
    )
    return PostgresProvider(
        address,
        parts.options.get("hub", "default"),
        ports,
        may_migrate="migrate" not in parts.options,
        may_listen=not {"notify", "pooler"} & parts.options.keys(),
        may_notify="notify" not in parts.options,
        clock=clock,
    )


def _for_the_driver(url: str) -> str:
    """Return a URL without the options that are ours."""
    base, _, query = url.partition("?")
    rest = [pair for pair in query.split("&") if pair and pair.partition("=")[0] not in OWN_OPTIONS]
    return f"{base}?{'&'.join(rest)}" if rest else base
