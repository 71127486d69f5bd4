"""What a turn sends leaves in steps of bounded size, however much it is and however the turn ends; each part once."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    App,
    Client,
    OrchestrationContext,
    OrchestrationStatus,
    OrchestrationTerminatedError,
    Worker,
    when_all,
)
from durable.worker import placing
from tests.worker.lives import becomes_true, key_of, open_store, provider_of, until

COMPLETED, TERMINATED = OrchestrationStatus.COMPLETED, OrchestrationStatus.TERMINATED
RUNNING, FAILED = OrchestrationStatus.RUNNING, OrchestrationStatus.FAILED
MANY = 45


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step sends ten messages here."""
    monkeypatch.setattr(placing, "INLINE_MESSAGES_MAX", 10)


def build_app() -> App:
    app = App()

    @app.activity
    async def work(number: int) -> int:
        return number

    @app.orchestrator
    async def child(ctx: OrchestrationContext, number: int) -> int:
        return number

    @app.orchestrator
    async def waits(ctx: OrchestrationContext) -> None:
        ctx.set_custom_status("waiting")
        await ctx.wait_for_external_event("never")

    @app.orchestrator
    async def ends(ctx: OrchestrationContext, end: str) -> str:
        """Starts many others, and ends in that very turn."""
        for number in range(MANY):
            ctx.start_orchestration("child", number, instance_id=f"child {ctx.generation} {number}")
        if end == "continues" and ctx.generation == 0:
            ctx.continue_as_new(end)
        if end == "fails":
            raise ValueError("at the end")
        return end

    @app.orchestrator
    async def asks(ctx: OrchestrationContext, end: str) -> str:
        return str(await ctx.call_sub_orchestrator("ends", end, instance_id="ends"))

    @app.orchestrator
    async def fans_out(ctx: OrchestrationContext, count: int) -> int:
        calls = [ctx.call_activity(work, number, queue_timeout=timedelta(minutes=5)) for number in range(count)]
        calls[3].cancel()
        ctx.set_custom_status("asked")
        return sum(await when_all([*calls[:3], *calls[4:]]))

    @app.orchestrator
    async def has_children(ctx: OrchestrationContext) -> None:
        children = [ctx.call_sub_orchestrator("waits", instance_id=f"child {number}") for number in range(MANY)]
        await when_all(children)

    return app


class Sent:
    """What the steps of a worker send, as the store gets it; lets only the first of them pass, if that is wanted."""

    def __init__(self, worker: Worker, monkeypatch: pytest.MonkeyPatch, *, passes: int | None = None) -> None:
        self.longest = 0
        self.sending = 0
        self._commit = worker._provider.commit
        self._passes = passes
        monkeypatch.setattr(worker._provider, "commit", self._count)

    async def _count(self, lease: Any, batch: Any) -> Any:
        sizes = [len(step.messages) + len(step.queue_adds) for step in batch.steps]
        self.longest = max(self.longest, *sizes, 0)
        if max(sizes, default=0) > 5:
            self.sending += 1
            if self._passes is not None and self.sending > self._passes:
                await asyncio.Event().wait()
        return await self._commit(lease, batch)


async def finished_children(client: Client) -> Counter[str]:
    return Counter([state.instance_id async for state in client.query(name="child", status=COMPLETED)])


