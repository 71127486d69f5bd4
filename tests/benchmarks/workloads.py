"""The workloads that run in one process, beside its worker: N instances, C of them at a time.

seq5          N instances of 5 activities, one after the other; from start to result
seq1_latency  N instances of one activity, one at a time
fanout        one instance, N activities at once, the sum of their results
long          one instance, N activities one after the other
timers        N instances that sleep for a second; how late they wake up
events        N instances that wait for an event; then all events are sent
starts        N instances of one activity: how fast starts are answered
job_tree      one tree of N jobs, about as deep as it is wide
due_jobs      N trees of one job, all due at the same moment; how late the jobs start
limited       one instance, N activities of which four may run at a time
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from durable import Client, Handle, OrchestrationStatus
from durable.history import utc_datetime
from durable.jobs import Job, JobStatus
from tests.benchmarks import program

SETTLE_S = 0.3
"""Between the moment when all wait and the first event, so that nothing of the starts is measured with the events."""

LOOK_S = 0.01
LOOK_EACH_S = 5e-5

AHEAD_S = 0.2
SCHEDULING_S = 0.001
"""How long before they are due jobs are scheduled, and how much longer for each: none may be late before it is stored."""


@dataclasses.dataclass(frozen=True, slots=True)
class Timing:
    """What one run took: in all, and each instance (from its start, from the first event, or how late it was), in seconds."""

    seconds: float
    each: Sequence[float]


Run = Callable[[Client, int, int, str], Awaitable[Timing]]
"""(client, N, C, beginning of the ids, where they matter) to what it took."""


async def at_a_time(count: int, concurrency: int, do: Callable[[int], Awaitable[None]]) -> None:
    """Do something for each number below `count`, so many at a time."""
    numbers = iter(range(count))

    async def some() -> None:
        for number in numbers:
            await do(number)

    await asyncio.gather(*(some() for _ in range(min(count, concurrency))))


async def _each_run(orchestrator: Any, client: Client, n: int, concurrency: int) -> Timing:
    each = [0.0] * n

    async def run(number: int) -> None:
        began = time.perf_counter()
        result = await client.run(orchestrator)
        each[number] = time.perf_counter() - began
        assert result is not None

    began = time.perf_counter()
    await at_a_time(n, concurrency, run)
    return Timing(time.perf_counter() - began, each)


async def seq5(client: Client, n: int, concurrency: int, ids: str) -> Timing:
    return await _each_run(program.seq5, client, n, concurrency)


async def seq1_latency(client: Client, n: int, concurrency: int, ids: str) -> Timing:
    return await _each_run(program.one, client, n, 1)


async def _one_instance(orchestrator: Any, expected: int, client: Client, n: int, ids: str) -> Timing:
    began = time.perf_counter()
    result = await client.run(orchestrator, n, instance_id=f"{ids}-0")
    seconds = time.perf_counter() - began
    assert result == expected, (result, expected)
    return Timing(seconds, [seconds])


async def fanout(client: Client, n: int, concurrency: int, ids: str) -> Timing:
    return await _one_instance(program.fan, n * (n - 1) // 2, client, n, ids)


async def long(client: Client, n: int, concurrency: int, ids: str) -> Timing:
    return await _one_instance(program.long, n, client, n, ids)


async def timers(client: Client, n: int, concurrency: int, ids: str) -> Timing:
    async def run(number: int) -> None:
        await client.run(program.timer, instance_id=f"{ids}-{number}")

    began = time.perf_counter()
    await at_a_time(n, concurrency, run)
    seconds = time.perf_counter() - began
    names = [f"{ids}-{number}" for number in range(n)]
    return Timing(seconds, [program.awake[name] - program.asleep[name] - program.TIMER_S for name in names])


async def events(client: Client, n: int, concurrency: int, ids: str) -> Timing:
    handles: dict[int, Handle[str]] = {}
    each = [0.0] * n

    async def start(number: int) -> None:
        handles[number] = await client.start(program.event, instance_id=f"{ids}-{number}")

    async def send(number: int) -> None:
        await handles[number].raise_event("go", "x")

    async def finish(number: int) -> None:
        await handles[number].result()
        each[number] = time.perf_counter() - began

    await at_a_time(n, concurrency, start)
    expected = {f"{ids}-{number}" for number in range(n)}
    while not expected <= program.waiting:
        await asyncio.sleep(LOOK_S)
    await asyncio.sleep(SETTLE_S)
    began = time.perf_counter()
    await asyncio.gather(at_a_time(n, concurrency, send), *(finish(number) for number in range(n)))
    return Timing(time.perf_counter() - began, each)


async def starts(client: Client, n: int, concurrency: int, ids: str) -> Timing:
    each = [0.0] * n
    handles: list[Handle[str]] = []

    async def start(number: int) -> None:
        began = time.perf_counter()
        handles.append(await client.start(program.one, instance_id=f"{ids}-{number}"))
        each[number] = time.perf_counter() - began

    began = time.perf_counter()
    await at_a_time(n, concurrency, start)
    seconds = time.perf_counter() - began
    await client.wait(prefix=f"{ids}-")
    return Timing(seconds, each)


async def job_tree(client: Client, n: int, concurrency: int, ids: str) -> Timing:
    wide = math.isqrt(n)
    tree = Job(program.job, 0)
    for _ in range(wide):
        chain = Job(program.job, 0)
        for depth in range(1, n // wide):
            chain = Job(program.job, depth).then(chain)
        tree = tree.then(chain)
    began = time.perf_counter()
    handle = await client.schedule(tree, instance_id=f"{ids}-0")
    await handle.wait()
    seconds = time.perf_counter() - began
    root = await handle.result()
    assert all(job.status is JobStatus.DONE for job in root.walk())
    return Timing(seconds, [seconds])


async def due_jobs(client: Client, n: int, concurrency: int, ids: str) -> Timing:
    now = utc_datetime(await client.connection.clock.now(client.connection.provider))
    due = now + timedelta(seconds=AHEAD_S + n * SCHEDULING_S)
    handles = await client.schedule_many([Job(program.job, number) for number in range(n)], at=due, tags={"run": ids})
    late, done = [0.0] * n, [0.0] * n

    async def look(number: int) -> None:
        job = await handles[number].result()
        assert job.started_at is not None
        assert job.finished_at is not None
        late[number] = (job.started_at - due).total_seconds()
        done[number] = (job.finished_at - due).total_seconds()

    # Asked now and then: whoever is told of each end takes the worker's time, in whose process he is.
    while await client.count(tags={"run": ids}, status=OrchestrationStatus.COMPLETED) < n:
        await asyncio.sleep(LOOK_S + n * LOOK_EACH_S)
    await at_a_time(n, 50, look)
    return Timing(max(1e-6, *done), late)  # a clock that is read by two may be a moment apart


async def limited(client: Client, n: int, concurrency: int, ids: str) -> Timing:
    return await _one_instance(program.limited, n * (n - 1) // 2, client, n, ids)


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """How a workload is run, how much of it warms up, and how many of its N are units and steps."""

    run: Run
    warm_up: int
    is_one_instance: bool = False
    steps_per_instance: int | None = None


WORKLOADS = {
    "seq5": Workload(seq5, 50, steps_per_instance=5),
    "seq1_latency": Workload(seq1_latency, 20, steps_per_instance=1),
    "fanout": Workload(fanout, 20, is_one_instance=True),
    "long": Workload(long, 20, is_one_instance=True),
    "timers": Workload(timers, 5),
    "events": Workload(events, 5),
    "starts": Workload(starts, 50, steps_per_instance=1),
    "job_tree": Workload(job_tree, 20, is_one_instance=True),
    "due_jobs": Workload(due_jobs, 20, steps_per_instance=1),
    "limited": Workload(limited, 20, is_one_instance=True),
}


async def collect(client: Client, name: str, n: int, concurrency: int, ids: str) -> Timing:
    """Run a workload once, and forget afterwards what it noted."""
    timing = await WORKLOADS[name].run(client, n, concurrency, ids)
    for notes in (program.asleep, program.awake, program.waiting):
        notes.clear()
    return timing
