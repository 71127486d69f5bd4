"""Retries: when another attempt begins, and when none does. The waits are durable timers."""

# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from durable import events as ev
from durable.app import App
from durable.context import Orchestration, OrchestrationContext
from durable.errors import (
    ActivityFailedError,
    ActivityTimeoutError,
    FailureDetails,
    NonRetryableError,
    SubOrchestrationFailedError,
)
from durable.retry import RetryPolicy
from tests.engine.harness import BEGIN_US, SECOND, Play, names

MakePlay = Callable[..., Play]
Context = OrchestrationContext


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def calling(policy: RetryPolicy | None, **options: Any) -> Callable[..., Any]:
    """An orchestrator that calls `a` once and tells how that ended."""

    async def main(ctx: Context) -> str:
        try:
            return f"got {await ctx.call_activity('a', retry_policy=policy, **options)}"
        except ActivityFailedError as error:
            return f"{type(error).__name__}: {error.details.message}"

    return main


def waits_of(one: Play, error: Exception | None = None, attempts: int = 20) -> list[float]:
    """Fail each attempt; return the waits between them, in seconds."""
    one.start()
    waits = []
    for _ in range(attempts):
        one.fail("a", error or ValueError("no"))
        due = one.execution.next_due
        if one.outcome is not None or due is None:
            break
        waits.append((due - one.now) / SECOND)
        one.fire()
        if one.outcome is not None:
            break
    return waits


def test_without_a_policy_there_is_one_attempt(play: MakePlay) -> None:
    one = play(calling(None))
    assert waits_of(one) == []
    assert one.result == "ActivityFailedError: no"


def test_a_later_attempt_may_succeed_and_is_numbered(play: MakePlay) -> None:
    one = play(calling(RetryPolicy(seconds(5), 3)))
    one.start()
    one.fail("a", ValueError("no"))
    one.fire()
    one.complete("a", "it")
    assert one.result == "got it"
    asked = one.requests(ev.ActivityScheduled)
    assert [(request.attempt, request.call_id) for request in asked] == [(1, 0), (2, 0)]
    assert one.requests(ev.TimerCreated)[0].purpose == "retry"


def test_the_number_of_attempts_counts_the_first(play: MakePlay) -> None:
    one = play(calling(RetryPolicy(seconds(5), 4)))
    assert waits_of(one) == [5, 5, 5]


def test_back_off_grows_up_to_its_limit(play: MakePlay) -> None:
    policy = RetryPolicy(seconds(1), 7, backoff_coefficient=2.0, max_retry_interval=seconds(10))
    assert waits_of(play(calling(policy))) == [1, 2, 4, 8, 10, 10]


def test_endless_back_off_passes_no_calendar(play: MakePlay) -> None:
    policy = RetryPolicy(timedelta(days=300), None, backoff_coefficient=1e10)
    waits = waits_of(play(calling(policy)), attempts=4)
    assert waits[1:] == [365 * 86400] * 3


def test_a_wait_that_the_policy_names_is_as_long_as_it_says(play: MakePlay) -> None:
    assert waits_of(play(calling(RetryPolicy(timedelta(days=400), 3)))) == [400 * 86400] * 2
    policy = RetryPolicy(timedelta(days=300), 3, backoff_coefficient=2.0, max_retry_interval=timedelta(days=500))
    assert waits_of(play(calling(policy))) == [300 * 86400, 500 * 86400]


def test_a_wait_of_nothing_begins_the_next_attempt_in_the_same_turn(play: MakePlay) -> None:
    one = play(calling(RetryPolicy(seconds(0), 2)))
    one.start()
    turn = one.fail("a", ValueError("no"))
    assert names(turn.record.events) == ["ActivityFailed", "ActivityScheduled"]
    one.complete("a", 1)


def test_jitter_moves_the_waits_within_bounds_and_the_same_way_on_replay(play: MakePlay) -> None:
    policy = RetryPolicy(seconds(100), 10, jitter=0.5)
    waits = waits_of(play(calling(policy)))
    assert waits == waits_of(play(calling(policy)))
    assert waits != waits_of(play(calling(policy), run_id="another"))
    assert len(set(waits)) == 9
    assert all(50 <= wait <= 150 for wait in waits)


