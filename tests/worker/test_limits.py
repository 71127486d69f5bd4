"""Bad input of every kind: a clear error where it is made, before anything is stored, and nothing lost.

Goal: decisions 7, 10 and 11. Method: each value goes in by every door, the client's and the orchestrator's, by function
and by name; afterwards the same worker runs a good instance.
"""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    App,
    Client,
    DurableError,
    InvalidInputError,
    LimitExceededError,
    Orchestration,
    OrchestrationContext,
    OrchestrationFailedError,
    OrchestrationStatus,
    TaskFailedError,
    Worker,
)
from durable.engine import refusals
from tests.worker.lives import STYLES, becomes_true, lives_app, names_of, until

FAILED, COMPLETED = OrchestrationStatus.FAILED, OrchestrationStatus.COMPLETED

LARGE = "x" * (2 * 1024 * 1024 + 1)
"""Over the limit of a payload, which is 2 MiB."""


def nested(depth: int) -> Any:
    value: Any = "core"
    for _ in range(depth):
        value = [value]
    return value


BAD_IDS = {
    "empty": "",
    "blank": " \t\n",
    "with a NUL": "a\0b",
    "513 bytes": "a" * 513,
    "513 bytes of emoji": "🙂" * 128 + "a",
    "half a surrogate": "a\ud800b",
}
NO_IDS = {"a number": 7, "bytes": b"abc", "a list": ["a"]}

GOOD_IDS = {
    "512 bytes": "a" * 512,
    "512 bytes of emoji": "🙂" * 128,
    "one letter": "a",
    "another case": "A",
    "with a space": " a",
    "with newlines": "a\nb\r\nc",
    "a path": "../a/b/.",
    "dots": "..",
    "percent": "a%b%",
    "underscore": "a_b_",
    "quotes": "a'b\"c;--",
    "combining": "a\u0308",
    "composed": "ä",
    "right to left": "\u202eabc",
    "control": "a\x01\x7f",
}


def doors_app() -> App:
    app = lives_app()

    @app.activity
    async def takes(value: Any) -> Any:
        return value

    @app.activity
    async def gives_large() -> str:
        return LARGE

    @app.activity
    async def counts(number: int) -> int:
        return number

    @app.orchestrator
    async def typed(ctx: OrchestrationContext, number: int) -> int:
        return number

    @app.orchestrator
    async def defaulted(ctx: OrchestrationContext, number: int = 7) -> int:
        return number

    @app.orchestrator
    async def inputless(ctx: OrchestrationContext) -> str:
        return "ran"

    @app.orchestrator
    async def returns_large(ctx: OrchestrationContext) -> str:
        return LARGE

    @app.orchestrator(name="tries-async")
    async def tries_async(ctx: OrchestrationContext, door: str) -> list[str]:
        """Puts a bad value through a door; gives what was raised, and goes on."""
        try:
            made = DOORS[door](ctx)
            if made is not None:
                await made
        except Exception as error:
            return told(error)
        return []

    @app.orchestrator(name="tries-generator")
    def tries(ctx: OrchestrationContext, door: str) -> Orchestration[list[str]]:
        try:
            made = DOORS[door](ctx)
            if made is not None:
                yield made
        except Exception as error:
            return told(error)
        return []

    return app


def told(error: Exception) -> list[str]:
    details = error.details if isinstance(error, TaskFailedError) else None
    return [
        type(error).__name__,
        details.error_type if details else type(error).__qualname__,
        details.message if details else str(error),
        str(details.non_retryable if details else ""),
    ]


DOORS: dict[str, Any] = {
    "activity, large": lambda ctx: ctx.call_activity("takes", LARGE),
    "activity, deep": lambda ctx: ctx.call_activity("takes", nested(200)),
    "activity, object": lambda ctx: ctx.call_activity("takes", object()),
    "activity, surrogate": lambda ctx: ctx.call_activity("takes", "\ud800"),
    "activity result, large": lambda ctx: ctx.call_activity("gives_large"),
    "activity, misfit": lambda ctx: ctx.call_activity("counts", "five"),
    "child, large": lambda ctx: ctx.call_sub_orchestrator("returns-async", LARGE),
    "child, deep": lambda ctx: ctx.call_sub_orchestrator("returns-async", nested(200)),
    "child, misfit": lambda ctx: ctx.call_sub_orchestrator("typed", "five"),
    "child result, large": lambda ctx: ctx.call_sub_orchestrator("returns_large"),
    "child, bad id": lambda ctx: ctx.call_sub_orchestrator("returns-async", 1, instance_id="a\0"),
    "child, long id": lambda ctx: ctx.call_sub_orchestrator("returns-async", 1, instance_id="a" * 513),
    "detached, large": lambda ctx: ctx.start_orchestration("returns-async", LARGE) and None,
    "detached, bad id": lambda ctx: ctx.start_orchestration("returns-async", 1, instance_id="") and None,
    "event, large": lambda ctx: ctx.raise_event("somebody", "name", LARGE),
    "event, bad target": lambda ctx: ctx.raise_event(" ", "name", 1),
    "event, bad name": lambda ctx: ctx.raise_event("somebody", "\ud800", 1),
    "wait, bad name": lambda ctx: ctx.wait_for_external_event(""),
    "wait, long name": lambda ctx: ctx.wait_for_external_event("a" * 513),
    "status, large": lambda ctx: ctx.set_custom_status("x" * (64 * 1024)),
    "status, object": lambda ctx: ctx.set_custom_status(object()),
    "status, surrogate": lambda ctx: ctx.set_custom_status("\ud800"),
    "continue, large": lambda ctx: ctx.continue_as_new(LARGE),
}

