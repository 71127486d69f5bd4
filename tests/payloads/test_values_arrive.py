"""A value that is accepted arrives as it was given: the round trip, for every type and many generated values."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import ipaddress
import math
import pathlib
import zoneinfo
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable.payloads import check, decode, encode
from tests.payloads.shop import (
    Address,
    Cat,
    Category,
    Color,
    Corner,
    Line,
    Order,
    Page,
    Parcel,
    Point,
    Priority,
    Rights,
    Size,
    Tree,
)

KEY = UUID("12345678-1234-5678-1234-567812345678")
UTC = datetime.UTC
offsets = st.timedeltas(
    min_value=-datetime.timedelta(hours=23, minutes=59), max_value=datetime.timedelta(hours=23, minutes=59)
).map(datetime.timezone)
texts = st.text()  # without surrogates, which hypothesis leaves out of text by default
finite_decimals = st.decimals(allow_nan=False, allow_infinity=False)

# Annotations with strategies for their values. Each value must arrive with them, equal and of the same type.
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    type(None): st.none(),
    bool: st.booleans(),
    int: st.integers() | st.integers(min_value=-(2**200), max_value=2**200),
    float: st.floats(allow_nan=False),
    str: texts,
    bytes: st.binary(),
    datetime.datetime: st.datetimes() | st.datetimes(timezones=offsets, allow_imaginary=False),
    datetime.date: st.dates(),
    datetime.time: st.times() | st.times(timezones=offsets),
    datetime.timedelta: st.timedeltas(),
    decimal.Decimal: finite_decimals,
    UUID: st.uuids(),
    Color: st.sampled_from(Color),
    Priority: st.sampled_from(Priority),
    Corner: st.sampled_from(Corner),
    Literal[1, "one", b"one", True, None, Color.RED]: st.sampled_from([1, "one", b"one", True, None, Color.RED]),
    Size: st.builds(Size, st.integers(), st.integers()),
    Point: st.builds(Point, st.integers(), st.integers()),
    Address: st.tuples(texts, st.integers()).map(lambda pair: {"street": pair[0], "number": pair[1]}),
    Line: st.builds(Line, sku=texts, amount=st.integers(), price=finite_decimals),
    Annotated[int, pydantic.Field(ge=0)]: st.integers(min_value=0),
}
HASHABLE = [kind for kind in SCALARS if kind not in (Address, Line, Point, Size)]
typed_scalars = st.sampled_from(list(SCALARS.items()))


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Strategies for (annotation, strategy for its values) pairs around other such pairs."""
    keys = st.sampled_from(HASHABLE)
    return st.one_of(
        inner.map(lambda pair: (list[pair[0]], st.lists(pair[1], max_size=4))),
        inner.map(lambda pair: (tuple[pair[0], ...], st.lists(pair[1], max_size=4).map(tuple))),
        inner.map(lambda pair: (pair[0] | None, st.none() | pair[1])),
        inner.map(lambda pair: (Page[pair[0]], st.lists(pair[1], max_size=3).map(lambda i: Page[pair[0]](items=i)))),
        st.tuples(inner, inner).map(
            lambda pairs: (tuple[pairs[0][0], pairs[1][0]], st.tuples(pairs[0][1], pairs[1][1]))
        ),
        st.tuples(keys, inner).map(
            lambda pair: (dict[pair[0], pair[1][0]], st.dictionaries(SCALARS[pair[0]], pair[1][1], max_size=4))
        ),
        keys.map(lambda kind: (set[kind], st.sets(SCALARS[kind], max_size=4))),
        keys.map(lambda kind: (frozenset[kind], st.frozensets(SCALARS[kind], max_size=4))),
    )


typed_values = st.recursive(typed_scalars, containers, max_leaves=4)


