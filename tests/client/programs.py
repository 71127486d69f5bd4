"""Orchestrators that the tests start; most are never run."""

from __future__ import annotations

import dataclasses
from typing import Any

from durable.app import App

app = App()


@dataclasses.dataclass
class Order:
    number: int
    lines: list[str]


@app.orchestrator
async def ship(ctx: Any, order: Order) -> Order:
    return order


@app.orchestrator
async def double(ctx: Any, number: int) -> int:
    return number * 2


@app.orchestrator
async def with_default(ctx: Any, number: int = 7) -> int:
    return number


@app.orchestrator
async def alone(ctx: Any) -> None: ...


@app.orchestrator
async def anything(ctx: Any, value):  # type: ignore[no-untyped-def]
    return value


@app.orchestrator(version="1.9", name="versioned")
async def versioned_old(ctx: Any) -> None: ...


@app.orchestrator(version="1.10", name="versioned")
async def versioned_new(ctx: Any) -> None: ...
