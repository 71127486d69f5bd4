"""Instances that are parked: stalled ones until their next try, left ones, and runs for later until they are due.

The store keeps back what comes for them, but steering. Few of their messages are in memory; the others lie in the store, and
come in order when the pause is over: what is heard goes that way too.

Invariant: nothing is taken of a run for later before its start, whatever anybody's clock says.
"""

from __future__ import annotations

from collections.abc import Callable

from durable.events import InstanceKey
from durable.provider import InstanceRow
from durable.timers import DUE_MAX
from durable.worker.backlog import Backlog
from durable.worker.clock import StoreClock
from durable.worker.live import LiveInstance
from durable.worker.steps import blind_arrival, ending, is_left, is_of_unknown_code
from durable.worker.succession import is_waiting_for_its_start
from durable.worker.timers import DueTimes

PARKED_KEPT_MAX = 8
"""Messages of a stalled instance that are kept in memory; the others are received when its pause is over. Not none: what made
it stall must be met again at its next try, or it would seem to have recovered."""


class Parking:
    """Knows what is parked, for one owner. `held`: sequences of the messages in memory; `find` finds an instance there."""

    def __init__(
        self,
        clock: StoreClock,
        backlog: Backlog,
        due_times: DueTimes,
        *,
        find: Callable[[InstanceKey], LiveInstance | None],
    ) -> None:
        self._clock = clock
        self._backlog = backlog
        self._due_times = due_times
        self._find = find
        self.held: set[int] = set()
        self._awaiting: list[LiveInstance] = []  # those that await the next read

    def is_parked(self, live: LiveInstance) -> bool:
        """Tell whether an instance runs no turn now; only steering comes before its time, and a new owner."""
        row = live.row
        if row is None or not row.parked_until or live.skips_pause:
            return False
        # Of several words of steering each turn takes one: the next one waits for no pause either.
        return row.parked_until > self._clock.now() and blind_arrival(live, row) is None

    def kept_back_until(self, key: InstanceKey) -> int:
        """Return until when the store keeps back what comes for an instance, if that is known: 0 is no pause.

        The store goes by it also where the next try does not wait for the pause, and until the turn that ends it is durable.
        """
        live = self._find(key)
        return live.row.parked_until if live is not None and live.row is not None else 0

    def rest(self, live: LiveInstance) -> None:
        """Leave an instance that is parked alone until its time; do nothing for one that is not."""
        row = live.row
        if row is None or not self.is_parked(live):
            return
        kept_max = _kept_max(row)
        if is_waiting_for_its_start(row) or len(live.normal) > kept_max:
            self.release(live, kept_max)
        if row.parked_until != DUE_MAX:  # one that was suspended meanwhile waits for its resume
            self._due_times.push(row.parked_until, live.key, is_stored=False)

    def release(self, live: LiveInstance, kept_max: int = 0) -> None:
        """Leave messages to the store again; they are received in order when the instance is parked no more."""
        self.held.difference_update(live.release(kept_max))
        live.looked_for = None  # a start that was found may be gone again
        self._backlog.let_go(live.key)

    def is_over(self, live: LiveInstance) -> None:
        """A pause is over, durably: nothing goes ahead of what the store has let go, nor a turn that awaits that."""
        self._backlog.fall_behind([live.key])
        if live.awaits_read:
            self._awaiting.append(live)

    def was_read(self, *, is_full: bool) -> list[LiveInstance]:
        """Return those that have waited for a read; also if memory `is_full` of messages, and takes no more.

        Not those, then, that wait for their start: nothing may be taken before it.
        """
        ready = [
            live
            for live in self._awaiting
            if not self._backlog.is_behind(live.key) or (is_full and not _waits_for_its_start(live))
        ]
        self._awaiting = [live for live in self._awaiting if live not in ready]
        for live in ready:
            live.awaits_read = False
        return ready

    def loaded(self, live: LiveInstance, *, is_first: bool) -> None:
        """Take in that an instance's row was read; `is_first`: nothing of it was in memory before."""
        if live.row is not None and live.row.parked_until and (is_first or live.has_heard):
            self._backlog.fall_behind([live.key])  # older messages may wait in the store
            if live.has_heard:
                self.release(live)
                live.wants_turn = True  # after which the store keeps nothing back
        live.has_heard = False
        self.let_steering_pass(live)

    def let_steering_pass(self, live: LiveInstance) -> None:
        """Steering that came before a run took another's place does not wait for that run to be due."""
        row = live.row
        if row is not None and is_waiting_for_its_start(row):
            live.skips_pause = live.skips_pause or any(not item.starts(row.run_id) for item in live.control)


def _waits_for_its_start(live: LiveInstance) -> bool:
    row = live.row
    return row is not None and not row.records and live.looked_for is not None and ending(live, row) is None


def _kept_max(row: InstanceRow) -> int:
    # Code that is not there is not there without its messages too: there may be very many such instances.
    is_for_nothing = is_waiting_for_its_start(row) or is_left(row) or is_of_unknown_code(row)
    return 0 if is_for_nothing else PARKED_KEPT_MAX
