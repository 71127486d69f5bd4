"""How a hub's schema is made, found and refused; with which rights it is used; and through what it may be reached."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import asyncpg
import durable_postgres
import pytest
from durable_postgres import listings, rights, schema

from durable import Client
from durable.errors import StoreError
from durable.ports import system_ports
from durable.provider import InstanceFilter, Provider
from durable.testing.conformance import Session
from durable.testing.conformance.store import attempt_of, end_of, event_to, memo, new_row, start_of, step_of
from tests.postgres_proxy import TransactionPooler
from tests.postgres_server import PostgresServer


def connect(url: str, **options: Any) -> durable_postgres.PostgresProvider:
    return durable_postgres.connect(url, system_ports(), **options)


@pytest.fixture
def new_hub(postgres_server: PostgresServer, postgres_url: str, request: pytest.FixtureRequest) -> Any:
    """The URL of a hub whose schema is not there."""
    name = request.node.name[:40].lower().replace("[", "_").replace("]", "")
    postgres_server.execute(f"DROP SCHEMA IF EXISTS {schema.schema_of(name)} CASCADE", database="test")
    yield f"{postgres_url}?hub={name}"
    postgres_server.execute(f"DROP SCHEMA IF EXISTS {schema.schema_of(name)} CASCADE", database="test")


async def use(provider: Provider) -> None:
    """Do a little of everything."""
    session = Session(provider, await provider.lease("worker", b"", worker=True))
    await provider.take(session.lease, range(64), from_live=True)
    row = await session.start("instance", tags={"a": "1"})
    now = (await session.received()).now
    await session.commit(
        step_of(row, b"record", queue_adds=[attempt_of(row)]),
        messages=[start_of(new_row("child")), event_to("instance")],
        memos=[memo("memo", expires_at=now + 10**9)],
    )
    [attempt] = await session.claim()
    assert attempt.task.key == row.key
    await asyncio.to_thread(provider.mark_slow_turn, session.lease, row.key, row.run_id)
    assert len(await session.receive()) == 2
    await session.commit(end_of(await session.load("instance")))
    assert await session.memos() == {"memo": b"memo"}
    assert await session.history(row.run_id) == [b"record"]
    page = await provider.list_instances(InstanceFilter(tags={"a": "1"}), limit=5)
    assert [found.key for found in page.rows] == [row.key]
    assert await provider.count(InstanceFilter()) == 2
    assert await provider.purge([(row.key, row.run_id)]) == 1
    await provider.renew(session.lease)
    await provider.release(session.lease)


async def _lookups(hub: str) -> dict[str, int]:
    """Return how often each index of the table of runs was looked into; whoever did must have closed its connections."""
    connection = await asyncpg.connect(hub.partition("?")[0])
    found = await connection.fetch(
        "SELECT indexrelname, idx_scan FROM pg_stat_user_indexes WHERE relname = 'runs' AND schemaname = $1",
        schema.schema_of(hub.partition("hub=")[2]),
    )
    await connection.close()
    return {row["indexrelname"]: row["idx_scan"] for row in found}


async def _run_instances(hub: str, prefix: str, count: int) -> None:
    """Let instances begin, go on and end, in batches."""
    provider = connect(hub)
    await provider.open()
    session = Session(provider, await provider.lease("worker", b"", worker=True))
    await provider.take(session.lease, range(64), from_live=True)
    await session.submit(*(start_of(new_row(f"{prefix}{number}")) for number in range(count)))
    rows = [await session.load(f"{prefix}{number}") for number in range(count)]
    await session.commit(*(step_of(row, b"record") for row in rows))
    rows = [await session.load(f"{prefix}{number}") for number in range(count)]
    await session.commit(*(end_of(row) for row in rows))
    await provider.release(session.lease)
    await provider.close()


# ---- the schema


async def test_instances_are_found_along_the_primary_key_whatever_is_known_of_the_table(new_hub: str) -> None:
    """On a new hub, whose indexes all cost the same; and when the server has counted, and has seen nothing unfinished."""
    await _run_instances(new_hub, "new", 20)
    connection = await asyncpg.connect(new_hub.partition("?")[0])
    await connection.execute(f"ANALYZE {schema.schema_of(new_hub.partition('hub=')[2])}.runs")
    await connection.close()
    await _run_instances(new_hub, "counted", 20)
    lookups = await _lookups(new_hub)
    assert (lookups["runs_listed"], lookups["runs_named"]) == (0, 0)
    assert lookups["runs_pkey"] >= 160


async def test_many_who_open_a_new_hub_at_once_make_it_once(new_hub: str) -> None:
    providers = [connect(new_hub) for _ in range(8)]
    hubs = await asyncio.gather(*(provider.open() for provider in providers))
    assert {(hub.name, hub.partitions) for hub in hubs} == {(hubs[0].name, 64)}
    await use(providers[3])
    for provider in providers:
        await provider.close()


async def test_a_migration_that_fails_leaves_nothing(new_hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        schema, "MIGRATIONS", (*schema.MIGRATIONS, ("0001_tables.sql",))
    )  # its tables are there by then
    with pytest.raises(StoreError):
        await connect(new_hub).open()
    monkeypatch.undo()
    provider = connect(new_hub)
    await provider.open()
    await use(provider)
    await provider.close()


async def test_an_older_hub_is_brought_to_the_newest_version_under_those_who_use_it(
    new_hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = connect(new_hub)
    await older.open()
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ()))
    newer = connect(new_hub)
    await newer.open()
    await use(older)
    await use(newer)
    await newer.close()
    monkeypatch.undo()
    with pytest.raises(StoreError, match="newer release"):
        await connect(new_hub).open()
    await older.close()


@pytest.mark.parametrize("version", range(1, len(schema.MIGRATIONS)))
async def test_a_hub_of_each_older_version_is_brought_to_the_newest(
    new_hub: str, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:version])
    older = connect(new_hub)
    await older.open()
    await older.close()
    monkeypatch.undo()
    newer = connect(new_hub)
    await newer.open()
    await use(newer)
    await newer.close()


async def test_commits_go_on_while_a_hub_is_brought_to_the_newest_version(
    new_hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:2])
    older, newer = connect(new_hub), connect(new_hub)
    await older.open()
    monkeypatch.undo()
    session = Session(older, await older.lease("worker", b"", worker=True))
    await session.provider.take(session.lease, range(64), from_live=True)
    row = await session.start("instance")
    migrating = asyncio.create_task(newer.open())
    while not migrating.done():
        await session.commit(step_of(row, b"record"))
        row = await session.load("instance")
    await migrating
    await session.commit(step_of(row, b"last"))
    assert len(await session.history(row.run_id)) == row.records + 1
    await newer.close()
    await older.close()


async def test_a_migration_that_must_wait_for_a_reader_holds_up_nobody(
    postgres_server: PostgresServer, new_hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dump or a long count, say: commits queue behind what the migration wants, for as long as it waits."""
    monkeypatch.setattr(schema, "LOCK_WAIT", "50ms")
    monkeypatch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:2])
    older, newer = connect(new_hub), connect(new_hub)
    await older.open()
    monkeypatch.undo()
    monkeypatch.setattr(schema, "LOCK_WAIT", "50ms")
    session = Session(older, await older.lease("worker", b"", worker=True))
    await session.provider.take(session.lease, range(64), from_live=True)
    row = await session.start("instance")
    reader = await asyncpg.connect(new_hub.partition("?")[0])
    reading = reader.transaction()
    await reading.start()
    await reader.execute(f"SELECT count(*) FROM {schema.schema_of(new_hub.partition('hub=')[2])}.runs")
    migrating = asyncio.create_task(newer.open())
    began = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() < began + 0.5:
        await asyncio.wait_for(session.commit(step_of(row, b"record")), 5)
        row = await session.load("instance")
    assert not migrating.done()
    await reading.rollback()
    await reader.close()
    await migrating
    await session.commit(step_of(row, b"last"))
    await newer.close()
    await older.close()


