"""Waiting for answers to queries and updates: they come as memos.

Theory. The store's listener brings the memos that this process has just committed. Beneath it one poll, shared by all who
wait, reads the rest, first after POLL_S_MIN and then ever less often, up to POLL_S_MAX. The poll also looks whether the runs
that were asked are still unfinished: after the end of one no answer of it will come. While nobody waits nothing runs.

Invariant: whoever waits for a run that has ended was looked for once more after that end was seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Callable, Collection, Iterator
from typing import Final, TypeAlias

from durable.errors import DurableError, InstanceNotFoundError, StoreUnavailableError
from durable.events import InstanceKey
from durable.exchanges import Answer, answer_key, answer_prefix, decode_answer
from durable.ports import Ports
from durable.provider import InstanceRow, Memo, Provider, Wakeup

logger = logging.getLogger("durable.client")

POLL_S_MIN: Final = 0.02
POLL_S_MAX: Final = 1.0
"""The poll bound: nobody learns later than this what a lost wake-up would have told."""

POLL_GROWTH: Final = 1.6
POLL_SHARE_MAX: Final = 4
"""After a look rest this many times its length, so that looking takes a fifth of the time at most."""

ONE_BY_ONE_MAX: Final = 8
"""So many answers of a run are looked for one by one; of more, all that lie between the first and the last are read."""

MEMOS_READ_MAX: Final = 1000

Target: TypeAlias = tuple[InstanceKey, str]
"""An instance, and its run."""


class Waiting:
    """Somebody who waits for one answer: `future` gives it, or the row of the run that ended without one."""

    __slots__ = ("asked_id", "future", "target")

    def __init__(self, target: Target, asked_id: str, loop: asyncio.AbstractEventLoop) -> None:
        self.target = target
        self.asked_id = asked_id
        self.future: asyncio.Future[Answer | InstanceRow] = loop.create_future()

    @property
    def key(self) -> str:
        """The key of the memo that is waited for."""
        return answer_key(self.target[1], self.asked_id)


class Answers:
    """All who wait for answers in one client. Made in its event loop; listens from the first question on."""

    def __init__(self, provider: Provider, ports: Ports) -> None:
        self._provider = provider
        self._ports = ports
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # as in `Waiters`: the poll serves all who wait
        self._waiting: dict[str, Waiting] = {}
        self._runs: dict[InstanceKey, asyncio.Task[str]] = {}
        self._mark = ""
        self._count = 0
        self._pause = POLL_S_MIN
        self._rest_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._poll: asyncio.Task[None] | None = None
        self._is_closed = False
        self._stop_listening: Callable[[], None] | None = None

    async def close(self) -> None:
        """End all waiting with an error, and everything that runs for it."""
        self._is_closed = True
        if self._stop_listening is not None:
            self._stop_listening()
        self._stop_timer()
        for waiting in self._waiting.values():
            self._fail(waiting, DurableError(f"the client was closed while '{waiting.target[0].id}' was asked"))
        running = [*self._runs.values(), *([self._poll] if self._poll is not None else [])]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def current_run(self, key: InstanceKey) -> str:
        """Return the id of an instance's current run. Those who ask at the same time learn it together, in their order."""
        loading = self._runs.get(key)
        if loading is None:
            loading = self._runs[key] = self._loop.create_task(self._load_run(key), context=self._context)
        return await asyncio.shield(loading)

    async def _load_run(self, key: InstanceKey) -> str:
        try:
            (row,) = await self._provider.load([(key, None)])
        finally:
            del self._runs[key]
        if row is None:
            raise InstanceNotFoundError(f"there is no instance '{key.id}', or it was purged")
        return row.run_id

    def new_id(self) -> str:
        """Return the id of a question: unique, and those of one client in order."""
        self._mark = self._mark or self._ports.new_id()
        self._count += 1
        return f"{self._mark}/{self._count:012d}"

    @contextlib.contextmanager
    def expect(self, target: Target, asked_id: str) -> Iterator[Waiting]:
        """Wait for the answer to a question for the length of the block, which asks it."""
        if self._is_closed:
            raise DurableError("this client is closed")
        if self._stop_listening is None:
            self._stop_listening = self._provider.listen(self._hear)
        waiting = Waiting(target, asked_id, self._loop)
        self._waiting[waiting.key] = waiting
        self._pause = POLL_S_MIN
        self._schedule(self._loop.time() + self._pause)
        try:
            yield waiting
        finally:
            self._waiting.pop(waiting.key, None)
            if not waiting.future.cancel() and not waiting.future.cancelled():
                waiting.future.exception()  # looked at: whoever asked may have given up in that very moment
            if not self._waiting:
                self._stop_timer()

    # ---- what the store tells

    def _hear(self, wakeup: Wakeup) -> None:
        if not self._waiting:
            return
        for memo in wakeup.memos:
            self._take(memo)
        runs = {waiting.target[1] for waiting in self._waiting.values()} if wakeup.rows or wakeup.ended else ()
        has_ended = any(row.status.is_finished and row.run_id in runs for row in wakeup.rows)
        has_ended = has_ended or any(run_id in runs for run_id in wakeup.ended)
        if self._waiting and (wakeup.anything or wakeup.states or has_ended):
            self._schedule(max(self._loop.time(), self._rest_until))

    def _take(self, memo: Memo) -> None:
        waiting = self._waiting.get(memo.key)
        if waiting is None or waiting.future.done():
            return
        try:
            waiting.future.set_result(decode_answer(memo.data))
        except DurableError as error:
            self._fail(waiting, error)

    def _fail(self, waiting: Waiting, error: Exception) -> None:
        if not waiting.future.done():
            waiting.future.set_exception(error)

    # ---- the poll

    def _schedule(self, at: float) -> None:
        """Make sure that the poll runs at `at`, or before."""
        if self._is_closed or self._poll is not None:
            return  # when it ends it schedules the next one
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._start_poll, context=self._context)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_poll(self) -> None:
        self._timer = None
        self._poll = self._loop.create_task(self._look())

    async def _look(self) -> None:
        began = self._loop.time()
        open_before = [waiting for waiting in self._waiting.values() if not waiting.future.done()]
        try:
            await self._look_for(open_before)
        except StoreUnavailableError as error:
            logger.debug("the store does not answer, looking again later: %s", error)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is for those who wait)
            for waiting in open_before:
                self._fail(waiting, error)
        finally:
            self._poll = None
            ended = self._loop.time()
            rest = min(POLL_SHARE_MAX * (ended - began), POLL_S_MAX)
            self._rest_until = ended + rest
            if self._waiting:
                self._schedule(ended + max(self._pause, rest))
                self._pause = min(self._pause * POLL_GROWTH, POLL_S_MAX)

    async def _look_for(self, asked: Collection[Waiting]) -> None:
        await self._read(asked)
        left = [waiting for waiting in asked if not waiting.future.done()]
        targets = list(dict.fromkeys(waiting.target for waiting in left))
        if not targets:
            return
        rows = dict(zip(targets, await self._provider.load(targets), strict=True))
        over = [waiting for waiting in left if (row := rows[waiting.target]) is None or row.status.is_finished]
        await self._read(over)
        for waiting in over:
            row = rows[waiting.target]
            if row is None:
                self._fail(waiting, InstanceNotFoundError(f"instance '{waiting.target[0].id}' was purged"))
            elif not waiting.future.done():
                waiting.future.set_result(row)

    async def _read(self, asked: Collection[Waiting]) -> None:
        by_run: dict[str, list[Waiting]] = {}
        for waiting in asked:
            if not waiting.future.done():
                by_run.setdefault(waiting.target[1], []).append(waiting)
        for run_id, those in by_run.items():
            if len(those) <= ONE_BY_ONE_MAX:
                for waiting in those:
                    for memo in await self._provider.read_memos(waiting.key, 1):
                        self._take(memo)
            else:
                await self._read_between(run_id, min(those, key=_key), max(those, key=_key))

    async def _read_between(self, run_id: str, first: Waiting, last: Waiting) -> None:
        prefix = answer_prefix(run_id) + first.asked_id.partition("/")[0]
        after = first.key[:-1]  # a prefix of the first key comes just before it
        while True:
            memos = await self._provider.read_memos(prefix, MEMOS_READ_MAX, after=after)
            for memo in memos:
                self._take(memo)
            if len(memos) < MEMOS_READ_MAX or memos[-1].key >= last.key:
                return
            after = memos[-1].key


def _key(waiting: Waiting) -> str:
    return waiting.key
