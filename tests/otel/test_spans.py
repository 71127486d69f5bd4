"""Spans tell of each thing once, when it is durable, whoever has a hand in it; and what they belong to travels in the store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from durable import App, Client, EntityId, InstanceAlreadyExistsError, OrchestrationContext, Worker
from durable.errors import LeaseLostError
from durable.otel import Telemetry
from durable.ports import system_ports
from durable.provider import Batch, Committed, Lease
from durable.stores import connect
from durable.traces import SpanRef, Trace, read_trace
from durable.worker.watching import Taken
from tests.otel import program

ROOT = Path(__file__).parents[2]


class Exported:
    """Where spans go, and what of them came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.provider = program.provider_to(str(path))
        self.telemetry = Telemetry(tracer_provider=self.provider)

    @property
    def spans(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def told(self) -> list[tuple[str, str]]:
        """Each span with the one above it; a span that was told of twice is an error."""
        spans = self.spans
        names = {span["id"]: span["name"] for span in spans}
        assert len(names) == len(spans), "a span was told of twice"
        return sorted((span["name"], names.get(span["parent"], "" if not span["parent"] else "?")) for span in spans)

    def one(self, name: str) -> dict[str, Any]:
        (found,) = [span for span in self.spans if span["name"] == name]
        return found


@pytest.fixture
def exported(tmp_path: Path) -> Iterator[Exported]:
    found = Exported(tmp_path / "spans")
    program.gates[:] = [tmp_path / "gate"]
    yield found
    found.provider.shutdown()


async def finish(client: Client, handle: Any) -> None:
    assert await handle.result(timeout=30) == 5
    assert await client.get("apart").result(timeout=30) == 6


@contextlib.contextmanager
def process(store: str, spans: Path, gate: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.otel.program", store, str(spans), str(gate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as started:
        try:
            yield started
        finally:
            started.kill()


async def until(holds: Any) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


async def test_two_workers_of_one_file_tell_of_each_thing_once(exported: Exported, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'store.db'}"
    program.gates[0].touch()
    around = [exported.telemetry]
    async with Worker(program.app, store, activities=False, middleware=around, name="decides") as worker:
        async with Worker(program.app, store, orchestrations=False, middleware=around, name="works"):
            handle = await worker.client.start(program.flow, str(tmp_path / "marker"))
            await finish(worker.client, handle)
    assert exported.told() == program.EXPECTED
    whole, apart = exported.one("orchestration flow"), exported.one("start child")
    detached = [span for span in exported.spans if span["trace"] != whole["trace"]]
    assert sorted(span["name"] for span in detached) == sorted(
        ["orchestration child", "turn child", "activity passes", "run passes", "turn child"]
    )
    assert [span["links"] for span in detached if span["name"] == "orchestration child"] == [[apart["id"]]]


@pytest.mark.own_processes
async def test_a_worker_that_is_killed_in_the_middle_leaves_no_gap_and_no_double(
    exported: Exported, tmp_path: Path
) -> None:
    store, gate = f"sqlite:///{tmp_path / 'store.db'}", program.gates[0]
    async with Client(store, program.app, middleware=[exported.telemetry]) as client:
        with process(store, exported.path, gate) as first:
            handle = await client.start(program.flow, str(tmp_path / "marker"))
            await until(lambda: ("turn child", "?") in exported.told())  # so that `passes` runs in it
            first.kill()
            first.wait()
        before = len(exported.spans)
        gate.touch()
        async with Worker(program.app, store, middleware=[exported.telemetry]):
            await finish(client, handle)
    assert 8 < before < len(program.EXPECTED) - 8
    assert exported.told() == program.EXPECTED


async def test_what_a_refused_commit_would_have_told_is_told_by_the_one_that_is_taken(exported: Exported) -> None:
    provider = connect("memory://refusing", system_ports())
    commit, refusals = provider.commit, ["the last one"]

    async def refusing(lease: Lease, batch: Batch) -> Committed:
        if batch.steps and refusals and any(step.progress.status.is_finished for step in batch.steps):
            raise LeaseLostError(refusals.pop())
        return await commit(lease, batch)

    provider.commit = refusing  # type: ignore[method-assign]
    app, ran = App(), []

    @app.activity
    async def once() -> int:
        ran.append(1)
        return 1

    @app.orchestrator
    async def flow(ctx: OrchestrationContext) -> int:
        return await ctx.call_activity(once)

    async with Worker(app, provider, middleware=[exported.telemetry]) as worker:
        assert await worker.client.run(flow, timeout=30) == 1
    assert not refusals
    assert [name for name, _ in exported.told()] == sorted(
        ["start flow", "orchestration flow", "turn flow", "activity once", "run once", "turn flow"]
    )
    assert len(ran) == 2  # the outcome of the first was lost with the commit, and its span with it


async def test_spans_of_the_users_own_stand_below_the_activity_and_above_what_it_starts(
    exported: Exported, store_url: str
) -> None:
    app, tracer = App(), exported.provider.get_tracer("mine")

    @app.activity
    def in_a_thread() -> None:
        with tracer.start_as_current_span("mine, in a thread"):
            pass

    @app.activity
    async def in_the_loop() -> None:
        with tracer.start_as_current_span("mine, in the loop"):
            await asyncio.sleep(0)

    @app.orchestrator
    async def flow(ctx: OrchestrationContext) -> None:
        await asyncio.gather(ctx.call_activity(in_a_thread), ctx.call_activity(in_the_loop))

    async with Worker(app, store_url, middleware=[exported.telemetry]) as worker:
        with tracer.start_as_current_span("a request"):
            handle = await worker.client.start(flow)
        await handle.result(timeout=30)
    told = exported.told()
    assert ("start flow", "a request") in told
    assert ("mine, in a thread", "run in_a_thread") in told
    assert ("mine, in the loop", "run in_the_loop") in told
    assert len({span["trace"] for span in exported.spans}) == 1


@pytest.mark.parametrize("traced", ["client", "worker"])
async def test_either_side_may_be_without_telemetry(exported: Exported, store_url: str, traced: str) -> None:
    app = App()

    @app.orchestrator
    async def flow(ctx: OrchestrationContext) -> str:
        await asyncio.sleep(0)
        return "done"

    around = {traced: [exported.telemetry]}
    async with Client(store_url, app, middleware=around.get("client", ())) as client:
        async with Worker(app, store_url, middleware=around.get("worker", ()), max_cached_orchestrations=0):
            assert await (await client.start(flow, instance_id="one")).result(timeout=30) == "done"
            with pytest.raises(InstanceAlreadyExistsError):
                await client.start(flow, instance_id="one")
    if traced == "client":
        assert exported.told() == [("start flow", ""), ("start flow", "")]
        assert [span["status"] for span in exported.spans] == ["UNSET", "ERROR"]
        assert exported.spans[1]["attributes"]["durable.start.verdict"] == "exists"
    else:
        assert exported.told() == [("orchestration flow", ""), ("turn flow", "orchestration flow")]


async def test_failures_are_told_by_their_type_and_by_nothing_that_they_say(exported: Exported, store_url: str) -> None:
    app = App()

    @app.activity
    def fail(card: str) -> None:
        raise ValueError(f"no such card: {card}")

    @app.orchestrator
    async def flow(ctx: OrchestrationContext, card: str) -> None:
        ctx.create_timer(3600 * 24 * ctx.scheduled_for.resolution * 10**6)
        await ctx.call_activity(fail, card)

    async with Worker(app, store_url, middleware=[exported.telemetry]) as worker:
        handle = await worker.client.start(flow, "a-secret-card")
        await handle.wait(timeout=30)
    assert "a-secret-card" not in exported.path.read_text()
    for name in ("run fail", "activity fail"):
        assert (exported.one(name)["status"], exported.one(name)["attributes"]["error.type"]) == ("ERROR", "ValueError")
    assert exported.one("orchestration flow")["attributes"]["error.type"] == "durable.errors.ActivityFailedError"
    assert exported.one("timer")["attributes"]["durable.outcome"] in ("abandoned", "cancelled")


async def test_what_is_ended_by_force_is_told_of_with_all_that_was_open(exported: Exported, store_url: str) -> None:
    app = App()

    @app.orchestrator
    async def flow(ctx: OrchestrationContext) -> None:
        await ctx.wait_for_external_event("never", timeout=3600)

    async with Worker(app, store_url, middleware=[exported.telemetry]) as worker:
        handle = await worker.client.start(flow)
        await until(lambda: ("turn flow", "?") in exported.told())
        await handle.terminate()
        await handle.wait(timeout=30)
    assert [name for name, _ in exported.told()] == ["orchestration flow", "start flow", "timer", "turn flow"]
    assert exported.one("orchestration flow")["attributes"]["durable.outcome"] == "terminated"


async def test_turns_of_what_may_never_end_stand_by_themselves(exported: Exported, store_url: str) -> None:
    app = App()

    @app.entity
    class Counter:
        value: int = 0

        def add(self, amount: int) -> int:
            self.value += amount
            return self.value

    @app.orchestrator
    async def flow(ctx: OrchestrationContext, amount: int) -> int:
        return await ctx.call_entity(EntityId(Counter, "one"), "add", amount)

    async with Worker(app, store_url, middleware=[exported.telemetry]) as worker:
        assert [await worker.client.run(flow, amount, timeout=30) for amount in (1, 2)] == [1, 3]
    assert exported.told().count(("turn Counter", "")) == 2
    assert len({span["trace"] for span in exported.spans if span["name"] == "turn Counter"}) == 1
    assert not [pair for pair in exported.told() if pair[1] == "?"]


async def test_a_trace_that_is_not_sampled_is_not_told_of_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "none"
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(0)), shutdown_on_exit=False)
    for processor in [program.provider_to(str(path))._active_span_processor]:
        provider.add_span_processor(processor)
    program.gates[:] = [tmp_path / "gate"]
    program.gates[0].touch()
    async with Worker(program.app, "memory://", middleware=[Telemetry(tracer_provider=provider)]) as worker:
        handle = await worker.client.start(program.flow, str(tmp_path / "marker"))
        await finish(worker.client, handle)
        await worker.client.run(program.child, 1)
    assert path.read_text() == ""
    provider.shutdown()


class Broken(Telemetry):
    def turned(self, taken: Taken) -> Any:
        raise RuntimeError("of its own")


async def test_a_watcher_that_fails_is_logged_and_changes_nothing(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    @app.orchestrator
    async def flow(ctx: OrchestrationContext) -> str:
        await asyncio.sleep(0)
        return "done"

    async with Worker(app, store_url, middleware=[Broken(tracer_provider=trace.NoOpTracerProvider())]) as worker:
        assert await worker.client.run(flow, timeout=30) == "done"
    assert "a watcher of the worker failed" in caplog.text


def test_what_a_start_carries_is_read_as_it_was_written_and_anything_else_is_nothing() -> None:
    one, other = SpanRef("a" * 32, "b" * 16, 1), SpanRef("c" * 32, "d" * 16, 0)
    for carried in (Trace(one), Trace(one, other), Trace(link=other)):
        assert read_trace(str(carried)) == carried
    for text in (None, "", "00-xyz", f"{one}x", f"{one};{other}", "\0" * 55):
        assert read_trace(text) == Trace()
