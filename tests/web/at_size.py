"""How long the pages of a large hub take: fills a store with instances, asks the API for listings, and shows the stores' plans.

    python -m tests.web.at_size --instances 1000000 --store sqlite
    python -m tests.web.at_size --instances 1000000 --store postgres

The instances are written by the database itself, in a second's distance: nine of ten completed, some failed, running and so on;
three common names and rare ones; tags of every second and of few instances. A line for each question says the median, and the
last line is JSON. Exits with 1 where the median of the medians is above 200 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
from durable_postgres.rows import tag_hash

from durable import Client
from durable.provider import PARTITIONS
from durable.web import Access, create_app
from tests.postgres_server import PostgresServer
from tests.web.parts import client_of

BOUND_MS = 200.0
REPEATS = 5
CUSTOMERS = 20_000

# Of instance i: its status, name and id, in the words of both databases.
STATUS = (
    "CASE WHEN i % 100 < 90 THEN 4 WHEN i % 100 < 93 THEN 5 WHEN i % 100 < 97 THEN 1 WHEN i % 100 < 98 THEN 6"
    " WHEN i % 100 < 99 THEN 0 ELSE 3 END"
)
NAME = (
    "CASE WHEN i % 10000 = 7 THEN 'yearly' WHEN i BETWEEN 5000 AND 25000 THEN 'retired' WHEN i % 10 < 6 THEN 'order'"
    " WHEN i % 10 < 9 THEN 'invoice' ELSE 'shipping' END"
)
SPREAD = "(i * 7919) % 1000003"

QUESTIONS: dict[str, dict[str, Any]] = {
    "newest": {},
    "oldest": {"order": "oldest"},
    "failed": {"status": "FAILED"},
    "unfinished": {"status": ["PENDING", "RUNNING", "SUSPENDED", "STALLED"]},
    "none of the status": {"status": "TERMINATED"},
    "common name": {"name": "order"},
    "rare name": {"name": "yearly"},
    "name of old ones": {"name": "retired"},
    "no such name": {"name": "nothing"},
    "common name, failed": {"name": "invoice", "status": "FAILED"},
    "name of old ones, failed": {"name": "retired", "status": "FAILED"},
    "common prefix": {"prefix": "order-"},
    "rarer prefix": {"prefix": "order-00"},
    "one id": {"prefix": "order-0000007-"},
    "no such prefix": {"prefix": "zzz"},
    "common prefix, rare name": {"prefix": "order-", "name": "yearly"},
    "common tag": {"tag": "region=north"},
    "rare tag": {"tag": "customer=c7"},
    "two tags": {"tag": ["customer=c8", "region=south"]},
    "common tag, failed": {"tag": "region=north", "status": "FAILED"},
    "no such tag": {"tag": "a=b"},
    "tag of old ones": {"tag": "batch=old"},
    "tag of old ones, completed": {"tag": "batch=old", "status": "COMPLETED"},
    "tag of old ones, common name": {"tag": "batch=old", "name": "order"},
    "two wide tags": {"tag": ["batch=old", "region=north"]},
    "an hour": {"created_after": "HOUR", "created_before": "HOUR+1"},
    "an hour, failed, name": {"created_after": "HOUR", "created_before": "HOUR+1", "status": "FAILED", "name": "order"},
    "children of one": {"parent": "nobody"},
}

INDEXES = """
SELECT c.relname, pg_get_indexdef(c.oid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid IN ('runs'::regclass, 'tags'::regclass) AND NOT i.indisprimary
"""

# ---- filling


def fill_sqlite(path: Path, count: int, now: int) -> None:
    """Write the instances into a file, each as the one that is there, with its own id, times, name, status and tags."""
    database = sqlite3.connect(path)
    columns = [row[1] for row in database.execute("PRAGMA table_info(runs)")]
    made = _made(count, now) | {"number": "i + 10", "run_id": "printf('%032d', i)", "id": _id("printf('%07d', {})")}
    chosen = ", ".join(made.get(name, f"seed.{name}") for name in columns)
    numbers = f"WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
    database.execute(f"INSERT INTO runs {numbers} SELECT {chosen} FROM n, (SELECT * FROM runs LIMIT 1) AS seed")
    tags = (
        "INSERT INTO tags (hub, name, value, created_at, number)"
        " SELECT hub, '{}', {}, created_at, number FROM runs WHERE number > 10"
    )
    database.execute(tags.format("region", "CASE WHEN number % 2 THEN 'south' ELSE 'north' END"))
    database.execute(tags.format("customer", f"'c' || (number % {CUSTOMERS})"))
    database.execute(tags.format("batch", "'old'") + " AND number BETWEEN 5000 AND 25000")
    database.execute("DELETE FROM inbox")
    database.commit()
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def _id(digits: str) -> str:
    return f"{NAME} || '-' || {digits.format(SPREAD)} || '-' || i"


def _made(count: int, now: int) -> dict[str, str]:
    at = f"({now} - ({count} - i) * 1000000)"
    times = dict.fromkeys(("created_at", "scheduled_at", "updated_at"), at)
    completed = f"CASE WHEN {STATUS} >= 4 THEN {at} + 5 END"
    tags = "'{\"region\": \"' || CASE WHEN i % 2 = 0 THEN 'north' ELSE 'south' END || '\"}'"
    fixed = {"status": STATUS, "name": NAME, "completed_at": completed, "tags": tags, "partition": f"i % {PARTITIONS}"}
    return {**times, **fixed}


async def fill_postgres(url: str, count: int, now: int) -> None:
    """The same into a server's hub."""
    connection = await asyncpg.connect(url)
    await connection.execute("SET search_path = durable_default")
    rows = await connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'runs'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    columns = [row[0] for row in rows]
    customer = f"'c' || ((i + 10) % {CUSTOMERS})"
    region = "CASE WHEN i % 2 = 0 THEN 'north' ELSE 'south' END"
    made = _made(count, now) | {
        "run_id": "lpad(i::text, 32, '0')",
        "id": _id("lpad(({})::text, 7, '0')"),
        "tags": f"jsonb_build_object('region', {region}, 'customer', {customer})"
        " || CASE WHEN i BETWEEN 4990 AND 24990 THEN '{\"batch\": \"old\"}'::jsonb ELSE '{}'::jsonb END",
    }
    chosen = ", ".join(made.get(name, f"seed.{name}") for name in columns)
    source = f"generate_series(1::bigint, {count}) AS n (i), (SELECT * FROM runs LIMIT 1) AS seed"
    # Indexes are made at the end: one after the other, that is many times faster than row by row.
    indexes = await connection.fetch(INDEXES)
    for name, _ in indexes:
        await connection.execute(f"DROP INDEX {name}")
    await connection.execute(f"INSERT INTO runs SELECT {chosen} FROM {source}")
    await connection.execute("CREATE TEMP TABLE hashes (name text, value text, tag bigint)")
    values = (
        [("region", one) for one in ("north", "south")]
        + [("customer", f"c{n}") for n in range(CUSTOMERS)]
        + [("batch", "old")]
    )
    await connection.copy_records_to_table("hashes", records=[(*one, tag_hash(*one)) for one in values])
    for name in ("region", "customer", "batch"):
        join = f"runs r JOIN hashes h ON h.name = '{name}' AND h.value = r.tags ->> '{name}'"
        await connection.execute(f"INSERT INTO tags SELECT h.tag, r.kind, r.id FROM {join}")
    await connection.execute("DELETE FROM inbox")
    await connection.execute("SET maintenance_work_mem = '512MB'")
    for _, definition in indexes:
        await connection.execute(definition)
    await connection.execute("VACUUM (ANALYZE) runs, tags")
    await connection.close()


# ---- asking


async def ask(url: str, now: int) -> dict[str, float]:
    """Ask for each page a few times; return the medians in milliseconds."""
    site = create_app(url, access=Access.on_loopback())
    found = {}
    try:
        async with client_of(site, timeout=120) as client:
            await client.get("/api/instances")
            for name, question in QUESTIONS.items():
                seconds = []
                for _ in range(REPEATS):
                    began = time.perf_counter()
                    got = await client.get("/api/instances", params=_dated(question, now))
                    seconds.append(time.perf_counter() - began)
                    assert got.status_code == 200, got.text
                found[name] = statistics.median(seconds) * 1e3
                print(f"{name:28} {found[name]:8.1f} ms  {len(got.json()['instances']):3} rows", flush=True)
            for path in ("/api/overview", "/api/count", "/api/instances/seed"):
                began = time.perf_counter()
                assert (await client.get(path)).status_code == 200
                print(f"{path:28} {(time.perf_counter() - began) * 1e3:8.1f} ms", flush=True)
    finally:
        await site.aclose()
    return found


def _dated(question: dict[str, Any], now: int) -> dict[str, Any]:
    hour = now // 1_000_000 - 5 * 3600
    times = {"HOUR": hour, "HOUR+1": hour + 3600}
    return {
        name: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(times[value])) if value in times else value
        for name, value in question.items()
        if not isinstance(value, list)
    } | {name: value for name, value in question.items() if isinstance(value, list)}


