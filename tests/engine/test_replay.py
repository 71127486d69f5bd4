"""Recorded work is not done again, and a replay asks for the same, in both styles.

Every test here (and in this folder) also replays each of its histories from every prefix, see `harness`.
"""

# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable import events as ev
from durable.app import App
from durable.context import Orchestration, OrchestrationContext, when_all, when_any
from durable.engine.execution import Execution
from durable.engine.tasks import Task
from durable.errors import ActivityFailedError, DurableError
from durable.events import InstanceKey
from durable.payloads import Compression, Sealer, encode
from durable.records import Record, decode_record, encode_record
from tests.engine.harness import BEGIN_US, SECOND, Play, names

MakePlay = Callable[..., Play]
Context = OrchestrationContext

DOUBLE = {"double": lambda x: 2 * x}


def test_a_generator_gets_the_results_of_its_activities(play: MakePlay) -> None:
    def main(ctx: Context, count: int) -> Orchestration[list[int]]:
        results = []
        for number in range(count):
            results.append((yield ctx.call_activity("double", number)))
        last = yield from ctx.call_activity("double", 100)
        return [*results, last]

    assert play(main, 3).run(DOUBLE) == [0, 2, 4, 200]


def test_a_coroutine_gets_the_results_of_its_activities(play: MakePlay) -> None:
    async def main(ctx: Context, count: int) -> list[int]:
        return [await ctx.call_activity("double", number) for number in range(count)]

    assert play(main, 3).run(DOUBLE) == [0, 2, 4]


def test_a_plain_function_runs_as_well(play: MakePlay) -> None:
    def main(ctx: Context, count: int) -> str:
        return f"{ctx.instance_id} {count}"

    assert play(main, 3).run() == "instance 3"


def test_a_replay_runs_the_code_but_asks_for_nothing_anew(play: MakePlay) -> None:
    runs: list[bool] = []

    async def main(ctx: Context) -> int:
        runs.append(ctx.is_replaying)
        value = await ctx.call_activity("double", 1)
        runs.append(ctx.is_replaying)
        return int(value)

    one = play(main)
    one.start()
    one.complete("double", 2)
    assert runs == [False, False]
    runs.clear()
    fresh = one.new_execution()
    fresh.feed(one.records[0])
    assert runs == [True]
    turn = fresh.turn([one.records[1].events[0]], one.now)
    assert runs == [True, False]
    assert names(turn.record.events) == ["ActivityCompleted", "OrchestrationCompleted"]
    assert not turn.activities


