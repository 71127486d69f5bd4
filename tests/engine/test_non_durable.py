"""What cannot be replayed is refused in the very turn that awaits it, with the line and what to use instead."""

# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest

from durable.context import Orchestration, OrchestrationContext
from durable.engine.loop import run_inside
from durable.errors import DurableError, NonDurableAwaitError, TurnBudgetExceededError
from tests.engine.harness import Play

MakePlay = Callable[..., Play]
Context = OrchestrationContext


async def to_thread() -> None:
    await asyncio.to_thread(print)  # HERE to_thread


async def run_in_executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, print)  # HERE run_in_executor


async def open_connection() -> None:
    await asyncio.open_connection("localhost", 1)  # HERE open_connection


async def sock_connect() -> None:
    with socket.socket() as one:
        await asyncio.get_running_loop().sock_connect(one, ("localhost", 1))  # HERE sock_connect


async def getaddrinfo() -> None:
    await asyncio.get_running_loop().getaddrinfo("localhost", 1)  # HERE getaddrinfo


async def subprocess() -> None:
    await asyncio.create_subprocess_exec("true")  # HERE subprocess


async def foreign_future() -> None:
    loop = asyncio.new_event_loop()
    try:
        await loop.create_future()  # HERE foreign_future
    finally:
        loop.close()


async def foreign_in_wait() -> None:
    loop = asyncio.new_event_loop()
    try:
        await asyncio.wait([asyncio.create_task(asyncio.sleep(99)), loop.create_future()])  # HERE foreign_in_wait
    finally:
        loop.close()


async def foreign_in_wait_for() -> None:
    loop = asyncio.new_event_loop()
    try:
        await asyncio.wait_for(loop.create_future(), 1)  # HERE foreign_in_wait_for
    finally:
        loop.close()


async def foreign_yield() -> None:
    await Awaiting()


class Awaiting:
    """What another framework's awaitables do."""

    def __await__(self) -> Any:
        return (yield "something of another framework")  # HERE foreign_yield


async def call_soon_threadsafe() -> None:
    asyncio.get_running_loop().call_soon_threadsafe(print)  # HERE call_soon_threadsafe


async def wrap_future() -> None:
    await asyncio.wrap_future(concurrent.futures.Future())  # HERE wrap_future


WRONG = [
    to_thread,
    run_in_executor,
    open_connection,
    sock_connect,
    getaddrinfo,
    subprocess,
    foreign_future,
    foreign_in_wait,
    foreign_in_wait_for,
    foreign_yield,
    call_soon_threadsafe,
    wrap_future,
]


def line_of(function: Any) -> str:
    with open(__file__, encoding="utf-8") as source:
        line = next(n for n, text in enumerate(source, 1) if text.endswith(f"# HERE {function.__name__}\n"))
    return f"{__file__}:{line}"


