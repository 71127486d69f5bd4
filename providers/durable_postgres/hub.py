"""An open hub: its facts, the calls of its schema's functions, and who hears what they have changed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import asyncpg

from durable.errors import StoreError
from durable.listeners import Changes, Listener, ListenersOfProcess
from durable.news import bits
from durable.ports import Ports
from durable.provider import InstanceKey, Status, Step, StoredMessage, Wakeup
from durable_postgres.connections import Server
from durable_postgres.failures import UNSTORABLE
from durable_postgres.notifications import Ear, Notifier, channel_of
from durable_postgres.schema import HubRow, schema_of
from durable_postgres.sending import Outcome

STATUSES_MAX = 100_000
"""So many instances are remembered with the status that this object has written last."""

LateValues: TypeAlias = tuple[Callable[[], Sequence[Any]], int]

_listeners = ListenersOfProcess()


class OpenHub:
    """Everything that exists between `open` and `close`. Used by one event loop."""

    def __init__(
        self,
        server: Server,
        row: HubRow,
        ports: Ports,
        clock: Callable[[], int] | None,
        *,
        may_listen: bool,
        may_notify: bool,
    ) -> None:
        self.server = server
        self.row = row
        self.ports = ports
        self.partitions = row.partitions
        self.process = os.getpid()
        self.schema = schema_of(row.name)
        self.takes = 0
        """How often partitions were taken through this object: what was stored before may have other owners since."""
        self.committing = asyncio.Lock()
        """Commits are numbered: they go to the server one by one, in the order in which they were asked for."""
        self.owned: dict[str, frozenset[int]] = {}
        """The partitions of each lease of this object, as far as is known."""
        self._clock = clock
        self._statements: dict[tuple[str, int], str] = {}
        self._place = (row.store_id, row.name)
        self._own_listeners: list[Listener] = []
        self._statuses: dict[InstanceKey, Status] = {}
        self._may_listen = may_listen
        self._all_bits = (1 << row.partitions) - 1
        channel = channel_of(row.store_id)
        self._notifier = Notifier(server, channel) if may_notify else None
        self._channel = channel
        self._ear: Ear | None = None

    def at(self) -> int | None:
        """Return the time that a test has set; None: the server's own counts."""
        return None if self._clock is None else self._clock()

    # ---- calls

    async def call(self, function: str, *values: Any, late: LateValues | None = None) -> Sequence[asyncpg.Record]:
        """Call a function of the schema; return its rows. Raises the contract's errors.

        `late`: further values, which are asked for when a connection is there, and their number.
        """
        ask, more = late or (None, 0)
        try:
            return await self.server.call(self._statement(function, len(values) + more), *values, late=ask)
        except UNSTORABLE as error:
            raise StoreError(
                f"PostgreSQL at {self.server.address.name} cannot take what it was given: {error}"
            ) from error

    async def write(self, function: str, *values: Any) -> asyncpg.Record:
        """Call a function of the schema that answers with one row. Raises also UNSTORABLE, for who can do without a value."""
        (record,) = await self.server.call(self._statement(function, len(values)), *values)
        return record

    async def read(self, statement: str, values: Sequence[Any]) -> Sequence[asyncpg.Record]:
        """Read what may be much."""
        try:
            return await self.server.read(statement, *values)
        except UNSTORABLE as error:
            raise StoreError(
                f"PostgreSQL at {self.server.address.name} cannot take what it was given: {error}"
            ) from error

    def _statement(self, function: str, count: int) -> str:
        statement = self._statements.get((function, count))
        if statement is None:
            places = ", ".join(f"${place}" for place in range(1, count + 1))
            statement = self._statements[function, count] = f"SELECT * FROM {self.schema}.{function}({places})"
        return statement

    # ---- what has changed

    def doubts(self) -> tuple[int, int]:
        """Return what differs after a call in whose answer there is reason to doubt what it says of now."""
        return self.server.doubts, self.takes

    def is_change(self, step: Step) -> bool:
        """Tell whether a step changes what clients see of its instance, as far as is known here."""
        if step.changes or step.replaced_by is not None:
            return True
        return self._statuses.get(step.key) is not step.progress.status

    def wrote(self, steps: Sequence[Step]) -> None:
        """Remember what steps have written."""
        if len(self._statuses) > STATUSES_MAX:
            self._statuses.clear()
        for step in steps:
            if step.progress.status.is_finished or step.replaced_by is not None or step.removes_if_idle:
                self._statuses.pop(step.key, None)
            else:
                self._statuses[step.key] = step.progress.status

    @property
    def is_heard(self) -> bool:
        """True while somebody in this process listens."""
        return bool(_listeners.at(self._place))

    def tell_outcome(self, outcome: Outcome, *, is_doubtful: bool) -> None:
        """Let everybody know what became of messages."""
        is_lossy = is_doubtful or outcome.has_others
        changes = Changes(anything=is_lossy)
        if not is_doubtful:
            changes.messages, changes.rows = outcome.stored, outcome.begun
        self.tell(changes, is_change=outcome.has_replaced, is_lossy=is_lossy, stored=outcome.stored)

    def tell(
        self,
        changes: Changes,
        *,
        ended: Iterable[str] = (),
        changed: Iterable[str] = (),
        is_change: bool = False,
        is_lossy: bool = False,
        stored: Sequence[StoredMessage] = (),
    ) -> None:
        """Tell those of this process what has changed, and other processes that something has.

        `ended`, `changed`: runs whose rows have. `is_change`: rows have changed for whom waits for them, or memos, and which is
        not known. `is_lossy`: messages may have been stored that are not among the changes. `stored`: those of which is known.
        """
        if changes:
            wakeup = changes.told()
            for listener in _listeners.at(self._place):
                if is_lossy:
                    listener.lose()
                listener.tell(wakeup)
        if self._notifier is None:
            return
        news = self._notifier.news
        news.activities = news.activities or changes.activities
        news.leases = news.leases or changes.leases
        news.states = news.states or is_change or is_lossy
        news.ended.update(ended)
        news.changed.update(changed)
        if is_lossy:
            news.partitions |= self._all_bits
        elif stored:
            news.partitions |= bits({message.partition for message in stored}) & ~self._owned_bits()
        self._notifier.notify()

    def _owned_bits(self) -> int:
        return bits(partition for owned in self.owned.values() for partition in owned)

    def listen(self, callback: Callable[[Wakeup], None]) -> Callable[[], None]:
        """See `durable.provider.Provider.listen`."""
        listener = Listener(asyncio.get_running_loop(), callback)
        self._own_listeners.append(listener)
        _listeners.add(self._place, listener)
        if self._ear is None and self._may_listen:
            self._ear = Ear(self.server.address, self._channel, self._owned_bits, self._hear)

        def end() -> None:
            _listeners.remove(self._place, listener)
            if listener in self._own_listeners:
                self._own_listeners.remove(listener)

        return end

    def _hear(self, wakeup: Wakeup) -> None:
        for listener in self._own_listeners:
            listener.tell(wakeup)

    async def close(self) -> None:
        """End all that runs, and close the connections."""
        for listener in self._own_listeners:
            _listeners.remove(self._place, listener)
        if self._notifier is not None:
            await self._notifier.close()
        if self._ear is not None:
            await self._ear.close()
        await self.server.close()
