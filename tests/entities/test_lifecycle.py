"""From the first message to the last: entities come, live for ever at the same cost, change their code, and go."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    App,
    Client,
    EntityContext,
    EntityId,
    EntityOperationFailedError,
    OrchestrationContext,
    PayloadError,
    Worker,
)
from durable.engine.turn import Turn
from durable.entities.program import EVENTS_MAX
from durable.payloads import encode
from durable.provider import Batch, Committed, InstanceFilter, InstanceRow, Progress, Status, Step
from durable.worker.turns import Turns
from tests.sizes import sized

app = App()


@app.entity
class Counter:
    value: int = 0

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    def fail(self) -> None:
        raise ValueError("no")

    def forget(self, ctx: EntityContext) -> int:
        before, self.value = self.value, -1
        ctx.delete_state()
        self.value = -2
        return before

    def forget_and_fail(self, ctx: EntityContext) -> None:
        ctx.delete_state()
        raise ValueError("no")


@app.entity
class Stateless:
    def echo(self, text: str) -> str:
        return text


@app.orchestrator
async def call(ctx: OrchestrationContext, steps: list[Any]) -> list[Any]:
    found: list[Any] = []
    for name, key, operation, *given in steps:
        try:
            found.append(await ctx.call_entity(EntityId(name, key), operation, *given))
        except EntityOperationFailedError as error:
            found.append(error.details.message)
    return found


async def rows(client: Client) -> list[InstanceRow]:
    page = await client.connection.provider.list_instances(InstanceFilter(kind="e"), limit=1000)
    return list(page.rows)


async def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    """Wait for an asynchronous condition."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.005)


async def until_gone(client: Client) -> None:
    async def is_gone() -> bool:
        return not await rows(client)

    await until(is_gone)


async def until_value(client: Client, entity: EntityId[Any], value: int, seconds: float = 20) -> None:
    async def is_there() -> bool:
        found = await client.get_entity(entity)
        return found is not None and found.state.value == value

    await until(is_there, seconds)


# ---- coming and going


@pytest.mark.parametrize(
    ("steps", "results"),
    [
        ([["Counter", "a", "add", 5], ["Counter", "a", "forget"]], [5, 5]),
        ([["Counter", "a", "fail"]], ["no"]),
        ([["Counter", "a", "nothing"]], None),
        ([["Stateless", "a", "echo", "x"], ["Stateless", "b", "echo", "y"]], ["x", "y"]),
    ],
)
async def test_an_entity_without_a_state_disappears(
    store_url: str, steps: list[Any], results: list[Any] | None
) -> None:
    async with Worker(app, store_url) as worker:
        found = await worker.client.run(call, steps, timeout=20)
        assert results is None or found == results
        await until_gone(worker.client)
        assert await worker.client.get_entity(EntityId(Counter, "a")) is None


async def test_who_comes_again_begins_anew(store_url: str) -> None:
    add, forget = ["Counter", "a", "add", 5], ["Counter", "a", "forget"]
    async with Worker(app, store_url) as worker:
        assert await worker.client.run(call, [add, forget] * 5 + [add], timeout=20) == [5, 5] * 5 + [5]
        await until_value(worker.client, EntityId(Counter, "a"), 5)


async def test_a_deletion_that_fails_deletes_nothing(store_url: str) -> None:
    steps = [["Counter", "a", "add", 5], ["Counter", "a", "forget_and_fail"], ["Counter", "a", "add", 1]]
    async with Worker(app, store_url) as worker:
        assert await worker.client.run(call, steps, timeout=20) == [5, "no", 6]


