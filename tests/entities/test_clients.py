"""What clients do with entities: signal them, look at them, list them; without a worker, and in both faces."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable import (
    App,
    Client,
    EntityId,
    EntityState,
    InstanceNotFoundError,
    InvalidInputError,
    LimitExceededError,
    UnknownNameError,
    Worker,
)
from durable.testing import replay

app = App()


@app.entity
class Counter:
    value: int = 0
    note: str = ""

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    def annotate(self, note: str) -> None:
        if note == "bad":
            raise ValueError("no such note")
        self.note = note


@app.entity(name="other@home")
class Other:
    value: int = 0

    def add(self, amount: int) -> None:
        self.value += amount


async def found(client: Client, entity: EntityId[Any], *, seconds: float = 20) -> EntityState[Any]:
    async with asyncio.timeout(seconds):
        while (state := await client.get_entity(entity)) is None:
            await asyncio.sleep(0.005)
    return state


async def test_a_signal_waits_for_a_worker_and_is_performed_once(store_url: str) -> None:
    async with Client(store_url) as client:  # without an app: the class alone will do
        for _ in range(3):
            await client.signal_entity(EntityId(Counter, "a"), Counter.add, 5)
        assert await client.get_entity(EntityId(Counter, "a")) is None
        async with Worker(app, store_url):
            async with asyncio.timeout(20):
                while (await found(client, EntityId(Counter, "a"))).state.value != 15:
                    await asyncio.sleep(0.005)
        state = await found(client, EntityId(Counter, "a"))  # and reading needs none
        assert type(state.state) is Counter
        assert state.id == EntityId("Counter", "a")
        assert state.created_at <= state.last_updated_at <= datetime.now(UTC)


async def test_the_state_is_plain_where_nobody_knows_the_class(store_url: str) -> None:
    async with Worker(app, store_url) as worker, Client(store_url) as stranger, Client(store_url, app) as client:
        await stranger.signal_entity(EntityId("Counter", "a"), "add", 5)
        await found(stranger, EntityId("Counter", "a"))
        for asked, kind in ((stranger, dict), (client, Counter), (worker.client, Counter)):
            state = await asked.get_entity(EntityId("Counter", "a"))
            assert state is not None
            assert type(state.state) is kind
        state = await stranger.get_entity(EntityId("Counter", "a"))
        assert state is not None
        assert state.state == {"value": 5, "note": ""}
        assert [type(one.state) async for one in stranger.query_entities()] == [dict]
        assert [type(one.state) async for one in stranger.query_entities(Counter)] == [Counter]
        assert [type(one.state) async for one in client.query_entities("Counter")] == [Counter]


async def test_changing_what_was_read_changes_nothing(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        await worker.client.signal_entity(EntityId(Counter, "a"), Counter.add, 5)
        (await found(worker.client, EntityId(Counter, "a"))).state.value = 100
        assert (await found(worker.client, EntityId(Counter, "a"))).state.value == 5


async def test_a_delayed_signal_comes_at_its_time(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        client, counter = worker.client, EntityId(Counter, "a")
        first, second = (datetime.now(UTC) + timedelta(seconds=seconds) for seconds in (0.3, 0.6))
        await client.signal_entity(counter, "add", 1, at=first)
        await client.signal_entity(counter, "add", 10, at=second)
        await client.signal_entity(counter, "add", 100, at=timedelta(days=1))
        await client.signal_entity(EntityId(Counter, "past"), "add", 5, at=timedelta(days=-1))
        assert (await found(client, EntityId(Counter, "past"))).state.value == 5
        assert (await found(client, counter)).last_updated_at >= first
        async with asyncio.timeout(20):
            while (await found(client, counter)).state.value != 11:
                await asyncio.sleep(0.005)
        assert (await found(client, counter)).last_updated_at >= second


@pytest.mark.parametrize(
    ("signal", "error"),
    [
        (lambda client: client.signal_entity("Counter", "add", 5), TypeError),
        (lambda client: client.signal_entity(EntityId(Counter, "a"), Other.add, 5), UnknownNameError),
        (lambda client: client.signal_entity(EntityId(Counter, "a"), Counter.add, "five"), InvalidInputError),
        (lambda client: client.signal_entity(EntityId(Counter, "a"), "", 5), ValueError),
        (lambda client: client.signal_entity(EntityId(Counter, "a"), 5), TypeError),
        (lambda client: client.signal_entity(EntityId(Counter, "a"), "add", "x" * 3_000_000), LimitExceededError),
        (lambda client: client.signal_entity(EntityId(Counter, "a"), "add", object()), TypeError),
        (lambda client: client.signal_entity(EntityId(Counter, "a"), "add", 5, at=datetime(2030, 1, 1)), ValueError),
        (lambda client: client.signal_entity(EntityId(Counter, "a"), "add", 5, at=5), TypeError),
        (lambda client: client.get_entity("Counter"), TypeError),
        (lambda client: anext(client.query_entities(5)), TypeError),
        (lambda client: anext(client.query_entities(dict)), UnknownNameError),
        (lambda client: anext(client.query_entities(prefix=5)), TypeError),
        (lambda client: anext(client.query_entities(limit=-1)), ValueError),
        (lambda client: anext(client.query_entities(limit=True)), TypeError),
        (lambda client: anext(client.query_entities(updated_after=datetime(2030, 1, 1))), ValueError),
    ],
)
async def test_a_mistake_is_raised_before_anything_is_stored(
    store_url: str, signal: Any, error: type[Exception]
) -> None:
    async with Client(store_url, app) as client:
        with pytest.raises(error):
            await signal(client)
        assert [state async for state in client.query_entities()] == []


# ---- listings


async def filled(client: Client) -> None:
    for key in ("cart-1", "cart-2", "car%-3", "box-1"):
        await client.signal_entity(EntityId(Counter, key), Counter.add, len(key))
        await found(client, EntityId(Counter, key))  # one after the other, so that they are made in this order
    await client.signal_entity(EntityId(Other, "cart-1"), Other.add, 1)
    await found(client, EntityId(Other, "cart-1"))


async def keys(client: Client, *args: Any, **filters: Any) -> list[str]:
    return [str(state.id) async for state in client.query_entities(*args, **filters)]


async def test_entities_are_listed_by_class_key_and_time(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        client = worker.client
        await filled(client)
        counters = ["box-1@Counter", "car%-3@Counter", "cart-2@Counter", "cart-1@Counter"]
        assert await keys(client, Counter) == counters
        assert await keys(client, "Counter", newest_first=False) == counters[::-1]
        assert await keys(client) == ["cart-1@other%40home", *counters]
        assert await keys(client, "other@home") == ["cart-1@other%40home"]
        assert await keys(client, "Nobody") == []
        assert await keys(client, Counter, prefix="cart-") == counters[2:]
        assert await keys(client, Counter, prefix="car%") == ["car%-3@Counter"]
        assert await keys(client, Counter, prefix="cart-1@Cou") == []
        assert await keys(client, prefix="cart-1") == ["cart-1@other%40home", "cart-1@Counter"]
        assert await keys(client, Counter, limit=2) == counters[:2]
        assert await keys(client, Counter, limit=0) == []
        middle = (await found(client, EntityId(Counter, "cart-2"))).last_updated_at
        assert await keys(client, Counter, updated_after=middle) == counters[:3]
        assert await keys(client, Counter, updated_before=middle) == counters[3:]


async def test_a_long_listing_is_paged_inside(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        client = worker.client
        await asyncio.gather(*(client.signal_entity(EntityId(Counter, f"{n}"), "add", n) for n in range(450)))
        async with asyncio.timeout(30):
            while len(await keys(client, Counter)) < 450:
                await asyncio.sleep(0.05)
        states = [state async for state in client.query_entities(Counter)]
        assert sorted(state.state.value for state in states) == list(range(450))


async def test_entities_are_no_orchestrations(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        client = worker.client
        await filled(client)
        assert await client.count() == 0
        assert [state async for state in client.query()] == []
        assert await client.wait(timeout=1) == 0
        assert await client.purge(prefix="c") == 0
        for instance_id in ("cart-1", "cart-1@Counter"):
            with pytest.raises(InstanceNotFoundError):
                await client.get(instance_id).state()


# ---- looking closer


async def test_what_an_entity_did_can_be_read_and_replayed(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        client, counter = worker.client, EntityId(Counter, "a")
        await client.signal_entity(counter, Counter.add, 5)
        await client.signal_entity(counter, "annotate", "bad")
        await client.signal_entity(counter, "annotate", "good")
        async with asyncio.timeout(20):
            while (await found(client, counter)).state.note != "good":
                await asyncio.sleep(0.005)
        history = await client.entity_history(counter)
        assert [type(event).__name__ for event in history] == [
            "OrchestrationStarted",
            *["EntityOperationReceived", "EntityOperationPerformed"] * 3,
        ]
        assert [getattr(event, "operation", None) for event in history][1::2] == ["add", "annotate", "annotate"]
        replay(app, history)
        (dropped,) = await client.entity_dropped(counter)
        assert (dropped.kind, dropped.name) == ("EntityOperationReceived", "annotate")
        assert dropped.reason == "it failed: ValueError: no such note"
        for look in (client.entity_history, client.entity_dropped):
            with pytest.raises(InstanceNotFoundError):
                await look(EntityId(Counter, "nobody"))


async def test_the_failed_signals_of_an_entity_without_a_state_can_be_read(store_url: str) -> None:
    """Nothing else is left of it."""
    async with Worker(app, store_url) as worker:
        client, counter = worker.client, EntityId(Counter, "a")
        await client.signal_entity(counter, "annotate", "bad")
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(InstanceNotFoundError):
                    if items := await client.entity_dropped(counter):
                        break
                await asyncio.sleep(0.005)
        assert [item.reason for item in items] == ["it failed: ValueError: no such note"]
        assert await client.get_entity(counter) is None


async def test_an_entity_that_stalls_before_it_has_a_state_is_seen(store_url: str) -> None:
    """No worker has its class: who looks for it finds the reason."""
    async with Worker(app, store_url) as worker:
        client, unknown = worker.client, EntityId("Unknown", "a")
        await client.signal_entity(unknown, "add", 5)
        async with asyncio.timeout(20):
            while (state := await client.get_entity(unknown)) is None:
                await asyncio.sleep(0.005)
        assert state.state is None
        assert state.stall_reason is not None
        assert "'Unknown'" in state.stall_reason
        assert [one async for one in client.query_entities("Unknown")] == [], "what is listed has a state"
        await client.signal_entity(EntityId(Counter, "a"), Counter.add, 5)
        assert (await found(client, EntityId(Counter, "a"))).stall_reason is None


def test_the_blocking_face_has_it_all(store_url: str) -> None:
    if store_url.startswith("memory"):
        pytest.skip("a store in memory lives in one process's loops; the files suffice here")
    stop, ready = threading.Event(), threading.Event()

    def serve() -> None:
        async def run() -> None:
            async with Worker(app, store_url):
                ready.set()
                while not stop.is_set():
                    await asyncio.sleep(0.01)

        asyncio.run(run())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert ready.wait(20)
        with Client.sync(store_url, app) as client:
            counter = EntityId(Counter, "a")
            client.signal_entity(counter, Counter.add, 5)
            state = client.get_entity(counter)
            while state is None:
                state = client.get_entity(counter)
            assert state.state.value == 5
            assert [str(one.id) for one in client.query_entities(Counter)] == ["a@Counter"]
            assert len(client.entity_history(counter)) == 3
            assert client.entity_dropped(counter) == []
    finally:
        stop.set()
        thread.join()
