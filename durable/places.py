"""Where in the user's code something is: the frames of a coroutine, a traceback or a stack that are not this package's.

Nothing here decides anything: errors, logs and the notes beside requests name these places.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Generator
from types import CodeType
from typing import Any, Final

from durable.errors import DurableError, NonDurableAwaitError

UNKNOWN: Final = "unknown place"
FOREIGN: Final = "a future, lock or queue of another event loop"
OF_ANOTHER: Final = "a task of another orchestration"

_OWN_CODE: Final = (__file__.rpartition("places")[0], asyncio.__file__.rpartition("__init__")[0], contextlib.__file__)

_MINDS_THE_LOOP: Final = {
    asyncio.ensure_future.__code__,
    getattr(asyncio.tasks, "_ensure_future", asyncio.ensure_future).__code__,  # of Python 3.11, behind the public one
    asyncio.Event._get_loop.__code__,  # type: ignore[attr-defined]
}
"""What in asyncio raises when it is given something of another event loop."""


class _OwnFiles(dict[str, bool]):
    """By file, whether it belongs to this package or to asyncio, not to the user."""

    def __missing__(self, filename: str) -> bool:
        found = self[filename] = filename.startswith(_OWN_CODE)
        return found


own_files: Final = _OwnFiles()


@functools.cache
def folder_and_file(path: str) -> str:
    """Return the last two parts of a path, as requests note them."""
    return "/".join(path.replace("\\", "/").rsplit("/", 2)[-2:])


def is_own_code(code: CodeType) -> bool:
    """Tell whether a code object belongs to this package or to asyncio, not to the user."""
    return own_files[code.co_filename]


def awaiting_location(coroutine: Any) -> str:
    """Return `file:line` of the innermost user frame in a suspended chain of awaits."""
    place = UNKNOWN
    while coroutine is not None:
        for names in (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await")):
            frame = getattr(coroutine, names[0], None)
            if frame is not None:
                if not is_own_code(frame.f_code):
                    place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                coroutine = getattr(coroutine, names[1])
                break
        else:
            break
    return place


def place_of_foreign(error: BaseException) -> str | None:
    """Return `file:line` of the user's code that gave asyncio something of another event loop; None for other errors."""
    place, code, stack = UNKNOWN, None, error.__traceback__
    while stack is not None:
        code = stack.tb_frame.f_code
        if not is_own_code(code):
            place = f"{code.co_filename}:{stack.tb_lineno}"
        stack = stack.tb_next
    return place if code in _MINDS_THE_LOOP else None


def non_durable(what: str, place: str) -> NonDurableAwaitError:
    """Build the error for something that cannot be replayed."""
    return NonDurableAwaitError(
        f"{place}: an orchestrator cannot await {what}: it could not be replayed. Do real work (I/O, threads, real time) in "
        "an activity: `await ctx.call_activity(...)`; to wait use `ctx.create_timer(...)`, `asyncio.sleep(...)` or "
        "`ctx.wait_for_external_event(...)`."
    )


def out_of_turn(instance_id: str) -> DurableError:
    """Build the error for what belongs to an orchestration and was used by somebody else."""
    return DurableError(
        f"the context, a task or a lock of orchestration '{instance_id}' was used outside of its own turn: from another "
        "thread, another instance, an activity, or after its end. It is only for that orchestrator's own code."
    )


def not_a_task(awaited: object, generator: Generator[Any, Any, Any]) -> TypeError:
    """Build the error for what an orchestrator in the generator style has yielded and cannot wait for."""
    frame = getattr(generator, "gi_frame", None)
    place = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "the orchestrator"
    is_several = isinstance(awaited, list | tuple)
    hint = "when_all([...]) waits for several" if is_several else "yield what ctx.call_activity and the like return"
    return TypeError(f"{place}: an orchestrator yielded {awaited!r:.200}, which is not a durable task; {hint}")
