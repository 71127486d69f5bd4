"""What an activity raises reaches the orchestrator as bounded details, whatever it is; the worker lives."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Never

import pytest

from durable import (
    ActivityFailedError,
    App,
    NonRetryableError,
    Orchestration,
    OrchestrationContext,
    OrchestrationFailedError,
    OrchestrationStatus,
    TaskFailedError,
    Worker,
)
from tests.worker.calls import PATIENCE_S, STYLES, calls, calls_and_tells, run

KIBIBYTE = 1024
HERE = "tests.worker.test_activities_failures"


class ShopError(Exception):
    pass


class CardDeclinedError(ShopError, ValueError):
    pass


class WildError(BaseException):
    pass


class HostileText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


class DeadlyText(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class NoText(Exception):
    def __str__(self) -> Any:
        return 5


class HostileCause(Exception):
    @property
    def __cause__(self) -> Never:  # type: ignore[override]
        raise RuntimeError("no cause for you")


class NeedsArguments(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__()


def cyclic() -> Exception:
    one, other = ValueError("one"), KeyError("other")
    one.__cause__, other.__cause__ = other, one
    return one


def chain_of(count: int) -> Exception:
    error: Exception = LookupError("the root")
    for number in range(count):
        outer = ValueError(str(number))
        outer.__cause__ = error
        error = outer
    return error


def failing(*, is_async: bool, error: BaseException) -> App:
    app = App()
    if is_async:

        @app.activity(name="fails")
        async def fails_async() -> None:
            await asyncio.sleep(0)
            raise error
    else:

        @app.activity(name="fails")
        def fails() -> None:
            raise error

    @app.activity
    async def works() -> str:
        return "works"

    calls_and_tells(app, lambda ctx: ctx.call_activity("fails"))
    calls(app, lambda ctx: ctx.call_activity("works"), name="other")
    return app


async def seen_of(error: BaseException, *, is_async: bool = True) -> dict[str, Any]:
    """What an orchestrator sees of an error, after which the same worker must still work."""
    async with Worker(failing(is_async=is_async, error=error), "memory://") as worker:
        seen: dict[str, Any] = await worker.client.run("main", timeout=10)
        assert await worker.client.run("other", timeout=10) == "works"
    assert seen["raised"] == "ActivityFailedError"
    return seen


KINDS = ["async", "sync"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("error", "name", "message"),
    [
        (ValueError("bad"), "ValueError", "bad"),
        (ValueError(), "ValueError", ""),
        (ValueError(1, 2), "ValueError", "(1, 2)"),
        (CardDeclinedError("no"), f"{HERE}.CardDeclinedError", "no"),
        (KeyError("key"), "KeyError", "'key'"),
        (NeedsArguments(1, 2), f"{HERE}.NeedsArguments", ""),
        (AssertionError("wrong"), "AssertionError", "wrong"),
        (RecursionError("deep"), "RecursionError", "deep"),
        (MemoryError(), "MemoryError", ""),
        (TimeoutError("its own"), "TimeoutError", "its own"),
        (SystemExit(3), "SystemExit", "3"),
        (KeyboardInterrupt(), "KeyboardInterrupt", ""),
        (GeneratorExit(), "GeneratorExit", ""),
        (WildError("wild"), f"{HERE}.WildError", "wild"),
        (asyncio.CancelledError("by itself"), "asyncio.exceptions.CancelledError", "by itself"),
        (StopAsyncIteration("x"), "StopAsyncIteration", "x"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
async def test_whatever_is_raised_fails_the_attempt_and_the_worker_lives(
    error: BaseException, name: str, message: str, kind: str
) -> None:
    seen = await seen_of(error, is_async=kind == "async")
    assert (seen["type"], seen["message"]) == (name, message)
    assert not seen["is_timeout"], "a TimeoutError of the activity's own is not one of the call's timeouts"
    assert not seen["final"]
    assert "test_activities_failures.py" in seen["stack"]


async def test_stop_iteration_is_a_failure_like_any_other() -> None:
    seen = await seen_of(StopIteration("x"), is_async=False)
    assert (seen["type"], seen["message"]) == ("StopIteration", "x")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [HostileText(), DeadlyText(), NoText(), HostileCause("x")], ids=repr)
async def test_an_exception_that_cannot_be_described_is_described_all_the_same(error: Exception, kind: str) -> None:
    seen = await seen_of(error, is_async=kind == "async")
    assert seen["type"] == f"{HERE}.{type(error).__name__}"


async def test_huge_messages_are_cut_with_a_mark() -> None:
    seen = await seen_of(ValueError("x" * (5 * KIBIBYTE * KIBIBYTE)))
    assert len(seen["message"].encode()) <= 64 * KIBIBYTE
    assert seen["message"].startswith("xxx")
    assert not seen["message"].endswith("xxx"), "the cut is marked"


async def test_a_lone_surrogate_in_a_message_harms_nobody() -> None:
    seen = await seen_of(ValueError("a \ud800 b"))
    assert seen["message"].startswith("a ")


async def test_cyclic_and_endless_causes_end() -> None:
    assert (await seen_of(cyclic()))["inner"] == "KeyError"
    seen = await seen_of(chain_of(1000))
    assert (seen["type"], seen["inner"]) == ("ValueError", "ValueError")


async def test_a_group_has_its_first_exception_inside() -> None:
    seen = await seen_of(ExceptionGroup("several", [KeyError("a"), ValueError("b")]))
    assert (seen["type"], seen["inner"]) == ("ExceptionGroup", "KeyError")
    seen = await seen_of(BaseExceptionGroup("wild", [SystemExit(1)]))
    assert (seen["type"], seen["inner"]) == ("BaseExceptionGroup", "SystemExit")


async def test_a_sync_activity_is_described_and_encoded_in_its_own_thread() -> None:
    """However long that takes, the loop goes on."""
    app = App()
    threads: list[str] = []

    class Slow(Exception):
        def __str__(self) -> str:
            threads.append(threading.current_thread().name)
            return "slow"

    @app.activity
    def fails() -> None:
        raise Slow

    calls_and_tells(app, lambda ctx: ctx.call_activity(fails))
    assert (await run(app, "memory://"))["message"] == "slow"
    assert threads
    assert all(name.startswith("durable-activity") for name in threads)


async def test_a_real_endless_recursion_is_a_failure() -> None:
    app = App()

    @app.activity
    def recurse(depth: int = 0) -> int:
        return recurse(depth + 1) + 1

    calls_and_tells(app, lambda ctx: ctx.call_activity(recurse))
    seen = await run(app, "memory://")
    assert seen["type"] == "RecursionError"
    assert len(seen["stack"].encode()) <= 64 * KIBIBYTE


@pytest.mark.parametrize("style", STYLES)
async def test_an_orchestrator_can_look_into_a_failure_and_go_on(store_url: str, style: str) -> None:
    app = App()

    @app.activity
    def pay(amount: int) -> None:
        try:
            raise KeyError("account")
        except KeyError as error:
            raise CardDeclinedError(f"no {amount}") from error

    def looked_into(error: TaskFailedError) -> list[Any]:
        details = error.details
        return [
            isinstance(error, ActivityFailedError),
            details.message,
            details.is_caused_by(CardDeclinedError),
            details.is_caused_by(ShopError),
            details.is_caused_by("ValueError"),
            details.is_caused_by(KeyError),
            details.is_caused_by(TypeError),
            details.inner is not None and details.inner.message,
        ]

    if style == "async":

        @app.orchestrator
        async def main(ctx: OrchestrationContext) -> Any:
            try:
                await ctx.call_activity(pay, 5)
            except TaskFailedError as error:
                return looked_into(error)
    else:

        @app.orchestrator(name="main")
        def main_in_generator_style(ctx: OrchestrationContext) -> Orchestration[Any]:
            try:
                yield ctx.call_activity(pay, 5)
            except TaskFailedError as error:
                return looked_into(error)

    assert await run(app, store_url) == [True, "no 5", True, True, True, True, False, "'account'"]


@pytest.mark.parametrize("style", STYLES)
async def test_an_uncaught_failure_fails_the_orchestration_with_its_cause_inside(store_url: str, style: str) -> None:
    app = App()

    @app.activity
    def pay() -> None:
        raise CardDeclinedError("no money")

    calls(app, lambda ctx: ctx.call_activity(pay), style)
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start("main")
        with pytest.raises(OrchestrationFailedError) as caught:
            await handle.result(timeout=10)
        state = await handle.state()
    assert state.status is OrchestrationStatus.FAILED
    details = caught.value.details
    assert details.error_type == "durable.errors.ActivityFailedError"
    assert details.inner is not None
    assert (details.inner.error_type, details.inner.message) == (f"{HERE}.CardDeclinedError", "no money")
    assert details.is_caused_by(ShopError)
    assert state.failure_details == details


async def test_a_non_retryable_error_says_so() -> None:
    class GoneError(NonRetryableError):
        pass

    assert (await seen_of(GoneError("x")))["final"]


async def test_a_failed_task_tells_of_its_failure_before_it_is_awaited() -> None:
    app = App()

    @app.activity
    async def fails() -> None:
        raise ValueError("x")

    @app.activity
    async def works() -> int:
        return 1

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> list[Any]:
        failed, good = ctx.call_activity(fails), ctx.call_activity(works)
        before = [failed.is_complete, failed.is_failed]
        try:
            failed.result()
        except asyncio.InvalidStateError:
            before.append(True)
        await good
        try:
            await failed
        except ActivityFailedError:
            pass
        again = 0
        for _ in range(2):
            try:
                await failed
            except ActivityFailedError:
                again += 1
        shown = [failed.is_complete, failed.is_failed, failed.is_cancelled, str(failed.exception())]
        return [before, shown, again, good.is_complete, good.is_failed, good.result(), good.exception()]

    before, shown, again, *good = await run(app, "memory://")
    assert before == [False, False, True]
    assert shown == [True, True, False, "fails: ValueError: x"]
    assert again == 2
    assert good == [True, False, 1, None]


# ---- the stack begins where the user's code does


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("is_async", [False, True])
async def test_the_stack_of_an_activity_begins_in_its_function(style: str, is_async: bool) -> None:
    app = App()

    def refuse() -> None:
        raise ValueError("no")

    if is_async:

        @app.activity
        async def fails() -> None:
            refuse()
    else:

        @app.activity
        def fails() -> None:
            refuse()

    calls_and_tells(app, lambda ctx: ctx.call_activity("fails"), style)
    seen = await run(app, "memory://")
    places = [line.strip() for line in seen["stack"].splitlines() if line.startswith('  File "')]
    assert [place.split(", in ")[1] for place in places] == ["fails", "refuse"]


@pytest.mark.parametrize("style", STYLES)
async def test_the_stack_of_an_orchestrator_begins_in_its_function(style: str) -> None:
    app = App()

    @app.activity
    def fails() -> None:
        raise ValueError("no")

    calls(app, lambda ctx: ctx.call_activity(fails), style)
    async with Worker(app, "memory://") as worker:
        handle = await worker.client.start("main")
        with pytest.raises(OrchestrationFailedError) as caught:
            await handle.result(timeout=PATIENCE_S)
    stack = caught.value.details.stack_trace
    assert stack.splitlines()[0].endswith(f"in in_{style}_style")


async def test_a_stack_without_any_frame_of_the_user_is_kept_as_it_is() -> None:
    app = App()

    @app.activity
    def doubled(number: int) -> int:
        return 2 * number

    calls_and_tells(app, lambda ctx: ctx.call_activity("doubled", "no number"))
    seen = await run(app, "memory://")
    assert "activities.py" in seen["stack"].splitlines()[0]
