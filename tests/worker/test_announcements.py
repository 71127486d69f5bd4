"""What a worker tells the others: read where it can be, and otherwise nothing that would stop anybody."""

from __future__ import annotations

import logging

import pytest

from durable import Worker
from durable.worker.leasing import LeaseKeeper
from tests.worker.lives import becomes_true, lives_app, provider_of


@pytest.mark.parametrize("announcement", [b"\xc1", b"\x93\xc3\x05\x90", b"\x91" * 2_000, b"text"])
async def test_an_announcement_that_cannot_be_read_stops_no_worker(
    store_url: str, announcement: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []
    look_around = LeaseKeeper._look_around

    async def count(keeper: LeaseKeeper) -> None:
        await look_around(keeper)
        looked.append(keeper)

    monkeypatch.setattr(LeaseKeeper, "_look_around", count)
    monkeypatch.setattr("durable.worker.leasing.LOOK_AROUND_S", 0.05)
    async with provider_of(store_url) as provider:
        other = await provider.lease("odd one", announcement, worker=True)
        with caplog.at_level(logging.WARNING, "durable.worker"):
            async with Worker(lives_app(), store_url) as worker:
                assert await worker.client.run("returns-async", 5, timeout=30) == 5
                await becomes_true(lambda: len(looked) >= 3)
        warned = [record.getMessage() for record in caplog.records if "odd one" in record.getMessage()]
        assert len(warned) == 1, "once, not at every look"
        await provider.release(other)
