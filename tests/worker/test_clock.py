"""A store's clock that jumps wildly: an alarm is raised, all goes on by monotonic time, and an operator may confirm it."""

from __future__ import annotations

import dataclasses
import logging
from datetime import timedelta

import pytest

from durable import App, Client, OrchestrationContext, Worker
from durable.ports import Ports, system_ports, wall_clock_us
from durable.provider import CLOCK_JUMP_US, HubClock, Lease, LeaseView
from durable.worker.clock import SURE_S, StoreClock
from tests.worker.lives import becomes_true, lives_app, until

YEARS_US = 10 * 365 * 24 * CLOCK_JUMP_US
SECOND_US = 1_000_000


class WallClock:
    """The clock of the machine, which somebody sets."""

    def __init__(self) -> None:
        self.wrong_by_us = 0
        self.ports = dataclasses.replace(system_ports(), now_us=lambda: wall_clock_us() + self.wrong_by_us)


def clock_app() -> App:
    app = lives_app()

    @app.orchestrator
    async def sleeps(ctx: OrchestrationContext, seconds: float) -> float:
        began = ctx.current_utc_datetime
        ctx.set_custom_status("sleeping")
        await ctx.create_timer(timedelta(seconds=seconds))
        return (ctx.current_utc_datetime - began).total_seconds()

    return app


def alarms_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# ---- a worker


@pytest.mark.parametrize("jump_us", [YEARS_US, -YEARS_US, 2 * CLOCK_JUMP_US])
async def test_timers_go_on_by_monotonic_time_and_an_alarm_is_raised(
    store_url: str, jump_us: int, caplog: pytest.LogCaptureFixture
) -> None:
    wall = WallClock()
    async with Worker(clock_app(), store_url, ports=wall.ports) as worker:
        short, long = await worker.client.start("sleeps", 1.2), await worker.client.start("sleeps", 3600.0)
        await until(short, status="sleeping")
        await until(long, status="sleeping")
        wall.wrong_by_us = jump_us
        assert 1.2 <= await short.result(timeout=20) < 15
        later = await worker.client.start("sleeps", 0.1)
        assert 0.1 <= await later.result(timeout=20) < 15
        await becomes_true(lambda: alarms_in(caplog))
        assert "durable confirm-clock" in alarms_in(caplog)[0]
        assert (await long.state()).status.name == "RUNNING"
        assert (await worker.client.count(status="RUNNING")) == 1


