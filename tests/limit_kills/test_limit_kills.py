"""A few keys and kills; more with `python -m tests.limit_kills`."""

from __future__ import annotations

import pytest

from tests.limit_kills.killing import run

pytestmark = pytest.mark.own_processes


def test_no_limit_is_exceeded_and_no_permit_lost_though_workers_are_killed() -> None:
    tally = run(keys=2, width=12, workers=3, kills=1, every_s=0.5)
    assert not tally.violations, tally.violations
    assert tally.most == 3
