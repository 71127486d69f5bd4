"""What the engine offers to features: nothing here is used by the core itself.

Detached starts whose end arrives as an event, farewells, an attachment on an outcome, a kind beside the id, keyed memos,
a look at an outcome before its awaiter sees it; and requests of a feature's own, with what they send and what answers them.
"""

# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from durable import events as ev
from durable import outgoing, records
from durable.context import OrchestrationContext
from durable.engine.calls import ActivityCall
from durable.engine.execution import Execution
from durable.engine.tasks import Task
from durable.engine.turn import UNCHANGED
from durable.errors import DivergenceError, FailureDetails
from durable.events import ActivityOptions, InstanceKey
from durable.outgoing import Beginning, Outgoing, Sender, outcome_messages, register_messages
from durable.payloads import decode, encode
from tests.engine.harness import Play, parent_ref

MakePlay = Callable[..., Play]
Context = OrchestrationContext


def start_with_end_event(ctx: Context, name: str, event: str, kind: str = ev.ORCHESTRATION) -> str:
    def make(task_id: int) -> ev.SubOrchestrationScheduled:
        return ev.SubOrchestrationScheduled(
            task_id, name, None, f"{name}-1", None, run_id="r", kind=kind, is_detached=True, end_event=event
        )

    request = ctx.execution.start_detached(make)
    return request.instance_id if request else ""


def test_the_end_of_a_detached_start_arrives_as_an_event_of_whatever_generation(play: MakePlay) -> None:
    async def main(ctx: Context, begun: bool = False) -> Any:
        if not begun:
            start_with_end_event(ctx, "job", "job ended")
            ctx.continue_as_new(True)
        event = await ctx.execution.wait_for_event("job ended", lambda event: [decode(event.data), event.details])
        return [event[0], event[1] is None]

    one = play(main)
    one.start()
    assert one.generation == 1
    one.raise_event("job ended", "result")
    assert one.result == ["result", True]


