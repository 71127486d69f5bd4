"""Commands that look: what they show, in which form, and that nothing in it can command a terminal.

Method: the commands run in this process, on one store that holds each kind of instance.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import unicodedata
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest

from durable import Client, History
from durable.cli.serving import SafeFormatter, make_worker
from durable.jobs import Job
from tests.cli import commands
from tests.cli.commands import HOSTILE, app, charge, done, from_json, run, ship, worker_on

LOOKS = [
    ["ls"],
    ["show", f"id {HOSTILE}"],
    ["history", f"id {HOSTILE}"],
    ["watch", f"id {HOSTILE}"],
    ["show", "order-3"],
    ["history", "order-3"],
    ["doctor"],
    ["show", f"no such {HOSTILE}"],
    ["raise", f"id {HOSTILE}", HOSTILE],
    ["cancel", f"id {HOSTILE}", f"none {HOSTILE}"],
    ["replay", HOSTILE, HOSTILE],
    ["ls", "--status", HOSTILE],
    ["ls", "--created-after", HOSTILE],
]

AS_EVER: dict[str, Any] = {
    "queues": (),
    "name": None,
    "activities_only": False,
    "orchestrations_only": False,
    "strict": False,
    "max_activities": 1,
    "max_cached": 1,
    "shutdown_timeout": timedelta(seconds=1),
}
"""Options of `durable worker`."""

NEED_A_STORE = ("ls", "doctor", "confirm-clock", "show x", "history x", "watch x", "cancel x", "raise x y")


def test_instances_are_listed_by_filter(filled: str) -> None:
    lines = done(filled, "ls").splitlines()
    assert lines[0].split() == ["ID", "NAME", "STATUS", "CREATED", "NOTE"]
    assert len(lines) == 1 + 4 + 2
    assert [state["instance_id"] for state in from_json(filled, "ls", "--name", "order")] == [
        "order-3",
        "order-2",
        "order-1",
    ]
    assert [one["instance_id"] for one in from_json(filled, "ls", "--tag", "region=eu")] == ["order-1"]
    assert from_json(filled, "ls", "--status", "failed", "--prefix", "order", "--count") == {"count": 1}
    assert from_json(filled, "ls", "--created-before", "1h") == []
    assert len(from_json(filled, "ls", "--created-after", "1h", "--limit", "2", "--oldest-first")) == 2
    assert [child["name"] for child in from_json(filled, "ls", "--parent", "order-1")] == ["ship"]


def test_an_instance_is_shown_with_its_timeline_and_what_it_waits_for(filled: str) -> None:
    text = done(filled, "show", "order-1")
    assert re.search(r"^order-1  order  RUNNING for ", text)
    assert re.search(r"^  tags +region=eu$", text, re.MULTILINE)
    assert re.search(r"^  custom +\"waiting for approval\"$", text, re.MULTILINE)
    assert re.search(r"^activity charge +█+ ", text, re.MULTILINE)
    assert re.search(r"^child ship +█+ ", text, re.MULTILINE)
    assert re.search(r"^wait event +─*▶ +ends in [23] d.*$", text, re.MULTILINE)
    assert re.search(r"\n\nwaits for\n  an external event, time limit in [23] d.*\n$", text)
    assert max(map(len, text.splitlines())) <= 80

    named = done(filled, "show", "order-1", "--app", "tests.cli.commands:app")
    assert re.search(r"\n\nwaits for\n  event 'approved', time limit in [23] d.*\n$", named)


def test_of_many_rows_those_that_tell_something_stay_on_the_screen(store: str) -> None:
    done(store, "start", "many", "120", "--id", "many-1")
    with worker_on(store):
        done(store, "watch", "many-1")
    text = done(store, "show", "many-1")
    assert re.search(r"^activity charge x 121 +█", text, re.MULTILINE)
    assert re.search(r"^activity charge +.*✗ +2 tries, ", text, re.MULTILINE)
    assert len(done(store, "show", "many-1", "--rows", "0").splitlines()) > 120
    few = done(store, "show", "many-1", "--rows", "4")
    assert re.search(r"^  … \d+ more \(--rows 0 draws all\)$", few, re.MULTILINE)
    assert "2 tries" in few
    assert len(from_json(store, "show", "many-1")["timeline"]["rows"]) > 120


def test_a_failure_is_shown_with_its_attempts_and_its_stack(filled: str) -> None:
    text = done(filled, "show", "order-3")
    assert re.search(r"^activity charge +.*✗ +2 tries, ", text, re.MULTILINE)
    assert "no money" in text
    assert "commands.py" in text
    shown = from_json(filled, "show", "order-3")
    (row,) = shown["timeline"]["rows"]
    assert (row["status"], [attempt["status"] for attempt in row["attempts"]]) == ("failed", ["failed", "failed"])
    assert shown["waits_for"] == []


def test_a_history_is_printed_exported_and_read_back(filled: str, tmp_path: Path) -> None:
    events = from_json(filled, "history", "order-2")
    assert [event["type"] for event in events][:2] == ["OrchestrationStarted", "ActivityScheduled"]
    assert len(done(filled, "history", "order-2").splitlines()) == len(events)
    file = tmp_path / "order-2.history"
    done(filled, "history", "order-2", "--export", str(file))
    assert len(History.load(file.read_bytes())) == len(events)
    refused = run(filled, "history", "order-2", "--export", str(file))
    assert refused.exit_code == 1
    assert "--force" in refused.stderr


def test_job_trees_and_schedules_are_shown(store: str) -> None:
    async def make() -> None:
        async with Client(store, app) as client:
            tree = Job(charge, "A-1").then(Job(charge, "A-2", description=f"second {HOSTILE}"))
            await client.schedule(tree, instance_id="tree-1")
            await client.schedules.create("nightly", ship, cron="0 3 * * *", timezone="Europe/Berlin")

    asyncio.run(make())
    with worker_on(store):
        done(store, "watch", "tree-1")
    text = done(store, "show", "tree-1")
    assert '\n\ncharge DONE\n└─ charge DONE "second \\x1b]0;owned' in text
    jobs = from_json(store, "show", "tree-1")["jobs"]
    assert [(job["id"], job["status"], job["parent_id"]) for job in jobs] == [("0", "DONE", None), ("1", "DONE", "0")]
    lines = done(store, "schedules").splitlines()
    assert lines[0].split() == ["ID", "STARTS", "WHEN", "NEXT", "STARTED", "NOTE"]
    assert lines[1].startswith("nightly  ship    0 3 * * * Europe/Berlin  in ")
    assert from_json(store, "schedules")[0]["cron"] == "0 3 * * *"


def test_what_is_watched_is_told_until_it_ends(filled: str) -> None:
    assert done(filled, "watch", "order-2").count("COMPLETED") == 1
    (line,) = done(filled, "watch", "order-3", "--json").splitlines()
    assert json.loads(line)["status"] == "FAILED"


@pytest.mark.parametrize("arguments", LOOKS, ids=lambda arguments: arguments[0])
def test_nothing_that_users_control_can_command_a_terminal(filled: str, arguments: list[str]) -> None:
    result = run(filled, *arguments)
    for character in result.output:
        assert character == "\n" or unicodedata.category(character) not in ("Cc", "Zl", "Zp"), repr(result.output)
        assert character != "\u202e"
    coloured = run(filled, *arguments, FORCE_COLOR="1", COLUMNS="80", TERM="xterm-256color")
    left = re.sub(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[[0-9]*[A-K]|\r", "", coloured.output)
    assert all(character == "\n" or unicodedata.category(character) != "Cc" for character in left), repr(left)
    assert "\x1b]" not in coloured.output
    assert "\x1b[2J" not in coloured.output.replace("\\x1b[2J", "")


def test_the_log_of_a_worker_cannot_either() -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        raised = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("durable.activity", logging.ERROR, "", 1, "instance '%s'", (HOSTILE,), raised)
    text = SafeFormatter("%(message)s").format(record)
    assert "Traceback" in text
    assert all(character == "\n" or character.isprintable() for character in text)


def test_json_is_ascii_and_complete(filled: str) -> None:
    for arguments in (["ls"], ["show", f"id {HOSTILE}"], ["history", f"id {HOSTILE}"]):
        text = done(filled, *arguments, "--json")
        assert text.isascii()
        assert "\x1b" not in text
        assert any(HOSTILE in one for one in _texts(json.loads(text)))


def _texts(value: Any) -> Iterator[str]:
    """Yield all the texts in a JSON document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


