"""What users write and see of jobs: `Job`, a tree of work to do, and `JobNode`, the same tree as it stands."""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, Final, Self

from durable.app import check_name
from durable.context.options import Span, limit_us, span_us
from durable.errors import FailureDetails

DUE_LATE: Final = timedelta(seconds=60)
"""A job that starts later than this after its time is late: `DUE_DONE`, and `JobContext.is_due`."""

TEXT_BYTES_MAX: Final = 4 * 1024
"""Of a description, or of the reason of a skip: a line or two for people, shown wherever the tree is."""


INDENTED_LEVELS_MAX: Final = 32
"""A tree's text is indented so far; deeper jobs name their level: the text of a chain would else grow with its square."""


class JobStatus(enum.StrEnum):
    """Where a job is in its life.

    IDLE until it is asked for; QUEUED while it waits for a worker, or for its next attempt; IN_PROGRESS while it runs.
    DUE_DONE is DONE, but started over 60 s late. SKIPPED with a reason: its condition was not met, or it said so itself.
    """

    IDLE = "IDLE"
    QUEUED = "QUEUED"
    IN_PROGRESS = "IN_PROGRESS"
    DONE = "DONE"
    DUE_DONE = "DUE_DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    SKIPPED = "SKIPPED"

    @property
    def is_settled(self) -> bool:
        """True for what does not change any more."""
        return self not in (JobStatus.IDLE, JobStatus.QUEUED, JobStatus.IN_PROGRESS)


class RunCondition(enum.Flag):
    """What must become of its parent for a job to run; several, joined by `|`, mean any of them.

    IN_PROGRESS: the parent is requested; the child then runs beside it, however the parent ends.
    """

    ON_SUCCESS = enum.auto()
    ON_FAILURE = enum.auto()
    ON_CANCELLED = enum.auto()
    IN_PROGRESS = enum.auto()
    ON_FAILURE_OR_CANCELLED = ON_FAILURE | ON_CANCELLED
    ON_ANY_COMPLETED_STATUS = ON_SUCCESS | ON_FAILURE | ON_CANCELLED


class Priority(enum.Enum):
    """Which of the jobs that wait for a worker goes first, across all workers; equal ones in the order they were asked for."""

    LOW = "LOW"
    NORMAL = "NORMAL"
    HIGH = "HIGH"


@dataclasses.dataclass(frozen=True)
class Job:
    """One piece of work and, as `children`, what follows it. Immutable: `then` returns a new tree with one more child.

    `function` is an activity or an orchestrator (which gets the request only), or its name. `at` (an aware datetime) and
    `delay` (after the condition is met) hold the job back; they never replace its condition. `retries`: attempts after the
    first, `retry_intervals` the waits before them (timedeltas or seconds), of which a short list repeats its last and an
    empty one means no wait; without `retries` the function's own retry policy counts. `timeout` limits one attempt from its
    start. Raises TypeError or ValueError for what cannot be meant.
    """

    function: Callable[..., Any] | str
    request: Any = None
    _: dataclasses.KW_ONLY
    run_condition: RunCondition = RunCondition.ON_SUCCESS
    at: datetime | None = None
    delay: timedelta | None = None
    retries: int = 0
    retry_intervals: tuple[Span, ...] = ()
    timeout: Span | None = None
    priority: Priority = Priority.NORMAL
    description: str = ""
    children: tuple[Job, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.function, str):
            check_name("the function of a job", self.function)
        elif not callable(self.function):
            raise TypeError(
                f"the function of a job is an activity, an orchestrator or a name, not {self.function!r:.200}"
            )
        check_condition(self.run_condition)
        check_at("at", self.at)
        check_delay(self.delay)
        check_retries(self.retries)
        object.__setattr__(self, "retry_intervals", checked_intervals(self.retry_intervals))
        limit_us("timeout", self.timeout)
        object.__setattr__(self, "priority", checked_priority(self.priority))
        check_text("description", self.description)
        object.__setattr__(self, "children", tuple(self.children))
        if not all(isinstance(child, Job) for child in self.children):
            raise TypeError(f"the children of a job are jobs, not {self.children!r:.200}")

    def then(self, child: Job) -> Self:
        """Return this job with one more child, which is a tree of its own. Raises TypeError for what is no job."""
        if not isinstance(child, Job):
            raise TypeError(f"then takes a Job, not {child!r:.200}: write .then(Job(function, request))")
        # Not `dataclasses.replace`, which would check all children again: a job may have thousands.
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, children=(*self.children, child))
        return copy


def check_condition(condition: object) -> None:
    """Raise TypeError for no RunCondition, ValueError for one that nothing meets."""
    if not isinstance(condition, RunCondition):
        raise TypeError(f"run_condition must be a RunCondition, not {condition!r:.200}")
    if not condition:
        raise ValueError("run_condition must name at least one condition: nothing would meet it")


def check_at(option: str, at: object) -> None:
    """Raise TypeError for no datetime, ValueError for a naive one."""
    if at is None:
        return
    if not isinstance(at, datetime):
        raise TypeError(f"{option} must be an aware datetime, not {at!r:.200}; to wait for a span there is delay=")
    if at.utcoffset() is None:
        raise ValueError(f"{option}: {at!r} has no time zone; give it one, such as tzinfo=UTC")


