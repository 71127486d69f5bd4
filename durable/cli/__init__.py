"""The command line: `durable …`, a thin face over the client. `docs/command-line.md` is its manual.

program      the commands together; errors, exit codes, completion
options      what commands have in common: the store, filters, --json
values       what is written on the command line: inputs, times, spans, tags
apps         the app that MODULE:APP names
texts        what is shown: text that a terminal cannot mistake for a command, ages, tables, JSON
drawing      the timeline of an instance, in columns of a terminal
looking      ls, history, schedules
showing      show, watch
steering     start, raise, query, update, cancel, terminate, suspend, resume, rewind, restart, purge
serving      worker, dashboard
reloading    worker --reload: a worker process that begins again where its code changes
checking     replay, doctor, confirm-clock
projects     init

It needs the extra `cli`; without it, `durable` says what to install. Nothing else of the package imports this one.
"""

import sys
from typing import Final

MISSING: Final = 1
"""Exit code where the extra is not installed."""

LIBRARIES: Final = frozenset({"click", "rich", "watchfiles"})


def main() -> None:
    """Run the command line with the arguments of the process, and end the process."""
    try:
        from durable.cli.program import program  # here, so that a missing extra is one line and no traceback
    except ModuleNotFoundError as error:
        if error.name not in LIBRARIES:
            raise
        sys.stderr.write(
            f"durable: the command line needs '{error.name}', which is not installed: "
            "pip install 'durable-orchestration[cli]'\n"
        )
        sys.exit(MISSING)
    program(prog_name="durable")
