"""Commands that begin and steer instances: from `start` and `raise` to `purge`.

What can be done to one can be done to many: `durable cancel ID ID …`, or by filter, where `--dry-run` says how many are meant,
and a person at a terminal is asked first.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Final

import click

from durable.cli.apps import app_of
from durable.cli.exits import Exit, Refused, exit_of
from durable.cli.options import complete_ids, filter_options, id_argument, json_option, opened, store_option, waiting
from durable.cli.texts import print_json, progress, safe, value_text
from durable.cli.values import json_of, moment_ahead, named_json, orchestrator, span, tags_of, version
from durable.client import Client, Handle
from durable.client.filters import Filters
from durable.errors import DurableError, StoreError
from durable.model import OrchestrationState, OrchestrationStatus, ReusePolicy

REUSE: Final = {policy.name.lower().replace("_", "-"): policy for policy in ReusePolicy}

FINISHED: Final = frozenset(status for status in OrchestrationStatus if status.is_finished)

text_option: Final = click.option("--text", "is_text", is_flag=True, help="It is a text as it stands, not JSON.")
reason_option: Final = click.option("--reason", default="", help="Why; it is on record.")


# ---- start and raise


@click.command(short_help="Start an orchestration.")
@click.argument("name", type=orchestrator)
@click.argument("input_json", metavar="[INPUT]", required=False)
@click.option("--input", "input_option", metavar="JSON", help="The input, where it is no argument.")
@text_option
@click.option("--id", "--instance-id", "instance_id", metavar="ID", help="The instance's id; default: a new one.")
@click.option("--at", type=moment_ahead, metavar="TIME", help="Begin at 2026-01-31T09:00, or in 10m.")
@click.option("--version", type=version, metavar="VERSION", help="This version; default: the newest.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="A tag; several times: several.")
@click.option(
    "--reuse", type=click.Choice(list(REUSE)), default="reject", help="Where the id is in use. Default: reject."
)
@click.option("--event", "events", multiple=True, metavar="NAME=JSON", help="An event delivered with the start.")
@click.option("--wait", "waits", is_flag=True, help="Wait for the end, and print the output.")
@click.option("--timeout", type=span, metavar="SPAN", help="Wait no longer than 90s, 5m, ….")
@store_option
@json_option
@waiting
async def start(name: str, **options: Any) -> None:
    """Start the orchestrator NAME, and print the id of its instance. INPUT is JSON, @FILE, or - for standard input.

    A store that is missing is made. A worker takes the instance up as soon as one runs.

    \b
      durable start greet_all '["Tokyo", "London"]' --wait
      durable start order A-7 --text --id order-7 --tag region=eu
    """
    given, option = options["input_json"], options["input_option"]
    if given is not None and option is not None:
        raise click.UsageError("the input is given twice: as an argument and as --input")
    value = json_of(option if given is None else given, "the input", is_text=options["is_text"])
    async with opened(options["store"], creates=True) as client:
        handle = await client.start(
            name,
            value,
            instance_id=options["instance_id"],
            at=options["at"],
            version=options["version"],
            tags=tags_of(options["tags"]),
            reuse_policy=REUSE[options["reuse"]],
            events=[named_json(event, "event") for event in options["events"]],
        )
        await _tell_started(handle, options["timeout"], waits=options["waits"], as_json=options["as_json"])


async def _tell_started(handle: Handle[Any], timeout: timedelta | None, *, waits: bool, as_json: bool) -> None:
    if not waits:
        if as_json:
            print_json({"instance_id": handle.instance_id, "run_id": handle.run_id})
        else:
            click.echo(safe(handle.instance_id))
        return
    state = await _end_of(handle, timeout)
    if as_json:
        print_json(state)
        if state.status is not OrchestrationStatus.COMPLETED:
            raise Refused(f"'{handle.instance_id}' has ended {state.status}", Exit.NOT_COMPLETED)
    else:
        click.echo(value_text(await handle.result(), None))


async def _end_of(handle: Handle[Any], timeout: timedelta | None) -> OrchestrationState:
    """Wait for the end, and tell how it goes meanwhile."""
    with progress(f"{handle.instance_id}: started") as tell:

        async def follow() -> None:
            async for state in handle.watch():
                custom = "" if state.custom_status is None else f" {value_text(state.custom_status)}"
                tell(f"{state.instance_id}: {state.status}{custom}")

        following = asyncio.create_task(follow())
        try:
            return await handle.wait(timeout)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


@click.command("raise", short_help="Send an external event to an instance.")
@id_argument
@click.argument("name")
@click.argument("data_json", metavar="[DATA]", required=False)
@click.option("--data", "data_option", metavar="JSON", help="The data, where they are no argument.")
@text_option
@store_option
@json_option
@waiting
async def raise_event(
    instance_id: str,
    name: str,
    data_json: str | None,
    *,
    data_option: str | None,
    is_text: bool,
    store: str,
    as_json: bool,
) -> None:
    """Send the event NAME to an instance; it is durable when the command returns. DATA is JSON, @FILE, or -.

    \b
      durable raise order-7 approved true
    """
    if data_json is not None and data_option is not None:
        raise click.UsageError("the data are given twice: as an argument and as --data")
    data = json_of(data_option if data_json is None else data_json, "the data", is_text=is_text)
    async with opened(store) as client:
        await client.get(instance_id).raise_event(name, data)
    if as_json:
        print_json({"instance_id": instance_id, "event": name})
    else:
        click.echo(f"event {safe(name)} sent to {safe(instance_id)}")


# ---- query and update

argument_argument: Final = click.argument("argument", metavar="[ARG]", required=False)


@click.command(short_help="Ask a running orchestration something.")
@id_argument
@click.argument("name")
@argument_argument
@text_option
@click.option("--app", metavar="MODULE:APP", help="Its code: then one that has ended can be asked too.")
@store_option
@json_option
@waiting
async def query(
    instance_id: str, name: str, argument: str | None, *, is_text: bool, app: str | None, store: str, as_json: bool
) -> None:
    """Ask a query that the orchestration has registered, and print the answer as JSON. It leaves no trace. ARG is as INPUT."""
    value = json_of(argument, "the argument", is_text=is_text)
    async with opened(store, None if app is None else app_of(app)) as client:
        _tell_answer(await client.get(instance_id).query(name, value), as_json=as_json)


@click.command(short_help="Change a running orchestration, and print its answer.")
@id_argument
@click.argument("name")
@argument_argument
@text_option
@click.option("--timeout", type=span, metavar="SPAN", help="Wait no longer for the answer than 90s, 5m, ….")
@store_option
@json_option
@waiting
async def update(
    instance_id: str,
    name: str,
    argument: str | None,
    *,
    is_text: bool,
    timeout: timedelta | None,
    store: str,
    as_json: bool,
) -> None:
    """Have an update carried out that the orchestration has registered, and print the answer as JSON. ARG is as INPUT.

    What its validator refuses is an error, and leaves no trace.
    """
    value = json_of(argument, "the argument", is_text=is_text)
    async with opened(store) as client:
        with progress(f"{instance_id}: {name}"):
            answer = await client.get(instance_id).update(name, value, timeout=timeout)
    _tell_answer(answer, as_json=as_json)


def _tell_answer(answer: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        click.echo(value_text(answer, None))


# ---- one or many


@dataclasses.dataclass(frozen=True, slots=True)
class Verb:
    """A command that does the same to one instance or to many. `done` is said of an instance; `help` of the command.

    `one` does it to one, and returns how many it was done to where that may differ; `many` does it by filter, and returns how
    many are meant in a dry run, or were.
    """

    name: str
    done: str
    short_help: str
    help: str
    one: Callable[[Handle[Any], dict[str, Any]], Awaitable[int | None]]
    many: Callable[[Client, bool, Filters, dict[str, Any]], Awaitable[int]]
    options: Sequence[Callable[[Any], Any]] = (reason_option,)


def _command_of(verb: Verb) -> click.Command:
    """Return the command of a verb."""

    @filter_options
    @waiting
    async def run(filters: Filters, /, *, instance_ids: Sequence[str], **options: Any) -> None:
        dry_run, store, as_json = options.pop("dry_run"), options.pop("store"), options.pop("as_json")
        says_yes = options.pop("says_yes")
        if bool(instance_ids) == bool(filters):
            raise click.UsageError("give the ids of instances, or filters such as --status: one of the two")
        if instance_ids and dry_run:
            raise click.UsageError("--dry-run goes with filters: it says how many they mean")
        async with opened(store) as client:
            if instance_ids:
                await _do_each(verb, client, instance_ids, options, as_json=as_json)
                return
            count = await verb.many(client, True, filters, options)
            if not dry_run:
                _ask(verb, count, says_yes=says_yes or as_json)
                with progress(f"{verb.name}: {_instances(count)}"):
                    count = await verb.many(client, False, filters, options)
        if as_json:
            print_json({"command": verb.name, "count": count, "dry_run": dry_run})
        else:
            click.echo(f"{_instances(count)}: {'would be ' * dry_run}{verb.done}")

    decorators = (
        click.argument("instance_ids", metavar="[ID]...", nargs=-1, shell_complete=complete_ids),
        *verb.options,
        click.option("--dry-run", is_flag=True, help="Only say how many instances the filters mean."),
        click.option("--yes", "-y", "says_yes", is_flag=True, help="Do not ask first."),
        store_option,
        json_option,
    )
    function: Any = run
    for decorate in reversed(decorators):
        function = decorate(function)
    made: click.Command = click.command(verb.name, short_help=verb.short_help, help=verb.help)(function)
    return made


async def _do_each(
    verb: Verb, client: Client, instance_ids: Sequence[str], options: dict[str, Any], *, as_json: bool
) -> None:
    """Do it to each, also behind one to which it cannot be done; then raise what was wrong with the first of those."""
    count, done_to, errors = 0, [], []
    for instance_id in instance_ids:
        try:
            done = await verb.one(client.get(instance_id), options)
        except StoreError:
            raise
        except DurableError as error:
            errors.append(error)
            continue
        count += 1 if done is None else done
        done_to.append(instance_id)
        if not as_json:
            click.echo(f"{safe(instance_id)}: {verb.done}")
    if as_json:
        print_json({"command": verb.name, "count": count, "dry_run": False, "instance_ids": done_to})
    if errors:
        raise Refused("; ".join(map(str, errors)), exit_of(errors[0]))


def _instances(count: int) -> str:
    return f"{count:,} {'instance' if count == 1 else 'instances'}"


def _ask(verb: Verb, count: int, *, says_yes: bool) -> None:
    """Ask whoever sits at a terminal; a script has said what it wants."""
    if says_yes or count == 0 or not is_asked():
        return
    if not click.confirm(f"{_instances(count)} will be {verb.done}. Go on?", err=True):
        raise Refused("nothing was done")


def is_asked() -> bool:
    """Tell whether somebody is there who can answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _each(method: str) -> Callable[[Handle[Any], dict[str, Any]], Awaitable[None]]:
    async def one(handle: Handle[Any], options: dict[str, Any]) -> None:
        await getattr(handle, method)(**options)

    return one


