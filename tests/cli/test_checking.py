"""`replay`, `doctor` and `confirm-clock`: what is in order is said to be, and what is not is explained."""

from __future__ import annotations

import json
import sqlite3
import sys
import types
from pathlib import Path

import pytest

from durable import App, OrchestrationContext
from tests.cli.commands import charge, done, from_json, run, ship, worker_on

APP = "tests.cli.commands:app"


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an app whose code has changed since the histories were written."""
    later = App()
    later.activity(charge)
    later.orchestrator(ship)

    @later.orchestrator
    async def order(ctx: OrchestrationContext, order_id: str) -> None:
        await ctx.call_sub_orchestrator(ship)

    module = types.ModuleType("changed_orders")
    module.later = later  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "changed_orders", module)
    return "changed_orders:later"


def test_histories_replay_from_files_and_from_the_store(filled: str, tmp_path: Path) -> None:
    file = tmp_path / "order-2.history"
    done(filled, "history", "order-2", "--export", str(file))
    assert done(filled, "replay", str(file), "order-1", APP).count("replays") == 2
    alone = run(None, "replay", str(file), APP, "--json")
    assert (alone.exit_code, json.loads(alone.stdout)[0]["replays"]) == (0, True)


def test_a_divergence_is_explained(filled: str, changed: str) -> None:
    result = run(filled, "replay", "order-2", "order-1", changed)
    assert result.exit_code == 1
    assert "recorded:  ActivityScheduled(charge" in result.stdout
    assert "asked now: SubOrchestrationScheduled(ship" in result.stdout
    assert "likely cause" in result.stdout
    assert len(result.stderr.splitlines()) == 1
    found = json.loads(run(filled, "replay", "order-2", changed, "--json").stdout)
    assert (found[0]["replays"], found[0]["error"]) == (False, "DivergenceError")


def test_what_is_no_app_or_no_history_is_a_mistake_in_one_line(filled: str, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"no history")
    for code, source, app, expected in (
        (2, "order-1", "no_such_module:app", "no_such_module"),
        (2, "order-1", "tests.cli.commands:other", "it has app"),
        (2, "order-1", "commands.py", "MODULE:NAME"),
        (3, "nobody", APP, "nobody"),
        (1, str(tmp_path / "noise"), APP, "exported history"),
    ):
        result = run(filled, "replay", source, app)
        assert (result.exit_code, len(result.stderr.splitlines())) == (code, 1), result.output
        assert expected in result.stderr


def test_a_module_that_fails_shows_where(filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_orders.py").write_text("import json\n\nrate = 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    result = run(filled, "replay", "order-1", "failing_orders:app")
    lines = result.stderr.splitlines()
    assert result.exit_code == 1
    assert lines[-1] == "durable: module 'failing_orders' cannot be imported: ZeroDivisionError: division by zero"
    assert lines[1].endswith('failing_orders.py", line 3, in <module>')
    assert not [line for line in lines if "durable/cli" in line or "importlib" in line]


def test_the_doctor_finds_nothing_where_nothing_is_wrong(filled: str) -> None:
    text = done(filled, "doctor")
    assert text.startswith("instances: 1 RUNNING, 3 COMPLETED, 2 FAILED\n")
    assert text.endswith("no promise is broken\n")
    assert from_json(filled, "doctor", "--still")["violations"] == []


@pytest.mark.diverges("a history is damaged on purpose")
def test_the_doctor_finds_what_is_damaged(store: str) -> None:
    with worker_on(store):
        done(store, "start", "ship", "--id", "ship-1", "--wait")
    database = sqlite3.connect(store.removeprefix("sqlite:///"))
    with database:
        (table,) = database.execute("SELECT name FROM sqlite_master WHERE name IN ('history', 'records')").fetchone()
        assert database.execute(f"UPDATE {table} SET data = CAST(data || x'00' AS BLOB)").rowcount > 0
    database.close()
    result = run(store, "doctor")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "broken: I13: instance 'ship-1'" in result.stdout
    shown = done(store, "show", "ship-1")
    assert "no timeline: the history of 'ship-1'" in shown
    assert "COMPLETED" in shown


def test_a_clock_that_is_trusted_needs_no_confirmation(store: str) -> None:
    done(store, "start", "order")
    assert from_json(store, "confirm-clock") == {"moved_seconds": 0.0}
