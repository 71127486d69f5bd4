"""A process that bears workers which kill themselves: `python -m tests.job_kills.nursery`.

It has imported everything already, so that a birth takes milliseconds. It reads lines of JSON, one for each worker:

    {"sample": …, "store": URL, "notes": PATH, "commit": N, "is_after": bool}

and answers each, once the worker has ended, with its status as `os.waitstatus_to_exitcode` gives it. The worker serves the
store with the sample's app until no job tree is unfinished, or until its commit N (counted from 1; 0: never), before or right
after which it kills itself. It notes each attempt that begins as a line `INSTANCE JOB ATTEMPT` in a file of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import traceback
from typing import Any

from durable_sqlite.provider import SqliteProvider

import durable.worker.activities
from durable import Worker
from durable.activity_context import ActivityContext, context_for
from durable.jobs import JobContext
from samples import job_adds_a_job, job_chain, job_recovery, jobs_side_by_side

SAMPLES: dict[str, Any] = {
    module.__name__.rpartition(".")[2]: module
    for module in (job_adds_a_job, job_chain, job_recovery, jobs_side_by_side)
}

PATIENCE_S = 60


async def serve(order: dict[str, Any]) -> None:
    """Be such a worker."""
    note_attempts(os.open(order["notes"], os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    die_at_commit(order["commit"], is_after=order["is_after"])
    async with Worker(SAMPLES[order["sample"]].app, order["store"]) as worker:
        await worker.client.wait(name="durable.jobs", timeout=PATIENCE_S)


def note_attempts(notes: int) -> None:
    """Note each attempt as it begins."""

    def noting(port: Any, signature: Any) -> ActivityContext:
        context = context_for(port, signature)
        assert isinstance(context, JobContext)
        os.write(notes, f"{context.instance_id} {context.id} {context.attempt}\n".encode())
        return context

    durable.worker.activities.context_for = noting  # type: ignore[attr-defined]


def die_at_commit(number: int, *, is_after: bool) -> None:
    """Kill this process at its commit of that number."""
    commit, count = SqliteProvider.commit, 0

    async def counting(self: SqliteProvider, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == number and not is_after:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = await commit(self, *arguments)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    SqliteProvider.commit = counting  # type: ignore[method-assign]


def bear(order: dict[str, Any]) -> int:
    """Bear a worker, and wait for its end."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        asyncio.run(serve(order))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    for line in sys.stdin:
        os.write(1, f"{bear(json.loads(line))}\n".encode())
