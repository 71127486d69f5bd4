"""Running activities: slots, async and sync functions, timeouts, heartbeats, cancellation.

One attempt at a time goes through `waiting → running → settled`. A settled attempt has given its one outcome; whatever its
function does afterwards is ignored, but a sync function keeps its slot until it returns, for nobody can stop a thread.
Invariant: `start` is called only for attempts whose request is durable.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import functools
import inspect
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from durable import events as ev
from durable import payloads
from durable.activity_context import context_for, running_activity, running_context
from durable.app import ActivityDefinition, App
from durable.errors import FailureDetails, UnknownNameError, qualified_name
from durable.events import HistoryEvent
from durable.failures import describe
from durable.plain_events import activity_completed
from durable.provider import Memo, TaskAddress
from durable.worker.attempt import Attempt
from durable.worker.calling import Calling
from durable.worker.clock import StoreClock
from durable.worker.failure_log import log_failed_here
from durable.worker.lines import Line
from durable.worker.permits import tell_of_start
from durable.worker.start_notes import StartNotes
from durable.worker.threads import Threads

if TYPE_CHECKING:
    from durable.client import Client, SyncClient

CANCELLED = qualified_name(asyncio.CancelledError)

INVALID_S = 0.2
"""How long an attempt waits before it is looked whether the lease was renewed."""

HEARTBEAT_INTERVAL_S = 1.0
"""Heartbeats of one attempt are stored at most this often; the latest one at the end of each such span, or with the outcome."""


class ActivityRunner:
    """Runs attempts within `slots`. All callbacks are called in the loop.

    `on_outcome(attempt, event)`: the attempt's one outcome. `on_late(attempt, event)`: a function has ended after its attempt
    had an outcome, or was cancelled. `on_beat(attempt)`: a heartbeat is to be stored. `on_free()`: a slot is free.
    `may_begin()`: nothing begins while the worker's lease may be lost; for others may run it then, or have run it.
    `on_note(memo)`: a context wants it stored.
    """

    def __init__(
        self,
        app: App,
        sealer: payloads.Sealer,
        clock: StoreClock,
        slots: int,
        *,
        threads: Threads,
        calling: Calling,
        on_outcome: Callable[[Attempt, HistoryEvent], None],
        on_late: Callable[[Attempt, HistoryEvent], None],
        on_beat: Callable[[Attempt], None],
        on_free: Callable[[], None],
        may_begin: Callable[[], bool],
        on_note: Callable[[Memo], None],
        client: Callable[[], Client | SyncClient],
    ) -> None:
        self.app = app
        self.sealer = sealer
        self.client = client
        self.attempts: dict[TaskAddress, Attempt] = {}
        self._found: dict[tuple[str, str | None], ActivityDefinition] = {}
        self.free_slots = slots
        self._clock = clock
        self.slots = slots
        self._on_outcome = on_outcome
        self._on_late = on_late
        self._on_beat = on_beat
        self._on_free = on_free
        self._may_begin = may_begin
        self.line = Line(slots)
        self.lasting = 0  # slots of attempts that may take their time
        self._threads = threads
        self._calling = calling
        self._loop = asyncio.get_running_loop()
        # What the worker was started in. Each attempt gets a copy: none sees what another one, or a client, has set.
        self._context = contextvars.copy_context()
        self._start_notes = StartNotes(self._context, on_note)
        self._is_closed = False
        self._is_filling = False
        self._asking: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None
        self._sending: set[asyncio.Task[None]] = set()  # what attempts have spawned

    @property
    def waiting(self) -> int:
        """How many attempts wait for a slot."""
        return len(self.line)

    @property
    def waiting_s(self) -> float:
        """For how long the one that was asked for first has waited, in seconds; 0 if none waits."""
        asked_at = min((attempt.requested_at for attempt in self.line), default=None)
        return 0.0 if asked_at is None else max(self._clock.now() - asked_at, 0) / 1e6

    def find(self, name: str, version: str | None) -> ActivityDefinition:
        """Return an activity of the app. Raises UnknownNameError."""
        found = self._found.get((name, version))
        if found is None:
            found = self.app.find_activity(name, version)
            if version is not None:  # else a newer one may be registered meanwhile
                self._found[name, version] = found
        return found

    def serves(self, name: str, version: str | None) -> bool:
        """Tell whether the app can run this activity."""
        try:
            self.find(name, version)
        except UnknownNameError:
            return False
        return True

    def start(self, attempt: Attempt) -> None:
        """Run an attempt as soon as a slot is free."""
        if self._is_closed:
            return
        running = self.attempts.get(attempt.address)
        if running is not None and not running.is_settled:
            running.is_claimed = attempt.is_claimed  # the lease was lost and won again: it is this worker's once more
            return
        self.attempts[attempt.address] = attempt
        attempt.is_lasting = not self.line.is_quick(attempt.request.name)
        queue_timeout = attempt.request.options.queue_timeout
        if queue_timeout is not None and not attempt.is_repeated:
            left = (attempt.requested_at + queue_timeout - self._clock.now()) / 1e6
            if left <= 0:
                self._loop.call_soon(self._out_of_queue, attempt, context=self._context)
                return
            self._set_timer(attempt, "queue", left, self._out_of_queue)
        if not (attempt.is_in_line or self.line.count) and self.free_slots > 0 and self._may_begin():
            self._begin(attempt)  # nobody waits
            return
        self.line.append(attempt)
        if not attempt.is_in_line:
            self._fill()
        elif self.line.count == 1:  # the first: others that go before it may come with the same commit
            self._loop.call_soon(self._fill, context=self._context)

    def cancel(self, address: TaskAddress) -> None:
        """Tell an attempt that nobody waits for its outcome."""
        attempt = self.attempts.get(address)
        if attempt is not None:
            self._settle(attempt)
            self._stop(attempt)

    def close(self) -> None:
        """Begin no more attempts; those that wait for a slot are left to whoever comes next."""
        self._is_closed = True
        if self._asking is not None:
            self._asking.cancel()
        self.leave_waiting()

    def leave_waiting(self) -> None:
        """Leave what waits for a slot to whoever comes next."""
        for attempt in self.line:
            self._settle(attempt)
        self.line.clear()

    def lose_unbegun(self) -> None:
        """The lease is lost: leave to the next owner what waits, and what has a slot and was not called yet."""
        self.leave_waiting()
        for attempt in [attempt for attempt in self.attempts.values() if attempt.entered_at is None]:
            self._settle(attempt)

    async def drain(self, timeout_s: float) -> list[Attempt]:
        """Wait until nothing runs; cancel what is left, and return it. Always returns soon after `timeout_s`."""
        self.close()
        try:
            if self.attempts and timeout_s > 0:
                self._idle = self._loop.create_future()
                await asyncio.wait([self._idle], timeout=timeout_s)
                self._idle = None
        finally:  # also when the wait itself is cancelled
            given_up = self._give_up()
            self._threads.close()
        tasks = [attempt.task for attempt in self.attempts.values() if attempt.task is not None]
        tasks += self._sending  # the outcome of an attempt says once more what it has sent
        for task in self._sending:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        return given_up

    def _give_up(self) -> list[Attempt]:
        """Give up what still runs. What has its outcome already, or is wanted no more, is only asked to stop once more."""
        left = list(self.attempts.values())
        given_up = [attempt for attempt in left if not attempt.is_settled]
        for attempt in left:
            attempt.is_given_up = not attempt.is_settled
            if attempt.timers and "store" in attempt.timers:
                self._store_beat(attempt)
            self._settle(attempt)
            self._stop(attempt)
        return given_up

    def call_in_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function in the worker's loop, from wherever."""
        if asyncio._get_running_loop() is self._loop:
            function(*arguments)
            return
        try:
            self._loop.call_soon_threadsafe(function, *arguments, context=self._context)
        except RuntimeError:
            pass  # the loop is closed: the worker has stopped, and did not wait for this thread

    def spawn(self, send: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
        """Let an attempt's context send something, in the loop."""
        client: Any = self.client()
        task = self._loop.create_task(send(client), context=self._context.copy())
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    # ---- slots

    def _fill(self) -> None:
        """Give free slots to those that wait. Not nested: an attempt that ends as it begins frees its slot at once."""
        if self._is_filling:
            return
        self._is_filling = True
        try:
            while self.line.count and self.free_slots > 0:
                if not self._may_begin():
                    self._ask_again()
                    return
                attempt = self.line.pop()
                if not attempt.is_settled:
                    self._begin(attempt)
        finally:
            self._is_filling = False

    def _ask_again(self) -> None:
        """Look a little later whether attempts may begin again."""
        if self._asking is None:
            self._asking = self._loop.call_later(INVALID_S, self._fill_again, context=self._context)

    def _fill_again(self) -> None:
        self._asking = None
        self._fill()

    def _put_back(self, attempt: Attempt) -> None:
        """Let an attempt wait again whose function was about to be called: meanwhile the process stood still for too long."""
        if attempt.is_settled or self._is_closed:
            self._settle(attempt)
            self._leave(attempt)
            return
        _stop_timers(attempt)
        attempt.is_started = False
        attempt.task = attempt.unentered = attempt.context = attempt.deadline = None
        self.free_slots += 1
        self.lasting -= attempt.is_lasting
        self.line.append(attempt)
        self._ask_again()

    def _leave(self, attempt: Attempt, _: object = None) -> None:
        """The function of an attempt has returned: its slot is free."""
        if attempt.has_left:
            return
        attempt.has_left = True
        self.line.note_freed(self._loop.time(), attempt.entered_at, were_taken=self.free_slots <= 0)
        # All of them refer to it: a circle would be left to the garbage collector.
        attempt.task = attempt.unentered = attempt.context = None
        self.free_slots += 1
        self.lasting -= attempt.is_lasting
        if self.attempts.get(attempt.address) is attempt:
            del self.attempts[attempt.address]
        if self._idle is not None and not self.attempts and not self._idle.done():
            self._idle.set_result(None)
        if self.line.count:
            self._fill()
        if self.free_slots > 0:
            self._on_free()

    def _begin(self, attempt: Attempt) -> None:
        self.free_slots -= 1
        self.lasting += attempt.is_lasting
        if attempt.timers:
            _stop_timers(attempt)
        attempt.is_started = True
        attempt.started_us = self._clock.now()
        options = attempt.request.options
        if options.timeout is not None:
            attempt.deadline = datetime.fromtimestamp((self._clock.now() + options.timeout) / 1e6, UTC)
            self._set_timer(attempt, "timeout", options.timeout / 1e6, self._out_of_time)
        if options.heartbeat_timeout is not None:
            attempt.beaten_at = self._loop.time()
            self._watch_beats(attempt)
        try:
            definition = self.find(attempt.request.name, attempt.request.version)
            attempt.context = context_for(attempt, definition.signature)
            try:
                arguments = self._calling.arguments(definition, attempt)
            except Exception as misfit:  # noqa: BLE001 (validators are the user's code and may raise anything)
                self._end(attempt, self._failure(attempt, misfit, is_final=True))
                self._leave(attempt)
                return
        except UnknownNameError as error:
            self._end(attempt, self._failure(attempt, error))
            self._leave(attempt)
            return
        if options.limit is not None:
            tell_of_start(self.spawn, attempt.address, attempt.request)
        if attempt.is_claimed or attempt.is_in_line:
            self._start_notes.begun(attempt)
        # Where nothing names its class, nothing asks for what would be got ready.
        if attempt.context.is_ready or type(attempt.context).__name__ not in definition.signature.context_names:
            self._call(attempt, definition, arguments)
            return
        attempt.task = self._loop.create_task(attempt.context.prepare(), context=self._context.copy())
        prepared = functools.partial(self._prepared, attempt, definition, arguments)
        attempt.task.add_done_callback(prepared, context=self._context)

    def _prepared(
        self,
        attempt: Attempt,
        definition: ActivityDefinition,
        arguments: tuple[Any, ...],
        preparing: asyncio.Task[None],
    ) -> None:
        attempt.task = None
        error = None if preparing.cancelled() else preparing.exception()
        if error is not None:
            self._end(attempt, self._failure(attempt, error))
        if attempt.is_settled or preparing.cancelled():
            self._leave(attempt)
        else:
            self._call(attempt, definition, arguments)

    def _call(self, attempt: Attempt, definition: ActivityDefinition, arguments: tuple[Any, ...]) -> None:
        context = self._context.copy()
        if definition.is_async:
            self._run_in_loop(attempt, definition, arguments, None, context)
        else:
            self._threads.submit(functools.partial(context.run, self._run_in_thread, attempt, definition, arguments))

    # ---- the two styles

    def _run_in_loop(
        self,
        attempt: Attempt,
        definition: ActivityDefinition,
        arguments: tuple[Any, ...],
        begun: Coroutine[Any, Any, Any] | None,
        context: contextvars.Context,
    ) -> None:
        run = self._run_async(attempt, definition, arguments, begun)
        attempt.task = self._loop.create_task(run, name=definition.name, context=context)
        # A task that is cancelled before its first step never enters its coroutine: the slot is freed from outside.
        attempt.unentered = functools.partial(self._leave, attempt)
        attempt.task.add_done_callback(attempt.unentered, context=self._context)

    async def _run_async(
        self,
        attempt: Attempt,
        definition: ActivityDefinition,
        arguments: tuple[Any, ...],
        begun: Coroutine[Any, Any, Any] | None,
    ) -> None:
        """Call the function, unless a call of it has `begun`."""
        if attempt.task is not None and attempt.unentered is not None:
            attempt.task.remove_done_callback(attempt.unentered)
        if begun is None and (attempt.is_settled or not self._may_begin()):
            self._put_back(attempt)
            return
        _enter(attempt)
        attempt.entered_at = self._loop.time()
        try:
            result = await (self._calling.call_async(attempt, definition, arguments) if begun is None else begun)
        except BaseException as error:  # noqa: BLE001 (an activity may raise anything; the worker lives)
            outcome = self._failure(attempt, error)
        else:
            outcome = self._completion(attempt, definition, result)
        try:
            self._end(attempt, outcome)
        finally:
            self._leave(attempt)

    def _run_in_thread(self, attempt: Attempt, definition: ActivityDefinition, arguments: tuple[Any, ...]) -> None:
        if attempt.is_settled or not self._may_begin():  # until a thread came to it
            self.call_in_loop(self._put_back, attempt)
            return
        _enter(attempt)
        attempt.entered_at = self._loop.time()
        try:
            result = self._calling.call(attempt, definition, arguments)
        except BaseException as error:  # noqa: BLE001 (as above; SystemExit too)
            outcome = self._failure(attempt, error)
        else:
            if inspect.iscoroutine(result):  # an async function behind a plain decorator
                self.call_in_loop(self._go_on_in_loop, attempt, definition, result, contextvars.copy_context())
                return
            outcome = self._completion(attempt, definition, result)
        self.call_in_loop(self._return_from_thread, attempt, outcome)

    def _go_on_in_loop(
        self,
        attempt: Attempt,
        definition: ActivityDefinition,
        coroutine: Coroutine[Any, Any, Any],
        context: contextvars.Context,
    ) -> None:
        if attempt.is_settled:
            coroutine.close()
            self._leave(attempt)
        else:
            self._run_in_loop(attempt, definition, (), coroutine, context)

    def _return_from_thread(self, attempt: Attempt, outcome: HistoryEvent) -> None:
        self._end(attempt, outcome)
        self._leave(attempt)

    # ---- outcomes

    def _completion(self, attempt: Attempt, definition: ActivityDefinition, result: Any) -> HistoryEvent:
        """Return the outcome for a result, from any thread. One that cannot be stored is a failure, for good."""
        try:
            what = f"result of activity '{definition.name}'"
            plain = payloads.check(result, definition.result_annotation, what=what)
            return activity_completed(attempt.request.task_id, self.sealer.seal(plain))
        except Exception as misfit:  # noqa: BLE001 (serialisers are the user's code and may raise anything)
            return self._failure(attempt, misfit, is_final=True)

    def _failure(self, attempt: Attempt, error: BaseException, *, is_final: bool = False) -> HistoryEvent:
        """Return the outcome for an exception, from any thread; `is_final`: another attempt would end the same way."""
        details = describe(error)
        if is_final:
            details = dataclasses.replace(details, non_retryable=True)
        return ev.ActivityFailed(attempt.request.task_id, details)

    def _end(self, attempt: Attempt, outcome: HistoryEvent) -> None:
        """Give the outcome of a function that has ended, unless its attempt has one or is given up."""
        if isinstance(outcome, ev.ActivityFailed):
            if outcome.details.error_type == CANCELLED and (attempt.is_settled or self._is_closed):
                self._settle(attempt)  # it has stopped as it was asked to; or the program ends and cancels all
                return
            outcome = dataclasses.replace(outcome, last_heartbeat=_latest_heartbeat(attempt))
        if attempt.is_settled:
            self._on_late(attempt, outcome)
        else:
            self._give(attempt, outcome)

    def _give(self, attempt: Attempt, outcome: HistoryEvent) -> None:
        if attempt.entered_at is not None:
            self.line.note_end(attempt.request.name, self._loop.time() - attempt.entered_at)
        if attempt.context is not None:
            outcome = attempt.context.outcome(outcome)
        if attempt.is_claimed and isinstance(outcome, ev.ActivityFailed):
            log_failed_here(attempt.address, attempt.request, outcome.details)  # it may have its owner elsewhere
        self._settle(attempt)
        self._on_outcome(attempt, outcome)

    def _settle(self, attempt: Attempt) -> None:
        attempt.is_settled = True
        if attempt.timers:
            _stop_timers(attempt)
        if not attempt.is_started and self.attempts.get(attempt.address) is attempt:
            del self.attempts[attempt.address]

    def _stop(self, attempt: Attempt) -> None:
        """Ask the function to stop: an async one is cancelled, a sync one may look at `is_cancelled`."""
        attempt.is_cancelled = True
        if attempt.task is not None:
            attempt.task.cancel()

    # ---- time

    def _set_timer(self, attempt: Attempt, name: str, left_s: float, function: Callable[[Attempt], None]) -> None:
        if attempt.timers is None:
            attempt.timers = {}
        attempt.timers[name] = self._loop.call_later(left_s, function, attempt, context=self._context)

    def _fail_by_time(self, attempt: Attempt, message: str, *, is_final: bool = False) -> None:
        if attempt.is_settled:
            return
        details = FailureDetails(
            "TimeoutError", message, non_retryable=is_final, error_bases=("OSError", "Exception", "BaseException")
        )
        task_id, heartbeat = attempt.request.task_id, _latest_heartbeat(attempt)
        self._give(attempt, ev.ActivityFailed(task_id, details, is_timeout=True, last_heartbeat=heartbeat))
        self._stop(attempt)

    def _out_of_time(self, attempt: Attempt) -> None:
        seconds = (attempt.request.options.timeout or 0) / 1e6
        name, number = attempt.request.name, attempt.request.attempt
        self._fail_by_time(attempt, f"attempt {number} of activity '{name}' ran into its timeout of {seconds:g} s")

    def _out_of_queue(self, attempt: Attempt) -> None:
        """Final: another attempt would wait in the same queue."""
        name, seconds = attempt.request.name, (attempt.request.options.queue_timeout or 0) / 1e6
        message = f"activity '{name}' waited longer than its queue_timeout of {seconds:g} s for a start"
        self._fail_by_time(attempt, message, is_final=True)

    def _watch_beats(self, attempt: Attempt) -> None:
        span_s = (attempt.request.options.heartbeat_timeout or 0) / 1e6
        left = attempt.beaten_at + span_s - self._loop.time()
        if left < 1e-6:  # what is left of a span by the loop's float may be too small to pass
            name = attempt.request.name
            message = f"activity '{name}' gave no heartbeat within its heartbeat_timeout of {span_s:g} s"
            self._fail_by_time(attempt, message)
        elif not attempt.is_settled:
            self._set_timer(attempt, "heartbeat", left, self._watch_beats)

    def beaten(self, attempt: Attempt, details: bytes | None) -> None:
        """Take a heartbeat; pass it on for storing, at most every HEARTBEAT_INTERVAL_S, and then the latest."""
        if attempt.is_settled and not attempt.is_given_up:
            return
        attempt.beaten_at = self._loop.time()
        if details is None:
            return
        attempt.heartbeat_details = details
        if attempt.is_given_up:
            self._store_beat(attempt)
        elif not attempt.timers or "store" not in attempt.timers:
            wait_s = 0.0 if attempt.stored_at is None else attempt.stored_at + HEARTBEAT_INTERVAL_S - attempt.beaten_at
            if wait_s > 0:
                self._set_timer(attempt, "store", wait_s, self._store_beat)
            else:
                self._store_beat(attempt)

    def _store_beat(self, attempt: Attempt) -> None:
        if attempt.timers:
            attempt.timers.pop("store", None)
        attempt.stored_at = self._loop.time()
        self._on_beat(attempt)


def _stop_timers(attempt: Attempt) -> None:
    if attempt.timers:
        for timer in attempt.timers.values():
            timer.cancel()
        attempt.timers.clear()


def _latest_heartbeat(attempt: Attempt) -> bytes | None:
    """Return what the next attempt shall see: also the beat of an earlier delivery of this one, if it gave none itself."""
    return attempt.heartbeat_details or attempt.request.last_heartbeat


def _enter(attempt: Attempt) -> None:
    """Let what the function calls find its context, in the task or thread in which it runs."""
    assert attempt.context is not None, "made before the function is called"
    running_activity.set(attempt)
    running_context.set(attempt.context)
