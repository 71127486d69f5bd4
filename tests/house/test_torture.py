"""`make torture` believes no battery: a violation, a figure that was not reached and a battery that breaks off all fail it."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from typing import Any

import pytest

from tests import torture
from tests.ledger import Ledger, read_line
from tests.torture import BATTERIES, Battery, Entry, main, run, table


@dataclasses.dataclass(frozen=True)
class Script(Battery):
    """A battery that is a small program, given in `module`."""

    def command(self, seed: int) -> list[str]:
        return [sys.executable, "-c", f"from tests.ledger import Ledger\nledger = Ledger('toy', {seed})\n{self.module}"]


def entry_of(program: str, **wanted: float) -> Entry:
    return run(Script("toy", program, (), wanted), 7, seconds_max=30)


def test_a_battery_that_reaches_its_figures_is_good() -> None:
    entry = entry_of("exit(ledger.close([], kills=3))", kills=3)
    assert entry.failures == []
    assert (entry.line["battery"], entry.line["seed"], entry.line["violations"]) == ("toy", 7, 0)
    assert entry.figures == "3 kills"


@pytest.mark.parametrize(
    ("program", "why"),
    [
        pytest.param("exit(ledger.close(['I2: twice'], kills=3))", "1 violations, seed 7", id="a violation"),
        pytest.param("exit(ledger.close([], kills=2))", "2 kills, and 3 are wanted", id="too few"),
        pytest.param("exit(ledger.close([]))", "0 kills, and 3 are wanted", id="a figure left out"),
        pytest.param("ledger.close([], kills=3); exit(2)", "exit code 2", id="another end"),
        pytest.param("1 / 0", "no ledger", id="no ledger"),
        pytest.param("ledger.close([], kills=3); print('and more')", "no ledger", id="something after the ledger"),
        pytest.param("import os; ledger.close([], kills=3); os.kill(os.getpid(), 9)", "exit code -9", id="killed"),
    ],
)
def test_a_battery_that_falls_short_fails(program: str, why: str) -> None:
    [failure] = entry_of(program, kills=3).failures
    assert why in failure


def test_a_battery_that_hangs_is_ended_with_all_that_it_has_started() -> None:
    program = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'while True: pass'])"
    [failure] = run(Script("toy", program, (), {}), 7, seconds_max=0.5).failures
    assert "exit code -9" in failure


def test_the_table_adds_up_and_the_exit_code_tells(capfd: pytest.CaptureFixture[str]) -> None:
    good = Script("good", "exit(ledger.close([], kills=3))", (), {})
    bad = Script("bad", "exit(ledger.close(['I1: lost', 'I1: again'], kills=1000, virtual_hours=5))", (), {})
    assert main(["--seed", "7"], [good]) == 0
    capfd.readouterr()
    assert main([], [good, bad]) == 1
    lines = capfd.readouterr().out.splitlines()
    assert "I1: lost" in lines
    assert lines[-1].startswith("FAILED bad: 2 violations")
    name, _, *sums = lines[-2].split()
    assert (name, sums) == ("all", ["2", "5", "virtual", "hours,", "1,003", "kills"])


def test_one_battery_can_be_chosen() -> None:
    good, bad = Script("good", "ledger.close([])", (), {}), Script("bad", "1 / 0", (), {})
    assert main(["--only", "good"], [good, bad]) == 0


def test_each_battery_of_the_table_is_there() -> None:
    for battery in BATTERIES:
        found = importlib.util.find_spec(battery.module)
        assert found, battery.name
        if found.submodule_search_locations is not None:
            assert importlib.util.find_spec(f"{battery.module}.__main__"), battery.name
        assert battery.wanted, "a battery of which nothing is wanted proves nothing"
    assert len({battery.name for battery in BATTERIES}) == len(BATTERIES)
    assert table([]).splitlines()[0].split() == ["battery", "seconds", "violations", "figures"]
    assert torture.SECONDS_MAX <= 3600


@pytest.mark.parametrize("output", ["", "nothing", "[1]", '{"battery": "kills"}', "1"])
def test_what_is_no_ledger_is_refused(output: str) -> None:
    with pytest.raises(ValueError, match="no ledger"):
        read_line(output)


def test_violations_are_said_before_the_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    assert Ledger("toy", 1).close([f"I1: {n}" for n in range(60)]) == 1
    *said, last = capsys.readouterr().out.splitlines()
    assert said == [*(f"I1: {n}" for n in range(50)), "… and 10 more"]
    line: dict[str, Any] = read_line(last)
    assert line["violations"] == 60