def shape(value: Any) -> Any:
    """What equality overlooks: True equals 1, Decimal("1.0") equals Decimal("1.00"), 0.0 equals -0.0."""
    if isinstance(value, dict):
        return dict, [(shape(key), shape(part)) for key, part in value.items()]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(repr(shape(part)) for part in value)
    if isinstance(value, pydantic.BaseModel):
        return type(value), shape(dict(value))
    if isinstance(value, (list, tuple)):
        return type(value), [shape(part) for part in value]
    if isinstance(value, datetime.datetime | datetime.time):
        return value.isoformat(), value.fold
    return type(value), repr(value)


@settings(max_examples=120)
@pytest.mark.parametrize("annotation", SCALARS, ids=str)
@given(data=st.data())
def test_a_scalar_arrives_with_its_annotation(annotation: Any, data: st.DataObject) -> None:
    value = data.draw(SCALARS[annotation])
    arrived = decode(encode(value), annotation)
    assert arrived == value
    assert shape(arrived) == shape(value)
    assert check(value, annotation) == encode(value)


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_a_container_arrives_with_its_annotation(data: st.DataObject) -> None:
    annotation, strategy = data.draw(typed_values)
    value = data.draw(strategy)
    arrived = decode(check(value, annotation), annotation)
    assert arrived == value
    assert shape(arrived) == shape(value)


native = st.one_of([SCALARS[kind] for kind in SCALARS if kind in HASHABLE and isinstance(kind, type)]).filter(
    lambda value: not isinstance(value, Color | Priority | Corner)
)
plain_values = st.recursive(
    native | st.sets(native, max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(native, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=250)
@given(plain_values)
def test_plain_values_arrive_without_an_annotation(value: Any) -> None:
    arrived = decode(encode(value))
    assert arrived == value
    assert shape(arrived) == shape(value)


PARCEL = Parcel(
    Size(2, 3), Point(1, 2), datetime.datetime(2024, 2, 29, 12, tzinfo=UTC), labels={"a": Color.RED}, tags={"x", "y"}
)
ORDER = Order(orderId=7, key=KEY, lines=[Line(sku="a"), Line(sku="b")], due=datetime.date(2024, 1, 1), extra={"n": 1})
CustomerId = NewType("CustomerId", int)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (PARCEL, Parcel),
        (ORDER, Order),
        ([ORDER], list[Order]),
        ({"a": ORDER}, dict[str, Order]),
        (Tree(value=1, children=[Tree(value=2)]), Tree),
        ({"name": "a", "parts": [{"name": "b", "parts": []}]}, Category),
        (Page[Point](items=[Point(1)]), Page[Point]),
        (Rights.READ | Rights.WRITE, Rights),
        ({Point(1), Point(2)}, set[Point]),
        ({(1, "a"): 2}, dict[tuple[int, str], int]),
        ({frozenset({1, 2})}, set[frozenset[int]]),
        (CustomerId(3), CustomerId),
        (collections.deque([1, 2]), collections.deque[int]),
        (collections.OrderedDict(b=1, a=2), collections.OrderedDict[str, int]),
        (Cat(name="Tom"), Cat | Line),
        (10**5000, int),
        (math.inf, float),
        (datetime.datetime(2024, 10, 27, 2, 30, fold=1), datetime.datetime),
        (datetime.timedelta.min, datetime.timedelta),
        (decimal.Decimal("1E+999"), decimal.Decimal),
    ],
    ids=lambda part: type(part).__name__ if isinstance(part, int) else str(part)[:30],
)
def test_made_types_arrive(value: Any, annotation: Any) -> None:
    arrived = decode(check(value, annotation), annotation)
    assert arrived == value
    assert type(arrived) is type(value)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (pathlib.PurePosixPath("/srv/x"), pathlib.PurePosixPath),
        ([ipaddress.ip_address("10.0.0.1")], list[ipaddress.IPv4Address]),
        (pydantic.HttpUrl("https://example.org/a"), pydantic.HttpUrl),
        (1 + 2j, complex),
    ],
    ids=str,
)
def test_types_that_only_pydantic_can_write_arrive_with_their_annotation(value: Any, annotation: Any) -> None:
    assert decode(encode(value, annotation), annotation) == value


