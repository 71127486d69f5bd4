"""Turns exceptions into `FailureDetails`: bounded plain data, whatever the exception does.

An exception is code of the user's: its `__str__` may raise, its causes may form a circle or a chain of a thousand, its
message may be a whole HTTP body. Describing it must never fail, since that would lose the failure itself. So every read
of it is guarded, every text is cut with a mark, and of a long chain of causes the outer ones and the root are kept.
"""

from __future__ import annotations

import dataclasses
import traceback
from typing import TYPE_CHECKING, Any

from durable.errors import FailureDetails, NonRetryableError, OrchestrationFailedError, TaskFailedError, qualified_name
from durable.payloads import PayloadError, decode, encode
from durable.places import is_own_code

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

# Enough for any message that is read; what is larger is data, and belongs in a payload.
TEXT_BYTES_MAX = 64 * 1024

# `inner` at most so deep: a failure crosses one level of sub-orchestrations at each, and of those there may be 1,000.
INNER_DEPTH_MAX = 16

# Frames at either end of a traceback; the middle of an endless recursion says nothing.
FRAMES_MAX = 50

# A name is an identifier. What is longer was made by a program to be troublesome, and so were so many bases.
NAME_BYTES_MAX = 512
BASES_MAX = 64

# All texts of a chain at their limits, and room for the names: always under it, so that storing a failure cannot fail.
DETAILS_BYTES_MAX = 2 * (INNER_DEPTH_MAX + 1) * TEXT_BYTES_MAX + 1024 * 1024

# A chain of live exceptions is followed so far in search of its root.
CHAIN_MAX = 10_000


def describe(exception: BaseException, *, limit: int = TEXT_BYTES_MAX) -> FailureDetails:
    """Return what is known of an exception. Never raises; each text takes at most `limit` bytes of UTF-8.

    `inner` is the explicit cause, else the context unless it is suppressed; of a group the first exception in it; of a
    failed task or orchestration the details that it carries.
    """
    chain = _chain_of(exception)
    levels = [_level(link, limit) for link in _outer_and_root(chain)]
    levels += _guarded(lambda: _carried_levels(chain[-1], limit), [])
    return _nested(_outer_and_root(levels))


def carried_details(exception: BaseException | None) -> list[FailureDetails]:
    """Return the details of all failed tasks among an exception, its causes and contexts, and those of a group."""
    found: list[FailureDetails] = []
    seen: set[int] = set()
    left = [exception]
    while left and len(seen) < CHAIN_MAX:
        link = left.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        details = _carried_details(link)
        found += [] if details is None else [details]
        left += [link.__cause__, link.__context__, *(link.exceptions if isinstance(link, BaseExceptionGroup) else ())]
    return found


def forget_own_frames(error: BaseException) -> None:
    """Cut this package's frames off the end of an exception's stack, which then ends at the user's own line.

    For a cancellation from outside, of which only that line is of interest: where in here the code waited says nothing.
    """
    last, stack = None, error.__traceback__
    while stack is not None:
        last = last if is_own_code(stack.tb_frame.f_code) else stack
        stack = stack.tb_next
    if last is not None:
        last.tb_next = None


def to_plain(details: FailureDetails) -> list[dict[str, Any]]:
    """Return the details as plain data: one dict for each level, the outermost first."""
    return [
        {
            "error_type": level.error_type,
            "message": level.message,
            "stack_trace": level.stack_trace,
            "non_retryable": level.non_retryable,
            "error_bases": list(level.error_bases),
        }
        for level in _levels_of(details)
    ]


def from_plain(plain: Any) -> FailureDetails:
    """Return the details that `to_plain` made plain. Raises PayloadError for anything else.

    Fields of later versions are ignored, fields that are missing get their defaults.
    """
    if not isinstance(plain, list) or not plain or not all(isinstance(level, dict) for level in plain):
        raise PayloadError("failure details: a list of levels was expected")
    return _nested(_outer_and_root([_level_from_plain(level) for level in plain]))


