"""What a workload costs in things that can be counted, whatever else the machine does: `python -m tests.benchmarks.counts`.

Method: the workload runs on a real SQLite file in the simulator, without faults and in simulated time, so that the same code
gives the same figures every time. Statements and rows are what SQLite itself reports; commits are those of the connection that
writes (a reading one ends its transactions too, and nothing goes to the disk); steps are callbacks of the event loop that
worker, client and orchestrators share.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import sqlite3
from collections.abc import Iterator
from typing import Any
from unittest import mock

from durable import Client
from durable.records import Record
from durable.testing.simulation.faults import Schedule
from durable.testing.simulation.running import run_schedule
from durable.worker import loading
from tests.benchmarks import program
from tests.benchmarks.workloads import WORKLOADS, collect

UNITS = ("commits", "statements", "rows", "steps", "decoded_bytes")


@dataclasses.dataclass(frozen=True, slots=True)
class Counts:
    """What a run of a workload took. `rows`: written, changed or removed; `decoded_bytes`: of
    history, by workers that load an instance."""

    commits: int
    statements: int
    rows: int
    steps: int
    decoded_bytes: int

    def each(self, n: int) -> dict[str, float]:
        """Return the counts for one of n."""
        return {unit: getattr(self, unit) / n for unit in UNITS}


class _Meter:
    """Counts while it is on: `begin` to `end`."""

    def __init__(self) -> None:
        self.commits = self.statements = self.decoded_bytes = 0
        self.databases: list[sqlite3.Connection] = []

    def connected(self, database: sqlite3.Connection, *, is_reading: bool) -> None:
        self.databases.append(database)
        database.set_trace_callback(self._read if is_reading else self._executed)

    def _read(self, _: str) -> None:
        self.statements += 1

    def _executed(self, statement: str) -> None:
        self.statements += 1
        self.commits += statement == "COMMIT"

    def reading(self, steps: int) -> Counts:
        rows = sum(database.total_changes for database in self.databases)
        return Counts(self.commits, self.statements, rows, steps, self.decoded_bytes)


SEED = 5
"""With this one the client counts as in the worker's process, as in the benchmarks."""


def count(workload: str, n: int, concurrency: int = 50, *, is_cached: bool = True) -> Counts:
    """Run a workload and count. A few instances of it run before, so that what is paid once is not in the figures."""
    meter = _Meter()
    readings: list[Counts] = []

    async def scenario(client: Client) -> None:
        loop: Any = asyncio.get_running_loop()
        await collect(client, workload, WORKLOADS[workload].warm_up, concurrency, "warm")
        readings.append(meter.reading(loop.steps))
        await collect(client, workload, n, concurrency, "counted")
        readings.append(meter.reading(loop.steps))

    with _metered(meter):
        outcome = run_schedule(
            program.app,
            scenario,
            Schedule(SEED, is_cached=is_cached, latency_s_max=0.0),
            engine="sqlite",
            is_replayed=False,
        )
    assert outcome.is_good, (outcome.error, outcome.violations)
    before, after = readings
    return Counts(*(getattr(after, unit) - getattr(before, unit) for unit in UNITS))


@contextlib.contextmanager
def _metered(meter: _Meter) -> Iterator[None]:
    connect, decode = sqlite3.connect, loading.decode_record

    def connect_and_count(*arguments: Any, **options: Any) -> sqlite3.Connection:
        database = connect(*arguments, **options)
        meter.connected(database, is_reading="mode=ro" in str(arguments[0]))
        return database

    def decode_and_count(data: bytes) -> Record:
        meter.decoded_bytes += len(data)
        return decode(data)

    with (
        mock.patch.object(sqlite3, "connect", connect_and_count),
        mock.patch.object(loading, "decode_record", decode_and_count),
    ):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.counts", description=__doc__)
    parser.add_argument("--workload", action="append", choices=WORKLOADS)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=50)
    asked = parser.parse_args()
    print(f"{'for each of ' + str(asked.n):24}" + "".join(f"{unit.replace('_', ' '):>16}" for unit in UNITS))
    for workload in asked.workload or WORKLOADS:
        each = count(workload, asked.n, asked.concurrency).each(asked.n)
        print(f"{workload:24}" + "".join(f"{figure:16.2f}" for figure in each.values()))


if __name__ == "__main__":
    main()
