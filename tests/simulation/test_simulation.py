"""The simulator itself.

Goal: a run depends on its schedule and on nothing else, so that whatever it finds can be found again; and time, processes
and faults are what they say. Method: small scenarios, with their traces compared, also from other processes.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import timedelta

import pytest

from durable import App, Client, Orchestration, OrchestrationContext
from durable.testing.simulation.faults import Fault, FaultKind, Schedule, draw_schedule
from durable.testing.simulation.loop import Process, SimulatedLoop
from durable.testing.simulation.overhearing import Overheard
from durable.testing.simulation.running import Outcome, run_schedule

app = App()


@app.activity
def add_one(number: int) -> int:
    return number + 1


@app.orchestrator
def counting(ctx: OrchestrationContext, number: int) -> Orchestration[int]:
    for _ in range(5):
        number = yield from ctx.call_activity(add_one, number)
    return number


@app.orchestrator
async def waiting(ctx: OrchestrationContext, days: int) -> str:
    await ctx.create_timer(timedelta(days=days))
    return ctx.current_utc_datetime.date().isoformat()


async def count_twice(client: Client) -> None:
    handles = [await client.start(counting, number) for number in range(2)]
    assert [await handle.result() for handle in handles] == [5, 6]


ENGINES = pytest.mark.parametrize("engine", ["memory", "sqlite"])


def _run(seed: int, engine: str) -> Outcome:
    return run_schedule(app, count_twice, draw_schedule(seed, 60), engine=engine, is_traced=True)


@ENGINES
def test_the_same_schedule_gives_the_same_trace(engine: str) -> None:
    for seed in range(12):
        first, second = _run(seed, engine), _run(seed, engine)
        assert first.trace == second.trace
        assert len(first.trace) > 30


def test_it_does_so_in_every_process_whatever_its_hash_seed() -> None:
    program = (
        "import hashlib, tests.simulation.test_simulation as own\n"
        "traces = [own._run(seed, engine).trace for seed in range(6) for engine in ('memory', 'sqlite')]\n"
        "print(hashlib.sha256(repr(traces).encode()).hexdigest())"
    )
    answers = set()
    for hash_seed in ("0", "1", "77"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "TZ": "Asia/Tokyo" if hash_seed == "1" else "UTC"}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        answers.add(done.stdout)
    assert len(answers) == 1


def test_a_month_of_waiting_takes_no_month() -> None:
    async def scenario(client: Client) -> None:
        assert await client.run(waiting, 30) == "2026-01-31"

    outcome = run_schedule(app, scenario, Schedule(1), is_traced=True)
    assert outcome.error is None
    assert outcome.seconds > 30 * 86400
    assert outcome.calls < 300


def test_what_a_killed_process_was_doing_stops_where_it_was() -> None:
    seen: list[str] = []
    killed = App()

    @killed.activity
    async def slow() -> None:
        seen.append("begun")
        try:
            await asyncio.sleep(5)
            seen.append("done")
        finally:
            seen.append("left")

    @killed.orchestrator
    def calling(ctx: OrchestrationContext) -> Orchestration[None]:
        yield ctx.call_activity(slow)

    async def scenario(client: Client) -> None:
        await client.run(calling)
        assert seen == ["begun", "begun", "done", "left"]

    calls_until_begun = 18
    fault = Fault(calls_until_begun, FaultKind.CRASH_BEFORE, 1.0)
    outcome = run_schedule(killed, scenario, Schedule(1, faults=(fault,)))
    assert (outcome.error, outcome.violations) == (None, ())
    assert len(outcome.struck) == 1


def test_an_answer_is_known_when_it_comes_and_heard_when_its_process_goes_on() -> None:
    loop = SimulatedLoop()  # type: ignore[abstract]  # what it lacks, it has no use for
    world, stopped, killed = Process("world"), Process("stopped"), Process("killed")
    known: list[str] = []
    heard: list[str] = []

    async def asks(process: Process) -> None:
        async def call() -> str:
            await answers  # as in a store that answers all who wait at once
            return process.name

        heard.append(await Overheard(call(), process, known.append, world.context))

    with loop.running():
        answers = loop.create_future()
        for process in (stopped, killed):
            _ = loop.spawn(process, asks(process))
        loop.step()
        answers.set_result(None)
        stopped.is_stopped = True
        killed.kill()
        while loop.step():
            pass
        assert (known, heard) == (["stopped", "killed"], [])
        loop.go_on(stopped)
        while loop.step():
            pass
        assert (known, heard) == (["stopped", "killed"], ["stopped"])
        loop.bury(killed)


def test_what_waits_for_ever_is_said_at_once() -> None:
    async def scenario(client: Client) -> None:
        await asyncio.get_running_loop().create_future()

    outcome = run_schedule(app, scenario, Schedule(1))
    assert isinstance(outcome.error, AssertionError)
    assert "nothing is left to do" in str(outcome.error)
    assert outcome.seconds < 60


def test_with_every_notification_lost_an_answer_comes_within_the_poll_bound() -> None:
    times: dict[bool, float] = {}

    async def scenario(client: Client) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await client.run(counting, 1)
        times[is_deaf] = loop.time() - began

    for is_deaf in (False, True):
        outcome = run_schedule(app, scenario, Schedule(1, is_deaf=is_deaf))
        assert (outcome.error, outcome.violations) == (None, ())
    poll_bounds = 2  # the start reaches its owner by one, the end reaches the client by the other
    assert times[True] <= times[False] + poll_bounds + 0.05


@ENGINES
def test_a_simple_orchestration_survives_everything(engine: str) -> None:
    for seed in range(80 if engine == "memory" else 20):
        outcome = run_schedule(app, count_twice, draw_schedule(seed, 60), engine=engine)
        assert outcome.is_good, (outcome.schedule, outcome.violations, outcome.error, outcome.struck)


def test_what_somebody_waits_for_is_neither_leapt_over_nor_taken_for_rest() -> None:
    patient = App()

    @patient.activity
    async def look_again_and_again() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(12):
            await asyncio.sleep(5)
        return loop.time() - began

    @patient.orchestrator
    async def looking(ctx: OrchestrationContext) -> float:
        async with asyncio.timeout(30 * 86400):
            return await ctx.call_activity(look_again_and_again)

    async def scenario(client: Client) -> None:
        handle = await client.start(looking)
        assert 60 <= await handle.result() < 61
        for _ in range(4):
            await asyncio.sleep(10)  # less than it takes to find that all is quiet
        assert 60 <= await handle.result() < 61

    outcome = run_schedule(patient, scenario, Schedule(1, latency_s_max=0.05))
    assert (outcome.error, outcome.violations) == (None, ())


def test_what_stalls_for_good_is_at_rest() -> None:
    async def scenario(client: Client) -> None:
        await client.run("nobody knows it")

    outcome = run_schedule(app, scenario, Schedule(1))
    assert "nothing is left to do" in str(outcome.error)


def test_every_queue_is_served() -> None:
    queued = App()

    @queued.activity(queue="declared")
    def render() -> str:
        return "done"

    @queued.orchestrator
    async def rendering(ctx: OrchestrationContext) -> list[str]:
        return [await ctx.call_activity(render), await ctx.call_activity(render, queue="only in the call")]

    async def scenario(client: Client) -> None:
        assert await client.run(rendering) == ["done", "done"]

    outcome = run_schedule(queued, scenario, Schedule(1))
    assert (outcome.error, outcome.violations) == (None, ())
    assert outcome.seconds < 60


@ENGINES
def test_what_a_run_leaves_open_is_said(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[int] = []

    async def scenario(client: Client) -> None:
        files.append(os.open(os.devnull, os.O_RDONLY))
        assert await client.run(counting, 1) == 6

    outcome = run_schedule(app, scenario, Schedule(1), engine=engine)
    assert outcome.violations == ("I14: 1 files are left open when all is over",)
    for file in files:
        os.close(file)


def test_what_a_process_leaves_in_memory_is_said() -> None:
    async def scenario(client: Client) -> None:
        handles = [await client.start(counting, number) for number in range(3)]
        for handle in handles:
            await handle.result()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("durable.worker.owner.Owner._forget", lambda owner, live: None)
        outcome = run_schedule(app, scenario, Schedule(1))
    assert outcome.violations == ("I14: worker-1 keeps 3 instances in memory, though everything has ended",)
