"""Large payloads lie outside of the store, whole, for exactly as long as their place in it refers to them.

Method: the conformance suite on a memory store with nearly everything outside; an app on real files, with its folder read after
each thing that ends or replaces a run; files taken away or damaged; payloads that were put and never referred to; and a
scenario under drawn faults in simulated time, in which puts take time, so that workers die between a put and its commit.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import durable_memory
import pytest

from durable import (
    App,
    Client,
    Compression,
    FolderPayloads,
    History,
    HistoryDamagedError,
    InstanceAlreadyExistsError,
    MemoryPayloads,
    OrchestrationContext,
    OrchestrationFailedError,
    OrchestrationStatus,
    PayloadError,
    Worker,
    offloaded_store,
    sealed_store,
)
from durable.encryption import AesGcm
from durable.errors import LeaseLostError, StoreUnavailableError
from durable.invariants import Moment, examine
from durable.offloading.shelf import Shelf, Sweep
from durable.offloading.stores import MARKER
from durable.offloading.wrapping import OffloadedProvider
from durable.ports import Ports, system_ports
from durable.provider import Batch, Committed, Delivery, InstanceFilter, InstanceRow, Lease, Message, Provider
from durable.testing import replay
from durable.testing.conformance import GROUPS, Connect
from durable.testing.conformance.store import Session, event_to, new_row, start_of, step_of
from durable.testing.simulation import running, world
from durable.testing.simulation.faults import draw_schedule
from tests.worker.lives import becomes_true, until

LARGE = 50_000
ABOVE = 10_000
HOUR_S = 3600.0


class TestOffloaded(  # type: ignore[misc]
    GROUPS["instances"],
    GROUPS["messages"],
    GROUPS["commits"],
    GROUPS["reads"],
    GROUPS["limits"],
    GROUPS["wakeups"],
):
    """The groups in which something is put outside."""

    @pytest.fixture
    def connect(self, tmp_path: Path) -> Connect:
        payloads = MemoryPayloads()
        return lambda ports: OffloadedProvider(
            durable_memory.connect(f"memory://{tmp_path.name}", ports), payloads, ports, above=8
        )


def growing_app() -> App:
    app = App()

    @app.activity
    def grow(text: str) -> str:
        return text * 2

    @app.activity
    def picky(text: str) -> str:
        if app.is_broken:  # type: ignore[attr-defined]
            raise ValueError("not today")
        return text

    @app.orchestrator
    async def grows(ctx: OrchestrationContext, text: str) -> str:
        ctx.set_custom_status("waits")
        more: str = await ctx.wait_for_external_event("more")
        return await ctx.call_activity(grow, text + more)

    @app.orchestrator
    async def fails(ctx: OrchestrationContext, text: str) -> str:
        return await ctx.call_activity(picky, await ctx.call_activity(grow, text))

    @app.orchestrator
    async def rounds(ctx: OrchestrationContext, text: str) -> int:
        ctx.set_custom_status(ctx.generation)
        await ctx.wait_for_external_event("next")
        if ctx.generation == 5:
            return len(text)
        ctx.continue_as_new(text)

    app.is_broken = True  # type: ignore[attr-defined]
    return app


def stored_in(tmp_path: Path, url: str = "") -> Provider:
    store = url or f"sqlite:///{tmp_path}/store.db"
    return offloaded_store(store, payloads=FolderPayloads(tmp_path / "payloads"), above=ABOVE)


def files_in(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "payloads").rglob("*") if path.is_file() and path.name != MARKER)


async def grown(client: Client, instance_id: str, text: str = "x" * LARGE) -> str:
    handle = await client.start("grows", text, instance_id=instance_id)
    await until(handle, status="waits")
    await handle.raise_event("more", "y" * LARGE)
    result: str = await handle.result(timeout=20)
    return result


async def test_large_values_lie_in_files_and_everything_reads_them_as_ever(tmp_path: Path) -> None:
    app, expected = growing_app(), ("x" * LARGE + "y" * LARGE) * 2
    async with Worker(app, stored_in(tmp_path)) as worker:
        client = worker.client
        assert await grown(client, "one") == expected
        assert files_in(tmp_path)
        state = await client.get("one").state()
        assert (state.input, state.output) == ("x" * LARGE, expected)
        exported = (await client.get("one").history()).export()
        fork = await client.get("one").fork(at=3, new_id="fork")
        assert await fork.result(timeout=20) == expected
        again = await client.get("one").restart(new_id="again")
        await until(again, status="waits")
        await again.raise_event("more", "")
        assert await again.result(timeout=20) == "x" * LARGE * 2
        failed = await client.start("fails", "x" * LARGE, instance_id="failed")
        with pytest.raises(OrchestrationFailedError):
            await failed.result(timeout=20)
        app.is_broken = False  # type: ignore[attr-defined]
        await failed.rewind()
        assert await failed.result(timeout=20) == "x" * LARGE * 2
        assert (tmp_path / "store.db").stat().st_size < 20 * LARGE, "what passes through is in the file for a moment"
    history = History.load(exported)
    assert len(exported) > 4 * LARGE, "an export is whole"
    replay(app, history)


async def test_what_ends_or_goes_takes_its_files_along(store_url: str, tmp_path: Path) -> None:
    async with Worker(growing_app(), stored_in(tmp_path, store_url)) as worker:
        client = worker.client
        await grown(client, "one")
        assert await client.purge(status=OrchestrationStatus.COMPLETED) == 1
        assert files_in(tmp_path) == []
        handle, counts = await client.start("rounds", "r" * LARGE, instance_id="rounds"), []
        for generation in range(6):
            await until(handle, status=generation)
            counts.append(len(files_in(tmp_path)))
            await handle.raise_event("next")
        assert await handle.result(timeout=20) == LARGE
        assert len(set(counts[2:])) == 1, f"an eternal orchestration does not grow: {counts}"
        with pytest.raises(InstanceAlreadyExistsError):
            await client.start("grows", "again" * LARGE, instance_id="rounds")
        assert len(files_in(tmp_path)) <= counts[-1] + 1, "what was refused has left nothing"
        await client.purge(prefix="rounds")
        assert files_in(tmp_path) == []


async def test_lost_payloads_stall_their_instances_until_they_are_back(tmp_path: Path) -> None:
    async with Worker(growing_app(), stored_in(tmp_path)) as worker:
        runs = {}
        for name in ("missing", "damaged"):
            handle = await worker.client.start("grows", "x" * LARGE, instance_id=name)
            await until(handle, status="waits")
            runs[handle.run_id] = name
        await grown(worker.client, "other", "w" * LARGE)
    kept = {path: path.read_bytes() for path in files_in(tmp_path)}
    for path, data in kept.items():
        if runs.get(path.parent.name) == "damaged":
            path.write_bytes(data[:-1] + b"?")
        else:
            path.unlink()
    async with Worker(growing_app(), stored_in(tmp_path)) as worker:
        client = worker.client
        for name in runs.values():
            await client.get(name).raise_event("more", "y")
        for name in runs.values():
            state = await until(client.get(name), OrchestrationStatus.STALLED)
            assert f"is {name}; give this process the payload store" in (state.stall_reason or "")
            with pytest.raises(HistoryDamagedError, match=name):
                await client.get(name).history()
        assert {listed.instance_id async for listed in client.query()} == {"missing", "damaged", "other"}
        with pytest.raises(PayloadError, match="lies outside of the store and is not found"):
            await client.get("other").result(timeout=5)
        with pytest.raises(PayloadError, match="lies outside"):
            await client.get("other").restart(new_id="third")
        for path, data in kept.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        for name in runs.values():
            assert await client.get(name).result(timeout=30) == ("x" * LARGE + "y") * 2


@pytest.mark.diverges("its history is read without the payloads, too")
async def test_a_worker_without_the_payloads_says_so_and_leaves_the_instance_to_one_that_has_them(
    tmp_path: Path,
) -> None:
    async with Worker(growing_app(), stored_in(tmp_path)) as worker:
        handle = await worker.client.start("grows", "x" * LARGE, instance_id="one")
        await until(handle, status="waits")
    async with Worker(growing_app(), f"sqlite:///{tmp_path}/store.db") as worker:
        await worker.client.get("one").raise_event("more", "y")
        state = await until(worker.client.get("one"), OrchestrationStatus.STALLED)
        assert "lies outside of the store: give this worker" in (state.stall_reason or "")
        assert str(state.input).startswith("<unreadable payload of")
    async with Worker(growing_app(), stored_in(tmp_path)) as worker:
        assert await worker.client.get("one").result(timeout=20) == ("x" * LARGE + "y") * 2


async def test_what_is_sealed_lies_outside_sealed_and_not_the_other_way_round(tmp_path: Path) -> None:
    codecs = [Compression(), AesGcm({"a": bytes(range(32))})]
    with pytest.raises(ValueError, match="in the clear"):
        offloaded_store(sealed_store("memory://", codecs=codecs), payloads=MemoryPayloads())
    text = "".join(f"canary {number} " for number in range(20_000))  # larger than the threshold when compressed, too
    async with Worker(growing_app(), sealed_store(stored_in(tmp_path), codecs=codecs)) as worker:
        await grown(worker.client, "one", text)
        assert (await worker.client.get("one").state()).input == text
        held = b"".join(
            path.read_bytes() for path in (*files_in(tmp_path), *tmp_path.glob("store.db*")) if path.is_file()
        )
    assert len(files_in(tmp_path)) >= 3
    assert b"canary" not in held


class Hours:
    """Ports whose monotonic time is turned by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.ports = dataclasses.replace(system_ports(), monotonic=lambda: self.seconds)


