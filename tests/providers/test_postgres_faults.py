"""The PostgreSQL store when the server, the wire or others are in the way: one effect each, clear words, and on it goes."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import asyncpg
import durable_postgres
import pytest
from durable_postgres import connections

from durable import App, Client, OrchestrationContext, Worker
from durable.errors import StoreError, StoreUnavailableError
from durable.ports import system_ports
from durable.provider import Batch, Report, Wakeup
from durable.testing.conformance import GROUPS, Connect, Session
from durable.testing.conformance.store import attempt_of, event_to, new_row, start_of, step_of, wait_for
from tests.postgres_proxy import CuttingProxy
from tests.postgres_server import PostgresServer, folder_in_memory, run_sql


async def opened(url: str) -> durable_postgres.PostgresProvider:
    provider = durable_postgres.connect(url, system_ports())
    await provider.open()
    return provider


async def session_on(url: str, *, takes: bool = True) -> Session:
    provider = await opened(url)
    session = Session(provider, await provider.lease("worker", b"", worker=True))
    if takes:
        await provider.take(session.lease, range(64), from_live=True)
    return session


class Cuts:
    """Cuts the answer of every so-manieth call of a function."""

    def __init__(self, function: str, every: int = 2) -> None:
        self._function = f".{function}_v1("
        self._every = every
        self._seen = 0

    def __call__(self, sql: str) -> bool:
        if self._function not in sql:
            return False
        self._seen += 1
        return (self._seen - 1) % self._every == 0


def through(url: str, server: PostgresServer, proxy: CuttingProxy) -> str:
    return url.replace(str(server.port), str(proxy.port))


# ---- the wire breaks between COMMIT and its answer


async def test_a_commit_whose_answer_is_cut_off_is_written_once(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    async with CuttingProxy(postgres_server.port, Cuts("commit")) as proxy:
        session = await session_on(through(postgres_url, postgres_server, proxy))
        row = await session.start("instance")
        expected = []
        for number in range(20):
            committed = await session.commit(
                step_of(row, f"{number}".encode()), messages=[event_to("instance", f"{number}".encode())]
            )
            expected.append(committed.deliveries[0].sequence)
            row = await session.load("instance")
        assert proxy.cuts >= 10
        assert await session.history(row.run_id) == [f"{number}".encode() for number in range(20)]
        assert [message.sequence for message in await session.receive()] == expected
        await session.provider.close()


async def test_a_submit_whose_answer_is_cut_off_is_stored_once(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    async with CuttingProxy(postgres_server.port, Cuts("submit")) as proxy:
        session = await session_on(through(postgres_url, postgres_server, proxy))
        row = await session.start("instance")
        for number in range(20):
            await session.submit(event_to("instance", f"{number}".encode()), start_of(new_row(f"child-{number}")))
        assert proxy.cuts >= 10
        received = await session.receive()
        assert [m.data for m in received if m.target == row.key] == [f"{number}".encode() for number in range(20)]
        assert len(received) == 40
        await session.provider.close()


async def test_an_outcome_whose_answer_is_cut_off_is_delivered_once(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    async with CuttingProxy(postgres_server.port, Cuts("report", every=1)) as proxy:
        session = await session_on(postgres_url)
        worker = await session_on(through(postgres_url, postgres_server, proxy), takes=False)
        row = await session.start("instance")
        adds = [attempt_of(row, n) for n in range(3)]
        await session.commit(step_of(row, queue_adds=adds))
        reports = [Report(add.task, event_to("instance", b"outcome", run_id=row.run_id)) for add in adds]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connections, "RETRY_S_MAX", 0.2)
            with pytest.raises(StoreUnavailableError, match="it is unknown whether it did"):
                await worker.provider.report(worker.lease, reports)
        assert proxy.cuts > 1
        assert len(await session.receive()) == 3
        for each in (session, worker):
            await each.provider.close()


async def test_a_claim_whose_answer_is_cut_off_strands_nothing(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    async with CuttingProxy(postgres_server.port, Cuts("claim")) as proxy:
        session = await session_on(through(postgres_url, postgres_server, proxy))
        row = await session.start("instance")
        await session.commit(step_of(row, queue_adds=[attempt_of(row, n) for n in range(6)]))
        held = {attempt.task for attempt in await session.claim(limit=2)}
        while claimed := await session.provider.claim(session.lease, ["default"], None, 2, held=held):
            held |= {attempt.task for attempt in claimed}
        assert sorted(task.task_id for task in held) == list(range(6))
        await session.provider.close()


async def test_what_is_told_of_a_doubtful_call_lets_nothing_overtake(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    """Its messages are left to be read: then the number shows that something was left out."""
    async with CuttingProxy(postgres_server.port, Cuts("submit", every=3)) as proxy:
        session = await session_on(through(postgres_url, postgres_server, proxy))
        heard: list[Wakeup] = []
        session.provider.listen(heard.append)
        known, last = set[bytes](), 0
        await session.submit(start_of(new_row("instance"), data=b"start"))  # cut
        for number in range(9):
            await session.submit(event_to("instance", f"{number}".encode()))
            await asyncio.sleep(0)
        await wait_for(lambda: any(b"8" in {m.data for m in wakeup.messages} for wakeup in heard))
        left_out = 0
        for wakeup in heard:
            if wakeup.number != last + 1:
                left_out += 1
                known |= {message.data for message in await session.receive()}
            last = wakeup.number
            known |= {message.data for message in wakeup.messages}
            told = sorted(int(data) for data in known if data != b"start")
            assert told == list(range(len(told))), "an event was told before an older one"
        assert left_out >= 3
        await session.provider.close()


# ---- the server goes away and comes back


@pytest.fixture(scope="module")
def frail_server() -> Iterator[PostgresServer]:
    """A server that may be stopped. It waits for the disk as PostgreSQL does by itself."""
    server = PostgresServer(folder_in_memory(), durable=True)
    server.start()
    yield server
    server.remove()


async def test_calls_wait_for_a_server_that_crashes_and_starts_again(
    frail_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    session = await session_on(f"{frail_server.url()}?hub=crash")
    row = await session.start("instance")
    with caplog.at_level(logging.WARNING, "durable.postgres"):
        await asyncio.to_thread(frail_server.stop)
        commit = asyncio.create_task(session.commit(step_of(row, b"record")))
        loads = [asyncio.create_task(session.load(row.key.id)) for _ in range(10)]
        await asyncio.sleep(0.3)
        assert not commit.done()
        await asyncio.to_thread(frail_server.start)
        await commit
        await asyncio.gather(*loads)
    assert await session.history(row.run_id) == [b"record"]
    said = [record.getMessage() for record in caplog.records if record.name == "durable.postgres"]
    assert len(said) == 2, "once that it is away, once that it is back"
    assert "does not answer" in said[0]
    assert "answers again" in said[1]
    await session.provider.close()


async def test_a_call_says_after_a_while_that_the_server_stays_away(
    frail_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "RETRY_S_MAX", 0.5)
    session = await session_on(f"{frail_server.url()}?hub=away")
    await asyncio.to_thread(frail_server.stop)
    try:
        for call in (session.load("instance"), session.commit(), session.submit()):
            with pytest.raises(StoreUnavailableError, match="does not answer"):
                await call
        with pytest.raises(StoreUnavailableError):
            await opened(frail_server.url())
    finally:
        await asyncio.to_thread(frail_server.start)
    await session.commit()
    await session.provider.close()


async def test_workers_wait_for_a_server_and_clients_fail_after_their_timeout(
    frail_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "RETRY_S_MAX", 0.3)
    app = App()

    @app.orchestrator
    async def waits(ctx: OrchestrationContext) -> Any:
        return await ctx.wait_for_external_event("go")

    url = f"{frail_server.url()}?hub=waiting"
    async with Worker(app, url) as worker, Client(url) as client:
        handle = await client.start(waits)
        await asyncio.to_thread(frail_server.stop)
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="had not ended|is PENDING|is RUNNING"):
            await handle.result(timeout=1.0)
        assert time.monotonic() - began < 4.0
        with pytest.raises(StoreError):
            await handle.state()
        await asyncio.to_thread(frail_server.start)
        await handle.raise_event("go", "gone on")
        assert await handle.result(timeout=30) == "gone on"
        assert await worker.client.run(waits, events=[("go", 1)], timeout=30) == 1


async def test_listening_goes_on_after_its_connection_was_killed(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    listener = await session_on(postgres_url, takes=False)
    heard: list[Wakeup] = []
    listener.provider.listen(heard.append)
    listening = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
    for _ in range(2):
        await wait_for(lambda: run_sql(postgres_url, listening))
        heard.clear()
        notify = "SELECT pg_notify('durable_' || store_id, 'another:s:0') FROM durable_default.hub"
        await asyncio.to_thread(run_sql, postgres_url, notify)
        await wait_for(lambda: any(wakeup.states for wakeup in heard))
        heard.clear()
        run_sql(postgres_url, f"SELECT pg_terminate_backend(pid) FROM ({listening}) AS listening")
        await wait_for(lambda: any(wakeup.anything for wakeup in heard))  # what was told meanwhile was not heard
    await listener.provider.close()


async def test_killed_connections_are_made_again_in_the_middle_of_everything(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    session = await session_on(postgres_url)
    row = await session.start("instance")
    is_over = False

    async def kill() -> None:
        while not is_over:
            await asyncio.sleep(0.2)
            await asyncio.to_thread(
                run_sql,
                postgres_url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'durable' AND datname = current_database()",
            )

    killing = asyncio.create_task(kill())
    for number in range(60):
        await session.commit(step_of(row, f"{number}".encode()), messages=[event_to("instance", b"event")])
        row = await session.load("instance")
    is_over = True
    await killing
    assert await session.history(row.run_id) == [f"{number}".encode() for number in range(60)]
    assert len(await session.receive()) == 60
    await session.provider.close()


# ---- others are in the way


async def test_two_who_lock_each_others_instances_are_both_served(postgres_url: str) -> None:
    """Each of two workers sends to the other's instances, in the order that is worst for it."""
    first, second = await session_on(postgres_url), await session_on(postgres_url, takes=False)
    rows = [await first.start(f"i{n}") for n in range(40)]
    await first.provider.release(first.lease, range(32))
    await second.provider.take(second.lease, range(32))
    sides = [
        (first, [row for row in rows if row.partition >= 32]),
        (second, [row for row in rows if row.partition < 32]),
    ]

    async def work(session: Session, mine: list[Any], others: list[Any]) -> None:
        for turn in range(15):
            steps = [step_of(dataclasses.replace(row, records=turn), b"x") for row in mine]
            targets = others if turn % 2 else others[::-1]
            await session.commit(*steps, messages=[event_to(row.key.id) for row in targets])

    await asyncio.gather(work(*sides[0], sides[1][1]), work(*sides[1], sides[0][1]))
    [(deadlocks,)] = await asyncio.to_thread(
        run_sql, postgres_url, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )
    assert deadlocks == 0
    assert len(await first.receive()) == 15 * len(sides[0][1])
    for session, _ in sides:
        await session.provider.close()


