"""The members of the context: what they give, what they refuse, and that they act only where they belong."""

# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import asyncio
import dataclasses
import logging
import pickle
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from durable import events as ev
from durable.activity_context import ActivityContext
from durable.app import App
from durable.context import Orchestration, OrchestrationContext
from durable.context.options import SPAN_MAX_US
from durable.engine.turn import UNCHANGED
from durable.errors import (
    ActivityFailedError,
    DurableError,
    InvalidInputError,
    LimitExceededError,
    StoredValueError,
    UnknownNameError,
)
from durable.events import ActivityOptions
from durable.payloads import decode, encode
from durable.retry import RetryPolicy
from durable.timers import DUE_MAX
from tests.engine.harness import BEGIN_US, SECOND, Play, names, parent_ref

MakePlay = Callable[..., Play]
Context = OrchestrationContext


@dataclasses.dataclass
class Order:
    number: int
    items: tuple[str, ...] = ()


# ---- who is running


def test_it_tells_who_is_running(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[Any]:
        ctx.tags["x"] = "y"  # type: ignore[index]  # a copy: this is nobody else's
        who = [ctx.instance_id, ctx.run_id, ctx.generation, ctx.name, ctx.version, ctx.parent_instance_id]
        return [*who, ctx.tags, ctx.scheduled_for, "instance" in repr(ctx)]

    due = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    micros = (due - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    one = play(main, parent=parent_ref(), tags={"a": "b"}, scheduled_for=micros)
    assert one.run() == ["instance", "run", 0, "main", None, "parent", {"a": "b"}, due, True]


def test_the_version_is_the_one_that_was_declared(play: MakePlay) -> None:
    app = App()

    @app.orchestrator(version="1.50.0")
    async def main(ctx: Context) -> str | None:
        return ctx.version

    assert play(main, app=app).run() == "1.50.0"


def test_scheduled_for_is_the_start_where_there_was_no_schedule(play: MakePlay) -> None:
    async def main(ctx: Context) -> datetime:
        await ctx.create_timer(timedelta(5))
        return ctx.scheduled_for

    one = play(main, scheduled_for=0)
    one.start()
    one.fire()
    assert one.result == datetime.fromtimestamp(BEGIN_US / 1e6, UTC)


# ---- input and result


def test_the_input_comes_as_the_annotation_makes_it(play: MakePlay) -> None:
    def main(ctx: Context, order: Order) -> Orchestration[list[Any]]:
        yield ctx.create_timer(timedelta(0))
        return [type(order).__name__, order.number, type(order.items).__name__]

    assert play(main, Order(7, ("a",))).run() == ["Order", 7, "tuple"]


def test_no_input_is_the_default_and_a_default_is_shared_with_nobody(play: MakePlay) -> None:
    async def main(ctx: Context, items: list[int] = []) -> list[int]:  # noqa: B006 (what a user may well write)
        items.append(1)
        await ctx.call_activity("a")
        items.append(2)
        return items

    for _ in range(2):
        assert play(main).run({"a": lambda _: None}) == [1, 2]


def test_falsy_inputs_are_inputs(play: MakePlay) -> None:
    async def main(ctx: Context, value: Any = "default") -> Any:
        return value

    falsy: list[Any] = [0, "", False, [], {}]
    for value in falsy:
        assert play(main, value).run() == value


def test_an_input_that_does_not_fit_fails_the_instance_in_its_first_turn(play: MakePlay) -> None:
    async def typed(ctx: Context, order: Order) -> None: ...

    async def takes_none(ctx: Context) -> None: ...

    for code, value in ((typed, "text"), (typed, None), (takes_none, 5)):
        one = play(code, value)
        one.run()
        assert one.failure.error_type == "durable.errors.InvalidInputError"
        assert "main" in one.failure.message


def test_a_recorded_input_that_no_longer_fits_stalls(play: MakePlay) -> None:
    async def old(ctx: Context, value: int) -> None:
        await ctx.call_activity("a")

    async def new(ctx: Context, value: str) -> None:
        await ctx.call_activity("a")

    one = play(old, 5)
    one.start()
    with pytest.raises(StoredValueError, match="input of orchestrator 'main'"):
        one.replay(new)


def test_a_recorded_result_that_no_longer_fits_stalls(play: MakePlay) -> None:
    def code(kind: Any) -> tuple[App, Any]:
        app = App()

        @app.activity
        def a() -> kind: ...

        async def main(ctx: Context) -> None:
            try:
                await ctx.call_activity(a)
            except Exception:
                return  # nothing that the code could do about it

        return app, main

    app, old = code(int)
    one = play(old, app=app)
    one.start()
    one.complete("a", 5)
    app, new = code(str)
    with pytest.raises(StoredValueError, match="recorded result of activity 'a'"):
        one.replay(new, app=app)


def test_a_result_is_checked_against_the_return_annotation(play: MakePlay) -> None:
    async def typed(ctx: Context) -> int:
        return "text"  # type: ignore[return-value]

    async def unstorable(ctx: Context) -> Any:
        return {"x": object()}

    async def large(ctx: Context) -> str:
        return "x" * 3_000_000

    def generator(ctx: Context) -> Orchestration[int]:
        yield ctx.create_timer(timedelta(0))
        return "text"  # type: ignore[return-value]

    for code, error in (
        (typed, ValueError),
        (unstorable, TypeError),
        (large, LimitExceededError),
        (generator, ValueError),
    ):
        one = play(code)
        one.run()
        assert one.failure.is_caused_by(error)
        assert "result of orchestrator 'main'" in one.failure.message


# ---- activities


def shop() -> App:
    app = App()

    @app.activity(name="price", version="2.0")
    def price(order: Order) -> tuple[int, str]:
        return (order.number, "EUR")

    @app.activity(name="greet")
    async def greet(ctx: ActivityContext, name: str = "you") -> str:
        return f"hello {name}"

    @app.activity(name="tick")
    def tick() -> None: ...

    policy = RetryPolicy(timedelta(seconds=1), 3)

    @app.activity(name="slow", timeout=timedelta(5), heartbeat_timeout=timedelta(1), queue="heavy", retry_policy=policy)
    def slow(value: int) -> int:
        return value

    return app


def function(app: App, name: str) -> Any:
    return app.find_activity(name).function


def test_a_function_gives_its_name_version_and_types_and_a_name_plain_data(play: MakePlay) -> None:
    app = shop()

    async def main(ctx: Context) -> list[str]:
        typed = await ctx.call_activity(function(app, "price"), Order(5))
        plain = await ctx.call_activity("price", Order(5))
        unknown = await ctx.call_activity("elsewhere", Order(5))
        return [type(result).__name__ for result in (typed, plain, unknown)]

    one = play(main, app=app)
    answers = {"price": lambda value: [value["number"], "EUR"], "elsewhere": lambda value: value["number"]}
    assert one.run(answers) == ["tuple", "list", "int"]
    versions = [(request.name, request.version) for request in one.requests(ev.ActivityScheduled)]
    assert versions == [("price", "2"), ("price", "2"), ("elsewhere", None)]


def test_no_input_leaves_the_default_to_the_activity(play: MakePlay) -> None:
    app = shop()

    async def main(ctx: Context) -> None:
        await ctx.call_activity(function(app, "greet"))
        await ctx.call_activity(function(app, "greet"), None)
        await ctx.call_activity(function(app, "tick"))

    one = play(main, app=app)
    one.run()
    assert [request.input for request in one.requests(ev.ActivityScheduled)] == [None] * 3


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("price", "text", InvalidInputError),
        ("price", None, InvalidInputError),
        ("price", {"number": "7"}, InvalidInputError),
        ("tick", 5, InvalidInputError),
        ("greet", object(), TypeError),
        ("elsewhere", object(), TypeError),
        ("elsewhere", "x" * 3_000_000, LimitExceededError),
        ("elsewhere", "\ud800", TypeError),
    ],
)
def test_an_input_that_does_not_fit_fails_that_task_for_good(
    play: MakePlay, name: str, value: Any, error: type[Exception]
) -> None:
    app = shop()

    async def main(ctx: Context) -> str:
        target = name if name == "elsewhere" else function(app, name)
        task = ctx.call_activity(target, value, retry_policy=RetryPolicy(timedelta(1), 5))
        try:
            await task
        except ActivityFailedError as failure:
            assert isinstance(failure, error)  # so that either is caught
            assert type(failure).__qualname__ == "ActivityFailedError"
            assert failure.details.is_caused_by(error)
            assert failure.details.non_retryable
            assert failure.task_name == name
            again = pickle.loads(pickle.dumps(failure))
            assert (type(again), again.details) == (ActivityFailedError, failure.details)
            return failure.details.message
        return "?"

    one = play(main, app=app)
    assert name in one.run()
    assert not one.requests(ev.ActivityScheduled)


