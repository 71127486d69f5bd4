"""Activities that wait in the queue and that no live worker serves: said in the log and in their instance's state.

The rows of the queue are asked, not a memory of what was offered: whoever owns the partition says it, however often it went
to another worker, and also where the last worker that served an activity has gone while it waited.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

import msgpack

from durable.errors import HistoryDamagedError
from durable.messages import decode_activity, note_key
from durable.provider import ActivityRow, Memo, TaskAddress
from durable.worker.clock import StoreClock
from durable.worker.leasing import LeaseKeeper

logger = logging.getLogger("durable.worker")

UNSERVED_S = 30.0
"""How long an activity may wait without a worker that serves it before that is said; also how often it is looked after."""

KEPT_LOOKS = 4
"""A note is kept for so many looks without being renewed: that of a worker that is gone is not believed for long."""


class Unserved:
    """Looks after the queue rows of one owner's partitions."""

    def __init__(self, keeper: LeaseKeeper, clock: StoreClock, add_memo: Callable[[Memo], None]) -> None:
        self._keeper = keeper
        self._clock = clock
        self._add_memo = add_memo
        self._noted: set[TaskAddress] = set()
        self._looked_at = clock.monotonic()

    def served(self) -> Collection[tuple[str, str]] | None:
        """Return which queues and activities live workers serve, where it is time to ask for those that wait; else None."""
        if self._clock.monotonic() - self._looked_at < UNSERVED_S:
            return None
        return self._keeper.served()

    def found(self, rows: Sequence[ActivityRow]) -> None:
        """Take what waits without a worker that serves it; say so of what has waited for a while, and take it back after."""
        self._looked_at = self._clock.monotonic()
        until = self._clock.now() - int(UNSERVED_S * 1e6)
        waiting = {row.task: row for row in rows if row.task in self._noted or _requested_at(row) <= until}
        for task, row in waiting.items():
            text = f"no live worker serves activity '{row.name}' in queue '{row.queue}'"
            if task not in self._noted:
                instance_id = task.key.id
                logger.warning("instance '%s' waits: %s", instance_id, text, extra={"instance_id": instance_id})
            self._note(task, text)
        for task in self._noted - waiting.keys():
            self._note(task, "")
        self._noted = set(waiting)

    def forget(self) -> None:
        """The lease is lost."""
        self._noted.clear()

    def _note(self, task: TaskAddress, text: str) -> None:
        _, run_id, generation, task_id = task
        expires_at = self._clock.now() + int(KEPT_LOOKS * UNSERVED_S * 1e6)
        self._add_memo(Memo(note_key(run_id, generation, task_id), msgpack.packb(text), expires_at))


def _requested_at(row: ActivityRow) -> int:
    try:
        return decode_activity(row.data)[2]
    except HistoryDamagedError:  # it is reported by whoever claims it
        return 0
