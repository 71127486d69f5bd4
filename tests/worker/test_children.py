"""Children: orchestrations with their own history whose outcome is a task of their parent."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    App,
    InstanceAlreadyExistsError,
    Orchestration,
    OrchestrationCancelledError,
    OrchestrationContext,
    OrchestrationFailedError,
    OrchestrationStatus,
    RetryPolicy,
    SubOrchestrationFailedError,
    Worker,
    when_all,
)
from durable.context import orchestration
from durable.worker import placing
from tests.worker.lives import STYLES, becomes_true, is_cached, lives_app, names_of, open_store, until

RUNNING, COMPLETED, FAILED = OrchestrationStatus.RUNNING, OrchestrationStatus.COMPLETED, OrchestrationStatus.FAILED
CANCELLED, TERMINATED = OrchestrationStatus.CANCELLED, OrchestrationStatus.TERMINATED

EACH_ONCE = pytest.mark.parametrize(
    ("store_url", "style"), [("memory", "async"), ("sqlite", "generator")], indirect=["store_url"]
)
"""For what takes seconds: each store and each style, but not each with each."""


@dataclasses.dataclass
class Parcel:
    weight: int


class CardDeclinedError(ValueError):
    pass


def family_app() -> App:
    app = lives_app()

    @app.orchestrator
    async def doubles(ctx: OrchestrationContext, parcel: Parcel) -> Parcel:
        return Parcel(parcel.weight * 2)

    @app.orchestrator
    async def declines(ctx: OrchestrationContext, text: str) -> None:
        raise CardDeclinedError(text) from KeyError("cause")

    @app.orchestrator(name="calls-async")
    async def calls_async(ctx: OrchestrationContext, weight: int) -> list[Any]:
        parcel = await ctx.call_sub_orchestrator(doubles, Parcel(weight))
        plain = await ctx.call_sub_orchestrator("doubles", {"weight": weight})
        nothing = await ctx.call_sub_orchestrator("returns-generator")
        return [type(parcel).__name__, parcel.weight, plain, nothing]

    @app.orchestrator(name="calls-generator")
    def calls(ctx: OrchestrationContext, weight: int) -> Orchestration[list[Any]]:
        parcel = yield from ctx.call_sub_orchestrator(doubles, Parcel(weight))
        plain = yield ctx.call_sub_orchestrator("doubles", {"weight": weight})
        nothing = yield ctx.call_sub_orchestrator("returns-generator")
        return [type(parcel).__name__, parcel.weight, plain, nothing]

    @app.orchestrator(name="catches-async")
    async def catches_async(ctx: OrchestrationContext) -> list[Any]:
        try:
            await ctx.call_sub_orchestrator(declines, "no money")
        except SubOrchestrationFailedError as error:
            return _told(error)
        return []

    @app.orchestrator(name="catches-generator")
    def catches(ctx: OrchestrationContext) -> Orchestration[list[Any]]:
        try:
            yield ctx.call_sub_orchestrator(declines, "no money")
        except SubOrchestrationFailedError as error:
            return _told(error)
        return []

    def _told(error: SubOrchestrationFailedError) -> list[Any]:
        details = error.details
        return [
            details.message,
            details.is_caused_by(CardDeclinedError),
            details.is_caused_by(ValueError),
            details.is_caused_by(KeyError),
            details.is_caused_by(TypeError),
            "declines" in details.stack_trace,
        ]

    @app.orchestrator(name="parent-async")
    async def parent_async(ctx: OrchestrationContext, child_id: str) -> Any:
        """Waits for a child that waits for `go`."""
        ctx.set_custom_status("calling")
        return await ctx.call_sub_orchestrator("waits-async", "of parent", instance_id=child_id)

    @app.orchestrator(name="parent-generator")
    def parent(ctx: OrchestrationContext, child_id: str) -> Orchestration[Any]:
        ctx.set_custom_status("calling")
        return (yield ctx.call_sub_orchestrator("waits-generator", "of parent", instance_id=child_id))

    @app.orchestrator(name="asks-async")
    async def asks_async(ctx: OrchestrationContext, child_id: str) -> Any:
        """As parent, and says what the child's end was like."""
        try:
            return await ctx.call_sub_orchestrator("waits-async", instance_id=child_id)
        except SubOrchestrationFailedError as error:
            return [error.details.error_type.rpartition(".")[2], error.details.message]
        except InstanceAlreadyExistsError:
            return "in use"

    @app.orchestrator(name="asks-generator")
    def asks(ctx: OrchestrationContext, child_id: str) -> Orchestration[Any]:
        try:
            return (yield ctx.call_sub_orchestrator("waits-generator", instance_id=child_id))
        except SubOrchestrationFailedError as error:
            return [error.details.error_type.rpartition(".")[2], error.details.message]
        except InstanceAlreadyExistsError:
            return "in use"

    return app


