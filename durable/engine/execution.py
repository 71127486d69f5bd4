"""The engine: one generation of one instance, fed with records and arrivals, answering with turns.

Rules.
 1. An execution is fed the records of its generation, in order, and then takes turns. The same code runs in both: while a
    record is fed, each request is matched with the recorded one; in a turn it is recorded.
 2. Arrivals are applied one by one, and the loop runs until idle after each.
 3. An arrival that answers nothing open (late, double, stale) is refused: it is not recorded.
 4. While suspended, arrivals are recorded and held; the resume delivers them in order, many of them in several turns.
 5. The generation ends when the orchestrator ends, or at `continue_as_new`, in the middle of a turn. Nothing that the code
    does after that has any effect: requests are discarded.
 6. The first request that differs in shape from the recorded one ends the execution with DivergenceError.

Invariant: nothing here asks for the time, makes an id at random, logs or does I/O; what it needs is handed in (`Ports`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from durable import events as ev
from durable.carried import CARRIED_MAX
from durable.differences import same_values
from durable.engine.calls import Call, TimerPurpose
from durable.engine.deliveries import deliver
from durable.engine.divergence import explain
from durable.engine.driver import TurnInterrupted, outcome_of
from durable.engine.loop import DurableLoop, GenerationEnded, run_inside, user_place
from durable.engine.mailbox import DecodeEvent, Mailbox
from durable.engine.ports import Ports, Program
from durable.engine.refusals import refusal
from durable.engine.requests import Requests
from durable.engine.tasks import Task
from durable.engine.turn import UNCHANGED, Turn, Unchanged
from durable.errors import DivergenceError, StoredValueError, TurnBudgetExceededError
from durable.events import HistoryEvent, InstanceKey, TaskRef
from durable.exchanges import Handlers
from durable.outgoing import Outgoing, Sender, outgoing_messages, sends_something
from durable.prefixes import TIMEOUTS, opening_record
from durable.records import Record
from durable.retry import FailedAttempt
from durable.seeds import Seeds
from durable.timers import DUE_MAX, Timer, Timers

E = TypeVar("E", bound=HistoryEvent)

NOTHING_HELD: deque[HistoryEvent] = deque(maxlen=0)  # shared: one of its own would take 600 bytes of each execution


class Execution:
    """One generation of one instance."""

    # More attributes than a shared dictionary takes: each instance would have one of two kilobytes.
    # fmt: off
    __slots__ = (
        "__weakref__", "_carried_left", "_cursor", "_custom_status", "_events", "_events_before", "_failure",
        "_inherited", "_memos", "_opening", "_patches", "attachment", "cancel_reason", "failed_attempts", "farewells",
        "generation", "handlers", "held", "history_bytes", "interruption", "is_at_rest", "is_dispensable",
        "is_replaying", "is_suspended", "key", "loop", "mailbox", "main", "matched", "next_task_id", "observer",
        "open_activities", "open_children", "outcome", "ports", "program", "renewals", "renewed_us", "requests",
        "run_id", "seeds", "started", "stored_status", "time_us", "timers", "writer",
    )
    # fmt: on

    def __init__(self, key: InstanceKey, run_id: str, generation: int, program: Program, ports: Ports) -> None:
        self.key, self.run_id, self.generation = key, run_id, generation
        self.ports = ports
        self.writer = TaskRef(*key, run_id, generation, 0)  # as whom the code acts: of a prefix, who has written that
        self.started: ev.OrchestrationStarted | None = None
        self.outcome: HistoryEvent | None = None
        self.time_us = self.history_bytes = 0
        self.is_replaying = self.is_suspended = False
        self.interruption: str | None = None
        self.renewals = self.renewed_us = 0  # how often the run went on after its end, and when it last did
        self._inherited: list[tuple[TaskRef, int]] = []
        self._patches: dict[str, bool] = {}
        self.matched: HistoryEvent | None = None  # the last recorded request that the code has asked for
        self.is_at_rest = False  # where the code diverged, it asked for nothing
        self.observer: Callable[[HistoryEvent], None] | None = None  # told of each arrival, when the code has seen it
        self.requests, self.timers, self.mailbox = Requests(), Timers(), Mailbox()
        self.open_activities, self.open_children = self.requests.activities, self.requests.children
        self.failed_attempts: list[FailedAttempt] = []
        self.farewells: dict[str, Outgoing] = {}
        self.attachment: bytes | None = None
        self.is_dispensable = False  # nothing would be lost with the instance
        self.stored_status: bytes | Unchanged | None = UNCHANGED  # what its row has, where that is known
        self.cancel_reason: str | None = None
        self.loop = DurableLoop(self, key.id)  # type: ignore[abstract]  # what is abstract is filled in below the class
        self.program = program
        self.main: asyncio.Task[Any] | None = None
        self._failure: BaseException | None = None
        self.handlers: Handlers | None = None  # what the code has registered for queries and updates
        self.held: deque[HistoryEvent] = NOTHING_HELD
        self._opening: Sequence[HistoryEvent] = ()
        self._events: list[HistoryEvent] = []
        self._cursor = self._events_before = self._carried_left = self.next_task_id = 0
        self._custom_status: bytes | Unchanged | None = UNCHANGED
        self._memos: Sequence[tuple[str, bytes, int]] = ()
        self.seeds = Seeds(run_id, generation)  # until the start says which seed counts

    # ---- feeding and turning

    def feed(self, record: Record, size_bytes: int = 0) -> None:
        """Replay one record. Raises DivergenceError if the code asks for something else than it holds."""
        self.time_us = max(self.time_us, record.time)
        if record.is_opening:
            self._opening = [*self._opening, *record.events]
            self._finish_record(len(record.events), size_bytes)
            return
        self._events = list(record.events)
        self.is_replaying = True
        self._run(self._replay)
        self.is_replaying = False
        self._finish_record(len(self._events), size_bytes)

    def _replay(self) -> None:
        events = self._events
        if not (events and isinstance(events[0], ev.OrchestrationTerminated)):  # no turn was taken there
            self._apply_opening()
        while self._cursor < len(events):
            self._pass_patches()
            if self._cursor == len(events):
                break
            event = events[self._cursor]
            if event.is_request:
                self._diverge(event, None)
            self._cursor += 1
            self._close_and_apply(event)

    def turn(self, arrivals: Sequence[HistoryEvent], now: int) -> Turn:
        """Apply arrivals and answer what must become durable. `now` is the store's time in microseconds.

        Raises DivergenceError or TurnBudgetExceededError; the execution is then of no further use.
        """
        self.time_us = max(self.time_us, now)
        if self.timers.open:
            self.time_us = max(self.time_us, *map(self.timers.due_of, arrivals), 0)
        self._carried_left = CARRIED_MAX
        refused: list[tuple[HistoryEvent, str]] = []
        left = iter(arrivals)
        self._run(self._take, left, refused)
        return self._answer(refused, left)

    def _take(self, arrivals: Iterator[HistoryEvent], refused: list[tuple[HistoryEvent, str]]) -> None:
        carried = self.mailbox.carried
        self._apply_opening()
        if carried.count or self.requests.recalled:
            self._take_left()
        while self.outcome is None and (arrival := next(arrivals, None)) is not None:
            reason = refusal(self, arrival)
            if reason is not None:
                refused.append((arrival, reason))
            elif carried.count and isinstance(arrival, ev.EventRaised) and carried.holds(arrival.name):
                carried.add(arrival)  # its history is that of the generation that takes it
            else:
                self._events.append(arrival)
                self._apply(arrival)
                if carried.count or self.requests.recalled:
                    self._take_left()

    def recorded(self, size_bytes: int) -> None:
        """Tell the execution how large the record of its last turn was."""
        self.history_bytes += size_bytes

    def close(self) -> None:
        """Close the suspended orchestrator: its `finally` blocks run and have no effect. Safe to call twice."""
        if not self.loop.is_closing:
            run_inside(self.loop, self.loop.close_everything)
        self.main = None
        self.requests.forget()  # what refers to one another is not left to the garbage collector
        self.mailbox.forget()

    def _finish_record(self, events: int, size_bytes: int) -> None:
        self._events_before += events
        self._events, self.failed_attempts, self._cursor = [], [], 0
        self.history_bytes += size_bytes

    def _run(self, what: Callable[..., None], *args: Any) -> None:
        self.loop.steps = 0
        try:
            run_inside(self.loop, what, *args)
        except (TurnInterrupted, GenerationEnded):
            pass
        if self.outcome is not None:
            run_inside(self.loop, self.loop.close_everything)
        if self.interruption is not None:
            raise TurnBudgetExceededError(self.interruption)
        if self._failure is not None:
            raise self._failure

    def _answer(self, refused: list[tuple[HistoryEvent, str]], leftover: Iterator[HistoryEvent]) -> Turn:
        record, outcome = Record(self.time_us, self._events), self.outcome
        activities, dropped, sends = [], [], False
        for event in self._events:
            if type(event) is ev.ActivityCompleted:  # as most are, and attempts
                continue
            if isinstance(event, ev.ActivityScheduled):
                if event.task_id in self.open_activities:
                    activities.append(event)
            elif isinstance(event, ev.ActivityCancelled):
                dropped.append(event.task_id)
            else:
                sends = sends or sends_something(event)
        messages: Sequence[Outgoing] = tuple(outgoing_messages(record, self.sender())) if sends else ()
        if self.farewells and outcome is not None and not isinstance(outcome, ev.OrchestrationContinuedAsNew):
            messages = (*messages, *self.farewells.values())
        status, self._custom_status = self._custom_status, UNCHANGED
        memos, self._memos, failed = self._memos, (), self.failed_attempts or ()
        self._finish_record(len(self._events), 0)
        opening = None
        if outcome is not None:
            opening = opening_record(outcome, self.started, self.held, self.time_us)
            if isinstance(outcome, ev.OrchestrationContinuedAsNew) and outcome.carry_over_events:
                self.mailbox.leave(self._held_events())
                self.held = NOTHING_HELD
        return Turn(  # in the order of its fields: by their names it would take three times as long
            record,
            refused or (),
            tuple(leftover),
            self.mailbox.carried.change(),
            outcome,
            opening,
            self.timers.next_due if self.timers.open else None,
            len(self.open_activities),
            self.is_suspended,
            self.goes_on,
            status,
            memos,
            self.is_dispensable and outcome is None and not self.mailbox.count,
            messages,
            dict(self.farewells),
            activities,
            tuple(dropped),
            failed,
        )

    def sender(self) -> Sender:
        """Tell who this execution's messages come from."""
        started = self.started
        parent, end_event = (started.parent, started.end_event) if started else (None, None)
        return Sender(self.key, self.run_id, self.generation, parent, end_event, self.attachment)

    def buffered_events(self) -> list[ev.EventRaised]:
        """Return the events that arrived and that nobody has consumed, per name in order."""
        return [*self.mailbox.carried, *self.mailbox.kept(), *self._held_events()]

    def undelivered(self) -> list[HistoryEvent]:
        """Return what found nobody: the buffered events, and a cancel that is still held."""
        if not (self.mailbox.count or self.held):
            return []
        return [*self.buffered_events(), *(e for e in self.held if isinstance(e, ev.OrchestrationCancelRequested))]

    def _held_events(self) -> list[ev.EventRaised]:
        return [event for event in self.held if isinstance(event, ev.EventRaised)]

    # ---- arrivals

    def _take_left(self) -> None:
        """Let arrive what an older generation has left: answers that are asked for again, events that somebody awaits."""
        carried = self.mailbox.carried
        while self.outcome is None:
            if self.requests.recalled:
                event: HistoryEvent = self.requests.recalled.popleft()
            elif self.is_suspended or self.held or not self._carried_left:
                return
            elif carried.has_wanted(self.mailbox.is_awaited):
                self._carried_left -= 1
                event = carried.take_wanted()
            else:
                return
            self._events.append(event)
            self._close_and_apply(event)

    def _apply_opening(self) -> None:
        opening, self._opening = self._opening, ()
        for index, arrival in enumerate(opening):
            self._close_and_apply(arrival)
            if self.outcome is not None:  # the rest is for the next generation, not for who still waits in this one
                self.held = deque([*self.held, *opening[index + 1 :]])
                return

    def _close_and_apply(self, event: HistoryEvent) -> None:
        if isinstance(event, ev.Answer):
            self.requests.close(event)
        self._apply(event)

    def _apply(self, event: HistoryEvent) -> None:
        """Take in an arrival, whose request is closed: hand it to the code, or hold it while suspended."""
        if isinstance(event, ev.Answer):
            pass  # as most are
        elif isinstance(event, ev.AnswerKept):
            self.requests.keep(event)
            return
        elif isinstance(event, ev.OrchestrationSuspended):
            self.is_suspended = True
            return
        elif isinstance(event, ev.OrchestrationResumed):
            self.is_suspended = False
            for _ in range(len(self.held) if event.at_most is None else min(event.at_most, len(self.held))):
                self._deliver(self.held.popleft())
                if self.outcome is not None:
                    return
            return
        elif isinstance(event, ev.OrchestrationTerminated):
            self.outcome = event  # written by the owner, alone: no code ran
            return
        elif isinstance(event, ev.GOES_ON):
            self._inherited.append((self.writer, self.next_task_id))
        if self.is_suspended or self.held:
            self.held = self.held or deque()
            self.held.append(event)
            if isinstance(event, ev.TimerFired):
                self.timers.hold(event.task_id)
        else:
            self._deliver(event)
            if self.observer is not None:
                self.observer(event)

    def _deliver(self, event: HistoryEvent) -> None:
        try:
            self.loop.enter(deliver, self, event)
            self.loop.run_until_idle()
        except (TurnBudgetExceededError, StoredValueError, GenerationEnded, TurnInterrupted, KeyboardInterrupt):
            raise  # Ctrl-C is meant for the process: it is no failure of whatever instance happens to run
        except BaseException as error:  # noqa: BLE001 (the code's failure, whatever it is)
            # asyncio lets SystemExit out of a task, and anything out of a callback.
            self.end(ev.OrchestrationFailed(self.ports.describe(error)))
        if self._failure is None and self.outcome is None and self.main is not None and self.main.done():
            self.end(outcome_of(self.main, self))
        if self._failure is not None or self.interruption is not None:
            raise GenerationEnded

    # ---- the orchestrator's own life

    def end(self, outcome: HistoryEvent) -> None:
        """End the generation here and now: what is open is given up, and the outcome asked for."""
        for task_id in sorted([*self.open_activities, *self.timers]):
            kind: Any = ev.ActivityCancelled if task_id in self.open_activities else ev.TimerCancelled
            self.emit(kind(task_id))
        if isinstance(outcome, ev.OrchestrationCancelled):  # a cancel is passed on; after any other end children run on
            for task_id in list(self.open_children):
                self.drop_child(task_id)
        if self.handlers is not None:
            self.handlers.end(outcome)
        self.open_activities.clear()
        self.timers.clear()
        self.outcome = self.emit(outcome)
        self.loop.stop()

    # ---- requests: matched while a record is fed, recorded in a turn

    @property
    def is_over(self) -> bool:
        """True when requests are discarded: the generation has ended, or is being closed. Raises where none may be made."""
        if self.handlers is not None:
            self.handlers.check_may_ask()
        return self.outcome is not None or self.loop.is_closing or self._failure is not None

    def check_access(self) -> None:
        """Raise DurableError unless the caller is this execution's own code, in its turn."""
        self.loop.check_access()

    def new_task_id(self) -> int:
        """Return the position of the next request."""
        task_id = self.next_task_id
        self.next_task_id += 1
        return task_id

    def value(self, plain: bytes | None) -> tuple[bytes | None, bytes | None]:
        """Return (payload, digest) of an encoded value, for a request's fields."""
        if plain is None or self.is_replaying:
            return plain, None
        return self.ports.seal(plain)

    def emit(self, request: E) -> E:
        """Ask for something: record it, or match it with what was recorded; return what counts."""
        if not self.is_replaying:
            self._events.append(request)
            return request
        self._pass_patches()
        cursor = self._cursor
        recorded = self._events[cursor] if cursor < len(self._events) else None
        if recorded is None or not recorded.is_request or recorded.shape != request.shape:
            self._diverge(recorded, request)
        self._cursor = cursor + 1
        self.matched = recorded
        if not same_values(recorded, request, self.ports.digest):
            text = explain(self, recorded, request, cursor + self._events_before, in_values=True)
            if self.ports.strict:
                self.fail_turn(DivergenceError(text))
            self.ports.value_differs(text)
        return recorded  # type: ignore[return-value]

    @property
    def recorded_request(self) -> HistoryEvent | None:
        """While replaying: the recorded request that the next one will be compared with."""
        if not self.is_replaying:
            return None
        self._pass_patches()
        event = self._events[self._cursor] if self._cursor < len(self._events) else None
        return event if event is not None and event.is_request else None

    def patched(self, patch_id: str) -> bool:
        """Tell whether a change in place holds: what is recorded, or else whether this code is the first to come here."""
        if patch_id not in self._patches and not self.is_over:
            if not self.is_replaying:
                self._events.append(ev.PatchApplied(patch_id, user_place()))
            self._pass_patches()
            self._patches.setdefault(patch_id, not self.is_replaying)
        return self._patches.get(patch_id, True)

    def _pass_patches(self) -> None:
        """Take in the changes that are recorded next; whether the code still asks for them makes no difference."""
        while self.is_replaying and self._cursor < len(self._events):
            event = self._events[self._cursor]
            if not isinstance(event, ev.PatchApplied):
                return
            self._patches[event.patch_id] = True
            self._cursor += 1

    def _diverge(self, recorded: HistoryEvent | None, asked: HistoryEvent | None) -> NoReturn:
        position = self._cursor + self._events_before
        self.is_at_rest = asked is None
        self.fail_turn(DivergenceError(explain(self, recorded, asked, position, in_values=False)))

    def fail_turn(self, error: BaseException) -> NoReturn:
        """End the execution with an error that is not the orchestration's own; its instance stalls."""
        self._failure = error
        self.loop.stop()
        raise GenerationEnded

    def call(self, call: Call) -> Task[Any]:
        """Begin an activity call or a child, with its retries, or a feature's call; return its task."""
        if not self.is_over:
            call.begin()
        return call.task

    def open_request(self, request: HistoryEvent, call: Call) -> None:
        """Note an attempt, a child or a feature's request as open: `call` gets its answer."""
        self.requests.open(request, call)
        self.requests.recall(request, self.ports.digest, is_replaying=self.is_replaying)

    def drop_request(self, task_id: int) -> None:
        """Give a feature's request up: its answer is refused. Nothing is recorded; what tells the other side is."""
        self.requests.take_call(task_id)
        self.requests.others.pop(task_id, None)

    def drop_activity(self, task_id: int) -> None:
        """Give a scheduled attempt up."""
        self.requests.take_call(task_id)
        if task_id in self.open_activities and not self.is_over:
            self.emit(ev.ActivityCancelled(task_id))
            del self.open_activities[task_id]

    def drop_child(self, task_id: int) -> None:
        """Give a child up: it is cancelled."""
        self.requests.take_call(task_id)
        child = self.open_children.get(task_id)
        if child is not None and not self.is_over:
            self.emit(ev.SubOrchestrationCancelled(task_id, child.instance_id, child.run_id, child.kind))
            del self.open_children[task_id]

    def set_timer(self, due: int, purpose: TimerPurpose, fire: Callable[[], None]) -> int:
        """Ask for a durable timer; `fire` is called when it fires. Returns its task id, -1 when discarded."""
        if self.is_over:
            return -1
        due = min(max(due, self.time_us), DUE_MAX)
        task_id = self.new_task_id()
        line = "" if self.is_replaying else user_place()
        request = self.emit(ev.TimerCreated(task_id, due, purpose.value, line))
        span = request.due - self.time_us if purpose.value in TIMEOUTS else None
        self.timers.add(task_id, Timer(request.due, fire, purpose.value, span))
        return task_id

    def drop_timer(self, task_id: int) -> None:
        """Give a timer up, unless it has fired."""
        task_id = self.timers.latest(task_id)
        if not self.is_over:
            if self.timers.is_waiting(task_id):  # one that fired while suspended has its outcome on record
                self.emit(ev.TimerCancelled(task_id))
            self.timers.remove(task_id)

    def create_loop_timer(self, due: int, fire: Callable[[], None]) -> int:
        """For the loop: a timer that asyncio asked for."""
        return self.set_timer(due, TimerPurpose.ASYNCIO, fire)

    def create_timer(self, due: int) -> Task[None]:
        """Ask for a durable timer as a task."""
        task: Task[None] = Task(self.loop, "timer")
        task_id = self.set_timer(due, TimerPurpose.USER, lambda: task.succeed(None))
        task.task_id = task_id
        task.when_cancelled(lambda: self.drop_timer(task_id))
        return task

    def wait_for_event(self, name: str, decode: DecodeEvent, timeout_due: int | None = None) -> Task[Any]:
        """Wait for an external event of that name. `decode` makes the result, or raises what awaiting shall raise."""
        task: Task[Any] = Task(self.loop, f"event '{name}'")
        if self.is_over or self.mailbox.take(name, task, decode):
            return task
        withdraw = self.mailbox.wait(name, task, decode)

        def time_out() -> None:
            withdraw()
            task.fail(TimeoutError(f"no event '{name}' arrived in time"))

        if timeout_due is not None:
            timer_id = self.set_timer(timeout_due, TimerPurpose.EVENT, time_out)
            task.add_done_callback(lambda _: self.drop_timer(timer_id))
        task.when_cancelled(withdraw)
        return task

    def send_event(self, target: InstanceKey, name: str, plain: bytes | None) -> None:
        """Send an event to another instance, with the commit."""
        if not self.is_over:
            payload, digest = self.value(plain)
            line = "" if self.is_replaying else user_place()
            self.emit(ev.EventSent(self.new_task_id(), target.id, name, payload, digest, target.kind, line))

    def start_detached(
        self, make: Callable[[int], ev.SubOrchestrationScheduled]
    ) -> ev.SubOrchestrationScheduled | None:
        """Start another orchestration without waiting; `make` builds the request from its task id."""
        return None if self.is_over else self.emit(make(self.new_task_id()))

    def continue_as_new(self, plain: bytes | None, version: str | None, *, carry_over_events: bool) -> NoReturn:
        """End the generation here and now."""
        if not self.is_over:
            payload, digest = self.value(plain)
            line = "" if self.is_replaying else user_place()
            self.end(ev.OrchestrationContinuedAsNew(payload, digest, version, carry_over_events, line))
        raise GenerationEnded

    def set_custom_status(self, payload: bytes | None) -> None:
        """Set what the row shows; the last of a turn wins. While replaying the row has it already."""
        if not self.is_over and not self.is_replaying:
            self._custom_status = payload

    def set_memo(self, key: str, data: bytes, lifetime_us: int) -> None:
        """Write a keyed memo with the turn (not while replaying)."""
        if not self.is_over and not self.is_replaying:
            self._memos = [*self._memos, (key, data, self.time_us + lifetime_us)]

    def set_farewell(self, name: str, message: Outgoing | None) -> None:
        """Set or withdraw a message that whichever commit ends the run sends."""
        if not self.is_over:
            if message is None:
                self.farewells.pop(name, None)
            else:
                self.farewells[name] = message

    # ---- what others ask

    @property
    def next_due(self) -> int | None:
        """When the earliest open timer is due."""
        return self.timers.next_due if self.timers.open else None

    @property
    def goes_on(self) -> bool:
        """True when another turn would have something to do, though nothing arrives."""
        if self.is_suspended or self.outcome is not None:
            return False
        return bool(self.held) or self.mailbox.carried.has_wanted(self.mailbox.is_awaited)

    @property
    def has_opening(self) -> bool:
        """True while arrivals of an opening record wait for a turn to apply them."""
        return bool(self._opening)

    def due_timers(self, now: int, limit: int = 1 << 62) -> list[ev.TimerFired]:
        """Return arrivals for the timers that are due, by due time and then position, at most `limit`."""
        return [ev.TimerFired(task_id) for task_id in self.timers.due(now, limit)] if self.timers.open else []

    @property
    def history_length(self) -> int:
        """Events of this generation so far."""
        return self._events_before + (self._cursor if self.is_replaying else len(self._events))

    def derived_id(self, *parts: object) -> str:
        """Return 32 hexadecimal digits, as `Seeds` derives them."""
        return self.seeds.derived_id(*parts)

    def has_inherited(self, generation: int, task_id: int) -> bool:
        """Tell whether a request is the one that an older generation of this run has made, and this one has taken over."""
        return any(
            (writer.run_id, writer.generation) == (self.run_id, generation) and task_id < first
            for writer, first in self._inherited
        )