async def test_the_sweep_removes_orphans_and_never_what_is_referred_to_or_on_its_way(tmp_path: Path) -> None:
    payloads, hours, url = MemoryPayloads(), Hours(), f"memory://{tmp_path.name}"
    provider = OffloadedProvider(durable_memory.connect(url, hours.ports), payloads, hours.ports, above=8)
    await provider.open()
    session = Session(provider, await provider.lease("worker", b"", worker=True))
    await provider.take(session.lease, range(64))
    row = await session.start("kept", input=b"i" * 100)
    await session.commit(step_of(row, b"r" * 100))
    kept = dict(payloads.held)
    assert len(kept) == 2
    hub = next(iter(kept)).partition("/")[0]
    strangers = {f"{hub}/00/nobody/r0.0-abc": b"left by a crash", f"{hub}/00/nobody/r0.0-abc.part": b"half"}
    others = {"another-hub/00/nobody/r0.0-abc": b"not ours"}
    await payloads.put(strangers | others)
    for hour in (0, 0.9):  # younger than an hour, as far as this process can know
        hours.seconds = hour * HOUR_S
        await provider.renew(session.lease, belief=_belief)
        assert payloads.held == kept | strangers | others
    hours.seconds = 1.3 * HOUR_S
    await provider.renew(session.lease, belief=_belief)
    assert payloads.held == kept | others
    await provider.close()


