"""What runs an entity: operations one after the other, each all or nothing, and its lock.

Theory of operation. An entity is an instance of its own kind, begun by the first message to it. Its program waits for what
arrives in its mailbox, under two names: operations and lock requests, which are served in the order in which they came,
and only while nobody holds the lock; and what the lock's holder sends, which is served at once. An operation is performed
within the arrival that brings it, on a fresh object made from the stored state; what it leaves is encoded at once, and its
digest goes on record with the operation. The state itself lies in the row, as what clients see of the instance. When the
history has become long the generation continues as new, with the state as its input: what an entity costs does not grow
with its age.

A worker that takes an entity up performs nothing again: it goes by what is on record, and by the row's state if that is the
one whose digest is on record. So a class may be changed at any time. A replay outside of a worker, which has no row, does
perform the operations again, and compares.

Invariant: an operation that fails leaves nothing behind but the record of its failure, and a note if nobody waited for it.
Invariant: at most one operation is in progress, and none when the loop comes to rest.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from durable.app import App
from durable.context import Plans
from durable.context.plans import NO_VALUE
from durable.engine.driver import TurnInterrupted
from durable.engine.execution import Execution
from durable.engine.loop import GenerationEnded
from durable.engine.turn import Unchanged
from durable.entities.context import Doing, EntityContext
from durable.entities.definitions import EntityDefinition, OperationDefinition
from durable.entities.events import (
    IN_LOCK,
    OPERATIONS,
    EntityLockGranted,
    EntityLockLeft,
    EntityLockReceived,
    EntityOperationPerformed,
    EntityOperationReceived,
    EntityOperationSignaled,
)
from durable.entities.ids import entity_id_of, failures_of
from durable.errors import (
    CriticalSectionError,
    HistoryDamagedError,
    InvalidInputError,
    NonDurableAwaitError,
    StoredValueError,
)
from durable.events import EventRaised, InstanceKey, TaskRef
from durable.messages import DROPPED_KEPT_US, dropped_memo
from durable.orchestrations import Edge
from durable.payloads import PayloadError, Sealer, check, decode, digest, encode
from durable.places import awaiting_location

logger = logging.getLogger("durable.entity")

EVENTS_MAX: Final = 250
BYTES_MAX: Final = 8 * 1024 * 1024
"""A generation's history of this length is long: about 125 operations, which are read through whenever a worker takes the
entity up; in bytes, four payloads of the largest size."""

CARRIED_BYTES_MAX: Final = 64 * 1024 * 1024
"""What a generation begins with holds a state of at most 2 MiB, and about 100 bytes for each lock that was given up."""

STEPS_OF_THE_END: Final = 3
"""Steps for the `finally` blocks of an async operation that waits in vain; what they wait for comes no more either."""

# The end of a generation, of a turn and of the process are no failure of an operation.
_NOT_FAILURES: Final = (GenerationEnded, TurnInterrupted, KeyboardInterrupt)


class EntityRunner(Edge):
    """Makes executions of the entities of one class, and is the ports through which they reach the edge."""

    def __init__(self, app: App, definition: EntityDefinition, sealer: Sealer, strict: bool) -> None:
        super().__init__(sealer, strict=strict, logger=logger)
        self.definition = definition
        self.plans = Plans(app, sealer)

    def new_execution(self, key: InstanceKey, run_id: str, generation: int) -> Execution:
        """Return an execution of an entity, to be fed with the records of that generation."""
        return Execution(key, run_id, generation, self._begin, self)

    def encode_result(self, value: Any) -> bytes:
        """Encode a result. Nothing ends an entity's program by itself, so there is none."""
        raise AssertionError(f"an entity's program has ended, with {value!r}")

    def unseal(self, stored: bytes) -> bytes:
        """Return the plain form of a stored value. Raises PayloadError."""
        return self._sealer.unseal(stored)

    def _begin(self, execution: Execution) -> Coroutine[Any, Any, None]:
        return EntityProgram(self, execution).serve()


