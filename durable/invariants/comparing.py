"""Several runs side by side: parents and children, events between instances, two looks at a hub, answers to clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from durable import events as ev
from durable.events import ORCHESTRATION, HistoryEvent, InstanceKey
from durable.invariants.runs import Answers, Moment, StoredRun, named
from durable.provider import Status


def violations_among(runs: Sequence[StoredRun], moment: Moment = Moment.RUNNING) -> list[str]:
    """Return what is wrong between runs: children without a parent's request, ends that differ or got lost, lost events."""
    if moment is Moment.RUNNING:
        return []
    by_run_id = {run.row.run_id: run for run in runs}
    found: list[str] = []
    for run in runs:
        found += unasked_child(run, by_run_id)
        for generation in run.generations:
            found += _children_against(run, generation, by_run_id, moment)
    if moment is Moment.SETTLED:
        found += _lost_events(runs)
    return found


def unasked_child(run: StoredRun, by_run_id: Mapping[str, StoredRun]) -> list[str]:
    """Tell of a run whose parent, if it is among these, has never asked for it."""
    row = run.row
    parent = by_run_id.get(row.parent_run_id or "")
    if parent is None or row.parent_task is None:
        return []
    generation, task_id = map(int, row.parent_task.split("/")[:2])
    if generation not in parent.generations:
        return []
    for event in parent.events_of(generation):
        if isinstance(event, ev.SubOrchestrationScheduled) and event.task_id == task_id and event.run_id == row.run_id:
            return []
    return [f"I6: {named(row)}: its parent, {named(parent.row, generation)}, never asked for it"]


def _children_against(
    run: StoredRun, generation: int, by_run_id: Mapping[str, StoredRun], moment: Moment
) -> Iterator[str]:
    answers: dict[int, HistoryEvent] = {}
    requests: dict[int, ev.SubOrchestrationScheduled] = {}
    for event in run.events_of(generation):
        if isinstance(event, ev.SubOrchestrationScheduled) and not event.is_detached:
            requests[event.task_id] = event
        elif isinstance(event, ev.SubOrchestrationCompleted | ev.SubOrchestrationFailed | ev.SubOrchestrationCancelled):
            answers[event.task_id] = event
    row = run.row
    waits = generation == row.generation and not row.status.is_finished and row.status is not Status.STALLED
    for task_id, request in requests.items():
        where = f"{named(row, generation)}: child '{request.instance_id}' (request {task_id})"
        child = by_run_id.get(request.run_id)
        answer = answers.get(task_id)
        if answer is not None:
            yield from _wrong_end(child, answer, where)
        elif waits and moment is Moment.SETTLED and (child is None or child.row.status.is_finished):
            how = "is not there" if child is None else f"ended {child.row.status.name}"
            yield f"I3: {where} {how}, and its parent was not told"


def _wrong_end(child: StoredRun | None, answer: HistoryEvent, where: str) -> Iterator[str]:
    is_refused = isinstance(answer, ev.SubOrchestrationFailed) and answer.is_refused
    if child is None or is_refused or isinstance(answer, ev.SubOrchestrationCancelled) or child.was_rewound:
        return
    row, told = child.row, type(answer).__name__
    if not row.status.is_finished:
        yield f"I6: {where} is {row.status.name}, but its parent was told {told}"
    elif isinstance(answer, ev.SubOrchestrationCompleted) is not (row.status is Status.COMPLETED):
        yield f"I6: {where} ended {row.status.name}, but its parent was told {told}"
    elif isinstance(answer, ev.SubOrchestrationCompleted) and answer.result != row.output:
        yield f"I6: {where} has another output than its parent was told"


def _lost_events(runs: Sequence[StoredRun]) -> Iterator[str]:
    """Compare events that instances sent with those that arrived, per target and name, where all of it can be read."""
    arrived: Counter[tuple[InstanceKey, str]] = Counter()
    incomplete = {run.row.key for run in runs if not run.is_complete}
    sent: Counter[tuple[InstanceKey, str]] = Counter()
    undelivered: Counter[tuple[str, str]] = Counter()
    for run in runs:
        for event in run.events():
            if isinstance(event, ev.EventRaised):
                arrived[run.row.key, event.name] += 1
            elif isinstance(event, ev.EventSent):
                sent[InstanceKey(event.instance_id, event.kind), event.name] += 1
        for _, kind, name, reason in run.dropped:
            if kind == "EventRaised":
                arrived[run.row.key, name] += 1
            elif kind == "event sent":
                undelivered[name, reason] += 1
    known = {run.row.key for run in runs}
    for (key, name), count in sent.items():
        noted = sum(n for (what, reason), n in undelivered.items() if what == name and f"instance '{key.id}'" in reason)
        lost = count - noted - arrived[key, name]
        if key in known and key not in incomplete and lost > 0:
            yield f"I7: instance '{key.id}': {lost} of {count} events '{name}' that instances sent it got lost"


