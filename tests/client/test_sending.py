"""Events and steering: what arrives at the owner, what is refused, and that nothing is sent twice or lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from durable import events as ev
from durable.client import Client, Handle
from durable.client.submitting import Submitter
from durable.errors import (
    InstanceAlreadyExistsError,
    InstanceFinishedError,
    InstanceNotFoundError,
    InvalidInputError,
    LeaseLostError,
    LimitExceededError,
    StoreError,
    StoreUnavailableError,
)
from durable.payloads import decode
from durable.ports import system_ports
from durable.provider import InstanceFilter, Priority
from durable.stores import connect
from tests.client.conftest import Stage
from tests.client.owner import owner_of
from tests.client.programs import alone, app, double

SENDERS: dict[str, Callable[[Handle[Any]], Any]] = {
    "raise_event": lambda handle: handle.raise_event("x"),
    "cancel": lambda handle: handle.cancel("why"),
    "terminate": lambda handle: handle.terminate("why"),
    "suspend": lambda handle: handle.suspend("why"),
    "resume": lambda handle: handle.resume("why"),
}


# ---- what arrives


async def test_events_arrive_in_the_order_of_their_sender(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(alone, instance_id="a")

        async def send(sender: int) -> None:
            for number in range(20):
                await handle.raise_event("x", [sender, number])

        await asyncio.gather(*(send(sender) for sender in range(20)))
        found = [decode(event.data) for event in await owner.arrived("a") if isinstance(event, ev.EventRaised)]
        assert len(found) == 400
        for sender in range(20):
            assert [number for who, number in found if who == sender] == list(range(20))


async def test_steering_goes_ahead_and_says_what_is_wanted(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(alone, instance_id="a")
        await handle.raise_event("x", None)
        await handle.suspend("one")
        await handle.resume()
        await handle.cancel("two")
        await handle.terminate("three", recursive=False)
        await client.get("a").terminate()
        messages = await owner.received("a")
        assert [message.priority for message in messages] == [Priority.CONTROL] * 5 + [Priority.NORMAL] * 2
        assert [message.run_id for message in messages[:5]] == [handle.run_id] * 4 + [None]
        assert (await owner.arrived("a"))[:5] == [
            ev.OrchestrationSuspended("one"),
            ev.OrchestrationResumed(""),
            ev.OrchestrationCancelRequested("two"),
            ev.OrchestrationTerminated("three", recursive=False),
            ev.OrchestrationTerminated("", recursive=True),
        ]


@pytest.mark.parametrize("send", SENDERS.values(), ids=SENDERS)
async def test_what_is_not_there_or_has_ended_takes_nothing(stage: Stage, send: Callable[[Handle[Any]], Any]) -> None:
    async with stage() as (client, owner):
        with pytest.raises(InstanceNotFoundError, match="'a'"):
            await send(client.get("a"))
        handle = await client.start(alone, instance_id="a")
        await owner.complete("a")
        for finished in (handle, client.get("a")):
            with pytest.raises(InstanceFinishedError, match="COMPLETED"):
                await send(finished)
        assert await owner.received("a") == []


@pytest.mark.parametrize("send", SENDERS.values(), ids=SENDERS)
async def test_a_bound_handle_reaches_its_run_only(stage: Stage, send: Callable[[Handle[Any]], Any]) -> None:
    async with stage() as (client, owner):
        from durable.model import ReusePolicy

        first = await client.start(alone, instance_id="a")
        await owner.complete("a")
        second = await client.start(alone, instance_id="a", reuse_policy=ReusePolicy.REPLACE_FINISHED)
        with pytest.raises(InstanceFinishedError, match=str(second.run_id)):
            await send(first)
        await send(second)
        await send(client.get("a"))
        assert len(await owner.received("a")) == 3  # the start, and those two


@pytest.mark.parametrize("name", ["", " ", "a\0", "\ud800", "x" * 513, 5, None])
async def test_bad_event_names_are_refused(stage: Stage, name: Any) -> None:
    async with stage() as (client, _):
        handle = await client.start(alone)
        with pytest.raises(InvalidInputError):
            await handle.raise_event(name)


async def test_bad_data_and_bad_reasons_are_refused(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(alone, instance_id="a")
        with pytest.raises(TypeError, match="data of event 'x'"):
            await handle.raise_event("x", object())
        with pytest.raises(LimitExceededError):
            await handle.raise_event("x", "x" * 3_000_000)
        with pytest.raises(TypeError):
            await handle.cancel(5)  # type: ignore[arg-type]
        with pytest.raises(ValueError):
            await handle.suspend("\ud800")
        with pytest.raises(LimitExceededError):
            await handle.terminate("x" * 100_000)
        assert len(await owner.received("a")) == 1


# ---- group submit


class Faulty:
    """A provider whose submits fail as told: "before" or "after" they are written."""

    def __init__(self, url: str, *faults: Any) -> None:
        self.provider = connect(url, system_ports())
        self.faults = list(faults)
        self.numbers: list[int] = []
        self.leases = 0
        self._submit, self._lease = self.provider.submit, self.provider.lease
        self.provider.submit = self.submit  # type: ignore[method-assign]
        self.provider.lease = self.lease  # type: ignore[method-assign]

    async def lease(self, *arguments: Any, **options: Any) -> Any:
        self.leases += 1
        return await self._lease(*arguments, **options)

    async def submit(self, lease: Any, number: int, messages: Any) -> Any:
        self.numbers.append(number)
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        answer = await self._submit(lease, number, messages)
        if fault == "after":
            raise StoreUnavailableError("the answer was lost")
        return answer


async def test_a_lost_answer_is_asked_for_again_under_the_same_number(store_url: str) -> None:
    faulty = Faulty(store_url, "after", "after")
    async with owner_of(store_url) as owner, Client(faulty.provider, app) as client:
        handle = await client.start(double, 1, instance_id="a")
        await handle.raise_event("x", 1)
        faulty.faults = ["after"]
        await handle.raise_event("x", 2)
        assert faulty.numbers == [1, 1, 1, 2, 3, 3]
        assert [type(event).__name__ for event in await owner.arrived("a")] == [
            "OrchestrationStarted",
            *["EventRaised"] * 2,
        ]


async def test_a_refused_start_keeps_its_verdict_over_a_lost_answer(store_url: str) -> None:
    faulty = Faulty(store_url)
    async with owner_of(store_url), Client(faulty.provider, app) as client:
        await client.start(double, 1, instance_id="a")
        faulty.faults = ["after"]
        with pytest.raises(InstanceAlreadyExistsError) as caught:
            await client.start(double, 2, instance_id="a")
        assert caught.value.state.input == 1


async def test_an_outage_without_end_is_told_and_the_next_batch_counts_anew(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable.client.submitting.OUTAGE_SECONDS_MAX", 0.2)
    faulty = Faulty(store_url)
    async with owner_of(store_url) as owner, Client(faulty.provider, app) as client:
        handle = await client.start(double, 1, instance_id="a")
        faulty.faults = [StoreUnavailableError("away")] * 100
        with pytest.raises(StoreUnavailableError, match="away"):
            await handle.raise_event("x")
        faulty.faults = []
        await handle.raise_event("y")
        assert faulty.numbers[0] == faulty.numbers[-1] == 1
        assert set(faulty.numbers[1:-1]) == {2}
        assert faulty.leases == 2
        assert [event.name for event in await owner.arrived("a") if isinstance(event, ev.EventRaised)] == ["y"]


async def test_a_lost_lease_is_replaced_unless_something_may_have_been_written(store_url: str) -> None:
    faulty = Faulty(store_url, LeaseLostError("gone"))
    async with owner_of(store_url) as owner, Client(faulty.provider, app) as client:
        handle = await client.start(double, 1, instance_id="a")
        assert faulty.leases == 2
        faulty.faults = ["after", LeaseLostError("gone")]
        with pytest.raises(StoreUnavailableError, match="unknown"):
            await handle.raise_event("x")
        assert len(await owner.arrived("a")) == 2


async def test_a_store_error_is_for_all_who_sent(store_url: str) -> None:
    faulty = Faulty(store_url, StoreError("read-only"))
    async with owner_of(store_url), Client(faulty.provider, app) as client:
        answers = await asyncio.gather(*(client.start(alone) for _ in range(3)), return_exceptions=True)
        assert [str(answer) for answer in answers] == ["read-only"] * 3
        await client.start(alone)


async def test_batches_are_bounded_by_count_and_bytes(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durable.client.submitting.BATCH_MESSAGES_MAX", 7)
    monkeypatch.setattr("durable.client.submitting.BATCH_BYTES_MAX", 10_000)
    faulty = Faulty(store_url)
    async with owner_of(store_url), Client(faulty.provider, app) as client:
        await asyncio.gather(*(client.start(alone) for _ in range(21)))
        assert faulty.numbers == [1, 2, 3]
        await asyncio.gather(*(client.start("double", "x" * 6000) for _ in range(3)))
        assert faulty.numbers == [1, 2, 3, 4, 5, 6]


async def test_what_nobody_waits_for_any_more_is_not_sent(store_url: str) -> None:
    async with owner_of(store_url) as owner, Client(store_url, app) as client:
        starting = [asyncio.create_task(client.start(alone, instance_id=name)) for name in "ab"]
        await asyncio.sleep(0)
        starting[0].cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        assert await client.count() == 1
        await owner.row("b")


async def test_closing_lets_the_batch_in_flight_end(store_url: str) -> None:
    class Slow(Faulty):
        async def submit(self, lease: Any, number: int, messages: Any) -> Any:
            await asyncio.sleep(0.05)
            return await super().submit(lease, number, messages)

    slow = Slow(store_url)
    async with owner_of(store_url) as owner:
        client = Client(slow.provider, app)
        await client.__aenter__()
        first = asyncio.create_task(client.start(alone, instance_id="a"))
        await asyncio.sleep(0.02)
        second = asyncio.create_task(client.start(alone, instance_id="b"))
        await asyncio.sleep(0)
        await client.close()
        assert (await first).instance_id == "a"
        with pytest.raises(Exception, match="closed"):
            await second
        await owner.row("a")
        assert await owner.provider.count(InstanceFilter()) == 1


async def test_nothing_runs_between_batches(store_url: str) -> None:
    async with owner_of(store_url), Client(store_url, app) as client:
        await client.start(alone)
        await asyncio.sleep(0.01)
        submitter = client.connection.submitter
        assert isinstance(submitter, Submitter)
        assert submitter._sending is None
