"""What activities want injected: made before the worker begins, closed after it has stopped, replaced by tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from durable import ActivityContext, App, DurableError, Inject, MissingDependencyError, OrchestrationContext, Worker
from durable.testing import Environment


class Bank:
    def __init__(self, name: str) -> None:
        self.name = name
        self.is_open = True


class Mail:
    pass


def bank_app() -> App:
    app = App()

    @app.activity
    async def charge(amount: int, *, bank: Bank = Inject(Bank)) -> str:
        assert bank.is_open
        return f"{bank.name}: {amount}"

    @app.activity
    def refund(ctx: ActivityContext, amount: int, bank: Bank = Inject(Bank), currency: Any = Inject("currency")) -> str:
        assert bank.is_open
        return f"{bank.name}: -{amount} {currency} at attempt {ctx.attempt}"

    @app.orchestrator
    async def both(ctx: OrchestrationContext) -> list[str]:
        return [await ctx.call_activity(charge, 3), await ctx.call_activity(refund, 2)]

    return app


async def test_factories_are_opened_with_the_worker_in_order_of_need_and_closed_in_reverse(store_url: str) -> None:
    told: list[str] = []

    async def open_bank(settings: Any = Inject("settings")) -> AsyncIterator[Bank]:
        bank = Bank(settings)
        told.append("bank opened")
        yield bank
        bank.is_open = False
        told.append("bank closed")

    @contextlib.contextmanager
    def read_settings() -> Iterator[str]:
        told.append("settings opened")
        yield "First"
        told.append("settings closed")

    given = {Bank: open_bank, "settings": read_settings, "currency": "EUR"}
    worker = Worker(bank_app(), store_url, dependencies=given)
    async with worker:
        assert told == ["settings opened", "bank opened"]
        assert await worker.client.run("both", timeout=20) == ["First: 3", "First: -2 EUR at attempt 1"]
        assert told == ["settings opened", "bank opened"]
    assert told[2:] == ["bank closed", "settings closed"]


async def test_a_worker_that_lacks_something_does_not_start_and_says_what_and_for_whom() -> None:
    with pytest.raises(MissingDependencyError, match=r"activity 'refund'.*was not given 'currency'.*dependencies="):
        async with Worker(bank_app(), "memory://", dependencies={Bank: Bank("First")}):
            pass
    async with Worker(bank_app(), "memory://", queues=("other",)):  # whose activities are none of it
        pass


async def test_a_factory_that_fails_keeps_the_worker_from_starting_and_closes_the_others() -> None:
    told: list[str] = []

    async def open_bank() -> AsyncIterator[Bank]:
        try:
            yield Bank("First")
        finally:
            told.append("closed")

    def fail() -> None:
        raise ValueError("no currency")

    with pytest.raises(ValueError, match="no currency"):
        async with Worker(bank_app(), "memory://", dependencies={Bank: open_bank, "currency": fail}):
            pass
    assert told == ["closed"]


async def test_factories_that_need_each_other_are_refused_with_the_circle() -> None:
    def bank(mail: Mail = Inject(Mail)) -> Bank:
        return Bank(str(mail))

    def mail(bank: Bank = Inject(Bank)) -> Mail:
        raise AssertionError(bank)

    with pytest.raises(DurableError, match="Bank → Mail → Bank"):
        async with Worker(App(), "memory://", dependencies={Bank: bank, Mail: mail}):
            pass


def test_a_test_replaces_a_dependency_or_the_activity_that_needs_it() -> None:
    async def replaced(env: Environment) -> Any:
        env.replace("refund", lambda amount: f"faked {amount}")
        return await env.client.run("both")

    env = Environment(bank_app(), dependencies={Bank: lambda: Bank("Fake")})
    assert env.run(replaced) == ["Fake: 3", "faked 2"]


async def test_an_activity_stays_a_plain_function_that_says_what_it_was_not_given() -> None:
    app = App()

    @app.activity
    def charge(amount: int, bank: Bank = Inject(Bank)) -> str:
        return f"{bank.name}: {amount}"

    assert charge(1, bank=Bank("Mine")) == "Mine: 1"
    with pytest.raises(MissingDependencyError, match="not given Bank"):
        charge(1)


def test_only_activities_are_injected_and_what_is_injected_is_no_input() -> None:
    app = App()

    def flow(ctx: OrchestrationContext, *, bank: Bank = Inject(Bank)) -> None: ...

    with pytest.raises(TypeError, match="wants 'bank' injected: only an activity"):
        app.orchestrator(flow)

    def two(a: int, b: int, bank: Bank = Inject(Bank)) -> None: ...

    with pytest.raises(TypeError, match="two inputs"):
        app.activity(two)
    with pytest.raises(TypeError, match="a type or a name"):
        Inject(5)  # type: ignore[call-overload]
