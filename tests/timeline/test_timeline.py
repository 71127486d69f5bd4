"""The timeline of an instance: what its history tells, as rows with a beginning and an end.

Method: small orchestrations in simulated time, whose rows are read as text; and generated ones, of whose rows exactly those
are open for which the engine still waits.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from hypothesis import HealthCheck, given, settings

from durable import App, EntityId, OrchestrationContext, RetryPolicy
from durable import events as ev
from durable.testing import Environment
from durable.timeline import Row, RowKind, RowStatus, Timeline, timeline
from tests.generated.programs import CASES, Case
from tests.generated.world import World

app = App()
TWICE = RetryPolicy(timedelta(minutes=1), 2)


@app.entity
class Counter:
    value: int = 0

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value


@app.activity(retry_policy=TWICE)
async def flaky() -> str:
    await asyncio.sleep(10)
    raise ValueError("the line is busy")


@app.activity
async def slow() -> None:
    await asyncio.sleep(3600)


@app.orchestrator
async def child(ctx: OrchestrationContext, fails: bool) -> str:
    await ctx.create_timer(timedelta(seconds=5))
    if fails and ctx.instance_id != "child-2":
        raise ValueError("no")
    return "done"


@app.orchestrator
async def busy(ctx: OrchestrationContext) -> None:
    await ctx.create_timer(timedelta(seconds=30))
    try:
        await ctx.call_activity(flaky)
    except Exception:
        await ctx.call_sub_orchestrator(child, False, instance_id="child-1")
    await ctx.call_entity(EntityId("Counter", "c"), "add", 1)
    waiting = ctx.wait_for_external_event("approved", timeout=timedelta(minutes=10))
    ctx.start_orchestration(child, False, instance_id="aside")
    await waiting
    ctx.create_timer(timedelta(days=1))
    ctx.call_activity(slow, total_timeout=timedelta(minutes=1))
    await ctx.wait_for_external_event("more")


def told(row: Row, drawn: Timeline) -> str:
    assert drawn.started_at is not None
    begin = round((row.started_at - drawn.started_at).total_seconds())
    end = "" if row.ended_at is None else str(round((row.ended_at - drawn.started_at).total_seconds()))
    tries = "".join(f" #{attempt.number} {attempt.status}" for attempt in row.attempts[1:] and row.attempts)
    about = " ".join(filter(None, (row.name, row.target)))
    return f"{row.kind} {about} {begin}-{end} {row.status}{tries}"


async def scenario(env: Environment) -> None:
    handle = await env.client.start(busy, instance_id="busy-1")
    await env.advance(timedelta(seconds=60))
    drawn = timeline(await handle.history())
    (retried,) = drawn.open_rows
    assert told(retried, drawn) == "activity flaky 30- open"
    assert retried.due_at is not None
    assert drawn.started_at is not None
    assert (retried.due_at - drawn.started_at).total_seconds() == 100, "it is told when it is tried again"
    assert retried.error is not None
    assert retried.error.message == "the line is busy"

    await env.advance(timedelta(seconds=140))
    await handle.raise_event("approved")
    await env.advance(timedelta(seconds=20))
    drawn = timeline(await handle.history())
    assert {row.kind for row in drawn.open_rows} == {RowKind.TIMER, RowKind.ACTIVITY}
    assert next(row for row in drawn.open_rows if row.name == "slow").limit_at is not None
    await env.advance(timedelta(seconds=60))
    await handle.terminate("enough")
    await env.advance(timedelta(seconds=5))
    drawn = timeline(await handle.history())
    assert drawn.outcome == "OrchestrationTerminated"
    assert [told(row, drawn) for row in drawn.rows] == [
        "timer  0-30 completed",
        "activity flaky 30-110 failed #1 failed #2 failed",
        "child child child-1 110-115 completed",
        "operation Counter.add c 115-115 completed",
        "wait  115-200 completed",
        "detached child aside 115-115 completed",
        "event approved 200-200 completed",
        "timer  200-280 cancelled",
        "activity slow 200-260 failed",
    ]


def test_rows_tell_when_things_began_and_ended_and_how() -> None:
    Environment(app).run(scenario)


def test_attempts_of_a_child_are_one_row_and_a_suspension_is_one_too() -> None:
    tries = App()
    tries.orchestrator(child)

    @tries.orchestrator
    async def twice(ctx: OrchestrationContext) -> None:
        await ctx.call_sub_orchestrator(child, True, retry_policy=TWICE)

    async def test(env: Environment) -> None:
        handle = await env.client.start(twice)
        await env.advance(timedelta(seconds=1))
        await handle.suspend("a look")
        await env.advance(timedelta(seconds=9))
        await handle.resume()
        await handle.wait()
        drawn = timeline(await handle.history())
        assert [(row.kind, row.status, len(row.attempts)) for row in drawn.rows] == [
            (RowKind.CHILD, RowStatus.FAILED, 2),
            (RowKind.SUSPENSION, RowStatus.COMPLETED, 0),
        ]
        await handle.rewind()
        await handle.wait()
        drawn = timeline(await handle.history())
        assert [(row.kind, row.name) for row in drawn.rows if row.kind is RowKind.MARK] == [(RowKind.MARK, "rewound")]
        assert drawn.outcome == "OrchestrationFailed"
        assert not drawn.open_rows

    Environment(tries).run(test)


def test_an_update_is_a_row_from_when_it_came_to_when_it_was_answered() -> None:
    asked = App()

    @asked.orchestrator
    async def answering(ctx: OrchestrationContext) -> None:
        async def slowly(fails: bool) -> None:
            await ctx.create_timer(timedelta(seconds=5))
            if fails:
                raise ValueError("no")

        ctx.on_update("slowly", slowly)
        await ctx.wait_for_external_event("end")

    async def test(env: Environment) -> None:
        handle = await env.client.start(answering)
        await handle.update("slowly", False)
        asyncio.create_task(handle.update("slowly", True, timeout=1)).add_done_callback(lambda done: done.exception())
        await env.advance(timedelta(seconds=3))
        drawn = timeline(await handle.history())
        assert [told(row, drawn) for row in drawn.rows if row.kind is RowKind.UPDATE] == [
            "update slowly 0-5 completed",
            "update slowly 5- open",
        ]
        await env.advance(timedelta(seconds=10))
        drawn = timeline(await handle.history())
        assert told(drawn.rows[2], drawn) == "update slowly 5-10 failed"
        assert not drawn.open_rows

    Environment(asked).run(test)


@settings(max_examples=60, database=None, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(CASES)
def test_what_is_open_is_what_the_engine_waits_for(case: Case) -> None:
    world = World(case)
    try:
        world.run()
        for history in world.histories():
            drawn = timeline(history)
            for row in drawn.rows:
                assert row.ended_at is None or row.ended_at >= row.started_at
                assert (row.status is RowStatus.OPEN) <= (row.ended_at is None)
                assert all(attempt.ended_at is not None for attempt in row.attempts[:-1])
            asked = sum(isinstance(event, ev.ActivityScheduled) for event in history)
            rows = [row for row in drawn.rows if row.kind is RowKind.ACTIVITY]
            assert sum(len(row.attempts) for row in rows) == asked
            if drawn.outcome is not None:
                assert not drawn.open_rows
        if world.play.outcome is None:
            execution = world.play.execution
            running = {row.attempts[-1].task_id for row in drawn.open_rows if row.attempts and row.due_at is None}
            assert running == {*execution.open_activities, *execution.open_children}
    finally:
        world.close()
