"""Promises about several at once: provider objects on one store that race each other for the same things.

Each racer has a provider object of its own. Every race is run a few times over; what is asserted holds however it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from durable.errors import LeaseLostError
from durable.events import InstanceKey
from durable.provider import (
    PARTITIONS,
    Batch,
    Delivery,
    Expects,
    InstanceRow,
    Report,
    Verdict,
)
from durable.testing.conformance.store import (
    Promises,
    Session,
    Store,
    attempt_of,
    end_of,
    event_to,
    new_row,
    start_of,
    step_of,
)

ROUNDS = 5


class Concurrency(Promises):
    """Racing commits, takes, claims, reports, submits, purges."""

    # ---- submits

    async def test_messages_of_many_clients_at_once_are_all_stored(self, store: Store) -> None:
        worker = await store.worker()
        await worker.start("busy")
        clients = [await store.client() for _ in range(3)]

        async def send(client: Session) -> list[int]:
            found = []
            for _ in range(20):
                found += [delivery.sequence for delivery in await client.submit(event_to("busy"), event_to("busy"))]
            return found

        sent = await asyncio.gather(*map(send, clients))
        assert all(sequences == sorted(sequences) for sequences in sent)
        received = [message.sequence for message in await worker.receive()]
        assert received == sorted(sequence for sequences in sent for sequence in sequences)
        assert len(set(received)) == 120

    async def test_two_who_start_the_same_id_do_not_both_succeed(self, store: Store) -> None:
        clients = [await store.client() for _ in range(3)]
        answers = await asyncio.gather(*(client.submit(start_of(new_row("one"))) for client in clients))
        verdicts = sorted(delivery.verdict for [delivery] in answers)
        assert verdicts == [Verdict.STORED, Verdict.EXISTS, Verdict.EXISTS]

    async def test_of_many_starts_of_many_ids_one_each_succeeds(self, store: Store) -> None:
        worker = await store.worker()
        clients = [await store.client() for _ in range(3)]

        async def start_all(client: Session) -> list[tuple[Delivery, InstanceRow]]:
            rows = [new_row(f"i{n}") for n in range(20)]
            return [((await client.submit(start_of(row)))[0], row) for row in rows]

        answers = [answer for each in await asyncio.gather(*map(start_all, clients)) for answer in each]
        winners = {row.key.id: row for delivery, row in answers if delivery.verdict is Verdict.STORED}
        assert len(winners) == sum(delivery.verdict is Verdict.STORED for delivery, _ in answers) == 20
        assert {delivery.verdict for delivery, _ in answers} == {Verdict.STORED, Verdict.EXISTS}
        assert len(await worker.receive()) == 20
        for key_id, row in winners.items():
            assert await worker.load(key_id) == row

    async def test_one_request_of_a_parent_starts_one_child(self, store: Store) -> None:
        worker = await store.worker()
        clients = [await store.client() for _ in range(3)]
        parent: dict[str, Any] = {"parent": InstanceKey("p"), "parent_run_id": "run", "parent_task": "0/1"}
        for n in range(ROUNDS):
            starts = [start_of(new_row(f"child{n}", **parent)) for _ in clients]
            submits = (client.submit(start) for client, start in zip(clients, starts, strict=True))
            verdicts = sorted(delivery.verdict for [delivery] in await asyncio.gather(*submits))
            assert verdicts == [Verdict.STORED, Verdict.ADOPTED, Verdict.ADOPTED]
        assert len(await worker.receive()) == ROUNDS

    async def test_a_submit_that_is_repeated_while_it_is_on_its_way_is_stored_once(self, store: Store) -> None:
        worker, client = await store.worker(), await store.client()
        await worker.start("busy")
        others = [await store.open() for _ in range(2)]
        for number in range(1, ROUNDS + 1):
            message = event_to("busy", str(number).encode())
            calls = [provider.submit(client.lease, number, [message]) for provider in (client.provider, *others)]
            answers = [delivery[:2] for [delivery] in await asyncio.gather(*calls)]
            assert len(set(answers)) == 1
        assert [message.data for message in await worker.receive()] == [str(n).encode() for n in range(1, ROUNDS + 1)]

    async def test_an_event_and_the_end_of_its_target_agree(self, store: Store) -> None:
        # Either the event is stored and waits in the inbox, or its sender is told that it came too late.
        worker, client = await store.worker(), await store.client()
        for n in range(ROUNDS * 2):
            row = await worker.start(f"i{n}")
            end, event = worker.commit(end_of(row)), client.submit(event_to(f"i{n}"))
            (_, [delivery]) = await (_gathered(end, event) if n % 2 else _turned(_gathered(event, end)))
            received = [message.sequence for message in await worker.receive()]
            assert (delivery.verdict, received) in (
                (Verdict.STORED, [delivery.sequence]),
                (Verdict.FINISHED, []),
            )
            await worker.commit(consumed=received)

    async def test_a_purge_and_a_new_run_do_not_lose_each_other(self, store: Store) -> None:
        worker = await store.worker()
        clients = [await store.client() for _ in range(2)]
        for n in range(ROUNDS * 2):
            old = await worker.finish(await worker.start(f"i{n}"))
            new = new_row(f"i{n}")
            purge = clients[0].provider.purge([(old.key, old.run_id)])
            start = clients[1].submit(start_of(new, Expects.ABSENT_OR_FINISHED))
            (count, [delivery]) = await (_gathered(purge, start) if n % 2 else _turned(_gathered(start, purge)))
            assert (count, delivery.verdict) == (1, Verdict.STORED)
            assert await worker.load(f"i{n}") == new
            assert await worker.find(f"i{n}", old.run_id) is None
            received = [message.sequence for message in await worker.receive()]
            assert received == [delivery.sequence]
            await worker.commit(consumed=received)

    # ---- ownership

    async def test_each_partition_is_taken_by_one(self, store: Store) -> None:
        for _ in range(ROUNDS):
            racers = [await store.worker(()) for _ in range(3)]
            taken = await asyncio.gather(*(racer.provider.take(racer.lease, range(PARTITIONS)) for racer in racers))
            assert sorted(partition for some in taken for partition in some) == list(range(PARTITIONS))
            for racer, some in zip(racers, taken, strict=True):
                assert set((await racer.provider.renew(racer.lease)).partitions) == set(some)
            for racer in racers:
                await racer.provider.release(racer.lease)

    async def test_a_dead_workers_partitions_are_taken_by_one_each(self, store: Store) -> None:
        dead = await store.worker()
        racers = [await store.worker(()) for _ in range(3)]
        await store.kill(dead)
        for racer in racers:
            await racer.provider.renew(racer.lease)
        taken = await asyncio.gather(*(racer.provider.take(racer.lease, range(PARTITIONS)) for racer in racers))
        assert sorted(partition for some in taken for partition in some) == list(range(PARTITIONS))

    async def test_of_two_who_fence_each_other_one_writes_on(self, store: Store) -> None:
        for n in range(ROUNDS):
            first, second = await store.worker(), await store.worker(())
            row = await first.start(f"i{n}")
            take = second.provider.take(second.lease, [row.partition], from_live=True)
            taken, error = await asyncio.gather(take, _error_of(first.commit(step_of(row, b"first"))))
            assert set(taken) == {row.partition}
            wrote = error is None
            assert wrote or isinstance(error, LeaseLostError)
            row = await second.load(f"i{n}")
            assert await second.history(row.run_id) == [b"first"] * wrote
            with pytest.raises(LeaseLostError):
                await first.commit(step_of(row, b"late"))
            await second.commit(step_of(row, b"second"))
            assert await second.history(row.run_id) == [b"first"] * wrote + [b"second"]
            for session in (first, second):
                await session.provider.release(session.lease)

    # ---- commits

    async def test_a_commit_that_is_repeated_while_it_is_on_its_way_is_written_once(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        others = [await store.open() for _ in range(2)]
        for n in range(ROUNDS):
            number = session.commits + 1
            batch = Batch(number, [step_of(row, str(n).encode())], [event_to("instance")])
            calls = [provider.commit(session.lease, batch) for provider in (session.provider, *others)]
            answers = [committed.deliveries[0][:2] for committed in await asyncio.gather(*calls)]
            assert len(set(answers)) == 1
            session.commits = number
            row = await session.load("instance")
        assert await session.history(row.run_id) == [str(n).encode() for n in range(ROUNDS)]
        assert len(await session.receive()) == ROUNDS

    async def test_two_commits_onto_one_state_are_not_both_written(self, store: Store) -> None:
        session = await store.worker()
        row = await session.start("instance")
        for _ in range(ROUNDS):
            results = await asyncio.gather(
                *(
                    session.provider.commit(session.lease, Batch(session.commits + n, [step_of(row, b"x")]))
                    for n in (1, 2)
                ),
                return_exceptions=True,
            )
            assert sorted(isinstance(result, LeaseLostError) for result in results) == [False, True]
            session.commits += 2
            row = await session.load("instance")
        assert await session.history(row.run_id) == [b"x"] * ROUNDS

    async def test_commits_and_submits_at_once_do_not_disturb_each_other(self, store: Store) -> None:
        session = await store.worker()
        rows = {f"i{place}": await session.start(f"i{place}") for place in range(5)}
        client = await store.client(session.provider)

        async def commit() -> None:
            for turn in range(30):
                await session.commit(*(step_of(row, b"record") for row in rows.values()), alone=turn % 3 == 0)
                for key_id in rows:
                    rows[key_id] = await session.load(key_id)

        async def submit() -> None:
            for _ in range(30):
                deliveries = await client.submit(*map(event_to, rows), event_to("nobody"))
                assert [delivery.verdict for delivery in deliveries] == [Verdict.STORED] * 5 + [Verdict.ABSENT]

        await asyncio.gather(commit(), submit())
        assert {row.records for row in rows.values()} == {30}
        assert len(await session.receive()) == 150

    async def test_a_reader_never_sees_half_a_commit(self, store: Store) -> None:
        session, reader = await store.worker(), await store.client()
        rows = [await session.start(key_id) for key_id in ("a", "b")]
        run_ids = [row.run_id for row in rows]
        is_done = False

        async def write() -> None:
            nonlocal rows, is_done
            for turn in range(20):
                custom = {"custom_status": str(turn + 1).encode()}
                await session.commit(*(step_of(row, b"record", changes=custom) for row in rows))
                rows = [await session.load(row.key.id) for row in rows]
            await session.commit(*map(end_of, rows))
            is_done = True

        async def read() -> None:
            while not is_done:
                for key_id, run_id in zip(("a", "b"), run_ids, strict=True):
                    seen = await reader.load(key_id)
                    assert seen.records == int(seen.custom_status or b"0")
                    assert seen.status.is_finished == (seen.output is not None)
                    assert len(await reader.history(run_id)) >= seen.records
                await asyncio.sleep(0)

        await asyncio.gather(write(), read())

    async def test_slow_turns_are_marked_while_others_write(self, store: Store) -> None:
        session, client = await store.worker(), await store.client()
        row = await session.start("slow")
        await session.start("busy")
        marks = (
            asyncio.to_thread(session.provider.mark_slow_turn, session.lease, row.key, row.run_id) for _ in range(5)
        )

        async def send() -> None:
            for _ in range(20):
                await client.submit(event_to("busy"))

        await asyncio.gather(send(), *marks)
        assert (await session.load("slow")).slow_turns == 5
        assert len(await session.receive()) == 20

    # ---- activities

    async def test_each_attempt_is_claimed_by_one(self, store: Store) -> None:
        owner = await store.worker()
        row = await owner.start("caller")
        await owner.commit(step_of(row, queue_adds=[attempt_of(row, n) for n in range(60)]))
        racers = [await store.worker(()) for _ in range(3)]

        async def claim_all(racer: Session) -> list[int]:
            found: list[int] = []
            while claimed := await racer.claim(limit=7):
                assert {each.deliveries for each in claimed} == {1}
                assert len(found) <= 60
                found += [each.task.task_id for each in claimed]
            return found

        claimed = await asyncio.gather(*map(claim_all, racers))
        assert sorted(task_id for some in claimed for task_id in some) == list(range(60))

    async def test_of_several_outcomes_one_is_taken(self, store: Store) -> None:
        owner = await store.worker()
        racers = [await store.worker(()) for _ in range(3)]
        for n in range(ROUNDS):
            row = await owner.start(f"i{n}")
            attempt = attempt_of(row)
            await owner.commit(step_of(row, queue_adds=[attempt]))
            reports = [Report(attempt.task, event_to(f"i{n}", str(place).encode())) for place in range(3)]
            answers = await asyncio.gather(
                *(racer.provider.report(racer.lease, [each]) for racer, each in zip(racers, reports, strict=True))
            )
            taken = [place for place, [is_taken] in enumerate(answers) if is_taken]
            received = await owner.receive()
            assert [message.data for message in received] == [str(place).encode() for place in taken]
            assert len(taken) == 1
            await owner.commit(consumed=[message.sequence for message in received])


async def _error_of(call: Awaitable[Any]) -> Exception | None:
    try:
        await call
    except Exception as error:  # noqa: BLE001 (the caller says which it may be)
        return error
    return None


async def _gathered(first: Awaitable[Any], second: Awaitable[Any]) -> tuple[Any, Any]:
    one, two = await asyncio.gather(first, second)
    return one, two


async def _turned(pair: Awaitable[tuple[Any, Any]]) -> tuple[Any, Any]:
    one, two = await pair
    return two, one
