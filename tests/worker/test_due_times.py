"""The due times in memory: each instance is asked for a turn when its time comes, and not for times that no longer count."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from durable import App, OrchestrationContext, Worker, when_any
from durable.events import InstanceKey
from durable.provider import PARTITIONS, partition_of
from durable.worker.clock import StoreClock
from durable.worker.live import LiveInstance
from durable.worker.loading import Loader
from durable.worker.timers import DueTimes
from tests.worker.lives import becomes_true, until

ONE, TWO = InstanceKey("one"), InstanceKey("two")
SECOND = 1_000_000


class HandTimer:
    """Stands in for the loop's timers: the test moves the time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.set: tuple[float, Callable[[], None]] | None = None

    def call_later(self, delay: float, callback: Callable[[], None]) -> HandTimer:
        self.set = (self.now_s + delay, callback)
        return self

    def cancel(self) -> None:
        self.set = None


class Times:
    """`DueTimes` on a clock that begins at 1,000 s."""

    def __init__(self) -> None:
        self.timer = HandTimer()
        clock = StoreClock(lambda: self.timer.now_s, 1000 * SECOND)
        self.came: list[InstanceKey] = []
        loop: Any = self.timer
        self.due = DueTimes(clock, loop, self.came.append)

    def go_to(self, second: int) -> list[InstanceKey]:
        """Let time pass until this second; return who was asked for a turn meanwhile."""
        self.came.clear()
        end = second - 1000.0
        while self.timer.set is not None and self.timer.set[0] <= end:
            self.timer.now_s, fire = self.timer.set
            fire()
        self.timer.now_s = end
        return list(self.came)


def test_an_instance_comes_when_it_is_due_and_once() -> None:
    times = Times()
    times.due.push(1010 * SECOND, ONE)
    assert times.go_to(1009) == []
    assert times.go_to(1011) == [ONE]
    assert times.go_to(1060) == []


def test_a_later_due_time_takes_the_place_of_the_former() -> None:
    times = Times()
    times.due.push(1010 * SECOND, ONE)
    times.due.push(1020 * SECOND, ONE)
    assert times.go_to(1015) == []
    assert times.go_to(1021) == [ONE]


def test_an_instance_that_wants_nothing_any_more_is_not_asked() -> None:
    times = Times()
    times.due.push(1010 * SECOND, ONE)
    times.due.push(1010 * SECOND, TWO)
    times.due.drop(ONE)
    assert times.go_to(1011) == [TWO]


def test_a_due_time_beyond_the_horizon_takes_the_place_of_the_former_too() -> None:
    times = Times()
    times.due.push(1010 * SECOND, ONE)
    times.due.push(99_000 * SECOND, ONE)
    assert times.go_to(1011) == []


def test_a_pause_stands_beside_the_due_time() -> None:
    times = Times()
    times.due.push(1010 * SECOND, ONE)
    times.due.push(1005 * SECOND, ONE, is_stored=False)
    times.due.push(1007 * SECOND, ONE, is_stored=False)
    assert times.go_to(1006) == [ONE]
    assert times.go_to(1008) == [ONE]
    assert times.go_to(1011) == [ONE]


def test_what_the_store_tells_counts_beside_what_is_known() -> None:
    """Its answer may be older than what is known here, or newer (the partition was with another owner meanwhile)."""
    times = Times()
    times.due.push(1020 * SECOND, ONE)
    window = times.due.next_window()
    times.due.fill(window, [(ONE, 1010 * SECOND), (TWO, 1030 * SECOND)], is_cut=False)
    assert times.go_to(1011) == [ONE]
    assert times.go_to(1021) == [ONE]
    assert times.go_to(1031) == [TWO]


def test_what_the_store_tells_again_is_known_once() -> None:
    times = Times()
    times.due.push(1020 * SECOND, ONE)
    window = times.due.next_window()
    times.due.fill(window, [(ONE, 1020 * SECOND)], is_cut=False)
    assert times.go_to(1021) == [ONE]


def test_times_that_were_replaced_do_not_pile_up() -> None:
    times = Times()
    for number in range(100_000):
        times.due.push(1010 * SECOND + number, ONE)
    assert times.due.size < 5_000
    assert times.go_to(1012) == [ONE]


