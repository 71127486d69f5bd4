"""A process that bears workers: `python -m tests.kills.nursery STORE FOLDER LEASE_S`.

It has imported everything already, so that a birth takes milliseconds. It talks in lines:

    in:   NAME              bear a worker of that name
    out:  born NAME PID     it lives
          ready NAME        it begins to work (written by the worker itself)
          dead PID STATUS   it has ended; STATUS as `os.waitstatus_to_exitcode` gives it

At the end of its input the nursery ends, and every worker with it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from typing import Any

from tests.kills import program


def bury(*_: Any) -> None:
    """Tell of the workers that have ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        os.write(1, f"dead {pid} {os.waitstatus_to_exitcode(status)}\n".encode())


def bear(name: str, store: str, folder: str) -> None:
    pid = os.fork()
    if pid:
        os.write(1, f"born {name} {pid}\n".encode())
        return
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        asyncio.run(program.serve(name, store, folder))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    store, folder, lease_s = sys.argv[1:]
    program.shorten_leases(float(lease_s))
    signal.signal(signal.SIGCHLD, bury)
    try:
        for line in sys.stdin:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # born before dead, whatever happens
            bear(line.strip(), store, folder)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    finally:
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
