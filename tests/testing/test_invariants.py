"""The reader of invariants finds each kind of damage, and nothing in a healthy hub.

Method: small runs made by hand, each with one thing in it that must never be; and a hub that real workers wrote, read whole
and then damaged below the contract.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from durable import App, Client, OrchestrationContext, RetryPolicy, Worker
from durable import events as ev
from durable.errors import FailureDetails
from durable.events import HistoryEvent, InstanceKey
from durable.exchanges import UpdateCompleted, UpdateFailed, UpdateReceived
from durable.invariants import (
    Answers,
    Moment,
    StoredRun,
    examine,
    read_runs,
    violations,
    violations_among,
    violations_between,
    violations_in,
    violations_of_answers,
)
from durable.provider import InstanceRow, RecordRow, Status
from durable.records import Record, encode_record, first_checksum, next_checksum
from durable.testing.simulation.checking import note_purge
from tests.worker.lives import Damage, provider_of

KEY = InstanceKey("instance")
STARTED = ev.OrchestrationStarted("main", None, None, "seed", "3.11")
ACTIVITY = ev.ActivityScheduled(0, "work", None, None, call_id=0)
TIMER = ev.TimerCreated(0, 500)
CHILD = ev.SubOrchestrationScheduled(0, "child", None, "child-id", None, run_id="child-run")
DETAILS = FailureDetails("ValueError", "no")
DONE = ev.OrchestrationCompleted(b"result")
RAISED = ev.EventRaised("go", b"data")
UPDATE = UpdateReceived("id", "add", b"x")
UPDATED = UpdateCompleted("id", "add", b"y")
SENT = ev.EventSent(0, "instance", "go", b"data")


def rows_of(generation: int, *records: Record, run_id: str = "run", key: InstanceKey = KEY) -> list[RecordRow]:
    chain = first_checksum(key, run_id, generation)
    rows = []
    for index, record in enumerate(records):
        data = encode_record(record)
        chain = next_checksum(chain, data)
        rows.append(RecordRow(index, data, chain))
    return rows


def run_of(*turns: Sequence[HistoryEvent], older: Sequence[Record] | None = None, **columns: Any) -> StoredRun:
    """A run with a record per turn, at times 100, 200, …; the row says what follows from its last event, or `columns`."""
    key, run_id = columns.pop("key", KEY), columns.pop("run_id", "run")
    generation = 0 if older is None else 1
    records = [Record(100 * (place + 1), list(events)) for place, events in enumerate(turns)]
    if older is not None:
        records[0] = dataclasses.replace(records[0], is_opening=True)
    generations = {generation: rows_of(generation, *records, run_id=run_id, key=key)}
    if older is not None:
        generations[0] = rows_of(0, *older, run_id=run_id, key=key)
    fields: dict[str, Any] = {"status": Status.RUNNING, "generation": generation, "records": len(records)}
    fields["chain"] = generations[generation][-1].checksum if records else b""
    last = turns[-1][-1] if turns else None
    if isinstance(last, ev.OrchestrationCompleted):
        fields |= {"status": Status.COMPLETED, "output": last.result, "completed_at": 1_000}
    if isinstance(last, ev.OrchestrationFailed):
        fields |= {"status": Status.FAILED, "failure": b"failure", "completed_at": 1_000}
    times = dict.fromkeys(("created_at", "scheduled_at", "updated_at"), 0)
    given = times | {"name": "main", "version": None} | fields | columns
    return StoredRun(InstanceRow(key, 0, run_id, **given), generations)


CONTINUED = [Record(50, [STARTED, ev.OrchestrationContinuedAsNew(None)])]
CANCEL = ev.OrchestrationCancelRequested("")

HEALTHY = {
    "not begun": run_of(status=Status.PENDING),
    "an activity": run_of([STARTED, ACTIVITY], [ev.ActivityCompleted(0, b"x"), DONE]),
    "a held activity": run_of([STARTED, ACTIVITY], open_work=1),
    "a timer": run_of([STARTED, TIMER], due_at=500),
    "a retry": run_of(
        [STARTED, ACTIVITY],
        [ev.ActivityFailed(0, DETAILS), dataclasses.replace(ACTIVITY, task_id=1, attempt=2)],
        [ev.ActivityCompleted(1, b"x"), DONE],
    ),
    "given up at the end": run_of([STARTED, ACTIVITY, ev.ActivityCancelled(0), DONE]),
    "a child that runs on": run_of([STARTED, CHILD, DONE]),
    "suspended": run_of([STARTED, TIMER, ev.OrchestrationSuspended()], status=Status.SUSPENDED, due_at=500),
    "continued as new": run_of([STARTED, RAISED], older=CONTINUED),
    "cancelled before its start": run_of(
        [CANCEL, ev.OrchestrationCancelled("")], status=Status.CANCELLED, completed_at=1_000
    ),
    "stalled": run_of([STARTED], status=Status.STALLED, stall_reason="why"),
    "an update": run_of([STARTED], [UPDATE, UPDATED]),
    "an update that is answered by the end": run_of([STARTED, UPDATE], [UpdateFailed("id", "add", DETAILS), DONE]),
    "an update at work": run_of([STARTED, UPDATE]),
}

PLANTED = {
    "a lost record": ("I2", run_of([STARTED, TIMER], [ev.TimerFired(0), DONE], due_at=500)),
    "a swapped record": ("I13", run_of([STARTED, TIMER], due_at=500)),
    "a record that nobody reads": ("I13", run_of([STARTED])),
    "an outcome twice": (
        "I9",
        run_of([STARTED, ACTIVITY], [ev.ActivityCompleted(0, b"x")], [ev.ActivityCompleted(0, b"y"), DONE]),
    ),
    "an outcome after a cancel": (
        "I9",
        run_of([STARTED, ACTIVITY, ev.ActivityCancelled(0)], [ev.ActivityFailed(0, DETAILS), DONE]),
    ),
    "an outcome of nothing": ("I9", run_of([STARTED], [ev.ActivityCompleted(3, b"x"), DONE])),
    "an outcome of something else": ("I2", run_of([STARTED, TIMER], [ev.ActivityCompleted(0, b"x"), DONE])),
    "no outcome": ("I9", run_of([STARTED, ACTIVITY, DONE])),
    "a timer without end": ("I2", run_of([STARTED, TIMER, DONE])),
    "a timer that fires twice": ("I2", run_of([STARTED, dataclasses.replace(TIMER, due=1)], *[[ev.TimerFired(0)]] * 2)),
    "a timer too early": ("I2", run_of([STARTED, TIMER], [ev.TimerFired(0)])),
    "a child's end twice": (
        "I2",
        run_of([STARTED, CHILD], *[[ev.SubOrchestrationCompleted(0, b"x")]] * 2),
    ),
    "a position twice": ("I2", run_of([STARTED, TIMER, ACTIVITY], due_at=500, open_work=1)),
    "two starts": ("I2", run_of([STARTED], [STARTED])),
    "a request before the start": ("I2", run_of([RAISED, TIMER], due_at=500, status=Status.PENDING)),
    "a request while suspended": (
        "I10",
        run_of([STARTED, ev.OrchestrationSuspended(), TIMER], due_at=500, status=Status.SUSPENDED),
    ),
    "an attempt left out": ("I9", run_of([STARTED, dataclasses.replace(ACTIVITY, attempt=3)], open_work=1)),
    "an attempt after success": (
        "I9",
        run_of(
            [STARTED, ACTIVITY],
            [ev.ActivityCompleted(0, b"x"), dataclasses.replace(ACTIVITY, task_id=1, attempt=2)],
            open_work=1,
        ),
    ),
    "one attempt too many": (
        "I9",
        run_of(
            [STARTED, ACTIVITY],
            [ev.ActivityFailed(0, DETAILS), dataclasses.replace(ACTIVITY, task_id=1, attempt=2)],
            [ev.ActivityFailed(1, DETAILS), dataclasses.replace(ACTIVITY, task_id=2, attempt=3)],
            open_work=1,
        ),
    ),
    "something after the end": ("I8", run_of([STARTED, DONE], [RAISED, DONE])),
    "an end that the row does not know": (
        "I6",
        run_of([STARTED, DONE], status=Status.RUNNING, completed_at=None, output=None),
    ),
    "an end that only the row knows": ("I6", run_of([STARTED], status=Status.TERMINATED, completed_at=1_000)),
    "another end": ("I6", run_of([STARTED, DONE], status=Status.FAILED, failure=b"f", output=None)),
    "another output": ("I6", run_of([STARTED, DONE], output=b"other")),
    "another input": ("I6", run_of([STARTED], input=b"other")),
    "another name": ("I6", run_of([STARTED], name="other")),
    "no record where the row counts one": ("I6", run_of([STARTED], records=2)),
    "a torn commit": ("I6", run_of([STARTED], [RAISED], records=1)),
    "an older generation without end": ("I6", run_of([STARTED], older=[Record(50, [STARTED])])),
    "a generation that was not begun": ("I6", run_of([STARTED, ev.OrchestrationContinuedAsNew(None)])),
    "a forgotten timer": ("I3", run_of([STARTED, TIMER], due_at=None)),
    "a timer known too late": ("I3", run_of([STARTED, TIMER], due_at=501)),
    "a forgotten activity": ("I3", run_of([STARTED, ACTIVITY])),
    "running before its start": ("I10", run_of(status=Status.RUNNING)),
    "pending after its start": ("I10", run_of([STARTED], status=Status.PENDING)),
    "running while suspended": ("I10", run_of([STARTED, ev.OrchestrationSuspended()])),
    "completed without time": ("I10", run_of([STARTED, DONE], completed_at=None)),
    "unfinished with an output": ("I10", run_of([STARTED], output=b"x")),
    "failed without failure": ("I10", run_of([STARTED, ev.OrchestrationFailed(DETAILS)], failure=None)),
    "stalled without reason": ("I10", run_of([STARTED], status=Status.STALLED)),
    "an update twice": ("I2", run_of([STARTED, UPDATE, UPDATED], [UPDATE])),
    "an update answered twice": ("I2", run_of([STARTED, UPDATE, UPDATED], [UPDATED])),
    "an answer to no update": ("I2", run_of([STARTED, UPDATED])),
    "an update without an answer": ("I2", run_of([STARTED, UPDATE, DONE])),
    "finished and due": ("I10", run_of([STARTED, DONE], due_at=5)),
    "finished with work": ("I10", run_of([STARTED, DONE], open_work=1)),
}


def damaged(name: str, run: StoredRun) -> StoredRun:
    """What cannot be written by hand: records that were lost, changed or made unreadable after they were chained."""
    rows = list(run.generations[0])
    if name == "a lost record":
        rows = rows[1:]
    if name == "a swapped record":
        rows[0] = rows[0]._replace(data=encode_record(Record(100, [STARTED])))
    if name == "a record that nobody reads":
        data = b"garbage"
        rows = [RecordRow(0, data, next_checksum(first_checksum(KEY, "run", 0), data))]
        return dataclasses.replace(
            run,
            row=dataclasses.replace(run.row, chain=rows[0].checksum, status=Status.STALLED, stall_reason="x"),
            generations={0: rows},
        )
    return dataclasses.replace(run, generations={**run.generations, 0: rows})


@pytest.mark.parametrize("name", HEALTHY)
def test_what_may_be_is_no_violation(name: str) -> None:
    assert violations_in(HEALTHY[name], attempts_max={"work": 2}) == []


@pytest.mark.parametrize("name", PLANTED)
def test_what_must_not_be_is_named(name: str) -> None:
    promise, run = PLANTED[name]
    found = violations_in(damaged(name, run), attempts_max={"work": 2})
    assert found, "one thing may look wrong in several ways, but it must be seen"
    assert found[0].startswith(f"{promise}: instance 'instance', run run"), found


def test_a_time_that_goes_back_is_named() -> None:
    records = [Record(200, [STARTED]), Record(100, [RAISED])]
    rows = rows_of(0, *records)
    run = run_of([STARTED], records=2, chain=rows[-1].checksum)
    [found] = violations_in(dataclasses.replace(run, generations={0: rows}))
    assert found.startswith("I10")


# ---- between runs


def parent_and_child(answer: HistoryEvent | None, *child_turns: Sequence[HistoryEvent]) -> list[StoredRun]:
    parent = run_of([STARTED, CHILD], *([] if answer is None else [[answer]]))
    child = run_of(
        *child_turns,
        key=InstanceKey("child-id"),
        run_id="child-run",
        parent=KEY,
        parent_run_id="run",
        parent_task="0/0",
        status=Status.RUNNING if not isinstance(child_turns[-1][-1], ev.OUTCOMES) else None,
    )
    if child.row.status is None:
        is_done = isinstance(child_turns[-1][-1], ev.OrchestrationCompleted)
        row = dataclasses.replace(child.row, status=Status.COMPLETED if is_done else Status.FAILED)
        child = dataclasses.replace(child, row=row)
    return [parent, child]


FAILED = ev.OrchestrationFailed(DETAILS)
TOLD = ev.SubOrchestrationCompleted(0, b"result")


@pytest.mark.parametrize(
    ("promise", "runs"),
    [
        pytest.param(None, parent_and_child(TOLD, [STARTED, DONE]), id="the parent knows"),
        pytest.param(None, parent_and_child(None, [STARTED]), id="the child runs"),
        pytest.param("I3", parent_and_child(None, [STARTED, DONE]), id="the parent was not told"),
        pytest.param("I3", parent_and_child(None, [STARTED])[:1], id="the child is not there"),
        pytest.param("I6", parent_and_child(TOLD, [STARTED]), id="told too early"),
        pytest.param("I6", parent_and_child(TOLD, [STARTED, FAILED]), id="told of another end"),
        pytest.param(
            "I6", parent_and_child(ev.SubOrchestrationFailed(0, DETAILS), [STARTED, DONE]), id="told of a failure"
        ),
        pytest.param(
            "I6", parent_and_child(ev.SubOrchestrationCompleted(0, b"?"), [STARTED, DONE]), id="another output"
        ),
    ],
)
def test_parents_and_children_agree(promise: str | None, runs: list[StoredRun]) -> None:
    found = violations_among(runs, Moment.SETTLED)
    assert [text.partition(":")[0] for text in found] == ([promise] if promise else []), found


def test_a_child_that_nobody_asked_for_is_named() -> None:
    _, child = parent_and_child(TOLD, [STARTED, DONE])
    [found] = violations_among([run_of([STARTED]), child], Moment.STILL)
    assert found.startswith("I6")
    assert "never asked for it" in found
    assert not violations_among([child], Moment.STILL), "the parent may be purged"
    assert not violations_among([run_of([STARTED]), child], Moment.RUNNING), "read at different moments"


def test_an_event_between_instances_arrives_or_is_listed() -> None:
    sender = run_of([STARTED, SENT], key=InstanceKey("sender"), run_id="sender-run")
    target = run_of([STARTED])
    [found] = violations_among([sender, target], Moment.SETTLED)
    assert found.startswith("I7")
    assert not violations_among([sender, target], Moment.STILL), "it may wait in the inbox"
    assert not violations_among([sender, run_of([STARTED], [RAISED])], Moment.SETTLED)
    dropped = dataclasses.replace(target, dropped=[(0, "EventRaised", "go", "why")])
    assert not violations_among([sender, dropped], Moment.SETTLED)
    noted = dataclasses.replace(
        sender, dropped=[(0, "event sent", "go", "instance 'instance' is not there, or has ended")]
    )
    assert not violations_among([noted, target], Moment.SETTLED)


# ---- two looks


@pytest.mark.parametrize(
    ("promise", "before", "after"),
    [
        pytest.param(None, run_of([STARTED]), run_of([STARTED], [RAISED, DONE]), id="it went on"),
        pytest.param(None, run_of([STARTED, DONE]), run_of([STARTED, DONE]), id="it stays"),
        pytest.param("I8", run_of([STARTED, DONE]), run_of([STARTED, DONE], output=b"x"), id="another output"),
        pytest.param("I1", run_of([STARTED], [RAISED]), run_of([STARTED]), id="it went back"),
        pytest.param("I8", run_of([STARTED, RAISED]), run_of([STARTED, CANCEL]), id="another history"),
    ],
)
def test_between_two_looks_histories_only_grow(promise: str | None, before: StoredRun, after: StoredRun) -> None:
    found = violations_between([before], [after])
    assert [text.partition(":")[0] for text in found][:1] == ([promise] if promise else []), found


def test_a_run_that_is_gone_is_named_unless_it_was_purged() -> None:
    [found] = violations_between([run_of([STARTED, DONE])], [])
    assert found.startswith("I1")
    assert not violations_between([run_of([STARTED, DONE])], [], purged=["run"])


# ---- answers to clients


def test_what_clients_were_told_is_there() -> None:
    run = run_of([STARTED], [RAISED, DONE])
    good = Answers({"run": KEY}, raised=Counter({("run", "go"): 1}), ended={"run": Status.COMPLETED})
    assert violations_of_answers([run], good, Moment.SETTLED) == []
    assert violations_of_answers([], Answers({"run": KEY}))[0].startswith("I1")
    assert violations_of_answers([], Answers({"run": KEY}, purged={"run"})) == []
    assert violations_of_answers([run], Answers(ended={"run": Status.FAILED}))[0].startswith("I8")


def test_an_end_counts_unless_a_rewind_took_it_back() -> None:
    """Also one that was ended again before it went on; but nothing goes on after it has completed."""
    terminated, rewound = ev.OrchestrationTerminated("why"), ev.OrchestrationRewound("again", "seed", 0)
    told = Answers(ended={"run": Status.FAILED})

    failed, done = [Record(50, [STARTED, ev.OrchestrationFailed(DETAILS)])], [Record(50, [STARTED, DONE])]
    assert violations_of_answers([run_of([terminated], older=failed, status=Status.TERMINATED)], told) == []
    assert violations_of_answers([run_of([STARTED, rewound], older=failed)], told) == []
    assert violations_of_answers([run_of([STARTED], older=failed)], told)[0].startswith("I8")
    completed = Answers(ended={"run": Status.COMPLETED}, rewound={"run"})
    assert violations_of_answers([run_of([STARTED], older=done)], completed)[0].startswith("I8")


def test_a_purge_that_removed_nothing_excuses_nothing() -> None:
    answers = Answers({"former": KEY, "run": KEY})
    note_purge(answers, [(KEY, "run")], 0)
    assert answers.purged == set()
    note_purge(answers, [(KEY, "run")], 1)
    assert answers.purged == {"former", "run"}


def test_events_are_neither_lost_nor_doubled() -> None:
    one, two = (run_of([STARTED], *[[RAISED]] * count) for count in (1, 2))

    def told(accepted: int, asked: int = 0) -> Answers:
        return Answers(raised=Counter({("run", "go"): accepted}), asked=Counter({("run", "go"): asked}))

    assert violations_of_answers([one], told(2), Moment.STILL) == []
    assert violations_of_answers([one], told(2), Moment.SETTLED)[0].startswith("I7")
    assert violations_of_answers([two], told(1), Moment.RUNNING)[0].startswith("I7")
    assert violations_of_answers([two], told(1, asked=1), Moment.SETTLED) == []
    dropped = dataclasses.replace(one, dropped=[(0, "EventRaised", "go", "why")])
    assert violations_of_answers([dropped], told(2), Moment.SETTLED) == []


# ---- a hub that real workers wrote


def busy_app() -> App:
    app = App()
    failed: set[str] = set()

    @app.activity
    def twice(text: str) -> str:
        if text not in failed:
            failed.add(text)
            raise ValueError(text)
        return text * 2

    @app.orchestrator
    async def child(ctx: OrchestrationContext, text: str) -> str:
        policy = RetryPolicy(timedelta(milliseconds=1), 2)
        return await ctx.call_activity(twice, text, retry_policy=policy)

    @app.orchestrator
    async def parent(ctx: OrchestrationContext, round: int) -> Any:
        if round == 0:
            await ctx.wait_for_external_event("go")
            ctx.continue_as_new(1)
        found = [await ctx.call_sub_orchestrator(child, letter + ctx.instance_id) for letter in "ab"]
        await ctx.create_timer(timedelta(milliseconds=1))
        return [*found, await ctx.wait_for_external_event("go")]

    return app


async def test_a_hub_of_real_workers_is_healthy_and_its_damage_is_found(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'hub.db'}"
    answers = Answers()
    async with provider_of(url) as provider, Worker(busy_app(), url), Client(url) as client:
        handles = [await client.start("parent", 0) for _ in range(5)]
        before = await read_runs(provider)
        for handle in handles:
            answers.started[handle.run_id] = InstanceKey(handle.instance_id)
            for _ in range(2):
                await handle.raise_event("go")
                answers.raised[handle.run_id, "go"] += 1
        while await client.count(name="parent", status=["COMPLETED"]) < 5:
            assert await violations(provider, before=before, attempts_max={"twice": 2}) == []
        told: dict[str, Any] = {"before": before, "answers": answers, "moment": Moment.SETTLED}
        assert await violations(provider, attempts_max={"twice": 2}, **told) == []
        assert [text[:2] for text in await violations(provider, attempts_max={"twice": 1})] == ["I9"] * 10
        damage = Damage(url)
        first = handles[0].run_id
        records = damage.read(first, 1)
        assert [text async for text in examine(provider, Moment.STILL)] == []
        damage.write(first, {**records, 1: records[1][:-1]}, 1)
        assert [text[:3] for text in await violations(provider)] == ["I13"]
        assert [text async for text in examine(provider)] == await violations(provider)
        damage.write(first, records, 1)
        await handles[1].purge()
        found = await violations(provider, **told)
        assert {text[:2] for text in found} == {"I1"}, found


async def test_a_hub_is_read_while_it_changes(tmp_path: Any) -> None:
    app = App()

    @app.orchestrator
    async def again(ctx: OrchestrationContext, round: int) -> None:
        await ctx.create_timer(timedelta(0))
        if round:
            ctx.continue_as_new(round - 1)

    url = f"sqlite:///{tmp_path / 'hub.db'}"
    async with provider_of(url) as provider, Worker(app, url) as worker:
        running = [asyncio.create_task(worker.client.run(again, 30)) for _ in range(3)]
        looks = 0
        while not all(task.done() for task in running):
            assert await violations(provider) == []
            looks += 1
        assert looks
        await asyncio.gather(*running)