class TestSerializable(GROUPS["concurrency"]):  # type: ignore[misc]
    """On a database whose transactions are serializable by default, so that many must be tried again."""

    @pytest.fixture
    def connect(self, postgres_server: PostgresServer, postgres_url: str) -> Iterator[Connect]:
        postgres_server.execute("ALTER DATABASE test SET default_transaction_isolation = 'serializable'")
        yield lambda ports: durable_postgres.connect(postgres_url, ports, clock=ports.now_us)
        postgres_server.execute("ALTER DATABASE test RESET default_transaction_isolation")


# ---- idle


async def test_looking_for_work_where_there_is_none_writes_nothing(postgres_url: str) -> None:
    session = await session_on(postgres_url)
    await session.start("instance")

    async def look() -> None:
        for _ in range(5):
            await session.receive()
            assert not await session.claim()
            await session.provider.receive(session.lease, (), 10, served=[("default", "act")])

    await look()
    [before] = await asyncio.to_thread(run_sql, postgres_url, "SELECT pg_current_xact_id()::text::bigint AS xid")
    await look()
    [after] = await asyncio.to_thread(run_sql, postgres_url, "SELECT pg_current_xact_id()::text::bigint AS xid")
    assert after["xid"] - before["xid"] == 1
    await session.provider.close()


