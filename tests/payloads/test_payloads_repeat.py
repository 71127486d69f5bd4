"""The same value gives the same bytes in every process, and reading them needs no more than it must."""

from __future__ import annotations

import os
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from durable.payloads import digest, encode

PROGRAM = """
import sys, uuid, datetime, dataclasses
from durable.payloads import encode, decode, check, digest

@dataclasses.dataclass(frozen=True)
class Point:
    x: int

words = {f"word {number}" for number in range(50)}
value = {
    "words": words,
    "frozen": {frozenset({word, 1, 2.5, b"x", None, (word, 3)}) for word in words},
    "points": {Point(number) for number in range(20)},
    "ids": {uuid.UUID(int=number) for number in range(20)},
    frozenset(words): 1,
}
print(encode(value).hex())
assert decode(check({"a": [1, "b"], "c": None}, dict[str, object])) == {"a": [1, "b"], "c": None}
assert decode(check([1, 2], list[int]), list[int]) == [1, 2]
assert "pydantic" not in sys.modules, "plain annotations must not import pydantic"
decode(encode({"x": 1}), Point)
assert "pydantic" in sys.modules
"""


def run(seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_sets_are_encoded_alike_under_every_hash_seed_and_pydantic_is_imported_late() -> None:
    assert len({run("0"), run("1"), run("31337")}) == 1


@given(st.lists(st.one_of(st.integers(), st.text(), st.binary(), st.tuples(st.integers(), st.text())), unique=True))
def test_the_order_in_which_a_set_was_filled_does_not_show(elements: list[object]) -> None:
    assert encode(set(elements)) == encode(set(elements) | set(elements[len(elements) // 2 :]))


def test_a_digest_has_eight_bytes_and_tells_values_apart() -> None:
    digests = {digest(encode(value)) for value in (1, 1.0, True, "1", b"1", [1], {1}, None)}
    assert len(digests) == 8
    assert {len(each) for each in digests} == {8}
    assert digest(b"abc") == digest(b"abc")
