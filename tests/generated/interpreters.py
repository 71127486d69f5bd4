"""What runs a generated program: an orchestrator in either style.

Each keeps a trace of what happened to it, in its own order. A digest of the trace goes along as the input of activities and
as the result, so that any difference in what the code saw becomes a difference in what it asks for.
"""

# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Generator
from datetime import timedelta
from typing import Any, TypeAlias

from durable import App, DurableError, OrchestrationContext, RetryPolicy, Task, when_all, when_any
from tests.generated.programs import Steps

Asked: TypeAlias = tuple[Task[Any] | None, Callable[[Any], object]]

CAUGHT = (DurableError, TimeoutError, ExceptionGroup, ValueError)
"""What a step may raise without ending the program; RuntimeError goes through."""


class Interpreter:
    """What both styles share: the trace, and the requests behind each kind of leaf."""

    def __init__(self, ctx: OrchestrationContext) -> None:
        self.ctx = ctx
        self.trace: list[Any] = []

    def digest(self) -> list[int]:
        return [len(self.trace), zlib.crc32(repr(self.trace).encode())]

    def note(self, what: Any) -> None:
        self.trace.append(what)

    def call(self, name: str, **options: Any) -> Task[Any]:
        return self.ctx.call_activity(name, [{len(self.trace), "x", "y", "z"}, *self.digest()], **options)

    def ask(self, kind: str, number: int) -> Asked:
        """Make the requests of a leaf; return what to wait for, and what to do with its outcome."""
        return getattr(self, "ask_" + kind.replace(" ", "_"))(number)  # type: ignore[no-any-return]

    def ask_activity(self, number: int) -> Asked:
        return self.call(f"a{number}", total_timeout=60 if number == 3 else None, tags={"b": "2", "a": "1"}), self.note

    def ask_retried(self, number: int) -> Asked:
        policy = RetryPolicy(timedelta(seconds=number), 3, backoff_coefficient=2.0, jitter=0.3)
        return self.call(f"r{number}", retry_policy=policy, timeout=5), self.note

    def ask_child(self, number: int) -> Asked:
        policy = RetryPolicy(timedelta(seconds=number), 2) if number else None
        name = {"instance_id": "chosen"} if number == 3 else {}
        return self.ctx.call_sub_orchestrator(f"c{number}", self.digest(), retry_policy=policy, **name), self.note

    def ask_timer(self, number: int) -> Asked:
        return self.ctx.create_timer(timedelta(minutes=number)), self.note

    def ask_event(self, number: int) -> Asked:
        return self.ctx.wait_for_external_event(f"e{number}"), self.note

    def ask_timed_event(self, number: int) -> Asked:
        return self.ctx.wait_for_external_event(f"e{number}", int, timeout=number * 10), self.note

    def ask_when_all(self, number: int) -> Asked:
        return when_all([self.call(f"w{index}") for index in range(number)]), self.note

    def ask_when_any(self, number: int) -> Asked:
        tasks = [self.call(f"w{index}") for index in range(number + 1)]
        return when_any(tasks), lambda winner: self._won(tasks, winner)

    def ask_event_or_timer(self, number: int) -> Asked:
        tasks = [self.ctx.wait_for_external_event(f"e{number}"), self.ctx.create_timer(timedelta(seconds=number))]
        return when_any(tasks), lambda winner: self._won(tasks, winner)

    def _won(self, tasks: list[Task[Any]], winner: Task[Any]) -> None:
        self.note([tasks.index(winner), [task.is_complete for task in tasks], winner.is_failed])
        for task in set(tasks):  # what is iterated over is in the same order on every replay
            self.note([tasks.index(task), task.cancel()])

    def ask_cancel(self, number: int) -> Asked:
        given_up = self.call("given up") if number % 2 else self.ctx.call_sub_orchestrator("given up")
        if number < 2:
            given_up.cancel()
        return self.call("meanwhile"), lambda _: self.note([given_up.cancel(), given_up.is_complete])

    def ask_map(self, number: int) -> Asked:
        return self.ctx.map("m", range(number * 2), concurrency=number or None), self.note

    def ask_send(self, number: int) -> Asked:
        self.ctx.raise_event("other", f"n{number}", self.digest())
        self.note(self.ctx.start_orchestration("detached", number, at=timedelta(hours=1) if number else None))
        return None, self.note

    def ask_note(self, number: int) -> Asked:
        ctx = self.ctx
        ctx.set_custom_status([number, *self.digest()])
        self.note([ctx.new_uuid(), ctx.random.random(), ctx.random.getrandbits(number * 20)])
        self.note([ctx.current_utc_datetime, ctx.history_length, ctx.history_bytes, ctx.generation])
        return None, self.note

    def ask_fail(self, number: int) -> Asked:
        raise ValueError(number)

    def ask_raise(self, number: int) -> Asked:
        raise RuntimeError(f"the program fails with {number}")

    def caught(self, error: BaseException) -> None:
        self.note(type(error).__name__)

    def cancelled(self) -> None:
        self.note("cancelled")
        self.call("undo")


