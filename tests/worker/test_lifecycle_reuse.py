"""Starting under an id: each reuse policy, on an id that is free, running, finished, or waits for its time."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    Client,
    Handle,
    InstanceAlreadyExistsError,
    InstanceFinishedError,
    OrchestrationStatus,
    OrchestrationTerminatedError,
    ReusePolicy,
    Worker,
)
from tests.worker.lives import STYLES, delay_commits, lives_app, open_store, until

app = lives_app()

SITUATIONS = ("absent", "running", "suspended", "finished", "delayed")

NEW, EXISTING, REFUSED = "new", "existing", "refused"

OUTCOMES = {
    ReusePolicy.REJECT: {
        "absent": NEW,
        "running": REFUSED,
        "suspended": REFUSED,
        "finished": REFUSED,
        "delayed": REFUSED,
    },
    ReusePolicy.USE_EXISTING: {
        "absent": NEW,
        "running": EXISTING,
        "suspended": EXISTING,
        "finished": EXISTING,
        "delayed": EXISTING,
    },
    ReusePolicy.USE_RUNNING: {
        "absent": NEW,
        "running": EXISTING,
        "suspended": EXISTING,
        "finished": NEW,
        "delayed": EXISTING,
    },
    ReusePolicy.REPLACE_FINISHED: {
        "absent": NEW,
        "running": REFUSED,
        "suspended": REFUSED,
        "finished": NEW,
        "delayed": REFUSED,
    },
    ReusePolicy.TERMINATE_AND_REPLACE: {
        "absent": NEW,
        "running": NEW,
        "suspended": NEW,
        "finished": NEW,
        "delayed": NEW,
    },
}

DELAY = timedelta(seconds=0.5)


async def bring_about(client: Client, situation: str, style: str) -> Handle[Any] | None:
    """Make the id `the-one` stand like this."""
    if situation == "absent":
        return None
    at = DELAY if situation == "delayed" else None
    handle = await client.start(f"waits-{style}", "old", instance_id="the-one", at=at)
    if situation in ("running", "suspended"):
        await until(handle, status="waiting")
    if situation == "suspended":
        await handle.suspend()
        await until(handle, OrchestrationStatus.SUSPENDED)
    if situation == "finished":
        await handle.raise_event("go", "done")
        assert await handle.result(timeout=10) == ["old", "done"]
    return handle


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("policy", ReusePolicy, ids=lambda policy: policy.name)
async def test_each_reuse_policy_does_what_it_says(
    store_url: str, policy: ReusePolicy, situation: str, style: str
) -> None:
    """The events given with the start reach the instance that the call returns, in one step, and no other."""
    async with Worker(app, store_url) as worker:
        client = worker.client
        old = await bring_about(client, situation, style)

        async def start() -> Handle[Any]:
            return await client.start(
                f"waits-{style}",
                "new",
                instance_id="the-one",
                reuse_policy=policy,
                events=[("go", "come"), ("spare", 1)],
            )

        outcome = OUTCOMES[policy][situation]
        if outcome == REFUSED:
            assert old is not None
            with pytest.raises(InstanceAlreadyExistsError) as refused:
                await start()
            assert refused.value.state.run_id == old.run_id
            assert refused.value.state.status is (await old.state()).status
            assert refused.value.state.input == "old"
            return
        if outcome == EXISTING and situation == "finished":
            with pytest.raises(InstanceFinishedError):
                await start()
            again = await client.start(f"waits-{style}", "new", instance_id="the-one", reuse_policy=policy)
            assert old is not None
            assert again.run_id == old.run_id
            assert await again.result() == ["old", "done"]
            return
        handle = await start()
        assert handle.instance_id == "the-one"
        assert (handle.run_id == (old.run_id if old else None)) == (outcome == EXISTING)
        if outcome == EXISTING and situation == "suspended":
            await handle.resume()
        assert await handle.result(timeout=10) == ["new" if outcome == NEW else "old", "come"]
        assert [(item.kind, item.name) for item in await handle.dropped()] == [("EventRaised", "spare")]
        if old is not None and outcome == NEW and situation != "finished":
            with pytest.raises(OrchestrationTerminatedError):
                await old.result(timeout=10)


@pytest.mark.parametrize(
    "policy", [ReusePolicy.USE_RUNNING, ReusePolicy.REPLACE_FINISHED, ReusePolicy.TERMINATE_AND_REPLACE]
)
async def test_a_handle_shows_the_end_of_its_own_run_after_a_replacement(store_url: str, policy: ReusePolicy) -> None:
    """`start`'s handle stays with its run; `get`'s follows the current one."""
    async with Worker(app, store_url) as worker:
        client = worker.client
        first = await client.start("returns-async", "one", instance_id="the-one")
        assert await first.result(timeout=10) == "one"
        second = await client.start("waits-async", "two", instance_id="the-one", reuse_policy=policy)
        current = client.get("the-one")
        assert await first.result() == "one"
        assert (await first.wait()).output == "one"
        assert (await first.state()).status is OrchestrationStatus.COMPLETED
        assert [state.output async for state in first.watch()] == ["one"]
        assert (await first.history()).run_id == first.run_id
        assert await first.dropped() == []
        with pytest.raises(InstanceFinishedError):
            await first.raise_event("go")
        for steer in (first.cancel, first.terminate, first.suspend, first.resume):
            with pytest.raises(InstanceFinishedError):
                await steer()
        await until(second, status="waiting")
        assert (await current.state()).run_id == second.run_id
        await current.raise_event("go", 2)
        assert await current.result(timeout=10) == ["two", 2]
        assert await second.result(timeout=10) == ["two", 2]
        assert await first.purge() == 1
        assert await second.result() == ["two", 2]


async def test_only_one_of_many_simultaneous_starts_wins(store_url: str) -> None:
    """50 starts of one id at once: REJECT lets one through, USE_EXISTING gives all the same run."""
    async with Worker(app, store_url) as worker, Client(store_url, app) as other:
        clients = [worker.client, other]
        found = await asyncio.gather(
            *(clients[n % 2].start("waits-async", n, instance_id="one") for n in range(50)), return_exceptions=True
        )
        assert sum(isinstance(item, Handle) for item in found) == 1
        assert sum(isinstance(item, InstanceAlreadyExistsError) for item in found) == 49
        shared = await asyncio.gather(
            *(
                clients[n % 2].start("waits-async", n, instance_id="two", reuse_policy=ReusePolicy.USE_EXISTING)
                for n in range(50)
            )
        )
        assert len({handle.run_id for handle in shared}) == 1
        assert await worker.client.count() == 2


async def test_replacing_again_and_again_ends_every_older_run(store_url: str) -> None:
    """20 replacements in a row, without waiting between them: each older run is TERMINATED, the last one lives."""
    async with Worker(app, store_url) as worker:
        handles = [
            await worker.client.start(
                "waits-generator", n, instance_id="one", reuse_policy=ReusePolicy.TERMINATE_AND_REPLACE
            )
            for n in range(20)
        ]
        for handle in handles[:-1]:
            assert (await handle.wait(timeout=10)).status is OrchestrationStatus.TERMINATED
        await handles[-1].raise_event("go", "last")
        assert await handles[-1].result(timeout=10) == [19, "last"]


async def test_a_replacing_start_is_pending_until_the_worker_comes(store_url: str) -> None:
    """Without a worker the new handle is PENDING, the old one still runs; both are settled when one appears."""
    async with open_store(store_url, app) as client:
        async with Worker(app, store_url) as worker:
            old = await client.start("waits-async", "old", instance_id="one")
            await until(old, status="waiting")
            del worker
        new = await client.start(
            "waits-async", "new", instance_id="one", reuse_policy=ReusePolicy.TERMINATE_AND_REPLACE
        )
        assert (await new.state()).status is OrchestrationStatus.PENDING
        assert (await old.state()).status is OrchestrationStatus.RUNNING
        await new.raise_event("go", 1)
        await new.suspend()
        await new.resume()
        async with Worker(app, store_url):
            assert await new.result(timeout=10) == ["new", 1]
            assert (await old.wait(timeout=10)).status is OrchestrationStatus.TERMINATED


async def test_a_run_started_the_moment_another_ends_is_never_lost(store_url: str) -> None:
    """End, event to the ended, start anew, end, … as fast as it goes: what comes late for one run harms no other."""
    async with Worker(app, store_url) as worker, Client(store_url, app) as other:
        delay_commits(worker, 0.002)
        for number in range(40):
            handle = await worker.client.start(
                "waits-async", number, instance_id="one", reuse_policy=ReusePolicy.REPLACE_FINISHED
            )
            await handle.raise_event("go", "first")
            late = asyncio.gather(
                *(other.get("one").raise_event("go", extra) for extra in range(3)), return_exceptions=True
            )
            assert await handle.result(timeout=10) in [[number, data] for data in ("first", 0, 1, 2)]
            await late


@pytest.mark.parametrize("style", STYLES)
async def test_a_replacement_that_races_with_the_end_of_the_old_run_takes_place(store_url: str, style: str) -> None:
    """The old run ends by itself or by the replacement, whichever commits first; the new one runs in either case.

    Commits wait a moment here, so that the start is often stored while the end is on its way.
    """
    async with Worker(app, store_url) as worker, Client(store_url, app) as other:
        delay_commits(worker, 0.003)
        old = await worker.client.start(f"waits-{style}", 0, instance_id="one")
        ends = set()
        for number in range(1, 60):
            await old.raise_event("go", number)
            if number % 2:
                await asyncio.sleep(0.001 * (number % 5))
            new = await other.start(
                f"waits-{style}",
                number,
                instance_id="one",
                events=[("spare", number)],
                reuse_policy=ReusePolicy.TERMINATE_AND_REPLACE,
            )
            ends.add((await old.wait(timeout=10)).status)
            await until(new, status="waiting")
            old = new
        assert OrchestrationStatus.COMPLETED in ends
        assert ends <= {OrchestrationStatus.COMPLETED, OrchestrationStatus.TERMINATED}


@pytest.mark.parametrize("situation", ["absent", "running", "finished"])
@pytest.mark.parametrize("restart", [False, True], ids=["one worker", "two workers"])
async def test_replacing_with_a_delayed_start_ends_the_old_now(store_url: str, situation: str, restart: bool) -> None:
    async with open_store(store_url, app) as client:
        async with Worker(app, store_url):
            old = await bring_about(client, situation, "async")
            new = await replace_later(client, timedelta(hours=1))
            if old is not None and situation == "running":
                assert (await old.wait(timeout=10)).status is OrchestrationStatus.TERMINATED
            assert (await new.state()).status is OrchestrationStatus.PENDING
        if restart:
            async with Worker(app, store_url) as worker:
                assert await worker.client.run("returns-async", 1, timeout=10) == 1
                assert (await new.state()).status is OrchestrationStatus.PENDING


@pytest.mark.parametrize("situation", ["absent", "running", "finished"])
@pytest.mark.parametrize("restart", [False, True], ids=["one worker", "two workers"])
async def test_replacing_with_a_delayed_start_begins_the_new_when_due(
    store_url: str, situation: str, restart: bool
) -> None:
    async with open_store(store_url, app) as client:
        async with Worker(app, store_url):
            await bring_about(client, situation, "async")
            new = await replace_later(client, timedelta(seconds=0.2))
            if not restart:
                assert await new.result(timeout=10) == ["new", 1]
        async with Worker(app, store_url):
            assert await new.result(timeout=10) == ["new", 1]
            state = await new.state()
            assert state.last_updated_at >= state.scheduled_at


async def replace_later(client: Client, at: timedelta) -> Handle[Any]:
    options: Any = {"instance_id": "the-one", "reuse_policy": ReusePolicy.TERMINATE_AND_REPLACE}
    return await client.start("waits-async", "new", at=at, events=[("go", 1)], **options)


@pytest.mark.parametrize("steer", ["cancel", "terminate", "replace", "suspend"])
async def test_a_delayed_start_that_has_replaced_another_can_be_steered_before_it_is_due(
    store_url: str, steer: str
) -> None:
    async with Worker(app, store_url) as worker:
        client = worker.client
        await bring_about(client, "running", "async")
        options: Any = {"instance_id": "the-one", "reuse_policy": ReusePolicy.TERMINATE_AND_REPLACE}
        new = await client.start("waits-async", "new", at=timedelta(seconds=0.6), events=[("go", 1)], **options)
        if steer == "replace":
            third = await client.start("waits-async", "third", events=[("go", 3)], **options)
            assert await third.result(timeout=0.5) == ["third", 3]
            assert (await new.wait(timeout=1)).status is OrchestrationStatus.TERMINATED
            return
        await getattr(new, steer)("early")
        if steer == "suspend":
            await until(new, OrchestrationStatus.SUSPENDED)
            await new.resume()
            assert await new.result(timeout=10) == ["new", 1]
            state = await new.state()
            assert state.last_updated_at >= state.scheduled_at
            return
        end = OrchestrationStatus.CANCELLED if steer == "cancel" else OrchestrationStatus.TERMINATED
        assert (await new.wait(timeout=0.5)).status is end
        assert [item.name for item in await new.dropped()] == ["go"]


@pytest.mark.diverges("no app knows the orchestrator of the run that was replaced")
async def test_a_stalled_instance_is_replaced_by_one_that_can_run(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        stalled = await worker.client.start("nobody knows it", instance_id="the-one")
        await until(stalled, OrchestrationStatus.STALLED)
        new = await worker.client.start(
            "waits-async",
            "new",
            instance_id="the-one",
            events=[("go", 1)],
            reuse_policy=ReusePolicy.TERMINATE_AND_REPLACE,
        )
        assert await new.result(timeout=10) == ["new", 1]
        assert (await stalled.wait(timeout=1)).status is OrchestrationStatus.TERMINATED


@pytest.mark.parametrize("end", ["terminate", "cancel"])
async def test_a_run_that_is_to_replace_one_that_is_ended_before_it_begins_with_all_that_was_sent_to_it(
    store_url: str, end: str
) -> None:
    """Both wait for a worker: the end of the old run, and the run that is to take its place."""
    async with open_store(store_url, app) as client:
        async with Worker(app, store_url):
            old = await client.start("waits-async", "old", instance_id="the-one")
            await until(old, OrchestrationStatus.RUNNING)
        await (old.terminate() if end == "terminate" else old.cancel())
        new = await client.start(
            "collects-async",
            2,
            instance_id="the-one",
            reuse_policy=ReusePolicy.TERMINATE_AND_REPLACE,
            events=[("item", 1)],
        )
        await new.raise_event("item", 2)
        async with Worker(app, store_url):
            assert await new.result(timeout=20) == [1, 2]
            assert (await old.state()).status is OrchestrationStatus.TERMINATED
            assert not await new.dropped()


async def test_a_replacing_start_that_is_not_due_waits_for_its_time_though_events_came_and_the_worker_changed(
    store_url: str,
) -> None:
    async with open_store(store_url, app) as client:
        async with Worker(app, store_url):
            old = await client.start("waits-async", "old", instance_id="the-one")
            await until(old, OrchestrationStatus.RUNNING)
            new = await client.start(
                "collects-async",
                2,
                instance_id="the-one",
                at=timedelta(hours=1),
                reuse_policy=ReusePolicy.TERMINATE_AND_REPLACE,
            )
            await old.wait(timeout=20)
            await new.raise_event("item", 1)
            assert await client.run("returns-async", 1, timeout=10) == 1
        async with Worker(app, store_url):
            await new.raise_event("item", 2)
            assert await client.run("returns-async", 2, timeout=10) == 2
            assert (await new.state()).status is OrchestrationStatus.PENDING
            assert not await new.history()