app = family_app()


# ---- what comes back


@pytest.mark.parametrize("style", STYLES)
async def test_a_child_gives_its_result_by_the_annotation_of_the_function(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"calls-{style}", 21, instance_id="top")
        assert await handle.result(timeout=10) == ["Parcel", 42, {"weight": 42}, None]
        children = [state async for state in worker.client.query(parent="top")]
        assert len(children) == 3
        assert len({child.instance_id for child in children}) == 3
        assert all(child.status is COMPLETED and child.parent_instance_id == "top" for child in children)


@pytest.mark.parametrize("style", STYLES)
async def test_a_childs_failure_tells_what_left_the_child(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        found = await worker.client.run(f"catches-{style}", timeout=10)
        assert found == ["no money", True, True, True, False, True]


@pytest.mark.parametrize("style", STYLES)
async def test_a_childs_failure_that_nobody_catches_is_the_parents_with_the_cause_inside(
    store_url: str, style: str
) -> None:
    own = family_app()

    @own.orchestrator(name="careless-async")
    async def careless_async(ctx: OrchestrationContext) -> None:
        await ctx.call_sub_orchestrator("raises-async", "deep down")

    @own.orchestrator(name="careless-generator")
    def careless(ctx: OrchestrationContext) -> Orchestration[None]:
        yield ctx.call_sub_orchestrator("raises-generator", "deep down")

    async with Worker(own, store_url) as worker:
        with pytest.raises(OrchestrationFailedError) as failed:
            await worker.client.run(f"careless-{style}", timeout=10)
        details = failed.value.details
        assert details.error_type == "durable.errors.SubOrchestrationFailedError"
        assert details.inner is not None
        assert (details.inner.error_type, details.inner.message) == ("ValueError", "deep down")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("steer", "expected"),
    [("cancel", "OrchestrationCancelledError"), ("terminate", "OrchestrationTerminatedError")],
)
async def test_a_child_ended_from_outside_is_a_failure_for_its_parent(
    store_url: str, steer: str, expected: str, style: str
) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"asks-{style}", "the child")
        child = worker.client.get("the child")
        await becomes_true(lambda: _exists(child))
        await getattr(child, steer)("from outside")
        assert await handle.result(timeout=10) == [expected, "from outside"]


async def _exists(handle: Any) -> bool:
    try:
        return bool((await handle.state()).custom_status == "waiting")
    except LookupError:
        return False


@pytest.mark.parametrize("style", STYLES)
async def test_a_child_cancelled_before_it_began_still_answers_its_parent(store_url: str, style: str) -> None:
    """The child's orchestrator is unknown to the first worker: it stalls unbegun, and is cancelled there."""
    lacking, whole = App(), family_app()
    for definition in whole.orchestrators:
        if not definition.name.startswith("waits"):
            lacking.orchestrator(name=definition.name)(definition.function)
    async with open_store(store_url) as client:
        async with Worker(lacking, store_url):
            handle = await client.start(f"asks-{style}", "the child")
            child = client.get("the child")
            await becomes_true(lambda: _is_stalled(child))
            await child.cancel("not begun")
        async with Worker(whole, store_url):
            assert await handle.result(timeout=10) == ["OrchestrationCancelledError", "not begun"]
            assert (await child.state()).status is CANCELLED


async def _is_stalled(handle: Any) -> bool:
    try:
        return (await handle.state()).status is OrchestrationStatus.STALLED
    except LookupError:
        return False


