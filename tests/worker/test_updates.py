"""Updates and queries: what a running orchestration is asked from outside, and what it answers."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    App,
    Client,
    Handle,
    InstanceFinishedError,
    InstanceNotFoundError,
    InvalidInputError,
    Orchestration,
    OrchestrationContext,
    OrchestrationStatus,
    QueryFailedError,
    SyncHandle,
    UnknownNameError,
    UpdateFailedError,
    UpdateRejectedError,
    Worker,
)
from durable.exchanges import UpdateReceived
from durable.messages import encode_arrivals
from durable.provider import Message, partition_of
from tests.worker.lives import STYLES, key_of, names_of, open_store, provider_of, raises_soon, until

app = App()


@dataclasses.dataclass
class Item:
    name: str
    price: int


@app.activity
async def price_of(name: str) -> int:
    return len(name)


class Cart:
    """What the orchestrators of both styles have in common."""

    def __init__(self, ctx: OrchestrationContext) -> None:
        self.ctx = ctx
        self.items: list[Item] = []
        self.is_closed = False
        ctx.on_query("items", lambda: self.items)
        ctx.on_query("count", self.count)
        ctx.on_query("meddle", self.meddle)
        ctx.on_query("draw", lambda: ctx.random.random())
        ctx.on_query("wake", lambda: asyncio.get_running_loop().create_future() and None)
        ctx.on_update("add", self.add, self.check)
        ctx.on_update("price", self.price)
        ctx.on_update("break", self.broken)
        ctx.on_update("spoil", self.close, lambda: asyncio.get_running_loop().create_future() and None)
        ctx.on_update("close", self.close)

    def count(self, at_least: int = 0) -> int:
        return sum(item.price >= at_least for item in self.items)

    def meddle(self) -> None:
        try:
            self.ctx.set_custom_status("meddled")
        except Exception:
            self.ctx.call_activity(price_of, "x")

    def check(self, item: Item) -> None:
        if item.price < 0:
            raise ValueError(f"{item.name} costs less than nothing")

    def add(self, item: Item) -> int:
        self.items.append(item)
        return len(self.items)

    def price(self, name: str) -> Orchestration[int]:
        found: int = yield self.ctx.call_activity(price_of, name)
        self.items.append(Item(name, found))
        return found

    def broken(self) -> None:
        raise LookupError("no such shelf")

    def close(self) -> str:
        self.is_closed = True
        self.ctx.raise_event(self.ctx.instance_id, "closed")
        return "closed"


@app.orchestrator(name="cart-generator")
def cart_generator(ctx: OrchestrationContext) -> Orchestration[int]:
    cart = Cart(ctx)
    yield ctx.wait_for_external_event("closed")
    return len(cart.items)


@app.orchestrator(name="cart-async")
async def cart_async(ctx: OrchestrationContext) -> int:
    cart = Cart(ctx)

    async def price(name: str) -> int:
        found = await ctx.call_activity(price_of, name)
        await asyncio.sleep(0.001)
        cart.items.append(Item(name, found))
        return found

    ctx.on_update("price", price)
    await ctx.wait_for_external_event("closed")
    return len(cart.items)


@app.orchestrator
async def counts(ctx: OrchestrationContext, total: int = 0) -> int:
    """Adds what it is given, and continues as new after every third update."""
    seen, changed = 0, asyncio.Event()

    def add(number: int) -> int:
        nonlocal total, seen
        total, seen = total + number, seen + 1
        changed.set()
        return total

    async def add_slowly(number: int) -> int:
        await asyncio.sleep(3600)
        return add(number)

    ctx.on_query("total", lambda: total)
    ctx.on_update("add", add)
    ctx.on_update("add slowly", add_slowly)
    while seen < 3:
        changed.clear()
        await changed.wait()
    if total < 100:
        ctx.continue_as_new(total)
    return total


@app.orchestrator
async def fails_at_first(ctx: OrchestrationContext) -> list[str]:
    said: list[str] = []
    ctx.on_update("say", lambda word: said.append(word))
    await ctx.wait_for_external_event("go")
    said.append(await ctx.call_activity("flaky"))
    return said


@pytest.mark.parametrize("style", STYLES)
async def test_updates_change_what_queries_tell(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        cart = await worker.client.start(f"cart-{style}")
        assert await cart.update("add", Item("pen", 3)) == 1
        assert await cart.update("price", "ink") == 3
        assert await cart.query("items") == [{"name": "pen", "price": 3}, {"name": "ink", "price": 3}]
        assert (await cart.query("count"), await cart.query("count", 4)) == (2, 0)
        failed = await raises_soon(UpdateFailedError, cart.update("break"))
        assert (failed.details.error_type, failed.details.message) == ("LookupError", "no such shelf")
        assert await cart.update("close") == "closed"
        assert await cart.result(timeout=20) == 2
        recorded = [name for name in names_of(await cart.history()) if name.startswith(("Update", "Query"))]
        assert recorded == ["UpdateReceived", "UpdateCompleted"] * 2 + ["UpdateReceived", "UpdateFailed"] + [
            "UpdateReceived",
            "UpdateCompleted",
        ]


@pytest.mark.parametrize("style", STYLES)
async def test_what_is_refused_leaves_no_trace(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        cart = await worker.client.start(f"cart-{style}")
        assert await cart.query("count") == 0
        before, state = (await cart.history()).export(), await cart.state()
        refused = await raises_soon(UpdateRejectedError, cart.update("add", Item("hole", -1)))
        assert str(refused) == "hole costs less than nothing"
        unknown = await raises_soon(UpdateRejectedError, cart.update("ad", Item("pen", 1)))
        assert "no update 'ad': it has 'add', 'break', 'close', 'price', 'spoil'" in str(unknown)
        for argument in ({"name": "pen"}, "pen", None):
            await raises_soon(UpdateRejectedError, cart.update("add", argument))
        assert "takes none" in str(await raises_soon(UpdateRejectedError, cart.update("close", 1)))
        assert "may only look" in str(await raises_soon(UpdateRejectedError, cart.update("spoil")))
        assert (await cart.history()).export() == before
        assert await cart.state() == state
        assert await cart.dropped() == []
        assert await cart.update("add", Item("pen", 1)) == 1


async def test_a_query_may_only_look(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        cart = await worker.client.start(cart_async)
        assert await cart.update("add", Item("pen", 1)) == 1
        before = (await cart.history()).export()
        for name in ("meddle", "draw", "wake"):
            failed = await raises_soon(QueryFailedError, cart.query(name))
            assert "may only look" in failed.details.message
        unknown = await raises_soon(UnknownNameError, cart.query("price"))
        assert "no query 'price': it has 'count', 'draw', 'items', 'meddle', 'wake'" in str(unknown)
        await raises_soon(InvalidInputError, cart.query("count", "many"))
        assert await cart.query("count") == 1
        assert (await cart.history()).export() == before
        assert (await cart.state()).custom_status is None


async def test_who_looks_for_ever_is_stopped_and_holds_up_nobody(tmp_path: Any) -> None:
    deployed = App()

    @deployed.orchestrator
    async def looked_at(ctx: OrchestrationContext) -> None:
        def endless(number: int = 1) -> int:
            while number:
                pass
            return number

        ctx.on_query("look", endless)
        ctx.on_update("do", lambda number: number, endless)
        await ctx.wait_for_external_event("never")

    async with Worker(deployed, f"sqlite:///{tmp_path}/store.db") as worker:
        worker._parts.watch.budget_s = 0.3  # type: ignore[union-attr]
        handle = await worker.client.start(looked_at)
        assert await handle.update("do", 0) == 0
        refused, asked = handle.update("do", 1), handle.query("look")
        assert "used up the time of a turn" in str(await raises_soon(UpdateRejectedError, refused))
        assert "TurnBudgetExceeded" in str(await raises_soon(QueryFailedError, asked))
        assert (await handle.state()).status is OrchestrationStatus.RUNNING
        assert await handle.update("do", 0) == 0


async def test_many_updates_are_each_answered_once_and_in_order(store_url: str) -> None:
    async with Worker(app, store_url) as worker, Client(store_url) as other:
        handle = await worker.client.start(cart_async)
        carts = [handle, other.get(handle.instance_id)]
        found = await asyncio.gather(*(carts[place].update("price", str(place)) for place in (0, 1)))
        assert found == [1, 1]
        counts = await asyncio.gather(*(handle.update("add", Item(str(number), number)) for number in range(600)))
        assert counts == list(range(3, 603))
        assert await carts[1].query("count") == 602
        events = [event for event in await handle.history() if isinstance(event, UpdateReceived)]
        assert [event.argument["price"] for event in events[2:]] == list(range(600))


async def test_what_comes_before_there_is_anybody_to_take_it_waits(store_url: str) -> None:
    async with Client(store_url) as client:
        cart = await client.start("cart-async")
        waiting = [
            asyncio.ensure_future(cart.update("add", Item("pen", 1))),
            asyncio.ensure_future(cart.query("count")),
        ]
        await raises_soon(TimeoutError, cart.update("close", 5, timeout=0.01))
        async with Worker(app, store_url):
            assert await asyncio.gather(*waiting) == [1, 1]


async def test_who_gave_up_is_told_of_nothing_more(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time was over before the question was stored, while somebody looked for the answer; then the instance was gone."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with open_store(store_url) as client:
        handle = await client.start(cart_async)
        provider = client.connection.provider
        read, submit, looks, may_end = provider.read_memos, provider.submit, asyncio.Event(), asyncio.Event()

        async def slowly(*arguments: Any, **options: Any) -> Any:
            looks.set()
            await may_end.wait()
            return await read(*arguments, **options)

        async def gone(targets: Sequence[Any]) -> list[None]:
            return [None] * len(targets)

        async def hangs(*arguments: Any, **options: Any) -> Any:
            await may_end.wait()
            return await submit(*arguments, **options)

        monkeypatch.setattr(provider, "read_memos", slowly)
        monkeypatch.setattr(provider, "submit", hangs)
        asking = asyncio.ensure_future(handle.update("close", 5, timeout=0.2))
        await looks.wait()
        await raises_soon(TimeoutError, asking)
        monkeypatch.setattr(provider, "load", gone)
        look = client.connection.answers._poll
        may_end.set()
        assert look is not None
        await look
        del asking, look
        gc.collect()
    assert complaints == []


async def test_a_suspended_one_answers_queries_and_takes_updates_when_it_goes_on(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        cart = await worker.client.start(cart_async)
        await cart.suspend()
        await until(cart, OrchestrationStatus.SUSPENDED)
        late = await raises_soon(TimeoutError, cart.update("add", Item("pen", 1), timeout=0.05))
        assert "SUSPENDED" in str(late)
        assert await cart.query("count") == 0
        assert "UpdateReceived" not in names_of(await cart.history())
        waiting = asyncio.ensure_future(cart.update("add", Item("ink", 1)))
        await cart.resume()
        assert await waiting == 2


async def test_a_suspended_one_forgets_nothing_when_its_worker_goes(store_url: str) -> None:
    async with Client(store_url) as client:
        async with Worker(app, store_url):
            cart = await client.start("cart-async")
            await cart.suspend()
            await until(cart, OrchestrationStatus.SUSPENDED)
            for name in ("pen", "ink"):
                await raises_soon(TimeoutError, cart.update("add", Item(name, 1), timeout=0.05))
        async with Worker(app, store_url):
            waiting = asyncio.ensure_future(cart.update("add", Item("pad", 1)))
            await cart.resume()
            assert await waiting == 3
            assert [item["name"] for item in await cart.query("items")] == ["pen", "ink", "pad"]


async def test_updates_go_on_across_generations(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(counts)
        slow = asyncio.ensure_future(handle.update("add slowly", 1))
        assert await handle.query("total") == 0
        found = await asyncio.gather(*(handle.update("add", 1) for _ in range(10)))
        assert found == list(range(1, 11))
        failed = await raises_soon(UpdateFailedError, slow)
        assert "continued as new before the handler of update 'add slowly' had finished" in failed.details.message
        assert await handle.query("total") == 10
        assert (await handle.state()).generation == 3


async def test_the_end_of_an_instance_ends_the_waiting(store_url: str) -> None:
    async with Worker(app, store_url) as worker, Client(store_url) as stranger:
        cart = await worker.client.start(counts)
        slow = asyncio.ensure_future(cart.update("add slowly", 1))
        await until_recorded(cart, "UpdateReceived")
        assert await cart.update("add", 1) == 1
        await cart.terminate()
        assert "TERMINATED" in str(await raises_soon(InstanceFinishedError, slow))
        await raises_soon(InstanceFinishedError, cart.update("add", 1))
        assert await cart.query("total") == 1  # from its history
        await raises_soon(UnknownNameError, cart.query("price"))
        unread = await raises_soon(InstanceFinishedError, stranger.get(cart.instance_id).query("total"))
        assert "Client(url, app)" in str(unread)
        for ask in (stranger.get("nobody").query, stranger.get("nobody").update):
            await raises_soon(InstanceNotFoundError, ask("total"))


async def test_an_update_that_comes_twice_is_carried_out_once(store_url: str) -> None:
    async with Worker(app, store_url) as worker, provider_of(store_url) as provider:
        handle = await worker.client.start(counts)
        event = UpdateReceived("mark/1", "add", b"\x01")
        key = key_of(handle)
        message = Message(key, partition_of(key, 64), encode_arrivals([event]), run_id=handle.run_id)
        lease = await provider.lease("client", b"", worker=False)
        await provider.submit(lease, 1, [message, message])
        assert await handle.update("add", 1) == 2
        assert names_of(await handle.history()).count("UpdateReceived") == 2


async def test_a_rewound_run_keeps_the_updates_that_it_has_taken(store_url: str) -> None:
    attempts: list[int] = []

    def flaky() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("not yet")
        return "end"

    deployed = App()
    deployed.include(app)
    deployed.activity(name="flaky")(flaky)
    async with Worker(deployed, store_url) as worker:
        handle = await worker.client.start(fails_at_first)
        await handle.update("say", "one")
        await handle.raise_event("go")
        await until(handle, OrchestrationStatus.FAILED)
        await handle.rewind()
        assert await handle.result(timeout=20) == ["one", "end"]


def test_a_blocking_client_asks_as_well(tmp_path: Any) -> None:
    async def serve(stop: asyncio.Event) -> None:
        await Worker(app, url).serve(stop)

    async def ask() -> None:
        stop = asyncio.Event()
        serving = asyncio.ensure_future(serve(stop))
        await asyncio.to_thread(play)
        stop.set()
        await serving

    def play() -> None:
        with Client.sync(url) as client:
            cart: SyncHandle[Any] = client.start("cart-async")
            assert cart.update("add", {"name": "pen", "price": 1}, timeout=timedelta(seconds=20)) == 1
            assert cart.query("count") == 1

    url = f"sqlite:///{tmp_path}/store.db"
    asyncio.run(ask())


async def test_handlers_of_another_shape_are_refused_where_they_are_registered(store_url: str) -> None:
    deployed = App()

    @deployed.orchestrator
    def wrong(ctx: OrchestrationContext) -> list[str]:
        async def waits() -> None: ...

        found = []
        for attempt in (
            lambda: ctx.on_query("q", waits),
            lambda: ctx.on_update("u", lambda: None, waits),
            lambda: ctx.on_update("u", lambda one, two: None),  # type: ignore[misc, arg-type]
            lambda: ctx.on_query("", lambda: None),
        ):
            try:
                attempt()
            except (TypeError, ValueError) as error:
                found.append(str(error))
        return found

    async with Worker(deployed, store_url) as worker:
        found = await worker.client.run(wrong, timeout=20)
    assert [("plain function" in text, "takes two" in text, "empty" in text) for text in found] == [
        (True, False, False),
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


async def until_recorded(handle: Handle[Any], name: str) -> None:
    async with asyncio.timeout(15):
        while name not in names_of(await handle.history()):
            await asyncio.sleep(0.01)
