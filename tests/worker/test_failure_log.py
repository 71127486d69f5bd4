"""What the log says of failures: each attempt once, with its message and what happens next, and whose it is.

Method: the records below `durable`, while real workers run activities that fail.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from durable import App, Client, NonRetryableError, OrchestrationContext, OrchestrationFailedError, RetryPolicy, Worker
from tests.worker.calls import PATIENCE_S, Records, calls_and_tells, run
from tests.worker.lives import raises_soon

MS = timedelta(milliseconds=1)
POLICY = RetryPolicy(20 * MS, 3, backoff_coefficient=2.0)


def failing_app(error: Callable[[int], Exception], **options: Any) -> App:
    app = App()
    attempts: list[int] = []

    @app.activity
    def charge(order: str) -> None:
        attempts.append(1)
        raise error(len(attempts))

    calls_and_tells(app, lambda ctx: ctx.call_activity(charge, "A-7", **options))
    return app


def lines(records: Records) -> list[tuple[str, str]]:
    """The level and the first line of each record about an activity."""
    return [
        (record.levelname, record.getMessage().partition("\n")[0])
        for record in records.found
        if record.name == "durable.activity"
    ]


async def test_each_failed_attempt_says_why_and_what_comes_next(store_url: str) -> None:
    app = failing_app(lambda number: ConnectionError(f"no answer, {number}"), retry_policy=POLICY)
    with Records("durable", logging.INFO) as records:
        async with Worker(app, store_url) as worker:
            await worker.client.run("main", instance_id="order-7", timeout=PATIENCE_S)
    begin = "instance 'order-7': activity 'charge', attempt"
    assert lines(records) == [
        ("INFO", f"{begin} 1 of 3 failed: ConnectionError: no answer, 1; next try in 0.02 s"),
        ("INFO", f"{begin} 2 of 3 failed: ConnectionError: no answer, 2; next try in 0.04 s"),
        ("WARNING", f"{begin} 3 of 3 failed: ConnectionError: no answer, 3; no further try"),
    ]


async def test_its_records_carry_whose_they_are_as_fields(store_url: str) -> None:
    with Records("durable.activity", logging.INFO) as records:
        app = failing_app(lambda _: ValueError("no"), retry_policy=RetryPolicy(MS, 2))
        async with Worker(app, store_url) as worker:
            handle = await worker.client.start("main", instance_id="order-7")
            await handle.result(timeout=PATIENCE_S)
    fields = [vars(record) for record in records.found]
    assert [(found["instance_id"], found["activity"], found["attempt"]) for found in fields] == [
        ("order-7", "charge", 1),
        ("order-7", "charge", 2),
    ]
    assert {found["run_id"] for found in fields} == {handle.run_id}


@pytest.mark.parametrize(
    ("error", "policy", "told"),
    [
        (ValueError("no"), None, "attempt 1 of 1 failed: ValueError: no; no further try"),
        (NonRetryableError("never"), POLICY, "attempt 1 of 3 failed: NonRetryableError: never; no further try"),
        (
            ValueError("no"),
            RetryPolicy(MS, None, non_retryable=(ValueError,)),
            "attempt 1 failed: ValueError: no; no further try",
        ),
    ],
)
async def test_the_last_attempt_says_that_it_was_the_last(
    error: Exception, policy: RetryPolicy | None, told: str
) -> None:
    with Records("durable.activity", logging.INFO) as records:
        await run(failing_app(lambda _: error, retry_policy=policy), "memory://")
    [(level, line)] = lines(records)
    assert level == "WARNING"
    assert line.endswith(told)


async def test_a_wait_of_zero_is_called_at_once() -> None:
    with Records("durable.activity", logging.INFO) as records:
        await run(failing_app(lambda _: ValueError("no"), retry_policy=RetryPolicy(0 * MS, 2)), "memory://")
    assert lines(records)[0][1].endswith("attempt 1 of 2 failed: ValueError: no; next try at once")


async def test_an_attempt_that_ran_out_of_time_is_told_of_as_well() -> None:
    app = App()

    @app.activity
    async def hangs() -> None:
        await asyncio.Event().wait()

    calls_and_tells(app, lambda ctx: ctx.call_activity(hangs, timeout=0.01))
    with Records("durable.activity", logging.INFO) as records:
        await run(app, "memory://")
    [(_, line)] = lines(records)
    assert "attempt 1 of 1 failed: TimeoutError: attempt 1 of activity 'hangs' ran into its timeout" in line


async def test_the_last_failure_shows_where_it_was_raised() -> None:
    with Records("durable.activity", logging.INFO) as records:
        await run(failing_app(lambda _: ValueError("no"), retry_policy=RetryPolicy(MS, 2)), "memory://")
    first, last = [record.getMessage() for record in records.found]
    assert "raise error(len(attempts))" in last
    assert len(first.splitlines()) == 1


async def test_a_replay_does_not_say_it_again(store_url: str) -> None:
    app = failing_app(lambda _: ValueError("no"), retry_policy=RetryPolicy(MS, 3))
    with Records("durable.activity", logging.INFO) as records:
        await run(app, store_url, max_cached_orchestrations=0)
    assert [line.split("attempt ")[1][:6] for _, line in lines(records)] == ["1 of 3", "2 of 3", "3 of 3"]


async def test_a_worker_for_activities_alone_tells_of_its_failures(store_url: str) -> None:
    app = failing_app(lambda _: ValueError("no"))
    app_without = App()
    calls_and_tells(app_without, lambda ctx: ctx.call_activity("charge", "A-7", queue="other"))
    async with Client(store_url) as client:
        with Records("durable.activity", logging.INFO) as records:
            async with (
                Worker(app, store_url, orchestrations=False, queues=("other",)),
                Worker(app_without, store_url, activities=False),
            ):
                await client.run("main", instance_id="order-7", timeout=PATIENCE_S)
    found = lines(records)
    begin = "instance 'order-7': activity 'charge', attempt 1"
    assert sorted(found) == [
        ("INFO", f"{begin} failed here: ValueError: no"),
        ("WARNING", f"{begin} of 1 failed: ValueError: no; no further try"),
    ]


async def test_an_instance_that_fails_says_why_once_and_where(store_url: str) -> None:
    app = App()

    @app.activity
    def charge() -> None:
        raise ValueError("card declined")

    @app.orchestrator
    async def order(ctx: OrchestrationContext) -> None:
        await ctx.call_activity(charge)

    with Records("durable.worker", logging.WARNING) as records:
        async with Worker(app, store_url) as worker:
            handle = await worker.client.start(order, instance_id="order-7")
            await raises_soon(OrchestrationFailedError, handle.result())
    [record] = records.found
    assert record.getMessage().startswith("instance 'order-7' failed: charge: ValueError: card declined")
    assert "await ctx.call_activity(charge)" in record.getMessage()
    assert vars(record)["instance_id"] == "order-7"


async def test_of_a_group_the_log_shows_the_first_failure_and_its_stack() -> None:
    app = App()

    async def fails() -> None:
        raise ValueError("no card")

    @app.orchestrator
    async def order(ctx: OrchestrationContext) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())

    with Records("durable.worker", logging.WARNING) as records:
        async with Worker(app, "memory://") as worker:
            await raises_soon(OrchestrationFailedError, worker.client.run(order))
    [record] = records.found
    assert "first ValueError: no card" in record.getMessage()
    assert 'raise ValueError("no card")' in record.getMessage()
