"""What counts against the budget of a turn: its own computing, or much waiting; not what held the whole process up."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from durable import App, OrchestrationContext, OrchestrationStatus, Worker
from durable.engine.driver import TurnInterrupted
from durable.worker.watchdog import BUDGET_S, CHECK_S, SLOW_S, WALL_FACTOR, Spent, Watchdog, computing_clock
from tests.worker.lives import STYLES, until

TELLS = hasattr(time, "pthread_getcpuclockid")


def spent_after(looks: int, *, wall: float, computing: float | None) -> Spent:
    """What a turn has used up after so many looks that were so far apart, by each clock."""
    spent = Spent(1000.0, None if computing is None else 7.0)
    for number in range(1, looks + 1):
        spent.look(1000.0 + number * wall, None if computing is None else 7.0 + number * computing)
    return spent


def test_a_turn_that_computes_is_over_its_budget_when_it_has_computed_so_long() -> None:
    assert spent_after(49, wall=CHECK_S, computing=CHECK_S).counted < BUDGET_S
    assert spent_after(52, wall=CHECK_S, computing=CHECK_S).counted > BUDGET_S


def test_a_turn_that_only_waits_is_stopped_within_ten_seconds_of_the_wall() -> None:
    assert spent_after(70, wall=CHECK_S, computing=0.0).counted < BUDGET_S
    assert spent_after(90, wall=CHECK_S, computing=0.0).counted > BUDGET_S
    assert BUDGET_S * WALL_FACTOR < 9


def test_a_turn_beside_activities_that_hold_the_interpreter_keeps_its_budget() -> None:
    spent = spent_after(60, wall=CHECK_S, computing=CHECK_S / 20)
    assert spent.passed > BUDGET_S
    assert spent.counted < BUDGET_S


@pytest.mark.parametrize("computing", [0.0, None], ids=["clock of the thread", "no such clock"])
def test_a_machine_that_slept_is_no_fault_of_the_turn(computing: float | None) -> None:
    assert spent_after(1, wall=3600.0, computing=computing).counted < SLOW_S


def test_without_a_clock_of_the_thread_the_walls_counts() -> None:
    assert spent_after(49, wall=CHECK_S, computing=None).counted < BUDGET_S
    assert spent_after(52, wall=CHECK_S, computing=None).counted > BUDGET_S


@pytest.mark.skipif(not TELLS, reason="this platform has no clock of a thread's computing")
def test_the_clock_of_a_thread_counts_what_that_thread_computes_and_nothing_else() -> None:
    ready, done = threading.Event(), threading.Event()

    def waits() -> None:
        ready.set()
        done.wait()

    thread = threading.Thread(target=waits)
    thread.start()
    ready.wait()
    assert thread.ident is not None
    mine, its = computing_clock(threading.get_ident()), computing_clock(thread.ident)
    began, other_began = mine(), its()
    assert began is not None
    assert other_began is not None
    while (now := mine()) is not None and now - began < 0.2:
        pass
    other_now = its()
    done.set()
    thread.join()
    assert other_now is not None
    assert other_now - other_began < 0.1


@pytest.mark.parametrize("style", STYLES)
async def test_a_turn_that_sleeps_stalls_with_its_stack(store_url: str, style: str) -> None:
    """The budget is a quarter of a second here."""
    app = App()

    def sleeps_here() -> None:
        while True:
            time.sleep(0.005)

    if style == "async":

        @app.orchestrator(name="sleeps")
        async def sleeps_async(ctx: OrchestrationContext) -> None:
            sleeps_here()
    else:

        @app.orchestrator(name="sleeps")
        def sleeps(ctx: OrchestrationContext) -> None:
            sleeps_here()

    async with Worker(app, store_url) as worker:
        assert worker._parts is not None
        assert isinstance(worker._parts.watch, Watchdog)
        worker._parts.watch.budget_s = 0.25
        handle = await worker.client.start("sleeps")
        state = await until(handle, OrchestrationStatus.STALLED)
        assert str(state.stall_reason).startswith("TurnBudgetExceededError")
        assert "in sleeps_here" in str(state.stall_reason)
        await handle.terminate()


class EndsWhenItIsBlamed:
    """An execution whose turn ends at the very moment at which the watch says that it is over its budget."""

    history_length = 0

    def __init__(self, *, is_said_first: bool) -> None:
        self.blamed, self.ended = threading.Event(), threading.Event()
        self._is_said_first = is_said_first
        self._interruption: str | None = None

    @property
    def interruption(self) -> str | None:
        return self._interruption

    @interruption.setter
    def interruption(self, text: str | None) -> None:
        if self._is_said_first:
            self._interruption = text
        if not self.blamed.is_set():
            self.blamed.set()
            self.ended.wait(10)
        self._interruption = text


@pytest.mark.parametrize("is_said_first", [False, True])
def test_a_turn_that_ends_as_it_is_interrupted_is_not_interrupted_afterwards(is_said_first: bool) -> None:
    """Else the exception would come up in the worker's own code."""
    watchdog = Watchdog(lambda execution: None)
    execution: Any = EndsWhenItIsBlamed(is_said_first=is_said_first)
    watchdog._thread_id = threading.get_ident()
    watchdog.begin(execution)
    assert watchdog._watched is not None

    def say_that_it_ended() -> None:  # where `end` waits for the watch
        while watchdog._watched is not None:
            time.sleep(0.001)
        execution.ended.set()

    watch = threading.Thread(target=watchdog._interrupt, args=(watchdog._watched,))
    telling = threading.Thread(target=say_that_it_ended if is_said_first else lambda: None)
    hits = 0
    watch.start()
    execution.blamed.wait(10)
    telling.start()
    try:
        watchdog.end()
    except TurnInterrupted:
        hits += 1
        watchdog.end()
    execution.ended.set()
    try:
        watch.join()
        for _ in range(1000):
            pass
    except TurnInterrupted:
        hits += 1
    watch.join()
    telling.join()
    assert hits == 0
    assert watchdog._watched is None
