"""The rules of a job tree: pure, and the same wherever a tree is run, read or tested.

Theory of operation. A job goes through stages by the moves in TRANSITIONS; whoever makes an illegal move gets an
AssertionError, and nothing has changed. What a stage of a job means for its children stands in MET_BY; it is decided at
once, for all jobs below, without recursion. `JobTree.move` answers with what that brought about: jobs that are to be asked
for now, and jobs to be held back until they are due.

 1. A job's condition is decided by its parent alone: met, or missed for good.
 2. Once it is met, `at` and `delay` hold the job back; when it is due it is asked for. The root's is met from the beginning.
 3. A job that was asked for settles with the outcome of its last attempt, or is cancelled.
 4. A job whose condition is missed is skipped, and so is everything below it: a skipped parent meets no condition. Below one
    that skips itself, what is held back is skipped as well; what was asked for before, with IN_PROGRESS, goes on, and nothing
    below it.
 5. IN_PROGRESS is met by a parent that was asked for, also if the child is added after that one has settled.
 6. The tree is over when every job has settled.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from durable.errors import FailureDetails
from durable.jobs.model import DUE_LATE, JobStatus, RunCondition
from durable.jobs.wire import NO_PARENT, JobSpec

CANCELLED: Final = "asyncio.exceptions.CancelledError"
"""What the error of a job is called that somebody cancelled, giving a reason."""

LATE_US: Final = DUE_LATE.seconds * 1_000_000


class Stage(enum.Enum):
    """Where a job is, by the rules."""

    UNDECIDED = "its condition is not decided"
    HELD = "its condition is met, and it is not yet due"
    ASKED = "an attempt waits, runs or failed and will be repeated"
    DONE = "done"
    DUE_DONE = "done, started late"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    @property
    def is_settled(self) -> bool:
        """True for a stage that no move leaves."""
        return not TRANSITIONS[self]


class Move(enum.Enum):
    """What happens to a job."""

    MEET = "its condition is met"
    MISS = "its condition cannot be met any more"
    ASK = "its first attempt is asked for"
    SUCCEED = "its function returned"
    SUCCEED_LATE = "its function returned, having started late"
    FAIL = "its last attempt failed"
    CANCEL = "somebody cancelled it"
    SKIP = "it said itself that there is nothing to do, or it was deleted"


TRANSITIONS: Final[Mapping[Stage, Mapping[Move, Stage]]] = {
    Stage.UNDECIDED: {
        Move.MEET: Stage.HELD,
        Move.MISS: Stage.SKIPPED,
        Move.SKIP: Stage.SKIPPED,
        Move.CANCEL: Stage.CANCELLED,
    },
    Stage.HELD: {
        Move.ASK: Stage.ASKED,
        Move.MISS: Stage.SKIPPED,
        Move.SKIP: Stage.SKIPPED,
        Move.CANCEL: Stage.CANCELLED,
    },
    Stage.ASKED: {
        Move.SUCCEED: Stage.DONE,
        Move.SUCCEED_LATE: Stage.DUE_DONE,
        Move.FAIL: Stage.FAILED,
        Move.SKIP: Stage.SKIPPED,
        Move.CANCEL: Stage.CANCELLED,
    },
    Stage.DONE: {},
    Stage.DUE_DONE: {},
    Stage.FAILED: {},
    Stage.CANCELLED: {},
    Stage.SKIPPED: {},
}

MET_BY: Final[Mapping[Stage, RunCondition]] = {
    Stage.UNDECIDED: RunCondition(0),
    Stage.HELD: RunCondition(0),
    Stage.ASKED: RunCondition.IN_PROGRESS,
    Stage.DONE: RunCondition.ON_SUCCESS,
    Stage.DUE_DONE: RunCondition.ON_SUCCESS,
    Stage.FAILED: RunCondition.ON_FAILURE,
    Stage.CANCELLED: RunCondition.ON_CANCELLED,
    Stage.SKIPPED: RunCondition(0),
}
"""Which condition of its children a job in this stage meets."""

SHOWN_AS: Final[Mapping[Stage, JobStatus]] = {
    Stage.UNDECIDED: JobStatus.IDLE,
    Stage.HELD: JobStatus.IDLE,
    Stage.ASKED: JobStatus.QUEUED,
    Stage.DONE: JobStatus.DONE,
    Stage.DUE_DONE: JobStatus.DUE_DONE,
    Stage.FAILED: JobStatus.FAILED,
    Stage.CANCELLED: JobStatus.CANCELLED,
    Stage.SKIPPED: JobStatus.SKIPPED,
}
"""What people see. Of one that was asked for, whoever knows its attempts says more."""


@dataclasses.dataclass(slots=True)
class JobState:
    """One job of a tree as it stands. Times in microseconds; `due_at` None while its condition is not met."""

    number: int
    parent: int
    spec: JobSpec
    stage: Stage = Stage.UNDECIDED
    children: list[int] = dataclasses.field(default_factory=list)
    was_asked: bool = False
    met_at: int | None = None
    due_at: int | None = None
    endings: int = 0  # of attempts
    started_at: int | None = None
    finished_at: int | None = None
    reason: str | None = None
    is_reason_from_above: bool = False
    cut: str | None = None  # why nothing below it begins any more, though it was asked for itself
    error: FailureDetails | None = None

    def is_late(self, started_at: int) -> bool:
        """Tell whether a start at that time is a late one."""
        return self.due_at is not None and started_at - self.due_at > LATE_US

    def hold(self) -> int:
        """Settle when a job whose condition is met is due, by what it says now; return that time.

        A time that had passed when the condition was met stays the job's time: it is late then.
        """
        assert self.met_at is not None, "its condition is met"
        at_us, delayed = self.spec.at_us, self.met_at + self.spec.delay_us
        if at_us is None:
            self.due_at = delayed
        else:
            self.due_at = max(delayed, at_us) if self.spec.delay_us else at_us
        return self.due_at


class Brought(NamedTuple):
    """What a move has brought about, in this order: jobs to ask for now, and jobs to hold back until they are due.

    `let_go`: jobs that were held back, and are not any more.
    """

    asked: Sequence[int]
    held: Sequence[int]
    let_go: Sequence[int] = ()


class JobTree:
    """All jobs of one tree, by number: the root is 0, others are counted as they are added."""

    __slots__ = ("jobs", "unsettled")

    def __init__(self) -> None:
        self.jobs: list[JobState] = []
        self.unsettled = 0

    def add(self, specs: Sequence[JobSpec], parent: int = NO_PARENT) -> Sequence[int]:
        """Add a tree of jobs below a job (the first one: the root); return their numbers. `decide` says what becomes of them.

        The parents in `specs` are places in it, each before its children; NO_PARENT is `parent`.
        """
        first = len(self.jobs)
        for spec in specs:
            above = parent if spec.parent == NO_PARENT else first + spec.parent
            job = JobState(len(self.jobs), above, spec)
            self.jobs.append(job)
            if above != NO_PARENT:
                self.jobs[above].children.append(job.number)
        self.unsettled += len(specs)
        return range(first, len(self.jobs))

    def begin(self, scheduled_for: int, now: int) -> Brought:
        """Meet the root's condition, as of the time that the tree is for."""
        return self._settle(deque([(0, Move.MEET, None)]), now, met_at=scheduled_for)

    def decide(self, numbers: Iterable[int], now: int) -> Brought:
        """Decide the conditions of jobs that were added just now."""
        waiting: deque[tuple[int, Move, str | None]] = deque()
        for number in numbers:
            job = self.jobs[number]
            if job.stage is Stage.UNDECIDED and (verdict := self._verdict(job)) is not None:
                waiting.append((number, *verdict))
        return self._settle(waiting, now)

    def ask(self, number: int, now: int) -> Brought:
        """Ask for a held job: it has come due."""
        return self.move(number, Move.ASK, now)

    def cancel(self, numbers: Iterable[int], now: int, reason: str | None = None) -> Brought:
        """Cancel several jobs that have not settled, and then let the rules say what follows from that."""
        return self._settle(deque((number, Move.CANCEL, reason) for number in numbers), now)

    def change(self, number: int, spec: JobSpec, now: int) -> Brought:
        """Give a job that was not yet asked for another specification; its place in the tree stays."""
        job = self.jobs[number]
        assert job.stage in (Stage.UNDECIDED, Stage.HELD), f"job {number} is in stage {job.stage.name}"
        job.spec = spec
        if job.stage is Stage.UNDECIDED:
            return self.decide([number], now) if job.parent != NO_PARENT else Brought((), ())
        return Brought((), (number,)) if job.hold() > now else self.move(number, Move.ASK, now)

    def move(self, number: int, move: Move, now: int, reason: str | None = None) -> Brought:
        """Make a move, and all that follows from it for the jobs below. An illegal one is an assertion, and changes nothing."""
        return self._settle(deque([(number, move, reason)]), now)

    @property
    def is_over(self) -> bool:
        """True when every job has settled."""
        return self.unsettled == 0

    # ---- the consequences

    def _settle(self, waiting: deque[tuple[int, Move, str | None]], now: int, *, met_at: int | None = None) -> Brought:
        asked: list[int] = []
        held: list[int] = []
        let_go: list[int] = []
        while waiting:
            number, move, reason = waiting.popleft()
            job = self.jobs[number]
            if move is Move.MISS and job.stage is Stage.HELD:
                let_go.append(number)
            self._make(job, move, now, reason)
            if job.stage is Stage.HELD:
                job.met_at = now if met_at is None else met_at
                if job.hold() > now:
                    held.append(number)
                else:
                    waiting.appendleft((number, Move.ASK, None))
                continue
            if job.stage is Stage.ASKED:
                asked.append(number)
            for child in job.children:
                verdict = self._verdict(self.jobs[child])
                if verdict is not None and self.jobs[child].stage is Stage.UNDECIDED:
                    waiting.append((child, *verdict))
            if job.stage is Stage.SKIPPED:
                waiting.extend(self._cut_off(job))
        return Brought(asked, held, let_go)

    def _cut_off(self, skipped: JobState) -> Iterator[tuple[int, Move, str | None]]:
        """Let nothing begin any more below a job that was skipped while jobs with IN_PROGRESS were under way below it."""
        reason = _missed(skipped, RunCondition(0))
        below = deque(child for child in skipped.children if self.jobs[child].stage is not Stage.UNDECIDED)
        while below:
            job = self.jobs[below.popleft()]
            if job.stage is Stage.ASKED:
                job.cut = reason
                below.extend(job.children)
            elif job.stage in (Stage.UNDECIDED, Stage.HELD):
                yield job.number, Move.MISS, reason

    def _make(self, job: JobState, move: Move, now: int, reason: str | None) -> None:
        stage = TRANSITIONS[job.stage].get(move)
        assert stage is not None, f"job {job.number}: no {move.name} in stage {job.stage.name}"
        job.stage = stage
        if stage is Stage.ASKED:
            job.was_asked = True
        if stage.is_settled:
            job.finished_at = now
            job.reason = reason
            if stage is Stage.CANCELLED and job.error is None and reason:
                job.error = FailureDetails(CANCELLED, reason)
            if move is Move.MISS:
                parent = self.jobs[job.parent]
                job.is_reason_from_above = parent.stage is Stage.SKIPPED or parent.cut is not None
            self.unsettled -= 1

    def _verdict(self, job: JobState) -> tuple[Move, str | None] | None:
        """Say whether a job's condition is met or missed, and why; None while that is open."""
        parent = self.jobs[job.parent]
        if parent.cut is not None:
            return Move.MISS, parent.cut
        condition = job.spec.condition
        met_by = MET_BY[parent.stage]
        if parent.was_asked and parent.stage is not Stage.SKIPPED:
            met_by |= RunCondition.IN_PROGRESS
        if condition & met_by:
            return Move.MEET, None
        if not parent.stage.is_settled:
            return None
        return Move.MISS, _missed(parent, condition)


def _missed(parent: JobState, condition: RunCondition) -> str | None:
    """Say why a condition is missed. Below a skipped job the reason is that of the topmost one, however deep it goes."""
    if parent.stage is Stage.SKIPPED:
        return parent.reason if parent.is_reason_from_above else f"'{parent.spec.name}' was skipped: {parent.reason}"
    wanted = "|".join(flag.name or "" for flag in condition)
    return f"it runs {wanted}, and its parent '{parent.spec.name}' ended {SHOWN_AS[parent.stage]}"
