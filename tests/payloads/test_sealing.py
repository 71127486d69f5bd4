"""Payloads go through the codecs and come back, stay readable when the chain changes, and never expand without bound."""

from __future__ import annotations

import os
import random
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable.payloads import Compression, PayloadError, Sealer, encode


class Reversal:
    id = 40

    def encode(self, data: bytes, /) -> bytes:
        return data[::-1]

    def decode(self, data: bytes, /) -> bytes:
        if not data:
            raise KeyError("nothing to reverse")
        return data[::-1]


SEALERS = [Sealer(), Sealer([Compression()]), Sealer([Compression(min_bytes=0), Reversal()]), Sealer([Reversal()])]
TEXT = encode("durable " * 1000)


@pytest.mark.parametrize("sealer", SEALERS)
@given(value=st.text() | st.binary() | st.lists(st.integers()))
def test_what_is_sealed_can_be_unsealed(sealer: Sealer, value: object) -> None:
    plain = encode(value)
    assert sealer.unseal(sealer.seal(plain)) == plain


def test_without_codecs_a_payload_stays_as_it_is() -> None:
    assert Sealer().seal(TEXT) is TEXT


def test_compression_makes_repetitive_payloads_small_and_others_hardly_larger() -> None:
    sealer = Sealer([Compression()])
    assert len(sealer.seal(TEXT)) < len(TEXT) / 20
    noise = os.urandom(10_000)
    assert len(sealer.seal(noise)) <= len(noise) + 4


def test_payloads_stay_readable_when_the_chain_changes() -> None:
    plain = Sealer().seal(TEXT)
    compressed = Sealer([Compression()]).seal(TEXT)
    both = Sealer([Compression(), Reversal()]).seal(TEXT)
    today = Sealer([Reversal()], readable=[Compression()])
    assert [today.unseal(payload) for payload in (plain, compressed, both)] == [TEXT] * 3


def test_a_codec_that_is_not_configured_is_named() -> None:
    with pytest.raises(PayloadError, match="codec 40, which is not configured"):
        Sealer([Compression()]).unseal(Sealer([Reversal()]).seal(TEXT))


@pytest.mark.parametrize(
    "payload", [b"\xc1", b"\xc1\x00", b"\xc1\x02\x01", b"\xc1\x01\x28", b"\xc1\x01\x01", b"\xc1\x01\x01?"]
)
def test_a_damaged_header_is_refused(payload: bytes) -> None:
    with pytest.raises(PayloadError):
        Sealer([Compression(), Reversal()]).unseal(payload)


def test_a_compressed_bomb_is_refused_before_it_expands() -> None:
    expander = zlib.compressobj(9)
    bomb = b"\xc1\x01\x01z" + expander.compress(bytes(200 * 1024 * 1024)) + expander.flush()
    tracemalloc.start()
    try:
        with pytest.raises(PayloadError, match="expands to more than the limit of 1048576 bytes"):
            Sealer([Compression(max_bytes=1024 * 1024)]).unseal(bomb)
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_nothing_is_compressed_that_would_be_refused() -> None:
    sealer = Sealer([Compression(max_bytes=1000)])
    assert sealer.unseal(sealer.seal(TEXT)) == TEXT


def test_changed_bytes_raise_nothing_else() -> None:
    chance = random.Random(9)
    sealer = Sealer([Compression(min_bytes=0), Reversal()])
    sealed = sealer.seal(TEXT)
    for _ in range(3000):
        data = bytearray(sealed)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            sealer.unseal(bytes(data[: chance.randint(1, len(data))]))
        except PayloadError:
            pass


@pytest.mark.parametrize("ids", [(40, 40), (256,), (-1,)], ids=str)
def test_ids_are_distinct_and_fit_a_byte(ids: tuple[int, ...]) -> None:
    codecs = []
    for identifier in ids:
        codec = Reversal()
        codec.id = identifier
        codecs.append(codec)
    with pytest.raises(ValueError, match="codec ids must be"):
        Sealer(codecs)