class GeneratorInterpreter(Interpreter):
    """Runs a program in generator style."""

    def steps(self, steps: Steps) -> Generator[Any, Any, None]:
        for kind, number, *parts in steps:
            try:
                if parts:
                    yield from self.branch(kind, number, parts[0])
                else:
                    task, after = self.ask(kind, number)
                    if task is not None:
                        after((yield task) if number % 2 else (yield from task))
                self.note(kind)
            except CAUGHT as error:
                self.caught(error)
            except asyncio.CancelledError:
                self.cancelled()
                raise

    def branch(self, kind: str, number: int, parts: list[Steps]) -> Generator[Any, Any, None]:
        if kind == "try":
            try:
                yield from self.steps(parts[0])
            finally:
                yield from self.steps(parts[-1])
        elif kind == "swallow":
            try:
                yield from self.steps(parts[0])
            except BaseException as error:
                self.caught(error)
            yield from self.steps(parts[-1])
        else:  # again: a task may be awaited any number of times
            task = self.call("again")
            for part in parts:
                yield from self.steps(part)
                self.note((yield task))


class AsyncInterpreter(Interpreter):
    """Runs a program in async style, with all of asyncio that is durable."""

    async def steps(self, steps: Steps) -> None:
        for kind, number, *parts in steps:
            try:
                if parts:
                    await self.branch(kind)(number, parts[0])
                elif kind == "sleep":
                    await asyncio.sleep(number)
                else:
                    task, after = self.ask(kind, number)
                    if task is not None:
                        after(await task)
                self.note(kind)
            except CAUGHT as error:
                self.caught(error)
            except asyncio.CancelledError:
                self.cancelled()
                raise

    def branch(self, kind: str) -> Callable[[int, list[Steps]], Any]:
        return getattr(self, "run_" + kind.replace(" ", "_"))  # type: ignore[no-any-return]

    async def run_try(self, number: int, parts: list[Steps]) -> None:
        try:
            await self.steps(parts[0])
        finally:
            await self.steps(parts[-1])

    async def run_swallow(self, number: int, parts: list[Steps]) -> None:
        try:
            await self.steps(parts[0])
        except BaseException as error:
            self.caught(error)
        await self.steps(parts[-1])

    async def run_again(self, number: int, parts: list[Steps]) -> None:
        task = self.call("again")
        for part in parts:
            await self.steps(part)
            self.note(await task)

    async def run_gather(self, number: int, parts: list[Steps]) -> None:
        await asyncio.gather(*map(self.steps, parts), self.call("beside the coroutines"))

    async def run_gather_all(self, number: int, parts: list[Steps]) -> None:
        results = await asyncio.gather(*map(self.steps, parts), return_exceptions=True)
        self.note([type(result).__name__ for result in results])

    async def run_task_group(self, number: int, parts: list[Steps]) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = {group.create_task(self.steps(part)) for part in parts}
        self.note(len(tasks))

    async def run_wait_for(self, number: int, parts: list[Steps]) -> None:
        await asyncio.wait_for(self.steps(parts[0]), number)

    async def run_timeout(self, number: int, parts: list[Steps]) -> None:
        async with asyncio.timeout(number) as scope:
            for part in parts:
                await self.steps(part)
                if len(parts) == 3:
                    scope.reschedule(asyncio.get_running_loop().time() + number)

    async def run_shield(self, number: int, parts: list[Steps]) -> None:
        await asyncio.wait_for(asyncio.shield(self.steps(parts[0])), number)

    async def run_beside(self, number: int, parts: list[Steps]) -> None:
        task = asyncio.create_task(self.steps(parts[0]))
        await self.steps(parts[-1])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def run_wait(self, number: int, parts: list[Steps]) -> None:
        racing = [asyncio.create_task(self.steps(part), name=str(index)) for index, part in enumerate(parts)]
        until = (asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION, asyncio.ALL_COMPLETED)[number % 3]
        done, pending = await asyncio.wait([*racing, self.call("waited for")], timeout=number, return_when=until)
        for some in (done, pending):
            self.note([task.get_name() if isinstance(task, asyncio.Task) else "call" for task in some])
        for task in pending:
            task.cancel()

    async def run_as_completed(self, number: int, parts: list[Steps]) -> None:
        tasks = [asyncio.create_task(self.steps(part)) for part in parts]
        for first in asyncio.as_completed(tasks, timeout=number + 1):
            await first
            self.note([task.done() for task in tasks])

    async def run_lock(self, number: int, parts: list[Steps]) -> None:
        lock = asyncio.Lock()

        async def locked(part: Steps) -> None:
            async with lock:
                await self.steps(part)

        await asyncio.gather(*map(locked, parts))

    async def run_semaphore(self, number: int, parts: list[Steps]) -> None:
        free = asyncio.Semaphore(1 + number % 2)

        async def limited(part: Steps) -> None:
            async with free:
                await self.steps(part)

        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(limited(part))

    async def run_queue(self, number: int, parts: list[Steps]) -> None:
        queue: asyncio.Queue[int] = asyncio.Queue(1)

        async def produce(index: int) -> None:
            try:
                await self.steps(parts[index])
            finally:
                await queue.put(index)

        producers = [asyncio.create_task(produce(index)) for index in range(len(parts))]
        self.note([await queue.get() for _ in parts])
        await asyncio.gather(*producers)

    async def run_asyncio_event(self, number: int, parts: list[Steps]) -> None:
        event = asyncio.Event()

        async def waits(part: Steps) -> None:
            await event.wait()
            await self.steps(part)

        waiting = [asyncio.create_task(waits(part)) for part in parts[1:]]
        try:
            await self.steps(parts[0])
        finally:
            event.set()
        await asyncio.gather(*waiting)

    async def run_condition(self, number: int, parts: list[Steps]) -> None:
        condition, ready = asyncio.Condition(), []

        async def waits(index: int) -> None:
            async with condition:
                await condition.wait_for(lambda: index in ready)
                self.note(["ready", index])

        waiting = [asyncio.create_task(waits(index)) for index in range(len(parts))]
        for index, part in enumerate(parts):
            await self.steps(part)
            async with condition:
                ready.append(index)
                condition.notify_all()
        await asyncio.gather(*waiting)

    async def run_async_generator(self, number: int, parts: list[Steps]) -> None:
        async def each() -> AsyncIterator[int]:
            try:
                for index, part in enumerate(parts):
                    await self.steps(part)
                    yield index
            finally:
                self.note("generator closed")
                await self.call("closing")

        async for index in each():
            self.note(index)
            if index == number % 3:
                break


def app_of(style: str, generations: list[Steps]) -> App:
    """Return an app whose orchestrator "main" runs these generations; its input is the number of the first one."""
    app = App()
    if style == "generator":

        @app.orchestrator(name="main")
        def in_generator_style(ctx: OrchestrationContext, index: int) -> Generator[Any, Any, list[int]]:
            interpreter = GeneratorInterpreter(ctx)
            yield from interpreter.steps(generations[index])
            _go_on(interpreter, index, len(generations))
            return interpreter.digest()
    else:

        @app.orchestrator(name="main")
        async def in_async_style(ctx: OrchestrationContext, index: int) -> list[int]:
            interpreter = AsyncInterpreter(ctx)
            await interpreter.steps(generations[index])
            _go_on(interpreter, index, len(generations))
            return interpreter.digest()

    return app


def _go_on(interpreter: Interpreter, index: int, generations: int) -> None:
    """Continue as new if there are further generations; what is asked for on the way out has no effect."""
    if index + 1 < generations:
        try:
            interpreter.ctx.continue_as_new(index + 1, carry_over_events=bool(len(interpreter.trace) % 3))
        finally:
            interpreter.call("never")
