"""A store behind a codec chain keeps the contract, and holds nothing that its users have written.

Method: the conformance suite on a memory store behind compression and AES-GCM; canaries in everything that users can hand in,
looked for in the bytes of a SQLite file and its log; keys that change, are missing, or are wrong.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import durable_memory
import pytest

from durable import (
    ActivityContext,
    App,
    Client,
    Compression,
    EntityId,
    OrchestrationContext,
    OrchestrationFailedError,
    OrchestrationStatus,
    PayloadError,
    StoreError,
    UpdateRejectedError,
    Worker,
    sealed_store,
)
from durable.encryption import AesGcm
from durable.payloads import Sealer
from durable.provider import Provider
from durable.sealed import SealedProvider
from durable.testing.conformance import GROUPS, Connect
from tests.worker.lives import becomes_true, until

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))


class TestSealed(GROUPS["messages"], GROUPS["commits"], GROUPS["activities"], GROUPS["reads"], GROUPS["wakeups"]):  # type: ignore[misc]
    """The groups in which something passes the chain."""

    test_a_history_is_read_piece_by_piece = None  # counts bytes as they went in

    @pytest.fixture
    def connect(self, tmp_path: Path) -> Connect:
        return lambda ports: _sealed(durable_memory.connect(f"memory://{tmp_path.name}", ports))


def _sealed(inner: Provider) -> Provider:
    return SealedProvider(inner, Sealer([Compression(min_bytes=1), AesGcm({"a": KEY})]))


def canary_app() -> App:
    app = App()

    @app.activity
    def beats(ctx: ActivityContext, value: str) -> str:
        ctx.heartbeat("canary-beat")
        raise ValueError(f"canary-error of {value}")

    @app.activity(queue="nobody")
    def never(value: str) -> None: ...

    @app.entity
    class Box:
        text: str = ""

        def put(self, text: str) -> None:
            self.text = text

    @app.orchestrator
    async def flow(ctx: OrchestrationContext, value: str) -> str:
        def refuse(text: str) -> None:
            raise ValueError("canary-refused")

        ctx.on_query("see", lambda: "canary-seen")
        ctx.on_update("change", lambda text: "canary-changed", validator=refuse)
        ctx.set_custom_status("canary-status")
        ctx.call_activity(never, "canary-queued")
        await ctx.call_entity(EntityId("Box", "b"), "put", "canary-state")
        data: str = await ctx.wait_for_external_event("go")
        await ctx.call_activity(beats, data)
        return value

    @app.orchestrator
    async def gives(ctx: OrchestrationContext, value: str) -> str:
        return f"canary-result of {value}"

    return app


async def play(store: Any) -> None:
    """Let an app put a canary wherever it can."""
    async with Worker(canary_app(), store) as worker:
        client = worker.client
        flow = await client.start("flow", "canary-input", instance_id="flow")
        await until(flow, status="canary-status")
        assert await flow.query("see") == "canary-seen"
        with pytest.raises(UpdateRejectedError, match="canary-refused"):
            await flow.update("change", "canary-argument", timeout=20)
        await flow.raise_event("go", "canary-event")
        await flow.raise_event("late", "canary-late")
        with pytest.raises(OrchestrationFailedError, match="canary-error of canary-event"):
            await flow.result(timeout=20)
        assert await client.run("gives", "canary-given", timeout=20) == "canary-result of canary-given"
        stopped = await client.start("flow", "x", at=timedelta(hours=1))
        await stopped.terminate("canary-reason")
        assert (await stopped.wait(timeout=20)).status is OrchestrationStatus.TERMINATED
        stalled = await client.start("flow", 7, instance_id="other", version="9")  # type: ignore[call-overload]
        await until(stalled, OrchestrationStatus.PENDING)
        assert (await client.get_entity(EntityId("Box", "b"))) is not None


def held_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


async def test_canaries_are_found_nowhere_in_the_store_and_all_of_them_without_encryption(tmp_path: Path) -> None:
    for name, sealed in (("plain", False), ("sealed", True)):
        (tmp_path / name).mkdir()
        url = f"sqlite:///{tmp_path / name}/store.db"
        reader = Client(url)  # keeps the file open, so that its log is not folded in when the worker leaves
        async with reader:
            await play(sealed_store(url, codecs=[Compression(), AesGcm({"a": KEY})]) if sealed else url)
            held = held_in(tmp_path / name)
        held += held_in(tmp_path / name)
        assert (b"canary" in held) is not sealed
    plain = held_in(tmp_path / "plain")
    for word in ("input", "status", "queued", "state", "event", "late", "error", "beat", "result", "reason"):
        assert f"canary-{word}".encode() in plain, f"the test puts no {word} into the store"


@pytest.mark.diverges("its histories are read with keys, which whoever replays them has not")
async def test_a_key_is_changed_while_instances_run_and_what_old_keys_wrote_stays_readable(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    async with Worker(canary_app(), url) as worker:  # before there was any encryption
        await worker.client.start("flow", "first", instance_id="a")
        await until(worker.client.get("a"), status="canary-status")
    for keys in ({"old": KEY}, {"old": KEY, "new": OTHER_KEY}):
        async with Worker(canary_app(), sealed_store(url, codecs=[AesGcm(keys)])) as worker:
            state = await worker.client.get("a").state()
            assert (state.input, state.custom_status) == ("first", "canary-status")
            await worker.client.start("flow", "then", instance_id="-".join(keys))
            await until(worker.client.get("-".join(keys)), status="canary-status")
            assert await worker.client.get("a").query("see") == "canary-seen"
    async with Client(sealed_store(url, codecs=[AesGcm({"new": OTHER_KEY})])) as client:
        assert (await client.get("old-new").state()).input == "then"
        listed = {state.instance_id async for state in client.query()}
        assert listed == {"a", "old", "old-new"}, "what cannot be read takes no listing down"
        with pytest.raises(StoreError, match="encrypted with the key 'old'"):
            await client.get("old").history()


@pytest.mark.diverges("as above")
async def test_a_worker_without_the_key_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    async with Client(sealed_store(url, codecs=[AesGcm({"a": KEY})])) as client:
        await client.start("gives", "x", instance_id="one")
    for store, told in (
        (sealed_store(url, codecs=[AesGcm({"b": OTHER_KEY})]), "it was encrypted with the key 'a'"),
        (url, "a message to 'one' is sealed"),
    ):
        async with Worker(canary_app(), store) as worker:
            await becomes_true(lambda told=told: told in caplog.text)  # type: ignore[misc]
            assert (await worker.client.get("one").state()).status is OrchestrationStatus.PENDING
    async with Worker(canary_app(), sealed_store(url, codecs=[AesGcm({"a": KEY})])) as worker:
        assert await worker.client.get("one").result(timeout=20) == "canary-result of x"


@pytest.mark.diverges("as above")
async def test_what_can_be_opened_overtakes_nothing_that_cannot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app, url = App(), f"memory://{tmp_path.name}"

    @app.orchestrator
    async def in_order(ctx: OrchestrationContext) -> list[str]:
        ctx.set_custom_status("waits")
        return [await ctx.wait_for_external_event("event") for _ in range(2)]

    def store(*keys: str) -> Provider:
        return sealed_store(url, codecs=[AesGcm({key: {"a": KEY, "b": OTHER_KEY}[key] for key in keys})])

    async with Worker(app, store("a")) as worker, Client(store("a", "b")) as ahead:
        handle = await worker.client.start(in_order, instance_id="one")
        await until(handle, status="waits")
        await ahead.get("one").raise_event("event", "first")
        await worker.client.get("one").raise_event("event", "second")
        await becomes_true(lambda: "encrypted with the key 'b'" in caplog.text)
    async with Worker(app, store("a", "b")) as worker:
        assert await worker.client.get("one").result(timeout=20) == ["first", "second"]


def test_what_was_tampered_with_is_refused_and_equal_data_looks_different() -> None:
    codec = AesGcm({"a": KEY})
    sealed = codec.encode(b"secret")
    assert codec.decode(sealed) == b"secret"
    assert codec.encode(b"secret") != sealed
    for index in range(2, len(sealed)):
        damaged = bytearray(sealed)
        damaged[index] ^= 1
        with pytest.raises(PayloadError, match="damaged"):
            codec.decode(bytes(damaged))
    for wrong in (b"", b"\x01", b"\x01a", sealed[:10]):
        with pytest.raises(PayloadError):
            codec.decode(wrong)
    with pytest.raises(ValueError, match="none of the keys"):
        AesGcm({"a": KEY}, current="b")
