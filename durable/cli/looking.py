"""`ls`, `history` and `schedules`: which instances and schedules there are, and what an instance has on record."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.text import Text

from durable.cli.exits import Exit, Refused
from durable.cli.options import filter_options, id_argument, json_option, opened, store_option, waiting
from durable.cli.texts import (
    VALUE_CHARACTERS_MAX,
    JsonList,
    age_text,
    console,
    moment_text,
    print_json,
    print_table,
    safe,
    short,
    span_text,
    status_text,
    value_text,
)
from durable.client.filters import Filters
from durable.errors import FailureDetails
from durable.events import HistoryEvent
from durable.history import History, utc_datetime
from durable.json_values import json_value
from durable.model import OrchestrationState
from durable.schedules.model import ScheduleState

LISTED_MAX: Final = 100
"""Instances that `ls` shows unless more are asked for: a screen or two."""

BATCH: Final = 500
"""Rows whose columns are aligned with each other."""

UNTOLD: Final = frozenset(
    {
        *(
            "sequence",
            "timestamp",
            "task_id",
            "call_id",
            "run_id",
            "kind",
            "line",
            "options",
            "seed",
            "writer",
            "python",
        ),
        *("digest", "state_digest", "scheduled_for", "depth", "past", "attachment", "recursive", "carry_over_events"),
    }
)
"""Of an event: what `history` has told already, or only a replay needs. `--json` has it."""

TIMES: Final = frozenset({"due", "start_at"})
"""Of an event: fields in microseconds since 1970."""


# ---- ls


@click.command("ls", short_help="List instances.")
@filter_options
@click.option(
    "--limit", type=click.IntRange(min=0), help=f"At most so many; 0: all. Default: {LISTED_MAX}, with --json all."
)
@click.option("--oldest-first", is_flag=True, help="By the time of creation, the oldest first.")
@click.option("--count", "counts", is_flag=True, help="Only say how many there are.")
@store_option
@json_option
@waiting
async def list_instances(
    filters: Filters, *, limit: int | None, oldest_first: bool, counts: bool, store: str, as_json: bool
) -> None:
    """List the instances that match all that is given, the newest first.

    \b
      durable ls --status FAILED --created-after 1d
      durable ls --name order --tag region=eu --json | jq '.[].instance_id'
    """
    async with opened(store) as client:
        if counts:
            count = await client.count(**filters)
            print_json({"count": count}) if as_json else click.echo(count)
            return
        limit = (None if as_json else LISTED_MAX) if limit is None else limit or None
        found = client.query(**filters, limit=limit, newest_first=not oldest_first)
        async with contextlib.aclosing(found):
            if as_json:
                listed = JsonList()
                async for state in found:
                    listed.add(without_activities(state))
                listed.end()
            else:
                await _print_states(found, limit)


async def _print_states(found: AsyncIterator[OrchestrationState], limit: int | None) -> None:
    screen, now, count = console(), datetime.now(UTC), 0
    batch: list[OrchestrationState] = []
    async for state in found:
        batch.append(state)
        count += 1
        if len(batch) == BATCH:
            _print_batch(screen, batch, now)
            batch.clear()
    if batch:
        _print_batch(screen, batch, now)
    if count == 0:
        click.echo("no instances match", err=True)
    elif count == limit:
        click.echo(f"({limit} shown; there may be more: --limit 0 lists all)", err=True)


def _print_batch(screen: Console, batch: list[OrchestrationState], now: datetime) -> None:
    rows = [
        [
            Text(safe(state.instance_id)),
            Text(safe(state.name)),
            status_text(state.status),
            Text(age_text(state.created_at, now)),
            Text(note(state)),
        ]
        for state in batch
    ]
    print_table(screen, ("ID", "NAME", "STATUS", "CREATED", "NOTE"), rows, shrinks=(4, 1, 0))


def note(state: OrchestrationState) -> str:
    """Return what is worth knowing at a glance: why it does not go on, else what it says of itself."""
    if state.stall_reason:
        return safe(short(state.stall_reason.partition("\n")[0], 200))
    if state.failure_details is not None:
        return safe(short(str(state.failure_details), 200))
    return "" if state.custom_status is None else value_text(state.custom_status, 200)


def without_activities(state: OrchestrationState) -> dict[str, Any]:
    """Return a state as JSON, without what only `show` looks for: an empty list there would be no answer."""
    shown: dict[str, Any] = json_value(state)
    del shown["activities"]
    return shown


# ---- history


@click.command(short_help="Print the history of an instance, or export it.")
@id_argument
@click.option(
    "--generation",
    type=click.IntRange(min=0),
    help="An earlier generation, where it is kept; default: the current one.",
)
@click.option(
    "--export",
    "export",
    metavar="FILE",
    help="Write it to a file, for `durable replay` and History.load; -: to the output.",
)
@click.option("--force", is_flag=True, help="Replace the file.")
@store_option
@json_option
@waiting
async def history(
    instance_id: str, *, generation: int | None, export: str | None, force: bool, store: str, as_json: bool
) -> None:
    """Print what an instance has on record, an event in each line, or write all of it to a file.

    \b
      durable history order-7 --export order-7.history
      durable replay order-7.history orders:app
    """
    async with opened(store) as client:
        found = await client.get(instance_id).history(generation=generation)
    if export is not None:
        _export(found, export, force=force)
        return
    if as_json:
        listed = JsonList()
        for event in found:
            listed.add(event)
        listed.end()
        return
    screen = console()
    for event in found:
        screen.print(_event_line(event), soft_wrap=True)


def _export(found: History, file: str, *, force: bool) -> None:
    data = found.export()
    if file == "-":
        sys.stdout.buffer.write(data)
        return
    try:
        with Path(file).open("wb" if force else "xb") as target:
            target.write(data)
    except FileExistsError:
        raise Refused(f"{file!r} is there already: --force replaces it", Exit.FAILED) from None
    click.echo(f"{len(found)} events written to {safe(file)}", err=True)


def _event_line(event: HistoryEvent) -> Text:
    task_id = getattr(event, "task_id", -1)
    when = "-" if event.timestamp is None else f"{event.timestamp.astimezone():%Y-%m-%d %H:%M:%S.%f}"[:-3]
    line = Text(f"{event.sequence:>5}  {when}  ", "dim", no_wrap=True)
    line.append(type(event).__name__ + (f" #{task_id}" if task_id >= 0 else ""), "not dim " + _colour_of(event))
    names = [field.name for field in dataclasses.fields(event) if field.name not in UNTOLD]
    words = (f"  {name}={_told(name, value)}" for name in names if _is_told(name, value := getattr(event, name)))
    return line.append("".join(words), "not dim")


def _is_told(name: str, value: Any) -> bool:
    """Tell whether a field says anything: what is empty does not, nor does a first attempt."""
    return not (value is None or value is False or value in ("", -1) or (name == "attempt" and value == 1))


def _told(name: str, value: Any) -> str:
    if isinstance(value, FailureDetails):
        return safe(short(str(value), VALUE_CHARACTERS_MAX))
    if name in TIMES:
        return moment_text(utc_datetime(value))
    return safe(value) if name in ("name", "instance_id", "operation", "key") else value_text(value)


_COLOURS: Final = (("Failed", "red"), ("Cancelled", "yellow"), ("Terminated", "red"), ("Completed", "green"))


def _colour_of(event: HistoryEvent) -> str:
    return next((colour for word, colour in _COLOURS if type(event).__name__.endswith(word)), "")


# ---- schedules


@click.command(short_help="List schedules and their next times.")
@store_option
@json_option
@waiting
async def schedules(*, store: str, as_json: bool) -> None:
    """List the schedules of a store: what they start, when, and what is next."""
    async with opened(store) as client:
        found = await client.schedules.list()
    if as_json:
        print_json(found)
        return
    now = datetime.now(UTC)
    rows = [
        [
            Text(safe(one.id)),
            Text(safe(one.target)),
            Text(safe(_times_of(one))),
            Text(age_text(one.next_times[0], now) if one.next_times else "-"),
            Text(f"{one.started:,}"),
            Text(_standing_of(one)),
        ]
        for one in found
    ]
    if rows:
        titles = ("ID", "STARTS", "WHEN", "NEXT", "STARTED", "NOTE")
        print_table(console(), titles, rows, shrinks=(5, 1, 0))
    else:
        click.echo("there are no schedules", err=True)


def _times_of(schedule: ScheduleState) -> str:
    if schedule.cron is not None:
        return f"{schedule.cron} {schedule.timezone}"
    if schedule.interval is not None:
        return f"every {span_text(schedule.interval)}"
    return moment_text(schedule.at)


def _standing_of(schedule: ScheduleState) -> str:
    """Return what is worth knowing of a schedule at a glance."""
    told = (
        (schedule.stall_reason is not None, f"stalled: {schedule.stall_reason}"),
        (schedule.error is not None, f"failed: {schedule.error}"),
        (schedule.is_finished, "finished"),
        (schedule.is_paused, f"paused: {schedule.note}" if schedule.note else "paused"),
        (schedule.running_count > 0, f"{schedule.running_count:,} running"),
        (schedule.missed > 0, f"{schedule.missed:,} missed"),
    )
    return safe(short(", ".join(text for holds, text in told if holds), 200))
