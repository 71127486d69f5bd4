"""Schedules in simulated time: what starts, when, and how it goes together with what runs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable import (
    App,
    InstanceAlreadyExistsError,
    InstanceFinishedError,
    InstanceNotFoundError,
    InvalidInputError,
    OrchestrationContext,
    OrchestrationStatus,
    OverlapPolicy,
)
from durable.engine.execution import Execution
from durable.jobs import Job, JobContext, JobHandle
from durable.testing import Environment

SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1))
MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)

app = App()


@app.activity
async def note(ctx: JobContext, text: str) -> str:
    return f"{text} for {ctx.scheduled_for:%H:%M:%S}"


@app.activity
async def after_it(ctx: JobContext) -> str:
    assert ctx.parent is not None
    return f"after {ctx.parent.result}"


@app.orchestrator
async def process(ctx: OrchestrationContext, spans: list[float]) -> str:
    """Take a number of seconds; of several, the first ones go to the first times."""
    try:
        await asyncio.sleep(spans[0])
    except asyncio.CancelledError:
        await asyncio.sleep(1)
        raise
    return f"{ctx.scheduled_for:%H:%M:%S}"


Test = Callable[[Environment], Coroutine[Any, Any, None]]


def simulated(test: Test) -> None:
    Environment(app, start=MIDNIGHT).run(test)


async def started(env: Environment, schedule_id: str) -> dict[str, str]:
    """What a schedule has started: the status by the time."""
    found = env.client.query(prefix=f"{schedule_id}/", newest_first=False)
    return {state.instance_id.rpartition("T")[2]: state.status.value async for state in found}


# ---- what starts, and when


@app.orchestrator
async def says_when(ctx: OrchestrationContext) -> str:
    return ctx.scheduled_for.isoformat()


def test_each_kind_of_target_is_started_at_its_times() -> None:
    async def test(env: Environment) -> None:
        schedules = env.client.schedules
        await schedules.create("activity", note, "tick", cron="*/10 * * * *")
        await schedules.create("orchestrator", process, [0], interval=7 * MINUTE)
        await schedules.create("by name", "note", "named", at=MIDNIGHT + 5 * MINUTE)
        await schedules.create("process by name", "process", [0], at=5 * MINUTE)
        await schedules.create("jobs", Job(note, "first").then(Job(after_it)), cron="30 15 0 * * *")
        await env.advance(21 * MINUTE)
        results = {
            state.instance_id.replace("2026-01-01T", ""): state.output
            if state.name == "process"
            else await tree(env, state)
            async for state in env.client.query(newest_first=False)
        }
        assert results == {
            "activity/00:10:00Z": ["tick for 00:10:00"],
            "activity/00:20:00Z": ["tick for 00:20:00"],
            "orchestrator/00:07:00Z": "00:07:00",
            "orchestrator/00:14:00Z": "00:14:00",
            "orchestrator/00:21:00Z": "00:21:00",
            "by name/00:05:00Z": ["named for 00:05:00"],
            "process by name/00:05:00Z": "00:05:00",
            "jobs/00:15:30Z": ["first for 00:15:30", "after first for 00:15:30"],
        }
        assert (await schedules.get("by name")).is_finished
        listed = {state.id for state in await schedules.list()}
        assert listed == {"activity", "orchestrator", "by name", "process by name", "jobs"}

    async def tree(env: Environment, state: Any) -> list[Any]:
        return [node.result for node in (await env.client.get_job(state.instance_id).tree()).walk()]

    simulated(test)


def test_a_schedule_goes_on_for_ever_in_a_history_that_does_not_grow() -> None:
    async def test(env: Environment) -> None:
        await env.client.schedules.create("often", process, [0], interval=SECOND)
        await env.advance(5 * MINUTE)
        state = await env.client.schedules.get("often")
        assert state.started == 300
        assert len(await started(env, "often")) == 300
        assert state.recent[-1].scheduled_for == MIDNIGHT + 5 * MINUTE
        assert state.recent[-1].instance_id == "often/2026-01-01T00:05:00Z"

    simulated(test)


def test_a_schedule_does_no_more_than_wait_between_its_times(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[int] = []
    create_timer = Execution.create_timer

    def create_and_note(execution: Execution, due: int) -> Any:
        timers.append(due)
        return create_timer(execution, due)

    async def test(env: Environment) -> None:
        await env.client.schedules.create("often", process, [0], interval=SECOND)
        await env.advance(10 * SECOND)
        assert (await env.client.schedules.get("often")).started == 10
        assert len(timers) <= 3 * 10, "one for each time, and one after each end of what it started"

    monkeypatch.setattr(Execution, "create_timer", create_and_note)
    simulated(test)


def test_a_time_of_the_clock_fires_once_a_day_when_the_clock_changes() -> None:
    async def test(env: Environment) -> None:
        await env.client.schedules.create("nightly", process, [0], cron="30 2 * * *", timezone="Europe/Berlin")
        await env.advance(4 * DAY)
        found = [state.scheduled_at.strftime("%d %H:%M") async for state in env.client.query(newest_first=False)]
        assert found == ["28 01:30", "29 01:00", "30 00:30", "31 00:30"]

    Environment(app, start=datetime(2026, 3, 27, 12, tzinfo=UTC)).run(test)


def test_start_end_and_jitter() -> None:
    async def test(env: Environment) -> None:
        schedules = env.client.schedules
        bounds = {"start": MIDNIGHT + HOUR, "end": MIDNIGHT + 3 * HOUR}
        await schedules.create("bounded", process, [0], interval=HOUR, **bounds)  # type: ignore[arg-type]
        await schedules.create("spread", process, [0], interval=HOUR, jitter=10 * MINUTE)
        await env.advance(6 * HOUR)
        assert list(await started(env, "bounded")) == ["01:00:00Z", "02:00:00Z", "03:00:00Z"]
        assert (await schedules.get("bounded")).is_finished
        recent = (await schedules.get("spread")).recent
        late = [start.started_at - start.scheduled_for for start in recent]
        assert all(timedelta(0) <= span < 10 * MINUTE for span in late)
        assert len(set(late)) == len(late) >= 5, "each is put off by a part of its own"
        assert list(await started(env, "spread"))[:2] == ["01:00:00Z", "02:00:00Z"], "named by the time that it is for"

    simulated(test)


# ---- overlaps


@pytest.mark.parametrize(
    ("overlap", "expected", "skipped"),
    [
        (OverlapPolicy.SKIP, {"00:01:00Z": "COMPLETED", "00:04:00Z": "COMPLETED"}, 2),
        (OverlapPolicy.BUFFER_ONE, {f"00:0{n}:00Z": "COMPLETED" for n in (1, 2, 4)}, 1),
        (OverlapPolicy.BUFFER_ALL, {f"00:0{n}:00Z": "COMPLETED" for n in range(1, 5)}, 0),
        (
            OverlapPolicy.CANCEL_OTHER,
            {"00:01:00Z": "CANCELLED", "00:02:00Z": "CANCELLED", "00:03:00Z": "CANCELLED", "00:04:00Z": "COMPLETED"},
            0,
        ),
        (
            OverlapPolicy.TERMINATE_OTHER,
            {"00:01:00Z": "TERMINATED", "00:02:00Z": "TERMINATED", "00:03:00Z": "TERMINATED", "00:04:00Z": "COMPLETED"},
            0,
        ),
        (OverlapPolicy.ALLOW_ALL, {f"00:0{n}:00Z": "COMPLETED" for n in range(1, 5)}, 0),
    ],
)
def test_what_still_runs_goes_together_with_the_next_time_as_the_policy_says(
    overlap: OverlapPolicy, expected: dict[str, str], skipped: int
) -> None:
    async def test(env: Environment) -> None:
        end = MIDNIGHT + 4 * MINUTE
        await env.client.schedules.create("busy", process, [150], interval=MINUTE, overlap=overlap, end=end)
        await env.advance(HOUR)
        found = await started(env, "busy")
        assert found == expected
        state = await env.client.schedules.get("busy")
        assert (state.started, state.skipped, state.running_count, state.is_finished) == (
            len(expected),
            skipped,
            0,
            True,
        )

    simulated(test)


def test_one_after_the_other_means_that_none_runs_beside_another() -> None:
    async def test(env: Environment) -> None:
        await env.client.schedules.create(
            "busy", process, [150], interval=MINUTE, overlap=OverlapPolicy.BUFFER_ALL, end=MIDNIGHT + 4 * MINUTE
        )
        await env.advance(3 * MINUTE)
        state = await env.client.schedules.get("busy")
        assert (state.running, state.buffered) == (["busy/2026-01-01T00:01:00Z"], 2)
        await env.advance(HOUR)
        ends = [(state.created_at, state.completed_at) async for state in env.client.query(newest_first=False)]
        for (_, end), (begin, _) in itertools.pairwise(ends):
            assert end is not None
            assert begin >= end

    simulated(test)


def test_an_id_in_use_counts_as_the_occurrence_and_holds_nothing_up() -> None:
    async def test(env: Environment) -> None:
        await env.client.start(process, [0], instance_id="nightly/2026-01-01T01:00:00Z")
        await env.client.schedules.create("nightly", process, [0], interval=HOUR)
        await env.advance(3 * HOUR)
        assert list(await started(env, "nightly")) == ["01:00:00Z", "02:00:00Z", "03:00:00Z"]
        assert (await env.client.schedules.get("nightly")).running_count == 0

    simulated(test)


# ---- steering


def test_a_paused_schedule_starts_nothing_and_goes_on_with_its_next_time() -> None:
    async def test(env: Environment) -> None:
        schedules = env.client.schedules
        await schedules.create("hourly", process, [0], cron="0 * * * *")
        await env.advance(90 * MINUTE)
        await schedules.pause("hourly", "for the migration")
        state = await schedules.get("hourly")
        assert (state.is_paused, state.note, state.next_times) == (True, "for the migration", [])
        assert [f"{time:%H}" for time in await schedules.next_times("hourly", 2)] == ["02", "03"]
        await env.advance(3 * HOUR)
        await schedules.resume("hourly")
        await env.advance(HOUR)
        assert list(await started(env, "hourly")) == ["01:00:00Z", "05:00:00Z"]
        assert (await schedules.get("hourly")).missed == 0

    simulated(test)


def test_trigger_starts_now_also_while_paused() -> None:
    async def test(env: Environment) -> None:
        schedules = env.client.schedules
        await schedules.create("process", process, [30], cron="0 0 1 1 *")
        await schedules.create("jobs", note, "by hand", cron="0 0 1 1 *")
        await schedules.pause("jobs")
        await env.advance(90 * SECOND)
        handle = await schedules.trigger("process")
        assert handle.instance_id.startswith("process/2026-01-01T00:01:30")
        assert await handle.result() == "00:01:30"
        job = await schedules.trigger("jobs")
        assert isinstance(job, JobHandle)
        assert (await job.result()).result == "by hand for 00:02:00"
        running = await schedules.trigger("process")
        skipped = await schedules.trigger("process")
        beside = await schedules.trigger("process", overlap=OverlapPolicy.ALLOW_ALL)
        await running.result()
        await beside.result()
        with pytest.raises(InstanceNotFoundError):
            await skipped.state()
        assert (await schedules.get("process")).skipped == 1

    simulated(test)


def test_an_occurrence_that_is_started_again_is_for_the_same_time() -> None:
    async def test(env: Environment) -> None:
        await env.client.schedules.create("hourly", says_when, cron="0 * * * *")
        await env.advance(HOUR + 40 * MINUTE)
        (first,) = [state async for state in env.client.query(prefix="hourly/")]
        for new_id in (None, "again"):
            again = await env.client.get(first.instance_id).restart(new_id=new_id)
            assert await again.result() == (MIDNIGHT + HOUR).isoformat()
            assert (await again.state()).scheduled_at == MIDNIGHT + HOUR

    simulated(test)


def test_a_single_time_that_has_just_passed_is_caught_up_with_and_one_of_long_ago_is_missed() -> None:
    async def test(env: Environment) -> None:
        schedules = env.client.schedules
        for name, at in (("now", timedelta(0)), ("late", -30 * MINUTE), ("long ago", -2 * HOUR)):
            await schedules.create(name, says_when, at=at)
        await env.advance(MINUTE)
        states = {name: await schedules.get(name) for name in ("now", "late", "long ago")}
        assert [(state.started, state.missed) for state in states.values()] == [(1, 0), (1, 0), (0, 1)]

    simulated(test)


def test_backfill_starts_what_would_have_been_and_nothing_twice() -> None:
    async def test(env: Environment) -> None:
        schedules = env.client.schedules
        await schedules.create("hourly", process, [60], cron="0 * * * *")
        await env.advance(HOUR)
        count = await schedules.backfill("hourly", MIDNIGHT - 3 * HOUR, MIDNIGHT + 5 * HOUR)
        assert count == 4, "up to now, both ends included, and what was started at the last one"
        await env.advance(10 * MINUTE)
        times = sorted([state.scheduled_at async for state in env.client.query(prefix="hourly/")])
        assert times == [MIDNIGHT + number * HOUR for number in range(-3, 2)]
        assert await schedules.backfill("hourly", MIDNIGHT - 3 * HOUR, MIDNIGHT) == 0
        state = await schedules.get("hourly")
        assert state.started == 5
        assert sorted(start.scheduled_for for start in state.recent) == times
        with pytest.raises(ValueError, match=r"more than 10,000"):
            await schedules.backfill("hourly", MIDNIGHT - 3650 * DAY, MIDNIGHT)
        assert await schedules.backfill("hourly", MIDNIGHT + MINUTE, MIDNIGHT + 2 * MINUTE) == 0

    simulated(test)


def test_a_schedule_is_changed_and_its_new_times_count_from_then_on() -> None:
    async def test(env: Environment) -> None:
        schedules = env.client.schedules
        await schedules.create("changing", process, [0], cron="0 * * * *", timezone="Asia/Kolkata")
        await env.advance(HOUR)
        await schedules.update("changing", interval=10 * MINUTE, overlap=OverlapPolicy.ALLOW_ALL, jitter=None)
        state = await schedules.get("changing")
        assert (state.cron, state.interval, state.overlap) == (None, 10 * MINUTE, OverlapPolicy.ALLOW_ALL)
        await env.advance(HOUR)
        await schedules.update("changing", target=note, input="other", cron="0 12 * * *", timezone="UTC")
        await env.advance(11 * HOUR)
        assert list(await started(env, "changing")) == [
            "00:30:00Z",
            *(f"01:{n}0:00Z" for n in range(1, 6)),
            "02:00:00Z",
            "12:00:00Z",
        ]
        assert (await env.client.get_job("changing/2026-01-01T12:00:00Z").tree()).result == "other for 12:00:00"
        await schedules.update("changing", input="again")
        assert (await schedules.get("changing")).input == "again"
        for changes, error in (
            ({}, ValueError),
            ({"cron": "x"}, ValueError),
            ({"timezone": "Mars"}, ValueError),
            ({"overlap": "skip"}, TypeError),
            ({"end": MIDNIGHT, "start": MIDNIGHT + HOUR}, ValueError),
            ({"cron": "* * * * *", "interval": 5}, ValueError),
            ({"nothing": 1}, TypeError),
        ):
            with pytest.raises(error):
                await schedules.update("changing", **changes)  # type: ignore[arg-type]

    simulated(test)


def test_a_deleted_schedule_is_gone_and_what_it_started_runs_on() -> None:
    async def test(env: Environment) -> None:
        schedules = env.client.schedules
        await schedules.create("short", process, [600], interval=MINUTE)
        with pytest.raises(InstanceAlreadyExistsError, match="schedule 'short' exists"):
            await schedules.create("short", process, [600], interval=MINUTE)
        await env.advance(MINUTE)
        await schedules.delete("short")
        for use in (
            schedules.get("short"),
            schedules.delete("short"),
            schedules.pause("short"),
            schedules.trigger("short"),
        ):
            with pytest.raises(InstanceNotFoundError, match="no schedule 'short'"):
                await use
        assert await schedules.list() == []
        await env.advance(HOUR)
        assert await started(env, "short") == {"00:01:00Z": "COMPLETED"}
        await schedules.create("short", process, [0], cron="* * * * *")
        await env.advance(MINUTE)
        assert list(await started(env, "short")) == ["00:01:00Z", "01:02:00Z"]

    simulated(test)


def test_a_schedule_that_is_over_takes_nothing_more_and_can_be_created_anew() -> None:
    async def test(env: Environment) -> None:
        schedules = env.client.schedules
        await schedules.create("once", process, [0], at=MINUTE)
        await env.advance(HOUR)
        with pytest.raises(InstanceFinishedError, match="no further times"):
            await schedules.pause("once")
        assert (await schedules.get("once")).next_times == []
        await schedules.create("once", process, [0], at=MINUTE)
        await env.advance(HOUR)
        assert len(await started(env, "once")) == 2

    simulated(test)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, ValueError),
        ({"cron": "0 0 * * *", "interval": 5}, ValueError),
        ({"interval": timedelta(0)}, ValueError),
        ({"interval": "5"}, TypeError),
        ({"cron": "0 0 * *"}, ValueError),
        ({"cron": "0 0 * * *", "timezone": "Mars"}, ValueError),
        ({"cron": "0 0 * * *", "overlap": "skip"}, TypeError),
        ({"at": datetime(2026, 1, 1)}, ValueError),
        ({"interval": 5, "start": datetime(2026, 1, 1)}, ValueError),
        ({"interval": 5, "catch_up": timedelta(-1)}, ValueError),
        ({"interval": 5, "nothing": 5}, TypeError),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_stored(
    options: dict[str, Any], error: type[Exception]
) -> None:
    async def test(env: Environment) -> None:
        with pytest.raises(error):
            await env.client.schedules.create("x", process, [0], **options)
        with pytest.raises(InvalidInputError):
            await env.client.schedules.create("x", process, "none", interval=5)
        with pytest.raises(InvalidInputError):
            await env.client.schedules.create("x", Job(note, "a"), "b", interval=5)
        with pytest.raises(InvalidInputError):
            await env.client.schedules.create("x" * 500, process, [0], interval=5)
        assert await env.client.schedules.list() == []

    simulated(test)


def test_schedules_are_no_instances_of_the_users() -> None:
    async def test(env: Environment) -> None:
        await env.client.schedules.create("nightly", process, [0], interval=HOUR)
        await env.client.start(process, [0], instance_id="nightly")
        assert [state.instance_id async for state in env.client.query()] == ["nightly"]
        assert (await env.client.get("nightly").wait()).status is OrchestrationStatus.COMPLETED
        await env.advance(HOUR)
        (state,) = [state async for state in env.client.query(tags={"durable.schedule": "nightly"})]
        assert state.instance_id == "nightly/2026-01-01T01:00:00Z"

    simulated(test)
