"""Commands in this process, and what they run on: an app, and stores in which it has run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from click.testing import CliRunner, Result

from durable import (
    ActivityCall,
    ActivityFailedError,
    App,
    Inject,
    Middleware,
    OrchestrationContext,
    RetryPolicy,
    Worker,
    sealed_store,
    when_all,
)
from durable.cli.program import program
from durable.encryption import AesGcm
from durable.provider import Provider

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\u202eevil\u2028 [red]id[/red] \x9b31m\n"
"""Sets the title, clears the screen, overwrites the line, turns the direction, is markup: wherever a user may write."""

app = App()


@app.activity(retry_policy=RetryPolicy(timedelta(milliseconds=20), 2))
def charge(order_id: str) -> str:
    if order_id == "unlucky":
        raise ValueError(f"no money: {HOSTILE}")
    return f"receipt for {order_id}"


seen: list[str] = []


class Seeing(Middleware):
    @contextlib.contextmanager
    def activity(self, call: ActivityCall) -> Iterator[None]:
        seen.append(call.name)
        yield


wanting = App()
"""An app whose worker must bring something along."""


@wanting.activity
async def told(*, rate: int = Inject("rate")) -> int:
    return rate


@wanting.orchestrator
async def tells(ctx: OrchestrationContext) -> int:
    return await ctx.call_activity(told)


def dependencies() -> dict[str, int]:
    return {"rate": 7}


@app.orchestrator
async def ship(ctx: OrchestrationContext) -> str:
    return "shipped"


@app.orchestrator
async def order(ctx: OrchestrationContext, order_id: str) -> str:
    await ctx.call_activity(charge, order_id)
    await ctx.call_sub_orchestrator(ship)
    ctx.set_custom_status("waiting for approval")
    if not await ctx.wait_for_external_event("approved", bool, timeout=timedelta(days=3)):
        raise RuntimeError("refused")
    return f"{order_id} is on its way"


@app.orchestrator
async def odd(ctx: OrchestrationContext, text: str) -> None:
    ctx.set_custom_status(text)
    await ctx.wait_for_external_event(HOSTILE)
    raise RuntimeError(text)


@app.orchestrator
async def counter(ctx: OrchestrationContext) -> int:
    total = 0

    def add(amount: int) -> int:
        nonlocal total
        total += amount
        return total

    def check(amount: int) -> None:
        if amount < 0:
            raise ValueError(f"too little {HOSTILE}")

    ctx.on_update("add", add, validator=check)
    ctx.on_query("total", lambda: {"total": total})
    await ctx.wait_for_external_event("end")
    return total


@app.orchestrator
async def many(ctx: OrchestrationContext, count: int) -> None:
    await when_all([ctx.call_activity(charge, f"A-{number}") for number in range(count)])
    for order_id in ("B-1", "unlucky", "B-2"):
        try:
            await ctx.call_activity(charge, order_id)
        except ActivityFailedError:
            await ctx.call_sub_orchestrator(ship)
        await ctx.create_timer(timedelta(0))


def sealed_store_of_the_environment() -> Provider:
    """What a user's own module has, for `--store`."""
    return sealed_store(os.environ["SEALED_ORDERS"], codecs=[AesGcm({"a": bytes(32)})])


def no_store() -> int:
    raise LookupError("no key in this shell")


def run(store: str | None, *arguments: str, input: str | None = None, **environment: str) -> Result:
    """Run a command in this process, as `durable` with these arguments would."""
    given = environment if store is None else {"DURABLE_STORE": store, **environment}
    return CliRunner().invoke(
        program, arguments, input=input, env={"DURABLE_STORE": None, **given}, prog_name="durable"
    )


def done(store: str, *arguments: str, **options: Any) -> str:
    """Run a command that must succeed; return what it printed."""
    result = run(store, *arguments, **options)
    assert result.exit_code == 0, result.output
    return result.stdout


def from_json(store: str, *arguments: str) -> Any:
    return json.loads(done(store, *arguments, "--json"))


@contextlib.contextmanager
def worker_on(store: str) -> Iterator[None]:
    """Serve the app in a thread of its own for the length of the block."""
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with Worker(app, store):
            ready.set()
            await stop.wait()

    def main() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=main)
    thread.start()
    try:
        assert ready.wait(30)
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