async def test_the_sweep_goes_on_however_many_orphans_others_have_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable.offloading.shelf.SUSPECTS_MAX", 3)
    payloads, hours = MemoryPayloads(), Hours()
    provider = OffloadedProvider(
        durable_memory.connect(f"memory://{tmp_path.name}", hours.ports), payloads, hours.ports, above=8
    )
    await provider.open()
    session = Session(provider, await provider.lease("worker", b"", worker=True))
    await provider.take(session.lease, range(64))
    await session.start("one", input=b"i" * 100)
    [kept] = payloads.held
    hub = kept.partition("/")[0]
    for batch in range(3):
        orphans = {f"{hub}/00/nobody/r0.{batch}-{number}": b"left by a crash" for number in range(3)}
        await payloads.put(orphans)
        for _ in range(2):
            hours.seconds += 0.6 * HOUR_S
            await provider.renew(session.lease, belief=_belief)
            assert orphans.items() <= payloads.held.items()
        if batch < 2:
            await payloads.remove(list(orphans))  # another worker's sweep was first
    hours.seconds += 0.6 * HOUR_S
    await provider.renew(session.lease, belief=_belief)
    assert list(payloads.held) == [kept]
    await provider.close()


async def test_a_writer_that_was_held_up_puts_its_payloads_anew_before_the_sweep_takes_them(tmp_path: Path) -> None:
    hours, held_up = Hours(), [0.3, 0.0]

    class Stopped(MemoryPayloads):
        async def put(self, payloads: Mapping[str, bytes]) -> None:
            await super().put(payloads)
            hours.seconds += HOUR_S * held_up.pop(0)

    payloads = Stopped()
    provider = OffloadedProvider(
        durable_memory.connect(f"memory://{tmp_path.name}", hours.ports), payloads, hours.ports, above=8
    )
    await provider.open()
    session = Session(provider, await provider.lease("worker", b"", worker=True))
    await provider.take(session.lease, range(64))
    row = await session.start("one")
    await session.commit(step_of(row, b"r" * 100))
    assert not held_up
    first, second = payloads.held
    await payloads.remove([first])
    assert await session.history(row.run_id) == [b"r" * 100]
    assert second != first
    await provider.close()


