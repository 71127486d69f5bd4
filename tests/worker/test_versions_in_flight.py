"""A deployment over a running instance: with a step added by a patch, by a version, and wrongly.

Goal: version 1 is under way when version 2 comes. Method: a worker with one app brings an instance to a wait, stops, and a
worker with another app goes on.
"""

from __future__ import annotations

from typing import Any

import pytest

from durable import App, Client, Handle, Orchestration, OrchestrationContext, OrchestrationStatus, Worker
from tests.worker.lives import STYLES, names_of, until

KINDS = ("old", "patch", "version", "wrong")


def deployed(kind: str, style: str, ran: list[str]) -> App:
    """The app of one release; all but the old one have the step `audit` between the others."""
    app = App()

    @app.activity
    def work(name: str) -> str:
        ran.append(name)
        return name.upper()

    @app.activity
    def audit(name: str) -> str:
        ran.append(name)
        return name.upper()

    async def order(ctx: OrchestrationContext) -> list[Any]:
        done: list[Any] = [await ctx.call_activity(work, "reserve")]
        if kind == "wrong" or (kind == "patch" and ctx.patched("audit")):
            done.append(await ctx.call_activity(audit, "audit"))
        done.append(await ctx.call_activity(work, "pay"))
        ctx.set_custom_status("waiting")
        done.append(await ctx.wait_for_external_event("go"))
        if kind == "patch" and ctx.patched("audit"):
            done.append("audited")
        return [*done, await ctx.call_activity(work, "ship")]

    def order_generator(ctx: OrchestrationContext) -> Orchestration[list[Any]]:
        done: list[Any] = [(yield ctx.call_activity(work, "reserve"))]
        if kind == "wrong" or (kind == "patch" and ctx.patched("audit")):
            done.append((yield ctx.call_activity(audit, "audit")))
        done.append((yield ctx.call_activity(work, "pay")))
        ctx.set_custom_status("waiting")
        done.append((yield ctx.wait_for_external_event("go")))
        if kind == "patch" and ctx.patched("audit"):
            done.append("audited")
        return [*done, (yield ctx.call_activity(work, "ship"))]

    function = order if style == "async" else order_generator
    app.orchestrator(name="order", version="1")(function)
    if kind == "version":

        @app.orchestrator(name="order", version="2")
        async def order_2(ctx: OrchestrationContext) -> list[Any]:
            return [await ctx.call_activity(work, name) for name in ("reserve", "audit", "pay", "ship")]

    return app


async def under_way(client: Client, store_url: str, style: str, ran: list[str]) -> Handle[Any]:
    """An instance that the old release has brought to its wait."""
    async with Worker(deployed("old", style, ran), store_url):
        handle = await client.start("order")
        await until(handle, status="waiting")
    await handle.raise_event("go", "went")
    return handle


@pytest.mark.diverges("in the end the question is taken out of the code")
@pytest.mark.parametrize("style", STYLES)
async def test_by_a_patch_both_go_their_own_way(store_url: str, style: str) -> None:
    ran: list[str] = []
    async with Client(store_url) as client:
        old = await under_way(client, store_url, style, ran)
        async with Worker(deployed("patch", style, ran), store_url, strict=True):
            assert await old.result(timeout=20) == ["RESERVE", "PAY", "went", "SHIP"]
            new = await client.start("order", events=[("go", "went")])
            assert await new.result(timeout=20) == ["RESERVE", "AUDIT", "PAY", "went", "audited", "SHIP"]
        assert "PatchApplied" not in names_of(await old.history())
        assert names_of(await new.history()).count("PatchApplied") == 1
        # Once nothing old is left the question goes, and the new way stays.
        waiting = []
        async with Worker(deployed("patch", style, ran), store_url):
            waiting.append(await client.start("order"))
            await until(waiting[0], status="waiting")
        await waiting[0].raise_event("go", "went")
        ran.clear()
        async with Worker(deployed("wrong", style, ran), store_url, strict=True):
            assert await waiting[0].result(timeout=20) == ["RESERVE", "AUDIT", "PAY", "went", "SHIP"]
        assert ran == ["ship"]


@pytest.mark.parametrize("style", STYLES)
async def test_by_a_version_running_ones_keep_theirs_and_new_ones_take_the_newest(store_url: str, style: str) -> None:
    ran: list[str] = []
    async with Client(store_url) as client:
        old = await under_way(client, store_url, style, ran)
        async with Worker(deployed("version", style, ran), store_url, strict=True):
            assert await old.result(timeout=20) == ["RESERVE", "PAY", "went", "SHIP"]
            new = await client.start("order")
            assert await new.result(timeout=20) == ["RESERVE", "AUDIT", "PAY", "SHIP"]
            assert [(await handle.state()).version for handle in (old, new)] == ["1", "2"]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("cure", ["old", "patch", "version"])
async def test_a_wrong_one_stalls_and_says_why_until_one_that_fits_appears(
    store_url: str, style: str, cure: str
) -> None:
    ran: list[str] = []
    async with Client(store_url) as client:
        old = await under_way(client, store_url, style, ran)
        before = len(await old.history())
        ran.clear()
        async with Worker(deployed("wrong", style, ran), store_url):
            state = await until(old, OrchestrationStatus.STALLED)
            reason = str(state.stall_reason)
            assert reason.count("test_versions_in_flight.py:") == 2, reason
            assert "recorded:" in reason
            assert "asked now:" in reason
            assert len(await old.history()) == before
        assert ran == []
        async with Worker(deployed(cure, style, ran), store_url):
            assert await old.result(timeout=20) == ["RESERVE", "PAY", "went", "SHIP"]
        assert ran == ["ship"]