async def test_a_schema_of_another_program_is_left_alone(postgres_server: PostgresServer, new_hub: str) -> None:
    name = schema.schema_of(new_hub.partition("hub=")[2])
    for table in ("orders", "hub"):
        postgres_server.execute(
            f"DROP SCHEMA IF EXISTS {name} CASCADE",
            f"CREATE SCHEMA {name}",
            f"CREATE TABLE {name}.{table} (number int)",
            database="test",
        )
        with pytest.raises(StoreError, match="belongs to another program"):
            await connect(new_hub).open()


async def test_a_missing_hub_is_not_made_where_the_url_forbids_it(new_hub: str) -> None:
    with pytest.raises(StoreError, match="python -m durable_postgres migrate"):
        await connect(f"{new_hub}&migrate=off").open()
    made = connect(new_hub)
    await made.open()
    provider = connect(f"{new_hub}&migrate=off")
    await provider.open()
    await use(provider)
    await provider.close()
    await made.close()


@pytest.mark.parametrize("name", ["Ünïcode hub", "UPPER", "a-b", "x" * 200, 'quo"te', "'; DROP SCHEMA public; --"])
async def test_a_hub_may_have_any_name(postgres_server: PostgresServer, postgres_url: str, name: str) -> None:
    found = schema.schema_of(name)
    assert len(found) < 64
    url = durable_postgres.connect(postgres_url, system_ports())
    provider = durable_postgres.PostgresProvider(url._address, name, system_ports())
    try:
        assert (await provider.open()).name == name
        await use(provider)
        await provider.close()
    finally:
        postgres_server.execute(f"DROP SCHEMA {found} CASCADE", database="test")


