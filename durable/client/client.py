"""The client: starts orchestrations, finds them, and talks to them. It needs a store and no worker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

from durable.app import App
from durable.client.blocking import BlockingFace, GuestPortal, Portal
from durable.client.bulk import (
    FAILED,
    FINISHED,
    NOT_SUSPENDED,
    REWINDABLE,
    SUSPENDED,
    UNFINISHED,
    for_each,
    limited,
    steering,
)
from durable.client.connection import Connection, Direct
from durable.client.faces import face_of
from durable.client.filters import Filters, Statuses, check_limit, selection
from durable.client.handle import Handle, check_reason
from durable.client.purging import purge_all, rows_of
from durable.client.restarting import rewind
from durable.client.starting import (
    USES_OTHER,
    AnyOrchestrator,
    I,
    OrchestratorWithInput,
    OrchestratorWithoutInput,
    R,
    StartOptions,
    Target,
    encode_events,
    encode_input,
    find_target,
    make_start,
)
from durable.client.states import state_of
from durable.client.times import Timeout, seconds_of
from durable.errors import DurableError, InstanceAlreadyExistsError, InstanceFinishedError, InstanceNotFoundError
from durable.events import (
    HistoryEvent,
    InstanceKey,
    OrchestrationCancelRequested,
    OrchestrationResumed,
    OrchestrationSuspended,
    OrchestrationTerminated,
)
from durable.failures import forget_own_frames
from durable.features import E, EntityFilters, feature
from durable.history import History
from durable.ids import check_instance_id
from durable.middleware import Around, Middleware
from durable.model import DroppedItem, OrchestrationState, ReusePolicy
from durable.payloads import Sealer
from durable.ports import Ports, system_ports
from durable.provider import Delivery, Hub, Provider, Status, Verdict
from durable.stores import connect

if TYPE_CHECKING:
    from durable.entities.clients import EntityState
    from durable.entities.ids import EntityId
    from durable.jobs.handle import JobHandle
    from durable.jobs.model import Job
    from durable.schedules.client import Schedules


class Client:
    """A client of one hub, to be used as `async with Client(url) as client:`; `worker.client` is one.

    With an app its functions are known by that app's names and versions; without one, by what their decorators noted.
    Used in the event loop that entered it; for other code there is `Client.sync`.
    """

    def __init__(
        self,
        url_or_provider: str | Provider,
        app: App | None = None,
        *,
        ports: Ports | None = None,
        sealer: Sealer | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        """Raises StoreError for a URL that no storage engine knows; the store itself is opened on entering.

        `middleware`: what runs around all that it sends, the outermost first.
        """
        self._ports = ports or system_ports()
        self._provider = connect(url_or_provider, self._ports)
        self._app = app
        self._sealer = sealer or Sealer()
        self._around = Around(middleware)
        self._shared_hub: Hub | None = None
        self.direct: Direct | None = None
        self._connection: Connection | None = None
        self._entered = 0

    @classmethod
    def sharing(
        cls,
        provider: Provider,
        hub: Hub,
        app: App | None,
        ports: Ports,
        *,
        sealer: Sealer | None = None,
        around: Around | None = None,
        direct: Direct | None = None,
    ) -> Client:
        """Return a client of a provider that somebody else, such as a worker, has just opened and will close.

        `direct`: who may begin runs at once in this process.
        """
        client = cls(provider, app, ports=ports, sealer=sealer)
        client._shared_hub = hub
        client._around = around or client._around
        client.direct = direct
        return client

    @staticmethod
    def sync(
        url: str | Provider,
        app: App | None = None,
        *,
        ports: Ports | None = None,
        sealer: Sealer | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> SyncClient:
        """Return a blocking client with the same interface, for scripts and WSGI code; thread-safe.

        Opens the store with its first use. Close it, or use it as `with Client.sync(url) as client:`.
        """
        return SyncClient(url, app, ports=ports, sealer=sealer, middleware=middleware)

    # ---- life

    async def __aenter__(self) -> Self:
        self._entered += 1
        if self._connection is None:
            try:
                hub = self._shared_hub or await self._provider.open()
                self._connection = Connection(
                    self._provider, hub, self._app, self._ports, self._sealer, self._around, self.direct
                )
            except BaseException:
                self._entered -= 1
                if self._shared_hub is None:
                    await self._provider.close()
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        if isinstance(error, asyncio.CancelledError):
            forget_own_frames(error)
        self._entered -= 1
        if self._entered == 0:
            await self.close()

    async def close(self) -> None:
        """Let go of the store. Whoever still waits gets a DurableError; what was sent stays sent."""
        connection, self._connection = self._connection, None
        self._entered = 0
        if connection is None:
            return
        try:
            await connection.close()
        finally:
            if self._shared_hub is None:
                await self._provider.close()

    @property
    def connection(self) -> Connection:
        """The open hub, for features that build on the client. Raises DurableError while the client is not open."""
        if self._connection is None:
            raise DurableError("this client is not open: use it inside of `async with Client(url) as client:`")
        return self._connection

    def __repr__(self) -> str:
        return f"<Client, {'open' if self._connection else 'not open'}>"

    # ---- starting

    @overload
    async def start(
        self, orchestrator: OrchestratorWithInput[I, R], input: I, **options: Unpack[StartOptions]
    ) -> Handle[R]: ...
    @overload
    async def start(
        self, orchestrator: OrchestratorWithoutInput[R], input: None = None, **options: Unpack[StartOptions]
    ) -> Handle[R]: ...
    @overload
    async def start(self, orchestrator: str, input: Any = None, **options: Unpack[StartOptions]) -> Handle[Any]: ...
    async def start(
        self,
        orchestrator: Callable[..., Any] | str,
        input: Any = None,  # noqa: A002 (the interface's name)
        *,
        instance_id: str | None = None,
        at: datetime | timedelta | None = None,
        version: str | None = None,
        tags: Mapping[str, str] | None = None,
        reuse_policy: ReusePolicy = ReusePolicy.REJECT,
        events: Iterable[tuple[str, Any]] = (),
    ) -> Handle[Any]:
        """Start an orchestration; on return it is durable. See `StartOptions` for the options.

        Raises InvalidInputError, before anything is stored, for an input that does not fit a function, a bad id or bad
        tags; InstanceAlreadyExistsError with the current state, by the reuse policy; InstanceFinishedError for events to a
        finished instance that USE_EXISTING would use; UnknownNameError for a function that was never registered.
        """
        connection = self.connection
        policy = ReusePolicy(reuse_policy)
        target = find_target(self._app, orchestrator, version)
        payload = encode_input(target, input, self._sealer)
        raised = encode_events(events, self._sealer) if events else None
        run_id = self._ports.new_id()
        key = connection.key_of(instance_id, may_begin_here=target.is_known and at is None)
        start = make_start(
            key,
            connection.partitions,
            run_id,
            target,
            payload,
            now=await connection.clock.now(self._provider),
            at=at,
            tags=tags,
            reuse_policy=policy,
            events=raised,
        )
        delivery = await connection.submit("start", *start)
        if delivery.verdict is not Verdict.STORED:
            used = await self._used(key, run_id, delivery, policy, has_events=bool(raised))
            return Handle(connection, key, used, result_annotation=target.result_annotation)
        return Handle(connection, key, run_id, result_annotation=target.result_annotation, is_fresh=True)

    async def _used(
        self, key: InstanceKey, run_id: str, delivery: Delivery, policy: ReusePolicy, *, has_events: bool
    ) -> str:
        """Return the run that a start gives a handle to where another is in the way, or raise why it does not."""
        if delivery.verdict not in (Verdict.EXISTS, Verdict.ADOPTED):
            self.connection.refuse(delivery, key)
        row = delivery.row
        if row is None:  # the answer to a repeated batch may lack it
            (row,) = await self._provider.load([(key, None)])
        if row is not None and row.run_id == run_id:
            return run_id  # it was stored by an earlier try, whose answer was lost
        if policy not in USES_OTHER:
            state = None if row is None else state_of(row, self._sealer)
            status = "" if state is None else f" and is {state.status}"
            raise InstanceAlreadyExistsError(
                f"instance '{key.id}' exists{status}: choose another id, or another reuse_policy than {policy.name}",
                state,
            )
        if row is None:
            raise InstanceNotFoundError(f"instance '{key.id}' was there, and was purged a moment later: start it again")
        if has_events and row.status.is_finished:
            raise InstanceFinishedError(f"instance '{key.id}' has ended ({row.status.name}) and takes no events")
        return row.run_id

    @overload
    async def run(
        self,
        orchestrator: OrchestratorWithInput[I, R],
        input: I,
        *,
        timeout: Timeout = None,
        **options: Unpack[StartOptions],
    ) -> R: ...
    @overload
    async def run(
        self,
        orchestrator: OrchestratorWithoutInput[R],
        input: None = None,
        *,
        timeout: Timeout = None,
        **options: Unpack[StartOptions],
    ) -> R: ...
    @overload
    async def run(
        self, orchestrator: str, input: Any = None, *, timeout: Timeout = None, **options: Unpack[StartOptions]
    ) -> Any: ...
    async def run(
        self,
        orchestrator: Any,
        input: Any = None,  # noqa: A002 (the interface's name)
        *,
        timeout: Timeout = None,
        **options: Unpack[StartOptions],
    ) -> Any:
        """Start an orchestration and return its result; raises what `start` and `Handle.result` raise.

        After a timeout the orchestration goes on.
        """
        seconds_of(timeout)
        handle = await self.start(orchestrator, input, **options)
        return await handle.result(timeout)

    @overload
    def get(self, instance_id: str, orchestrator: AnyOrchestrator[R]) -> Handle[R]: ...
    @overload
    def get(self, instance_id: str, orchestrator: str | None = None) -> Handle[Any]: ...
    def get(self, instance_id: str, orchestrator: Callable[..., Any] | str | None = None) -> Handle[Any]:
        """Return a handle to whichever run of an instance is current; nothing is looked up.

        With the function, results are made by its return annotation.
        """
        target = Target("", None) if orchestrator is None else find_target(self._app, orchestrator)
        key = InstanceKey(check_instance_id(instance_id))
        return Handle(self.connection, key, result_annotation=target.result_annotation)

    # ---- entities

    async def signal_entity(
        self,
        entity: EntityId[Any],
        operation: Callable[..., Any] | str,
        input: Any = None,  # noqa: A002 (the interface's name)
        *,
        at: datetime | timedelta | None = None,
    ) -> None:
        """Signal an operation of an entity; on return it is durable. `at`: an aware datetime, or a timedelta from now.

        The operation is given by name, or as a method of the class. Nobody waits for it, and nobody hears of its failure.
        Raises InvalidInputError, before anything is stored, for an input that does not fit a method, LimitExceededError,
        UnknownNameError for a method of another class, and ValueError for a naive `at`.
        """
        await feature("entities").send_signal(self, entity, operation, input, at)

    async def get_entity(self, entity: EntityId[E]) -> EntityState[E] | None:
        """Return an entity as it is now; None for one without a state, unless it has stalled. Needs no worker.

        Raises PayloadError for a state that today's class cannot take.
        """
        found: EntityState[E] | None = await feature("entities").get_entity(self, entity)
        return found

    @overload
    def query_entities(
        self, entity: type[E], **filters: Unpack[EntityFilters]
    ) -> AsyncGenerator[EntityState[E], None]: ...
    @overload
    def query_entities(
        self, entity: str | None = None, **filters: Unpack[EntityFilters]
    ) -> AsyncGenerator[EntityState[Any], None]: ...
    async def query_entities(
        self, entity: type[Any] | str | None = None, **filters: Unpack[EntityFilters]
    ) -> AsyncGenerator[EntityState[Any], None]:
        """Yield the entities that match all that is given (see `EntityFilters`), by the time of their creation.

        `entity`: the class or its name; None: of every class. Entities without a state are left out.
        """
        async with contextlib.aclosing(feature("entities").query_entities(self, entity, **filters)) as found:
            async for state in found:
                yield state

    async def entity_history(self, entity: EntityId[Any]) -> History:
        """Return the history of an entity's current generation, verified: its last operations, and who asked for them.

        Raises InstanceNotFoundError, and HistoryDamagedError if it does not match its checksums.
        """
        found: History = await feature("entities").read_history(self, entity)
        return found

    async def entity_dropped(self, entity: EntityId[Any]) -> list[DroppedItem]:
        """Return which signals of an entity have failed, and what else was refused, with reasons; the oldest first.

        Such notes are kept for 30 days. Raises InstanceNotFoundError where there are none, and no entity.
        """
        found: list[DroppedItem] = await feature("entities").read_dropped(self, entity)
        return found

    # ---- jobs and schedules

    async def schedule(
        self,
        job: Job,
        *,
        at: datetime | timedelta | None = None,
        instance_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        reuse_policy: ReusePolicy = ReusePolicy.REJECT,
    ) -> JobHandle:
        """Start a tree of jobs; on return it is durable. `at`, an aware datetime or a timedelta, is when its root is due.

        Raises UnknownNameError for a function that was never registered, and, before anything is stored,
        InvalidInputError for a request that does not fit its function, LimitExceededError; and what `start` raises.
        """
        options = {"at": at, "instance_id": instance_id, "tags": tags, "reuse_policy": reuse_policy}
        handle: JobHandle = await feature("jobs").schedule(self, job, **options)
        return handle

    async def schedule_many(
        self,
        jobs: Iterable[Job],
        *,
        at: datetime | timedelta | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> list[JobHandle]:
        """Start a tree for each job, up to 1,000 in one commit; return their handles in order. Raises what `schedule` raises.

        A job that is refused before anything is stored refuses all of them.
        """
        handles: list[JobHandle] = await feature("jobs").schedule_many(self, jobs, at=at, tags=tags)
        return handles

    def get_job(self, instance_id: str) -> JobHandle:
        """Return a handle to whichever job tree is current under an instance id; nothing is looked up."""
        handle: JobHandle = feature("jobs").get_job(self, instance_id)
        return handle

    @property
    def schedules(self) -> Schedules:
        """The schedules of the hub: cron expressions, intervals and single times."""
        schedules: Schedules = feature("schedules").of(self)
        return schedules

    # ---- many instances

    async def query(
        self,
        *,
        status: Statuses | None = None,
        name: str | None = None,
        prefix: str | None = None,
        tags: Mapping[str, str] | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        parent: str | None = None,
        limit: int | None = None,
        newest_first: bool = True,
        payloads: bool = True,
    ) -> AsyncGenerator[OrchestrationState, None]:
        """Yield the states of the instances that match all that is given (see `Filters`), by the time of their creation.

        Without `payloads` input, output and custom status are None. Activities are shown by `Handle.state` only.
        """
        check_limit(limit)
        selected = selection(
            status=status,
            name=name,
            prefix=prefix,
            tags=tags,
            created_after=created_after,
            created_before=created_before,
            parent=parent,
        )
        connection = self.connection
        if selected.is_void:
            return
        rows = rows_of(connection.provider, selected.wanted, limit=limit, newest_first=newest_first)
        async with contextlib.aclosing(rows):
            async for row in rows:
                yield state_of(row, self._sealer, payloads=payloads)

    async def count(self, **filters: Unpack[Filters]) -> int:
        """Return how many instances match (see `Filters`)."""
        selected = selection(**filters)
        return 0 if selected.is_void else await self.connection.provider.count(selected.wanted)

    async def wait(self, *, timeout: Timeout = None, **filters: Unpack[Filters]) -> int:
        """Wait until the instances that match now have ended; return how many have, after a timeout those so far.

        Instances that begin to match later do not count. One that is purged meanwhile had ended.
        """
        seconds = seconds_of(timeout)
        connection = self.connection
        until = None if seconds is None else asyncio.get_running_loop().time() + seconds
        selected = selection(**filters)
        if selected.is_void:
            return 0
        finished = 0
        with contextlib.ExitStack() as stack:
            watches = []
            async with contextlib.aclosing(rows_of(connection.provider, selected.wanted)) as rows:
                async for row in rows:
                    if row.status.is_finished:
                        finished += 1
                    else:
                        watches.append(stack.enter_context(connection.waiters.watch(row.key, row.run_id)))
            for watch in watches:
                try:
                    await watch.next(until)
                except (TimeoutError, InstanceNotFoundError):
                    pass  # counted below, as those are whose turn did not come
            return finished + sum(watch.has_ended for watch in watches)

    async def confirm_clock(self) -> timedelta:
        """Say that the store's clock is right as it is, after an alarm that it had jumped; return how far time moved by that.

        After a jump by over an hour leases and timers go on by monotonic time, until the store's clock agrees again: it
        may have been a mistake. Where the new time is the right one, this ends it, and what is due by then is due at once.
        Zero if there was nothing to confirm. Workers follow within a few seconds.
        """
        provider = self.connection.provider
        lease = await provider.lease("operator", b"", worker=False)
        before = await provider.renew(lease)
        after = await provider.renew(lease, confirms_clock=True)
        await provider.release(lease)
        self.connection.clock.agree(after.now)
        return timedelta(microseconds=after.clock.correction - before.clock.correction)

    async def purge(self, **filters: Unpack[Filters]) -> int:
        """Remove the finished instances that match (see `Filters`) with their histories; return how many.

        Raises ValueError without any filter.
        """
        finished = limited(selection(**filters), "purge", FINISHED)
        if finished.is_void:
            return 0
        return await purge_all(self.connection.provider, finished.wanted)

    async def cancel(self, *, reason: str = "", dry_run: bool = False, **filters: Unpack[Filters]) -> int:
        """Ask the unfinished instances that match (see `Filters`) to cancel; return how many were asked.

        As `terminate`, `suspend`, `resume` and `rewind` it does for each what `Handle` does for one, and raises ValueError
        without any filter. With `dry_run` nothing is sent: the answer is how many would be meant now.
        """
        return await self._steer(
            "cancel", UNFINISHED, OrchestrationCancelRequested(check_reason(reason)), dry_run, filters
        )

    async def terminate(
        self, *, reason: str = "", recursive: bool = True, dry_run: bool = False, **filters: Unpack[Filters]
    ) -> int:
        """End the unfinished instances that match by force, with `recursive` their children too; return how many."""
        event = OrchestrationTerminated(check_reason(reason), bool(recursive))
        return await self._steer("terminate", UNFINISHED, event, dry_run, filters)

    async def suspend(self, *, reason: str = "", dry_run: bool = False, **filters: Unpack[Filters]) -> int:
        """Hold the unfinished instances that match and are not suspended yet; return how many."""
        return await self._steer(
            "suspend", NOT_SUSPENDED, OrchestrationSuspended(check_reason(reason)), dry_run, filters
        )

    async def resume(self, *, reason: str = "", dry_run: bool = False, **filters: Unpack[Filters]) -> int:
        """Let the suspended instances that match go on; return how many."""
        return await self._steer("resume", SUSPENDED, OrchestrationResumed(check_reason(reason)), dry_run, filters)

    async def _steer(
        self, call: str, statuses: Sequence[Status], event: HistoryEvent, dry_run: bool, filters: Filters
    ) -> int:
        connection = self.connection
        selected = limited(selection(**filters), call, statuses)
        return await for_each(connection, selected, dry_run=dry_run, act=steering(connection, event))

    async def rewind(self, *, reason: str = "", dry_run: bool = False, **filters: Unpack[Filters]) -> int:
        """Rewind the failed instances that match; those that were cancelled or terminated only where `status` names that."""
        connection, checked = self.connection, check_reason(reason)
        statuses = FAILED if filters.get("status") is None else REWINDABLE
        selected = limited(selection(**filters), "rewind", statuses)
        return await for_each(connection, selected, dry_run=dry_run, act=lambda row: rewind(connection, row, checked))


class _Blocking(BlockingFace):
    """What a blocking client adds to its face: it owns the portal."""

    __slots__ = ()

    def __init__(self, url_or_provider: str | Provider, app: App | None = None, **options: Any) -> None:
        client = Client(url_or_provider, app, **options)
        super().__init__(Portal("durable-client", begin=client.__aenter__, finish=client.close), client)

    def __enter__(self) -> Self:
        self._portal.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the store and wait for the portal's thread."""
        self._portal.close()


if TYPE_CHECKING:
    from durable.client.sync_types import SyncClient as SyncClient  # pyright: ignore[reportMissingModuleSource]
else:
    SyncClient = face_of(
        Client, "SyncClient", base=_Blocking, without=frozenset({"close", "connection", "sharing", "sync"})
    )


def blocking_face(client: Client, portal: GuestPortal) -> SyncClient:
    """Return the blocking face of a client that lives in somebody else's loop, for threads beside that loop."""
    face = SyncClient.__new__(SyncClient)
    BlockingFace.__init__(face, portal, client)  # type: ignore[arg-type]  # the stub shows it without its base
    return face
