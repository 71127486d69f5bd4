"""The script `durable` itself, in processes of its own: what it costs, what it says without its extra, and how it ends."""

from __future__ import annotations

import contextlib
import enum
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durable.cli import main
from durable.cli.program import program
from tests.cli.commands import done, from_json, run

DURABLE = str(Path(sys.executable).with_name("durable"))

pytestmark = pytest.mark.own_processes


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def test_help_explains_itself_with_examples() -> None:
    shown = subprocess.run([DURABLE, "--help"], capture_output=True, text=True, check=False, timeout=60)
    assert shown.returncode == 0
    assert "durable start order '\"A-7\"' --id order-7" in shown.stdout
    for name, command in program.commands.items():
        assert f"  {name} " in shown.stdout
        assert command.get_short_help_str(), "each says what it does"
        options = {parameter.name for parameter in command.params}
        assert "as_json" in options or name in ("worker", "dashboard", "completion"), "each that prints can print JSON"


def test_without_its_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "durable.cli.program")
    monkeypatch.setitem(sys.modules, "durable.cli.looking", None)
    monkeypatch.setitem(sys.modules, "click", None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "pip install 'durable-orchestration[cli]'" in said


def test_the_package_itself_does_not_import_the_libraries_of_the_command_line() -> None:
    script = "import durable, sys; sys.exit(bool({'click', 'rich', 'watchfiles'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_dashboard_is_another_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "durable.web", None)
    result = run("sqlite:///none.db", "dashboard")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "durable-orchestration[web]" in result.stderr


def test_the_dashboard_is_served_as_the_options_say(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    served: dict[str, Any] = {}

    class Role(enum.Enum):
        OPERATOR = 2

    def serve(store: str, *, announce: Callable[[str], None], **options: Any) -> None:
        served.update(options, store=store)
        announce("http://127.0.0.1:1/")

    module = types.ModuleType("durable.web")
    module.__dict__.update(serve=serve, Role=Role)
    monkeypatch.setitem(sys.modules, "durable.web", module)
    result = from_json(filled, "dashboard", "--port", "0", "--read-only", "--payloads-for", "operator")
    assert result == {"address": "http://127.0.0.1:1/"}
    assert served["store"] == f"{filled}?mode=rw", "it shows what is there, and makes no store"
    assert (served["port"], served["read_only"], served["payload_role"]) == (0, True, Role.OPERATOR)
    assert (served["host"], served["tokens"], served["allowed_hosts"]) == ("127.0.0.1", None, ())


def test_the_dashboard_is_there_when_it_says_its_address(filled: str) -> None:
    command = [DURABLE, "dashboard", "--store", filled, "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = json.loads(process.stdout.readline())["address"]
            with urllib.request.urlopen(address, timeout=30) as answer:
                assert answer.status == 200
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0


def test_shells_can_complete_commands_and_ids(filled: str) -> None:
    for shell in ("zsh", "fish"):
        assert f"_DURABLE_COMPLETE={shell}_complete" in run(None, "completion", shell).stdout
    words = {"COMP_WORDS": "durable sus", "COMP_CWORD": "1", "_DURABLE_COMPLETE": "zsh_complete"}
    assert "suspend" in run(None, **words).stdout.split()
    words = {"COMP_WORDS": "durable cancel order-1 ord", "COMP_CWORD": "3", "_DURABLE_COMPLETE": "zsh_complete"}
    assert [word for word in run(filled, **words).stdout.split() if word.startswith("order")] == [
        "order-3",
        "order-2",
        "order-1",
    ]
    assert "order" not in run("sqlite:///none.db", **words).stdout


def _heed_hangups() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the suite runs under `nohup`, and by its children then


def test_a_terminal_that_is_closed_leaves_no_worker_behind(tmp_path: Path) -> None:
    """With --reload the worker is a process of its own: the terminal's signal does not reach it."""
    (tmp_path / "empty.py").write_text("from durable import App\n\napp = App()\n")
    log = tmp_path / "worker.log"
    command = [DURABLE, "worker", "empty:app", "--reload", "--store", f"sqlite:///{tmp_path / 'store.db'}"]
    with log.open("wb") as output:
        watching = subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=output, preexec_fn=_heed_hangups)
    try:
        wait_for(lambda: "serves hub" in log.read_text())
        watching.send_signal(signal.SIGHUP)
        watching.wait(30)
        assert "has stopped" in log.read_text()
    finally:
        watching.kill()
        watching.wait()
        for number in re.findall(r"worker '.*-(\d+)' serves", log.read_text()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(number), signal.SIGKILL)


def test_a_new_project_runs_and_follows_its_code(tmp_path: Path) -> None:
    """Written, tested, served with --reload, changed while it is served, and asked for."""
    folder = tmp_path / "shop"
    store = f"sqlite:///{folder / 'shop.db'}"
    done(store, "init", str(folder))
    again = run(store, "init", str(folder))
    assert (again.exit_code, len(again.stderr.splitlines())) == (1, 1)
    script = "import test_app; test_app.test_an_approved_order_is_shipped(); test_app.test_nobody_answers()"
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)

    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        command = [DURABLE, "worker", "app:app", "--reload"]
        environment = {**os.environ, "DURABLE_STORE": store}
        worker = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        wait_for(lambda: "serves hub" in log.read_text())
        start = ("start", "order", "A-7", "--text", "--event", "approved=true", "--wait", "--timeout", "30s")
        assert done(store, *start) == '"A-7 is on its way"\n'
        code = folder / "app.py"
        code.write_text(code.read_text().replace("is on its way", "is on its new way"))
        wait_for(lambda: log.read_text().count("serves hub") == 2)
        assert done(store, *start) == '"A-7 is on its new way"\n'
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0, log.read_text()
    assert log.read_text().count("has stopped") == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_a_terminal_cannot_show_is_shown_by_its_number(store: str, encoding: str) -> None:
    done(store, "start", "order", '"日本"', "--id", "日")
    for command in (["ls"], ["show", "日"], ["show", "日", "--json"]):
        environment = os.environ | {"PYTHONIOENCODING": encoding, "DURABLE_STORE": store}
        shown = subprocess.run([DURABLE, *command], capture_output=True, check=False, timeout=60, env=environment)
        assert (shown.returncode, shown.stderr) == (0, b"")
        assert rb"\u65e5" in shown.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_output_that_cannot_be_written_is_one_line_of_errors(store: str) -> None:
    done(store, "start", "order", "--id", "one")
    with open("/dev/full", "wb") as full:
        environment = os.environ | {"DURABLE_STORE": store}
        ended = subprocess.run(
            [DURABLE, "ls"], stdout=full, stderr=subprocess.PIPE, check=False, timeout=60, env=environment
        )
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [b"durable: [Errno 28] No space left on device"]
