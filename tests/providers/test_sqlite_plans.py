"""No call of a worker gets slower with the number of instances.

Goal: a million dormant instances cost a worker nothing. Method: record every statement of a scenario that makes every
call, ask SQLite how it would run each, and refuse a walk through a table that grows.
"""

from __future__ import annotations

import itertools
import re
import sqlite3
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import durable_sqlite
import pytest
from durable_sqlite import listings
from durable_sqlite.listings import FEW, list_rows

from durable.provider import PARTITIONS, Beat, Expects, InstanceFilter, Report, Status
from durable.testing.conformance import Session, Store
from durable.testing.conformance.store import LATER_US, attempt_of, end_of, event_to, memo, new_row, start_of, step_of
from tests.sizes import sized

GROWING = ("runs", "history", "inbox", "inbox_later", "queue", "memos", "tags", "large_values")

# Walks that are meant, by a piece of the statement: what is walked is short, or the call asks for all of it.
MEANT = {
    "SELECT 1 FROM inbox_later INDEXED BY inbox_parked WHERE hub = 1 AND parked = 1 LIMIT 1": "stops at the first",
    "SELECT 1 FROM runs INDEXED BY runs_waiting WHERE hub = 1 AND place = 2 LIMIT 1": "stops at the first",
    "SELECT priority, sequence FROM inbox INDEXED BY inbox_control ": "likewise",
    "SELECT group_concat(sequence) FROM (SELECT sequence FROM inbox ": "from its beginning; stops at the limit",
    "SELECT sequence, kind, id FROM inbox": "parking and purging look at the messages that wait, once for all targets",
    "SELECT sequence, kind, id FROM inbox_later": "likewise",
}


