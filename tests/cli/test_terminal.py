"""What people see in a real terminal of 80 columns and 24 lines.

Method: tmux, which is a terminal and can tell what is on its screen; where it is missing, a pseudo-terminal for what only
prints, and the rest is skipped.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.cli.commands import done, worker_on

DURABLE = str(Path(sys.executable).with_name("durable"))
COLUMNS, LINES = 80, 24

pytestmark = pytest.mark.own_processes


class Screen:
    """A terminal of tmux in which one command runs."""

    def __init__(self, socket: Path, command: list[str], store: str) -> None:
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        size = ["-x", str(COLUMNS), "-y", str(LINES)]
        environment = {**os.environ, "DURABLE_STORE": store, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
        environment.pop("TMUX", None)
        # What has ended stays on the screen, to be looked at: the shell goes on as `cat`.
        words = ["new-session", "-d", *size, f"{shlex.join(command)}; exec cat"]
        subprocess.run([*self._tmux, *words], env=environment, check=True, timeout=30)

    def text(self) -> str:
        shown = subprocess.run([*self._tmux, "capture-pane", "-p"], capture_output=True, check=True, timeout=30)
        return shown.stdout.decode()

    def wait_for(self, holds: Callable[[str], bool]) -> str:
        deadline = time.monotonic() + 30
        while not holds(text := self.text()):
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
        return text

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False, timeout=30, capture_output=True)


@pytest.fixture
def screen_of(tmp_path: Path) -> Iterator[Callable[..., Screen]]:
    if shutil.which("tmux") is None:
        pytest.skip("needs tmux, which is not installed")
    opened: list[Screen] = []

    def open_screen(store: str, *arguments: str) -> Screen:
        opened.append(Screen(tmp_path / f"tmux{len(opened)}", [DURABLE, *arguments], store))
        return opened[-1]

    try:
        yield open_screen
    finally:
        for screen in opened:
            screen.close()


def printed_on_a_terminal(store: str, *arguments: str) -> str:
    """Run a command on a pseudo-terminal; return what it printed, without colours."""
    pid, descriptor = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        environment = {**os.environ, "DURABLE_STORE": store, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        os.execve(DURABLE, [DURABLE, *arguments], environment)
    output = b""
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        output += part
    os.close(descriptor)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, output
    assert b"\x1b[" in output, "in a terminal there are colours"
    return re.sub(r"\x1b\[[0-9;]*m", "", output.decode()).replace("\r\n", "\n")


def test_show_and_ls_fit_into_80_columns(filled: str) -> None:
    shown = printed_on_a_terminal(filled, "show", "order-1")
    assert "activity charge" in shown
    assert "waits for" in shown
    listed = printed_on_a_terminal(filled, "ls")
    assert "order-1" in listed
    for line in (shown + listed).splitlines():
        assert cell_len(line) <= COLUMNS, line


def test_watch_follows_live_on_the_screen_and_leaves_the_end_on_it(
    store: str, screen_of: Callable[..., Screen]
) -> None:
    done(store, "start", "order", '"A-7"', "--id", "order-7")
    screen = screen_of(store, "watch", "order-7")
    screen.wait_for(lambda text: "PENDING" in text and "a worker that begins it" in text)
    with worker_on(store):
        text = screen.wait_for(lambda text: "▶" in text and "time limit" in text)
        assert re.search(r"^order-7  order  RUNNING for ", text)
        assert re.search(r"^activity charge +█", text, re.MULTILINE)
        done(store, "raise", "order-7", "approved", "true")
        text = screen.wait_for(lambda text: "COMPLETED" in text and "ended" in text and "▶" not in text)
    assert text.count("activity charge") == 1, "it was drawn over, not again below"
    assert re.search(r"^event approved +◆$", text, re.MULTILINE)
    assert re.search(r'^  output +"A-7 is on its way"$', text, re.MULTILINE)


def test_what_is_waited_for_is_told_in_one_line_that_goes_away(store: str, screen_of: Callable[..., Screen]) -> None:
    screen = screen_of(store, "start", "order", '"A-7"', "--id", "order-7", "--wait")
    screen.wait_for(lambda text: "order-7: PENDING" in text)
    with worker_on(store):
        screen.wait_for(lambda text: 'order-7: RUNNING "waiting for approval"' in text)
        done(store, "raise", "order-7", "approved", "true")
        text = screen.wait_for(lambda text: "on its way" in text)
    assert text.strip() == '"A-7 is on its way"'


def test_json_pipes_into_jq(filled: str) -> None:
    if shutil.which("jq") is None:
        pytest.skip("needs jq, which is not installed")
    query = ".[] | .instance_id, .failure_details.error_type"
    pipe = f"{shlex.quote(DURABLE)} ls --json --status FAILED --name order | jq -r '{query}'"
    printed = subprocess.run(
        ["sh", "-c", pipe],
        env={**os.environ, "DURABLE_STORE": filled},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert printed.stdout.split() == ["order-3", "durable.errors.ActivityFailedError"]
