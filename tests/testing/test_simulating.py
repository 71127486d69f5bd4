"""`simulate`: finds what only goes wrong under a fault, and says it so that it can be repeated and understood.

Method: an app with a planted mistake, simulated in this process; and a user's own test file, run by pytest in another.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import textwrap
from datetime import timedelta
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from durable import ActivityContext, App, Client, Inject, OrchestrationContext, UnknownNameError
from durable.testing import SimulationFailedError, simulate

app = App()
seats: set[str] = set()


@app.activity
def reserve(service: str) -> str:
    if service in seats:
        raise ValueError(f"{service} is reserved already")  # the mistake: a second delivery of one call fails
    seats.add(service)
    return service


@app.activity
def reserve_once(service: str) -> str:
    seats.add(service)
    return service


@app.orchestrator
async def careless(ctx: OrchestrationContext, services: list[str]) -> list[str]:
    return [await ctx.call_activity(reserve, service) for service in services]


@app.orchestrator
async def careful(ctx: OrchestrationContext, services: list[str]) -> list[str]:
    return [await ctx.call_activity(reserve_once, service) for service in services]


SERVICES = ["train", "ferry", "hotel", "museum", "opera"]


async def careless_trip(client: Client) -> None:
    seats.clear()
    assert await client.run(careless, SERVICES, instance_id="trip") == SERVICES


async def careful_trip(client: Client) -> None:
    seats.clear()
    assert await client.run(careful, SERVICES) == SERVICES
    assert seats == set(SERVICES)


def test_what_holds_is_reported_with_what_it_went_through() -> None:
    report = simulate(app, careful_trip, schedules=40, seed=5)
    assert (report.schedules, report.seed) == (40, 5)
    assert report.faults > 40
    assert "40 schedules with" in str(report)


def test_a_mistake_that_only_a_crash_shows_is_found_made_small_and_told() -> None:
    with pytest.raises(SimulationFailedError, match="reserved already") as raised:
        simulate(app, careless_trip, schedules=200, seed=1)
    error, text = raised.value, str(raised.value)
    assert len(error.schedule.faults) == 1
    assert error.schedule.workers == 1
    assert "fails with a single fault" in text
    assert "test_simulating.py" in text
    assert "in careless_trip" in text
    assert "client starts 'trip'" in text
    assert "worker-1 runs activity 'reserve' of 'trip', task 0" in text
    assert "the process is killed" in text
    assert error.__cause__ is not None
    assert "/durable/" not in text, "the framework's own lines are noise"


def test_the_seed_that_a_failure_tells_repeats_it() -> None:
    with pytest.raises(SimulationFailedError) as raised:
        simulate(app, careless_trip, schedules=200)
    call = re.search(r"simulate\(app, careless_trip, schedules=1, seed=(\d+)\)", str(raised.value))
    assert call is not None
    with pytest.raises(SimulationFailedError) as again:
        simulate(app, careless_trip, schedules=1, seed=int(call[1]))
    assert str(again.value) == str(raised.value)


def test_what_fails_without_any_fault_is_said_so() -> None:
    async def wrong(client: Client) -> None:
        seats.clear()
        assert await client.run(careful, SERVICES) == []

    with pytest.raises(SimulationFailedError, match="fails without any fault") as raised:
        simulate(app, wrong, schedules=1000)
    assert isinstance(raised.value, AssertionError)
    assert isinstance(raised.value.__cause__, AssertionError)


def test_a_scenario_that_does_not_repeat_itself_is_called_that() -> None:
    plays = itertools.count()

    async def fickle(client: Client) -> None:
        assert next(plays) != 3

    with pytest.raises(SimulationFailedError, match="depends on something else"):
        simulate(app, fickle, schedules=10, seed=0)


def test_what_never_ends_is_a_failure_that_says_who_waits() -> None:
    async def stuck(client: Client) -> None:
        handle = await client.start("nobody knows it", instance_id="stuck")
        await handle.result()

    with pytest.raises(SimulationFailedError, match="'stuck' .* is STALLED"):
        simulate(app, stuck, schedules=1)


def test_mistakes_in_the_call_are_errors_at_once() -> None:
    with pytest.raises(ValueError, match="schedules"):
        simulate(app, careful_trip, schedules=-1)
    with pytest.raises(TypeError, match="App"):
        simulate(careful_trip, careful_trip)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="scenario"):
        simulate(app, "trip")  # type: ignore[arg-type]


def test_a_schedule_that_goes_on_is_no_broken_promise() -> None:
    async def scenario(client: Client) -> None:
        await client.schedules.create("each minute", careful, ["hotel"], interval=timedelta(minutes=1))

    simulate(app, scenario, schedules=3, seed=1)


USERS_TESTS = """
    from durable import App, OrchestrationContext
    from durable.testing import Environment, simulate

    app, balance = App(), []

    @app.activity
    def pay(amount: int) -> int:
        balance.append(amount)
        return amount

    @app.orchestrator
    async def order(ctx: OrchestrationContext, amount: int) -> int:
        await ctx.create_timer(__import__("datetime").timedelta(days=30))
        return await ctx.call_activity(pay, amount)

    async def paid_once(client):
        balance.clear()
        await client.run(order, 7)
        assert balance == [7]

    def test_simulated():
        simulate(app, paid_once, seed=1)

    def test_plain(durable_env):
        assert durable_env(app).run(lambda env: env.client.run(order, 7)) == 7

    async def test_with_a_loop(durable_env):
        async with durable_env(app, seed=3) as env:
            env.replace("pay", lambda amount: amount + 1)
            assert await env.client.run(order, 7) == 8
