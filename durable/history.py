"""A history as clients see it: a read-only sequence of events, verified, and portable without loss.

A `History` keeps the records' very bytes and checksums beside the events that it shows. So what is exported is what was
stored, and whoever loads it checks the same chain that the store's reader checked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, overload

import msgpack

from durable import payloads
from durable.errors import DurableError, HistoryDamagedError, InstanceNotFoundError
from durable.events import HistoryEvent, InstanceKey
from durable.provider import InstanceRow, Provider, RecordRow
from durable.records import (
    CHECKSUM_BYTES,
    Record,
    decode_record,
    first_checksum,
    next_checksum,
    reason_of,
    require,
    unpack,
)
from durable.versions import UNVERSIONED

logger = logging.getLogger("durable.history")

EXPORT_MARK: Final = "durable history"
EXPORT_FORMAT: Final = 1
"""Version of the exported layout; a reader refuses a newer one."""

READ_TRIES_MAX: Final = 5
"""An eternal orchestration may drop a generation while it is being read; then the next one is."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)


def utc_datetime(us: int) -> datetime:
    """Return the aware time of microseconds since 1970 UTC; what no datetime can show, as the first or last one."""
    try:
        return _EPOCH + timedelta(microseconds=us)
    except OverflowError:
        return _LAST if us > 0 else _FIRST


def plain_value(payload: bytes | None, sealer: payloads.Sealer, what: str, instance_id: str) -> Any:
    """Return a payload as plain data, to be looked at. What cannot be read is shown as a text that says so, and logged."""
    if payload is None:
        return None
    try:
        return payloads.decode(sealer.unseal(payload), what=what, strict_size=False)
    except DurableError as error:
        logger.warning("instance '%s': unreadable payload: %s", instance_id, error, extra={"instance_id": instance_id})
        return f"<unreadable payload of {len(payload)} bytes: {error}>"


class Generation(NamedTuple):
    """Whose history it is."""

    key: InstanceKey
    run_id: str
    generation: int
    name: str


class History(Sequence[HistoryEvent]):
    """The events of one generation, in order. `sequence` and `timestamp` are set, and payloads are plain data.

    A `version` is None for a function without one, as in `OrchestrationState`.

    Made by `handle.history()` and by `History.load`; both have checked its checksums.
    """

    def __init__(self, whose: Generation, rows: Iterable[RecordRow], *, sealer: payloads.Sealer | None = None) -> None:
        """Raises HistoryDamagedError where a record does not fit the chain of checksums, or cannot be read."""
        self._whose = whose
        self._rows = tuple(_verified(whose, rows))
        self._records = tuple(decode_record(row.data) for row in self._rows)
        self._stored = [(event, record.time) for record in self._records for event in record.events]
        self._shown: list[HistoryEvent | None] = [None] * len(self._stored)
        self._sealer = sealer or payloads.Sealer()

    @property
    def instance_id(self) -> str:
        """The instance's id."""
        return self._whose.key.id

    @property
    def key(self) -> InstanceKey:
        """The instance's id and kind."""
        return self._whose.key

    @property
    def run_id(self) -> str:
        """The run that wrote it."""
        return self._whose.run_id

    @property
    def generation(self) -> int:
        """The generation within the run."""
        return self._whose.generation

    @property
    def name(self) -> str:
        """The orchestrator's name."""
        return self._whose.name

    @property
    def records(self) -> Sequence[Record]:
        """The records as the engine takes them: one per turn, payloads encoded."""
        return self._records

    @property
    def rows(self) -> Sequence[RecordRow]:
        """The records as they are stored: their very bytes, each with its checksum."""
        return self._rows

    @property
    def sealer(self) -> payloads.Sealer:
        """What opens the payloads in the records."""
        return self._sealer

    def __len__(self) -> int:
        return len(self._stored)

    @overload
    def __getitem__(self, index: int) -> HistoryEvent: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[HistoryEvent]: ...
    def __getitem__(self, index: int | slice) -> HistoryEvent | Sequence[HistoryEvent]:
        if isinstance(index, slice):
            return tuple(self._event(place) for place in range(*index.indices(len(self._stored))))
        return self._event(range(len(self._stored))[index])

    def __iter__(self) -> Iterator[HistoryEvent]:
        return map(self._event, range(len(self._stored)))

    def _event(self, index: int) -> HistoryEvent:
        """Return an event as shown. Made at first use: most readers look at a few of many."""
        shown = self._shown[index]
        if shown is None:
            event, time = self._stored[index]
            changes: dict[str, Any] = {"sequence": index, "timestamp": utc_datetime(time)}
            if getattr(event, "version", None) == UNVERSIONED:
                changes["version"] = None
            for field in _payload_fields(type(event)):
                what = f"{type(event).__name__}.{field}"
                changes[field] = plain_value(getattr(event, field), self._sealer, what, self.instance_id)
            shown = self._shown[index] = dataclasses.replace(event, **changes)
        return shown

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, History):
            return NotImplemented
        return self._whose == other._whose and self._rows == other._rows

    def __hash__(self) -> int:
        return hash((self._whose, self._rows[-1].checksum if self._rows else b""))

    def __repr__(self) -> str:
        of = f"'{self.instance_id}' ({self.name}), generation {self.generation} of run {self.run_id}"
        return f"<History of {of}: {len(self)} events in {len(self._rows)} records>"

    def export(self) -> bytes:
        """Return everything as bytes, for `load`."""
        key, run_id, generation, name = self._whose
        rows = [[row.data, row.checksum] for row in self._rows]
        body: bytes = msgpack.packb([key.id, key.kind, run_id, generation, name, rows])
        packed: bytes = msgpack.packb([EXPORT_MARK, EXPORT_FORMAT, body, _digest(body)])
        return packed

    @classmethod
    def load(cls, data: bytes, *, sealer: payloads.Sealer | None = None) -> History:
        """Return an exported history. Raises HistoryDamagedError for whatever is not one, or is not whole."""
        try:
            mark, layout, body, digest = unpack(data)
            if mark != EXPORT_MARK or not 1 <= layout <= EXPORT_FORMAT or digest != _digest(body):
                raise HistoryDamagedError("not an exported history that this version reads, or a damaged one")
            instance_id, kind, run_id, generation, name, records = unpack(body)
            require(str, instance_id, kind, run_id, name)
            require(int, generation)
            rows = [RecordRow(index, *record) for index, record in enumerate(records)]
            return cls(Generation(InstanceKey(instance_id, kind), run_id, generation, name), rows, sealer=sealer)
        except HistoryDamagedError:
            raise
        except Exception as error:  # whatever garbage does to the decoder is one fact: this is not a history
            raise HistoryDamagedError(f"not an exported history, or a damaged one: {reason_of(error)}") from error


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=CHECKSUM_BYTES).digest()


