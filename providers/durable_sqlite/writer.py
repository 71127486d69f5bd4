"""The one place that writes: transactions of jobs, in the order in which they were asked for.

A job is a function of the database; whatever waits when a transaction begins goes into it together (group commit), each
job under a savepoint, so that one that raises takes only itself back. A job's statements run in the event loop's thread
and only COMMIT, which waits for the disk, in the writer's own: Python gives up its interpreter lock at every statement,
and a thread that must get it back a hundred times from a busy loop needs 450 ms for a transaction of 2 ms (measured).
While other processes write as well, and the disk is fast, COMMIT runs in the loop's thread too: they wait as long as the
file is locked, and a thread that is to unlock it must first get the interpreter lock.
Jobs with few but long statements (`run_in_thread`) run in the writer's thread from beginning to end.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from durable.errors import StoreError
from durable.listeners import Changes
from durable.provider import HubClock, Wakeup
from durable_sqlite.connection import WriteConnection
from durable_sqlite.filelock import WAIT_S_MAX, locked_out
from durable_sqlite.hub_time import HubTime
from durable_sqlite.refusal import UNSTORABLE

T = TypeVar("T")

COMMIT_S_FAST = 0.001
"""A lone commit is waited for in the loop's thread while commits take less on average; a thread hop costs 45 µs."""

PAUSE_S_FIRST = 0.0005
PAUSE_S_MAX = 0.002

RIVAL_S = 1.0
"""So long after another writer was in the way it is taken to write still."""

WAIT_S = 0.0006
LOOK_S = 0.00005
"""How long the loop's thread waits for another writer, looking that often, where commits are fast: about as long as one holds
the lock. A timer of the loop would take a millisecond at least."""


class Transaction:
    """What a job works with: the database inside a transaction, the store's time, and what it will have changed.

    A job is first run as fast as it can be. If it then raises `NeedsCare`, or what sqlite3 raises for a value that it
    cannot hold, it is undone and run again, with `is_careful`: it is to take nothing for granted and to look at every value.
    """

    __slots__ = ("_now", "_time", "changes", "database", "is_careful")

    def __init__(
        self, database: sqlite3.Connection, time: HubTime, changes: Changes, *, is_careful: bool = False
    ) -> None:
        self.database = database
        self.changes = changes
        self.is_careful = is_careful
        self._time = time
        self._now: int | None = None

    @property
    def now(self) -> int:
        """The hub's time, in microseconds since 1970 UTC: one for the whole transaction."""
        if self._now is None:
            self.go_by(self.read_clock())
        assert self._now is not None
        return self._now

    @now.setter
    def now(self, now: int) -> None:
        self._now = now

    def read_clock(self) -> HubClock:
        """Return the hub's clock."""
        return self._time.clock(self.database)

    def go_by(self, clock: HubClock) -> None:
        """Let it be the time by this clock."""
        self._now = self._time.by(clock)


class NeedsCare(Exception):  # noqa: N818 (no error: the job is run again)
    """What a job took for granted does not hold."""


Job = Callable[[Transaction], Any]


@dataclasses.dataclass(slots=True)
class _Waiting:
    job: Job
    future: asyncio.Future[Any]
    in_thread: bool = False
    answer: Any = None
    error: BaseException | None = None
    changes: Changes = dataclasses.field(default_factory=Changes)


