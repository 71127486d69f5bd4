"""Children and detached orchestrations: ids, versions, results, failures, and the limits on both."""

# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable import events as ev
from durable.app import App
from durable.context import Orchestration, OrchestrationContext
from durable.errors import (
    FailureDetails,
    InstanceAlreadyExistsError,
    InvalidInputError,
    LimitExceededError,
    StoredValueError,
    SubOrchestrationFailedError,
    UnknownNameError,
)
from durable.outgoing import outgoing_messages
from durable.retry import RetryPolicy
from tests.engine.harness import BEGIN_US, Play, names

MakePlay = Callable[..., Play]
Context = OrchestrationContext


def shop() -> App:
    app = App()

    @app.orchestrator(name="pack", version="1.0")
    def pack_1(ctx: Context, count: int) -> Orchestration[list[int]]:
        yield ctx.call_activity("never")
        return []

    @app.orchestrator(name="pack", version="2")
    async def pack_2(ctx: Context, count: int) -> tuple[int, int]:
        return (count, count)

    @app.orchestrator
    async def plain(ctx: Context) -> None: ...

    return app


def function(app: App, name: str, version: str | None = None) -> Any:
    return app.find_orchestrator(name, version).function


def test_a_childs_result_comes_as_the_function_declares_it(play: MakePlay) -> None:
    app = shop()

    async def main(ctx: Context) -> list[str]:
        by_function = await ctx.call_sub_orchestrator(function(app, "pack"), 3)
        by_name = await ctx.call_sub_orchestrator("pack", 3)
        return [type(by_function).__name__, type(by_name).__name__]

    one = play(main, app=app)
    one.start()
    one.complete("pack", [3, 3])
    one.complete("pack", [3, 3])
    assert one.result == ["tuple", "list"]


