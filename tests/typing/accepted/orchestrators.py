"""Orchestrators in both styles, their calls of one another, and what the context gives."""

import asyncio
import logging
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, assert_type

from durable import App, Orchestration, OrchestrationContext, Task, when_all, when_any

app = App()


@app.activity
def say_hello(city: str) -> str:
    return f"Hello, {city}!"


@app.orchestrator
def hello_sequence(ctx: OrchestrationContext, cities: list[str]) -> Orchestration[list[str]]:
    greetings = []
    for city in cities:
        greetings.append((yield ctx.call_activity(say_hello, city)))
    return greetings


@app.orchestrator(name="hello", version="1.2")
async def hello_all(ctx: OrchestrationContext, cities: list[str]) -> list[str]:
    return await when_all([ctx.call_activity(say_hello, city) for city in cities])


@app.orchestrator
def typed_yields(ctx: OrchestrationContext) -> Orchestration[int]:
    text = yield from ctx.call_activity(say_hello, "x")
    assert_type(text, str)
    anything = yield ctx.create_timer(timedelta(seconds=1))
    assert_type(anything, Any)
    winner = yield from when_any([ctx.call_activity(say_hello, "x"), ctx.call_activity(say_hello, "y")])
    assert_type(winner, Task[str])
    first, second = yield from when_all((ctx.call_activity(say_hello, "x"), ctx.create_timer(timedelta(1))))
    assert_type(first, str)
    assert_type(second, None)
    return len(text)


@app.orchestrator
async def asked(ctx: OrchestrationContext) -> int:
    total = 0

    async def add(number: int) -> int:
        await ctx.call_activity(say_hello, "x")
        return number

    def check(number: int) -> None: ...

    def finish() -> Orchestration[None]:
        yield ctx.create_timer(timedelta(seconds=1))

    ctx.on_query("total", lambda: total)
    ctx.on_query("more", lambda least: total > least)
    ctx.on_update("add", add, validator=check)
    ctx.on_update("finish", finish)
    return total


@app.orchestrator
async def with_default(ctx: OrchestrationContext, count: int = 3) -> bool:
    return count > 3


async def children(ctx: OrchestrationContext) -> None:
    assert_type(ctx.call_sub_orchestrator(hello_sequence, ["a"]), Task[list[str]])
    assert_type(ctx.call_sub_orchestrator(hello_all, ["a"], instance_id="x", version="1.2"), Task[list[str]])
    assert_type(ctx.call_sub_orchestrator(typed_yields, tags={"a": "b"}, retry_policy=None), Task[int])
    assert_type(ctx.call_sub_orchestrator(with_default), Task[bool])
    assert_type(ctx.call_sub_orchestrator(with_default, 5), Task[bool])
    assert_type(ctx.call_sub_orchestrator("by-name", object()), Task[Any])
    assert_type(ctx.start_orchestration(hello_all, ["a"], instance_id="x"), str)
    assert_type(ctx.start_orchestration(typed_yields, at=timedelta(hours=1)), str)
    assert_type(ctx.start_orchestration("by-name", 5, at=datetime.now(UTC)), str)


async def waits(ctx: OrchestrationContext) -> None:
    assert_type(ctx.create_timer(datetime(2030, 1, 1, tzinfo=UTC)), Task[None])
    assert_type(ctx.wait_for_external_event("go"), Task[Any])
    assert_type(ctx.wait_for_external_event("go", int), Task[int])
    assert_type(ctx.wait_for_external_event("go", list[int], timeout=5), Task[list[int]])
    assert_type(ctx.wait_for_external_event("go", type=str, timeout=timedelta(1)), Task[str])
    print(await ctx.wait_for_external_event("go", int | None))


async def groups(ctx: OrchestrationContext) -> None:
    text, number = ctx.call_activity(say_hello, "x"), ctx.call_sub_orchestrator(typed_yields)
    assert_type(await when_all([text, text]), list[str])
    assert_type(await when_all((text, number)), tuple[str, int])
    assert_type(await when_all((text, number, ctx.create_timer(timedelta(1)))), tuple[str, int, None])
    assert_type(await when_any([text]), Task[str])
    assert_type(await asyncio.gather(text, number), tuple[str, int])
    assert_type(await asyncio.wait_for(text, 5), str)
    assert_type(await asyncio.shield(number), int)
    done, pending = await asyncio.wait([text])
    assert_type([task.result() for task in done | pending], list[str])
    async with asyncio.TaskGroup() as group:
        inner = group.create_task(asyncio.sleep(1, "x"))
    assert_type(inner.result(), str)


def task_states(task: Task[int]) -> None:
    assert_type(task.is_complete, bool)
    assert_type(task.is_failed, bool)
    assert_type(task.is_cancelled, bool)
    assert_type(task.result(), int)
    assert_type(task.exception(), BaseException | None)
    assert_type(task.cancel(), bool)


def tasks_are_covariant(flags: Task[bool]) -> Task[float]:
    return flags


def members(ctx: OrchestrationContext) -> None:
    assert_type(ctx.instance_id, str)
    assert_type(ctx.version, str | None)
    assert_type(ctx.parent_instance_id, str | None)
    assert_type(ctx.tags, Mapping[str, str])
    assert_type(ctx.scheduled_for, datetime)
    assert_type(ctx.current_utc_datetime, datetime)
    assert_type(ctx.is_replaying, bool)
    assert_type(ctx.new_uuid(), uuid.UUID)
    assert_type(ctx.random, Random)
    assert_type(ctx.logger, logging.Logger)
    assert_type(ctx.history_length, int)
    ctx.set_custom_status({"step": 1})
    ctx.raise_event("other", "go", [1, 2])


@app.orchestrator
def monitor(ctx: OrchestrationContext, rounds: int) -> Orchestration[int]:
    yield ctx.create_timer(timedelta(hours=1))
    if rounds:
        ctx.continue_as_new(rounds - 1, carry_over_events=False, version="2")
    return rounds