async def test_no_signal_is_lost_to_an_entity_that_goes(store_url: str) -> None:
    """Each `forget` may meet a signal that was accepted a moment before."""
    other = App()

    @other.entity
    class Sum:
        value: int = 0

        def add(self, amount: int) -> None:
            self.value += amount

    @other.entity
    class Fleeting:
        value: int = 0

        def add(self, ctx: EntityContext, amount: int) -> None:
            self.value += amount
            ctx.signal_entity(EntityId(Sum, "sum"), Sum.add, amount)

        def forget(self, ctx: EntityContext) -> None:
            ctx.delete_state()

    async with Worker(other, store_url) as worker:
        client = worker.client

        async def send(number: int) -> None:
            entity = EntityId(Fleeting, f"{number % 3}")
            for _ in range(5):
                await client.signal_entity(entity, Fleeting.add, 1)
                await client.signal_entity(entity, "forget")

        await asyncio.gather(*(send(number) for number in range(30)))
        await until_value(client, EntityId(Sum, "sum"), 150)

        async def is_alone() -> bool:
            return [row.name for row in await rows(client)] == ["Sum"]

        await until(is_alone)


# ---- living for ever


async def drive(client: Client, key: str, count: int, *, before: int = 0) -> float:
    """Send so many signals, after so many, and wait until they are done; return the CPU time that took."""
    began = time.process_time()
    await asyncio.gather(*(client.signal_entity(EntityId(Counter, key), "add", 1) for _ in range(count)))
    await until_value(client, EntityId(Counter, key), before + count, 60)
    return time.process_time() - began