def _by_filter(method: str) -> Callable[[Client, bool, Filters, dict[str, Any]], Awaitable[int]]:
    async def many(client: Client, dry_run: bool, filters: Filters, options: dict[str, Any]) -> int:
        count: int = await getattr(client, method)(dry_run=dry_run, **filters, **options)
        return count

    return many


async def _purge_one(handle: Handle[Any], options: dict[str, Any]) -> int:
    return await handle.purge(**options)


async def _purge_many(client: Client, dry_run: bool, filters: Filters, options: dict[str, Any]) -> int:
    if not dry_run:
        return await client.purge(**filters)
    given = filters.get("status")
    wanted = FINISHED if given is None else FINISHED & set(given)
    return await client.count(**Filters({**filters, "status": wanted}))


recursive_option: Final = click.option(
    "--recursive/--no-recursive", default=True, help="With the children and theirs. Default: yes."
)

VERBS: Final = (
    Verb(
        "cancel",
        "asked to cancel",
        "Ask instances to cancel.",
        "Ask instances to cancel: their code is told where it waits, and may clean up. By id, or by filter.\n\n"
        "\b\n  durable cancel order-7 --reason 'out of stock'\n  durable cancel --name order --created-before 30d --dry-run",
        _each("cancel"),
        _by_filter("cancel"),
    ),
    Verb(
        "terminate",
        "terminated",
        "End instances by force.",
        "End instances by force: none of their code runs any more. By id, or by filter.",
        _each("terminate"),
        _by_filter("terminate"),
        (reason_option, recursive_option),
    ),
    Verb(
        "suspend",
        "suspended",
        "Hold instances until they are resumed.",
        "Hold instances: what comes for them is recorded, and waits for the resume. By id, or by filter.",
        _each("suspend"),
        _by_filter("suspend"),
    ),
    Verb(
        "resume",
        "resumed",
        "Let suspended instances go on.",
        "Let suspended instances go on. By id, or by filter.",
        _each("resume"),
        _by_filter("resume"),
    ),
    Verb(
        "rewind",
        "rewound",
        "Run what has failed again.",
        "Let instances go on from where they failed: what had succeeded is kept, what failed runs again. "
        "By id, or by filter.\n\n"
        "\b\n  durable rewind --status FAILED --name order --created-after 1d",
        _each("rewind"),
        _by_filter("rewind"),
    ),
    Verb(
        "purge",
        "purged",
        "Remove finished instances and their histories.",
        "Remove finished instances with their histories. By id, or by filter.\n\n"
        "\b\n  durable purge --status COMPLETED --created-before 90d --dry-run",
        _purge_one,
        _purge_many,
        (recursive_option,),
    ),
)

