"""Group commit: what turns have prepared is collected here and written, one commit at a time.

While one commit is on its way the next one fills. A commit whose answer is lost is asked for again under its number, for as
long as the lease is surely ours.

Invariant: a batch is written under the lease that it was prepared under, or not at all.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Container, Sequence

from durable.errors import LeaseLostError, StoreError, StoreUnavailableError
from durable.provider import Batch, Committed, Lease, Memo, Message, Provider
from durable.worker.clock import StoreClock
from durable.worker.leasing import LeaseKeeper
from durable.worker.steps import Prepared
from durable.worker.watching import UNWATCHED, Commit, Watchers, Written

logger = logging.getLogger("durable.worker")

STEPS_MAX = 1000
BYTES_MAX = 16 * 1024 * 1024
"""A group commit is closed at this size; the rest goes into the next one."""

HALVED_MIN = 32
"""A round of fewer turns is not worth a commit more."""

STOPPED = "the worker has stopped"

PAUSE_S = 1.0
"""The rest after a store has failed."""


class GroupCommits:
    """Writes for one owner. Called in the loop: `on_written(prepared, batch, committed)`, `on_refused(prepared, unknown)`.

    `unknown` is the error after which nobody can say that the batch was not written; None where it was not.
    """

    def __init__(
        self,
        provider: Provider,
        keeper: LeaseKeeper,
        clock: StoreClock,
        *,
        on_written: Callable[[Sequence[Prepared], Batch, Committed], None],
        on_refused: Callable[[Sequence[Prepared], StoreError | None], None],
        is_alone: Callable[[], bool],
        watchers: Watchers = UNWATCHED,
    ) -> None:
        self._watchers = watchers
        self._provider = provider
        self._keeper = keeper
        self._clock = clock
        self._on_written = on_written
        self._on_refused = on_refused
        self._is_alone = is_alone
        self._waiting: list[Prepared] = []
        self._bytes = 0
        self._memos: dict[str, Memo] = {}
        self._notes: dict[str, Memo] = {}  # likewise, but not lost with a commit: they hold whoever owns the instance
        self._lease: Lease | None = None
        self._refused: Lease | None = None  # the one under which the last refused batch was written
        self._number = 0  # of the last batch under that lease
        self._is_writing = False
        self._being_written: Sequence[Prepared] = ()
        self.last_us: int | None = None  # the hub's time of the last commit
        self._wake = asyncio.Event()

    def add(self, prepared: Prepared) -> None:
        """Write this with the next commit."""
        self._waiting.append(prepared)
        self._bytes += prepared.record_bytes
        if prepared.messages:
            self._bytes += sum(len(message.data) for message in prepared.messages)
        self._wake.set()

    def add_memo(self, memo: Memo) -> None:
        """Write a memo with the next commit; of several under one key the last."""
        self._memos[memo.key] = memo
        self._wake.set()

    def add_note(self, note: Memo) -> None:
        """Write a note about something that was dropped with the next commit that succeeds, under whatever lease."""
        self._notes[note.key] = note
        self._wake.set()

    @property
    def count(self) -> int:
        """How many turns wait to be written, or are being written."""
        return len(self._waiting) + len(self._being_written)

    def involves(self, partitions: Container[int]) -> bool:
        """Tell whether something of these partitions is not yet durable: also what only consumes messages."""
        return any(item.live.partition in partitions for item in (*self._waiting, *self._being_written))

    @property
    def is_full(self) -> bool:
        """True when the next commit takes nothing more."""
        return len(self._waiting) >= STEPS_MAX or self._bytes >= BYTES_MAX

    def turns_at_once(self, ready: int) -> int:
        """Return after how many turns, of so many that are ready, to let a commit begin.

        Half of them, where nothing is on its way and another process works on the commit while the rest run: from then
        on the halves take turns.
        """
        if self._provider.is_remote and ready >= HALVED_MIN and self.is_settled:
            return ready // 2
        return STEPS_MAX

    @property
    def is_settled(self) -> bool:
        """True when nothing waits to be written."""
        return not (self._waiting or self._memos or self._has_notes or self._is_writing)

    @property
    def _has_notes(self) -> bool:
        """True when there are notes, and a lease to write them under that was not refused just now."""
        return bool(self._notes) and self._keeper.lease not in (None, self._refused)

    def wake(self) -> None:
        """Go on: there is a lease again."""
        self._wake.set()

    def forget(self) -> None:
        """Drop what is not yet on its way: the lease is lost."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        self._memos.clear()
        self._on_refused(waiting, None)

    async def run(self) -> None:
        """Commit until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting or self._memos or self._has_notes:
                await self._commit()

    async def _commit(self) -> None:
        prepared, self._waiting, self._bytes = self._waiting, [], 0
        memos, self._memos = list(self._memos.values()), {}
        lease = self._keeper.lease
        if lease is None:
            self._on_refused(prepared, None)
            return
        notes, self._notes = self._notes, {}
        memos += notes.values()
        if lease is not self._lease:
            self._lease, self._number = lease, 0
        self._number += 1
        batch = _batch_of(self._number, prepared, memos, alone=self._is_alone())
        self._is_writing, self._being_written = True, prepared
        try:
            committed, asked_at = await self._written(lease, batch)
        except LeaseLostError as error:
            logger.warning("a commit was refused: %s", error)
            self._notes, self._refused = notes | self._notes, lease
            self._refuse(prepared, error.__cause__ if isinstance(error.__cause__, StoreUnavailableError) else None)
            self._keeper.lost(lease)
            return
        except StoreError as error:
            logger.error("the store failed: %s", error)
            self._keeper.trouble = str(error)
            self._notes, self._refused = notes | self._notes, lease
            self._refuse(prepared, error)
            self._keeper.lost(lease)
            await asyncio.sleep(PAUSE_S)
            return
        except BaseException:  # the worker stops, or cannot go on: nobody asks for the outcome any more
            for item in prepared:
                if item.live.direct is not None:
                    item.live.direct.fail(STOPPED)
            raise
        finally:
            self._is_writing, self._being_written = False, ()
        self.last_us = committed.now
        if not self._clock.agree(committed.now, asked_at):
            self._keeper.wake()
        for index, why in committed.refused_memos.items():
            logger.error("the note '%.200s' is lost, for the store cannot hold it: %s", batch.memos[index].key, why)
        if self._watchers:
            self._watchers.committed(_told(prepared, batch, committed, self._clock.monotonic() - asked_at))
        self._on_written(prepared, batch, committed)

    def _refuse(self, prepared: Sequence[Prepared], unknown: StoreError | None) -> None:
        if self._watchers:
            self._watchers.refused(sum(item.step is not None for item in prepared))
        self._on_refused(prepared, unknown)

    async def _written(self, lease: Lease, batch: Batch) -> tuple[Committed, float]:
        """Commit a batch; while its outcome is unknown, ask again under the same number. Returns also since when.

        The cause of a LeaseLostError after which it stays unknown is a StoreUnavailableError.
        """
        pause, asked_first_at = 0.05, self._clock.monotonic()
        doubt: StoreUnavailableError | None = None
        while True:
            asked_at = self._clock.monotonic()
            try:
                committed = await self._provider.commit(lease, batch)
            except LeaseLostError as error:
                raise error from doubt
            except StoreUnavailableError as error:
                doubt = error
                if not self._keeper.is_valid or self._keeper.lease is not lease:
                    raise LeaseLostError(f"the store did not answer for the length of a lease: {error}") from error
                logger.warning("a commit has no answer yet (%s); it is asked for again", error)
                self._keeper.trouble = str(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
                continue
            if self._keeper.lease is lease:
                self._keeper.renewed(asked_at)
            return committed, asked_first_at


def _told(prepared: Sequence[Prepared], batch: Batch, committed: Committed, seconds: float) -> Commit:
    """Return what those who watch are told of a commit."""
    refused = {id(batch.steps[index]) for index in committed.refused}
    steps = [
        Written(item.live.row, item.row, item.live.execution, item.turn, item.notes)
        for item in prepared
        if item.step is not None and item.row is not None and id(item.step) not in refused
    ]
    size = sum(item.record_bytes for item in prepared) + sum(len(message.data) for message in batch.messages)
    return Commit(steps, size, seconds, committed.now)


def _batch_of(number: int, prepared: Sequence[Prepared], memos: list[Memo], *, alone: bool) -> Batch:
    """Join what was prepared. Each step names what it sends, so that a step which the store refuses takes it along."""
    messages: list[Message] = []
    consumed: list[int] = []
    for item in prepared:
        if item.step is None:
            consumed += item.consumed
        if not (item.messages or item.memos):
            continue
        sent, noted = len(messages), len(memos)
        messages += item.messages
        memos += item.memos
        if item.step is not None:
            item.step = dataclasses.replace(
                item.step, messages=range(sent, len(messages)), memos=range(noted, len(memos))
            )
    return Batch(
        number=number,
        steps=[item.step for item in prepared if item.step is not None],
        messages=messages,
        memos=memos,
        consumed=consumed,
        alone=alone,
        rows=[item.row for item in prepared if item.step is not None and item.row is not None],
    )