EXPECTED = {
    "activity, large": ("ActivityFailedError", "2097152"),
    "activity, deep": ("ActivityFailedError", "128"),
    "activity, object": ("ActivityFailedError", "object"),
    "activity, surrogate": ("ActivityFailedError", ""),
    "activity result, large": ("ActivityFailedError", "2097152"),
    "activity, misfit": ("ActivityFailedError", "counts"),
    "child, large": ("SubOrchestrationFailedError", "2097152"),
    "child, deep": ("SubOrchestrationFailedError", "128"),
    "child, misfit": ("SubOrchestrationFailedError", "typed"),
    "child result, large": ("SubOrchestrationFailedError", "2097152"),
    "child, bad id": ("InvalidInputError", "NUL"),
    "child, long id": ("InvalidInputError", "513"),
    "detached, large": ("LimitExceededError", "2097152"),
    "detached, bad id": ("InvalidInputError", "empty"),
    "event, large": ("LimitExceededError", "2097152"),
    "event, bad target": ("InvalidInputError", "blank"),
    "event, bad name": ("InvalidInputError", "surrogate"),
    "wait, bad name": ("InvalidInputError", "empty"),
    "wait, long name": ("InvalidInputError", "513"),
    "status, large": ("LimitExceededError", "65536"),
    "status, object": ("", "object"),
    "status, surrogate": ("", ""),
    "continue, large": ("LimitExceededError", "2097152"),
}

app = doors_app()


# ---- ids


@pytest.mark.parametrize("value", [*BAD_IDS.values(), *NO_IDS.values()], ids=[*BAD_IDS, *NO_IDS])
async def test_a_bad_id_is_refused_by_every_call_that_takes_one(store_url: str, value: Any) -> None:
    async with Client(store_url, app) as client:
        for call in (
            lambda: client.start("returns-async", 1, instance_id=value),
            lambda: client.run("returns-async", 1, instance_id=value),
            lambda: client.start("returns-async", 1, events=[(value, 1)]),
        ):
            with pytest.raises(InvalidInputError):
                await call()
        with pytest.raises(ValueError):
            client.get(value)
        assert await client.count() == 0


