"""Steering a tree: cancel, update and delete, priorities, what its statuses say, suspend and resume."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from durable import App, InstanceFinishedError, OrchestrationStatus, UpdateRejectedError, Worker
from durable.jobs import Job, JobContext, JobHandle, JobStatus, Priority, RunCondition
from tests.jobs.parts import eventually

ON = RunCondition
HOUR = timedelta(hours=1)


class Stage:
    """An app whose jobs wait until they are told, and note what they do."""

    def __init__(self) -> None:
        self.app = App()
        self.told = asyncio.Event()
        self.began: list[str] = []
        self.stopped: list[str] = []

        @self.app.activity
        async def waits(name: str) -> str:
            self.began.append(name)
            try:
                await self.told.wait()
            except asyncio.CancelledError:
                self.stopped.append(name)
                raise
            return name

        @self.app.activity
        async def note(name: str) -> str:
            self.began.append(name)
            return name

        self.waits, self.note = waits, note


async def in_progress(handle: JobHandle, job_id: str = "0") -> None:
    await eventually(handle.tree, lambda tree: tree.find(job_id).status is JobStatus.IN_PROGRESS)


async def learn(stage: Stage, worker: Worker) -> None:
    """Let a worker see how long the functions of a stage take: not long."""
    stage.told.set()
    for function in (stage.waits, stage.note):
        await (await worker.client.schedule(Job(function, "learn"))).result(timeout=20)
    stage.told.clear()


async def test_cancelling_a_tree_lets_its_conditions_decide_what_follows(store_url: str) -> None:
    stage = Stage()
    tree = (
        Job(stage.waits, "running")
        .then(Job(stage.note, "cleanup", run_condition=ON.ON_CANCELLED).then(Job(stage.note, "after the cleanup")))
        .then(Job(stage.note, "next"))
        .then(Job(stage.note, "beside", run_condition=ON.IN_PROGRESS).then(Job(stage.note, "held", delay=HOUR)))
    )
    async with Worker(stage.app, store_url) as worker:
        handle = await worker.client.schedule(tree)
        await eventually(handle.tree, lambda root: root.find("4").status.is_settled and root.find("0").attempts)
        await eventually(lambda: asyncio.sleep(0, stage.began), lambda began: "running" in began)
        await handle.cancel("changed our minds")
        root = await handle.result(timeout=20)
    named = {node.request: node.status.value for node in root.walk()}
    assert named == {
        "running": "CANCELLED",
        "cleanup": "DONE",
        "after the cleanup": "DONE",
        "next": "SKIPPED",
        "beside": "DONE",
        "held": "CANCELLED",
    }
    assert root.error is not None
    assert root.error.message == "changed our minds"
    assert stage.stopped == ["running"]


async def test_an_ordinary_client_cancels_a_tree_just_so(store_url: str) -> None:
    stage = Stage()
    async with Worker(stage.app, store_url) as worker:
        handle = await worker.client.schedule(
            Job(stage.waits, "a").then(Job(stage.note, "b", run_condition=ON.ON_CANCELLED))
        )
        await in_progress(handle)
        await worker.client.get(handle.instance_id).cancel("enough")
        root = await handle.result(timeout=20)
        assert [node.status.value for node in root.walk()] == ["CANCELLED", "DONE"]
        assert (await handle.state()).status is OrchestrationStatus.COMPLETED
        with pytest.raises(InstanceFinishedError):
            await handle.cancel()


async def test_one_job_is_cancelled_and_the_others_go_on(store_url: str) -> None:
    stage = Stage()
    tree = (
        Job(stage.note, "root")
        .then(Job(stage.waits, "one").then(Job(stage.note, "after one", run_condition=ON.ON_FAILURE_OR_CANCELLED)))
        .then(Job(stage.waits, "other"))
    )
    async with Worker(stage.app, store_url) as worker:
        handle = await worker.client.schedule(tree)
        await in_progress(handle, "1")
        await in_progress(handle, "3")
        await handle.cancel_job("1", "not this one")
        with pytest.raises(UpdateRejectedError, match="has ended: CANCELLED"):
            await handle.cancel_job("1")
        with pytest.raises(UpdateRejectedError, match="no job 77"):
            await handle.cancel_job("77")
        with pytest.raises(LookupError, match="'x'"):
            await handle.cancel_job("x")
        stage.told.set()
        root = await handle.result(timeout=20)
    named = {node.request: node.status.value for node in root.walk()}
    assert named == {"root": "DONE", "one": "CANCELLED", "after one": "DONE", "other": "DONE"}


async def test_what_has_not_started_can_be_changed(store_url: str) -> None:
    stage = Stage()
    async with Worker(stage.app, store_url) as worker:
        handle = await worker.client.schedule(
            Job(stage.note, "old", delay=HOUR).then(Job(stage.note, "next", delay=HOUR))
        )
        await handle.update_job("0", request="new", description="changed", retries=2, retry_intervals=(5,))
        await handle.update_job("1", delay=None, run_condition=ON.IN_PROGRESS, priority=Priority.HIGH)
        tree = await handle.tree()
        assert (tree.request, tree.description, tree.status) == ("new", "changed", JobStatus.IDLE)
        assert tree.children[0].priority is Priority.HIGH
        with pytest.raises(TypeError, match="not 'function'"):
            await handle.update_job("0", function="other")  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="delay"):
            await handle.update_job("0", delay=-HOUR)
        with pytest.raises(ValueError, match="nothing to change"):
            await handle.update_job("0")
        await handle.update_job("0", delay=None)
        root = await handle.result(timeout=20)
        assert [node.result for node in root.walk()] == ["new", "next"]


async def test_what_has_started_cannot(store_url: str) -> None:
    stage = Stage()
    async with Worker(stage.app, store_url) as worker:
        handle = await worker.client.schedule(Job(stage.waits, "a"))
        await in_progress(handle)
        for change in (handle.update_job("0", request="b"), handle.delete_job("0")):
            with pytest.raises(UpdateRejectedError, match="job 0, 'waits', has started"):
                await change
        stage.told.set()
        assert (await handle.result(timeout=20)).result == "a"
        with pytest.raises(InstanceFinishedError):
            await handle.delete_job("0")


async def test_a_deleted_job_is_skipped_with_all_below_it(store_url: str) -> None:
    stage = Stage()
    tree = Job(stage.waits, "a").then(Job(stage.note, "b").then(Job(stage.note, "c"))).then(Job(stage.note, "d"))
    async with Worker(stage.app, store_url) as worker:
        handle = await worker.client.schedule(tree)
        await handle.delete_job("1", "not needed any more")
        stage.told.set()
        root = await handle.result(timeout=20)
    assert [node.status.value for node in root.walk()] == ["DONE", "SKIPPED", "SKIPPED", "DONE"]
    assert root.children[0].skip_reason == "it was deleted: not needed any more"
    assert stage.began == ["a", "d"]


async def test_without_a_worker_an_answer_does_not_come_and_the_change_is_kept(store_url: str) -> None:
    stage = Stage()
    async with Worker(stage.app, store_url, orchestrations=False) as working:
        handle = await working.client.schedule(Job(stage.note, "a", delay=HOUR))
        with pytest.raises(TimeoutError, match="it is stored"):
            await handle.update_job("0", delay=None, request="b", wait=0.05)
        async with Worker(stage.app, store_url):
            assert (await handle.result(timeout=20)).result == "b"


async def test_a_tree_that_is_suspended_goes_on_where_it_was(store_url: str) -> None:
    stage = Stage()
    tree = Job(stage.waits, "a").then(Job(stage.note, "b")).then(Job(stage.note, "c", run_condition=ON.ON_FAILURE))
    async with Worker(stage.app, store_url) as worker:
        handle = await worker.client.schedule(tree)
        await in_progress(handle)
        await handle.suspend("a look around")
        await eventually(handle.state, lambda state: state.status is OrchestrationStatus.SUSPENDED)
        stage.told.set()
        await handle.cancel("after all")  # comes second
        await eventually(handle.history, lambda history: len([e for e in history if "Raised" in type(e).__name__]) == 1)
        assert (await handle.tree()).status is JobStatus.IN_PROGRESS, "nothing is taken in meanwhile"
        await handle.resume()
        root = await handle.result(timeout=20)
    assert [node.status.value for node in root.walk()] == ["DONE", "CANCELLED", "SKIPPED"]


# ---- waiting for a worker


async def test_the_waiting_job_of_the_highest_priority_goes_first(store_url: str) -> None:
    stage = Stage()
    order = (Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.LOW, Priority.HIGH, Priority.NORMAL)
    async with Worker(stage.app, store_url, max_activities=1) as worker:
        blocking = await worker.client.schedule(Job(stage.waits, "blocks"))
        await in_progress(blocking)
        handles = await worker.client.schedule_many(
            Job(stage.note, f"{priority.value} {number}", priority=priority) for number, priority in enumerate(order)
        )
        for handle in handles:
            await eventually(handle.tree, lambda tree: tree.status is JobStatus.QUEUED)
        stage.told.set()
        await asyncio.gather(*(handle.result(timeout=20) for handle in handles))
    assert stage.began == ["blocks", "HIGH 2", "HIGH 4", "NORMAL 1", "NORMAL 5", "LOW 0", "LOW 3"]


async def test_jobs_whose_time_is_known_wait_at_their_owner_by_priority_and_are_shown_as_waiting(
    store_url: str,
) -> None:
    """As a worker without company keeps what will not wait for long: no row goes to the queue for it."""
    stage = Stage()
    order = (Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.LOW, Priority.HIGH)
    async with Worker(stage.app, store_url, max_activities=1) as worker:
        await learn(stage, worker)
        blocking = await worker.client.schedule(Job(stage.waits, "blocks"))
        await in_progress(blocking)
        handles = await worker.client.schedule_many(
            Job(stage.note, f"{priority.value} {number}", priority=priority) for number, priority in enumerate(order)
        )
        for handle in handles:
            await eventually(handle.tree, lambda tree: tree.attempts == 1)
        assert {(await handle.tree()).status for handle in handles} == {JobStatus.QUEUED}
        assert worker.footprint["attempts"] == 1 + len(order), "they are in its hands"
        stage.told.set()
        roots = await asyncio.gather(*(handle.result(timeout=20) for handle in handles))
    assert stage.began[2:] == ["blocks", "HIGH 2", "HIGH 4", "NORMAL 1", "LOW 0", "LOW 3"]
    assert all(root.status is JobStatus.DONE for root in roots)


async def test_what_waits_in_a_line_is_run_by_the_next_owner(store_url: str) -> None:
    stage = Stage()
    async with Worker(stage.app, store_url, max_activities=1, shutdown_timeout=0) as worker:
        await learn(stage, worker)
        blocking = await worker.client.schedule(Job(stage.waits, "blocks"))
        await in_progress(blocking)
        handle = await worker.client.schedule(Job(stage.note, "in line"))
        await eventually(handle.tree, lambda tree: tree.attempts == 1)
        assert worker.footprint["attempts"] == 2
    stage.told.set()
    async with Worker(stage.app, store_url) as worker:
        handle = worker.client.get_job(handle.instance_id)
        root = await handle.result(timeout=20)
    assert root.status is JobStatus.DONE
    assert stage.began.count("in line") == 1


async def test_priorities_hold_among_several_workers(store_url: str) -> None:
    stage = Stage()
    async with Worker(stage.app, store_url, max_activities=1) as one, Worker(stage.app, store_url, max_activities=1):
        blocking = await one.client.schedule_many([Job(stage.waits, "blocks"), Job(stage.waits, "blocks too")])
        for handle in blocking:
            await in_progress(handle)
        low = await one.client.schedule_many(Job(stage.note, "low", priority=Priority.LOW) for _ in range(20))
        high = await one.client.schedule_many(Job(stage.note, "high", priority=Priority.HIGH) for _ in range(20))
        for handle in (*low, *high):
            await eventually(handle.tree, lambda tree: tree.status is JobStatus.QUEUED)
        stage.told.set()
        await asyncio.gather(*(handle.result(timeout=20) for handle in (*low, *high)))
    began = stage.began[2:]
    assert (began.count("high"), began.count("low")) == (20, 20)
    # The one worker may have claimed the last of the high ones, and the other then begin a low one first.
    assert began[: began.index("low")].count("high") >= 19


async def test_a_job_that_no_slot_is_free_for_is_queued_until_it_begins(store_url: str) -> None:
    app = App()
    told: dict[int, asyncio.Event] = {number: asyncio.Event() for number in range(2)}
    seen: list[Any] = []

    @app.activity
    async def waits(ctx: JobContext, number: int) -> None:
        seen.append(ctx.id)
        await told[number].wait()

    async with Worker(app, store_url, max_activities=1) as worker:
        one, two = [await worker.client.schedule(Job(waits, number)) for number in range(2)]
        await in_progress(one)
        assert (await eventually(two.tree, lambda tree: tree.attempts == 1)).status is JobStatus.QUEUED
        told[0].set()
        await in_progress(two)
        tree = await two.tree()
        assert tree.started_at is not None
        told[1].set()
        assert (await two.result(timeout=20)).started_at == tree.started_at