def encode_details(details: FailureDetails) -> bytes:
    """Return the details as a payload. They are bounded first, so that this cannot fail."""
    bounded = _nested(_bounded(_levels_of(details), TEXT_BYTES_MAX))
    return encode(to_plain(bounded), what="failure details", max_bytes=DETAILS_BYTES_MAX)


def decode_details(data: bytes) -> FailureDetails:
    """Return the details of a payload. Raises PayloadError, and nothing else, for whatever bytes."""
    if len(data) > DETAILS_BYTES_MAX:
        raise PayloadError(f"failure details: {len(data)} bytes, over the limit of {DETAILS_BYTES_MAX} bytes")
    return from_plain(decode(data, what="failure details", strict_size=False))


# ---- the chain of causes


def _chain_of(exception: BaseException) -> list[BaseException]:
    """Follow the causes of a live exception, outermost first. A circle ends where it closes."""
    chain = [exception]
    seen = {id(exception)}
    while len(chain) < CHAIN_MAX:
        cause = _guarded(lambda: _cause_of(chain[-1]), None)
        if not isinstance(cause, BaseException) or id(cause) in seen:
            break
        chain.append(cause)
        seen.add(id(cause))
    return chain


def _cause_of(exception: BaseException) -> BaseException | None:
    if _carried_details(exception) is not None:
        return None
    if isinstance(exception, BaseExceptionGroup):
        return exception.exceptions[0]
    if exception.__cause__ is not None:
        return exception.__cause__
    return None if exception.__suppress_context__ else exception.__context__


def _carried_details(exception: BaseException) -> FailureDetails | None:
    """Return the details that came with an exception from elsewhere: they say more than its own cause."""
    if isinstance(exception, TaskFailedError | OrchestrationFailedError):
        details: Any = exception.details  # Any, because a subclass may have put anything there
        return details if isinstance(details, FailureDetails) else None
    return None


def _carried_levels(exception: BaseException, limit: int) -> list[FailureDetails]:
    details = _carried_details(exception)
    return [] if details is None else _bounded(_levels_of(details), limit)


def _outer_and_root(chain: list[Any]) -> list[Any]:
    """Leave out the middle of a chain that is too long: the root is what `is_caused_by` is asked for."""
    return chain if len(chain) <= INNER_DEPTH_MAX + 1 else [*chain[:INNER_DEPTH_MAX], chain[-1]]


def _levels_of(details: FailureDetails) -> list[FailureDetails]:
    levels: list[FailureDetails] = []
    level: FailureDetails | None = details
    while level is not None and len(levels) < CHAIN_MAX:
        levels.append(level)
        level = level.inner
    return levels


def _nested(levels: list[FailureDetails]) -> FailureDetails:
    inner: FailureDetails | None = None
    for level in reversed(levels):
        inner = dataclasses.replace(level, inner=inner)
    assert inner is not None, "a failure has at least one level"
    return inner


def _bounded(levels: list[FailureDetails], limit: int) -> list[FailureDetails]:
    """Bound details that were made elsewhere: by an older version, by hand, or one level further down."""
    return [
        dataclasses.replace(
            level,
            error_type=_cut(level.error_type, NAME_BYTES_MAX),
            message=_cut(level.message, limit),
            stack_trace=_cut_middle(level.stack_trace, limit),
            error_bases=tuple(_cut(base, NAME_BYTES_MAX) for base in level.error_bases[:BASES_MAX]),
        )
        for level in _outer_and_root(levels)
    ]


# ---- one exception


def _level(exception: BaseException, limit: int) -> FailureDetails:
    kind = type(exception)
    return FailureDetails(
        error_type=_name_of(kind),
        message=_cut(_message_of(exception), limit),
        stack_trace=_cut_middle(
            _guarded(lambda: _frames_of(exception), "") + _guarded(lambda: _notes_of(exception), ""), limit
        ),
        non_retryable=issubclass(kind, NonRetryableError),
        error_bases=tuple(_name_of(base) for base in type.mro(kind)[1:-1][:BASES_MAX]),
    )