async def test_a_database_that_is_not_utf8_is_refused(postgres_server: PostgresServer) -> None:
    postgres_server.execute(
        "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'", database="postgres"
    )
    with pytest.raises(StoreError, match="ENCODING 'UTF8'"):
        await connect(postgres_server.url("latin")).open()
    postgres_server.execute("DROP DATABASE latin WITH (FORCE)")


# ---- URLs


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda url: url.replace("/test", "/nowhere"), "create the database"),
        (lambda url: url.replace("postgres:secret", "nobody_at_all:secret"), "check the user"),
        (lambda url: f"{url}?sslmode=nonsense", "sslmode"),
        (lambda url: f"{url}?hbu=x", "unknown option 'hbu'"),
        (lambda url: f"{url}?notify=on", "notify is off"),
        (lambda url: f"{url}?connections=0", "connections is a number"),
    ],
)
async def test_what_is_wrong_in_a_url_is_said_at_once(
    postgres_url: str, change: Callable[[str], str], says: str
) -> None:
    with pytest.raises(StoreError, match=says) as caught:
        await connect(change(postgres_url.replace("postgres@", "postgres:secret@"))).open()
    assert "secret" not in str(caught.value)


# ---- rights


async def test_a_role_with_the_least_rights_can_work_and_nothing_else(
    postgres_server: PostgresServer, postgres_url: str, new_hub: str
) -> None:
    name = new_hub.partition("hub=")[2]
    owner = connect(new_hub)
    await owner.open()
    postgres_server.execute("DROP ROLE IF EXISTS modest", "CREATE ROLE modest LOGIN")
    postgres_server.execute(*rights.statements(name, "modest"), database="test")
    url = new_hub.replace("postgres@", "modest@")
    provider = connect(url)
    await provider.open()
    await use(provider)
    await provider.close()
    connection = await asyncpg.connect(postgres_url.replace("postgres@", "modest@"))
    for statement in (
        "DELETE FROM {schema}.runs",
        "UPDATE {schema}.leases SET epoch = 9",
        "INSERT INTO {schema}.memos VALUES ('a', '', 1)",
        "SELECT {schema}.prolong('a', 1, 1)",
        "CREATE TABLE {schema}.mine ()",
        "DROP SCHEMA {schema} CASCADE",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement.format(schema=schema.schema_of(name)))
    await connection.close()
    await owner.close()
    postgres_server.execute("DROP OWNED BY modest", "DROP ROLE modest", database="test")


