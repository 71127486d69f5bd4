"""Critical sections: who is in one is alone with his entities, and no lock outlives its holder.

Method: orchestrations on real workers that come to an end inside of a section in every way there is; after each the entities
must serve others. What happens at which message is in the engine's hands, see `tests/simulation/cases.py` for the rest.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    App,
    Client,
    CriticalSectionError,
    EntityContext,
    EntityId,
    EntityOperationFailedError,
    Handle,
    Orchestration,
    OrchestrationContext,
    OrchestrationFailedError,
    ReusePolicy,
    Worker,
    when_any,
)
from durable.provider import InstanceFilter

app = App()


@app.entity
class Room:
    guests: list[str] = []

    def enter(self, who: str) -> list[str]:
        self.guests.append(who)
        return self.guests

    def leave(self, who: str) -> None:
        self.guests.remove(who)

    def close(self, ctx: EntityContext) -> None:
        ctx.delete_state()


ONE, TWO = EntityId(Room, "1"), EntityId(Room, "2")


@app.orchestrator
async def visit(ctx: OrchestrationContext, who: str) -> int:
    """Be alone in both rooms; say how many were met in them."""
    rooms = [ONE, TWO] if who.endswith("up") else [TWO, ONE]
    async with ctx.lock(*rooms):
        met = [len(await ctx.call_entity(room, Room.enter, who)) for room in rooms]
        await asyncio.sleep(0.005)
        for room in rooms:
            await ctx.call_entity(room, Room.leave, who)
    return sum(met) - 2


@app.orchestrator
def visit_in_steps(ctx: OrchestrationContext, who: str) -> Orchestration[int]:
    with (yield ctx.lock(TWO, ONE)):
        met = yield from ctx.call_entity(ONE, Room.enter, who)
        others = yield from ctx.call_entity(TWO, Room.enter, who)
        yield ctx.call_entity(ONE, Room.leave, who)
        yield ctx.call_entity(TWO, Room.leave, who)
    return len(met) + len(others) - 2


@app.orchestrator
async def peep(ctx: OrchestrationContext) -> list[str]:
    return (await ctx.call_entity(ONE, Room.enter, "peeper"))[:-1]


@app.orchestrator
async def stay(ctx: OrchestrationContext, how: str) -> str:
    """Stay in both rooms, and come to an end as asked."""
    if how == "again":
        return "again"
    async with ctx.lock(ONE, TWO):
        await ctx.call_entity(ONE, Room.enter, how)
        ctx.set_custom_status("in")
        if how == "return":
            return how
        if how == "fail":
            raise ValueError(how)
        if how == "continue":
            ctx.continue_as_new("again")
        await ctx.wait_for_external_event("go")
    ctx.set_custom_status("out")
    await ctx.wait_for_external_event("end")
    return how


@app.orchestrator
def stay_in_steps(ctx: OrchestrationContext, how: str) -> Orchestration[str]:
    if how == "again":
        return "again"
    with (yield ctx.lock(TWO, ONE)):
        yield ctx.call_entity(ONE, "enter", how)
        ctx.set_custom_status("in")
        if how == "return":
            return how
        if how == "fail":
            raise ValueError(how)
        if how == "continue":
            ctx.continue_as_new("again")
        yield ctx.wait_for_external_event("go")
    ctx.set_custom_status("out")
    yield ctx.wait_for_external_event("end")
    return how


async def until_status(handle: Handle[Any], status: str) -> None:
    async with asyncio.timeout(20):
        async for state in handle.watch():
            if state.custom_status == status:
                return


async def free(client: Client) -> None:
    """See that both rooms serve somebody else."""
    await client.run(visit, "next, up", timeout=20)


async def test_sections_exclude_each_other_whatever_the_order_of_their_entities(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        handles = [await worker.client.start(visit, f"{n}, {'up' if n % 2 else 'down'}") for n in range(12)]
        handles += [await worker.client.start(visit_in_steps, f"{n}, in steps") for n in range(6)]
        assert [await handle.result(30) for handle in handles] == [0] * 18


async def test_who_is_not_in_the_section_waits(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        client = worker.client
        inside = await client.start(stay, "wait")
        await until_status(inside, "in")
        outside = await client.start(peep)
        with pytest.raises(TimeoutError):
            await outside.result(0.1)
        await client.signal_entity(ONE, "enter", "signal")
        found = await client.get_entity(ONE)
        assert found is not None
        assert found.state.guests == ["wait"]
        await inside.raise_event("go")
        assert await outside.result(20) == ["wait"]
        await until_status(inside, "out")
        assert (await client.run(peep, timeout=20))[:3] == ["wait", "peeper", "signal"]


@pytest.mark.parametrize("orchestrator", [stay, stay_in_steps])
@pytest.mark.parametrize("how", ["return", "fail", "continue", "cancel", "terminate", "replace"])
async def test_the_locks_go_with_whatever_ends_the_section(store_url: str, how: str, orchestrator: Any) -> None:
    async with Worker(app, store_url) as worker:
        client = worker.client
        handle = await client.start(orchestrator, how, instance_id="guest")
        if how in ("cancel", "terminate", "replace"):
            await until_status(handle, "in")
        if how == "cancel":
            await handle.cancel()
        elif how == "terminate":
            await handle.terminate()
        elif how == "replace":
            policy = ReusePolicy.TERMINATE_AND_REPLACE
            await client.start(orchestrator, "again", instance_id="guest", reuse_policy=policy)
        await handle.wait(20)
        await free(client)


async def test_the_locks_go_when_the_section_is_left(store_url: str) -> None:
    async with Worker(app, store_url) as worker:
        handle = await worker.client.start(stay, "wait", events=[("go", None)])
        await until_status(handle, "out")
        await free(worker.client)
        assert (await handle.state()).status == "RUNNING"


@pytest.mark.parametrize("end", ["terminate", "cancel"])
async def test_who_ends_while_he_waits_for_locks_holds_none(store_url: str, end: str) -> None:
    async with Worker(app, store_url) as worker:
        client = worker.client
        inside = await client.start(stay, "wait")
        await until_status(inside, "in")
        waiting = [await client.start(stay, "later", instance_id=f"w{n}") for n in range(3)]
        async with asyncio.timeout(10):
            while {str((await handle.state()).status) for handle in waiting} != {"RUNNING"}:
                await asyncio.sleep(0.005)
        for handle in waiting:
            await (handle.terminate() if end == "terminate" else handle.cancel())
            await handle.wait(20)
        await inside.raise_event("go")
        await free(client)


# ---- within one orchestration

other = App()
other.include(app)


@other.orchestrator
async def hurry(ctx: OrchestrationContext, seconds: float) -> str:
    try:
        async with asyncio.timeout(seconds), ctx.lock(ONE, TWO):
            return "in"
    except TimeoutError:
        return "not in"


@other.orchestrator
def hurry_in_steps(ctx: OrchestrationContext) -> Orchestration[str]:
    lock = ctx.lock(ONE, TWO)
    timer = ctx.create_timer(timedelta(milliseconds=20))
    winner = yield when_any([lock, timer])
    if winner is lock:
        with lock.result():
            return "in"
    lock.cancel()
    return "not in"


@pytest.mark.parametrize(("orchestrator", "given"), [(hurry, [0.02]), (hurry_in_steps, [])])
async def test_who_gives_up_waiting_is_given_nothing(store_url: str, orchestrator: Any, given: list[Any]) -> None:
    async with Worker(other, store_url) as worker:
        client = worker.client
        inside = await client.start(stay, "wait")
        await until_status(inside, "in")
        assert await client.run(orchestrator, *given, timeout=20) == "not in"
        await inside.raise_event("go")
        await free(client)
        assert await client.run(orchestrator, *given, timeout=20) in ("in", "not in")
        await free(client)


@other.orchestrator
async def branches(ctx: OrchestrationContext) -> list[int]:
    """Two branches of one orchestration are strangers to each other; what a branch begins inside is not."""

    async def branch(who: str) -> int:
        async with ctx.lock(ONE, TWO):
            both = await asyncio.gather(
                *(ctx.call_entity(room, Room.enter, who) for room in (ONE, TWO)), child(ONE, who), child(TWO, who)
            )
            for room in (ONE, ONE, TWO, TWO):
                ctx.signal_entity(room, Room.leave, who)
        return max(len(guests) for guests in both)

    async def child(room: EntityId[Room], who: str) -> list[str]:
        return await ctx.call_entity(room, Room.enter, who)

    return list(await asyncio.gather(*(branch(f"{n}") for n in range(4))))


async def test_branches_of_one_orchestration_exclude_each_other(store_url: str) -> None:
    async with Worker(other, store_url) as worker:
        assert await worker.client.run(branches, timeout=30) == [2, 2, 2, 2]


@other.orchestrator
async def outlive(ctx: OrchestrationContext) -> str:
    """What was begun in a section and goes on after it is no part of it any more."""

    async def later() -> int:
        await asyncio.sleep(0.01)
        return len(await ctx.call_entity(ONE, Room.enter, "late"))

    async with ctx.lock(ONE, TWO) as section:
        task = asyncio.create_task(later())
    guests = await task
    try:
        with section:
            return "entered twice"
    except CriticalSectionError:
        return f"{guests}"


async def test_a_section_ends_with_its_block(store_url: str) -> None:
    async with Worker(other, store_url) as worker:
        assert await worker.client.run(outlive, timeout=30) == "1"
        await free(worker.client)


@other.orchestrator
async def misuse(ctx: OrchestrationContext, what: str) -> str:
    async with ctx.lock(ONE):
        wrong: Any = {
            "nested": lambda: ctx.lock(TWO),
            "not locked": lambda: ctx.call_entity(TWO, Room.enter, "x"),
            "nothing": lambda: ctx.lock(),
            "no id": lambda: ctx.lock("1"),  # type: ignore[arg-type]  # the mistake
        }
        ctx.signal_entity(TWO, Room.enter, "signals do not wait, and so cannot wait for ever")
        try:
            wrong[what]()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "nothing"


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("nested", "CriticalSectionError: locks of 2@Room were asked for inside of"),
        ("not locked", "CriticalSectionError: '2@Room' was called inside of <CriticalSection of 1@Room, held>"),
        ("nothing", "ValueError: lock needs at least one entity"),
        ("no id", "TypeError: an entity is meant by its id"),
    ],
)
async def test_what_could_wait_for_ever_is_refused(store_url: str, what: str, text: str) -> None:
    async with Worker(other, store_url) as worker:
        assert (await worker.client.run(misuse, what, timeout=30)).startswith(text)
        await free(worker.client)


@other.orchestrator
async def repeat(ctx: OrchestrationContext) -> list[int]:
    """Locks given twice are one; a section may follow another; what fails inside of one is told inside."""
    counts = []
    for _ in range(3):
        async with ctx.lock(TWO, ONE, TWO) as section:
            counts.append(len(section.entities))
            try:
                await ctx.call_entity(ONE, Room.leave, "nobody")
            except EntityOperationFailedError:
                counts.append(-1)
    return counts


async def test_sections_may_follow_each_other(store_url: str) -> None:
    async with Worker(other, store_url) as worker:
        assert await worker.client.run(repeat, timeout=30) == [2, -1] * 3


@other.orchestrator
async def bare(ctx: OrchestrationContext) -> None:
    """Neither awaited nor entered: held until the end, and no longer."""
    ctx.lock(ONE, TWO)
    await ctx.lock(EntityId(Room, "3"))
    await asyncio.sleep(0.02)
    raise ValueError("the end")


async def test_locks_that_nobody_entered_end_with_the_run(store_url: str) -> None:
    async with Worker(other, store_url) as worker:
        with pytest.raises(OrchestrationFailedError, match="the end"):
            await worker.client.run(bare, timeout=20)
        await free(worker.client)


@other.orchestrator
async def close_all(ctx: OrchestrationContext) -> None:
    async with ctx.lock(ONE, TWO, EntityId(Room, "only locked")):
        await ctx.call_entity(ONE, "close")
        await ctx.call_entity(TWO, "close")


async def test_what_was_only_locked_leaves_no_row(store_url: str) -> None:
    async with Worker(other, store_url) as worker:
        await free(worker.client)
        await worker.client.run(close_all, timeout=20)
        async with asyncio.timeout(10):
            while await worker.client.connection.provider.count(InstanceFilter(kind="e")):
                await asyncio.sleep(0.005)


async def test_a_lock_outlives_workers_while_its_holder_does(store_url: str) -> None:
    async with Client(store_url, other) as client:
        async with Worker(other, store_url) as worker:
            inside = await worker.client.start(stay, "wait")
            await until_status(inside, "in")
        async with Worker(other, store_url):
            outside = await client.start(peep)
            with pytest.raises(TimeoutError):
                await outside.result(0.1)
            await client.get(inside.instance_id).raise_event("go")
            assert await outside.result(20) == ["wait"]