class _Statements:
    """The statements that connections have run."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def listen(self, provider: Any) -> None:
        opened = provider._opened
        for connection in (opened.read, opened.write.database):
            connection.set_trace_callback(self.found.append)

    def plans(self, database: sqlite3.Connection) -> Iterator[tuple[str, str]]:
        """Yield each statement of a table with a line of its plan."""
        for statement in dict.fromkeys(self.found):
            if statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT")):
                for row in database.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall():
                    yield statement, row[3]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    url = f"sqlite:///{tmp_path}/store.db"
    return Store(lambda ports: durable_sqlite.connect(url, ports), has_clock=True)


async def _everything(session: Session, other: Session, store: Store) -> None:
    """Make every call that a worker makes, and every call of a client but listings."""
    later = store.now + LATER_US
    row = await session.start("one", tags={"a": "b"}, input=bytes(2000))
    parked, queued = await session.start("parked"), await session.start("queued")
    await session.submit(start_of(new_row("late"), visible_at=later), event_to("one", priority=0))
    await session.commit(step_of(parked, parked_until=later), memos=[memo("memo", expires_at=later)])
    await session.submit(event_to("parked"), event_to("nobody", otherwise=memo("other", expires_at=1)))
    adds = [attempt_of(queued, n) for n in range(3)]
    await session.commit(step_of(queued, queue_adds=adds), step_of(row, b"record", due_at=5, open_work=1))
    await session.commit(step_of(await session.load("one"), b"record", due_at=5, open_work=1))
    [claimed, second, _] = await session.claim()
    await session.provider.report(
        session.lease, [Report(claimed.task, event_to("queued"))], [Beat(second.task, b"beat")]
    )
    session.provider.mark_slow_turn(session.lease, row.key, row.run_id)
    messages = (await session.received(due_before=10)).messages
    row = await session.load("one")
    new = new_row("one", tags={"a": "c"})
    [start] = await session.submit(start_of(new, Expects.ANY))
    consumed = [start.sequence, *(message.sequence for message in messages if message.target == row.key)]
    await session.commit(
        end_of(row, status=Status.TERMINATED, consumed=consumed, replaced_by=new, drop_generations_below=1),
        step_of(parked, changes={"tags": {"x": "y"}, "output": bytes(2000)}),
        step_of(queued, queue_drops=[second.task]),
    )
    await session.history(row.run_id)
    await session.load("one", row.run_id)
    await session.provider.recover(session.lease, range(PARTITIONS))
    done = await session.finish(await session.load("parked"))
    await session.provider.purge([(done.key, done.run_id), (row.key, row.run_id)])
    await session.provider.renew(session.lease, b"news")
    await other.provider.renew(other.lease)
    await session.provider.release(session.lease, [1])
    await other.provider.take(other.lease, [1])
    await session.provider.release(session.lease)


async def test_no_call_walks_through_what_grows(store: Store) -> None:
    statements = _Statements()
    session, other = await store.worker(), await store.worker(())
    for provider in (session.provider, other.provider):
        statements.listen(provider)
    await _everything(session, other, store)
    database = other.provider._opened.read  # type: ignore[attr-defined]
    plans = list(statements.plans(database))
    await store.close()
    assert len({statement.partition(" ")[0] for statement, _ in plans}) == 4
    walks = [
        f"{line}: {statement}"
        for statement, line in plans
        if (match := re.match(r"SCAN (\w+)", line)) and match[1] in GROWING
        if not any(statement.startswith(meant) for meant in MEANT)
    ]
    # A search by the hub alone is a walk as well.
    walks += [
        f"{line}: {statement}"
        for statement, line in plans
        if (match := re.match(r"SEARCH (\w+) .*\(hub=\?\)$", line)) and match[1] in GROWING
        if not any(statement.startswith(meant) for meant in MEANT)
    ]
    assert not walks, "\n".join(walks)


async def test_a_listing_by_name_reads_as_far_as_its_page_goes(store: Store) -> None:
    """However many instances there are of other names, and of its own."""
    session = await store.worker()
    connection = session.provider._opened.write  # type: ignore[attr-defined]
    many = DORMANT.replace("n < 1000000", f"n < {2 * FEW + 10}").replace(
        "'sleeper'", "CASE n % 2 WHEN 0 THEN 'common' ELSE 'other' END"
    )
    connection.begin()
    connection.database.execute(many)
    connection.commit()
    connection.end()
    await session.start("one", name="rare")
    asked: list[tuple[str, list[Any]]] = []
    fetch = session.provider._fetch  # type: ignore[attr-defined]

    async def listening(statement: str, values: Any) -> Any:
        asked.append((statement, list(values)))
        return await fetch(statement, values)

    for name, rows in (("rare", 1), ("common", 20), ("none", 0)):
        asked.clear()
        page = await list_rows(listening, 1, InstanceFilter(name=name), 20, None, newest_first=True)
        assert len(page.rows) == rows
        plans = [line for one, of in asked for line in connection.database.execute(f"EXPLAIN QUERY PLAN {one}", of)]
        told = "\n".join(line[3] for line in plans)
        assert re.search(r"SEARCH runs USING (COVERING )?INDEX runs_named \(hub=\? AND kind=\? AND name=\?\)", told), (
            told
        )
        assert not re.search("SCAN runs|runs_listed", told), told
        assert ("TEMP B-TREE" in told) == (name != "common"), told
    await store.close()


async def test_a_listing_by_a_tag_that_many_old_ones_have_begins_with_those(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of their creation, page by page, whatever else is asked; and it stops where the page ends."""
    monkeypatch.setattr(listings, "FEW", 5)
    session = await store.worker()
    database = session.provider._opened.write.database  # type: ignore[attr-defined]
    database.execute("BEGIN")
    # 300 in pairs of the same moment; the first 60 are the old ones.
    many = DORMANT.replace("n < 1000000", "n < 300").replace("'sleeper', n,", "'sleeper', n / 2,")
    database.execute(many.replace("CASE n % 2 WHEN 0 THEN 1", "CASE WHEN n % 3 > 0 THEN 1"))
    database.execute("INSERT INTO tags SELECT 1, 'age', 'old', created_at, number FROM runs WHERE created_at < 30")
    database.execute("INSERT INTO tags SELECT 1, 'some', 'x', created_at, number FROM runs WHERE created_at % 2 = 0")
    database.execute("COMMIT")
    rows = list(database.execute("SELECT created_at, id, status FROM runs"))
    asked: list[tuple[str, list[Any]]] = []
    fetch = session.provider._fetch  # type: ignore[attr-defined]

    async def listening(statement: str, values: Any) -> Any:
        asked.append((statement, list(values)))
        return await fetch(statement, values)

    for newest_first in (True, False):
        for tags, status, after in itertools.product(
            ({"age": "old"}, {"age": "old", "some": "x"}), ((), (Status.RUNNING, Status.COMPLETED)), (None, 7)
        ):
            wanted = InstanceFilter(tags=tags, status=status, created_after=after)
            expected = sorted(
                (at, key)
                for at, key, _ in rows
                if at < 30 and (len(tags) == 1 or at % 2 == 0) and (after is None or at >= after)
            )
            found: list[tuple[int, str]] = []
            page: bytes | None = None
            while not found or page is not None:
                answer = await list_rows(listening, 1, wanted, 7, page, newest_first=newest_first)
                found += [(row.created_at, row.key.id) for row in answer.rows]
                page = answer.next_page
            assert found == (expected[::-1] if newest_first else expected), wanted
            assert await listings.count_rows(fetch, 1, wanted) == len(expected)
    plan = [line[3] for line in database.execute(f"EXPLAIN QUERY PLAN {asked[-1][0]}", asked[-1][1])]
    assert plan[0].startswith("SEARCH tags USING PRIMARY KEY (hub=? AND name=? AND value=? AND created_at>?"), plan
    assert not any("USE TEMP B-TREE FOR ORDER BY" in line for line in plan), plan  # at most for the ids of one moment
    await store.close()