def _belief() -> Any:
    return None


async def test_a_refused_commit_and_a_refused_start_leave_nothing(tmp_path: Path) -> None:
    payloads, url = MemoryPayloads(), f"memory://{tmp_path.name}"
    provider = OffloadedProvider(durable_memory.connect(url, system_ports()), payloads, system_ports(), above=8)
    await provider.open()
    session = Session(provider, await provider.lease("worker", b"", worker=True))
    await provider.take(session.lease, range(64))
    row = await session.start("one", input=b"i" * 100)
    before = dict(payloads.held)
    stale = dataclasses.replace(step_of(row, b"r" * 100), before=(7, 7))
    with pytest.raises(LeaseLostError):
        await provider.commit(session.lease, Batch(session.commits + 1, [stale]))
    [again] = await session.submit(start_of(new_row("one", input=b"j" * 100)))
    assert again.row is not None
    assert again.row.input == b"i" * 100
    await session.submit(event_to("nobody", b"e" * 100))
    assert payloads.held == before
    await provider.close()


class LostAnswers:
    """A store that does what it is asked and, once, says that it may not have."""

    def __init__(self, inner: Provider) -> None:
        self._inner = inner
        self.is_answering = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def commit(self, lease: Lease, batch: Batch) -> Committed:
        committed = await self._inner.commit(lease, batch)
        if self.is_answering:
            return committed
        self.is_answering = True
        raise StoreUnavailableError("no answer")

    async def submit(self, lease: Lease, number: int, messages: Sequence[Message]) -> Sequence[Delivery]:
        deliveries = await self._inner.submit(lease, number, messages)
        if self.is_answering:
            return deliveries
        self.is_answering = True
        raise StoreUnavailableError("no answer")


async def test_what_may_have_been_written_keeps_its_payloads_whatever_is_said_later(tmp_path: Path) -> None:
    payloads = MemoryPayloads()
    inner: Any = LostAnswers(durable_memory.connect(f"memory://{tmp_path.name}", system_ports()))
    provider = OffloadedProvider(inner, payloads, system_ports(), above=8)
    await provider.open()
    session = Session(provider, await provider.lease("worker", b"", worker=True))
    await provider.take(session.lease, range(64))
    row, start = await session.start("one", input=b"i" * 100), start_of(new_row("two", input=b"j" * 100))
    batch = Batch(session.commits + 1, [step_of(row, b"r" * 100)])
    inner.is_answering = False
    with pytest.raises(StoreUnavailableError):
        await provider.commit(session.lease, batch)
    held = dict(payloads.held)
    other = await provider.lease("other", b"", worker=True)
    await provider.take(other, range(64), from_live=True)
    with pytest.raises(LeaseLostError):
        await provider.commit(session.lease, batch)
    assert payloads.held == held
    assert await session.history(row.run_id) == [b"r" * 100]
    inner.is_answering = False
    number = session.submits + 1
    with pytest.raises(StoreUnavailableError):
        await provider.submit(session.lease, number, [start])
    held = dict(payloads.held)
    await provider.submit(session.lease, number, [start])
    assert payloads.held == held, "a repeated call puts nothing anew"
    assert (await session.load("two")).input == b"j" * 100
    await provider.close()


class AwayPayloads(MemoryPayloads):
    """Payloads that cannot be read, once."""

    is_away = False

    async def get(self, names: Sequence[str], bytes_max: int | None = None) -> Sequence[bytes | None]:
        if self.is_away:
            self.is_away = False
            raise StoreUnavailableError("not mounted")
        return await super().get(names, bytes_max)


