"""`show` and `watch`: where an instance stands, its timeline, and what it waits for."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from durable.app import App
from durable.cli.apps import app_of
from durable.cli.drawing import AN_EVENT, ASCII, ROWS_MAX, UNICODE, drawn_lines, waits
from durable.cli.looking import note, without_activities
from durable.cli.options import id_argument, json_option, opened, store_option, waiting
from durable.cli.texts import (
    age_text,
    console,
    is_plain_ascii,
    moment_text,
    print_json,
    safe,
    safe_lines,
    span_text,
    status_text,
    value_text,
)
from durable.client import Client, Handle
from durable.errors import DurableError, FailureDetails
from durable.jobs.model import JobNode
from durable.jobs.wire import TREE
from durable.json_values import json_value
from durable.model import DroppedItem, OrchestrationState, OrchestrationStatus
from durable.replaying import awaited
from durable.timeline import RowKind, Timeline, timeline

EVENT_TASK: Final = "event '"
"""How the name of a task begins that waits for an external event."""

LOOK_SECONDS: Final = 1.0
"""How often `watch` looks at the history of an instance whose status does not change."""

FIELD_COLUMNS: Final = 10

WATCHED_ROWS_MAX: Final = 12
"""Rows that `watch` redraws: with all around them they fit on a screen of 24 lines."""

DROPPED_SHOWN_MAX: Final = 10


# ---- show


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """An instance as it was at one moment. `drawn` is None where `unreadable` says why there is none.

    `events`: those that its code waits for, where that was asked. `jobs`: of a job tree, its root.
    """

    state: OrchestrationState
    drawn: Timeline | None
    dropped: list[DroppedItem]
    unreadable: str = ""
    events: tuple[str, ...] = ()
    jobs: JobNode | None = None


async def look_at(client: Client, instance_id: str, app: App | None = None) -> Look:
    """Read all that `show` shows; with its app, also what only the code knows. What is damaged does not hide the rest."""
    handle = client.get(instance_id)
    state = await handle.state()
    drawn, unreadable, jobs = None, "", None
    events: tuple[str, ...] = ()
    try:
        history = await handle.history()
        drawn = timeline(history)
        if app is not None and not state.status.is_finished and drawn.outcome is None:
            events = tuple(name for name in awaited(app, history) if name.startswith(EVENT_TASK))
        if state.name == TREE:
            jobs = await client.get_job(instance_id).tree()
    except DurableError as error:
        unreadable = str(error)
    return Look(state, drawn, await handle.dropped(), unreadable, events, jobs)


@click.command(short_help="Draw what an instance has done, and what it waits for.")
@id_argument
@click.option(
    "--rows", "rows_max", type=click.IntRange(min=0), default=ROWS_MAX, show_default=True, help="Rows to draw; 0: all."
)
@click.option("--app", metavar="MODULE:APP", help="Its code: it knows the names of the events that it waits for.")
@store_option
@json_option
@waiting
async def show(instance_id: str, *, rows_max: int, app: str | None, store: str, as_json: bool) -> None:
    """Show an instance: where it stands, its timeline, and what it waits for now.

    A bar in the timeline is to scale: solid where an attempt ran, light between two attempts; a diamond is a moment, an arrow
    what goes on. Times are those of the history: when something was asked for, and when its outcome was recorded.
    """
    async with opened(store) as client:
        look = await look_at(client, instance_id, None if app is None else app_of(app))
    if as_json:
        print_json(_look_json(look))
        return
    screen = console()
    for line in look_lines(look, datetime.now(UTC), screen, rows_max):
        screen.print(line, soft_wrap=True)


def _look_json(look: Look) -> dict[str, Any]:
    shown: dict[str, Any] = json_value(look.state)
    now = datetime.now(UTC)
    shown["waits_for"] = list(_waits_for(look, now))
    shown["timeline"] = json_value(look.drawn) if look.drawn is not None else None
    shown["dropped"] = json_value(look.dropped)
    if look.unreadable:
        shown["unreadable"] = look.unreadable
    if look.jobs is not None:  # a flat list: a tree may be deeper than whatever reads it
        shown["jobs"] = [json_value(dataclasses.replace(job, children=())) for job in look.jobs.walk()]
    return shown


def look_lines(look: Look, now: datetime, screen: Console, rows_max: int) -> Iterator[Text]:
    """Yield what is shown of an instance, line by line, for a screen of that width."""
    state = look.state
    columns = min(screen.width, 80) if not screen.is_terminal else screen.width
    yield _title(state, now)
    yield from _fields(state, now)
    if look.drawn is not None and look.drawn.rows:
        yield Text()
        signs = ASCII if is_plain_ascii(screen) else UNICODE
        yield from drawn_lines(look.drawn, now, columns, rows_max=rows_max, signs=signs)
    if look.jobs is not None:
        yield Text()
        yield from (Text(safe(line)) for line in str(look.jobs).split("\n"))
    if look.unreadable:
        yield Text()
        yield Text(f"no timeline: {safe(look.unreadable)}", "red")
    waiting_for = list(_waits_for(look, now))
    if waiting_for:
        yield Text()
        yield Text("waits for", "bold")
        yield from (Text(f"  {line}") for line in waiting_for)
    yield from _failure_lines(state.failure_details)
    if look.dropped:
        yield Text()
        yield Text("dropped", "bold")
        for item in look.dropped[-DROPPED_SHOWN_MAX:]:
            yield Text(f"  {moment_text(item.timestamp)}  {safe(item.kind)} {safe(item.name)}: {safe(item.reason)}")


def _title(state: OrchestrationState, now: datetime) -> Text:
    line = Text(safe(state.instance_id), "bold")
    version = f" {state.version}" if state.version is not None else ""
    line.append(f"  {safe(state.name)}{safe(version)}  ", "not bold")
    line.append_text(status_text(state.status))
    if state.completed_at is not None:
        line.append(f" after {span_text(state.completed_at - state.created_at)}", "not bold")
    elif state.scheduled_at > now:
        line.append(f", begins {age_text(state.scheduled_at, now)}", "not bold")
    else:
        line.append(f" for {span_text(now - state.created_at)}", "not bold")
    return line


def _fields(state: OrchestrationState, now: datetime) -> Iterator[Text]:
    tags = ", ".join(f"{key}={value}" for key, value in state.tags.items())
    told = (
        ("created", f"{moment_text(state.created_at)} ({age_text(state.created_at, now)})"),
        ("begins", moment_text(state.scheduled_at) if state.scheduled_at > now else ""),
        ("ended", moment_text(state.completed_at) if state.completed_at is not None else ""),
        ("parent", safe(state.parent_instance_id or "")),
        ("generation", str(state.generation) if state.generation else ""),
        ("tags", safe(tags)),
        ("input", "" if state.input is None else value_text(state.input)),
        ("custom", "" if state.custom_status is None else value_text(state.custom_status)),
        ("output", "" if state.output is None else value_text(state.output)),
        ("stalled", safe_lines(state.stall_reason or "").replace("\n", "\n" + " " * (FIELD_COLUMNS + 4))),
    )
    for name, value in told:
        if value:
            yield Text(f"  {name.ljust(FIELD_COLUMNS)}  ", "dim").append(value, "not dim")


def _waits_for(look: Look, now: datetime) -> Iterator[str]:
    """Say what an unfinished instance waits for: what is open, else what only its code knows."""
    state, drawn = look.state, look.drawn
    if state.status.is_finished or drawn is None:
        return
    if state.status is OrchestrationStatus.PENDING:
        yield (
            f"its time, {age_text(state.scheduled_at, now)}" if state.scheduled_at > now else "a worker that begins it"
        )
        return
    if state.status is OrchestrationStatus.STALLED:
        yield "what it has stalled for, see above; it is tried again by itself, and then waits for"
    notes = {activity.task_id: activity for activity in state.activities}
    limited = [row for row in drawn.open_rows if row.kind is RowKind.WAIT]
    lines = list(waits(drawn, now))
    for row, line in zip(drawn.open_rows, lines, strict=True):
        if row.kind is RowKind.WAIT and len(look.events) == len(limited) == 1:
            yield line.replace(AN_EVENT, safe(look.events[0]), 1)
            continue
        activity = notes.get(row.attempts[-1].task_id) if row.attempts else None
        more = "" if activity is None else safe(activity.note)
        if activity is not None and activity.heartbeat is not None:
            more = f"{more}; " if more else ""
            more += f"heartbeat {value_text(activity.heartbeat, 60)}"
        yield f"{line}; {more}" if more else line
    if not len(look.events) == len(limited) == 1:
        yield from map(safe, look.events)
    if not (lines or look.events) and state.status is not OrchestrationStatus.STALLED:
        yield f"{AN_EVENT}, or whatever else leaves no record before it comes"


def _failure_lines(details: FailureDetails | None) -> Iterator[Text]:
    if details is None:
        return
    yield Text()
    yield Text(safe(str(details)), "red")
    for line in details.stack_trace.rstrip().split("\n") if details.stack_trace else ():
        yield Text(f"  {safe(line)}", "dim")
    inner = details.inner
    while inner is not None:
        yield Text(f"caused by {safe(str(inner))}", "red")
        inner = inner.inner


# ---- watch


@click.command(short_help="Follow an instance until it ends.")
@id_argument
@store_option
@json_option
@waiting
async def watch(instance_id: str, *, store: str, as_json: bool) -> None:
    """Follow an instance live until it ends; Ctrl-C leaves it alone.

    In a terminal its timeline is drawn anew as it goes on. In a pipe there is a line for each change of its status or custom
    status, and with --json that line is the state as JSON.
    """
    async with opened(store) as client:
        screen = console()
        if screen.is_terminal and not as_json:
            await _watch_on(screen, client, instance_id)
            return
        async with contextlib.aclosing(client.get(instance_id).watch()) as states:
            async for state in states:
                if as_json:
                    print_json(without_activities(state))
                else:
                    click.echo(f"{moment_text(datetime.now(UTC))}  {state.status}  {note(state)}".rstrip())


async def _watch_on(screen: Console, client: Client, instance_id: str) -> None:
    look = await look_at(client, instance_id)
    with Live(console=screen, auto_refresh=False, transient=True, vertical_overflow="crop") as live:
        while True:
            lines = look_lines(look, datetime.now(UTC), screen, WATCHED_ROWS_MAX)
            live.update(Group(*(line for line in lines)), refresh=True)
            if look.state.status.is_finished:
                break
            await _change_of(client.get(instance_id))
            look = await look_at(client, instance_id)
    for line in look_lines(look, datetime.now(UTC), screen, ROWS_MAX):
        screen.print(line, soft_wrap=True)


async def _change_of(handle: Handle[Any]) -> None:
    """Wait for the end, and no longer than a moment: the history may have grown."""
    try:
        await handle.wait(timeout=LOOK_SECONDS)
    except TimeoutError:
        pass