# ---- between two looks, and against what clients were told


def violations_between(
    before: Sequence[StoredRun], after: Sequence[StoredRun], *, purged: Iterable[str] = ()
) -> list[str]:
    """Return what changed between two looks at a hub that may not change. `purged`: run ids that are gone on purpose."""
    later = {run.row.run_id: run for run in after}
    gone = set(purged)
    found: list[str] = []
    for run in before:
        now = later.get(run.row.run_id)
        if now is not None:
            found += _changed(run, now)
        elif run.row.run_id not in gone and run.row.key.kind == ORCHESTRATION:  # others may go by themselves
            found.append(f"I1: {named(run.row)}: it was {run.row.status.name}, and is gone")
    return found


def _changed(run: StoredRun, later: StoredRun) -> Iterator[str]:
    row, now = run.row, later.row
    if row.status.is_finished and not (now.generation > row.generation and later.was_rewound):
        for name in ("status", "output", "failure", "completed_at", "generation", "records", "chain"):
            was, is_now = getattr(row, name), getattr(now, name)
            if was != is_now:
                yield f"I8: {named(row)}: it had ended, and its {name} changed from {was!r:.80} to {is_now!r:.80}"
    if (now.generation, now.records) < (row.generation, row.records):
        yield (
            f"I1: {named(row)}: it had {row.records} records in generation {row.generation}, and has {now.records} in "
            f"generation {now.generation}"
        )
    for generation, records in run.generations.items():
        if generation in later.generations:
            kept = later.generations[generation][: len(records)]
            if [(r.index, r.checksum) for r in kept] != [(r.index, r.checksum) for r in records]:
                yield f"I8: {named(row, generation)}: records that were there have changed or are gone"


def violations_of_answers(runs: Sequence[StoredRun], answers: Answers, moment: Moment = Moment.RUNNING) -> list[str]:
    """Return which answers to clients do not hold: starts and ends that are not there, events lost or doubled."""
    by_run_id = {run.row.run_id: run for run in runs}
    found: list[str] = []
    for run_id, key in answers.started.items():
        if run_id not in by_run_id and run_id not in answers.purged:
            found.append(f"I1: instance '{key.id}', run {run_id}: its start had succeeded, and it is not there")
    for run_id, status in answers.ended.items():
        run = by_run_id.get(run_id)
        if run is None or run.row.status is status:
            continue
        if status is Status.COMPLETED or not (run.was_rewound or run_id in answers.rewound):
            found.append(f"I8: {named(run.row)}: a client saw it {status.name}, and it is {run.row.status.name}")
    others = _sent_by_instances(runs)
    for run_id, name in {*answers.raised, *answers.asked}:
        run = by_run_id.get(run_id)
        if run is None or not run.is_complete:
            continue
        accepted, asked = answers.raised[run_id, name], answers.asked[run_id, name]
        arrived = sum(isinstance(event, ev.EventRaised) and event.name == name for event in run.events())
        dropped = sum(kind == "EventRaised" and what == name for _, kind, what, _ in run.dropped)
        if moment is Moment.SETTLED and arrived + dropped < accepted:
            lost = accepted - arrived - dropped
            found.append(f"I7: {named(run.row)}: {lost} of {accepted} accepted events '{name}' got lost")
        if arrived > accepted + asked + others[run.row.key, name]:
            found.append(f"I7: {named(run.row)}: {arrived} events '{name}' arrived, {accepted} were accepted")
    return found


def _sent_by_instances(runs: Sequence[StoredRun]) -> Counter[tuple[InstanceKey, str]]:
    found: Counter[tuple[InstanceKey, str]] = Counter()
    for run in runs:
        for event in run.events():
            if isinstance(event, ev.EventSent):
                found[InstanceKey(event.instance_id, event.kind), event.name] += 1
            elif isinstance(event, ev.SubOrchestrationScheduled) and event.end_event is not None:
                found[run.row.key, event.end_event] += 1
    return found
