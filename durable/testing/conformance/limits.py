"""Promises about what a store cannot hold: each item is refused by itself, and nothing else suffers."""

from __future__ import annotations

import dataclasses

import pytest

from durable.provider import Memo, Verdict
from durable.testing.conformance.store import (
    LATER_US,
    Promises,
    Session,
    Store,
    end_of,
    event_to,
    memo,
    new_row,
    start_of,
    step_of,
    wait_for,
)

BAD = "lone \udc80 surrogate"


async def _limit(session: Session) -> int:
    limit = session.provider.message_bytes_max
    if limit is None:
        pytest.skip("this store has no limit")
    return limit


class Limits(Promises):
    """Items that are too large, and text that is no text."""

    async def test_a_message_that_is_too_large_is_refused_alone(self, store: Store) -> None:
        session = await store.worker()
        too_large = bytes(await _limit(session) + 1)
        await session.start("target")
        instead = memo("instead", expires_at=store.now + LATER_US)
        deliveries = await session.submit(
            event_to("target", b"before"),
            event_to("target", too_large, otherwise=instead),
            start_of(new_row("new", input=too_large)),
            event_to("target", b"after"),
        )
        verdicts = [delivery.verdict for delivery in deliveries]
        assert verdicts == [Verdict.STORED, Verdict.TOO_LARGE, Verdict.TOO_LARGE, Verdict.STORED]
        assert [message.data for message in await session.receive()] == [b"before", b"after"]
        assert list(await session.memos()) == ["instead"]
        assert await session.find("new") is None

    async def test_a_message_at_the_limit_is_stored(self, store: Store) -> None:
        session = await store.worker()
        largest = bytes(await _limit(session))
        await session.start("target")
        [delivery] = await session.submit(event_to("target", largest))
        assert delivery.verdict is Verdict.STORED
        [message] = await session.receive()
        assert message.data == largest

    @pytest.mark.parametrize("place", ["state", "output"])
    async def test_a_step_that_is_too_large_is_left_out(self, store: Store, place: str) -> None:
        session = await store.worker()
        too_large = bytes(await _limit(session) + 1)
        rows = [await session.start("one"), await session.start("two")]
        fields = {"state": too_large} if place == "state" else {"changes": {"output": too_large}}
        committed = await session.commit(step_of(rows[0], b"lost", **fields), step_of(rows[1], b"kept"))
        assert list(committed.refused) == [0]
        assert [await session.history(row.run_id) for row in rows] == [[], [b"kept"]]
        assert await session.load("one") == rows[0]

    async def test_a_record_may_be_longer_than_a_value(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        record = bytes(3 * 1024 * 1024)
        await session.commit(step_of(row, record))
        assert await session.history(row.run_id) == [record]

    async def test_bad_text_in_a_message_is_refused_alone(self, store: Store) -> None:
        session = await store.worker()
        await session.start("target")
        instead = memo("instead", expires_at=store.now + LATER_US)
        bad = (
            event_to("target", run_id=BAD),
            start_of(new_row("a", name=BAD)),
            start_of(new_row("b", tags={BAD: "value"})),
            start_of(new_row("c", tags={"name": BAD})),
            dataclasses.replace(event_to("target"), target=new_row("x").key._replace(id=BAD), otherwise=instead),
        )
        deliveries = await session.submit(event_to("target", b"before"), *bad, event_to("target", b"after"))
        verdicts = [delivery.verdict for delivery in deliveries]
        assert verdicts == [Verdict.STORED, *[Verdict.REFUSED] * len(bad), Verdict.STORED]
        assert [message.data for message in await session.receive()] == [b"before", b"after"]
        assert [await session.find(key_id) for key_id in "abc"] == [None] * 3
        assert list(await session.memos()) == ["instead"]

    async def test_a_step_with_bad_text_is_left_out_with_all_that_it_sends(self, store: Store) -> None:
        session = await store.worker()
        rows = [await session.start(key_id) for key_id in ("one", "two", "three")]
        [event] = await session.submit(event_to("two", b"unconsumed"))
        later = store.now + LATER_US
        committed = await session.commit(
            step_of(rows[0], b"one", messages=[2]),
            step_of(
                rows[1], b"two", changes={"stall_reason": BAD}, consumed=[event.sequence], messages=[0, 1], memos=[1]
            ),
            end_of(rows[2], b"three", memos=[0]),
            messages=[event_to("one", b"lost"), start_of(new_row("lost")), event_to("one", b"kept")],
            memos=[memo("kept", expires_at=later), memo("lost", expires_at=later)],
        )
        assert list(committed.refused) == [1]
        assert "udc80" in committed.refused[1]
        verdicts = [delivery.verdict for delivery in committed.deliveries]
        assert verdicts == [Verdict.REFUSED, Verdict.REFUSED, Verdict.STORED]
        assert [await session.history(row.run_id) for row in rows] == [[b"one"], [], [b"three"]]
        assert [message.data for message in await session.receive()] == [b"unconsumed", b"kept"]
        assert list(await session.memos()) == ["kept"]
        assert await session.load("two") == rows[1]
        assert await session.find("lost") is None

    async def test_what_goes_with_a_refused_item_is_heard_once(self, store: Store) -> None:
        session = await store.worker()
        await session.start("one")
        heard: list[bytes] = []
        session.provider.listen(lambda wakeup: heard.extend(message.data for message in wakeup.messages))
        await session.submit(event_to("one", b"kept"), event_to("one", run_id=BAD))
        await session.submit(event_to("one", b"next"))
        await wait_for(lambda: b"next" in heard)
        assert heard == [b"kept", b"next"]

    async def test_what_was_refused_is_told_again(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("one")
        step = step_of(row, changes={"stall_reason": BAD}, messages=[0])
        first = await session.commit(step, messages=[event_to("one")])
        session.commits -= 1
        again = await session.commit(step, messages=[event_to("one")])
        assert (dict(again.refused), list(again.deliveries)) == (dict(first.refused), list(first.deliveries))

    async def test_a_refused_instance_can_go_on(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("one")
        await session.commit(step_of(row, b"lost", changes={"stall_reason": BAD}))
        await session.commit(step_of(row, b"kept", changes={"stall_reason": "the step was refused"}))
        assert await session.history(row.run_id) == [b"kept"]

    async def test_a_memo_with_bad_text_takes_nothing_with_it(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("one")
        later = store.now + LATER_US
        await session.commit(step_of(row, b"kept"), memos=[Memo(BAD, b"", later), Memo("good", b"", later)])
        assert await session.history(row.run_id) == [b"kept"]
        assert "good" in await session.memos()
