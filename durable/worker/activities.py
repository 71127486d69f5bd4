"""Running activities: slots, async and sync functions, timeouts, heartbeats, cancellation.

One attempt at a time goes through `waiting → running → settled`. A settled attempt has given its one outcome; whatever its
function does afterwards is ignored, but a sync function keeps its slot until it returns, for nobody can stop a thread.
Invariant: `start` is called only for attempts whose request is durable.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import dataclasses
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from durable import payloads
from durable.activity_context import ActivityContext, running_activity
from durable.app import ActivityDefinition, App
from durable.engine import events as ev
from durable.engine.events import ActivityScheduled, HistoryEvent
from durable.errors import FailureDetails, InvalidInputError, UnknownNameError
from durable.failures import describe
from durable.provider import TaskAddress
from durable.worker.clock import StoreClock
from durable.worker.threads import DaemonThreads

if TYPE_CHECKING:
    from durable.client import Client

logger = logging.getLogger("durable.activity")

HEARTBEAT_INTERVAL_S = 1.0
"""Heartbeats of one attempt are stored at most this often; the last one always is, with the outcome."""


@dataclasses.dataclass(eq=False, slots=True)
class Attempt:
    """One delivery of one attempt. It is also what its `ActivityContext` talks to."""

    runner: ActivityRunner
    address: TaskAddress
    partition: int
    request: ActivityScheduled
    idempotency_key: str
    requested_at: int
    is_claimed: bool = False
    deadline: datetime | None = None
    heartbeat_details: bytes | None = None  # the latest beat's, encoded
    is_cancelled: bool = False
    is_settled: bool = False
    is_started: bool = False
    task: asyncio.Task[None] | None = None
    timers: list[asyncio.TimerHandle] = dataclasses.field(default_factory=list)
    beaten_at: float = 0.0
    stored_at: float = 0.0

    @property
    def last_heartbeat(self) -> Any:
        """The details that the previous attempt (or delivery) last beat with, decoded."""
        stored = self.request.last_heartbeat
        return None if stored is None else payloads.decode(self.runner.sealer.unseal(stored))

    @property
    def client(self) -> Client:
        """A client of the same hub."""
        return self.runner.client()

    def heartbeat(self, details: Any = None) -> None:
        """Note a sign of life. Called from the loop or from the attempt's thread."""
        encoded = None
        if details is not None:
            encoded = self.runner.sealer.seal(
                payloads.encode(details, what=f"heartbeat of activity '{self.request.name}'")
            )
        self.runner.call_in_loop(self.runner.beaten, self, encoded)


