"""Each workload runs, in its smallest form, and says what a measurement is to say. What it measures is looked at by nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import beside_limits, program, waiting
from tests.benchmarks.__main__ import IN_PROCESSES, MEASURES
from tests.benchmarks.limits import group_commit, single_commit
from tests.benchmarks.measuring import Wanted, measure_at
from tests.benchmarks.stores import Place
from tests.benchmarks.table import ENTRIES, table
from tests.benchmarks.workloads import WORKLOADS

FIELDS = {
    *("peer", "version", "store", "durability", "workload", "n", "concurrency", "seconds", "per_second"),
    *("p50_ms", "p99_ms", "peak_rss_mb", "notes"),
}


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_SCRATCH", str(tmp_path))
    monkeypatch.setattr(program, "TIMER_S", 0.05)


@pytest.mark.parametrize("workload", WORKLOADS)
async def test_a_workload_says_what_it_took(workload: str, store_url: str, tmp_path: Path) -> None:
    wanted = Wanted(workload, 3, 2, "", repeat=1)
    found = await measure_at(wanted, tmp_path, Place(store_url, "a store", "that of a test"))
    assert found.keys() >= FIELDS
    assert found["seconds"] > 0


async def test_what_waits_is_started_and_left_waiting(store_url: str) -> None:
    found = await waiting.measure_at(Wanted("waiting", 3, 2, ""), Place(store_url, "a store", "that of a test"))
    assert found.keys() >= FIELDS


def test_a_recovery_loses_nothing() -> None:
    found = MEASURES["recover"](Wanted("recover", 6, 6, "sqlite", repeat=1))
    assert (found["lost"], found["activities_missing"]) == (0, 0)
    assert found["activities_run_twice"][0] <= 6  # those in flight


def test_the_engine_is_measured_beside_its_limits(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside_limits, "LONG_N", 3)
    monkeypatch.setattr(beside_limits, "COMMITS_S", 0.02)
    monkeypatch.setattr(beside_limits, "CONCURRENCIES", (2,))
    place = Place(store_url, "a store", "that of a test")
    found = beside_limits.measure_beside(Wanted("beside_limits", 3, 2, "sqlite", repeat=1), tmp_path, place)
    assert found.keys() >= FIELDS | {"step_to_commit", "seq5_2_to_bare"}


def test_several_processes_share_the_instances() -> None:
    found = IN_PROCESSES["seq5"](Wanted("seq5", 8, 4, "sqlite", repeat=1, processes=2))
    assert found.keys() >= FIELDS
    assert found["processes"] == 2
    assert found["seconds"] > 0


@pytest.mark.parametrize("workload", ["import", "first_result"])
def test_a_start_of_a_program_says_what_it_took(workload: str) -> None:
    assert MEASURES[workload](Wanted(workload, 3, 2, "sqlite", repeat=1)).keys() >= FIELDS


def test_the_limits_are_measured_and_every_line_of_the_table_fits_on_it() -> None:
    limits = {
        "single_commit": single_commit.measure(0.02),
        "group_commit_50": group_commit.measure(4, 2),
        "group_commit_500": group_commit.measure(4, 2),
    }
    assert all(found for found in limits.values())
    for entry in ENTRIES:
        assert entry.workload in MEASURES
        if entry.limit is not None:
            name, figure = entry.limit(limits)
            assert name
            assert figure > 0
    line = {"workload": "seq5", "n": 2, "concurrency": 1, "figure": 1.5, "unit": "instances/s"}
    assert "1.5" in table([line | {"limit": "a limit", "limit_figure": 3.0, "ratio_to_limit": 0.5}])
