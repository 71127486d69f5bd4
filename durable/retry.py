"""How a failed activity call or child is tried again: `RetryPolicy`, and the decision it makes. Pure."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from datetime import timedelta

from durable.errors import FailureDetails


@dataclasses.dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to try again, and how long to wait before it; the waits are durable timers.

    `max_number_of_attempts` counts the first one too; None: no limit. The wait before attempt n + 1 is
    `first_retry_interval * backoff_coefficient ** (n - 1)`, at most `max_retry_interval`, and with `jitter` j (0 to 1) moved
    by a random part of it, up to j either way. `retry_timeout`: no attempt begins later than this after the first.
    `non_retryable`: exception types or names whose failures are final. `handle(details, attempt)`: False ends it, a
    timedelta is the wait, True leaves the wait to the policy.
    """

    first_retry_interval: timedelta
    max_number_of_attempts: int | None
    backoff_coefficient: float = dataclasses.field(default=1.0, kw_only=True)
    max_retry_interval: timedelta | None = dataclasses.field(default=None, kw_only=True)
    retry_timeout: timedelta | None = dataclasses.field(default=None, kw_only=True)
    jitter: float = dataclasses.field(default=0.0, kw_only=True)
    non_retryable: tuple[type[BaseException] | str, ...] = dataclasses.field(default=(), kw_only=True)
    handle: Callable[[FailureDetails, int], bool | timedelta] | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        attempts: object = self.max_number_of_attempts
        first: object = self.first_retry_interval  # what a program without types may pass
        if not isinstance(first, timedelta) or first < timedelta(0):
            raise ValueError(
                f"first_retry_interval must be a timedelta of 0 or more, not {self.first_retry_interval!r}"
            )
        if attempts is not None and (not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1):
            raise ValueError(f"max_number_of_attempts must be 1 or more, or None for no limit, not {attempts!r}")
        if not self.backoff_coefficient >= 1.0:
            raise ValueError(f"backoff_coefficient must be 1 or more, not {self.backoff_coefficient!r}")
        if not 0.0 <= self.jitter <= 1.0:
            raise ValueError(f"jitter must be between 0 and 1, not {self.jitter!r}")
        for name in ("max_retry_interval", "retry_timeout"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, timedelta) or value < timedelta(0)):
                raise ValueError(f"{name} must be a timedelta of 0 or more, or None, not {value!r}")
        if isinstance(self.non_retryable, str | type):
            object.__setattr__(self, "non_retryable", (self.non_retryable,))
        else:
            object.__setattr__(self, "non_retryable", tuple(self.non_retryable))


INTERVAL_MAX = timedelta(days=365)
"""No wait is longer that the policy does not name, whatever the back-off computes: a power soon passes every date."""


@dataclasses.dataclass(frozen=True, slots=True)
class FailedAttempt:
    """What became of an attempt: `wait` until the next one, None if it was the last. `attempts_max`: None for no limit."""

    activity: str
    attempt: int
    attempts_max: int | None
    details: FailureDetails
    wait: timedelta | None


def next_wait(
    policy: RetryPolicy | None, details: FailureDetails, attempt: int, elapsed: timedelta, jitter: random.Random
) -> timedelta | None:
    """Return how long to wait before the next attempt, or None if `attempt` was the last.

    `attempt` counts from 1; `elapsed` is the time since the first attempt was asked for. `jitter` is consulted only if the
    policy has some, once per decision. May raise what the policy's own `handle` raises.
    """
    if policy is None or details.non_retryable:
        return None
    if policy.max_number_of_attempts is not None and attempt >= policy.max_number_of_attempts:
        return None
    if any(details.is_caused_by(error) for error in policy.non_retryable):
        return None
    wait = _policy_wait(policy, attempt, jitter)
    if policy.handle is not None:
        answer = policy.handle(details, attempt)
        if answer is False:
            return None
        if isinstance(answer, timedelta):
            wait = max(answer, timedelta(0))
        elif answer is not True:
            raise TypeError(f"handle of a RetryPolicy must return True, False or a timedelta, not {answer!r:.200}")
    if policy.retry_timeout is not None and wait > policy.retry_timeout - elapsed:
        return None
    return wait


def _policy_wait(policy: RetryPolicy, attempt: int, jitter: random.Random) -> timedelta:
    longest = policy.max_retry_interval
    if longest is None:
        longest = max(INTERVAL_MAX, policy.first_retry_interval)
    try:
        seconds = policy.first_retry_interval.total_seconds() * policy.backoff_coefficient ** (attempt - 1)
    except OverflowError:
        seconds = longest.total_seconds()
    if policy.jitter:
        seconds *= 1.0 + policy.jitter * (2.0 * jitter.random() - 1.0)
    return min(timedelta(seconds=min(seconds, longest.total_seconds())), longest)
