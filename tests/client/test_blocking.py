"""The blocking face: the same interface for threads, one portal behind it, and nothing that wedges or stays behind."""

from __future__ import annotations

import ast
import asyncio
import inspect
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from durable.client import Client, Handle, SyncClient, SyncHandle
from durable.client._generate_sync import STUB, generate
from durable.errors import DurableError, InstanceAlreadyExistsError, InstanceNotFoundError, StoreError
from tests.client.owner import Owner, owner_of
from tests.client.programs import Order, alone, app, double, ship

NOT_OF_THE_FACE = {"close", "connection", "sharing", "sync"}


class OwnerThread:
    """An owner played by hand, in a thread of its own."""

    def __init__(self, url: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.context = owner_of(url)
        self.owner: Owner = self.run(self.context.__aenter__())

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def later(self, seconds: float, coroutine: Any) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            await coroutine

        asyncio.run_coroutine_threadsafe(wait(), self.loop)

    def close(self) -> None:
        self.run(self.context.__aexit__(None, None, None))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def owner(store_url: str) -> Iterator[OwnerThread]:
    thread = OwnerThread(store_url)
    yield thread
    thread.close()


def portal_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "durable-client"]


# ---- the same interface


def test_everything_works_without_await(store_url: str, owner: OwnerThread) -> None:
    with Client.sync(store_url, app) as client:
        handle = client.start(ship, Order(1, []), instance_id="a", tags={"x": "y"}, events=[("e", 1)])
        assert isinstance(handle, SyncHandle)
        assert (handle.instance_id, handle.run_id) == ("a", handle.state().run_id)
        assert repr(handle) == f"<SyncHandle of <Handle of 'a', run {handle.run_id}>>"
        with pytest.raises(InstanceAlreadyExistsError):
            client.start(ship, Order(1, []), instance_id="a")
        with pytest.raises(TimeoutError, match="PENDING"):
            handle.result(timeout=0.01)
        handle.raise_event("x", 1)
        handle.suspend()
        handle.resume()
        owner.later(0.05, owner.owner.complete("a", {"number": 2, "lines": []}))
        assert [state.status.name for state in handle.watch()] == ["PENDING", "COMPLETED"]
        assert handle.result() == client.get("a", ship).result(timeout=5) == Order(2, [])
        assert "OrchestrationSuspended" in {type(event).__name__ for event in handle.history()}
        assert handle.dropped() == []
        assert [state.instance_id for state in client.query(tags={"x": "y"})] == ["a"]
        assert client.count() == client.wait(prefix="a", timeout=5) == 1
        assert handle.purge() == 1
        with pytest.raises(InstanceNotFoundError):
            client.get("a").state()


def test_the_face_has_every_name_of_the_original() -> None:
    for face, kind in ((SyncClient, Client), (SyncHandle, Handle)):
        for name in dir(kind):
            if not name.startswith("_") and name not in NOT_OF_THE_FACE:
                assert hasattr(face, name), name
                original, forwarded = getattr(kind, name), getattr(face, name)
                if callable(original):
                    assert inspect.signature(original) == inspect.signature(forwarded)
                    assert forwarded.__doc__ == original.__doc__
        assert face.__doc__ == kind.__doc__
    assert SyncHandle[int] is SyncHandle


def test_its_types_are_generated_from_the_original() -> None:
    # If this fails: python -m durable.client._generate_sync, and look at the difference.
    assert ast.dump(ast.parse(STUB.read_text(encoding="utf-8"))) == ast.dump(ast.parse(generate()))


def test_an_iterator_that_is_left_is_closed_in_the_portal(store_url: str, owner: OwnerThread) -> None:
    with Client.sync(store_url, app) as client:
        handle = client.start(alone, instance_id="a")
        watching = handle.watch()
        assert next(watching).status.name == "PENDING"
        watching.close()
        waiters = client._behind.connection.waiters  # type: ignore[attr-defined]
        assert not waiters._by_run


def test_an_iterator_that_outlives_its_client_ends_without_a_word(store_url: str, owner: OwnerThread) -> None:
    with Client.sync(store_url, app) as client:
        client.start(alone, instance_id="a")
        states = client.query()
        next(states)
    states.close()  # as when it is collected


# ---- threads


def test_many_threads_share_one_client(store_url: str, owner: OwnerThread) -> None:
    with Client.sync(store_url, app) as client, ThreadPoolExecutor(16) as threads:
        handles = list(threads.map(lambda number: client.start(double, number, instance_id=f"i{number}"), range(100)))
        assert len({handle.run_id for handle in handles}) == 100
        assert client.count() == 100
        for number in range(100):
            owner.run(owner.owner.complete(f"i{number}", 2 * number))
        assert list(threads.map(lambda handle: handle.result(timeout=20), handles)) == [2 * n for n in range(100)]
        assert len(portal_threads()) == 1


