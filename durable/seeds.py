"""What looks random to an orchestrator and is not: ids and numbers derived from the run's seed."""

from __future__ import annotations

import hashlib
import random


class Seeds:
    """The derived ids and streams of one generation: the same on every replay, different from any other's."""

    def __init__(self, seed: str, generation: int) -> None:
        self._prefix = f"{seed}\0{generation}"
        self._former: list[tuple[int, str]] = []  # prefixes, each with the first position that it is not for
        self._streams: dict[str, random.Random] = {}
        self._uuids = 0

    def renew(self, seed: str, position: int) -> None:
        """Derive from another seed from now on, but for what belongs to a request before `position`."""
        self._former.append((position, self._prefix))
        self._prefix = f"{seed}\0renewed"
        self._streams.clear()
        self._uuids = 0

    def derive(self, *parts: object, position: int | None = None) -> bytes:
        """Return 16 bytes for these parts; `position`: that of the request that they belong to, if to any."""
        text = self._prefix
        if position is not None and self._former:
            text = next((former for first, former in self._former if position < first), text)
        for part in parts:
            text = f"{text}\0{part}"
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def derived_id(self, *parts: object) -> str:
        """Return 32 hexadecimal digits, the same on every replay and nowhere else; parts of a request end with its position.

        May be asked from any thread, and when the execution is over.
        """
        return self.derive(*parts, position=parts[-1] if isinstance(parts[-1], int) else None).hex()

    @property
    def mark(self) -> tuple[object, ...]:
        """What differs afterwards if an id or a number was drawn."""
        return self._uuids, *((name, stream.getstate()) for name, stream in self._streams.items())

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
