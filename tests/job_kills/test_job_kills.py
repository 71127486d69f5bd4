"""Each sample of jobs with SIGKILL between its steps; at every one of them with `python -m tests.job_kills`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.job_kills.killing import violations
from tests.job_kills.nursery import SAMPLES

pytestmark = pytest.mark.own_processes


@pytest.mark.parametrize("sample", sorted(SAMPLES))
def test_a_kill_between_two_steps_changes_nothing(sample: str, tmp_path: Path) -> None:
    commits = 0
    for commit, found in violations(sample, tmp_path, is_short=True):
        assert not found, found
        commits = commit
    assert commits > 3, "the worker was killed in the middle of it, too"