def test_closing_joins_the_thread_and_ends_what_waits(store_url: str) -> None:
    client = Client.sync(store_url, app)
    handle = client.start(alone)
    (portal,) = portal_threads()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(handle.result)
        time.sleep(0.05)
        client.close()
        with pytest.raises(DurableError, match="closed"):
            waiting.result(10)
    assert not portal.is_alive()
    client.close()
    with pytest.raises(DurableError, match="closed"):
        handle.state()
    with pytest.raises(DurableError, match="closed"):
        client.start(alone)


def test_a_client_that_was_never_used_starts_no_thread(store_url: str) -> None:
    client = Client.sync(store_url, app)
    assert portal_threads() == []
    client.close()
    with pytest.raises(DurableError, match="closed"), client:
        pass


def test_a_store_that_cannot_be_opened_says_so_and_leaves_no_thread(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing://"):
        Client.sync("nothing://")
    client = Client.sync(f"memory://{tmp_path.name}", app)
    opened, behind = 0, client._behind  # type: ignore[attr-defined]
    opening = behind._provider.open

    async def refuse_once() -> Any:
        nonlocal opened
        opened += 1
        if opened == 1:
            raise StoreError("no such folder")
        return await opening()

    behind._provider.open = refuse_once
    with pytest.raises(StoreError, match="no such folder"):
        client.start(alone)
    assert portal_threads() == []
    assert client.start(alone).state().name == "alone"
    client.close()


def test_use_in_its_own_loop_is_refused(store_url: str) -> None:
    with Client.sync(store_url, app) as client:
        refused: list[str] = []

        async def misuse() -> None:
            for call in (client.count, client.close):
                try:
                    call()
                except DurableError as error:
                    refused.append(str(error))

        client._portal.call(misuse)  # type: ignore[attr-defined]
        assert len(refused) == 2
        assert client.count() == 0


def test_an_interrupt_ends_the_waiting_and_nothing_else(store_url: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background may have had it ignored
    with Client.sync(store_url, app) as client:
        handle = client.start(alone)
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            handle.result(timeout=30)
        assert client.count() == 1
        waiters = client._behind.connection.waiters  # type: ignore[attr-defined]
        until = time.monotonic() + 5
        while waiters._by_run and time.monotonic() < until:
            time.sleep(0.001)
        assert not waiters._by_run, "the coroutine was cancelled"


# ---- processes


@pytest.mark.own_processes
def test_use_after_a_fork_is_a_clear_error(tmp_path: Path) -> None:
    program = f"""
import os, sys
from durable.client import Client
client = Client.sync("memory://{tmp_path.name}")
client.start("a")
child = os.fork()
if child == 0:
    try:
        client.count()
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    client.close()
    os._exit(0)
os.waitpid(child, 0)
print(client.count(), flush=True)
client.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("DurableError this blocking client was started in process"), done
    assert done.stdout.endswith("\n1\n"), done


@pytest.mark.own_processes
def test_a_client_made_before_a_fork_and_used_after_it_works(tmp_path: Path) -> None:
    program = f"""
import os
from durable.client import Client
client = Client.sync("memory://{tmp_path.name}")
child = os.fork()
with client:
    client.start("a")
    os.write(1, f"{{client.count()}}\\n".encode())  # at one go: two processes share the pipe
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "1\n1\n", done


@pytest.mark.own_processes
def test_a_script_that_forgets_to_close_ends(store_url: str) -> None:
    program = f"""
from durable.client import Client
client = Client.sync({store_url!r})
client.start("a", instance_id="a")
list(client.query())
print("done", flush=True)
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert time.monotonic() - began < 20


@pytest.mark.own_processes
def test_a_process_pool_may_use_clients_of_its_own() -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        assert pool.map(_count_in_own_process, ["memory://"] * 4) == [1] * 4


def _count_in_own_process(url: str) -> int:
    with Client.sync(url) as client:
        client.start("a")
        return client.count()


def test_calls_that_race_with_the_close_never_hang(tmp_path: Path) -> None:
    for _ in range(50):
        client = Client.sync(f"memory://{tmp_path.name}")
        client.count()
        refused = threading.Event()

        def call(client: Any = client, refused: threading.Event = refused) -> None:
            try:
                while True:
                    client.count()
            except DurableError:
                refused.set()

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        client.close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        assert refused.is_set()
    assert portal_threads() == []


def test_what_goes_wrong_while_closing_is_told_once(tmp_path: Path) -> None:
    client = Client.sync(f"memory://{tmp_path.name}")
    client.count()

    async def refuse() -> None:
        raise StoreError("the disk is gone")

    client._behind._provider.close = refuse  # type: ignore[attr-defined]
    with pytest.raises(StoreError, match="the disk is gone"):
        client.close()
    client.close()
    assert portal_threads() == []
