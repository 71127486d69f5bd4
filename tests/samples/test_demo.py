"""The demo survives its own kill, proves its totals, fails loudly when they are wrong, and shows what has happened.

Method: run it as `make demo` does, in a process of its own, on a small folder.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from samples.demo import files

pytestmark = pytest.mark.own_processes

ROOT = Path(__file__).resolve().parents[2]
FOLDERS, FILES_IN_EACH = 6, 10


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder of folders of small text files."""
    for folder in range(FOLDERS):
        (tmp_path / "library" / f"shelf{folder}").mkdir(parents=True)
        for file in range(FILES_IN_EACH):
            (tmp_path / "library" / f"shelf{folder}" / f"book{file}.txt").write_text(f"chapter {file}\n" * (folder + 1))
    return tmp_path / "library"


def start_demo(library: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "samples.demo", str(library), *options],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(library.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def worker_processes(output: str) -> list[int]:
    return [int(number) for number in re.findall(r"Worker process (\d+) started", output)]


def is_alive(process: int) -> bool:
    """Tell whether a process runs; one that has ended and waits to be collected by its parent does not."""
    if Path("/proc/self/stat").exists():  # Linux, where `ps` may be missing
        stat = Path(f"/proc/{process}/stat")
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False)
    return status.stdout.strip()[:1] not in {"", "Z"}


def test_the_demo_recovers_from_its_kill_and_proves_the_totals(library: Path) -> None:
    output, errors = start_demo(library, "--remove").communicate(timeout=90)
    killed, second = worker_processes(output)
    assert f"SIGKILL for worker process {killed}." in output
    assert f"Report: {FOLDERS * FILES_IN_EACH} files in {FOLDERS} folders" in output
    assert "all totals are the same" in output
    assert errors == ""
    calls = 1 + FOLDERS + FOLDERS * FILES_IN_EACH
    twice = re.search(rf"Activities: {calls} calls took \d+ runs; (\d+) ran twice", output)
    assert twice, output
    assert int(twice[1]) >= 1  # the one that was held for the kill
    assert "from the start of the new process to the first activity that it finished" in output
    assert not is_alive(killed)
    assert not is_alive(second)
    assert not list(library.parent.glob("durable-demo-*"))


def test_the_demo_ends_by_telling_how_to_look_at_what_happened_the_kill_included(library: Path) -> None:
    output, _ = start_demo(library).communicate(timeout=90)
    assert [path.name for path in library.parent.glob("durable-demo-*/demo.db")] == ["demo.db"]
    (show,) = re.findall(r"^  (\S+durable show demo --store \S+)$", output, re.MULTILINE)
    assert re.search(r"^  \S+durable dashboard --store \S+$", output, re.MULTILINE)
    shown = subprocess.run(shlex.split(show), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    killed, _ = worker_processes(output)
    assert "COMPLETED" in shown
    assert re.search(rf"^event worker {killed} killed +◆$", shown, re.MULTILINE)
    assert shown.count("child index_folder") == FOLDERS


def test_the_demo_fails_when_the_totals_differ(library: Path) -> None:
    demo = start_demo(library)
    assert demo.stdout is not None
    lines = [demo.stdout.readline() for _ in range(3)]  # it has listed its files and started its worker
    (library / "shelf5" / "late.txt").write_text("nobody expected me\n")
    rest, _ = demo.communicate(timeout=90)
    output = "".join(lines) + rest
    assert demo.returncode == 1, output
    assert "Proof FAILED" in output
    assert "late.txt" in output


def test_the_workers_end_when_the_demo_is_killed(library: Path) -> None:
    demo = start_demo(library)
    assert demo.stdout is not None
    output = "".join(demo.stdout.readline() for _ in range(3))
    (worker,) = worker_processes(output)
    demo.send_signal(signal.SIGKILL)
    demo.communicate(timeout=30)
    deadline = time.monotonic() + 30
    while is_alive(worker):
        assert time.monotonic() < deadline, "the worker outlived its demo"
        time.sleep(0.05)


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    demo = start_demo(tmp_path)
    _, errors = demo.communicate(timeout=30)
    assert demo.returncode == 2
    assert "0 text files" in errors


def test_hidden_generated_and_linked_files_are_left_out(tmp_path: Path) -> None:
    for folder in (".git", "__pycache__", "venv", "code"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("a\n")
    (tmp_path / "venv" / "pyvenv.cfg").write_text("")
    (tmp_path / "code" / "b.py").symlink_to(tmp_path / "code" / "a.py")
    (tmp_path / "code" / "c.bin").write_bytes(b"\0")
    assert files.folders_with_text([str(tmp_path)]) == [str(tmp_path / "code")]
    assert files.text_files(str(tmp_path / "code")) == ["a.py"]


def test_counts_add_up_to_one_digest_that_depends_on_every_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two\nthree\n")
    (tmp_path / "b.txt").write_text("four")
    before = files.count_everything([str(tmp_path)])
    assert (before.files, before.lines, before.words, before.size) == (2, 2, 4, 18)
    (tmp_path / "b.txt").write_text("five")
    assert files.count_everything([str(tmp_path)]).sha256 != before.sha256
