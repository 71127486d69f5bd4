"""Commands that begin and steer instances, one or many.

Method: the commands run in this process on a store of their own; where one must take effect, a worker serves it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from durable.cli import steering
from tests.cli.commands import done, from_json, run, worker_on


def status(store: str, instance_id: str) -> str:
    return str(from_json(store, "show", instance_id)["status"])


def test_a_started_instance_gets_what_was_written(store: str, tmp_path: Path) -> None:
    started = from_json(
        store, "start", "order", '"A-1"', "--id", "one", "--tag", "a=b=c", "--at", "1h", "--version", "2.0"
    )
    assert started["instance_id"] == "one"
    shown = from_json(store, "show", "one")
    assert (shown["input"], shown["tags"], shown["version"], shown["run_id"]) == (
        "A-1",
        {"a": "b=c"},
        "2",
        started["run_id"],
    )
    assert shown["waits_for"][0].startswith("its time, in ")
    (tmp_path / "input.json").write_text('{"items": [1, 2.5, null]}')
    for arguments, expected in (
        (["A-1", "--text"], "A-1"),
        (["--input", "[1]"], [1]),
        ([f"@{tmp_path / 'input.json'}"], {"items": [1, 2.5, None]}),
        (["-"], {"from": "stdin"}),
        ([], None),
    ):
        instance_id = done(store, "start", "order", *arguments, input='{"from": "stdin"}').strip()
        assert from_json(store, "show", instance_id)["input"] == expected
    refused = run(store, "start", "order", "A-1")
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
    assert "--text" in refused.stderr


def test_what_is_no_version_or_no_name_is_a_mistake_on_the_command_line(store: str) -> None:
    for arguments in (["order", "--version", "abc"], [""], ["order", "--version", ""]):
        refused = run(store, "start", *arguments)
        assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1), refused.stderr


def test_an_id_in_use_is_a_conflict_unless_said_otherwise(store: str) -> None:
    first = from_json(store, "start", "order", "--id", "one")
    refused = run(store, "start", "order", "--id", "one")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert from_json(store, "start", "order", "--id", "one", "--reuse", "use-existing") == first


def test_an_order_is_followed_from_start_to_end(store: str) -> None:
    with worker_on(store):
        done(store, "start", "order", '"A-7"', "--id", "order-7")
        assert done(store, "raise", "order-7", "approved", "true") == "event approved sent to order-7\n"
        assert done(store, "start", "order", '"A-7"', "--id", "order-7", "--reuse", "use-existing", "--wait") == (
            '"A-7 is on its way"\n'
        )
        lines = done(store, "watch", "order-7", "--json").splitlines()
        assert json.loads(lines[-1])["output"] == "A-7 is on its way"
        again = from_json(store, "restart", "order-7", "--new-id", "order-8")
        assert again["instance_id"] == "order-8"
        late = run(
            store,
            "start",
            "order",
            '"A-7"',
            "--id",
            "order-8",
            "--reuse",
            "use-existing",
            "--wait",
            "--timeout",
            "50ms",
        )
        assert (late.exit_code, len(late.stderr.splitlines())) == (5, 1)
        done(store, "cancel", "order-8", "--reason", "enough")
        failed = run(store, "start", "order", '"unlucky"', "--wait", "--id", "order-9")
        assert (failed.exit_code, failed.stdout, len(failed.stderr.splitlines())) == (4, "", 1)
        forked = done(store, "fork", "order-9", "--at", "1", "--new-id", "order-10").strip()
        assert (
            run(store, "start", "order", "--id", forked, "--reuse", "use-existing", "--wait", "--json").exit_code == 4
        )
        assert run(store, "watch", "order-8").exit_code == 0
        assert status(store, "order-8") == "CANCELLED"


def test_a_running_one_is_asked_and_changed(store: str) -> None:
    done(store, "start", "counter", "--id", "counter-1")
    with worker_on(store):
        assert from_json(store, "update", "counter-1", "add", "40") == 40
        assert done(store, "update", "counter-1", "add", "2", "--timeout", "30s") == "42\n"
        assert from_json(store, "query", "counter-1", "total") == {"total": 42}
        for arguments in (["update", "counter-1", "add", "--", "-1"], ["query", "counter-1", "nothing"]):
            refused = run(store, *arguments)
            assert (refused.exit_code, refused.stdout, len(refused.stderr.splitlines())) == (1, "", 1), refused.output
        done(store, "raise", "counter-1", "end")
        done(store, "watch", "counter-1")
    assert run(store, "query", "counter-1", "total").exit_code == 1
    assert from_json(store, "query", "counter-1", "total", "--app", "tests.cli.commands:app") == {"total": 42}
    assert done(store, "show", "counter-1").count("update add") == 2


def test_one_is_steered_by_its_id(store: str) -> None:
    done(store, "start", "order", '"A"', "--id", "one")
    done(store, "start", "order", '"A"', "--id", "two")
    assert from_json(store, "suspend", "one", "two")["instance_ids"] == ["one", "two"]
    partly = run(store, "terminate", "one", "nobody", "two", "--json")
    assert partly.exit_code == 3
    assert json.loads(partly.stdout)["instance_ids"] == ["one", "two"]
    assert "nobody" in partly.stderr
    assert run(store, "purge", "one").exit_code == 1, "it has not ended: no worker has seen the message"
    with worker_on(store):
        done(store, "watch", "one")
    assert from_json(store, "purge", "one")["count"] == 1
    assert run(store, "show", "one").exit_code == 3


def test_many_are_steered_by_filter(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        done(store, "start", "order", '"A"', "--id", f"order-{number}")
    done(store, "start", "ship", "--id", "ship-1")
    assert done(store, "terminate", "--name", "order", "--dry-run") == "3 instances: would be terminated\n"
    assert run(store, "terminate", "one", "--dry-run").exit_code == 2
    assert run(store, "terminate").exit_code == 2, "everything is never meant by saying nothing"
    monkeypatch.setattr(steering, "is_asked", lambda: True)
    refused = run(store, "terminate", "--name", "order", input="n\n")
    assert (refused.exit_code, "3 instances will be terminated" in refused.stderr) == (1, True)
    assert done(store, "terminate", "--name", "order", input="y\n").endswith("3 instances: terminated\n")
    monkeypatch.undo()
    with worker_on(store):
        done(store, "watch", "order-0")
        done(store, "watch", "order-1")
        done(store, "watch", "order-2")
        done(store, "watch", "ship-1")
    assert from_json(store, "purge", "--prefix", "order", "--dry-run") == {
        "command": "purge",
        "count": 3,
        "dry_run": True,
    }
    assert from_json(store, "purge", "--prefix", "order", "--status", "COMPLETED", "--dry-run")["count"] == 0
    assert from_json(store, "rewind", "--prefix", "order", "--status", "TERMINATED", "--dry-run")["count"] == 3
    assert from_json(store, "purge", "--prefix", "order", "--status", "TERMINATED")["count"] == 3
    assert from_json(store, "ls", "--count") == {"count": 1}
