"""Many instances: query, count, wait and purge mean the same by the same filters."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest

from durable.client import Client
from durable.errors import InstanceNotFoundError, InstanceRunningError
from durable.events import InstanceKey, TaskRef
from durable.messages import encode_arrivals, new_row
from durable.model import OrchestrationStatus, ReusePolicy
from durable.provider import Expects, Message, Status
from tests.client.conftest import Stage
from tests.client.owner import Owner
from tests.client.programs import alone, double


async def ids(client: Client, **filters: Any) -> list[str]:
    return [state.instance_id async for state in client.query(**filters)]


async def child(client: Client, parent: str, name: str) -> None:
    """Start an instance as a child of the current run of another."""
    run_id = (await client.get(parent).state()).run_id
    ref = TaskRef(parent, "o", run_id, 0, 1)
    row = new_row(
        InstanceKey(name), 64, f"run of {name}", "double", None, now=1, scheduled_at=1, payload=None, parent=ref
    )
    message = Message(row.key, row.partition, encode_arrivals([]), start=row, expects=Expects.ABSENT)
    await client.connection.submitter.submit(message)


# ---- query and count


async def test_all_filters_limit_and_combine(stage: Stage) -> None:
    async with stage() as (client, owner):
        # A store with a clock of its own may be a little behind.
        before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=0.1)
        await client.start(double, 1, instance_id="job/1", tags={"team": "east", "size": "s"})
        await client.start(double, 2, instance_id="job/2", tags={"team": "west"})
        await client.start(alone, instance_id="job%3")
        await client.start(alone, instance_id="JOB/4")
        await child(client, "job/1", "kid")
        await owner.complete("job/2", 4)
        await owner.fail("job%3")
        after = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)
        cases: list[tuple[dict[str, Any], set[str]]] = [
            ({}, {"job/1", "job/2", "job%3", "JOB/4", "kid"}),
            ({"status": OrchestrationStatus.COMPLETED}, {"job/2"}),
            ({"status": "FAILED"}, {"job%3"}),
            ({"status": [OrchestrationStatus.COMPLETED, OrchestrationStatus.FAILED]}, {"job/2", "job%3"}),
            ({"status": ()}, set()),
            ({"name": "double"}, {"job/1", "job/2", "kid"}),
            ({"prefix": "job/"}, {"job/1", "job/2"}),
            ({"prefix": "job%"}, {"job%3"}),
            ({"prefix": "job_"}, set()),
            ({"prefix": ""}, {"job/1", "job/2", "job%3", "JOB/4", "kid"}),
            ({"tags": {"team": "east"}}, {"job/1"}),
            ({"tags": {"team": "east", "size": "l"}}, set()),
            ({"parent": "job/1"}, {"kid"}),
            ({"created_after": before}, {"job/1", "job/2", "job%3", "JOB/4"}),
            ({"created_after": after}, set()),
            ({"created_before": before}, {"kid"}),
            ({"name": "double", "prefix": "job", "status": "PENDING"}, {"job/1"}),
        ]
        for filters, expected in cases:
            assert set(await ids(client, **filters)) == expected, filters
            assert await client.count(**filters) == len(expected), filters


async def test_pages_join_without_gap_or_double(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durable.client.purging.PAGE_ROWS", 7)
    async with stage() as (client, _):
        await asyncio.gather(*(client.start(alone, instance_id=f"i{number:03}") for number in range(50)))
        newest, oldest = await ids(client), await ids(client, newest_first=False)
        assert sorted(newest) == sorted(oldest) == [f"i{number:03}" for number in range(50)]
        assert newest == oldest[::-1]
        for limit in (0, 1, 6, 7, 8, 14, 49, 50, 51):
            assert await ids(client, limit=limit) == newest[:limit]


async def test_payloads_can_be_left_out(stage: Stage) -> None:
    async with stage() as (client, owner):
        await client.start(double, 1, instance_id="a")
        await owner.complete("a", 2)
        (full,) = [state async for state in client.query()]
        (bare,) = [state async for state in client.query(payloads=False)]
        assert (full.input, full.output) == (1, 2)
        assert (bare.input, bare.output, bare.custom_status) == (None, None, None)
        assert bare.status is OrchestrationStatus.COMPLETED


@pytest.mark.parametrize(
    "filters",
    [
        {"status": "DONE"},
        {"status": ["RUNNING", 5]},
        {"name": 5},
        {"prefix": b"a"},
        {"parent": 5},
        {"tags": {"a": 1}},
        {"created_after": datetime.datetime(2020, 1, 1)},
        {"created_before": "2020-01-01"},
        {"name": "\ud800"},
        {"prefix": "a\udfff"},
        {"parent": "\ud800"},
    ],
)
async def test_bad_filters_are_named(stage: Stage, filters: Any) -> None:
    async with stage() as (client, _):
        for call in (client.count, client.wait, client.purge):
            with pytest.raises((TypeError, ValueError), match=next(iter(filters))[:3]):
                await call(**filters)
        with pytest.raises((TypeError, ValueError), match=next(iter(filters))[:3]):
            await ids(client, **filters)


async def test_a_filter_that_does_not_exist_is_a_type_error(stage: Stage) -> None:
    async with stage() as (client, _):
        with pytest.raises(TypeError, match="colour"):
            await client.purge(colour="red")  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="limit"):
            await ids(client, limit=-1)
        for limit in ("5", 1.5, True):
            with pytest.raises(TypeError, match="limit"):
                await ids(client, limit=limit)


# ---- wait


async def test_wait_gives_the_number_that_finished(stage: Stage) -> None:
    async with stage() as (client, owner):
        for name in ("a1", "a2", "a3", "b1"):
            await client.start(alone, instance_id=name)
        await owner.complete("a1")
        waiting = asyncio.create_task(client.wait(prefix="a", timeout=20))
        await asyncio.sleep(0.05)
        await owner.fail("a2")
        await client.start(alone, instance_id="a4")  # later than the call
        assert not waiting.done()
        await owner.turn("a3", status=Status.TERMINATED)
        assert await waiting == 3
        assert await client.wait(prefix="nothing") == 0
        assert await client.wait(status=[]) == 0


@pytest.mark.parametrize("timeout", [0, 0.2])
async def test_wait_gives_what_finished_in_time(stage: Stage, timeout: float) -> None:
    async with stage() as (client, owner):
        for name in ("a1", "a2", "a3"):
            await client.start(alone, instance_id=name)
        await owner.complete("a3")
        assert await client.wait(prefix="a", timeout=timeout) == 1


# ---- purge


async def test_purge_removes_what_has_ended_and_only_that(stage: Stage) -> None:
    async with stage() as (client, owner):
        for name in ("a1", "a2", "a3", "b1"):
            await client.start(alone, instance_id=name)
        await owner.complete("a1")
        await owner.fail("a2")
        await owner.complete("b1")
        assert await client.purge(prefix="a") == 2
        assert sorted(await ids(client)) == ["a3", "b1"]
        assert await client.purge(status=OrchestrationStatus.PENDING) == 0
        assert await client.purge(status=[]) == 0
        assert await client.purge(status=OrchestrationStatus.COMPLETED) == 1
        assert await ids(client) == ["a3"]


@pytest.mark.parametrize("filters", [{}, {"prefix": ""}, {"tags": {}}, {"status": None, "name": None}])
async def test_purge_refuses_an_empty_filter(stage: Stage, filters: Any) -> None:
    async with stage() as (client, owner):
        await client.start(alone, instance_id="a")
        await owner.complete("a")
        with pytest.raises(ValueError, match="filter"):
            await client.purge(**filters)
        assert await client.count() == 1


async def test_purge_goes_through_all_pages(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durable.client.purging.PAGE_ROWS", 3)
    monkeypatch.setattr("durable.client.purging.PURGED_AT_ONCE", 2)
    async with stage() as (client, owner):
        for number in range(10):
            await client.start(alone, instance_id=f"i{number}")
            await owner.complete(f"i{number}")
        assert await client.purge(name="alone") == 10
        assert await client.count() == 0


async def family(client: Client, owner: Owner) -> None:
    """Start a, its children b and c, and d below c; a, b and c have ended."""
    await client.start(alone, instance_id="a")
    for parent, name in (("a", "b"), ("a", "c"), ("c", "d")):
        await child(client, parent, name)
    for name in "abc":
        await owner.complete(name)


async def test_a_recursive_purge_takes_the_children_along(stage: Stage) -> None:
    async with stage() as (client, owner):
        await family(client, owner)
        await client.start(alone, instance_id="stranger")
        with pytest.raises(InstanceRunningError, match="'d'"):
            await client.get("a").purge()
        assert await client.count() == 5, "all or nothing"
        await owner.complete("d")
        assert await client.get("a").purge() == 4
        assert await ids(client) == ["stranger"]


async def test_a_plain_purge_leaves_the_children(stage: Stage) -> None:
    async with stage() as (client, owner):
        await family(client, owner)
        assert await client.get("a").purge(recursive=False) == 1
        assert sorted(await ids(client)) == ["b", "c", "d"]
        with pytest.raises(InstanceRunningError, match="'d' is PENDING"):
            await client.get("d").purge()
        with pytest.raises(InstanceNotFoundError):
            await client.get("a").purge()


async def test_a_purge_of_a_replaced_run_leaves_the_current_one(stage: Stage) -> None:
    async with stage() as (client, owner):
        first = await client.start(alone, instance_id="a")
        await child(client, "a", "of the first")
        for name in ("a", "of the first"):
            await owner.complete(name)
        second = await client.start(alone, instance_id="a", reuse_policy=ReusePolicy.REPLACE_FINISHED)
        await child(client, "a", "of the second")
        for name in ("a", "of the second"):
            await owner.complete(name)
        assert await first.purge() == 2
        assert sorted(await ids(client)) == ["a", "of the second"]
        assert (await second.state()).status is OrchestrationStatus.COMPLETED
        with pytest.raises(InstanceNotFoundError):
            await first.state()
