"""Retries as a user meets them: who decides, how often, how long between, and that the waits are durable."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    ActivityContext,
    ActivityFailedError,
    App,
    FailureDetails,
    Handle,
    NonRetryableError,
    Orchestration,
    OrchestrationContext,
    RetryPolicy,
    Worker,
    when_all,
)
from tests.worker.calls import STYLES, calls, calls_and_tells, holds, names_in, run

MS = timedelta(milliseconds=1)


class ShopError(Exception):
    pass


class CardDeclinedError(ShopError, ValueError):
    pass


class GoneError(NonRetryableError):
    pass


class Flaky:
    """An app with an activity that fails so many times, and the orchestrator `main` that calls it with a policy."""

    def __init__(self, failures: int, error: Exception | None = None, **declared: Any) -> None:
        self.app = App()
        self.attempts: list[int] = []

        @self.app.activity(name="flaky", **declared)
        async def flaky(ctx: ActivityContext) -> str:
            self.attempts.append(ctx.attempt)
            if len(self.attempts) <= failures:
                raise error or ValueError(f"attempt {ctx.attempt}")
            return f"attempt {ctx.attempt}"

    async def run(self, store_url: str = "memory://", style: str = "async", **options: Any) -> Any:
        calls_and_tells(self.app, lambda ctx: ctx.call_activity("flaky", **options), style)
        return await run(self.app, store_url)


async def waits_of(handle: Handle[Any]) -> list[timedelta]:
    """How long each retry of an instance was to wait."""
    history = await handle.history()
    return [
        timedelta(microseconds=event.due) - (event.timestamp - event.timestamp.fromtimestamp(0, event.timestamp.tzinfo))
        for event in history
        if type(event).__name__ == "TimerCreated"
    ]


@pytest.mark.parametrize("style", STYLES)
async def test_it_is_tried_again_until_it_succeeds(store_url: str, style: str) -> None:
    flaky = Flaky(2)
    assert await flaky.run(store_url, style, retry_policy=RetryPolicy(MS, 5)) == "attempt 3"
    assert flaky.attempts == [1, 2, 3]


@pytest.mark.parametrize("style", STYLES)
async def test_the_last_failure_is_what_the_orchestrator_sees(store_url: str, style: str) -> None:
    flaky = Flaky(99)
    seen = await flaky.run(store_url, style, retry_policy=RetryPolicy(MS, 3))
    assert seen["message"] == "attempt 3"
    assert flaky.attempts == [1, 2, 3]


async def test_without_a_policy_there_is_one_attempt() -> None:
    flaky = Flaky(99)
    assert (await flaky.run())["message"] == "attempt 1"
    assert flaky.attempts == [1]


async def test_a_declared_policy_counts_and_a_call_overrides_it_also_with_none() -> None:
    declared = RetryPolicy(MS, 3)
    for options, attempts in (
        ({}, [1, 2, 3]),
        ({"retry_policy": RetryPolicy(MS, 2)}, [1, 2]),
        ({"retry_policy": None}, [1]),
    ):
        flaky = Flaky(99, retry_policy=declared)
        await flaky.run(**options)
        assert flaky.attempts == attempts


async def test_no_number_of_attempts_is_no_limit() -> None:
    flaky = Flaky(40)
    assert await flaky.run(retry_policy=RetryPolicy(timedelta(0), None)) == "attempt 41"


async def test_a_synchronous_activity_is_tried_again_just_so() -> None:
    app = App()
    attempts: list[int] = []

    @app.activity(retry_policy=RetryPolicy(MS, 3))
    def flaky(ctx: ActivityContext) -> str:
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise OSError("no")
        return "done"

    calls(app, lambda ctx: ctx.call_activity(flaky))
    assert await run(app, "memory://") == "done"
    assert attempts == [1, 2, 3]


# ---- how long between


@pytest.mark.parametrize(
    ("policy", "expected_ms"),
    [
        (RetryPolicy(20 * MS, 4), [20, 20, 20]),
        (RetryPolicy(4 * MS, 5, backoff_coefficient=2), [4, 8, 16, 32]),
        (RetryPolicy(4 * MS, 5, backoff_coefficient=3, max_retry_interval=10 * MS), [4, 10, 10, 10]),
        (RetryPolicy(timedelta(0), 4), []),
        (RetryPolicy(50 * MS, 3, max_retry_interval=timedelta(0)), []),
    ],
    ids=["constant", "backoff", "capped", "at once", "capped at nothing"],
)
async def test_the_waits_are_durable_timers_of_the_length_that_the_policy_says(
    store_url: str, policy: RetryPolicy, expected_ms: list[int]
) -> None:
    app = Flaky(99).app
    calls_and_tells(app, lambda ctx: ctx.call_activity("flaky", retry_policy=policy))
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start("main")
        await handle.result(timeout=10)
        assert await waits_of(handle) == [wait * MS for wait in expected_ms]
        scheduled = [e.timestamp for e in await handle.history() if type(e).__name__ == "ActivityScheduled"]
    gaps = [after - before for before, after in itertools.pairwise(scheduled)]
    assert all(gap >= wait * MS for gap, wait in zip(gaps, expected_ms, strict=False)), "none begins early"


async def test_jitter_moves_each_wait_within_its_bounds(store_url: str) -> None:
    app = Flaky(99).app
    policy = RetryPolicy(20 * MS, 9, jitter=0.5)
    calls_and_tells(app, lambda ctx: ctx.call_activity("flaky", retry_policy=policy))
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start("main")
        await handle.result(timeout=10)
        waits = await waits_of(handle)
    assert len(waits) == 8
    assert all(10 * MS <= wait <= 30 * MS for wait in waits)
    assert len(set(waits)) > 1


async def test_no_attempt_begins_after_the_retry_timeout(store_url: str) -> None:
    flaky = Flaky(99)
    policy = RetryPolicy(60 * MS, None, retry_timeout=200 * MS)
    await flaky.run(store_url, retry_policy=policy)
    assert 2 <= len(flaky.attempts) <= 4


@pytest.mark.parametrize("style", STYLES)
async def test_a_wait_survives_the_worker(store_url: str, style: str) -> None:
    """The worker goes in the middle of it; the next one waits for the rest and makes the second attempt, once."""
    flaky = Flaky(1)
    wait = timedelta(seconds=0.4)
    calls_and_tells(flaky.app, lambda ctx: ctx.call_activity("flaky", retry_policy=RetryPolicy(wait, 3)), style)
    async with Worker(flaky.app, store_url, name="keeps the store open", orchestrations=False, activities=False):
        async with Worker(flaky.app, store_url) as first:
            handle = await first.client.start("main")

            async def waits() -> bool:
                return "TimerCreated" in await names_in(handle)

            await holds(waits)
        assert flaky.attempts == [1]
        async with Worker(flaky.app, store_url) as second:
            again = second.client.get(handle.instance_id)
            assert await again.result(timeout=10) == "attempt 2"
            (due,) = await waits_of(again)
            scheduled = [e.timestamp for e in await again.history() if type(e).__name__ == "ActivityScheduled"]
    assert flaky.attempts == [1, 2]
    assert due == wait
    assert scheduled[1] - scheduled[0] >= wait


# ---- who decides


@pytest.mark.parametrize(
    "named",
    [
        CardDeclinedError,
        ShopError,
        ValueError,
        "CardDeclinedError",
        "ShopError",
        "ValueError",
        f"{__name__}.CardDeclinedError",
    ],
    ids=lambda named: named if isinstance(named, str) else named.__name__,
)
async def test_what_is_named_non_retryable_by_type_base_or_name_is_final(named: Any) -> None:
    flaky = Flaky(99, CardDeclinedError("no"))
    seen = await flaky.run(retry_policy=RetryPolicy(MS, 5, non_retryable=(KeyError, named)))
    assert seen["message"] == "no"
    assert flaky.attempts == [1]


async def test_what_is_not_named_is_tried_again() -> None:
    flaky = Flaky(99, CardDeclinedError("no"))
    await flaky.run(retry_policy=RetryPolicy(MS, 3, non_retryable=(KeyError, "OSError")))
    assert flaky.attempts == [1, 2, 3]


@pytest.mark.parametrize("error", [NonRetryableError("final"), GoneError("final")], ids=["itself", "a subclass"])
async def test_an_activity_itself_can_say_that_its_failure_is_final(store_url: str, error: Exception) -> None:
    flaky = Flaky(99, error)
    seen = await flaky.run(store_url, retry_policy=RetryPolicy(MS, 5))
    assert (seen["message"], seen["final"]) == ("final", True)
    assert flaky.attempts == [1]


@pytest.mark.parametrize("style", STYLES)
async def test_handle_decides_in_user_code(store_url: str, style: str) -> None:
    asked: list[tuple[str, int]] = []

    def only_twice(details: FailureDetails, attempt: int) -> bool:
        assert details.is_caused_by(ValueError)
        asked.append((details.message, attempt))
        return attempt < 2

    flaky = Flaky(99)
    seen = await flaky.run(store_url, style, retry_policy=RetryPolicy(MS, 10, handle=only_twice))
    assert seen["message"] == "attempt 2"
    assert flaky.attempts == [1, 2]
    assert list(dict.fromkeys(asked)) == [("attempt 1", 1), ("attempt 2", 2)], "a replay may ask again, never otherwise"


async def test_handle_may_say_how_long_to_wait(store_url: str) -> None:
    app = Flaky(99).app
    policy = RetryPolicy(timedelta(hours=1), 4, handle=lambda details, attempt: attempt * 10 * MS)
    calls_and_tells(app, lambda ctx: ctx.call_activity("flaky", retry_policy=policy))
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start("main")
        await handle.result(timeout=10)
        assert await waits_of(handle) == [10 * MS, 20 * MS, 30 * MS]


async def test_handle_cannot_exceed_the_number_of_attempts_nor_what_is_final() -> None:
    flaky = Flaky(99)
    await flaky.run(retry_policy=RetryPolicy(MS, 2, handle=lambda details, attempt: True))
    assert flaky.attempts == [1, 2]
    flaky = Flaky(99, GoneError("x"))
    await flaky.run(retry_policy=RetryPolicy(MS, 9, handle=lambda details, attempt: True))
    assert flaky.attempts == [1]


@pytest.mark.parametrize("answer", [None, "yes", 5], ids=repr)
async def test_handle_that_answers_something_else_is_the_users_mistake(answer: Any) -> None:
    flaky = Flaky(99)
    policy = RetryPolicy(MS, 5, handle=lambda details, attempt: answer)

    @flaky.app.orchestrator
    async def main(ctx: OrchestrationContext) -> str:
        try:
            await ctx.call_activity("flaky", retry_policy=policy)
        except TypeError as error:
            return str(error)
        return "taken"

    text = await run(flaky.app, "memory://")
    assert repr(answer) in text
    assert "handle" in text
    assert flaky.attempts == [1]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "error", [KeyError("in handle"), StopIteration("in handle")], ids=["KeyError", "StopIteration"]
)
async def test_handle_that_raises_fails_the_call_with_what_it_raised(
    store_url: str, style: str, error: Exception
) -> None:
    def broken(details: FailureDetails, attempt: int) -> bool:
        raise error

    flaky = Flaky(99)
    policy = RetryPolicy(MS, 5, handle=broken)
    if style == "async":

        @flaky.app.orchestrator
        async def main(ctx: OrchestrationContext) -> str:
            try:
                await ctx.call_activity("flaky", retry_policy=policy)
            except ActivityFailedError:
                return "the activity's"
            except Exception as caught:
                return f"{type(caught).__name__} {caught}"
            return "nothing"
    else:

        @flaky.app.orchestrator(name="main")
        def main_in_generator_style(ctx: OrchestrationContext) -> Orchestration[str]:
            try:
                yield ctx.call_activity("flaky", retry_policy=policy)
            except ActivityFailedError:
                return "the activity's"
            except Exception as caught:
                return f"{type(caught).__name__} {caught}"
            return "nothing"

    text = await run(flaky.app, store_url)
    assert "in handle" in text
    assert flaky.attempts == [1]


async def test_a_call_goes_on_beside_others_while_it_waits(store_url: str) -> None:
    """Each call of a fan-out is tried again on its own; `map` takes a policy too."""
    app = App()
    attempts: list[tuple[int, int]] = []

    @app.activity
    async def flaky(ctx: ActivityContext, number: int) -> int:
        attempts.append((number, ctx.attempt))
        if ctx.attempt <= number:
            raise ValueError(number)
        return number

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> list[Any]:
        policy = RetryPolicy(MS, 10)
        first = await when_all([ctx.call_activity(flaky, number, retry_policy=policy) for number in range(4)])
        return [first, await ctx.map(flaky, range(4), concurrency=2, retry_policy=policy)]

    assert await run(app, store_url) == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert sorted(attempts) == sorted(2 * [(number, a) for number in range(4) for a in range(1, number + 2)])


async def test_the_history_has_one_outcome_for_each_attempt(store_url: str) -> None:
    app = Flaky(2).app
    calls(app, lambda ctx: ctx.call_activity("flaky", retry_policy=RetryPolicy(MS, 5)))
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start("main")
        await handle.result(timeout=10)
        history = await handle.history()
    asked = [(e.task_id, e.attempt) for e in history if type(e).__name__ == "ActivityScheduled"]
    ended = [
        (type(e).__name__, e.task_id) for e in history if type(e).__name__ in ("ActivityFailed", "ActivityCompleted")
    ]
    assert [attempt for _, attempt in asked] == [1, 2, 3]
    assert ended == [
        ("ActivityFailed", asked[0][0]),
        ("ActivityFailed", asked[1][0]),
        ("ActivityCompleted", asked[2][0]),
    ]