@pytest.mark.parametrize("trouble", ["its answer cannot be read", "its answer is lost for long"])
async def test_a_commit_that_is_repeated_keeps_the_payloads_that_it_has_written_already(
    trouble: str, tmp_path: Path
) -> None:
    payloads, hours = AwayPayloads(), Hours()
    inner: Any = LostAnswers(durable_memory.connect(f"memory://{tmp_path.name}", hours.ports))
    provider = OffloadedProvider(inner, payloads, hours.ports, above=8)
    await provider.open()
    session = Session(provider, await provider.lease("worker", b"", worker=True))
    await provider.take(session.lease, range(64))
    row = await session.start("one", input=b"i" * 100)
    await session.start("in use", input=b"u" * 100)
    step = step_of(row, changes={"input": b"j" * 100}, messages=[0])
    batch = Batch(session.commits + 1, [step], messages=[start_of(new_row("in use", input=b"v" * 100))])
    if trouble == "its answer cannot be read":
        payloads.is_away = True
    else:
        inner.is_answering = False
    with pytest.raises(StoreUnavailableError):
        await provider.commit(session.lease, batch)
    hours.seconds += 0.3 * HOUR_S * (trouble == "its answer is lost for long")
    await provider.commit(session.lease, batch)
    assert (await session.load("one")).input == b"j" * 100
    await provider.close()


class VanishingPayloads(MemoryPayloads):
    """Payloads of which some are removed in the very moment in which they are about to be read."""

    vanish: Callable[[], Awaitable[object]] | None = None

    async def get(self, names: Sequence[str], bytes_max: int | None = None) -> Sequence[bytes | None]:
        if self.vanish is not None:
            vanish, self.vanish = self.vanish, None
            await vanish()
        return await super().get(names, bytes_max)


async def test_what_is_removed_while_it_is_read_is_no_loss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    payloads = VanishingPayloads()
    provider = OffloadedProvider(
        durable_memory.connect(f"memory://{tmp_path.name}", system_ports()), payloads, system_ports(), above=8
    )
    await provider.open()
    session = Session(provider, await provider.lease("worker", b"", worker=True))
    await provider.take(session.lease, range(64))
    row = await session.start("one", input=b"i" * 100)
    for number, look in enumerate((session.load, session.find, _listed)):
        following = f"{number}".encode() * 100
        step = step_of(await session.load("one"), changes={"input": following})
        payloads.vanish = functools.partial(session.commit, step)
        found = await (look(provider) if look is _listed else look("one"))  # type: ignore[arg-type, operator]
        assert found.input == following, "a row is shown as it is now"
    await session.commit(step_of(await session.load("one"), b"r" * 100))
    payloads.vanish = functools.partial(session.finish, await session.load("one"), drop_generations_below=1)
    assert await provider.read_history(row.run_id, 0) == [], "its history is gone, and not lost"
    payloads.vanish = functools.partial(provider.purge, [(row.key, row.run_id)])
    assert await session.find("one") is None
    assert not caplog.records
    await provider.close()


async def _listed(provider: Provider) -> InstanceRow:
    return (await provider.list_instances(InstanceFilter(), limit=10)).rows[0]


async def test_whoever_examines_a_store_is_told_of_each_instance_whose_payloads_are_lost(tmp_path: Path) -> None:
    async with Worker(growing_app(), stored_in(tmp_path)) as worker:
        for name in ("one", "two", "three"):
            await until(await worker.client.start("grows", name * LARGE, instance_id=name), status="waits")
    kept = {path: path.read_bytes() for path in files_in(tmp_path)}
    for path in kept:
        path.unlink()
    provider = stored_in(tmp_path)
    await provider.open()
    try:
        found = [text async for text in examine(provider, Moment.STILL)]
    finally:
        await provider.close()
        for path, data in kept.items():
            path.write_bytes(data)
    assert len(found) == 3
    assert all(text.startswith("I13: ") and "is missing; give this process" in text for text in found)


