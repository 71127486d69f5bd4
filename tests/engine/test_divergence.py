"""Code that asks for something else than its history records is stopped, and told where and why.

Method: record a history with one version of the code, feed it to another. The text must show the position, what was
recorded with its line, what is asked now with its line, and a likely cause; nothing may be asked for beyond it.
"""

# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from durable import events as ev
from durable.app import App
from durable.context import Orchestration, OrchestrationContext
from durable.errors import DivergenceError
from durable.payloads import Compression, Sealer
from durable.records import Record, encode_record
from tests.engine.harness import Play

MakePlay = Callable[..., Play]
Context = OrchestrationContext


def activities(*names: str) -> Callable[..., Any]:
    """An orchestrator that calls activities one after the other."""

    async def main(ctx: Context) -> None:
        for name in names:
            await ctx.call_activity(name)
        await ctx.wait_for_external_event("end")

    return main


def recorded(play: MakePlay, code: Callable[..., Any], input: Any = None, **options: Any) -> Play:
    one = play(code, input, **options)
    one.run(dict.fromkeys("abcd", lambda _: None))
    return one


def divergence(one: Play, code: Callable[..., Any], **options: Any) -> str:
    with pytest.raises(DivergenceError) as caught:
        one.replay(code, **options)
    return str(caught.value)


LINE = r"\S*test_divergence\.py:\d+"


def test_a_renamed_step_is_found(play: MakePlay) -> None:
    text = divergence(recorded(play, activities("a", "b")), activities("a", "c"))
    assert text.startswith("the code of 'main' asks for something else than its history records")
    assert "instance 'instance', generation 0, history position 3:" in text
    assert re.search(r"recorded:  ActivityScheduled\(b, task 1, attempt 1\) at engine/test_divergence\.py:\d+\n", text)
    assert re.search(rf"asked now: ActivityScheduled\(c, task 1, attempt 1\) at {LINE}\n", text)
    assert "likely cause: steps were changed, renamed or reordered" in text


def test_reordered_steps_are_found(play: MakePlay) -> None:
    text = divergence(recorded(play, activities("a", "b")), activities("b", "a"))
    assert "history position 1:" in text
    assert "ActivityScheduled(a, task 0, attempt 1)" in text
    assert "ActivityScheduled(b, task 0, attempt 1)" in text


def test_an_added_step_is_found(play: MakePlay) -> None:
    async def more(ctx: Context) -> None:
        await ctx.call_activity("a")
        ctx.start_orchestration("news")
        await ctx.call_activity("b")

    text = divergence(recorded(play, activities("a", "b")), more)
    assert "SubOrchestrationScheduled(news" in text

    async def at_the_end(ctx: Context) -> None:
        await ctx.call_activity("a")
        await ctx.call_activity("b")

    text = divergence(recorded(play, activities("a")), at_the_end)
    assert "recorded:  nothing more in this turn" in text
    assert "likely cause: a step was added" in text


def test_a_step_added_before_an_arrival_is_found(play: MakePlay) -> None:
    async def old(ctx: Context) -> None:
        await ctx.wait_for_external_event("n")
        await ctx.wait_for_external_event("end")

    async def new(ctx: Context) -> None:
        ctx.create_timer(timedelta(1))
        await ctx.wait_for_external_event("n")
        await ctx.wait_for_external_event("end")

    one = play(old)
    one.start(one.event("n"))
    text = divergence(one, new)
    assert "recorded:  nothing here; next arrived EventRaised" in text
    assert "a step was added" in text


def test_a_removed_step_is_found(play: MakePlay) -> None:
    one = recorded(play, activities("a", "b"))
    text = divergence(one, activities())
    assert "recorded:  ActivityScheduled(a, task 0, attempt 1) at engine/test_divergence.py:" in text
    assert "asked now: nothing at the code came to rest" in text
    assert "likely cause: a step was removed" in text


def test_code_that_ends_earlier_is_found(play: MakePlay) -> None:
    async def short(ctx: Context) -> None:
        await ctx.call_activity("a")

    text = divergence(recorded(play, activities("a", "b")), short)
    assert "recorded:  ActivityScheduled(b, task 1, attempt 1)" in text
    assert "asked now: OrchestrationCompleted()" in text


def test_another_kind_of_step_is_found(play: MakePlay) -> None:
    async def child(ctx: Context) -> None:
        await ctx.call_sub_orchestrator("a")

    assert "SubOrchestrationScheduled(a" in divergence(recorded(play, activities("a")), child)