class ActivityRunner:
    """Runs attempts within `slots`. `on_outcome(attempt, event)` and `on_beat(attempt)` are called in the loop."""

    def __init__(
        self,
        app: App,
        sealer: payloads.Sealer,
        clock: StoreClock,
        slots: int,
        *,
        on_outcome: Callable[[Attempt, HistoryEvent], None],
        on_beat: Callable[[Attempt], None],
        client: Callable[[], Client],
    ) -> None:
        self.app = app
        self.sealer = sealer
        self.client = client
        self.attempts: dict[TaskAddress, Attempt] = {}
        self.free_slots = slots
        self._clock = clock
        self._slots = slots
        self._on_outcome = on_outcome
        self._on_beat = on_beat
        self._waiting: collections.deque[Attempt] = collections.deque()
        self._threads = DaemonThreads(slots, "durable-activity")
        self._loop = asyncio.get_running_loop()
        self._is_closed = False
        self._idle: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> int:
        """How many attempts wait for a slot."""
        return len(self._waiting)

    def serves(self, name: str, version: str | None) -> bool:
        """Tell whether the app can run this activity."""
        try:
            self.app.find_activity(name, version)
        except UnknownNameError:
            return False
        return True

    def start(self, attempt: Attempt) -> None:
        """Run an attempt as soon as a slot is free."""
        if self._is_closed or attempt.address in self.attempts:
            return
        self.attempts[attempt.address] = attempt
        queue_timeout = attempt.request.options.queue_timeout
        if queue_timeout is not None:
            left = (attempt.requested_at + queue_timeout - self._clock.now()) / 1e6
            if left <= 0:
                self._loop.call_soon(self._out_of_queue, attempt)
                return
            attempt.timers.append(self._loop.call_later(left, self._out_of_queue, attempt))
        self._waiting.append(attempt)
        self._fill()

    def cancel(self, address: TaskAddress) -> None:
        """Tell an attempt that nobody waits for its outcome."""
        attempt = self.attempts.get(address)
        if attempt is not None:
            self._settle(attempt)
            self._stop(attempt)

    def release(self, attempt: Attempt) -> None:
        """Forget an attempt without an outcome, for another worker has it."""
        self.cancel(attempt.address)

    async def drain(self, timeout_s: float) -> None:
        """Wait until nothing runs; then cancel what is left. Always returns soon after `timeout_s`."""
        self._is_closed = True
        for attempt in self._waiting:
            self._settle(attempt)
        self._waiting.clear()
        await self._until_idle(timeout_s)
        for attempt in list(self.attempts.values()):
            self._settle(attempt)
            self._stop(attempt)
        tasks = [attempt.task for attempt in self.attempts.values() if attempt.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        self._threads.close()

    async def _until_idle(self, timeout_s: float) -> None:
        if self.attempts and timeout_s > 0:
            self._idle = self._loop.create_future()
            await asyncio.wait([self._idle], timeout=timeout_s)
            self._idle = None

    def call_in_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function in the worker's loop, from wherever."""
        if asyncio._get_running_loop() is self._loop:
            function(*arguments)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    # ---- slots

    def _fill(self) -> None:
        while self._waiting and self.free_slots > 0:
            attempt = self._waiting.popleft()
            if attempt.is_settled:
                continue
            self.free_slots -= 1
            self._begin(attempt)

    def _leave(self, attempt: Attempt) -> None:
        """The function of an attempt has returned: its slot is free."""
        self.free_slots += 1
        if self.attempts.get(attempt.address) is attempt:
            del self.attempts[attempt.address]
        if self._idle is not None and not self.attempts and not self._idle.done():
            self._idle.set_result(None)
        self._fill()

    def _begin(self, attempt: Attempt) -> None:
        for timer in attempt.timers:
            timer.cancel()
        attempt.timers.clear()
        attempt.is_started = True
        options = attempt.request.options
        attempt.beaten_at = self._loop.time()
        if options.timeout is not None:
            attempt.deadline = datetime.fromtimestamp((self._clock.now() + options.timeout) / 1e6, UTC)
            attempt.timers.append(self._loop.call_later(options.timeout / 1e6, self._out_of_time, attempt))
        if options.heartbeat_timeout is not None:
            self._watch_beats(attempt, options.heartbeat_timeout / 1e6)
        try:
            definition = self.app.find_activity(attempt.request.name, attempt.request.version)
            arguments = self._arguments(definition, attempt)
        except Exception as error:  # noqa: BLE001 (an input that does not fit, or a function that is not here)
            self._finish(attempt, error, None)
            self._leave(attempt)
            return
        if definition.is_async:
            attempt.task = self._loop.create_task(self._run_async(attempt, definition, arguments))
            # A task that is cancelled before its first step never enters its coroutine: the slot is freed from outside.
            attempt.task.add_done_callback(lambda _: self._leave(attempt))
        else:
            context = contextvars.copy_context()
            self._threads.submit(lambda: context.run(self._run_in_thread, attempt, definition, arguments))

    def _arguments(self, definition: ActivityDefinition, attempt: Attempt) -> tuple[Any, ...]:
        what = f"input of activity '{definition.name}'"
        stored = attempt.request.input
        value = None
        if stored is None:
            if definition.takes_input:
                if definition.has_default_input:
                    value = definition.default_input()
                else:
                    value = payloads.decode(payloads.encode(None), definition.input_annotation, what=what)
        else:
            plain = self.sealer.unseal(stored)
            if definition.takes_input:
                value = payloads.decode(plain, definition.input_annotation, what=what)
                if value is None and definition.has_default_input:
                    value = definition.default_input()
            else:
                definition.check_accepts(payloads.decode(plain))
        return definition.arguments(ActivityContext(attempt), value)

    # ---- the two styles

    async def _run_async(self, attempt: Attempt, definition: ActivityDefinition, arguments: tuple[Any, ...]) -> None:
        running_activity.set(attempt)
        error: BaseException | None = None
        result = None
        try:
            result = await definition.function(*arguments)
        except asyncio.CancelledError as cancelled:
            error = cancelled
        except BaseException as raised:  # noqa: BLE001 (an activity may raise anything; the worker lives)
            error = raised
        self._finish(attempt, error, result, definition)

    def _run_in_thread(self, attempt: Attempt, definition: ActivityDefinition, arguments: tuple[Any, ...]) -> None:
        running_activity.set(attempt)
        error: BaseException | None = None
        result = None
        try:
            if not attempt.is_settled:
                result = definition.function(*arguments)
        except BaseException as raised:  # noqa: BLE001 (as above; SystemExit too)
            error = raised
        self.call_in_loop(self._return_from_thread, attempt, definition, error, result)

    def _return_from_thread(
        self, attempt: Attempt, definition: ActivityDefinition, error: BaseException | None, result: Any
    ) -> None:
        self._finish(attempt, error, result, definition)
        self._leave(attempt)

    # ---- outcomes

    def _finish(
        self, attempt: Attempt, error: BaseException | None, result: Any, definition: ActivityDefinition | None = None
    ) -> None:
        """Give the attempt's outcome, unless it has one."""
        if attempt.is_settled:
            return
        task_id = attempt.request.task_id
        if error is None and definition is not None:
            try:
                what = f"result of activity '{definition.name}'"
                plain = payloads.check(result, definition.result_annotation, what=what)
                self._give(attempt, ev.ActivityCompleted(task_id, self.sealer.seal(plain)))
                return
            except Exception as unfit:  # noqa: BLE001 (what cannot be stored fails the attempt, for good)
                error = unfit
        assert error is not None
        details = describe(error)
        if isinstance(error, payloads.PayloadError | InvalidInputError):
            details = dataclasses.replace(details, non_retryable=True)
        self._give(attempt, ev.ActivityFailed(task_id, details, last_heartbeat=attempt.heartbeat_details))

    def _give(self, attempt: Attempt, outcome: HistoryEvent) -> None:
        self._settle(attempt)
        self._on_outcome(attempt, outcome)

    def _settle(self, attempt: Attempt) -> None:
        attempt.is_settled = True
        for timer in attempt.timers:
            timer.cancel()
        attempt.timers.clear()
        if not attempt.is_started:
            self.attempts.pop(attempt.address, None)

    def _stop(self, attempt: Attempt) -> None:
        """Ask the function to stop: an async one is cancelled, a sync one may look at `is_cancelled`."""
        attempt.is_cancelled = True
        if attempt.task is not None:
            attempt.task.cancel()

    # ---- time

    def _fail_by_time(self, attempt: Attempt, message: str) -> None:
        if attempt.is_settled:
            return
        details = FailureDetails("TimeoutError", message, error_bases=("OSError", "Exception", "BaseException"))
        self._give(
            attempt,
            ev.ActivityFailed(
                attempt.request.task_id, details, is_timeout=True, last_heartbeat=attempt.heartbeat_details
            ),
        )
        self._stop(attempt)

    def _out_of_time(self, attempt: Attempt) -> None:
        seconds = (attempt.request.options.timeout or 0) / 1e6
        name, number = attempt.request.name, attempt.request.attempt
        self._fail_by_time(attempt, f"attempt {number} of activity '{name}' ran into its timeout of {seconds:g} s")

    def _out_of_queue(self, attempt: Attempt) -> None:
        seconds = (attempt.request.options.queue_timeout or 0) / 1e6
        name = attempt.request.name
        self._fail_by_time(
            attempt, f"activity '{name}' waited longer than its queue_timeout of {seconds:g} s for a start"
        )

    def _watch_beats(self, attempt: Attempt, span_s: float) -> None:
        left = attempt.beaten_at + span_s - self._loop.time()
        if left <= 0:
            name = attempt.request.name
            self._fail_by_time(
                attempt, f"activity '{name}' gave no heartbeat within its heartbeat_timeout of {span_s:g} s"
            )
        elif not attempt.is_settled:
            attempt.timers.append(self._loop.call_later(left, self._watch_beats, attempt, span_s))

    def beaten(self, attempt: Attempt, details: bytes | None) -> None:
        """Take a heartbeat; pass it on for storing, at most every HEARTBEAT_INTERVAL_S."""
        if attempt.is_settled:
            return
        attempt.beaten_at = self._loop.time()
        if details is None:
            return
        is_due = attempt.beaten_at - attempt.stored_at >= HEARTBEAT_INTERVAL_S
        attempt.heartbeat_details = details
        if is_due:
            attempt.stored_at = attempt.beaten_at
            self._on_beat(attempt)
