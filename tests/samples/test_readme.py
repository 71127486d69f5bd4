"""A newcomer's first program works by copying it: the Python blocks of the README and of `docs` are run as they stand."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.own_processes

ROOT = Path(__file__).resolve().parents[2]


def programs_of(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


README = programs_of(ROOT / "README.md")
PROGRAMS = [*README, *(program for path in sorted((ROOT / "docs").glob("*.md")) for program in programs_of(path))]


IS_TEST = re.compile(r"^import pytest$|def test_", re.MULTILINE)
"""A program that is a test is run by the test of what it is about."""

NAMED = re.compile(r"# (\w+\.py)\b")
"""A program that begins with its file's name belongs together with others."""


def run_program(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = folder / "first.py"
    program.write_text(text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(program)], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "position", [i for i, text in enumerate(PROGRAMS) if not (NAMED.match(text) or IS_TEST.search(text))]
)
def test_a_program_prints_what_its_last_comment_says(position: int, tmp_path: Path) -> None:
    promised = re.findall(r"# prints (.*)$", PROGRAMS[position], re.MULTILINE)
    for _ in range(2):  # people run things twice
        run = run_program(PROGRAMS[position], tmp_path)
        assert run.returncode == 0, run.stderr
        assert run.stdout.splitlines() == promised
        assert run.stderr == ""


def test_the_worker_and_the_client_of_the_readme_work_together(tmp_path: Path) -> None:
    named = {found[1]: text for text in PROGRAMS if (found := NAMED.match(text))}
    for name, text in named.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    worker = subprocess.Popen([sys.executable, "worker.py"], cwd=tmp_path)
    try:
        client = run_program(named["client.py"], tmp_path)
        assert client.returncode == 0, client.stderr
        assert client.stdout.splitlines()[-1] == "receipt for A-7"
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=40) == 0


def test_the_readme_has_a_first_program() -> None:
    assert README
