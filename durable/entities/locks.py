"""Critical sections: an orchestration holds the locks of several entities, which serve nobody else meanwhile.

Theory of operation. The locks are asked for one after the other, in the order of the entities, which is the same for
everybody: so nobody waits for a lock while he holds a later one, and there is no circle. Each lock is called by the request
for it. From the moment of the request a farewell says that the lock is given back: whatever commit ends the run, also by
force, sends it behind the request. Where the section ends by itself the farewell is withdrawn, and the release goes on
record; so it does when the code stops waiting for the locks, and when the generation continues as new.

What is asked of a locked entity inside of the section names the lock, and so passes those who wait. A section belongs to the
code that entered it, and to the asyncio tasks that this code begins: another branch of the same orchestration is anybody.
Inside of a section the code neither asks for further locks nor calls an entity that it has not locked, for whoever holds
that one may wait for the first.

Invariant: for each request of a lock there is exactly one release, on record or as a farewell.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from durable.context.orchestration import OrchestrationContext
from durable.engine.calls import Call
from durable.engine.execution import Execution
from durable.engine.loop import user_place
from durable.engine.tasks import Task
from durable.entities.events import EntityLockReleased, EntityLockRequested, lock_left
from durable.entities.ids import EntityId
from durable.entities.plans import check_entity_id
from durable.errors import CriticalSectionError
from durable.events import HistoryEvent, TaskRef

_section: ContextVar[CriticalSection | None] = ContextVar("durable_critical_section", default=None)


class CriticalSection(contextlib.AbstractContextManager["CriticalSection"]):
    """The locks of some entities, to be held for the length of a `with` block. What awaiting `ctx.lock(...)` gives."""

    def __init__(self, ctx: OrchestrationContext, entities: tuple[EntityId[Any], ...]) -> None:
        self.entities = entities
        self.is_over = False
        self.locks: dict[EntityId[Any], int] = {}  # by entity: the request for its lock
        self._ctx = ctx
        self._execution = ctx.execution
        self._outer: CriticalSection | None = None
        ctx.before_continuing.append(self.release)

    def __repr__(self) -> str:
        state = "over" if self.is_over else "held"
        return f"<CriticalSection of {', '.join(map(str, self.entities))}, {state}>"

    def __enter__(self) -> CriticalSection:
        if self.is_over:
            raise CriticalSectionError(f"{self!r}: a section is entered once; ask for the locks again")
        self._outer = _section.get()
        _section.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _section.get() is self:
            _section.set(self._outer)
        self.release()

    def is_of(self, execution: Execution) -> bool:
        """Tell whether it is a section of this execution, and not over."""
        return self._execution is execution and not self.is_over

    def request(self, entity: EntityId[Any], call: Call) -> None:
        """Ask for one lock; `call` gets the answer."""
        execution = self._execution
        task_id = execution.new_task_id()
        line = "" if execution.is_replaying else user_place()
        execution.open_request(execution.emit(EntityLockRequested(task_id, entity.name, entity.key, line)), call)
        self.locks[entity] = task_id
        lock = TaskRef(*execution.key, execution.run_id, execution.generation, task_id)
        execution.set_farewell(_farewell(task_id), lock_left(entity, lock))

    def release(self) -> None:
        """Give the locks back, and take back the request for one that is not there yet. Safe to call twice."""
        if self.is_over:
            return
        self.is_over = True
        self._ctx.before_continuing.remove(self.release)
        execution = self._execution
        if execution.is_over:
            return  # the commit that ends the run sends the farewells
        for entity, task_id in self.locks.items():
            execution.drop_request(task_id)
            execution.emit(EntityLockReleased(task_id, entity.name, entity.key))
            execution.set_farewell(_farewell(task_id), None)


class LockTask(Task[CriticalSection]):
    """What `ctx.lock(...)` returns: awaited or yielded it gives the section; `async with` does that and enters it."""

    __slots__ = ("_section", "_waiting", "task")

    def __init__(self, ctx: OrchestrationContext, entities: tuple[EntityId[Any], ...]) -> None:
        super().__init__(ctx.execution.loop, f"lock of {', '.join(map(str, entities))}")
        self._section = CriticalSection(ctx, entities)
        self._waiting = list(entities)
        self.task: Task[Any] = self  # as whoever is answered has one

    def begin(self) -> None:
        """Ask for the first lock."""
        self.when_cancelled(self._section.release)
        self._request_next()
        self.task_id = next(iter(self._section.locks.values()))

    def settle(self, event: HistoryEvent) -> None:
        """Take a lock: ask for the next one, or be complete."""
        if self._waiting:
            self._request_next()
        else:
            self.succeed(self._section)

    def _request_next(self) -> None:
        self._section.request(self._waiting.pop(0), self)

    def __await__(self) -> Generator[Any, Any, CriticalSection]:
        try:
            return (yield from super().__await__())
        except BaseException:
            self._section.release()  # whoever waited goes on without the locks, though they may be there by now
            raise

    async def __aenter__(self) -> CriticalSection:
        return (await self).__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._section.__exit__(kind, error, trace)


def _farewell(task_id: int) -> str:
    return f"entity lock {task_id}"


def lock(ctx: OrchestrationContext, entities: tuple[EntityId[Any], ...]) -> LockTask:
    """Do what `OrchestrationContext.lock` promises."""
    execution = ctx.execution
    if not entities:
        raise ValueError("lock needs at least one entity")
    for entity in entities:
        check_entity_id(entity)
    outer = _section.get()
    if outer is not None and outer.is_of(execution):
        raise CriticalSectionError(
            f"locks of {', '.join(map(str, entities))} were asked for inside of {outer!r}: that could wait for ever. "
            "Lock all of them at once: ctx.lock(a, b)"
        )
    task = LockTask(ctx, tuple(sorted(set(entities))))
    if not execution.is_over:
        task.begin()
    return task


def lock_for(execution: Execution, entity: EntityId[Any]) -> int | None:
    """Return the lock in which something is asked of an entity; None where it is not locked by this code."""
    section = _section.get()
    return None if section is None or not section.is_of(execution) else section.locks.get(entity)


def lock_of_call(execution: Execution, entity: EntityId[Any]) -> int | None:
    """Return the lock in which an entity is called. Raises CriticalSectionError for one that should have been locked too."""
    section = _section.get()
    if section is None or not section.is_of(execution):
        return None
    found = section.locks.get(entity)
    if found is None:
        raise CriticalSectionError(
            f"'{entity}' was called inside of {section!r}, which does not have its lock: whoever has it could wait for this "
            "section, and both for ever. Lock it as well, signal it, or call it outside"
        )
    return found