class UnrulyPayloads(MemoryPayloads):
    """Payloads that fail each call's first time, with an error of their own, which the protocol does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.failed: set[str] = set()

    def _fail_first(self, what: str) -> None:
        if what not in self.failed:
            self.failed.add(what)
            raise OSError(f"no {what} today")

    async def put(self, payloads: Mapping[str, bytes]) -> None:
        self._fail_first("put")
        await super().put(payloads)

    async def get(self, names: Sequence[str], bytes_max: int | None = None) -> Sequence[bytes | None]:
        self._fail_first("get")
        return await super().get(names, bytes_max)

    async def remove(self, names: Sequence[str]) -> None:
        self._fail_first("remove")
        await super().remove(names)

    async def names(self, prefix: str, after: str = "", limit: int = 1000) -> Sequence[str]:
        self._fail_first("names")
        return await super().names(prefix, after, limit)


async def test_whatever_a_payload_store_raises_ends_no_worker(tmp_path: Path) -> None:
    payloads = UnrulyPayloads()
    store = offloaded_store(f"memory://{tmp_path.name}", payloads=payloads, above=ABOVE)
    async with Worker(growing_app(), store) as worker:
        handle = await worker.client.start("rounds", "r" * LARGE)
        for generation in range(6):
            await until(handle, status=generation)
            await handle.raise_event("next")
        assert await handle.result(timeout=20) == LARGE
        await becomes_true(lambda: payloads.failed == {"put", "get", "remove", "names"})
        assert worker.health().failure is None
        assert (
            await worker.client.run("grows", "x", timeout=20, events=[("more", "y" * LARGE)]) == ("x" + "y" * LARGE) * 2
        )


class SlowPayloads(MemoryPayloads):
    """Putting takes time, one after the other: whoever is killed meanwhile leaves what it has put."""

    async def put(self, payloads: Mapping[str, bytes]) -> None:
        for name, data in payloads.items():
            await asyncio.sleep(0.3)
            self.held[name] = data
        await asyncio.sleep(0.3)


def doubling_app() -> App:
    app = App()

    @app.activity
    async def double(text: str) -> str:
        return text * 2

    @app.orchestrator
    async def child(ctx: OrchestrationContext, text: str) -> str:
        return await ctx.call_activity(double, text)

    @app.orchestrator
    async def parent(ctx: OrchestrationContext, text: str) -> int:
        if ctx.generation < 2:
            await ctx.create_timer(timedelta(seconds=20))
            ctx.continue_as_new(text + "!")
        return len(await ctx.call_sub_orchestrator(child, text))

    return app


async def double_thrice(client: Client) -> None:
    handles = [await client.start("parent", "x" * 300, instance_id=f"p{number}") for number in range(3)]
    assert [await handle.result() for handle in handles] == [604] * 3


def test_no_fault_loses_a_payload_or_leaves_one_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    payloads, connected, promises = SlowPayloads(), world.connect, running.broken_promises
    orphans = 0

    def connect(url: str, ports: Ports) -> Provider:
        inner = connected(url, ports)
        return OffloadedProvider(inner, payloads, ports, above=200, orphaned_after=timedelta(seconds=40))

    async def look(provider: OffloadedProvider, *arguments: Any, **options: Any) -> list[str]:
        """Sweep twice, far apart; whatever is left then is referred to, and whatever is referred to can be read."""
        nonlocal orphans
        hours, before = Hours(), len(payloads.held)
        shelf = Shelf(provider._inner, payloads, hours.ports)
        sweep = Sweep(provider._inner, payloads, shelf, hours.ports, HOUR_S)
        for hours.seconds in (0.0, 2 * HOUR_S):
            await sweep.step()
        orphans += before - len(payloads.held)
        assert all(await sweep._needed(list(payloads.held)))
        return await promises(provider, *arguments, **options)

    monkeypatch.setattr(world, "connect", connect)
    monkeypatch.setattr(running, "broken_promises", look)
    app = doubling_app()
    for seed in range(31, 45):
        payloads.held.clear()
        outcome = running.run_schedule(app, double_thrice, draw_schedule(seed, 150))
        assert outcome.is_good, (seed, outcome.error, outcome.violations, outcome.struck)
        assert payloads.held
    assert orphans, "no worker has died between a put and its commit: nothing was tried"
