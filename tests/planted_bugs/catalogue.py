"""Defects that somebody might make, each planted by a patch of the running code. The batteries must find every one.

A planted bug names the promise that it breaks and the cases that it is looked for in; nothing else is told to the battery:
it draws schedules, plays the cases, and must come upon something that is not as promised.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import os
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import durable_memory.hub as memory
import pytest

from durable import events as ev
from durable.client import answers, submitting, waiting
from durable.context import combining
from durable.context.handlers import Handlers
from durable.context.orchestration import OrchestrationContext
from durable.engine import calls, mailbox
from durable.engine.execution import Execution
from durable.errors import LeaseLostError
from durable.provider import Committed, Priority, Received
from durable.seeds import Seeds
from durable.worker import loading, placing, steps, turns
from durable.worker.activities import ActivityRunner
from durable.worker.claims import Claims
from durable.worker.committing import GroupCommits
from durable.worker.direct import DirectStarts
from durable.worker.live import DirectStart
from durable.worker.owner import Owner
from durable.worker.receiving import Receiver
from durable.worker.timers import DueTimes

Patch = pytest.MonkeyPatch


@dataclasses.dataclass(frozen=True)
class Planted:
    """A defect. `cases`: where it is looked for; empty: in all of them. `told`: what the one check says that can find it."""

    name: str
    promise: str
    plant: Callable[[Patch], None]
    cases: Sequence[str] = ()
    told: str = ""


CATALOGUE: dict[str, Planted] = {}


def planted(promise: str, *cases: str, told: str = "") -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    def enter(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        CATALOGUE[plant.__name__] = Planted(plant.__name__, promise, plant, cases, told)
        return plant

    return enter


def replace(patch: Patch, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put something in the place of a function; `make` gets the function itself."""
    original = getattr(owner, name)
    patch.setattr(owner, name, functools.wraps(original)(make(original)))


def nothing(*arguments: Any, **options: Any) -> None:
    """Do nothing."""


async def nothing_later(*arguments: Any, **options: Any) -> None:
    """Do nothing, and await nothing."""


# ---- the store


@planted("I2: a message is consumed once", "events_in_order", "one_after_the_other", "both_styles_at_once")
def consumed_messages_stay_in_the_inbox(patch: Patch) -> None:
    def make(original: Any) -> Any:
        return lambda hub, step: original(hub, dataclasses.replace(step, consumed=()))

    replace(patch, memory.MemoryHub, "_apply", make)


@planted("I2: a submit that is repeated is the same submit", "events_in_order", "instances_talk")
def a_repeated_submit_is_a_new_one(patch: Patch) -> None:
    def make(original: Any) -> Any:
        counter = itertools.count(1)

        def submit(hub: Any, lease: Any, number: int, messages: Any, bytes_max: Any) -> Any:
            return original(hub, lease, next(counter), messages, bytes_max)

        return submit

    replace(patch, memory.MemoryHub, "submit", make)


@planted("I4: a commit is fenced", "work_longer_than_a_lease", "wide", "many_at_once")
def an_old_lease_may_commit(patch: Patch) -> None:
    patch.setattr(memory.MemoryHub, "_row_of", lambda hub, lease: hub._leases[lease.lease_id])
    patch.setattr(memory.MemoryHub, "_check_step", nothing)


@planted("I2: a commit holds only where nobody else has written", "many_at_once", "events_in_order", "instances_talk")
def whoever_commits_last_wins(patch: Patch) -> None:
    def take(hub: Any, lease: Any, partitions: Any, *, from_live: bool) -> set[int]:
        hub._owners.update(dict.fromkeys(partitions, lease.lease_id))
        return set(partitions)

    patch.setattr(memory.MemoryHub, "take", take)
    patch.setattr(memory.MemoryHub, "_check_step", nothing)


@planted("I3: a dead worker's partitions are taken over")
def a_lease_never_runs_out(patch: Patch) -> None:
    def is_live(hub: Any, lease_id: str | None) -> bool:
        return lease_id in hub._leases and hub._leases[lease_id].epoch == 1

    patch.setattr(memory.MemoryHub, "_is_live", is_live)


