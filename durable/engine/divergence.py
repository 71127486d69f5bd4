"""Explaining a difference between code and history to people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable.differences import likely_cause, told
from durable.engine.loop import user_frame
from durable.events import HistoryEvent, describe_request
from durable.places import awaiting_location

if TYPE_CHECKING:
    from durable.engine.execution import Execution


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
        was += f", after {told(execution.matched)}" if execution.matched is not None else ""
    else:
        was = told(recorded)
    what = "other values" if in_values else "something else"
    return (
        f"the code of {name} asks for {what} than its history records, instance '{execution.key.id}', generation "
        f"{execution.generation}, history position {position}:\n"
        f"  recorded:  {was}\n"
        f"  asked now: {describe_request(asked)} at {here}\n"
        f"  likely cause: {likely_cause(started, execution.ports.code_digest, recorded, asked, in_values=in_values)}"
    )


def _resting_place(execution: Execution) -> str:
    code = getattr(execution.main, "code", None)
    return awaiting_location(code) if code is not None else "its end"