def test_jitter_does_not_draw_from_the_codes_own_random_numbers(play: MakePlay) -> None:
    def main_with(policy: RetryPolicy) -> Any:
        async def main(ctx: Context) -> float:
            await ctx.call_activity("a", retry_policy=policy)
            return ctx.random.random()

        return main

    results = []
    for jitter in (0.0, 0.9):
        one = play(main_with(RetryPolicy(seconds(1), 3, jitter=jitter)))
        one.start()
        one.fail("a", ValueError())
        one.fire()
        one.complete("a")
        results.append(one.result)
    assert results[0] == results[1]


def test_no_attempt_begins_later_than_the_retry_timeout(play: MakePlay) -> None:
    policy = RetryPolicy(seconds(10), None, retry_timeout=seconds(35))
    assert waits_of(play(calling(policy))) == [10, 10, 10]


def test_failures_named_non_retryable_are_final(play: MakePlay) -> None:
    class ShopError(Exception):
        pass

    for refused in (LookupError, "LookupError", "KeyError", KeyError):
        policy = RetryPolicy(seconds(1), 5, non_retryable=(refused,))
        assert waits_of(play(calling(policy)), KeyError("gone")) == []
        assert waits_of(play(calling(policy)), ShopError("other")) == [1] * 4


def test_an_activity_can_say_that_its_failure_is_final(play: MakePlay) -> None:
    class GoneError(NonRetryableError):
        pass

    policy = RetryPolicy(seconds(1), 5)
    assert waits_of(play(calling(policy)), GoneError("gone")) == []


def test_a_handler_decides_in_the_users_code(play: MakePlay) -> None:
    asked: list[tuple[str, int]] = []

    def handle(details: FailureDetails, attempt: int) -> bool | timedelta:
        asked.append((details.message, attempt))
        answers: dict[int, bool | timedelta] = {1: True, 2: seconds(42), 3: seconds(-1)}
        return answers.get(attempt, False)

    one = play(calling(RetryPolicy(seconds(7), None, handle=handle)))
    one.start()
    one.fail("a", ValueError("first"))
    assert one.execution.next_due == BEGIN_US + 7 * SECOND
    one.fire()
    one.fail("a", ValueError("second"))
    assert one.execution.next_due == BEGIN_US + 49 * SECOND
    one.fire()
    one.fail("a", ValueError("third"))
    one.fail("a", ValueError("fourth"))
    assert one.result == "ActivityFailedError: fourth"
    assert asked == [("first", 1), ("second", 2), ("third", 3), ("fourth", 4)]


def test_what_a_handler_raises_is_raised_where_the_call_is_awaited(play: MakePlay) -> None:
    def handle(details: FailureDetails, attempt: int) -> bool:
        raise RuntimeError("handler")

    one = play(calling(RetryPolicy(seconds(1), 3, handle=handle)))
    one.start()
    one.fail("a", ValueError())
    assert one.failure.message == "handler"


def test_the_total_timeout_ends_all_attempts_and_waits(play: MakePlay) -> None:
    one = play(calling(RetryPolicy(seconds(10), None), total_timeout=seconds(25)))
    assert waits_of(one) == [10, 10, 5]
    assert one.result.startswith("ActivityTimeoutError: activity 'a' did not finish within its total_timeout of 25 s")
    assert names(one.requests(ev.TimerCancelled)) == ["TimerCancelled"]


def test_the_total_timeout_ends_a_running_attempt(play: MakePlay) -> None:
    one = play(calling(None, total_timeout=2.5))
    one.start()
    turn = one.fire()
    assert one.outcome is not None
    assert turn.dropped_activities == (0,)


def test_the_total_timeout_is_given_up_with_the_outcome(play: MakePlay) -> None:
    one = play(calling(None, total_timeout=seconds(25)))
    one.start()
    turn = one.complete("a")
    assert names(turn.record.events) == ["ActivityCompleted", "TimerCancelled", "OrchestrationCompleted"]


