"""Operations: what goes in and comes out, in which order they come, and that each is all or nothing.

Method: entities on real workers, on both stores; what they did is read back from results and from their states.
"""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import threading
from typing import Any

import pytest

from durable import (
    ActivityContext,
    App,
    Client,
    EntityContext,
    EntityId,
    EntityOperationFailedError,
    InvalidInputError,
    LimitExceededError,
    Orchestration,
    OrchestrationContext,
    UnknownNameError,
    Worker,
    when_all,
)

app = App()
colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


@app.entity
class Counter:
    value: int = 0
    seen: list[str] = []

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    def get(self) -> int:
        return self.value

    def see(self, text: str = "nothing") -> list[str]:
        self.seen.append(text)
        return self.seen

    def when(self, moment: dt.datetime) -> dt.datetime:
        return moment + dt.timedelta(days=1)

    def grow(self, size: int) -> None:
        self.seen = ["x" * size]

    def spoil(self, value: Any) -> None:
        self.value = value

    def add_name(self) -> None:
        self.name = "kept nowhere"

    def say_all_then_fail(self, ctx: EntityContext, how: str) -> None:
        self.value = 1_000_000
        ctx.signal_entity(EntityId(Counter, "other"), "add", 1)
        ctx.start_orchestration(look, "other", instance_id="started by a failure")
        if how == "exit":
            raise SystemExit(3)
        raise ValueError(f"no: {how}")

    async def say_all_then_fail_later(self, ctx: EntityContext, how: str) -> None:
        await asyncio.sleep(0)
        self.say_all_then_fail(ctx, how)

    async def work_together(self, amount: int) -> list[int]:
        async def one(number: int) -> int:
            await asyncio.sleep(0)
            return number

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(number)) for number in range(3)]
        lock, event = asyncio.Lock(), asyncio.Event()
        event.set()
        async with lock:
            await event.wait()
        self.value += amount
        return [*(task.result() for task in tasks), *await asyncio.gather(one(3), one(4)), self.value]

    async def wait_for(self, what: str) -> None:
        self.value = 1_000_000
        try:
            await self._wait(what)
        finally:
            self.value = 2_000_000

    async def _wait(self, what: str) -> None:
        if what == "time":
            await asyncio.sleep(60)
        elif what == "a timeout":
            async with asyncio.timeout(60):
                pass
        elif what == "a thread":
            await asyncio.to_thread(threading.current_thread)
        elif what == "nothing":
            await asyncio.Event().wait()
        elif what == "stubbornly":
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    pass

    def colour(self, other: str) -> str:
        before = colour.get()
        colour.set(other)
        return before

    async def colour_later(self, other: str) -> str:
        return self.colour(other)


@app.orchestrator
async def look(ctx: OrchestrationContext, key: str) -> int:
    return await ctx.call_entity(EntityId(Counter, key), Counter.get)


@app.orchestrator
async def call(ctx: OrchestrationContext, steps: list[Any]) -> list[Any]:
    """Call operations one after the other; give their results, of failures type and message."""
    found: list[Any] = []
    for key, operation, *given in steps:
        try:
            found.append(await ctx.call_entity(EntityId("Counter", key), operation, *given))
        except EntityOperationFailedError as error:
            found.append([error.details.error_type, error.details.message])
    return found


async def results(store_url: str, *steps: Any) -> list[Any]:
    async with Worker(app, store_url) as worker:
        found: list[Any] = await worker.client.run(call, [list(step) for step in steps], timeout=30)
        return found


async def settled(client: Client, key: str, value: int) -> Counter:
    """Wait until a counter has a value; return it."""
    async with asyncio.timeout(20):
        while True:
            found = await client.get_entity(EntityId(Counter, key))
            if found is not None and found.state.value == value:
                return found.state
            await asyncio.sleep(0.005)


async def test_results_come_back_and_the_state_stays(store_url: str) -> None:
    assert await results(store_url, ["a", "add", 5], ["a", "add", -2], ["a", "get"], ["b", "get"]) == [5, 3, 3, 0]


async def test_the_state_outlives_workers(store_url: str) -> None:
    async with Client(store_url):  # a store in memory lives while somebody has it open
        for total in (5, 10, 15):
            assert await results(store_url, ["a", "add", 5]) == [total]


async def test_a_default_is_the_input_of_a_call_without_one(store_url: str) -> None:
    found = await results(store_url, ["a", "see"], ["a", "see", None], ["a", "see", "text"])
    assert found[-1] == ["nothing", "nothing", "text"]


async def test_an_input_that_does_not_fit_fails_the_call(store_url: str) -> None:
    wrong, none, surplus, fine = await results(
        store_url, ["a", "add", "five"], ["a", "add"], ["a", "get", 5], ["a", "add", 1]
    )
    assert [found[0].rpartition(".")[2] for found in (wrong, none, surplus)] == ["InvalidInputError"] * 3
    assert "input of operation 'Counter.add'" in wrong[1]
    assert "takes no input" in surplus[1]
    assert fine == 1


