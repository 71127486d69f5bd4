"""What looks random to an orchestrator and is not: ids and numbers derived from the run's seed."""

from __future__ import annotations

import hashlib
import random


class Seeds:
    """The derived ids and streams of one generation: the same on every replay, different from any other's."""

    def __init__(self, seed: str, generation: int) -> None:
        self._prefix = f"{seed}\0{generation}"
        self._streams: dict[str, random.Random] = {}
        self._uuids = 0

    def derive(self, *parts: object) -> bytes:
        """Return 16 bytes for these parts."""
        text = "\0".join((self._prefix, *map(str, parts)))
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def next_uuid(self) -> bytes:
        """Return the bytes of the next UUID."""
        self._uuids += 1
        return self.derive("uuid", self._uuids)

    def stream(self, name: str) -> random.Random:
        """Return the stream of random numbers of that name; one does not disturb another."""
        found = self._streams.get(name)
        if found is None:
            found = self._streams[name] = random.Random(self.derive(name))
        return found
