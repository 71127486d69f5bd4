"""Decorators keep a function's type. The assertions are the type checkers'; at run time they only must not fail."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from datetime import timedelta
from typing import Any, assert_type

from durable.app import ActivityDefinition, App, OrchestratorDefinition, definition_of
from durable.retry import RetryPolicy
from tests.app.contexts import ActivityContext, OrchestrationContext

app = App(retain=timedelta(days=1))


@app.activity
def say_hello(city: str) -> str:
    return f"Hello, {city}!"


@app.activity(name="pay", version="1.10", retry_policy=RetryPolicy(timedelta(seconds=1), 3), max_concurrency=1)
async def charge(ctx: ActivityContext, order: int) -> bool:
    return bool(order)


@app.orchestrator
def generator_flow(ctx: OrchestrationContext, order: int) -> Generator[Any, Any, str]:
    yield
    return str(order)


@app.orchestrator(version="2", retain=timedelta(hours=1))
async def async_flow(ctx: OrchestrationContext) -> list[str]:
    return []


def test_decorated_functions_keep_their_types() -> None:
    assert_type(say_hello("Ada"), str)
    assert_type(generator_flow(OrchestrationContext(), 7), Generator[Any, Any, str])


async def awaited() -> None:
    assert_type(await charge(ActivityContext(), 7), bool)
    assert_type(await async_flow(OrchestrationContext()), list[str])


def test_decorated_async_functions_keep_their_types() -> None:
    asyncio.run(awaited())


def test_lookups_are_typed() -> None:
    assert_type(app.find_activity("pay"), ActivityDefinition)
    assert_type(app.activity_of(say_hello), ActivityDefinition | None)
    assert_type(definition_of(say_hello), ActivityDefinition | OrchestratorDefinition)
    assert_type(definition_of(async_flow, OrchestratorDefinition), OrchestratorDefinition)
