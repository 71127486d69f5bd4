"""A resumption with a long backlog: bounded turns, in order, over crashes, with what comes meanwhile behind it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from durable import App, Handle, Orchestration, OrchestrationContext, OrchestrationStatus, Worker
from durable.worker import turns
from tests.worker.lives import STYLES, becomes_true, open_store, until

COMPLETED, SUSPENDED = OrchestrationStatus.COMPLETED, OrchestrationStatus.SUSPENDED


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn takes ten arrivals here."""
    monkeypatch.setattr(turns, "ARRIVALS_MAX", 10)


def build_app() -> App:
    app = App()

    @app.orchestrator(name="collects-async")
    async def collects_async(ctx: OrchestrationContext, count: int) -> list[Any]:
        found: list[Any] = []
        ctx.set_custom_status("begun")
        for _ in range(count):
            found.append(await ctx.wait_for_external_event("item"))
        return found

    @app.orchestrator(name="collects-generator")
    def collects(ctx: OrchestrationContext, count: int) -> Orchestration[list[Any]]:
        found: list[Any] = []
        ctx.set_custom_status("begun")
        for _ in range(count):
            found.append((yield ctx.wait_for_external_event("item")))
        return found

    return app


async def suspended(handle: Handle[Any], held: int) -> None:
    """Suspend an instance, and wait until so many events are held."""
    await until(handle, status="begun")
    await handle.suspend()
    await until(handle, SUSPENDED)
    for number in range(held):
        await handle.raise_event("item", number)

    async def all_are_recorded() -> bool:
        return sum(type(event).__name__ == "EventRaised" for event in await handle.history()) == held

    await becomes_true(all_are_recorded)


async def deliveries(handle: Handle[Any]) -> Counter[Any]:
    """How many turns delivered what was held: resumptions in the history, with what each delivers at most."""
    found: list[Any] = [event for event in await handle.history() if type(event).__name__ == "OrchestrationResumed"]
    return Counter(event.at_most for event in found)


@pytest.mark.parametrize("style", STYLES)
async def test_what_was_held_is_delivered_in_turns_of_ordinary_size(store_url: str, style: str) -> None:
    async with Worker(build_app(), store_url) as worker:
        handle: Handle[Any] = await worker.client.start(f"collects-{style}", 48)
        await suspended(handle, 45)
        await handle.resume()
        for number in range(45, 48):
            await handle.raise_event("item", number)
        assert await handle.result(timeout=20) == list(range(48))
        assert await deliveries(handle) == {10: 5}
        assert await handle.dropped() == []


@pytest.mark.parametrize("style", STYLES)
async def test_few_held_arrivals_are_delivered_at_once(store_url: str, style: str) -> None:
    async with Worker(build_app(), store_url) as worker:
        handle: Handle[Any] = await worker.client.start(f"collects-{style}", 5)
        await suspended(handle, 5)
        await handle.resume()
        assert await handle.result(timeout=20) == list(range(5))
        assert await deliveries(handle) == {None: 1}


@pytest.mark.parametrize("style", STYLES)
async def test_a_new_owner_goes_on_with_the_deliveries(
    store_url: str, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first worker stops in the middle of them: each commit of a resumption but the first is kept from it."""
    async with open_store(store_url) as client:
        worker = Worker(build_app(), store_url)
        async with worker:
            handle = client.get((await worker.client.start(f"collects-{style}", 45)).instance_id)
            await suspended(handle, 45)
            commit, never = worker._provider.commit, asyncio.Event()
            written = 0

            async def one_more(lease: Any, batch: Any) -> Any:
                nonlocal written
                written += bool(batch.steps)
                if written > 1:
                    await never.wait()
                return await commit(lease, batch)

            monkeypatch.setattr(worker._provider, "commit", one_more)
            monkeypatch.setattr("durable.worker.worker.SETTLE_S", 0.1)
            await handle.resume()
            await becomes_true(lambda: written > 1)
            assert await deliveries(handle) == {10: 1}
        async with Worker(build_app(), store_url):
            assert await handle.result(timeout=20) == list(range(45))
            assert await deliveries(handle) == {10: 5}


@pytest.mark.parametrize("style", STYLES)
async def test_a_second_suspension_in_the_middle_holds_the_rest(
    store_url: str, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Worker(build_app(), store_url) as worker:
        handle: Handle[Any] = await worker.client.start(f"collects-{style}", 50)
        await suspended(handle, 45)
        await handle.resume()
        await handle.suspend("again")
        await handle.raise_event("item", 45)
        await until(handle, SUSPENDED)
        await handle.resume()
        for number in range(46, 50):
            await handle.raise_event("item", number)
        assert await handle.result(timeout=20) == list(range(50))
