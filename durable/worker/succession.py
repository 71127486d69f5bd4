"""One run takes the place of another under the same id: which arrivals are meant for which of them.

Rules.
 1. An arrival that names its run is for that run, and for no other.
 2. Of two runs, one that names none is for the first if it was stored before the start of the second, else for the second.
 3. The end of the first run, however it comes about, leaves alone what is for the second.

A start goes ahead of other messages, so that older ones may be received after it; and where the first run ends by itself
meanwhile, the start is stored once more, behind what came after it. So the row of the second run notes where the first one's
arrivals end: for the owner, and for the next one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from durable import events as ev
from durable.provider import InstanceRow, StoredMessage
from durable.worker.live import LiveInstance, OwnerState, Pending

_ATTEMPT_ENDS = (ev.ActivityCompleted, ev.ActivityFailed, ev.ActivityCancelled)


def is_stale(pending: Pending, row: InstanceRow) -> bool:
    """Tell whether an arrival was meant for an earlier run or generation."""
    if pending.run_id is not None and pending.run_id != row.run_id:
        return True
    return pending.generation is not None and pending.generation != row.generation


def replaces(pending: Pending, row: InstanceRow) -> bool:
    """Tell whether an arrival brings a run that takes the place of the row's (a start onto an unfinished instance)."""
    message = pending.message
    return (
        message is not None
        and pending.is_control
        and message.start is not None
        and message.start.run_id != row.run_id
        and isinstance(pending.event, ev.OrchestrationStarted)
    )


def next_start(taken: Iterable[Pending], row: InstanceRow) -> StoredMessage | None:
    """Return the message with the run that takes the place of the row's first, if there is one among the arrivals."""
    starts = [item.message for item in taken if replaces(item, row) and item.message is not None]
    return min(starts, key=lambda message: message.sequence, default=None)


def parted(
    taken: Iterable[Pending], row: InstanceRow, start: StoredMessage | None
) -> tuple[list[Pending], list[Pending]]:
    """Part arrivals into those for the row's run, and those for the run of `start` and later ones; None: there is none."""
    own: list[Pending] = []
    later: list[Pending] = []
    for item in taken:
        message = item.message
        is_own = start is None or message is None or message.sequence < start.sequence or item.run_id == row.run_id
        (own if is_own else later).append(item)
    return own, later


def successor_row(start: StoredMessage, row: InstanceRow) -> InstanceRow:
    """Return the row of the run that `start` brings, with a note of where the arrivals for that of `row` end."""
    assert start.start is not None
    state = OwnerState(former=(start.sequence, row.run_id))
    return dataclasses.replace(start.start, state=state.encode())


def is_waiting_for_its_start(row: InstanceRow) -> bool:
    """Tell whether the store keeps back what comes for a run until it is due (a stalled one waits for its next try)."""
    return row.parked_until > 0 and row.stall_reason is None and row.open_work == 0


def lacks_its_start(live: LiveInstance, row: InstanceRow) -> bool:
    """Tell whether a run or generation that has not begun is steered before its start, which nobody has read yet.

    A start that takes over what an older generation has done must be the first that is taken.
    """
    if row.records or row.status.is_finished or live.direct is not None or is_waiting_for_its_start(row):
        return False
    return bool(live.control) and not live.has_start(row.run_id) and live.looked_for != (row.run_id, row.generation)


def name_former_run(live: LiveInstance, row: InstanceRow, former_run_id: str = "") -> None:
    """Write the former run on the arrivals that are for it without saying so."""
    boundary = 0
    if live.state.former is not None:
        boundary, former_run_id = live.state.former
    else:
        starts = (item.message for item in live.normal if item.starts(row.run_id))
        boundary = min((message.sequence for message in starts if message is not None), default=0)
    for item in live.waiting:
        message = item.message
        # What comes with a start is for the run that it brings, whichever it takes the place of.
        if item.run_id is None and message is not None and message.start is None and message.sequence < boundary:
            item.run_id = former_run_id


def is_taken_over(live: LiveInstance, pending: Pending, row: InstanceRow) -> bool:
    """Tell whether an answer is for what an older generation of this run had asked for, and this one has taken over.

    Not of an activity: that is asked for once more, and what a former attempt says late is no answer to it.
    """
    event = pending.event
    is_of_run = pending.run_id in (None, row.run_id) and pending.generation is not None
    if not is_of_run or not isinstance(event, ev.Answer) or isinstance(event, _ATTEMPT_ENDS) or live.execution is None:
        return False
    return live.execution.has_inherited(pending.generation or 0, event.task_id)
