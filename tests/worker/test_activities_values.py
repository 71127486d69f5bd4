"""Typed inputs and results arrive as they were given; what does not fit fails its call, for good and clearly."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypedDict

import pydantic
import pytest

from durable import ActivityContext, App, OrchestrationContext, RetryPolicy, Worker
from tests.worker.calls import STYLES, calls, calls_and_tells, run

MEBIBYTE = 1024 * 1024
THREE_TRIES = RetryPolicy(timedelta(0), 3)


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Item:
    name: str
    price: Decimal
    size: Size = Size.SMALL


@dataclasses.dataclass(frozen=True)
class Order:
    id: uuid.UUID
    items: tuple[Item, ...]
    placed_at: datetime
    tags: frozenset[str] = frozenset()


class Address(pydantic.BaseModel):
    street: str
    zip_code: int | None = None


class Customer(pydantic.BaseModel):
    name: str
    addresses: list[Address] = []
    born: date | None = None


class Point(NamedTuple):
    x: int
    y: int


class Settings(TypedDict):
    depth: int
    name: str


TYPED: list[tuple[Any, Any]] = [
    (int, 10**40),
    (int, -1),
    (float, 0.1),
    (float, 5),
    (bool, True),
    (str, "grüß dich \U0001f600"),
    (bytes, b"\x00\xff"),
    (datetime, datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)),
    (datetime, datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=5, minutes=30)))),
    (datetime, datetime(2026, 1, 2, 3, 4, 5)),
    (date, date(2026, 1, 2)),
    (time, time(3, 4, 5, 6)),
    (timedelta, timedelta(days=-3, microseconds=1)),
    (uuid.UUID, uuid.UUID(int=7)),
    (Decimal, Decimal("1.10")),
    (Size, Size.LARGE),
    (Level, Level.HIGH),
    (Literal["a", "b"], "b"),
    (int | str, "7"),
    (int | None, None),
    (list[int], [1, 2]),
    (dict[str, float], {"a": 1.5}),
    (dict[int, str], {1: "one"}),
    (tuple[int, str], (1, "one")),
    (tuple[int, ...], (1, 2, 3)),
    (set[int], {3, 1, 2}),
    (frozenset[str], frozenset({"a", "b"})),
    (Item, Item("cup", Decimal("3.50"), Size.LARGE)),
    (Order, Order(uuid.UUID(int=9), (Item("cup", Decimal(1)),), datetime(2026, 1, 1, tzinfo=UTC), frozenset({"x"}))),
    (list[Item], [Item("cup", Decimal(1)), Item("pot", Decimal(2))]),
    (Customer, Customer(name="Ann", addresses=[Address(street="Elm", zip_code=5)], born=date(2000, 2, 29))),
    (Point, Point(1, 2)),
    (Settings, {"depth": 1, "name": "x"}),
    (Customer | Item, Item("cup", Decimal(1))),
]


@pytest.mark.parametrize("style", STYLES)
async def test_with_annotations_values_arrive_as_they_were_given(style: str, store_url: str) -> None:
    """Each goes through an input and a result, and is of its own type at both ends."""
    app = App()
    received: dict[int, Any] = {}
    functions = []
    for position, (kind, _) in enumerate(TYPED):

        def echo(value: Any, position: int = position) -> Any:
            raise AssertionError

        def make(position: int, kind: Any) -> Any:
            def echo(value: kind) -> kind:
                received[position] = value
                return value

            echo.__annotations__ = {"value": kind, "return": kind}
            return app.activity(name=f"echo {position}")(echo)

        functions.append(make(position, kind))

    if style == "async":

        @app.orchestrator
        async def main(ctx: OrchestrationContext) -> None:
            for position, (_, value) in enumerate(TYPED):
                returned[position] = await ctx.call_activity(functions[position], value)
    else:

        @app.orchestrator(name="main")
        def main_in_generator_style(ctx: OrchestrationContext) -> Any:
            for position, (_, value) in enumerate(TYPED):
                returned[position] = yield ctx.call_activity(functions[position], value)

    returned: dict[int, Any] = {}
    await run(app, store_url)
    for position, (kind, value) in enumerate(TYPED):
        for arrived in (received[position], returned[position]):
            assert arrived == value, kind
            assert type(arrived) is (float if kind is float else type(value)), kind


async def test_without_annotations_plain_kinds_are_kept_and_the_rest_becomes_plain() -> None:
    app = App()
    kept = [None, True, 10**30, 1.5, "x", b"x", [1], {"a": 1}, {1, 2}, *(value for _, value in TYPED[7:15])]
    lowered = [
        ((1, 2), [1, 2]),
        (Size.LARGE, "l"),
        (Item("cup", Decimal(1)), {"name": "cup", "price": Decimal(1), "size": "s"}),
        (Customer(name="Ann"), {"name": "Ann", "addresses": [], "born": None}),
    ]

    @app.activity
    async def echo(value):  # type: ignore[no-untyped-def]
        return value

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> None:
        for value in kept:
            assert await ctx.call_activity(echo, value) == value
        for value, plain in lowered:
            arrived = await ctx.call_activity(echo, value)
            assert (arrived, type(arrived)) == (plain, type(plain))

    await run(app, "memory://")


async def test_a_call_by_name_gives_the_result_as_plain_data() -> None:
    app = App()

    @app.activity
    def buy(item: Item) -> Item:
        assert type(item) is Item, "the activity's own annotation counts"
        return item

    calls(app, lambda ctx: ctx.call_activity("buy", Item("cup", Decimal(2))))
    assert await run(app, "memory://") == {"name": "cup", "price": Decimal(2), "size": "s"}


# ---- inputs that do not fit

MISFITS: list[tuple[Any, Any]] = [
    (int, "5"),
    (int, True),
    (int, 1.5),
    (str, 5),
    (bool, 1),
    (Item, {"name": "cup"}),
    (Item, {"name": "cup", "price": "much"}),
    (list[int], [1, "2"]),
    (Size, "xl"),
    (Customer, {"name": 5}),
    (datetime, "yesterday"),
    (tuple[int, int], [1]),
    (int | None, "5"),
]


@pytest.mark.parametrize("by", ["function", "name"])
async def test_an_input_that_does_not_fit_fails_the_call_for_good(by: str) -> None:
    """No attempt runs the function, no policy tries again, and the text says which activity, what and why."""
    app = App()
    ran: list[Any] = []
    async with Worker(app, "memory://") as worker:
        for position, (kind, value) in enumerate(MISFITS):

            def take(value: Any) -> None:
                ran.append(value)

            take.__annotations__ = {"value": kind, "return": None}
            app.activity(name=f"take {position}")(take)
            target: Any = take if by == "function" else f"take {position}"
            calls_and_tells(
                app,
                lambda ctx, target=target, value=value: ctx.call_activity(target, value, retry_policy=THREE_TRIES),
                name=f"main {position}",
            )
            seen = await worker.client.run(f"main {position}", timeout=10)
            assert isinstance(seen, dict), (kind, value)
            assert seen["raised"] == "ActivityFailedError"
            assert seen["final"], (kind, value)
            assert f"input of activity 'take {position}'" in seen["message"]
    assert ran == []


async def test_what_fits_after_strict_json_rules_is_accepted() -> None:
    """ISO and UUID strings, lists for tuples, int for float: as JSON would bring them."""
    app = App()

    @dataclasses.dataclass
    class Wire:
        at: datetime
        id: uuid.UUID
        pair: tuple[int, int]
        ratio: float

    @app.activity
    def take(value: Wire) -> list[str]:
        return [type(field).__name__ for field in (value.at, value.id, value.pair, value.ratio)]

    sent = {"at": "2026-01-02T03:04:05Z", "id": str(uuid.UUID(int=1)), "pair": [1, 2], "ratio": 3}
    calls(app, lambda ctx: ctx.call_activity("take", sent))
    assert await run(app, "memory://") == ["datetime", "UUID", "tuple", "float"]


async def test_a_validator_that_raises_anything_at_all_is_a_misfit() -> None:
    app = App()

    class Moody(pydantic.BaseModel):
        value: int

        @pydantic.field_validator("value")
        @classmethod
        def refuse(cls, value: int) -> int:
            raise KeyError("not today")

    @app.activity
    def take(value: Moody) -> None:
        raise AssertionError("it never fits")

    calls_and_tells(app, lambda ctx: ctx.call_activity("take", {"value": 1}, retry_policy=THREE_TRIES))
    seen = await run(app, "memory://")
    assert seen["final"]
    assert "not today" in seen["message"]


async def test_thousands_of_misfits_in_a_row_are_thousands_of_failures() -> None:
    """Attempts that fail as they begin free their slots one after the other, not one inside the other."""
    app = App()

    @app.activity
    def take(value: int) -> None:
        raise AssertionError("it never fits")

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> int:
        tasks = [ctx.call_activity("take", "no number") for _ in range(2000)]
        for task in tasks:
            try:
                await task
            except Exception:
                pass
        return sum(task.is_failed for task in tasks)

    assert await run(app, "memory://", max_activities=2) == 2000


# ---- results that do not fit


class Unstorable:
    """No plain data, and nothing that pydantic knows."""


def circular() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def deep() -> list[Any]:
    found: list[Any] = []
    for _ in range(1000):
        found = [found]
    return found


BAD_RESULTS: dict[str, tuple[Any, Any]] = {
    "another type": (int, lambda: "5"),
    "bool for int": (int, lambda: True),
    "None for int": (int, lambda: None),
    "a value for None": (None, lambda: 5),
    "a part": (list[int], lambda: [1, "2"]),
    "a subclass whose fields would be lost": (Address, lambda: _sub_address()),
    "unstorable": (..., lambda: Unstorable()),
    "unstorable inside": (..., lambda: {"a": [Unstorable()]}),
    "a generator": (..., lambda: (n for n in range(3))),
    "a lambda": (..., lambda: deep),
    "circular": (..., circular),
    "too deep": (..., deep),
    "a lone surrogate": (..., lambda: "\ud800"),
    "over 2 MiB": (..., lambda: "x" * (2 * MEBIBYTE + 1)),
    "bytes over 2 MiB": (bytes, lambda: b"x" * (2 * MEBIBYTE + 1)),
}


def _sub_address() -> Address:
    class Rich(Address):
        floor: int = 3

    return Rich(street="Elm")


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_a_result_that_does_not_fit_fails_the_call_for_good(is_async: bool) -> None:
    """The function has run once, no policy tries again, and the worker goes on."""
    app = App()
    runs: list[str] = []
    async with Worker(app, "memory://") as worker:
        for name, (kind, make) in BAD_RESULTS.items():

            def give(name: str = name, make: Any = make) -> Any:
                runs.append(name)
                return make()

            async def give_async(name: str = name, make: Any = make) -> Any:
                runs.append(name)
                return make()

            app.activity(name=name)(_annotated(give_async if is_async else give, kind))
            calls_and_tells(
                app, lambda ctx, name=name: ctx.call_activity(name, retry_policy=THREE_TRIES), name=f"main {name}"
            )
            seen = await worker.client.run(f"main {name}", timeout=10)
            assert isinstance(seen, dict), name
            assert seen.get("raised") == "ActivityFailedError", (name, seen)
            assert seen["final"], name
            assert f"result of activity '{name}'" in seen["message"]
    assert runs == list(BAD_RESULTS)


def _annotated(function: Any, kind: Any) -> Any:
    def no_input() -> Any:
        return function()

    async def no_input_async() -> Any:
        return await function()

    wrapped = no_input_async if inspect.iscoroutinefunction(function) else no_input
    wrapped.__annotations__ = {} if kind is ... else {"return": kind}
    return wrapped


async def test_an_oversized_result_names_the_limit_and_the_size(store_url: str) -> None:
    app = App()

    @app.activity
    def much(size: int) -> bytes:
        return b"x" * size

    @app.orchestrator
    async def main(ctx: OrchestrationContext, size: int) -> Any:
        try:
            return len(await ctx.call_activity(much, size))
        except Exception as error:
            return str(error)

    async with Worker(app, store_url) as worker:
        fits = 2 * MEBIBYTE - 100
        assert await worker.client.run(main, fits, timeout=10) == fits
        refused = await worker.client.run(main, 3 * MEBIBYTE, timeout=10)
    assert "LimitExceededError" in refused
    assert str(2 * MEBIBYTE) in refused.replace(",", "")
    assert str(3 * MEBIBYTE)[:3] in refused.replace(",", "")


async def test_an_oversized_input_fails_only_its_own_call(store_url: str) -> None:
    app = App()

    @app.activity
    def take(value: str) -> str:
        return "taken"

    @app.orchestrator
    async def main(ctx: OrchestrationContext) -> Any:
        task = ctx.call_activity(take, "x" * (2 * MEBIBYTE + 1))
        assert task.is_failed
        assert "input of activity 'take'" in str(task.exception())
        return await ctx.call_activity(take, "x")

    assert await run(app, store_url) == "taken"


async def test_an_invalid_input_error_of_the_users_own_code_is_an_ordinary_failure() -> None:
    """Only a misfit of this very call is final; an activity may run into one of another call, and is tried again."""
    app = App()
    attempts: list[int] = []

    @app.orchestrator
    async def typed(ctx: OrchestrationContext, value: int) -> int:
        return value

    @app.activity
    async def starts(ctx: ActivityContext) -> str:
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            await ctx.client.start(typed, "no number")  # type: ignore[arg-type]
        return "done"

    calls(app, lambda ctx: ctx.call_activity(starts, retry_policy=THREE_TRIES))
    assert await run(app, "memory://") == "done"
    assert attempts == [1, 2, 3]
