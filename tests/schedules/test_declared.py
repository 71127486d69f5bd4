"""`@app.cron`: declared in code, in step with the store, and an operator's changes stay."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from durable import App, Client, DuplicateNameError, OrchestrationContext, OverlapPolicy, UnknownNameError, Worker
from durable.jobs import JobContext
from durable.schedules.merging import merged
from durable.schedules.wire import ScheduleSpec, TargetKind, TargetSpec
from tests.jobs.parts import eventually

LATER = "0 0 1 1 *"


def declared(cron: str = LATER, *, value: Any = None, below: bool = False, timezone: str = "UTC") -> App:
    """An app with one schedule."""
    app = App()

    def nightly(ctx: JobContext, value: str | None) -> str:
        return f"{value} for {ctx.scheduled_for}"

    declare: Callable[[Any], Any] = app.cron(cron, input=value, timezone=timezone)
    if below:
        app.activity(declare(nightly))
    else:
        declare(app.activity(nightly))
    return app


@pytest.mark.parametrize("below", [False, True])
async def test_a_declared_schedule_is_there_when_the_worker_is_and_fires(store_url: str, below: bool) -> None:
    async with Worker(declared("* * * * * *", value="tick", below=below), store_url) as worker:
        (state,) = await worker.client.schedules.list()
        assert (state.id, state.target, state.cron, state.is_declared) == ("nightly", "nightly", "* * * * * *", True)
        state = await eventually(lambda: worker.client.schedules.get("nightly"), lambda state: state.started >= 2)
        tree = await worker.client.get_job(state.recent[0].instance_id).result(timeout=20)
        assert tree.result == f"tick for {state.recent[0].scheduled_for}"


async def test_an_orchestrator_is_declared_just_so_with_an_id_of_its_own(store_url: str) -> None:
    app = App()

    @app.cron("* * * * * *", id="every second", input=5)
    @app.cron(LATER, id="yearly", input=6)
    @app.orchestrator
    async def process(ctx: OrchestrationContext, number: int) -> int:
        return number

    async with Worker(app, store_url) as worker:
        assert {state.id: state.input for state in await worker.client.schedules.list()} == {
            "every second": 5,
            "yearly": 6,
        }
        state = await eventually(lambda: worker.client.schedules.get("every second"), lambda state: state.started)
        assert await worker.client.get(state.recent[0].instance_id).result(timeout=20) == 5


async def test_a_changed_declaration_is_taken_over_and_an_operators_changes_stay(store_url: str) -> None:
    async with Client(store_url) as client:
        async with Worker(declared(value="old"), store_url):
            await client.schedules.pause("nightly")
            await client.schedules.update("nightly", timezone="Asia/Kolkata", overlap=OverlapPolicy.ALLOW_ALL)
        async with Worker(declared(value="old"), store_url):
            state = await client.schedules.get("nightly")
            assert (state.timezone, state.overlap, state.is_paused) == ("Asia/Kolkata", OverlapPolicy.ALLOW_ALL, True)
        async with Worker(declared("0 1 * * *", value="new", timezone="Europe/Berlin"), store_url):
            state = await eventually(lambda: client.schedules.get("nightly"), lambda state: state.cron == "0 1 * * *")
            assert state.input == "new"
            assert (state.timezone, state.overlap, state.is_paused) == ("Asia/Kolkata", OverlapPolicy.ALLOW_ALL, True)


async def test_what_an_operator_has_deleted_comes_back_only_with_another_declaration(store_url: str) -> None:
    async with Client(store_url) as client:
        async with Worker(declared(), store_url):
            await client.schedules.delete("nightly")
        async with Worker(declared(), store_url):
            assert await client.schedules.list() == []
        async with Worker(declared("0 1 * * *"), store_url):
            assert [state.cron for state in await client.schedules.list()] == ["0 1 * * *"]


async def test_a_schedule_that_a_client_has_created_is_not_overwritten(store_url: str) -> None:
    app = declared(value="declared")
    async with Client(store_url, app) as client:
        await client.schedules.create("nightly", "nightly", "created", interval=timedelta(days=1))
        async with Worker(app, store_url):
            state = await eventually(lambda: client.schedules.get("nightly"), lambda state: state.is_declared)
            assert (state.input, state.cron, state.interval) == ("created", None, timedelta(days=1))


async def test_one_that_is_declared_no_more_goes_on_and_is_told_of(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Client(store_url) as client:
        async with Worker(declared(), store_url):
            pass
        app = App()

        @app.cron(LATER)
        @app.activity
        def other() -> None: ...

        with caplog.at_level(logging.WARNING, "durable.schedules"):
            async with Worker(app, store_url):
                assert {state.id for state in await client.schedules.list()} == {"nightly", "other"}
        assert "schedule 'nightly' was declared in code, and is not any more" in caplog.text


async def test_mistakes_are_told_where_they_are_made_or_when_the_worker_starts(store_url: str) -> None:
    app = App()
    for arguments in (("x",), ("0 0 * *",)):
        with pytest.raises(ValueError, match="cron expression"):
            app.cron(*arguments)
    with pytest.raises(ValueError, match="time zone"):
        app.cron(LATER, timezone="Mars")
    with pytest.raises(TypeError, match=r"@app\.cron stands above a function"):
        app.cron(LATER)("nightly")  # type: ignore[type-var]

    @app.cron(LATER)
    def undecorated() -> None: ...

    with pytest.raises(UnknownNameError, match=r"neither an activity nor an orchestrator"):
        async with Worker(app, store_url):
            pass
    app.activity(undecorated)
    async with Worker(app, store_url):
        pass
    app.cron(LATER)(undecorated)
    with pytest.raises(DuplicateNameError, match="two schedules are called 'undecorated'"):
        async with Worker(app, store_url):
            pass


async def test_an_app_that_is_included_brings_its_schedules_once(store_url: str) -> None:
    app, other = App(), declared()
    app.include(other)
    app.include(other)
    async with Worker(app, store_url) as worker:
        assert [state.id for state in await worker.client.schedules.list()] == ["nightly"]


def test_a_field_that_somebody_else_has_changed_stays_and_others_follow_the_code() -> None:
    def spec(cron: str | None, timezone: str = "UTC", **fields: Any) -> ScheduleSpec:
        return ScheduleSpec(TargetSpec(TargetKind.NAME, "x", None, None), cron, timezone=timezone, **fields)

    base, new = spec("0 1 * * *"), spec("0 2 * * *", "Europe/Berlin")
    assert merged(base, base, new) == new
    assert merged(spec("0 9 * * *"), base, new) == spec("0 9 * * *", "Europe/Berlin")
    assert merged(spec(None, interval_us=5), base, new) == spec(None, "Europe/Berlin", interval_us=5)
    assert merged(spec("0 9 * * *"), None, new) == spec("0 9 * * *")
