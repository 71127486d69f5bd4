"""mypy strict and pyright accept the programs of `accepted`, and refuse each marked line of `refused` and no other.

Goal: the types that users see stay as the interface says, in both checkers. Method: run each checker once over both
folders and the samples, and compare the lines that it complains of with the lines that end in `# expect-error`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAMS = sorted([*(HERE / "accepted").glob("*.py"), *(HERE / "refused").glob("*.py")])

Lines = set[tuple[str, int]]


def expected() -> Lines:
    lines = set()
    for path in PROGRAMS:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.endswith("# expect-error"):
                assert path.parent.name == "refused", f"{path} is to be accepted"
                lines.add((str(path.relative_to(ROOT)), number))
    return lines


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", "MYPYPATH": f"{ROOT}:{ROOT / 'providers'}"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def mypy_errors() -> Lines:
    """As a user runs it: strict, without this repository's own configuration."""
    options = ["--strict", "--config-file=", "--explicit-package-bases", "--follow-imports=silent", "--no-pretty"]
    done = run("mypy", *options, "--cache-dir=.mypy_cache/typing", *map(str, PROGRAMS))
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    found = re.findall(r"^(\S+?):(\d+)(?::\d+)?: error:", done.stdout, re.MULTILINE)
    return {(os.path.normpath(name), int(line)) for name, line in found}


def pyright_errors() -> Lines:
    done = run("pyright", "--outputjson", *map(str, PROGRAMS), str(ROOT / "samples"))
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    diagnostics = json.loads(done.stdout)["generalDiagnostics"]
    return {
        (str(Path(item["file"]).relative_to(ROOT)), item["range"]["start"]["line"] + 1)
        for item in diagnostics
        if item["severity"] == "error"
    }


@pytest.mark.skipif(
    os.environ.get("DURABLE_TEST_CACHE") == "0", reason="types do not depend on the cache: once is enough"
)
@pytest.mark.parametrize("errors", [mypy_errors, pyright_errors])
def test_the_checkers_agree_with_the_marks(errors: Callable[[], Lines]) -> None:
    marked, found = expected(), errors()
    assert not sorted(marked - found), "accepted, but must be refused"
    assert not sorted(found - marked), "refused, but must be accepted"