def test_a_task_may_be_awaited_any_number_of_times(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[int]:
        task = ctx.call_activity("double", 1)
        return [await task, await task, task.result()]

    def generator(ctx: Context) -> Orchestration[list[int]]:
        task = ctx.call_activity("double", 1)
        return [(yield task), (yield from task), task.result()]

    for style in (main, generator):
        assert play(style).run(DOUBLE) == [2, 2, 2]


def test_a_task_tells_its_state(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[Any]:
        good, bad, given_up = (ctx.call_activity(name) for name in ("good", "bad", "slow"))
        seen: list[Any] = [good.is_complete, good.is_failed, good.is_cancelled]
        with pytest.raises(asyncio.InvalidStateError):
            good.result()
        await when_any([good])
        with pytest.raises(ActivityFailedError):
            await bad
        seen += [good.is_complete, good.is_failed, bad.is_complete, bad.is_failed, bad.is_cancelled]
        seen += [given_up.cancel(), given_up.cancel(), good.cancel(), given_up.is_cancelled, given_up.is_failed]
        assert isinstance(bad.exception(), ActivityFailedError)
        return seen

    one = play(main)
    one.start()
    one.turn(one.completed("good"), one.failed("bad", ValueError("no")))
    assert one.result == [False] * 3 + [True, False, True, True, False] + [True, False, False, True, False]
    assert names(one.requests(ev.ActivityCancelled)) == ["ActivityCancelled"]


def test_when_all_gives_results_in_the_order_of_the_tasks(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[Any]:
        first, second = await when_all((ctx.call_activity("a"), ctx.call_activity("b")))
        return [first, second, await when_all([]), await when_all(ctx.call_activity("a") for _ in range(2))]

    one = play(main)
    one.start()
    one.complete("b", "b")
    one.complete("a", "a")
    one.complete("a", "x")
    one.complete("a", "y")
    assert one.result == ["a", "b", [], ["x", "y"]]


def test_when_all_waits_for_all_and_raises_the_first_failure_in_schedule_order(play: MakePlay) -> None:
    def main(ctx: Context) -> Orchestration[str]:
        try:
            yield when_all(tasks := [ctx.call_activity("a"), ctx.call_activity("b"), ctx.call_activity("c")])
        except ActivityFailedError as first:
            try:
                yield when_all(reversed(tasks))  # where they stand in the list is not when they were scheduled
            except ActivityFailedError as error:
                assert error is first
                return error.details.message
        return "?"

    one = play(main)
    one.start()
    one.fail("c", ValueError("c"))
    one.fail("b", ValueError("b"))
    assert one.outcome is None
    one.complete("a")
    assert one.result == "b"


def test_when_any_is_decided_by_the_order_of_the_history(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[str]:
        tasks = [ctx.call_activity(name) for name in "abc"]
        won = []
        while tasks:
            winner = await when_any(tasks)
            won.append("failed" if winner.is_failed else winner.result())
            tasks.remove(winner)
        return won

    one = play(main)
    one.start()
    one.turn(one.completed("c", "c"), one.failed("a", ValueError()), one.completed("b", "b"))  # in one turn
    assert one.result == ["c", "failed", "b"]


def test_when_any_of_complete_tasks_gives_the_one_that_completed_first(play: MakePlay) -> None:
    def main(ctx: Context) -> Orchestration[str]:
        tasks = [ctx.call_activity(name) for name in "ab"]
        yield when_all(tasks)
        winner: Task[str] = yield when_any(tasks)
        return winner.result()

    one = play(main)
    one.start()
    one.complete("b", "b")
    one.complete("a", "a")
    assert one.result == "b"


def test_when_any_cancels_nothing_and_leaves_nothing_behind_on_the_losers(play: MakePlay) -> None:
    async def main(ctx: Context) -> int:
        stop = ctx.wait_for_external_event("stop")
        for _ in range(5):
            await when_any([stop, ctx.create_timer(timedelta(seconds=1))])
        assert not stop.is_complete
        return len(stop._callbacks or ())

    one = play(main)
    assert one.run() == 0


def test_when_any_and_when_all_refuse_what_is_no_task(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        with pytest.raises(ValueError):
            when_any([])
        for wait in (when_any, when_all):
            with pytest.raises(TypeError, match="durable tasks"):
                wait([ctx.call_activity("a"), 5])  # type: ignore[arg-type]

    one = play(main)
    one.run({"a": lambda _: None})
    assert isinstance(one.outcome, ev.OrchestrationCompleted)


def test_cancelling_a_group_cancels_its_tasks(play: MakePlay) -> None:
    async def main(ctx: Context) -> bool:
        whole = when_all([ctx.call_activity("a"), ctx.create_timer(timedelta(days=1))])
        whole.cancel()
        return whole.is_cancelled

    one = play(main)
    assert one.run() is True
    assert names(one.events)[-3:] == ["ActivityCancelled", "TimerCancelled", "OrchestrationCompleted"]


def test_a_timer_fires_at_its_time_and_the_time_of_a_turn_is_from_the_history(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[float]:
        begin = ctx.current_utc_datetime
        await ctx.create_timer(timedelta(minutes=5))
        after = ctx.current_utc_datetime
        await ctx.create_timer(after - timedelta(days=1))  # the past is now
        return [(after - begin).total_seconds(), (ctx.current_utc_datetime - after).total_seconds()]

    one = play(main)
    one.start()
    assert one.execution.next_due == BEGIN_US + 300 * SECOND
    one.go_on()
    assert one.result == [300.0, 0.0]


def test_time_never_decreases_although_the_stores_clock_does(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[datetime]:
        seen = [ctx.current_utc_datetime]
        for _ in range(2):
            await ctx.wait_for_external_event("go")
            seen.append(ctx.current_utc_datetime)
        return seen

    one = play(main)
    one.start()
    one.now -= 3600 * SECOND
    one.raise_event("go")
    one.now += 7200 * SECOND
    one.raise_event("go")
    begin = datetime.fromtimestamp(BEGIN_US / 1e6, UTC)
    assert one.result == [begin, begin, begin + timedelta(hours=1)]


def test_time_does_not_decrease_from_one_generation_to_the_next(play: MakePlay) -> None:
    async def main(ctx: Context) -> datetime:
        return ctx.current_utc_datetime

    execution = play(main).new_execution(1)
    execution.feed(Record(BEGIN_US, [ev.OrchestrationStarted("main", None, None, "seed", "")], is_opening=True))
    assert execution.turn([], BEGIN_US - 3600 * SECOND).record.time == BEGIN_US


def test_a_cancelled_timer_is_recorded_and_never_fires(play: MakePlay) -> None:
    def main(ctx: Context) -> Orchestration[bool]:
        timer = ctx.create_timer(timedelta(hours=1))
        timer.cancel()
        yield ctx.create_timer(timedelta(hours=2))
        return timer.is_cancelled

    one = play(main)
    one.start()
    cancelled = one.requests(ev.TimerCancelled)[0]
    assert one.execution.next_due == BEGIN_US + 7200 * SECOND
    turn = one.turn(ev.TimerFired(cancelled.task_id))
    assert turn.refused[0][1] == "the timer was cancelled or has fired"
    assert one.go_on() is True


def test_timers_fire_in_the_order_of_their_times(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[int]:
        fired: list[int] = []

        async def wait(seconds: int) -> None:
            await ctx.create_timer(timedelta(seconds=seconds))
            fired.append(seconds)

        await asyncio.gather(*(wait(seconds) for seconds in (3, 1, 2, 1)))
        return fired

    one = play(main)
    one.start()
    one.fire(seconds=10)  # all are due at once
    assert one.result == [1, 1, 2, 3]


def test_what_is_open_at_the_end_is_given_up_and_children_run_on(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        ctx.call_activity("slow")
        ctx.call_sub_orchestrator("child")
        ctx.create_timer(timedelta(days=1))
        ctx.wait_for_external_event("never")
        return "done"

    one = play(main)
    turn = one.start()
    assert names(turn.record.events)[-3:] == ["ActivityCancelled", "TimerCancelled", "OrchestrationCompleted"]
    assert turn.dropped_activities == (0,)
    assert turn.next_due is None
    assert not one.requests(ev.SubOrchestrationCancelled)
    assert not turn.activities


def test_a_late_or_double_outcome_is_refused_and_not_recorded(play: MakePlay) -> None:
    async def main(ctx: Context) -> int:
        lost = ctx.call_activity("lost")
        lost.cancel()
        value = await ctx.call_activity("kept")
        await ctx.wait_for_external_event("end")
        return int(value)

    one = play(main)
    one.start()
    first = one.completed("kept", 1)
    turn = one.turn(first, first, ev.ActivityCompleted(0, encode(5)))
    assert [reason for _, reason in turn.refused] == ["the activity call has an outcome already"] * 2
    assert names(turn.record.events) == ["ActivityCompleted"]
    one.raise_event("end")
    assert one.result == 1


def test_arrivals_after_the_end_are_left_over(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        await ctx.wait_for_external_event("end")

    one = play(main)
    one.start()
    late = one.event("late")
    turn = one.turn(one.event("end"), late)
    assert turn.leftover == (late,)


def test_an_exception_that_leaves_the_code_fails_the_orchestration(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        await ctx.call_activity("a")
        raise KeyError("lost")

    def generator(ctx: Context) -> Orchestration[None]:
        yield ctx.call_activity("a")
        raise KeyError("lost")

    for style in (main, generator):
        one = play(style)
        one.run({"a": lambda _: None})
        assert (one.failure.error_type, one.failure.message) == ("KeyError", "'lost'")


def test_a_failed_activity_is_an_error_with_the_details_of_its_exception(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        try:
            await ctx.call_activity("a")
        except ActivityFailedError as error:
            assert error.details.is_caused_by(ValueError)
            return error.details.message
        return "?"

    one = play(main)
    one.start()
    one.fail("a", ValueError("no"))
    assert one.result == "no"


def test_an_exit_in_an_orchestrator_is_its_failure(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        raise SystemExit

    one = play(main)
    one.run()
    assert one.failure.error_type == "SystemExit"


def test_an_exception_in_a_callback_of_the_codes_own_is_its_failure(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        task = ctx.call_activity("a")
        task.add_done_callback(lambda _: 1 / 0)
        await ctx.wait_for_external_event("never")

    one = play(main)
    one.run({"a": lambda _: None})
    assert one.failure.error_type == "ZeroDivisionError"


def test_a_callback_that_looks_at_a_cancelled_task_is_the_codes_failure_and_nobody_elses(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        task = ctx.call_activity("a")
        task.add_done_callback(lambda done: done.result())
        task.cancel()
        await ctx.wait_for_external_event("never")

    one = play(main)
    one.run()
    assert one.failure.error_type == "asyncio.exceptions.CancelledError"


def test_yielding_what_is_no_task_says_what_to_do(play: MakePlay) -> None:
    def main(ctx: Context) -> Orchestration[str]:
        try:
            yield [ctx.create_timer(timedelta(1))]  # type: ignore[misc]
        except TypeError as error:
            return str(error)
        return "?"

    text = play(main).run()
    assert "when_all" in text
    assert "test_replay.py:" in text


def test_ids_random_numbers_and_uuids_are_the_same_on_replay_and_differ_between_runs(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[Any]:
        first = [str(ctx.new_uuid()), ctx.random.random(), ctx.random.randint(1, 10**9)]
        await ctx.call_activity("a")
        uuid = ctx.new_uuid()
        assert uuid.version == 4
        return [*first, str(uuid), ctx.random.random()]

    results = [play(main, run_id=run_id).run({"a": lambda _: None}) for run_id in ("one", "one", "two")]
    assert results[0] == results[1]
    assert not set(results[0]) & set(results[2])


def test_the_seed_is_the_first_records_and_not_the_runs(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        return str(ctx.new_uuid())

    assert play(main, run_id="a", seed="s").run() == play(main, run_id="b", seed="s").run()


def test_a_codec_changes_what_is_stored_and_nothing_else(play: MakePlay) -> None:
    async def main(ctx: Context, text: str) -> str:
        ctx.set_custom_status("x" * 1000)
        await ctx.call_activity("a", text)
        return text

    one = play(main, "y" * 1000, sealer=Sealer([Compression()]))
    turn = one.start()
    request = one.requests(ev.ActivityScheduled)[0]
    assert len(request.input) < 100
    assert request.digest is not None
    assert isinstance(turn.custom_status, bytes)
    assert len(turn.custom_status) < 100
    one.complete("a")
    assert one.result == "y" * 1000


def test_history_length_and_bytes_are_the_same_on_replay(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[int]:
        seen = []
        for _ in range(3):
            seen += [ctx.history_length, ctx.history_bytes]
            await ctx.call_activity("a")
        return seen

    one = play(main)
    lengths = one.run({"a": lambda _: None})
    assert lengths[::2] == [1, 3, 5]
    assert lengths[1] == 0
    assert lengths[3] == len(one.history[0][2])


def test_an_opening_record_is_taken_by_the_next_turn(play: MakePlay) -> None:
    async def main(ctx: Context) -> int:
        return int(await ctx.wait_for_external_event("go"))

    one = play(main)
    execution = one.new_execution()
    opening = ev.OrchestrationStarted("main", None, None, "seed", "")
    record = Record(BEGIN_US, [opening, one.event("go", 3)], is_opening=True)
    assert decode_record(encode_record(record)) == record
    execution.feed(record)
    assert execution.started is None
    turn = execution.turn([], BEGIN_US)
    assert names(turn.record.events) == ["OrchestrationCompleted"]


def test_a_terminated_history_can_be_read(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        await ctx.wait_for_external_event("never")

    one = play(main)
    one.start()
    execution = one.new_execution()
    execution.feed(one.records[0])
    ended = ev.OrchestrationTerminated("enough")
    execution.feed(Record(one.now, [ended]))
    assert execution.outcome == ended
    assert execution.is_over


def test_instances_do_not_share_context_variables(play: MakePlay) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    variable.set("the worker's")

    async def main(ctx: Context) -> str:
        before = variable.get()
        variable.set(ctx.instance_id)
        await ctx.wait_for_external_event("go")
        return f"{before} {variable.get()}"

    plays = [play(main, instance_id=name) for name in ("a", "b")]
    for one in plays:
        one.start()
    for one in plays:
        one.raise_event("go")
    assert [one.result for one in plays] == ["none a", "none b"]


def test_executions_of_one_run_agree_whatever_else_happens_in_the_process() -> None:
    app = App()

    @app.orchestrator
    async def main(ctx: Context) -> str:
        return ctx.start_orchestration("other")

    results = set()
    for noise in range(3):
        ignored = [object() for _ in range(noise * 1000)]
        one = Play(main, app=app)
        results.add(one.run())
        del ignored
    assert len(results) == 1


def test_the_same_position_of_another_generation_has_other_ids() -> None:
    def program(execution: Execution) -> str:
        return execution.derived_id("x")

    ids = {Execution(InstanceKey("i"), "run", generation, program, None).derived_id("x") for generation in range(3)}  # type: ignore[arg-type]
    assert len(ids) == 3
    with pytest.raises(DurableError):
        Execution(InstanceKey("i"), "run", 0, program, None).check_access()  # type: ignore[arg-type]