def test_another_version_of_an_activity_is_found(play: MakePlay) -> None:
    def app_with(version: str | None) -> tuple[App, Callable[..., Any]]:
        app = App()

        @app.activity(version=version)
        def pay() -> None: ...

        async def main(ctx: Context) -> None:
            await ctx.call_activity(pay)

        return app, main

    app, code = app_with("1")
    one = play(code, app=app)
    one.start()
    newer, changed = app_with("2")
    text = divergence(one, changed, app=newer)
    assert "ActivityScheduled(pay, version 1, task 0, attempt 1)" in text
    assert "ActivityScheduled(pay, version 2, task 0, attempt 1)" in text


def test_another_child_id_or_event_target_is_found(play: MakePlay) -> None:
    def main_with(name: str) -> Callable[..., Any]:
        def main(ctx: Context) -> Orchestration[None]:
            ctx.raise_event(name, "n")
            yield ctx.call_sub_orchestrator("child", instance_id=name)

        return main

    assert "EventSent(n, y, task 0)" in divergence(recorded_start(play, main_with("x")), main_with("y"))


def recorded_start(play: MakePlay, code: Callable[..., Any], input: Any = None, **options: Any) -> Play:
    one = play(code, input, **options)
    one.start()
    return one


def test_generators_are_watched_as_well(play: MakePlay) -> None:
    def old(ctx: Context) -> Orchestration[None]:
        yield ctx.call_activity("a")

    def new(ctx: Context) -> Orchestration[None]:
        yield ctx.create_timer(timedelta(1))

    text = divergence(recorded_start(play, old), new)
    assert "ActivityScheduled(a, task 0, attempt 1)" in text
    assert re.search(rf"TimerCreated\(task 0\) at {LINE}", text)


def test_nothing_catches_a_divergence(play: MakePlay) -> None:
    caught = []

    async def greedy(ctx: Context) -> None:
        try:
            await ctx.call_activity("other")
        except BaseException as error:
            caught.append(type(error).__name__)
            await ctx.call_activity("more")

    divergence(recorded(play, activities("a")), greedy)
    assert caught == ["GenerationEnded"]


# ---- values


def asks_with(value: Any) -> Callable[..., Any]:
    async def main(ctx: Context) -> None:
        await ctx.call_activity("a", value)

    return main


@pytest.mark.parametrize("sealer", [None, Sealer([Compression(min_bytes=1)])])
def test_another_value_stalls_only_where_it_is_strict(
    play: MakePlay, sealer: Sealer | None, caplog: pytest.LogCaptureFixture
) -> None:
    one = recorded_start(play, asks_with("x" * 100), sealer=sealer)
    text = divergence(one, asks_with("y" * 100))
    assert "asks for other values than its history records" in text
    assert "ctx.current_utc_datetime" in text

    execution = one.replay(asks_with("y" * 100), strict=False)
    assert execution.ports.value_differences == 1  # type: ignore[attr-defined]
    assert "asks for other values" in caplog.records[0].getMessage()
    assert execution.open_activities[0].input == one.requests(ev.ActivityScheduled)[0].input


def test_the_recorded_value_counts(play: MakePlay) -> None:
    def main_with(hours: int) -> Callable[..., Any]:
        async def main(ctx: Context) -> None:
            await ctx.create_timer(timedelta(hours=hours))

        return main

    one = recorded_start(play, main_with(1))
    execution = one.replay(main_with(5), strict=False)
    assert execution.next_due == one.execution.next_due


def test_sets_are_the_same_value_in_whatever_order_they_were_filled(play: MakePlay) -> None:
    words = [f"word {number}" for number in range(100)]
    one = recorded_start(play, asks_with(set(words)))
    one.replay(asks_with({*words[50:], *words[:50]}))


def test_an_added_timeout_changes_no_shape_of_the_call_itself(play: MakePlay) -> None:
    def main_with(**options: Any) -> Callable[..., Any]:
        async def main(ctx: Context) -> None:
            await ctx.call_activity("a", **options)

        return main

    one = recorded_start(play, main_with())
    one.replay(main_with(timeout=5, queue="other", tags={"a": "b"}))


def test_lines_are_notes_and_never_compared(play: MakePlay) -> None:
    one = recorded_start(play, asks_with(1))
    moved = [
        dataclasses.replace(event, line="elsewhere.py:1") if isinstance(event, ev.ActivityScheduled) else event
        for event in one.events
    ]
    execution = one.new_execution()
    execution.feed(Record(one.now, moved))
    execution.close()


def test_another_python_is_named_as_the_likely_cause(play: MakePlay) -> None:
    one = recorded(play, activities("a"), python="2.7")
    assert "written by Python 2.7" in divergence(one, activities("b"))


def test_a_history_of_one_instance_does_not_pass_for_another(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        await ctx.call_sub_orchestrator("child")

    one = recorded_start(play, main, run_id="one")
    other = play(main, run_id="two")
    other.start()
    assert encode_record(one.records[0]) != encode_record(other.records[0])