def test_many_pauses_and_replaced_times_together_cost_little() -> None:
    times = Times()
    keys = [InstanceKey(f"{number}") for number in range(20_000)]
    for number, key in enumerate(keys):
        times.due.push(1010 * SECOND + number, key, is_stored=False)
        times.due.push(1020 * SECOND + number, ONE)
        times.due.push(1030 * SECOND + number, ONE)
    assert times.due.size <= 40_002
    assert times.go_to(1011) == keys


async def test_an_ended_instance_is_not_read_back_for_a_timer_that_it_had(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App()

    @app.orchestrator
    async def races(ctx: OrchestrationContext, seconds: float) -> None:
        ctx.set_custom_status("waits")
        await when_any([ctx.create_timer(timedelta(seconds=seconds)), ctx.wait_for_external_event("go")])

    read: list[str] = []
    load = Loader.load

    def watched(self: Loader, lives: Sequence[LiveInstance]) -> Any:
        read.extend(live.key.id for live in lives)
        return load(self, lives)

    async with Worker(app, store_url) as worker:
        first = await worker.client.start(races, 0.3, instance_id="first")
        last = await worker.client.start(races, 0.4, instance_id="last")
        await until(first, status="waits")
        await first.raise_event("go")
        await first.wait(timeout=10)
        monkeypatch.setattr(Loader, "load", watched)
        await last.wait(timeout=10)
    assert "first" not in read


async def test_the_real_loop_serves_it() -> None:
    came = asyncio.Event()
    loop = asyncio.get_running_loop()
    clock = StoreClock(loop.time, 1000 * SECOND)
    due = DueTimes(clock, loop, lambda _: came.set())
    due.push(clock.now() + 1000, ONE)
    async with asyncio.timeout(10):
        await came.wait()
    due.clear()


def test_a_time_beside_the_row_that_is_told_again_and_again_is_kept_once() -> None:
    """A start that waits for its time is told of at each turn that comes before it."""
    times = Times()
    for _ in range(100):
        times.due.push(1010 * SECOND, ONE, is_stored=False)
    assert times.due.size == 1
    assert times.go_to(1011) == [ONE]
    times.due.push(1020 * SECOND, ONE, is_stored=False)
    assert times.go_to(1021) == [ONE]


def test_an_instance_that_has_ended_leaves_no_time_behind() -> None:
    times = Times()
    times.due.push(1010 * SECOND, ONE)
    times.due.push(1020 * SECOND, ONE, is_stored=False)
    times.due.push(9000 * SECOND, ONE, is_stored=False)
    times.due.push(1015 * SECOND, TWO, is_stored=False)
    assert times.due.count == 4
    times.due.drop_all(ONE)
    assert times.due.count == 1
    assert times.go_to(10_000) == [TWO]
    assert (times.due.count, times.due.size) == (0, 0)


def test_what_is_in_other_hands_is_not_kept() -> None:
    times = Times()
    times.due.push(1010 * SECOND, ONE)
    times.due.push(1020 * SECOND, ONE, is_stored=False)
    times.due.push(1030 * SECOND, TWO)
    times.due.keep(lambda key: key == TWO)
    assert times.due.count == 1
    assert times.go_to(1100) == [TWO]


def test_a_time_that_is_pushed_again_after_it_was_dropped_counts() -> None:
    times = Times()
    times.due.push(1010 * SECOND, ONE, is_stored=False)
    times.due.drop_all(ONE)
    times.due.push(1010 * SECOND, ONE, is_stored=False)
    assert times.go_to(1011) == [ONE]
    assert times.due.count == 0


async def test_a_timer_that_comes_due_while_its_partition_is_given_up_leaves_nothing_behind(store_url: str) -> None:
    """And it is not lost where the partition stays after all."""
    app = App()

    @app.orchestrator
    async def sleeps(ctx: OrchestrationContext) -> str:
        ctx.set_custom_status("sleeping")
        await ctx.create_timer(timedelta(milliseconds=200))
        return "woken"

    async with Worker(app, store_url, max_cached_orchestrations=0) as worker:
        handle = await worker.client.start(sleeps)
        await until(handle, status="sleeping")
        parts: Any = worker._parts
        partition = partition_of(InstanceKey(handle.instance_id), PARTITIONS)
        await becomes_true(lambda: worker.footprint["instances"] == 0)
        parts.keeper.leaving.add(partition)
        await becomes_true(lambda: worker.footprint["due times"] == 0)
        assert worker.footprint["instances"] == 0
        parts.keeper.leaving.clear()
        parts.owner.stay([partition])
        assert await handle.result(timeout=20) == "woken"
        await becomes_true(lambda: not any(worker.footprint.values()))