async def test_ids_are_byte_exact_and_apart_on_every_store(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        client = worker.client
        for number, good in enumerate(GOOD_IDS.values()):
            await client.start("waits-async", number, instance_id=good)
        assert await client.count() == len(GOOD_IDS)
        for number, good in enumerate(GOOD_IDS.values()):
            handle = client.get(good)
            await handle.raise_event("go", good)
            assert await handle.result(timeout=10) == [number, good]
            assert (await handle.state()).instance_id == good
            assert (await handle.history()).instance_id == good
        assert await client.count(prefix="a") == sum(good.startswith("a") for good in GOOD_IDS.values())
        assert await client.count(prefix="a%") == 1
        assert await client.count(prefix="a_") == 1
        assert [state.instance_id async for state in client.query(prefix="A")] == ["A"]
        for good in GOOD_IDS.values():
            assert await client.get(good).purge() == 1
        assert await client.count() == 0


# ---- values, by the client's doors


@pytest.mark.parametrize("value", ["five", 1.5, True, None, [1], {"a": 1}], ids=repr)
async def test_a_misfit_is_refused_by_function_before_anything_is_stored_and_fails_by_name(
    store_url: str, value: Any
) -> None:
    typed = next(definition.function for definition in app.orchestrators if definition.name == "typed")
    async with Worker(app, store_url) as worker:
        for call in (worker.client.start, worker.client.run):
            with pytest.raises(InvalidInputError):
                await call(typed, value)  # type: ignore[arg-type]
        assert await worker.client.count() == 0
        handle = await worker.client.start("typed", value)
        with pytest.raises(OrchestrationFailedError) as failed:
            await handle.result(timeout=10)
        assert failed.value.details.is_caused_by(InvalidInputError)
        assert names_of(await handle.history()) == ["OrchestrationStarted", "OrchestrationFailed"]


async def test_an_input_for_a_function_without_one_is_refused(store_url: str) -> None:
    inputless = next(definition.function for definition in app.orchestrators if definition.name == "inputless")
    async with Worker(app, store_url) as worker:
        with pytest.raises(InvalidInputError):
            await worker.client.start(inputless, 5)
        with pytest.raises(OrchestrationFailedError) as failed:
            await worker.client.run("inputless", 5, timeout=10)
        assert failed.value.details.is_caused_by(InvalidInputError)
        assert await worker.client.run(inputless, timeout=10) == "ran"
        assert await worker.client.run("defaulted", timeout=10) == 7
        assert await worker.client.run("defaulted", None, timeout=10) == 7
        assert await worker.client.run("defaulted", 0, timeout=10) == 0


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (LARGE, LimitExceededError, "2097152"),
        (b"x" * len(LARGE), LimitExceededError, "2097152"),
        (nested(129), LimitExceededError, "128"),
        (nested(100_000), LimitExceededError, "128"),
        (object(), TypeError, "object"),
        ({"a": [1, {2, object}]}, TypeError, "a"),
        ("\ud800", (ValueError, TypeError), "surrogate"),
        ({"\udfff": 1}, (ValueError, TypeError), "surrogate"),
    ],
    ids=["large text", "large bytes", "deep", "very deep", "object", "class inside", "surrogate", "surrogate key"],
)
async def test_what_cannot_be_stored_is_refused_by_each_door_of_the_client(
    store_url: str, value: Any, kind: type[Exception], text: str
) -> None:
    async with Worker(app, store_url) as worker:
        waiting = await worker.client.start("waits-async", instance_id="waiting")
        for call in (
            lambda: worker.client.start("returns-async", value),
            lambda: worker.client.run("returns-generator", value),
            lambda: worker.client.start("returns-async", 1, events=[("a", value)]),
            lambda: waiting.raise_event("go", value),
        ):
            with pytest.raises(kind, match=text):
                await call()
        assert await worker.client.count() == 1
        await waiting.raise_event("go", 1)
        assert await waiting.result(timeout=10) == [None, 1]


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 10**5000, -(10**300), nested(128), "x" * (2 * 1024 * 1024 - 10), -0.0],
    ids=["NaN", "inf", "-inf", "5,000 digits", "-300 digits", "depth 128", "just under 2 MiB", "-0.0"],
)
async def test_odd_values_within_the_limits_arrive(store_url: str, value: Any) -> None:
    async with Worker(app, store_url) as worker:
        found = await worker.client.run("returns-async", value, timeout=10)
        assert found == value or (isinstance(value, float) and math.isnan(value) and math.isnan(found))
        assert str(type(found)) == str(type(value))


async def test_tags_and_reasons_are_checked(store_url: str) -> None:
    async with Client(store_url, app) as client:
        for tags in ({"a": 1}, {1: "a"}, {"": "a"}, {"a\0": "b"}, {"a": "\ud800"}, ["a"]):
            with pytest.raises(InvalidInputError):
                await client.start("returns-async", 1, tags=tags)  # type: ignore[arg-type]
        handle = await client.start("waits-async")
        for reason in ("\ud800", "x" * 70_000, 7):
            for steer in (handle.cancel, handle.terminate, handle.suspend, handle.resume):
                with pytest.raises((ValueError, TypeError)):
                    await steer(reason)  # type: ignore[arg-type]
        assert await client.count() == 1


# ---- values, by the orchestrator's doors


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("door", DOORS)
async def test_a_bad_value_inside_an_orchestrator_is_that_requests_failure(
    store_url: str, door: str, style: str
) -> None:
    """The orchestrator catches it and ends well; its history replays the same."""
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"tries-{style}", door)
        found = await handle.result(timeout=10)
        error, text = EXPECTED[door]
        assert found, "nothing was raised"
        assert error in found[0]
        assert text in found[2]
        assert (await handle.state()).custom_status is None
        assert await worker.client.run("returns-async", 1, timeout=10) == 1


@pytest.mark.parametrize("style", STYLES)
async def test_a_bad_value_that_nobody_catches_fails_the_instance(store_url: str, style: str) -> None:
    own = doors_app()

    @own.orchestrator(name="careless-async")
    async def careless_async(ctx: OrchestrationContext) -> None:
        await ctx.call_activity("takes", LARGE)

    @own.orchestrator(name="careless-generator")
    def careless(ctx: OrchestrationContext) -> Orchestration[None]:
        yield ctx.call_activity("takes", LARGE)

    async with Worker(own, store_url) as worker:
        for name in (f"careless-{style}", "returns_large"):
            with pytest.raises(OrchestrationFailedError) as failed:
                await worker.client.run(name, timeout=10)
            assert "2097152" in failed.value.details.message + str(failed.value.details.inner)