_PAYLOAD_FIELDS: dict[type[HistoryEvent], tuple[str, ...]] = {}


def _payload_fields(cls: type[HistoryEvent]) -> tuple[str, ...]:
    """Return the fields of a class of events that hold encoded user data: those annotated `Payload`."""
    found = _PAYLOAD_FIELDS.get(cls)
    if found is None:
        fields = dataclasses.fields(cls)
        found = _PAYLOAD_FIELDS[cls] = tuple(field.name for field in fields if str(field.type) in _PAYLOAD_ANNOTATIONS)
    return found


# Annotations are kept as text there; a feature's module may name the alias with its module.
_PAYLOAD_ANNOTATIONS = frozenset({"Payload", "ev.Payload", "events.Payload"})


def _verified(whose: Generation, rows: Iterable[RecordRow]) -> Iterator[RecordRow]:
    """Yield records as they come, each checked against the one before."""
    chain = first_checksum(whose.key, whose.run_id, whose.generation)
    for expected, row in enumerate(rows):
        chain = next_checksum(chain, row.data)
        if row.index != expected or row.checksum != chain:
            raise HistoryDamagedError(
                f"the history of '{whose.key.id:.200}' (run {whose.run_id:.60}, generation {whose.generation}) is damaged "
                f"at record {expected}: its checksum does not continue that of the record before"
            )
        yield row


async def read_history(
    provider: Provider,
    key: InstanceKey,
    run_id: str | None = None,
    *,
    generation: int | None = None,
    sealer: payloads.Sealer | None = None,
) -> History:
    """Read a generation of a run (None: the current one) from a store, part by part.

    Raises InstanceNotFoundError, and HistoryDamagedError where records are missing or do not fit the row's checksum.
    """
    row: InstanceRow | None = None
    for _ in range(READ_TRIES_MAX):
        before, row = row, (await provider.load([(key, run_id)]))[0]
        if row is None:
            raise InstanceNotFoundError(f"there is no instance '{key.id}', or it was purged")
        if generation is not None and generation != row.generation:
            return await _read_former(provider, row, generation, sealer)
        if before is not None and (before.run_id, before.generation) == (row.run_id, row.generation):
            break  # it is not that somebody wrote meanwhile
        rows = await _read_rows(provider, row)
        if len(rows) == row.records:
            whose = Generation(key, row.run_id, row.generation, row.name)
            history = History(whose, rows, sealer=sealer)
            if rows and rows[-1].checksum != row.chain:
                raise HistoryDamagedError(f"the history of '{key.id}' does not end with the checksum in its row")
            return history
    assert row is not None, "at least one try was made"
    raise HistoryDamagedError(f"the history of '{key.id}' lacks records: its row counts {row.records}")


async def _read_former(
    provider: Provider, row: InstanceRow, generation: int, sealer: payloads.Sealer | None
) -> History:
    """Read a generation that has ended: only its own chain tells whether it is whole."""
    rows: list[RecordRow] = []
    while part := await provider.read_history(row.run_id, generation, len(rows)):
        rows.extend(part)
    if not rows:
        raise InstanceNotFoundError(
            f"run {row.run_id} of instance '{row.key.id}' has no generation {generation}, or no more"
        )
    return History(Generation(row.key, row.run_id, generation, row.name), rows, sealer=sealer)


async def _read_rows(provider: Provider, row: InstanceRow) -> list[RecordRow]:
    rows: list[RecordRow] = []
    while len(rows) < row.records:
        part = await provider.read_history(row.run_id, row.generation, len(rows))
        if not part:
            break
        rows.extend(part[: row.records - len(rows)])
    return rows
