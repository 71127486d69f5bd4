"""Suspend, resume, cancel, and continuing as new: what they do to code that is in the middle of something."""

# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from durable import events as ev
from durable.app import App
from durable.context import Orchestration, OrchestrationContext
from durable.errors import InvalidInputError, LimitExceededError
from tests.engine.harness import SECOND, Play, names, parent_ref

MakePlay = Callable[..., Play]
Context = OrchestrationContext


# ---- suspend and resume


def test_what_arrives_while_suspended_is_recorded_and_delivered_in_order_on_resume(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[Any]:
        seen: list[Any] = []

        async def collect(task: Any) -> None:
            seen.append(await task)

        tasks = [ctx.call_activity("a"), ctx.wait_for_external_event("n"), ctx.call_sub_orchestrator("child")]
        await asyncio.gather(*(collect(task) for task in tasks))
        return seen

    one = play(main)
    one.start()
    assert one.turn(ev.OrchestrationSuspended("wait")).is_suspended
    for turn in (one.raise_event("n", "event"), one.complete("child", "child"), one.complete("a", "activity")):
        assert turn.is_suspended
        assert len(turn.record.events) == 1
    assert one.outcome is None
    turn = one.turn(ev.OrchestrationResumed())
    assert not turn.is_suspended
    assert one.result == ["event", "child", "activity"]


def test_an_instance_may_be_suspended_before_it_starts(play: MakePlay) -> None:
    ran = []

    async def main(ctx: Context) -> str:
        ran.append(1)
        return "done"

    one = play(main)
    one.turn(ev.OrchestrationSuspended(), one.begin)
    assert not ran
    one.turn(ev.OrchestrationResumed())
    assert one.result == "done"


def test_suspending_twice_and_resuming_what_runs_is_refused(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        await ctx.wait_for_external_event("n")

    one = play(main)
    assert one.start(ev.OrchestrationResumed()).refused
    one.turn(ev.OrchestrationSuspended())
    assert one.turn(ev.OrchestrationSuspended()).refused[0][1] == "the orchestration is suspended already"


def test_a_timer_that_is_due_while_suspended_fires_once_and_is_due_no_more(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        await ctx.create_timer(timedelta(seconds=5))
        await ctx.create_timer(timedelta(seconds=5))
        return "done"

    one = play(main)
    one.start()
    one.turn(ev.OrchestrationSuspended())
    one.fire()
    assert one.execution.next_due is None
    assert one.execution.due_timers(one.now + 10 * SECOND) == []
    assert one.turn(ev.TimerFired(0)).refused
    one.turn(ev.OrchestrationResumed())
    one.fire()
    assert one.result == "done"


def test_a_timer_that_fired_while_suspended_may_be_cancelled_by_what_came_before_it(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        try:
            await ctx.wait_for_external_event("n", timeout=5)
        except TimeoutError:
            return "timeout"
        await ctx.wait_for_external_event("end")
        return "event"

    for first, expected in (("event", "event"), ("timer", "timeout")):
        one: Play = play(main)
        one.start()
        one.turn(ev.OrchestrationSuspended())
        if first == "event":
            one.raise_event("n")
        one.fire()
        if first == "timer":
            one.raise_event("n")
        one.turn(ev.OrchestrationResumed(), one.event("end"))
        assert one.result == expected
        assert not one.requests(ev.TimerCancelled), "it has fired, on record"


def test_an_end_in_the_middle_of_a_resume_keeps_the_other_events_for_the_next_generation(play: MakePlay) -> None:
    async def main(ctx: Context, seen: list[int]) -> list[int]:
        seen.append(await ctx.wait_for_external_event("n"))
        if len(seen) < 3:
            ctx.continue_as_new(seen)
        return seen

    one = play(main, [])
    one.start()
    one.turn(ev.OrchestrationSuspended())
    for number in range(3):
        one.raise_event("n", number)
    one.turn(ev.OrchestrationResumed())
    assert one.result == [0, 1, 2]


# ---- cancel


def test_cancel_is_raised_where_the_code_waits_and_ends_it_cancelled(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        await ctx.call_activity("a")

    def generator(ctx: Context) -> Orchestration[None]:
        yield ctx.call_activity("a")

    for style in (main, generator):
        one = play(style)
        one.start()
        turn = one.cancel("enough")
        assert one.outcome == ev.OrchestrationCancelled("enough")
        assert turn.dropped_activities == (0,)


def test_cancel_is_raised_once_and_the_code_may_go_on(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        try:
            await ctx.call_activity("a")
        except asyncio.CancelledError:
            return str(await ctx.call_activity("undo"))
        return "?"

    def generator(ctx: Context) -> Orchestration[str]:
        try:
            yield ctx.call_activity("a")
        except asyncio.CancelledError:
            return str((yield ctx.call_activity("undo")))
        return "?"

    for style in (main, generator):
        one = play(style)
        one.start()
        one.cancel()
        assert one.cancel().refused[0][1] == "the orchestration was asked to cancel already"
        one.complete("undo", "undone")
        assert one.result == "undone"


def test_an_error_raised_while_cancelling_is_a_failure(play: MakePlay) -> None:
    def generator(ctx: Context) -> Orchestration[None]:
        try:
            yield ctx.call_activity("a")
        finally:
            raise ValueError("broken clean-up")

    one = play(generator)
    one.start()
    one.cancel()
    assert one.failure.error_type == "ValueError"


def test_a_cancelled_error_that_nobody_asked_for_is_a_failure(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        task = ctx.call_activity("a")
        task.cancel()
        await task

    one = play(main)
    one.run()
    assert one.failure.error_type == "asyncio.exceptions.CancelledError"
    assert one.failure.message == "nobody asked for it"


@pytest.mark.parametrize("style", ["async", "generator"])
def test_a_cancelled_error_of_the_codes_own_keeps_its_message_and_its_place(play: MakePlay, style: str) -> None:
    async def main(ctx: Context) -> None:
        raise asyncio.CancelledError("own message")

    def generator(ctx: Context) -> Orchestration[None]:
        yield ctx.create_timer(timedelta(0))
        raise asyncio.CancelledError("own message")

    one = play(main if style == "async" else generator)
    one.run()
    assert one.failure.message == "own message"
    assert 'raise asyncio.CancelledError("own message")' in one.failure.stack_trace


def test_cancel_gives_up_what_the_code_waits_for(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            for task in (ctx.call_activity("a"), ctx.call_sub_orchestrator("child"), ctx.create_timer(timedelta(1))):
                group.create_task(_wait(task))

    one = play(main)
    one.start()
    turn = one.cancel("stop")
    assert one.outcome == ev.OrchestrationCancelled("stop")
    assert names(turn.record.events)[:4] == [
        "OrchestrationCancelRequested",
        "ActivityCancelled",
        "SubOrchestrationCancelled",
        "TimerCancelled",
    ]
    child = turn.messages[0]
    assert isinstance(child.event, ev.OrchestrationCancelRequested)
    assert child.is_control
    assert child.run_id == one.requests(ev.SubOrchestrationScheduled)[0].run_id


async def _wait(task: Any) -> None:
    await task


def test_cancel_before_the_first_turn_runs_no_code(play: MakePlay) -> None:
    ran = []

    async def main(ctx: Context) -> None:
        ran.append(1)

    one = play(main)
    turn = one.turn(ev.OrchestrationCancelRequested("early"), one.begin)
    assert one.outcome == ev.OrchestrationCancelled("early")
    assert turn.leftover == (one.begin,)
    assert not ran


def test_of_two_cancels_held_while_suspended_one_is_raised(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[str]:
        caught = []
        for _ in range(2):
            try:
                await ctx.wait_for_external_event("n")
            except asyncio.CancelledError as error:
                caught.append(str(error))
        return caught

    one = play(main)
    one.start()
    one.turn(ev.OrchestrationSuspended())
    one.cancel("first")
    second = ev.OrchestrationCancelRequested("second")
    assert one.turn(second).refused == [(second, "the orchestration was asked to cancel already")]
    one.turn(ev.OrchestrationResumed())
    one.raise_event("n")
    assert one.result == ["first"]


def test_a_cancel_that_was_held_when_the_orchestration_ended_is_undelivered(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        await ctx.wait_for_external_event("n")

    one = play(main)
    one.start()
    late = [one.event("n"), ev.OrchestrationCancelRequested("too late"), one.event("m")]
    one.turn(ev.OrchestrationSuspended(), *late)
    one.turn(ev.OrchestrationResumed())
    assert isinstance(one.outcome, ev.OrchestrationCompleted)
    assert one.execution.undelivered() == [late[2], late[1]]


# ---- continue as new


@pytest.mark.parametrize("async_style", [True, False])
def test_continue_as_new_ends_the_code_at_the_call_whatever_surrounds_it(play: MakePlay, async_style: bool) -> None:
    after: list[str] = []

    async def main(ctx: Context, count: int) -> int:
        if count == 0:
            return ctx.generation
        try:
            try:
                ctx.continue_as_new(count - 1)
            except BaseException:
                after.append("caught")
                ctx.call_activity("never")
                ctx.set_custom_status("never")
                raise
            finally:
                ctx.create_timer(timedelta(1))
                await ctx.call_activity("never")
        except Exception:
            return -1
        return -2

    def generator(ctx: Context, count: int) -> Orchestration[int]:
        if count == 0:
            return ctx.generation
        try:
            ctx.continue_as_new(count - 1)
        except BaseException:
            after.append("caught")
            yield ctx.call_activity("never")
            ctx.raise_event("other", "never")
        return -1

    one = play(main if async_style else generator, 3)
    turn = one.start()
    assert one.result == 3
    assert after
    assert names(turn.record.events) == ["OrchestrationStarted", "OrchestrationContinuedAsNew"]
    assert not turn.activities
    assert not turn.messages


def test_continue_as_new_gives_up_what_is_open(play: MakePlay) -> None:
    async def main(ctx: Context, again: bool = True) -> str:
        if not again:
            return "done"
        ctx.call_activity("slow")
        ctx.create_timer(timedelta(1))
        ctx.call_sub_orchestrator("child")
        await ctx.wait_for_external_event("go")
        ctx.continue_as_new(False)

    one = play(main)
    one.start()
    turn = one.raise_event("go")
    assert names(turn.record.events)[1:] == ["ActivityCancelled", "TimerCancelled", "OrchestrationContinuedAsNew"]
    assert one.result == "done"


def test_continue_as_new_from_a_task_beside_the_main_one(play: MakePlay) -> None:
    async def main(ctx: Context, again: bool = True) -> str:
        if not again:
            return "done"

        async def turn_over() -> None:
            await ctx.wait_for_external_event("go")
            ctx.continue_as_new(False)

        async with asyncio.TaskGroup() as group:
            group.create_task(turn_over())
            await ctx.create_timer(timedelta(1))
        return "never"

    one = play(main)
    one.start()
    one.raise_event("go")
    assert one.result == "done"


def test_the_next_generation_knows_whose_it_is(play: MakePlay) -> None:
    async def main(ctx: Context, again: bool = True) -> list[Any]:
        if again:
            ctx.continue_as_new(False)
        return [ctx.generation, ctx.parent_instance_id, dict(ctx.tags), ctx.scheduled_for.timestamp()]

    one = play(main, tags={"team": "a"}, parent=parent_ref(), scheduled_for=1_000_000)
    one.start()
    assert one.result == [1, "parent", {"team": "a"}, 1.0]


def test_only_the_last_generations_end_is_told_to_the_parent(play: MakePlay) -> None:
    async def main(ctx: Context, again: bool = True) -> str:
        if again:
            ctx.continue_as_new(False)
        return "done"

    one = play(main, parent=parent_ref(7))
    assert not one.start().messages
    (message,) = one.history[-1][3].messages  # type: ignore[union-attr]
    assert isinstance(message.event, ev.SubOrchestrationCompleted)
    assert (message.target.id, message.event.task_id, message.generation) == ("parent", 7, 0)


def test_input_that_does_not_fit_is_refused_and_the_generation_goes_on(play: MakePlay) -> None:
    async def main(ctx: Context, count: int) -> str:
        with pytest.raises(InvalidInputError, match="input of orchestrator 'main'"):
            ctx.continue_as_new("many")
        with pytest.raises(InvalidInputError):
            ctx.continue_as_new()
        with pytest.raises(ValueError, match="version"):
            ctx.continue_as_new(1, version="new")
        return "went on"

    assert play(main, 1).run() == "went on"


def test_input_over_the_limit_is_refused(play: MakePlay) -> None:
    async def main(ctx: Context, text: str) -> str:
        with pytest.raises(LimitExceededError):
            ctx.continue_as_new("x" * 3_000_000)
        return "went on"

    assert play(main, "").run() == "went on"


def test_the_next_generation_takes_the_default_for_no_input(play: MakePlay) -> None:
    async def main(ctx: Context, items: list[int] = [7]) -> list[int]:  # noqa: B006 (what a user may well write)
        items.append(ctx.generation)
        if ctx.generation < 2:
            ctx.continue_as_new()
        return items

    one = play(main)
    one.start()
    assert one.result == [7, 2]


def test_a_version_can_be_pinned(play: MakePlay) -> None:
    async def main(ctx: Context, again: bool = True) -> None:
        if again:
            ctx.continue_as_new(False, version="1.50.0")

    app = App()
    app.orchestrator(name="main")(main)
    turn = play(main, app=app).start()
    assert isinstance(turn.outcome, ev.OrchestrationContinuedAsNew)
    assert turn.outcome.version == "1.50"


def test_a_thousand_generations_leave_nothing_behind(play: MakePlay) -> None:
    async def main(ctx: Context, left: int) -> int:
        if left:
            ctx.continue_as_new(left - 1)
        return ctx.history_length

    one = play(main, 1000)
    one.start()
    assert one.result == 1
    assert one.generation == 1000


def test_a_task_that_is_returned_instead_of_awaited_fails_with_what_was_forgotten(play: MakePlay) -> None:
    async def main(ctx: Context) -> Any:
        return ctx.create_timer(timedelta(1))

    (outcome,) = [event for event in play(main).start().record.events if isinstance(event, ev.OrchestrationFailed)]
    assert outcome.details.message == (
        "result of orchestrator 'main': object of type Task cannot be stored: write `await` before it "
        "(or `yield`, in a generator)"
    )