def _guarded(read: Callable[[], Any], otherwise: Any) -> Any:
    """Run code that reaches into a user's exception."""
    try:
        return read()
    except BaseException:  # noqa: BLE001  # a `__str__` may even raise SystemExit, and the worker lives
        return otherwise


def _name_of(kind: type[BaseException]) -> str:
    return _cut(_exact_text(_guarded(lambda: qualified_name(kind), "")) or "(no name)", NAME_BYTES_MAX)


def _message_of(exception: BaseException) -> str:
    try:
        return _exact_text(str(exception))
    except BaseException as error:  # noqa: BLE001  # as in `_guarded`
        return f"(no message: its __str__ raised {_name_of(type(error))})"


def _exact_text(text: Any) -> str:
    """Return a str and no subclass of it, which could do anything when it is cut or stored."""
    return str.__str__(text) if isinstance(text, str) else ""


def _frames_of(exception: BaseException) -> str:
    """Return the frames, the outermost first, from where the user's code begins; of very many those at both ends."""
    stack = _first_of_the_user(exception.__traceback__) or exception.__traceback__
    frames = sum(1 for _ in traceback.walk_tb(stack))
    if frames <= 2 * FRAMES_MAX:
        return "".join(traceback.format_tb(stack))
    outer, inner = traceback.format_tb(stack, limit=FRAMES_MAX), traceback.format_tb(stack, limit=-FRAMES_MAX)
    return "".join([*outer, f"  … [{frames - 2 * FRAMES_MAX} frames left out]\n", *inner])


def _first_of_the_user(stack: TracebackType | None) -> TracebackType | None:
    while stack is not None and is_own_code(stack.tb_frame.f_code):
        stack = stack.tb_next
    return stack


def _notes_of(exception: BaseException) -> str:
    """Return what `add_note` added: part of what Python prints, though not of the message."""
    notes = getattr(exception, "__notes__", ())
    return "".join(f"{_cut(note, TEXT_BYTES_MAX)}\n" for note in list(notes)[:FRAMES_MAX])


# ---- texts


def _cut(text: Any, limit: int) -> str:
    """Return the beginning of a text that is over the limit, with a mark; lone surrogates are written out."""
    exact = _exact_text(text)
    start = exact[: limit + 1].encode(errors="backslashreplace")
    if len(start) <= limit:
        return start.decode()
    mark = _mark(exact)
    return _first(start, limit - len(mark.encode())) + _first(mark.encode(), limit)


def _cut_middle(text: Any, limit: int) -> str:
    """Cut a stack, of which the outermost and the innermost frames say most."""
    whole = _exact_text(text).encode(errors="backslashreplace")
    if len(whole) <= limit:
        return whole.decode()
    mark = f"\n{_mark(_exact_text(text))}\n".encode()
    half = max(0, (limit - len(mark)) // 2)
    return _first(whole, half) + _first(mark, limit) + whole[len(whole) - half :].decode(errors="ignore")


def _first(encoded: bytes, bytes_max: int) -> str:
    return encoded[: max(0, bytes_max)].decode(errors="ignore")


def _mark(text: str) -> str:
    return f"… [cut, {len(text)} characters in all]"


# ---- plain data


def _level_from_plain(plain: dict[str, Any]) -> FailureDetails:
    bases = plain.get("error_bases", [])
    texts = [plain.get(name, "") for name in ("error_type", "message", "stack_trace")]
    non_retryable = plain.get("non_retryable", False)
    if (
        not isinstance(bases, list)
        or not all(isinstance(text, str) for text in [*texts, *bases])
        or not isinstance(non_retryable, bool)
    ):
        raise PayloadError("failure details: a field is not of its type")
    error_type, message, stack_trace = texts
    return FailureDetails(error_type, message, stack_trace, non_retryable=non_retryable, error_bases=tuple(bases))