def test_the_declared_options_count_unless_the_call_says_otherwise(play: MakePlay) -> None:
    app = shop()
    day = timedelta(days=1) // timedelta(microseconds=1)

    async def main(ctx: Context) -> None:
        slow = function(app, "slow")
        ctx.call_activity(slow, 1)
        ctx.call_activity("slow", 1)
        ctx.call_activity(slow, 1, timeout=2.5, queue_timeout=timedelta(minutes=1), tags={"a": "b"})
        ctx.call_activity(slow, 1, timeout=None, heartbeat_timeout=None, queue=None)
        ctx.call_activity("elsewhere", queue="gpu", heartbeat_timeout=timedelta.max)
        await ctx.wait_for_external_event("end")

    one = play(main, app=app)
    one.start()
    asked = one.requests(ev.ActivityScheduled)
    declared = ActivityOptions("heavy", 5 * day, day)
    assert asked[0].options == asked[1].options == declared
    assert asked[2].options == ActivityOptions("heavy", 2_500_000, day, 60_000_000)
    assert asked[2].tags == {"a": "b"}
    assert asked[3].options == ActivityOptions("default")
    assert asked[4].options == ActivityOptions("gpu", None, SPAN_MAX_US)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timeout": 0}, ValueError),
        ({"timeout": timedelta(seconds=-1)}, ValueError),
        ({"timeout": "5"}, TypeError),
        ({"timeout": True}, TypeError),
        ({"heartbeat_timeout": float("nan")}, ValueError),
        ({"queue_timeout": -1}, ValueError),
        ({"total_timeout": 0}, ValueError),
        ({"queue": ""}, ValueError),
        ({"queue": 5}, TypeError),
        ({"retry_policy": 3}, TypeError),
        ({"tags": {"a": 1}}, ValueError),
        ({"unknown": 1}, TypeError),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(
    play: MakePlay, options: dict[str, Any], error: type[Exception]
) -> None:
    async def main(ctx: Context) -> str:
        with pytest.raises(error, match=next(iter(options)).rstrip("s")):
            ctx.call_activity("a", **options)
        with pytest.raises(error):
            ctx.map("a", [1], **options)
        return "ok"

    assert play(main).run() == "ok"


