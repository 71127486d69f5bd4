"""Starts that a client of this very process makes: their runs begin with their first step.

Theory of operation. A start is a message like any other: a client stores it, the owner hears of it, takes a turn and commits
that. Where the client is this worker's own the turn can come first, for a turn has no effect: then one commit creates the run
as its first turn leaves it, and the start returns when that is durable. Whatever stands in the way, at whatever point, gives
the start back to the client, which stores it as a message. So what is rare, or goes wrong, has one path.

Invariant: before its first step is durable nothing of such a run is in the store, and none of its effects is let out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from durable.events import HistoryEvent, InstanceKey, OrchestrationStarted
from durable.messages import decode_arrivals
from durable.payloads import is_sealed
from durable.provider import Expects, Message
from durable.worker.backlog import Backlog
from durable.worker.leasing import LeaseKeeper
from durable.worker.live import DirectStart, LiveInstance, Pending
from durable.worker.receiving import Receiver
from durable.worker.steps import Prepared

WAITING_MAX = 1000
"""Turns that wait, or are being written, at which starts are stored as messages: those can wait without a caller."""


BUSY_AT = 300
"""Turns that wait, or are being written, at which an instance that may begin anywhere is left to chance, so that other workers
have some of them: a few hundredths of a second. Elsewhere it costs a message, and twice the time."""


class DirectStarts:
    """The owner's side. `make_ready` takes a new instance; `count_waiting` tells how many turns wait or are being written.

    `abandon(live)`: forgets an instance, and settles its start unless that is being written; `wake(key)`: lets one that is in
    the store have a turn.
    """

    def __init__(
        self,
        keeper: LeaseKeeper,
        receiver: Receiver,
        backlog: Backlog,
        lives: Mapping[InstanceKey, LiveInstance],
        *,
        live_at: Callable[[InstanceKey], LiveInstance],
        make_ready: Callable[[LiveInstance], None],
        abandon: Callable[[LiveInstance], None],
        wake: Callable[[InstanceKey], None],
        count_waiting: Callable[[], int],
    ) -> None:
        self._keeper = keeper
        self._receiver = receiver
        self._backlog = backlog
        self._lives = lives
        self._live_at = live_at
        self._make_ready = make_ready
        self._abandon = abandon
        self._wake = wake
        self._count_waiting = count_waiting
        self._loop = asyncio.get_running_loop()
        self._has_ended = False
        self._met: dict[str, BaseException] = {}  # by run id, of those that were given back for it

    def begin(self, message: Message, events: Sequence[HistoryEvent] | None = None) -> asyncio.Future[bool] | None:
        """Begin the run that a message brings; None where it is to be stored as any other. `events`: what it holds, if known.

        The future tells whether it has begun: if not, nothing of it was stored, and the message is to be. Raises
        StoreUnavailableError where nobody knows.
        """
        row = message.start
        if row is None or not self._takes(message):
            return None
        if events is None:
            _, events = decode_arrivals(message.data)
        if not isinstance(events[0], OrchestrationStarted):  # it begins with what another run has done
            return None
        live = self._live_at(row.key)
        live.row, live.is_recovered = row, True
        # As those of one message they are never parted: whoever has started it is told that it holds all of them.
        live.normal = [Pending(event, None, row.run_id, is_last=False) for event in events]
        live.normal[-1].is_last = True
        live.direct = DirectStart(self._loop.create_future())
        self._make_ready(live)
        return live.direct.future

    def near(self) -> Collection[int]:
        """See `durable.client.connection.Direct.near`."""
        is_busy = self._has_ended or self._receiver.is_draining or self._count_waiting() >= BUSY_AT
        return () if is_busy else self._keeper.owned

    def is_running(self, key: InstanceKey, run_id: str) -> bool:
        """See `durable.client.connection.Direct.is_running`."""
        live = self._lives.get(key)
        if live is None or live.row is None or live.is_row_stale or live.row.run_id != run_id:
            return False
        return not live.row.status.is_finished and self._keeper.is_valid and live.partition in self._keeper.owned

    def end(self, why: str) -> None:
        """Begin no run any more; whether those on their way will have begun nobody waits to see."""
        self._has_ended = True
        for live in self._lives.values():
            if live.direct is not None:
                live.direct.fail(why)

    def give_back(self, live: LiveInstance) -> None:
        """Give a start back to its client, and the id, in memory, to whoever has it.

        What its turn has met is noted, so that it is not taken again for nothing once the start is stored.
        """
        assert live.direct is not None
        if live.direct.met is not None and live.row is not None:
            self._met[live.row.run_id] = live.direct.met
            if len(self._met) > WAITING_MAX:  # of clients that went away
                del self._met[next(iter(self._met))]
        if any(pending.message is not None for pending in live.waiting):
            self._backlog.let_go(live.key, steering=True)
        self._abandon(live)
        if live.direct.is_id_wanted:
            self._wake(live.key)

    def tell(self, live: LiveInstance, *, has_begun: bool) -> None:
        """Tell the client of its start, which was written, or refused.

        What has come for another run of that id meanwhile is read again.
        """
        assert live.direct is not None
        live.direct.settle(has_begun=has_begun)
        if has_begun:
            live.direct = None
        elif self._lives.get(live.key) is live:
            self._backlog.fall_behind([live.partition])
            self.give_back(live)
            self._receiver.wake()

    def met(self, live: LiveInstance) -> BaseException | None:
        """Return what the first turn of a run has met that was to begin here, once; None where it has begun elsewhere since."""
        if not self._met or live.row is None:
            return None
        met = self._met.pop(live.row.run_id, None)
        return None if live.row.records else met

    def is_stored(self, key: InstanceKey) -> bool:
        """Tell whether a turn of that instance can be noted in the store. Safe from any thread."""
        live = self._lives.get(key)
        return live is None or live.direct is None

    def on_its_way(self, key: InstanceKey) -> asyncio.Future[bool] | None:
        """Return the future of a start of this id that has not been told of: what is sent after it is stored after it."""
        live = self._lives.get(key)
        return None if live is None or live.direct is None else live.direct.future

    def _takes(self, message: Message) -> bool:
        """Tell whether a start can begin here, and now: a new id, due at once, and nothing to be read before it."""
        start, keeper, receiver = message.start, self._keeper, self._receiver
        if start is None or message.expects is not Expects.ABSENT or is_sealed(message.data):
            return False
        if start.scheduled_at > start.created_at or start.parked_until or message.visible_at:
            return False
        if message.partition not in keeper.owned or message.partition in keeper.leaving:
            return False
        if self._has_ended or receiver.is_draining or receiver.is_full or message.target in self._lives:
            return False
        return self._count_waiting() < WAITING_MAX


def is_first_step(prepared: Prepared | None) -> bool:
    """Tell whether a run can begin with what its first turn comes to; else the store is to have it first."""
    step = None if prepared is None else prepared.step
    if step is None or step.begins is None:
        return False
    return not (step.removes_if_idle or step.drop_generations or step.consumed or step.queue_drops)
