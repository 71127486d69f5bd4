"""Waiting for instances: wake, don't poll; but poll underneath.

Theory. A `Watch` is one waiter's view of one instance. Rows reach it in two ways: the store's listener brings rows that this
process has just committed, and one poll, shared by all watches of a client, loads the rest, many in one call. Every
wake-up may be lost, so that each watch is also looked at after its interval: short at first and after a change, then
growing to INTERVAL_MAX. While nothing is watched nothing runs.

    register ─► look at once (unless the run was started just now, or runs here) ─► wait ─► look after `interval`, …
                                                     listener ─► row ─┘

Invariant: rows of one run are seen in their order; a row older than one already seen is left out.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import heapq
import itertools
import logging
import math
from collections.abc import Callable, Collection, Iterator
from typing import Final

from durable.errors import DurableError, InstanceNotFoundError, StoreUnavailableError
from durable.events import InstanceKey
from durable.provider import InstanceRow, Provider, Status, Wakeup

logger = logging.getLogger("durable.client")

INTERVAL_FIRST: Final = 0.02
INTERVAL_MAX: Final = 0.9
"""A little less than the poll bound, one second, in which a waiter learns what a lost wake-up would have told it: a look takes
its time, and many of them shall not meet what is due a whole second after they began."""

INTERVAL_GROWTH: Final = 1.6
EARLY_SHARE: Final = 0.25
"""When the poll runs it takes those along that would be due within this share of their interval, so that they meet."""

TARGETS_MAX: Final = 500
"""Rows in one load; each may carry megabytes of payload."""

POLL_SHARE_MAX: Final = 4
"""After a load rest this many times its length, so that polling takes a fifth of the time at most."""

TICK_S: Final = 0.001
"""A timer may come up a little early, but not by so much."""

ROWS_KEPT_MAX: Final = 256
"""Rows kept for a reader that is slower than its instance changes; older ones are left out."""

ENDED_KEPT_MAX: Final = 10_000
"""Runs remembered as just ended, for waiters that come a moment later."""


class Watch:
    """One waiter's view of one instance: of a run, or without `run_id` of whichever run is current."""

    __slots__ = (
        "_error",
        "_future",
        "_rows",
        "interval",
        "is_open",
        "key",
        "latest",
        "look_at",
        "queued_at",
        "run_id",
        "shows_all",
    )

    def __init__(self, key: InstanceKey, run_id: str | None, *, shows_all: bool) -> None:
        self.key = key
        self.run_id = run_id
        self.shows_all = shows_all
        self.interval = INTERVAL_FIRST
        self.look_at = 0.0  # when it is looked at next
        self.queued_at = math.inf  # when its one entry in the queue comes up: not later than `look_at`
        self.is_open = True
        self.latest: InstanceRow | None = None
        self._rows: collections.deque[InstanceRow] = collections.deque(maxlen=ROWS_KEPT_MAX)
        self._future: asyncio.Future[None] | None = None
        self._error: Exception | None = None

    @property
    def has_ended(self) -> bool:
        """True once the end was seen, or that the run was purged (which only an ended one can be)."""
        if self.latest is None:
            return isinstance(self._error, InstanceNotFoundError)
        return self.latest.status.is_finished or isinstance(self._error, InstanceNotFoundError)

    async def next(self, until: float | None = None) -> InstanceRow:
        """Return the next row: the first that is final, or with `shows_all` also each change before that.

        Raises TimeoutError at `until` (by the loop's clock), InstanceNotFoundError if there is no such instance (any
        more), DurableError if the client is closed meanwhile.
        """
        loop = asyncio.get_running_loop()
        while not self._rows:
            if self._error is not None:
                raise self._error
            # A timer that has come a little early would be set again at once.
            if until is not None and loop.time() >= until - TICK_S:
                raise TimeoutError
            self._future = loop.create_future()
            timer = None if until is None else loop.call_at(until, self._wake)
            try:
                await self._future
            finally:
                self._future = None
                if timer is not None:
                    timer.cancel()
        return self._rows.popleft()

    def offer(self, row: InstanceRow) -> bool:
        """Take a row in; return whether it brought something new."""
        if self.latest is not None and not _follows(row, self.latest):
            return False
        is_new = self.latest is None or _mark(row) != _mark(self.latest)
        self.latest = row
        if is_new and (self.shows_all or row.status.is_finished):
            self._rows.append(row)
            self._wake()
        return is_new

    def fail(self, error: Exception) -> None:
        """End the waiting with an error."""
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