@pytest.mark.parametrize("name", ["", " ", "a\0", "\ud800"])
def test_what_cannot_be_a_name_is_refused(play: MakePlay, name: str) -> None:
    async def main(ctx: Context) -> str:
        with pytest.raises(ValueError, match="name"):
            ctx.call_activity(name)
        with pytest.raises(ValueError, match="name"):
            ctx.call_sub_orchestrator(name)
        return "ok"

    assert play(main).run() == "ok"


def test_a_function_that_no_app_knows_is_refused(play: MakePlay) -> None:
    def stranger() -> None: ...

    async def main(ctx: Context) -> str:
        with pytest.raises(UnknownNameError, match="stranger"):
            ctx.call_activity(stranger)
        with pytest.raises(UnknownNameError, match="5"):
            ctx.call_activity(5)  # type: ignore[call-overload]
        return "ok"

    assert play(main).run() == "ok"


# ---- timers


@pytest.mark.parametrize(
    ("when", "due"),
    [
        (timedelta(seconds=5), BEGIN_US + 5 * SECOND),
        (timedelta(microseconds=1), BEGIN_US + 1),
        (timedelta(0), BEGIN_US),
        (timedelta(days=-3), BEGIN_US),
        (timedelta.min, BEGIN_US),
        (timedelta(days=36525), BEGIN_US + 36525 * 86400 * SECOND),
        (timedelta.max, DUE_MAX),
        (datetime.max.replace(tzinfo=UTC), DUE_MAX),
        (datetime.min.replace(tzinfo=UTC), BEGIN_US),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), BEGIN_US),
        (datetime(2100, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), 4_102_444_800 * SECOND),
    ],
)
def test_timers_of_any_length(play: MakePlay, when: Any, due: int) -> None:
    def main(ctx: Context) -> Orchestration[str]:
        yield ctx.create_timer(when)
        return "fired"

    one = play(main)
    one.start()
    assert one.requests(ev.TimerCreated)[0].due == due
    assert one.go_on() == "fired"


