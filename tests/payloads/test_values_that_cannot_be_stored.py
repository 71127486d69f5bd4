"""What cannot be stored is refused where it is given, with the path to it and by an error that derives from TypeError."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import zoneinfo
from typing import Any

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable.errors import DurableError, InvalidInputError, LimitExceededError
from durable.payloads import DEPTH_MAX, PAYLOAD_BYTES_MAX, EncodingError, check, decode, encode
from tests.payloads.shop import Color, Line, Point


class Opaque:
    def __repr__(self) -> str:
        raise AssertionError("an error text must not run the code of a value")


@dataclasses.dataclass
class Basket:
    lines: dict[str, Any]


class Raising(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    thing: Any


class Zone(datetime.tzinfo):
    def utcoffset(self, moment: datetime.datetime | None) -> datetime.timedelta | None:
        raise RuntimeError("no offset today")


@pytest.mark.parametrize(
    ("value", "where", "type_name"),
    [
        (Opaque(), "value: ", "Opaque"),
        ({"orders": [1, 2, 3, Basket({"x": Opaque()})]}, "value: ['orders'][3].lines['x']: ", "Opaque"),
        ([Raising(thing=(1, Opaque()))], "value: [0].thing[1]: ", "Opaque"),
        ({1: {2.5: Opaque()}}, "value: [int 1][float 2.5]: ", "Opaque"),
        ({Opaque(): 1}, "value: [Opaque]: ", "Opaque"),
        ({"a": {Opaque()}}, "value: ['a']{Opaque}: ", "Opaque"),
        (print, "value: ", "builtin_function_or_method"),
        (int, "value: ", "type"),
        (1j, "value: ", "complex"),
        (range(3), "value: ", "range"),
        (bytearray(b"x"), "value: ", "bytearray"),
        ([memoryview(b"x")], "value: [0]: ", "memoryview"),
        ((part for part in "ab"), "value: ", "generator"),
        (Raising(thing=pydantic.SecretStr("x")), "value: thing: ", "SecretStr"),
        ([ValueError("x")], "value: [0]: ", "ValueError"),
    ],
    ids=lambda part: type(part).__name__,
)
def test_a_foreign_object_is_refused_with_its_path(value: Any, where: str, type_name: str) -> None:
    with pytest.raises(TypeError) as refused:
        encode(value)
    assert str(refused.value).startswith(f"{where}object of type {type_name} cannot be stored")
    assert isinstance(refused.value, DurableError)


def test_a_forgotten_await_is_guessed() -> None:
    async def answer() -> int:
        return 42

    coroutine = answer()
    with pytest.raises(EncodingError, match="type coroutine cannot be stored: write `await` before it"):
        encode([coroutine])
    coroutine.close()
    with pytest.raises(EncodingError, match="type generator cannot be stored: make a list of it"):
        encode(part for part in "ab")


def test_an_input_that_cannot_be_stored_is_an_invalid_input_and_a_type_error() -> None:
    with pytest.raises(InvalidInputError, match=r"^input of 'pay': \[0\]: object of type Opaque cannot") as refused:
        check([Opaque()], list[Any], what="input of 'pay'")
    assert isinstance(refused.value, TypeError)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ("\ud800", "value: "),
        ([1, {"a": "x\udfff"}], "value: [1]['a']: "),
        ({"\udfff": 1}, "value: ['\\udfff']: "),
        ({"a", "\ud800"}, "value: {str '\\ud800'}: "),
        (Line(sku="a").model_copy(update={"sku": "\ud800"}), "value: sku: "),
    ],
)
def test_a_lone_surrogate_is_refused_with_its_path(value: Any, where: str) -> None:
    with pytest.raises(EncodingError) as refused:
        encode(value)
    assert str(refused.value).startswith(f"{where}a str with the lone surrogate")
    str(refused.value).encode()  # the error text itself is fit to be stored


@pytest.mark.parametrize(
    "value",
    [
        datetime.datetime(2024, 1, 1, tzinfo=Zone()),
        datetime.time(12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    ],
    ids=["a zone that raises", "a time whose offset depends on the date"],
)
def test_a_time_without_a_certain_offset_is_refused(value: Any) -> None:
    with pytest.raises(EncodingError, match=r"value: \[0\]: .* cannot be stored"):
        encode([value])


@pytest.mark.parametrize(
    "value",
    [{Color.RED: 1, "red": 2}, {Color.RED, "red"}, {frozenset({Color.RED, "red"}): 1}],
    ids=["dict", "set", "key"],
)
def test_what_would_become_one_key_or_element_is_refused(value: Any) -> None:
    with pytest.raises(EncodingError, match="stored as the same value"):
        encode(value)


@pytest.mark.parametrize("key", [Point(1), (1, Point(1)), frozenset({Point(1)})], ids=repr)
def test_a_record_cannot_be_a_key(key: Any) -> None:
    with pytest.raises(EncodingError, match="Point cannot be stored as a key"):
        encode({key: 1})


def test_code_of_the_value_that_raises_is_reported() -> None:
    class Broken(dict[str, int]):
        def items(self) -> Any:
            raise RuntimeError("no items today")

    with pytest.raises(EncodingError, match="value: .*RuntimeError: no items today"):
        encode(Broken())


# ---- limits


def nested(levels: int, wrap: Any) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = wrap(value)
    return value


WRAPS = {
    "list": lambda value: [value],
    "dict": lambda value: {"a": value},
    "tuple": lambda value: (value,),
    "frozenset": lambda value: frozenset({value}),
    "record": lambda value: Basket({"a": value}),
    "key": lambda value: (value,) if isinstance(value, tuple) else (1,),
}


@pytest.mark.parametrize("wrap", [WRAPS[name] for name in ("list", "dict", "tuple", "frozenset")])
def test_the_depth_limit_is_exact_on_both_sides(wrap: Any) -> None:
    deepest = nested(DEPTH_MAX, wrap)
    decode(encode(deepest))
    with pytest.raises(LimitExceededError, match="value: nested deeper than the limit of 128 levels"):
        encode(wrap(deepest))


@pytest.mark.parametrize("name", ["list", "dict", "tuple", "record"])
def test_any_nesting_is_refused_without_a_recursion_error(name: str) -> None:
    with pytest.raises(LimitExceededError, match="nested deeper"):
        encode(nested(100_000, WRAPS[name]))
    with pytest.raises(LimitExceededError, match="nested deeper"):
        check(nested(100_000, WRAPS[name]), list[Any])


def test_keys_count_as_levels() -> None:
    with pytest.raises(LimitExceededError, match="nested deeper"):
        encode({nested(DEPTH_MAX, lambda value: (value,)): 1})


def test_what_contains_itself_is_refused() -> None:
    circle: list[Any] = []
    circle.append({"again": circle})
    with pytest.raises(LimitExceededError, match="contains itself"):
        encode(circle)
    basket = Basket({})
    basket.lines["again"] = basket
    with pytest.raises(LimitExceededError, match="contains itself"):
        check(basket, Basket)


@pytest.mark.parametrize(
    "value",
    ["x" * PAYLOAD_BYTES_MAX, [b"x" * PAYLOAD_BYTES_MAX], 1 << (8 * PAYLOAD_BYTES_MAX)],
    ids=["str", "bytes in a list", "int"],
)
def test_a_large_value_is_refused_with_limit_and_size(value: Any) -> None:
    with pytest.raises(
        LimitExceededError, match=rf"value: 20971\d\d bytes encoded, over the limit of {PAYLOAD_BYTES_MAX}"
    ):
        encode(value)
    with pytest.raises(LimitExceededError):
        check(value, type(value))


def test_the_size_limit_is_exact() -> None:
    assert len(encode("x" * (PAYLOAD_BYTES_MAX - 5))) == PAYLOAD_BYTES_MAX
    with pytest.raises(LimitExceededError):
        encode("x" * (PAYLOAD_BYTES_MAX - 4))


def test_limits_can_be_given() -> None:
    assert encode("abc", max_bytes=4) == b"\xa3abc"
    with pytest.raises(LimitExceededError, match="5 bytes encoded, over the limit of 4 bytes"):
        encode("abcd", max_bytes=4)
    with pytest.raises(LimitExceededError, match="limit of 1 levels"):
        encode([[1]], max_depth=1)


# ---- whatever comes

strange = st.one_of(
    st.integers(),
    st.text(st.characters()),  # surrogates included
    st.floats(),
    st.builds(Opaque),
    st.sampled_from([Color.RED, Color, len, ..., NotImplemented, collections.UserDict(a=1), enum]),
    st.builds(Point, st.text(st.characters())),
    st.complex_numbers(),
)
strange_values = st.recursive(
    strange,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(st.characters()) | st.tuples(st.integers()), inner, max_size=3),
        st.tuples(inner, inner),
        st.builds(lambda part: Basket({"part": part}), inner),
        st.builds(lambda part: Raising(thing=part), inner),
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(strange_values)
def test_encode_gives_a_readable_payload_or_a_refusal(value: Any) -> None:
    try:
        payload = encode(value)
    except EncodingError:
        return
    decode(payload)
