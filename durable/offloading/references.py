"""What the store has in place of a payload, and what lies outside: as bytes, and back.

    reference    0xC1 0x00 | msgpack of [format, name, size, SHA-256 of the envelope]
    envelope     "durable payload" 1 | length of the head, 4 bytes | msgpack of [kind, id of the instance] | the payload

Nothing that users hand in begins with 0xC1 (no msgpack does), and what went through codecs goes on with their number, which is
never 0. So a reference is never mistaken for data, nor data for a reference.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import struct
import zlib
from typing import Final
from urllib.parse import quote, unquote

import msgpack

from durable.events import InstanceKey
from durable.payloads import OUTSIDE_MARK
from durable.records import unpack

FORMAT: Final = 1
MAGIC: Final = b"durable payload\x01"
HEAD_BYTES_MAX: Final = 4096
"""More than a kind and an id of 512 bytes need."""

SHARDS: Final = 256
"""A hub's runs are spread over so many folders, so that none has too many entries."""

_LENGTH: Final = struct.Struct(">I")
_PLACE: Final = re.compile(r"(?:r(\d+)\.(\d+)|(input|output))-[0-9a-zA-Z]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """The one place that refers to a payload: a record of a run by generation and index, or a column of its row."""

    run_id: str
    generation: int = 0
    index: int = 0
    column: str = ""

    def name(self, hub: str, unique: str) -> str:
        """Return a name for a payload of this place."""
        what = self.column or f"r{self.generation}.{self.index}"
        return f"{run_prefix(hub, self.run_id)}{what}-{unique}"

    @staticmethod
    def of(name: str) -> Place | None:
        """Return the place that a name was made for; None for what is none, such as a file that was never finished."""
        _, _, run_id, what = name.rsplit("/", 3) if name.count("/") >= 3 else ("", "", "", "")
        found = _PLACE.fullmatch(what)
        if found is None:
            return None
        generation, index, column = found.groups()
        return Place(unquote(run_id), int(generation or 0), int(index or 0), column or "")


def shard_prefix(hub: str, shard: int) -> str:
    """Return what all names of one shard of a hub begin with."""
    return f"{hub}/{shard:02x}/"


def run_prefix(hub: str, run_id: str) -> str:
    """Return what all names of a run begin with."""
    return f"{shard_prefix(hub, zlib.crc32(run_id.encode()) % SHARDS)}{quote(run_id, safe='').replace('.', '%2E')}/"


@dataclasses.dataclass(frozen=True, slots=True)
class Reference:
    """What stands in the store: the name of a payload, its size in bytes, and the digest of its envelope."""

    name: str
    size: int
    digest: bytes

    def encode(self) -> bytes:
        """Return it as it is stored."""
        packed: bytes = msgpack.packb([FORMAT, self.name, self.size, self.digest])
        return OUTSIDE_MARK + packed

    @staticmethod
    def read(data: bytes) -> Reference | None:
        """Return the reference; None for bytes that are none, or damaged."""
        if not data.startswith(OUTSIDE_MARK):
            return None
        try:
            form, name, size, digest = unpack(data[len(OUTSIDE_MARK) :])
        except (ValueError, TypeError, msgpack.UnpackException):
            return None
        if form != FORMAT or not (isinstance(name, str) and isinstance(digest, bytes)):
            return None
        if not isinstance(size, int) or size < 0:
            return None
        return Reference(name, size, digest)

    def payload(self, envelope: bytes) -> bytes | None:
        """Return the payload out of its envelope; None where that is not the one referred to."""
        if hashlib.sha256(envelope).digest() != self.digest:
            return None
        return envelope[len(envelope) - self.size :]


def enveloped(key: InstanceKey, data: bytes) -> bytes:
    """Return what is put outside: the payload, and in front of it whose it is."""
    head: bytes = msgpack.packb([key.kind, key.id])
    return MAGIC + _LENGTH.pack(len(head)) + head + data


def referring_to(name: str, envelope: bytes, size: int) -> Reference:
    """Return the reference to a payload of `size` bytes in its envelope."""
    return Reference(name, size, hashlib.sha256(envelope).digest())


def owner_of(envelope: bytes) -> InstanceKey | None:
    """Return the instance that a payload belongs to, from the first bytes of its envelope; None if they do not say."""
    start = len(MAGIC) + _LENGTH.size
    if not envelope.startswith(MAGIC) or len(envelope) < start:
        return None
    (length,) = _LENGTH.unpack_from(envelope, len(MAGIC))
    try:
        kind, identifier = unpack(envelope[start : start + min(length, HEAD_BYTES_MAX)])
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    return InstanceKey(identifier, kind) if isinstance(kind, str) and isinstance(identifier, str) else None