class _NoTimers:
    """Stands for the execution where the loop wants a timer: an operation ends within its turn."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    def create_loop_timer(self, due: int, fire: Callable[[], None]) -> int:
        """Refuse."""
        raise _refusal("time to pass (asyncio.sleep, timeout, wait_for)", "")

    def drop_timer(self, task_id: int) -> None:
        """Do nothing: there is none."""

    @property
    def time_us(self) -> int:
        """The time of the turn."""
        return self._execution.time_us


def _refusal(what: str, place: str) -> NonDurableAwaitError:
    where = f"{place}: " if place else ""
    return NonDurableAwaitError(
        f"{where}an operation of an entity cannot wait for {what}: it ends within its turn, for others wait until it does. "
        "Start an orchestration for work that takes time, `ctx.start_orchestration(...)`, or signal the entity for later, "
        "`ctx.signal_entity(ctx.id, ..., at=...)`."
    )


async def _settled(coroutine: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """Return how a coroutine ends: asyncio would let SystemExit out of a task, and end the entity with it."""
    try:
        return await coroutine, None
    except (*_NOT_FAILURES, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 (an operation may raise anything)
        return None, error


@dataclasses.dataclass(slots=True)
class _Outcome:
    """How an operation ended: what it asks for, and either what it leaves or its error."""

    doing: Doing
    state: bytes | None = None
    result: bytes | None = None
    error: BaseException | None = None


class EntityProgram:
    """One entity in one generation."""

    def __init__(self, runner: EntityRunner, execution: Execution) -> None:
        self._runner = runner
        self._execution = execution
        self._entity = entity_id_of(execution.key)
        self._state: bytes | None = None
        self._state_digest: bytes | None = None
        self._is_state_known = True
        self._holder: TaskRef | None = None
        self._released: asyncio.Future[None] | None = None
        self._withdrawn: set[TaskRef] = set()  # locks that were given up before their turn came
        self._operations = 0
        self._bytes = 0  # of inputs and results in this turn
        self._bytes_before = 0
        self._stays_over_bytes = -1  # the length of the history in a turn that sends something to the entity itself
        execution.loop.refusal = _refusal
        execution.loop.host = _NoTimers(execution)

    async def serve(self) -> None:
        """Serve until the generation ends."""
        try:
            self._begin()
            await asyncio.gather(self._serve_holder(), self._serve_all())
        except (*_NOT_FAILURES, asyncio.CancelledError):
            raise
        except BaseException as error:  # noqa: BLE001 (an entity never fails; what is wrong with it stalls it)
            self._execution.fail_turn(error)

    def _begin(self) -> None:
        started = self._execution.started
        assert started is not None, "a program begins when its instance has started"
        if started.input is not None:
            plain = self._runner.unseal(started.input)
            carried = decode(plain, what="what a generation of an entity begins with", strict_size=False)
            self._set_state(carried["state"])
            self._holder = None if carried["holder"] is None else TaskRef(*carried["holder"])
            self._withdrawn = {TaskRef(*ref) for ref in carried["withdrawn"]}
        self._note_dispensable()

    async def _serve_all(self) -> None:
        """Serve what is for everybody, while nobody holds the lock."""
        while True:
            if self._holder is not None:
                self._released = asyncio.get_running_loop().create_future()
                await self._released
            await self._take(await self._next(OPERATIONS))

    async def _serve_holder(self) -> None:
        """Serve the lock's holder."""
        while True:
            await self._take(await self._next(IN_LOCK))

    async def _next(self, name: str) -> Any:
        return await self._execution.wait_for_event(name, lambda event: event)

    async def _take(self, event: EventRaised) -> None:
        if isinstance(event, EntityOperationReceived):
            await self._operate(event)
        elif isinstance(event, EntityLockReceived):
            self._grant(event)
        elif isinstance(event, EntityLockLeft):
            self._release(event)
        self._note_dispensable()
        if self._is_long:
            self._continue()

    # ---- the lock

    def _grant(self, event: EntityLockReceived) -> None:
        assert event.holder is not None, "a lock is called by the request for it"
        if event.holder in self._withdrawn:
            self._withdrawn.discard(event.holder)
            return
        self._holder = event.holder
        self._execution.emit(EntityLockGranted(self._execution.new_task_id(), event.holder))

    def _release(self, event: EntityLockLeft) -> None:
        assert event.holder is not None, "as above"
        if event.holder != self._holder:
            self._withdrawn.add(event.holder)  # its request came before, and still waits
            return
        self._holder = None
        if self._released is not None:
            self._released.set_result(None)

    # ---- operations

    async def _operate(self, event: EntityOperationReceived) -> None:
        execution = self._execution
        self._operations += 1
        self._count(event.data)
        if event.due is not None and event.due > execution.time_us:
            self._postpone(event, event.due)
        elif execution.is_replaying and not isinstance(execution.stored_status, Unchanged):
            self._go_by_the_record(event)
        else:
            self._conclude(event, await self._perform(event))

    def _postpone(self, event: EntityOperationReceived, due: int) -> None:
        """Send what came early, because it had to begin the entity, once more for later: for that the entity must stay."""
        self._stays_over_bytes = self._execution.history_bytes
        task_id, entity = self._execution.new_task_id(), self._entity
        request = EntityOperationSignaled(task_id, entity.name, entity.key, event.operation, event.data, due=due)
        self._execution.emit(request)

    def _go_by_the_record(self, event: EntityOperationReceived) -> None:
        """Take from the record what the operation asked for and left behind."""
        execution = self._execution
        while True:
            recorded: Any = execution.recorded_request
            if recorded is None or not hasattr(recorded, "task_id"):
                raise HistoryDamagedError(f"the history does not say how operation '{event.operation}' ended")
            execution.new_task_id()
            execution.emit(recorded)
            if isinstance(recorded, EntityOperationPerformed):
                break
        self._count(recorded.result)
        if recorded.state_digest != self._state_digest:
            self._state_digest, self._is_state_known = recorded.state_digest, False

    async def _perform(self, event: EntityOperationReceived) -> _Outcome:
        """Run an operation. Nothing comes of it yet."""
        execution, definition = self._execution, self._runner.definition
        doing = Doing(self._operations)
        outcome = _Outcome(doing)
        state = self._known_state()
        try:
            if event.holder is not None and event.holder != self._holder:
                raise CriticalSectionError(f"the lock of '{self._entity}' in which this was asked for is over")
            operation = definition.find(event.operation)
            target = self._object_of(state)
            context = EntityContext(execution, self._runner.plans, self._entity, doing)
            value = self._input(operation, event.data)
            result = await self._run(operation, target, operation.arguments(context, value))
            if not doing.deletes_state:
                outcome.state = definition.form.encode(target)
            if event.caller is not None:
                what = f"result of operation '{operation.name}'"
                outcome.result = check(result, operation.result_annotation, what=what)
        except (*_NOT_FAILURES, StoredValueError):
            raise
        except BaseException as error:  # noqa: BLE001 (an operation may raise anything)
            outcome.error = error
        finally:
            doing.is_over = True
        return outcome

    def _object_of(self, state: bytes | None) -> Any:
        if state is None:
            return self._runner.definition.form.fresh()
        try:
            return self._runner.definition.form.decode(state)
        except PayloadError as error:
            raise StoredValueError(
                f"{error}. It fitted when it was stored: let the field take such values too; operations wait meanwhile"
            ) from error

    def _input(self, operation: OperationDefinition, stored: bytes | None) -> Any:
        what = f"input of operation '{operation.name}'"
        try:
            plain = NO_VALUE if stored is None else self._runner.unseal(stored)
            if not operation.takes_input:
                operation.check_accepts(decode(plain, what=what))
                return None
            if operation.has_default_input and decode(plain, what=what) is None:
                return operation.default_input()
            return decode(plain, operation.input_annotation, what=what)
        except PayloadError as error:
            raise InvalidInputError(str(error)) from None

    async def _run(self, operation: OperationDefinition, target: Any, arguments: tuple[Any, ...]) -> Any:
        """Call the method, in a context of its own; an async one must come to its end without anything happening outside."""
        loop = self._execution.loop
        context = contextvars.copy_context()
        result = context.run(operation.function, target, *arguments)
        if not asyncio.iscoroutine(result):
            return result
        task = loop.create_task(_settled(result), context=context)
        while not task.done():
            steps = loop.steps
            await asyncio.sleep(0)
            if loop.steps == steps + 1 and not task.done():  # nothing else has run, so nothing ever will
                place = awaiting_location(task.code)
                task.cancel()
                for _ in range(STEPS_OF_THE_END):
                    await asyncio.sleep(0)
                raise _refusal("something that nothing in this turn will bring about", place)
        value, error = task.result()
        if error is not None:
            raise error
        return value

    def _conclude(self, event: EntityOperationReceived, outcome: _Outcome) -> None:
        """Let an operation take effect, or put its failure on record."""
        execution = self._execution
        error = outcome.error
        result: tuple[bytes | None, bytes | None] = (None, None)
        if error is None:
            for ask in outcome.doing.asked:
                ask()
            self._change_state(outcome.state)
            result = execution.value(outcome.result)
        performed = EntityOperationPerformed(
            execution.new_task_id(),
            event.operation,
            *result,
            None if error is None else self._runner.describe(error),
            event.caller,
            self._state_digest,
        )
        recorded = execution.emit(performed)
        self._count(recorded.result)
        if error is not None and event.caller is None:
            self._note_failed_signal(event, error)

    def _note_failed_signal(self, event: EntityOperationReceived, error: BaseException) -> None:
        """Say that a signal came to nothing: nobody waits who could be told."""
        execution = self._execution
        if execution.is_replaying:
            return
        details = self._runner.describe(error)
        fields = {"instance_id": execution.key.id, "run_id": execution.run_id}
        logger.warning(
            "entity '%s': signal '%s' failed and changed nothing: %s",
            self._entity,
            event.operation,
            details,
            extra=fields,
        )
        now = execution.time_us + self._operations  # notes of one moment are told apart by it
        reason = f"it failed: {details}"
        note = dropped_memo(failures_of(execution.key), type(event).__name__, event.operation, reason, now)
        execution.set_memo(note.key, note.data, DROPPED_KEPT_US)

    # ---- the state

    def _set_state(self, state: bytes | None) -> None:
        self._state, self._is_state_known = state, True
        self._state_digest = None if state is None else digest(state)

    def _change_state(self, state: bytes | None) -> None:
        if state == self._known_state():
            return
        self._set_state(state)
        self._execution.set_custom_status(self._execution.value(state)[0])

    def _known_state(self) -> bytes | None:
        """Return the state; after a replay by the record, that of the row. Raises HistoryDamagedError for another one."""
        if not self._is_state_known:
            stored = self._execution.stored_status
            assert not isinstance(stored, Unchanged), "who goes by the record has a row"
            state = None if stored is None else self._runner.unseal(stored)
            if (None if state is None else digest(state)) != self._state_digest:
                raise HistoryDamagedError(
                    f"the state of entity '{self._entity}' is not the one that its history ends with"
                )
            self._state, self._is_state_known = state, True
        return self._state

    # ---- the generation

    def _note_dispensable(self) -> None:
        """Note whether anything would be lost with the entity, if nothing waits for it."""
        is_idle = self._holder is None and not self._execution.mailbox.count
        if is_idle:
            self._withdrawn.clear()  # all requests that came before have been served
        stays = self._execution.history_bytes == self._stays_over_bytes
        self._execution.is_dispensable = is_idle and self._state_digest is None and not stays

    def _count(self, payload: bytes | None) -> None:
        """Count what this turn adds to the history: its record is not written yet."""
        if self._execution.history_bytes != self._bytes_before:
            self._bytes, self._bytes_before = 0, self._execution.history_bytes
        self._bytes += len(payload or b"")

    @property
    def _is_long(self) -> bool:
        execution = self._execution
        return execution.history_length >= EVENTS_MAX or execution.history_bytes + self._bytes >= BYTES_MAX

    def _continue(self) -> None:
        """Begin a new generation with what counts; what waits in the mailbox goes along by itself."""
        carried = {
            "state": self._known_state(),
            "holder": None if self._holder is None else list(self._holder),
            "withdrawn": [list(lock) for lock in sorted(self._withdrawn)],
        }
        plain = encode(carried, what=f"state of entity '{self._entity}'", max_bytes=CARRIED_BYTES_MAX)
        self._execution.continue_as_new(plain, None, carry_over_events=True)
