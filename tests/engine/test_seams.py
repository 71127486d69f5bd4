"""What the engine offers to features: nothing here is used by the core itself.

Detached starts whose end arrives as an event, farewells, an attachment on an outcome, a kind beside the id, keyed memos,
and a look at an outcome before its awaiter sees it.
"""

# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from durable import events as ev
from durable import records
from durable.context import OrchestrationContext
from durable.engine.calls import ActivityCall
from durable.engine.turn import UNCHANGED, Outgoing, outcome_messages
from durable.errors import FailureDetails
from durable.events import ActivityOptions, InstanceKey
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
    assert one.start().memos == [("answer/1", b"42", one.now + 60_000_000)]
    fresh = one.new_execution()
    fresh.feed(one.records[0])
    assert fresh.turn([one.event("end")], one.now).memos == []


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