def test_ids_are_derived_from_the_position_and_runs_are_ordered_by_time(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        ctx.call_sub_orchestrator("a")
        ctx.call_sub_orchestrator("a")
        ctx.call_sub_orchestrator("a", instance_id="mine/1")
        await ctx.wait_for_external_event("end")

    one, same, other = play(main), play(main), play(main, run_id="other")
    for each in (one, same, other):
        each.start()
    children = one.requests(ev.SubOrchestrationScheduled)
    ids = [child.instance_id for child in children]
    assert ids[2] == "mine/1"
    assert ids[0] != ids[1]
    assert all(re.fullmatch("[0-9a-f]{32}", text) for text in [*ids[:2], *(child.run_id for child in children)])
    assert ids == [child.instance_id for child in same.requests(ev.SubOrchestrationScheduled)]
    assert not set(ids[:2]) & {child.instance_id for child in other.requests(ev.SubOrchestrationScheduled)}
    assert {child.run_id[:12] for child in children} == {f"{BEGIN_US // 1000:012x}"}
    assert len({child.run_id for child in children}) == 3


def test_a_function_means_its_own_version_and_a_name_the_newest(play: MakePlay) -> None:
    app = shop()

    async def main(ctx: Context) -> None:
        ctx.call_sub_orchestrator(function(app, "pack", "1"), 1)
        ctx.call_sub_orchestrator("pack", 1)
        ctx.call_sub_orchestrator("pack", 1, version="1.0.0")
        ctx.call_sub_orchestrator(function(app, "pack", "1"), 1, version="2")
        ctx.call_sub_orchestrator("pack", 1, version="9")
        ctx.call_sub_orchestrator(function(app, "plain"))
        ctx.call_sub_orchestrator("elsewhere")
        ctx.start_orchestration("pack", 1)
        await ctx.wait_for_external_event("end")

    one = play(main, app=app)
    one.start()
    versions = [child.version for child in one.requests(ev.SubOrchestrationScheduled)]
    assert versions == ["1", "2", "1", "2", "9", "0", None, "2"]


def test_deploying_a_newer_version_does_not_make_a_running_parent_diverge(play: MakePlay) -> None:
    app = shop()

    async def main(ctx: Context) -> Any:
        ctx.start_orchestration("pack", 1)
        return await ctx.call_sub_orchestrator("pack", 1)

    one = play(main, app=app)
    one.start()
    newer = shop()

    @newer.orchestrator(name="pack", version="3")
    async def pack_3(ctx: Context, count: int) -> None: ...

    execution = one.replay(main, app=newer)
    assert [child.version for child in execution.open_children.values()] == ["2"]


def test_a_failed_child_raises_with_what_left_it(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        try:
            await ctx.call_sub_orchestrator("a")
        except SubOrchestrationFailedError as error:
            assert error.details.is_caused_by(LookupError)
            return error.details.message
        return "?"

    one = play(main)
    one.start()
    one.fail("a", KeyError("gone"))
    assert one.result == "'gone'"


def test_an_id_in_use_raises_where_the_child_is_awaited_and_is_not_tried_again(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        policy = RetryPolicy(timedelta(1), 5)
        try:
            await ctx.call_sub_orchestrator("a", instance_id="taken", retry_policy=policy)
        except InstanceAlreadyExistsError as error:
            return str(error)
        return "?"

    one = play(main)
    one.start()
    one.turn(ev.SubOrchestrationFailed(0, FailureDetails("X", "the id is in use"), is_refused=True))
    assert one.result == "the id is in use"


def test_giving_a_child_up_cancels_it(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        ctx.call_sub_orchestrator("a", instance_id="mine").cancel()
        await ctx.wait_for_external_event("end")

    one = play(main)
    turn = one.start()
    start, cancel = turn.messages
    assert start.start is not None
    assert isinstance(cancel.event, ev.OrchestrationCancelRequested)
    assert cancel.run_id == start.start.run_id
    assert not one.execution.open_children


def test_input_that_does_not_fit_fails_the_child_and_records_nothing(play: MakePlay) -> None:
    app = shop()

    def main(ctx: Context) -> Orchestration[list[str]]:
        seen = []
        for value in ("many", None, object()):
            task = ctx.call_sub_orchestrator(function(app, "pack"), value)
            assert task.is_failed
            try:
                yield task
            except SubOrchestrationFailedError as error:
                assert isinstance(error, InvalidInputError)
                assert error.details.is_caused_by(InvalidInputError)
                assert error.details.non_retryable
                seen.append(error.details.message)
        return seen

    one = play(main, app=app)
    texts = one.run()
    assert len(texts) == 3
    assert all(text.startswith("input of orchestrator 'pack'") for text in texts)
    assert not one.requests(ev.SubOrchestrationScheduled)


def test_children_are_nested_only_so_deep(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        with pytest.raises(LimitExceededError, match="depth"):
            ctx.start_orchestration("a")
        try:
            await ctx.call_sub_orchestrator("a")
        except SubOrchestrationFailedError as error:
            return error.details.error_type
        return "ok"

    assert play(main, depth=1000).run() == "durable.errors.LimitExceededError"

    async def shallow(ctx: Context) -> None:
        await ctx.call_sub_orchestrator("a")

    one = play(shallow, depth=999)
    one.start()
    assert one.execution.open_children


@pytest.mark.parametrize("wrong", ["", " ", "a\0", "\udcff", "é" * 257, 7])
def test_what_cannot_be_an_id_is_refused(play: MakePlay, wrong: Any) -> None:
    async def main(ctx: Context) -> str:
        with pytest.raises(InvalidInputError, match="instance id"):
            ctx.call_sub_orchestrator("a", instance_id=wrong)
        with pytest.raises(ValueError, match="instance id"):
            ctx.start_orchestration("a", instance_id=wrong)
        return "ok"

    assert play(main).run() == "ok"


def test_ids_may_hold_what_paths_and_queries_may_not(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[str]:
        ids = ["a/b", "..", "%", "_", "line\nbreak", "😀", "A", "a", " a", "é" * 256]
        return [ctx.start_orchestration("x", instance_id=text) for text in ids]

    assert len(set(play(main).run())) == 10


def test_a_version_that_is_none_is_refused(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        with pytest.raises(ValueError, match="version"):
            ctx.call_sub_orchestrator("a", version="v2")
        return "ok"

    assert play(main).run() == "ok"


def test_a_function_that_no_app_knows_is_refused_with_the_remedy(play: MakePlay) -> None:
    async def stranger(ctx: Context) -> None: ...

    async def main(ctx: Context) -> str:
        with pytest.raises(UnknownNameError, match=r"@app\.orchestrator"):
            ctx.call_sub_orchestrator(stranger)
        with pytest.raises(UnknownNameError, match=r"@app\.activity"):
            ctx.call_activity(stranger)  # type: ignore[arg-type]
        return "ok"

    assert play(main).run() == "ok"


def test_tags_go_with_a_child(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        ctx.call_sub_orchestrator("a", tags={"team": "x"})
        refused: list[Any] = [{"team": 1}, {"": "x"}, ["team"], {"a": "\ud800"}]
        for wrong in refused:
            with pytest.raises(ValueError, match="tag"):
                ctx.call_sub_orchestrator("a", tags=wrong)
        await ctx.wait_for_external_event("end")

    one = play(main)
    one.start()
    assert one.requests(ev.SubOrchestrationScheduled)[0].tags == {"team": "x"}


def test_a_detached_start_returns_its_id_and_is_not_waited_for(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[str]:
        later = ctx.current_utc_datetime + timedelta(hours=1)
        return [
            ctx.start_orchestration("a", 5),
            ctx.start_orchestration("a", instance_id="mine", at=later),
            ctx.start_orchestration("a", at=timedelta(minutes=1)),
            ctx.start_orchestration("a", at=datetime(1990, 1, 1, tzinfo=UTC)),
        ]

    one = play(main)
    turn = one.start()
    started = one.requests(ev.SubOrchestrationScheduled)
    assert one.result == [request.instance_id for request in started]
    assert one.result[1] == "mine"
    assert [request.is_detached for request in started] == [True] * 4
    begins = [None, BEGIN_US + 3_600_000_000, BEGIN_US + 60_000_000, BEGIN_US]
    assert [request.start_at for request in started] == begins
    assert len(turn.messages) == 4
    assert not one.execution.open_children


def test_a_detached_start_refuses_at_the_call(play: MakePlay) -> None:
    app = shop()

    async def main(ctx: Context) -> str:
        with pytest.raises(InvalidInputError, match="input of orchestrator 'pack'"):
            ctx.start_orchestration(function(app, "pack"), "many")
        with pytest.raises(ValueError, match="time zone"):
            ctx.start_orchestration("pack", 1, at=datetime(2030, 1, 1))
        with pytest.raises(TypeError, match="timedelta"):
            ctx.start_orchestration("pack", 1, at=5)  # type: ignore[call-overload]
        with pytest.raises(LimitExceededError):
            ctx.start_orchestration("pack", "x" * 3_000_000)
        return "ok"

    one = play(main, app=app)
    assert one.run() == "ok"
    assert names(one.events) == ["OrchestrationStarted", "OrchestrationCompleted"]


def test_the_record_is_all_that_is_needed_to_send_its_messages_again(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        ctx.start_orchestration("a", 5)
        ctx.raise_event("other", "n", 1)
        ctx.call_sub_orchestrator("b")
        await ctx.wait_for_external_event("end")

    one = play(main)
    turn = one.start()
    again = list(outgoing_messages(one.records[0], one.execution.sender()))
    assert again == list(turn.messages)


def test_a_recorded_result_that_no_longer_fits_stalls(play: MakePlay) -> None:
    app = App()

    @app.orchestrator
    async def child(ctx: Context) -> int:
        return 1

    async def main(ctx: Context) -> int:
        return await ctx.call_sub_orchestrator(child)

    one = play(main, app=app)
    one.start()
    execution = one.new_execution()
    execution.feed(one.records[0])
    with pytest.raises(StoredValueError, match="recorded result of orchestrator 'child'"):
        execution.turn([one.completed("child", "text")], one.now)
    execution.close()