def check_delay(delay: object) -> None:
    """Raise TypeError for no timedelta, ValueError for a negative one."""
    if delay is None:
        return
    if not isinstance(delay, timedelta):
        raise TypeError(f"delay must be a timedelta, not {delay!r:.200}: write timedelta(seconds=…)")
    if delay < timedelta(0):
        raise ValueError(f"delay must not be negative: {delay!r}")


def check_retries(retries: object) -> None:
    """Raise TypeError for no int, ValueError for a negative one."""
    if isinstance(retries, bool) or not isinstance(retries, int):
        raise TypeError(f"retries must be an int, not {retries!r:.200}")
    if retries < 0:
        raise ValueError(f"retries must be 0 or more, not {retries}")


def checked_intervals(intervals: Any) -> tuple[Span, ...]:
    """Return retry intervals as a tuple. Raises TypeError, and ValueError for a negative one."""
    found = (intervals,) if isinstance(intervals, timedelta) else tuple(intervals)
    for interval in found:
        if span_us("an interval of retry_intervals", interval) < 0:
            raise ValueError(f"an interval of retry_intervals must not be negative: {interval!r}")
    return found


def checked_priority(priority: object) -> Priority:
    """Return a priority. Raises TypeError for anything else."""
    if not isinstance(priority, Priority):
        raise TypeError(f"priority must be a Priority, such as Priority.HIGH, not {priority!r:.200}")
    return priority


def check_text(option: str, text: object) -> None:
    """Raise TypeError for no string, ValueError for one that is too long or no text."""
    if not isinstance(text, str):
        raise TypeError(f"{option} must be a string, not {text!r:.200}")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{option} must be valid Unicode: {text[:60]!r}") from error
    if size > TEXT_BYTES_MAX:
        raise ValueError(f"{option} of {size} bytes is over the limit of {TEXT_BYTES_MAX}")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class JobNode:
    """A job of a tree as it was at one moment, with all jobs below it. Values are plain data, times aware, in UTC.

    `id` is unique within its tree, the root's is "0". `scheduled_for`: when it is, or was, to start; None as long as its
    condition is not met and it has no `at`. `started_at` is that of its first attempt. `str(node)` shows the tree as text.
    """

    id: str
    parent_id: str | None
    function: str
    description: str
    status: JobStatus
    run_condition: RunCondition
    priority: Priority
    attempts: int
    scheduled_for: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    request: Any
    result: Any
    error: FailureDetails | None
    skip_reason: str | None
    children: tuple[JobNode, ...] = ()

    def walk(self) -> Iterator[JobNode]:
        """Yield this job and all below it, each parent before its children, in the order in which they were added."""
        waiting: list[JobNode] = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))

    def find(self, job_id: str) -> JobNode:
        """Return the job with an id. Raises LookupError."""
        for node in self.walk():
            if node.id == job_id:
                return node
        raise LookupError(f"there is no job {job_id!r} below job {self.id!r}")

    # A tree may be deeper than Python's stack: nothing here recurses.

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, JobNode):
            return NotImplemented
        return all(
            ours == theirs
            for ours, theirs in itertools.zip_longest(map(_values, self.walk()), map(_values, other.walk()))
        )

    __hash__ = None  # type: ignore[assignment]  # its request and result may be anything

    def __repr__(self) -> str:
        return f"<JobNode {self.id}: {self.function}, {self.status}, {len(self.children)} children>"

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def _values(node: JobNode) -> tuple[Any, ...]:
    """Return what a node says of itself; how many children it has, and where it stands, tells the shape of the tree."""
    values = (getattr(node, field.name) for field in dataclasses.fields(node) if field.name != "children")
    return (*values, len(node.children))


def _lines(root: JobNode) -> Iterator[str]:
    """Yield a tree as text, a line for each job."""
    waiting = [(root, "", "", 0)]
    while waiting:
        node, indent, below, depth = waiting.pop()
        yield indent + _told(node)
        last = len(node.children) - 1
        for index in range(last, -1, -1):
            branch, rest = ("└─ ", "   ") if index == last else ("├─ ", "│  ")
            if depth < INDENTED_LEVELS_MAX:
                waiting.append((node.children[index], below + branch, below + rest, depth + 1))
            else:
                waiting.append((node.children[index], f"{below}{branch}[level {depth + 1}] ", below, depth + 1))


def _told(node: JobNode) -> str:
    """Say a job in a line."""
    parts = [f"{node.function} {node.status}"]
    if node.description:
        parts.append(f'"{node.description}"')
    if node.status is JobStatus.IDLE and node.scheduled_for is not None:
        parts.append(f"for {node.scheduled_for:%Y-%m-%d %H:%M:%S}")
    if node.attempts > 1:
        parts.append(f"attempt {node.attempts}")
    if node.skip_reason:
        parts.append(f"({node.skip_reason})")
    if node.error is not None:
        parts.append(f"({node.error})")
    return " ".join(" ".join(parts).split())
