"""Commands that check: `replay`, `doctor`, `confirm-clock`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from durable.app import App
from durable.cli.apps import app_of
from durable.cli.exits import Exit, Refused
from durable.cli.options import json_option, opened, opened_provider, store_option, waiting
from durable.cli.texts import print_json, progress, safe, safe_lines, span_text
from durable.errors import DivergenceError, DurableError, StoredValueError, UnknownNameError
from durable.history import History
from durable.invariants import Moment, Waits, examine, examine_waiting
from durable.model import OrchestrationStatus
from durable.replaying import replay as replay_history

SHOWN_STALLS_MAX: Final = 20
FOUND_MAX: Final = 1000
"""So many findings, and stalled instances, are told of; what is broken in more ways is broken."""

_DIFFERENCES: Final = (DivergenceError, StoredValueError, UnknownNameError)
"""What a replay finds wrong with today's code, rather than with the history or the command."""


# ---- replay


@click.command(short_help="Replay recorded histories on today's code.")
@click.argument("sources", metavar="FILE|ID...", nargs=-1, required=True)
@click.argument("app", metavar="MODULE:APP")
@click.option("--strict/--no-strict", default=True, help="Also compare values, not only requests. Default: strict.")
@click.option("--store", metavar="URL", envvar="DURABLE_STORE", help="Where ids are looked up. Default: DURABLE_STORE.")
@json_option
def replay(sources: Sequence[str], app: str, *, strict: bool, store: str | None, as_json: bool) -> None:
    """Replay histories on the code of today, and explain the first difference of each.

    What is no file is the id of an instance in the store. No activity runs, and nothing is stored. So a deployment can be
    checked before it is made:

    \b
      durable history order-7 --export order-7.history
      durable replay order-7.history orders:app
    """
    found = app_of(app)
    results: list[dict[str, Any]] = []
    for source in sources:
        history = _history_of(source, store)
        error = _difference(found, history, strict=strict)
        result = {
            "source": source,
            "instance_id": history.instance_id,
            "events": len(history),
            "replays": error is None,
        }
        if error is not None:
            result |= {"error": type(error).__name__, "message": str(error)}
        results.append(result)
        if not as_json:
            _tell(source, history, error)
    if as_json:
        print_json(results)
    differing = [result["source"] for result in results if not result["replays"]]
    if differing:
        raise Refused(f"{len(differing)} of {len(results)} do not replay: {', '.join(differing)}")


def _history_of(source: str, store: str | None) -> History:
    path = Path(source)
    if path.is_file():
        try:
            return History.load(path.read_bytes())
        except OSError as error:
            raise Refused(f"{source!r} cannot be read: {error}") from error
    if not store:
        raise click.UsageError(f"{source!r} is no file, and without --store or DURABLE_STORE there are no ids")
    return asyncio.run(_stored_history(source, store))


async def _stored_history(instance_id: str, store: str) -> History:
    async with opened(store) as client:
        return await client.get(instance_id).history()


def _difference(app: App, history: History, *, strict: bool) -> DurableError | None:
    try:
        replay_history(app, history, strict=strict)
    except _DIFFERENCES as error:
        return error
    return None


def _tell(source: str, history: History, error: DurableError | None) -> None:
    if error is None:
        click.echo(f"{safe(source)}: replays ({len(history)} events of '{safe(history.instance_id)}')")
    else:
        click.echo(f"{safe(source)}: does not replay\n{safe_lines(str(error))}")


# ---- doctor


@click.command(short_help="Check a store, and say what is wrong with it.")
@click.option("--still", "is_still", is_flag=True, help="No worker runs: compare instances with each other, too.")
@store_option
@json_option
@waiting
async def doctor(*, is_still: bool, store: str, as_json: bool) -> None:
    """Read a whole store and check it: checksums, the order of events, what rows and histories say of each other, parents and
    children, what nothing waits for. Each finding names the promise that is broken (I1 to I14). Instances that stall are
    listed, but break no promise.

    Workers may go on meanwhile. With --still, when none does, instances are compared with each other, and the inboxes and the
    activity queue are looked at. Histories are read one after the other: a large store takes time, and little memory.
    """
    async with opened_provider(store) as provider:
        with progress("reading the store"):
            waits = await examine_waiting(provider) if is_still else Waits()
            found, count = waits.violations[:FOUND_MAX], len(waits.violations)
            async for text in examine(provider, Moment.STILL if is_still else Moment.RUNNING):
                count += 1
                if len(found) < FOUND_MAX:
                    found.append(text)
    async with opened(store) as client:
        counts = {status.value: await client.count(status=status) for status in OrchestrationStatus}
        stalled = [
            {"instance_id": state.instance_id, "stall_reason": state.stall_reason}
            async for state in client.query(status=OrchestrationStatus.STALLED, payloads=False, limit=FOUND_MAX)
        ]
    if as_json:
        waiting_now = {"messages": waits.messages, "activities": waits.attempts} if is_still else None
        print_json(
            {
                "violations": found,
                "violation_count": count,
                "stalled": stalled,
                "instances": counts,
                "waiting": waiting_now,
            }
        )
    else:
        told = ", ".join(f"{count:,} {status}" for status, count in counts.items() if count)
        click.echo(f"instances: {told or 'none'}")
        for state in stalled[:SHOWN_STALLS_MAX]:
            reason = str(state["stall_reason"]).partition("\n")[0]
            click.echo(f"stalled: {safe(str(state['instance_id']))}: {safe(reason)}")
        more = counts[OrchestrationStatus.STALLED.value] - SHOWN_STALLS_MAX
        if more > 0:
            click.echo(f"stalled: {more:,} more (durable ls --status STALLED)")
        if is_still:
            click.echo(f"waiting: {waits.messages:,} messages in inboxes, {waits.attempts:,} activities in the queue")
        for text in found:
            click.echo(f"broken: {safe(text)}")
        if count > len(found):
            click.echo(f"broken: {count - len(found):,} more")
    if found:
        raise Refused(f"{count} promises are broken: keep the store as it is, and a copy of it", Exit.FAILED)
    if not as_json:
        click.echo("no promise is broken")


# ---- the clock


@click.command("confirm-clock", short_help="Say that the store's clock is right as it is.")
@store_option
@json_option
@waiting
async def confirm_clock(*, store: str, as_json: bool) -> None:
    """Say that the store's clock is right as it is, after an alarm that it had jumped.

    After a jump by over an hour, timers and leases go on by monotonic time, for it may have been a mistake. This ends that:
    what is due by the new time is due at once.
    """
    async with opened(store) as client:
        moved = await client.confirm_clock()
    if as_json:
        print_json({"moved_seconds": moved})
    elif moved:
        click.echo(f"the clock is confirmed: time has moved by {span_text(moved)}")
    else:
        click.echo("there was nothing to confirm: the store's clock is trusted")
