"""The codec chain: what a payload goes through between the edge and the store.

Without codecs a sealed payload is the plain one. With codecs it begins with a byte that no plain payload begins with,
then says which codecs it went through, so that payloads stay readable when the chain is changed later:

    0xC1 | number of codecs | id of each, in the order they were applied | what the last one returned

Invariant: an id is never reused for another codec.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Protocol

from durable.payloads.limits import PAYLOAD_BYTES_MAX
from durable.payloads.refusals import PayloadError, UnknownCodecError, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable

SEALED_MARK = 0xC1  # the one byte that msgpack never uses
_MARK = bytes([SEALED_MARK])

OUTSIDE_MARK = bytes([SEALED_MARK, 0])
"""What stands in the place of a payload that lies outside of the store begins so (`durable.offloading`)."""

# What compressed bytes may expand to: above all that the package seals, which is values and details of failures.
EXPANDED_BYTES_MAX = 2 * PAYLOAD_BYTES_MAX


def is_sealed(data: bytes) -> bool:
    """Tell whether bytes went through codecs: where nobody has undone them, they are not ours to read, nor damaged."""
    return data.startswith(_MARK)


def lies_outside(data: bytes | None) -> bool:
    """Tell whether a reference stands here that nobody has found the payload of."""
    return data is not None and data.startswith(OUTSIDE_MARK)


class Codec(Protocol):
    """One step of the chain: compression, encryption. `decode` undoes `encode`, and raises for bytes that it did not make.

    `id` is 0 to 255 and stands in stored payloads; 0 to 31 are for the package.
    """

    @property
    def id(self) -> int:
        """The number that names this codec in stored payloads."""
        ...

    def encode(self, data: bytes, /) -> bytes:
        """Return what goes to the next step."""
        ...

    def decode(self, data: bytes, /) -> bytes:
        """Return what `encode` was given. Must bound what it returns, whatever the bytes claim."""
        ...


class Sealer:
    """Applies codecs in order when sealing, and whatever codecs a payload names, in reverse, when unsealing."""

    def __init__(self, codecs: Iterable[Codec] = (), *, readable: Iterable[Codec] = ()) -> None:
        """`readable` are further codecs, for payloads of an earlier chain, that new payloads do not go through."""
        self._codecs = tuple(codecs)
        everything = (*self._codecs, *readable)
        self._by_id = {codec.id: codec for codec in everything}
        if len(self._by_id) != len(everything) or not all(0 <= identifier <= 255 for identifier in self._by_id):
            raise ValueError(f"codec ids must be 0 to 255 and distinct: {[codec.id for codec in everything]}")
        self._header = bytes([SEALED_MARK, len(self._codecs), *(codec.id for codec in self._codecs)])

    def seal(self, plain: bytes) -> bytes:
        """Return the payload to store."""
        if not self._codecs:
            return plain
        data = plain
        for codec in self._codecs:
            data = codec.encode(data)
        return self._header + data

    def unseal(self, payload: bytes) -> bytes:
        """Return the plain payload. Raises PayloadError, whatever the bytes."""
        if not payload.startswith(_MARK):
            return payload
        if payload.startswith(OUTSIDE_MARK):
            raise PayloadError(
                "the payload lies outside of the store and is not found there: give every process of the hub the same "
                "payload store, or bring back what is missing in it"
            )
        count = payload[1] if len(payload) > 1 else 0
        identifiers = payload[2 : 2 + count]
        if count == 0 or len(identifiers) != count:
            raise PayloadError("damaged payload: its list of codecs ends too early")
        data = payload[2 + count :]
        for identifier in reversed(identifiers):
            data = self._undo(identifier, data)
        return data

    def _undo(self, identifier: int, data: bytes) -> bytes:
        codec = self._by_id.get(identifier)
        if codec is None:
            raise UnknownCodecError(f"the payload went through codec {identifier}, which is not configured here")
        try:
            return codec.decode(data)
        except PayloadError:
            raise
        except Exception as error:  # each codec's library has its own
            raise PayloadError(f"codec {identifier} cannot read the payload: {reason_of(error)}") from error


class Compression:
    """Compresses with zlib what becomes smaller by it. The first byte of its output says which it was."""

    id = 1

    def __init__(self, *, min_bytes: int = 512, max_bytes: int = EXPANDED_BYTES_MAX, level: int = 6) -> None:
        """Below `min_bytes` nothing is compressed. `max_bytes` bounds what a stored payload may expand to."""
        self._min_bytes = min_bytes
        self._max_bytes = max_bytes
        self._level = level

    def encode(self, data: bytes, /) -> bytes:
        """Return the data compressed, or as it is, behind a byte that says which."""
        if self._min_bytes <= len(data) <= self._max_bytes:  # nothing that `decode` would refuse
            compressed = zlib.compress(data, self._level)
            if len(compressed) < len(data):
                return b"z" + compressed
        return b"-" + data

    def decode(self, data: bytes, /) -> bytes:
        """Return the data. Raises PayloadError for what expands beyond the bound, before it does."""
        kind, body = data[:1], data[1:]
        if kind == b"-":
            return body
        if kind != b"z":
            raise PayloadError("damaged payload: neither compressed nor plain")
        expander = zlib.decompressobj()
        plain = expander.decompress(body, self._max_bytes + 1)
        if len(plain) > self._max_bytes:
            raise PayloadError(f"the payload expands to more than the limit of {self._max_bytes} bytes")
        if not expander.eof or expander.unused_data:
            raise PayloadError("damaged payload: the compressed data has bytes too few or too many")
        return plain
