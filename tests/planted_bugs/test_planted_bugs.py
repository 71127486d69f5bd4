"""The batteries find bugs: a catalogue of defects, planted one at a time.

Goal: whoever breaks a promise hears of it. Method: each defect is planted in the running code, and schedules are drawn until
something is seen to be wrong. Here the quick ones; all of them with `python -m tests.planted_bugs`.
"""

from __future__ import annotations

import pytest

from tests.planted_bugs.__main__ import find
from tests.planted_bugs.catalogue import CATALOGUE

SLOW = {"a_repeated_submit_is_a_new_one", "a_client_counts_each_try", "held_messages_are_not_let_go"}


def test_the_catalogue_is_long_enough() -> None:
    assert len(CATALOGUE) >= 44


@pytest.mark.parametrize("name", sorted(set(CATALOGUE) - SLOW))
def test_a_planted_bug_is_found(name: str) -> None:
    assert find(CATALOGUE[name]) is not None, f"nobody noticed: {CATALOGUE[name].promise}"
