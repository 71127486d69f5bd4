"""A tree as it stands: what commands and the outcomes of attempts mean by the rules.

The same for the instance that runs a tree and for whoever reads its history: only the former acts on what is answered.
Invariant: what is answered follows from the arrivals alone, in their order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from durable.errors import FailureDetails
from durable.jobs.rules import Brought, JobState, JobTree, Move, Stage
from durable.jobs.wire import Command, Do, JobSpec, Stub, child_mark

NOTHING: Final = Brought((), ())

DELETED: Final = "it was deleted"

JOBS_MAX: Final = 1_000_000
"""Jobs in one tree; a job that adds children without end stops here, and not when the memory is full."""


class Carried(NamedTuple):
    """What a command has brought about. `given_up`: jobs of which nothing is wanted any more. `refusal`: why not, if not."""

    brought: Brought = NOTHING
    given_up: Sequence[int] = ()
    refusal: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended: with `details` it failed, else it returned. `is_final`: no other one follows.

    `is_cancelled`: an orchestration that somebody else has ended. `stub`: what it left for the tree, if it could.
    """

    details: FailureDetails | None = None
    is_final: bool = True
    is_cancelled: bool = False
    stub: Stub | None = None


class TreeStanding:
    """One tree, and which commands it has taken.

    `answers`: by the mark of a command, None or why it was refused. `dropped`: what was refused although nobody asks for an
    answer, for whoever tells people; it is theirs to empty.
    """

    __slots__ = ("_added", "answers", "dropped", "tree")

    def __init__(self) -> None:
        self.tree = JobTree()
        self.answers: dict[str, str | None] = {}
        self.dropped: list[str] = []
        self._added: set[str] = set()

    def begin(self, specs: Sequence[JobSpec], scheduled_for: int, now: int) -> Brought:
        """Begin with the jobs of the definition."""
        self.tree.add(specs)
        return self.tree.begin(scheduled_for, now)

    @property
    def has_begun(self) -> bool:
        """True once there are jobs."""
        return bool(self.tree.jobs)

    # ---- outcomes

    def take_ending(self, number: int, ending: Ending, now: int) -> Brought:
        """Take the end of an attempt of a job that was asked for; add the children that it leaves."""
        job = self.tree.jobs[number]
        job.endings += 1
        stub = ending.stub
        if stub is not None and job.started_at is None:
            job.started_at = stub.started_us
        added: list[Brought] = []
        for position, specs in stub.children if stub is not None else ():
            is_at_once = bool(specs[0].condition & specs[0].condition.IN_PROGRESS)
            if ending.is_final or is_at_once:  # others go with an attempt that is repeated
                added.append(self._add(number, child_mark(number, job.endings, position), specs, now))
        if ending.is_final:
            added.append(self._settle(job, ending, now))
        return joined(added)

    def _settle(self, job: JobState, ending: Ending, now: int) -> Brought:
        move, reason = Move.SUCCEED, None
        if ending.stub is not None and ending.stub.skip_reason is not None:
            move, reason = Move.SKIP, ending.stub.skip_reason
        elif ending.is_cancelled:
            move, job.error = Move.CANCEL, ending.details
        elif ending.details is not None:
            move, job.error = Move.FAIL, ending.details
        elif job.started_at is not None and job.is_late(job.started_at):
            move = Move.SUCCEED_LATE
        return self.tree.move(job.number, move, now, reason)

    def _add(self, parent: int, mark: str, specs: Sequence[JobSpec], now: int) -> Brought:
        """Add a child with all below it, once: it may have come before, by another way."""
        if mark in self._added or not specs:
            return NOTHING
        self._added.add(mark)
        if len(self.tree.jobs) + len(specs) > JOBS_MAX:
            self.dropped.append(
                f"'{specs[0].name}' would be job {len(self.tree.jobs):,}, over the limit of {JOBS_MAX:,}"
            )
            return NOTHING
        return self.tree.decide(self.tree.add(specs, parent)[:1], now)

    # ---- commands

    def take_command(self, command: Command, now: int) -> Carried:
        """Carry out a command, once."""
        if command.do is not Do.ADD:
            if command.mark in self.answers:
                return Carried()
            carried = self._carry_out(command, now)
            self.answers[command.mark] = carried.refusal
            return carried
        if command.job is None or not 0 <= command.job < len(self.tree.jobs):
            self.dropped.append(f"a child of job {command.job}, which there is not")
            return Carried()
        return Carried(self._add(command.job, command.mark, command.jobs, now))

    def _carry_out(self, command: Command, now: int) -> Carried:
        if command.job is None and command.do is Do.CANCEL:
            return self.cancel_all(command.reason, now)
        if command.job is None or not 0 <= command.job < len(self.tree.jobs):
            return Carried(refusal=f"there is no job {command.job}")
        job = self.tree.jobs[command.job]
        if job.stage.is_settled:
            return Carried(refusal=f"job {job.number}, '{job.spec.name}', has ended: {job.stage.name}")
        if command.do is Do.CANCEL:
            return Carried(self.tree.move(job.number, Move.CANCEL, now, command.reason or None), [job.number])
        if job.stage is Stage.ASKED:
            return Carried(refusal=f"job {job.number}, '{job.spec.name}', has started")
        if command.do is Do.DELETE:
            reason = f"{DELETED}: {command.reason}" if command.reason else DELETED
            return Carried(self.tree.move(job.number, Move.SKIP, now, reason), [job.number])
        spec = dataclasses.replace(job.spec, **command.changes)
        return Carried(self.tree.change(job.number, spec, now), [job.number])

    def cancel_all(self, reason: str, now: int) -> Carried:
        """Cancel every job that waits for its time, its worker or its end."""
        open_jobs = [job.number for job in self.tree.jobs if job.stage in (Stage.HELD, Stage.ASKED)]
        return Carried(self.tree.cancel(open_jobs, now, reason or None), open_jobs)


def joined(brought: Iterable[Brought]) -> Brought:
    """Return all that several moves have brought about, in their order."""
    found = list(brought)
    held = [number for one in found for number in one.held]
    let_go = [number for one in found for number in one.let_go]
    return Brought(
        [number for one in found for number in one.asked],
        [number for number in held if number not in let_go],
        [number for number in let_go if number not in held],
    )