def test_such_a_type_arrives_as_the_field_of_a_model_also_without_annotation() -> None:
    @dataclasses.dataclass
    class Server:
        folder: pathlib.PurePosixPath
        started: datetime.datetime

    server = Server(pathlib.PurePosixPath("/srv"), datetime.datetime(2024, 1, 1, tzinfo=UTC))
    assert decode(encode(server), Server) == server
    assert decode(encode(server)) == {"folder": "/srv", "started": server.started}


@pytest.mark.parametrize("value", [None, False, 0, 0.0, "", b"", [], {}, set(), datetime.timedelta(0)], ids=repr)
def test_falsy_values_are_values(value: Any) -> None:
    assert shape(decode(encode(value), type(value))) == shape(value)
    assert shape(decode(encode(value))) == shape(value)


def test_nan_arrives() -> None:
    assert math.isnan(decode(encode(math.nan), float))
    assert math.isnan(next(iter(decode(encode({math.nan}), set[float]))))


def test_without_annotation_made_types_arrive_as_plain_data() -> None:
    assert decode(encode((1, (2, 3)))) == [1, [2, 3]]
    assert decode(encode(Color.RED)) == "red"
    assert decode(encode(Rights.READ | Rights.WRITE)) == 3
    assert decode(encode(Size(1, 2))) == [1, 2]
    assert decode(encode(Point(1, 2))) == {"x": 1, "y": 2}
    assert decode(encode([ORDER]))[0]["lines"][0] == {"sku": "a", "amount": 1, "price": decimal.Decimal("0.00")}


def test_keys_keep_their_types() -> None:
    value = {1: "int", "1": "str", b"1": "bytes", None: "none", 2.5: "float", KEY: "uuid", (1, (2,)): "tuple"}
    assert shape(decode(encode(value))) == shape(value)


def test_a_zone_travels_as_the_offset_of_that_moment() -> None:
    berlin = datetime.datetime(2024, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
    arrived = decode(encode(berlin), datetime.datetime)
    assert arrived == berlin
    assert arrived.utcoffset() == datetime.timedelta(hours=2)


def test_offsets_of_seconds_and_microseconds_are_kept() -> None:
    odd = datetime.timezone(datetime.timedelta(minutes=53, seconds=28, microseconds=7))
    moment = datetime.datetime(1890, 1, 1, tzinfo=odd)
    assert decode(encode(moment)).utcoffset() == odd.utcoffset(None)


def test_an_alias_is_read_where_it_is_written() -> None:
    class Swapped(pydantic.BaseModel):
        first: int = pydantic.Field(alias="second")
        second: int = pydantic.Field(alias="first")

    swapped = Swapped(second=1, first=2)
    assert decode(encode(swapped), Swapped) == swapped


def test_further_fields_of_an_open_model_arrive() -> None:
    class Open(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="allow")
        name: str

    value = Open(name="a", size=3)
    assert decode(check(value, Open), Open) == value


def test_a_field_that_its_author_excludes_is_not_written() -> None:
    class Login(pydantic.BaseModel):
        user: str
        password: str = pydantic.Field(default="", exclude=True)

    assert decode(encode(Login(user="a", password="secret"))) == {"user": "a"}


def test_subclasses_of_scalars_arrive_as_the_scalar() -> None:
    class Loud(str):
        def __str__(self) -> str:
            return "LOUD"

    arrived = decode(encode([Loud("quiet")]))
    assert arrived == ["quiet"]
    assert type(arrived[0]) is str


def test_the_standard_timestamp_of_msgpack_is_read() -> None:
    assert decode(b"\xd6\xff\x00\x00\x00\x01") == datetime.datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
