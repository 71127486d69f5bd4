"""Makes wrong inputs out of right ones: bytes changed anywhere, and values changed inside a structure that stays whole.

All choices are those of the `random.Random` that is handed in, so that a seed repeats them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

TOKENS: Sequence[bytes] = (
    b"\xc0",  # nil
    b"\xc1",  # the byte that begins nothing
    b"\xc2",
    b"\xc3",
    b"\x90",
    b"\x80",
    b"\xa0",
    b"\xc4\x00",
    b"\xdd\xff\xff\xff\xff",  # an array of four billion
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x08",
    b"\xdc\xff\xff",
    b"\x91" * 40,
    b"\x91" * 600,
    b"\x81\xc0" * 200,
    b"\xd4\x01\x00",
    b"\xd4\x55\x00",  # an extension that nobody knows
    b"\xc7\x03\x02xyz",  # a datetime of nonsense
    b"\xc7\x0c\xff" + b"\xff" * 12,  # a timestamp out of range
    b"\xd6\xff\x00\x00\x00\x01",  # a timestamp
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",  # not a number
    b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",  # infinity
    b"\xcf" + b"\xff" * 8,
    b"\xd3\x80" + b"\x00" * 7,
    b"\xa3\xed\xa0\x80",  # half of a surrogate pair
    b"\xa1\xff",
    b"\xa1\x00",
)

VALUES: Sequence[Any] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    127,
    128,
    255,
    2**31,
    2**53,
    2**63 - 1,
    2**64 - 1,
    -(2**63),
    0.0,
    1.0,
    1e300,
    math.nan,
    math.inf,
    "",
    "x",
    "0/1",
    "a\0b",
    "\ud800",
    "é" * 50,
    "x" * 3000,
    b"",
    b"\x00",
    b"bytes",
    b"\x93\x01\x02\x03",
    b"x" * 3000,
    [],
    [1],
    [[]],
    {},
    {"a": 1},
    {1: 2},
    {None: None},
    msgpack.ExtType(1, b"\x01"),
    msgpack.ExtType(85, b""),
    msgpack.Timestamp(1, 2),
)

TEXTS: Sequence[str] = (
    "\0",
    "\n",
    "\t",
    " ",
    "\u2028",
    "\ud800",
    "\udfff",
    "\U0001f600",
    "e\u0301",
    "%00",
    "%ff",
    "%",
    "%2e%2e%2f",
    "/",
    "//",
    "..",
    "?",
    "#",
    "&",
    "=",
    "@",
    ":",
    "[",
    "]",
    "\\",
    "?hub=",
    "&mode=rw",
    "&hub=a&hub=b",
    "९",
    "²",
    "-",
    "1e999",
    "NaN",
    "null",
    "[[[[",
    "[" * 2000,
    '"\\ud800"',
    "9" * 30,
    "x" * 600,
)

Mutator = Callable[[random.Random], bytes]


def bytes_changed(data: bytes, chance: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """Return the bytes with one to four changes: bits, cuts, insertions, doubled chunks, tokens, chunks of others."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(changed) + 1)
        length = chance.choice((1, 1, 2, 4, 8, 40))
        match chance.randrange(9):
            case 0:
                changed[place : place + 1] = chance.randbytes(1)
            case 1:
                del changed[place : place + length]
            case 2:
                changed[place:place] = chance.randbytes(length)
            case 3:
                changed[place:place] = changed[place : place + length]
            case 4:
                changed[place : place + length] = chance.choice(TOKENS)
            case 5:
                changed[place:place] = chance.choice(TOKENS)
            case 6 if chance.random() < 0.3:
                del changed[place:]
            case 7 if others:
                other = chance.choice(others)
                start = chance.randrange(len(other) + 1)
                changed[place : place + length] = other[start : start + length]
            case _ if place < len(changed):
                changed[place] ^= 1 << chance.randrange(8)
    return bytes(changed)