class Writer:
    """Runs jobs in transactions of a `WriteConnection`, for one event loop; if not `threaded`, all in that loop's thread."""

    def __init__(
        self, connection: WriteConnection, time: HubTime, tell: Callable[[Wakeup], None], *, threaded: bool
    ) -> None:
        self._connection = connection
        self._time = time
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Waiting] = []
        self._is_busy = False
        self._is_closed = False
        self._is_idle: asyncio.Future[None] | None = None  # for `close`
        self._give_up_at: float | None = None
        self._pause_s = PAUSE_S_FIRST
        self._rival_at = -math.inf  # when another writer was in the way
        self.on_undone: Callable[[], None] = lambda: None  # something that a job has done does not hold
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        if threaded:
            self._thread = threading.Thread(target=self._serve, name="durable-sqlite", daemon=True)
            self._thread.start()

    # ---- what callers use

    async def write(self, job: Callable[[Transaction], T], *, alone: bool = False) -> T:
        """Run `job` in a transaction and return its answer once that is durable.

        `alone`: nothing else is about to come, so that it may be done at once, in this very call.
        """
        self._check_open()
        if alone and not self._is_busy and (self._thread is None or self._is_fast):
            waiting = _Waiting(job, self._loop.create_future())
            if self._write_at_once(waiting):
                if waiting.error is not None:
                    raise waiting.error
                return waiting.answer  # type: ignore[no-any-return]
        return await self._queue(job)  # type: ignore[no-any-return]

    async def write_in_thread(self, job: Callable[[Transaction], T]) -> T:
        """Run a job of few and long statements in a transaction of its own, outside the loop's thread."""
        self._check_open()
        return await self._queue(job, in_thread=True)  # type: ignore[no-any-return]

    def write_blocking(self, job: Callable[[Transaction], T]) -> T:
        """Run `job` in a transaction in the calling thread, which is not the loop's."""
        connection = self._connection
        connection.begin()
        try:
            answer = job(self._transaction(Changes(), is_careful=True))
            connection.commit()
        except sqlite3.Error as error:
            raise connection.failure_of(error) from error
        finally:
            connection.rollback()  # nothing, after a commit
            connection.end()
        return answer

    async def close(self) -> None:
        """Finish what was asked for and end the thread. Interrupted, it finishes only what has begun."""
        if not self._is_closed:
            self._is_closed = True
            try:
                if self._is_busy:
                    self._is_idle = self._loop.create_future()
                    await self._is_idle
            finally:
                for waiting in self._waiting:  # none, unless this was interrupted
                    _fail(waiting.future, StoreError(f"'{self._connection.path}' is closed"))
                if self._thread is not None:
                    self._tasks.put(None)

    def join(self) -> None:
        """Wait for the thread, after `close`. Blocks."""
        if self._thread is not None:
            self._thread.join()

    @property
    def _is_fast(self) -> bool:
        return self._connection.commit_s_average < COMMIT_S_FAST

    def _check_open(self) -> None:
        if self._connection.broken is not None:
            raise self._connection.broken
        if self._is_closed:
            raise StoreError(f"'{self._connection.path}' is closed")

    # ---- one transaction after the other

    def _write_at_once(self, waiting: _Waiting) -> bool:
        if not self._connection.try_begin():
            return False
        is_checkpoint_due = False
        try:
            if self._run([waiting]):
                self._commit()
                is_checkpoint_due = self._connection.is_checkpoint_due
        finally:
            if is_checkpoint_due:
                self._is_busy = True
                self._do(self._checkpoint_in_thread)
            else:
                self._connection.end()
        self._tell_of([waiting])
        return True

    async def _queue(self, job: Job, *, in_thread: bool = False) -> Any:
        waiting = _Waiting(job, self._loop.create_future(), in_thread)
        self._waiting.append(waiting)
        if not self._is_busy:
            self._is_busy = True
            self._loop.call_soon(self._next)  # not now: what else is ready in this round of the loop comes along
        return await waiting.future

    def _next(self) -> None:
        """Begin the next transaction, or rest."""
        self._waiting = [waiting for waiting in self._waiting if not waiting.future.done()]  # some were cancelled
        if not self._waiting:
            self._is_busy = False
            if self._is_idle is not None and not self._is_idle.done():
                self._is_idle.set_result(None)
            return
        if self._waiting[0].in_thread:
            first = [self._waiting.pop(0)]
            self._do(lambda: self._run_in_thread(first))
            return
        try:
            is_begun = self._connection.try_begin() or self._wait_for_rival()
        except StoreError as error:
            self._refuse(error)
            return
        if not is_begun:
            self._try_later()
            return
        self._give_up_at, self._pause_s = None, PAUSE_S_FIRST
        count = next((n for n, waiting in enumerate(self._waiting) if waiting.in_thread), len(self._waiting))
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        if self._run(group):
            if self._is_fast and time.monotonic() < self._rival_at + RIVAL_S:
                self._commit_here(group)
            else:
                self._do(lambda: self._commit_in_thread(group))
        else:
            self._connection.end()
            self._finish(group)

    def _wait_for_rival(self) -> bool:
        """Wait a moment for another writer, and begin if it ends; where commits are slow, or it does not, do not wait here."""
        if self._connection.is_in_use:  # by a thread of this very provider, as while it copies the WAL
            return False
        now = self._rival_at = time.monotonic()
        if self._thread is None or not self._is_fast or self._pause_s >= PAUSE_S_MAX:
            return False
        until = now + WAIT_S
        while time.monotonic() < until:
            time.sleep(LOOK_S)
            if self._connection.try_begin():
                return True
        return False

    def _commit_here(self, group: list[_Waiting]) -> None:
        try:
            self._commit_for(group)
        except BaseException:  # Ctrl-C: whoever closes the file, and all other writers, would wait for its locks
            self._connection.rollback()
            self._connection.end()
            raise
        if self._connection.is_checkpoint_due:
            self._answer_all(group)
            self._do(self._checkpoint_in_thread)
        else:
            self._connection.end()
            self._finish(group)

    def _try_later(self) -> None:
        """Another writer is at work: look again soon. A thread that waited would hold the lock while the loop is busy."""
        now = time.monotonic()
        if self._give_up_at is None:
            self._give_up_at = now + WAIT_S_MAX
        if now > self._give_up_at:
            self._give_up_at = None
            self._refuse(locked_out(self._connection.path))
            return
        self._loop.call_later(self._pause_s, self._next)
        self._pause_s = min(self._pause_s * 1.5, PAUSE_S_MAX)

    def _refuse(self, error: StoreError) -> None:
        """No transaction can begin: tell all who wait."""
        group, self._waiting = self._waiting, []
        for waiting in group:
            waiting.error = error
        self._finish(group)

    def _run(self, group: list[_Waiting]) -> bool:
        """Run the jobs. If none of them succeeds, roll back and return False."""
        try:
            if len(group) == 1:
                self._run_job(group[0], ("ROLLBACK", "BEGIN IMMEDIATE"))
            else:
                for waiting in group:
                    self._run_under_savepoint(waiting)
        except sqlite3.Error as error:  # some errors end the whole transaction, and the savepoints with it
            self.on_undone()
            for waiting in group:
                waiting.error = waiting.error or self._connection.failure_of(error)
        if all(waiting.error is not None for waiting in group):
            self._connection.rollback()
            return False
        return True

    def _run_under_savepoint(self, waiting: _Waiting) -> None:
        database = self._connection.database
        database.execute("SAVEPOINT job")
        self._run_job(waiting, ("ROLLBACK TO job",))
        if waiting.error is not None:
            database.execute("ROLLBACK TO job")
        database.execute("RELEASE job")

    def _run_job(self, waiting: _Waiting, undo: tuple[str, ...]) -> None:
        database = self._connection.database
        try:
            try:
                waiting.answer = waiting.job(self._transaction(waiting.changes))
            except (NeedsCare, *UNSTORABLE):
                for statement in undo:
                    database.execute(statement)
                waiting.changes = Changes()
                waiting.answer = waiting.job(self._transaction(waiting.changes, is_careful=True))
        except sqlite3.Error as error:
            waiting.error = self._connection.failure_of(error)
            waiting.error.__cause__ = error
            self.on_undone()
        except BaseException as error:  # noqa: BLE001 (the caller's to handle; here it means that nothing is kept)
            waiting.error = error
            self.on_undone()

    def _commit(self) -> None:
        try:
            self._connection.commit()
        except BaseException:
            self.on_undone()
            raise

    def _commit_for(self, group: list[_Waiting]) -> None:
        try:
            self._commit()
        except Exception as error:  # noqa: BLE001 (for those who wait)
            for waiting in group:
                waiting.error = waiting.error or error

    def _transaction(self, changes: Changes, *, is_careful: bool = False) -> Transaction:
        return Transaction(self._connection.database, self._time, changes, is_careful=is_careful)

    # ---- in the writer's thread

    def _do(self, task: Callable[[], None]) -> None:
        """Run a task there, or here where there is none."""
        if self._thread is None:
            task()
        else:
            self._tasks.put(task)

    def _serve(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            del task

    def _commit_in_thread(self, group: list[_Waiting]) -> None:
        self._commit_for(group)
        self._end_in_thread(group)

    def _run_in_thread(self, group: list[_Waiting]) -> None:
        try:
            self._connection.begin()
        except Exception as error:  # noqa: BLE001 (for who waits)
            group[0].error = error
            self._call_in_loop(self._finish, group)
            return
        try:
            if self._run(group):
                self._commit()
        except Exception as error:  # noqa: BLE001 (for who waits)
            group[0].error = error
        self._end_in_thread(group)

    def _end_in_thread(self, group: list[_Waiting]) -> None:
        if not self._connection.is_checkpoint_due:
            self._connection.end()
            self._call_in_loop(self._finish, group)
            return
        self._call_in_loop(self._finish, group)  # nobody who has an answer waits for the checkpoint
        self._connection.checkpoint()
        self._connection.end()

    def _checkpoint_in_thread(self) -> None:
        self._connection.checkpoint()
        self._connection.end()
        self._call_in_loop(self._next)

    def _call_in_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop was closed: nobody waits any more
            pass

    # ---- back in the loop

    def _finish(self, group: list[_Waiting]) -> None:
        """Answer those who waited, then wake the others, then go on."""
        self._answer_all(group)
        self._next()

    def _answer_all(self, group: list[_Waiting]) -> None:
        for waiting in group:
            if waiting.error is not None:
                _fail(waiting.future, waiting.error)
            else:
                _answer(waiting.future, waiting.answer)
        self._tell_of(group)

    def _tell_of(self, group: list[_Waiting]) -> None:
        for waiting in group:
            if waiting.error is None and waiting.changes:
                self._tell(waiting.changes.told())


def _answer(future: asyncio.Future[T], answer: T) -> None:
    if not future.done():
        future.set_result(answer)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