def test_the_end_is_told_as_an_event_to_the_run_and_not_to_one_generation(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        return "result"

    one = play(main, parent=parent_ref(3), end_event="job ended")
    (message,) = one.start().messages
    assert message.event == ev.EventRaised("job ended", encode("result"))
    assert message.run_id == "parent-run"
    assert message.generation is None


def test_a_failed_end_is_told_with_its_details(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        raise ValueError("no")

    one = play(main, parent=parent_ref(), end_event="job ended")
    (message,) = one.start().messages
    assert isinstance(message.event, ev.EventRaised)
    assert message.event.data is None
    assert message.event.details is not None
    assert message.event.details.message == "no"


def test_farewells_are_sent_by_whichever_commit_ends_the_run(play: MakePlay) -> None:
    lock, queue = InstanceKey("lock", "e"), InstanceKey("queue", "e")

    async def main(ctx: Context, rounds: int) -> None:
        execution = ctx.execution
        execution.set_farewell("lock", Outgoing(lock, ev.EventRaised("release", None)))
        execution.set_farewell("queue", Outgoing(queue, ev.EventRaised("leave", None)))
        await ctx.wait_for_external_event("go")
        execution.set_farewell("queue", None)
        if rounds:
            ctx.continue_as_new(rounds - 1)

    one = play(main, 0)
    turn = one.start()
    assert set(turn.farewells) == {"lock", "queue"}
    assert not turn.messages
    forced = [
        *outcome_messages(ev.OrchestrationTerminated("now"), one.execution.sender()),
        *one.execution.farewells.values(),
    ]
    assert [message.target for message in forced] == [lock, queue]
    turn = one.raise_event("go")
    assert [message.target for message in turn.messages] == [lock]

    again = play(main, 1)
    again.start()
    turn = again.raise_event("go")
    assert not turn.messages
    assert isinstance(turn.outcome, ev.OrchestrationContinuedAsNew)


def test_an_attachment_goes_with_the_outcome_whether_result_or_failure(play: MakePlay) -> None:
    async def main(ctx: Context, fails: bool) -> str:
        ctx.execution.attachment = b"children"
        if fails:
            raise ValueError("no")
        return "ok"

    for fails, kind in ((False, ev.SubOrchestrationCompleted), (True, ev.SubOrchestrationFailed)):
        (message,) = play(main, fails, parent=parent_ref(4)).start().messages
        assert isinstance(message.event, kind)
        assert message.event.attachment == b"children"


def test_an_outcome_can_be_observed_before_who_awaits_it_goes_on(play: MakePlay) -> None:
    async def main(ctx: Context) -> list[Any]:
        execution, seen = ctx.execution, []

        def observe(event: ev.HistoryEvent) -> None:
            seen.append([type(event).__name__, getattr(event, "attachment", None)])

        call = ActivityCall(execution, "a", None, None, options=ActivityOptions(), decode=decode, observe=observe)
        await execution.call(call)
        return seen

    one = play(main)
    one.start()
    one.turn(ev.ActivityCompleted(0, encode(1), b"note"))
    assert one.result == [["ActivityCompleted", b"note"]]


def test_a_kind_stands_beside_the_id(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        start_with_end_event(ctx, "Counter", "ended", kind="e")
        ctx.execution.send_event(InstanceKey("Counter-1", "e"), "add", encode(1))

    turn = play(main).start()
    assert {message.target for message in turn.messages} == {InstanceKey("Counter-1", "e")}


def test_memos_are_written_with_the_turn_and_not_again_on_replay(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        ctx.execution.set_memo("answer/1", b"42", 60_000_000)
        await ctx.wait_for_external_event("end")

    one = play(main)
    assert list(one.start().memos) == [("answer/1", b"42", one.now + 60_000_000)]
    fresh = one.new_execution()
    fresh.feed(one.records[0])
    assert not fresh.turn([one.event("end")], one.now).memos


def test_a_custom_status_is_not_written_again_on_replay(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        ctx.set_custom_status("first")
        await ctx.wait_for_external_event("n")

    one = play(main)
    assert one.start().custom_status == encode("first")
    fresh = one.new_execution()
    fresh.feed(one.records[0])
    assert fresh.turn([one.event("other")], one.now).custom_status is UNCHANGED


def test_features_may_add_events_of_their_own() -> None:
    @dataclasses.dataclass(frozen=True, slots=True)
    class JobNoted(ev.HistoryEvent):
        text: str

        code: ClassVar[int] = 200

    records.register_event(JobNoted)
    try:
        record = records.Record(1, [JobNoted("x")])
        data = records.encode_record(record)
        assert records.decode_record(data) == record

        @dataclasses.dataclass(frozen=True, slots=True)
        class OtherNoted(ev.HistoryEvent):
            code: ClassVar[int] = 200

        with pytest.raises(ValueError, match="JobNoted"):
            records.register_event(OtherNoted)
    finally:
        del records._LAYOUTS[200]
    assert records.decode_record(data).events == [], "an informational event of a later version is skipped"


@dataclasses.dataclass(frozen=True, slots=True)
class Asked(ev.Request):
    task_id: int
    whom: str

    code: ClassVar[int] = 120

    @property
    def shape(self) -> tuple[Any, ...]:
        return ("Asked", self.whom, self.task_id)


@dataclasses.dataclass(frozen=True, slots=True)
class Answered(ev.Answer):
    task_id: int
    text: str

    code: ClassVar[int] = 121


@dataclasses.dataclass(frozen=True, slots=True)
class Heard(ev.EventRaised):
    loudness: int = 0

    code: ClassVar[int] = 122


class Asking:
    """A feature's call: `Call` of the engine."""

    def __init__(self, execution: Execution, whom: str) -> None:
        self.task: Task[str] = Task(execution.loop, "asking")
        self._execution = execution
        self._whom = whom

    def begin(self) -> None:
        execution, task_id = self._execution, self._execution.new_task_id()
        execution.open_request(execution.emit(Asked(task_id, self._whom)), self)
        self.task.when_cancelled(lambda: execution.drop_request(task_id))

    def settle(self, event: Answered) -> None:
        self.task.succeed(event.text)


@pytest.fixture
def of_a_feature() -> Iterator[None]:
    """Make the feature's events known, and say what its request sends."""

    def messages_of(request: Asked, sender: Sender) -> Iterator[Outgoing]:
        ref = ev.TaskRef(*sender.key, sender.run_id, sender.generation, request.task_id)
        heard = Heard("question", None, loudness=request.task_id)
        begins = Beginning("listener", heard)
        yield Outgoing(InstanceKey(request.whom, "x"), heard, sender=ref, begins=begins, visible_at=7)

    for event in (Asked, Answered, Heard):
        records.register_event(event)
    register_messages(Asked, messages_of)
    yield
    for event in (Asked, Answered, Heard):
        del records._LAYOUTS[event.code]
    del outgoing._messages_of[Asked]


@pytest.mark.usefixtures("of_a_feature")
def test_a_features_request_sends_what_the_feature_says(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        ctx.execution.call(Asking(ctx.execution, "ada"))
        return str(await ctx.execution.call(Asking(ctx.execution, "bob")))

    one = play(main)
    messages = one.start().messages
    assert [(message.target, message.visible_at) for message in messages] == [
        (InstanceKey("ada", "x"), 7),
        (InstanceKey("bob", "x"), 7),
    ]
    assert [message.begins for message in messages] == [
        Beginning("listener", Heard("question", None, loudness=number)) for number in range(2)
    ]
    one.turn(Answered(1, "yes"))
    assert one.result == "yes"


@pytest.mark.usefixtures("of_a_feature")
def test_a_features_request_is_answered_once_or_given_up(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        dropped = ctx.execution.call(Asking(ctx.execution, "ada"))
        dropped.cancel()
        found = await ctx.execution.call(Asking(ctx.execution, "bob"))
        await ctx.wait_for_external_event("go")
        return str(found)

    one = play(main)
    one.start()
    turn = one.turn(Answered(0, "late"), Answered(1, "yes"), Answered(1, "no"), Answered(5, "whose"))
    assert [(event, reason) for event, reason in turn.refused] == [
        (answer, "the request has an answer already, or was given up")
        for answer in (Answered(0, "late"), Answered(1, "no"), Answered(5, "whose"))
    ]
    one.raise_event("go")
    assert one.result == "yes"


@pytest.mark.usefixtures("of_a_feature")
def test_while_suspended_an_answer_is_held_and_a_second_one_refused(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        return str(await ctx.execution.call(Asking(ctx.execution, "bob")))

    one = play(main)
    one.start()
    one.turn(ev.OrchestrationSuspended())
    assert not one.turn(Answered(0, "yes")).refused
    assert len(one.turn(Answered(0, "no")).refused) == 1
    one.turn(ev.OrchestrationResumed())
    assert one.result == "yes"


@pytest.mark.usefixtures("of_a_feature")
def test_a_features_events_wait_in_the_mailbox_like_any_other_and_over_generations(play: MakePlay) -> None:
    async def main(ctx: Context, seen: list[int]) -> list[int]:
        event = await ctx.execution.wait_for_event("question", lambda event: event)
        seen = [*seen, event.loudness]
        if len(seen) < 3:
            ctx.continue_as_new(seen)
        return seen

    one = play(main, [])
    one.start(Heard("question", None, loudness=5), Heard("question", None, loudness=6))
    one.turn(Heard("question", None, loudness=7))
    assert one.result == [5, 6, 7]


def test_an_instance_may_say_that_nothing_would_be_lost_with_it(play: MakePlay) -> None:
    async def main(ctx: Context) -> None:
        ctx.execution.is_dispensable = True
        await ctx.wait_for_external_event("one")
        await ctx.wait_for_external_event("two")
        await ctx.wait_for_external_event("end")

    one = play(main)
    assert one.start().is_dispensable
    assert not one.raise_event("two").is_dispensable, "an event waits"
    assert one.raise_event("one").is_dispensable
    assert not one.raise_event("end").is_dispensable, "what has ended is no longer its to say"


@pytest.mark.usefixtures("of_a_feature")
def test_a_changed_request_of_a_feature_is_explained(play: MakePlay) -> None:
    whom = ["ada"]

    async def main(ctx: Context) -> str:
        return str(await ctx.execution.call(Asking(ctx.execution, whom[0])))

    one = play(main)
    one.start()
    whom[0] = "eve"
    fresh = one.new_execution()
    with pytest.raises(DivergenceError, match=r"recorded:  Asked\(task 0\)"):
        fresh.feed(one.records[0])
    whom[0] = "ada"


def test_failure_details_travel_with_an_event(play: MakePlay) -> None:
    async def main(ctx: Context) -> str:
        def read(event: ev.EventRaised) -> str:
            assert event.details is not None
            return event.details.message

        return str(await ctx.execution.wait_for_event("ended", read))

    one = play(main)
    one.start()
    one.turn(ev.EventRaised("ended", None, FailureDetails("ValueError", "no")))
    assert one.result == "no"
