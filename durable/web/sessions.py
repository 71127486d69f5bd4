"""Sessions of browsers: notes in the hub, so that every process of a site knows them, and the next one after a restart.

A session is 256 random bits, which the cookie holds. The note's key is their SHA-256, its content that of the token with which
it was opened: who reads the store learns neither. What was found is remembered for a few seconds: not each request asks.
"""

from __future__ import annotations

import collections
import hashlib
import hmac
import secrets
import time
from typing import Final

from durable.client.connection import Connection
from durable.events import InstanceKey
from durable.provider import Memo, Message, partition_of
from durable.web.tokens import digest_of

PREFIX: Final = "web/session/"
SESSION_SECONDS: Final = 12 * 3600
REMEMBERED_S: Final = 5.0
"""So long a session that was closed through another process may still count in this one."""

REMEMBERED_MAX: Final = 10_000

CLOSED: Final = b""

NOBODY: Final = InstanceKey("session", "web")
"""An instance that never is: what is sent to it leaves its note instead."""


class Sessions:
    """The sessions of a hub."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._remembered: collections.OrderedDict[str, tuple[str, float]] = collections.OrderedDict()
        self._closed = 0  # how many, so that nothing is remembered that was read before one of them

    async def open(self, token_digest: str) -> str:
        """Return a new session for the holder of the token with this digest; it is durable. Raises StoreError."""
        session = secrets.token_urlsafe(32)
        await self._write(session, token_digest.encode())
        return session

    async def token_of(self, session: str) -> str | None:
        """Return the digest of the token that opened a session; None for one that was closed, has ended, or is none."""
        mark = digest_of(session)
        known = self._remembered.get(mark)
        if known is not None and time.monotonic() < known[1]:
            return known[0]
        self._remembered.pop(mark, None)
        closed = self._closed
        connection = self._connection
        found = await connection.provider.read_memos(PREFIX + mark, 1)
        if not found or found[0].key != PREFIX + mark or found[0].data == CLOSED:
            return None
        if found[0].expires_at <= await connection.clock.now(connection.provider):
            return None
        token_digest = found[0].data.decode("ascii", "replace")
        if closed == self._closed:
            self._remembered[mark] = token_digest, time.monotonic() + REMEMBERED_S
        while len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        return token_digest

    async def close(self, session: str) -> None:
        """End a session, durably. Raises StoreError."""
        try:
            await self._write(session, CLOSED)
        finally:  # not before: it may be looked up until then
            self._closed += 1
            self._remembered.pop(digest_of(session), None)

    async def _write(self, session: str, data: bytes) -> None:
        connection = self._connection
        now = await connection.clock.now(connection.provider)
        memo = Memo(PREFIX + digest_of(session), data, now + SESSION_SECONDS * 1_000_000)
        await connection.submitter.submit(
            Message(NOBODY, partition_of(NOBODY, connection.partitions), b"", otherwise=memo)
        )


def csrf_of(session: str) -> str:
    """Return what changes need beside a session: it follows from the session alone, which no other site can read."""
    return hmac.new(session.encode("utf-8", "surrogatepass"), b"csrf", hashlib.sha256).hexdigest()