def _follows(row: InstanceRow, latest: InstanceRow) -> bool:
    """Tell whether a row is not older than another; loads and wake-ups may overtake each other."""
    if row.run_id != latest.run_id:
        return row.created_at >= latest.created_at
    before, after = (latest.generation, latest.records), (row.generation, row.records)
    return after > before or (after == before and (row.status.is_finished or not latest.status.is_finished))


def _mark(row: InstanceRow) -> tuple[object, ...]:
    """Return what differs where anything does; payloads may be megabytes."""
    return row.run_id, row.status, row.generation, row.records, row.updated_at


class Waiters:
    """All watches of one client, what wakes them, and the poll underneath.

    `is_here(key, run_id)`: tells whether a run is known to be unfinished, and what becomes of it will be heard.
    """

    def __init__(self, provider: Provider, is_here: Callable[[InstanceKey, str], bool]) -> None:
        self._provider = provider
        self._is_here = is_here
        self._loop = asyncio.get_running_loop()
        # What the client was opened in: the poll serves all who wait, and sees what none of them has set.
        self._context = contextvars.copy_context()
        self._by_run: collections.defaultdict[str, list[Watch]] = collections.defaultdict(list)
        self._by_key: collections.defaultdict[InstanceKey, list[Watch]] = collections.defaultdict(list)
        self._queue: list[tuple[float, int, Watch]] = []
        self._counter = itertools.count()
        self._ended: dict[str, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._poll: asyncio.Task[None] | None = None
        self._rest_until = 0.0
        self._must_look_at_all = False
        self._heard_at = -math.inf  # when the listener last brought a row of a run that was awaited
        self._is_closed = False
        self._stop_listening: Callable[[], None] = provider.listen(self._hear)

    async def close(self) -> None:
        """End all waiting with an error, and everything that runs for it."""
        self._is_closed = True
        self._stop_listening()
        self._rest()
        for watch in self._watches():
            watch.fail(DurableError(f"the client was closed while '{watch.key.id}' was awaited"))
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.wait([self._poll])

    @contextlib.contextmanager
    def watch(
        self, key: InstanceKey, run_id: str | None, *, shows_all: bool = False, is_fresh: bool = False
    ) -> Iterator[Watch]:
        """Watch an instance for the length of the block.

        `is_fresh`: its start has only just returned, so that whatever has happened since was or will be heard of.
        """
        if self._is_closed:
            raise DurableError("this client is closed")
        watch = Watch(key, run_id, shows_all=shows_all)
        register = self._by_key[key] if run_id is None else self._by_run[run_id]
        register.append(watch)
        is_fresh = is_fresh and run_id not in self._ended
        is_near = self._loop.time() - self._heard_at < INTERVAL_MAX  # whoever runs instances is in this process
        if not (is_fresh and is_near) and run_id is not None and not shows_all and self._is_here(key, run_id):
            is_fresh = is_near = True
        if is_fresh and is_near:
            watch.interval = INTERVAL_MAX
        self._look_in(watch.interval if is_fresh else 0.0, watch)
        try:
            yield watch
        finally:
            watch.is_open = False
            register.remove(watch)
            if not register:
                self._forget(key, run_id)

    def _forget(self, key: InstanceKey, run_id: str | None) -> None:
        if run_id is None:
            del self._by_key[key]
        else:
            del self._by_run[run_id]
        if not self._by_run and not self._by_key:
            self._rest()

    def _rest(self) -> None:
        """Leave nothing running where nobody waits."""
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watches(self) -> list[Watch]:
        return [watch for found in (*self._by_run.values(), *self._by_key.values()) for watch in found]

    # ---- what the store tells

    def _hear(self, wakeup: Wakeup) -> None:
        for row in wakeup.rows:
            is_finished = row.status.is_finished
            if is_finished:
                self._remember_ended(row.run_id)
            for watch in self._by_run.get(row.run_id, ()):
                self._offer(row, watch)
            for watch in self._by_key.get(row.key, ()):
                if is_finished:
                    self._look_in(0.0, watch)  # the end of a run that was replaced is not the end of the instance
                else:
                    self._offer(row, watch)
        if wakeup.ended or wakeup.changed:
            self._look_at(wakeup.ended, wakeup.changed)
        if (wakeup.anything or wakeup.states) and (self._by_run or self._by_key):
            self._must_look_at_all = True
            self._schedule(max(self._loop.time(), self._rest_until))

    def _look_at(self, ended: Collection[str], changed: Collection[str]) -> None:
        """Look at runs whose rows another process has written, which will tell of them again, as one in this process does."""
        now = self._loop.time()
        for run_id in ended:
            self._remember_ended(run_id)
        for run_id in (*ended, *changed):
            is_over = run_id in self._ended  # what it has changed before may be heard of later
            for watch in self._by_run.get(run_id, ()):
                self._heard_at, watch.interval = now, INTERVAL_MAX
                if watch.shows_all or is_over:
                    self._look_in(0.0, watch)
                else:
                    watch.look_at = now + INTERVAL_MAX
        at = max(now, self._rest_until)
        for watches in self._by_key.values():  # which runs these are is not known here
            for watch in watches:
                self._look_in(min(at, max(watch.look_at, now)) - now, watch)

    def has_neighbour(self) -> None:
        """Note that whoever runs instances is in this process: what becomes of them will be heard."""
        self._heard_at = self._loop.time()

    def _offer(self, row: InstanceRow, watch: Watch) -> None:
        watch.offer(row)
        if row.status is not Status.PENDING:
            watch.interval = INTERVAL_MAX  # its owner is in this process, so that more will be heard of it
            self.has_neighbour()
            watch.look_at = self._heard_at + INTERVAL_MAX

    def _remember_ended(self, run_id: str) -> None:
        self._ended[run_id] = None
        if len(self._ended) > ENDED_KEPT_MAX:
            del self._ended[next(iter(self._ended))]

    # ---- the poll

    def _look_in(self, seconds: float, watch: Watch) -> None:
        """Look at a watch so much later."""
        watch.look_at = self._loop.time() + seconds
        self._enqueue(watch)

    def _enqueue(self, watch: Watch) -> None:
        """Make sure that a watch's entry comes up in time. One that comes up early is put back; another is void."""
        if watch.look_at < watch.queued_at:
            watch.queued_at = watch.look_at
            heapq.heappush(self._queue, (watch.look_at, next(self._counter), watch))
            self._schedule(watch.look_at)

    def _schedule(self, at: float) -> None:
        """Make sure that the poll runs at `at`, or before."""
        if self._is_closed or self._poll is not None:
            return  # when it ends it schedules the next one
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._start_poll, context=self._context)

    def _start_poll(self) -> None:
        self._timer = None
        self._poll = self._loop.create_task(self._look())

    async def _look(self) -> None:
        """Look at all watches that are due, and say when each is next."""
        seen: list[Watch] = []
        began = self._loop.time()
        try:
            while due := self._take_due():
                await self._load(due)
                seen += due
        finally:
            self._poll = None
            ended = self._loop.time()
            rest = min(POLL_SHARE_MAX * (ended - began), INTERVAL_MAX)
            if not self._must_look_at_all or self._rest_until < ended + TICK_S:
                self._rest_until = ended + rest  # else a look at all waits, and is not put off by one that could not
            for watch in seen:
                if watch.is_open and not watch.has_ended:
                    self._look_in(max(watch.interval, rest), watch)
                    watch.interval = min(watch.interval * INTERVAL_GROWTH, INTERVAL_MAX)
            if self._must_look_at_all:
                self._schedule(self._rest_until)
            if self._queue:
                self._schedule(self._queue[0][0])

    def _take_due(self) -> list[Watch]:
        """Take the watches whose time has come; after a change by somebody else, as soon as it is not too often, all."""
        now = self._loop.time()
        if self._must_look_at_all and now >= self._rest_until:
            self._must_look_at_all = False
            for watch in self._watches():
                if watch.look_at > now and not watch.has_ended:
                    self._look_in(0.0, watch)
        due: list[Watch] = []
        while self._queue and len(due) < TARGETS_MAX:
            at, _, watch = self._queue[0]
            bound = now + EARLY_SHARE * watch.interval
            if at > bound:
                break
            heapq.heappop(self._queue)
            if at != watch.queued_at or not watch.is_open or watch.has_ended:
                continue
            watch.queued_at = math.inf
            if watch.look_at > bound:
                self._enqueue(watch)
            else:
                due.append(watch)
        return due

    async def _load(self, due: list[Watch]) -> None:
        targets = list(dict.fromkeys((watch.key, watch.run_id) for watch in due))
        try:
            rows = dict(zip(targets, await self._provider.load(targets), strict=True))
        except StoreUnavailableError as error:
            logger.debug("the store does not answer, looking again later: %s", error)
            return
        except Exception as error:  # noqa: BLE001 (whatever it is, it is for those who wait)
            for watch in due:
                watch.fail(error)
            return
        for watch in due:
            is_heard_of = (
                watch.latest is None and watch.interval == INTERVAL_MAX
            )  # looked at for the first time, so late
            row = rows[watch.key, watch.run_id]
            if row is None:
                gone = "was purged" if watch.latest else "is not there"
                watch.fail(InstanceNotFoundError(f"instance '{watch.key.id}' {gone}"))
            elif watch.offer(row) and not is_heard_of:
                watch.interval = INTERVAL_FIRST
