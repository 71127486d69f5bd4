"""`Worker`: the process's side of a hub, from start to drained stop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any

from durable.app import App, check_name
from durable.client import Client, GuestPortal, SyncClient, blocking_face
from durable.engine.execution import Execution
from durable.errors import DurableError, StoreError
from durable.failures import forget_own_frames
from durable.features import preparations
from durable.history import utc_datetime
from durable.injection import Dependencies, Provided
from durable.middleware import Around, Middleware
from durable.orchestrations import served_by
from durable.payloads import Sealer
from durable.ports import Ports, system_ports
from durable.provider import Hub, Provider
from durable.stores import connect
from durable.worker.activities import ActivityRunner
from durable.worker.announcement import Announcement
from durable.worker.attempt import Attempt
from durable.worker.calling import Calling
from durable.worker.claims import Claims
from durable.worker.clock import StoreClock
from durable.worker.health import WorkerHealth
from durable.worker.leasing import LeaseKeeper
from durable.worker.owner import Owner
from durable.worker.retention import Retention
from durable.worker.threads import DaemonThreads, NoThreads, Threads
from durable.worker.turns import Turns
from durable.worker.watchdog import TurnWatch, Unwatched, Watchdog
from durable.worker.watching import Watchers

logger = logging.getLogger("durable.worker")

SETTLE_S = 5.0
"""How long a stop waits for commits that are on their way, after the activities."""


RARE_COLLECTIONS = (10_000, 10, 20)
"""Python looks through all objects whenever their number has grown by a quarter, also when thousands of instances get work at
one moment and nothing of that is garbage: a third of such a worker's time. A process that does nothing but serve can wait for
two million further objects; what a worker lets go it does not leave to the collector."""

ATTEMPTS_TOLD = 3
"""How many activities a log line names one by one."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Settings:
    """How a worker was asked to run."""

    name: str
    queues: tuple[str, ...]
    orchestrations: bool = dataclasses.field(kw_only=True)
    activities: bool = dataclasses.field(kw_only=True)
    max_activities: int = dataclasses.field(kw_only=True)
    max_cached: int = dataclasses.field(kw_only=True)
    strict: bool = dataclasses.field(kw_only=True)


