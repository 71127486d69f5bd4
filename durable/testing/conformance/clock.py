"""Promises about the hub's clock: a store's clock that jumps is set right, and goes on from there for all that is judged."""

from __future__ import annotations

import pytest

from durable.errors import LeaseLostError
from durable.provider import (
    CLOCK_JUMP_US,
    LEASE_US,
    PARTITIONS,
    Belief,
    LeaseView,
)
from durable.testing.conformance.store import (
    LATER_US,
    SECOND_US,
    Promises,
    Session,
    Store,
    attempt_of,
    event_to,
    memo,
    new_row,
    start_of,
    step_of,
)

ALL = set(range(PARTITIONS))
JUMP_US = 87_600 * LATER_US
"""Ten years."""

MINUTE_US = 60 * SECOND_US
"""More than passes in a test with a store that keeps its own time."""


async def _renewed(session: Session, now: int, number: int = 0) -> LeaseView:
    """Renew with the belief that it is `now`."""
    return await session.provider.renew(session.lease, belief=lambda: Belief(number, now))


def _is_about(time: int, expected: int) -> bool:
    return abs(time - expected) < MINUTE_US


class HubClocks(Promises):
    """What `lease` and `renew` do to the hub's clock, and what goes by it."""

    async def test_a_clock_that_nobody_doubts_is_the_stores(self, store: Store) -> None:
        session = await store.worker()
        view = await session.provider.renew(session.lease)
        assert (session.lease.clock_number, view.clock.number, view.clock.correction) == (0, 0, 0)
        for apart in (0, CLOCK_JUMP_US - MINUTE_US, MINUTE_US - CLOCK_JUMP_US):
            believed = await _renewed(session, view.now + apart)
            assert (believed.clock.number, believed.clock.correction) == (0, 0)
            assert _is_about(believed.now, view.now)

    @pytest.mark.parametrize("jump_us", [JUMP_US, -JUMP_US, CLOCK_JUMP_US + MINUTE_US])
    async def test_a_wild_jump_is_taken_back_for_everybody(self, store: Store, jump_us: int) -> None:
        session, other = await store.worker([1]), await store.worker([2])
        now = (await session.provider.renew(session.lease)).now
        view = await _renewed(session, now - jump_us)
        assert view.clock.number == 1
        assert _is_about(view.clock.correction, -jump_us)
        seen = await other.provider.renew(other.lease)
        assert (seen.clock.number, seen.clock.correction) == (1, view.clock.correction)
        late = await store.worker(())
        times = {
            "renew": seen.now,
            "open": (await (await store.open()).open()).now,
            "lease": late.lease.now,
            "receive": (await other.received()).now,
            "commit": (await other.commit()).now,
        }
        assert {call: _is_about(time, now - jump_us) for call, time in times.items()} == dict.fromkeys(times, True)
        assert late.lease.clock_number == 1

    async def test_nobodys_lease_runs_out_by_that(self, store: Store) -> None:
        for jump_us in (JUMP_US, -JUMP_US, 2 * JUMP_US):
            session, other = await store.worker([1]), await store.worker([2])
            now = (await session.provider.renew(session.lease)).now
            view = await _renewed(session, now - jump_us, session.lease.clock_number)
            assert view.clock.number == session.lease.clock_number + 1
            assert [found.is_live for found in view.others if found.lease_id == other.lease.lease_id] == [True]
            assert view.expires_at == view.now + LEASE_US
            assert not await session.provider.take(session.lease, [2])
            for each in (session, other):
                await each.provider.release(each.lease)

    async def test_a_fenced_lease_does_not_come_back_by_that(self, store: Store) -> None:
        first, second = await store.worker([1, 2]), await store.worker(())
        await second.provider.take(second.lease, [1], from_live=True)
        view = await _renewed(second, (await second.provider.renew(second.lease)).now - JUMP_US)
        assert not any(found.is_live for found in view.others)
        with pytest.raises(LeaseLostError):
            await first.commit()
        assert await second.provider.take(second.lease, [2])

    async def test_it_agrees_again_when_the_jump_is_over(self, store: Store) -> None:
        session = await store.worker()
        now = (await session.provider.renew(session.lease)).now
        assert (await _renewed(session, now - JUMP_US)).clock.number == 1
        view = await _renewed(session, now - MINUTE_US, 1)
        assert (view.clock.number, view.clock.correction) == (2, 0)
        assert _is_about(view.now, now)

    async def test_a_small_difference_leaves_a_correction_as_it_is(self, store: Store) -> None:
        session = await store.worker()
        now = (await session.provider.renew(session.lease)).now
        correction = (await _renewed(session, now - JUMP_US)).clock.correction
        for apart in (0, CLOCK_JUMP_US - MINUTE_US, MINUTE_US - CLOCK_JUMP_US):
            view = await _renewed(session, now - JUMP_US + apart, 1)
            assert (view.clock.number, view.clock.correction) == (1, correction)

    async def test_one_jump_after_the_other_is_taken_back(self, store: Store) -> None:
        session = await store.worker()
        now = (await session.provider.renew(session.lease)).now
        await _renewed(session, now - JUMP_US)
        view = await _renewed(session, now + JUMP_US, 1)
        assert view.clock.number == 2
        assert _is_about(view.now, now + JUMP_US)

    async def test_a_belief_from_before_the_last_correction_says_nothing(self, store: Store) -> None:
        session, other = await store.worker([1]), await store.worker([2])
        now = (await session.provider.renew(session.lease)).now
        await _renewed(session, now - JUMP_US)
        for outdated in (now, now + JUMP_US):
            view = await _renewed(other, outdated)
            assert view.clock.number == 1
            assert _is_about(view.now, now - JUMP_US)

    @pytest.mark.parametrize("is_worker", [True, False])
    async def test_only_owners_are_believed(self, store: Store, is_worker: bool) -> None:
        owner, other = await store.worker(), await (store.worker(()) if is_worker else store.client())
        now = (await owner.provider.renew(owner.lease)).now
        view = await _renewed(other, now - JUMP_US)
        assert (view.clock.number, view.clock.correction) == (0, 0)
        assert _is_about(view.now, now)

    async def test_a_belief_is_asked_for_next_to_the_stores_clock(self, store: Store) -> None:
        session = await store.worker()
        renewing = session.provider.renew(session.lease, belief=lambda: Belief(0, store.now))
        store.turn_clock(JUMP_US)
        assert (await renewing).clock.number == 0

    async def test_an_owner_that_was_fenced_is_not_believed(self, store: Store) -> None:
        first, second = await store.worker([1]), await store.worker(())
        now = (await second.provider.renew(second.lease)).now
        await second.provider.take(second.lease, [1], from_live=True)
        with pytest.raises(LeaseLostError):
            await _renewed(first, now - JUMP_US)
        assert (await second.provider.renew(second.lease)).clock.number == 0

    @pytest.mark.parametrize("is_worker", [True, False])
    async def test_an_operator_confirms_the_stores_clock(self, store: Store, is_worker: bool) -> None:
        owner, operator = await store.worker(), await (store.worker(()) if is_worker else store.client())
        now = (await owner.provider.renew(owner.lease)).now
        await _renewed(owner, now - JUMP_US)
        view = await operator.provider.renew(operator.lease, confirms_clock=True)
        assert (view.clock.number, view.clock.correction) == (2, 0)
        assert _is_about(view.now, now)
        outdated = await _renewed(owner, now - JUMP_US, 1)
        assert (outdated.clock.number, outdated.clock.correction) == (2, 0)
        assert set(outdated.partitions) == ALL
        assert not any(found.partitions for found in view.others if not found.is_live)
        again = await operator.provider.renew(operator.lease, confirms_clock=True)
        assert again.clock.number == 2

    async def test_time_does_not_go_back_while_nobody_is_there(self, store: Store) -> None:
        store.turn_clock(JUMP_US)
        first = await store.worker()
        await _renewed(first, store.now)
        await first.provider.release(first.lease)
        store.turn_clock(-JUMP_US)
        second = await store.worker()
        assert (second.lease.now, second.lease.clock_number) == (store.now + JUMP_US, 1)
        view = await second.provider.renew(second.lease, confirms_clock=True)
        assert view.now == store.now
        third = await store.worker(())
        assert (third.lease.now, third.lease.clock_number) == (store.now, 2)

    async def test_a_clock_that_was_set_right_while_nobody_was_there_needs_no_correction(self, store: Store) -> None:
        first = await store.worker()
        await _renewed(first, store.now)
        store.turn_clock(JUMP_US)
        assert (await _renewed(first, store.now - JUMP_US)).now == store.now - JUMP_US
        await first.provider.release(first.lease)
        store.turn_clock(2 * LATER_US - JUMP_US)
        second = await store.worker()
        assert (second.lease.now, second.lease.clock_number) == (store.now, 2)

    async def test_time_does_not_go_back_where_only_those_look_who_own_nothing(self, store: Store) -> None:
        """The owner has died, and is the only one who could say what time it is."""
        owner, other = await store.worker(), await store.worker(())
        now = (await _renewed(owner, store.now)).now
        store.turn_clock(-JUMP_US)
        view = await other.provider.renew(other.lease, belief=lambda: Belief(0, now))
        assert _is_about(view.now, now)
        assert view.clock.number == 1

    async def test_time_does_not_go_back_though_the_owner_has_died_before_it_renewed_its_lease(
        self, store: Store
    ) -> None:
        await store.worker()
        other, now = await store.worker(()), store.now
        store.turn_clock(-JUMP_US)
        view = await other.provider.renew(other.lease)
        assert (_is_about(view.now, now), view.clock.number) == (True, 1)

    async def test_a_client_may_come_while_time_goes_back(self, store: Store) -> None:
        store.turn_clock(JUMP_US)
        first = await store.worker()
        await _renewed(first, store.now)
        store.turn_clock(-JUMP_US)
        client = await store.client()
        assert (client.lease.now, client.lease.clock_number) == (store.now, 0)

    # ---- what goes by it

    async def test_what_is_delayed_comes_by_the_hubs_time(self, store: Store) -> None:
        session = await store.worker()
        now = (await session.provider.renew(session.lease)).now
        row, parked = await session.start("instance"), await session.start("parked")
        await session.commit(step_of(parked, parked_until=now + LATER_US))
        await session.submit(event_to("instance", visible_at=now + LATER_US), event_to("parked"))
        await session.submit(start_of(new_row("later"), visible_at=now + LATER_US))
        attempt = attempt_of(row, visible_at=now + LATER_US)
        await session.commit(step_of(await session.load("instance"), queue_adds=[attempt]))
        assert not await session.receive()
        assert not await session.claim()
        await _renewed(session, now + 2 * LATER_US)
        assert [found.target.id for found in await session.receive()] == ["instance", "parked", "later"]
        assert [found.task for found in await session.claim()] == [attempt.task]

    async def test_notes_expire_by_the_hubs_time(self, store: Store) -> None:
        session = await store.worker()
        now = (await session.provider.renew(session.lease)).now
        await session.commit(memos=[memo("kept", expires_at=now + LATER_US)])
        await _renewed(session, now + 2 * LATER_US)
        assert not await session.memos()

    async def test_a_jump_removes_nothing(self, store: Store) -> None:
        session, other, idle = await store.worker([1]), await store.worker([2]), await store.worker(())
        now = store.now
        await session.commit(memos=[memo("kept", expires_at=now + LATER_US)])
        await _renewed(session, now)
        store.turn_clock(JUMP_US)
        await idle.provider.renew(idle.lease)
        await _renewed(idle, now)
        await session.provider.renew(session.lease)
        assert (await _renewed(session, now)).now == now
        store.turn_clock(JUMP_US)
        await _renewed(other, now)  # before the first correction
        assert (await _renewed(session, now, 1)).now == now
        assert set(await session.memos()) == {"kept"}
        await idle.provider.renew(idle.lease)

    async def test_a_client_that_submitted_before_a_correction_is_known_after_it(self, store: Store) -> None:
        session, client = await store.worker(), await store.client()
        await session.start("instance")
        now = (await session.provider.renew(session.lease)).now
        sent = [event_to("instance")]
        first = await client.provider.submit(client.lease, 1, sent)
        for number in (0, 1):
            await _renewed(session, now + JUMP_US, number)
        again = await client.provider.submit(client.lease, 1, sent)
        assert again[0].sequence == first[0].sequence

    async def test_what_has_expired_is_removed(self, store: Store) -> None:
        session = await store.worker()
        await session.commit(memos=[memo("old", expires_at=store.now + LATER_US)])
        store.turn_clock(2 * LATER_US)
        for _ in range(3):
            await _renewed(session, store.now)
        store.turn_clock(-2 * LATER_US)
        assert not await session.memos()

    async def test_what_has_expired_by_a_time_that_may_have_leapt_stays(self, store: Store) -> None:
        """A worker that owned nothing when the clock jumped takes it for right; what was not repeated yet must be known."""
        session, client = await store.worker(), await store.client()
        await session.start("instance")
        await session.commit(memos=[memo("old", expires_at=store.now + LATER_US)])
        sent = [event_to("instance")]
        first = await client.provider.submit(client.lease, 1, sent)
        store.turn_clock(JUMP_US)
        leapt = store.now
        for _ in range(3):
            await session.provider.renew(session.lease, belief=lambda: Belief(0, store.now, since=leapt))
        again = await client.provider.submit(client.lease, 1, sent)
        assert again[0].sequence == first[0].sequence
        store.turn_clock(-JUMP_US)
        assert await session.memos()
