"""Another process on a store, which does what it is told, word by word: `python -m tests.providers.another_process URL`.

And what a process beside it hears of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from durable import stores
from durable.ports import system_ports
from durable.provider import Provider, Wakeup
from durable.testing.conformance.store import (
    Session,
    attempt_of,
    end_of,
    event_to,
    new_row,
    start_of,
    step_of,
    wait_for,
)

ROOT = Path(__file__).parents[2]
TELLS = ("activities", "inbox", "states", "messages", "rows", "ended", "changed")


class Another:
    """That process, seen from this one."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def do(self, word: str) -> None:
        """Let it do something, and tell of it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n".encode())
        assert await self.process.stdout.readline() == b"done\n"


@contextlib.asynccontextmanager
async def another(url: str) -> AsyncIterator[Another]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        yield Another(process)
    finally:
        if process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()


async def check_what_is_heard(
    url: str, provider: Provider, tell_last: Callable[[], Awaitable[None]], *, is_owner: bool
) -> None:
    """Another process is heard by whom it concerns, and says what concerns nobody to nobody.

    `tell_last()`: tells a change of leases, after all that was told before.
    """
    session = Session(provider, await provider.lease("worker", b"", worker=True))
    heard: list[Wakeup] = []
    provider.listen(heard.append)
    if is_owner:
        await provider.take(session.lease, range(64))
    async with another(url) as other:

        async def after(word: str) -> set[str]:
            """Return what is heard of a word: all that comes before what is sent here, after it."""
            heard.clear()
            await other.do(word)
            await tell_last()
            await wait_for(lambda: any(wakeup.leases for wakeup in heard))
            return {name for wakeup in heard for name in TELLS if getattr(wakeup, name)}

        await after("nothing")
        assert await after("start") == ({"inbox"} if is_owner else set())
        assert await after("event") == ({"inbox"} if is_owner else set())
        await after("take")
        await after("status")
        assert await after("step") == set()
        assert await after("status") == {"changed"}
        assert await after("queue") == {"activities"}
        assert await after("own") == set()
        assert await after("end") == {"ended"}
        assert [run for wakeup in heard for run in wakeup.ended] == ["run"]


async def _until_told(provider: Any) -> None:
    def is_told() -> bool:
        if hasattr(provider, "_hub"):  # PostgreSQL
            return provider._hub._notifier._sending is None
        return not provider._opened.waking._news

    await wait_for(is_told)


async def main(url: str) -> None:
    provider = stores.connect(url, system_ports())
    await provider.open()
    session = Session(provider, await provider.lease("other", b"", worker=True))
    row = new_row("instance", run_id="run")
    while word := (await asyncio.to_thread(sys.stdin.readline)).strip():
        match word:
            case "start":
                await session.submit(start_of(row))
            case "event":
                await session.submit(event_to("instance"))
            case "take":
                await provider.take(session.lease, [row.partition], from_live=True)
            case "step":
                await session.commit(step_of(await session.load("instance")))
            case "status":
                await session.commit(step_of(await session.load("instance"), changes={"custom_status": b"x"}))
            case "queue":
                await session.commit(step_of(row, queue_adds=[attempt_of(row)]))
            case "own":
                await session.commit(step_of(row), messages=[event_to("instance")])
            case "listen":
                provider.listen(lambda _: None)
            case "end":
                await session.commit(end_of(await session.load("instance")))
        await _until_told(provider)
        print("done", flush=True)
    await provider.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
