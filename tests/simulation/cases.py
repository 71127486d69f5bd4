"""What is played under faults: one app with small orchestrations of every kind, and the cases that use them.

A case is a coroutine over a client. It asserts what must hold whatever happens to workers and store meanwhile; what must
hold of every history, message and run beside that, the simulator checks by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from durable import (
    ActivityContext,
    App,
    Client,
    EntityContext,
    EntityId,
    EntityOperationFailedError,
    Handle,
    InstanceAlreadyExistsError,
    InstanceFinishedError,
    InstanceRunningError,
    NonRetryableError,
    Orchestration,
    OrchestrationContext,
    OrchestrationFailedError,
    OrchestrationStatus,
    OrchestrationTerminatedError,
    OverlapPolicy,
    RetryPolicy,
    ReusePolicy,
    SubOrchestrationFailedError,
    TaskFailedError,
    when_all,
    when_any,
)
from durable.history import utc_datetime
from durable.jobs import Job, JobContext, JobNode, RunCondition
from durable.provider import InstanceFilter
from durable.testing.simulation.machines import Role

SECOND = timedelta(seconds=1)


@dataclasses.dataclass(frozen=True)
class Case:
    """Something to play. `roles`: what the workers are for."""

    name: str
    play: Callable[[Client], Awaitable[None]]
    roles: Sequence[Role] = (Role(),)


CASES: dict[str, Case] = {}
app = App()


def case(*roles: Role) -> Callable[[Callable[[Client], Awaitable[None]]], Callable[[Client], Awaitable[None]]]:
    def enter(play: Callable[[Client], Awaitable[None]]) -> Callable[[Client], Awaitable[None]]:
        CASES[play.__name__] = Case(play.__name__, play, roles or (Role(),))
        return play

    return enter


# ---- activities


@app.activity
def add_one(number: int) -> int:
    return number + 1


@app.activity
async def add_one_slowly(number: int) -> int:
    await asyncio.sleep(0.5)
    return number + 1


@app.activity
async def take_seconds(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@app.activity(retry_policy=RetryPolicy(SECOND, 3))
def fail_twice(ctx: ActivityContext, number: int) -> int:
    if ctx.attempt < 3:
        raise ValueError(f"attempt {ctx.attempt}")
    return number


@app.activity(retry_policy=RetryPolicy(SECOND, 3, backoff_coefficient=2.0, jitter=0.5))
async def always_fail(reason: str) -> None:
    raise ValueError(reason)


@app.activity(retry_policy=RetryPolicy(SECOND, 5))
def fail_for_good() -> None:
    raise NonRetryableError("no use")


@app.activity(retry_policy=RetryPolicy(timedelta(0), 4), heartbeat_timeout=timedelta(seconds=2))
async def beat_and_hang(ctx: ActivityContext, steps: int) -> list[int]:
    begun = done = ctx.last_heartbeat or 0
    while done < steps:
        done += 1
        ctx.heartbeat(done)
        if done == 2 and ctx.attempt == 1:
            await asyncio.sleep(60)  # no beat comes: the attempt is over
        await asyncio.sleep(0.2)
    return [begun, done]


@app.activity(retry_policy=RetryPolicy(timedelta(0), 2), timeout=timedelta(seconds=1))
async def time_out_once(ctx: ActivityContext) -> int:
    await asyncio.sleep(30 if ctx.attempt == 1 else 0.1)
    return ctx.attempt


@app.activity
def echo(texts: list[str]) -> list[str]:
    return texts


@app.activity(queue="far")
def far_away(number: int) -> int:
    return number * 10


@app.activity
async def wait_to_be_cancelled() -> None:
    await asyncio.sleep(3600)


under_way: dict[str, set[str]] = {}
over: set[str] = set()


@app.activity(max_concurrency=2, key=lambda text: text.partition("/")[0], retry_policy=RetryPolicy(SECOND, 2))
async def two_at_a_time(ctx: ActivityContext, text: str) -> int:
    """Returns how many of the key were under way. A delivery is none of its own; of a stopped worker it may come too late.

    What becomes of those of a doomed instance in a process that dies is nobody's business.
    """
    key, attempt = text.partition("/")[0], f"{ctx.idempotency_key} {ctx.attempt}"
    beside = under_way.setdefault(key, set())
    if attempt not in over and not ctx.instance_id.startswith("doomed"):
        beside.add(attempt)
    found = len(beside)
    try:
        await asyncio.sleep(0.4)
    finally:
        beside.discard(attempt)
        over.add(attempt)
    if text.endswith("fails") and ctx.attempt == 1:
        raise ValueError("once")
    return found


# ---- orchestrators


@app.orchestrator
def sequence(ctx: OrchestrationContext, number: int) -> Orchestration[int]:
    for _ in range(5):
        number = yield from ctx.call_activity(add_one, number)
    return number


@app.orchestrator
async def sequence_async(ctx: OrchestrationContext, number: int) -> int:
    for _ in range(5):
        number = await ctx.call_activity(add_one_slowly, number)
    return number


@app.orchestrator
async def fan_out(ctx: OrchestrationContext, width: int) -> int:
    return sum(await when_all([ctx.call_activity(add_one, number) for number in range(width)]))


@app.orchestrator
async def limited(ctx: OrchestrationContext, key: str) -> int:
    texts = (f"{key}/{'fails' if number == 1 else number}" for number in range(4))
    return max(await when_all([ctx.call_activity(two_at_a_time, text) for text in texts]))


@app.orchestrator
async def bounded(ctx: OrchestrationContext, width: int) -> list[int]:
    return await ctx.map(add_one_slowly, list(range(width)), concurrency=3)


@app.orchestrator
def race(ctx: OrchestrationContext, seconds: float) -> Orchestration[str]:
    work, limit = ctx.call_activity(take_seconds, seconds), ctx.create_timer(5 * SECOND)
    winner = yield when_any([work, limit])
    if winner is work:
        limit.cancel()
        return "work"
    work.cancel()
    return "limit"


@app.orchestrator
async def timers(ctx: OrchestrationContext) -> float:
    began = ctx.current_utc_datetime
    await asyncio.gather(*(asyncio.sleep(seconds) for seconds in (0.0, 1.5, 3.0, 3.0)))
    return (ctx.current_utc_datetime - began).total_seconds()


@app.orchestrator
async def month(ctx: OrchestrationContext) -> float:
    began = ctx.current_utc_datetime
    await ctx.create_timer(timedelta(days=30))
    return (ctx.current_utc_datetime - began) / timedelta(days=1)


@app.orchestrator
async def retried(ctx: OrchestrationContext) -> list[str]:
    said = [str(await ctx.call_activity(fail_twice, 7))]
    for call in (ctx.call_activity(always_fail, "broken"), ctx.call_activity(fail_for_good)):
        try:
            await call
        except TaskFailedError as error:
            said.append(error.details.message)
    return said


@app.orchestrator
def saga(ctx: OrchestrationContext) -> Orchestration[int]:
    done = 0
    try:
        for _ in range(3):
            done = yield from ctx.call_activity(add_one, done)
        yield ctx.call_activity(always_fail, "declined")
    except TaskFailedError:
        while done:
            yield ctx.call_activity(add_one, -done)
            done -= 1
    return done


@app.orchestrator
async def parent(ctx: OrchestrationContext, width: int) -> int:
    children = [ctx.call_sub_orchestrator(sequence, number) for number in range(width)]
    children.append(ctx.call_sub_orchestrator(fan_out, 3, instance_id=f"{ctx.instance_id}-named"))
    return sum(await when_all(children))


@app.orchestrator
async def failing(ctx: OrchestrationContext) -> None:
    await ctx.call_activity(always_fail, "as expected")


@app.orchestrator
async def parent_of_failing(ctx: OrchestrationContext) -> str:
    try:
        await ctx.call_sub_orchestrator(failing, retry_policy=RetryPolicy(SECOND, 2))
    except SubOrchestrationFailedError as error:
        return error.details.message
    return "?"


@app.orchestrator
async def waiting_for_ever(ctx: OrchestrationContext) -> None:
    try:
        await ctx.call_activity(wait_to_be_cancelled)
    finally:
        await ctx.call_activity(add_one, 1)  # cleaning up is work as well


@app.orchestrator
async def waiting_parent(ctx: OrchestrationContext) -> None:
    await when_all(
        [ctx.call_sub_orchestrator(waiting_for_ever, instance_id=f"{ctx.instance_id}-{n}") for n in range(2)]
    )


@app.orchestrator
async def collecting(ctx: OrchestrationContext, count: int) -> list[int]:
    return [await ctx.wait_for_external_event("number", int) for _ in range(count)]


@app.orchestrator
async def summing(ctx: OrchestrationContext, count: int) -> int:
    return sum([await ctx.wait_for_external_event("number", int) for _ in range(count)])


@app.orchestrator
async def work_in_vain(ctx: OrchestrationContext) -> str:
    """Asks for work in a queue that nobody serves: once given up, once left behind at the end."""
    first, second = (ctx.call_activity(add_one, number, queue="nobody's") for number in range(2))
    await ctx.create_timer(SECOND)
    first.cancel()
    await ctx.create_timer(SECOND)
    return "late" if second.is_complete else "in vain"


@app.orchestrator
async def work_for_ever(ctx: OrchestrationContext) -> None:
    await when_all([ctx.call_activity(add_one, 1, queue="nobody's"), ctx.call_activity(add_one, 2)])


@app.orchestrator
async def collecting_late(ctx: OrchestrationContext, count: int) -> list[int]:
    await ctx.create_timer(4 * SECOND)
    return [await ctx.wait_for_external_event("number", int) for _ in range(count)]


@app.orchestrator
async def eternal_and_slow(ctx: OrchestrationContext, seen: list[int]) -> list[int]:
    await ctx.create_timer(SECOND)
    seen.append(await ctx.wait_for_external_event("number", int))
    if len(seen) == 5:
        return seen
    ctx.continue_as_new(seen)


@app.orchestrator
async def impatient(ctx: OrchestrationContext) -> str:
    try:
        return str(await ctx.wait_for_external_event("answer", str, timeout=3 * SECOND))
    except TimeoutError:
        return "none"


@app.orchestrator
def eternal(ctx: OrchestrationContext, seen: list[int]) -> Orchestration[list[int]]:
    seen.append((yield ctx.wait_for_external_event("number", int)))
    if len(seen) == 8:
        return seen
    ctx.continue_as_new(seen)


@app.orchestrator
async def ticking(ctx: OrchestrationContext, count: int) -> int:
    await ctx.create_timer(SECOND)
    await ctx.call_activity(add_one, count)
    if count == 4:
        return ctx.generation
    ctx.continue_as_new(count + 1)


@app.orchestrator
async def ping(ctx: OrchestrationContext, rounds: int) -> int:
    other = ctx.start_orchestration(pong, [ctx.instance_id, rounds], instance_id=f"{ctx.instance_id}-pong")
    for number in range(rounds):
        ctx.raise_event(other, "ping", number)
        assert await ctx.wait_for_external_event("pong", int) == number
    return rounds


@app.orchestrator
async def pong(ctx: OrchestrationContext, order: list[Any]) -> None:
    other, rounds = order
    for _ in range(rounds):
        ctx.raise_event(other, "pong", await ctx.wait_for_external_event("ping", int))


@app.orchestrator
async def tools(ctx: OrchestrationContext) -> list[Any]:
    queue: asyncio.Queue[int] = asyncio.Queue(2)
    lock = asyncio.Lock()
    taken: list[Any] = []

    async def produce() -> None:
        for number in range(4):
            await queue.put(await ctx.call_activity(add_one, number))

    async def consume() -> None:
        for _ in range(4):
            number = await queue.get()
            async with lock:
                await asyncio.sleep(0.2)
                taken.append(number)

    async with asyncio.TaskGroup() as group:
        group.create_task(produce())
        group.create_task(consume())
    try:
        async with asyncio.timeout(1):
            await ctx.wait_for_external_event("never")
    except TimeoutError:
        taken.append("timeout")
    return taken


@app.orchestrator
async def telling(ctx: OrchestrationContext) -> int:
    for number in range(4):
        ctx.set_custom_status({"at": number})
        await ctx.call_activity(add_one_slowly, number)
    return 4


@app.orchestrator
async def heart(ctx: OrchestrationContext) -> list[int]:
    return [*await ctx.call_activity(beat_and_hang, 5), await ctx.call_activity(time_out_once)]


@app.orchestrator
async def far(ctx: OrchestrationContext, width: int) -> int:
    near = [ctx.call_activity(add_one_slowly, number) for number in range(width)]
    away = [ctx.call_activity(far_away, number) for number in range(width)]
    return sum(await when_all([*near, *away]))


@app.orchestrator
async def long_work(ctx: OrchestrationContext, seconds: float) -> float:
    return await ctx.call_activity(take_seconds, seconds)


@app.orchestrator
async def chance(ctx: OrchestrationContext) -> list[str]:
    drawn = [str(ctx.new_uuid()), str(ctx.random.random()), ctx.current_utc_datetime.isoformat()]
    for _ in range(2):
        drawn = await ctx.call_activity(echo, drawn)
        drawn += [str(ctx.new_uuid()), str(ctx.random.random()), ctx.current_utc_datetime.isoformat()]
    return drawn


@app.orchestrator
async def family(ctx: OrchestrationContext, width: int) -> int:
    return sum(await when_all([ctx.call_sub_orchestrator(fan_out, 2) for _ in range(width)]))


@app.orchestrator
async def lasting(ctx: OrchestrationContext, life: str) -> str:
    await ctx.wait_for_external_event("go")
    return life


# ---- entities


@app.entity
class Account:
    balance: int = 100
    moves: int = 0

    def move(self, amount: int) -> int:
        if self.balance + amount < 0:
            raise ValueError("not so much money")
        self.balance += amount
        self.moves += 1
        return self.balance


@app.entity
class Notes:
    """Keeps what it is told; `fail` tells others first, and then does not."""

    texts: list[str] = []

    def tell(self, text: str) -> int:
        self.texts.append(text)
        return len(self.texts)

    def fail(self, ctx: EntityContext, text: str) -> None:
        self.texts.append(text)
        ctx.signal_entity(ctx.id, "tell", "of one that failed")
        ctx.start_orchestration(tell_twice, ["heard", "of one that failed"])
        raise ValueError(text)

    def pass_on(self, ctx: EntityContext, text: str) -> None:
        ctx.signal_entity(EntityId(Notes, "heard"), Notes.tell, text)
        ctx.start_orchestration(tell_twice, ["heard", text])


@app.entity
class Visit:
    """Is there from one coming to the next going, and has each of them counted."""

    guests: int = 0

    def come(self, ctx: EntityContext, name: str) -> None:
        self.guests += 1
        ctx.signal_entity(EntityId(Notes, "guests"), "tell", name)

    def go(self, ctx: EntityContext) -> None:
        ctx.delete_state()


@app.orchestrator
async def tell_twice(ctx: OrchestrationContext, whom: list[str]) -> int:
    notes = EntityId(Notes, whom[0])
    ctx.signal_entity(notes, "tell", f"{whom[1]}, signaled")
    return int(await ctx.call_entity(notes, Notes.tell, f"{whom[1]}, called"))


@app.orchestrator
async def transfer(ctx: OrchestrationContext, what: list[Any]) -> bool:
    giver, taker = EntityId(Account, what[0]), EntityId(Account, what[1])
    async with ctx.lock(giver, taker):
        try:
            await ctx.call_entity(giver, Account.move, -what[2])
        except EntityOperationFailedError:
            return False
        await ctx.call_entity(taker, Account.move, what[2])
        return True


@app.orchestrator
def transfer_both_ways(ctx: OrchestrationContext, what: list[Any]) -> Orchestration[int]:
    one, other = EntityId("Account", what[0]), EntityId("Account", what[1])
    with (yield ctx.lock(one, other)):
        yield ctx.call_entity(one, "move", -1)
        yield ctx.call_entity(other, "move", 1)
        yield when_all([ctx.call_entity(other, "move", -1), ctx.call_entity(one, "move", 1)])
    return 0


@app.orchestrator
async def hold(ctx: OrchestrationContext, how: str) -> str:
    """Take two locks, and come to an end with them in the way that is asked for."""
    if how == "again":
        return "again"
    async with ctx.lock(EntityId(Notes, "one"), EntityId(Notes, "two")):
        await ctx.call_entity(EntityId(Notes, "two"), Notes.tell, how)
        if how == "returns":
            return how
        if how == "fails":
            raise ValueError(how)
        if how == "continues":
            ctx.continue_as_new("again")
        await ctx.wait_for_external_event("go")
    return how


@app.orchestrator
async def hurried(ctx: OrchestrationContext) -> str:
    try:
        async with asyncio.timeout(0.05), ctx.lock(EntityId(Notes, "one"), EntityId(Notes, "two")):
            return "has them"
    except TimeoutError:
        return "did not wait"


@app.orchestrator
async def telling_over_generations(ctx: OrchestrationContext, left: int) -> int:
    told = ctx.call_entity(EntityId(Notes, "told"), Notes.tell, f"generation {left}")
    if left:
        ctx.continue_as_new(left - 1)
    return await told


# ---- cases


@case()
async def one_after_the_other(client: Client) -> None:
    assert await client.run(sequence, 1) == 6


@case()
async def both_styles_at_once(client: Client) -> None:
    handles = [await client.start(sequence, 1), await client.start(sequence_async, 2), await client.start(sequence, 3)]
    assert [await handle.result() for handle in handles] == [6, 7, 8]


@case()
async def wide(client: Client) -> None:
    assert await client.run(fan_out, 20) == 210


@case()
async def wider_than_a_turn_sends_at_once(client: Client) -> None:
    assert await client.run(fan_out, 600) == 180_300


@case(Role(max_activities=2))
async def wide_with_few_slots(client: Client) -> None:
    assert await client.run(bounded, 7) == list(range(1, 8))


@case()
async def races(client: Client) -> None:
    # The last one takes longer than a timer may be late by: a clock that is set back by up to an hour is followed, also twice.
    handles = [await client.start(race, seconds) for seconds in (0.5, 4.9, 5.0, 5.1, 5 * 3600.0)]
    ends = [await handle.result() for handle in handles]
    assert ends[4] == "limit"
    assert set(ends) <= {"work", "limit"}


@case()
async def timers_side_by_side(client: Client) -> None:
    assert await client.run(timers) >= 3.0


@case()
async def a_month(client: Client) -> None:
    assert await client.run(month) >= 30


@case()
async def failures_are_retried_as_often_as_asked(client: Client) -> None:
    assert await client.run(retried) == ["7", "broken", "no use"]


@case()
async def a_saga_takes_everything_back(client: Client) -> None:
    assert await client.run(saga) == 0


@case()
async def a_failure_is_the_orchestrations(client: Client) -> None:
    try:
        await client.run(failing)
    except OrchestrationFailedError as error:
        assert error.details.inner is not None
        assert error.details.inner.message == "as expected"
    else:
        raise AssertionError("it did not fail")


@case()
async def children(client: Client) -> None:
    assert await client.run(parent, 3, instance_id="family") == 5 + 6 + 7 + 6


@case()
async def many_children(client: Client) -> None:
    assert await client.run(family, 9) == 27


@case()
async def chance_that_is_the_same_again(client: Client) -> None:
    drawn = await client.run(chance)
    assert len(set(drawn[::3])) == 3
    assert len(set(drawn[1::3])) == 3


@case()
async def a_childs_failure(client: Client) -> None:
    assert "as expected" in await client.run(parent_of_failing)


@case()
async def cancelled_with_work_running(client: Client) -> None:
    handle = await client.start(waiting_for_ever)
    await asyncio.sleep(1)
    await handle.cancel("enough")
    assert (await handle.wait()).status is OrchestrationStatus.CANCELLED


@case()
async def cancelled_with_its_children(client: Client) -> None:
    handle = await client.start(waiting_parent, instance_id="top")
    await asyncio.sleep(1)
    await handle.cancel()
    assert (await handle.wait()).status is OrchestrationStatus.CANCELLED
    for child in ("top-0", "top-1"):
        try:
            assert (await client.get(child).wait()).status is OrchestrationStatus.CANCELLED
        except LookupError:
            pass  # it was cancelled before it had asked for children


@case()
async def terminated_with_its_children(client: Client) -> None:
    handle = await client.start(waiting_parent, instance_id="top")
    await asyncio.sleep(3)
    await handle.terminate("now")
    try:
        await handle.result()
    except OrchestrationTerminatedError:
        pass
    await client.wait(prefix="top-")
    async for state in client.query(prefix="top-"):
        assert state.status is OrchestrationStatus.TERMINATED, state


@case()
async def events_in_order(client: Client) -> None:
    handle = await client.start(collecting, 12)
    for number in range(12):
        await handle.raise_event("number", number)
    assert await handle.result() == list(range(12))


@case()
async def a_sum_of_events(client: Client) -> None:
    """In whatever order they are seen the sum is the same: the order itself is for the simulator to look at."""
    handle = await client.start(summing, 9)
    for number in range(9):
        await handle.raise_event("number", number)
    assert await handle.result() == 36


@case()
async def work_that_nobody_does(client: Client) -> None:
    assert await client.run(work_in_vain) == "in vain"


@case()
async def work_that_waits_for_ever(client: Client) -> None:
    handle = await client.start(work_for_ever)
    await asyncio.sleep(3)
    assert not (await handle.state()).status.is_finished


@case()
async def events_with_the_start_and_at_once(client: Client) -> None:
    handle = await client.start(collecting, 6, events=[("number", 0), ("number", 1)])
    await asyncio.gather(*(handle.raise_event("number", 2) for _ in range(4)))
    assert await handle.result() == [0, 1, 2, 2, 2, 2]


@case()
async def an_answer_in_time_and_one_too_late(client: Client) -> None:
    early, late = await client.start(impatient, events=[("answer", "yes")]), await client.start(impatient)
    assert await early.result() == "yes"
    assert await late.result() == "none"


@case()
async def events_over_generations(client: Client) -> None:
    handle = await client.start(eternal, [], events=[("number", number) for number in range(4)])
    for number in range(4, 8):
        await handle.raise_event("number", number)
    assert await handle.result() == list(range(8))


@case()
async def events_from_before_the_wait(client: Client) -> None:
    handles = [await client.start(collecting_late, 5), await client.start(eternal_and_slow, [])]
    for number in range(5):
        for handle in handles:
            await handle.raise_event("number", number)
    for handle in handles:
        assert (got := await handle.result()) == list(range(5)), got


@case()
async def generations_by_time(client: Client) -> None:
    assert await client.run(ticking, 0) == 4


@case()
async def instances_talk(client: Client) -> None:
    assert await client.run(ping, 4, instance_id="table") == 4
    assert (await client.get("table-pong").wait()).status is OrchestrationStatus.COMPLETED


@case()
async def started_for_later(client: Client) -> None:
    handle = await client.start(sequence, 1, at=timedelta(minutes=10))
    assert await handle.result() == 6
    state = await handle.state()
    assert state.last_updated_at >= state.scheduled_at


@case(Role(), Role())
async def events_from_before_a_run_for_later_begins_until_after_it(client: Client) -> None:
    """They are raised one after the other; one of them falls into the moment when the run is due."""
    at = timedelta(seconds=1.5)
    handles = [await client.start(collecting, 31, at=at, events=[("number", 0)]) for _ in range(3)]
    for number in range(1, 31):
        for handle in handles:
            await handle.raise_event("number", number)
        await asyncio.sleep(0.08)
    assert await asyncio.gather(*(handle.result() for handle in handles)) == [list(range(31))] * 3


@case()
async def suspended_and_resumed(client: Client) -> None:
    handle = await client.start(collecting, 3)
    await handle.raise_event("number", 0)
    await handle.suspend("pause")
    for number in (1, 2):
        await handle.raise_event("number", number)
    await asyncio.sleep(5)
    assert not (await handle.state()).status.is_finished
    await handle.resume()
    assert await handle.result() == [0, 1, 2]


@case()
async def an_id_used_again_after_the_end(client: Client) -> None:
    first = await client.start(sequence, 1, instance_id="again")
    assert await first.result() == 6
    second = await client.start(sequence, 2, instance_id="again", reuse_policy=ReusePolicy.REPLACE_FINISHED)
    assert await second.result() == 7
    assert await first.result() == 6
    try:
        await client.start(sequence, 3, instance_id="again")
    except InstanceAlreadyExistsError as error:
        assert error.state is not None
    else:
        raise AssertionError("the id was taken")


@case()
async def replaced_while_it_runs(client: Client) -> None:
    first = await client.start(lasting, "first", instance_id="one")
    await asyncio.sleep(1)
    second = await client.start(
        lasting, "second", instance_id="one", reuse_policy=ReusePolicy.TERMINATE_AND_REPLACE, events=[("go", None)]
    )
    assert await second.result() == "second"
    assert (await first.wait()).status is OrchestrationStatus.TERMINATED


@case()
async def an_event_for_the_former_run(client: Client) -> None:
    first = await client.start(lasting, "first", instance_id="one")
    sending = asyncio.gather(*(first.raise_event("go") for _ in range(3)), return_exceptions=True)
    second = await client.start(
        lasting, "second", instance_id="one", reuse_policy=ReusePolicy.TERMINATE_AND_REPLACE, events=[("stay", None)]
    )
    await sending
    await asyncio.sleep(60)
    assert not (await second.state()).status.is_finished
    await second.raise_event("go")
    assert await second.result() == "second"


@case()
async def everybody_starts_the_same(client: Client) -> None:
    handles = await asyncio.gather(
        *(
            client.start(sequence, number, instance_id="same", reuse_policy=ReusePolicy.USE_EXISTING)
            for number in range(4)
        )
    )
    assert len({handle.run_id for handle in handles}) == 1
    assert len({await handle.result() for handle in handles}) == 1


@case()
async def purged_and_started_again(client: Client) -> None:
    handle = await client.start(sequence, 1, instance_id="gone")
    await handle.result()
    await handle.purge()
    assert await client.count(prefix="gone") == 0
    assert await client.run(sequence, 2, instance_id="gone") == 7


@case()
async def asyncios_own_tools(client: Client) -> None:
    assert await client.run(tools) == [1, 2, 3, 4, "timeout"]


@case()
async def a_status_is_watched(client: Client) -> None:
    handle = await client.start(telling)
    states = [state async for state in handle.watch()]
    seen = [state.custom_status["at"] for state in states if state.custom_status is not None]
    assert seen == sorted(seen)
    assert states[-1].output == 4


@case()
async def beats_and_timeouts(client: Client) -> None:
    begun, done, attempt = await client.run(heart)
    assert begun > 0, "the second try knows how far the first one was"
    assert (done, attempt) == (5, 2)


@case(Role(), Role(queues=("far",), orchestrations=False))
async def work_for_another_queue(client: Client) -> None:
    assert await client.run(far, 3) == 6 + 30


@case(Role(activities=False), Role(queues=("default", "far"), orchestrations=False, max_activities=2))
async def deciding_here_and_working_there(client: Client) -> None:
    handles = [await client.start(far, 3), await client.start(retried)]
    assert await handles[0].result() == 36
    assert await handles[1].result() == ["7", "broken", "no use"]


@case()
async def work_longer_than_a_lease(client: Client) -> None:
    handles = [await client.start(long_work, 25.0), await client.start(long_work, 0.0)]
    assert [await handle.result() for handle in handles] == [25.0, 0.0]


@case()
async def terminated_before_its_time(client: Client) -> None:
    handle = await client.start(sequence, 1, at=timedelta(days=1))
    await handle.terminate("not needed")
    assert (await handle.wait()).status is OrchestrationStatus.TERMINATED


@case()
async def cancelled_while_suspended(client: Client) -> None:
    handle = await client.start(lasting, "x")
    await handle.suspend()
    await handle.cancel()
    await asyncio.sleep(2)
    await handle.resume()
    assert (await handle.wait()).status is OrchestrationStatus.CANCELLED


@case()
async def many_at_once(client: Client) -> None:
    handles = [await client.start(sequence, number, instance_id=f"m-{number}") for number in range(12)]
    assert await client.wait(prefix="m-") == 12
    assert [await handle.result() for handle in handles] == [number + 5 for number in range(12)]
    assert await client.count(prefix="m-", status="COMPLETED") == 12


@case()
async def an_event_for_nobody(client: Client) -> None:
    handle = await client.start(lasting, "x", events=[("other", 1), ("go", None), ("go", 2)])
    assert await handle.result() == "x"
    undelivered = [item.name for item in await handle.dropped()]
    assert sorted(undelivered) == ["go", "other"]


@case()
async def a_child_that_ends_after_its_parent(client: Client) -> None:
    assert await client.run(ping, 1, instance_id="short") == 1
    await client.wait(prefix="short")
    assert await client.count(prefix="short", status="COMPLETED") == 2


@case(Role(), Role())
async def two_replacements_in_a_row(client: Client) -> None:
    lives = ["a", "b", "c"]
    handles = [
        await client.start(
            lasting, life, instance_id="throne", reuse_policy=ReusePolicy.TERMINATE_AND_REPLACE, events=[("stay", 1)]
        )
        for life in lives
    ]
    await client.get("throne").raise_event("go")
    assert await handles[2].result() == "c"
    for handle in handles[:2]:
        assert (await handle.wait()).status in (OrchestrationStatus.TERMINATED, OrchestrationStatus.COMPLETED)


@case()
async def events_for_what_begins_later(client: Client) -> None:
    handle = await client.start(collecting, 6, at=timedelta(minutes=5), events=[("number", 0), ("number", 1)])
    await handle.raise_event("number", 2)
    await asyncio.sleep(30)
    await handle.suspend()
    await handle.raise_event("number", 3)
    await handle.resume()
    await asyncio.sleep(200)
    for number in (4, 5):
        await handle.raise_event("number", number)
        await asyncio.sleep(70)
    assert await handle.result() == [0, 1, 2, 3, 4, 5]


@case(Role(), Role())
async def replaced_by_what_begins_later(client: Client) -> None:
    old = await client.start(lasting, "old", instance_id="throne")
    await old.raise_event("go")
    policy = ReusePolicy.TERMINATE_AND_REPLACE
    late = timedelta(minutes=2)
    new = await client.start(collecting, 3, instance_id="throne", reuse_policy=policy, at=late, events=[("number", 0)])
    for number in (1, 2):
        await new.raise_event("number", number)
    never = await client.start(collecting, 2, at=timedelta(days=3), events=[("number", 0)])
    await never.raise_event("number", 1)
    await never.cancel("not needed")
    assert await new.result() == [0, 1, 2]
    assert (await old.wait()).status in (OrchestrationStatus.TERMINATED, OrchestrationStatus.COMPLETED)
    assert (await never.wait()).status is OrchestrationStatus.CANCELLED
    assert [item.name for item in await never.dropped()] == ["number", "number"]


# ---- cases with entities


async def texts_of(client: Client, key: str, count: int, *, pause: timedelta = SECOND / 2) -> list[str]:
    """Return what notes have been told, once it is so much."""
    while True:
        notes = await client.get_entity(EntityId(Notes, key))
        if notes is not None and len(notes.state.texts) >= count:
            return notes.state.texts
        await asyncio.sleep(pause.total_seconds())


async def no_more_entities(client: Client, name: str) -> None:
    """Wait until no row of an entity is left, of which none shall."""
    while await client.connection.provider.count(InstanceFilter(kind="e", name=name)):
        await asyncio.sleep(0.5)


@case()
async def money_moves(client: Client) -> None:
    whom = ["ada", "bob", "eve"]
    moves = [
        (0, 1, 60),
        (1, 2, 70),
        (0, 1, 51),
        (2, 0, 10),
        (1, 0, 20),
        (2, 1, 900),
    ]  # in whatever order they come, nobody has less than 1 meanwhile
    handles = [await client.start(transfer, [whom[one], whom[other], money]) for one, other, money in moves]
    handles += [await client.start(transfer_both_ways, [whom[place], whom[place - 1]]) for place in range(3)]
    assert {await handle.result() for handle in handles} <= {0, 1}
    accounts = [account async for account in client.query_entities(Account)]
    assert sorted(account.id.key for account in accounts) == whom
    assert sum(account.state.balance for account in accounts) == 300
    done = sum([await handle.result() for handle in handles])
    assert sum(account.state.moves for account in accounts) == 2 * done + 4 * 3


@case()
async def signals_come_once_and_in_order(client: Client) -> None:
    notes = EntityId(Notes, "all")
    handles = []
    for number in range(6):
        await client.signal_entity(notes, Notes.tell, f"client {number}")
        handles.append(await client.start(tell_twice, ["all", f"{number}"]))
    for handle in handles:
        await handle.result()
    texts = await texts_of(client, "all", 18)
    assert sorted(texts) == sorted(
        [f"client {n}" for n in range(6)] + [f"{n}, {how}" for n in range(6) for how in ("signaled", "called")]
    )
    assert [text for text in texts if text.startswith("client")] == [f"client {number}" for number in range(6)]
    assert all(texts.index(f"{number}, signaled") < texts.index(f"{number}, called") for number in range(6))


@case()
async def operations_are_all_or_nothing(client: Client) -> None:
    await client.signal_entity(EntityId(Notes, "source"), "fail", "no")
    await client.signal_entity(EntityId(Notes, "source"), "pass_on", "yes")
    await client.signal_entity(EntityId(Notes, "source"), "fail", "no")
    await client.signal_entity(EntityId(Notes, "source"), "pass_on", "again")
    texts = await texts_of(client, "heard", 6)
    assert sorted(texts) == sorted(
        [*["yes", "yes, called", "yes, signaled"], *["again", "again, called", "again, signaled"]]
    )
    await client.wait()
    source = await client.get_entity(EntityId(Notes, "source"))
    assert source is not None
    assert source.state.texts == []


@case()
async def a_call_of_a_generation_that_is_over(client: Client) -> None:
    assert await client.run(telling_over_generations, 3) == 4
    assert await texts_of(client, "told", 4) == [f"generation {left}" for left in (3, 2, 1, 0)]


@case()
async def no_lock_outlives_its_holder(client: Client) -> None:
    ways = ["returns", "fails", "continues", "is cancelled", "is terminated", "is replaced"]
    handles = {how: await client.start(hold, how, instance_id=how) for how in ways}
    handles["waits"] = await client.start(hurried)
    await handles["is cancelled"].cancel()
    await handles["is terminated"].terminate()
    policy = ReusePolicy.TERMINATE_AND_REPLACE
    replacing = await client.start(hold, "again", instance_id="is replaced", reuse_policy=policy)
    last = await client.start(hold, "last", events=[("go", None)])
    assert await last.result() == "last"
    assert await replacing.result() == "again"
    ends = {how: (await handle.wait()).status.name for how, handle in handles.items()}
    assert ends.pop("is terminated") == ends.pop("is replaced") == "TERMINATED"
    assert ends == {
        "returns": "COMPLETED",
        "fails": "FAILED",
        "continues": "COMPLETED",
        "is cancelled": "CANCELLED",
        "waits": "COMPLETED",
    }
    await no_more_entities_locked(client)


async def no_more_entities_locked(client: Client) -> None:
    """See that each of them serves somebody else at once."""
    for key in ("one", "two"):
        assert await client.run(tell_twice, [key, "free"]) >= 1


@case()
async def entities_come_and_go(client: Client) -> None:
    for number in range(9):
        visit = EntityId(Visit, f"{number % 2}")
        await client.signal_entity(visit, Visit.come, f"{number}")
        if number % 3 == 2:
            await client.signal_entity(visit, "go")
    for number in range(2):
        await client.signal_entity(EntityId(Visit, f"{number}"), Visit.go)
    assert sorted(await texts_of(client, "guests", 9)) == [f"{number}" for number in range(9)]
    await no_more_entities(client, "Visit")
    assert [visit async for visit in client.query_entities("Visit")] == []


@case()
async def signaled_for_later(client: Client) -> None:
    early, late = EntityId(Notes, "early"), EntityId(Notes, "late")
    for notes in (early, late):
        await client.signal_entity(notes, "tell", "in a month", at=timedelta(days=30))
        await client.signal_entity(notes, "tell", "in a day", at=timedelta(days=1))
    await client.signal_entity(early, "tell", "now")
    await client.signal_entity(EntityId(Notes, "alone"), "tell", "in two days", at=timedelta(days=2))
    await client.signal_entity(EntityId(Visit, "for a day"), "come", "and stays", at=timedelta(days=1))
    # In any order: the clock may have been wrong for years between two signals. So either may be the one that comes last.
    days = timedelta(days=4)
    assert sorted(await texts_of(client, "early", 3, pause=days)) == ["in a day", "in a month", "now"]
    assert sorted(await texts_of(client, "late", 2, pause=days)) == ["in a day", "in a month"]
    assert await texts_of(client, "alone", 1, pause=days) == ["in two days"]
    assert await texts_of(client, "guests", 1, pause=days) == ["and stays"]
    await client.signal_entity(EntityId(Visit, "for a day"), "go")  # not delayed: a clock may have jumped in between
    await no_more_entities(client, "Visit")


# ---- beginning again

broken: set[str] = set()
"""What does not work at the moment."""


@app.activity
def work(name: str) -> str:
    if name in broken:
        raise ValueError(f"{name} is broken")
    return name.upper()


@app.orchestrator
async def two_steps(ctx: OrchestrationContext, names: list[str]) -> list[str]:
    return [await ctx.call_activity(work, name) for name in names]


@app.orchestrator
def with_failing_child(ctx: OrchestrationContext) -> Orchestration[list[str]]:
    first = yield from ctx.call_activity(work, "a")
    beside = ctx.call_sub_orchestrator(two_steps, ["p", "q"])
    found = yield from ctx.call_sub_orchestrator(two_steps, ["x", "y"], retry_policy=RetryPolicy(SECOND, 2))
    return [first, *found, *(yield beside)]


@app.orchestrator
async def several_at_a_time(ctx: OrchestrationContext, names: list[str]) -> list[str]:
    return await ctx.map(work, names, concurrency=2)


@app.orchestrator
async def waits_for_one(ctx: OrchestrationContext) -> list[Any]:
    return [await ctx.call_activity(work, "a"), await ctx.wait_for_external_event("go")]


async def has_failed(handle: Handle[Any]) -> None:
    state = await handle.wait()
    assert state.status is OrchestrationStatus.FAILED, state


@case()
async def started_again_with_the_same_input(client: Client) -> None:
    broken.clear()
    handle = await client.start(two_steps, ["a"], instance_id="first")
    assert await handle.result() == ["A"]
    under_its_own, under_another = await asyncio.gather(handle.restart(), handle.restart(new_id="second"))
    assert await under_its_own.result() == await under_another.result() == ["A"]
    assert {handle.run_id, under_its_own.run_id, under_another.run_id} == {
        *(state.run_id for state in [await found.state() for found in (handle, under_its_own, under_another)])
    }


@case()
async def rewound_with_a_failed_child(client: Client) -> None:
    broken.clear()
    broken.add("y")
    handle = await client.start(with_failing_child)
    await has_failed(handle)
    broken.clear()
    await handle.rewind()
    assert await handle.result() == ["A", "X", "Y", "P", "Q"]
    asked = [event for event in await handle.history() if type(event).__name__ == "ActivityScheduled"]
    assert len(asked) == 1  # what had succeeded was not asked for again


@case(Role(), Role())
async def rewound_until_it_works(client: Client) -> None:
    broken.clear()
    broken.update("bd")
    handle = await client.start(several_at_a_time, list("abcde"))
    for name in "bd":
        await has_failed(handle)
        broken.discard(name)
        answers = await asyncio.gather(handle.rewind(), client.get(handle.instance_id).rewind(), return_exceptions=True)
        expected = (InstanceRunningError, InstanceFinishedError)
        assert all(answer is None or isinstance(answer, expected) for answer in answers), answers
        assert None in answers
    assert await handle.result() == list("ABCDE")


@case()
async def rewound_after_it_was_ended_by_force(client: Client) -> None:
    broken.clear()
    handle = await client.start(waits_for_one)
    for number in range(2):
        await asyncio.sleep(number)
        await handle.terminate()
        assert (await handle.wait()).status is OrchestrationStatus.TERMINATED
        await handle.rewind()
    await handle.raise_event("go", 1)
    assert await handle.result() == ["A", 1]


@case(Role(), Role())
async def rewound_while_another_takes_its_place(client: Client) -> None:
    broken.clear()
    broken.add("a")
    handle = await client.start(two_steps, ["a"], instance_id="place")
    await has_failed(handle)
    broken.clear()
    answers = await asyncio.gather(handle.rewind(), handle.restart(), return_exceptions=True)
    expected = (InstanceRunningError, InstanceFinishedError)
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert len(refused) < 2, answers  # none of them, if one had its end before the other came
    assert all(isinstance(answer, expected) for answer in refused), answers
    assert await client.get("place").result() == ["A"]


@case()
async def forked_at_every_point(client: Client) -> None:
    broken.clear()
    handle = await client.start(with_failing_child)
    assert await handle.result() == ["A", "X", "Y", "P", "Q"]
    history = await handle.history()
    forks = [await handle.fork(at=at) for at in range(0, len(history) + 1, 2)]
    for fork in forks:
        assert await fork.result() == ["A", "X", "Y", "P", "Q"]
    assert await handle.history() == history


# ---- jobs


@app.activity
async def job_that_adds(ctx: JobContext, name: str) -> str:
    ctx.schedule_child(Job(job_beside, ctx.attempt, run_condition=RunCondition.IN_PROGRESS))
    ctx.schedule_child(Job(job_below, ctx.attempt, run_condition=RunCondition.ON_ANY_COMPLETED_STATUS))
    await asyncio.sleep(0.5)
    if ctx.retry_count < 1 or name == "fails":
        raise ValueError(name)
    return name


@app.activity
def job_beside(number: int) -> int:
    return -number


@app.activity
def job_below(ctx: JobContext, number: int) -> list[Any]:
    assert ctx.parent is not None
    return [ctx.parent.status.removeprefix("DUE_"), ctx.parent.request, ctx.parent.result, number]


@app.activity
def job_that_skips(ctx: JobContext) -> None:
    ctx.skip("nothing to do")


@app.activity
async def job_that_lasts() -> None:
    await asyncio.sleep(3600)


def told(tree: JobNode) -> list[list[Any]]:
    """Tell of each job; one that was late for a clock that jumped is done all the same."""
    return sorted([node.function, node.status.removeprefix("DUE_"), node.attempts, node.result] for node in tree.walk())


@case()
async def a_job_tree_that_grows(client: Client) -> None:
    handles = [await client.schedule(Job(job_that_adds, name, retries=1)) for name in ("works", "fails")]
    for handle, status in zip(handles, ("DONE", "FAILED"), strict=True):
        tree = await handle.result()
        name = {"DONE": "works", "FAILED": "fails"}[status]
        result = name if status == "DONE" else None
        assert told(tree) == [
            ["job_below", "DONE", 1, [status, name, result, 2]],
            ["job_beside", "DONE", 1, -2],
            ["job_beside", "DONE", 1, -1],
            ["job_that_adds", status, 2, result],
        ]


@case(Role(activities=False), Role(orchestrations=False, max_activities=2))
async def job_trees_decided_here_and_run_there(client: Client) -> None:
    chain = Job(sequence, 1).then(Job(add_one, 5, delay=2 * SECOND).then(Job(job_that_skips).then(Job(add_one, 9))))
    trees = [await handle.result() for handle in await client.schedule_many([chain, chain, chain])]
    assert [told(tree) for tree in trees] == 3 * [
        [
            ["add_one", "DONE", 1, 6],
            ["add_one", "SKIPPED", 0, None],
            ["job_that_skips", "SKIPPED", 1, None],
            ["sequence", "DONE", 1, 6],
        ]
    ]


@case()
async def a_job_tree_that_is_cancelled(client: Client) -> None:
    clean_up = Job(add_one, 1, run_condition=RunCondition.ON_CANCELLED)
    handle = await client.schedule(Job(job_that_lasts).then(clean_up).then(Job(add_one, 2)), instance_id="tree")
    await asyncio.sleep(1)
    await handle.cancel("enough")
    tree = await handle.result()
    assert [(node.status.value, node.result) for node in tree.walk()] == [
        ("CANCELLED", None),
        ("DONE", 2),
        ("SKIPPED", None),
    ]


# ---- schedules


CLOCKS_ARE_RIGHT_S = 300.0
"""After a clock was wrong for a minute, and whoever knows better was away for a while."""


async def all_times_of(client: Client, policy: OverlapPolicy) -> tuple[int, int]:
    """Let a schedule go for five times; return how many were started and left out."""
    schedules, name, long = client.schedules, policy.name, timedelta(days=9_000)  # longer than any clock is wrong by
    start = utc_datetime(await client.connection.clock.now(client.connection.provider)) + SECOND
    bounds: Any = {"start": start, "end": start + 4 * SECOND}
    await schedules.create(name, sequence_async, 1, interval=SECOND, overlap=policy, catch_up=long, **bounds)
    while not (state := await schedules.get(name)).is_finished:
        await asyncio.sleep(2)
        now = utc_datetime((await client.connection.provider.open()).now)
        if asyncio.get_running_loop().time() > CLOCKS_ARE_RIGHT_S and state.created_at > now + timedelta(days=1):
            # It was made in the moment between a leap of the clock and its correction: whoever sees that makes it anew.
            await schedules.delete(name)
            return await all_times_of(client, policy)
    await client.wait(prefix=f"{name}/")
    assert await client.count(prefix=f"{name}/") == state.started
    assert (state.running_count, state.buffered, state.missed) == (0, 0, 0)
    return state.started, state.skipped


@case()
async def a_schedule_starts_each_time_once(client: Client) -> None:
    found = await asyncio.gather(
        *(all_times_of(client, policy) for policy in (OverlapPolicy.ALLOW_ALL, OverlapPolicy.BUFFER_ALL))
    )
    assert found == [(5, 0), (5, 0)]


@case()
async def schedules_that_end_or_leave_out(client: Client) -> None:
    policies = (OverlapPolicy.SKIP, OverlapPolicy.CANCEL_OTHER, OverlapPolicy.TERMINATE_OTHER)
    found = await asyncio.gather(*(all_times_of(client, policy) for policy in policies))
    assert [started + skipped for started, skipped in found] == [5, 5, 5]
    assert all(started for started, _ in found)


@case()
async def a_schedule_that_is_steered(client: Client) -> None:
    schedules = client.schedules
    await schedules.create("steered", sequence, 1, cron="0 0 1 1 *")
    await schedules.pause("steered", "for now")
    for number in (1, 2):
        await schedules.update("steered", input=number)
        handle = await schedules.trigger("steered")
        while not await client.count(prefix=handle.instance_id):  # the worker may be away
            await asyncio.sleep(2)
        assert await handle.result() == number + 5
    while (await schedules.get("steered")).running_count:
        await asyncio.sleep(2)
    state = await schedules.get("steered")
    assert (state.is_paused, state.started, state.skipped, state.input) == (True, 2, 0, 2)
    await schedules.delete("steered")
    while await schedules.list():
        await asyncio.sleep(2)


# ---- queries and updates


@app.orchestrator
async def tally(ctx: OrchestrationContext, total: int = 0) -> int:
    """Adds what updates bring, one at once and one by an activity, in generations of three."""
    taken, changed = 0, asyncio.Event()

    def take(number: int) -> int:
        nonlocal total, taken
        total, taken = total + number, taken + 1
        changed.set()
        return total

    def check(number: int) -> None:
        if total + number > 100:
            raise ValueError(f"{total} and {number} is too much")

    async def take_later(number: int) -> int:
        return take(await ctx.call_activity(add_one_slowly, number))

    ctx.on_query("total", lambda: total)
    ctx.on_update("add", take, check)
    ctx.on_update("add one more", take_later)
    while taken < 3 and total < 20:
        changed.clear()
        await changed.wait()
    if total < 20:
        ctx.continue_as_new(total)
    return total


async def total_of(handle: Handle[Any]) -> Any:
    """Ask until somebody answers: a query gives up while all workers are away."""
    while True:
        try:
            return await handle.query("total")
        except TimeoutError:
            pass


@case()
async def updates_in_order_over_generations(client: Client) -> None:
    handle = await client.start(tally)
    assert await handle.update("add", 1) == 1
    assert await asyncio.gather(*(handle.update("add", 1) for _ in range(7))) == list(range(2, 9))
    with_refusal = await asyncio.gather(handle.update("add", 95), handle.update("add", 3), return_exceptions=True)
    assert [str(found) for found in with_refusal] == ["8 and 95 is too much", "11"]
    assert await total_of(handle) == 11
    assert await handle.update("add", 9) == 20
    assert await handle.result() == 20
    assert await total_of(handle) == 20


@case()
async def an_update_that_takes_its_time(client: Client) -> None:
    handle = await client.start(tally)
    assert await handle.update("add one more", 4) == 5
    await handle.suspend()
    late = asyncio.ensure_future(handle.update("add", 1))
    await asyncio.sleep(3)
    assert await total_of(handle) == 5
    await handle.resume()
    assert await late == 6
    assert await handle.update("add", 14) == 20
    assert await handle.result() == 20


# ---- limits


@case()
async def never_more_at_a_time_than_the_limit(client: Client) -> None:
    under_way.clear()
    over.clear()
    started = [await client.start(limited, key, instance_id=f"{key}-{n}") for n in range(3) for key in "ab"]
    doomed = [await client.start(limited, "a", instance_id=f"doomed-{n}") for n in range(2)]
    await asyncio.sleep(0.7)
    for handle, end in zip(doomed, (Handle.terminate, Handle.cancel), strict=True):
        with contextlib.suppress(InstanceFinishedError):
            await end(handle, "enough")
    for handle in started:
        assert await handle.result() <= 2
    for handle in doomed:
        assert (await handle.wait()).status.is_finished
    while await client.connection.provider.count(InstanceFilter(kind="l")):  # a keeper that keeps nothing goes
        await asyncio.sleep(1)
