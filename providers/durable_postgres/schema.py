"""A hub's schema: its name, how it is made, and how it is brought to the newest version.

The version stands in the row of the table `hub`. A change of the schema is one more entry in MIGRATIONS; entries are never
edited once they were released, and what they leave must serve workers of the release before as well, so that a new
release can be rolled out worker by worker: a function or type that changes gets a new name, with the next number.
"""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from typing import NamedTuple

import asyncpg

from durable.errors import StoreError
from durable_postgres.connections import Connection

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "0001_tables.sql",
        "0001_ownership.sql",
        "0001_messages.sql",
        "0001_turns.sql",
        "0001_activities.sql",
        "0001_clients.sql",
        "0001_settings.sql",
    ),
    ("0002_named.sql",),
    ("0003_lookups.sql", "0003_messages.sql", "0003_commit.sql", "0001_settings.sql"),
    ("0004_begin.sql", "0001_settings.sql"),
)
"""The files that lead from each version to the next; the first entry leads from an empty schema to version 1."""

SERVER_VERSION_MIN = 140_000

LOCK_WAIT = "500ms"
"""So long a migration waits for a table, and all who commit wait behind it."""

_PLAIN_NAME = re.compile(r"[a-z0-9_]{1,40}")
# Not `to_regclass`: that may answer from before the lock was waited for.
_HAS_HUB = (
    "SELECT EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = $1 AND c.relname = 'hub' AND c.relkind = 'r')"
)
_HUB = "SELECT name, store_id, partitions, version FROM {schema}.hub"


class HubRow(NamedTuple):
    """The row of a hub."""

    name: str
    store_id: str
    partitions: int
    version: int


def schema_of(hub_name: str) -> str:
    """Return the name of a hub's schema, as it is written in SQL without quotes: `durable_NAME`, or a hash of an odd name."""
    if _PLAIN_NAME.fullmatch(hub_name):
        return f"durable_{hub_name}"
    return f"durable_hub_{hashlib.blake2b(hub_name.encode(), digest_size=12).hexdigest()}"


async def check_server(connection: Connection, name: str) -> None:
    """Raise StoreError for a server or database that cannot hold a hub."""
    version, encoding = await connection.fetchrow(  # type: ignore[misc]
        "SELECT current_setting('server_version_num')::int, current_setting('server_encoding')"
    )
    if version < SERVER_VERSION_MIN:
        raise StoreError(f"PostgreSQL at {name} is of version {version}: version 14 or newer is needed")
    if encoding != "UTF8":
        raise StoreError(
            f"the database at {name} is encoded as {encoding}: create one with `ENCODING 'UTF8' TEMPLATE template0`"
        )


async def find_hub(connection: Connection, hub_name: str, place: str) -> HubRow | None:
    """Return the row of a hub, None where it is not there. Raises StoreError for a schema that is not ours, or newer."""
    schema = schema_of(hub_name)
    if not await connection.fetchval(_HAS_HUB, schema):
        return None
    try:
        found = await connection.fetchrow(_HUB.format(schema=schema))
    except asyncpg.UndefinedColumnError as error:
        raise _foreign(schema, place) from error
    if found is None:
        return None
    row = HubRow(*found)
    if row.name != hub_name:
        raise StoreError(f"the schema {schema} at {place} holds the hub '{row.name}', not '{hub_name}'")
    if row.version > len(MIGRATIONS):
        raise StoreError(
            f"the hub '{hub_name}' at {place} was written by a newer release (schema {row.version}; this one knows "
            f"{len(MIGRATIONS)}): upgrade durable-orchestration here, or choose another hub"
        )
    return row


async def migrate(connection: Connection, hub_name: str, place: str, partitions: int, store_id: str) -> HubRow:
    """Bring a hub to the newest version, in one transaction; whoever else tries waits. Return its row."""
    schema = schema_of(hub_name)
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", lock_number(schema))
        # Whoever comes after a script that waits for a table waits too: rather give up soon, and try again as after a deadlock.
        await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'")
        row = await find_hub(connection, hub_name, place)
        if row is not None and row.version == len(MIGRATIONS):
            return row
        if row is None:
            await _make_schema(connection, schema, place)
        await connection.execute(f"SET LOCAL search_path = {schema}, pg_temp")
        for script in scripts(0 if row is None else row.version):
            await connection.execute(script)
        if row is None:
            await connection.execute(
                "INSERT INTO hub (name, store_id, partitions, version) VALUES ($1, $2, $3, $4)",
                hub_name,
                store_id,
                partitions,
                len(MIGRATIONS),
            )
            await connection.execute(
                "INSERT INTO partitions (partition) SELECT generate_series(0, $1::bigint - 1)", partitions
            )
            row = HubRow(hub_name, store_id, partitions, len(MIGRATIONS))
        await connection.execute("UPDATE hub SET version = $1", len(MIGRATIONS))
        return row._replace(version=len(MIGRATIONS))


async def _make_schema(connection: Connection, schema: str, place: str) -> None:
    """Create a schema, unless somebody with the right to has done so for us."""
    tables = await connection.fetchval(
        "SELECT count(c.oid) FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid WHERE n.nspname = $1"
        " GROUP BY n.oid",
        schema,
    )
    if tables is None:
        await connection.execute(f"CREATE SCHEMA {schema}")
    elif tables:
        raise _foreign(schema, place)


def _foreign(schema: str, place: str) -> StoreError:
    return StoreError(f"the schema {schema} at {place} belongs to another program: choose another hub name")


def scripts(version: int) -> list[str]:
    """Return the SQL that leads from a version to the newest."""
    folder = files("durable_postgres") / "sql"
    return [(folder / name).read_text() for names in MIGRATIONS[version:] for name in names]


def script_of(hub_name: str, partitions: int, store_id: str) -> list[str]:
    """Return the SQL that makes a new hub, as one transaction to be run by hand."""
    schema = schema_of(hub_name)
    name = hub_name.replace("'", "''")
    return [
        "BEGIN;",
        f"CREATE SCHEMA {schema};",
        f"SET LOCAL search_path = {schema}, pg_temp;",
        *scripts(0),
        "INSERT INTO hub (name, store_id, partitions, version)",
        f"    VALUES ('{name}', '{store_id}', {partitions}, {len(MIGRATIONS)});",
        f"INSERT INTO partitions (partition) SELECT generate_series(0, {partitions - 1});",
        "COMMIT;",
    ]


def lock_number(schema: str) -> int:
    """Return the number of the advisory lock under which a schema is changed."""
    digest = hashlib.blake2b(f"durable_postgres.migrate:{schema}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
