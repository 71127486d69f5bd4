"""Nothing has become slower, in a sense that a noisy machine cannot blur: what a workload costs is counted, not timed.

A bound is the figure of today with a little room. Whoever lowers a figure lowers its bound in the same commit; whoever must
raise one says why beside it.
"""

from __future__ import annotations

import pytest

from tests.benchmarks.counts import UNITS, count

N = 100

BOUNDS = {  # for each instance, or each activity of one: commits, statements, rows, steps, decoded bytes
    "seq5": (0.13, 13.8, 12.4, 15.5, 0),
    "seq1_latency": (2, 14, 6, 18.6, 0),
    "fanout": (0.04, 0.4, 0.15, 2.4, 0),
    "long": (1.03, 5.5, 3.1, 6, 0),
    "timers": (0.1, 9.3, 4.3, 7.3, 0),
    "events": (0.1, 9.1, 6.2, 11.1, 0),
    "starts": (0.06, 5.5, 4.2, 6.1, 0),
    "job_tree": (0.16, 2.0, 1.4, 3.1, 0),
    # Four permits at a time, so that four share what others share by the hundred; a step is the simulator's own for each
    # call that others share a transaction with.
    "limited": (0.8, 10.2, 5.3, 6.5, 0),
}


@pytest.mark.parametrize("workload", BOUNDS)
def test_a_workload_costs_no_more_than_it_did_and_twice_as_much_of_it_twice_that(workload: str) -> None:
    once, twice = count(workload, N), count(workload, 2 * N)
    each = once.each(N)
    assert not {unit: each[unit] for unit, bound in zip(UNITS, BOUNDS[workload], strict=True) if each[unit] > bound}
    assert all(getattr(twice, unit) <= 2.05 * getattr(once, unit) for unit in UNITS), (once, twice)


def test_a_job_that_comes_due_with_many_costs_no_more_than_it_did() -> None:
    """There are more than slots, so that half of them wait in line."""
    each, bounds = count("due_jobs", 2 * N).each(2 * N), (0.03, 14, 7.2, 12.7, 0)
    assert not {unit: each[unit] for unit, bound in zip(UNITS, bounds, strict=True) if each[unit] > bound}


def test_a_history_is_decoded_only_where_nothing_is_cached() -> None:
    once, twice = (count("long", n, is_cached=False).decoded_bytes for n in (20, 40))
    assert once > 0
    assert twice > 3 * once  # the whole of it in each turn


def test_the_counts_are_the_same_every_time() -> None:
    assert count("seq5", 20) == count("seq5", 20)
