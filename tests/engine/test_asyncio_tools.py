"""asyncio's own tools inside async orchestrators: durable, deterministic, and taking tasks and coroutines mixed.

Each test drives its program and, by the fixture, replays it from every prefix.
"""

# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from durable import events as ev
from durable.context import OrchestrationContext
from durable.errors import ActivityFailedError
from tests.engine.harness import BEGIN_US, SECOND, Play, names

MakePlay = Callable[..., Play]
Context = OrchestrationContext

ECHO = {"echo": lambda value: value}


def test_sleep_is_a_durable_timer(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        await asyncio.sleep(0)
        return str(await asyncio.sleep(90, "slept"))

    one = play(main)
    one.start()
    (timer,) = one.requests(ev.TimerCreated)
    assert (timer.due, timer.purpose) == (BEGIN_US + 90 * SECOND, "asyncio")
    assert one.go_on() == "slept"


@pytest.mark.parametrize("span", [float("inf"), 1e300, 1e15, timedelta.max.total_seconds()])
def test_endless_sleeps_are_as_long_as_a_timer_can_be(play: MakePlay, span: float) -> None:
    async def main(ctx: Context) -> str:
        try:
            async with asyncio.timeout(60):
                await asyncio.sleep(span)
        except TimeoutError:
            return "timeout"
        return "?"

    one = play(main)
    one.start()
    assert one.requests(ev.TimerCreated)[1].due < 2**63
    assert one.go_on() == "timeout"


def test_sleeping_no_or_negative_time_goes_on_in_the_same_turn(play: MakePlay) -> None:
    async def main(ctx: Context) -> int:
        for span in (0, -1, -1e300):
            await asyncio.sleep(span)
        return ctx.history_length

    assert play(main).run() == 1


def test_gather_takes_tasks_and_coroutines_mixed(play: MakePlay) -> None:
    async def twice(ctx: Context, value: int) -> int:
        return int(await ctx.call_activity("echo", value)) * 2

    async def main(ctx: Context) -> list[int]:
        return list(await asyncio.gather(ctx.call_activity("echo", 1), twice(ctx, 2), ctx.call_activity("echo", 3)))

    assert play(main).run(ECHO) == [1, 4, 3]


def test_gather_returns_exceptions_where_asked_to(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[str]:
        both = await asyncio.gather(ctx.call_activity("bad"), ctx.call_activity("echo", 1), return_exceptions=True)
        return [type(result).__name__ for result in both]

    def bad(value: Any) -> None:
        raise ValueError

    assert play(main).run({**ECHO, "bad": bad}) == ["ActivityFailedError", "int"]


def test_a_task_group_cancels_the_others_when_one_fails(play: MakePlay) -> None:
    async def wait(task: Any) -> None:
        await task

    async def main(ctx: Context) -> str:
        try:
            async with asyncio.TaskGroup() as group:
                for name in ("good", "bad", "slow"):
                    group.create_task(wait(ctx.call_activity(name)))
        except* ActivityFailedError as errors:
            message = errors.exceptions[0].details.message  # type: ignore[union-attr]
        return str(message)

    one = play(main)
    one.start()
    one.complete("good")
    turn = one.fail("bad", ValueError("no"))
    assert one.result == "no"
    assert turn.dropped_activities == (2,)


def test_timeout_gives_up_what_it_waits_for(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        try:
            async with asyncio.timeout(10):
                await ctx.call_activity("slow")
        except TimeoutError:
            return "timeout"
        return "?"

    one = play(main)
    one.start()
    assert one.fire().dropped_activities == (1,)
    assert one.result == "timeout"


def test_a_timeout_that_is_not_met_is_taken_back(play: MakePlay) -> None:
    async def main(ctx: Context) -> Any:
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + 10):
            return await ctx.call_activity("echo", 1)

    one = play(main)
    assert one.run(ECHO) == 1
    assert names(one.requests(ev.TimerCancelled)) == ["TimerCancelled"]


def test_wait_for(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[Any]:
        value = await asyncio.wait_for(ctx.call_activity("echo", 1), 10)
        try:
            await asyncio.wait_for(ctx.call_sub_orchestrator("slow"), 10)
        except TimeoutError:
            return [value, "timeout"]
        return []

    one = play(main)
    one.start()
    one.complete("echo", 1)
    one.fire()
    assert one.result == [1, "timeout"]
    assert names(one.requests(ev.SubOrchestrationCancelled)) == ["SubOrchestrationCancelled"]


def test_create_task_takes_tasks_as_it_takes_coroutines(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[Any]:
        make: Any = asyncio.create_task  # typeshed says coroutines only
        first = make(ctx.call_activity("echo", 1), name="first")
        async with asyncio.TaskGroup() as group:
            grouped: Any = group.create_task
            second = grouped(ctx.call_activity("echo", 2))
        unwanted = ctx.create_timer(timedelta(days=9))
        given_up = make(unwanted)
        given_up.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await given_up
        return [await first, first.get_name(), second.result(), unwanted.is_cancelled]

    assert play(main).run(ECHO) == [1, "first", 2, True]


def test_create_task_runs_beside_and_is_given_up_at_the_end(play: MakePlay) -> None:
    log: list[str] = []

    async def beside(ctx: Context) -> None:
        try:
            while True:
                await asyncio.sleep(60)
                log.append("beat")
        finally:
            log.append("closed")

    async def main(ctx: Context) -> str:
        task = asyncio.create_task(beside(ctx), name="heart")
        await ctx.call_activity("echo")
        return task.get_name()

    one = play(main)
    one.start()
    one.fire()
    turn = one.complete("echo")
    assert one.result == "heart"
    assert log == ["beat", "closed"]
    assert names(turn.record.events)[1:] == ["TimerCancelled", "OrchestrationCompleted"]


def test_locks_semaphores_and_conditions_take_turns(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[Any]:
        log: list[Any] = []
        lock, two = asyncio.Lock(), asyncio.Semaphore(2)
        ready = asyncio.Condition()
        running = 0

        async def work(number: int) -> None:
            nonlocal running
            async with two:
                running += 1
                log.append(running)
                async with lock:
                    await ctx.call_activity("echo", number)
                running -= 1
            async with ready:
                ready.notify_all()

        async def watch() -> None:
            async with ready:
                await ready.wait_for(lambda: running == 0 and len(log) == 4)
            log.append("idle")

        await asyncio.gather(watch(), *(work(number) for number in range(4)))
        return log

    one = play(main)
    assert one.run(ECHO) == [1, 2, 2, 2, "idle"]
    assert len(one.history) == 5, "the lock lets one activity run at a time"


def test_events_and_queues_pass_things_on(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[int]:
        queue: asyncio.Queue[int | None] = asyncio.Queue(maxsize=1)
        begun = asyncio.Event()
        taken = []

        async def produce() -> None:
            await begun.wait()
            for number in range(3):
                await queue.put(await ctx.call_activity("echo", number))
            await queue.put(None)

        producer = asyncio.create_task(produce())
        begun.set()
        while (item := await queue.get()) is not None:
            taken.append(item)
            await asyncio.sleep(5)
        await producer
        return taken

    assert play(main).run(ECHO) == [0, 1, 2]


def test_shield_lets_the_work_go_on(play: MakePlay) -> None:
    async def main(ctx: Context) -> Any:
        task = ctx.call_activity("slow")
        try:
            await asyncio.wait_for(asyncio.shield(task), 10)
        except TimeoutError:
            return ["timeout", await task]
        return []

    one = play(main)
    one.start()
    one.fire()
    one.complete("slow", "done")
    assert one.result == ["timeout", "done"]


def test_wait_first_completed_and_first_exception(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[Any]:
        tasks = [ctx.call_activity(name) for name in ("a", "b", "c")]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        seen: list[Any] = [[task.result() for task in done], len(pending)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION, timeout=60)
        return [*seen, len(done), len(pending)]

    one = play(main)
    one.start()
    one.complete("b", "b")
    one.fail("a", ValueError())
    assert one.result == [["b"], 2, 2, 1]


def test_as_completed_gives_results_as_they_come(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[Any]:
        tasks = [ctx.call_activity(name) for name in ("a", "b", "c")]
        return [await task for task in asyncio.as_completed(tasks)]

    one = play(main)
    one.start()
    for name in ("c", "a", "b"):
        one.complete(name, name)
    assert one.result == ["c", "a", "b"]


def test_a_barrier_waits_for_all(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[int]:
        barrier, passed = asyncio.Barrier(2), []

        async def one(number: int) -> None:
            await ctx.call_activity("echo", number)
            async with barrier:
                passed.append(number)

        await asyncio.gather(one(1), one(2))
        return sorted(passed)

    one = play(main)
    one.start()
    one.turn(one.completed("echo"))
    assert one.outcome is None
    one.complete("echo")
    assert one.result == [1, 2]


def test_the_sets_of_wait_iterate_in_the_same_order_on_every_replay(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[list[Any]]:
        async def through(name: str) -> str:
            return str(await ctx.call_activity(name, name))

        mixed = [*map(asyncio.create_task, map(through, "abcdefgh")), *(ctx.call_activity(x, x) for x in "ijklmnop")]
        order = []
        pending: Any = set(mixed)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            order.append([await task for task in done])
            for task in list(pending)[:1]:  # asks in the order of a set
                ctx.call_activity(f"after {len(order)}")
                await asyncio.sleep(0)
                assert not task.done()
        return order

    one = play(main)
    one.start()
    asked = list("abcdefghijklmnop")
    for index in range(0, 16, 4):
        one.turn(*(one.completed(name, name) for name in asked[index : index + 4]))
    assert sorted(name for group in one.result for name in group) == asked


PROGRAM = """
import asyncio, hashlib
from durable.context import OrchestrationContext
from durable.records import encode_record
from tests.engine.harness import Play

async def main(ctx: OrchestrationContext) -> list:
    async def one(name):
        return await ctx.call_activity(name, {f"{name}{n}" for n in range(50)})
    tasks = {asyncio.create_task(one(name)) for name in ("a", "b", "c", "d", "e", "f", "g")}
    order = []
    for task in tasks:
        ctx.set_custom_status(task.get_name() and len(order))
        ctx.start_orchestration(f"child {len(order)}")
    while tasks:
        done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        order.append([await task for task in done])
        try:
            async with asyncio.TaskGroup() as group:
                for name in ("x", "y", "z"):
                    group.create_task(one(name))
                await asyncio.sleep(1)
                raise ValueError
        except* ValueError:
            pass
        order.append([str(ctx.new_uuid()), ctx.random.random(), ctx.current_utc_datetime])
    return order

play = Play(main)
play.start()
play.turn(play.completed("d", "d"), play.completed("b", "b"), play.completed("a", "a"))
play.fire()
play.turn(play.completed("g", "g"), play.completed("c", "c"))
play.fire()
play.turn(play.completed("f", "f"), play.completed("e", "e"))
while play.outcome is None:
    play.fire()
play.check_replays()
print(hashlib.sha256(b"".join(map(encode_record, play.records))).hexdigest())
print(play.result is not None)
"""


def test_requests_are_byte_identical_in_any_process() -> None:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    outputs = set()
    places = [("0", "UTC", "C"), ("1", "Asia/Kathmandu", "C.UTF-8"), ("4242", "America/St_Johns", "tr_TR.UTF-8")]
    for seed, zone, locale in places:
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": locale, "PYTHONPATH": root}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, cwd=root, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        outputs.add(done.stdout)
    assert len(outputs) == 1, outputs


def test_gathers_in_a_set_keep_their_order_on_every_replay(play: MakePlay) -> None:
    """asyncio makes the future of `gather` itself; `asyncio.wait` puts it into a set."""

    async def main(ctx: Context) -> list[object]:
        groups = [asyncio.gather(ctx.call_activity(f"a{number}")) for number in range(8)]
        done, _ = await asyncio.wait(groups)
        return [await ctx.call_activity("seen", (await group)[0]) for group in done]

    one = play(main)
    one.run({**{f"a{number}": lambda _, n=number: n for number in range(8)}, "seen": lambda value: value})
    assert sorted(one.result) == list(range(8))
