"""The bank under faults, in the short form that runs with every change; the long one is `python -m tests.money`.

Goal: whatever happens to the workers, money is neither made nor lost, transfers are made once, and nobody who locks all
accounts sees one half-way. Method: drawn schedules in simulation, and real SIGKILLs of real workers on one file.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from durable.testing import SimulationFailedError, simulate
from samples.bank_transfer import app as bank_app
from tests.money.bank import app, scenario
from tests.money.planted import careless, careless_scenario
from tests.money.storm import run_storm


def test_money_is_conserved_under_drawn_faults() -> None:
    simulation = simulate(app, scenario, schedules=30, seed=11)
    assert simulation.faults > 50


def test_a_bank_without_locks_is_found_out() -> None:
    """The check itself: transfers that do not lock let an audit see money that is under way."""
    with pytest.raises(SimulationFailedError, match="an audit counted"):
        simulate(careless, careless_scenario, schedules=30, seed=0)


@pytest.mark.own_processes
async def test_money_is_conserved_while_workers_are_killed(tmp_path: Path) -> None:
    assert await run_storm(tmp_path, kills=5, seed=23) == []


def test_the_bank_is_the_samples() -> None:
    assert {definition.name for definition in bank_app.orchestrators} == {"transfer"}
