"""What a call says beside its target and its input: spans of time, moments, policies, merged with what is declared.

Every check names the option, the value and what to write instead.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias, TypedDict

from durable.app import DEFAULT_QUEUE, check_name
from durable.engine.calls import MICROSECOND
from durable.events import ActivityOptions
from durable.retry import RetryPolicy
from durable.timers import DUE_MAX

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

SPAN_MAX_US: Final = timedelta(days=365_250) // MICROSECOND
"""A thousand years: a longer timeout is none, and sums with it stay within every calendar and 64 bits."""

Span: TypeAlias = timedelta | float
"""A length of time: a timedelta, or seconds."""


class Declared(enum.Enum):
    """The type of DECLARED."""

    DECLARED = "as declared"

    def __repr__(self) -> str:
        return self.name


DECLARED: Final = Declared.DECLARED
"""Says that a call leaves an option to the declaration. (None is a value: no policy, no timeout.)"""


class ActivityCallOptions(TypedDict, total=False):
    """The options of a call of an activity, for type checkers; an option that is not given is as declared."""

    retry_policy: RetryPolicy | None
    timeout: Span | None
    heartbeat_timeout: Span | None
    queue_timeout: Span | None
    total_timeout: Span | None
    queue: str | None
    tags: Mapping[str, str] | None


class ChildOptions(TypedDict, total=False):
    """The options of a call of a child orchestration, for type checkers."""

    instance_id: str | None
    version: str | None
    retry_policy: RetryPolicy | None
    tags: Mapping[str, str] | None


class StartOptions(TypedDict, total=False):
    """The options of a detached start, for type checkers."""

    instance_id: str | None
    at: datetime | timedelta | None


# ---- time


def span_us(option: str, span: Span) -> int:
    """Return a span in microseconds. Raises TypeError for what is none, and ValueError for no number of seconds."""
    if isinstance(span, timedelta):
        return min(span // MICROSECOND, SPAN_MAX_US)
    if isinstance(span, bool) or not isinstance(span, int | float):
        raise TypeError(f"{option} must be a timedelta or a number of seconds, not {span!r}")
    if math.isnan(span):
        raise ValueError(f"{option} must be a number of seconds, not {span!r}")
    return round(max(-1e12, min(span, SPAN_MAX_US / 1e6)) * 1e6)


def limit_us(option: str, span: Span | None) -> int | None:
    """Return a limit on time in microseconds, None for none. Raises ValueError unless it is more than 0."""
    if span is None:
        return None
    limit = span_us(option, span)
    if limit <= 0:
        raise ValueError(f"{option} must be more than 0, not {span!r}; None is no limit")
    return limit


def due_us(what: str, when: datetime | timedelta, now_us: int) -> int:
    """Return a moment in microseconds since 1970 UTC, not before now. Raises ValueError for a naive datetime."""
    if isinstance(when, datetime):
        if when.utcoffset() is None:
            raise ValueError(f"{what}: {when!r} has no time zone; give it one, such as tzinfo=UTC")
        due = (when - EPOCH) // MICROSECOND
    elif isinstance(when, timedelta):
        due = now_us + when // MICROSECOND
    else:
        raise TypeError(f"{what} must be an aware datetime or a timedelta, not {when!r}: write timedelta(seconds=…)")
    return min(max(due, now_us), DUE_MAX)


def from_us(time_us: int) -> datetime:
    """Return an aware datetime, in UTC."""
    return EPOCH + timedelta(microseconds=time_us)


# ---- policies and merging


def check_retry_policy(policy: RetryPolicy | Declared | None, declared: RetryPolicy | None) -> RetryPolicy | None:
    """Return the policy that counts. Raises TypeError for what is none."""
    if policy is DECLARED:
        return declared
    if policy is not None and not isinstance(policy, RetryPolicy):
        raise TypeError(f"retry_policy must be a RetryPolicy or None, not {policy!r}")
    return policy


def merged_options(
    declared: ActivityOptions,
    timeout: Span | Declared | None,
    heartbeat_timeout: Span | Declared | None,
    queue_timeout: Span | None,
    queue: str | Declared | None,
) -> ActivityOptions:
    """Return what a call's own options make of the declared ones."""
    if queue is not DECLARED and queue is not None:
        check_name("queue", queue)
    return dataclasses.replace(
        declared,
        queue=declared.queue if queue is DECLARED else queue or DEFAULT_QUEUE,
        timeout=declared.timeout if timeout is DECLARED else limit_us("timeout", timeout),
        heartbeat_timeout=(
            declared.heartbeat_timeout
            if heartbeat_timeout is DECLARED
            else limit_us("heartbeat_timeout", heartbeat_timeout)
        ),
        queue_timeout=limit_us("queue_timeout", queue_timeout),
    )
