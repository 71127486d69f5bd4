"""A process that replays what it is sent, until its input ends: `python -m tests.generated.replayer`."""

from __future__ import annotations

import contextlib
import locale
import sys

from durable import History
from durable.testing import replay_prefixes
from tests.generated.interpreters import app_of
from tests.generated.processes import read_message, write_message
from tests.generated.programs import Case


def replayed(case: Case, exports: list[bytes]) -> tuple[int, str | None]:
    """Replay each history from every prefix; return how many prefixes there were, and the first difference."""
    app = app_of(case.style, case.generations)
    count = 0
    try:
        for data in exports:
            count += replay_prefixes(app, History.load(data))
    except Exception as error:
        return count, f"{type(error).__name__}: {error}"
    return count, None


if __name__ == "__main__":
    with contextlib.suppress(locale.Error):  # one that this machine does not have
        locale.setlocale(locale.LC_ALL, "")
    while (message := read_message(sys.stdin.buffer)) is not None:
        fields, exports = message
        write_message(sys.stdout.buffer, replayed(Case(*fields), exports))
