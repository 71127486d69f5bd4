"""A start: what is checked before anything is stored, what is stored, and who gets the handle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable.app import App
from durable.client import Client
from durable.errors import (
    DurableError,
    InstanceAlreadyExistsError,
    InstanceFinishedError,
    InvalidInputError,
    LimitExceededError,
    UnknownNameError,
)
from durable.events import EventRaised, OrchestrationStarted
from durable.model import OrchestrationStatus, ReusePolicy
from durable.payloads import decode
from durable.provider import Priority
from durable.stores import connect
from tests.client.conftest import Stage
from tests.client.owner import Owner, owner_of
from tests.client.programs import Order, alone, anything, app, double, ship, versioned_new, versioned_old, with_default


async def stored_start(owner: Owner, instance_id: str) -> OrchestrationStarted:
    started = (await owner.arrived(instance_id))[0]
    assert isinstance(started, OrchestrationStarted)
    return started


# ---- what is stored


async def test_a_start_stores_row_and_message_that_tell_the_same(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(ship, Order(7, ["nut"]), instance_id="a", tags={"team": "east"})
        row, started = await owner.row("a"), await stored_start(owner, "a")
        assert (row.run_id, row.name, row.version) == (handle.run_id, "ship", "0")
        assert (started.seed, started.name, started.version, started.python) == (handle.run_id, "ship", "0", "")
        assert decode(row.input or b"") == decode(started.input) == {"number": 7, "lines": ["nut"]}
        assert dict(row.tags) == dict(started.tags or {}) == {"team": "east"}
        assert row.scheduled_at == started.scheduled_for == row.created_at
        state = await handle.state()
        assert (state.status, state.input) == (OrchestrationStatus.PENDING, {"number": 7, "lines": ["nut"]})


async def test_ids_are_made_where_none_is_given(stage: Stage) -> None:
    async with stage() as (client, _):
        handles = await asyncio.gather(*(client.start(alone) for _ in range(50)))
        assert len({handle.instance_id for handle in handles}) == len({handle.run_id for handle in handles}) == 50


async def test_starts_of_one_tick_go_out_in_one_batch(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage() as (client, _):
        provider = client.connection.provider
        submit, numbers, sizes, running = provider.submit, [], [], 0

        async def noted(lease: Any, number: int, messages: Any) -> Any:
            nonlocal running
            assert running == 0, "one submit at a time"
            running += 1
            numbers.append(number)
            sizes.append(len(messages))
            await asyncio.sleep(0.01)  # meanwhile the next batch fills
            running -= 1
            return await submit(lease, number, messages)

        monkeypatch.setattr(provider, "submit", noted)

        async def start_some() -> None:
            for _ in range(3):
                await client.start(alone)

        await asyncio.gather(*(start_some() for _ in range(100)))
        assert numbers == list(range(1, len(numbers) + 1))
        assert sum(sizes) == 300
        assert len(sizes) <= 4


async def test_a_start_for_later_is_not_received_before(stage: Stage) -> None:
    async with stage() as (client, owner):
        when = datetime.now(UTC) + timedelta(hours=1)
        await client.start(alone, instance_id="absolute", at=when)
        await client.start(alone, instance_id="relative", at=timedelta(hours=1))
        await client.start(alone, instance_id="past", at=datetime(2001, 1, 1, tzinfo=UTC))
        assert (await client.get("absolute").state()).scheduled_at == when
        assert abs((await client.get("relative").state()).scheduled_at - when) < timedelta(minutes=1)
        assert [len(await owner.received(name)) for name in ("absolute", "relative", "past")] == [0, 0, 1]


async def test_a_start_for_long_ago_is_due_now_and_shown_as_early_as_can_be(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(alone, at=timedelta.min)
        assert await owner.received(handle.instance_id)
        assert (await handle.state()).scheduled_at == datetime.min.replace(tzinfo=UTC)


async def test_the_newest_version_is_meant_unless_one_is_named(stage: Stage) -> None:
    async with stage() as (client, owner):
        await client.start("versioned", instance_id="newest")
        await client.start(versioned_old, instance_id="by function")
        await client.start(versioned_new, instance_id="pinned", version="1.9")
        await client.start("versioned", instance_id="unknown here", version="2.0")
        await client.start("elsewhere", instance_id="other app")
        found = [
            (await owner.row(name)).version for name in ("newest", "by function", "pinned", "unknown here", "other app")
        ]
        assert found == ["1.10", "1.9", "1.9", "2", None]


async def test_more_events_than_can_wait_are_refused_with_the_start(store_url: str) -> None:
    """They would be dropped one by one, after the start had been taken."""
    async with Client(store_url, app) as client:
        with pytest.raises(LimitExceededError, match="more than 100,000 events"):
            await client.start(alone, instance_id="a", events=(("x", number) for number in range(100_001)))
        assert await client.count() == 0


async def test_events_of_a_start_come_with_it_in_order(stage: Stage) -> None:
    async with stage() as (client, owner):
        await client.start(alone, instance_id="a", events=[("x", 1), ("y", None), ("x", "ü")])
        (message,) = await owner.received("a")
        assert message.start is not None
        events = [event for event in await owner.arrived("a") if isinstance(event, EventRaised)]
        assert [(event.name, event.data and decode(event.data)) for event in events] == [
            ("x", 1),
            ("y", None),
            ("x", "ü"),
        ]


# ---- what is refused before anything is stored


async def nothing_is_stored(client: Client) -> bool:
    return await client.count() == 0


@pytest.mark.parametrize(
    ("orchestrator", "value"),
    [
        (double, "5"),
        (double, True),
        (double, None),
        (double, [1]),
        (double, object()),
        (alone, 1),
        (ship, {"number": 1}),
        (anything, "x" * 3_000_000),
        (anything, {"x": "\ud800"}),
    ],
)
async def test_an_input_that_does_not_fit_a_function_is_refused(stage: Stage, orchestrator: Any, value: Any) -> None:
    async with stage() as (client, _):
        with pytest.raises(InvalidInputError) as caught:
            await client.start(orchestrator, value)
        assert isinstance(caught.value, ValueError)
        assert await nothing_is_stored(client)


async def test_refusals_are_also_what_the_other_rules_call_them(stage: Stage) -> None:
    async with stage() as (client, _):
        with pytest.raises(TypeError, match="input of orchestrator 'anything'"):
            await client.start(anything, object())
        with pytest.raises(LimitExceededError, match="2097152"):
            await client.start(anything, "x" * 3_000_000)


async def test_a_name_takes_whatever_can_be_stored(stage: Stage) -> None:
    async with stage() as (client, owner):
        await client.start("double", "five", instance_id="a")
        assert decode((await owner.row("a")).input or b"") == "five"
        with pytest.raises(TypeError):
            await client.start("double", object())
        with pytest.raises(LimitExceededError):
            await client.start("double", b"x" * 3_000_000)


@pytest.mark.parametrize("value", [0, False, "", [], {}])
async def test_falsy_values_are_values(stage: Stage, value: Any) -> None:
    async with stage() as (client, owner):
        await client.start(anything, value, instance_id="a")
        assert decode((await owner.row("a")).input or b"") == value


async def test_no_input_is_none_and_left_to_the_default(stage: Stage) -> None:
    async with stage() as (client, owner):
        await client.start(with_default, instance_id="a")
        await client.start(anything, None, instance_id="b")
        assert (await owner.row("a")).input is (await owner.row("b")).input is None


@pytest.mark.parametrize("bad", ["", "  ", "a\0b", "x" * 513, "\ud800", "é" * 257, 7, b"a"])
async def test_bad_ids_are_refused(stage: Stage, bad: Any) -> None:
    async with stage() as (client, _):
        with pytest.raises(InvalidInputError):
            await client.start(alone, instance_id=bad)
        with pytest.raises(InvalidInputError):
            client.get(bad)
        assert await nothing_is_stored(client)


@pytest.mark.parametrize("good", ["a", "A", "x" * 512, "é" * 256, "../..", "a b", "%_", "line\nbreak", "😀", " a "])
async def test_any_other_text_is_an_id(stage: Stage, good: str) -> None:
    async with stage() as (client, _):
        handle = await client.start(alone, instance_id=good)
        assert handle.instance_id == good
        assert (await client.get(good).state()).instance_id == good


@pytest.mark.parametrize(
    "options",
    [
        {"at": datetime(2030, 1, 1)},
        {"at": timedelta.max},
        {"version": "new"},
        {"tags": {"": "x"}},
        {"tags": {"x": "a\0b"}},
        {"events": [("", 1)]},
        {"reuse_policy": "reject it"},
    ],
)
async def test_bad_options_are_value_errors(stage: Stage, options: Any) -> None:
    async with stage() as (client, _):
        with pytest.raises(ValueError):
            await client.start(alone, **options)
        assert await nothing_is_stored(client)


@pytest.mark.parametrize("options", [{"at": 5}, {"events": ["x"]}, {"events": [("x", object())]}])
async def test_options_of_another_type_are_type_errors(stage: Stage, options: Any) -> None:
    async with stage() as (client, _):
        with pytest.raises(TypeError):
            await client.start(alone, **options)
        assert await nothing_is_stored(client)


async def test_a_function_that_nobody_registered_is_named(stage: Stage) -> None:
    async with stage() as (client, _):

        async def forgotten(ctx: Any) -> None: ...

        with pytest.raises(UnknownNameError, match="forgotten"):
            await client.start(forgotten)
        with pytest.raises(TypeError):
            await client.start(5)  # type: ignore[call-overload]


async def test_a_client_without_app_knows_a_function_by_its_decorator(store_url: str) -> None:
    async with Client(store_url) as client:
        handle = await client.start(ship, Order(1, []))
        assert (await handle.state()).name == "ship"
        with pytest.raises(InvalidInputError):
            await client.start(double, "x")  # type: ignore[arg-type]


async def test_what_the_store_refuses_is_the_senders_error() -> None:
    async with Client("memory://?message_bytes_max=1000", app) as client:
        with pytest.raises(LimitExceededError, match="1000"):
            await client.start(anything, "x" * 2000)
        handle = await client.start(anything, 1)
        with pytest.raises(LimitExceededError):
            await handle.raise_event("x", "x" * 2000)


# ---- ids in use

Begin = Callable[..., Awaitable[Any]]


async def test_reject_raises_with_the_state(stage: Stage) -> None:
    async with stage() as (client, owner):
        first = await client.start(double, 1, instance_id="a")
        for _ in range(2):
            with pytest.raises(InstanceAlreadyExistsError) as caught:
                await client.start(double, 2, instance_id="a")
            assert caught.value.state.run_id == first.run_id
            assert caught.value.state.input == 1
            if not caught.value.state.status.is_finished:
                await owner.complete("a")
        assert caught.value.state.status is OrchestrationStatus.COMPLETED


async def test_use_existing_gives_the_one_that_is_there_and_the_events_to_it(stage: Stage) -> None:
    async with stage() as (client, owner):
        policy = ReusePolicy.USE_EXISTING
        first = await client.start(double, 1, instance_id="a", reuse_policy=policy, events=[("first", 1)])
        second = await client.start(double, 2, instance_id="a", reuse_policy=policy, events=[("second", 2)])
        assert second.run_id == first.run_id
        names = [event.name for event in await owner.arrived("a") if isinstance(event, EventRaised)]
        assert names == ["first", "second"]
        await owner.complete("a", 5)
        third = await client.start(double, 3, instance_id="a", reuse_policy=policy)
        assert await third.result() == 5
        with pytest.raises(InstanceFinishedError):
            await client.start(double, 4, instance_id="a", reuse_policy=policy, events=[("late", 1)])
        assert await owner.received("a") == []


async def test_use_running_replaces_a_finished_one(stage: Stage) -> None:
    async with stage() as (client, owner):
        policy = ReusePolicy.USE_RUNNING
        first = await client.start(double, 1, instance_id="a", reuse_policy=policy)
        second = await client.start(double, 2, instance_id="a", reuse_policy=policy, events=[("x", 1)])
        assert second.run_id == first.run_id
        assert [type(event) for event in await owner.arrived("a")] == [OrchestrationStarted, EventRaised]
        await owner.complete("a", 10)
        third = await client.start(double, 3, instance_id="a", reuse_policy=policy, events=[("y", 1)])
        assert third.run_id != first.run_id
        assert [type(event) for event in await owner.arrived("a")] == [OrchestrationStarted, EventRaised]
        assert await first.result(timeout=5) == 10  # a handle from start is bound to its run
        assert (await client.get("a").state()).run_id == third.run_id


async def test_replace_finished_rejects_an_unfinished_one(stage: Stage) -> None:
    async with stage() as (client, owner):
        policy = ReusePolicy.REPLACE_FINISHED
        first = await client.start(double, 1, instance_id="a", reuse_policy=policy)
        with pytest.raises(InstanceAlreadyExistsError) as caught:
            await client.start(double, 2, instance_id="a", reuse_policy=policy)
        assert caught.value.state.run_id == first.run_id
        await owner.fail("a")
        second = await client.start(double, 3, instance_id="a", reuse_policy=policy)
        assert (await client.get("a").state()).run_id == second.run_id != first.run_id


async def test_terminate_and_replace_is_pending_until_the_owner_applies_it(stage: Stage) -> None:
    async with stage() as (client, owner):
        policy = ReusePolicy.TERMINATE_AND_REPLACE
        first = await client.start(double, 1, instance_id="a", reuse_policy=policy)
        await owner.turn("a")
        second = await client.start(double, 2, instance_id="a", reuse_policy=policy)
        assert (await second.state()).status is OrchestrationStatus.PENDING
        assert (await first.state()).status is OrchestrationStatus.RUNNING
        await second.raise_event("early")  # it is durable, for the run that waits
        kinds = [(message.priority, message.run_id) for message in await owner.received("a")]
        assert kinds == [(Priority.CONTROL, None), (Priority.NORMAL, second.run_id)]
        await owner.replace("a")
        assert (await first.wait(timeout=5)).status is OrchestrationStatus.TERMINATED
        assert (await client.get("a").state()).run_id == second.run_id
        await owner.complete("a", 4)
        assert await second.result(timeout=5) == 4


async def test_of_many_starts_at_once_one_begins(stage: Stage) -> None:
    async with stage() as (client, _):
        answers = await asyncio.gather(
            *(client.start(alone, instance_id="a") for _ in range(20)), return_exceptions=True
        )
        assert sum(isinstance(answer, InstanceAlreadyExistsError) for answer in answers) == 19


# ---- life


async def test_a_client_that_is_not_open_says_so(store_url: str) -> None:
    client = Client(store_url, app)
    with pytest.raises(DurableError, match="async with"):
        await client.start(alone)
    async with client:
        await client.start(alone)
    with pytest.raises(DurableError, match="async with"):
        await client.start(alone)


async def test_a_shared_client_leaves_the_provider_open(stage: Stage) -> None:
    async with stage() as (_, owner):
        from durable.ports import system_ports

        hub = await owner.provider.open()
        shared = Client.sharing(owner.provider, hub, App(), system_ports())
        async with shared:
            async with shared as again:
                handle = await again.start("double", 1)
            assert (await handle.state()).input == 1
        assert await owner.now() > 0


async def test_the_store_is_asked_for_the_time_when_the_clocks_of_the_machine_disagree(store_url: str) -> None:
    import dataclasses

    from durable.ports import system_ports

    ahead_us = 0
    ports = system_ports()
    skewed = dataclasses.replace(ports, now_us=lambda: ports.now_us() + ahead_us)
    provider = connect(store_url, ports)
    async with owner_of(store_url) as owner, Client(provider, app, ports=skewed) as client:
        ahead_us = (
            10 * 365 * 24 * 3600 * 1_000_000
        )  # this machine's wall clock jumps by ten years; the store's does not
        handle = await client.start(alone, at=timedelta(hours=1))
        state = await handle.state()
        assert state.scheduled_at - state.created_at == timedelta(hours=1)
        assert abs((await owner.row(handle.instance_id)).created_at - await owner.now()) < 60_000_000


async def test_a_policy_may_be_given_by_its_value(stage: Stage) -> None:
    async with stage() as (client, _):
        first = await client.start(alone, instance_id="a")
        again = await client.start(alone, instance_id="a", reuse_policy="use existing")  # type: ignore[call-overload]
        assert again.run_id == first.run_id
