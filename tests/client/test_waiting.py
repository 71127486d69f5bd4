"""Waiting: every end is seen, at once where the owner is in this process, within the poll bound where nobody tells.

Method: an owner played by hand ends instances; wake-ups are suppressed by a store that never tells anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from durable import events as ev
from durable.client import Client
from durable.client.waiting import INTERVAL_MAX, Watch
from durable.errors import (
    DurableError,
    FailureDetails,
    InstanceNotFoundError,
    OrchestrationCancelledError,
    OrchestrationFailedError,
    OrchestrationTerminatedError,
    StoreUnavailableError,
)
from durable.events import InstanceKey
from durable.model import OrchestrationStatus
from durable.payloads import MisfitError, encode
from durable.ports import system_ports
from durable.provider import InstanceRow, Status, Wakeup
from durable.stores import connect
from tests.client.conftest import Stage
from tests.client.owner import Owner, owner_of
from tests.client.programs import Order, alone, app, double, ship
from tests.worker.lives import becomes_true


@contextlib.asynccontextmanager
async def deaf(store_url: str) -> AsyncIterator[tuple[Client, Owner, list[int]]]:
    """A client that hears nothing, and the number of rows of each of its loads."""
    provider = connect(store_url, system_ports())
    loads: list[int] = []
    load = provider.load

    async def counted(targets: Any) -> Any:
        loads.append(len(targets))
        return await load(targets)

    provider.load = counted  # type: ignore[method-assign]
    provider.listen = lambda callback: lambda: None  # type: ignore[method-assign]
    async with owner_of(store_url) as owner, Client(provider, app) as client:
        yield client, owner, loads


async def soon(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


# ---- how it ended


async def test_the_result_is_made_by_the_return_annotation(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(ship, Order(1, ["a"]), instance_id="a")
        await owner.complete("a", {"number": 2, "lines": ["b"]})
        assert await handle.result(timeout=5) == Order(2, ["b"])
        assert await client.get("a", ship).result(timeout=5) == Order(2, ["b"])
        assert await client.get("a").result(timeout=5) == {"number": 2, "lines": ["b"]}
        assert (await handle.wait(timeout=5)).output == {"number": 2, "lines": ["b"]}


async def test_none_is_a_result(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(alone, instance_id="a")
        await owner.complete("a")
        result: object = await handle.result(timeout=5)  # type: ignore[func-returns-value]
        assert result is None


async def test_a_result_that_no_longer_fits_is_an_error_of_the_reader(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(double, 1, instance_id="a")
        await owner.complete("a", "text")
        with pytest.raises(MisfitError, match="result of 'a'"):
            await handle.result(timeout=5)
        assert (await handle.state()).output == "text"


async def test_a_failure_is_raised_with_its_details(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(double, 1, instance_id="a")
        await owner.turn("a", ev.OrchestrationFailed(FailureDetails("shop.Broken", "it broke")))
        with pytest.raises(OrchestrationFailedError, match="it broke") as caught:
            await handle.result(timeout=5)
        assert caught.value.details.is_caused_by("Broken")
        assert (await handle.wait(timeout=5)).failure_details == caught.value.details


@pytest.mark.parametrize("reason", ["no longer wanted", ""])
async def test_cancelled_and_terminated_raise_with_the_reason(stage: Stage, reason: str) -> None:
    async with stage() as (client, owner):
        cancelled = await client.start(double, 1, instance_id="a")
        terminated = await client.start(double, 1, instance_id="b")
        await owner.turn("a", ev.OrchestrationCancelled(reason))
        await owner.turn("b", ev.OrchestrationTerminated(reason))
        with pytest.raises(OrchestrationCancelledError, match=f"cancelled.*{reason}$"):
            await cancelled.result(timeout=5)
        with pytest.raises(OrchestrationTerminatedError, match=f"terminated.*{reason}$"):
            await terminated.result(timeout=5)
        assert (await terminated.wait(timeout=5)).status is OrchestrationStatus.TERMINATED


# ---- when it is seen


async def test_an_end_in_this_process_is_seen_without_a_poll(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durable.client.waiting.INTERVAL_FIRST", 30.0)
    async with stage() as (client, owner):
        handle = await client.start(double, 1, instance_id="a")
        waiting = asyncio.create_task(handle.result(timeout=20))
        await asyncio.sleep(0)
        await owner.complete("a", 2)
        async with asyncio.timeout(5):
            assert await waiting == 2


@pytest.mark.parametrize("by", ["start", "get"])
async def test_an_end_that_nobody_tells_of_is_seen_within_the_poll_bound(store_url: str, by: str) -> None:
    async with deaf(store_url) as (client, owner, _):
        handle: Any = await client.start(double, 1, instance_id="a")
        handle = handle if by == "start" else client.get("a")
        waiting = asyncio.create_task(handle.result())
        await asyncio.sleep(0.3)
        await owner.complete("a", 2)
        began = time.monotonic()
        assert await waiting == 2
        assert time.monotonic() - began < INTERVAL_MAX + 0.5


async def test_what_is_heard_late_does_not_put_off_the_look_at_an_end(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines come in any order: that a run has changed may be heard after its end, before that was looked at."""
    for name in ("INTERVAL_FIRST", "INTERVAL_MAX"):
        monkeypatch.setattr(f"durable.client.waiting.{name}", 600.0)
    async with deaf(store_url) as (client, owner, _):
        handle = await client.start(double, 1, instance_id="a")
        waiting = asyncio.create_task(handle.result())
        await asyncio.sleep(0)
        await owner.complete("a", 2)
        assert not waiting.done()
        assert handle.run_id is not None
        client.connection.waiters._hear(Wakeup(ended=[handle.run_id]))
        client.connection.waiters._hear(Wakeup(changed=[handle.run_id]))
        async with asyncio.timeout(10):
            assert await waiting == 2