async def test_idle_workers_ask_the_server_a_few_times_a_second(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many instances wait: an inbox and a queue are looked at once a second, and the lease is renewed."""
    asked: list[str] = []
    fetch = connections.Lane.fetch

    async def noting_fetch(lane: connections.Lane, statement: str, *values: Any, **late: Any) -> Any:
        asked.append(statement)
        return await fetch(lane, statement, *values, **late)

    monkeypatch.setattr(connections.Lane, "fetch", noting_fetch)
    app = App()

    @app.orchestrator
    async def waits(ctx: OrchestrationContext) -> Any:
        return await ctx.wait_for_external_event("go", timeout=timedelta(days=1))

    async with Worker(app, postgres_url) as worker:
        for number in range(200):
            await worker.client.start(waits, instance_id=f"i{number}")
        while await worker.client.count(status="RUNNING") < 200:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        asked.clear()
        await asyncio.sleep(3.0)
        assert 3 <= len(asked) <= 12, asked


async def test_a_commit_is_one_round_trip_whatever_its_size(postgres_server: PostgresServer, postgres_url: str) -> None:
    asked: list[str] = []

    def note(sql: str) -> bool:
        asked.append(sql)
        return False

    async with CuttingProxy(postgres_server.port, note) as proxy:
        session = await session_on(f"{through(postgres_url, postgres_server, proxy)}?notify=off")
        rows = [await session.start(f"i{n}") for n in range(50)]
        for turn in range(3):
            asked.clear()
            steps = [step_of(dataclasses.replace(row, records=turn), b"x") for row in rows]
            batch = Batch(session.commits + 1, steps, [event_to(row.key.id) for row in rows])
            await session.provider.commit(session.lease, batch)
            session.commits += 1
            assert len(asked) == 1
            assert "commit_v1" in asked[0]
        await session.provider.close()


async def test_a_connection_is_closed_with_its_provider(postgres_server: PostgresServer, postgres_url: str) -> None:
    session = await session_on(postgres_url)
    session.provider.listen(lambda wakeup: None)
    await asyncio.gather(*(session.find("x") for _ in range(20)))
    await session.provider.close()
    connection = await asyncpg.connect(postgres_url)
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    until = time.monotonic() + 5
    while await connection.fetchval(count):
        assert time.monotonic() < until
        await asyncio.sleep(0.02)
    await connection.close()
