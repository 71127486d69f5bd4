"""The batteries find bugs: a catalogue of defects, planted one at a time.

Goal: whoever breaks a promise hears of it. Method: each defect is planted in the running code, and schedules are drawn until
something is seen to be wrong. Here the quick ones; all of them with `python -m tests.planted_bugs`.
"""

from __future__ import annotations

import pytest

from tests.planted_bugs.__main__ import find
from tests.planted_bugs.catalogue import CATALOGUE

QUICK = (
    "activities_begin_before_the_commit",
    "an_attempt_is_said_to_be_in_the_queue_and_is_not",
    "an_owner_never_forgets",
    "each_activity_leaves_a_task",
    "the_youngest_message_is_received_first",
    "what_ends_leaves_its_activities_in_the_queue",
    "a_commits_messages_are_left_out_when_it_is_large",
    "an_event_that_nobody_awaits_is_dropped",
    "consumed_messages_stay_in_the_inbox",
    "every_twentieth_message_gets_lost",
    "ids_are_drawn_anew",
    "rows_say_no_due_time",
    "the_end_is_not_written",
    "the_store_recovers_nothing",
    "what_a_dead_owner_held_is_not_delivered_again",
    "whoever_commits_last_wins",
)


def test_the_catalogue_is_long_enough() -> None:
    assert len(CATALOGUE) >= 50


@pytest.mark.parametrize("name", CATALOGUE)
def test_each_defect_still_fits_the_code(name: str) -> None:
    """What a patch replaces may move; the long form would stop there."""
    with pytest.MonkeyPatch.context() as patch:
        CATALOGUE[name].plant(patch)


@pytest.mark.parametrize("name", QUICK)
def test_a_planted_bug_is_found(name: str) -> None:
    assert find(CATALOGUE[name]) is not None, f"nobody noticed: {CATALOGUE[name].promise}"
