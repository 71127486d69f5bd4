"""What has come goes to its instance: wake-ups of the store, and messages that were heard or read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from durable.errors import HistoryDamagedError
from durable.events import InstanceKey
from durable.messages import decode_arrivals, dropped_memo
from durable.provider import Priority, StoredMessage, Wakeup
from durable.worker.backlog import Backlog
from durable.worker.claims import Claims
from durable.worker.clock import StoreClock
from durable.worker.committing import GroupCommits
from durable.worker.leasing import LeaseKeeper
from durable.worker.live import LiveInstance, Pending
from durable.worker.receiving import Receiver
from durable.worker.steps import Prepared

logger = logging.getLogger("durable.worker")


class Arrivals:
    """Takes in for one owner. `live_at(key)` returns an instance, a new one if there is none; `make_ready` sees to its turn.

    `give_back(live)`: gives a start that is on its way back to its client.
    """

    def __init__(
        self,
        keeper: LeaseKeeper,
        receiver: Receiver,
        backlog: Backlog,
        claims: Claims,
        clock: StoreClock,
        commits: GroupCommits,
        lives: Mapping[InstanceKey, LiveInstance],
        *,
        live_at: Callable[[InstanceKey], LiveInstance],
        make_ready: Callable[[LiveInstance], None],
        give_back: Callable[[LiveInstance], None],
    ) -> None:
        self._keeper = keeper
        self._receiver = receiver
        self._backlog = backlog
        self._claims = claims
        self._clock = clock
        self._commits = commits
        self._lives = lives
        self._live_at = live_at
        self._make_ready = make_ready
        self._give_back = give_back
        self._heard = 0  # the number of the last wake-up

    def hear(self, wakeup: Wakeup) -> None:
        """Take a wake-up of the store.

        After one that was lost its messages must not overtake those of the lost one; one that comes again brings nothing new.
        """
        if wakeup.number != self._heard + 1:
            self._backlog.fall_behind(self._keeper.owned)
            self._receiver.wake()
        if wakeup.number > self._heard:
            self._heard = wakeup.number
            for message in wakeup.messages:
                if message.partition in self._keeper.owned:
                    self.accept(message, is_fresh=True)
        if wakeup.leases:
            self._keeper.wake()
        if wakeup.anything or wakeup.inbox:
            self._receiver.wake()
        if wakeup.activities or wakeup.anything:
            self._claims.offered()

    def accept(self, message: StoredMessage, *, is_fresh: bool = False, was_heard: bool = False) -> None:
        """Queue a message on its instance, once. `is_fresh`: it was stored just now, and not read; `was_heard`: a while ago."""
        if self._receiver.knows(message) or message.partition in self._keeper.leaving:
            return
        if is_fresh and self._receiver.leaves_in_store(message):
            if message.start is not None and message.target in self._lives:
                self._lives[message.target].is_row_stale = True
            return
        self._receiver.held.add(message.sequence)
        if self._receiver.is_for_others(message):
            return
        live = self._live_at(message.target)
        if live.direct is not None and not live.is_busy:  # somebody else had the id first
            self._give_back(live)
            live = self._live_at(message.target)
        is_unread = live.row is None or live.is_row_stale or live.is_loading
        live.has_heard = live.has_heard or ((is_fresh or was_heard) and is_unread)
        try:
            generation, events = decode_arrivals(message.data)
        except HistoryDamagedError as error:
            logger.error("a message to '%s' is damaged and was dropped: %s", message.target.id, error)
            self._discard(live, message, str(error))
            return
        start, run_id = message.start, message.run_id
        is_control = message.priority is Priority.CONTROL
        if start is not None and not is_control:
            run_id = start.run_id
            if live.row is None and is_fresh and live.is_idle:  # just created: nothing can have changed it since
                live.row = start
                live.is_recovered, live.has_heard = True, False
            elif live.row is None or (live.row.run_id, live.row.generation) != (run_id, start.generation):
                live.is_row_stale = True  # a former run, or generation, has ended, as far as the store knows
        queue = live.control if is_control else live.normal
        last = len(events) - 1
        for index, event in enumerate(events):
            queue.append(Pending(event, message, run_id, generation, index == last))
        if not events:
            self._discard(live, message, "it holds nothing that this version knows")
        live.skips_pause = live.skips_pause or is_control
        self._make_ready(live)

    def _discard(self, live: LiveInstance, message: StoredMessage, reason: str) -> None:
        """Consume a message that nobody can read, and say so."""
        run_id = message.run_id or (live.row.run_id if live.row else "unknown")
        memo = dropped_memo(run_id, "message", str(message.sequence), reason, self._clock.now())
        prepared = Prepared(live, consumed=[message.sequence])
        prepared.add_memos([memo])
        self._commits.add(prepared)
