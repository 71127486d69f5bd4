"""Promises about what a store cannot hold: each item is refused by itself, is named, and nothing else suffers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from durable.provider import (
    Delivery,
    Expects,
    Status,
    Verdict,
)
from durable.testing.conformance.store import (
    BAD_TEXT,
    LATER_US,
    Promises,
    Session,
    Store,
    attempt_of,
    beginning_of,
    end_of,
    event_to,
    memo,
    new_row,
    start_of,
    step_of,
    wait_for,
)


async def _limit(session: Session) -> int:
    limit = session.provider.message_bytes_max
    if limit is None:
        pytest.skip("this store has no limit")
    return limit


class Limits(Promises):
    """Items that are too large, and text that is no text."""

    # ---- too large

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

    @pytest.mark.parametrize("column", ["input", "output", "custom_status", "failure", "state"])
    async def test_every_value_of_a_start_has_the_limit(self, store: Store, column: str) -> None:
        session = await store.worker()
        too_large = bytes(await _limit(session) + 1)
        row = await session.start("there")
        expected = [Delivery(Verdict.TOO_LARGE), Delivery(Verdict.TOO_LARGE)]
        columns: dict[str, Any] = {column: too_large}
        starts = [start_of(new_row(key_id, **columns), Expects.ANY) for key_id in ("new", "there")]
        assert list(await session.submit(*starts)) == expected
        assert [await session.find("new"), await session.load("there")] == [None, row]
        assert not await session.receive()

    async def test_a_message_at_the_limit_is_stored(self, store: Store) -> None:
        session = await store.worker()
        largest = bytes(await _limit(session))
        await session.start("target")
        [delivery] = await session.submit(event_to("target", largest))
        assert delivery.verdict is Verdict.STORED
        [message] = await session.receive()
        assert message.data == largest

    @pytest.mark.parametrize(
        "place", ["state", "input", "output", "custom_status", "failure", "activity", "replacement", "memo"]
    )
    async def test_a_step_that_is_too_large_is_left_out(self, store: Store, place: str) -> None:
        session = await store.worker()
        too_large = bytes(await _limit(session) + 1)
        rows = [await session.start("one"), await session.start("two")]
        places: dict[str, dict[str, Any]] = {
            "state": {"state": too_large},
            "activity": {"queue_adds": [attempt_of(rows[0], data=too_large)]},
            "replacement": {"status": Status.TERMINATED, "replaced_by": new_row("one", input=too_large)},
            "memo": {"memos": [0]},
        }
        fields = places.get(place, {"changes": {place: too_large}})
        memos = [memo("lost", too_large, expires_at=store.now + LATER_US)] if place == "memo" else []
        committed = await session.commit(step_of(rows[0], b"lost", **fields), step_of(rows[1], b"kept"), memos=memos)
        assert list(committed.refused) == [0]
        assert str(len(too_large)) in committed.refused[0]
        assert [await session.history(row.run_id) for row in rows] == [[], [b"kept"]]
        assert await session.load("one") == rows[0]
        assert not await session.claim()
        assert not await session.memos()

    @pytest.mark.parametrize("column", ["input", "custom_status"])
    async def test_a_run_that_would_begin_with_what_is_too_large_is_left_out(self, store: Store, column: str) -> None:
        session = await store.worker()
        too_large = bytes(await _limit(session) + 1)
        columns: dict[str, Any] = {column: too_large}
        lost, kept = new_row("one", **columns), new_row("two")
        committed = await session.commit(beginning_of(lost, b"lost"), beginning_of(kept, b"kept"))
        assert list(committed.refused) == [0]
        assert str(len(too_large)) in committed.refused[0]
        assert [await session.history(row.run_id) for row in (lost, kept)] == [[], [b"kept"]]
        assert await session.find("one") is None

    async def test_a_record_may_be_longer_than_a_value(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        record = bytes(3 * 1024 * 1024)
        await session.commit(step_of(row, record))
        assert await session.history(row.run_id) == [record]

    # ---- text that no store can hold

    async def test_bad_text_in_a_message_is_refused_alone(self, store: Store) -> None:
        session = await store.worker()
        await session.start("target")
        instead = memo("instead", expires_at=store.now + LATER_US)
        bad = (
            event_to("target", run_id=BAD_TEXT),
            start_of(new_row("a", name=BAD_TEXT)),
            start_of(new_row("b", tags={BAD_TEXT: "value"})),
            start_of(new_row("c", tags={"name": BAD_TEXT})),
            dataclasses.replace(event_to("target"), target=new_row("x").key._replace(id=BAD_TEXT), otherwise=instead),
        )
        deliveries = await session.submit(event_to("target", b"before"), *bad, event_to("target", b"after"))
        verdicts = [delivery.verdict for delivery in deliveries]
        assert verdicts == [Verdict.STORED, *[Verdict.REFUSED] * len(bad), Verdict.STORED]
        assert [message.data for message in await session.receive()] == [b"before", b"after"]
        assert [await session.find(key_id) for key_id in "abc"] == [None] * 3
        assert list(await session.memos()) == ["instead"]

    async def test_what_is_refused_has_no_row_in_the_way(self, store: Store) -> None:
        session = await store.worker()
        await session.start("target")
        assert list(await session.submit(event_to("target", run_id=BAD_TEXT))) == [Delivery(Verdict.REFUSED)]

    async def test_a_step_with_bad_text_is_left_out_with_all_that_it_sends(self, store: Store) -> None:
        session = await store.worker()
        rows = [await session.start(key_id) for key_id in ("one", "two", "three")]
        [event] = await session.submit(event_to("two", b"unconsumed"))
        later = store.now + LATER_US
        committed = await session.commit(
            step_of(rows[0], b"one", messages=[2]),
            step_of(
                rows[1],
                b"two",
                changes={"stall_reason": BAD_TEXT},
                consumed=[event.sequence],
                messages=[0, 1],
                memos=[1],
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

    async def test_nothing_is_written_in_place_of_what_a_refused_step_sends(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("one")
        later = store.now + LATER_US
        committed = await session.commit(
            step_of(row, b"lost", changes={"stall_reason": BAD_TEXT}, messages=[0, 1]),
            messages=[
                event_to("nobody", otherwise=memo("instead", expires_at=later)),
                event_to("nobody", otherwise=event_to("one", b"instead")),
            ],
        )
        assert list(committed.deliveries) == [Delivery(Verdict.REFUSED)] * 2
        assert not await session.memos()
        assert not await session.receive()

    async def test_what_goes_with_a_refused_item_is_heard_once(self, store: Store) -> None:
        session = await store.worker()
        await session.start("one")
        heard: list[bytes] = []
        session.provider.listen(lambda wakeup: heard.extend(message.data for message in wakeup.messages))
        await session.submit(event_to("one", b"kept"), event_to("one", run_id=BAD_TEXT))
        await session.submit(event_to("one", b"next"))
        await wait_for(lambda: b"next" in heard)
        assert heard == [b"kept", b"next"]

    async def test_what_was_refused_is_told_again(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("one")
        step = step_of(row, changes={"stall_reason": BAD_TEXT}, messages=[0])
        first = await session.commit(step, messages=[event_to("one")])
        session.commits -= 1
        again = await session.commit(step, messages=[event_to("one")])
        assert (dict(again.refused), list(again.deliveries)) == (dict(first.refused), list(first.deliveries))

    async def test_a_refused_instance_can_go_on(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("one")
        await session.commit(step_of(row, b"lost", changes={"stall_reason": BAD_TEXT}))
        await session.commit(step_of(row, b"kept", changes={"stall_reason": "the step was refused"}))
        assert await session.history(row.run_id) == [b"kept"]

    # ---- memos, and what stands in for a message

    async def test_a_memo_with_bad_text_takes_its_step_with_it(self, store: Store) -> None:
        session = await store.worker()
        rows = [await session.start("one"), await session.start("two")]
        later = store.now + LATER_US
        committed = await session.commit(
            step_of(rows[0], b"lost", memos=[0, 1], messages=[0]),
            step_of(rows[1], b"kept", memos=[2]),
            messages=[event_to("two", b"lost")],
            memos=[memo("lost", expires_at=later), memo(BAD_TEXT, expires_at=later), memo("kept", expires_at=later)],
        )
        assert (list(committed.refused), dict(committed.refused_memos)) == ([0], {})
        assert [await session.history(row.run_id) for row in rows] == [[], [b"kept"]]
        assert list(await session.memos()) == ["kept"]
        assert not await session.receive()

    async def test_a_memo_of_no_step_is_refused_alone_and_named(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("one")
        later = store.now + LATER_US
        step, memos = step_of(row, b"kept"), [memo(BAD_TEXT, expires_at=later), memo("good", expires_at=later)]
        committed = await session.commit(step, memos=memos)
        assert (dict(committed.refused), list(committed.refused_memos)) == ({}, [0])
        assert "udc80" in committed.refused_memos[0]
        assert await session.history(row.run_id) == [b"kept"]
        assert list(await session.memos()) == ["good"]
        session.commits -= 1
        assert dict((await session.commit(step, memos=memos)).refused_memos) == dict(committed.refused_memos)

    async def test_a_refusal_of_what_stands_in_is_told(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("there")
        later = store.now + LATER_US
        refused = [
            event_to("nobody", otherwise=memo(BAD_TEXT, expires_at=later)),
            event_to("nobody", otherwise=event_to("there", run_id=BAD_TEXT)),
            start_of(new_row("there"), otherwise=memo(BAD_TEXT, expires_at=later)),
        ]
        deliveries = await session.submit(event_to("there", b"before"), *refused, event_to("there", b"after"))
        assert list(deliveries[1:4]) == [Delivery(Verdict.REFUSED)] * 3
        unneeded = event_to("there", b"stored", otherwise=memo(BAD_TEXT, expires_at=later))
        assert (await session.submit(unneeded))[0].verdict is Verdict.STORED
        assert [message.data for message in await session.receive()] == [b"before", b"after", b"stored"]
        assert not await session.memos()
        assert await session.load("there") == row

    async def test_what_stands_in_has_the_limit_too(self, store: Store) -> None:
        session = await store.worker()
        too_large = bytes(await _limit(session) + 1)
        await session.start("there")
        instead = (memo("large", too_large, expires_at=store.now + LATER_US), event_to("there", too_large))
        for item in instead:
            assert list(await session.submit(event_to("nobody", otherwise=item))) == [Delivery(Verdict.TOO_LARGE)]
        assert not await session.memos()
        assert not await session.receive()
