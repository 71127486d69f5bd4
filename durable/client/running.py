"""Which activities of an instance are open: read from its history, and only what is new since the last look.

Looking at an instance again and again, as people and dashboards do, so costs what has happened in between, not its age.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Mapping
from typing import Final

from durable import events as ev
from durable.provider import InstanceRow, Provider
from durable.records import decode_record

RUNS_KEPT_MAX: Final = 64
"""Runs whose open activities are remembered; the one looked at longest ago is forgotten first."""

SHOWN_MAX: Final = 1_000
"""Open activities that a state shows; of a wider fan-out it shows those asked for first."""


@dataclasses.dataclass(slots=True)
class _Seen:
    generation: int
    records: int = 0
    open: dict[int, tuple[ev.ActivityScheduled, int]] = dataclasses.field(default_factory=dict)


class RunningActivities:
    """Remembers, for the runs looked at most recently, what was open after how many records."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._runs: collections.OrderedDict[str, _Seen] = collections.OrderedDict()

    async def of(self, row: InstanceRow) -> list[tuple[ev.ActivityScheduled, int]]:
        """Return the open requests of a run with the times at which they were made, oldest first, at most SHOWN_MAX.

        Raises HistoryDamagedError for a history that cannot be read.
        """
        return list(itertools.islice((await self.by_task(row)).values(), SHOWN_MAX))

    async def by_task(self, row: InstanceRow) -> Mapping[int, tuple[ev.ActivityScheduled, int]]:
        """Return all open requests of a run by task id, with their times. Raises as `of`."""
        seen = self._runs.pop(row.run_id, None)
        if seen is None or seen.generation != row.generation or seen.records > row.records:
            seen = _Seen(row.generation)
        while seen.records < row.records:
            part = await self._provider.read_history(row.run_id, row.generation, seen.records)
            if not part:
                break
            for stored in part:
                _take(seen, stored.data)
        self._runs[row.run_id] = seen
        if len(self._runs) > RUNS_KEPT_MAX:
            self._runs.popitem(last=False)
        return seen.open


def _take(seen: _Seen, data: bytes) -> None:
    record = decode_record(data)
    for event in record.events:
        if isinstance(event, ev.ActivityScheduled):
            seen.open[event.task_id] = event, record.time
        elif isinstance(event, ev.ActivityCompleted | ev.ActivityFailed | ev.ActivityCancelled):
            seen.open.pop(event.task_id, None)
    seen.records += 1
