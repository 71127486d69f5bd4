"""Processes that replay generated histories, each in surroundings of its own: hash seed, time zone and locale."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgpack

from durable import History
from tests.generated.programs import Case

ROOT = Path(__file__).resolve().parents[2]

# Zones that are far apart, off the hour, with and without daylight saving; a locale that is missing is that of C.
SURROUNDINGS = (
    {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C"},
    {"PYTHONHASHSEED": "1", "TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8"},
    {"PYTHONHASHSEED": "77", "TZ": "America/St_Johns", "LC_ALL": "tr_TR.UTF-8"},
    {"PYTHONHASHSEED": "4242", "TZ": "Pacific/Apia", "LC_ALL": "de_DE.UTF-8"},
    {"PYTHONHASHSEED": "4294967295", "TZ": "Pacific/Pago_Pago", "LC_ALL": "POSIX"},
)


class Replayers:
    """One process for each of the surroundings. Use as a context manager."""

    def __enter__(self) -> Replayers:
        command = [sys.executable, "-m", "tests.generated.replayer"]
        self._processes = [
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | surroundings,
            )
            for surroundings in SURROUNDINGS
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            process.wait(30)
            process.stdout.close()

    def send(self, case: Case, histories: Sequence[History]) -> None:
        """Ask each process to replay these histories against the program."""
        for process in self._processes:
            assert process.stdin is not None
            write_message(process.stdin, [list(case), [history.export() for history in histories]])

    def answers(self) -> list[int]:
        """Return how many prefixes each has replayed of what was sent. Raises AssertionError where a replay differs."""
        answers = []
        for process in self._processes:
            assert process.stdout is not None
            answer = read_message(process.stdout)
            assert answer is not None, f"a replaying process has died with exit code {process.wait()}"
            answers.append(answer)
        for (_, difference), surroundings in zip(answers, SURROUNDINGS, strict=True):
            assert difference is None, f"in another process with {surroundings}: {difference}"
        return [count for count, _ in answers]


def write_message(stream: BinaryIO | Any, message: Any) -> None:
    """Write one message: its length, and msgpack."""
    data: bytes = msgpack.packb(message)
    stream.write(struct.pack("<I", len(data)) + data)
    stream.flush()


def read_message(stream: BinaryIO | Any) -> Any:
    """Read one message; None at the end."""
    head = stream.read(4)
    return msgpack.unpackb(stream.read(*struct.unpack("<I", head))) if head else None
