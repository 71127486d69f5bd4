"""A handle: one instance, or one run of it, from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from durable import payloads
from durable.client.asking import query, update
from durable.client.blocking import BlockingFace
from durable.client.connection import Connection
from durable.client.faces import face_of
from durable.client.purging import purge_targets, purged
from durable.client.restarting import fork, restart, rewind
from durable.client.starting import encode_event
from durable.client.states import dropped_of, failure_of, open_activities, state_of
from durable.client.times import Timeout, seconds_of
from durable.errors import (
    FailureDetails,
    InvalidInputError,
    LimitExceededError,
    OrchestrationCancelledError,
    OrchestrationFailedError,
    OrchestrationTerminatedError,
    StoreUnavailableError,
)
from durable.events import (
    HistoryEvent,
    InstanceKey,
    OrchestrationCancelRequested,
    OrchestrationResumed,
    OrchestrationSuspended,
    OrchestrationTerminated,
)
from durable.failures import TEXT_BYTES_MAX
from durable.history import History, read_history
from durable.model import DroppedItem, OrchestrationState
from durable.provider import InstanceRow, Priority, Status

T_co = TypeVar("T_co", covariant=True)

FRESH_SECONDS: Final = 0.005
"""So soon after a start nothing can have happened that this process has not heard of, or will not look for shortly."""


class Handle(Generic[T_co]):
    """An orchestration instance, from outside. Made by `client.start` and `client.get`; costs nothing and needs no closing.

    From `start` it is bound to its run, and shows that run's end until it is purged, also after the instance was
    replaced. From `get` it follows whichever run is current.
    """

    __slots__ = ("__weakref__", "_annotation", "_connection", "_fresh_until", "_key", "_run_id", "_seen_run_id")

    def __init__(
        self,
        connection: Connection,
        key: InstanceKey,
        run_id: str | None = None,
        *,
        result_annotation: Any = payloads.ANY,
        is_fresh: bool = False,
    ) -> None:
        """For clients and features: `run_id` binds it, `is_fresh` says that the run was started just now."""
        self._connection = connection
        self._key = key
        self._run_id = run_id
        self._seen_run_id = run_id
        self._annotation = result_annotation
        self._fresh_until = asyncio.get_running_loop().time() + FRESH_SECONDS if is_fresh else 0.0

    @property
    def instance_id(self) -> str:
        """The instance's id."""
        return self._key.id

    @property
    def run_id(self) -> str | None:
        """The run that the handle is bound to; of one from `get`, the run that it saw last, None before it saw any."""
        return self._seen_run_id

    def __repr__(self) -> str:
        run = f", run {self._run_id}" if self._run_id else ""
        return f"<Handle of '{self._key.id}'{run}>"

    # ---- waiting

    async def result(self, timeout: Timeout = None) -> T_co:
        """Wait for the end and return what the orchestrator returned.

        Raises OrchestrationFailedError, OrchestrationCancelledError or OrchestrationTerminatedError by how it ended,
        TimeoutError whose text says where it stands, InstanceNotFoundError.
        """
        row = await self._end(timeout)
        if row.status is Status.COMPLETED:
            return self._output(row)
        details = failure_of(row)
        reason = f": {details.message}" if details is not None and details.message else ""
        if row.status is Status.CANCELLED:
            raise OrchestrationCancelledError(f"orchestration '{self._key.id}' was cancelled{reason}")
        if row.status is Status.TERMINATED:
            raise OrchestrationTerminatedError(f"orchestration '{self._key.id}' was terminated{reason}")
        unknown = FailureDetails("durable.errors.DurableError", "the store holds no details of the failure")
        raise OrchestrationFailedError(self._key.id, details or unknown)

    def _output(self, row: InstanceRow) -> T_co:
        what = f"result of '{self._key.id}'"
        plain = payloads.encode(None) if row.output is None else self._connection.sealer.unseal(row.output)
        output: T_co = payloads.decode(plain, self._annotation, what=what, strict_size=False)
        return output

    async def wait(self, timeout: Timeout = None) -> OrchestrationState:
        """Wait for the end, whatever it is, and return it. Raises TimeoutError as `result` does, InstanceNotFoundError."""
        return state_of(await self._end(timeout), self._connection.sealer)

    async def _end(self, timeout: Timeout) -> InstanceRow:
        seconds = seconds_of(timeout)
        loop = asyncio.get_running_loop()
        now = loop.time()
        until = None if seconds is None else now + seconds
        with self._connection.waiters.watch(self._key, self._run_id, is_fresh=now < self._fresh_until) as watch:
            try:
                row = await watch.next(until)
            except TimeoutError:
                row = watch.latest or await self._look_once(seconds)
        self._seen_run_id = row.run_id
        if not row.status.is_finished:
            raise TimeoutError(_standing(row, seconds))
        return row

    async def _look_once(self, seconds: float | None) -> InstanceRow:
        """Look for the first time although the time is up: it may have been 0."""
        try:
            return await self._connection.load(self._key, self._run_id)
        except StoreUnavailableError as error:
            raise TimeoutError(
                f"'{self._key.id}' had not ended after {seconds:g} s, as far as is known: {error}"
            ) from error

    async def watch(self) -> AsyncGenerator[OrchestrationState, None]:
        """Yield the state now, after each change of status or custom status, and at the end, which ends it."""
        shown: tuple[object, ...] = ()
        with self._connection.waiters.watch(self._key, self._run_id, shows_all=True) as watch:
            while True:
                row = await watch.next()
                self._seen_run_id = row.run_id
                mark = (row.run_id, row.status, row.custom_status)
                if mark != shown:
                    shown = mark
                    yield state_of(row, self._connection.sealer)
                if row.status.is_finished:
                    return

    # ---- looking

    async def _row(self) -> InstanceRow:
        row = await self._connection.load(self._key, self._run_id)
        self._seen_run_id = row.run_id
        return row

    async def state(self) -> OrchestrationState:
        """Return the state now, with the activities that have no outcome yet. Raises InstanceNotFoundError."""
        row = await self._row()
        activities = await open_activities(
            self._connection.provider, self._connection.running, row, self._connection.sealer
        )
        return state_of(row, self._connection.sealer, activities=activities)

    async def history(self, *, generation: int | None = None) -> History:
        """Return the history of a generation, verified; None: of the current one.

        Of a run that was rewound all generations stay readable, of one that continued as new the last one before. Raises
        InstanceNotFoundError, and HistoryDamagedError if it does not match its checksums.
        """
        connection = self._connection
        history = await read_history(
            connection.provider, self._key, self._run_id, generation=generation, sealer=connection.sealer
        )
        self._seen_run_id = history.run_id
        return history

    async def dropped(self) -> list[DroppedItem]:
        """Return what was refused, came too late or could not be delivered, with reasons; the oldest first.

        Such notes are kept for 30 days. Raises InstanceNotFoundError.
        """
        return await dropped_of(self._connection.provider, (await self._row()).run_id)

    # ---- asking

    async def query(self, name: str, arg: Any = None) -> Any:
        """Return what the orchestration answers to a query that it has registered, as plain data. It leaves no trace.

        The answer shows what is durable. A suspended instance answers too; of one that has ended the history is replayed
        here, if the client has the app. Raises UnknownNameError for a query that there is not, InvalidInputError for an
        argument that does not fit, QueryFailedError for a handler that raised or did more than look, TimeoutError if nobody has
        answered within 30 s, InstanceNotFoundError, InstanceFinishedError for one that has ended where there is no app.
        """
        return await query(self._connection, self._key, self._run_id, name, arg)

    async def update(self, name: str, arg: Any = None, *, timeout: Timeout = None) -> Any:
        """Have an update carried out that the orchestration has registered; return its result, as plain data.

        It is durable once it is sent, and carried out once. Raises UpdateRejectedError with the message of the validator
        that refused it (nothing is recorded then), or where no update of that name is registered or the argument does not fit;
        UpdateFailedError for a handler that raised, or had not finished when the orchestration ended; TimeoutError after
        `timeout`, though it may still be carried out; InstanceFinishedError, InstanceNotFoundError.
        """
        return await update(self._connection, self._key, self._run_id, name, arg, seconds_of(timeout))

    # ---- sending

    async def raise_event(self, name: str, data: Any = None) -> None:
        """Send an external event; it is durable on return.

        Raises InstanceNotFoundError, InstanceFinishedError, InvalidInputError for a bad name, TypeError for data that
        cannot be stored, LimitExceededError.
        """
        event = encode_event(name, data, self._connection.sealer)
        await self._connection.send(self._key, [event], run_id=self._run_id)

    async def cancel(self, reason: str = "") -> None:
        """Ask the orchestration to cancel: CancelledError is raised in its code, once, where it waits.

        As `terminate`, `suspend` and `resume` it is durable on return, applies at the next turn, and raises
        InstanceFinishedError and InstanceNotFoundError.
        """
        await self._steer(OrchestrationCancelRequested(check_reason(reason)))

    async def terminate(self, reason: str = "", recursive: bool = True) -> None:
        """End the instance by force, without running its code; with `recursive` its unfinished children as well."""
        await self._steer(OrchestrationTerminated(check_reason(reason), bool(recursive)))

    async def suspend(self, reason: str = "") -> None:
        """Hold the instance: what arrives is recorded, and waits for the resume."""
        await self._steer(OrchestrationSuspended(check_reason(reason)))

    async def resume(self, reason: str = "") -> None:
        """Let a suspended instance go on."""
        await self._steer(OrchestrationResumed(check_reason(reason)))

    async def _steer(self, event: HistoryEvent) -> None:
        await self._connection.send(self._key, [event], run_id=self._run_id, priority=Priority.CONTROL)

    # ---- beginning again

    async def restart(self, *, new_id: str | None = None, version: str | None = None) -> Self:
        """Start the orchestration once more, with the same input and tags; return a handle that is bound to the new run.

        Under its own id, where it must have ended, or under `new_id`, whether it has or not. After continue-as-new the
        input is that of the last generation. It runs in the newest version, or in `version`, and has no parent; a time that
        it was for (`at=`, a schedule's) it is for again. Raises
        InstanceRunningError, InstanceAlreadyExistsError for a `new_id` that is in use, InstanceNotFoundError.
        """
        connection = self._connection
        key, run_id = await restart(connection, await self._row(), new_id, version)
        return self._another(key, run_id)

    async def rewind(self, reason: str = "") -> None:
        """Let what has failed run again, from the point of failure; what had succeeded is kept. On return it is unfinished.

        The run goes on in a further generation, whose history begins with that of the failed one, without the failure. Open
        activities run again, also those that were given up at the end, with their retry policies from the beginning; failed
        children are rewound as well. One that was cancelled or terminated goes on from before that. Raises
        InstanceRunningError, InstanceFinishedError if it has completed, InstanceNotFoundError.
        """
        await rewind(self._connection, await self._row(), check_reason(reason))

    async def fork(self, *, at: int, new_id: str | None = None) -> Self:
        """Start a new instance that has the first `at` events of this one's history behind it, and goes on from there.

        `at` is a history sequence: that event is the first that is not taken over. The instance may be running or finished;
        nothing of it changes. What those events had asked for and do not answer is done again by the new instance: its
        activities run, its children are started anew under ids of its own. It keeps version, input and tags, and has no
        parent. Raises ValueError for an `at` outside of the history, InstanceAlreadyExistsError, LimitExceededError if those
        events are more than one message of the store holds, InstanceNotFoundError.
        """
        connection = self._connection
        history = await self.history()
        row = await connection.load(self._key, history.run_id)
        key, run_id = await fork(connection, history, row, at, new_id)
        return self._another(key, run_id)

    def _another(self, key: InstanceKey, run_id: str) -> Self:
        """Return a handle of this kind to another run, which has begun just now."""
        return type(self)(self._connection, key, run_id, result_annotation=self._annotation, is_fresh=True)

    # ---- removing

    async def purge(self, recursive: bool = True) -> int:
        """Remove the finished run with its history, with `recursive` also its children and theirs; return how many.

        Raises InstanceRunningError, with nothing removed, if it or one of them is unfinished; InstanceNotFoundError.
        """
        targets = await purge_targets(self._connection.provider, await self._row(), recursive=recursive)
        return await purged(self._connection.provider, targets)


def _standing(row: InstanceRow, seconds: float | None) -> str:
    """Say where an instance stands that did not end in time."""
    reason = f": {row.stall_reason}" if row.stall_reason else ""
    return f"'{row.key.id}' had not ended after {seconds:g} s: it is {row.status.name}{reason}"


def check_reason(reason: str) -> str:
    """Return a reason as it may be stored. Raises TypeError, InvalidInputError, LimitExceededError."""
    if not isinstance(reason, str):
        raise TypeError(f"reason must be a string, not {reason!r:.200}")
    try:
        size = len(reason.encode())
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"reason must be valid Unicode: {reason!r:.200}") from error
    if size > TEXT_BYTES_MAX:
        raise LimitExceededError(f"reason of {size} bytes is over the limit of {TEXT_BYTES_MAX}")
    return reason


if TYPE_CHECKING:
    from durable.client.sync_types import SyncHandle as SyncHandle  # pyright: ignore[reportMissingModuleSource]
else:
    SyncHandle = face_of(Handle, "SyncHandle", base=BlockingFace)
