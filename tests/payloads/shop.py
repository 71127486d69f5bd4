"""The classes that the tests of this folder send around."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar
from uuid import UUID

import pydantic
import typing_extensions

Item = TypeVar("Item")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Priority(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Corner(enum.Enum):
    """Its values are no scalars."""

    ORIGIN = (0, 0)
    FAR = (9, 9)


class Size(NamedTuple):
    width: int
    height: int = 1


class Address(typing_extensions.TypedDict):  # the one that pydantic's models want on Python 3.11
    street: str
    number: int


class Category(TypedDict):
    """Of the standard library, and refers to itself."""

    name: str
    parts: list[Category]


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass(frozen=True)
class NamedPoint(Point):
    name: str = ""


@dataclasses.dataclass
class Parcel:
    size: Size
    corner: Point
    sent: datetime.datetime | None = None
    labels: dict[str, Color] = dataclasses.field(default_factory=dict)
    tags: set[str] = dataclasses.field(default_factory=set)


class Line(pydantic.BaseModel):
    sku: str
    amount: int = 1
    price: decimal.Decimal = decimal.Decimal("0.00")


class Order(pydantic.BaseModel):
    order_id: int = pydantic.Field(alias="orderId")
    key: UUID
    lines: list[Line] = []
    due: datetime.date | None = None
    extra: Any = None


class GiftOrder(Order):
    wrapping: str = "paper"


class Page(pydantic.BaseModel, Generic[Item]):
    items: list[Item]


class Tree(pydantic.BaseModel):
    value: int
    children: list[Tree] = []


class Cat(pydantic.BaseModel):
    name: str


class Dog(pydantic.BaseModel):
    name: str
