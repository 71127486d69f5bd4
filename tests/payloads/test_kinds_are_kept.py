"""An annotation accepts what strict JSON would bring and values of the type itself; it never changes the kind of a scalar."""

from __future__ import annotations

import datetime
import decimal
import enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pydantic
import pytest

from durable.errors import DurableError
from durable.payloads import MisfitError, PayloadError, decode, encode, prepare
from tests.payloads.shop import (
    Address,
    Cat,
    Category,
    Color,
    Corner,
    Dog,
    Line,
    Order,
    Parcel,
    Point,
    Priority,
    Rights,
    Size,
)

KEY = "12345678-1234-5678-1234-567812345678"
UTC = datetime.UTC


class Half(float, enum.Enum):
    ONE = 1.0


def arrive(value: Any, annotation: Any) -> Any:
    return decode(encode(value), annotation)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        ("5", int),
        (True, int),
        (False, int),
        (1.0, int),
        (decimal.Decimal(1), int),
        (1, bool),
        ("true", bool),
        (0, bool),
        ("1.5", float),
        (True, float),
        (decimal.Decimal("1.5"), float),
        (5, str),
        (b"x", str),
        (datetime.date(2024, 1, 1), str),
        ("x", bytes),
        (True, decimal.Decimal),
        (0, datetime.datetime),
        (b"2024-01-01T00:00:00", datetime.datetime),
        ("2024-01-01", datetime.datetime),
        (datetime.date(2024, 1, 1), datetime.datetime),
        (datetime.datetime(2024, 1, 1), datetime.date),
        ("2024-01-01T00:00:00", datetime.date),
        (0, datetime.date),
        (60, datetime.time),
        (60, datetime.timedelta),
        ("60", datetime.timedelta),
        (b"0123456789abcdef", UUID),
        (True, Priority),
        (1.0, Priority),
        ("1", Priority),
        ("RED", Color),
        (True, Rights),
        ("1", Rights),
        ([0, 1], Corner),
        (True, Half),
        (True, Literal[1]),
        (1, Literal[True]),
        (1.0, Literal[1]),
        (b"a", Literal["a"]),
        ({1}, list[int]),
        ({1}, tuple[int]),
        ("ab", list[str]),
        ("ab", tuple[str, ...]),
        ({"5": 1}, dict[int, int]),
        ([1, True], list[int]),
        ([1, "2"], list[int | None]),
        ({"a": "5"}, dict[str, int]),
        ({"x": "5"}, Point),
        ({"sku": "a", "amount": "1"}, Line),
        ({"orderId": 1, "key": KEY, "lines": [{"sku": 5}]}, Order),
        ({"street": "a", "number": "1"}, Address),
        ({"name": "a", "parts": [{"name": 1, "parts": []}]}, Category),
        (["1", 2], Size),
        (0, Annotated[int, pydantic.Field(gt=0)]),
        (5, None),
        (None, int),
        (0, type(None)),
    ],
    ids=str,
)
def test_the_kind_of_a_value_is_not_changed(value: Any, annotation: Any) -> None:
    with pytest.raises(MisfitError):
        arrive(value, annotation)


@pytest.mark.parametrize(
    ("value", "annotation", "arrived"),
    [
        (1, float, 1.0),
        ([1, 2.5], list[float], [1.0, 2.5]),
        ("1.50", decimal.Decimal, decimal.Decimal("1.50")),
        (2, decimal.Decimal, decimal.Decimal(2)),
        (1.5, decimal.Decimal, decimal.Decimal("1.5")),
        ("2024-01-01T00:00:00Z", datetime.datetime, datetime.datetime(2024, 1, 1, tzinfo=UTC)),
        ("2024-01-01", datetime.date, datetime.date(2024, 1, 1)),
        ("10:30", datetime.time, datetime.time(10, 30)),
        ("PT1M", datetime.timedelta, datetime.timedelta(minutes=1)),
        (KEY, UUID, UUID(KEY)),
        ([1, "a"], tuple[int, str], (1, "a")),
        ([2, 1, 2], set[int], {1, 2}),
        ([1], frozenset[int], frozenset({1})),
        ("red", Color, Color.RED),
        (2, Priority, Priority.HIGH),
        (3, Rights, Rights.READ | Rights.WRITE),
        ([0, 0], Corner, Corner.ORIGIN),
        (1, Half, Half.ONE),
        ("red", Literal[Color.RED], Color.RED),
        ([1, 2], Size, Size(1, 2)),
        ({"width": 1}, Size, Size(1, 1)),
        ({"x": 1}, Point, Point(1)),
        ({"red": 1}, dict[Color, int], {Color.RED: 1}),
        ({KEY: 1}, dict[UUID, int], {UUID(KEY): 1}),
        ({"sku": "a", "price": "2.50"}, Line, Line(sku="a", price=decimal.Decimal("2.50"))),
        (
            {"size": [1, 2], "corner": {"x": 1}, "sent": "2024-01-01T00:00:00Z", "tags": ["a"]},
            Parcel,
            Parcel(Size(1, 2), Point(1), datetime.datetime(2024, 1, 1, tzinfo=UTC), tags={"a"}),
        ),
    ],
    ids=str,
)
def test_the_forms_of_json_are_accepted(value: Any, annotation: Any, arrived: Any) -> None:
    result = arrive(value, annotation)
    assert result == arrived
    assert type(result) is type(arrived)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (1, int | bool),
        (True, int | bool),
        (1, float | int),
        (1.0, int | float),
        ("2024-01-01", datetime.date | str),
        (datetime.date(2024, 1, 1), str | datetime.datetime | datetime.date),
        (KEY, UUID | str),
        (UUID(KEY), str | UUID),
        (b"x", str | bytes),
        ([1], set[int] | list[int]),
    ],
    ids=str,
)
def test_a_union_takes_what_is_already_one_of_its_types(value: Any, annotation: Any) -> None:
    arrived = arrive(value, annotation)
    assert arrived == value
    assert type(arrived) is type(value)