# ---- ids


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("situation", ["running", "finished", "delayed"])
async def test_a_child_id_in_use_is_refused_where_it_is_awaited(store_url: str, situation: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        client = worker.client
        at = timedelta(hours=1) if situation == "delayed" else None
        other = await client.start("waits-async", "other", instance_id="taken", at=at)
        if situation == "finished":
            await other.raise_event("go", 1)
            await other.result(timeout=10)
        assert await client.run(f"asks-{style}", "taken", timeout=10) == "in use"
        assert (await client.get("taken").state()).run_id == other.run_id


@pytest.mark.parametrize("style", STYLES)
async def test_a_child_id_in_use_that_nobody_handles_fails_the_parent(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        await worker.client.start("waits-async", "other", instance_id="taken")
        with pytest.raises(OrchestrationFailedError) as failed:
            await worker.client.run(f"parent-{style}", "taken", timeout=10)
        assert failed.value.details.is_caused_by(InstanceAlreadyExistsError)
        assert "taken" in failed.value.details.message


@pytest.mark.parametrize("style", STYLES)
async def test_default_ids_are_the_same_for_the_same_run_and_new_for_the_next(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        ids = []
        for _ in range(2):
            handle = await worker.client.start(f"calls-{style}", 1)
            await handle.result(timeout=10)
            scheduled = [e for e in await handle.history() if type(e).__name__ == "SubOrchestrationScheduled"]
            ids += [event.instance_id for event in scheduled]  # type: ignore[attr-defined]
        assert len(set(ids)) == 6


# ---- retries


@pytest.mark.diverges("the child counts outside of its history how often it was started")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("child_id", [None, "own id"], ids=["default id", "explicit id"])
async def test_a_retry_policy_starts_the_child_again(store_url: str, child_id: str | None, style: str) -> None:
    """A default id is another one for each attempt; a given one is kept, and the next attempt replaces the failed one."""
    own = family_app()
    ran: list[str] = []
    policy = RetryPolicy(timedelta(milliseconds=5), 3)

    @own.orchestrator
    async def shaky(ctx: OrchestrationContext) -> int:
        ran.append(ctx.instance_id)
        if len(ran) < 3:
            raise RuntimeError("not yet")
        return len(ran)

    @own.orchestrator(name="insists-async")
    async def insists_async(ctx: OrchestrationContext) -> int:
        return await ctx.call_sub_orchestrator(shaky, instance_id=child_id, retry_policy=policy)

    @own.orchestrator(name="insists-generator")
    def insists(ctx: OrchestrationContext) -> Orchestration[int]:
        return (yield ctx.call_sub_orchestrator(shaky, instance_id=child_id, retry_policy=policy))

    async with Worker(own, store_url, max_cached_orchestrations=10_000) as worker:
        handle = await worker.client.start(f"insists-{style}")
        assert await handle.result(timeout=10) == 3
        assert len(set(ran)) == (3 if child_id is None else 1)
        names = names_of(await handle.history())
        assert names.count("SubOrchestrationScheduled") == 3
        assert names.count("SubOrchestrationFailed") == 2
        assert names.count("TimerFired") == 2


@pytest.mark.parametrize("style", STYLES)
async def test_a_refused_id_is_not_tried_again_by_a_policy(store_url: str, style: str) -> None:
    own = family_app()
    policy = RetryPolicy(timedelta(milliseconds=5), 5)

    @own.orchestrator(name="stubborn-async")
    async def stubborn_async(ctx: OrchestrationContext) -> Any:
        try:
            return await ctx.call_sub_orchestrator("returns-async", 1, instance_id="taken", retry_policy=policy)
        except InstanceAlreadyExistsError:
            return "in use"

    @own.orchestrator(name="stubborn-generator")
    def stubborn(ctx: OrchestrationContext) -> Orchestration[Any]:
        try:
            return (yield ctx.call_sub_orchestrator("returns-async", 1, instance_id="taken", retry_policy=policy))
        except InstanceAlreadyExistsError:
            return "in use"

    async with Worker(own, store_url) as worker:
        await worker.client.start("waits-async", instance_id="taken")
        handle = await worker.client.start(f"stubborn-{style}")
        assert await handle.result(timeout=10) == "in use"
        assert names_of(await handle.history()).count("SubOrchestrationScheduled") == 1


# ---- the end of a parent


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("end", ["completes", "fails", "continues as new"])
async def test_children_run_on_when_their_parent_ends_by_itself(store_url: str, end: str, style: str) -> None:
    own = family_app()

    @own.orchestrator(name="leaves-async")
    async def leaves_async(ctx: OrchestrationContext, how: str) -> str:
        if how == "again":
            return how
        ctx.call_sub_orchestrator("waits-async", "left", instance_id="left")
        await ctx.create_timer(timedelta(0))
        if how == "fails":
            raise ValueError(how)
        if how == "continues as new":
            ctx.continue_as_new("again")
        return how

    @own.orchestrator(name="leaves-generator")
    def leaves(ctx: OrchestrationContext, how: str) -> Orchestration[str]:
        if how == "again":
            return how
        ctx.call_sub_orchestrator("waits-generator", "left", instance_id="left")
        yield ctx.create_timer(timedelta(0))
        if how == "fails":
            raise ValueError(how)
        if how == "continues as new":
            ctx.continue_as_new("again")
        return how

    async with Worker(own, store_url) as worker:
        handle = await worker.client.start(f"leaves-{style}", end)
        assert (await handle.wait(timeout=10)).status is (FAILED if end == "fails" else COMPLETED)
        child = worker.client.get("left")
        await until(child, status="waiting")
        await child.raise_event("go", 1)
        assert await child.result(timeout=10) == ["left", 1]
        assert [item.kind for item in await handle.dropped()] == ["SubOrchestrationCompleted"]


@pytest.mark.parametrize("style", STYLES)
async def test_a_cancel_is_passed_on_as_cancel(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"parent-{style}", "the child")
        child = worker.client.get("the child")
        await becomes_true(lambda: _exists(child))
        await handle.cancel("all of you")
        assert (await handle.wait(timeout=10)).status is CANCELLED
        assert (await child.wait(timeout=10)).status is CANCELLED


@pytest.mark.parametrize("style", STYLES)
async def test_a_cancelled_task_cancels_its_child_only(store_url: str, style: str) -> None:
    own = family_app()

    @own.orchestrator(name="picks-async")
    async def picks_async(ctx: OrchestrationContext) -> Any:
        one = ctx.call_sub_orchestrator("waits-async", instance_id="one")
        two = ctx.call_sub_orchestrator("waits-async", 2, instance_id="two")
        await ctx.wait_for_external_event("choose")
        assert one.cancel()
        assert not one.cancel()
        return await two

    @own.orchestrator(name="picks-generator")
    def picks(ctx: OrchestrationContext) -> Orchestration[Any]:
        one = ctx.call_sub_orchestrator("waits-async", instance_id="one")
        two = ctx.call_sub_orchestrator("waits-async", 2, instance_id="two")
        yield ctx.wait_for_external_event("choose")
        assert one.cancel()
        assert not one.cancel()
        return (yield two)

    async with Worker(own, store_url) as worker:
        handle = await worker.client.start(f"picks-{style}")
        one, two = worker.client.get("one"), worker.client.get("two")
        for child in (one, two):
            await becomes_true(lambda: _exists(child))  # noqa: B023 (awaited in this round)
        await handle.raise_event("choose")
        with pytest.raises(OrchestrationCancelledError):
            await one.result(timeout=10)
        await two.raise_event("go", "on")
        assert await handle.result(timeout=10) == [2, "on"]


def tree_app(style: str) -> App:
    """A tree of `width` children each, `depth` deep; the leaves wait."""
    own = family_app()

    if style == "async":

        @own.orchestrator(name="tree")
        async def tree_async(ctx: OrchestrationContext, shape: list[int]) -> int:
            width, depth = shape
            if depth == 0:
                await ctx.wait_for_external_event("never")
            made = [ctx.call_sub_orchestrator("tree", [width, depth - 1]) for _ in range(width)]
            return sum(await when_all(made))
    else:

        @own.orchestrator(name="tree")
        def tree(ctx: OrchestrationContext, shape: list[int]) -> Orchestration[int]:
            width, depth = shape
            if depth == 0:
                yield ctx.wait_for_external_event("never")
            made = [ctx.call_sub_orchestrator("tree", [width, depth - 1]) for _ in range(width)]
            return sum((yield when_all(made)))

    return own


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("steer", ["cancel", "terminate"])
async def test_cancel_and_terminate_reach_the_whole_tree(store_url: str, steer: str, style: str) -> None:
    own = tree_app(style)
    async with Worker(own, store_url) as worker:
        handle = await worker.client.start("tree", [3, 3])
        await becomes_true(lambda: _running(worker.client, 40))
        await getattr(handle, steer)("all")
        end = CANCELLED if steer == "cancel" else TERMINATED
        assert await worker.client.wait(name="tree", timeout=20) == 40
        assert await worker.client.count(name="tree", status=end) == 40


async def _running(client: Any, count: int) -> bool:
    return bool(await client.count(status=RUNNING) == count)


async def test_a_termination_reaches_more_children_than_one_turn_sends(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were not yet sent never begin; no child is left behind."""
    monkeypatch.setattr(placing, "INLINE_MESSAGES_MAX", 20)
    own = tree_app("generator")
    async with Worker(own, store_url) as worker:
        for count in (1, 48, 120):
            handle = await worker.client.start("tree", [120, 1], instance_id=f"top {count}")
            await becomes_true(lambda: _children(worker.client, handle, count))  # noqa: B023
            await handle.terminate()
            assert (await handle.wait(timeout=10)).status is TERMINATED
            await becomes_true(lambda: _none_running(worker.client))


async def _children(client: Any, handle: Any, count: int) -> bool:
    return bool(await client.count(parent=handle.instance_id) >= count)


async def _none_running(client: Any) -> bool:
    return bool(await client.count(status=[RUNNING, OrchestrationStatus.PENDING]) == 0)


@pytest.mark.parametrize("style", STYLES)
async def test_a_termination_that_is_not_recursive_leaves_the_children(store_url: str, style: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(f"parent-{style}", "the child")
        child = worker.client.get("the child")
        await becomes_true(lambda: _exists(child))
        await handle.terminate(recursive=False)
        assert (await handle.wait(timeout=10)).status is TERMINATED
        assert (await child.state()).status is RUNNING
        await child.raise_event("go", 1)
        assert await child.result(timeout=10) == ["of parent", 1]


@pytest.mark.parametrize("style", STYLES)
async def test_a_termination_reaches_children_of_older_generations_and_of_retries(store_url: str, style: str) -> None:
    """Whatever this run has started and has not ended ends with it; what another run of the id started does not."""
    own = family_app()

    @own.orchestrator
    async def renews(ctx: OrchestrationContext, number: int) -> None:
        ctx.call_sub_orchestrator(f"waits-{style}", instance_id=f"child {number}")
        ctx.start_orchestration(f"waits-{style}", instance_id=f"detached {number}")
        if number < 2:
            ctx.continue_as_new(number + 1)
        ctx.set_custom_status("all there")
        await ctx.wait_for_external_event("never")

    async with Worker(own, store_url) as worker:
        handle = await worker.client.start(renews, 0)
        await until(handle, status="all there")
        children = [worker.client.get(f"child {number}") for number in range(3)]
        for child in children:
            await becomes_true(lambda: _exists(child))  # noqa: B023
        await handle.terminate()
        for child in children:
            assert (await child.wait(timeout=10)).status is TERMINATED
        for number in range(3):
            await until(worker.client.get(f"detached {number}"), status="waiting")


# ---- detached


@pytest.mark.parametrize("style", STYLES)
async def test_a_detached_start_does_not_wait_and_outlives_its_starter(store_url: str, style: str) -> None:
    own = family_app()

    @own.orchestrator(name="launches-async")
    async def launches_async(ctx: OrchestrationContext) -> list[str]:
        return [
            ctx.start_orchestration("waits-async", 1, instance_id="given"),
            ctx.start_orchestration("returns-async", 2),
            ctx.start_orchestration("returns-async", 3, at=timedelta(seconds=0.3)),
            ctx.start_orchestration("returns-async", 4, instance_id="taken"),
        ]

    @own.orchestrator(name="launches-generator")
    def launches(ctx: OrchestrationContext) -> Orchestration[list[str]]:
        return [
            ctx.start_orchestration("waits-async", 1, instance_id="given"),
            ctx.start_orchestration("returns-async", 2),
            ctx.start_orchestration("returns-async", 3, at=timedelta(seconds=0.3)),
            ctx.start_orchestration("returns-async", 4, instance_id="taken"),
        ]
        yield

    async with Worker(own, store_url) as worker:
        client = worker.client
        taken = await client.start("waits-async", "other", instance_id="taken")
        handle = await client.start(f"launches-{style}")
        given, at_once, later, refused = await handle.result(timeout=10)
        assert (given, refused) == ("given", "taken")
        assert (await client.get(given).state()).parent_instance_id is None
        assert await client.get(at_once).result(timeout=10) == 2
        state = await client.get(later).state()
        assert state.status is OrchestrationStatus.PENDING
        assert state.scheduled_at > state.created_at
        assert await client.get(later).result(timeout=10) == 3
        assert (await client.get("taken").state()).run_id == taken.run_id
        dropped = await handle.dropped()
        assert [(item.kind, item.name) for item in dropped] == [("start", "returns-async")]
        assert "taken" in dropped[0].reason
        await client.get(given).raise_event("go", 5)
        assert await client.get(given).result(timeout=10) == [1, 5]


# ---- restarts


@pytest.mark.parametrize("style", STYLES)
async def test_parent_and_child_go_on_with_each_next_worker(store_url: str, style: str) -> None:
    async with open_store(store_url, app) as client:
        async with Worker(app, store_url):
            handle = await client.start(f"parent-{style}", "the child")
            await becomes_true(lambda: _exists(client.get("the child")))
        await client.get("the child").raise_event("go", "while away")
        async with Worker(app, store_url):
            assert await handle.result(timeout=10) == ["of parent", "while away"]


# ---- size


@EACH_ONCE
async def test_2_000_children_are_quick(store_url: str, style: str) -> None:
    own = family_app()
    width = 2_000 if is_cached() else 600  # over what one turn sends at once

    @own.orchestrator(name="wide-async")
    async def wide_async(ctx: OrchestrationContext, width: int) -> int:
        return sum(await when_all([ctx.call_sub_orchestrator("returns-async", 1) for _ in range(width)]))

    @own.orchestrator(name="wide-generator")
    def wide(ctx: OrchestrationContext, width: int) -> Orchestration[int]:
        return sum((yield when_all([ctx.call_sub_orchestrator("returns-generator", 1) for _ in range(width)])))

    async with Worker(own, store_url) as worker:
        began = time.perf_counter()
        assert await worker.client.run(f"wide-{style}", width, timeout=60) == width
        assert time.perf_counter() - began < 15
        assert await worker.client.count(status=COMPLETED) == width + 1


@EACH_ONCE
async def test_a_wide_fan_out_interrupted_by_a_restart_starts_each_child_once(
    store_url: str, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sending of many starts is cut off by the end of the worker; the next one goes on from where it stood."""
    width = 1_700 if is_cached() else 300
    monkeypatch.setattr(placing, "INLINE_MESSAGES_MAX", width // 4)
    own = family_app()
    runs: list[str] = []

    @own.orchestrator
    async def counted(ctx: OrchestrationContext) -> int:
        if not ctx.is_replaying:
            runs.append(ctx.instance_id)
        await ctx.create_timer(timedelta(0))
        return 1

    @own.orchestrator(name="wide-async")
    async def wide_async(ctx: OrchestrationContext) -> int:
        return sum(await when_all([ctx.call_sub_orchestrator(counted) for _ in range(width)]))

    @own.orchestrator(name="wide-generator")
    def wide(ctx: OrchestrationContext) -> Orchestration[int]:
        return sum((yield when_all([ctx.call_sub_orchestrator(counted) for _ in range(width)])))

    async with open_store(store_url, own) as client:
        handle = await client.start(f"wide-{style}")
        for some in (1, width // 3):
            async with Worker(own, store_url):
                await becomes_true(lambda: _started(client, some))  # noqa: B023
        async with Worker(own, store_url):
            assert await handle.result(timeout=60) == width
            assert await client.count(name="counted") == width
            children = {state.instance_id async for state in client.query(name="counted")}
            assert set(runs) == children


async def _started(client: Any, count: int) -> bool:
    return bool(await client.count(name="counted") >= count)


@pytest.mark.parametrize("style", STYLES)
async def test_50_generations_of_children_are_quick(store_url: str, style: str) -> None:
    own = family_app()

    @own.orchestrator(name="deep-async")
    async def deep_async(ctx: OrchestrationContext, depth: int) -> int:
        return 1 + (await ctx.call_sub_orchestrator("deep-async", depth - 1)) if depth else 0

    @own.orchestrator(name="deep-generator")
    def deep(ctx: OrchestrationContext, depth: int) -> Orchestration[int]:
        return 1 + (yield ctx.call_sub_orchestrator("deep-generator", depth - 1)) if depth else 0

    async with Worker(own, store_url) as worker:
        began = time.perf_counter()
        assert await worker.client.run(f"deep-{style}", 50, timeout=30) == 50
        assert time.perf_counter() - began < 10


@pytest.mark.parametrize("style", STYLES)
async def test_children_end_at_the_depth_limit(store_url: str, style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runaway recursion fails where the limit is, and every level above learns of it; here the limit is 12."""
    monkeypatch.setattr(orchestration, "CHILD_DEPTH_MAX", 12)
    own = family_app()
    reached: list[int] = []

    @own.orchestrator(name="runaway-async")
    async def runaway_async(ctx: OrchestrationContext, depth: int) -> None:
        reached.append(depth)
        await ctx.call_sub_orchestrator("runaway-async", depth + 1)

    @own.orchestrator(name="runaway-generator")
    def runaway(ctx: OrchestrationContext, depth: int) -> Orchestration[None]:
        reached.append(depth)
        yield ctx.call_sub_orchestrator("runaway-generator", depth + 1)

    async with Worker(own, store_url) as worker:
        with pytest.raises(OrchestrationFailedError) as failed:
            await worker.client.run(f"runaway-{style}", 0, timeout=20)
        assert max(reached) == 12
        details = failed.value.details
        assert details.is_caused_by("LimitExceededError")
        assert details.is_caused_by(SubOrchestrationFailedError)


async def test_the_depth_counts_on_after_a_restart_in_the_middle_of_a_fan_out(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starts that are sent by a second worker, from the record, stand as deep as those that the first one sent."""
    monkeypatch.setattr(placing, "INLINE_MESSAGES_MAX", 2)
    own = family_app()
    refused: list[str] = []

    @own.orchestrator
    async def leaf(ctx: OrchestrationContext) -> str:
        try:
            return await ctx.call_sub_orchestrator("returns-async", "too deep")
        except SubOrchestrationFailedError:
            return "refused"

    @own.orchestrator
    async def middle(ctx: OrchestrationContext) -> list[str]:
        return await when_all([ctx.call_sub_orchestrator(leaf) for _ in range(40)])

    @own.orchestrator
    async def top(ctx: OrchestrationContext) -> list[str]:
        return await ctx.call_sub_orchestrator(middle)

    monkeypatch.setattr(orchestration, "CHILD_DEPTH_MAX", 2)
    async with open_store(store_url, own) as client:
        handle = await client.start(top)
        async with Worker(own, store_url):
            await becomes_true(lambda: _some_leaves(client))
        async with Worker(own, store_url):
            refused = await handle.result(timeout=20)
    assert refused == ["refused"] * 40


async def _some_leaves(client: Any) -> bool:
    return bool(await client.count(name="leaf") >= 1)


async def test_a_fan_out_of_children_over_gather_keeps_failures_apart(store_url: str) -> None:
    own = family_app()

    @own.orchestrator
    async def mixed(ctx: OrchestrationContext) -> list[str]:
        made = [
            ctx.call_sub_orchestrator("raises-async", str(n))
            if n % 3 == 0
            else ctx.call_sub_orchestrator("returns-async", n)
            for n in range(9)
        ]
        found = await asyncio.gather(*made, return_exceptions=True)
        return [
            item.details.message if isinstance(item, SubOrchestrationFailedError) else f"ok {item}" for item in found
        ]

    async with Worker(own, store_url) as worker:
        assert await worker.client.run(mixed, timeout=10) == [str(n) if n % 3 == 0 else f"ok {n}" for n in range(9)]
