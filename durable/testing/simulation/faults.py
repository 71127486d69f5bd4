"""What can go wrong in a simulated run, as data: a schedule says at which storage call which fault strikes.

A schedule is all that a run depends on besides the code. The same schedule gives the same run, and leaving a fault out of
it leaves everything before that fault as it was: that is what makes a failing schedule small.
"""

from __future__ import annotations

import dataclasses
import enum
import random

HOUR_S = 3600.0
TEN_HOURS_S = 10 * HOUR_S
TEN_YEARS_S = 87_660 * HOUR_S


class FaultKind(enum.Enum):
    """A fault at one storage call of one process. The text completes "storage call 7 (commit) of worker-1 …"."""

    FAILS_BEFORE = "fails, and the store has done nothing"
    ANSWER_LOST = "fails, but the store has done it"
    TWICE = "reaches the store twice"
    SLOW = "takes {seconds:g} s"
    CRASH_BEFORE = "never happens: the process is killed before it, and starts again after {seconds:g} s"
    CRASH_AFTER = "is done, and the process is killed before it hears of it; it starts again after {seconds:g} s"
    STOP_BEFORE = "waits: the process is stopped before it for {seconds:g} s"
    STOP_AFTER = "is done, and the process is stopped for {seconds:g} s before it hears of it"
    CLOCK_JUMP = "meets a clock that has jumped by {seconds:g} s; it is right again a minute later"
    DEAF = "is the last for {seconds:g} s of which anybody is notified"
    ECHO = "begins {seconds:g} s in which each notification comes twice"
    DEPLOY = (
        "is the last of this process before it stops in order, and starts again after {seconds:g} s with the next code"
    )


SPANS_S: dict[FaultKind, tuple[float, ...]] = {
    FaultKind.SLOW: (0.01, 0.3, 2.0, 12.0),
    FaultKind.CRASH_BEFORE: (0.0, 0.1, 2.0, 20.0),
    FaultKind.CRASH_AFTER: (0.0, 0.1, 2.0, 20.0),
    FaultKind.STOP_BEFORE: (0.05, 3.0, 11.0, 30.0),
    FaultKind.STOP_AFTER: (0.05, 3.0, 11.0, 30.0),
    FaultKind.CLOCK_JUMP: (-TEN_YEARS_S, -HOUR_S, HOUR_S / 2, HOUR_S, TEN_HOURS_S, TEN_YEARS_S),
    FaultKind.DEAF: (1.0, 10.0, 60.0),
    FaultKind.ECHO: (1.0, 10.0, 60.0),
    FaultKind.DEPLOY: (0.0, 1.0, 15.0),
}
"""How long a fault of each kind lasts, from a moment to longer than a lease."""

WEIGHTS: dict[FaultKind, int] = {
    FaultKind.FAILS_BEFORE: 3,
    FaultKind.ANSWER_LOST: 4,
    FaultKind.TWICE: 3,
    FaultKind.SLOW: 3,
    FaultKind.CRASH_BEFORE: 5,
    FaultKind.CRASH_AFTER: 5,
    FaultKind.STOP_BEFORE: 3,
    FaultKind.STOP_AFTER: 3,
    FaultKind.CLOCK_JUMP: 1,
    FaultKind.DEAF: 1,
    FaultKind.ECHO: 1,
    FaultKind.DEPLOY: 1,
}


CHANGES_SHARE = 0.7
"""So many of the faults strike at calls that change the store, where that can be chosen."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Fault:
    """A fault at the `call`-th storage call of a run, counted from 1 over all processes.

    `is_of_changes`: only calls count that may change the store, not those that look whether there is anything to do.
    """

    call: int
    kind: FaultKind = dataclasses.field(compare=False)
    seconds: float = 0.0
    is_of_changes: bool = False

    def describe(self, call: str = "") -> str:
        """Return it as a sentence; `call` names the storage call that it struck, and whose it was."""
        what = "change" if self.is_of_changes else "storage call"
        return f"{what} {self.call}{call} {self.kind.value.format(seconds=self.seconds)}"


@dataclasses.dataclass(frozen=True, slots=True)
class Schedule:
    """Everything that is chosen in one run. `latency_s_max`: how long a storage call takes at most when nothing is wrong."""

    seed: int
    workers: int = 1
    faults: tuple[Fault, ...] = ()
    is_cached: bool = True
    is_deaf: bool = False  # no notification ever arrives
    latency_s_max: float = 0.002

    def without(self, *faults: Fault) -> Schedule:
        """Return the same schedule without these faults."""
        return dataclasses.replace(self, faults=tuple(fault for fault in self.faults if fault not in faults))


def draw_schedule(
    seed: int, calls: int, *, changes: int | None = None, workers_max: int = 3, faults_max: int = 8
) -> Schedule:
    """Draw a schedule for a run that makes about so many storage calls when nothing goes wrong.

    `changes`: so many of them may change the store. If it is known, most faults strike at these: where a run waits for
    long, nearly all calls are somebody's look around.
    """
    chosen = random.Random(seed)
    kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
    faults = []
    for _ in range(chosen.randint(0, faults_max)):
        kind = chosen.choices(kinds, weights)[0]
        is_of_changes = changes is not None and chosen.random() < CHANGES_SHARE
        call = chosen.randint(1, max(2, round((changes if changes and is_of_changes else calls) * 1.3)))
        faults.append(Fault(call, kind, chosen.choice(SPANS_S.get(kind, (0.0,))), is_of_changes))
    return Schedule(
        seed,
        workers=chosen.randint(1, workers_max),
        faults=tuple(sorted(faults, key=lambda fault: (fault.call, fault.kind.name, fault.seconds))),
        is_cached=chosen.random() < 0.7,
        is_deaf=chosen.random() < 0.1,
        latency_s_max=chosen.choice((0.0001, 0.002, 0.05)),
    )


def mixed(seed: int, number: int) -> int:
    """Return well mixed bits that depend on both and on nothing else (the finaliser of splitmix64)."""
    bits = (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return bits ^ (bits >> 31)
