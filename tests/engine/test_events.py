"""External events: first in, first out, for each name; kept, never lost, never taken by one who has stopped waiting."""

# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from durable import events as ev
from durable.context import Orchestration, OrchestrationContext, when_any
from durable.engine import refusals as engine
from durable.errors import EventDataError, InvalidInputError
from tests.engine.harness import Play, names

MakePlay = Callable[..., Play]
Context = OrchestrationContext


def test_events_of_one_name_come_in_their_order(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[int]:
        return [await ctx.wait_for_external_event("n") for _ in range(4)]

    one = play(main)
    one.start()
    one.raise_event("n", 1)
    one.turn(one.event("n", 2), one.event("n", 3))
    one.raise_event("n", 4)
    assert one.result == [1, 2, 3, 4]


def test_several_waiters_are_served_in_the_order_of_their_waits(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[int]:
        return list(await asyncio.gather(*(ctx.wait_for_external_event("n") for _ in range(3))))

    one = play(main)
    one.start()
    one.turn(*(one.event("n", number) for number in range(3)))
    assert one.result == [0, 1, 2]


def test_an_event_that_came_before_the_wait_is_kept(play: MakePlay) -> None:
    def main(ctx: Context) -> Orchestration[list[Any]]:
        yield ctx.call_activity("a")
        first = yield ctx.wait_for_external_event("n")
        second = yield ctx.wait_for_external_event("n")
        return [first, second]

    one = play(main)
    one.start(one.event("n", "early"))
    one.raise_event("n", "later")
    assert [event.name for event in one.execution.undelivered()] == ["n", "n"]
    one.complete("a")
    assert one.result == ["early", "later"]
    assert not one.execution.undelivered()


def test_names_are_compared_byte_for_byte(play: MakePlay) -> None:
    async def main(ctx: Context) -> Any:
        return await ctx.wait_for_external_event("Grüße")

    one = play(main)
    one.start()
    for near in ("grüße", "Gru\u0308ße", "Grüße "):
        one.raise_event(near, near)
    assert one.outcome is None
    one.raise_event("Grüße", "exact")
    assert one.result == "exact"


def test_a_cancelled_waiter_takes_no_event(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[Any]:
        given_up = ctx.wait_for_external_event("n")
        second = ctx.wait_for_external_event("n")
        given_up.cancel()
        await ctx.call_activity("a")
        return [given_up.is_cancelled, await second]

    one = play(main)
    one.start()
    one.raise_event("n", 1)
    one.complete("a")
    assert one.result == [True, 1]


def test_an_event_that_arrives_with_what_ends_its_wait_goes_to_who_comes_first(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[Any]:
        waiting = ctx.wait_for_external_event("n")
        stop = ctx.wait_for_external_event("stop")
        await when_any([waiting, stop])
        first = waiting.result() if waiting.is_complete else None
        waiting.cancel()
        return [first, await ctx.wait_for_external_event("n")]

    for order, expected in ((("n", "stop", "n"), ["n0", "n2"]), (("stop", "n", "n"), [None, "n1"])):
        one = play(main)
        one.start()
        one.turn(*(one.event(name, f"{name}{index}") for index, name in enumerate(order)))
        assert one.result == expected


def test_a_wait_times_out_and_leaves_the_event_for_the_next(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[Any]:
        try:
            await ctx.wait_for_external_event("n", timeout=timedelta(seconds=5))
        except TimeoutError as error:
            return [str(error), await ctx.wait_for_external_event("n", timeout=60)]
        return []

    one = play(main)
    one.start()
    one.fire()
    one.raise_event("n", "late")
    assert one.result == ["no event 'n' arrived in time", "late"]
    assert names(one.events)[-3:] == ["EventRaised", "TimerCancelled", "OrchestrationCompleted"]


def test_wait_for_withdraws_its_waiter(play: MakePlay) -> None:
    async def main(ctx: Context) -> Any:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ctx.wait_for_external_event("n"), 5)
        await ctx.call_activity("a")
        return await ctx.wait_for_external_event("n")

    one = play(main)
    one.start()
    one.fire()
    one.raise_event("n", "kept")
    one.complete("a")
    assert one.result == "kept"


def test_data_that_does_not_fit_raises_and_consumes_the_event(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[Any]:
        try:
            await ctx.wait_for_external_event("n", int)
        except EventDataError as error:
            return [str(error), await ctx.wait_for_external_event("n", int)]
        return []

    one = play(main)
    one.start()
    one.turn(one.event("n", "7"), one.event("n", 7))
    text, value = one.result
    assert "data of event 'n'" in text
    assert value == 7


def test_data_comes_as_the_type_makes_it(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[Any]:
        pair = await ctx.wait_for_external_event("n", tuple[int, float])
        either = await ctx.wait_for_external_event("n", int | None)
        return [type(pair).__name__, *map(str, pair), either]

    one = play(main)
    one.start()
    one.raise_event("n", [1, 2])
    one.raise_event("n")
    assert one.result == ["tuple", "1", "2.0", None]


def test_events_that_nobody_waited_for_go_over_to_the_next_generation(play: MakePlay) -> None:
    async def main(ctx: Context, seen: list[int]) -> list[int]:
        seen.append(await ctx.wait_for_external_event("n"))
        if len(seen) < 5:
            ctx.continue_as_new(seen)
        return seen

    one = play(main, [])
    one.start()
    one.turn(*(one.event("n", number) for number in range(5)))
    assert one.result == [0, 1, 2, 3, 4]
    assert one.generation == 4


def test_events_can_be_left_behind(play: MakePlay) -> None:
    async def main(ctx: Context, again: bool) -> Any:
        if again:
            await ctx.wait_for_external_event("go")
            ctx.continue_as_new(False, carry_over_events=False)
        return await ctx.wait_for_external_event("n", timeout=1)

    one = play(main, True)
    one.start()
    one.raise_event("n", 1)
    turn = one.raise_event("go")
    assert turn.next_generation is not None
    assert names(turn.next_generation.events) == ["OrchestrationStarted"]
    one.fire()
    assert one.failure.error_type == "TimeoutError"


def test_carried_events_keep_their_order_and_stay_before_new_ones(play: MakePlay) -> None:
    async def main(ctx: Context, rounds: int) -> list[Any]:
        if rounds:
            await ctx.wait_for_external_event("next")
            ctx.continue_as_new(rounds - 1)
        return [await ctx.wait_for_external_event("n") for _ in range(4)]

    one = play(main, 2)
    one.start()
    one.turn(one.event("n", 1), one.event("n", 2))
    one.turn(one.event("next"), one.event("n", 3))
    one.turn(one.event("n", 4), one.event("next"))
    assert one.result == [1, 2, 3, 4]


def test_only_so_many_events_wait_in_an_instance(play: MakePlay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "EVENTS_BUFFERED_MAX", 3)

    async def main(ctx: Context) -> None:
        await ctx.wait_for_external_event("end")

    one = play(main)
    one.start()
    turn = one.turn(*(one.event("n", number) for number in range(5)))
    assert [reason for _, reason in turn.refused] == ["3 events wait already"] * 2
    one.turn(ev.OrchestrationSuspended())
    turn = one.raise_event("n", 6)
    assert len(turn.refused) == 1


def test_events_held_while_suspended_count_as_waiting(play: MakePlay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "EVENTS_BUFFERED_MAX", 3)

    async def main(ctx: Context) -> None:
        await ctx.wait_for_external_event("end")

    one = play(main)
    one.start(ev.OrchestrationSuspended())
    turn = one.turn(*(one.event("n", number) for number in range(5)))
    assert len(turn.refused) == 2


@pytest.mark.parametrize("name", ["", "  ", "a\0b", "\ud800", "x" * 513, 5, None])
def test_what_cannot_be_a_name_is_refused(play: MakePlay, name: Any) -> None:
    async def main(ctx: Context) -> str:
        with pytest.raises(InvalidInputError, match="event name"):
            ctx.wait_for_external_event(name)
        with pytest.raises(InvalidInputError, match="event name"):
            ctx.raise_event("other", name)
        with pytest.raises(InvalidInputError, match="instance id"):
            ctx.raise_event(name, "n")
        return "ok"

    assert play(main).run() == "ok"


def test_events_are_sent_with_the_turn(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        ctx.raise_event("other", "n", {"a": [1]})
        ctx.raise_event("other", "m")

    one = play(main)
    turn = one.start()
    first, second = turn.messages
    assert first.target.id == second.target.id == "other"
    assert first.event == one.event("n", {"a": [1]})
    assert second.event == ev.EventRaised("m", None)
    assert first.sender is not None
    assert first.sender.instance_id == "instance"


def test_data_that_cannot_be_sent_is_refused_at_the_call(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        with pytest.raises(TypeError, match=r"data of event 'n': \['x'\]"):
            ctx.raise_event("other", "n", {"x": object()})
        with pytest.raises(ValueError, match="limit"):
            ctx.raise_event("other", "n", "x" * 3_000_000)
        return "ok"

    one = play(main)
    assert one.run() == "ok"
    assert not one.requests(ev.EventSent)


def test_of_several_that_came_before_anybody_waited_the_first_in_history_wins(play: MakePlay) -> None:
    """Whichever is asked for first, and though an activity has ended meanwhile."""

    async def main(ctx: Context) -> list[Any]:
        activity = ctx.call_activity("a")
        await activity
        for _ in range(2):
            await ctx.wait_for_external_event("go")
        second, first = ctx.wait_for_external_event("second"), ctx.wait_for_external_event("first")
        early = ctx.wait_for_external_event("early")
        found = []
        for tasks in ([second, first], [first, second], [activity, second], [second, early, activity]):
            found.append(await (await when_any(tasks)))
        return found

    one = play(main)
    one.start()
    one.raise_event("early", 0)
    one.complete("a", 1)
    for name, data in (("go", None), ("first", 2), ("second", 3), ("go", None)):
        one.raise_event(name, data)
    assert one.result == [2, 2, 1, 0]