@planted("I3: what a dead worker had claimed is free", "work_for_another_queue", "deciding_here_and_working_there")
def a_claim_is_for_ever(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def claim(hub: Any, lease: Any, queues: Any, served: Any, limit: int, held: Any) -> Any:
            return [row for row in original(hub, lease, queues, served, limit, held) if row.deliveries == 1]

        return claim

    replace(patch, memory.MemoryHub, "claim", make)


@planted("I9: one outcome for each attempt", "work_for_another_queue", "deciding_here_and_working_there")
def a_report_leaves_its_row(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def report(hub: Any, lease: Any, reports: Any, beats: Any, bytes_max: Any) -> Any:
            kept = dict(hub._queue)
            answers = original(hub, lease, reports, beats, bytes_max)
            for entry in kept.values():
                entry.claimer = None
            hub._queue.update(kept)
            return answers

        return report

    replace(patch, memory.MemoryHub, "report", make)


@planted("I1: what was accepted is there", "events_in_order", "events_with_the_start_and_at_once")
def every_twentieth_message_gets_lost(patch: Patch) -> None:
    def make(original: Any) -> Any:
        counter = itertools.count(1)

        def store(hub: Any, message: Any, row: Any, wakeup: Any) -> Any:
            number = original(hub, message, row, wakeup)
            if next(counter) % 20 == 0:
                hub._inbox.pop(number, None)
                wakeup.messages.clear()
            return number

        return store

    replace(patch, memory.MemoryHub, "_store", make)


@planted("I3: a timer is found again", "a_month", "timers_side_by_side", "generations_by_time")
def the_store_forgets_due_times(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def receive(*arguments: Any) -> Received:
            return original(*arguments)._replace(due=[])

        return receive

    replace(patch, memory.MemoryHub, "receive", make)


@planted("I3: a new owner finds open work", "one_after_the_other", "wide", "races")
def the_store_recovers_nothing(patch: Patch) -> None:
    patch.setattr(memory.MemoryHub, "recover", lambda hub, lease, partitions: [])


@planted("I6: a turn is atomic", "children", "instances_talk")
def a_commits_messages_are_left_out_when_it_is_large(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def commit(hub: Any, lease: Any, batch: Any, bytes_max: Any) -> Committed:
            if len(batch.messages) > 1:
                batch = dataclasses.replace(batch, messages=batch.messages[:-1])
            return original(hub, lease, batch, bytes_max)

        return commit

    replace(patch, memory.MemoryHub, "commit", make)


@planted("I13: histories are not damaged", "one_after_the_other", "a_saga_takes_everything_back")
def a_record_loses_a_bit(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def apply(hub: Any, step: Any) -> Any:
            appends = [(g, r._replace(data=bytes([r.data[0] ^ 1]) + r.data[1:])) for g, r in step.appends]
            return original(hub, dataclasses.replace(step, appends=appends) if step.before[1] == 3 else step)

        return apply

    replace(patch, memory.MemoryHub, "_apply", make)


@planted("I7: a message to a parked or suspended instance waits", "events_in_order", "events_over_generations")
def messages_come_newest_first(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def receive(*arguments: Any) -> Received:
            found = original(*arguments)
            return found._replace(messages=found.messages[::-1])

        return receive

    replace(patch, memory.MemoryHub, "receive", make)
    patch.setattr(memory.Changes, "told", lambda changes: memory.Wakeup(rows=tuple(changes.rows), anything=True))


@planted("reads: purge removes what has ended, and only that", "purged_and_started_again")
def a_purge_keeps_the_history(patch: Patch) -> None:
    patch.setattr(memory.MemoryHub, "purge", lambda hub, key, run_id: True)


# ---- ownership and commit


@planted("effects come after the commit", "one_after_the_other", "wide")
def activities_begin_before_the_commit(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def add(owner: Any, prepared: Any) -> None:
            for request, key in prepared.held:
                owner.attempts.start(prepared.live, request, key)
            original(owner, prepared)

        return add

    replace(patch, Owner, "_add", make)


@planted("I3: held work is delivered again", "one_after_the_other", "wide", "work_longer_than_a_lease")
def what_a_dead_owner_held_is_not_delivered_again(patch: Patch) -> None:
    replace(
        patch,
        loading.Loader,
        "lost_attempts",
        lambda original: lambda loader, live, now: dataclasses.replace(original(loader, live, now), requests=[]),
    )


@planted("I1: an unknown outcome is asked for again", "one_after_the_other", "many_at_once")
def an_unknown_commit_is_taken_for_written(patch: Patch) -> None:
    async def written(commits: Any, lease: Any, batch: Any) -> Committed:
        try:
            return await commits._provider.commit(lease, batch)
        except LeaseLostError:
            raise
        except Exception:
            return Committed([], commits._clock.now())

    patch.setattr(GroupCommits, "_written", written)


@planted("I2: after a refusal nothing of the batch is kept", "generations_by_time", "events_from_before_the_wait")
def a_refused_batch_stays_in_memory(patch: Patch) -> None:
    def drop(owner: Any, prepared: Any) -> None:
        for item in prepared:
            item.live.is_busy = False

    patch.setattr(Owner, "_drop", drop)
    patch.setattr(Owner, "lose_everything", nothing_later)


@planted("I3: what was held in memory is read again after a loss", "events_in_order", "suspended_and_resumed")
def held_messages_are_not_let_go(patch: Patch) -> None:
    def make(original: Any) -> Any:
        async def lose(owner: Any) -> None:
            held = set(owner.receiver.held)
            await original(owner)
            owner.receiver.held |= held

        return lose

    replace(patch, Owner, "lose_everything", make)


@planted("I3: polling underneath every wake-up", "one_after_the_other", "events_in_order")
def the_owner_only_listens(patch: Patch) -> None:
    async def run(receiver: Any) -> None:
        while True:
            await receiver._wake.wait()
            receiver._wake.clear()
            try:
                await receiver._receive()
            except Exception:
                receiver._wake.clear()

    patch.setattr(Receiver, "run", run)


@planted("I3: polling underneath every wake-up", "work_for_another_queue", "deciding_here_and_working_there")
def claims_are_made_once(patch: Patch) -> None:
    async def run_claims(claims: Any) -> None:
        while True:
            try:
                await claims._claim()
            except Exception:
                return
            await claims._wake.wait()
            claims._wake.clear()

    patch.setattr(Claims, "run_claims", run_claims)


@planted("I3: due times of taken partitions are asked for", "a_month", "started_for_later", "generations_by_time")
def due_times_are_asked_for_once(patch: Patch) -> None:
    patch.setattr(DueTimes, "forget", nothing)
    patch.setattr(DueTimes, "next_window", lambda times: (0, 0))


@planted(
    "I3: the row says when an instance is due", "a_month", "timers_side_by_side", "an_answer_in_time_and_one_too_late"
)
def rows_say_no_due_time(patch: Patch) -> None:
    replace(
        patch,
        turns,
        "Progress",
        lambda original: lambda **columns: original(**(columns | {"due_at": None})),
    )


@planted("I3: the row says that work is open", "one_after_the_other", "wide")
def rows_say_no_open_work(patch: Patch) -> None:
    replace(patch, turns, "Progress", lambda original: lambda **columns: original(**(columns | {"open_work": 0})))


@planted("I6: the rest of a large turn is sent by the next owner", "many_children")
def the_outbox_is_forgotten_by_a_new_owner(patch: Patch) -> None:
    patch.setattr(loading.Loader, "_read_outbox", nothing_later)
    patch.setattr(placing, "INLINE_MESSAGES_MAX", 2)


# ---- the engine


@planted("I5: a replay asks for the same", "chance_that_is_the_same_again")
def ids_are_drawn_anew(patch: Patch) -> None:
    patch.setattr(Seeds, "next_uuid", lambda seeds: os.urandom(16))


@planted("I5: a replay draws the same numbers", "chance_that_is_the_same_again")
def numbers_are_drawn_anew(patch: Patch) -> None:
    patch.setattr(Seeds, "stream", lambda seeds, name: random.SystemRandom())


@planted("I5: the time of a turn is in its record", "chance_that_is_the_same_again")
def the_time_is_the_clocks(patch: Patch) -> None:
    now = property(lambda context: datetime.fromtimestamp(time.time_ns() / 1e9, UTC))
    patch.setattr(OrchestrationContext, "current_utc_datetime", now)


@planted("I7: first in, first out", "events_from_before_the_wait")
def events_are_taken_newest_first(patch: Patch) -> None:
    def take(box: Any, name: str, task: Any, decode: Any) -> bool:
        events = box._events.get(name)
        if not events:
            return False
        event = events.pop()
        box.count -= 1
        if not events:
            del box._events[name]
        mailbox._settle(task, decode, event)
        return True

    patch.setattr(mailbox.Mailbox, "take", take)


@planted("I7: events are kept from before the wait", "events_from_before_the_wait")
def an_event_that_nobody_awaits_is_dropped(patch: Patch) -> None:
    def make(original: Any) -> Any:
        return lambda box, event: original(box, event) if box.is_awaited(event.name) else None

    replace(patch, mailbox.Mailbox, "deliver", make)


@planted("I7: events are carried over", "events_from_before_the_wait")
def continue_as_new_loses_its_events(patch: Patch) -> None:
    def carry_over(made: Any, row: Any, prepared: Any, turn: Any, engine: Any) -> Any:
        engine.mailbox.carried.clear()
        return dataclasses.replace(turn.carried, added=())

    patch.setattr(turns.Turns, "_carry_over", carry_over)


@planted("results come in the order of the request", "wide", "children", "work_for_another_queue")
def results_come_in_the_order_of_arrival(patch: Patch) -> None:
    def settle_all(whole: Any, waited: list[Any], *, as_tuple: bool) -> None:
        values = sorted((task.result() for task in waited if not task.is_failed), reverse=True)[1:]
        whole.succeed(values)

    patch.setattr(combining, "_settle_all", settle_all)


@planted(
    "I9: no more attempts than the policy allows",
    "failures_are_retried_as_often_as_asked",
    "a_saga_takes_everything_back",
)
def a_retry_policy_is_not_asked(patch: Patch) -> None:
    patch.setattr(calls, "next_wait", lambda *arguments, **options: None)


@planted("decision 6: cancel is passed on", "cancelled_with_its_children")
def a_cancel_is_not_passed_on(patch: Patch) -> None:
    patch.setattr(Execution, "drop_child", nothing)


@planted("decision 8: a terminated parent's children end", "terminated_with_its_children")
def a_termination_leaves_the_children(patch: Patch) -> None:
    patch.setattr(loading, "_is_recursive", lambda end: False)


@planted("I8: final means final", "one_after_the_other", "cancelled_with_work_running", "terminated_before_its_time")
def the_end_is_not_written(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def end_changes(outcome: Any, changes: dict[str, Any], now: int) -> Any:
            status = original(outcome, changes, now)
            return steps.Status.RUNNING if changes.get("output") is not None else status

        return end_changes

    replace(patch, turns, "end_changes", make)


@planted("while suspended nothing runs", "suspended_and_resumed", "cancelled_while_suspended")
def a_resume_forgets_what_was_held(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def deliver(engine: Any, event: Any) -> None:
            if isinstance(event, ev.OrchestrationResumed):
                engine._held.clear()
            original(engine, event)

        return deliver

    replace(patch, Execution, "_apply", make)


@planted("heartbeats reach the next attempt", "beats_and_timeouts")
def heartbeats_are_forgotten(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def settle(call: Any, event: Any) -> None:
            if isinstance(event, ev.ActivityFailed):
                event = dataclasses.replace(event, last_heartbeat=None, is_timeout=False)
            original(call, event)

        return settle

    replace(patch, calls.ActivityCall, "settle", make)


@planted("I9: a timeout ends the attempt", "beats_and_timeouts")
def timeouts_are_not_watched(patch: Patch) -> None:
    patch.setattr(ActivityRunner, "_fail_by_time", nothing)


@planted("priority: steering goes first", "terminated_before_its_time", "cancelled_with_work_running")
def steering_waits_in_line(patch: Patch) -> None:
    replace(
        patch,
        memory.MemoryHub,
        "_store",
        lambda original: (
            lambda hub, message, row, wakeup: original(
                hub,
                dataclasses.replace(message, priority=Priority.NORMAL, visible_at=hub._now_us() + 10**15)
                if message.priority is Priority.CONTROL
                else message,
                row,
                wakeup,
            )
        ),
    )


@planted("I2: one run takes the place of another", "replaced_while_it_runs", "two_replacements_in_a_row")
def a_replaced_run_goes_on(patch: Patch) -> None:
    patch.setattr(turns, "replaces", lambda pending, row: False)


# ---- what only one look at the end can see


@planted("I7: events of one name come in order", "a_sum_of_events", told="came after one that was sent later")
def the_youngest_message_is_received_first(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def receive(*arguments: Any) -> Received:
            received = original(*arguments)
            return received._replace(messages=received.messages[::-1])

        return receive

    replace(patch, memory.MemoryHub, "receive", make)


@planted("I14: nothing stays in the queue", "work_that_nobody_does", told="in the queue, and nobody waits for it")
def what_ends_leaves_its_activities_in_the_queue(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def apply(hub: Any, step: Any) -> Any:
            kept = dict(hub._queue)
            row = original(hub, step)
            hub._queue = kept | hub._queue
            return row

        return apply

    replace(patch, memory.MemoryHub, "_apply", make)


@planted(
    "I3: what is said to be in the queue is there",
    "work_that_waits_for_ever",
    told="went to the queue, and is not there",
)
def an_attempt_is_said_to_be_in_the_queue_and_is_not(patch: Patch) -> None:
    replace(
        patch,
        memory.MemoryHub,
        "_apply",
        lambda original: lambda hub, step: original(hub, dataclasses.replace(step, queue_adds=())),
    )


@planted("I14: what has ended leaves the memory", "one_after_the_other", "wide", told="instances in memory")
def an_owner_never_forgets(patch: Patch) -> None:
    patch.setattr(Owner, "_forget", nothing)


@planted("I14: what has ended leaves the memory", "events_in_order", "children", told="messages in memory")
def consumed_messages_are_still_held(patch: Patch) -> None:
    patch.setattr(Receiver, "settle", nothing)


@planted("I14: no task outlives what it was for", "one_after_the_other", "children", told="I14")
def each_activity_leaves_a_task(patch: Patch) -> None:
    def make(original: Any) -> Any:
        async def wait_for_nothing() -> None:
            await asyncio.get_running_loop().create_future()

        def start(runner: Any, attempt: Any) -> None:
            original(runner, attempt)
            runner.leaked = [*getattr(runner, "leaked", []), asyncio.get_running_loop().create_task(wait_for_nothing())]

        return start

    replace(patch, ActivityRunner, "start", make)


# ---- the client


@planted("I2: a client repeats a batch under its number", "events_in_order", "events_with_the_start_and_at_once")
def a_client_counts_each_try(patch: Patch) -> None:
    def make(original: Any) -> Any:
        async def submitted(submitter: Any, messages: Any) -> Any:
            while True:
                try:
                    if submitter._lease is None:
                        submitter._lease = await submitter._provider.lease("client", b"", worker=False)
                    submitter._number += 1
                    return await submitter._provider.submit(submitter._lease, submitter._number, messages)
                except Exception:
                    submitter._lease = None
                    submitter._number = 0

        return submitted

    replace(patch, submitting.Submitter, "_submitted", make)


@planted("I3: a client polls underneath", "one_after_the_other", "many_at_once")
def a_client_only_listens(patch: Patch) -> None:
    patch.setattr(waiting.Waiters, "_enqueue", nothing)


@planted("I10: nobody sees what never was", "an_id_used_again_after_the_end", "replaced_while_it_runs")
def a_handle_follows_whoever_has_the_id(patch: Patch) -> None:
    def make(original: Any) -> Any:
        return lambda hub, key, run_id: hub._instances.get(key)

    replace(patch, memory.MemoryHub, "find_run", make)


# ---- queries and updates

UPDATES = ("updates_in_order_over_generations", "an_update_that_takes_its_time")


@planted("I11: what a validator refuses is not carried out", UPDATES[0])
def nobody_heeds_the_validator(patch: Patch) -> None:
    replace(patch, Handlers, "refusal", lambda _: nothing)


@planted("I3: an update is answered with what it does", *UPDATES)
def every_third_answer_is_left_out(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def answer(handlers: Any, event: Any, found: Any) -> None:
            taken = len(handlers._taken)
            if taken % 3 or handlers._execution.is_replaying:
                original(handlers, event, found)

        return answer

    replace(patch, Handlers, "_answer", make)


@planted("I3: whoever asks polls underneath", *UPDATES)
def whoever_asks_only_listens(patch: Patch) -> None:
    patch.setattr(answers.Answers, "_schedule", nothing)


# ---- starts by the worker's own client


@planted("I1: a start that has returned is durable", "one_after_the_other", "wide", "many_at_once")
def a_start_returns_before_its_commit(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def begin(starts: Any, message: Any, *known: Any) -> Any:
            future = original(starts, message, *known)
            if future is not None:
                starts._lives[message.target].direct.settle(has_begun=True)
            return future

        return begin

    replace(patch, DirectStarts, "begin", make)


@planted("I2: an id is given once", "an_id_used_again_after_the_end")
def what_is_given_back_is_nobodys(patch: Patch) -> None:
    def make(original: Any) -> Any:
        return lambda start, *, has_begun: original(start, has_begun=True)

    replace(patch, DirectStart, "settle", make)


@planted("I2: an id is given once", "an_id_used_again_after_the_end", "many_at_once")
def an_id_in_use_is_begun_again(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def commit(hub: Any, lease: Any, batch: Any, bytes_max: Any) -> Any:
            for step in batch.steps:
                if step.begins is not None:
                    hub._instances.pop(step.key, None)
            return original(hub, lease, batch, bytes_max)

        return commit

    replace(patch, memory.MemoryHub, "commit", make)