# ---- the stores


@contextlib.contextmanager
def sqlite_store(count: int, folder: Path) -> Iterator[tuple[str, int]]:
    path = folder / "large.db"
    now = asyncio.run(_seed(f"sqlite:///{path}"))
    fill_sqlite(path, count, now)
    yield f"sqlite:///{path}?mode=rw", now


@contextlib.contextmanager
def postgres_store(count: int, folder: Path) -> Iterator[tuple[str, int]]:
    folder.chmod(0o755)
    server = PostgresServer(folder / "server")
    server.start()
    try:
        url = server.empty_database()
        now = asyncio.run(_seed(url))
        asyncio.run(fill_postgres(url, count, now))
        yield url, now
    finally:
        server.remove()


async def _seed(url: str) -> int:
    async with Client(url) as client:
        await client.start("seed", 1, instance_id="seed")
        return await client.connection.clock.now(client.connection.provider)


STORES: dict[str, Callable[[int, Path], contextlib.AbstractContextManager[tuple[str, int]]]] = {
    "sqlite": sqlite_store,
    "postgres": postgres_store,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--store", choices=sorted(STORES), default="sqlite")
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="at-size-") as folder:
        began = time.perf_counter()
        with STORES[asked.store](asked.instances, Path(folder)) as (url, now):
            print(f"{asked.instances:,} instances in {time.perf_counter() - began:.0f} s", flush=True)
            medians = asyncio.run(ask(url, now))
            for line in plans(asked.store, url):
                print(line)
    worst = max(medians, key=medians.__getitem__)
    ledger = {
        "store": asked.store,
        "instances": asked.instances,
        "median_ms": round(statistics.median(medians.values()), 1),
        "worst": worst,
        "worst_ms": round(medians[worst], 1),
        "over_bound": [name for name, ms in medians.items() if ms > BOUND_MS],
    }
    print(json.dumps(ledger))
    return 1 if ledger["median_ms"] > BOUND_MS else 0


