"""A history says which code made its requests: by a digest with the start, and again where other code has taken over."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from durable import (
    App,
    Client,
    OrchestrationCodeChanged,
    OrchestrationContext,
    OrchestrationStarted,
    OrchestrationStatus,
    UpdateRejectedError,
    Worker,
)
from durable.signatures import code_digest
from tests.worker.lives import names_of, raises_soon, until


def deployed(release: int) -> App:
    """Release 2 does the same in other words, release 3 does something else."""
    app = App()

    @app.activity
    def work(name: str) -> str:
        return name.upper()

    if release == 1:

        @app.orchestrator
        async def order(ctx: OrchestrationContext) -> list[str]:
            done = [await ctx.call_activity(work, "reserve")]
            ctx.on_update("refuse", lambda: None, lambda: False)
            await ctx.wait_for_external_event("go")
            done.append(await ctx.call_activity(work, "pay"))
            return done

    elif release == 2:

        @app.orchestrator(name="order")
        async def order_2(ctx: OrchestrationContext) -> list[str]:
            first = await ctx.call_activity(work, "reserve")
            ctx.on_update("refuse", lambda: None, lambda: False)
            await ctx.wait_for_external_event("go")
            return [first, await ctx.call_activity(work, "pay"), "again"]

    else:

        @app.orchestrator(name="order")
        async def order_3(ctx: OrchestrationContext) -> list[str]:
            return [await ctx.call_activity(work, "look"), await ctx.call_activity(work, "reserve")]

    return app


def digest_of(app: App) -> bytes | None:
    return code_digest(app.find_orchestrator("order").function)


@pytest.mark.diverges("two releases have written it, each with its own lines")
async def test_a_history_says_from_where_on_other_code_has_asked(store_url: str) -> None:
    old, new = digest_of(deployed(1)), digest_of(deployed(2))
    assert old is not None
    assert old != new
    async with Client(store_url) as client:
        async with Worker(deployed(1), store_url):
            handle = await client.start("order")
            await raises_soon(UpdateRejectedError, handle.update("refuse"))
            before = list(await handle.history())
        async with Worker(deployed(2), store_url):
            await raises_soon(UpdateRejectedError, handle.update("refuse"))
            assert list(await handle.history()) == before  # nobody has asked for anything
            await handle.raise_event("go")
            assert await handle.result(timeout=20) == ["RESERVE", "PAY", "again"]
        events = list(await handle.history())
        started, changed = events[0], events[len(before)]
        assert isinstance(started, OrchestrationStarted)
        assert isinstance(changed, OrchestrationCodeChanged)
        assert (started.code_digest, changed.code_digest) == (old, new)
        assert names_of(events).count("OrchestrationCodeChanged") == 1
        assert names_of(events[len(before) + 1 :])[:2] == ["EventRaised", "ActivityScheduled"]


async def test_what_stalls_is_told_whether_the_code_has_changed(store_url: str) -> None:
    async with Client(store_url) as client:
        async with Worker(deployed(1), store_url):
            handle = await client.start("order")
            await raises_soon(UpdateRejectedError, handle.update("refuse"))
        await handle.raise_event("go")
        async with Worker(deployed(3), store_url):
            state = await until(handle, OrchestrationStatus.STALLED)
    was, now = (str((digest_of(deployed(release)) or b"").hex()) for release in (1, 3))
    assert f"The code has changed since: its digest was {was} when this was recorded, and is {now}" in str(
        state.stall_reason
    )


def test_the_digest_is_that_of_what_the_code_does() -> None:
    def order(ctx: Any) -> Any:
        return [step for step in ("a", "b") if step in {"a", "b", "c"}]

    text = "def order(ctx):\n    # a remark\n\n    return [step for step in ('a', 'b') if step in {'c', 'b', 'a'}]\n"
    found: dict[str, Any] = {}
    exec(text, found)
    assert code_digest(found["order"]) is not None
    assert code_digest(found["order"]) == code_digest(order)
    exec(text.replace("'c'", "'d'"), found)
    assert code_digest(found["order"]) != code_digest(order)
    assert code_digest(len) is None


@pytest.mark.own_processes
def test_the_digest_is_the_same_in_every_process() -> None:
    program = (
        "from durable.signatures import code_digest\n"
        "def order(ctx): return lambda step: step in {'a', 'b', 'c', 'd', 'e'}\n"
        "print(code_digest(order).hex())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
