"""Middleware sees activities, turns and what clients send, and changes none of it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar

import pytest

from durable import (
    ActivityCall,
    App,
    Client,
    ClientCall,
    InstanceNotFoundError,
    Middleware,
    OrchestrationContext,
    OrchestrationFailedError,
    TurnCall,
    Worker,
)

request_id: ContextVar[str] = ContextVar("request_id", default="none")


class Telling(Middleware):
    """Tells of everything; swallows whatever it can."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.name = name
        self.told = told

    @contextlib.contextmanager
    def activity(self, call: ActivityCall) -> Iterator[None]:
        self.told.append(f"{self.name}: {call.name}({call.input}) attempt {call.context.attempt}")
        token = request_id.set(call.context.instance_id)
        with contextlib.suppress(ValueError):
            yield
        request_id.reset(token)
        self.told.append(f"{self.name}: {call.name} = {call.result!r} {call.error!r}")

    @contextlib.contextmanager
    def client(self, call: ClientCall) -> Iterator[None]:
        self.told.append(f"{self.name}: {call.operation} {call.instance_id} {call.name}")
        yield

    @contextlib.contextmanager
    def turn(self, call: TurnCall) -> Iterator[None]:
        yield
        self.told.append(f"{self.name}: turn of {call.name}, {call.arrivals} in, {call.events} recorded")


class Broken(Middleware):
    """Fails before a turn, or after it."""

    @contextlib.contextmanager
    def turn(self, call: TurnCall) -> Iterator[None]:
        if call.name == "flow":
            raise RuntimeError("before")
        yield
        raise RuntimeError("after")


def told_app() -> App:
    app = App()

    @app.activity
    async def double(value: int) -> str:
        return f"{2 * value} for {request_id.get()}"

    @app.activity
    def fail(value: int) -> str:
        raise ValueError(f"{value} for {request_id.get()}")

    @app.orchestrator
    async def flow(ctx: OrchestrationContext, value: int) -> str:
        return await ctx.call_activity(double, value)

    @app.orchestrator
    async def fails(ctx: OrchestrationContext) -> str:
        return await ctx.call_activity(fail, 7)

    return app


async def test_each_middleware_is_around_the_next_and_an_exception_stands_whatever_they_make_of_it(
    store_url: str,
) -> None:
    told: list[str] = []
    middleware = [Telling("outer", told), Telling("inner", told)]
    async with Worker(told_app(), store_url, middleware=middleware) as worker:
        client = worker.client
        assert await client.run("flow", 2, instance_id="a", timeout=20) == "4 for a"
        assert told == [
            *("outer: start a flow", "inner: start a flow"),
            *("inner: turn of flow, 1 in, 2 recorded", "outer: turn of flow, 1 in, 2 recorded"),
            *("outer: double(2) attempt 1", "inner: double(2) attempt 1"),
            *("inner: double = '4 for a' None", "outer: double = '4 for a' None"),
            *("inner: turn of flow, 1 in, 2 recorded", "outer: turn of flow, 1 in, 2 recorded"),
        ]
        told.clear()
        with pytest.raises(OrchestrationFailedError, match="7 for b"):
            await client.run("fails", instance_id="b", timeout=20)
        assert "inner: fail = None ValueError('7 for b')" in told
        assert "outer: fail = None ValueError('7 for b')" in told


async def test_a_broken_middleware_around_turns_is_logged_and_harms_none(caplog: pytest.LogCaptureFixture) -> None:
    async with Worker(told_app(), "memory://", middleware=[Broken()]) as worker:
        assert await worker.client.run("flow", 2, instance_id="a", timeout=20) == "4 for none"
        with pytest.raises(OrchestrationFailedError, match="7 for none"):
            await worker.client.run("fails", instance_id="b", timeout=20)
    broken = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert {str(record.exc_info[1]) for record in broken if record.exc_info} == {"before", "after"}


async def test_a_client_of_its_own_and_a_blocking_one_have_middleware_too(tmp_path: object) -> None:
    told: list[str] = []
    url = f"sqlite:///{tmp_path}/store.db"
    async with Client(url, middleware=[Telling("client", told)]) as client:
        handle = await client.start("flow", 1, instance_id="a")
        await handle.cancel()
        with pytest.raises(InstanceNotFoundError):
            await client.get("none").raise_event("go")
    assert told == ["client: start a flow", "client: cancel a None", "client: raise_event none None"]
    with pytest.raises(TypeError, match="instances of durable.Middleware"):
        Client.sync(url, middleware=[Telling])  # type: ignore[list-item]