async def test_a_custom_status_up_to_its_limit_is_shown(store_url: str) -> None:
    own = lives_app()

    @own.orchestrator
    async def shows(ctx: OrchestrationContext) -> None:
        ctx.set_custom_status("x" * (64 * 1024 - 10))
        await ctx.wait_for_external_event("go")

    async with Worker(own, store_url) as worker:
        handle = await worker.client.start(shows)
        await until(handle, status="x" * (64 * 1024 - 10))


@pytest.mark.parametrize("style", STYLES)
async def test_events_beyond_what_an_instance_may_buffer_are_listed_as_dropped(
    store_url: str, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of 100,000 is 50 here."""
    monkeypatch.setattr(refusals, "EVENTS_BUFFERED_MAX", 50)
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"waits-{style}")
        for number in range(60):
            await handle.raise_event("flood", number)
        await becomes_true(lambda: _dropped_are(handle, 10))
        assert all("50" in item.reason for item in await handle.dropped())
        await handle.raise_event("go", 1)
        state = await handle.wait(timeout=10)
        assert state.status is COMPLETED


async def _dropped_are(handle: Any, count: int) -> bool:
    return len(await handle.dropped()) == count


# ---- exceptions


class RudeError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


class CircularError(Exception):
    pass


def circular() -> Exception:
    one, two = CircularError("one"), CircularError("two")
    one.__cause__, two.__cause__ = two, one
    return one


EXCEPTIONS: dict[str, Any] = {
    "a __str__ that raises": RudeError,
    "no arguments": ValueError,
    "circular causes": circular,
    "a group": lambda: ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
    "a surrogate": lambda: ValueError("half \ud800"),
    "a NUL": lambda: ValueError("a\0b"),
    "a megabyte": lambda: ValueError("x" * 1_000_000),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration(5),
    "StopAsyncIteration": StopAsyncIteration,
    "a BaseException": lambda: BaseException("base"),
    "recursion": lambda: RecursionError("deep"),
    "memory": MemoryError,
    "DurableError": lambda: DurableError("own"),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "kind", [kind for kind in EXCEPTIONS if kind != "KeyboardInterrupt"]
)  # that is for the process
async def test_whatever_is_raised_in_an_orchestrator_fails_that_instance_and_no_other(
    store_url: str, kind: str, style: str
) -> None:
    own = lives_app()

    @own.orchestrator(name="explodes-async")
    async def explodes_async(ctx: OrchestrationContext) -> None:
        await ctx.create_timer(timedelta(0))
        raise EXCEPTIONS[kind]()

    @own.orchestrator(name="explodes-generator")
    def explodes(ctx: OrchestrationContext) -> Orchestration[None]:
        yield ctx.create_timer(timedelta(0))
        raise EXCEPTIONS[kind]()

    async with Worker(own, store_url) as worker:
        handle = await worker.client.start(f"explodes-{style}")
        state = await handle.wait(timeout=10)
        assert state.status is FAILED
        details = state.failure_details
        assert details is not None
        assert len(details.message.encode()) <= 64 * 1024
        assert len(details.stack_trace.encode()) <= 64 * 1024
        if kind not in ("StopIteration", "StopAsyncIteration", "GeneratorExit"):
            assert details.is_caused_by(type(EXCEPTIONS[kind]()))
        assert await worker.client.run("returns-async", 1, timeout=10) == 1


@pytest.mark.parametrize("kind", EXCEPTIONS)
async def test_whatever_is_raised_in_an_activity_fails_that_attempt_and_the_worker_lives(
    store_url: str, kind: str
) -> None:
    own = lives_app()

    @own.activity
    async def explodes() -> None:
        raise EXCEPTIONS[kind]()

    @own.activity
    def explodes_in_a_thread() -> None:
        raise EXCEPTIONS[kind]()

    @own.orchestrator
    async def calls(ctx: OrchestrationContext) -> list[bool]:
        found = await asyncio.gather(
            ctx.call_activity(explodes), ctx.call_activity(explodes_in_a_thread), return_exceptions=True
        )
        return [type(item).__name__ == "ActivityFailedError" for item in found]

    async with Worker(own, store_url) as worker:
        assert await worker.client.run(calls, timeout=10) == [True, True]
        assert await worker.client.run("returns-async", 1, timeout=10) == 1
