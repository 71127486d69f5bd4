"""Comparing what code asks for with what was recorded, and saying why the two may differ."""

from __future__ import annotations

import sys
from collections.abc import Callable

from durable.events import HistoryEvent, OrchestrationStarted, describe_request, values


def same_values(recorded: HistoryEvent, asked: HistoryEvent, digest: Callable[[bytes], bytes]) -> bool:
    """Compare the values of two requests of the same shape; payloads by the digest of their plain form."""
    was, was_digest, was_small = values(recorded)
    now, now_digest, now_small = values(asked)
    if was_small != now_small:
        return False
    if was == now:
        return True
    if was_digest is None or now is None:
        return False
    return was_digest == (now_digest or digest(now))


def told(recorded: HistoryEvent) -> str:
    """Describe a recorded request, with the line that asked for it."""
    return f"{describe_request(recorded)} at {getattr(recorded, 'line', '') or 'line not recorded'}"


def likely_cause(
    started: OrchestrationStarted | None,
    code_digest: bytes | None,
    recorded: HistoryEvent | None,
    asked: HistoryEvent | None,
    *,
    in_values: bool,
) -> str:
    """Guess why code and history differ, and say what to do.

    `started` tells which code and which Python wrote the history, `code_digest` which code runs today.
    """
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if started is not None and started.python and started.python != running:
        return (
            f"the history was written by Python {started.python} and this is {running}, whose asyncio may wake tasks in "
            "another order; run this instance on a worker with the old version until it ends"
        )
    return f"{_guess(recorded, asked, in_values=in_values)}{_since_then(started, code_digest)}"


def _since_then(started: OrchestrationStarted | None, today: bytes | None) -> str:
    """Say whether the orchestrator's own code has changed since that was recorded, where it is known."""
    then = started.code_digest if started is not None else None
    if then is None or today is None:
        return ""
    if then == today:
        return (
            f". Its own code is as it was then (digest {today.hex()}): what it calls has changed, or what it depends on"
        )
    return f". The code has changed since: its digest was {then.hex()} when this was recorded, and is {today.hex()}"


def _guess(recorded: HistoryEvent | None, asked: HistoryEvent | None, *, in_values: bool) -> str:
    if in_values:
        return (
            "the value comes from something that changes between runs (time, random, uuid, environment, iteration over a set); "
            "take it from the context (ctx.current_utc_datetime, ctx.random, ctx.new_uuid) or from an activity"
        )
    if asked is None:
        return "a step was removed or is now behind a condition; bring the step back, or deploy the change as a new version"
    if recorded is None or not recorded.is_request:
        return "a step was added while the instance was running; deploy the change as a new version"
    return (
        "steps were changed, renamed or reordered while the instance was running: deploy the change as a new version; or they "
        "depend on what changes between runs (time, random, a global, a set): take that from the context or an activity"
    )
