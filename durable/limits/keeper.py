"""The keeper of a limit: gives permits, in the order in which they were asked for, and never more than the limit allows.

Theory of operation. All that a keeper is told arrives in its mailbox and is taken in at once; whenever something has changed it
gives what it may. Who waits stands in lines, one for each priority, first come, first served. The limit is the one that the
latest request named: so a deployment that changes it needs no more than that.

A permit counts for `max_concurrency` from when it is given until it is left. For `rate` it counts from when it is given until
`per` after the keeper has heard that its attempt has begun, or that it is left: a start can be no later than that. So no span
of that length ever sees more starts than the rate, however long an attempt waits between its permit and its start.

Where nobody waits, nothing is out and no start counts any more, the keeper is dispensable, and goes. When the history has
become long the generation continues as new with what counts, so that the cost of a permit does not grow with their number.

Invariant: permits that are out never exceed `max_concurrency`, and starts that count never exceed `rate`, but for a limit that
was lowered.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from durable.engine.calls import TimerPurpose
from durable.engine.execution import Execution
from durable.events import EventRaised, Limit, TaskRef
from durable.payloads import decode, encode
from durable.permits import ALL, NAME, PermitGiven, PermitLeft, PermitRefused, PermitUsed, PermitWanted

EVENTS_MIN: Final = 500
EVENTS_PER_PERMIT: Final = 4
"""A generation's history is long when it has this many events, and this many for each permit that the next one begins with: so
writing those down costs each event the same, however many they are."""

STANDING_BYTES_MAX: Final = 64 * 1024 * 1024
"""As large as a turn may be: about a million who wait."""


class Waiter(NamedTuple):
    """Who waits for a permit."""

    holder: TaskRef
    activity: str
    asked_at: int
    start_by: int | None


class Keeper:
    """One limit in one generation. `standing`: what the former generation has left, encoded."""

    def __init__(self, execution: Execution, standing: bytes | None) -> None:
        self._execution = execution
        self._limit = Limit()
        self._out: dict[TaskRef, None] = {}
        self._unheard: set[TaskRef] = set()  # those of them of which nobody has said yet that they have begun
        self._starts: deque[int] = deque()  # when it was heard of starts that count, the oldest first
        self._lines: dict[int, OrderedDict[TaskRef, Waiter]] = {}  # by priority
        self._start_bys: list[tuple[int, TaskRef]] = []  # a heap
        self._of_runs: dict[
            tuple[str, ...], dict[TaskRef, int]
        ] = {}  # all of a run's, with the priorities of their lines
        self._count = 0  # of permits that are out or wanted
        self._timer: tuple[int, int] | None = None  # when it is due, and its id
        self._standing = standing

    async def serve(self) -> None:
        """Serve until the generation ends."""
        try:
            if self._standing is not None:
                what = "what a generation of a limit begins with"
                self._read(decode(self._standing, what=what, strict_size=False))
                self._standing = None
            self._give()
            while True:
                self._take(await self._execution.wait_for_event(NAME, lambda event: event))
                self._give()
                if self._is_long:
                    self._continue()
        except Exception as error:  # noqa: BLE001 (a limit never fails; what is wrong with it stalls it)
            self._execution.fail_turn(error)

    # ---- what arrives

    def _take(self, event: EventRaised) -> None:
        holder: TaskRef | None = getattr(event, "holder", None)
        if holder is None:  # nothing that a keeper is ever told
            return
        if isinstance(event, PermitWanted):
            self._limit = Limit(event.max_concurrency, event.rate, event.per)
            self._add(Waiter(holder, event.activity, event.asked_at, event.start_by), event.priority)
        elif isinstance(event, PermitUsed):
            self._heard(holder)
        elif isinstance(event, PermitLeft):
            known = self._of_runs.get(_run_of(holder), {})
            for one in list(known) if holder.task_id == ALL else [holder]:
                self._remove(one)

    def _add(self, waiter: Waiter, priority: int) -> None:
        of_run = self._of_runs.setdefault(_run_of(waiter.holder), {})
        if waiter.holder in of_run:
            return
        of_run[waiter.holder] = priority
        self._count += 1
        self._lines.setdefault(priority, OrderedDict())[waiter.holder] = waiter
        if waiter.start_by is not None:
            heapq.heappush(self._start_bys, (waiter.start_by, waiter.holder))

    def _remove(self, holder: TaskRef) -> None:
        """Forget a permit, or who waits for it. What was given has begun by now, if it ever has."""
        run = _run_of(holder)
        of_run = self._of_runs.get(run, {})
        priority = of_run.pop(holder, None)
        if priority is None:
            return
        self._count -= 1
        if not of_run:
            del self._of_runs[run]
        self._heard(holder)
        if holder in self._out:
            del self._out[holder]
        else:
            self._leave_line(holder, priority)

    def _leave_line(self, holder: TaskRef, priority: int) -> Waiter:
        line = self._lines[priority]
        waiter = line.pop(holder)
        if not line:
            del self._lines[priority]
        return waiter

    def _heard(self, holder: TaskRef) -> None:
        if holder in self._unheard:
            self._unheard.remove(holder)
            self._starts.append(self._execution.time_us)

    # ---- giving

    def _give(self) -> None:
        """Give what may be given now, refuse who has waited too long, and see when there may be more to do."""
        now = self._execution.time_us
        rate, per = self._limit.rate, self._limit.per
        if rate is None or per is None:
            self._starts.clear()
            self._unheard.clear()
        while self._starts and per is not None and self._starts[0] + per <= now:
            self._starts.popleft()
        self._refuse_late(now)
        while self._lines and self._is_free:
            priority = min(self._lines)
            self._give_to(self._leave_line(next(iter(self._lines[priority])), priority))
        self._set_timer(self._next_due())
        nothing = not (self._out or self._lines or self._starts)
        self._execution.is_dispensable = nothing and not self._execution.mailbox.count

    @property
    def _is_free(self) -> bool:
        most, rate = self._limit.max_concurrency, self._limit.rate
        if most is not None and len(self._out) >= most:
            return False
        return rate is None or len(self._starts) + len(self._unheard) < rate

    def _give_to(self, waiter: Waiter) -> None:
        self._out[waiter.holder] = None
        if self._limit.rate is not None:
            self._unheard.add(waiter.holder)
        self._execution.emit(PermitGiven(self._execution.new_task_id(), waiter.holder, waiter.asked_at))

    def _refuse_late(self, now: int) -> None:
        while self._start_bys and self._start_bys[0][0] <= now:
            _, holder = heapq.heappop(self._start_bys)
            priority = self._of_runs.get(_run_of(holder), {}).get(holder)
            if priority is None or holder in self._out:
                continue
            waiter = self._lines[priority][holder]
            self._remove(holder)
            assert waiter.start_by is not None
            span = waiter.start_by - waiter.asked_at
            self._execution.emit(PermitRefused(self._execution.new_task_id(), holder, waiter.activity, span))

    # ---- time

    def _next_due(self) -> int | None:
        """Return when something may change by itself: a start counts no more, or somebody has waited too long."""
        per = self._limit.per
        is_waiting = bool(self._lines)
        dues = [self._start_bys[0][0]] if self._start_bys and is_waiting else []
        if self._starts and per is not None and (is_waiting or not self._out):
            # Where nobody waits it is time to go when the last one counts no more.
            dues.append((self._starts[0] if is_waiting else self._starts[-1]) + per)
        return min(dues, default=None)

    def _set_timer(self, due: int | None) -> None:
        """See that a timer fires at that time. One that fires before it does no harm."""
        if due is None or (self._timer is not None and self._timer[0] <= due):
            return
        if self._timer is not None:
            self._execution.drop_timer(self._timer[1])
        self._timer = due, self._execution.set_timer(due, TimerPurpose.ASYNCIO, self._come_due)

    def _come_due(self) -> None:
        self._timer = None
        self._give()

    # ---- the generation

    @property
    def _is_long(self) -> bool:
        return self._execution.history_length >= max(EVENTS_MIN, EVENTS_PER_PERMIT * self._count)

    def _continue(self) -> None:
        """Begin a new generation with what counts."""
        waiting = [
            (waiter, (priority, waiter.activity, waiter.asked_at, waiter.start_by))
            for priority, line in sorted(self._lines.items())
            for waiter in line.values()
        ]
        standing = {
            "limit": list(self._limit[:3]),
            "out": _by_run((holder, (holder in self._unheard,)) for holder in self._out),
            "starts": list(self._starts),
            "waiting": _by_run((waiter.holder, rest) for waiter, rest in waiting),
        }
        plain = encode(standing, what="what a limit stands at", max_bytes=STANDING_BYTES_MAX)
        self._execution.continue_as_new(plain, None, carry_over_events=True)

    def _read(self, standing: Any) -> None:
        self._limit = Limit(*standing["limit"])
        self._starts.extend(standing["starts"])
        for holder, (is_unheard,) in _from_runs(standing["out"]):
            self._out[holder] = None
            self._of_runs.setdefault(_run_of(holder), {})[holder] = 0
            self._count += 1
            if is_unheard:
                self._unheard.add(holder)
        for holder, (priority, activity, asked_at, start_by) in _from_runs(standing["waiting"]):
            self._add(Waiter(holder, activity, asked_at, start_by), priority)


def _run_of(holder: TaskRef) -> tuple[str, ...]:
    return (holder.instance_id, holder.kind, f"{holder.run_id}/{holder.generation}")


def _by_run(items: Iterator[tuple[TaskRef, tuple[Any, ...]]]) -> list[Any]:
    """Write down permits in their order; what follow each other of one run name it once."""
    return [
        [list(run), [[holder.task_id, *rest] for holder, rest in of_run]]
        for run, of_run in itertools.groupby(items, key=lambda item: item[0][:4])
    ]


def _from_runs(written: list[Any]) -> Iterator[tuple[TaskRef, list[Any]]]:
    for (instance_id, kind, run_id, generation), of_run in written:
        for task_id, *rest in of_run:
            yield TaskRef(instance_id, kind, run_id, generation, task_id), rest