def test_a_timed_out_attempt_counts_and_is_retried(play: MakePlay) -> None:
    one = play(calling(RetryPolicy(seconds(1), 2)))
    one.start()
    details = FailureDetails("TimeoutError", "too long")
    one.turn(ev.ActivityFailed(0, details, is_timeout=True, last_heartbeat=b"\x05"))
    one.fire()
    asked = one.requests(ev.ActivityScheduled)
    assert asked[1].last_heartbeat == b"\x05"
    one.turn(ev.ActivityFailed(asked[1].task_id, details, is_timeout=True))
    assert one.result == "ActivityTimeoutError: too long"


def test_a_timeout_is_a_timeout_error_too() -> None:
    assert issubclass(ActivityTimeoutError, TimeoutError)


def test_cancelling_a_call_between_its_attempts_ends_it(play: MakePlay) -> None:
    async def main(ctx: Context) -> bool:
        task = ctx.call_activity("a", retry_policy=RetryPolicy(seconds(60), None), total_timeout=seconds(999))
        await ctx.wait_for_external_event("enough")
        return task.cancel()

    one = play(main)
    one.start()
    one.fail("a", ValueError())
    turn = one.raise_event("enough")
    assert names(turn.record.events) == ["EventRaised", "TimerCancelled", "TimerCancelled", "OrchestrationCompleted"]
    assert one.result is True


def test_the_declared_policy_counts_unless_the_call_says_otherwise(play: MakePlay) -> None:
    app = App()

    @app.activity(retry_policy=RetryPolicy(seconds(1), 2), name="a")
    def a() -> None: ...

    def calls(**options: Any) -> Any:
        def main(ctx: Context) -> Orchestration[None]:
            yield ctx.call_activity(a, **options)

        return main

    for options, expected in (
        ({}, [1]),
        ({"retry_policy": None}, []),
        ({"retry_policy": RetryPolicy(seconds(2), 3)}, [2, 2]),
    ):
        mine = App()
        mine.include(app)
        assert waits_of(play(calls(**options), app=mine)) == expected


def test_a_child_is_tried_again_under_a_new_id(play: MakePlay) -> None:
    async def main(ctx: Context) -> int:
        return int(await ctx.call_sub_orchestrator("child", retry_policy=RetryPolicy(seconds(1), 2)))

    one = play(main)
    one.start()
    one.fail("child", ValueError())
    one.fire()
    one.complete("child", 5)
    first, second = one.requests(ev.SubOrchestrationScheduled)
    assert first.instance_id != second.instance_id
    assert first.run_id != second.run_id
    assert (first.attempt, second.attempt) == (1, 2)
    assert one.result == 5


def test_a_child_with_an_id_is_tried_again_under_the_same_id_in_a_new_run(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        policy = RetryPolicy(seconds(1), 2)
        with pytest.raises(SubOrchestrationFailedError):
            await ctx.call_sub_orchestrator("child", instance_id="mine", retry_policy=policy)

    one = play(main)
    one.start()
    one.fail("child", ValueError())
    one.fire()
    one.fail("child", ValueError())
    first, second = one.requests(ev.SubOrchestrationScheduled)
    assert first.instance_id == second.instance_id == "mine"
    assert first.run_id != second.run_id
    assert isinstance(one.outcome, ev.OrchestrationCompleted)


@pytest.mark.parametrize(
    "wrong",
    [
        {"first_retry_interval": seconds(-1)},
        {"first_retry_interval": 5},
        {"max_number_of_attempts": 0},
        {"max_number_of_attempts": True},
        {"backoff_coefficient": 0.5},
        {"backoff_coefficient": float("nan")},
        {"jitter": 1.5},
        {"retry_timeout": 5},
        {"max_retry_interval": seconds(-1)},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    good: dict[str, Any] = {"first_retry_interval": seconds(1), "max_number_of_attempts": 3}
    RetryPolicy(**good)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RetryPolicy(**good | wrong)


def test_a_policy_is_a_value() -> None:
    policy = RetryPolicy(seconds(1), 3, non_retryable="KeyError")  # type: ignore[arg-type]
    assert policy.non_retryable == ("KeyError",)
    assert policy == dataclasses.replace(policy)