def test_unions_that_are_equal_keep_their_own_order() -> None:
    assert type(arrive({"name": "a"}, Cat | Dog)) is Cat
    assert type(arrive({"name": "a"}, Dog | Cat)) is Dog


def test_a_strict_model_accepts_the_same_as_any_other() -> None:
    class Strict(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(strict=True)
        day: datetime.date
        point: Point
        tags: set[str] = pydantic.Field(strict=True)

    value = Strict(day=datetime.date(2024, 1, 1), point=Point(1), tags={"a"})
    assert arrive({"day": "2024-01-01", "point": {"x": 1}, "tags": ["a"]}, Strict) == value
    assert arrive(value, Strict) == value


def test_validators_and_defaults_of_a_model_run_as_written() -> None:
    class Name(pydantic.BaseModel):
        text: Annotated[str, pydantic.StringConstraints(strip_whitespace=True, max_length=5)]
        count: int = pydantic.Field(default=1, alias="n")

        @pydantic.field_validator("count", mode="before")
        @classmethod
        def from_words(cls, value: Any) -> Any:
            return {"two": 2}.get(value, value)

    assert arrive({"text": " a ", "n": "two"}, Name) == Name(text="a", n=2)
    with pytest.raises(MisfitError, match=r"value: text: string should have at most 5 characters, got str"):
        arrive({"text": "abcdefg"}, Name)


def test_a_misfit_names_the_place_the_reason_and_the_value() -> None:
    value = {"orderId": 1, "key": KEY, "lines": [{"sku": "a"}, {"sku": "b", "amount": "7"}]}
    with pytest.raises(MisfitError) as misfit:
        decode(encode(value), Order, what="input of 'pay'")
    assert str(misfit.value) == "input of 'pay': lines[1].amount: should be a valid integer, got str '7'"
    assert isinstance(misfit.value, PayloadError)
    assert isinstance(misfit.value, DurableError)


def test_what_is_missing_is_told_without_showing_the_rest() -> None:
    with pytest.raises(MisfitError) as misfit:
        decode(encode({"orderId": 1, "key": KEY, "lines": [{"amount": 7}]}), Order, what="input of 'pay'")
    assert str(misfit.value) == "input of 'pay': lines[0].sku: field required"


def test_several_misfits_name_the_value_once() -> None:
    with pytest.raises(MisfitError) as misfit:
        decode(encode(["a", "b"]), list[int], what="input of 'pay'")
    assert str(misfit.value) == (
        "input of 'pay': [0]: should be a valid integer, got str 'a'; [1]: should be a valid integer, got str 'b'"
    )


@pytest.mark.parametrize("value", ["secret" * 100, b"secret" * 100, ["secret" * 100], {"secret" * 100: 1}, 10**1000])
def test_no_long_value_is_shown_whole(value: Any) -> None:
    with pytest.raises(MisfitError) as misfit:
        arrive(value, UUID)
    assert len(str(misfit.value)) < 160


def test_what_a_validator_of_the_user_says_is_shown_as_it_is() -> None:
    def refuse(_value: Any) -> Any:
        raise ValueError("IBAN has a wrong checksum")

    with pytest.raises(MisfitError) as misfit:
        arrive("DE1", Annotated[str, pydantic.AfterValidator(refuse)])
    assert str(misfit.value) == "value: IBAN has a wrong checksum, got str 'DE1'"


def test_a_misfit_in_many_places_stays_short() -> None:
    with pytest.raises(MisfitError) as misfit:
        arrive(["x" * 1000] * 1000, list[int])
    assert len(str(misfit.value)) < 1000
    assert str(misfit.value).endswith("and 997 more")


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), ZeroDivisionError(), RecursionError()], ids=repr)
def test_whatever_a_validator_raises_is_a_misfit(error: Exception) -> None:
    def raise_it(_value: Any) -> Any:
        raise error

    with pytest.raises(MisfitError, match=f"its validation raised {type(error).__name__}"):
        arrive(1, Annotated[int, pydantic.AfterValidator(raise_it)])


@pytest.mark.parametrize("annotation", ["NoSuchName", type("Plain", (), {}), list[type("Plain", (), {})]], ids=str)
def test_an_annotation_that_cannot_be_used_is_reported(annotation: Any) -> None:
    with pytest.raises(MisfitError, match="value: its annotation .* cannot be used"):
        arrive(1, annotation)
    with pytest.raises(TypeError, match="cannot be used"):
        prepare(annotation)


def test_annotations_need_not_be_hashable() -> None:
    class Note:
        __hash__ = None  # type: ignore[assignment]

    assert arrive([1], Annotated[list[int], Note()]) == [1]


def test_annotations_made_anew_find_what_was_built() -> None:
    from durable.payloads.fitting import shape_of

    assert shape_of(dict[str, Line]) is shape_of(dict[str, Line])
    assert shape_of(Cat | Dog) is not shape_of(Dog | Cat)


def test_names_defined_later_are_found() -> None:
    class Late(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(defer_build=True)
        part: Line

    assert arrive({"part": {"sku": "a"}}, Late) == Late(part=Line(sku="a"))
    assert arrive([{"part": {"sku": "a"}}], list[Late]) == [Late(part=Line(sku="a"))]
