"""`map` and wide fan-outs: bounded, in order, deterministic, and linear in cost."""

# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from durable import events as ev
from durable.context import Orchestration, OrchestrationContext, when_all
from durable.errors import ActivityFailedError
from durable.retry import RetryPolicy
from tests.engine.harness import Play, names
from tests.sizes import sized

MakePlay = Callable[..., Play]
Context = OrchestrationContext


def test_results_come_in_the_order_of_the_inputs_in_both_styles(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[int]:
        return await ctx.map("a", range(5))

    def generator(ctx: Context) -> Orchestration[list[int]]:
        return (yield from ctx.map("a", (number for number in range(5))))

    for style in (main, generator):
        one = play(style)
        one.start()
        for number in (3, 1, 4, 0, 2):
            one.turn(ev.ActivityCompleted(number, one.completed("a", number * 10).result))  # type: ignore[attr-defined]
        assert one.result == [0, 10, 20, 30, 40]


def test_no_inputs_give_no_results(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[Any]:
        return await ctx.map("a", [], concurrency=3)

    assert play(main).run() == []


@pytest.mark.parametrize("concurrency", [1, 3, 10, 99, None])
def test_only_so_many_run_at_a_time(play: MakePlay, concurrency: int | None) -> None:
    async def main(ctx: Context) -> list[int]:
        return await ctx.map("a", list(range(10)), concurrency=concurrency)

    one = play(main)
    one.start()
    most = 0
    while one.outcome is None:
        most = max(most, len(one.execution.open_activities))
        request = max(one.execution.open_activities.values(), key=lambda request: request.task_id)
        one.turn(ev.ActivityCompleted(request.task_id, request.input))
    assert one.result == list(range(10))
    assert most == min(concurrency or 10, 10)


def test_the_first_failure_in_order_is_raised_when_all_have_settled(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        try:
            await ctx.map("a", "abcd", concurrency=2)
        except ActivityFailedError as error:
            return error.details.message
        return "?"

    one = play(main)
    one.start()
    one.turn(one.completed("a"), ev.ActivityFailed(1, one.failed("a", ValueError("b")).details))  # type: ignore[attr-defined]
    assert one.outcome is None
    assert len(one.execution.open_activities) == 2, "a failure does not keep the others from running"
    one.fail("a", ValueError("c"))
    one.complete("a")
    assert one.result == "b"


def test_inputs_that_do_not_fit_are_failures_like_others(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        try:
            await ctx.map("a", [1, object(), object(), 4], concurrency=1)
        except ActivityFailedError as error:
            return error.details.error_type
        return "?"

    one = play(main)
    assert one.run({"a": lambda value: value}).endswith("EncodingError")
    assert len(one.requests(ev.ActivityScheduled)) == 2


def test_cancelling_it_gives_up_what_runs_and_begins_no_more(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        try:
            async with asyncio.timeout(60):
                await ctx.map("a", range(100), concurrency=3)
        except TimeoutError:
            return "timeout"
        return "?"

    one = play(main)
    one.start()
    one.complete("a")
    turn = one.fire()
    assert one.result == "timeout"
    assert names(turn.record.events) == ["TimerFired", *["ActivityCancelled"] * 3, "OrchestrationCompleted"]
    assert len(one.requests(ev.ActivityScheduled)) == 4


def test_the_options_of_a_call_go_to_each(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[int]:
        policy = RetryPolicy(timedelta(seconds=5), 2)
        return await ctx.map("a", [1, 2], concurrency=1, retry_policy=policy, queue="heavy", tags={"x": "y"})

    one = play(main)
    one.start()
    one.fail("a", ValueError())
    one.fire()
    one.complete("a", 1)
    one.complete("a", 2)
    asked = one.requests(ev.ActivityScheduled)
    assert [request.attempt for request in asked] == [1, 2, 1]
    assert {request.options.queue for request in asked} == {"heavy"}
    assert asked[2].tags == {"x": "y"}
    assert one.result == [1, 2]


@pytest.mark.parametrize(("wrong", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_concurrency_that_makes_no_sense_is_refused(play: MakePlay, wrong: Any, error: type[Exception]) -> None:
    async def main(ctx: Context) -> str:
        with pytest.raises(error, match="concurrency"):
            ctx.map("a", [1], concurrency=wrong)
        return "ok"

    assert play(main).run() == "ok"


def drive(code: Callable[..., Any], count: int, batch: int) -> float:
    """Complete all activities, `batch` in a turn; return the seconds of processor time."""
    one = Play(code, count)
    began = time.process_time()
    now, execution = one.now, one.execution
    turn = execution.turn([one.begin], now)
    waiting = list(turn.activities)
    while turn.outcome is None:
        taken, waiting = waiting[:batch], waiting[batch:]
        turn = execution.turn([ev.ActivityCompleted(request.task_id, request.input) for request in taken], now)
        waiting.extend(turn.activities)
    assert isinstance(turn.outcome, ev.OrchestrationCompleted)
    return time.process_time() - began


async def mapped(ctx: Context, count: int) -> int:
    return len(await ctx.map("a", range(count), concurrency=1000))


async def mapped_at_once(ctx: Context, count: int) -> int:
    return len(await ctx.map("a", range(count)))


def all_together(ctx: Context, count: int) -> Orchestration[int]:
    return len((yield when_all([ctx.call_activity("a", number) for number in range(count)])))


async def gathered(ctx: Context, count: int) -> int:
    return len(await asyncio.gather(*(ctx.call_activity("a", number) for number in range(count))))


async def with_timeouts(ctx: Context, count: int) -> int:
    async def one(number: int) -> None:
        await asyncio.wait_for(ctx.call_activity("a", number), 3600 + number)

    await asyncio.gather(*(one(number) for number in range(count)))
    return count


@pytest.mark.size
@pytest.mark.parametrize("code", [mapped, mapped_at_once, all_together, gathered, with_timeouts])
def test_the_cost_is_linear_in_the_width(code: Callable[..., Any]) -> None:
    """Up to 100,000 at full size."""
    width = sized(100_000, 20_000)
    small = min(drive(code, width // 10, 256) for _ in range(2))
    large = drive(code, width, 256)
    assert large < small * 10 * 2.5, f"{small:.2f} s for {width // 10:,}, {large:.2f} s for {width:,}"


@pytest.mark.size
def test_a_step_costs_the_same_late_in_a_long_history() -> None:
    async def main(ctx: Context, count: int) -> None:
        for number in range(count):
            await ctx.call_activity("a", number)

    one = Play(main, 20_000)
    turn = one.execution.turn([one.begin], one.now)
    times: list[float] = []
    began = time.process_time()
    while turn.outcome is None:
        (request,) = turn.activities
        turn = one.execution.turn([ev.ActivityCompleted(request.task_id, request.input)], one.now)
        if len(times) < request.task_id // 2000:
            times.append(time.process_time() - began)
            began = time.process_time()
    assert min(times[-3:]) < 1.5 * min(times[:3]), times
