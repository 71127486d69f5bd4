"""A case whose job trees are drawn, and steered, at random.

What must hold whatever happens: a job that has settled stays as it is, no job ran whose condition was not met, and once
everything works again every tree ends with every job settled.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from durable import Client, Handle, InstanceNotFoundError, UpdateRejectedError
from durable.events import InstanceKey
from durable.jobs import Job, JobContext, JobHandle, JobNode, JobStatus, Priority, RunCondition
from tests.simulation.cases import app, case, sequence
from tests.simulation.steering import NOT_NOW, act_at_random

TREES = 2
STEPS = 16

failing: set[str] = set()
"""What does not work at present."""

CONDITIONS = (
    *(RunCondition.ON_SUCCESS, RunCondition.ON_SUCCESS, RunCondition.ON_FAILURE, RunCondition.ON_CANCELLED),
    *(RunCondition.IN_PROGRESS, RunCondition.ON_FAILURE_OR_CANCELLED, RunCondition.ON_ANY_COMPLETED_STATUS),
)
MET_BY = {
    JobStatus.DONE: RunCondition.ON_SUCCESS,
    JobStatus.DUE_DONE: RunCondition.ON_SUCCESS,
    JobStatus.FAILED: RunCondition.ON_FAILURE,
    JobStatus.CANCELLED: RunCondition.ON_CANCELLED,
}


@app.activity
async def job_at_random(ctx: JobContext, what: list[Any]) -> float:
    """Takes its time, and fails while the like of it fails."""
    name, seconds = what
    await asyncio.sleep(seconds)
    if name in failing:
        raise ValueError(name)
    if name == "grows":
        ctx.schedule_child(Job(job_at_random, ["grown", 0.1], run_condition=RunCondition.ON_ANY_COMPLETED_STATUS))
    if name == "skips":
        ctx.skip("as it likes")
    return float(seconds)


def drawn_job(dice: random.Random, depth: int) -> Job:
    """Draw a tree."""
    children = [drawn_job(dice, depth - 1) for _ in range(dice.randrange(3))] if depth else []
    delay = timedelta(seconds=dice.choice((0.2, 1.5))) if dice.random() < 0.25 else None
    options: dict[str, Any] = {
        "run_condition": dice.choice(CONDITIONS) if depth < 3 else RunCondition.ON_SUCCESS,
        "delay": delay,
        "retries": dice.randrange(3),
        "retry_intervals": dice.choice(((), (0.2,), (0.1, 1.0))),
        "timeout": dice.choice((None, None, 0.4)),
        "priority": dice.choice(list(Priority)),
        "children": tuple(children),
    }
    if dice.random() < 0.2:
        return Job(sequence, dice.randrange(9), **options)
    what = [dice.choice(("works", "fails", "grows", "skips")), dice.choice((0.0, 0.0, 0.3, 1.0))]
    return Job(job_at_random, what, **options)


class Foreman:
    """Somebody who steers trees, and looks at them."""

    def __init__(
        self, client: Client, dice: random.Random, trees: dict[str, JobHandle], rewound: set[str | None]
    ) -> None:
        self._client, self._dice, self._trees, self._rewound = client, dice, trees, rewound
        self._settled: dict[tuple[str, str], tuple[Any, ...]] = {}

    def _any(self) -> JobHandle:
        return self._trees[self._dice.choice(list(self._trees))]

    async def look(self, handle: JobHandle) -> JobNode:
        """Look at a tree: what had settled is as it was."""
        tree = await handle.tree()
        check_conditions(tree)
        if handle.run_id in self._rewound:
            return tree
        seen = {(str(handle.run_id), node.id): told(node) for node in tree.walk() if node.status.is_settled}
        before = {place: found for place, found in self._settled.items() if place[0] == handle.run_id}
        assert before.items() <= seen.items(), f"{before} and then {seen}"
        self._settled.update(seen)
        return tree

    async def _look(self) -> None:
        await self.look(self._any())

    async def _steer_one(self) -> None:
        handle = self._any()
        job_id = self._dice.choice([node.id for node in (await self.look(handle)).walk()])
        way = self._dice.randrange(3)
        wait = self._dice.choice((0.05, 2.0))
        with contextlib.suppress(UpdateRejectedError, TimeoutError):
            if way == 0:
                await handle.cancel_job(job_id, "one", wait=wait)
            elif way == 1:
                await handle.delete_job(job_id, "one", wait=wait)
            else:
                await handle.update_job(
                    job_id,
                    wait=wait,
                    delay=self._dice.choice((None, timedelta(seconds=0.5))),
                    priority=self._dice.choice(list(Priority)),
                    retries=self._dice.randrange(3),
                )

    async def _steer(self) -> None:
        handle = self._any()
        ways: tuple[Callable[[], Awaitable[Any]], ...] = (
            *(handle.cancel, handle.suspend, handle.resume, handle.resume, handle.terminate),
            *(handle.purge, self._rewind, self._restart),
        )
        await self._dice.choice(ways)()

    async def _rewind(self) -> None:
        handle = self._any()
        self._rewound.add(handle.run_id)
        await handle.rewind()

    async def _restart(self) -> None:
        name = self._dice.choice(list(self._trees))
        again: Handle[Any] = await self._trees[name].restart()
        self._trees[name] = JobHandle(self._client.connection, InstanceKey(again.instance_id), again.run_id)

    async def _schedule(self) -> None:
        name = f"tree {self._dice.randrange(TREES + 1)}"
        self._trees[name] = await self._client.schedule(drawn_job(self._dice, 3), instance_id=name)

    async def _break(self) -> None:
        failing.symmetric_difference_update({self._dice.choice(("works", "grows", "fails"))})

    async def _wait(self) -> None:
        await asyncio.sleep(self._dice.choice((0.02, 0.1, 0.3, 1.0, 3.0)))

    async def act(self) -> None:
        """Do whatever comes, for a while."""
        ways = {
            self._look: 3,
            self._steer_one: 6,
            self._steer: 3,
            self._schedule: 2,
            self._break: 2,
            self._wait: 6,
        }
        await act_at_random(self._dice, ways, STEPS)

    async def end(self) -> None:
        """See every tree end, with every job settled."""
        for handle in self._trees.values():
            with contextlib.suppress(*NOT_NOW):
                await handle.resume()
            with contextlib.suppress(InstanceNotFoundError):
                await handle.wait()
                tree = await self.look(handle)
                assert all(node.status.is_settled for node in tree.walk()), str(tree)


def told(node: JobNode) -> tuple[Any, ...]:
    return (node.status, node.result, node.attempts, node.finished_at, node.skip_reason)


def check_conditions(tree: JobNode) -> None:
    """See that nothing was begun before its time."""
    for parent in tree.walk():
        for child in parent.children:
            if child.attempts and RunCondition.IN_PROGRESS not in child.run_condition:
                met = MET_BY.get(parent.status)
                assert met is not None, f"{child.id} runs below {parent.status}:\n{tree}"
                assert met in child.run_condition, f"{child.id} runs below {parent.status}:\n{tree}"


@case()
async def jobs_at_random(client: Client) -> None:
    failing.clear()
    failing.add("fails")
    first = await client.start(sequence, 1)
    dice = random.Random(first.run_id)
    trees = {
        f"tree {number}": await client.schedule(drawn_job(dice, 3), instance_id=f"tree {number}")
        for number in range(TREES)
    }
    rewound: set[str | None] = set()
    foremen = [Foreman(client, random.Random(dice.random()), trees, rewound) for _ in range(2)]
    await asyncio.gather(*(foreman.act() for foreman in foremen))
    failing.clear()
    for foreman in foremen:
        await foreman.end()
