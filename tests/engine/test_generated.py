"""Generated orchestrators: random programs, random arrivals, random evictions; every history replays from every prefix.

Goal: find combinations that nobody thought of. Method: a program is a tree of steps made from a seed and interpreted by an
orchestrator; the world around it is made from the same seed. A failing seed is repeated by its number alone. The number of
programs grows with DURABLE_GENERATED.
"""

# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from durable import events as ev
from durable.context import OrchestrationContext
from durable.engine.tasks import when_all, when_any
from durable.errors import DurableError
from durable.retry import RetryPolicy
from tests.engine.harness import Play, snapshot

PROGRAMS = int(os.environ.get("DURABLE_GENERATED", "150"))
TURNS_MAX = 40

Step = tuple[Any, ...]
LEAVES = (
    "activity",
    "retried",
    "child",
    "sleep",
    "timer",
    "event",
    "timed event",
    "note",
    "map",
    "group of tasks",
    "race",
)
BRANCHES = ("gather", "task group", "wait_for", "timeout", "try", "shield", "beside", "queue", "wait")


def make_steps(dice: random.Random, depth: int) -> list[Step]:
    return [make_step(dice, depth) for _ in range(dice.randint(1, 3))]


def make_step(dice: random.Random, depth: int) -> Step:
    if depth == 0 or dice.random() < 0.5:
        return (dice.choice(LEAVES), dice.randint(0, 3))
    kind = dice.choice(BRANCHES)
    return (kind, dice.randint(1, 20), [make_steps(dice, depth - 1) for _ in range(dice.randint(1, 3))])


class Interpreter:
    """Runs a program; `trace` is what happened, in its own order."""

    def __init__(self, ctx: OrchestrationContext) -> None:
        self.ctx = ctx
        self.trace: list[Any] = []

    async def steps(self, steps: list[Step]) -> None:
        for step in steps:
            try:
                await self.step(step)
                self.trace.append(step[0])
            except (DurableError, TimeoutError, ExceptionGroup) as error:
                self.trace.append(type(error).__name__)
            except asyncio.CancelledError:
                self.trace.append("cancelled")
                self.ctx.call_activity("undo")
                raise

    async def step(self, step: Step) -> None:
        kind, number, *rest = step
        if kind in BRANCHES:
            await self.branch(kind, number, rest[0])
        else:
            await self.leaf(kind, number)

    async def leaf(self, kind: str, number: int) -> None:
        ctx, policy = self.ctx, RetryPolicy(timedelta(seconds=number), 3, backoff_coefficient=2.0, jitter=0.3)
        if kind == "activity":
            await ctx.call_activity(f"a{number}", {number, "x"}, total_timeout=60 if number == 3 else None)
        elif kind == "retried":
            await ctx.call_activity(f"r{number}", retry_policy=policy)
        elif kind == "child":
            await ctx.call_sub_orchestrator(f"c{number}", number, retry_policy=policy if number else None)
        elif kind == "sleep":
            await asyncio.sleep(number)
        elif kind == "timer":
            await ctx.create_timer(timedelta(minutes=number))
        elif kind == "event":
            await ctx.wait_for_external_event(f"e{number}")
        elif kind == "timed event":
            await ctx.wait_for_external_event(f"e{number}", int, timeout=number * 10)
        elif kind == "map":
            await ctx.map("m", range(number * 2), concurrency=number or None)
        elif kind == "group of tasks":
            await when_all([ctx.call_activity("w", index) for index in range(number)])
        elif kind == "race":
            tasks = [ctx.call_activity("w", index) for index in range(number + 1)]
            winner = await when_any(tasks)
            self.trace.append(tasks.index(winner))
            [task.cancel() for task in tasks]
        else:
            ctx.set_custom_status(number)
            ctx.raise_event("other", "n", number)
            ctx.start_orchestration("detached", number)
            self.trace.append([str(ctx.new_uuid()), ctx.random.random(), ctx.current_utc_datetime, ctx.history_length])

    async def branch(self, kind: str, number: int, parts: list[list[Step]]) -> None:
        if kind == "gather":
            await asyncio.gather(*map(self.steps, parts))
        elif kind == "task group":
            async with asyncio.TaskGroup() as group:
                tasks = {group.create_task(self.steps(part)) for part in parts}
            self.trace.append(len(tasks))
        elif kind == "wait_for":
            await asyncio.wait_for(self.steps(parts[0]), number)
        elif kind == "timeout":
            async with asyncio.timeout(number):
                for part in parts:
                    await self.steps(part)
        elif kind == "try":
            try:
                await self.steps(parts[0])
            finally:
                await self.steps(parts[-1])
        elif kind == "shield":
            await asyncio.wait_for(asyncio.shield(self.steps(parts[0])), number)
        elif kind == "beside":
            task = asyncio.create_task(self.steps(parts[0]))
            await self.steps(parts[-1])
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        elif kind == "queue":
            await self.queue(parts)
        else:
            racing = [asyncio.create_task(self.steps(part), name=str(index)) for index, part in enumerate(parts)]
            done, pending = await asyncio.wait(racing, timeout=number, return_when=asyncio.FIRST_COMPLETED)
            self.trace.append([[task.get_name() for task in some] for some in (done, pending)])
            for task in pending:
                task.cancel()

    async def queue(self, parts: list[list[Step]]) -> None:
        queue: asyncio.Queue[int] = asyncio.Queue(1)
        lock = asyncio.Lock()

        async def produce(index: int) -> None:
            async with lock:
                await self.steps(parts[index])
            await queue.put(index)

        producers = [asyncio.create_task(produce(index)) for index in range(len(parts))]
        self.trace.append([await queue.get() for _ in parts])
        await asyncio.gather(*producers)


