"""Comparing what the code asks for with what was recorded, and explaining a difference to people."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from durable.engine.loop import awaiting_location, user_frame
from durable.events import HistoryEvent, describe_request, values

if TYPE_CHECKING:
    from durable.engine.execution import Execution


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


def explain(
    execution: Execution, recorded: HistoryEvent | None, asked: HistoryEvent | None, position: int, *, in_values: bool
) -> str:
    """Say where the code diverged, what was recorded, what is asked now, both source lines and the likely cause."""
    started = execution.started
    version = f" version {started.version}" if started and started.version not in (None, "0") else ""
    name = f"'{started.name}'{version}" if started else "the orchestrator"
    frame = user_frame(2)
    here = f"the code came to rest at {_resting_place(execution)}"
    if asked is not None and frame is not None:
        here = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    if recorded is None or not recorded.is_request:
        was = (
            "nothing more in this turn" if recorded is None else f"nothing here; next arrived {type(recorded).__name__}"
        )
        was += f", after {_told(execution.matched)}" if execution.matched is not None else ""
    else:
        was = _told(recorded)
    what = "other values" if in_values else "something else"
    return (
        f"the code of {name} asks for {what} than its history records, instance '{execution.key.id}', generation "
        f"{execution.generation}, history position {position}:\n"
        f"  recorded:  {was}\n"
        f"  asked now: {describe_request(asked)} at {here}\n"
        f"  likely cause: {_cause(execution, recorded, asked, in_values=in_values)}"
    )


def _told(recorded: HistoryEvent) -> str:
    return f"{describe_request(recorded)} at {getattr(recorded, 'line', '') or 'line not recorded'}"


def _resting_place(execution: Execution) -> str:
    code = getattr(execution.main, "code", None)
    return awaiting_location(code) if code is not None else "its end"


def _cause(execution: Execution, recorded: HistoryEvent | None, asked: HistoryEvent | None, *, in_values: bool) -> str:
    started = execution.started
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if started is not None and started.python and started.python != running:
        return (
            f"the history was written by Python {started.python} and this is {running}, whose asyncio may wake tasks in "
            "another order; run this instance on a worker with the old version until it ends"
        )
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