async def test_an_operation_that_is_not_there_says_what_is(store_url: str) -> None:
    ((kind, text),) = await results(store_url, ["a", "ad", 5])
    assert kind == "durable.errors.UnknownNameError"
    assert "has no operation 'ad'. Did you mean 'add'?" in text


@pytest.mark.parametrize("name", ["_wait", "__init__", "value"])
async def test_only_public_methods_are_operations(store_url: str, name: str) -> None:
    ((kind, _),) = await results(store_url, ["a", name])
    assert kind == "durable.errors.UnknownNameError"


# ---- all or nothing


@pytest.mark.parametrize("operation", ["say_all_then_fail", "say_all_then_fail_later"])
@pytest.mark.parametrize(("how", "error"), [("why", ["ValueError", "no: why"]), ("exit", ["SystemExit", "3"])])
async def test_an_operation_that_raises_leaves_nothing_behind(
    store_url: str, operation: str, how: str, error: list[str]
) -> None:
    async with Worker(app, store_url) as worker:
        client = worker.client
        assert await client.run(call, [["a", "add", 5], ["a", operation, how], ["a", "get"]]) == [5, error, 5]
        assert await client.run(look, "other") == 0
        assert await client.count(prefix="started by") == 0


async def test_a_state_that_cannot_be_stored_fails_the_operation_that_leaves_it(store_url: str) -> None:
    steps = [["a", "add", 5], ["a", "spoil", "text"], ["a", "grow", 3_000_000], ["a", "add_name"], ["a", "add", 1]]
    first, spoilt, large, named, last = await results(store_url, *steps)
    assert (first, last) == (5, 6)
    assert spoilt[0] == "durable.errors.InvalidInputError"
    assert "state of entity 'Counter'" in spoilt[1]
    assert large[0] == "durable.errors.LimitExceededError"
    assert named[0] == "TypeError"
    assert "attribute 'name' is no field" in named[1]


async def test_a_result_that_does_not_fit_its_annotation_fails_the_operation(store_url: str) -> None:
    other = App()

    @other.entity
    class Wrong:
        count: int = 0

        def go(self) -> str:
            self.count += 1
            return self.count  # type: ignore[return-value]  # the mistake

    @other.orchestrator
    async def ask(ctx: OrchestrationContext) -> None:
        await ctx.call_entity(EntityId(Wrong, "w"), Wrong.go)

    async with Worker(other, store_url) as worker:
        handle = await worker.client.start(ask)
        state = await handle.wait(30)
        assert state.failure_details is not None
        assert "result of operation 'Wrong.go'" in str(state.failure_details)
        assert await worker.client.get_entity(EntityId(Wrong, "w")) is None
        await worker.client.signal_entity(EntityId(Wrong, "w"), "go")  # nobody looks at the result
        async with asyncio.timeout(10):
            while (found := await worker.client.get_entity(EntityId(Wrong, "w"))) is None:
                await asyncio.sleep(0.005)
        assert found.state.count == 1


# ---- async operations


