"""What the killed workers run: orchestrations of every kind, whose activities note in a file of their own what they did.

The file of notes is opened with O_APPEND, one line per write, so that every process adds to it and a kill tears nothing:

    begun KEY PID TIME          an activity began; KEY is its idempotency key, TIME microseconds UTC
    ended KEY PID TOKEN         it is about to return TOKEN, which no other delivery returns
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from datetime import timedelta
from typing import Any

import durable_postgres.activities
import durable_postgres.clients
import durable_postgres.ownership
import durable_postgres.turns
import durable_sqlite.clients
import durable_sqlite.commits
import durable_sqlite.ownership

import durable.worker.leasing
from durable import ActivityContext, ActivityFailedError, App, OrchestrationContext, RetryPolicy, Worker
from tests.kills.payloads import opened_by

ATTEMPTS_MAX = {"step": 1, "blocking_step": 1, "stubborn": 3, "hopeless": 2}
"""How many attempts a call of each activity may have, by the policies below."""

THREE_ATTEMPTS = RetryPolicy(timedelta(milliseconds=20), 3)
TWO_ATTEMPTS = RetryPolicy(timedelta(milliseconds=20), 2)

app = App()


class Notes:
    """The file of notes; opened by the process that runs activities."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._numbers = itertools.count()

    def open(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def begun(self, ctx: ActivityContext) -> None:
        self._write(f"begun {ctx.idempotency_key} {os.getpid()} {time.time_ns() // 1000}\n")

    def ended(self, ctx: ActivityContext) -> str:
        token = f"{os.getpid()}.{next(self._numbers)}"
        self._write(f"ended {ctx.idempotency_key} {os.getpid()} {token}\n")
        return token

    def _write(self, line: str) -> None:
        os.write(self._descriptor, line.encode())


notes = Notes()


@app.activity
async def step(ctx: ActivityContext, number: int) -> list[Any]:
    notes.begun(ctx)
    await asyncio.sleep(0.003 * (number % 5))
    return [number, notes.ended(ctx)]


@app.activity
def blocking_step(ctx: ActivityContext, number: int) -> list[Any]:
    notes.begun(ctx)
    time.sleep(0.005)
    return [number, notes.ended(ctx)]


@app.activity
async def stubborn(ctx: ActivityContext, number: int) -> list[Any]:
    """Succeeds at the third attempt."""
    notes.begun(ctx)
    if ctx.attempt < 3:
        raise ValueError(f"attempt {ctx.attempt}")
    return [number, notes.ended(ctx)]


@app.activity
async def hopeless(ctx: ActivityContext) -> None:
    notes.begun(ctx)
    raise ValueError("never")


@app.orchestrator
async def chain(ctx: OrchestrationContext, length: int) -> list[Any]:
    return [await ctx.call_activity(step if n % 3 else blocking_step, n) for n in range(length)]


@app.orchestrator
async def fan(ctx: OrchestrationContext, width: int) -> list[Any]:
    return list(await asyncio.gather(*(ctx.call_activity(step, n) for n in range(width))))


@app.orchestrator
async def tries(ctx: OrchestrationContext, length: int) -> list[Any]:
    found = []
    for n in range(length):
        try:
            await ctx.call_activity(hopeless, retry_policy=TWO_ATTEMPTS)
        except ActivityFailedError:
            found.append(await ctx.call_activity(stubborn, n, retry_policy=THREE_ATTEMPTS))
    return found


@app.orchestrator
async def naps(ctx: OrchestrationContext, length: int) -> list[Any]:
    for n in range(length):
        await ctx.create_timer(timedelta(milliseconds=7 * n))
    return [await ctx.call_activity(step, 0)]


@app.orchestrator
async def family(ctx: OrchestrationContext, length: int) -> list[Any]:
    """Children with ids of their own and given ones."""
    named = ctx.call_sub_orchestrator(chain, 1, instance_id=f"{ctx.instance_id}/child")
    others = [ctx.call_sub_orchestrator(chain, 2) for _ in range(length)]
    return [*await named, *[found for part in await asyncio.gather(*others) for found in part]]


@app.orchestrator
async def inbox(ctx: OrchestrationContext, count: int) -> list[Any]:
    return [await ctx.wait_for_external_event("item") for _ in range(count)]


@app.orchestrator
async def relay(ctx: OrchestrationContext, state: list[Any]) -> list[Any]:
    """As `inbox`, but each event has a generation of its own."""
    left, seen = state
    seen = [*seen, await ctx.wait_for_external_event("item")]
    if left > 1:
        ctx.continue_as_new([left - 1, seen])
    return seen


@app.orchestrator
async def sends(ctx: OrchestrationContext, target: str) -> list[Any]:
    """Three events for another instance, between activities."""
    done = []
    for n in range(3):
        ctx.raise_event(target, "item", f"{ctx.instance_id}-{n}")
        done.append(await ctx.call_activity(step, n))
    return done


@app.orchestrator
async def patient(ctx: OrchestrationContext, number: int) -> Any:
    """Waits until it is cancelled, and cleans up then."""
    try:
        return await ctx.wait_for_external_event("never")
    finally:
        await ctx.call_activity(step, number)


def shorten_leases(seconds: float) -> None:
    """Let leases of this process last so long; all workers of a store must agree."""
    microseconds = round(seconds * 1e6)
    sqlite, postgres = durable_sqlite, durable_postgres
    modules = (sqlite.clients, sqlite.commits, sqlite.ownership, postgres.activities, postgres.clients, postgres.turns)
    for module in (durable.worker.leasing, *modules, postgres.ownership):
        assert hasattr(module, "LEASE_US"), "or it would silently keep the long one"
        module.LEASE_US = microseconds  # type: ignore[attr-defined]


async def serve(name: str, store: str, folder: str) -> None:
    """Run a worker until it is killed."""
    notes.open(f"{folder}/notes")
    logging.basicConfig(filename=f"{folder}/log", level=logging.WARNING, format=f"{name} %(levelname)s %(message)s")
    worker = Worker(app, opened_by(store, folder), name=name, max_activities=8)
    os.write(1, f"ready {name}\n".encode())  # one write, for others write to this pipe too; `print` may make two
    await worker.run()
