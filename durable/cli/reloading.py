"""`worker --reload`: a worker in a process of its own, which is stopped and begun again where the code changes.

A new process, because nothing less gives new code for certain: modules hold on to each other's old functions. What the old
worker had begun goes on in the new one, as after any restart; an instance whose history the new code does not fit stalls, and
says why.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import click
from watchfiles import PythonFilter, watch

from durable.cli.texts import safe

LOOK_MS: Final = 500
"""How often it is looked whether the worker still runs, while no file changes."""

DEBOUNCE_MS: Final = 300
"""Changes so close to each other are one: editors write a file in several steps."""

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""With the last one a terminal is closed; it reaches this process alone, and the worker must not stay behind."""


def serve_and_reload() -> None:
    """Run this very command without `--reload`, in processes that follow each other, until a signal."""
    _Following([sys.executable, "-m", "durable.cli", *(word for word in sys.argv[1:] if word != "--reload")]).run()


class _Following:
    """One worker process after the other."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_told = False  # that the process has ended by itself

    def run(self) -> None:
        # Under `nohup` the end of the terminal is ignored, and stays so.
        is_kept = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        heard = [number for number in SIGNALS if not (is_kept and number == signal.SIGHUP)]
        former = {number: signal.signal(number, self._take_signal) for number in heard}
        folder = Path.cwd()
        try:
            self._begin()
            click.echo(f"watching {safe(str(folder))} for changes", err=True)
            for changes in watch(
                folder,
                watch_filter=PythonFilter(),
                stop_event=self._stop,
                debounce=DEBOUNCE_MS,
                rust_timeout=LOOK_MS,
                yield_on_timeout=True,
            ):
                if changes:
                    changed = os.path.relpath(min(path for _, path in changes), folder)
                    click.echo(f"{safe(changed)} has changed: the worker begins again", err=True)
                    self._end()
                    if self._stop.is_set():
                        break
                    self._begin()
                else:
                    self._look()
        finally:
            self._end()
            for number, handler in former.items():
                signal.signal(number, handler)

    def _take_signal(self, number: int, frame: FrameType | None) -> None:
        """The first signal asks the worker to stop, as `_end` does; a second one reaches it too, and ends it at once."""
        if self._stop.is_set() and self._process is not None:
            self._process.terminate()
        self._stop.set()

    def _begin(self) -> None:
        # In a group of its own: Ctrl-C reaches this process alone, which then stops the worker once and not twice.
        self._process = subprocess.Popen(self._command, process_group=0)
        self._is_told = False

    def _look(self) -> None:
        code = None if self._process is None else self._process.poll()
        if code is not None and not self._is_told:
            self._is_told = True
            click.echo(f"the worker has ended with code {code}; it begins again when a file changes", err=True)

    def _end(self) -> None:
        """Ask the process to stop, and wait for it: it gives its activities the time that it was told to give them."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.terminate()
            self._process.wait()
