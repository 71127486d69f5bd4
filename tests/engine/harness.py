"""Drives one instance through the engine, without store, worker or clock, and proves afterwards that replay is the same.

Goal: whatever a test does to an instance step by step, a fresh execution that is fed any prefix of the history must be in
the same state, and must answer the next arrivals with the same turn. Method: `Play` keeps each turn with its arrivals, as
bytes and back, as a store would; `check_replays` feeds every prefix and takes the following turn again. The fixture `play`
calls it at the end of every test.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from durable import events as ev
from durable.app import App
from durable.carried import Carried
from durable.engine.execution import Execution
from durable.engine.turn import Turn
from durable.errors import FailureDetails
from durable.events import HistoryEvent, InstanceKey, TaskRef
from durable.failures import describe
from durable.orchestrations import OrchestrationRunner
from durable.payloads import Sealer, decode, encode
from durable.records import Record, decode_record, encode_record

BEGIN_US = 1_750_000_000_000_000
SECOND = 1_000_000
TURNS_MAX = 2_000

Answers = Mapping[str, Callable[[Any], Any]]


class Play:
    """One run of one instance. `now` is the store's time, in microseconds; only the test moves it.

    `orchestrator` is registered as "main" unless an app knows it. `turns` are those of the present generation.
    """

    def __init__(
        self,
        orchestrator: Callable[..., Any],
        input: Any = None,
        *,
        app: App | None = None,
        strict: bool = True,
        sealer: Sealer | None = None,
        instance_id: str = "instance",
        run_id: str = "run",
        **started: Any,
    ) -> None:
        self.app = app or App()
        definition = next((d for d in self.app.orchestrators if d.function is orchestrator), None)
        if definition is None:
            self.app.orchestrator(name="main")(orchestrator)
            definition = self.app.find_orchestrator("main")
        self.sealer = sealer or Sealer()
        self.runner = OrchestrationRunner(self.app, definition, self.sealer, strict=strict)
        self.key = InstanceKey(instance_id)
        self.run_id = run_id
        self.generation = 0
        self.now = BEGIN_US
        self.history: list[tuple[Sequence[HistoryEvent], int, bytes, Turn | None]] = []
        self.carried: dict[tuple[int, int], list[ev.EventRaised]] = {}  # before each turn, by generation and turn
        self.ended: list[tuple[int, list[tuple[Sequence[HistoryEvent], int, bytes, Turn | None]]]] = []
        payload = None if input is None else encode(input)
        payload = None if payload is None else self.sealer.seal(payload)
        fields: dict[str, Any] = {"seed": run_id, "python": "", "scheduled_for": BEGIN_US} | started
        self.begin = ev.OrchestrationStarted(definition.name, definition.version, payload, **fields)
        self.execution = self.new_execution()

    # ---- steps

    def new_execution(self, generation: int | None = None) -> Execution:
        return self.runner.new_execution(self.key, self.run_id, self.generation if generation is None else generation)

    def turn(self, *arrivals: HistoryEvent) -> Turn:
        """Take a turn, and keep its record as bytes; go on with the next generation if this one continues as new."""
        turn = latest = self._take(arrivals)
        while latest.next_generation is not None:
            latest = self._continue(latest.next_generation, latest.leftover)
        return turn

    def _take(self, arrivals: Sequence[HistoryEvent]) -> Turn:
        self.carried[self.generation, len(self.history)] = list(self.execution.mailbox.carried)
        turn = self.execution.turn(arrivals, self.now)
        data = encode_record(turn.record)
        assert decode_record(data).events == list(turn.record.events), "a record survives its encoding"
        self.execution.recorded(len(data))
        self.history.append((arrivals, self.now, data, turn))
        return turn

    def _continue(self, opening: Record, leftover: Sequence[HistoryEvent]) -> Turn:
        former = self.execution
        former.close()
        self.ended.append((self.generation, self.history))
        self.generation += 1
        self.execution = self.new_execution()
        self.execution.mailbox.carry(former.mailbox.carried)
        data = encode_record(opening)
        self.execution.feed(decode_record(data), len(data))
        self.history = [((), opening.time, data, None)]
        return self._take([event for event in leftover if isinstance(event, ev.EventRaised)])

    def start(self, *more: HistoryEvent) -> Turn:
        return self.turn(self.begin, *more)

    def wait(self, **span: float) -> None:
        """Let time pass, without a turn."""
        self.now += timedelta(**span) // timedelta(microseconds=1)

    def fire(self, **span: float) -> Turn:
        """Let time pass, or go to when the next timer is due, and fire what is due."""
        if span:
            self.wait(**span)
        else:
            assert self.execution.next_due is not None, "a timer is open"
            self.now = max(self.now, self.execution.next_due)
        return self.turn(*self.execution.due_timers(self.now))

    def complete(self, name: str, value: Any = None) -> Turn:
        """Let the oldest open call or child of that name return."""
        return self.turn(self.completed(name, value))

    def fail(self, name: str, error: BaseException | FailureDetails) -> Turn:
        """Let the oldest open call or child of that name fail."""
        return self.turn(self.failed(name, error))

    def raise_event(self, name: str, data: Any = None) -> Turn:
        return self.turn(self.event(name, data))

    def cancel(self, reason: str = "") -> Turn:
        return self.turn(ev.OrchestrationCancelRequested(reason))

    # ---- arrivals

    def open_named(self, name: str) -> ev.ActivityScheduled | ev.SubOrchestrationScheduled:
        found: list[Any] = [*self.execution.open_activities.values(), *self.execution.open_children.values()]
        oldest: ev.ActivityScheduled | ev.SubOrchestrationScheduled
        oldest = min((event for event in found if event.name == name), key=lambda event: event.task_id)
        return oldest

    def completed(self, name: str, value: Any = None) -> HistoryEvent:
        request = self.open_named(name)
        kind = ev.ActivityCompleted if isinstance(request, ev.ActivityScheduled) else ev.SubOrchestrationCompleted
        return kind(request.task_id, self.sealer.seal(encode(value)))

    def failed(self, name: str, error: BaseException | FailureDetails) -> HistoryEvent:
        request = self.open_named(name)
        details = error if isinstance(error, FailureDetails) else describe(error)
        kind = ev.ActivityFailed if isinstance(request, ev.ActivityScheduled) else ev.SubOrchestrationFailed
        return kind(request.task_id, details)

    def event(self, name: str, data: Any = None) -> ev.EventRaised:
        return ev.EventRaised(name, None if data is None else self.sealer.seal(encode(data)))

    # ---- running by itself

    def run(self, answers: Answers | None = None) -> Any:
        """Answer everything until the instance ends or waits for an event; return its result, if it has one."""
        self.start()
        return self.go_on(answers)

    def go_on(self, answers: Answers | None = None) -> Any:
        for _ in range(TURNS_MAX):
            execution = self.execution
            if execution.outcome is not None:
                return self.result if isinstance(execution.outcome, ev.OrchestrationCompleted) else None
            asked = [*execution.open_activities.values(), *execution.open_children.values()]
            if asked:
                self.turn(*(self._answer(request, answers or {}) for request in asked))
            elif execution.next_due is not None:
                self.fire()
            else:
                return None
        raise AssertionError("the instance does not come to an end")

    def _answer(self, request: Any, answers: Answers) -> HistoryEvent:
        value = None if request.input is None else decode(self.sealer.unseal(request.input))
        is_activity = isinstance(request, ev.ActivityScheduled)
        try:
            found = answers.get(request.name) or self._registered(request.name)
            result = found(value)
            if inspect.iscoroutine(result):
                result = asyncio.run(result)
        except Exception as error:
            return (ev.ActivityFailed if is_activity else ev.SubOrchestrationFailed)(request.task_id, describe(error))
        payload = self.sealer.seal(encode(result))
        return (ev.ActivityCompleted if is_activity else ev.SubOrchestrationCompleted)(request.task_id, payload)

    def _registered(self, name: str) -> Callable[[Any], Any]:
        definition = self.app.find_activity(name)
        return lambda value: definition.function(*definition.arguments(None, value))

    # ---- what came of it

    @property
    def records(self) -> list[Record]:
        """The records of the present generation, as read from a store."""
        return [decode_record(data) for _, _, data, _ in self.history]

    @property
    def events(self) -> list[HistoryEvent]:
        return [event for record in self.records for event in record.events]

    def requests(self, kind: type[HistoryEvent]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def outcome(self) -> Any:
        return self.execution.outcome

    @property
    def result(self) -> Any:
        assert isinstance(self.outcome, ev.OrchestrationCompleted), self.outcome
        return decode(self.sealer.unseal(self.outcome.result))

    @property
    def failure(self) -> FailureDetails:
        assert isinstance(self.outcome, ev.OrchestrationFailed), self.outcome
        return self.outcome.details

    # ---- replay

    def replay(self, other: Callable[..., Any], *, app: App | None = None, strict: bool = True) -> Execution:
        """Feed this history to other code under the same name; return the execution. Raises what feeding raises."""
        second = Play(other, app=app, strict=strict, sealer=self.sealer, instance_id=self.key.id, run_id=self.run_id)
        execution = second.new_execution(self.generation)
        try:
            for record in self.records:
                execution.feed(record)
        finally:
            execution.close()
        return execution

    def check_replays(self) -> None:
        """Feed each prefix of each generation to a fresh execution, take the next turn there, and compare."""
        for generation, history in [*self.ended, (self.generation, self.history)]:
            for length in range(len(history) + 1):
                self._check_prefix(generation, history, length)

    def _check_prefix(self, generation: int, history: list[Any], length: int) -> None:
        fresh = self.new_execution(generation)
        for _, _, data, _ in history[:length]:
            fresh.feed(decode_record(data), len(data))
        if length < len(history):
            fresh.mailbox.carry(Carried(self.carried.get((generation, length), ())))
            arrivals, now, data, expected = history[length]
            if expected is not None:
                turn = fresh.turn(arrivals, now)
                assert list(turn.record.events) == list(decode_record(data).events), (
                    f"turn {length} of generation {generation}"
                )
                assert encode_record(turn.record) == data, f"turn {length} of generation {generation}"
                assert turn == expected, f"turn {length} of generation {generation}"
        elif generation == self.generation:
            fresh.mailbox.carry(Carried(self.execution.mailbox.carried))
            assert snapshot(fresh) == snapshot(self.execution)
        fresh.close()


def snapshot(execution: Execution) -> dict[str, Any]:
    """All that can be seen of an execution from outside."""
    names = (
        "key run_id generation started outcome time_us is_replaying is_suspended history_bytes history_length next_due "
        "open_activities open_children farewells attachment cancel_reason is_over"
    )
    seen: dict[str, Any] = {name: getattr(execution, name) for name in names.split()}
    seen["buffered"] = execution.undelivered()
    seen["next random"] = execution.seeds.stream("random").getstate()
    seen["derived"] = execution.derived_id("x")
    return seen


def parent_ref(task_id: int = 0) -> TaskRef:
    return TaskRef("parent", ev.ORCHESTRATION, "parent-run", 0, task_id)


def names(events: Iterable[HistoryEvent]) -> list[str]:
    return [type(event).__name__ for event in events]
