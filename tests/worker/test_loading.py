"""Reading instances back: a history that takes long holds up nothing but its own instance."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from durable import Handle, StoreUnavailableError, Worker
from durable.events import InstanceKey
from durable.messages import new_row
from durable.ports import system_ports
from durable.provider import PARTITIONS, InstanceRow, Provider, RecordRow
from durable.worker.cache import Cache
from durable.worker.clock import StoreClock
from durable.worker.live import LiveInstance
from durable.worker.loading import Loader
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


def test_without_the_cache_an_engine_stays_until_all_of_a_large_turn_is_sent() -> None:
    """Else each part of it would be sent after a replay of its own."""
    live = LiveInstance(InstanceKey("one"), 0)
    engine: Any = object()
    live.execution = engine
    live.outbox.append(engine)
    closed: list[Any] = []
    cache = Cache(0, close=closed.append, forget=lambda _: None)
    cache.keep(live)
    assert live.execution is engine
    live.outbox.clear()
    cache.keep(live)
    assert closed == [engine]


async def test_what_fails_to_load_leaves_those_that_were_read_with_it_to_be_tried_again() -> None:
    """One meets an error of ours, one gets no answer of the store, one is well: the second is asked for again."""
    rows = {name: _row(name) for name in ("broken", "unanswered", "well")}
    lives = [LiveInstance(key_of_row.key, 0) for key_of_row in rows.values()]
    for live, row in zip(lives, rows.values(), strict=True):
        live.row, live.is_loading = row, True
    loaded: list[str] = []
    again: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

    class Store:
        async def read_history(self, run_id: str, *arguments: Any) -> Sequence[RecordRow]:
            if run_id == "unanswered":
                raise StoreUnavailableError("not now")
            return ()

    def on_loaded(live: LiveInstance, error: BaseException | None, is_first: bool) -> None:
        if live.key.id == "broken":
            raise KeyError("an error of ours")
        loaded.append(live.key.id)

    loader = Loader(
        Store(),  # type: ignore[arg-type]
        _NoTurns(),  # type: ignore[arg-type]
        StoreClock(system_ports().monotonic, 1),
        asyncio.get_running_loop(),
        is_parked=lambda live: False,
        on_loaded=on_loaded,
        on_unread=lambda left: again.set_result([live.key.id for live in left]),
        slots=1,
    )
    with pytest.raises(KeyError):
        await loader.load(lives)
    assert loaded == ["well"]
    assert await asyncio.wait_for(again, 10) == ["unanswered"]
    assert not any(live.is_loading for live in lives)


def _row(name: str) -> InstanceRow:
    row = new_row(InstanceKey(name), PARTITIONS, name, "n", None, now=1, scheduled_at=1, payload=None)
    return dataclasses.replace(row, records=1)


class _NoTurns:
    """Stands for what makes engines: they are never fed here."""

    def new_execution(self, row: InstanceRow) -> Any:
        return None

    def close(self, execution: Any) -> None:
        pass