@pytest.mark.parametrize(
    "command", ["ls", "doctor", "confirm-clock", "show x", "history x", "watch x", "cancel x", "raise x y"]
)
def test_a_missing_store_is_refused_in_one_line_and_not_made(tmp_path: Path, command: str) -> None:
    result = run(f"sqlite:///{tmp_path / 'none.db'}", *command.split())
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "does not exist" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_sealed_store_is_named_by_the_function_that_opens_it(store: str, tmp_path: Path) -> None:
    sealed, environment = "tests.cli.commands:sealed_store_of_the_environment", {"SEALED_ORDERS": store}
    done(sealed, "start", "order", '"A-7"', "--id", "order-7", **environment)
    assert json.loads(done(sealed, "show", "order-7", "--json", **environment))["input"] == "A-7"
    assert "order-7" in done(sealed, "ls", **environment)
    done(sealed, "doctor", **environment)
    assert "A-7" not in done(store, "show", "order-7"), "without the keys it is not told"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SEALED_ORDERS", store)
        assert make_worker("tests.cli.commands:app", sealed, **AS_EVER) is not None
    for named, code, why in (
        ("tests.cli.commands:no_store", 1, "no key in this shell"),
        ("tests.cli.commands:nothing", 2, "no function named"),
        ("tests.cli.commands:HOSTILE", 2, "no function named"),
        ("tests.cli.nowhere:store", 2, "there is no module"),
        ("postgresql:/user:secret@host/x", 2, "a store is a URL"),
    ):
        result = run(named, "ls")
        assert (result.exit_code, len(result.stderr.splitlines())) == (code, 1), result.output
        assert why in result.stderr
        assert "secret" not in result.stderr


