"""The worker processes of a storm: born, killed, stopped and continued from here."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0


class Workers:
    """Worker processes on one store, each under a name that is never used again.

    `surprises` lists those that ended though nobody killed them.
    """

    def __init__(self, nursery: asyncio.subprocess.Process) -> None:
        self._nursery = nursery
        self._numbers = itertools.count(1)
        self._pids: dict[str, int] = {}
        self._ready: dict[str, asyncio.Event] = {}
        self._ends: dict[int, asyncio.Future[int]] = {}
        self._doomed: set[int] = set()
        self.surprises: list[str] = []
        self.listening = asyncio.create_task(self._listen())

    async def bear(self) -> str:
        """Start a worker; return its name once it begins to work."""
        name = f"worker-{next(self._numbers)}"
        self._ready[name] = asyncio.Event()
        assert self._nursery.stdin is not None
        self._nursery.stdin.write(f"{name}\n".encode())
        ready = asyncio.create_task(self._ready[name].wait())
        await asyncio.wait([ready, self.listening], timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            if self.listening.done():
                self.listening.result()
            raise TimeoutError(f"{name} was not ready within {PATIENCE_S:g} s, or the nursery ended")
        return name

    def kill(self, name: str) -> None:
        """Kill a worker at once, wherever it is."""
        self._doomed.add(self._pids[name])
        os.kill(self._pids[name], signal.SIGKILL)

    async def death_of(self, name: str) -> int:
        """Wait until a worker has ended; return its status."""
        return await asyncio.shield(self._ends[self._pids[name]])

    def stop(self, name: str) -> None:
        """Freeze a worker."""
        os.kill(self._pids[name], signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        """Let a frozen worker go on as if nothing had happened."""
        os.kill(self._pids[name], signal.SIGCONT)

    async def retire(self, name: str) -> None:
        """Ask a worker to drain and end."""
        os.kill(self._pids[name], signal.SIGTERM)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.death_of(name)
        except TimeoutError:
            self.surprises.append(f"{name} did not end within {PATIENCE_S:g} s of SIGTERM")

    async def _listen(self) -> None:
        """Take in what the nursery says, until it ends."""
        assert self._nursery.stdout is not None
        async for line in self._nursery.stdout:
            word, *rest = line.decode().split()
            if word == "born":
                name, pid = rest[0], int(rest[1])
                self._pids[name] = pid
                self._ends[pid] = asyncio.get_running_loop().create_future()
            elif word == "ready":
                self._ready[rest[0]].set()
            elif word == "dead":
                pid, status = map(int, rest)
                self._ends[pid].set_result(status)
                if status and pid not in self._doomed:
                    name = next(name for name, other in self._pids.items() if other == pid)
                    self.surprises.append(f"{name} ended by itself with status {status}")


@contextlib.asynccontextmanager
async def workers_on(store: str, folder: Path, lease_s: float) -> AsyncIterator[Workers]:
    """Start a nursery for workers on `store`; all of its processes are gone afterwards."""
    command = [sys.executable, "-m", "tests.kills.nursery", store, str(folder), str(lease_s)]
    with (folder / "stderr").open("ab") as errors:
        nursery = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    workers = Workers(nursery)
    try:
        yield workers
    finally:
        os.killpg(nursery.pid, signal.SIGKILL)  # the frozen ones too
        await nursery.wait()
        workers.listening.cancel()
        await asyncio.wait([workers.listening])