"""


def test_a_users_own_tests_run_under_pytest_and_pytest_asyncio(tmp_path: Path) -> None:
    (tmp_path / "test_order.py").write_text(textwrap.dedent(USERS_TESTS), encoding="utf-8")
    is_installed = any(point.value == "durable.testing.plugin" for point in entry_points(group="pytest11"))
    plugin = [] if is_installed else ["-p", "durable.testing.plugin"]
    options = ["-q", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider", *plugin]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert "SimulationFailedError" in done.stdout
    assert "assert [7, 7] == [7]" in done.stdout


def test_the_tools_need_neither_pytest_nor_hypothesis() -> None:
    program = (
        "import sys, durable.testing\n"
        "assert not {'pytest', 'hypothesis', '_pytest'} & set(sys.modules), 'imported'\n"
        "assert hasattr(durable.testing, 'simulate')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Bank:
    """A fake of what is outside: it knows calls by their key, and so outlives crashes."""

    def __init__(self) -> None:
        self.paid: dict[str, int] = {}


class Line:
    """What a worker opens for itself when it starts."""

    opened = 0

    def __init__(self) -> None:
        Line.opened += 1


def paying_app() -> App:
    paying = App()

    @paying.activity
    def pay(ctx: ActivityContext, amount: int, *, bank: Bank = Inject(Bank), line: Line = Inject(Line)) -> int:
        assert isinstance(line, Line)
        return bank.paid.setdefault(ctx.idempotency_key, amount)

    @paying.activity
    def rate(currency: str) -> int:
        raise AssertionError("the real one is never asked in a test")

    @paying.orchestrator
    async def buys(ctx: OrchestrationContext, price: int) -> int:
        return await ctx.call_activity(pay, price * await ctx.call_activity(rate, "EUR"))

    return paying


def test_workers_bring_along_what_they_are_given_and_fakes_stand_for_activities() -> None:
    bank = Bank()

    async def scenario(client: Client) -> None:
        bank.paid.clear()
        assert await client.run("buys", 5) == 10
        assert list(bank.paid.values()) == [10], "paid once, however often it was delivered"

    Line.opened = 0
    report = simulate(
        paying_app(), scenario, schedules=30, seed=3, dependencies={Bank: bank, Line: Line}, fakes={"rate": lambda: 2}
    )
    assert Line.opened > report.schedules, "each worker that starts has its own"

    async def wrong(client: Client) -> None:
        assert await client.run("buys", 5) == 11

    with pytest.raises(SimulationFailedError, match="AssertionError"):
        simulate(paying_app(), wrong, schedules=1, dependencies={Bank: bank, Line: Line}, fakes={"rate": lambda: 2})
    with pytest.raises(UnknownNameError):
        simulate(paying_app(), wrong, schedules=1, fakes={"rates": lambda: 2})