def test_what_is_wrong_is_one_line_and_a_code(filled: str) -> None:
    for code, arguments in (
        (3, ["show", "nobody"]),
        (3, ["history", "nobody"]),
        (2, ["ls", "--status", "odd"]),
        (2, ["ls", "--tag", "odd"]),
        (2, ["ls", "--nonsense"]),
        (2, ["nonsense"]),
        (2, ["cancel"]),
        (2, ["cancel", "x", "--name", "y"]),
        (2, ["ls", "--created-after", "soon"]),
        (1, ["raise", "order-2", "late"]),
        (1, ["ls", "--store", "nonsense"]),
        (2, ["ls", "--store", "memory://"]),
        (2, ["ls", "--store", ""]),
    ):
        result = run(filled, *arguments)
        assert (result.exit_code, len(result.stderr.splitlines()), result.stdout) == (code, 1, ""), (
            arguments,
            result.output,
        )
        assert result.stderr.startswith("durable")
    assert "DURABLE_STORE" in run(None, "ls").stderr


async def test_a_worker_is_given_what_its_activities_want_and_what_runs_around_them() -> None:
    module = "tests.cli.commands"
    around = {"middleware": [f"{module}:Seeing", "durable.otel:Telemetry"], "dependencies": f"{module}:dependencies"}
    async with make_worker(f"{module}:wanting", "memory://", **{**AS_EVER, **around}) as made:
        assert await made.client.run("tells", timeout=30) == 7
    assert commands.seen[-1] == "told"
    for wrong, told in (
        ({"middleware": [f"{module}:app"]}, "neither a Middleware"),
        ({"dependencies": module}, "MODULE:NAME"),
    ):
        with pytest.raises(click.UsageError, match=told):
            make_worker(f"{module}:wanting", "memory://", **{**AS_EVER, **wrong})
