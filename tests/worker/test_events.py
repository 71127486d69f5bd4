"""External events: first in first out per name, kept from before the wait, never lost, never consumed twice."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    App,
    EventDataError,
    Orchestration,
    OrchestrationContext,
    OrchestrationStatus,
    Worker,
    when_any,
)
from tests.worker.lives import STYLES, becomes_true, is_cached, lives_app, names_of, open_store, until

COMPLETED = OrchestrationStatus.COMPLETED


@dataclasses.dataclass
class Order:
    number: int
    note: str = ""


def events_app() -> App:
    app = lives_app()

    @app.orchestrator(name="names-async")
    async def names_async(ctx: OrchestrationContext, wanted: list[str]) -> list[Any]:
        ctx.set_custom_status("waiting")
        return [await ctx.wait_for_external_event(name) for name in wanted]

    @app.orchestrator(name="names-generator")
    def names(ctx: OrchestrationContext, wanted: list[str]) -> Orchestration[list[Any]]:
        ctx.set_custom_status("waiting")
        found = []
        for name in wanted:
            found.append((yield ctx.wait_for_external_event(name)))
        return found

    @app.orchestrator(name="timeouts-async")
    async def timeouts_async(ctx: OrchestrationContext, seconds: float) -> list[Any]:
        try:
            first = await ctx.wait_for_external_event("go", timeout=seconds)
        except TimeoutError as error:
            first = f"late: {type(error) is TimeoutError}"
        return [first, await ctx.wait_for_external_event("go")]

    @app.orchestrator(name="timeouts-generator")
    def timeouts(ctx: OrchestrationContext, seconds: float) -> Orchestration[list[Any]]:
        try:
            first = yield ctx.wait_for_external_event("go", timeout=timedelta(seconds=seconds))
        except TimeoutError as error:
            first = f"late: {type(error) is TimeoutError}"
        return [first, (yield ctx.wait_for_external_event("go"))]

    @app.orchestrator(name="typed-async")
    async def typed_async(ctx: OrchestrationContext) -> list[Any]:
        try:
            await ctx.wait_for_external_event("order", Order)
        except EventDataError as error:
            refused = isinstance(error, ValueError)
        order = await ctx.wait_for_external_event("order", Order)
        return [refused, order.number, type(order).__name__]

    @app.orchestrator(name="typed-generator")
    def typed(ctx: OrchestrationContext) -> Orchestration[list[Any]]:
        try:
            yield ctx.wait_for_external_event("order", Order)
        except EventDataError as error:
            refused = isinstance(error, ValueError)
        order = yield ctx.wait_for_external_event("order", Order)
        return [refused, order.number, type(order).__name__]

    @app.orchestrator(name="gives up-async")
    async def gives_up_async(ctx: OrchestrationContext) -> Any:
        lost = ctx.wait_for_external_event("go")
        timer = ctx.create_timer(timedelta(milliseconds=20))
        assert await when_any([lost, timer]) is timer
        assert lost.cancel()
        ctx.set_custom_status("gave up")
        return await ctx.wait_for_external_event("go")

    @app.orchestrator(name="gives up-generator")
    def gives_up(ctx: OrchestrationContext) -> Orchestration[Any]:
        lost = ctx.wait_for_external_event("go")
        timer = ctx.create_timer(timedelta(milliseconds=20))
        assert (yield when_any([lost, timer])) is timer
        assert lost.cancel()
        ctx.set_custom_status("gave up")
        return (yield ctx.wait_for_external_event("go"))

    return app


app = events_app()


@pytest.mark.parametrize("style", STYLES)
async def test_events_are_in_order_per_name_and_names_are_byte_exact(store_url: str, style: str) -> None:
    names = ["a", "A", "a ", " a", "ä", "a\u0308", "a/b", "a%b", "a_b", "🙂", "a\nb", "..", "a" * 512]
    wanted = [name for name in names for _ in range(3)]
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"names-{style}", wanted)
        sent: dict[str, int] = Counter()
        shuffled = random.Random(3).sample(wanted, len(wanted))
        for name in shuffled:
            await handle.raise_event(name, [name, sent[name]])
            sent[name] += 1
        assert await handle.result(timeout=10) == [[name, n] for name in names for n in range(3)]
        assert await handle.dropped() == []


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("data", [None, 0, "", False, [], {"a": [1, 2.5, None]}, b"\x00\xff", 2**80], ids=repr)
async def test_the_data_of_an_event_arrives_as_it_was_sent(store_url: str, data: Any, style: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"waits-{style}")
        await handle.raise_event("go", data)
        assert await handle.result(timeout=10) == [None, data]


@pytest.mark.parametrize("style", STYLES)
async def test_a_wait_that_times_out_leaves_the_event_for_the_next(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        late = await worker.client.start(f"timeouts-{style}", 0.02)
        await becomes_true(lambda: _has(late, "TimerFired"))
        await late.raise_event("go", "afterwards")
        assert await late.result(timeout=10) == ["late: True", "afterwards"]
        in_time = await worker.client.start(f"timeouts-{style}", 60)
        await in_time.raise_event("go", 1)
        await in_time.raise_event("go", 2)
        assert await in_time.result(timeout=10) == [1, 2]
        assert "TimerCancelled" in names_of(await in_time.history())


async def _has(handle: Any, name: str) -> bool:
    return name in names_of(await handle.history())


@pytest.mark.parametrize("style", STYLES)
async def test_data_that_does_not_fit_raises_and_is_consumed(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"typed-{style}")
        await handle.raise_event("order", {"number": "seven"})
        await handle.raise_event("order", {"number": 7})
        assert await handle.result(timeout=10) == [True, 7, "Order"]


@pytest.mark.parametrize("style", STYLES)
async def test_a_cancelled_waiter_consumes_nothing(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"gives up-{style}")
        await until(handle, status="gave up")
        await handle.raise_event("go", "for the second")
        assert await handle.result(timeout=10) == "for the second"


async def test_a_wait_cancelled_by_asyncio_consumes_nothing(store_url: str) -> None:
    own = lives_app()

    @own.orchestrator
    async def patient(ctx: OrchestrationContext) -> list[Any]:
        found = []
        for _ in range(3):
            try:
                async with asyncio.timeout(0.01):
                    await ctx.wait_for_external_event("go")
            except TimeoutError:
                found.append("late")
        task = asyncio.create_task(_wait(ctx))
        await asyncio.sleep(0)
        task.cancel()
        ctx.set_custom_status("listening")
        return [*found, await ctx.wait_for_external_event("go")]

    async def _wait(ctx: OrchestrationContext) -> Any:
        return await ctx.wait_for_external_event("go")

    async with Worker(own, store_url) as worker:
        handle = await worker.client.start(patient)
        await until(handle, status="listening")
        await handle.raise_event("go", 1)
        assert await handle.result(timeout=10) == ["late", "late", "late", 1]


@pytest.mark.parametrize("style", STYLES)
async def test_what_nobody_waited_for_is_listed_when_the_instance_ends(store_url: str, style: str) -> None:
    """Given with the start, sent before the wait, sent together with the one that ends it: each is listed once."""
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"waits-{style}", events=[("a", 1), ("b", 2), ("a", 3)])
        await handle.raise_event("c", 4)
        await asyncio.gather(*(handle.raise_event("go", n) for n in range(3)))
        await handle.result(timeout=10)
        assert Counter(item.name for item in await handle.dropped()) == {"a": 2, "b": 1, "c": 1, "go": 2}
        at_once = await worker.client.start(f"returns-{style}", events=[("a", 1), ("b", 2)])
        await at_once.result(timeout=10)
        assert [item.name for item in await at_once.dropped()] == ["a", "b"]
        assert all(item.reason and item.timestamp.tzinfo for item in await at_once.dropped())


@pytest.mark.parametrize("style", STYLES)
async def test_accepted_events_are_consumed_or_listed_whatever_wins(store_url: str, style: str) -> None:
    """Events race against the end of their instance, from several senders: none is lost, none counted twice."""
    async with Worker(app, store_url) as worker:
        for _ in range(8):
            handle = await worker.client.start(f"collects-{style}", 5)
            accepted = 0

            async def send(sender: int) -> None:
                nonlocal accepted
                for number in range(4):
                    try:
                        await handle.raise_event("item", [sender, number])  # noqa: B023 (awaited in this round)
                    except Exception as error:
                        assert type(error).__name__ == "InstanceFinishedError"
                        return
                    accepted += 1

            await asyncio.gather(*(send(sender) for sender in range(4)))
            found = await handle.result(timeout=10)
            assert len(found) == 5
            await becomes_true(lambda: _dropped_are(handle, accepted - 5))  # noqa: B023
            for sender in range(4):
                numbers = [number for who, number in found if who == sender]
                assert numbers == sorted(numbers)


async def _dropped_are(handle: Any, count: int) -> bool:
    return len(await handle.dropped()) == count


@pytest.mark.parametrize("style", STYLES)
async def test_events_sent_between_instances_arrive_in_order(store_url: str, style: str) -> None:
    own = lives_app()

    @own.orchestrator(name="sends-async")
    async def sends_async(ctx: OrchestrationContext, count: int) -> None:
        for number in range(count):
            ctx.raise_event("receiver", "item", number)

    @own.orchestrator(name="sends-generator")
    def sends(ctx: OrchestrationContext, count: int) -> Orchestration[None]:
        for number in range(count):
            ctx.raise_event("receiver", "item", number)
            yield ctx.create_timer(timedelta(0))

    async with Worker(own, store_url) as worker:
        receiver = await worker.client.start(f"collects-{style}", 40, instance_id="receiver")
        sender = await worker.client.start(f"sends-{style}", 40)
        assert await receiver.result(timeout=20) == list(range(40))
        await sender.result(timeout=10)
        assert names_of(await sender.history()).count("EventSent") == 40
        assert await sender.dropped() == []


@pytest.mark.parametrize("style", STYLES)
async def test_an_event_to_nobody_is_recorded_with_its_sender_and_never_raised(store_url: str, style: str) -> None:
    own = lives_app()

    @own.orchestrator(name="shouts-async")
    async def shouts_async(ctx: OrchestrationContext, target: str) -> str:
        for number in range(3):
            ctx.raise_event(target, "hello", number)
        await ctx.create_timer(timedelta(0))
        return "unharmed"

    @own.orchestrator(name="shouts-generator")
    def shouts(ctx: OrchestrationContext, target: str) -> Orchestration[str]:
        for number in range(3):
            ctx.raise_event(target, "hello", number)
        yield ctx.create_timer(timedelta(0))
        return "unharmed"

    async with Worker(own, store_url) as worker:
        ended = await worker.client.start("returns-async", 1)
        await ended.result(timeout=10)
        for target in ("nobody at all", ended.instance_id):
            handle = await worker.client.start(f"shouts-{style}", target)
            assert await handle.result(timeout=10) == "unharmed"
            dropped = await handle.dropped()
            assert [item.name for item in dropped] == ["hello"] * 3
            assert all(target in item.reason for item in dropped)


@pytest.mark.parametrize("style", STYLES)
async def test_a_flood_of_10_000_events_is_taken_in_order(store_url: str, style: str) -> None:
    """10,000 events from ten senders, in the order of each, while another instance goes on."""
    each = 1000 if is_cached() else 100
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"collects-{style}", 10 * each)

        async def send(sender: int) -> None:
            for first in range(0, each, 100):
                await asyncio.gather(*(handle.raise_event("item", [sender, n]) for n in range(first, first + 100)))

        sending = asyncio.gather(*(send(sender) for sender in range(10)))
        assert await worker.client.run("returns-async", 1, timeout=10) == 1
        await sending
        found = await handle.result(timeout=60)
        for sender in range(10):
            assert [number for who, number in found if who == sender] == list(range(each))
        assert await handle.dropped() == []


@pytest.mark.parametrize("style", STYLES)
async def test_events_outlive_workers_between_arrival_and_wait(store_url: str, style: str) -> None:
    """Buffered by one worker, waited for with the next: the buffer is part of the history."""
    own = lives_app()

    @own.orchestrator(name="second-async")
    async def second_async(ctx: OrchestrationContext) -> list[Any]:
        await ctx.wait_for_external_event("begin")
        return [await ctx.wait_for_external_event("item") for _ in range(3)]

    @own.orchestrator(name="second-generator")
    def second(ctx: OrchestrationContext) -> Orchestration[list[Any]]:
        yield ctx.wait_for_external_event("begin")
        found = []
        for _ in range(3):
            found.append((yield ctx.wait_for_external_event("item")))
        return found

    async with open_store(store_url, own) as client:
        async with Worker(own, store_url):
            handle = await client.start(f"second-{style}")
            await handle.raise_event("item", 0)
            await handle.raise_event("item", 1)
            await becomes_true(lambda: _has(handle, "EventRaised"))
        await handle.raise_event("item", 2)
        await handle.raise_event("begin")
        async with Worker(own, store_url):
            assert await handle.result(timeout=10) == [0, 1, 2]
