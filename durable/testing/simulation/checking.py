"""What is looked at after a simulated run: the promises, as the store tells of them, and a replay of every history."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from durable import events as ev
from durable.app import App
from durable.errors import DurableError, HistoryDamagedError
from durable.events import InstanceKey
from durable.history import Generation, History
from durable.invariants import (
    Accepted,
    Answers,
    Moment,
    StoredRun,
    read_runs,
    read_waiting,
    violations_among,
    violations_in,
    violations_of_answers,
    violations_of_order,
    violations_of_waiting,
)
from durable.messages import decode_arrivals
from durable.provider import Delivery, InstanceRow, Message, Provider, Status, Verdict
from durable.replaying import replay


async def broken_promises(
    provider: Provider,
    answers: Answers,
    accepted: Accepted,
    queues: Collection[str],
    *,
    moment: Moment,
    replayed_with: App | None,
) -> list[str]:
    """Read a whole hub whose workers are dead, and return what is wrong with it.

    `queues`: those in which activities may lie. With an app, also which histories do not replay with it.
    """
    runs = await read_runs(provider, [(key, run_id) for run_id, key in answers.started.items()])
    found = [text for run in runs for text in violations_in(run)]
    found += violations_among(runs, moment)
    found += violations_of_answers(runs, answers, moment)
    found += violations_of_order(runs, accepted)
    found += violations_of_waiting(runs, await read_waiting(provider, queues), moment)
    if replayed_with is not None:
        found += [text for run in runs for text in _not_replayed(run, replayed_with)]
    return found


def _not_replayed(run: StoredRun, app: App) -> list[str]:
    row = run.row
    if row.status is Status.STALLED:
        return []  # whatever stalled it is said there
    found = []
    for generation, records in run.generations.items():
        if not records:
            continue
        try:
            replay(app, History(Generation(row.key, row.run_id, generation, row.name), records))
        except DurableError as error:
            found.append(f"I5: instance '{row.key.id}', generation {generation}, does not replay: {error}")
    return found


def note_answers(answers: Answers, messages: Sequence[Message], deliveries: Sequence[Delivery]) -> None:
    """Take note of what a client was told of the messages that it sent: of starts, and of events to a run that it named."""
    for message, delivery in zip(messages, deliveries, strict=True):
        if delivery.verdict is not Verdict.STORED:
            continue
        run_id = message.run_id
        if message.start is not None:
            run_id = message.start.run_id
            answers.started[run_id] = message.target
            _note_rewind(answers, message.start)
        if run_id is None:
            continue
        try:
            events = decode_arrivals(message.data)[1]
        except HistoryDamagedError:
            continue
        for event in events:
            if isinstance(event, ev.EventRaised):
                answers.raised[run_id, event.name] += 1


def note_doubt(answers: Answers, message: Message) -> None:
    """Take note of a start of which nobody knows whether its run has begun with the events that it holds."""
    if message.start is not None:
        _note_rewind(answers, message.start)
        for event in decode_arrivals(message.data)[1]:
            if isinstance(event, ev.EventRaised):
                answers.asked[message.start.run_id, event.name] += 1


def _note_rewind(answers: Answers, start: InstanceRow) -> None:
    if start.generation:
        answers.rewound.add(start.run_id)


def note_purge(answers: Answers, targets: Collection[tuple[InstanceKey, str]], removed: int) -> None:
    """Take note of what a client had removed: runs, with those that had the same ids before them."""
    if removed < len(targets):  # which of them, nobody was told
        answers.purged.update(run_id for _, run_id in targets if removed)
        return
    for key, run_id in targets:
        of_key = [known for known, target in answers.started.items() if target == key]
        answers.purged.update([run_id, *of_key[: of_key.index(run_id)]] if run_id in of_key else [run_id])


def note_rows(answers: Answers, rows: Sequence[InstanceRow | None]) -> None:
    """Take note of the ends that a client saw."""
    for row in rows:
        if row is not None and row.status.is_finished:
            answers.ended[row.run_id] = row.status