@pytest.mark.parametrize("stops_after", [None, 2], ids=["one worker", "stopped in between"])
@pytest.mark.parametrize("end", ["returns", "fails", "continues"])
async def test_a_run_that_ends_with_much_to_send(
    store_url: str, end: str, stops_after: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(store_url) as client:
        if stops_after is not None:
            monkeypatch.setattr("durable.worker.worker.SETTLE_S", 0.1)
            worker = Worker(build_app(), store_url)
            sent = Sent(worker, monkeypatch, passes=stops_after)
            async with worker:
                await client.start("asks", end, instance_id="asks")
                await becomes_true(lambda: sent.sending > stops_after)
                assert (await client.get("ends").state()).status is RUNNING
        worker = Worker(build_app(), store_url)
        sent = Sent(worker, monkeypatch)
        async with worker:
            if stops_after is None:
                await client.start("asks", end, instance_id="asks")
            state = await client.get("asks").wait(timeout=20)
            assert state.status is (FAILED if end == "fails" else COMPLETED)
            generations = 2 if end == "continues" else 1
            await becomes_true(lambda: _count_is(client, MANY * generations))
            ended = await client.get("ends").state()
            assert ended.status is (FAILED if end == "fails" else COMPLETED)
            assert ended.output == (None if end == "fails" else end)
            assert sent.longest <= 10
            assert await client.get("ends").dropped() == []


async def test_a_run_that_stalled_while_it_was_sending_ends_like_any_other(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its owners there was one that lacked its code."""
    monkeypatch.setattr("durable.worker.worker.SETTLE_S", 0.1)
    async with open_store(store_url) as client:
        worker = Worker(build_app(), store_url)
        sent = Sent(worker, monkeypatch, passes=2)
        async with worker:
            handle = await client.start("ends", "returns")
            await becomes_true(lambda: sent.sending > 2)
        async with Worker(App(), store_url):
            await until(handle, OrchestrationStatus.STALLED)
        async with Worker(build_app(), store_url):
            assert await handle.result(timeout=20) == "returns"
            assert (await handle.state()).stall_reason is None
            async with provider_of(store_url) as provider:
                [row] = await provider.load([(key_of(handle), None)])
            assert row is not None
            assert row.parked_until == 0


async def _count_is(client: Client, count: int) -> bool:
    found = await finished_children(client)
    assert max(found.values(), default=0) <= 1
    return len(found) == count


@pytest.mark.parametrize("stops_after", [None, 2], ids=["one worker", "stopped in between"])
async def test_a_fan_out_to_the_queue(store_url: str, stops_after: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first workers only decide; one that works comes last."""
    async with open_store(store_url) as client:
        if stops_after is not None:
            monkeypatch.setattr("durable.worker.worker.SETTLE_S", 0.1)
            worker = Worker(build_app(), store_url, activities=False)
            sent = Sent(worker, monkeypatch, passes=stops_after)
            async with worker:
                await client.start("fans_out", MANY, instance_id="fans out")
                await becomes_true(lambda: sent.sending > stops_after)
        worker = Worker(build_app(), store_url, activities=False)
        sent = Sent(worker, monkeypatch)
        async with worker:
            if stops_after is None:
                await client.start("fans_out", MANY, instance_id="fans out")
            handle: Any = client.get("fans out")
            await until(handle, status="asked")
            async with Worker(build_app(), store_url, orchestrations=False):
                assert await handle.result(timeout=30) == sum(range(MANY)) - 3
            names = Counter(type(event).__name__ for event in await handle.history())
            assert names["ActivityCompleted"] == MANY - 1
            assert await handle.dropped() == []
            assert 0 < sent.longest <= 10


@pytest.mark.parametrize("again", [False, True], ids=["one worker", "stopped in between"])
async def test_a_termination_ends_its_children_in_steps(
    store_url: str, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(store_url) as client:
        worker = Worker(build_app(), store_url)
        async with worker:
            handle = await client.start("has_children", instance_id="parent")
            await becomes_true(lambda: _waiting(client))
            sent = Sent(worker, monkeypatch, passes=2 if again else None)
            if again:
                monkeypatch.setattr("durable.worker.worker.SETTLE_S", 0.1)
            await handle.terminate("enough")
            if again:
                await becomes_true(lambda: sent.sending > 2)
            else:
                await until(handle, TERMINATED)
        async with Worker(build_app(), store_url):
            with pytest.raises(OrchestrationTerminatedError, match="enough"):
                await handle.result(timeout=20)
            await becomes_true(lambda: client_count(client, TERMINATED, MANY))
        assert 0 < sent.longest <= 10


async def _waiting(client: Client) -> bool:
    return len([1 async for state in client.query(name="waits") if state.custom_status == "waiting"]) == MANY


async def client_count(client: Client, status: OrchestrationStatus, count: int) -> bool:
    return await client.count(name="waits", status=status) == count
