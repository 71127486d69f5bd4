"""`replay`, `doctor` and `confirm-clock`: what is in order is said to be, and what is not is explained."""

from __future__ import annotations

import json
import shutil
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


def test_the_doctor_looks_at_families_inboxes_and_the_queue_where_nobody_works(filled: str, tmp_path: Path) -> None:
    shutil.copy(filled.removeprefix("sqlite:///"), tmp_path / "copy.db")
    filled = f"sqlite:///{tmp_path / 'copy.db'}"
    done(filled, "start", "order", "--text", "order-9", "--id", "order-9")
    done(filled, "raise", "order-9", "approved", "true")
    found = from_json(filled, "doctor", "--still")
    assert (found["violations"], found["waiting"]) == ([], {"messages": 2, "activities": 0})
    assert from_json(filled, "doctor")["waiting"] is None
    database = sqlite3.connect(filled.removeprefix("sqlite:///"))
    with database:
        child, parent = database.execute(
            "SELECT c.id, p.id FROM runs c JOIN runs p ON p.run_id = c.parent_run_id WHERE p.status = 4 LIMIT 1"
        ).fetchone()
        database.execute("UPDATE runs SET status = 6 WHERE id = ?", (child,))
        (sequence,) = database.execute("SELECT max(sequence) FROM inbox").fetchone()
        database.execute("UPDATE inbox SET data = x'c1' WHERE sequence = ?", (sequence,))
        database.execute(
            "INSERT INTO queue (hub, kind, id, run_id, generation, task_id, partition, queue, name, data, priority,"
            " visible_at, deliveries, first_claimed_at) SELECT hub, kind, id, run_id, 0, 77, partition, 'default', 'charge',"
            " x'00', 1, 0, 0, 0 FROM runs WHERE id = ?",
            (parent,),
        )
    database.close()
    result = run(filled, "doctor", "--still")
    broken = [line.removeprefix("broken: ") for line in result.stdout.splitlines() if line.startswith("broken")]
    assert result.exit_code == 1
    assert any(line.startswith(f"I13: instance 'order-9': message {sequence}: ") for line in broken)
    assert any(line.startswith("I14: ") and "activity 77 is in the queue, and nobody waits" in line for line in broken)
    assert sum(f"child '{child}'" in line and "told SubOrchestrationCompleted" in line for line in broken) == 1
    assert "waiting: 2 messages in inboxes, 1 activities in the queue" in result.stdout


def test_the_doctor_says_that_a_worker_lives_where_none_should(filled: str) -> None:
    with worker_on(filled):
        result = run(filled, "doctor", "--still")
        assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
        assert "a worker is running" in result.stderr
        done(filled, "doctor")


def test_a_clock_that_is_trusted_needs_no_confirmation(store: str) -> None:
    done(store, "start", "order")
    assert from_json(store, "confirm-clock") == {"moved_seconds": 0.0}
