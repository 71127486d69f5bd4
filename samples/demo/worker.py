"""The worker process of the demo, the one that gets killed: `python -m samples.demo.worker STORE_URL`."""

import asyncio
import os
import signal
import sys
import threading

from durable import Worker
from samples.demo.indexing import app
from samples.demo.run_log import note_ready

ACTIVITIES_AT_A_TIME = 8


def stop_with_the_parent() -> None:
    """Wait until the parent closes our standard input, by intent or by dying, and then stop like on any SIGTERM."""
    os.read(sys.stdin.fileno(), 1)  # not sys.stdin.read(): its lock would be in the way at exit
    os.kill(os.getpid(), signal.SIGTERM)


def main(store: str) -> None:
    note_ready()
    threading.Thread(target=stop_with_the_parent, daemon=True).start()
    asyncio.run(Worker(app, store, max_activities=ACTIVITIES_AT_A_TIME, shutdown_timeout=5).run())


if __name__ == "__main__":
    main(*sys.argv[1:])
