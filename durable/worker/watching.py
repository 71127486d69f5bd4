"""What watches a worker: it is told of turns, of what they recorded once that is durable, and of the worker itself.

A middleware that is a `Watcher` too is one of a worker's watchers. Nothing of it reaches what it watches: it is called in the
worker's event loop, must not wait, and what it raises is logged. Without a watcher nothing is gathered for one.

Invariant: `committed` and `settled` tell only of what the store has taken, and of each of it once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from durable.engine.execution import Execution
from durable.engine.turn import Turn
from durable.events import OrchestrationStarted
from durable.provider import InstanceRow, TaskAddress
from durable.records import Record
from durable.value_objects import value_object
from durable.worker.health import WorkerHealth

logger = logging.getLogger("durable.worker")


@value_object
class Taken:
    """A turn that was taken and is not yet durable. Its record is `row.records` of `row.generation`, unless one was taken over.

    `began_us`: by the hub's clock, in microseconds since 1970 UTC. `arrivals`: how many it was given.
    """

    row: InstanceRow
    execution: Execution
    turn: Turn
    arrivals: int
    began_us: int
    seconds: float


class Written(NamedTuple):
    """A step that is durable. `notes`: what each watcher has made of its turn (`Watcher.turned`), if it is one of a turn.

    `before`: None where it was not known; `execution`: None where none was in memory.
    """

    before: InstanceRow | None
    after: InstanceRow
    execution: Execution | None
    turn: Turn | None
    notes: Sequence[Any]


@value_object
class Commit:
    """A commit that the store has taken. `size_bytes`: records and messages; `seconds`: until it had its answer."""

    steps: Sequence[Written]
    size_bytes: int
    seconds: float
    now_us: int


class Watcher:
    """Derive from it, and override what is wanted."""

    def serving(self, name: str, health: Callable[[], WorkerHealth]) -> None:
        """A worker begins to serve; `health` may be called from any thread until `stopped`."""

    def stopped(self, name: str) -> None:
        """It serves no more."""

    def begin_trace(self, row: InstanceRow, started: OrchestrationStarted) -> str | None:
        """Return the trace of a run that begins without one, for its record; None: without any."""
        del row, started
        return None

    def replayed(self, execution: Execution, record: Record) -> None:
        """A record of the past was fed to an execution, which stands behind it now."""

    def turned(self, taken: Taken) -> Any:
        """A turn was taken. What is returned is kept for `committed`, and forgotten if the turn is refused."""
        del taken
        return None

    def committed(self, commit: Commit, notes: Sequence[Any]) -> None:
        """A commit is durable; `notes`: what `turned` has returned for each of its steps, None for those of no turn."""

    def refused(self, steps: int) -> None:
        """A commit of so many steps was refused, or it is not known what became of it: they are taken again, by whom it may."""

    def lease_lost(self) -> None:
        """The worker's lease is lost: others own what it owned."""

    def settled(self, task: TaskAddress) -> None:
        """The outcome of an attempt that ran here, claimed from the queue, is in the store."""


class Watchers(list[Watcher]):
    """All the watchers of a worker; false if there is none."""

    def __init__(self, found: Iterable[object] = ()) -> None:
        """Take those that are watchers."""
        super().__init__(one for one in found if isinstance(one, Watcher))

    def _tell(self, call: Callable[[Watcher], Any]) -> list[Any]:
        found = []
        for one in self:
            try:
                found.append(call(one))
            except Exception:
                logger.exception("a watcher of the worker failed; the worker goes on")
                found.append(None)
        return found

    def serving(self, name: str, health: Callable[[], WorkerHealth]) -> None:
        """See `Watcher`."""
        self._tell(lambda one: one.serving(name, health))

    def stopped(self, name: str) -> None:
        """See `Watcher`."""
        self._tell(lambda one: one.stopped(name))

    def begin_trace(self, row: InstanceRow, started: OrchestrationStarted) -> str | None:
        """Return what the first that begins one says; see `Watcher`."""
        found = self._tell(lambda one: one.begin_trace(row, started))
        return next((trace for trace in found if trace is not None), None)

    def replayed(self, execution: Execution, record: Record) -> None:
        """See `Watcher`."""
        self._tell(lambda one: one.replayed(execution, record))

    def turned(self, taken: Taken) -> Sequence[Any]:
        """Return what each makes of it; see `Watcher`."""
        return self._tell(lambda one: one.turned(taken))

    def committed(self, commit: Commit) -> None:
        """See `Watcher`."""
        for index, one in enumerate(self):
            notes = [step.notes[index] if step.notes else None for step in commit.steps]
            try:
                one.committed(commit, notes)
            except Exception:
                logger.exception("a watcher of the worker failed; the worker goes on")

    def refused(self, steps: int) -> None:
        """See `Watcher`."""
        self._tell(lambda one: one.refused(steps))

    def lease_lost(self) -> None:
        """See `Watcher`."""
        self._tell(lambda one: one.lease_lost())

    def settled(self, task: TaskAddress) -> None:
        """See `Watcher`."""
        if self:
            self._tell(lambda one: one.settled(task))


UNWATCHED = Watchers()