async def test_a_role_without_rights_is_told_which_it_needs(postgres_server: PostgresServer, new_hub: str) -> None:
    owner = connect(new_hub)
    await owner.open()
    postgres_server.execute("DROP ROLE IF EXISTS stranger", "CREATE ROLE stranger LOGIN")
    with pytest.raises(StoreError, match="python -m durable_postgres rights"):
        await connect(new_hub.replace("postgres@", "stranger@")).open()
    await owner.close()
    postgres_server.execute("DROP ROLE stranger")


async def test_the_command_line_prints_what_it_would_run(postgres_server: PostgresServer, new_hub: str) -> None:
    name = new_hub.partition("hub=")[2]

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "durable_postgres", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    script = await asyncio.to_thread(run, "script", "--hub", name)
    connection = await asyncpg.connect(postgres_server.url("test"))
    await connection.execute(script)  # what a database administrator runs by hand
    await connection.close()
    assert "is ready" in await asyncio.to_thread(run, "migrate", new_hub)
    assert "GRANT" in await asyncio.to_thread(run, "rights", "somebody", "--hub", name)
    provider = connect(f"{new_hub}&migrate=off")
    await provider.open()
    await use(provider)
    await provider.close()


# ---- poolers, and without notifications


async def test_it_works_through_a_pooler_that_lends_connections_by_the_transaction(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    direct = connect(postgres_url)
    await direct.open()
    async with TransactionPooler(postgres_server.port, "test", 2) as pooler:
        address = postgres_url.replace(str(postgres_server.port), str(pooler.port))
        providers = [connect(f"{address}?pooler=transaction") for _ in range(3)]
        for provider in providers:
            await provider.open()
        for provider in providers:
            await use(provider)
        sessions = [Session(each, await each.lease("client", b"", worker=False)) for each in providers]
        await asyncio.gather(
            *(session.submit(start_of(new_row(f"i{n}"))) for n, session in enumerate(sessions * 10) if n < 3)
        )
        assert await providers[0].count(InstanceFilter(prefix="i")) == 3
        assert pooler.lent > 30
        for provider in providers:
            await provider.close()
    await direct.close()


async def test_without_notifications_nobody_listens(postgres_server: PostgresServer, postgres_url: str) -> None:
    provider = connect(f"{postgres_url}?notify=off")
    await provider.open()
    heard: list[Any] = []
    provider.listen(heard.append)
    session = Session(provider, await provider.lease("client", b"", worker=False))
    await session.submit(start_of(new_row("one")))
    await asyncio.sleep(0)
    assert [row.key.id for wakeup in heard for row in wakeup.rows] == ["one"]
    queries = postgres_server.execute("SELECT query FROM pg_stat_activity WHERE datname = 'test'", database="test")
    assert not [query for (query,) in queries if "LISTEN" in query.upper() or "pg_notify" in query]
    await provider.close()


def test_a_provider_is_not_used_on_from_a_fork(postgres_url: str) -> None:
    async def scenario() -> None:
        provider = connect(postgres_url)
        await provider.open()
        hub = provider._hub
        hub.process -= 1
        with pytest.raises(StoreError, match="forked"):
            await provider.count(InstanceFilter())
        hub.process += 1
        await provider.close()

    asyncio.run(scenario())


async def test_a_listing_by_a_tag_that_many_have_joins_its_entries(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page by page, with a second tag and a status beside it, in both orders; or walks, where too many have it."""
    async with Client(postgres_url) as client:
        for number in range(24):
            tags = {"age": "old" if number < 16 else "new", "half": str(number % 2)}
            await client.start("nobody", instance_id=f"{number:02}", tags=tags)
        monkeypatch.setattr(listings, "FEW", 2)
        for many in (100, 3):
            monkeypatch.setattr(listings, "MANY", many)
            for tags, expected in (({"age": "old"}, range(16)), ({"age": "old", "half": "1"}, range(1, 16, 2))):
                for newest_first in (True, False):
                    found = client.query(tags=tags, status="PENDING", newest_first=newest_first, payloads=False)
                    ids = [f"{number:02}" for number in expected]
                    assert [state.instance_id async for state in found] == (ids[::-1] if newest_first else ids)
            assert [state.instance_id async for state in client.query(tags={"age": "old"}, limit=3)] == [
                "15",
                "14",
                "13",
            ]