async def test_it_agrees_again_by_itself(store_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    wall = WallClock()
    async with Worker(clock_app(), store_url, ports=wall.ports) as worker:
        await worker.client.run("sleeps", 0.0, timeout=20)
        wall.wrong_by_us = YEARS_US
        await becomes_true(lambda: alarms_in(caplog))
        wall.wrong_by_us = 0
        await becomes_true(lambda: "agrees again, or was" in caplog.text)
        assert await worker.client.confirm_clock() == timedelta(0)
        assert len(alarms_in(caplog)) == 1


async def test_an_operator_confirms_that_it_is_right(store_url: str, caplog: pytest.LogCaptureFixture) -> None:
    wall = WallClock()
    async with Worker(clock_app(), store_url, ports=wall.ports) as worker:
        long = await worker.client.start("sleeps", 2 * 3600.0)
        delayed = await worker.client.start("sleeps", 0.0, at=timedelta(hours=2))
        await until(long, status="sleeping")
        wall.wrong_by_us = YEARS_US
        await becomes_true(lambda: alarms_in(caplog))
        async with Client(store_url, ports=wall.ports) as operator:
            moved = await operator.confirm_clock()
            assert abs(moved - timedelta(microseconds=YEARS_US)) < timedelta(minutes=1)
            assert await operator.confirm_clock() == timedelta(0)
        assert await long.result(timeout=20) >= YEARS_US / SECOND_US
        await delayed.result(timeout=20)
        assert 0 <= await worker.client.run("sleeps", 0.1, timeout=20) < 60


async def test_it_is_confirmed_from_a_script(tmp_path: object) -> None:
    wall = WallClock()
    with Client.sync(f"sqlite:///{tmp_path}/store.db", ports=wall.ports) as client:
        assert client.confirm_clock() == timedelta(0)


async def test_a_clock_that_goes_back_while_no_worker_runs_freezes_nothing(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    wall = WallClock()
    wall.wrong_by_us = YEARS_US
    async with Client(store_url, ports=wall.ports):  # a store in memory lives as long as somebody has it open
        async with Worker(clock_app(), store_url, ports=wall.ports) as worker:
            handle = await worker.client.start("sleeps", 1.0, instance_id="sleeper")
            await until(handle, status="sleeping")
        wall.wrong_by_us = 0
        async with Worker(clock_app(), store_url, ports=wall.ports) as worker:
            assert 1.0 <= await worker.client.get("sleeper").result(timeout=20) < 60
            await becomes_true(lambda: alarms_in(caplog))


# ---- what a worker takes for the time


class Hand:
    """A monotonic clock, moved by hand, and a `StoreClock` that goes by it."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.clock = StoreClock(lambda: self.now_s, 0)
        self.clock.begin(Lease("lease", 1, 0, 0), self.now_s)

    def view(self, now: int, clock: HubClock | None = None) -> LeaseView:
        return LeaseView(now, 0, (), (), (), clock or HubClock())


def test_small_differences_are_followed_forward_only() -> None:
    hand = Hand()
    assert hand.clock.agree(CLOCK_JUMP_US, hand.now_s)
    assert hand.clock.now() == CLOCK_JUMP_US
    assert hand.clock.agree(0, hand.now_s)
    assert hand.clock.now() == CLOCK_JUMP_US
    hand.now_s += 1
    assert hand.clock.belief() == (0, CLOCK_JUMP_US + SECOND_US, CLOCK_JUMP_US)


def test_only_time_that_has_passed_counts_for_what_has_expired() -> None:
    hand = Hand()
    hand.now_s += 5
    assert hand.clock.agree(SECOND_US + CLOCK_JUMP_US, hand.now_s)
    now, since = hand.clock.belief()[1:]
    assert now - since == 5 * SECOND_US
    hand.clock.renewed(hand.view(YEARS_US), hand.now_s)
    hand.now_s += 1
    assert hand.clock.belief() == (0, YEARS_US + SECOND_US, YEARS_US)


@pytest.mark.parametrize("now", [2 * CLOCK_JUMP_US, -2 * CLOCK_JUMP_US])
def test_wild_ones_are_for_the_hubs_clock_to_decide(now: int) -> None:
    hand = Hand()
    assert not hand.clock.agree(now, hand.now_s)
    assert hand.clock.now() == 0
    assert hand.clock.renewed(hand.view(now), hand.now_s)
    assert hand.clock.now() == now


def test_an_answer_that_was_long_on_its_way_is_no_jump() -> None:
    hand = Hand()
    asked_at = hand.now_s
    hand.now_s += 9 * 3600
    assert hand.clock.agree(SECOND_US, asked_at)
    assert hand.clock.renewed(hand.view(SECOND_US), asked_at)
    assert hand.clock.now() == 9 * CLOCK_JUMP_US


def test_an_answer_that_was_long_on_its_way_does_not_set_the_clock() -> None:
    hand = Hand()
    asked_at = hand.now_s
    hand.now_s += SURE_S + 1
    assert not hand.clock.renewed(hand.view(YEARS_US, HubClock(1, 0, 0)), asked_at)
    assert hand.clock.belief().number == 0
    assert hand.clock.renewed(hand.view(YEARS_US, HubClock(1, 0, 0)), hand.now_s)
    assert hand.clock.belief() == (1, YEARS_US, YEARS_US)


def test_who_was_told_the_time_late_believes_nothing_until_it_is_told_again() -> None:
    hand = Hand()
    hand.clock.begin(Lease("another", 1, 0, 0), hand.now_s - 8 * 3600)
    assert not hand.clock.is_sure
    assert not hand.clock.agree(8 * CLOCK_JUMP_US, hand.now_s)
    assert hand.clock.renewed(hand.view(8 * CLOCK_JUMP_US), hand.now_s)
    assert hand.clock.is_sure
    assert hand.clock.now() == 8 * CLOCK_JUMP_US


def test_the_machines_own_monotonic_clock_counts_on_while_it_sleeps() -> None:
    ports: Ports = system_ports()
    first = ports.monotonic()
    assert ports.monotonic() >= first
