"""A case whose schedules are made, changed, triggered, filled up and deleted at random.

What must hold whatever happens: a schedule counts what it starts, once everything works again it starts what it is told to,
what is deleted starts nothing more, and all that was started ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from datetime import timedelta
from typing import Any

from durable import Client, OrchestrationContext, OverlapPolicy
from durable.history import utc_datetime
from durable.jobs import Job
from tests.simulation.cases import add_one, add_one_slowly, always_fail, app, case, sequence
from tests.simulation.steering import NOT_NOW, act_at_random

NAMES = ("mornings", "evenings")
STEPS = 12

ill: set[str] = set()
"""Schedules whose code does not work at present."""


@app.activity
def healthy(name: str) -> None:
    if name in ill:
        raise ValueError(f"{name} is ill")


@app.orchestrator
async def occurrence(ctx: OrchestrationContext, what: list[Any]) -> int:
    """Takes its time. What is ill fails, or does not fit what it has done before."""
    name = ctx.instance_id.partition("/")[0]
    if name in ill and ctx.is_replaying:
        await ctx.call_activity(always_fail, "this is not in the history")
    await ctx.create_timer(timedelta(seconds=what[1]))
    if what[0] % 2:
        await ctx.call_activity(healthy, name)
    return int(await ctx.call_activity(add_one_slowly, what[0]))


class Planner:
    """Somebody who steers schedules."""

    def __init__(self, client: Client, dice: random.Random) -> None:
        self._client, self._dice, self._schedules = client, dice, client.schedules

    def _name(self) -> str:
        return self._dice.choice(NAMES)

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "overlap": self._dice.choice(list(OverlapPolicy)),
            "catch_up": self._dice.choice((1.0, 60.0)),
        }
        options["interval"] = self._dice.choice((1.0, 3.0, 10.0))
        if self._dice.random() < 0.2:
            options["jitter"] = 0.3
        return options

    def _work(self) -> list[Any]:
        return [self._dice.randrange(100), self._dice.choice((0.0, 0.3, 2.0))]

    async def create(self) -> None:
        targets: list[tuple[Any, Any]] = [
            (occurrence, self._work()),
            (add_one, 1),
            (Job(add_one_slowly, 1).then(Job(add_one, 2)), None),
        ]
        target, value = self._dice.choice([targets[0], *targets])
        name = self._name()
        await self._schedules.create(name, target, value, **self._options())

    async def _update(self) -> None:
        options = self._options()
        kept = self._dice.sample(list(options), self._dice.randint(1, len(options)))
        changes = {option: options[option] for option in kept}
        if self._dice.random() < 0.3:
            changes |= {"target": occurrence, "input": self._work()}
        await self._schedules.update(self._name(), **changes)

    async def _steer(self) -> None:
        name = self._name()
        await self._dice.choice((self._schedules.pause, self._schedules.resume, self._schedules.resume))(name, "so")

    async def _trigger(self) -> None:
        handle = await self._schedules.trigger(self._name(), overlap=self._dice.choice((None, *OverlapPolicy)))
        if self._dice.random() < 0.4:
            await self._dice.choice((handle.cancel, handle.terminate, handle.suspend, handle.resume))()

    async def _backfill(self) -> None:
        now = utc_datetime(await self._client.connection.clock.now(self._client.connection.provider))
        start = now - timedelta(seconds=self._dice.choice((2, 6)))
        await self._schedules.backfill(self._name(), start, now, overlap=self._dice.choice((None, *OverlapPolicy)))

    async def _delete(self) -> None:
        await self._schedules.delete(self._name())

    async def _break(self) -> None:
        ill.symmetric_difference_update({self._name()})

    async def _wait(self) -> None:
        await asyncio.sleep(self._dice.choice((0.1, 0.3, 1.0, 3.0)))

    async def act(self) -> None:
        """Do whatever comes, for a while."""
        ways = {
            self.create: 2,
            self._update: 2,
            self._steer: 2,
            self._trigger: 3,
            self._backfill: 1,
            self._delete: 1,
            self._break: 2,
            self._wait: 4,
        }
        await act_at_random(self._dice, ways, STEPS)


async def ended(client: Client, name: str) -> None:
    """Let all that a schedule has started go on, and end. Some of it may be due in hours, by a clock that had jumped."""
    for patience in itertools.accumulate(itertools.repeat(5.0), lambda seconds, _: min(seconds * 1.5, 3600.0)):
        async for found in client.query(prefix=f"{name}/"):
            with contextlib.suppress(*NOT_NOW):
                await client.get(found.instance_id).resume()
        count = await client.count(prefix=f"{name}/")
        if await client.wait(prefix=f"{name}/", timeout=patience) >= count:
            return


async def rest(client: Client, name: str) -> None:
    """Let a schedule start nothing more, if it is there."""
    with contextlib.suppress(*NOT_NOW, TimeoutError):
        await client.schedules.pause(name)


async def settled(client: Client, name: str) -> None:
    """See what a schedule that rests has started end: it then waits for nothing, and what it says of is there."""
    try:
        while (state := await client.schedules.get(name)).running_count or state.buffered or not state.is_paused:
            await ended(client, name)
            await asyncio.sleep(2)
    except NOT_NOW:
        return
    assert state.stall_reason is None
    assert state.error is None
    await ended(client, name)
    there = {found.instance_id async for found in client.query(prefix=f"{name}/")}
    assert {start.instance_id for start in state.recent} <= there, f"{state.recent}, but there are only {there}"


async def stopped(client: Client, name: str) -> None:
    """Delete a schedule for good, and let what it has started end."""
    with contextlib.suppress(*NOT_NOW):
        await client.schedules.delete(name)
    while [state for state in await client.schedules.list() if state.id == name]:
        await asyncio.sleep(2)
    count = await client.count(prefix=f"{name}/")
    await ended(client, name)
    await asyncio.sleep(30)
    assert await client.count(prefix=f"{name}/") == count, f"{name} has started more though it was deleted"


@case()
async def schedules_at_random(client: Client) -> None:
    ill.clear()
    first = await client.start(sequence, 1)
    dice = random.Random(first.run_id)
    planners = [Planner(client, random.Random(dice.random())) for _ in range(2)]
    await asyncio.gather(*(planner.act() for planner in planners))
    ill.clear()
    for name in NAMES:  # both at first: what the one has started may be due in hours, and the other goes on meanwhile
        await rest(client, name)
    for name in NAMES:
        await settled(client, name)
    for name in NAMES:
        await stopped(client, name)
