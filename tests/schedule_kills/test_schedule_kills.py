"""Some schedules and a few kills; more with `python -m tests.schedule_kills`."""

from __future__ import annotations

import pytest

from tests.schedule_kills.killing import run

pytestmark = pytest.mark.own_processes


def test_each_occurrence_is_started_once_though_workers_are_killed() -> None:
    tally = run(schedules=20, seconds=5, workers=2, kill_every_s=2)
    assert not tally.violations, tally.violations
    assert tally.kills >= 2
    assert tally.occurrences == 100