def value_changed(value: Any, chance: random.Random) -> Any:
    """Return a plain value with one or two places of it changed."""
    for _ in range(chance.randint(1, 2)):
        value = _changed(value, chance)
    return value


def _changed(value: Any, chance: random.Random) -> Any:
    if isinstance(value, list) and value and chance.random() < 0.85:
        place = chance.randrange(len(value))
        match chance.randrange(10):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return [*value[:place], value[place], *value[place:]]
            case 2:
                return [*value[:place], chance.choice(VALUES), *value[place:]]
            case 3:
                return value[:place]
            case 4:
                other = chance.randrange(len(value))
                return [value[other] if index == place else item for index, item in enumerate(value)]
        return [_changed(item, chance) if index == place else item for index, item in enumerate(value)]
    if isinstance(value, dict) and value and chance.random() < 0.7:
        name = chance.choice(list(value))
        if chance.random() < 0.3:
            return {**value, chance.choice(("", "x", 1, None, b"k")): chance.choice(VALUES)}
        return {key: _changed(item, chance) if key is name else item for key, item in value.items()}
    if isinstance(value, bytes) and value and chance.random() < 0.5:
        return _content_changed(value, chance)
    if isinstance(value, int) and not isinstance(value, bool) and chance.random() < 0.4:
        return max(-(2**63), min(2**64 - 1, value + chance.choice((-1, 1, 2**31, -(2**31)))))
    if chance.random() < 0.1:
        return nested(value, chance.choice((1, 2, 30, 140, 400)))
    return chance.choice(VALUES)


def _content_changed(data: bytes, chance: random.Random) -> bytes:
    """Change bytes inside a structure; where they are a structure again, mostly in its own terms."""
    try:
        inner = msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException):  # no msgpack, or with a list for a key
        return bytes_changed(data, chance)
    return packed(_changed(inner, chance)) if chance.random() < 0.7 else bytes_changed(data, chance)


def nested(value: Any, levels: int) -> Any:
    """Return the value inside so many lists."""
    for _ in range(levels):
        value = [value]
    return value


def packed(value: Any) -> bytes:
    """Return msgpack, also of text that is none and of nesting that the package would refuse."""
    try:
        data: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
        return data
    except ValueError:  # deeper than msgpack packs, which is less than it unpacks
        return b"\x91" * 900 + b"\xc0"


def data_mutator(seeds: Sequence[bytes]) -> Mutator:
    """Return a maker of wrong inputs from these right ones, which are msgpack; now and then it makes a right one."""
    trees = [msgpack.unpackb(seed, strict_map_key=False) for seed in seeds]

    def make(chance: random.Random) -> bytes:
        kind = chance.random()
        if kind < 0.55:
            return packed(value_changed(chance.choice(trees), chance))
        if kind < 0.95:
            return bytes_changed(chance.choice(seeds), chance, seeds)
        if kind < 0.98:
            return chance.randbytes(chance.choice((0, 1, 3, 8, 20, 60, 600)))
        return chance.choice(seeds)

    return make


def text_mutator(seeds: Sequence[str]) -> Mutator:
    """Return a maker of wrong texts, as UTF-8 in which lone surrogates stand as they are."""

    def make(chance: random.Random) -> bytes:
        text = chance.choice(seeds)
        for _ in range(chance.randint(0, 4)):
            place = chance.randrange(len(text) + 1)
            length = chance.choice((0, 1, 1, 3, 10))
            piece = chance.choice(TEXTS)
            if chance.random() < 0.2:
                piece = chr(chance.randrange(0x110000))
            elif chance.random() < 0.1:
                piece *= chance.choice((2, 100))
            text = text[:place] + piece + text[place + length :]
        return text.encode("utf-8", "surrogatepass")

    return make


def text_of(data: bytes) -> str:
    """Return the text of such bytes; of whatever other bytes too."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "surrogateescape")