async def test_a_look_that_is_due_is_not_put_off_by_what_is_told_later(store_url: str) -> None:
    """Each poll is followed by a rest; polls for ends that are told of, one after the other, must not add theirs up."""
    async with deaf(store_url) as (client, _, loads):
        await client.start(double, 1, instance_id="a")
        waiters = client.connection.waiters
        with waiters.watch(InstanceKey("a"), None) as watch:
            await soon(lambda: bool(loads) and waiters._poll is None)
            for rest in (0.5, 600.0):
                waiters._rest_until = asyncio.get_running_loop().time() + rest
                waiters._hear(Wakeup(ended=["another"]))
            assert watch.look_at < asyncio.get_running_loop().time() + 1.0


async def test_ends_that_are_told_of_do_not_put_off_the_look_at_all(store_url: str) -> None:
    async with deaf(store_url) as (client, _, loads):
        handle = await client.start(double, 1, instance_id="a")
        assert handle.run_id is not None
        waiters = client.connection.waiters
        with waiters.watch(InstanceKey("a"), handle.run_id):
            await soon(lambda: bool(loads) and waiters._poll is None)
            rest_until = waiters._rest_until = asyncio.get_running_loop().time() + 0.5
            waiters._hear(Wakeup(states=True))
            loads.clear()
            waiters._hear(Wakeup(ended=[handle.run_id]))
            await soon(lambda: bool(loads) and waiters._poll is None)
            assert waiters._rest_until == rest_until


async def test_the_poll_slows_down_and_is_shared(store_url: str) -> None:
    async with deaf(store_url) as (client, owner, loads):
        handles = [await client.start(double, 1, instance_id=f"i{number}") for number in range(100)]
        waiting = [asyncio.create_task(handle.result()) for handle in handles]
        await asyncio.sleep(0.6)
        assert 2 * 100 <= sum(loads) <= 10 * 100, "each is looked at again and again, and nothing spins"
        # All together, also those who came too late for the others' first look.
        await becomes_true(lambda: max(loads) == 100)
        assert len(loads) <= 21, "each alone would be looked at some seven times"
        for number in range(100):
            await owner.complete(f"i{number}", number)
        assert await asyncio.gather(*waiting) == list(range(100))


