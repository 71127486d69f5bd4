"""Generated orchestrators, replayed from every prefix, here and in processes of other surroundings.

Goal: find combinations that nobody thought of. Method: Hypothesis makes programs and worlds; each is driven through the
engine, with evictions; then every prefix of its histories is replayed here, where whole turns are compared, and in other
processes, where the bytes of the requests are. What differs is shrunk to the smallest case that still does.
"""

from __future__ import annotations

import dataclasses
import json

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

from tests.generated.processes import Replayers
from tests.generated.programs import CASES, Case
from tests.generated.world import World


@dataclasses.dataclass
class Tally:
    """What a run has gone through. `violation`: the smallest case that was found to differ, and how."""

    orchestrators: int = 0
    prefixes: int = 0
    violation: tuple[Case, BaseException] | None = None


def check(case: Case, replayers: Replayers) -> int:
    """Drive one case and replay it; return the prefixes replayed in all. Raises where anything differs."""
    world = World(case)
    try:
        world.run()
        replayers.send(case, world.histories())
        try:
            here = world.check()
        finally:
            there = replayers.answers()  # also after a difference: the next case begins with its own answers
        assert set(there) == {here}, f"{here} prefixes were replayed here, and {there} in the other processes"
        return here + sum(there)
    finally:
        world.close()


def run(orchestrators: int, seed: int, replayers: Replayers) -> Tally:
    """Check that many cases, always the same ones for a seed, up to the first violation, which is shrunk."""
    tally = Tally()

    @seeded(seed)
    @settings(
        max_examples=orchestrators,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(CASES)
    def each(case: Case) -> None:
        try:
            prefixes = check(case, replayers)
        except Exception as error:
            tally.violation = (case, error)  # the last one that Hypothesis tries is the smallest
            raise
        if tally.violation is None:
            tally.orchestrators += 1
            tally.prefixes += prefixes

    try:
        each()
    except Exception as error:
        if tally.violation is None:
            raise
        tally.violation = (tally.violation[0], error)
    return tally


def to_text(case: Case) -> str:
    """Return a case as one line of text."""
    return json.dumps(case._asdict())


def from_text(text: str) -> Case:
    """Return the case that `to_text` gave."""
    return Case(**json.loads(text))