def orchestrator(seed: int) -> Callable[..., Any]:
    async def main(ctx: OrchestrationContext, rounds: int) -> list[Any]:
        dice = random.Random(f"{seed} {rounds}")
        program = make_steps(dice, 3)
        interpreter = Interpreter(ctx)
        await interpreter.steps(program)
        if rounds and dice.random() < 0.3:
            try:
                ctx.continue_as_new(rounds - 1)
            finally:
                ctx.call_activity("never")
        return interpreter.trace

    return main


class World:
    """Answers an instance at random, until it ends or enough is enough."""

    def __init__(self, one: Play, seed: int) -> None:
        self.one = one
        self.dice = random.Random(seed)

    def run(self) -> None:
        one = self.one
        one.start(*self.arrivals(2))
        for _ in range(TURNS_MAX):
            if one.execution.outcome is not None:
                return
            if self.dice.random() < 0.2:
                self.evict()
            if self.dice.random() < 0.6:
                one.wait(seconds=self.dice.choice((0, 0.5, 3, 30)))
            due = one.execution.due_timers(one.now)
            if not due and one.execution.next_due is not None and self.dice.random() < 0.4:
                one.now = max(one.now, one.execution.next_due)
                due = one.execution.due_timers(one.now)
            one.turn(*due, *self.arrivals(self.dice.randint(0, 4)))

    def evict(self) -> None:
        one, before = self.one, snapshot(self.one.execution)
        former = one.execution
        former.close()
        one.execution = one.new_execution()
        for record, (_, _, data, _) in zip(one.records, one.history, strict=True):
            one.execution.feed(record, len(data))
        one.execution.mailbox.carry(former.mailbox.carried)
        assert snapshot(one.execution) == before

    def arrivals(self, count: int) -> list[ev.HistoryEvent]:
        return [self.arrival() for _ in range(count)]

    def arrival(self) -> ev.HistoryEvent:
        execution, dice = self.one.execution, self.dice
        kind = dice.random()
        if kind < 0.02:
            return ev.OrchestrationSuspended()
        if kind < 0.10:
            return ev.OrchestrationResumed()
        if kind < 0.12:
            return ev.OrchestrationCancelRequested("enough")
        asked = [*execution.open_activities.values(), *execution.open_children.values()]
        if kind < 0.35 or not asked:
            return self.one.event(f"e{dice.randint(0, 3)}", dice.choice((1, 2, "text")))
        request = dice.choice(asked)
        fails = dice.random() < 0.25
        if isinstance(request, ev.ActivityScheduled):
            if fails:
                return ev.ActivityFailed(request.task_id, self.one.failed(request.name, ValueError("no")).details)  # type: ignore[attr-defined]
            return ev.ActivityCompleted(request.task_id, self.one.completed(request.name, dice.random()).result)  # type: ignore[attr-defined]
        if fails:
            return ev.SubOrchestrationFailed(request.task_id, self.one.failed(request.name, ValueError("no")).details)  # type: ignore[attr-defined]
        return ev.SubOrchestrationCompleted(request.task_id, self.one.completed(request.name, 1).result)  # type: ignore[attr-defined]


def check_conserved(one: Play) -> None:
    """Each request has at most one answer, and no task id is used twice."""
    for history in [*(history for _, history in one.ended), one.history]:
        events = [event for _, _, _, turn in history if turn is not None for event in turn.record.events]
        asked = [
            event.task_id
            for event in events
            if event.is_request and hasattr(event, "line") and hasattr(event, "task_id")
        ]
        assert len(asked) == len(set(asked))
        answers = [
            event.task_id
            for event in events
            if hasattr(event, "task_id") and not (event.is_request and hasattr(event, "line"))
        ]
        assert len(answers) == len(set(answers))


@pytest.mark.parametrize("first", range(0, PROGRAMS, 50))
def test_generated_programs_replay_from_every_prefix(first: int) -> None:
    for seed in range(first, min(first + 50, PROGRAMS)):
        one = Play(orchestrator(seed), 2, run_id=f"run {seed}")
        try:
            World(one, seed).run()
            check_conserved(one)
            one.check_replays()
        except BaseException as error:
            error.add_note(f"the seed of the program is {seed}")
            raise
        finally:
            one.execution.close()
