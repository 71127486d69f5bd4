"""The workload `populated`: N instances in the store, RUNNING of them unfinished; what that costs a worker.

`start_s`: from the start of a process to the first result. `idle_core`: the part of a core that the worker takes while
nothing happens. `per_second`: `seq5` there, and `ratio_to_empty` against the same in an empty store, measured in turn.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from durable import ReusePolicy, Worker
from durable import events as ev
from durable.client.starting import find_target, make_start
from durable.ports import system_ports
from durable.provider import Batch, InstanceKey, Message, Progress, RecordRow, Status, Step
from durable.records import Record, encode_record, first_checksum, next_checksum
from durable.stores import connect
from tests.benchmarks import machine, program
from tests.benchmarks.measuring import Wanted, line, scratch
from tests.benchmarks.stores import STORES
from tests.benchmarks.workloads import at_a_time, seq5

ROOT = Path(__file__).parents[2]
RUNNING = 1_000
WRITTEN_AT_ONCE = 2_000
SEQ5_N = 2_000
IDLE_S = 10.0
IN_MEMORY = "memory"


def measure(wanted: Wanted) -> dict[str, Any]:
    """Fill a store, then measure; return the line."""
    if wanted.store == IN_MEMORY:
        raise SystemExit("the memory store is that of one process: populated needs another one")
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=scratch()) as name,
        tempfile.TemporaryDirectory(prefix="bench-", dir=scratch()) as other,
        STORES[wanted.store](Path(name)) as full,
        STORES[wanted.store](Path(other)) as empty,
    ):
        asyncio.run(_fill(full.url, wanted.n))
        children = [_child(full.url) for _ in range(wanted.repeat)]
        rates = [asyncio.run(_rates(wanted, full.url, empty.url)) for _ in range(wanted.repeat)]
        seconds, in_empty = (sorted(found)[len(found) // 2] for found in zip(*rates, strict=True))
        return line(
            wanted,
            full,
            f"{RUNNING} of them unfinished; the rate is that of seq5, N {SEQ5_N}",
            seconds=round(seconds, 4),
            per_second=round(SEQ5_N / seconds, 2),
            p50_ms=None,
            p99_ms=None,
            peak_rss_mb=round(machine.peak_rss_mb(), 1),
            start_s=sorted(child["start_s"] for child in children)[len(children) // 2],
            idle_core=sorted(child["idle_core"] for child in children)[len(children) // 2],
            empty_per_second=round(SEQ5_N / in_empty, 2),
            ratio_to_empty=round(in_empty / seconds, 3),
            repeats=wanted.repeat,
        )


def _child(url: str) -> dict[str, float]:
    began = time.time()
    command = [sys.executable, "-m", __name__, url]
    answer = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    found = json.loads(answer)
    return {"start_s": round(found["first_result_at"] - began, 3), "idle_core": round(found["idle_core"], 4)}


async def _serve_and_rest(url: str) -> dict[str, float]:
    async with Worker(program.app, url) as worker:
        await worker.client.run(program.one)
        first_result_at = time.time()
        await asyncio.sleep(IDLE_S / 2)  # what a start leaves behind is over by then
        cpu, began = time.process_time(), time.monotonic()
        await asyncio.sleep(IDLE_S)
        return {
            "first_result_at": first_result_at,
            "idle_core": (time.process_time() - cpu) / (time.monotonic() - began),
        }


async def _rates(wanted: Wanted, full: str, empty: str) -> tuple[float, float]:
    seconds = []
    for url in (full, empty):
        async with Worker(program.app, url) as worker:
            ids = secrets.token_hex(3)
            await seq5(worker.client, wanted.concurrency, wanted.concurrency, f"warm-{ids}")
            seconds.append((await seq5(worker.client, SEQ5_N, wanted.concurrency, f"r-{ids}")).seconds)
    return seconds[0], seconds[1]


# ---- filling a store: as clients and a worker would write it, but many at a time and without running anything


async def _fill(url: str, n: int) -> None:
    async with Worker(program.app, url) as worker:

        async def start(number: int) -> None:
            await worker.client.start(program.event, instance_id=f"running-{number}")

        await at_a_time(min(n, RUNNING), 50, start)
    ports = system_ports()
    provider = connect(url, ports)
    hub = await provider.open()
    try:
        lease = await provider.lease("filler", b"", worker=True)
        await provider.take(lease, range(hub.partitions))
        for number, first in enumerate(range(RUNNING, n, WRITTEN_AT_ONCE), 1):
            ids = [f"finished-{index}" for index in range(first, min(first + WRITTEN_AT_ONCE, n))]
            now = ports.now_us()
            messages = [_start_of(instance_id, hub.partitions, ports.new_id(), now) for instance_id in ids]
            deliveries = await provider.submit(lease, number, messages)
            steps = [
                _end_of(message, delivery.sequence, now) for message, delivery in zip(messages, deliveries, strict=True)
            ]
            await provider.commit(lease, Batch(number, steps))
        await provider.release(lease)
    finally:
        await provider.close()


def _start_of(instance_id: str, partitions: int, run_id: str, now: int) -> Message:
    return make_start(
        InstanceKey(instance_id),
        partitions,
        run_id,
        find_target(program.app, program.one),
        None,
        now=now,
        at=None,
        tags=None,
        reuse_policy=ReusePolicy.REJECT,
        events=None,
    ).message


def _end_of(start: Message, sequence: int, now: int) -> Step:
    """Return the step of a run that ends in its first turn."""
    row = start.start
    assert row is not None
    started = ev.OrchestrationStarted(row.name, row.version, row.input, row.run_id, "")
    data = encode_record(Record(now, [started, ev.OrchestrationCompleted(None)]))
    checksum = next_checksum(first_checksum(row.key, row.run_id, 0), data)
    progress = Progress(0, 1, checksum, Status.COMPLETED, now, None, 0)
    appends = [(0, RecordRow(0, data, checksum))]
    return Step(row.key, row.run_id, (0, 0), progress, {"completed_at": now}, appends, [sequence])


def child() -> None:
    """What a child process runs."""
    logging.disable(logging.CRITICAL)
    print(json.dumps(asyncio.run(_serve_and_rest(sys.argv[1]))), flush=True)


if __name__ == "__main__":
    child()
