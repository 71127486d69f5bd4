"""Retention: what has ended is removed, as long after its end as its orchestrator or its app says.

The owner of the hub's first partition looks for it, so that one worker does at a time; two of them, while the partition changes
hands, harm nobody, for a run is removed once. Removal is for ever, and so takes what the removal of expired memos takes
(`durable.hub_clock`): that time has passed evenly for this worker for ten minutes; or else ever since the run was asked for.

An outcome leaves a run in the commit that ends it, or before it: what a parent has not consumed lies in the parent's inbox,
and stays there. But a parent may yet ask for a child once more (its start is sent again after a crash, and adopted), so that
a child stays as long as the generation that asked for it goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Final, Protocol

from durable.app import App
from durable.client.bulk import FINISHED
from durable.errors import StoreError, UnknownNameError
from durable.events import InstanceKey
from durable.provider import InstanceFilter, InstanceRow, Provider
from durable.worker.clock import StoreClock

logger = logging.getLogger("durable.worker")

LOOK_S: Final = 5.0
"""The shortest pause between two looks. Like every regular look around it is no longer: simulated time leaps over it."""

REST_RATIO: Final = 20
"""A pause is so many times as long as the look before it took, and one between removals as the removal: turns come first."""

RESTS_MAX: Final = 120
"""No rest is longer than so many pauses, ten minutes: a machine may have slept while it worked."""

FIRST: Final = 0
"""The partition whose owner removes what is to go, of all partitions: a removal is no turn, and needs no lease."""

WITNESSED_US: Final = 1_000_000
"""Time passes evenly for a worker from a moment after its start on, when it has learned what the time is."""

STEP_RUNS: Final = 50
"""Runs looked at, and removed, at a time: their values may be large, and others want to write."""


class _Keeper(Protocol):
    """What tells which partitions this worker owns."""

    @property
    def owned(self) -> Collection[int]: ...


class Retention:
    """Removes finished runs whose time is over."""

    def __init__(self, app: App, provider: Provider, keeper: _Keeper, clock: StoreClock) -> None:
        self._app = app
        self._provider = provider
        self._keeper = keeper
        self._clock = clock

    async def run(self) -> None:
        """Look for what is to go, until cancelled."""
        pause = LOOK_S
        while True:
            await asyncio.sleep(pause)
            begun = self._clock.monotonic()
            try:
                removed = await self._sweep()
            except StoreError as error:
                logger.warning("what has been kept for long enough cannot be removed now, it is tried again: %s", error)
            else:
                if removed:
                    logger.debug("%d finished instances were removed: they had been kept for long enough", removed)
            pause = max(LOOK_S, self._rest(begun))

    def _rest(self, begun: float) -> float:
        return min((self._clock.monotonic() - begun) * REST_RATIO, LOOK_S * RESTS_MAX)

    @property
    def _may_remove(self) -> bool:
        return FIRST in self._keeper.owned and self._clock.even_since is not None

    @property
    def _created_after(self) -> int | None:
        """Return since when a run must have been there for its whole life to have passed evenly; None: any may go."""
        since = self._clock.even_since
        return None if self._clock.is_unbroken or since is None else since - WITNESSED_US

    async def _sweep(self) -> int:
        """Remove what is to go now; return how many runs."""
        count = 0
        default, own = self._app.retain, spans_of(self._app)
        looks = [(name, span) for name, span in own.items() if span is not None and span != default]
        for name, span in [*looks, *([] if default is None else [(None, default)])]:
            async for rows in self._ended(name, span):
                targets = await self._expired(rows)
                if targets and self._may_remove:
                    begun = self._clock.monotonic()
                    count += await self._provider.purge(targets)
                    await asyncio.sleep(self._rest(begun))
        return count

    async def _ended(self, name: str | None, span: timedelta) -> AsyncGenerator[Sequence[InstanceRow], None]:
        """Yield, some at a time, the finished runs that began so long ago that their time may be over."""
        page: bytes | None = None
        while self._may_remove:
            # One microsecond more: what has ended this very moment has been kept for a span of 0.
            wanted = InstanceFilter(
                status=FINISHED,
                name=name,
                created_after=self._created_after,
                created_before=self._clock.now() - _us(span) + 1,
            )
            found = await self._provider.list_instances(wanted, limit=STEP_RUNS, page=page, newest_first=False)
            yield found.rows
            page = found.next_page
            if page is None:
                return

    async def _expired(self, rows: Sequence[InstanceRow]) -> list[tuple[InstanceKey, str]]:
        """Return which of these runs are to go."""
        now = self._clock.now()
        due = [row for row in rows if self._is_over(row, now)]
        children = [row for row in due if row.parent is not None]
        parents = await self._provider.load([(row.parent, None) for row in children if row.parent is not None])
        awaited = {row.run_id for row, parent in zip(children, parents, strict=True) if is_awaited(row, parent)}
        return [(row.key, row.run_id) for row in due if row.run_id not in awaited]

    def _is_over(self, row: InstanceRow, now: int) -> bool:
        span = self._span_of(row)
        return span is not None and row.completed_at is not None and row.completed_at + _us(span) <= now

    def _span_of(self, row: InstanceRow) -> timedelta | None:
        """Return how long a run is kept: as its version says; where that is gone, as the newest; else as the app says."""
        for version in (row.version, None):
            try:
                return self._app.find_orchestrator(row.name, version).options.retain
            except UnknownNameError:
                continue
        return self._app.retain


def spans_of(app: App) -> Mapping[str, timedelta | None]:
    """Return for each orchestrator the shortest time that one of its versions is kept; None: for ever."""
    spans: dict[str, timedelta | None] = {}
    for definition in app.orchestrators:
        given = [span for span in (spans.get(definition.name), definition.options.retain) if span is not None]
        spans[definition.name] = min(given, default=None)
    return spans


def is_awaited(child: InstanceRow, parent: InstanceRow | None) -> bool:
    """Tell whether the generation that asked for a child goes on."""
    if parent is None or parent.run_id != child.parent_run_id or parent.status.is_finished or child.parent_task is None:
        return False
    return int(child.parent_task.split("/", 1)[0]) == parent.generation


def _us(span: timedelta) -> int:
    return span // timedelta(microseconds=1)
