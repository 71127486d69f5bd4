"""Whatever bytes come in, `decode` returns a value or raises PayloadError, in bounded time and memory.

Method: bombs made by hand; random bytes; real payloads with bytes changed, cut, doubled and moved. Set
DURABLE_FUZZ_EXAMPLES for a long run.
"""

from __future__ import annotations

import os
import random
import time
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable.payloads import DEPTH_MAX, PAYLOAD_BYTES_MAX, PayloadError, decode, encode
from durable.payloads.scan import _walk, check_headers
from tests.payloads.shop import Line, Order, Parcel, Priority
from tests.payloads.test_values_arrive import ORDER, PARCEL, plain_values

EXAMPLES = int(os.environ.get("DURABLE_FUZZ_EXAMPLES", "30000"))
ANNOTATIONS: list[Any] = [
    Any,
    int,
    str,
    list[int],
    dict[str, Any],
    Order,
    Parcel,
    list[Line],
    set[int],
    Priority | None,
]
SEEDS = [
    ORDER,
    PARCEL,
    {"a": [1, 2, {"b": {1, 2, frozenset({3})}}], (1, 2): 2**70},
    [None, True, 1.5, "text", b"bytes", PARCEL.sent, ORDER.due, ORDER.key, {"k" * 40: list(range(60))}],
]


def read(data: bytes, annotation: Any = Any) -> None:
    try:
        decode(data, annotation)
    except PayloadError:
        pass


def deep(levels: int) -> bytes:
    return b"\x91" * levels + b"\x01"


def nested_sets(levels: int) -> bytes:
    data = b"\x01"
    for _ in range(levels):
        data = msgpack.packb(msgpack.ExtType(9, b"\x91" + data))
    return data


BOMBS = {
    "an array of four billion": b"\xdd\xff\xff\xff\xff" + b"\x01" * 100,
    "a map of four billion": b"\xdf\xff\xff\xff\xff" + b"\x01" * 100,
    "a str of four billion": b"\xdb\xff\xff\xff\xff" + b"x" * 100,
    "an ext of four billion": b"\xc9\xff\xff\xff\xff\x08" + b"x" * 100,
    "a set of four billion": b"\xc7\x05\x08\xdd\xff\xff\xff\xff",
    "arrays that each claim everything": (b"\xdd" + (PAYLOAD_BYTES_MAX // 2).to_bytes(4, "big")) * 100
    + b"\x01" * (PAYLOAD_BYTES_MAX // 2 + 1000),
    "100,000 lists in one another": deep(100_000),
    "one level too many": deep(DEPTH_MAX + 1),
    "one level too many, 900 of them": deep(900),
    "100,000 maps as keys": b"\x81" * 100_000 + b"\x01\x01",
    "sets in sets": nested_sets(400),
    "a set longer than its content": b"\xc7\x03\x08\x91\x01\x01",
    "a set of a number": b"\xd4\x08\x01",
    "a set that ends in its neighbour": b"\x92\xc7\x02\x08\x92\x01\x02\x03",
    "an unknown extension": b"\xd4\x55\x00",
    "a datetime of nonsense": b"\xc7\x03\x02xyz",
    "a UUID of three bytes": b"\xc7\x03\x07xyz",
    "a timedelta out of range": b"\xc7\x0c\x05" + b"\x7f" * 12,
    "a timestamp out of range": b"\xc7\x0c\xff\x00\x00\x00\x00" + b"\x7f" * 8,
    "a decimal of nonsense": b"\xc7\x03\x06xyz",
    "a list as a key": b"\x81\x90\x01",
    "text that is no UTF-8": b"\xa1\xff",
    "the unused byte": b"\xc1",
    "nothing": b"",
    "two values": b"\x01\x01",
    "too little": b"\x92\x01",
    "too large": b"\xc6" + PAYLOAD_BYTES_MAX.to_bytes(4, "big") + b"x" * PAYLOAD_BYTES_MAX,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once_and_in_little_memory(name: str) -> None:
    data = BOMBS[name]
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(PayloadError, match=r"^value: "):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 5.0


def test_the_deepest_value_is_read() -> None:
    assert decode(deep(DEPTH_MAX)) == decode(encode(decode(deep(DEPTH_MAX))))


def test_a_payload_over_the_limit_is_read_on_demand() -> None:
    text = encode("x" * PAYLOAD_BYTES_MAX, max_bytes=2 * PAYLOAD_BYTES_MAX)
    with pytest.raises(PayloadError, match=f"over the limit of {PAYLOAD_BYTES_MAX} bytes"):
        decode(text)
    assert len(decode(text, str, strict_size=False)) == PAYLOAD_BYTES_MAX


@settings(max_examples=200)
@given(plain_values)
def test_the_walk_over_the_headers_passes_every_real_payload(value: Any) -> None:
    data = encode(value)
    _walk(data, DEPTH_MAX)
    check_headers(data, DEPTH_MAX)


@settings(max_examples=200)
@given(plain_values, st.data())
def test_the_walk_refuses_a_payload_that_was_cut(value: Any, data: st.DataObject) -> None:
    payload = encode(value)
    cut = payload[: data.draw(st.integers(0, len(payload) - 1))]
    with pytest.raises(PayloadError):
        _walk(cut, DEPTH_MAX)


def test_random_bytes_raise_nothing_else() -> None:
    chance = random.Random(7)
    for _ in range(EXAMPLES):
        read(chance.randbytes(chance.choice([1, 3, 8, 20, 60, 200, 600])), chance.choice(ANNOTATIONS))


def test_changed_payloads_raise_nothing_else() -> None:
    chance = random.Random(8)
    payloads = [encode(seed) for seed in SEEDS]
    for _ in range(EXAMPLES):
        read(mutated(bytearray(chance.choice(payloads)), chance), chance.choice(ANNOTATIONS))


def mutated(data: bytearray, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0:
                data[place : place + 1] = chance.randbytes(1)
            case 1:
                del data[place : place + chance.randint(1, 8)]
            case 2:
                data[place:place] = chance.randbytes(chance.randint(1, 8))
            case 3:
                data[place:place] = data[place : place + chance.randint(1, 40)]
            case 4 if place < len(data):
                data[place] ^= 1 << chance.randrange(8)
    return bytes(data)
