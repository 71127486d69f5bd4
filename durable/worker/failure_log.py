"""What the log says of failures. Said after the commit that records them, and so once, whatever is replayed."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from durable.errors import FailureDetails, InvalidInputError, qualified_name
from durable.events import ActivityScheduled
from durable.failures import decode_details
from durable.payloads import PayloadError
from durable.provider import InstanceRow, Status, TaskAddress
from durable.retry import FailedAttempt

activity_logger = logging.getLogger("durable.activity")
worker_logger = logging.getLogger("durable.worker")

NO_CODE = frozenset({qualified_name(InvalidInputError), qualified_name(PayloadError)})
"""A value did not fit: that was found by this package, and its own stack would explain nothing."""

CHARACTERS_MAX = 4000
"""A log is read by people; the whole text is in the instance's history."""


def log_failed_attempts(row: InstanceRow, attempts: Iterable[FailedAttempt]) -> None:
    """Say of each why it failed and what comes next. The last one of a call is a warning, with its stack."""
    for failed in attempts:
        limit = "" if failed.attempts_max is None else f" of {failed.attempts_max}"
        activity_logger.log(
            logging.INFO if failed.wait is not None else logging.WARNING,
            "instance '%s': activity '%s', attempt %d%s failed: %s; %s%s",
            row.key.id,
            failed.activity,
            failed.attempt,
            limit,
            _cut(str(failed.details)),
            _what_comes_next(failed),
            "" if failed.wait is not None else _stack(failed.details),
            extra=_fields(row.key.id, row.run_id, failed.activity, failed.attempt),
        )


def log_failed_here(address: TaskAddress, request: ActivityScheduled, details: FailureDetails) -> None:
    """Say that a claimed attempt failed in this process; what comes next is said, and decided, by the instance's owner."""
    activity_logger.info(
        "instance '%s': activity '%s', attempt %d failed here: %s",
        address.key.id,
        request.name,
        request.attempt,
        _cut(str(details)),
        extra=_fields(address.key.id, address.run_id, request.name, request.attempt),
    )


def log_failed_instance(row: InstanceRow) -> None:
    """Say that an orchestration has failed, and why."""
    if row.status is Status.FAILED and row.failure is not None:
        details = decode_details(row.failure)
        worker_logger.warning(
            "instance '%s' failed: %s%s",
            row.key.id,
            _cut(str(details)),
            _stack(details),
            extra={"instance_id": row.key.id, "run_id": row.run_id},
        )


def _fields(instance_id: str, run_id: str, activity: str, attempt: int) -> dict[str, object]:
    return {"instance_id": instance_id, "run_id": run_id, "activity": activity, "attempt": attempt}


def _what_comes_next(failed: FailedAttempt) -> str:
    if failed.wait is None:
        return "no further try"
    return f"next try in {failed.wait.total_seconds():g} s" if failed.wait else "next try at once"


def _stack(details: FailureDetails) -> str:
    if NO_CODE & {details.error_type, *details.error_bases}:
        return ""
    while details.is_group and details.inner is not None:
        details = details.inner
    return f"\n{_cut(details.stack_trace.rstrip())}" if details.stack_trace else ""


def _cut(text: str) -> str:
    return text if len(text) <= CHARACTERS_MAX else f"{text[:CHARACTERS_MAX]}…"
