"""Reading instances back: a history that takes long holds up nothing but its own instance."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from durable import Handle, StoreUnavailableError, Worker
from durable.events import InstanceKey
from durable.provider import PARTITIONS, Provider, RecordRow
from durable.worker.cache import Cache
from durable.worker.live import LiveInstance
from tests.worker.lives import STYLES, becomes_true, lives_app, open_store, until


class Gate:
    """Lets nobody read the histories of some runs through one provider until it is opened."""

    def __init__(self, provider: Provider, handles: Sequence[Handle[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
        self._runs = {handle.run_id for handle in handles}
        self._is_open = asyncio.Event()
        self._read = provider.read_history
        self.waiting: set[str] = set()
        monkeypatch.setattr(provider, "read_history", self._read_later)

    async def _read_later(self, run_id: str, *arguments: Any) -> Sequence[RecordRow]:
        if run_id in self._runs:
            self.waiting.add(run_id)
            await self._is_open.wait()
        return await self._read(run_id, *arguments)

    def open(self) -> None:
        self._is_open.set()


async def asleep(store_url: str, style: str, count: int) -> list[Handle[Any]]:
    """Instances that wait for `go`, which no worker has in memory."""
    async with Worker(lives_app(), store_url) as worker:
        handles = [await worker.client.start(f"waits-{style}", number) for number in range(count)]
        for handle in handles:
            await until(handle, status="waiting")
        return handles


@pytest.mark.parametrize("style", STYLES)
async def test_a_history_that_takes_long_holds_up_no_other_instance(
    store_url: str, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(store_url) as client:
        long, *others = await asleep(store_url, style, 4)
        for handle in (long, *others):  # in this order they are read, all at once, when a worker comes
            await client.get(handle.instance_id).raise_event("go", "gone")
        worker = Worker(lives_app(), store_url)
        gate = Gate(worker._provider, [long], monkeypatch)
        async with worker:
            for number, handle in enumerate(others, 1):
                assert await worker.client.get(handle.instance_id).result(timeout=10) == [number, "gone"]
            assert gate.waiting == {long.run_id}
            gate.open()
            assert await worker.client.get(long.instance_id).result(timeout=10) == [0, "gone"]


@pytest.mark.parametrize("style", STYLES)
async def test_a_worker_gives_partitions_up_while_histories_in_them_are_read(
    store_url: str, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the lease would not be renewed for as long as the longest replay takes."""
    async with open_store(store_url) as client:
        handles = await asleep(store_url, style, 20)
        for handle in handles:
            await client.get(handle.instance_id).raise_event("go", "gone")
        first = Worker(lives_app(), store_url, name="first")
        gate = Gate(first._provider, handles, monkeypatch)
        async with first:
            await becomes_true(lambda: len(gate.waiting) == 20)
            async with Worker(lives_app(), store_url, name="second") as second:
                await becomes_true(lambda: second._parts and len(second._parts.keeper.owned) == PARTITIONS // 2)
                gate.open()
                for number, handle in enumerate(handles):
                    assert await second.client.get(handle.instance_id).result(timeout=10) == [number, "gone"]


@pytest.mark.parametrize("style", STYLES)
async def test_a_store_that_does_not_answer_is_asked_again(
    store_url: str, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(store_url) as client:
        handles = await asleep(store_url, style, 3)
        for handle in handles:
            await client.get(handle.instance_id).raise_event("go", "gone")
        worker = Worker(lives_app(), store_url)
        read, left = worker._provider.read_history, 3

        async def fails_at_first(*arguments: Any) -> Sequence[RecordRow]:
            nonlocal left
            left -= 1
            if left >= 0:
                raise StoreUnavailableError("not now")
            return await read(*arguments)

        monkeypatch.setattr(worker._provider, "read_history", fails_at_first)
        async with worker:
            for number, handle in enumerate(handles):
                assert await worker.client.get(handle.instance_id).result(timeout=10) == [number, "gone"]


def test_an_engine_is_not_taken_from_an_instance_that_is_being_read() -> None:
    """Without the cache too: what was consumed meanwhile brings it to rest, and its history is in the middle of a replay."""
    live = LiveInstance(InstanceKey("one"), 0)
    engine: Any = object()
    live.execution, live.is_loading = engine, True
    closed: list[Any] = []
    cache = Cache(0, close=closed.append, forget=lambda _: None)
    cache.keep(live)
    assert live.execution is engine
    live.is_loading = False
    cache.keep(live)
    assert live.execution is None
    assert closed == [engine]