async def test_an_async_operation_may_await_what_comes_by_itself(store_url: str) -> None:
    assert await results(store_url, ["a", "work_together", 5]) == [[0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("what", ["time", "a timeout", "a thread", "nothing", "stubbornly"])
async def test_an_async_operation_that_would_have_to_wait_fails(store_url: str, what: str) -> None:
    failed, after = await results(store_url, ["a", "wait_for", what], ["a", "get"])
    assert failed[0] == "durable.errors.NonDurableAwaitError"
    assert "an operation of an entity cannot wait for" in failed[1]
    assert after == 0
    if what in ("nothing", "stubbornly", "a thread"):
        assert "test_operations.py:" in failed[1]


async def test_no_context_variable_reaches_another_operation(store_url: str) -> None:
    steps = [["a", "colour", "red"], ["a", "colour_later", "blue"], ["a", "colour", "green"], ["b", "colour", "red"]]
    assert await results(store_url, *steps) == ["none"] * 4
    assert colour.get() == "none"


# ---- order


@app.orchestrator
async def signal_then_call(ctx: OrchestrationContext, count: int) -> list[Any]:
    counter = EntityId(Counter, "ordered")
    for number in range(count):
        ctx.signal_entity(counter, "see", f"{number}")
    return await ctx.call_entity(counter, Counter.see, "called")


@app.orchestrator
def many_calls(ctx: OrchestrationContext, count: int) -> Orchestration[list[int]]:
    counter = EntityId(Counter, "many")
    return (yield when_all([ctx.call_entity(counter, Counter.add, 1) for _ in range(count)]))


async def test_what_one_sends_arrives_in_that_order(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        assert await worker.client.run(signal_then_call, 5) == ["0", "1", "2", "3", "4", "called"]


@pytest.mark.parametrize("count", [100, 600])
async def test_one_operation_comes_after_the_other(store_url: str, count: int) -> None:
    """600 are more than a turn sends at once, and more than one takes."""
    async with Worker(app, store_url) as worker:
        assert await worker.client.run(many_calls, count, timeout=60) == list(range(1, count + 1))


async def test_a_signal_accepted_earlier_comes_first(store_url: str) -> None:
    async with Client(store_url, app) as client:
        for number in range(300):
            await client.signal_entity(EntityId(Counter, "a"), Counter.see, f"{number}")
        handle = await client.start(call, [["a", "see", "called"]])
        async with Worker(app, store_url):
            (seen,) = await handle.result(30)
    assert seen == [*(f"{number}" for number in range(300)), "called"]


# ---- what an operation may ask for


@app.entity
class Teller:
    known: list[Any] = []

    def tell(self, ctx: EntityContext, text: str) -> list[str]:
        ctx.signal_entity(EntityId(Teller, "listener"), Teller.hear, text)
        ctx.signal_entity(ctx.id, "hear", "myself")
        started = ctx.start_orchestration(look_twice, text)
        given = ctx.start_orchestration("look_twice", "given", instance_id="given")
        later = ctx.start_orchestration(look_twice, "later", at=dt.timedelta(days=1))
        return [ctx.id.name, ctx.id.key, started, given, later]

    def hear(self, text: str) -> None:
        self.known.append(text)

    def chance(self, ctx: EntityContext) -> list[Any]:
        return [ctx.new_uuid(), ctx.random.random(), ctx.current_utc_datetime]

    def remember_context(self, ctx: EntityContext) -> None:
        kept.append(ctx)

    def misuse(self, ctx: EntityContext, what: str) -> None:
        wrong: Any = {
            "no entity": lambda: ctx.signal_entity("Teller", "hear", "x"),  # type: ignore[arg-type]  # the mistake
            "another's operation": lambda: ctx.signal_entity(ctx.id, Counter.add, 1),
            "a misfit": lambda: ctx.signal_entity(EntityId(Teller, "listener"), Teller.hear, 5),
            "a naive time": lambda: ctx.signal_entity(ctx.id, "hear", "x", at=dt.datetime(2030, 1, 1)),
            "an unknown function": lambda: ctx.start_orchestration(lambda ctx: None),  # type: ignore[arg-type,return-value]
        }
        wrong[what]()


kept: list[EntityContext] = []


@app.orchestrator
async def look_twice(ctx: OrchestrationContext, text: str) -> str:
    return text * 2


@app.orchestrator
async def ask_teller(ctx: OrchestrationContext, what: list[Any]) -> Any:
    return await ctx.call_entity(EntityId(Teller, "teller"), *what)


async def test_an_operation_signals_and_starts_with_its_commit(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        client = worker.client
        name, key, started, given, later = await client.run(ask_teller, ["tell", "hi"], timeout=30)
        assert (name, key, given) == ("Teller", "teller", "given")
        assert await client.get(started).result(30) == "hihi"
        assert await client.get("given").result(30) == "givengiven"
        state = await client.get(later).state()
        assert state.status == "PENDING"
        assert state.scheduled_at - state.created_at > dt.timedelta(hours=23)
        assert await client.run(ask_teller, ["hear", "again"], timeout=30) is None
        for entity, texts in (("listener", ["hi"]), ("teller", ["myself", "again"])):
            async with asyncio.timeout(10):
                while (found := await client.get_entity(EntityId(Teller, entity))) is None:
                    await asyncio.sleep(0.005)
            assert found.state.known == texts


async def test_ids_and_chance_are_new_with_each_operation(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        found = [await worker.client.run(ask_teller, ["chance"], timeout=30) for _ in range(3)]
    assert len({str(draw[:2]) for draw in found}) == 3
    assert found[0][2] <= found[1][2] <= found[2][2]


async def test_a_context_is_of_no_use_after_its_operation(store_url: str) -> None:
    kept.clear()
    async with Worker(app, store_url) as worker:
        await worker.client.run(ask_teller, ["remember_context"], timeout=30)
    for use in (lambda: kept[0].delete_state(), lambda: kept[0].random, lambda: kept[0].signal_entity(kept[0].id, "x")):
        with pytest.raises(Exception, match="after the operation had returned"):
            use()
    assert kept[0].id == EntityId("Teller", "teller")


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("no entity", "TypeError"),
        ("another's operation", "durable.errors.UnknownNameError"),
        ("a misfit", "durable.errors.InvalidInputError"),
        ("a naive time", "ValueError"),
        ("an unknown function", "durable.errors.UnknownNameError"),
    ],
)
async def test_misuse_is_told_to_the_operation(store_url: str, what: str, error: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(ask_teller, ["misuse", what])
        details = (await handle.wait(30)).failure_details
    assert details is not None
    assert details.inner is not None
    assert details.inner.error_type == error


# ---- what an orchestrator is told at once


@app.orchestrator
async def misuse_entities(ctx: OrchestrationContext, what: str) -> Any:
    counter = EntityId(Counter, "a")
    wrong: Any = {
        "no entity": lambda: ctx.call_entity("Counter", "add", 1),  # type: ignore[call-overload]  # the mistake
        "another's operation": lambda: ctx.call_entity(counter, Teller.hear, "x"),
        "no operation": lambda: ctx.call_entity(counter, 5),  # type: ignore[call-overload]  # the mistake
        "an empty operation": lambda: ctx.signal_entity(counter, " "),
        "a misfit signaled": lambda: ctx.signal_entity(counter, Counter.add, "five"),
        "a naive time": lambda: ctx.signal_entity(counter, "add", 1, at=dt.datetime(2030, 1, 1)),
        "too large": lambda: ctx.signal_entity(counter, "see", "x" * 3_000_000),
    }
    try:
        wrong[what]()
    except Exception as error:
        return type(error).__name__
    return "nothing"


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("no entity", TypeError),
        ("another's operation", UnknownNameError),
        ("no operation", TypeError),
        ("an empty operation", ValueError),
        ("a misfit signaled", InvalidInputError),
        ("a naive time", ValueError),
        ("too large", LimitExceededError),
    ],
)
async def test_a_mistake_is_raised_where_it_is_made(store_url: str, what: str, error: type[Exception]) -> None:
    async with Worker(app, store_url) as worker:
        assert await worker.client.run(misuse_entities, what, timeout=30) == error.__name__


async def test_a_misfit_of_a_typed_call_fails_its_task_and_asks_for_nothing(store_url: str) -> None:
    other = App()
    other.include(app)

    @other.orchestrator
    async def misfit(ctx: OrchestrationContext) -> list[str]:
        task = ctx.call_entity(EntityId(Counter, "a"), Counter.add, "five")  # type: ignore[call-overload]  # the mistake
        try:
            await task
        except EntityOperationFailedError as error:
            return [error.details.error_type, str(error.details.non_retryable)]
        return []

    async with Worker(other, store_url) as worker:
        handle = await worker.client.start(misfit)
        assert await handle.result(30) == ["durable.errors.InvalidInputError", "True"]
        assert [type(event).__name__ for event in await handle.history()] == [
            "OrchestrationStarted",
            "OrchestrationCompleted",
        ]


async def test_a_typed_call_gives_what_the_annotation_makes(store_url: str) -> None:
    other = App()
    other.include(app)

    @other.orchestrator
    async def typed(ctx: OrchestrationContext) -> list[bool]:
        counter = EntityId(Counter, "a")
        moment = await ctx.call_entity(counter, Counter.when, dt.datetime(2030, 1, 1, tzinfo=dt.UTC))
        plain = await ctx.call_entity(counter, "when", dt.datetime(2030, 1, 1, tzinfo=dt.UTC))
        return [moment == dt.datetime(2030, 1, 2, tzinfo=dt.UTC), plain == moment]

    async with Worker(other, store_url) as worker:
        assert await worker.client.run(typed, timeout=30) == [True, True]


async def test_a_call_that_is_given_up_is_performed_all_the_same(store_url: str) -> None:
    other = App()
    other.include(app)

    @other.orchestrator
    async def give_up(ctx: OrchestrationContext) -> str:
        task = ctx.call_entity(EntityId(Counter, "a"), Counter.add, 7)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return "cancelled"
        return "not"

    async with Worker(other, store_url) as worker:
        handle = await worker.client.start(give_up)
        assert await handle.result(30) == "cancelled"
        await settled(worker.client, "a", 7)


async def test_an_activity_can_signal_through_its_client(store_url: str) -> None:
    other = App()
    other.include(app)

    @other.activity
    async def tell(ctx: ActivityContext) -> None:
        await ctx.client.signal_entity(EntityId(Counter, "a"), Counter.add, 3)

    @other.activity
    def tell_blocking(ctx: ActivityContext) -> None:
        ctx.client.signal_entity(EntityId(Counter, "a"), Counter.add, 4)

    @other.orchestrator
    async def both(ctx: OrchestrationContext) -> None:
        await ctx.call_activity(tell)
        await ctx.call_activity(tell_blocking)

    async with Worker(other, store_url) as worker:
        await worker.client.run(both, timeout=30)
        await settled(worker.client, "a", 7)