STEERING: Final = tuple(map(_command_of, VERBS))


# ---- beginning again under another id


@click.command(short_help="Start an orchestration once more with the same input.")
@id_argument
@click.option(
    "--new-id", metavar="ID", help="Under this id, beside the old one; default: in its place, once it has ended."
)
@click.option("--version", type=version, metavar="VERSION", help="In this version; default: the newest.")
@store_option
@json_option
@waiting
async def restart(instance_id: str, *, new_id: str | None, version: str | None, store: str, as_json: bool) -> None:
    """Start the orchestration of an instance once more, with the same input and tags; print the id."""
    async with opened(store) as client:
        handle = await client.get(instance_id).restart(new_id=new_id, version=version)
        await _tell_started(handle, None, waits=False, as_json=as_json)


@click.command(short_help="Start a new instance from the first events of another one's history.")
@id_argument
@click.option(
    "--at", required=True, type=click.IntRange(min=0), metavar="SEQUENCE", help="The first event that is left out."
)
@click.option("--new-id", metavar="ID", help="The id of the new instance; default: a new one.")
@store_option
@json_option
@waiting
async def fork(instance_id: str, *, at: int, new_id: str | None, store: str, as_json: bool) -> None:
    """Start an instance that has the first events of another one behind it, and goes on from there; print its id."""
    async with opened(store) as client:
        handle = await client.get(instance_id).fork(at=at, new_id=new_id)
        await _tell_started(handle, None, waits=False, as_json=as_json)