DORMANT = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1000000)
INSERT INTO runs (hub, place, kind, id, run_id, partition, status, generation, records, chain, updated_at, due_at,
    open_work, parked_until, state, slow_turns, slow_since, name, created_at, scheduled_at, input)
SELECT 1, 0, 'o', 'dormant ' || n, 'run ' || n, n % 64, CASE n % 2 WHEN 0 THEN 1 ELSE 4 END, 0, 1, x'00', n,
    CASE n % 4 WHEN 0 THEN 3000000000000000 + n END, 0, 0, x'', 0, 0, 'sleeper', n, n, x'00' FROM numbers
"""
DELAYED = """
INSERT INTO inbox_later (hub, sequence, partition, priority, visible_at, kind, id, data, parked)
SELECT 1, 1000000 + number, partition, 1, 3000000000000000, kind, id, x'00', number % 2 FROM runs LIMIT 200000
"""


async def _seconds(session: Session) -> dict[str, float]:
    """What each call takes, as the median of some."""
    row = await session.load("busy")
    found: dict[str, list[float]] = {"receive": [], "recover": [], "renew": [], "commit": [], "claim": [], "submit": []}
    for _ in range(15):
        row = await session.load("busy")
        calls = {
            "receive": lambda: session.received(due_before=2_000_000_000_000_000),
            "recover": lambda: session.provider.recover(session.lease, range(PARTITIONS)),
            "renew": lambda: session.provider.renew(session.lease),
            "commit": lambda row=row: session.commit(step_of(row, b"record", open_work=1)),
            "claim": session.claim,
            "submit": lambda: session.submit(event_to("busy")),
        }
        for name, call in calls.items():
            began = time.perf_counter()
            await call()  # type: ignore[operator]
            found[name].append(time.perf_counter() - began)
        await session.commit(consumed=[message.sequence for message in await session.receive()])
    return {name: statistics.median(times) for name, times in found.items()}


@pytest.mark.size
@pytest.mark.timeout(300)
async def test_a_million_dormant_instances_slow_nothing(store: Store) -> None:
    """A million at full size."""
    session = await store.worker()
    await session.start("busy")
    await session.commit(step_of(await session.load("busy"), open_work=1))
    before = await _seconds(session)
    connection = session.provider._opened.write  # type: ignore[attr-defined]
    connection.begin()
    connection.database.execute(DORMANT.replace("n < 1000000", f"n < {sized(1_000_000, 200_000)}"))
    connection.database.execute(DELAYED)
    connection.commit()
    connection.checkpoint()
    connection.end()
    after = await _seconds(session)
    await store.close()
    slower = {name: (before[name], after[name]) for name in before if after[name] > 3 * before[name] + 0.005}
    assert not slower, slower
