"""Where a simulated system stands: what each unfinished instance waits for, for the text of an error."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from durable.app import App
from durable.client.purging import rows_of
from durable.client.running import RunningActivities
from durable.client.states import open_activities, state_of
from durable.errors import DurableError
from durable.events import ORCHESTRATION
from durable.history import read_history
from durable.model import ActivityState, OrchestrationState
from durable.payloads import Sealer
from durable.provider import InstanceFilter, InstanceRow, Provider, Status
from durable.replaying import awaited

T = TypeVar("T")

SHOWN_MAX = 20
UNFINISHED = tuple(status for status in Status if not status.is_finished)


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that never has to wait, as those of the memory store."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise AssertionError("the memory store had to wait")


async def standing(provider: Provider, app: App) -> str:
    """Say of each unfinished instance in a store what its status is and what it waits for."""
    rows = await _unfinished(provider)
    if not rows:
        return "All instances have ended."
    lines = [await _line(provider, app, row) for row in rows[:SHOWN_MAX]]
    more = f"\n  … and {len(rows) - SHOWN_MAX} more" if len(rows) > SHOWN_MAX else ""
    return "Unfinished instances:" + "".join(f"\n  {line}" for line in lines) + more


async def _unfinished(provider: Provider) -> list[InstanceRow]:
    wanted = InstanceFilter(kind=None, status=UNFINISHED)
    rows = [row async for row in rows_of(provider, wanted, newest_first=False)]
    # An entity has no end: only one that stalls is worth a word.
    return [row for row in rows if row.key.kind == ORCHESTRATION or row.status is Status.STALLED]


async def _line(provider: Provider, app: App, row: InstanceRow) -> str:
    sealer = Sealer()
    activities = await open_activities(provider, RunningActivities(provider), row, sealer)
    state = state_of(row, sealer, activities=activities)
    shown = "" if state.custom_status is None else f", custom status {state.custom_status!r:.200}"
    awaited = await _awaited(provider, app, row) if row.records else []
    waits = "; ".join(_waits(state, awaited))
    return f"'{state.instance_id}' ({state.name}) is {state.status.name}{shown}" + (f": {waits}" if waits else "")


def _waits(state: OrchestrationState, awaited: list[str]) -> Iterator[str]:
    if state.stall_reason:
        yield state.stall_reason
        return
    for activity in state.activities:
        yield _of_activity(activity)
    for name in awaited:
        yield f"it waits for {name}"


def _of_activity(activity: ActivityState) -> str:
    why = activity.note or "it has begun, and does not end"
    return f"it waits for activity '{activity.name}' ({why})"


async def _awaited(provider: Provider, app: App, row: InstanceRow) -> list[str]:
    """Return what the code of an orchestration waits for, but for activities."""
    try:
        return awaited(app, await read_history(provider, row.key, row.run_id))
    except DurableError:
        return []  # its code and its history are apart, and its status says so