@pytest.mark.parametrize("wrong", WRONG)
def test_it_raises_at_once_with_the_line_and_the_durable_way(
    play: MakePlay, wrong: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    async def main(ctx: Context) -> str:
        try:
            await wrong()
        except NonDurableAwaitError as error:
            return str(error)
        return "?"

    text = play(main).run()
    assert text.startswith(line_of(wrong))
    for remedy in ("call_activity", "create_timer", "asyncio.sleep", "wait_for_external_event"):
        assert remedy in text


@pytest.mark.parametrize("wrong", WRONG)
def test_it_raises_in_tasks_and_groups_too(play: MakePlay, wrong: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def main(ctx: Context) -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(wrong())
        except* NonDurableAwaitError as group_error:
            text = str(group_error.exceptions[0])
        return text

    assert line_of(wrong) in play(main).run()


def test_it_fails_the_orchestration_that_lets_it_out(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        await asyncio.to_thread(print)

    one = play(main)
    one.run()
    assert one.failure.error_type == "durable.errors.NonDurableAwaitError"


def test_what_asyncio_itself_refuses_of_another_loop_leaves_the_orchestrator_as_this_error(play: MakePlay) -> None:
    loop = asyncio.new_event_loop()
    lock = asyncio.Lock()

    async def holds_it() -> None:
        await lock.acquire()
        waiting = asyncio.ensure_future(lock.acquire())  # with this the lock belongs to that loop
        await asyncio.sleep(0)
        waiting.cancel()

    async def gathers(ctx: Context) -> None:
        await asyncio.gather(ctx.call_activity("a"), loop.create_future())  # HERE gathers

    async def locks(ctx: Context) -> None:
        async with lock:  # HERE locks
            pass

    try:
        loop.run_until_complete(holds_it())
        for main in (gathers, locks):
            one = play(main, instance_id=main.__name__)
            one.run({"a": lambda _: 1})
            assert one.failure.error_type == "durable.errors.NonDurableAwaitError"
            assert one.failure.message.startswith(line_of(main))
    finally:
        loop.close()


def test_the_code_may_go_on_after_it(play: MakePlay) -> None:
    async def main(ctx: Context) -> int:
        try:
            await foreign_future()
        except NonDurableAwaitError:
            return int(await ctx.call_activity("a"))
        return 0

    assert play(main).run({"a": lambda _: 1}) == 1


def test_a_task_of_another_instance_is_refused(play: MakePlay) -> None:
    kept: list[Any] = []

    async def first(ctx: Context) -> None:
        kept.append(ctx.call_activity("a"))
        await kept[-1]

    async def second(ctx: Context) -> str:
        try:
            await kept[0]
        except NonDurableAwaitError as error:
            return str(error)
        return "?"

    def third(ctx: Context) -> Orchestration[str]:
        try:
            yield kept[0]
        except NonDurableAwaitError as error:
            return str(error)
        return "?"

    one = play(first)
    one.start()
    assert "a task of another orchestration" in play(second, instance_id="second").run()
    assert "a task of another orchestration" in play(third, instance_id="third").run()


async def made_a_task() -> None:
    await asyncio.create_task(asyncio.to_thread(print))  # HERE made_a_task


async def gathered() -> None:
    await asyncio.gather(asyncio.to_thread(print))  # HERE gathered


async def in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(print))  # HERE in_a_group


async def under_a_timeout() -> None:
    await asyncio.wait_for(asyncio.to_thread(print), 5)  # HERE under_a_timeout


@pytest.mark.parametrize("wrong", [made_a_task, gathered, in_a_group, under_a_timeout])
def test_of_a_librarys_coroutine_it_names_the_line_where_that_was_handed_over(
    play: MakePlay, wrong: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    async def main(ctx: Context) -> str:
        try:
            await wrong()
        except* NonDurableAwaitError as error:
            text = str(error.exceptions[0])
        return text

    assert play(main).run().startswith(line_of(wrong))


@pytest.mark.parametrize("is_thread", [False, True], ids=["another instance", "a thread"])
def test_whoever_cancels_a_task_of_another_instance_or_wakes_it_is_told(play: MakePlay, is_thread: bool) -> None:
    """The other one's history would say something that its code has never asked for, or it would wait for nothing."""
    kept: dict[str, Any] = {}

    async def victim(ctx: Context) -> str:
        kept["timer"], kept["event"] = ctx.create_timer(timedelta(days=1)), asyncio.Event()
        await asyncio.wait([asyncio.create_task(kept["event"].wait()), kept["timer"]])
        return "woken"

    def act() -> None:
        for way in (kept["timer"].cancel, kept["event"].set):
            with pytest.raises(DurableError, match="of orchestration 'victim' was used outside of its own turn"):
                way()

    async def stands_by(ctx: Context) -> None:
        await ctx.create_timer(timedelta(days=1))

    one, other = play(victim, instance_id="victim"), play(stands_by, instance_id="other")
    one.start()
    other.start()
    if is_thread:
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            threads.submit(act).result()
    else:
        run_inside(other.execution.loop, act)
    assert [type(event).__name__ for event in one.events] == ["OrchestrationStarted", "TimerCreated"]


def test_running_another_loop_inside_is_refused(play: MakePlay) -> None:
    def main(ctx: Context) -> str:
        coroutine = asyncio.sleep(0)
        try:
            asyncio.run(coroutine)
        except RuntimeError as error:
            return str(error)
        finally:
            coroutine.close()
        return "?"

    assert "running event loop" in play(main).run()


def test_an_endless_loop_of_awaits_runs_out_of_its_budget(play: MakePlay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durable.engine.loop.STEPS_MAX", 1000)

    async def main(ctx: Context) -> None:
        await ctx.create_timer(timedelta(1))
        while True:
            await asyncio.sleep(0)

    one = play(main)
    one.start()
    with pytest.raises(TurnBudgetExceededError, match="1,000 loop steps"):
        one.fire()
    one.execution.close()
    one.execution = one.new_execution()
    one.execution.feed(one.records[0], len(one.history[0][2]))