@pytest.mark.parametrize(
    ("when", "error"),
    [
        (datetime(2030, 1, 1), ValueError),
        (5, TypeError),
        (True, TypeError),
        (1.5, TypeError),
        ("5s", TypeError),
        (None, TypeError),
    ],
)
def test_what_is_no_moment_is_refused(play: MakePlay, when: Any, error: type[Exception]) -> None:
    async def main(ctx: Context) -> str:
        with pytest.raises(error, match="create_timer"):
            ctx.create_timer(when)
        return "ok"

    assert play(main).run() == "ok"


def test_a_wait_of_no_time_times_out_at_once(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        for span in (0, -5, timedelta(days=-1)):
            with pytest.raises(TimeoutError):
                await ctx.wait_for_external_event("n", timeout=span)
        with pytest.raises(TypeError, match="timeout"):
            ctx.wait_for_external_event("n", timeout="5")  # type: ignore[call-overload]
        return "ok"

    assert play(main).run() == "ok"


# ---- status, log


def test_the_last_custom_status_of_a_turn_wins(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        ctx.set_custom_status("first")
        ctx.set_custom_status({"step": 1, "of": [1, 2]})
        await ctx.wait_for_external_event("n")
        await ctx.wait_for_external_event("n")
        ctx.set_custom_status(None)

    one = play(main)
    assert decode(one.start().custom_status) == {"step": 1, "of": [1, 2]}  # type: ignore[arg-type]
    assert one.raise_event("n").custom_status is UNCHANGED
    assert one.raise_event("n").custom_status is None


def test_a_custom_status_is_plain_data_up_to_64_kib(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        with pytest.raises(TypeError, match="custom status"):
            ctx.set_custom_status(object())
        with pytest.raises(LimitExceededError, match="65536"):
            ctx.set_custom_status("x" * 65_536)
        ctx.set_custom_status("x" * 65_533)
        return "ok"

    assert play(main).run() == "ok"


def test_the_logger_speaks_once_and_says_whose_record_it_is(play: MakePlay, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "durable.orchestration")

    async def main(ctx: Context) -> None:
        assert isinstance(ctx.logger, logging.Logger)
        ctx.logger.debug("unwanted")
        ctx.logger.info("begins %s", 1, extra={"order": 7})
        await ctx.call_activity("a")
        ctx.logger.getChild("part").warning("goes on")
        assert not ctx.logger.isEnabledFor(logging.DEBUG)

    one = play(main)
    one.start()
    one.execution = one.new_execution()  # the cache is dropped
    one.execution.feed(one.records[0], len(one.history[0][2]))
    one.complete("a")
    said = [record for record in caplog.records if record.name.startswith("durable")]
    assert [record.getMessage() for record in said] == ["begins 1", "goes on"]
    assert [record.name for record in said] == ["durable.orchestration.main", "durable.orchestration.main.part"]
    fields = said[0].__dict__
    assert (fields["instance_id"], fields["run_id"], fields["order"]) == ("instance", "run", 7)
    assert said[0].pathname == __file__
    caplog.clear()
    one.check_replays()
    one.history.clear()
    one.execution.close()
    one.execution = one.new_execution()
    assert {record.getMessage() for record in caplog.records} <= {"begins 1", "goes on"}


def test_levels_and_handlers_are_configured_on_the_shared_logger(play: MakePlay) -> None:
    class Collect(logging.Handler):
        def __init__(self) -> None:
            super().__init__()
            self.texts: list[str] = []

        def emit(self, record: logging.LogRecord) -> None:
            self.texts.append(record.getMessage())

    async def main(ctx: Context) -> None:
        ctx.logger.error("an error")
        ctx.logger.warning("a warning")

    shared, handler = logging.getLogger("durable.orchestration.main"), Collect()
    shared.addHandler(handler)
    shared.setLevel(logging.ERROR)
    try:
        play(main).run()
        assert handler.texts == ["an error"]
    finally:
        shared.removeHandler(handler)
        shared.setLevel(logging.NOTSET)


# ---- misuse


ACTS: list[Callable[[Context], Any]] = [
    lambda ctx: ctx.call_activity("a"),
    lambda ctx: ctx.map("a", [1]),
    lambda ctx: ctx.call_sub_orchestrator("a"),
    lambda ctx: ctx.start_orchestration("a"),
    lambda ctx: ctx.create_timer(timedelta(1)),
    lambda ctx: ctx.wait_for_external_event("n"),
    lambda ctx: ctx.raise_event("other", "n"),
    lambda ctx: ctx.continue_as_new(),
    lambda ctx: ctx.set_custom_status(1),
    lambda ctx: ctx.new_uuid(),
    lambda ctx: ctx.random,
    lambda ctx: ctx.current_utc_datetime,
    lambda ctx: ctx.is_replaying,
    lambda ctx: ctx.history_length + ctx.history_bytes,
]


def refused(act: Callable[[Context], Any], ctx: Context) -> str:
    with pytest.raises(DurableError, match="'instance' was used outside of its own turn") as caught:
        act(ctx)
    return str(caught.value)


@pytest.mark.parametrize("act", ACTS)
def test_a_context_acts_only_in_its_own_turns(play: MakePlay, act: Callable[[Context], Any]) -> None:
    kept: list[Context] = []

    async def main(ctx: Context) -> None:
        kept.append(ctx)
        await ctx.wait_for_external_event("end")

    async def other(ctx: Context) -> None:
        refused(act, kept[0])

    one = play(main)
    one.start()
    refused(act, kept[0])  # between its turns

    thread_errors: list[BaseException] = []

    def in_thread() -> None:
        try:
            refused(act, kept[0])
        except BaseException as error:
            thread_errors.append(error)

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert not thread_errors

    second = play(other, instance_id="other")
    second.run()
    assert isinstance(second.outcome, ev.OrchestrationCompleted), second.outcome

    async def in_a_loop_of_its_own() -> None:
        refused(act, kept[0])

    asyncio.run(in_a_loop_of_its_own())
    one.raise_event("end")
    refused(act, kept[0])


def test_a_thread_during_the_turn_is_refused(play: MakePlay) -> None:
    seen: list[str] = []

    def main(ctx: Context) -> str:
        def work() -> None:
            seen.append(refused(ACTS[0], ctx))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return "ok"

    one = play(main)
    assert one.run() == "ok"
    assert "another thread" in seen[0]


def test_it_has_what_the_interface_names() -> None:
    members = """instance_id run_id generation name version parent_instance_id tags scheduled_for current_utc_datetime
    is_replaying call_activity call_sub_orchestrator start_orchestration map create_timer wait_for_external_event
    raise_event continue_as_new set_custom_status new_uuid random logger history_length history_bytes"""
    assert not [name for name in members.split() if not hasattr(OrchestrationContext, name)]


def test_lines_of_requests_are_the_users(play: MakePlay) -> None:
    app = shop()

    async def helper(ctx: Context) -> Any:
        return await ctx.map(function(app, "slow"), [1, 2, 3], concurrency=1)

    async def main(ctx: Context) -> None:
        await helper(ctx)

    one = play(main, app=app)
    one.run()
    lines = [request.line for request in one.requests(ev.ActivityScheduled)]
    assert lines[0].startswith("engine/test_context.py:")
    assert lines[1:] == ["", ""], "asked for by the loop, when an earlier call had ended"


def test_payloads_of_requests_are_what_encode_makes(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        await ctx.call_activity("a", {"b": [1, None, "x"]})

    one = play(main)
    one.start()
    assert one.requests(ev.ActivityScheduled)[0].input == encode({"b": [1, None, "x"]})
    assert names(one.events) == ["OrchestrationStarted", "ActivityScheduled"]
