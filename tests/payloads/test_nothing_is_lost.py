"""A sender that knows the receiver's annotation finds out beforehand what would not arrive, or not whole."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, TypedDict

import pydantic
import pytest

from durable.errors import InvalidInputError
from durable.payloads import MisfitError, check, decode, encode
from tests.payloads.shop import Cat, Color, Dog, GiftOrder, Line, NamedPoint, Order, Page, Point

KEY = "12345678-1234-5678-1234-567812345678"
GIFT = GiftOrder(orderId=1, key=KEY)


@dataclasses.dataclass(frozen=True)
class SamePoint(Point):
    """A subclass without fields of its own."""


@dataclasses.dataclass
class Counted:
    start: int
    count: int = dataclasses.field(default=0, init=False)


class Nothing(pydantic.BaseModel):
    pass


class Something(Nothing):
    size: int = 1


class Holder(pydantic.BaseModel):
    point: Point
    rest: Any = None


class Kind(TypedDict):
    name: str


class Other(pydantic.BaseModel):
    sku: str
    amount: int = 1
    price: Any = None


@pytest.mark.parametrize(
    ("value", "annotation", "reason"),
    [
        (GIFT, Order, "input: the fields wrapping of GiftOrder would be lost"),
        ([GIFT], list[Order], "input: [0]: the fields wrapping of GiftOrder would be lost"),
        ({"a": (GIFT,)}, dict[str, tuple[Order]], "input: ['a'][0]: the fields wrapping"),
        (NamedPoint(1), Point, "input: the fields name of NamedPoint would be lost"),
        (NamedPoint(1), Point | None, "input: the fields name"),
        (Holder(point=NamedPoint(1)), Holder, "input: point: the fields name"),
        ({"point": NamedPoint(1)}, Holder, "input: ['point']: the fields name"),
        ({NamedPoint(1)}, set[Point], "input: in a set, NamedPoint would arrive as another class"),
        (Something(), Nothing, "input: the fields size of Something would be lost"),
        (Line(sku="a"), Other, "input: Line would arrive as Other"),
        (Nothing(), Something, "input: Nothing would arrive as Something"),
        (Dog(name="a"), Cat, "input: Dog would arrive as Cat"),
        (Holder(point=Point(1)), Order, "input: orderId: field required"),
        (Page(items=[GIFT]), Page[Order], "input: items[0]: the fields wrapping"),
        (Other(sku="a"), TypedDict("Sku", {"sku": str}), "input: the fields amount, price of Other would be lost"),
        (Color.RED, Literal["blue"], "input: should be 'blue'"),
    ],
    ids=str,
)
def test_a_loss_is_refused_with_its_place(value: Any, annotation: Any, reason: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        check(value, annotation)
    assert str(refused.value).startswith(reason)
    with pytest.raises(MisfitError):
        encode(value, annotation)


def test_a_field_outside_the_constructor_is_refused_when_it_was_changed() -> None:
    counted = Counted(1)
    check(counted, Counted)
    counted.count = 5
    with pytest.raises(InvalidInputError, match="input: count: the constructor does not take it"):
        check(counted, Counted)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (GIFT, GiftOrder),
        (GIFT, GiftOrder | Order),
        (GIFT, Any),
        (GIFT, dict),
        (GIFT, dict[str, Any]),
        (SamePoint(1), Point),
        (Holder(point=Point(1), rest=NamedPoint(1)), Holder),
        (Page(items=[1]), Page[int]),
        ({"name": "a", "more": 1}, Kind),
        ({"sku": "a", "more": 1}, Line),
        (Cat(name="a"), Cat | Dog),
        (Color.RED, str),
        (1, float),
    ],
    ids=str,
)
def test_what_loses_nothing_is_accepted(value: Any, annotation: Any) -> None:
    assert check(value, annotation) == encode(value)


def test_a_union_that_cannot_tell_its_models_apart_is_refused_for_the_second() -> None:
    with pytest.raises(InvalidInputError, match="Dog would arrive as Cat"):
        check(Dog(name="a"), Cat | Dog)


def test_a_discriminator_tells_models_apart() -> None:
    class Fish(pydantic.BaseModel):
        kind: Literal["fish"] = "fish"

    class Bird(pydantic.BaseModel):
        kind: Literal["bird"] = "bird"

    either = Annotated[Fish | Bird, pydantic.Field(discriminator="kind")]
    assert decode(check(Bird(), either), either) == Bird()


def test_a_value_that_only_its_annotation_can_write_must_come_back_equal() -> None:
    with pytest.raises(InvalidInputError, match="object of type SecretStr cannot be stored"):
        check(pydantic.SecretStr("x"), pydantic.SecretStr)
