"""Job trees on workers and stores: what runs, with which data, and what the tree then says."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    ActivityContext,
    App,
    Client,
    DurableError,
    InstanceAlreadyExistsError,
    InvalidInputError,
    OrchestrationContext,
    OrchestrationStatus,
    OrchestrationTerminatedError,
    RetryPolicy,
    ReusePolicy,
    Worker,
)
from durable.jobs import Job, JobContext, JobHandle, JobStatus, ParentJob, RunCondition
from tests.jobs.parts import eventually, statuses

ON = RunCondition


async def test_a_chain_passes_on_what_each_job_did(store_url: str) -> None:
    app, seen = App(), []

    @app.activity
    def validate(order: int) -> dict[str, int]:
        return {"order": order, "price": 10 * order}

    @app.activity
    async def pay(ctx: JobContext) -> str:
        assert ctx.parent is not None
        seen.append(ctx.parent)
        return f"paid {ctx.parent.result['price']}"

    @app.activity
    def confirm(ctx: JobContext, to: str) -> str:
        seen.append(ctx.parent)
        assert ctx.parent is not None
        return f"{ctx.parent.result} for order {ctx.parent.parent.request}, says {to}"

    async with Worker(app, store_url) as worker:
        handle = await worker.client.schedule(Job(validate, 7).then(Job(pay).then(Job(confirm, "Ada"))))
        assert isinstance(handle, JobHandle)
        tree = await handle.result(timeout=20)
    assert [node.result for node in tree.walk()] == [
        {"order": 7, "price": 70},
        "paid 70",
        "paid 70 for order 7, says Ada",
    ]
    above = ParentJob("0", "validate", JobStatus.DONE, 7, {"order": 7, "price": 70}, None, None)
    assert seen == [above, ParentJob("1", "pay", JobStatus.DONE, None, "paid 70", None, above)]
    assert [(node.id, node.parent_id, node.attempts) for node in tree.walk()] == [
        ("0", None, 1),
        ("1", "0", 1),
        ("2", "1", 1),
    ]
    for node in tree.walk():
        assert node.scheduled_for is not None
        assert node.started_at is not None
        assert node.finished_at is not None
        assert node.scheduled_for <= node.started_at <= node.finished_at


async def test_a_tree_is_there_before_any_worker_and_is_visible_as_an_instance(store_url: str) -> None:
    app = App()

    @app.activity
    def first(order: int) -> int:
        return order

    async with Client(store_url, app) as client:
        handle = await client.schedule(
            Job(first, 7, description="the root").then(Job("second", delay=timedelta(hours=1))),
            instance_id="order-7",
            tags={"customer": "Ada"},
        )
        tree = await handle.tree()
        assert str(tree).splitlines() == ['first IDLE "the root"', "└─ second IDLE"]
        assert (tree.request, tree.attempts, tree.started_at) == (7, 0, None)
        state = await client.get("order-7").state()
        assert (state.status, state.name, state.tags) == (
            OrchestrationStatus.PENDING,
            "durable.jobs",
            {"customer": "Ada"},
        )
        assert [found.instance_id async for found in client.query(name="durable.jobs")] == ["order-7"]
        with pytest.raises(InstanceAlreadyExistsError):
            await client.schedule(Job(first, 8), instance_id="order-7")
        same = await client.schedule(Job(first, 8), instance_id="order-7", reuse_policy=ReusePolicy.USE_EXISTING)
        assert same.run_id == handle.run_id
        assert await client.get_job("order-7").tree() == tree
        await client.get("order-7").terminate("a mistake")
        async with Worker(app, store_url):
            with pytest.raises(OrchestrationTerminatedError):
                await handle.result(timeout=20)
        tree = await handle.tree()
        assert set(statuses(tree).values()) == {"CANCELLED"}
        assert tree.error is not None
        assert tree.error.message == "a mistake"


async def test_a_client_without_an_app_may_schedule_by_name(store_url: str) -> None:
    app = App()

    @app.activity
    def double(number: int) -> int:
        return 2 * number

    @app.orchestrator
    async def both(ctx: OrchestrationContext, numbers: list[int]) -> list[int]:
        return [await ctx.call_activity(double, number) for number in numbers]

    async with Client(store_url) as client, Worker(app, store_url):
        tree = await (await client.schedule(Job("both", [1, 2]).then(Job("double", 3)))).result(timeout=20)
        assert [node.result for node in tree.walk()] == [[2, 4], 6]
        tree = await (await client.schedule(Job("double", "three"))).result(timeout=20)
        assert tree.status is JobStatus.FAILED
        assert tree.error is not None
        assert "should be a valid integer" in tree.error.message


async def test_what_does_not_fit_is_refused_before_anything_is_stored(store_url: str) -> None:
    app = App()

    @app.activity
    def pay(amount: int) -> None: ...

    async with Client(store_url, app) as client:
        with pytest.raises(InvalidInputError):
            await client.schedule_many([Job(pay, 5), Job(pay).then(Job(pay, "five"))])
        with pytest.raises(TypeError, match="Job"):
            await client.schedule(pay)  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError):
            await client.schedule(Job(pay, 5), instance_id="")
        assert await client.count() == 0


async def test_children_of_a_failing_attempt_are_recorded_with_its_failure(store_url: str) -> None:
    app = App()

    @app.activity
    def pay(ctx: JobContext, order: int) -> None:
        try:
            raise ConnectionError("the bank is closed")
        except ConnectionError as error:
            ctx.schedule_child(Job(notify, {"order": order, "error": str(error)}, run_condition=ON.ON_FAILURE))
            raise

    @app.activity
    def notify(message: dict[str, Any]) -> str:
        return f"order {message['order']}: {message['error']}"

    @app.activity
    def ship() -> None:
        raise AssertionError("it runs only after a payment")

    async with Worker(app, store_url) as worker:
        tree = await (await worker.client.schedule(Job(pay, 7).then(Job(ship)))).result(timeout=20)
    assert statuses(tree) == {"pay": "FAILED", "ship": "SKIPPED", "notify": "DONE"}
    assert tree.error is not None
    assert tree.error.is_caused_by(ConnectionError)
    assert tree.find("2").result == "order 7: the bank is closed"
    assert tree.find("1").skip_reason == "it runs ON_SUCCESS, and its parent 'pay' ended FAILED"


async def test_children_of_a_repeated_attempt_go_with_it_but_for_those_that_run_beside_it(store_url: str) -> None:
    app = App()

    @app.activity
    def work(ctx: JobContext) -> int:
        ctx.schedule_child(Job(follow, ctx.attempt))
        ctx.schedule_child(Job(beside, ctx.attempt, run_condition=ON.IN_PROGRESS))
        if ctx.retry_count < 2:
            raise ValueError(f"attempt {ctx.attempt}")
        return ctx.attempt

    @app.activity
    def follow(number: int) -> int:
        return number

    @app.activity
    def beside(number: int) -> int:
        return -number

    async with Worker(app, store_url) as worker:
        tree = await (await worker.client.schedule(Job(work, retries=2))).result(timeout=20)
    assert (tree.status, tree.attempts, tree.result) == (JobStatus.DONE, 3, 3)
    assert sorted(child.result for child in tree.children) == [-3, -2, -1, 3]


async def test_a_child_in_progress_runs_while_its_parent_runs(store_url: str) -> None:
    app, met = App(), threading.Event()

    @app.activity
    def parent(ctx: JobContext) -> bool:
        ctx.schedule_child(Job(child, run_condition=ON.IN_PROGRESS))
        return met.wait(20)

    @app.activity
    async def child(ctx: JobContext) -> str:
        assert ctx.parent is not None
        met.set()
        return ctx.parent.status

    async with Worker(app, store_url) as worker:
        tree = await (await worker.client.schedule(Job(parent))).result(timeout=25)
    assert tree.result is True
    assert [node.result for node in tree.children] == ["IN_PROGRESS"]


async def test_a_job_that_skips_is_skipped_with_everything_below(store_url: str) -> None:
    app = App()

    @app.activity
    def check(ctx: JobContext) -> None:
        try:
            ctx.skip("nothing in stock")
        except Exception:
            raise AssertionError("no handler of the user's sees it") from None

    @app.activity
    def never() -> None:
        raise AssertionError("it must not run")

    job = Job(check, retries=3).then(Job(never, run_condition=ON.ON_ANY_COMPLETED_STATUS).then(Job(never)))
    async with Worker(app, store_url) as worker:
        tree = await (await worker.client.schedule(job)).result(timeout=20)
    assert [node.status for node in tree.walk()] == [JobStatus.SKIPPED] * 3
    assert [node.skip_reason for node in tree.walk()] == [
        "nothing in stock",
        *["'check' was skipped: nothing in stock"] * 2,
    ]
    assert tree.attempts == 1


async def test_below_a_job_that_skips_nothing_begins_that_was_held_back_meanwhile(store_url: str) -> None:
    """What runs beside it goes on, and nothing that was to come after that; no timer is left for what waits for its time."""
    app, runs, may_end = App(), asyncio.Event(), asyncio.Event()

    @app.activity
    async def check(ctx: JobContext) -> None:
        await runs.wait()
        ctx.skip("nothing in stock")

    @app.activity
    async def beside() -> str:
        runs.set()
        await may_end.wait()
        return "went on"

    @app.activity
    def never() -> None:
        raise AssertionError("it must not run")

    later = Job(never, delay=timedelta(hours=1), run_condition=ON.IN_PROGRESS)
    job = Job(check).then(later).then(Job(beside, run_condition=ON.IN_PROGRESS).then(Job(never)))
    async with Worker(app, store_url) as worker:
        handle = await worker.client.schedule(job)
        await eventually(handle.tree, lambda tree: tree.status is JobStatus.SKIPPED)
        may_end.set()
        tree = await handle.result(timeout=20)
        names = [type(event).__name__ for event in await handle.history()]
    assert [node.status for node in tree.walk()] == ["SKIPPED", "SKIPPED", "DONE", "SKIPPED"]
    assert names.count("TimerCreated") == names.count("TimerCancelled") == 1


async def test_a_child_that_comes_after_the_end_of_its_attempt_is_refused(store_url: str) -> None:
    app, kept = App(), list[JobContext]()

    @app.activity
    async def keeps(ctx: JobContext) -> None:
        kept.append(ctx)

    async with Worker(app, store_url) as worker:
        tree = await (await worker.client.schedule(Job(keeps))).result(timeout=20)
        for condition in (ON.ON_SUCCESS, ON.IN_PROGRESS):
            with pytest.raises(DurableError, match="after this attempt of 'keeps' had ended"):
                kept[0].schedule_child(Job(keeps, run_condition=condition))
    assert tree.status is JobStatus.DONE


async def test_a_tree_that_begins_again_is_a_tree(store_url: str) -> None:
    app = App()

    @app.activity
    def work() -> int:
        return 7

    async with Worker(app, store_url) as worker:
        handle = await worker.client.schedule(Job(work))
        await handle.result(timeout=20)
        for again in (await handle.fork(at=1), await handle.restart()):
            assert (await again.result(timeout=20)).result == 7
            assert (await again.tree()).status is JobStatus.DONE


async def test_called_as_a_plain_activity_there_is_no_tree(store_url: str) -> None:
    app = App()

    @app.activity
    def work(ctx: JobContext) -> list[Any]:
        told = []
        for use in (lambda: ctx.schedule_child(Job(work)), lambda: ctx.skip("why")):
            with pytest.raises(DurableError, match="plain activity") as caught:
                use()
            told.append(type(caught.value).__name__)
        return [ctx.id, ctx.parent_id, ctx.parent, ctx.scheduled_for, ctx.is_due, ctx.retry_count, *told]

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> list[Any]:
        return await ctx.call_activity(work)

    async with Worker(app, store_url) as worker:
        result = await worker.client.run(main, timeout=20)
    assert result == [None, None, None, None, False, 0, "DurableError", "DurableError"]


async def test_a_function_with_an_ordinary_context_or_none_is_a_job_too(store_url: str) -> None:
    app = App()

    @app.activity
    def plain(ctx: ActivityContext) -> str:
        ctx.heartbeat("alive")
        return f"{ctx.name} of {ctx.instance_id}, attempt {ctx.attempt}"

    @app.activity
    async def none() -> str:
        return "nothing asked"

    async with Worker(app, store_url) as worker:
        handle = await worker.client.schedule(Job(plain).then(Job(none)), instance_id="a tree")
        assert [node.result for node in (await handle.result(20)).walk()] == [
            "plain of a tree, attempt 1",
            "nothing asked",
        ]


async def test_the_functions_own_policy_counts_where_the_job_says_nothing(store_url: str) -> None:
    app = App()

    @app.activity(retry_policy=RetryPolicy(timedelta(milliseconds=10), 3))
    def fails(name: str) -> None:
        raise ValueError(name)

    async with Worker(app, store_url) as worker:
        job = Job(fails, "declared").then(Job(fails, "its own", run_condition=ON.ON_FAILURE, retries=1))
        tree = await (await worker.client.schedule(job)).result(timeout=20)
    assert [node.attempts for node in tree.walk()] == [3, 2]
    assert {node.status for node in tree.walk()} == {JobStatus.FAILED}


async def test_many_trees_are_scheduled_at_once(store_url: str) -> None:
    app = App()

    @app.activity
    async def double(number: int) -> int:
        return 2 * number

    async with Worker(app, store_url) as worker:
        handles = await worker.client.schedule_many(Job(double, number) for number in range(200))
        assert [(await handle.result(timeout=20)).result for handle in handles] == [2 * number for number in range(200)]
        assert await worker.client.schedule_many([]) == []


async def test_a_tree_of_more_than_one_value_arrives_whole(store_url: str) -> None:
    app = App()

    @app.activity
    async def size(data: bytes) -> int:
        return len(data)

    root = Job(size, b"root")
    for number in range(40):
        root = root.then(Job(size, bytes(100_000 + number)))
    async with Client(store_url, app) as client:
        handle = await client.schedule(root)
        assert 1 < len(list((await handle.tree()).walk())) < 41, "what its input holds can be seen before it begins"
        with pytest.raises(ValueError, match="too large"):
            await client.schedule(root, instance_id=handle.instance_id, reuse_policy=ReusePolicy.USE_EXISTING)
        async with Worker(app, store_url):
            tree = await handle.result(timeout=20)
    assert [node.result for node in tree.walk()] == [4, *range(100_000, 100_040)]


def test_scripts_have_the_same_interface(store_url: str) -> None:
    app = App()

    @app.activity
    def double(number: int) -> int:
        return 2 * number

    async def serve(ready: threading.Event, stop: threading.Event) -> None:
        async with Worker(app, store_url):
            ready.set()
            await asyncio.to_thread(stop.wait, 20)

    ready, stop = threading.Event(), threading.Event()
    serving = threading.Thread(target=lambda: asyncio.run(serve(ready, stop)))
    serving.start()
    try:
        assert ready.wait(20)
        with Client.sync(store_url, app) as client:
            handle = client.schedule(Job(double, 4).then(Job(double, 5)))
            assert [node.result for node in handle.result(timeout=20).walk()] == [8, 10]
            assert str(handle.tree()).splitlines() == ["double DONE", "└─ double DONE"]
            one, two = client.schedule_many([Job(double, 1), Job(double, 2)])
            assert (one.result(timeout=20).result, two.result(timeout=20).result) == (2, 4)
            assert client.get_job(one.instance_id).tree().status is JobStatus.DONE
    finally:
        stop.set()
        serving.join()


# ---- orchestrators as jobs


async def test_an_orchestrator_gets_the_request_and_has_a_history_of_its_own(store_url: str) -> None:
    app = App()

    @app.activity
    def step(number: int) -> int:
        return number + 1

    @app.orchestrator
    async def process(ctx: OrchestrationContext, number: int) -> int:
        return await ctx.call_activity(step, number)

    @app.activity
    def report(ctx: JobContext) -> list[Any]:
        assert ctx.parent is not None
        return [ctx.parent.function, ctx.parent.request, ctx.parent.result]

    async with Worker(app, store_url) as worker:
        handle = await worker.client.schedule(Job(process, 5).then(Job(report)))
        tree = await handle.result(timeout=20)
        children = [state async for state in worker.client.query(parent=handle.instance_id)]
    assert [node.result for node in tree.walk()] == [6, ["process", 5, 6]]
    assert [(child.name, child.tags) for child in children] == [("process", {"durable.job": "0"})]


async def test_an_orchestration_that_somebody_ends_is_a_cancelled_job(store_url: str) -> None:
    app = App()

    @app.orchestrator
    async def waits(ctx: OrchestrationContext) -> None:
        await ctx.wait_for_external_event("never")

    @app.activity
    def clean_up() -> str:
        return "cleaned"

    async with Worker(app, store_url) as worker:
        handle = await worker.client.schedule(Job(waits, retries=5).then(Job(clean_up, run_condition=ON.ON_CANCELLED)))

        async def children() -> list[str]:
            return [state.instance_id async for state in worker.client.query(parent=handle.instance_id)]

        (child,) = await eventually(children, bool)
        await worker.client.get(child).terminate("enough")
        tree = await handle.result(timeout=20)
    assert statuses(tree) == {"waits": "CANCELLED", "clean_up": "DONE"}
    assert tree.error is not None
    assert tree.error.message == "enough"
