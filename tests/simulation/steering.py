"""A case whose client does what nobody would think of: instances are raised, steered, begun again and left to stall at random.

Nothing here says what must come of it: that every accepted event is seen or listed as dropped, in the order in which it was
sent, and that everything ends, is for the simulator to look at. What is drawn follows from the ids of the run, and so from
its schedule's seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeAlias

from durable import (
    Client,
    Handle,
    InstanceAlreadyExistsError,
    InstanceFinishedError,
    InstanceNotFoundError,
    InstanceRunningError,
    OrchestrationContext,
    ReusePolicy,
    UpdateRejectedError,
)
from durable.client.starting import StartOptions
from tests.simulation.cases import add_one, always_fail, app, case, sequence

GO_ON, FAIL, END = range(3)
NOT_NOW = (
    InstanceAlreadyExistsError,
    InstanceFinishedError,
    InstanceNotFoundError,
    InstanceRunningError,
    UpdateRejectedError,
)
"""What is said of something that cannot be done as things stand."""

NAMES = ("left", "middle", "right")
STEPS = 30

broken: set[str] = set()
"""Instances whose code does not fit their history at present."""


@app.orchestrator
async def steered(ctx: OrchestrationContext, seen: int) -> int:
    """Takes numbers, with and without work in between, until it is told to go on anew, to fail or to end."""
    if ctx.is_replaying and ctx.instance_id in broken:
        await ctx.call_activity(always_fail, "this is not in the history")
    added = 0

    def add(number: int) -> int:
        nonlocal added
        added += number
        return added

    ctx.on_update("add", add)
    while True:
        number = await ctx.wait_for_external_event("number", int)
        if number < 0:
            word = -number % 3
            if word == GO_ON:
                ctx.continue_as_new(seen)
            if word == FAIL:
                raise ValueError(f"after {seen} numbers")
            return seen
        seen += 1
        if number % 3 == 0:
            await ctx.call_activity(add_one, number)
        elif number % 5 == 0:
            await ctx.call_sub_orchestrator(sequence, number)
        elif number % 7 == 0:
            await ctx.create_timer(timedelta(seconds=0.2))


Action: TypeAlias = Callable[[], Awaitable[None]]


async def act_at_random(dice: random.Random, ways: Mapping[Action, int], steps: int) -> None:
    """Do so many of these things, drawn by their weights, one after the other; what cannot be done now is not done."""
    for way in dice.choices(list(ways), list(ways.values()), k=steps):
        with contextlib.suppress(*NOT_NOW):
            await way()


class Crowd:
    """A few instances, and somebody who steers them as the dice fall."""

    def __init__(
        self, client: Client, dice: random.Random, runs: dict[str, Handle[Any]], numbers: Iterator[int]
    ) -> None:
        self._client = client
        self._dice = dice
        self._runs = runs
        self._numbers = numbers

    def _any(self) -> Handle[Any]:
        return self._runs[self._dice.choice(list(self._runs))]

    async def begin(self, name: str) -> None:
        """Start one, or another run of it; at once or later."""
        policies = (ReusePolicy.TERMINATE_AND_REPLACE, ReusePolicy.REPLACE_FINISHED)
        later = timedelta(seconds=self._dice.choice((0.3, 1.1, 4.0))) if self._dice.random() < 0.6 else None
        events = [("number", next(self._numbers)) for _ in range(self._dice.randrange(3))]
        policy = self._dice.choice(policies)
        options = StartOptions(instance_id=name, reuse_policy=policy, at=later, events=events)
        self._runs[name] = await self._client.start(steered, 0, **options)

    async def _begin_again(self) -> None:
        await self.begin(self._dice.choice(NAMES))

    async def _raise_some(self) -> None:
        handle = self._any()
        for _ in range(self._dice.choice((1, 1, 2, 12))):
            await handle.raise_event("number", next(self._numbers))

    async def _tell(self) -> None:
        await tell(self._any(), self._dice.choice((GO_ON, GO_ON, FAIL, END)), self._numbers)

    async def _steer(self) -> None:
        handle = self._any()
        ways = (handle.suspend, handle.resume, handle.resume, handle.cancel, handle.terminate, handle.rewind)
        way: Callable[[], Awaitable[Any]] = self._dice.choice(ways)
        await way()

    async def _update(self) -> None:
        with contextlib.suppress(TimeoutError):
            await self._any().update("add", 1, timeout=self._dice.choice((0.1, 1.0)))

    async def _begin_otherwise(self) -> None:
        name = self._dice.choice(NAMES)
        handle = self._runs[name]
        way = self._dice.randrange(3)
        if way == 0:
            self._runs[name] = await handle.restart()
        elif way == 1:
            await handle.purge()
        else:
            events = len(await handle.history())
            if events:
                with contextlib.suppress(ValueError):  # the history is another one by now
                    fork = await handle.fork(at=self._dice.randint(1, events))
                    self._runs[fork.instance_id] = fork

    async def _break(self) -> None:
        name = self._dice.choice(NAMES)
        if name in broken:
            broken.remove(name)
        else:
            broken.add(name)

    async def _wait(self) -> None:
        await asyncio.sleep(self._dice.choice((0.02, 0.1, 0.3, 1.0, 3.0)))

    async def act(self) -> None:
        """Do whatever comes, for a while."""
        ways: dict[Action, int] = {
            self._raise_some: 12,
            self._wait: 6,
            self._steer: 4,
            self._break: 3,
            self._begin_again: 2,
            self._begin_otherwise: 2,
            self._update: 2,
            self._tell: 1,
        }
        await act_at_random(self._dice, ways, STEPS)


@case()
async def steered_at_random(client: Client) -> None:
    broken.clear()
    runs = {name: await client.start(steered, 0, instance_id=name) for name in NAMES}
    dice, numbers = random.Random(runs[NAMES[0]].run_id), itertools.count(1)
    await asyncio.gather(*(Crowd(client, random.Random(dice.random()), runs, numbers).act() for _ in range(2)))
    broken.clear()
    for handle in runs.values():
        with contextlib.suppress(InstanceNotFoundError):
            await end(handle, numbers)


async def tell(handle: Handle[Any], word: int, numbers: Iterator[int]) -> None:
    """Say to a run what is to become of it. No two events are the same, so that their order can be looked at."""
    await handle.raise_event("number", -3 * next(numbers) - word)


async def end(handle: Handle[Any], numbers: Iterator[int]) -> None:
    """Let a run go on and end."""
    with contextlib.suppress(InstanceFinishedError):
        await handle.resume()
        await tell(handle, END, numbers)
    try:
        await handle.wait(timeout=60)
    except TimeoutError:  # it begins in ten years: a clock had jumped when it was asked for
        with contextlib.suppress(InstanceFinishedError):
            await handle.terminate()
        await handle.wait()