async def test_a_history_does_not_grow(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        await drive(worker.client, "a", 1_500)
        (row,) = await rows(worker.client)
        assert row.generation >= 1_500 * 2 // EVENTS_MAX - 1
        assert len(await worker.client.entity_history(EntityId(Counter, "a"))) <= EVENTS_MAX + 3
        kept = [
            generation
            for generation in range(row.generation + 1)
            if await worker.client.connection.provider.read_history(row.run_id, generation)
        ]
        assert kept == [row.generation - 1, row.generation]


@pytest.mark.size
@pytest.mark.timeout(300)
async def test_what_an_operation_costs_does_not_depend_on_the_entitys_age(store_url: str) -> None:
    wave = sized(500, 250)  # operations
    async with Worker(app, store_url) as worker:
        spans = [await drive(worker.client, "a", wave, before=wave * number) for number in range(20)]
    # The least of several spans: whatever else the process does only adds to one.
    assert min(spans[-6:]) < 1.6 * min(spans[1:7]), spans


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many events each turn of an entity has written."""
    found: list[int] = []
    step = Turns._step

    def counting(self: Turns, live: Any, row: InstanceRow, prepared: Any, turn: Turn, execution: Any) -> Any:
        if row.key.kind == "e":
            found.append(len(turn.record.events))
        return step(self, live, row, prepared, turn, execution)

    monkeypatch.setattr(Turns, "_step", counting)
    return found


async def test_what_is_signaled_for_later_waits_at_rest(store_url: str, turns: list[int]) -> None:
    """Also to an entity that is not there yet, and has nothing to keep but the signal."""
    async with Worker(app, store_url) as worker:
        client = worker.client
        for key in ("a", "b"):
            await client.signal_entity(EntityId(Counter, key), "fail", at=timedelta(seconds=2))
        assert len(await rows(client)) == 2
        await until_gone(client)
    assert len(turns) <= 6


async def test_operations_that_wait_go_in_batches(store_url: str, turns: list[int]) -> None:
    async with Client(store_url) as client:
        for _ in range(400):
            await client.signal_entity(EntityId(Counter, "a"), "add", 1)
        async with Worker(app, store_url):
            await until_value(client, EntityId(Counter, "a"), 400)
    assert len(turns) <= 12, "400 operations in a few commits"


# ---- code that changes


def app_with(cls: type) -> App:
    changed = App()
    changed.include(orchestrators)
    changed.entity(name="Thing")(cls)
    return changed


orchestrators = App()
orchestrators.orchestrator(call)


class First:
    count: int = 0

    def go(self) -> int:
        self.count += 1
        return self.count


class Second:
    count: int = 0
    since: str = "the second release"

    def go(self) -> list[Any]:
        self.count += 10
        return [self.count, self.since]


class Misfit:
    count: list[str] = []

    def go(self) -> int:
        return len(self.count)


GO = [["Thing", "t", "go"]]


@pytest.mark.diverges("the class changes on purpose: a replay outside of a worker performs the operations again")
async def test_a_class_may_change_at_any_time(store_url: str) -> None:
    async with Client(store_url):
        async with Worker(app_with(First), store_url) as worker:
            assert await worker.client.run(call, GO * 3, timeout=20) == [1, 2, 3]
        async with Worker(app_with(Second), store_url) as worker:
            assert await worker.client.run(call, GO * 2, timeout=20) == [
                [13, "the second release"],
                [23, "the second release"],
            ]


async def test_a_state_that_no_longer_fits_holds_the_entity_until_it_does(store_url: str) -> None:
    async with Client(store_url, app_with(Misfit)) as client:
        async with Worker(app_with(First), store_url) as worker:
            assert await worker.client.run(call, GO, timeout=20) == [1]
        async with Worker(app_with(Misfit), store_url):
            handle = await client.start("call", GO)

            async def is_stalled() -> bool:
                (row,) = await rows(client)
                return row.status is Status.STALLED

            await until(is_stalled)
            (row,) = await rows(client)
            assert row.stall_reason is not None
            assert row.stall_reason.startswith("StoredValueError: state of entity 'Thing'")
            with pytest.raises(PayloadError):
                await client.get_entity(EntityId("Thing", "t"))
            assert [state.state async for state in client.query_entities("Thing")] == [{"count": 1}]
        async with Worker(app_with(First), store_url):
            assert await handle.result(30) == [2]


async def test_an_entity_that_no_worker_has_waits_for_one_that_has(store_url: str) -> None:
    async with Client(store_url) as client, Worker(orchestrators, store_url):
        handle = await client.start("call", GO)
        with pytest.raises(TimeoutError):
            await handle.result(0.5)
        (row,) = await rows(client)
        assert row.records == 0
        async with Worker(app_with(First), store_url):
            assert await handle.result(30) == [1]


# ---- what goes wrong


async def test_a_state_that_is_not_the_recorded_one_is_never_used(store_url: str) -> None:
    async with Client(store_url) as client:
        async with Worker(app, store_url) as worker:
            await worker.client.run(call, [["Counter", "a", "add", 5]], timeout=20)
        (row,) = await rows(client)
        await tamper(client, row)
        async with Worker(app, store_url) as worker:
            await client.signal_entity(EntityId(Counter, "a"), "add", 1)

            async def is_stalled() -> bool:
                (row,) = await rows(client)
                return row.status is Status.STALLED

            await until(is_stalled)
        (row,) = await rows(client)
        assert row.stall_reason is not None
        assert row.stall_reason.startswith("HistoryDamagedError: the state of entity 'a@Counter' is not the one")


async def tamper(client: Client, row: InstanceRow) -> Committed:
    """Write another state into the row, as no worker would."""
    provider = client.connection.provider
    lease = await provider.lease("tamperer", b"", worker=True)
    await provider.take(lease, [row.partition])
    fields = [field.name for field in dataclasses.fields(Progress)]
    progress = Progress(**{name: getattr(row, name) for name in fields})
    step = Step(
        row.key,
        row.run_id,
        (row.generation, row.records),
        progress,
        changes={"custom_status": encode({"value": 1_000_000})},
    )
    committed = await provider.commit(lease, Batch(1, [step]))
    await provider.release(lease)
    return committed


async def test_a_large_state_and_large_inputs_pass(store_url: str) -> None:
    other = App()

    @other.entity
    class Pile:
        texts: list[str] = []
        value: int = 0

        def put(self, text: str) -> int:
            self.texts = [*self.texts, text][-2:]
            self.value += len(text)
            return self.value

    size = 900_000
    async with Client(store_url, other) as client:
        for _ in range(30):
            await client.signal_entity(EntityId(Pile, "p"), Pile.put, "x" * size)
        async with Worker(other, store_url):
            await until_value(client, EntityId(Pile, "p"), 30 * size, 60)
        (row,) = await rows(client)
        assert row.generation >= 2, "what is large is long as well"
