"""A user's own test file, with the installed package and nothing of this repository.

Goal: twenty lines are enough to find a compensation that is missing only when a worker dies at the wrong moment. Method: the
file is written into an empty folder and run by pytest in a process of its own; its seed is fixed, so that the fewest faults
that show the bug are the same each time.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.own_processes

TEST = """\
from durable import App, TaskFailedError
from durable.testing import simulate

app, held = App(), set()

@app.activity
def hold(seat: str) -> None:
    assert seat not in held, f"{seat} is taken"
    held.add(seat)

@app.orchestrator
async def trip(ctx) -> bool:
    try:
        await ctx.call_activity(hold, "1A")
        return True
    except TaskFailedError:
        return False  # nothing is given back: the failed attempt cannot have held it, can it?

async def scenario(client):
    held.clear()
    assert held == ({"1A"} if await client.run(trip) else set())

def test_a_seat_is_held_only_for_who_travels():
    simulate(app, scenario, seed=7)
"""


def test_twenty_lines_find_a_lost_compensation(tmp_path: Path) -> None:
    lines = [line for line in TEST.splitlines() if line.strip()]
    assert len(lines) <= 20
    (tmp_path / "test_trip.py").write_text(TEST, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_trip.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "the scenario fails with a single fault" in run.stdout
    assert "the process is killed" in run.stdout
    assert "simulate(app, scenario, schedules=1, seed=" in run.stdout
