"""The memory store keeps the contract."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import durable_memory
import pytest

from durable.errors import StoreError
from durable.ports import system_ports
from durable.provider import InstanceFilter, Wakeup
from durable.testing.conformance import Conformance, Connect, Store
from durable.testing.conformance.store import event_to, new_row, start_of, wait_for


class TestMemory(Conformance):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Connect:
        return lambda ports: durable_memory.connect(f"memory://{tmp_path.name}?message_bytes_max=100000", ports)

    @pytest.fixture
    def connect_to_other_hub(self, tmp_path: Path) -> Connect:
        return lambda ports: durable_memory.connect(f"memory://{tmp_path.name}?hub=other", ports)


@pytest.fixture
def name(tmp_path: Path) -> str:
    return tmp_path.name


async def _count(url: str) -> int:
    """How many instances who opens this URL sees."""
    store = Store(lambda ports: durable_memory.connect(url, ports), has_clock=True)
    session = await store.client()
    count = await session.provider.count(InstanceFilter())
    await store.close()
    return count


async def test_a_named_store_is_shared_by_name_and_hub_and_lives_as_long_as_the_process(name: str) -> None:
    store = Store(lambda ports: durable_memory.connect(f"memory://{name}", ports), has_clock=True)
    session = await store.client()
    await session.submit(start_of(new_row("instance")))
    urls = [f"memory://{name}", f"memory://{name}?hub=default", f"memory://{name}?hub=other", f"memory://{name}2"]
    assert [await _count(url) for url in (*urls, "memory://")] == [1, 1, 0, 0, 0]
    await store.close()
    assert await _count(urls[0]) == 1
    assert await _count(f"{urls[0]}?until=closed") == 1
    assert await _count(urls[0]) == 0


async def test_a_private_store_belongs_to_its_object() -> None:
    provider = durable_memory.connect("memory://", system_ports())
    for expected in (0, 1):
        await provider.open()
        lease = await provider.lease("client", b"", worker=False)
        assert await provider.count(InstanceFilter()) == expected
        await provider.submit(lease, 1, [start_of(new_row("instance"))])
        await provider.close()


@pytest.mark.parametrize(
    "url",
    [
        "memory:///path",
        "memory://x?color=red",
        "memory://x?message_bytes_max=many",
        "memory://x#part",
        "memory://x?until=x",
    ],
)
def test_a_url_that_means_nothing_is_an_error(url: str) -> None:
    with pytest.raises(StoreError, match="memory"):
        durable_memory.connect(url, system_ports())


async def test_threads_with_loops_of_their_own_share_a_store(name: str) -> None:
    store = Store(lambda ports: durable_memory.connect(f"memory://{name}", ports), has_clock=True)
    worker = await store.worker()
    await worker.start("instance")
    heard: list[Wakeup] = []
    worker.provider.listen(heard.append)

    async def send() -> None:
        client = await store.client()
        for _ in range(50):
            await client.submit(event_to("instance"))
        await client.provider.close()

    threads = [threading.Thread(target=lambda: asyncio.run(send())) for _ in range(4)]
    for thread in threads:
        thread.start()
    await wait_for(lambda: sum(len(wakeup.messages) for wakeup in heard) == 200)
    for thread in threads:
        thread.join()
    assert len({message.sequence for message in await worker.receive()}) == 200
    await store.close()
