"""Real workers of the bank on one SQLite file, killed with SIGKILL at random moments while transfers are made."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from durable import Client
from samples.bank_transfer import transfer
from tests.money.bank import app, audit, draw_orders, names, violations_of

ROOT = Path(__file__).resolve().parents[2]
OWNERS = 6
WORKERS = 2
TRANSFERS_PER_KILL = 12
HEAL_S_MAX = 90.0
"""So long everything has to end after the last kill: longer than a lease."""

LIFE_S = (0.05, 0.6)
"""How long a worker lives, from when it says that it begins to work."""


class Workers:
    """The processes that are alive."""

    def __init__(self, store: str, folder: Path) -> None:
        self._store = store
        self._log = (folder / "workers.log").open("ab")
        self._alive: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        """Start one more."""
        command = [sys.executable, "-m", "tests.money.worker", self._store]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=self._log)
        self._alive.append(process)

    def wait_for_oldest(self) -> None:
        """Wait until the oldest one works."""
        process = self._alive[0]
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"a worker has ended by itself, with {process.wait()}"

    def kill_oldest(self) -> None:
        """SIGKILL the oldest one."""
        _end(self._alive.pop(0))

    @contextlib.contextmanager
    def gone_at_the_end(self) -> Iterator[Workers]:
        """Leave none behind."""
        try:
            yield self
        finally:
            while self._alive:
                self.kill_oldest()
            self._log.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


async def run_storm(folder: Path, kills: int, seed: int) -> list[str]:
    """Make transfers while workers are killed so often; return what is wrong with the accounts."""
    store = f"sqlite:///{folder / 'bank.db'}"
    dice, owners = random.Random(seed), names(OWNERS)
    orders = draw_orders(owners, TRANSFERS_PER_KILL * kills, seed)
    workers = Workers(store, folder)
    transfers, audits = [], []
    with workers.gone_at_the_end():
        async with Client(store, app) as client:
            for _ in range(WORKERS):
                workers.begin()
            for kill in range(kills):
                await asyncio.to_thread(workers.wait_for_oldest)
                until = time.monotonic() + dice.uniform(*LIFE_S)
                for order in orders[kill * TRANSFERS_PER_KILL : (kill + 1) * TRANSFERS_PER_KILL]:
                    transfers.append(await client.start(transfer, order))
                audits.append(await client.start(audit, owners))
                await asyncio.sleep(max(until - time.monotonic(), 0.0))
                workers.kill_oldest()
                workers.begin()
            return await violations_of(client, owners, orders, transfers, audits, timeout=HEAL_S_MAX)
