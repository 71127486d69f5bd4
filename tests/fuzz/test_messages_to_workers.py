"""Whatever lies in an inbox, the worker lives, other instances run, and every message is consumed or its instance stalls.

Method: instances that wait are sent hundreds of damaged messages, and whole ones that nobody asked for, past the client's
checks; then they are used as if nothing had been.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from durable import App, Client, InstanceFinishedError, OrchestrationContext, OrchestrationStatus, Worker, when_any
from durable import events as ev
from durable.invariants import read_runs, violations_in
from durable.messages import encode_arrivals
from durable.provider import Message, Priority, Provider, Verdict, partition_of
from tests.fuzz.decoders import ARRIVALS, DECODERS
from tests.worker.lives import FINISHED, key_of, lives_app, provider_of, until

HARMLESS = [
    event for event in ARRIVALS if not isinstance(event, ev.OrchestrationTerminated | ev.OrchestrationCancelRequested)
]
"""Those that do not end an instance, so that the next ones find it alive."""

INSTANCES = 8
BATCHES = 12
MESSAGES_EACH = 30


def busy_app() -> App:
    """The usual programs, and one that waits for something of every kind."""
    app = lives_app()

    @app.activity
    async def endless(value: int) -> int:
        await asyncio.Event().wait()
        return value

    @app.orchestrator
    async def waits_for_all(ctx: OrchestrationContext, value: int) -> list[Any]:
        go = ctx.wait_for_external_event("go", int)
        others: list[Any] = [
            ctx.call_activity(endless, value),
            ctx.create_timer(timedelta(hours=1)),
            ctx.call_sub_orchestrator("waits-async", value),
            ctx.wait_for_external_event("name"),
        ]
        while not go.is_complete:
            await when_any([go, *(task for task in others if not task.is_complete)])
        return [task.is_failed for task in others if task.is_complete]

    return app


def odd_arrivals(chance: random.Random) -> bytes:
    """Make a message: damaged bytes, or arrivals that are whole but that nobody asked for, with ids of any task."""
    if chance.random() < 0.3:
        return DECODERS["message"].make(chance)
    events: list[Any] = chance.choices(HARMLESS, k=chance.choice((1, 1, 2, 5)))
    return encode_arrivals([_readdressed(event, chance) for event in events], chance.choice((None, 0, 0, 1, 2**40)))


def _readdressed(event: Any, chance: random.Random) -> Any:
    """Let an arrival be about one of the first tasks, and sometimes bring no payload."""
    changes: dict[str, Any] = {}
    if hasattr(event, "task_id"):
        changes["task_id"] = chance.choice((0, 1, 2, 3, 4, 2**40, -1))
    if event.payload_field and chance.random() < 0.5:
        changes[event.payload_field] = chance.choice((b"\xc1", b"", b"\x91" * 500, None))
    return dataclasses.replace(event, **changes)


async def send(provider: Provider, messages: Sequence[Message]) -> None:
    lease = await provider.lease("fuzzer", b"", worker=False)
    answers = await provider.submit(lease, 1, messages)
    assert {answer.verdict for answer in answers} <= {Verdict.STORED, Verdict.FINISHED}
    await provider.release(lease)


@pytest.mark.parametrize("seed", range(2))
async def test_a_worker_lives_through_whatever_it_is_sent(store_url: str, seed: int) -> None:
    chance = random.Random(seed)
    unhandled: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    app = busy_app()
    async with provider_of(store_url) as provider, Client(store_url, app) as client, Worker(app, store_url):
        facts = await provider.open()
        handles = [await client.start("waits_for_all", number) for number in range(INSTANCES)]
        for _ in range(BATCHES):
            messages = []
            for _ in range(MESSAGES_EACH):
                handle = chance.choice(handles)
                key = key_of(handle)
                messages.append(
                    Message(
                        target=key,
                        partition=partition_of(key, facts.partitions),
                        data=odd_arrivals(chance),
                        priority=chance.choice((Priority.CONTROL, Priority.NORMAL, Priority.NORMAL)),
                        run_id=chance.choice((None, handle.run_id)),
                    )
                )
            await send(provider, messages)
            assert await client.run("returns-async", 5, timeout=30) == 5
        for handle in handles:
            await settles(handle)
        assert not unhandled
        # Of each run by itself: between runs nothing holds where somebody has lied about the end of a child.
        assert [text for run in await read_runs(provider) for text in violations_in(run)] == []


async def settles(handle: Any) -> None:
    """An instance goes on as if nothing had been: it ends when it gets what it waits for, or stalls and says why."""
    try:
        await handle.resume()
        await handle.raise_event("go", 1)
    except InstanceFinishedError:
        return
    state = await until(handle, *FINISHED, OrchestrationStatus.STALLED)
    if state.status is OrchestrationStatus.STALLED:
        assert state.stall_reason
        await handle.terminate("enough")
        await until(handle, *FINISHED)
