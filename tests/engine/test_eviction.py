"""Closing a suspended orchestrator runs its `finally` blocks, and nothing comes of it, whatever they do."""

# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

import pytest

from durable.context import Orchestration, OrchestrationContext
from durable.errors import DurableError
from durable.records import decode_record
from tests.engine.harness import Play, snapshot

MakePlay = Callable[..., Play]
Context = OrchestrationContext


def ask_for_everything(ctx: Context) -> None:
    ctx.call_activity("never")
    ctx.call_sub_orchestrator("never")
    ctx.start_orchestration("never")
    ctx.raise_event("other", "never")
    ctx.create_timer(timedelta(1))
    ctx.set_custom_status("never")
    ctx.wait_for_external_event("never")
    ctx.map("never", [1, 2, 3])
    ctx.logger.error("never")


def evict(one: Play) -> None:
    """Close the execution in the middle, and see that nothing can be seen of it."""
    before = snapshot(one.execution)
    execution = one.execution
    execution.close()
    execution.close()
    after = snapshot(execution)
    before.pop("is_over"), after.pop("is_over")
    assert before == after
    one.execution = one.new_execution()
    for _, _, data, _ in one.history:
        one.execution.feed(decode_record(data), len(data))


def test_finally_blocks_run_and_have_no_effect_in_both_styles(play: MakePlay, caplog: pytest.LogCaptureFixture) -> None:
    closed = []

    async def main(ctx: Context) -> str:
        try:
            return str(await ctx.call_activity("a"))
        finally:
            closed.append("async")
            if len(closed) == 1:
                ask_for_everything(ctx)

    def generator(ctx: Context) -> Orchestration[str]:
        try:
            return str((yield ctx.call_activity("a")))
        finally:
            closed.append("generator")
            if len(closed) == 1:
                ask_for_everything(ctx)

    for style in (main, generator):
        closed.clear()
        one = play(style)
        one.start()
        evict(one)
        assert len(closed) == 1
        one.complete("a", "done")
        assert one.result == "done"
        closed.append("the replays do nothing but count")
    assert not caplog.records


def test_code_that_catches_everything_has_no_effect(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        try:
            return str(await ctx.call_activity("a"))
        except BaseException:
            ask_for_everything(ctx)
            await ctx.call_activity("b")
            await asyncio.sleep(5)
            return "caught"

    def generator(ctx: Context) -> Orchestration[str]:
        try:
            return str((yield ctx.call_activity("a")))
        except BaseException:
            ask_for_everything(ctx)
            yield ctx.call_activity("b")
            yield ctx.create_timer(timedelta(1))
            return "caught"

    for style in (main, generator):
        one = play(style)
        one.start()
        evict(one)
        gc.collect()
        one.complete("a", "done")
        assert one.result == "done"


def test_waits_in_finally_blocks_are_gone_through(play: MakePlay) -> None:
    steps: list[int] = []

    async def main(ctx: Context) -> None:
        try:
            await ctx.call_activity("a")
        finally:
            for number in range(3):
                try:
                    await ctx.call_activity("undo")
                finally:
                    steps.append(number)

    def generator(ctx: Context) -> Orchestration[None]:
        try:
            yield ctx.call_activity("a")
        finally:
            try:
                yield ctx.call_activity("undo")
            finally:
                steps.append(0)

    for style in (main, generator):
        steps.clear()
        one = play(style)
        one.start()
        evict(one)
        assert steps == [0]
        gc.collect()
        assert steps == [0], "nothing is left for the garbage collector to run"


def test_context_managers_and_generators_are_closed_without_effect(play: MakePlay) -> None:
    log: list[str] = []

    @asynccontextmanager
    async def held(ctx: Context, name: str) -> AsyncIterator[str]:
        await ctx.call_activity(f"take {name}")
        try:
            yield name
        finally:
            log.append(f"release {name}")
            await ctx.call_activity(f"release {name}")

    @contextmanager
    def noted(ctx: Context) -> Iterator[None]:
        try:
            yield
        finally:
            log.append("noted")
            ctx.raise_event("other", "noted")

    async def numbers(ctx: Context) -> AsyncIterator[int]:
        try:
            for number in range(10):
                yield await ctx.call_activity("number", number)
        finally:
            log.append("numbers")
            ctx.set_custom_status("numbers")

    async def main(ctx: Context) -> list[int]:
        found = []
        async with held(ctx, "lock"):
            with noted(ctx):
                async for number in numbers(ctx):
                    found.append(number)
                    if number == 1:
                        break
                await ctx.wait_for_external_event("end")
        return found

    one = play(main)
    one.start()
    one.complete("take lock")
    evict(one)
    one.complete("number", 0)
    evict(one)
    one.complete("number", 1)
    assert log == ["numbers", "noted", "release lock"] * 2
    log.clear()
    evict(one)
    assert log == ["noted", "release lock", "numbers"], "as they are nested; then what nobody was in the middle of"
    one.raise_event("end")
    one.complete("release lock")
    assert one.result == [0, 1]


def test_coroutines_that_a_finally_block_makes_are_closed_too(play: MakePlay) -> None:
    async def undo(ctx: Context, number: int) -> None:
        try:
            await ctx.call_activity("undo", number)
        finally:
            await asyncio.gather(asyncio.sleep(1), asyncio.sleep(2))

    async def main(ctx: Context) -> None:
        try:
            await ctx.call_activity("a")
        finally:
            async with asyncio.timeout(5):
                await asyncio.gather(*(undo(ctx, number) for number in range(3)))
            await asyncio.wait_for(undo(ctx, 4), 5)

    one = play(main)
    one.start()
    evict(one)
    gc.collect()  # and no coroutine says that it was never awaited


def test_every_task_of_the_loop_is_closed(play: MakePlay) -> None:
    closed: list[int] = []

    async def beside(ctx: Context, number: int) -> None:
        try:
            await ctx.call_activity("a", number)
        finally:
            closed.append(number)
            ask_for_everything(ctx)

    async def main(ctx: Context) -> None:
        await asyncio.gather(*(beside(ctx, number) for number in range(5)))

    one = play(main)
    one.start()
    evict(one)
    assert closed == [4, 3, 2, 1, 0]


def test_a_closed_orchestration_logs_nothing(play: MakePlay, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def main(ctx: Context) -> None:
        try:
            ctx.logger.info("waiting")
            await ctx.call_activity("a")
        finally:
            ctx.logger.info("closing")

    one = play(main)
    one.start()
    one.execution.close()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("durable")] == ["waiting"]
    one.execution = one.new_execution()
    one.execution.feed(one.records[0], len(one.history[0][2]))


def test_a_turn_after_the_end_frees_what_the_code_held(play: MakePlay) -> None:
    class Held:
        pass

    kept: list[weakref.ref[Held]] = []

    async def beside(ctx: Context) -> None:
        held = Held()
        kept.append(weakref.ref(held))
        await ctx.call_activity("never")

    async def main(ctx: Context) -> None:
        task = asyncio.create_task(beside(ctx))
        await ctx.wait_for_external_event("end")
        del task

    one = play(main)
    one.start()
    one.raise_event("end")
    gc.collect()
    assert kept[0]() is None


def test_a_context_is_of_no_use_after_the_end(play: MakePlay) -> None:
    kept: list[Any] = []

    async def main(ctx: Context) -> None:
        kept.append(ctx)

    play(main).run()
    with pytest.raises(DurableError, match="after its end"):
        kept[0].call_activity("a")
