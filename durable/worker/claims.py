"""The queue's side of activities: claiming attempts that any worker may run, and reporting their outcomes."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Sequence

from durable import events as ev
from durable.errors import (
    FailureDetails,
    HistoryDamagedError,
    LeaseLostError,
    LimitExceededError,
    StoreError,
    WorkerLostError,
    qualified_name,
)
from durable.events import HistoryEvent
from durable.messages import decode_activity, encode_arrivals
from durable.payloads import is_sealed
from durable.provider import ActivityRow, Beat, Lease, Message, Provider, Report, TaskAddress
from durable.worker.activities import ActivityRunner
from durable.worker.attempt import Attempt
from durable.worker.clock import StoreClock
from durable.worker.leasing import LeaseKeeper
from durable.worker.watching import UNWATCHED, Watchers

logger = logging.getLogger("durable.worker")

POLL_S = 1.0
CLAIM_MAX = 256
DELIVERIES_MAX = 5
DELIVERIES_SPAN_US = 60_000_000
"""An attempt that was delivered so often, over at least this span, without an outcome has failed."""

BEAT_S = 1.0


def worker_lost(request: ev.ActivityScheduled, deliveries: int) -> ev.ActivityFailed:
    """Return the outcome of an attempt that nobody lived to finish."""
    details = FailureDetails(
        qualified_name(WorkerLostError),
        f"attempt {request.attempt} of activity '{request.name}' was delivered {deliveries} times and no worker reported an "
        "outcome; does it kill its worker?",
        error_bases=("durable.errors.DurableError", "Exception", "BaseException"),
    )
    return ev.ActivityFailed(request.task_id, details)


def _too_large(request: ev.ActivityScheduled, size: int, limit: int) -> ev.ActivityFailed:
    """Return the outcome that stands for one which the store would refuse; another attempt would end the same way."""
    details = FailureDetails(
        qualified_name(LimitExceededError),
        f"the outcome of activity '{request.name}' has {size} bytes, over the store's limit of {limit} for one value; "
        "return a reference to where the data is",
        non_retryable=True,
        error_bases=("durable.errors.DurableError", "ValueError", "Exception", "BaseException"),
    )
    return ev.ActivityFailed(request.task_id, details)


class Claims:
    """Claims attempts for the runner's free slots, sends beats, and reports outcomes in groups."""

    def __init__(
        self,
        provider: Provider,
        keeper: LeaseKeeper,
        clock: StoreClock,
        runner: ActivityRunner,
        queues: Sequence[str],
        *,
        is_active: bool,
        on_late: Callable[[Attempt, HistoryEvent], None],
        watchers: Watchers = UNWATCHED,
    ) -> None:
        self._watchers = watchers
        self._provider = provider
        self._keeper = keeper
        self._clock = clock
        self._runner = runner
        self._queues = tuple(queues) if is_active else ()
        self._served = runner_names(runner) if is_active else set()
        self._on_late = on_late
        self._reports: list[tuple[Report, Attempt | None, HistoryEvent]] = []
        self._sending: list[tuple[Report, Attempt | None, HistoryEvent]] = []
        self._is_in_doubt = False  # the last reports may have been written, though the store gave no answer
        self._is_claim_in_doubt = False  # the last claim, likewise
        self._compared_at = clock.monotonic()  # when the store was told last what is held here
        self._beats: dict[Attempt, bytes | None] = {}
        self._wake = asyncio.Event()
        self._flush = asyncio.Event()
        self.is_draining = False
        self._flushing = False
        self._is_hungry = False  # there may be more to claim than there were free slots
        self.may_be_behind = True  # the queue may hold attempts that this worker could claim
        self._offers = 0
        self._beaten_at = clock.monotonic()

    def wake(self) -> None:
        """Look for work now."""
        self._wake.set()

    def offered(self) -> None:
        """Take note that attempts went to the queue, here or elsewhere, and look for them now."""
        self._offers += 1
        self.may_be_behind = True
        self._wake.set()

    def accepts(self, queue: str) -> bool:
        """Tell whether this worker serves a queue."""
        return queue in self._queues

    def slot_freed(self) -> None:
        """Look for work if the lack of a slot kept some waiting: an idle queue is not asked after each activity."""
        if self._is_hungry:
            self._wake.set()

    @property
    def is_settled(self) -> bool:
        """True when every outcome and every heartbeat is reported."""
        return not self._reports and not self._beats and not self._flushing

    @property
    def unreported(self) -> int:
        """How many outcomes and heartbeats are still to be reported."""
        return len(self._reports) + len(self._sending) + len(self._beats)

    def report(self, attempt: Attempt, outcome: HistoryEvent) -> None:
        """Report the outcome of a claimed attempt, with the next group."""
        self._beats.pop(attempt, None)
        address = attempt.address
        data = encode_arrivals([outcome], address.generation)
        limit = self._provider.message_bytes_max
        if limit is not None and len(data) > limit:
            outcome = _too_large(attempt.request, len(data), limit)
            data = encode_arrivals([outcome], address.generation)
        message = Message(target=address.key, partition=attempt.partition, data=data, run_id=address.run_id)
        self._reports.append((Report(address, message), attempt, outcome))
        self._flush.set()
        self._wake.set()

    def beat(self, attempt: Attempt) -> None:
        """Store a claimed attempt's heartbeat, with the next group."""
        self._beats[attempt] = attempt.heartbeat_details
        self._flush.set()

    async def run_claims(self) -> None:
        """Claim until cancelled."""
        while True:
            try:
                more = await self._claim()
            except (StoreError, LeaseLostError) as error:
                logger.warning("activities could not be claimed: %s", error)
                more = False
            if more:
                continue
            try:
                async with asyncio.timeout(POLL_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def _claim(self) -> bool:
        if self.is_draining or not self._keeper.is_valid:
            return False
        free = self._runner.free_slots - self._runner.waiting
        self._is_hungry = free <= 0 and bool(self._queues)
        # Without a free slot only attempts that nobody started in time are claimed: they need none.
        queues = self._queues if free > 0 else ()
        limit = min(free, CLAIM_MAX) if free > 0 else CLAIM_MAX
        # Also now and then without a doubt: a call that reached the store twice has answered only once.
        now = self._clock.monotonic()
        held = self._held() if self._is_claim_in_doubt or now - self._compared_at >= POLL_S else None
        self._is_claim_in_doubt = True
        lease, offers = self._keeper.current, self._offers
        rows = await self._provider.claim(lease, queues, self._served, limit, held=held)
        if rows and not self._is_still_ours(lease):
            return False  # this worker stood still meanwhile: somebody else may run them, or have run them
        self._is_claim_in_doubt = False
        if held is not None:
            self._compared_at = now
        for row in rows:
            self._start(row)
        is_cut = len(rows) == limit
        self._is_hungry = self._is_hungry or is_cut
        if queues:
            self.may_be_behind = is_cut or offers != self._offers
        return is_cut

    def _is_still_ours(self, lease: Lease) -> bool:
        return self._keeper.is_valid and self._keeper.lease is lease

    def _held(self) -> set[TaskAddress]:
        """Name the claimed attempts that this worker knows of: those in its hands, and those whose outcome is on its way."""
        return {*self._runner.attempts, *(report.task for report, _, _ in (*self._reports, *self._sending))}

    def _start(self, row: ActivityRow) -> None:
        if is_sealed(row.data):
            logger.error("an activity of '%s' is sealed, and no codecs are given to this worker", row.task.key.id)
            return
        try:
            request, idempotency_key, requested_at, trace = decode_activity(row.data)
        except HistoryDamagedError as error:
            logger.error("a queued activity of '%s' is damaged: %s", row.task.key.id, error)
            details = FailureDetails(qualified_name(HistoryDamagedError), str(error))
            outcome = ev.ActivityFailed(row.task.task_id, details)
            data = encode_arrivals([outcome], row.task.generation)
            message = Message(target=row.task.key, partition=row.partition, data=data, run_id=row.task.run_id)
            self._reports.append((Report(row.task, message), None, outcome))
            self._flush.set()
            return
        if row.heartbeat is not None:
            request = _with_heartbeat(request, row.heartbeat)
        attempt = Attempt(self._runner, row.task, row.partition, request, lambda: idempotency_key, requested_at)
        attempt.is_claimed = True
        attempt.trace = trace
        attempt.is_repeated = row.deliveries > 1
        span = self._clock.now() - row.first_claimed_at
        if row.deliveries > DELIVERIES_MAX and span >= DELIVERIES_SPAN_US:
            self.report(attempt, worker_lost(request, row.deliveries - 1))
        else:
            self._runner.start(attempt)

    async def run_reports(self) -> None:
        """Report outcomes and beats until cancelled."""
        while True:
            try:
                async with asyncio.timeout(BEAT_S):
                    await self._flush.wait()
            except TimeoutError:
                pass
            if self._clock.monotonic() - self._beaten_at >= BEAT_S:
                self._beat_for_all()
            self._flush.clear()
            if self._reports or self._beats:
                await self._send()

    def _beat_for_all(self) -> None:
        """Give a sign of life for every claimed attempt; the answers tell which ones nobody wants any more."""
        self._beaten_at = self._clock.monotonic()
        for attempt in self._runner.attempts.values():
            if attempt.is_claimed and not attempt.is_settled:
                self._beats.setdefault(attempt, None)

    async def _send(self) -> None:
        reports, self._reports = self._reports, []
        self._sending = reports
        beats, self._beats = self._beats, {}
        self._flushing = True
        try:
            answers = await self._provider.report(
                self._keeper.current,
                [report for report, _, _ in reports],
                [Beat(attempt.address, details) for attempt, details in beats.items()],
            )
        except (StoreError, LeaseLostError) as error:
            logger.warning("outcomes of activities could not be reported yet: %s", error)
            self._reports = reports + self._reports
            self._beats = beats | self._beats
            self._is_in_doubt = True
            await asyncio.sleep(0.2)
            self._flush.set()
            return
        finally:
            self._flushing = False
            self._sending = []
        is_in_doubt, self._is_in_doubt = self._is_in_doubt, False
        for (_, reported, outcome), is_taken in zip(reports, answers, strict=False):
            if is_taken and reported is not None:
                self._watchers.settled(reported.address)
            elif reported is not None and not is_in_doubt:
                self._on_late(reported, outcome)
        for attempt, is_wanted in zip(beats, answers[len(reports) :], strict=True):
            if not is_wanted and not attempt.is_settled:
                self._runner.cancel(attempt.address)


def runner_names(runner: ActivityRunner) -> set[tuple[str, str | None]]:
    """Return the names and versions that a worker can claim; None is the newest of a name."""
    names: set[tuple[str, str | None]] = set()
    for definition in runner.app.activities:
        names |= {
            (definition.name, definition.version),
            (definition.name, definition.exact_version),
            (definition.name, None),
        }
    return names


def _with_heartbeat(request: ev.ActivityScheduled, heartbeat: bytes) -> ev.ActivityScheduled:
    return dataclasses.replace(request, last_heartbeat=heartbeat)
