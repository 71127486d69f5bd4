"""What was done through the web, by whom and when: a note in the store for each action, kept for a year.

The note is durable before the action is: it says that the action was asked for, and then what became of it. One that never
says so was cut off by a crash, and the instance's history tells the rest. Notes are memos whose keys count down, so that
the newest comes first.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgpack

from durable.client.connection import Connection
from durable.errors import StoreError
from durable.events import InstanceKey
from durable.history import utc_datetime
from durable.provider import Memo, Message, partition_of
from durable.records import unpack
from durable.web.shown import iso, plain

logger = logging.getLogger("durable.web")

PREFIX: Final = "web/audit/"
KEPT_US: Final = 366 * 24 * 3600 * 1_000_000
LAST_US: Final = 10**16 - 1
"""Later than any time of the key's sixteen digits; keys hold what is left until then."""

TEXT_CHARACTERS_MAX: Final = 500
ENTRY_CHARACTERS_MAX: Final = 4000

NOBODY: Final = InstanceKey("audit", "web")
"""An instance that never is: what is sent to it leaves its note instead."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """An action: who asked for it and how they were recognised, what it was and to what, and what became of it."""

    at_us: int
    who: str
    role: str
    way: str
    action: str
    target: str
    details: Mapping[str, Any]
    outcome: str = "asked for"


class Audit:
    """Writes and reads the notes of a hub."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def begin(
        self, who: str, role: str, way: str, action: str, target: str, details: Mapping[str, Any]
    ) -> tuple[str, Entry]:
        """Note that something was asked for; durable on return. Returns the note's key for `end`. Raises StoreError."""
        connection = self._connection
        now = await connection.clock.now(connection.provider)
        entry = Entry(now, who, role, way, action, _short(target), _bounded(details))
        key = f"{PREFIX}{LAST_US - now:016d}/{connection.ports.new_id()}"
        await self._write(key, entry)
        return key, entry

    async def end(self, key: str, entry: Entry, outcome: str) -> None:
        """Note what became of it. The action has happened: that this cannot be noted is logged, and raised to nobody."""
        try:
            await self._write(key, dataclasses.replace(entry, outcome=_short(outcome)))
        except StoreError as error:
            logger.error("the outcome of %s by '%s' was not noted: %s", entry.action, entry.who, error)

    async def _write(self, key: str, entry: Entry) -> None:
        connection = self._connection
        data: bytes = msgpack.packb(
            [*(getattr(entry, field.name) for field in dataclasses.fields(entry))], unicode_errors="replace"
        )
        memo = Memo(key, data, entry.at_us + KEPT_US)
        await connection.submitter.submit(
            Message(NOBODY, partition_of(NOBODY, connection.partitions), b"", otherwise=memo)
        )

    async def read(self, limit: int, after: str = "") -> tuple[Sequence[dict[str, Any]], str | None]:
        """Return the latest notes, or those before one, as plain data, and where the next ones begin."""
        memos = await self._connection.provider.read_memos(PREFIX, limit + 1, after=PREFIX + after if after else "")
        found = [_shown(memo) for memo in memos[:limit]]
        return found, memos[limit - 1].key.removeprefix(PREFIX) if len(memos) > limit else None


def _short(text: str) -> str:
    return text if len(text) <= TEXT_CHARACTERS_MAX else text[:TEXT_CHARACTERS_MAX] + "…"


def _bounded(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return details of a bounded size; what a caller sends along may be megabytes."""
    kept: dict[str, Any] = {}
    left = ENTRY_CHARACTERS_MAX
    for name, value in details.items():
        shown = plain(value)
        text = _short(shown if isinstance(shown, str) else str(shown))
        kept[name] = shown if isinstance(shown, int | float | bool) else text
        left -= len(text)
        if left < 0:
            break
    return kept


def _shown(memo: Memo) -> dict[str, Any]:
    key = memo.key.removeprefix(PREFIX)
    try:
        entry = Entry(*unpack(memo.data)[: len(dataclasses.fields(Entry))])
        at = iso(utc_datetime(entry.at_us))
    except Exception as error:  # noqa: BLE001 (whatever garbage does to a decoder, the listing goes on)
        logger.warning("unreadable note of an action: %r", error)
        return {"key": key, "action": "unreadable", "outcome": "the note about it cannot be read"}
    values = {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry) if field.name != "at_us"}
    return {"key": key, "at": at, **values}