class Worker:
    """Runs the orchestrations and activities of `app` on a store.

    `url_or_provider`: of the store. `queues`: the activity queues that it serves. `orchestrations=False` makes it an
    activity-only worker, `activities=False` one that only decides. At most `max_activities` run at a time; sync ones in
    threads. `max_cached_orchestrations` engines are kept in memory (0: every turn replays from scratch). `strict`: a value
    that differs on replay stalls the instance, not only a different request. `shutdown_timeout` in seconds or as a
    timedelta: how long a stop waits for running activities. `dependencies`: what its activities want injected (`Inject`),
    by type or name, each a value or a factory; they are made before it begins, and closed after it has stopped.
    `middleware`: what runs around its activities, its turns and what its client sends, the outermost first.

    `async with worker` starts and drains it; `await worker.run()` serves until SIGINT or SIGTERM. It may be built without a
    running loop, and is used once.
    """

    def __init__(
        self,
        app: App,
        url_or_provider: str | Provider,
        *,
        name: str | None = None,
        queues: Sequence[str] = ("default",),
        orchestrations: bool = True,
        activities: bool = True,
        max_activities: int = 100,
        max_cached_orchestrations: int = 10_000,
        strict: bool = False,
        shutdown_timeout: float | timedelta = 30,
        dependencies: Dependencies | None = None,
        middleware: Sequence[Middleware] = (),
        ports: Ports | None = None,
    ) -> None:
        if isinstance(queues, str):
            raise TypeError(f"queues must be a sequence of names, not the string {queues!r}; write ({queues!r},)")
        for queue in queues:
            check_name("queue", queue)
        if max_activities < 1:
            raise ValueError(f"max_activities must be 1 or more, not {max_activities!r}")
        if max_cached_orchestrations < 0:
            raise ValueError(f"max_cached_orchestrations must be 0 or more, not {max_cached_orchestrations!r}")
        if isinstance(shutdown_timeout, timedelta):
            shutdown_timeout = shutdown_timeout.total_seconds()
        self.app = app
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        self._ports = ports or system_ports()
        self._provider = connect(url_or_provider, self._ports)
        self._settings = _Settings(
            self.name,
            tuple(queues) if activities else (),
            orchestrations=orchestrations,
            activities=activities,
            max_activities=max_activities,
            max_cached=max_cached_orchestrations,
            strict=strict,
        )
        self._provided = Provided(dependencies or {})
        self._around = Around(middleware)
        self._watchers = Watchers(middleware)
        self._shutdown_s = max(float(shutdown_timeout), 0.0)
        self._parts: _Parts | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._failed: asyncio.Future[None] | None = None
        self._is_used = False
        self._has_stopped = False

    # ---- life

    async def __aenter__(self) -> Worker:
        if self._is_used:
            raise DurableError("a Worker is used once; make a new one")
        self._is_used = True
        for definition in self.app.activities:
            if definition.options.queue in self._settings.queues:
                self._provided.check(str(definition), definition.signature.injected)
        await self._provided.open()
        try:
            await self._begin()
        except BaseException:
            await self._provided.close()
            raise
        return self

    async def _begin(self) -> None:
        hub = await self._provider.open()
        try:
            self._parts = _Parts(
                self.app,
                self._provider,
                self._ports,
                self._settings,
                hub,
                provided=self._provided,
                around=self._around,
                watchers=self._watchers,
            )
            await self._parts.begin()
            for prepare in preparations() if self._settings.orchestrations else ():
                await prepare(self.app, self._parts.client)
        except BaseException:
            if self._parts is not None:
                await self._parts.abandon()
            await self._provider.close()
            raise
        self._failed = asyncio.get_running_loop().create_future()
        self._tasks = [self._serve(part) for part in self._parts.services()]
        self._watchers.serving(self.name, self.health)
        logger.info("worker '%s' serves hub '%s'", self.name, hub.name)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        parts = self._parts
        if parts is None:
            return
        if isinstance(error, asyncio.CancelledError):
            forget_own_frames(error)
        try:
            await self._drain(parts)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await parts.abandon()
            with contextlib.suppress(StoreError):
                await parts.release()
            try:
                await parts.client.__aexit__(None, None, None)
                await self._provider.close()
            finally:
                await self._provided.close()
                self._has_stopped = True
                self._watchers.stopped(self.name)
            logger.info("worker '%s' has stopped", self.name)

    async def _drain(self, parts: _Parts) -> None:
        """Let activities end, and say what is waited for: a stop that takes its time looks like one that hangs."""
        waiting = parts.runner.waiting
        parts.close()
        running = [attempt for attempt in parts.runner.attempts.values() if not attempt.is_settled]
        if running:
            logger.info(
                "worker '%s' is stopping, it waits up to %g s for %s%s",
                self.name,
                self._shutdown_s,
                _told(running),
                f"; {waiting} more have not begun and are left for later" if waiting else "",
            )
        else:
            logger.info("worker '%s' is stopping", self.name)
        given_up = await parts.drain(self._shutdown_s)
        if given_up:
            logger.warning(
                "worker '%s' does not wait any longer for %s: what has no outcome is delivered again by the next worker",
                self.name,
                _told(given_up),
            )

    async def run(self) -> None:
        """Serve until SIGINT or SIGTERM, then stop as `async with` does; a second signal ends at once.

        Python's collector of garbage comes less often meanwhile (`RARE_COLLECTIONS`), unless the program has seen to that
        itself. Raises what made the worker itself fail, if that ends it.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def asked_to_stop() -> None:
            if stop.is_set():
                logger.warning("second signal: the worker ends at once")
                os._exit(130)
            stop.set()

        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, asked_to_stop)
        before = gc.get_threshold()
        if before[0] and before < RARE_COLLECTIONS:
            gc.set_threshold(*RARE_COLLECTIONS)
        try:
            await self.serve(stop)
        finally:
            gc.set_threshold(*before)
            for number in numbers:
                loop.remove_signal_handler(number)

    async def serve(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then stop as `async with` does. Raises what made the worker itself fail."""
        async with self:
            assert self._failed is not None
            waiting = asyncio.get_running_loop().create_task(stop.wait())
            ends: set[asyncio.Future[Any]] = {waiting, self._failed}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if self._failed.done():
                self._failed.result()

    def abandon(self) -> None:
        """Forget everything in memory, as a process that is killed would: nothing is written, and no code goes on.

        For whoever simulates that. What orchestrators were in the middle of is closed, with no effect outside.
        """
        if self._parts is not None:
            self._parts.owner.drop_everything()

    @property
    def client(self) -> Client:
        """A client of the same hub; works while the worker runs."""
        if self._parts is None:
            raise DurableError("the worker is not running: use `async with worker:` or `await worker.run()` first")
        return self._parts.client

    @property
    def footprint(self) -> Mapping[str, int]:
        """How much this worker has in memory just now, by kind. When all that it owns has ended, and was told, it is nothing.

        Empty before the worker has begun.
        """
        parts = self._parts
        if parts is None:
            return {}
        return parts.owner.footprint | {"attempts": len(parts.runner.attempts), "reports": parts.claims.unreported}

    def health(self) -> WorkerHealth:
        """Return how the worker is, for a probe. It asks nobody: it works, and says so, while the store is away.

        Before it has begun and after it has stopped it is neither live nor ready.
        """
        parts, failed = self._parts, self._failed
        if parts is None or failed is None or self._has_stopped:
            return WorkerHealth(self.name, is_live=False, is_ready=False, is_stopping=self._has_stopped)
        failure = failed.exception() if failed.done() else None
        return parts.health(self.name, failure)

    @property
    def ports(self) -> Ports:
        """What the worker was handed."""
        return self._ports

    def _serve(self, service: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(service())
        task.add_done_callback(self._service_ended)
        return task

    def _service_ended(self, task: asyncio.Task[None]) -> None:
        """A service ends only by being cancelled, or by a fault that the worker cannot serve with."""
        if task.cancelled() or task.exception() is None:
            return
        error = task.exception()
        logger.critical("worker '%s' cannot go on: %s", self.name, error, exc_info=error)
        if self._parts is not None:
            self._parts.owner.direct.end(f"the worker cannot go on: {error}")
        if self._failed is not None and not self._failed.done():
            assert error is not None
            self._failed.set_exception(error)
            self._failed.exception()  # looked at: `run` raises it; inside `async with` the log has it


def _told(attempts: Sequence[Attempt]) -> str:
    """Name attempts for the log, the first few one by one."""
    names = [f"'{attempt.request.name}' of '{attempt.address.key.id}'" for attempt in attempts[:ATTEMPTS_TOLD]]
    more = f" and {len(attempts) - len(names)} more" if len(attempts) > len(names) else ""
    return f"{len(attempts)} {'activity' if len(attempts) == 1 else 'activities'}: {', '.join(names)}{more}"


class _Parts:
    """The parts of a running worker, wired together."""

    def __init__(
        self,
        app: App,
        provider: Provider,
        ports: Ports,
        settings: _Settings,
        hub: Hub,
        *,
        provided: Provided,
        around: Around,
        watchers: Watchers,
    ) -> None:
        sealer = Sealer()
        self._provider, self._watchers = provider, watchers
        self.clock = StoreClock(ports.monotonic, hub.now)
        self._loop = asyncio.get_running_loop()
        self.watch: TurnWatch = Watchdog(self._mark_slow) if ports.may_start_threads else Unwatched()
        announcement = Announcement.of(served_by(app), settings.queues, orchestrations=settings.orchestrations)
        self.keeper = LeaseKeeper(
            provider,
            self.clock,
            settings.name,
            announcement,
            hub.partitions,
            on_taken=lambda partitions: self.owner.recover(partitions),
            on_leaving=lambda partitions: self.owner.leave(partitions),
            on_staying=lambda partitions: self.owner.stay(partitions),
            find_busy=lambda: self.owner.find_busy(),
            on_lost=self._lose_everything,
        )
        self.runner = ActivityRunner(
            app,
            sealer,
            self.clock,
            settings.max_activities,
            threads=_threads(ports, settings.max_activities),
            calling=Calling(sealer, provided, around),
            on_outcome=lambda attempt, event: self.owner.attempts.outcome(attempt, event),
            on_late=lambda attempt, event: self.owner.attempts.late(attempt, event),
            on_beat=lambda attempt: self.owner.attempts.beat(attempt),
            on_free=lambda: self.claims.slot_freed(),
            may_begin=lambda: self.keeper.is_valid,
            on_note=lambda memo: self.owner.commits.add_memo(memo),
            client=self._client_here,
        )
        self.claims = Claims(
            provider,
            self.keeper,
            self.clock,
            self.runner,
            settings.queues,
            is_active=settings.activities,
            on_late=lambda attempt, event: self.owner.attempts.late(attempt, event),
            watchers=watchers,
        )
        self.owner = Owner(
            provider,
            self.keeper,
            self.clock,
            self._turns(app, sealer, settings, hub, around),
            self.runner,
            self.claims,
            partitions=hub.partitions,
            max_cached=settings.max_cached,
        )
        self.client = Client.sharing(provider, hub, app, ports, around=around, direct=self.owner.direct)
        self.portal = GuestPortal(is_threaded=ports.may_start_threads)
        self.blocking_client = blocking_face(self.client, self.portal)
        self._retention = Retention(app, provider, self.keeper, self.clock) if settings.orchestrations else None
        self._unlisten: Callable[[], None] | None = None

    def _turns(self, app: App, sealer: Sealer, settings: _Settings, hub: Hub, around: Around) -> Turns:
        return Turns(
            app,
            sealer,
            self.clock,
            self.watch,
            hub.partitions,
            around,
            watchers=self._watchers,
            strict=settings.strict,
            placement=lambda partition, request: self.owner.attempts.placement(partition, request),
            leave_us=self.keeper.leave_us,
            unreserve=lambda held: self.owner.attempts.unreserve(held),
        )

    async def _lose_everything(self) -> None:
        self._watchers.lease_lost()
        await self.owner.lose_everything()

    async def begin(self) -> None:
        """Take a lease, listen, and find what is unfinished."""
        self.watch.start()
        self._unlisten = self._provider.listen(self.owner.arrivals.hear)
        await self.client.__aenter__()
        await self.keeper.begin()

    def services(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """Return what runs until the worker stops."""
        return [
            self.owner.commits.run,
            self.owner.receiver.run,
            self.keeper.run,
            self.claims.run_claims,
            self.claims.run_reports,
            *([] if self._retention is None else [self._retention.run]),
        ]

    def health(self, name: str, failure: BaseException | None) -> WorkerHealth:
        """See `Worker.health`."""
        keeper, runner, owner = self.keeper, self.runner, self.owner
        answered_at, last_us = keeper.answered_at, owner.commits.last_us
        is_live = failure is None
        return WorkerHealth(
            name,
            is_live=is_live,
            is_ready=is_live and keeper.is_valid and not owner.is_draining,
            is_stopping=owner.is_draining,
            store_error=keeper.trouble,
            store_answered_s=None if answered_at is None else self.clock.monotonic() - answered_at,
            last_commit_at=None if last_us is None else utc_datetime(last_us),
            lease_s=keeper.remaining_s,
            partitions=len(keeper.owned),
            turns=owner.footprint["turns"],
            activities=runner.slots - runner.free_slots,
            activities_waiting=runner.waiting,
            stalled=len(owner.stalled),
            waiting_s=runner.waiting_s,
            failure=None if failure is None else f"{type(failure).__name__}: {failure}",
        )

    def close(self) -> None:
        """Take nothing new."""
        self.owner.is_draining = True
        self.claims.is_draining = True
        self.runner.close()

    async def drain(self, timeout_s: float) -> list[Attempt]:
        """Let activities end, commit their outcomes; return those that took too long."""
        given_up = await self.runner.drain(timeout_s)
        loop = asyncio.get_running_loop()
        until = loop.time() + SETTLE_S
        while not (self.owner.is_settled and self.claims.is_settled) and loop.time() < until:
            await asyncio.sleep(0.002)
        return given_up

    async def abandon(self) -> None:
        """Let go of everything in memory."""
        self.portal.end()
        if self._unlisten is not None:
            self._unlisten()
        await self.owner.close()
        self.watch.stop()

    async def release(self) -> None:
        """Give the partitions and the lease back, so that another worker need not wait."""
        if self.keeper.lease is not None:
            await self._provider.release(self.keeper.lease)

    def _client_here(self) -> Client | SyncClient:
        """Return the client that fits where it is asked for: in the worker's loop, or in the thread of an activity."""
        return self.client if asyncio._get_running_loop() is self._loop else self.blocking_client

    def _mark_slow(self, execution: Execution) -> None:
        """Called by the watch, from its thread."""
        lease = self.keeper.lease
        logger.warning("a turn of '%s' takes over a second", execution.key.id)
        if lease is not None and self.owner.direct.is_stored(execution.key):
            try:
                self._provider.mark_slow_turn(lease, execution.key, execution.run_id)
            except StoreError as error:
                logger.warning("the slow turn of '%s' could not be marked: %s", execution.key.id, error)


def _threads(ports: Ports, limit: int) -> Threads:
    if ports.may_start_threads:
        return DaemonThreads(limit, "durable-activity")
    return NoThreads(asyncio.get_running_loop())
