"""What is shown of instances and their histories, also where what is stored cannot be read."""

from __future__ import annotations

import dataclasses
import logging
from datetime import UTC, datetime
from typing import Any

import msgpack
import pytest

from durable import events as ev
from durable.client.states import note_key
from durable.errors import FailureDetails, HistoryDamagedError
from durable.history import History
from durable.messages import dropped_memo, heartbeat_key
from durable.model import OrchestrationStatus
from durable.payloads import Compression, Sealer, encode
from durable.provider import RecordRow, Status
from durable.records import decode_record, encode_record
from tests.client.conftest import Stage
from tests.client.programs import alone, anything, double

GARBAGE = b"\xc1garbage"


# ---- states


async def test_a_state_is_plain_data_with_aware_times(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(double, 1, instance_id="a", tags={"team": "east"})
        await owner.turn("a", custom_status=encode(["half", {"way": 0.5}]))
        running = await handle.state()
        assert running.status is OrchestrationStatus.RUNNING
        assert (running.instance_id, running.run_id, running.name) == ("a", handle.run_id, "double")
        assert (running.custom_status, running.output, running.completed_at) == (["half", {"way": 0.5}], None, None)
        assert running.created_at.tzinfo is running.last_updated_at.tzinfo is UTC
        assert running.created_at <= running.last_updated_at <= datetime.now(UTC)
        assert running.tags == {"team": "east"}
        await owner.turn("a", status=Status.STALLED, stall_reason="why")
        assert (await handle.state()).stall_reason == "why"
        await owner.complete("a", 2)
        completed = await handle.state()
        assert (completed.output, completed.activities, completed.parent_instance_id) == (2, (), None)
        assert completed.completed_at is not None


async def test_running_activities_are_shown_with_attempt_heartbeat_and_note(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(double, 1, instance_id="a")
        options = ev.ActivityOptions(queue="gpu")
        row = await owner.turn(
            "a",
            ev.ActivityScheduled(0, "done", None, None),
            ev.ActivityScheduled(1, "train", None, None, attempt=3, options=options),
            ev.ActivityScheduled(2, "wait", None, None),
            ev.ActivityScheduled(3, "given up", None, None),
            open_work=1,
        )
        await owner.write(row, [ev.ActivityCompleted(0, None), ev.ActivityCancelled(3)], [], open_work=1)
        await owner.note(heartbeat_key(row.run_id, 0, 1), encode({"step": 12}))
        await owner.note(note_key(row.run_id, 0, 2), msgpack.packb("nobody serves it"))
        train, wait = (await handle.state()).activities
        assert (train.name, train.attempt, train.queue, train.heartbeat) == ("train", 3, "gpu", {"step": 12})
        assert (wait.name, wait.attempt, wait.queue, wait.note) == ("wait", 1, "default", "nobody serves it")
        assert train.scheduled_at is not None
        assert [state.activities async for state in client.query()] == [()]


async def test_queued_activities_are_shown_although_their_owner_holds_none(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(double, 1, instance_id="a")
        await owner.turn("a", ev.ActivityScheduled(0, "queued", None, None), open_work=0, state=b"noted")
        assert [activity.name for activity in (await handle.state()).activities] == ["queued"]


async def test_what_cannot_be_read_is_shown_as_that_and_logged(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async with stage() as (client, owner):
        await client.start(double, 1, instance_id="good")
        bad = await client.start(double, 1, instance_id="bad")
        await owner.turn("bad", status=Status.FAILED, custom_status=GARBAGE, failure=GARBAGE, output=GARBAGE)
        with caplog.at_level(logging.WARNING, "durable"):
            states = {state.instance_id: state async for state in client.query()}
        assert len(states) == 2
        assert states["bad"].custom_status.startswith("<unreadable payload of 8 bytes")
        assert states["bad"].failure_details is not None
        assert "unreadable" in states["bad"].failure_details.message
        assert "'bad'" in caplog.text
        assert (await bad.wait(timeout=5)).status is OrchestrationStatus.FAILED


async def test_unreadable_notes_do_not_hide_the_others(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(double, 1, instance_id="a")
        row = await owner.turn("a", ev.ActivityScheduled(0, "x", None, None), open_work=1)
        await owner.note(heartbeat_key(row.run_id, 0, 0), GARBAGE)
        await owner.note(note_key(row.run_id, 0, 0), GARBAGE)
        (activity,) = (await handle.state()).activities
        assert "unreadable" in activity.heartbeat
        assert "unreadable" in activity.note


async def test_what_was_dropped_is_listed_with_reasons(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(double, 1, instance_id="a")
        assert await handle.dropped() == []
        assert handle.run_id is not None
        now = await owner.now()
        memos = [dropped_memo(handle.run_id, "EventRaised", name, "too late", now + at) for at, name in enumerate("xy")]
        for memo in memos:
            await owner.note(memo.key, memo.data)
        await owner.note(f"run/{handle.run_id}/dropped/~", GARBAGE)
        items = await handle.dropped()
        assert [(item.kind, item.name, item.reason) for item in items[:2]] == [
            ("EventRaised", "x", "too late"),
            ("EventRaised", "y", "too late"),
        ]
        assert items[0].timestamp.tzinfo is UTC
        assert "cannot be read" in items[2].reason
        assert await client.get("a").dropped() == items


async def test_sealed_payloads_are_shown_plain(store_url: str) -> None:
    from durable.client import Client

    sealer = Sealer([Compression(min_bytes=1)])
    async with Client(store_url, sealer=sealer) as client:
        handle = await client.start(anything, "x" * 1000, instance_id="a")
        (row,) = await client.connection.provider.load([(ev.InstanceKey("a"), None)])
        assert row is not None
        assert row.input is not None
        assert len(row.input) < 100
        assert (await handle.state()).input == "x" * 1000
        async with Client(client.connection.provider) as other:
            assert "codec 1" in (await other.get("a").state()).input


# ---- histories


async def grown(owner: Any, client: Any) -> Any:
    """Start an instance and give it a history of three records."""
    handle = await client.start(double, 1, instance_id="a")
    await owner.turn("a", ev.ActivityScheduled(0, "add", None, encode(1)), open_work=1)
    row = await owner.row("a")
    await owner.write(row, [ev.ActivityCompleted(0, encode(2)), ev.TimerCreated(1, 5)], [])
    await owner.complete("a", {"sum": 2})
    return handle


async def test_a_history_is_a_sequence_of_events_in_plain_data(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await grown(owner, client)
        history = await handle.history()
        kinds = [type(event).__name__ for event in history]
        assert kinds == [
            "OrchestrationStarted",
            "ActivityScheduled",
            "ActivityCompleted",
            "TimerCreated",
            "OrchestrationCompleted",
        ]
        assert [event.sequence for event in history] == list(range(5))
        assert all(event.timestamp is not None and event.timestamp.tzinfo is UTC for event in history)
        started, scheduled, completed = history[0], history[1], history[2]
        assert isinstance(started, ev.OrchestrationStarted)
        assert isinstance(scheduled, ev.ActivityScheduled)
        assert isinstance(completed, ev.ActivityCompleted)
        assert (started.input, scheduled.input, completed.result) == (1, 1, 2)
        assert history[-1] is history[4]
        assert list(history[1:3]) == [scheduled, completed]
        assert completed in history
        assert history.index(completed) == 2
        with pytest.raises(IndexError):
            history[5]
        with pytest.raises(dataclasses.FrozenInstanceError):
            scheduled.name = "other"  # type: ignore[misc]
        assert (history.instance_id, history.run_id, history.generation) == ("a", handle.run_id, 0)
        assert history.name == "double"
        assert "'a' (double)" in repr(history)
        assert "5 events" in repr(history)


async def test_a_history_is_read_part_by_part(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage() as (client, owner):
        handle = await grown(owner, client)
        whole = await handle.history()
        provider = client.connection.provider
        read = provider.read_history
        monkeypatch.setattr(provider, "read_history", lambda run, generation, first: read(run, generation, first, 1))
        assert await handle.history() == whole


async def test_an_instance_that_has_not_begun_has_an_empty_history(stage: Stage) -> None:
    async with stage() as (client, _):
        handle = await client.start(alone, instance_id="a")
        history = await handle.history()
        assert (len(history), history.name) == (0, "alone")
        assert History.load(history.export()) == history


async def test_export_and_load_lose_nothing(stage: Stage) -> None:
    async with stage() as (client, owner):
        history = await (await grown(owner, client)).history()
        loaded = History.load(history.export())
        assert loaded == history
        assert hash(loaded) == hash(history)
        assert list(loaded) == list(history)
        assert [event.timestamp for event in loaded] == [event.timestamp for event in history]
        assert loaded.export() == history.export()
        assert loaded.records == history.records


async def test_every_damage_to_an_export_is_found(stage: Stage) -> None:
    async with stage() as (client, owner):
        data = (await (await grown(owner, client)).history()).export()
    for garbage in (b"", b"\xc1", b"hello", msgpack.packb([1]), msgpack.packb({}), data + b"x"):
        with pytest.raises(HistoryDamagedError):
            History.load(garbage)
    for place in range(len(data)):
        with pytest.raises(HistoryDamagedError):
            History.load(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(HistoryDamagedError):
            History.load(data[:place])


async def test_an_export_put_together_by_hand_does_not_pass_for_another_history(stage: Stage) -> None:
    async with stage() as (client, owner):
        history = await (await grown(owner, client)).history()
        other = await (await client.start(double, 1, instance_id="b")).history()
    rows, stranger = history._rows, other._whose
    changed = [rows[1:], (rows[1], rows[0], rows[2]), (*rows[:2], rows[2]._replace(checksum=rows[1].checksum))]
    for records in changed:
        with pytest.raises(HistoryDamagedError):
            History(history._whose, records)
    with pytest.raises(HistoryDamagedError):
        History(stranger, rows)


async def test_damage_in_the_store_is_found(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage() as (client, owner):
        handle = await grown(owner, client)
        provider = client.connection.provider
        read = provider.read_history

        def flip(rows: list[RecordRow], first: int) -> list[RecordRow]:
            record = decode_record(rows[1].data)
            events = [ev.ActivityCompleted(9, None), *record.events[1:]]
            return [
                rows[0],
                rows[1]._replace(data=encode_record(dataclasses.replace(record, events=events))),
                *rows[2:],
            ]

        def lose(rows: list[RecordRow], first: int) -> list[RecordRow]:
            return rows[:2] if first == 0 else []

        def skip(rows: list[RecordRow], first: int) -> list[RecordRow]:
            return [rows[0], *rows[2:]] if first == 0 else []

        def recompute(rows: list[RecordRow], first: int) -> list[RecordRow]:
            return [*rows[:2], rows[2]._replace(checksum=b"x" * 16)]

        for tamper in (flip, lose, skip, recompute):

            async def changed(run_id: str, generation: int, first: int = 0, tamper: Any = tamper) -> Any:
                return tamper([*await read(run_id, generation, first)], first)

            monkeypatch.setattr(provider, "read_history", changed)
            with pytest.raises(HistoryDamagedError, match="'a'"):
                await handle.history()


async def test_unreadable_payloads_do_not_hide_a_history(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(double, 1, instance_id="a")
        await owner.turn("a", ev.ActivityScheduled(0, "add", None, GARBAGE), open_work=1)
        scheduled = (await handle.history())[1]
        assert isinstance(scheduled, ev.ActivityScheduled)
        assert "unreadable" in scheduled.input


async def test_details_of_failures_are_in_the_history(stage: Stage) -> None:
    async with stage() as (client, owner):
        handle = await client.start(double, 1, instance_id="a")
        await owner.turn("a", ev.OrchestrationFailed(FailureDetails("ValueError", "why")))
        failed = (await handle.history())[-1]
        assert isinstance(failed, ev.OrchestrationFailed)
        assert failed.details == FailureDetails("ValueError", "why")