def plans(store: str, url: str) -> Iterator[str]:
    """Yield how the database reads a listing along each of its ways."""
    if store == "sqlite":
        database = sqlite3.connect(url.removeprefix("sqlite:///").partition("?")[0])
        for name, statement in SQLITE_STATEMENTS.items():
            yield f"-- {name}"
            yield from (f"   {row[3]}" for row in database.execute(f"EXPLAIN QUERY PLAN {statement}"))
        database.close()
    else:
        yield from asyncio.run(_postgres_plans(url))


async def _postgres_plans(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    await connection.execute("SET search_path = durable_default")
    found = []
    for name, statement in POSTGRES_STATEMENTS.items():
        found.append(f"-- {name}")
        rows = await connection.fetch(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) {statement}")
        found += [f"   {row[0]}" for row in rows]
    await connection.close()
    return found


ORDER = "ORDER BY created_at DESC, id DESC LIMIT 51"
SQLITE_STATEMENTS = {
    "by status": f"SELECT * FROM runs INDEXED BY runs_listed WHERE hub = 1 AND place = 0 AND kind = 'o' AND status = 4 {ORDER}",
    "by name": (
        "SELECT * FROM runs INDEXED BY runs_named WHERE hub = 1 AND place = 0 AND kind = 'o' AND name = 'order'"
        f" {ORDER}"
    ),
    "few, by tag": (
        "SELECT * FROM (SELECT number FROM tags WHERE hub = 1 AND name = 'customer' AND value = 'c7') AS found"
        f" CROSS JOIN runs ON runs.number = found.number WHERE runs.hub = 1 AND runs.place = 0 {ORDER}"
    ),
    "few, by prefix": (
        "SELECT count(*) FROM (SELECT number FROM runs INDEXED BY runs_by_key WHERE hub = 1 AND place = 0 AND kind = 'o'"
        " AND id >= 'order-00' AND id < 'order-01' LIMIT 10001)"
    ),
}
POSTGRES_STATEMENTS = {
    "by status": f"SELECT * FROM runs WHERE kind = 'o' AND status = 4 {ORDER}",
    "by name": f"SELECT * FROM runs WHERE kind = 'o' AND name = 'order' {ORDER}",
    "by rare name": f"SELECT * FROM runs WHERE kind = 'o' AND name = 'yearly' {ORDER}",
}

if __name__ == "__main__":
    sys.exit(main())
