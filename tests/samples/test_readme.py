"""A newcomer's first program works by copying it: the Python blocks of the README are run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[2] / "README.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run_program(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = folder / "first.py"
    program.write_text(text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(program)], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("position", range(len(PROGRAMS)))
def test_a_program_of_the_readme_prints_what_its_last_comment_says(position: int, tmp_path: Path) -> None:
    promised = re.findall(r"# prints (.*)$", PROGRAMS[position], re.MULTILINE)
    for _ in range(2):  # people run things twice
        run = run_program(PROGRAMS[position], tmp_path)
        assert run.returncode == 0, run.stderr
        assert run.stdout.splitlines() == promised
        assert run.stderr == ""


def test_the_readme_has_a_first_program() -> None:
    assert PROGRAMS