async def test_a_timer_that_comes_a_hair_early_is_not_set_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop may run it when its clock has not quite come there; where time stands still meanwhile that would not end."""
    loop, now, until, timers = asyncio.get_running_loop(), 0.0, 1.0, 0

    def call_at(when: float, callback: Callable[..., object], *arguments: Any) -> asyncio.Handle:
        nonlocal now, timers
        now, timers = when - 1e-9, timers + 1
        assert timers < 10, "it is set again and again"
        return loop.call_soon(callback, *arguments)

    watch = Watch(InstanceKey("a"), None, shows_all=False)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "time", lambda: now)
        patch.setattr(loop, "call_at", call_at)
        with pytest.raises(TimeoutError):
            await watch.next(until)
    assert timers == 1


async def test_a_result_that_is_there_is_had_at_once(store_url: str) -> None:
    async with deaf(store_url) as (client, owner, loads):
        handle = await client.start(double, 1, instance_id="a")
        await owner.complete("a", 2)
        await asyncio.sleep(0.02)
        loads.clear()
        assert await handle.result() == 2
        assert loads == [1]


async def test_an_outage_while_waiting_is_waited_out(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage() as (client, owner):
        handle = await client.start(double, 1, instance_id="a")
        provider = client.connection.provider
        load, tries = provider.load, 0

        async def failing(targets: Any) -> Any:
            nonlocal tries
            tries += 1
            if tries < 4:
                raise StoreUnavailableError("away")
            return await load(targets)

        client.connection.waiters._stop_listening()
        monkeypatch.setattr(provider, "load", failing)
        await owner.complete("a", 2)
        assert await handle.result(timeout=10) == 2
        assert tries == 4


# ---- not in time


@pytest.mark.parametrize("timeout", [0, 0.05, -1, timedelta(milliseconds=50), timedelta(-1)])
async def test_a_timeout_says_where_the_instance_stands(stage: Stage, timeout: Any) -> None:
    async with stage() as (client, owner):
        handle = await client.start(double, 1, instance_id="a")
        await owner.turn("a", status=Status.STALLED, stall_reason="no such version")
        with pytest.raises(TimeoutError, match=r"'a' .*STALLED.*no such version"):
            await handle.result(timeout)
        with pytest.raises(TimeoutError, match="STALLED"):
            await handle.wait(timeout=timeout)


async def test_a_timeout_of_nothing_still_looks_once(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(double, 1, instance_id="a")
        await owner.complete("a", 2)
        assert await handle.result(0) == 2
        assert await client.get("a").result(timeout=0) == 2
        with pytest.raises(InstanceNotFoundError):
            await client.get("b").result(timeout=0)


@pytest.mark.parametrize("timeout", ["5", True, float("nan")])
async def test_what_is_no_timeout_is_refused(stage: Stage, timeout: Any) -> None:
    async with stage() as (client, _):
        with pytest.raises((TypeError, ValueError)):
            await client.run(alone, timeout=timeout)
        assert await client.count() == 0


async def test_a_run_that_times_out_goes_on(stage: Stage) -> None:
    async with stage() as (client, owner):
        with pytest.raises(TimeoutError):
            await client.run(double, 1, timeout=0.01, instance_id="a")
        await owner.complete("a", 2)
        assert await client.get("a").result(timeout=5) == 2


# ---- what leaves nothing behind


def idle(client: Client) -> bool:
    waiters = client.connection.waiters
    return not (waiters._by_run or waiters._by_key or waiters._queue or waiters._timer)


async def test_waiters_that_give_up_leave_nothing_behind(stage: Stage) -> None:
    async with stage() as (client, _):
        before = asyncio.all_tasks()  # some stores have one that listens
        handle = await client.start(double, 1, instance_id="a")
        tasks = [asyncio.create_task(handle.result()) for _ in range(5)]
        tasks += [asyncio.create_task(client.get("a").result()) for _ in range(5)]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with pytest.raises(TimeoutError):
            await handle.result(0.01)
        with pytest.raises(InstanceNotFoundError):
            await client.get("nobody").wait(5)
        assert idle(client)
        await soon(lambda: client.connection.waiters._poll is None)
        assert asyncio.all_tasks() <= before


async def test_one_waiter_that_gives_up_does_not_take_others_along(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(double, 1, instance_id="a")
        patient, hasty = asyncio.create_task(handle.result()), asyncio.create_task(handle.result())
        await asyncio.sleep(0.01)
        hasty.cancel()
        await asyncio.sleep(0.01)
        await owner.complete("a", 2)
        assert await patient == 2
        assert hasty.cancelled()


async def test_closing_ends_all_waiting(store_url: str) -> None:
    async with owner_of(store_url):
        client = Client(store_url, app)
        await client.__aenter__()
        handle = await client.start(double, 1, instance_id="a")
        waiting = asyncio.create_task(handle.result())
        await asyncio.sleep(0.01)
        await client.__aexit__(None, None, None)
        with pytest.raises(DurableError, match="closed"):
            await waiting
        assert asyncio.all_tasks() == {asyncio.current_task()}


# ---- purged, replaced


async def test_purged_meanwhile_is_not_found(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(double, 1, instance_id="a")
        await owner.complete("a", 2)
        assert await handle.result(timeout=5) == 2
        assert await handle.purge() == 1
        for call in (handle.result, handle.wait, handle.state, handle.history, handle.dropped, handle.purge):
            with pytest.raises(InstanceNotFoundError):
                await call()


async def test_a_purge_is_noticed_by_those_who_wait(store_url: str) -> None:
    async with deaf(store_url) as (client, owner, _):
        handle = await client.start(double, 1, instance_id="a")
        waiting = asyncio.create_task(handle.result())
        await asyncio.sleep(0.05)
        row = await owner.row("a")
        client.connection.provider.load = lambda targets: _none(targets)  # type: ignore[method-assign]
        await owner.complete("a", 2)
        await owner.provider.purge([(row.key, row.run_id)])
        with pytest.raises(InstanceNotFoundError, match="'a'"):
            await waiting


async def _none(targets: Any) -> list[InstanceRow | None]:
    return [None for _ in targets]


async def test_a_handle_from_get_follows_the_current_run(stage: Stage) -> None:
    async with stage() as (client, owner):
        from durable.model import ReusePolicy

        bound = await client.start(double, 1, instance_id="a")
        following = client.get("a")
        assert following.run_id is None
        assert (await following.state()).run_id == following.run_id == bound.run_id
        await owner.turn("a")
        waiting = asyncio.create_task(following.result(timeout=10))
        await client.start(double, 2, instance_id="a", reuse_policy=ReusePolicy.TERMINATE_AND_REPLACE)
        row = await owner.replace("a")
        await asyncio.sleep(0.05)
        assert not waiting.done(), "the end of a run that was replaced is not the end of the instance"
        await owner.complete("a", 4)
        assert await waiting == 4
        assert following.run_id == row.run_id
        with pytest.raises(OrchestrationTerminatedError):
            await bound.result(timeout=5)


# ---- watching


async def test_watch_shows_each_change_and_ends_with_the_end(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(double, 1, instance_id="a")
        seen: list[tuple[str, Any]] = []

        async def watch() -> None:
            async for state in handle.watch():
                seen.append((state.status.name, state.custom_status))

        watching = asyncio.create_task(watch())
        await soon(lambda: len(seen) == 1)
        await owner.turn("a")
        await soon(lambda: len(seen) == 2)
        await owner.turn("a")  # changes nothing that is watched
        await owner.turn("a", custom_status=encode({"done": 1}))
        await soon(lambda: len(seen) == 3)
        await owner.turn("a", status=Status.SUSPENDED)
        await soon(lambda: len(seen) == 4)
        await owner.complete("a", 2)
        await asyncio.wait_for(watching, 10)
        custom = {"done": 1}
        assert seen == [
            ("PENDING", None),
            ("RUNNING", None),
            ("RUNNING", custom),
            ("SUSPENDED", custom),
            ("COMPLETED", custom),
        ]


async def test_watch_of_what_has_ended_shows_the_end(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(double, 1, instance_id="a")
        await owner.complete("a", 2)
        assert [state.output async for state in handle.watch()] == [2]
        with pytest.raises(InstanceNotFoundError):
            await anext(client.get("nobody").watch())


async def test_a_watch_that_is_left_leaves_nothing_behind(stage: Stage) -> None:
    async with stage() as (client, _):
        handle = await client.start(double, 1, instance_id="a")
        async for _ in handle.watch():
            break
        await soon(lambda: idle(client))


async def test_an_older_row_never_follows_a_newer_one(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(double, 1, instance_id="a")
        older = await owner.row("a")
        newer = dataclasses.replace(older, records=3, status=Status.RUNNING)
        ended = dataclasses.replace(newer, records=4, status=Status.COMPLETED)
        with client.connection.waiters.watch(InstanceKey("a"), handle.run_id, shows_all=True, is_fresh=True) as watch:
            for row in (newer, older, ended, newer):
                client.connection.waiters._hear(Wakeup(rows=[row]))
            assert [await watch.next(), await watch.next()] == [newer, ended]
            assert not watch._rows
